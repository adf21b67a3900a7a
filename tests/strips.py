"""Random costs under independent normals whose exact gradients have closed forms: strips, waves and bumps.

The first two vary along one direction a only: of y = a · z, which is normal with mean m = a · loc and
deviation s = |a scale|, so that by the chain rule ∂/∂loc = a ∂/∂m and ∂/∂scale = a² scale / s ∂/∂s. Shares no
code with the package.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal


@dataclass(frozen=True)
class Random:
    """A random problem, its gradient, and how large that would be if nothing cancelled."""

    kind: str
    cost: Callable[[Tensor], Tensor]
    q: Distribution
    gradient: dict[str, np.ndarray]
    size: float


def random_problem(seed: int) -> Random:
    """In one to three dimensions; half of the directions are an axis."""
    rng = np.random.default_rng(seed)
    dims, kind = int(rng.integers(1, 4)), str(rng.choice(["strip", "wave", "bump"]))
    loc, scale = rng.normal(size=dims), np.exp(0.5 * rng.normal(size=dims))
    along = rng.normal(size=dims) if rng.random() < 0.5 else np.eye(dims)[rng.integers(dims)] * 1.3
    q = Independent(Normal(torch.tensor(loc), torch.tensor(scale)), 1)
    if kind == "bump":
        return _bump(rng, q, loc, scale)
    m, s = float(along @ loc), float(np.linalg.norm(along * scale))
    make = _strip if kind == "strip" else _wave
    of_y, by_m, by_s, size = make(rng, m, s)
    direction = torch.tensor(along)

    def cost(z: Tensor) -> Tensor:
        return of_y((z * direction).sum(-1))

    gradient = {"loc": along * by_m, "scale": along**2 * scale / s * by_s}
    return Random(kind, cost, q, gradient, size * max(np.abs(along).max(), (along**2 * scale / s).max()))


def _strip(
    rng: np.random.Generator, m: float, s: float
) -> tuple[Callable[[Tensor], Tensor], float, float, float]:
    low = m + s * rng.normal()
    high = low + s * 10 ** rng.uniform(-2.5, 0)
    a, b = (low - m) / s, (high - m) / s
    by_m, by_s = (norm.pdf(a) - norm.pdf(b)) / s, (a * norm.pdf(a) - b * norm.pdf(b)) / s
    return (
        (lambda y: ((y > low) & (y < high)).to(y)),
        by_m,
        by_s,
        (norm.cdf(b) - norm.cdf(a)) / s * (1 + max(a * a, b * b)),
    )


def _wave(
    rng: np.random.Generator, m: float, s: float
) -> tuple[Callable[[Tensor], Tensor], float, float, float]:
    k, shift = 10 ** rng.uniform(0, 2) / s, rng.normal()
    falls = math.exp(-((k * s) ** 2) / 2)
    by_m, by_s = -k * math.sin(k * (m + shift)) * falls, -k * k * s * math.cos(k * (m + shift)) * falls
    return (lambda y: (k * (y + shift)).cos()), by_m, by_s, 1 / s


def _bump(rng: np.random.Generator, q: Distribution, loc: np.ndarray, scale: np.ndarray) -> Random:
    k, centre = 10 ** rng.uniform(-1, 4), loc + scale * rng.normal(size=loc.shape)
    c, v = torch.tensor(centre), 1 + 2 * k * scale**2
    mean = float(np.prod(v**-0.5 * np.exp(-k * (loc - centre) ** 2 / v)))
    gradient = {
        "loc": mean * -2 * k * (loc - centre) / v,
        "scale": mean * (-2 * k * scale / v + 4 * k**2 * scale * (loc - centre) ** 2 / v**2),
    }
    size = mean / float(scale.min()) * (1 + float((((loc - centre) / scale) ** 2).max()))
    return Random("bump", lambda z: (-k * ((z - c) ** 2).sum(-1)).exp(), q, gradient, size)
