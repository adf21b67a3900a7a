"""Laws of the noise eps in z = mu + sigma * eps, in one registry, and the random streams that feed them.

A law is a function `(shape, generator) -> eps`. What makes one law different from another is the
function itself and for how long a draw is kept:

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
    batches of `batch_size`.
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
        device: torch.device | str = "cpu",
    ) -> None:
        self.items, self.batch_size, self.latents, self.device = items, batch_size, latents, device
        self.scales = torch.tensor(scales, device=device).view(-1, 1, 1)
        self.laws: list[tuple[Noise, Tensor, Streams]] = []
        self.kept: dict[str, Tensor] = {}
        for name in dict.fromkeys(names):
            law = NOISES[name]
            members = [r for r, other in enumerate(names) if other == name]
            streams = Streams([seeds[r] for r in members], f"noise {name}", device)
            self.laws.append((law, torch.tensor(members, device=device), streams))
            if law.per == "item":
                self.kept[name] = streams.draw(law.sample, items, latents)

    def epoch(self, order: Tensor) -> Tensor:
        """eps (R, items, Z) for one epoch that presents the items in `order` (R, items)."""
        eps = torch.empty(*order.shape, self.latents, device=self.device)
        for law, members, streams in self.laws:
            if law.per == "item":
                drawn = self.kept[law.name].take_along_dim(order[members].unsqueeze(-1), dim=1)
            elif law.per == "batch":
                batches = -(-self.items // self.batch_size)
                drawn = streams.draw(law.sample, batches, self.latents)
                drawn = drawn.repeat_interleave(self.batch_size, dim=1)[:, : self.items]
            else:
                drawn = streams.draw(law.sample, self.items, self.latents)
            eps[members] = drawn.to(eps)
        return eps.mul_(self.scales)
