"""Points and weights to integrate against a distribution, and coordinates for those of one variable."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal
from torch.distributions import VonMises as _VonMises

from ..estimators.costs import NotApplicable
from ..estimators.families import moving_with, support_bounds, unwrap
from ..reparameterization import reparameterize

MOST_VALUES, MOST_NUMBERS = 2**22, 2**25  # of a finite support: the most that fit into memory


def support(q: Distribution) -> Tensor:
    """All values of a q with finite support: (M, *batch, *event)."""
    base = unwrap(q)
    values = base.enumerate_support()  # (K, *batch and independent axes, *event of one)
    own = values.ndim - 1 - len(base.event_shape)
    shared = len(q.batch_shape)
    dims = q.event_shape[: own - shared].numel()
    if values.numel() * len(values) ** (dims - 1) > MOST_NUMBERS or len(values) ** dims > MOST_VALUES:
        raise NotApplicable(
            f"q has {len(values)}^{dims} values per element of its batch: too many to enumerate"
        )
    flat = values.flatten(1 + shared, own).movedim(1 + shared, 0) if own > shared else values.unsqueeze(0)
    choice = torch.cartesian_prod(*[torch.arange(len(values))] * dims).view(-1, dims)
    z = torch.stack([flat[d][choice[:, d]] for d in range(dims)], dim=1 + shared)
    return z.reshape(len(choice), *q.batch_shape, *q.event_shape)


# How many deviations an even grid reaches to each side, by the number of dimensions.
_REACH = {1: 20.0, 2: 10.0, 3: 9.0}


def edge(weights: Tensor, dims: int) -> Tensor:
    """The outermost points of `normal_grid`, by their weights."""
    return weights < weights.max() * math.exp(-0.5 * (_REACH[dims] - 1) ** 2)


def normal_grid(q: Distribution, step: float, reach: float | None = None) -> tuple[Tensor, Tensor]:
    """Points (M, *batch, *event) and weights (M,) to integrate against a normal q, `step` deviations apart.

    `reach` is how many deviations to each side, by default many enough for costs that grow.
    For smooth costs this trapezoidal rule converges faster than any power of the step
    (trefethen2014exponentially).
    """
    dims, base = q.event_shape.numel(), unwrap(q)
    reach = reach or _REACH[dims]
    line = torch.arange(-reach, reach + step / 2, step, dtype=torch.float64, device=base.loc.device)
    x = torch.cartesian_prod(*[line] * dims).view(-1, dims)
    weights = (-0.5 * x.square().sum(-1)).exp()
    x = x.view(-1, *[1] * len(q.batch_shape), *q.event_shape)
    with torch.no_grad():
        if isinstance(base, MultivariateNormal):
            z = base.loc + (base.scale_tril @ x.unsqueeze(-1)).squeeze(-1)
        else:
            z = reparameterize(base.loc, base.scale, x)
    return z, weights / weights.sum()


def counts(q: Distribution, size: int) -> Tensor:
    """The first `size` values of a q of counts: (size, *batch, *event)."""
    first = getattr(unwrap(q).support, "lower_bound", 0)
    z = torch.arange(size, dtype=torch.float64, device=q.mean.device).view(
        -1, *[1] * len(q.batch_shape + q.event_shape)
    )
    return (z + first).expand(size, *q.batch_shape, *q.event_shape)


class Chart(NamedTuple):
    """Coordinates u of the support of a distribution of one variable, typical z near u = 0.

    `place` maps u to z and dz/du; u runs from `low` to `high`.
    """

    place: Callable[[Tensor], tuple[Tensor, Tensor]]
    low: float
    high: float


# How far a chart reaches: e^-700 and sinh 40 are near the ends of float64, sigmoid(36) is 1 to rounding, and
# a normal density underflows at 38 deviations.
_SMALLEST, _LARGEST, _ALMOST_ONE, _NORMAL_REACH, _SINH_REACH = -700.0, 60.0, 36.0, 38.0, 40.0


def chart(q: Distribution) -> Chart:
    """The chart of q. Exponential stretching takes care of heavy tails and of densities that are infinite at
    an end."""
    base = unwrap(q)
    bounds = support_bounds(base)
    if moving := moving_with(base):
        raise NotApplicable(
            f"no exact gradient: the support of {type(base).__name__} moves with {', '.join(moving)}, so "
            "differentiating the density alone is not enough"
        )
    if isinstance(base, _VonMises):
        return Chart(lambda u: (u, torch.ones_like(u)), -math.pi, math.pi)
    if len(bounds) == 2:
        low, width = bounds["lower_bound"], bounds["upper_bound"] - bounds["lower_bound"]
        return Chart(
            lambda u: (low + width * u.sigmoid(), width * u.sigmoid() * (-u).sigmoid()),
            _SMALLEST,
            _ALMOST_ONE,
        )
    try:
        spread = base.stddev.nan_to_num(1.0, 1.0).clamp_min(1e-300)
    except NotImplementedError as error:
        raise NotApplicable(f"no exact gradient: torch knows no stddev of {type(base).__name__}") from error
    if len(bounds) == 1 and "lower_bound" in bounds:
        low = bounds["lower_bound"]
        middle = (base.mean - low).nan_to_num(1.0, 1.0)
        return Chart(lambda u: (low + middle * u.exp(), middle * u.exp()), _SMALLEST, _LARGEST)
    centre = getattr(base, "loc", base.mean)
    if isinstance(base, Normal):
        return Chart(lambda u: (centre + spread * u, spread), -_NORMAL_REACH, _NORMAL_REACH)
    return Chart(lambda u: (centre + spread * u.sinh(), spread * u.cosh()), -_SINH_REACH, _SINH_REACH)
