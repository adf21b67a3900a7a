"""Exact variances of gradient estimators, where one draw of q is all their randomness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Independent, Normal

from ..estimators import ESTIMATORS
from ..estimators.costs import Cost, NotApplicable
from ..estimators.families import certain, parameters, rebuild, unwrap
from ..reparameterization import reparameterize
from .quadrature import normal_grid, support

_STEPS = (0.02, 0.008)  # deviations between the points of the two grids that have to agree ...
_AGREEMENT, _ROUNDING = 1e-7, 1e-12  # ... relative to the largest variance, and absolutely


def exact_variance(estimator: str, cost: Cost, q: Distribution) -> dict[str, Tensor]:
    """Exact variance of the single-sample estimate: parameter -> float64 tensor of its shape.

    For an estimator that uses one draw of q and no other randomness (such as `pathwise` and
    `score_function`), every draw gives one gradient, so mean and variance are integrals over q: sums over its
    finite support, or over an even grid for normals of one dimension and smooth costs.
    Raises `NotApplicable` for other estimators or q, or if the two grids disagree.

    >>> q = torch.distributions.Normal(torch.tensor(0.5), torch.tensor(2.0))
    >>> round(exact_variance("pathwise", torch.square, q)["loc"].item(), 6)  # of 2z
    16.0
    """
    given = {name: p.detach().double() for name, p in parameters(q).items()}
    exact = rebuild(q, **given)
    base = unwrap(exact)
    if why := certain(exact):
        raise NotApplicable(f"no exact variance: {why}")
    if base.has_enumerate_support:
        points = support(exact)
        return _moments_over(estimator, cost, exact, given, points, exact.log_prob(points).exp())
    if not isinstance(base, Normal) or exact.event_shape.numel() > 1:
        raise NotApplicable("exact variances need a finite support or a normal of one dimension")
    one, two = (_moments_over(estimator, cost, exact, given, *normal_grid(exact, step)) for step in _STEPS)
    if any(((one[k] - two[k]).abs() > _AGREEMENT * two[k].abs().amax() + _ROUNDING).any() for k in two):
        raise NotApplicable("the cost is not smooth enough: two grids of points disagree")
    return two


class _Given(Independent):
    """A distribution whose draws are given: `points` for `sample`, and `path`, with derivatives, for
    `rsample`."""

    def __init__(self, q: Distribution, points: Tensor, path: Tensor) -> None:
        super().__init__(q, 0, validate_args=False)
        self.points, self.path = points, path

    def sample(self, sample_shape: Size | Sequence[int] = Size()) -> Tensor:  # noqa: B008 (torch's own)
        return self.points

    def rsample(self, sample_shape: Size | Sequence[int] = Size()) -> Tensor:  # noqa: B008
        return self.path


def _moments_over(
    name: str, cost: Cost, q: Distribution, given: Mapping[str, Tensor], points: Tensor, weights: Tensor
) -> dict[str, Tensor]:
    """Variance of the gradient over `points` (M, *batch, *event) with `weights` (M,) or (M, *batch)."""
    leaves = {k: p.expand(len(points), *p.shape).clone().requires_grad_() for k, p in given.items()}
    copies = rebuild(q, **leaves)
    base, path = unwrap(copies), points
    if isinstance(base, Normal):
        eps = (points - unwrap(q).loc) / unwrap(q).scale
        path = reparameterize(base.loc, base.scale, eps)
    state = torch.get_rng_state()
    surrogate = ESTIMATORS[name](_Given(copies, points.unsqueeze(0), path.unsqueeze(0)), cost, 1)
    if not torch.equal(state, torch.get_rng_state()):
        raise NotApplicable(
            f"{name} uses more randomness than one draw of q; benchmark() measures its variance"
        )
    gradients = torch.autograd.grad(
        surrogate.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    result = {}
    for parameter, g in zip(leaves, gradients, strict=True):
        w = weights.view(*weights.shape, *[1] * (g.ndim - weights.ndim))
        result[parameter] = (w * g**2).sum(0) - (w * g).sum(0) ** 2
    return result
