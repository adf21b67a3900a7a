"""Laws of the noise eps in z = mu + sigma * eps, in one registry, and the random streams that feed them.

A law is a function `(shape, generator) -> eps`, shape (..., points, Z): a law may make the points of one set
depend on each other. The points are the samples of one item where there are several, else the items of an
epoch in the order of their presentation. What makes one law different from another is the function
itself and for how long a draw is kept:

* `per="presentation"`: a fresh draw whenever an item is shown (what a VAE does);
* `per="batch"`: one draw for all items of a mini-batch;
* `per="item"`: one draw for each data item, kept for ever.

A law of one's own joins by the decorator and can then be named wherever a noise is asked for:

>>> @noise()
... def triangular(shape, generator):
...     u = torch.rand((2, *shape), generator=generator, device=generator.device)
...     return (u.sum(0) - 1) * 6**0.5
>>> NOISES["triangular"].per
'presentation'
>>> del NOISES["triangular"]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Generator, Tensor

from .registry import Registry

Sampler = Callable[[Sequence[int], Generator], Tensor]
Per = Literal["presentation", "batch", "item"]


@dataclass(frozen=True)
class Noise:
    """A registered law of eps: its sampler, and for how long one draw is kept."""

    name: str
    sample: Sampler
    per: Per
    summary: str


NOISES: Registry[Noise] = Registry(kind="noise")


def noise(per: Per = "presentation") -> Callable[[Sampler], Sampler]:
    """Register the decorated `(shape, generator) -> eps` in `NOISES` under its own name."""
    if per not in get_args(Per):
        raise ValueError(
            f"per is one of {', '.join(get_args(Per))}, got {per!r} (write @noise(), with brackets)"
        )

    def register(sample: Sampler) -> Sampler:
        summary = (sample.__doc__ or "").partition("\n")[0]
        NOISES[sample.__name__] = Noise(sample.__name__, sample, per, summary)
        return sample

    return register


def standard_normal(shape: Sequence[int], generator: Generator) -> Tensor:
    """N(0, 1) draws on the generator's device."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device)


def standard_uniform(shape: Sequence[int], generator: Generator) -> Tensor:
    """Uniform draws on [0, 1) on the generator's device."""
    return torch.rand(tuple(shape), generator=generator, device=generator.device)


@noise()
def gaussian(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps ~ N(0, 1), fresh at every presentation: the VAE's own noise."""
    return standard_normal(shape, generator)


@noise()
def none(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps = 0, so that z = mu: sigma never reaches the decoder."""
    return torch.zeros(tuple(shape), device=generator.device)


@noise()
def ones(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps = 1, so that z = mu + sigma: the same z for the same x, always."""
    return torch.ones(tuple(shape), device=generator.device)


@noise(per="item")
def frozen(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps ~ N(0, 1), drawn once for each data item and then kept."""
    return standard_normal(shape, generator)


@noise(per="batch")
def shared(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps ~ N(0, 1), one draw for all items of a mini-batch."""
    return standard_normal(shape, generator)


@noise()
def antithetic(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps ~ N(0, 1) in pairs of opposite sign, one after the other."""
    *sets, points, latents = shape
    half = standard_normal((*sets, (points + 1) // 2, latents), generator)
    return torch.stack([half, -half], dim=-2).flatten(-3, -2)[..., :points, :]


@noise()
def sobol(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps ~ N(0, 1) at evenly spread points: a Sobol sequence, shifted at random once for each set."""
    *sets, points, latents = shape
    even = torch.quasirandom.SobolEngine(latents).draw(points).to(generator.device)
    u = (even + standard_uniform((*sets, 1, latents), generator)).remainder(1)
    edge = torch.finfo(u.dtype).eps
    return torch.special.ndtri(u.clamp(edge / 2, 1 - edge))


@noise()
def rademacher(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps = ±1 by the toss of a coin."""
    return 1 - 2 * (standard_uniform(shape, generator) < 0.5).float()


@noise()
def uniform(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps uniform between ±√3, where its variance is 1."""
    return (2 * standard_uniform(shape, generator) - 1) * math.sqrt(3)


@noise()
def laplace(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps from the Laplace distribution of variance 1."""
    u = standard_uniform((2, *shape), generator).clamp_min(torch.finfo(torch.float32).tiny)
    return (u[0].log() - u[1].log()) * math.sqrt(0.5)  # the difference of two exponential variables


@noise()
def student_t(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps from Student's t with 5 degrees of freedom, scaled to variance 1: heavy tails."""
    normal = standard_normal((6, *shape), generator)
    return normal[0] / normal[1:].square().mean(0).sqrt() * math.sqrt(3 / 5)


class Streams:
    """Independent, reproducible random streams: one for each distinct seed.

    A stream depends on its seed and its purpose alone, never on how many others run beside it. That is
    what makes replica r of a batched training equal to the same model trained alone. Torch has no
    batched seeded sampler, so the one loop over seeds of the package stands here, at one call per
    draw, not per item.
    """

    def __init__(self, seeds: Sequence[int], purpose: str, device: torch.device | str = "cpu") -> None:
        self.count = len(seeds)
        distinct = sorted(set(seeds))
        self.generators = [_generator(seed, purpose, device) for seed in distinct]
        # Replicas that share a seed share its draws; None when there is nothing to rearrange.
        position = [distinct.index(seed) for seed in seeds]
        self._select = (
            None if position == list(range(len(distinct))) else torch.tensor(position, device=device)
        )

    def draw(self, sample: Sampler, *shape: int) -> Tensor:
        """`sample(shape, generator)` of each stream, stacked: (R, *shape)."""
        drawn = torch.stack([sample(shape, generator) for generator in self.generators])
        return drawn if self._select is None else drawn.index_select(0, self._select)


def _generator(seed: int, purpose: str, device: torch.device | str) -> Generator:
    # SeedSequence turns neighbouring seeds and different purposes into unrelated states.
    state = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1)  # 32 bits: torch's own size
    return Generator(device).manual_seed(int(state[0]))


class TrainingNoise:
    """The eps that R replicas see, epoch by epoch, each by its own law, scale and seed.

    `names`, `scales`, `seeds` have one entry per replica (R); a training set has `items` items, shown in
    batches of `batch_size`, with `samples` draws of size `latents` for each presentation of an item.
    """

    def __init__(
        self,
        names: Sequence[str],
        scales: Sequence[float],
        seeds: Sequence[int],
        *,
        items: int,
        batch_size: int,
        latents: int,
        samples: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.items, self.batch_size, self.device = items, batch_size, device
        self.shape = (latents,) if samples == 1 else (samples, latents)
        self.scales = torch.tensor(scales, device=device)
        self.laws: list[tuple[Noise, Tensor, Streams]] = []
        self.kept: dict[str, Tensor] = {}
        for name in dict.fromkeys(names):
            law = NOISES[name]
            members = [r for r, other in enumerate(names) if other == name]
            streams = Streams([seeds[r] for r in members], f"noise {name}", device)
            self.laws.append((law, torch.tensor(members, device=device), streams))
            if law.per == "item":
                self.kept[name] = streams.draw(law.sample, items, *self.shape)

    def epoch(self, order: Tensor) -> Tensor:
        """eps (R, items, Z), or (N, R, items, Z) of several samples, for one epoch that presents the items in
        `order` (R, items)."""
        eps = torch.empty(*order.shape, *self.shape, device=self.device)
        for law, members, streams in self.laws:
            if law.per == "item":
                chosen = order[members].view(len(members), -1, *[1] * len(self.shape))
                drawn = self.kept[law.name].take_along_dim(chosen, dim=1)
            elif law.per == "batch":
                batches = -(-self.items // self.batch_size)
                drawn = streams.draw(law.sample, batches, *self.shape)
                drawn = drawn.repeat_interleave(self.batch_size, dim=1)[:, : self.items]
            else:
                drawn = streams.draw(law.sample, self.items, *self.shape)
            eps[members] = drawn.to(eps)
        eps *= self.scales.view(-1, *[1] * (eps.ndim - 1))
        return eps if len(self.shape) == 1 else eps.movedim(2, 0)


def presentations(
    names: Sequence[str],
    scales: Sequence[float],
    seeds: Sequence[int],
    *,
    items: int,
    latents: int,
    count: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """eps of the same items in `count` presentations, each replica by its law: (count, R, items, Z).

    For a law that is kept per item, or constant, the presentations are equal.
    """
    source = TrainingNoise(
        names, scales, seeds, items=items, batch_size=items, latents=latents, device=device
    )
    order = torch.arange(items, device=device).expand(len(names), items)
    return torch.stack([source.epoch(order) for _ in range(count)])
