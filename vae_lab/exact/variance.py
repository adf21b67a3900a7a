"""Exact variances of gradient estimators, where one draw of q is all their randomness."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Normal

from ..clock import counts_as
from ..estimators import ESTIMATORS
from ..estimators.copies import replicas, slopes
from ..estimators.costs import CheckedCost, Cost, NotApplicable
from ..estimators.families import certain, discrete, empty, is_law, parameters, rebuild, unwrap
from ..estimators.family import Copies
from ..reparameterization import reparameterize
from ..settings import Positive, Whole, check
from .charts import chart, trimmed
from .enumeration import values_of
from .lines import Nodes
from .quadrature import EVALUATIONS, MASS, UNDERFLOW, agreed, attempt


@counts_as("gradients")
def exact_variance(
    estimator: str, cost: Cost, q: Distribution, tolerance: float = 1e-7, evaluations: int = EVALUATIONS
) -> dict[str, Tensor]:
    """Exact variance of the single-sample estimate: parameter -> float64 tensor of its shape.

    For an estimator that uses one draw of q and no other randomness (such as `pathwise` and
    `score_function`), every draw gives one gradient, so mean and variance are integrals over q: sums over its
    finite support, or, for one to three variables, by the rules of `quadrature`, which have to agree to
    `tolerance`. Derivatives along the path of a draw are known for normals.
    Raises `NotApplicable` for other estimators or q, or if the rules do not agree, and `CostError`.

    >>> q = torch.distributions.Normal(torch.tensor(0.5), torch.tensor(2.0))
    >>> round(exact_variance("pathwise", torch.square, q)["loc"].item(), 6)  # of 2z
    16.0
    """
    tolerance = check("tolerance", Positive, tolerance)
    evaluations = check("evaluations", Whole, evaluations)
    try:
        given = {name: p.detach().double() for name, p in parameters(q).items()}
        exact = rebuild(q, **given)
    except TypeError as error:
        raise NotApplicable(f"no exact variance: {error}") from error
    try:
        if why := empty(exact) or certain(exact):
            raise NotApplicable(why)
        single = _Single(estimator, cost, exact)
        if discrete(exact):
            points = values_of(exact)
            if points is None:
                raise NotApplicable("it needs a finite support or a continuous distribution")
            variances = single.over(points)
        else:
            variances = _Moments(single).variances(tolerance, evaluations)
    except NotApplicable as error:
        raise NotApplicable(f"no exact variance: {error}") from error
    parts = variances.split([p.numel() for p in given.values()])
    return {name: part.view_as(p).to(p.device) for (name, p), part in zip(given.items(), parts, strict=True)}


NO_MASS = "the density is not 1 in all where the cost is known: it is NaN elsewhere, or far out"


class _Given(Copies):
    """Copies of a distribution whose draws are given: `points` for `sample`, and `path`, with derivatives,
    for `rsample`."""

    def __init__(self, copies: Distribution, points: Tensor, path: Tensor | None) -> None:
        Distribution.__init__(self, copies.batch_shape, copies.event_shape, validate_args=False)
        self.base, self.points, self.path = copies, points, path

    def sample(self, sample_shape: Size | Sequence[int] = Size()) -> Tensor:  # noqa: B008 (torch's own)
        return self.points.unsqueeze(0)

    def rsample(self, sample_shape: Size | Sequence[int] = Size()) -> Tensor:  # noqa: B008
        if self.path is None:
            raise NotApplicable("the derivative of a draw is known for normals only; benchmark() measures it")
        return self.path.unsqueeze(0)


class _Single:
    """The estimate from one draw, as a function of the draw."""

    def __init__(self, estimator: str, cost: Cost, q: Distribution) -> None:
        self.estimator, self.cost, self.q = ESTIMATORS[estimator], cost, q
        self.checked = CheckedCost(cost, len(q.event_shape))
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            self.typical = attempt(lambda: q.sample(Size((1,))))

    def gradients(self, z: Tensor) -> Tensor:
        """One gradient for each of M draws (M, *batch, *event): (M, numbers)."""
        leaves, copies, apart = replicas(self.q, len(z))
        base, path = unwrap(copies), None
        if discrete(self.q) or is_law(base, Normal):
            path = z
        if is_law(base, Normal):
            here = unwrap(self.q)
            path = reparameterize(base.loc, base.scale, (z - here.loc) / here.scale)
        state = torch.get_rng_state()
        surrogate = attempt(lambda: self.estimator(_Given(copies, z, path), self.cost, 1))
        if not torch.equal(state, torch.get_rng_state()):
            raise NotApplicable(
                f"{self.estimator.name} uses more randomness than one draw of q; benchmark() measures its "
                "variance"
            )
        found = slopes(surrogate[0].reshape(len(z), -1).sum(1), leaves, apart)
        return torch.cat([g.reshape(len(z), -1) for g in found.values()], dim=1)

    def weights(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """q at z (M, *batch), and z. Where q underflows or the cost is NaN it is 0, and z a typical draw;
        that much of q's mass is then missing."""
        log_q, wide = self.log_prob(z), (..., *[None] * len(self.q.event_shape))
        near = log_q > UNDERFLOW
        with torch.no_grad():
            known = (
                near & ~attempt(lambda: self.checked.values(torch.where(near[wide], z, self.typical))).isnan()
            )
        return log_q.exp().where(known, 0.0), torch.where(known[wide], z, self.typical)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q, minus infinity where torch answers NaN or infinity."""
        with torch.no_grad():
            return attempt(lambda: self.q.log_prob(z)).nan_to_num(-torch.inf, -torch.inf, -torch.inf)

    def by_number(self, weights: Tensor) -> Tensor:
        """Weights (M, *batch) for each of the numbers of a gradient, (M, numbers): those of its own element
        of the batch, with whose axes a parameter's begin."""
        batch, parts = self.q.batch_shape, []
        for p in parameters(self.q).values():
            if p.shape[: len(batch)] != batch:
                raise NotApplicable("elements of q's batch share a parameter")
            own = weights.view(*weights.shape, *[1] * (p.ndim - len(batch)))
            parts.append(own.expand(len(weights), *p.shape).reshape(len(weights), -1))
        return torch.cat(parts, dim=1)

    def over(self, points: Tensor) -> Tensor:
        """The variance over all values of q, (numbers,)."""
        density, points = self.weights(points)
        if (density.sum(0) - 1).abs().max() > MASS:
            raise NotApplicable(NO_MASS)
        w, g = self.by_number(density), self.gradients(points)
        return (w * g**2).sum(0) - (w * g).sum(0) ** 2


class _Moments:
    """First and second moments of single estimates, for `quadrature.agreed`. Rows: q, q g and q g²."""

    def __init__(self, single: _Single) -> None:
        self.single, self.dims = single, single.q.event_shape.numel()
        if not 1 <= self.dims <= 3:
            raise NotApplicable("it needs a finite support or at most three dimensions")
        self.elements = single.q.batch_shape.numel()
        self.watched = slice(0, 0)  # an estimate may be zero everywhere, as that of a constant
        self.chart = trimmed(chart(single.q), single.log_prob, self.dims)

    def rows(self, at: Tensor) -> Tensor:
        u, bend = self.chart.along(at)
        z, stretch = self.chart.place(u)
        density, z = self.single.weights(z)
        density = density * stretch * bend.view(-1, *[1] * (stretch.ndim - 1))
        w, g = self.single.by_number(density), self.single.gradients(z)
        return torch.cat([w, w * g, w * g**2], dim=1).nan_to_num(0.0)

    def numbers(self, nodes: Nodes) -> Tensor:
        mass, mean, square = nodes.totals().chunk(3)
        return torch.cat([square - mean**2, mass])

    def sizes(self, nodes: Nodes) -> Tensor:
        mass, _, square = nodes.totals().chunk(3)
        return torch.cat([square, torch.ones_like(mass)])

    def variances(self, tolerance: float, evaluations: int) -> Tensor:
        """Those of all numbers of a gradient, once the rules agree."""
        variances, mass = agreed(self, tolerance, evaluations)[0].chunk(2)
        if (mass - 1).abs().max() > MASS:
            raise NotApplicable(NO_MASS)
        return variances.clamp_min(0.0)
