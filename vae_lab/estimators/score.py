"""Estimators by the score ∇log q: they weigh it by the cost, and never differentiate the cost (REINFORCE)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from .contract import estimator, leave_one_out
from .copies import score_terms
from .costs import Cost
from .families import parameters
from .requirements import aligned, differentiable_density, several


@estimator(unbiased=True, requires=(differentiable_density,), reference="williams1992simple")
def score_function(q: Distribution, cost: Cost, n: int) -> Tensor:
    """f(z) ∇log q(z): the cost weighs the score, and needs no derivative (REINFORCE)."""
    z = q.sample(torch.Size((n,)))
    f, log_q = cost(z), q.log_prob(z)
    return f + f.detach() * (log_q - log_q.detach())


@estimator(
    unbiased=True,
    requires=(differentiable_density, several, aligned),
    reference="greensmith2004variance",
    title="optimal baseline",
)
def score_function_baseline(q: Distribution, cost: Cost, n: int) -> Tensor:
    """(f(z) − b) ∇log q(z), b the optimal constant E[f s²] / E[s²] of each parameter (s the score).

    Each sample's b is estimated from the n − 1 others. It is then independent of the sample, and the
    estimate stays unbiased.
    """
    z = q.sample(torch.Size((n,)))
    f, given = cost(z), parameters(q)
    scores = score_terms(q, z)
    surrogate = f
    for parameter, s in zip(given.values(), scores, strict=True):
        # A parameter may have more axes than q's batch; they line up from the left.
        axes = (..., *[None] * (s.ndim - f.ndim))
        tiny = torch.finfo(s.dtype).tiny
        baseline = leave_one_out(f.detach()[axes] * s**2) / leave_one_out(s**2).clamp_min(tiny)
        weighed = (f.detach()[axes] - baseline) * s * (parameter - parameter.detach())
        surrogate = surrogate + (weighed.flatten(f.ndim).sum(-1) if s.ndim > f.ndim else weighed)
    return surrogate


@estimator(
    unbiased=True,
    requires=(differentiable_density, several),
    reference="kool2019buy",
    title="leave-one-out baseline",
)
def rloo(q: Distribution, cost: Cost, n: int) -> Tensor:
    """(f(z) − mean of the other f) ∇log q(z): the score function with a leave-one-out baseline."""
    z = q.sample(torch.Size((n,)))
    f, log_q = cost(z), q.log_prob(z)
    baseline = leave_one_out(f.detach()) / (n - 1)
    return f + (f.detach() - baseline) * (log_q - log_q.detach())
