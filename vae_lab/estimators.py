"""Gradient estimators of E_q[f(z)]: one contract, one registry.

An estimator is a function `(q, cost, n) -> surrogate` of shape (n, *q.batch_shape). The mean of the
surrogate over n estimates E_q[cost(z)], and the *gradient* of that mean estimates the gradient of the
expectation, with respect to the parameters of q and to whatever else the cost depends on. So

    pathwise         cost(z(ε))                            differentiate the cost along the sample's path
    score function   cost + cost.detach() · (log q − log q.detach())
    any other        cost + g.detach() · (θ − θ.detach())  where g estimates the gradient with respect to θ

Values are right and gradients are of first order: do not differentiate twice. The elements of q's batch are
independent problems, which is how thousands of replicates run at once. Theory: mohamed2020monte.

One's own estimator joins by the decorator; every table, test and figure that iterates `ESTIMATORS` has it:

>>> @estimator(unbiased=True, requires=(reparameterizable,), reference="kingma2014auto")
... def doubled(q, cost, n):
...     z = q.rsample((2, n))
...     return cost(z.flatten(0, 1)).unflatten(0, (2, n)).mean(0)
>>> q = torch.distributions.Normal(torch.zeros(5), torch.ones(5))
>>> ESTIMATORS["doubled"](q, torch.square, 3).shape
torch.Size([3, 5])
>>> del ESTIMATORS["doubled"]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Chi2,
    Dirichlet,
    Distribution,
    Gamma,
    Normal,
    StudentT,
)
from torch.distributions import VonMises as _VonMises

from .costs import CheckedCost, Cost, NotApplicable
from .distributions import (
    certain,
    moving_with,
    parameters,
    rebuild,
    reparameterize,
    unwrap,
    von_mises_path,
)
from .registry import Registry

Surrogate = Callable[..., Tensor]
# What stands in the way of an estimator, in words, or None: (q, cost, n) -> reason.
Requirement = Callable[[Distribution, CheckedCost, int], str | None]


@dataclass(frozen=True)
class Estimator:
    """A registered estimator. Call it as `(q, cost, n=1, **options)`; it checks what it requires first.

    `unbiased` is the claim that the contract tests hold it to; `evaluations(n, q)` counts the evaluations of
    the cost for one estimate from n samples; `reference` is a key of the bibliography, if there is one.
    """

    name: str
    function: Surrogate
    unbiased: bool
    requires: tuple[Requirement, ...]
    evaluations: Callable[[int, Distribution], int]
    reference: str
    summary: str

    def __post_init__(self) -> None:
        for name in ("__doc__", "__name__", "__module__"):  # so that help() describes the function
            object.__setattr__(self, name, getattr(self.function, name, None))

    def __call__(self, q: Distribution, cost: Cost, n: int = 1, **options: Any) -> Tensor:
        """The surrogate, (n, *q.batch_shape). Raises `NotApplicable`, `CostError` and ValueError."""
        if index(n) < 1:
            raise ValueError(f"n is the number of samples of one estimate, at least 1, got {n}")
        checked = CheckedCost(cost, len(q.event_shape))
        for requirement in self.requires:
            reason = requirement(q, checked, n)
            if reason:
                raise NotApplicable(f"{self.name} is not applicable: {reason}")
        try:
            surrogate = self.function(q, checked, n, **options)
        except (NotApplicable, NotImplementedError) as why:  # of the cost; of a part that torch lacks
            reason = str(why) or f"torch lacks a method of {kind(q)} that it needs"
            raise NotApplicable(f"{self.name} is not applicable: {reason}") from why
        if surrogate.shape != (n, *q.batch_shape):
            raise ValueError(
                f"estimator {self.name!r} returned shape {tuple(surrogate.shape)}; the contract is "
                f"(n, *q.batch_shape), here {(n, *q.batch_shape)}"
            )
        if _wants_gradient(q) and torch.is_grad_enabled() and not surrogate.requires_grad:
            raise ValueError(
                f"estimator {self.name!r} returned a surrogate that carries no gradient to the parameters of "
                "q; add gradient.detach() * (parameter - parameter.detach()), or do not detach the sample"
            )
        return surrogate


def _wants_gradient(q: Distribution) -> bool:
    try:
        return any(p.requires_grad for p in parameters(q).values())
    except TypeError:  # it does not name them
        return False


ESTIMATORS: Registry[Estimator] = Registry(kind="estimator")


def estimator(
    *,
    unbiased: bool,
    reference: str,
    requires: tuple[Requirement, ...] = (),
    evaluations: Callable[[int, Distribution], int] = lambda n, q: n,
) -> Callable[[Surrogate], Estimator]:
    """Register the decorated `(q, cost, n, **options) -> surrogate` in `ESTIMATORS` under its own name."""

    def register(function: Surrogate) -> Estimator:
        name, summary = function.__name__, (function.__doc__ or "").partition("\n")[0]
        ESTIMATORS[name] = Estimator(name, function, unbiased, requires, evaluations, reference, summary)
        return ESTIMATORS[name]

    return register


# Requirements


def reparameterizable(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """q has `rsample`, and on a circle the cost is periodic."""
    if not q.has_rsample or unwrap(q).support.is_discrete:
        return (
            f"{type(unwrap(q)).__name__} has no rsample (a discrete sample does not move with parameters, "
            "and for some others torch knows no path); estimators by the score need none"
        )
    return periodic(q, cost, n)


def periodic(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """On a circle, the cost has no jump where −π meets π."""
    if not isinstance(unwrap(q), _VonMises):
        return None
    with torch.no_grad():  # one coordinate at a time, the others where they stand out
        z, size = unwrap(q).loc + 1, q.event_shape.numel()
        place = torch.eye(size, dtype=torch.bool, device=z.device)
        place = place.view(size, *[1] * len(q.batch_shape), *q.event_shape)
        start, end = cost(torch.cat([torch.where(place, turn, z) for turn in (-math.pi, math.pi)])).chunk(2)
    if torch.allclose(start, end, rtol=1e-4, atol=1e-5):
        return None
    return "on a circle the cost must have equal values at −π and π, or draws that wrap around jump"


def score(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """q has a density or mass function, on a support that stays where it is."""
    base = unwrap(q)
    if type(base).log_prob is Distribution.log_prob:
        return f"{type(base).__name__} has no log_prob, and the score is its gradient"
    if moving := moving_with(base):
        return f"the support of {kind(q)} moves with {', '.join(moving)}"
    return certain(q)


def several(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """n >= 2: a sample is compared with the others."""
    return None if n >= 2 else f"it compares each sample with the others, so n is at least 2, got {n}"


def normal(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """The coordinates of z are independent normal variables."""
    return None if isinstance(unwrap(q), Normal) else f"it needs a Normal, got {type(unwrap(q)).__name__}"


def implicit(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """q has a distribution function with derivatives, or torch's sampler has them built in."""
    base = unwrap(q)
    if isinstance(base, _VonMises):
        return periodic(q, cost, n)
    if isinstance(base, _BUILT_IN):
        return None
    if base.event_shape or base.support.is_discrete or type(base).cdf is Distribution.cdf:
        return f"it needs a continuous distribution function of each coordinate, which {kind(q)} has not"
    return None


def kind(q: Distribution) -> str:
    """The name of the distribution of one coordinate."""
    return type(unwrap(q)).__name__


# Tools


def sum_event(values: Tensor, q: Distribution) -> Tensor:
    """Sum over the event axes of q."""
    return values.sum(tuple(range(-len(q.event_shape), 0))) if q.event_shape else values


def inject(gradient: Tensor, parameter: Tensor, q: Distribution) -> Tensor:
    """Zero, with the gradient `gradient` (n, *batch, *event) by `parameter` (*batch, *event)."""
    return sum_event(gradient.detach() * (parameter - parameter.detach()), q)


def leave_one_out(values: Tensor) -> Tensor:
    """For each of n values along the first axis, the sum of the others.

    Of those before and those after: the sum of all, less the value, would lose the small ones in rounding.
    """
    none = torch.zeros_like(values[:1])
    before = torch.cat([none, values[:-1].cumsum(0)])
    after = torch.cat([values[1:].flip(0).cumsum(0).flip(0), none])
    return before + after


# Estimators


@estimator(unbiased=True, requires=(reparameterizable,), reference="kingma2014auto")
def pathwise(q: Distribution, cost: Cost, n: int) -> Tensor:
    """∇f(z(ε)): the cost is differentiated along the path of the sample, the reparameterization trick.

    The cost must be continuous in z and differentiable almost everywhere. Where it jumps, the estimate
    misses the jump; a cost with no derivative at all is refused.
    """
    return cost(q.rsample(torch.Size((n,))))


@estimator(unbiased=True, requires=(score,), reference="williams1992simple")
def score_function(q: Distribution, cost: Cost, n: int) -> Tensor:
    """f(z) ∇log q(z): the cost weighs the score, and needs no derivative (REINFORCE)."""
    z = q.sample(torch.Size((n,)))
    f, log_q = cost(z), q.log_prob(z)
    return f + f.detach() * (log_q - log_q.detach())


@estimator(unbiased=True, requires=(score, several), reference="greensmith2004variance")
def score_function_baseline(q: Distribution, cost: Cost, n: int) -> Tensor:
    """(f(z) − b) ∇log q(z), b the optimal constant E[f s²] / E[s²] of each parameter (s the score).

    Each sample's b is estimated from the n − 1 others. It is then independent of the sample, and the
    estimate stays unbiased.
    """
    z = q.sample(torch.Size((n,)))
    f, given = cost(z), parameters(q)
    with torch.enable_grad():
        copies = {name: p.detach().expand(n, *p.shape).clone().requires_grad_() for name, p in given.items()}
        scores = torch.autograd.grad(rebuild(q, **copies).log_prob(z).sum(), list(copies.values()))
    surrogate = f
    for parameter, s in zip(given.values(), scores, strict=True):
        # A parameter may have more axes than q's batch; they line up from the left.
        axes = (..., *[None] * (s.ndim - f.ndim))
        tiny = torch.finfo(s.dtype).tiny
        baseline = leave_one_out(f.detach()[axes] * s**2) / leave_one_out(s**2).clamp_min(tiny)
        weighed = (f.detach()[axes] - baseline) * s * (parameter - parameter.detach())
        surrogate = surrogate + (weighed.flatten(f.ndim).sum(-1) if s.ndim > f.ndim else weighed)
    return surrogate


@estimator(unbiased=True, requires=(score, several), reference="kool2019buy")
def rloo(q: Distribution, cost: Cost, n: int) -> Tensor:
    """(f(z) − mean of the other f) ∇log q(z): the score function with a leave-one-out baseline."""
    z = q.sample(torch.Size((n,)))
    f, log_q = cost(z), q.log_prob(z)
    baseline = leave_one_out(f.detach()) / (n - 1)
    return f + (f.detach() - baseline) * (log_q - log_q.detach())


@estimator(unbiased=False, requires=(normal,), reference="")
def frozen_epsilon(q: Distribution, cost: Cost, n: int) -> Tensor:
    """∇f(μ + σ): ε = 1 for ever. No variance, and the gradient of another function than E[f]."""
    base = unwrap(q)
    ones = torch.ones(n, *q.batch_shape, *q.event_shape, dtype=base.loc.dtype, device=base.loc.device)
    return cost(reparameterize(base.loc, base.scale, ones))


# Distributions whose rsample in torch is the implicit reparameterization.
_BUILT_IN = (Gamma, Chi2, Beta, Dirichlet, StudentT)


@estimator(unbiased=True, requires=(implicit,), reference="figurnov2018implicit")
def implicit_reparameterization(q: Distribution, cost: Cost, n: int) -> Tensor:
    """Pathwise with dz/dθ = −(∂F/∂θ) / q(z), F the distribution function: no inverse of F is needed.

    Gamma, beta, Dirichlet and Student's t by torch's own samplers, von Mises by quadrature, any other
    distribution of independent coordinates (a mixture of normals, say) by differentiating its cdf.
    """
    base = unwrap(q)
    if isinstance(base, _BUILT_IN):
        return cost(q.rsample(torch.Size((n,))))
    z = q.sample(torch.Size((n,)))
    if isinstance(base, _VonMises):
        return cost(von_mises_path(z, base.loc, base.concentration))
    rank = base.cdf(z)
    return cost(z - (rank - rank.detach()) / base.log_prob(z).exp().detach())


from . import coupled, discrete  # noqa: E402, F401 (they register their estimators, with what stands above)
