"""Gradient estimators that couple draws, or subtract what is known, by the contract of `contract`.

Two evaluations of the cost differ little where their draws differ little. So the difference of a pair has
less variance than either: mirrored pairs, evenly spread points, finite differences with common random
numbers, and the pairs of measure-valued derivatives, which replace one coordinate of z at a time. The delta
method subtracts a quadratic whose expectation is known. The price is more evaluations of the cost.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Cauchy,
    Distribution,
    Exponential,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
)

from ..reparameterization import reparameterize
from .contract import estimator, inject
from .costs import CheckedCost, Cost
from .families import discrete, is_law, kind, parameters, rebuild, unwrap
from .requirements import named, normal, own, reparameterizable


def pairs(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """n is even: samples come in pairs."""
    return None if n % 2 == 0 else f"samples come in pairs, so n is even, got {n}"


def symmetric(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """q is symmetric about its location."""
    known = (Normal, Laplace, StudentT, Cauchy, MultivariateNormal, LowRankMultivariateNormal)
    if is_law(unwrap(q), *known):
        return None
    return (
        f"it mirrors samples at loc, so q is {', '.join(k.__name__ for k in known)}, not {named(q, *known)}"
    )


def invertible_cdf(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """q's coordinates are independent with an inverse distribution function that torch can differentiate."""
    base = unwrap(q)
    if base.event_shape or discrete(q) or type(base).icdf is Distribution.icdf:
        return f"it needs independent continuous coordinates with an icdf, which {kind(q)} lacks"
    return own(q, "icdf")


def taken_apart(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """The parameters that move are arguments of the distribution's own constructor."""
    try:
        parameters(unwrap(q))
    except TypeError as error:
        return str(error)
    return None


def weakly_differentiable(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """The parameter's derivative of q's density is known as a difference of two densities."""
    known = [c for c in weak_derivatives.registry if c is not object]
    if is_law(unwrap(q), *known):
        return None
    if isinstance(unwrap(q), tuple(known)):
        return f"weak_derivatives knows {named(q, *known)} by name only"
    return f"no decomposition of the derivative of {kind(q)} is registered in weak_derivatives"


def _one_at_a_time(q: Distribution, cost: Cost, z: Tensor, values: Tensor) -> Tensor:
    """The cost of z with one coordinate at a time replaced: values (m, n, *batch, *event), same result."""
    lead, event = z.shape[: z.ndim - len(q.event_shape)], q.event_shape
    size = event.numel()
    swap = torch.eye(size, dtype=torch.bool, device=z.device).view(size, *[1] * len(lead), size)
    mixed = torch.where(swap, values.reshape(-1, 1, *lead, size), z.reshape(*lead, size))
    with torch.no_grad():
        f = cost(mixed.flatten(0, 2).unflatten(-1, event) if event else mixed.flatten(0, 2).squeeze(-1))
    f = f.unflatten(0, (len(values), size, lead[0])).movedim(1, -1)
    return f.unflatten(-1, event) if event else f.squeeze(-1)


@singledispatch
def weak_derivatives(base: Any, z: Tensor) -> dict[str, tuple[Tensor | float, Tensor, Tensor | None]]:
    """Derivatives of a density as c · (positive density − negative density), coupled to draws z of it.

    parameter -> (c, draws of the positive part, of the negative part, or None where that is z itself).
    Register another distribution with `@weak_derivatives.register`.
    """
    raise NotImplementedError(type(base).__name__)


@weak_derivatives.register
def _(base: Normal, z: Tensor) -> dict[str, tuple[Tensor | float, Tensor, Tensor | None]]:
    eps = (z - base.loc) / base.scale
    rayleigh = base.scale * (2 * torch.empty_like(z).exponential_()).sqrt()
    # Given eps, the double-sided Maxwell variable M of which eps = U · M is a uniform part.
    maxwell = eps.sign() * (eps**2 + 2 * torch.empty_like(z).exponential_()).sqrt()
    return {
        "loc": (1 / (base.scale * math.sqrt(2 * math.pi)), base.loc + rayleigh, base.loc - rayleigh),
        "scale": (1 / base.scale, reparameterize(base.loc, base.scale, maxwell), None),
    }


@weak_derivatives.register
def _(base: Poisson, z: Tensor) -> dict[str, tuple[Tensor | float, Tensor, Tensor | None]]:
    return {"rate": (1.0, z + 1, None)}


@weak_derivatives.register
def _(base: Exponential, z: Tensor) -> dict[str, tuple[Tensor | float, Tensor, Tensor | None]]:
    # Less of an Erlang variable, which is z plus another draw.
    return {"rate": (-1 / base.rate, z + torch.empty_like(z).exponential_() / base.rate, None)}


@weak_derivatives.register
def _(base: Bernoulli, z: Tensor) -> dict[str, tuple[Tensor | float, Tensor, Tensor | None]]:
    return {"probs": (1 - 2 * z, 1 - z, None)}


def _measure_valued_evaluations(n: int, q: Distribution) -> int:
    return n * (1 + (3 if isinstance(unwrap(q), Normal) else 1) * q.event_shape.numel())


@estimator(
    unbiased=True,
    requires=(weakly_differentiable,),
    reference="mohamed2020monte",
    evaluations=_measure_valued_evaluations,
    title="measure-valued",
)
def measure_valued(q: Distribution, cost: Cost, n: int) -> Tensor:
    """c (f(z₊) − f(z₋)), one coordinate at a time: the derivative of q is a difference of two densities.

    Normal (Rayleigh pair for loc; double-sided Maxwell against the normal for scale), Poisson, exponential,
    Bernoulli. The pair is coupled, and where the negative part is q itself its draw is z.
    """
    base, z = unwrap(q), q.sample(torch.Size((n,)))
    f = cost(z)
    with torch.no_grad():
        parts = weak_derivatives(base, z)
        draws = [draw for _, plus, minus in parts.values() for draw in (plus, minus) if draw is not None]
        costs = iter(_one_at_a_time(q, cost, z, torch.stack(draws)))
    own = f.detach()[(..., *[None] * len(q.event_shape))]
    for name, (constant, _, minus) in parts.items():
        difference = next(costs) - (own if minus is None else next(costs))
        f = f + inject(constant * difference, getattr(base, name), q)
    return f


@estimator(
    unbiased=True,
    requires=(reparameterizable, symmetric, pairs),
    reference="glasserman2003monte",
    title="antithetic pairs",
)
def antithetic(q: Distribution, cost: Cost, n: int) -> Tensor:
    """Pathwise with pairs ε and −ε: what is odd in ε cancels."""
    z = q.rsample(torch.Size((n // 2,)))
    return cost(torch.cat([z, 2 * unwrap(q).loc - z]))


@estimator(
    unbiased=True,
    requires=(reparameterizable, invertible_cdf),
    reference="buchholz2018quasi",
    title="quasi-Monte Carlo",
)
def quasi_monte_carlo(q: Distribution, cost: Cost, n: int) -> Tensor:
    """Pathwise at n evenly spread points: a Sobol sequence, shifted at random once for each estimate."""
    base, size = unwrap(q), q.event_shape.numel()
    points = torch.quasirandom.SobolEngine(size).draw(n, dtype=torch.float64)
    like = next(iter(parameters(q).values()))
    shift = torch.rand(*q.batch_shape, size, dtype=torch.float64, device=like.device)
    u = (points.to(shift).view(n, *[1] * len(q.batch_shape), size) + shift).remainder(1)
    edge = torch.finfo(like.dtype).eps
    z = base.icdf(u.to(like.dtype).clamp(edge / 2, 1 - edge).view(n, *q.batch_shape, *q.event_shape))
    return cost(z)


@estimator(
    unbiased=True,
    requires=(reparameterizable, normal),
    reference="miller2017reducing",
    evaluations=lambda n, q: n + q.event_shape.numel(),
)
def delta_control_variate(q: Distribution, cost: Cost, n: int) -> Tensor:
    """Pathwise on f − h, plus the known gradient of E[h], h the second-order Taylor expansion at the mean.

    Exact for quadratic costs. The cost must have a second derivative.
    """
    base = unwrap(q)
    size = q.event_shape.numel()
    mu, sigma = base.loc, base.scale
    flat = (*q.batch_shape, size)
    with torch.enable_grad():
        # One copy of the mean for each row of the Hessian.
        centre = mu.detach().expand(size, *mu.shape).clone().requires_grad_()
        value = cost(centre)
        (slope,) = torch.autograd.grad(value.sum(), centre, create_graph=True)
        diagonal = slope.reshape(size, *flat).diagonal(dim1=0, dim2=-1)
        hessian = torch.zeros(size, *flat, dtype=mu.dtype, device=mu.device)
        if diagonal.requires_grad:
            (rows,) = torch.autograd.grad(diagonal.sum(), centre, allow_unused=True, materialize_grads=True)
            hessian = rows.reshape(size, *flat)
    value, slope, hessian = value[0].detach(), slope[0].detach().reshape(flat), hessian.movedim(0, -2)

    def taylor(step: Tensor) -> Tensor:
        """h at the mean + step (..., *batch, size)."""
        bent = (hessian @ step.unsqueeze(-1)).squeeze(-1)
        return value + (step * slope).sum(-1) + 0.5 * (step * bent).sum(-1)

    z = q.rsample(torch.Size((n,)))
    shift = (mu - mu.detach()).reshape(flat)
    trace = (hessian.diagonal(dim1=-2, dim2=-1) * sigma.reshape(flat) ** 2).sum(-1)
    away = (z - mu.detach()).reshape(n, *flat)
    return cost(z) - taylor(away) + taylor(shift) + 0.5 * trace


@estimator(
    unbiased=False,
    requires=(invertible_cdf, taken_apart),
    reference="glasserman2003monte",
    evaluations=lambda n, q: n * (1 + 2 * len(parameters(unwrap(q))) * q.event_shape.numel()),
    title="finite differences",
)
def finite_difference(q: Distribution, cost: Cost, n: int, *, step: float | None = None) -> Tensor:
    """(f(z(θ + h)) − f(z(θ − h))) / 2h with common random numbers: biased by a multiple of h².

    `step` is h relative to max(|θ|, 1), or to θ where that must be positive; by default the cube root of the
    rounding error.
    """
    base = unwrap(q)
    given = {name: p.detach() for name, p in parameters(base).items()}
    like = next(iter(given.values()))
    edge = torch.finfo(like.dtype).eps
    u = torch.rand(n, *q.batch_shape, *q.event_shape, dtype=like.dtype, device=like.device)
    u = u.clamp(edge / 2, 1 - edge)
    draws, steps = [], {}
    with torch.no_grad():
        z = base.icdf(u)
        for name, p in given.items():
            unit = p.abs() if hasattr(base.arg_constraints[name], "lower_bound") else p.abs().clamp_min(1.0)
            steps[name] = h = (step or edge ** (1 / 3)) * unit
            draws += [rebuild(base, **{**given, name: moved}).icdf(u) for moved in (p + h, p - h)]
        costs = _one_at_a_time(q, cost, z, torch.stack(draws)).unflatten(0, (-1, 2))
    surrogate = cost(z)
    for (name, h), (plus, minus) in zip(steps.items(), costs, strict=True):
        surrogate = surrogate + inject((plus - minus) / (2 * h), getattr(base, name), q)
    return surrogate
