"""Coordinates for continuous distributions of one to three variables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, LowRankMultivariateNormal, MultivariateNormal, Normal
from torch.distributions import VonMises as _VonMises

from ..estimators.costs import NotApplicable
from ..estimators.families import is_law, kind, moving_with, support, support_bounds, unwrap

# How far a chart reaches: e^-700 and sinh 40 are near the ends of float64, sigmoid(36) is 1 to rounding, and
# a normal density underflows at 38 deviations.
_SMALLEST, _LARGEST, _ALMOST_ONE, _NORMAL_REACH, _SINH_REACH = -700.0, 60.0, 36.0, 38.0, 40.0
_REACH_OF_SEVERAL = 9.0  # deviations in each direction, where points are dear
_SLOPE = 5.6  # deviations per unit at the middle of the cube
_TRIED = 4001  # points of the whole chart, to see where the mass is
_NEGLIGIBLE = 350.0  # logarithm of the factor by which a density may have fallen
_DRAWS = 4096  # where torch knows no mean and variance


class Chart(NamedTuple):
    """Coordinates u (M, d) of the support of a distribution, typical z near u = 0.

    `place` maps u to z (M, *batch, *event) and to the volume of z per volume of u (M, *batch); each u runs
    from `low` to `high`. `closed` says that the two are the same point, and `even` that distances mean the
    same everywhere and in all directions.
    """

    place: Callable[[Tensor], tuple[Tensor, Tensor]]
    low: float
    high: float
    closed: bool = False
    even: bool = False

    def along(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """u for `at` (M, d) of the cube (−1, 1)^d, dense near the middle, and its volume per volume (M,)."""
        if self.closed or self.even:
            return at * self.high, torch.full_like(at[:, 0], self.high ** at.shape[1])
        u, stretch = torch.empty_like(at), torch.ones_like(at[:, 0])
        for side, end in ((at < 0, -self.low), (at >= 0, self.high)):
            bend = _bend(end)
            u = torch.where(side, end / math.sinh(bend) * (bend * at).sinh(), u)
            slope = torch.where(side, end * bend / math.sinh(bend) * (bend * at).cosh(), 1.0)
            stretch = stretch * slope.prod(1)
        return u, stretch


def trimmed(chart: Chart, log_prob: Callable[[Tensor], Tensor], dims: int) -> Chart:
    """The chart without its ends where there is no mass to speak of, and torch's density may be wrong."""
    if chart.closed or chart.even or dims > 1:
        return chart
    u = torch.linspace(chart.low, chart.high, _TRIED, dtype=torch.float64)
    z, stretch = chart.place(u[:, None])
    log_mass = (log_prob(z) + stretch.log()).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    seen = (log_mass > log_mass.amax(0) - _NEGLIGIBLE).reshape(len(u), -1).any(1).nonzero()
    if not len(seen):
        return chart
    first, last = max(int(seen[0]) - 1, 0), min(int(seen[-1]) + 1, len(u) - 1)
    return chart._replace(low=min(float(u[first]), -1.0), high=max(float(u[last]), 1.0))


def _bend(end: float) -> float:
    """b for which end · sinh(b v) / sinh(b) has the slope at 0 that all charts have."""
    from scipy.optimize import brentq

    if end <= _SLOPE:
        return 1e-3
    return float(brentq(lambda b: end * b / math.sinh(b) - _SLOPE, 1e-3, 100.0))


def chart(q: Distribution) -> Chart:
    """The chart of q, by the density that it has. Raises `NotApplicable` where there is none."""
    base = unwrap(q)
    if moving := moving_with(q):
        raise NotApplicable(
            f"the support of {kind(q)} moves with {', '.join(moving)}, so differentiating the density alone "
            "is not enough"
        )
    if isinstance(base, _VonMises):
        return Chart(_each(lambda u: (u, torch.ones_like(u)), q), -math.pi, math.pi, closed=True)
    bounds = {name: torch.as_tensor(v).double() for name, v in support_bounds(base).items()}
    mean, spread = typical(base)
    if len(base.event_shape) and (bounds or type(support(base)).__name__ != "_Real"):
        raise NotApplicable(f"no coordinates are known for the support of {kind(q)}")
    if len(bounds) == 2:
        low, width = bounds["lower_bound"], bounds["upper_bound"] - bounds["lower_bound"]
        share = ((mean - low) / width).clamp(1e-12, 1 - 1e-12)
        scale = (spread / width / (share * (1 - share))).clamp(1e-6, 1.0)
        centre = share.logit()

        def between(u: Tensor) -> tuple[Tensor, Tensor]:
            v = centre + scale * u
            return low + width * v.sigmoid(), scale * width * v.sigmoid() * (-v).sigmoid()

        ends = ((_SMALLEST - centre) / scale).min(), ((_ALMOST_ONE - centre) / scale).max()
        return Chart(_each(between, q), float(ends[0]), float(ends[1]))
    if "lower_bound" in bounds:
        low = bounds["lower_bound"]
        middle = (mean - low).where(mean > low, 1.0)
        scale = (spread / middle).clamp(1e-6, 1.0)

        def above(u: Tensor) -> tuple[Tensor, Tensor]:
            away = middle * (scale * u).exp()
            return low + away, scale * away

        return Chart(_each(above, q), float(_SMALLEST / scale.min()), float(_LARGEST / scale.min()))
    if bounds:
        raise NotApplicable(f"no coordinates are known for the support of {kind(q)}")
    if is_law(base, Normal, MultivariateNormal, LowRankMultivariateNormal):
        place = _framed(lambda u: (u, torch.ones_like(u)), q, mean, spread)
        several = q.event_shape.numel() > 1
        reach = _REACH_OF_SEVERAL if several else _NORMAL_REACH
        return Chart(place, -reach, reach, even=several)
    return Chart(_framed(lambda u: (u.sinh(), u.cosh()), q, mean, spread), -_SINH_REACH, _SINH_REACH)


def typical(base: Any) -> tuple[Tensor, Tensor]:
    """A middle of a distribution, and how far it spreads: both as torch knows them or, where that fails or is
    infinite, of some draws."""
    try:
        mean, spread = base.mean, base.variance.sqrt()
        if is_law(base, Normal):
            mean, spread = base.loc, base.scale
    except (NotImplementedError, AttributeError, RuntimeError):
        mean = spread = torch.tensor(math.nan)
    known = mean.isfinite() & spread.isfinite() & (spread > 0)
    if not known.all():
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            try:
                z = base.sample(torch.Size((_DRAWS,))).double()
            except (NotImplementedError, RuntimeError) as error:
                raise NotApplicable(
                    f"torch knows no mean and variance of {kind(base)}, nor draws: {error}"
                ) from error
        low, middle, high = z.quantile(torch.tensor([0.16, 0.5, 0.84]).double().to(z.device), dim=0)
        mean = torch.where(known, mean, middle)
        spread = torch.where(known, spread, ((high - low) / 2).clamp_min(1e-300))
    return mean.double().detach(), spread.double().detach()


def _each(
    one: Callable[[Tensor], tuple[Tensor, Tensor]], q: Distribution
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """`place` that treats all coordinates alike."""
    batch, event = q.batch_shape, q.event_shape

    def place(u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.view(len(u), *[1] * len(batch), *(event or ()))
        z, stretch = (a.expand(len(u), *batch, *event) for a in one(u))
        return z, stretch.flatten(1 + len(batch)).prod(-1) if event else stretch

    return place


def _framed(
    one: Callable[[Tensor], tuple[Tensor, Tensor]], q: Distribution, mean: Tensor, spread: Tensor
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """`place` about the mean, along the axes of q's covariance where torch knows it."""
    base = unwrap(q)
    # Where z cannot resolve the spread, all points are one.
    resolution = torch.finfo(torch.float64).eps * mean.abs()
    if (resolution > 1e-9 * spread).any():
        raise NotApplicable(f"{kind(q)} is too narrow for float64 so far from zero")
    covariance = getattr(base, "covariance_matrix", None)
    if isinstance(covariance, Tensor) and base.event_shape == q.event_shape:
        factor = torch.linalg.cholesky(covariance.double())

        def along_axes(u: Tensor) -> tuple[Tensor, Tensor]:
            t, slope = one(u.view(len(u), *[1] * len(q.batch_shape), -1))
            volume = slope.prod(-1) * factor.diagonal(dim1=-2, dim2=-1).prod(-1)
            return mean + (factor @ t.unsqueeze(-1)).squeeze(-1), volume.expand(len(u), *q.batch_shape)

        return along_axes

    def about(u: Tensor) -> tuple[Tensor, Tensor]:
        t, slope = one(u)
        return mean + spread * t, spread * slope

    return _each(about, q)
