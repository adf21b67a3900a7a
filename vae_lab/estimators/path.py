"""Estimators that differentiate the cost along the path of the sample: the
reparameterization trick and its kin."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Chi2,
    Dirichlet,
    Distribution,
    Gamma,
    StudentT,
    TransformedDistribution,
    constraints,
)
from torch.distributions import VonMises as _VonMises

from ..reparameterization import reparameterize
from .contract import estimator
from .costs import CheckedCost, Cost, NotApplicable
from .families import discrete, is_law, kind, unwrap
from .requirements import normal, own, periodic, reparameterizable
from .von_mises import von_mises_path

# Distributions whose rsample in torch is the implicit reparameterization.
_BUILT_IN = (Gamma, Chi2, Beta, Dirichlet, StudentT)
_CONNECTED = (constraints.real, constraints.positive, constraints.nonnegative, constraints.unit_interval)


def implicit(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """q has a distribution function with derivatives, or torch's sampler has them built in."""
    base = unwrap(q)
    if isinstance(base, _VonMises):
        return periodic(q, cost, n)
    if is_law(base, *_BUILT_IN):
        return None
    if base.event_shape or discrete(q) or type(base).cdf is Distribution.cdf:
        return f"it needs a continuous distribution function of each coordinate, which {kind(q)} lacks"
    return own(q, "cdf", "sample", "rsample")


@estimator(unbiased=True, requires=(reparameterizable,), reference="kingma2014auto")
def pathwise(q: Distribution, cost: Cost, n: int) -> Tensor:
    """∇f(z(ε)): the cost is differentiated along the path of the sample, the reparameterization trick.

    The cost must be continuous in z and differentiable almost everywhere. Where it jumps, the estimate
    misses the jump; a cost with no derivative at all is refused.
    """
    return cost(q.rsample(torch.Size((n,))))


@estimator(unbiased=False, requires=(normal,), reference="", title="ε = 1")
def frozen_epsilon(q: Distribution, cost: Cost, n: int) -> Tensor:
    """∇f(μ + σ): ε = 1, always. No variance, and the gradient of a function other than E[f]."""
    base = unwrap(q)
    ones = torch.ones(n, *q.batch_shape, *q.event_shape, dtype=base.loc.dtype, device=base.loc.device)
    return cost(reparameterize(base.loc, base.scale, ones))


@estimator(unbiased=True, requires=(implicit,), reference="figurnov2018implicit")
def implicit_reparameterization(q: Distribution, cost: Cost, n: int) -> Tensor:
    """Pathwise with dz/dθ = −(∂F/∂θ) / q(z), F the distribution function: no inverse of F is needed.

    Gamma, beta, Dirichlet and Student's t by torch's own samplers, von Mises by quadrature, any other
    distribution of independent coordinates (a mixture of normals, say) by differentiating its cdf. No path
    leads across a gap in the density, and what crosses it as the parameters change would be missed: so a
    distribution is refused if a gap is seen between its draws, even where nothing would cross.
    """
    base = unwrap(q)
    if is_law(base, *_BUILT_IN):
        return cost(q.rsample(torch.Size((n,))))
    z = q.sample(torch.Size((n,)))
    if isinstance(base, _VonMises):
        return cost(von_mises_path(z, base.loc, base.concentration))
    if _has_gap(base):
        raise NotApplicable(f"the density of {kind(q)} has a gap, which no path of a draw leads across")
    rank, density = base.cdf(z), base.log_prob(z).exp().detach()
    if not (density > 0).all():
        raise NotApplicable(f"the density of {kind(q)} is 0 or NaN at one of its draws, and divides the path")
    return cost(z - (rank - rank.detach()) / density)


def _has_gap(base: Distribution) -> bool:
    """Whether the density of a distribution of one coordinate is zero somewhere between draws of it.

    Supports that can have no gap, such as the whole line, are not searched.
    """
    part = getattr(base, "component_distribution", base)  # of a mixture
    with suppress(NotImplementedError):
        # The support of a transformed distribution is all that its last transform can reach.
        if not isinstance(part, TransformedDistribution) and part.support in _CONNECTED:
            return False
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        ordered = base.sample(torch.Size((64,))).sort(0).values
        steps = torch.linspace(0, 1, 9, dtype=ordered.dtype, device=ordered.device)[1:-1]
        between = torch.lerp(ordered[:-1], ordered[1:], steps.view(-1, *[1] * ordered.ndim))
        base.log_prob(ordered)  # raises what it has against values that it drew itself
        try:
            return bool((base.log_prob(between) == -torch.inf).any())
        except ValueError:  # it validates its values
            return True
