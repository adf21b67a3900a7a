"""Kinds of noise eps in z = mu + sigma * eps, in one registry.

A kind is a function `(shape, generator) -> eps`, shape (..., points, Z): it may make the points of one set
depend on each other. The points are the samples of one item where there are several, else the items of an
epoch in the order of their presentation. What makes one kind different from another is the function
itself and for how long a draw is kept:

* `per="presentation"`: a fresh draw whenever an item is shown (what a VAE does);
* `per="batch"`: one draw for all items of a mini-batch;
* `per="item"`: one draw for each data item, kept for good.

Your own joins by the decorator and can then be named wherever a noise is asked for:

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

import torch
from torch import Generator, Tensor

from ..registry import Registry, first_sentence
from .streams import Sampler, standard_normal, standard_uniform

Per = Literal["presentation", "batch", "item"]


@dataclass(frozen=True)
class Noise:
    """A registered noise: its sampler, and for how long one draw is kept."""

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
        NOISES[sample.__name__] = Noise(sample.__name__, sample, per, first_sentence(sample))
        return sample

    return register


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


@noise()
def arcsine(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps from the arcsine distribution between ±√2, where its variance is 1: mostly near the ends."""
    return (math.pi * standard_uniform(shape, generator)).cos() * math.sqrt(2)


@noise()
def exponential(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps from the exponential distribution of mean 1, less 1: skewed."""
    return -torch.log1p(-standard_uniform(shape, generator)) - 1


@noise()
def smeared_coin(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps = ±0.995 by the toss of a coin, plus a tenth of a normal variable: a coin toss with a density."""
    coin, smear = standard_normal((2, *shape), generator)
    return math.sqrt(0.99) * coin.sign() + 0.1 * smear


@noise()
def contaminated(shape: Sequence[int], generator: Generator) -> Tensor:
    """eps normal, with standard deviation 0.1 in 99 of 100 draws and nearly 10 in the other: rare shocks."""
    wide = math.sqrt((1 - 0.99 * 0.1**2) / 0.01)
    scale = torch.where(standard_uniform(shape, generator) < 0.01, wide, 0.1)
    return standard_normal(shape, generator) * scale
