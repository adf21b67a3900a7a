"""Gradient estimators for discrete q, by the contract of `contract`.

A Bernoulli draw is b = 1[z > 0] with z = logits + log(u / (1 − u)), u uniform. Moving the logits moves z, but
b only where z crosses zero, so there is no path to differentiate. *Relaxations* replace the step by a
sigmoid, and pay with bias. *ARM* and *DisARM* couple two draws through one u. *REBAR* and *RELAX* use the
relaxation as a control variate only, and owe it no bias: with z̃ a second draw of z given b, any function c,

    (f(b) − c(z̃)) ∇log q(b) + ∇c(z) − ∇c(z̃)

has the right mean. All but the relaxations ask for Bernoulli coordinates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Distribution,
    OneHotCategorical,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
)
from torch.nn.functional import softplus

from .contract import estimator, inject, leave_one_out, sum_event
from .costs import CheckedCost, Cost, CostError, NotApplicable
from .families import certain, is_law, unwrap
from .requirements import named, several


def bernoulli(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """The coordinates of z are independent Bernoulli variables."""
    return certain(q) if is_law(unwrap(q), Bernoulli) else f"it needs a Bernoulli, got {named(q, Bernoulli)}"


def relaxable(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """The coordinates of z are Bernoulli variables or one-hot vectors."""
    if is_law(unwrap(q), Bernoulli, OneHotCategorical):
        return certain(q)
    return f"it needs a Bernoulli or a OneHotCategorical, got {named(q, Bernoulli, OneHotCategorical)}"


def relaxed_cost(cost: Cost, z: Tensor) -> Tensor:
    """The cost of values between those of q. Raises `NotApplicable` where it refuses them."""
    try:
        return cost(z)
    except (CostError, NotApplicable):
        raise
    except ValueError as error:  # as of a density that checks its argument
        said = str(error).partition("\n")[0]
        raise NotApplicable(
            "the cost refuses values between those of q, which a relaxation needs (distributions take them "
            f"with validate_args=False): {said}"
        ) from error


@estimator(unbiased=False, requires=(relaxable,), reference="jang2017categorical", title="Gumbel-softmax")
def gumbel_softmax(q: Distribution, cost: Cost, n: int, *, temperature: float = 0.5) -> Tensor:
    """Pathwise on a relaxed sample (the concrete distribution): the cost sees values between 0 and 1.

    Higher temperatures give less variance; what they do to the bias depends on the cost. See also
    maddison2017concrete.
    """
    base = unwrap(q)
    heat = torch.as_tensor(temperature, dtype=base.logits.dtype, device=base.logits.device)
    relaxed = RelaxedBernoulli if isinstance(base, Bernoulli) else RelaxedOneHotCategorical
    soft = relaxed(heat, logits=base.logits, validate_args=False)
    return relaxed_cost(cost, soft.rsample(torch.Size((n,))))


@estimator(unbiased=False, requires=(relaxable,), reference="bengio2013estimating", title="straight-through")
def straight_through(q: Distribution, cost: Cost, n: int) -> Tensor:
    """The cost sees the hard sample; backwards, the sample counts as its probability.

    Exact where the cost is linear in each coordinate with the others given.
    """
    base = unwrap(q)
    # The difference first: it is exactly 0, so that the cost sees exact values of q.
    return cost(q.sample(torch.Size((n,))) + (base.probs - base.probs.detach()))


def _antithetic_pair(q: Distribution, cost: Cost, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """u, draws 1[u < p] and 1[u > 1 − p], and their costs."""
    p = unwrap(q).probs.detach()
    u = torch.rand(n, *p.shape, dtype=p.dtype, device=p.device)
    b, mirrored = (u < p).to(p.dtype), (u > 1 - p).to(p.dtype)
    f, g = cost(torch.cat([b, mirrored])).split(n)
    return u, b, mirrored, f, g


def wide(q: Distribution) -> tuple[Any, ...]:
    """The index that lines values (..., *batch) up with tensors (..., *batch, *event)."""
    return (..., *[None] * len(q.event_shape))


def _wide(f: Tensor, q: Distribution) -> Tensor:
    """f (..., *batch), detached, against tensors with q's event axes."""
    return f.detach()[wide(q)]


@estimator(
    unbiased=True,
    requires=(bernoulli,),
    reference="yin2019arm",
    evaluations=lambda n, q: 2 * n,
    title="ARM",
)
def arm(q: Distribution, cost: Cost, n: int) -> Tensor:
    """(f(1[u > 1 − p]) − f(1[u < p])) (u − ½): two mirrored draws from one uniform u."""
    u, _, _, f, mirrored = _antithetic_pair(q, cost, n)
    gradient = _wide(mirrored - f, q) * (u - 0.5)
    return (f + mirrored) / 2 + inject(gradient, unwrap(q).logits, q)


@estimator(
    unbiased=True,
    requires=(bernoulli,),
    reference="dong2020disarm",
    evaluations=lambda n, q: 2 * n,
    title="DisARM",
)
def disarm(q: Distribution, cost: Cost, n: int) -> Tensor:
    """½ (f(b) − f(b')) (b − b') max(p, 1 − p): ARM with u integrated out, given its mirrored draws b, b'."""
    _, b, other, f, mirrored = _antithetic_pair(q, cost, n)
    logits = unwrap(q).logits
    gradient = 0.5 * _wide(f - mirrored, q) * (b - other) * logits.detach().abs().sigmoid()
    return (f + mirrored) / 2 + inject(gradient, logits, q)


def _with_controls(
    q: Distribution, cost: Cost, n: int, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """f(b); f(b) ∇log q(b); and two terms of mean zero: c(z) = f(sigmoid(z / temperature)), and c = 1.

    Shapes (n, *batch) and three times (n, *batch, *event).
    """
    base = unwrap(q)
    logits = base.logits.detach().expand(n, *base.logits.shape).clone().requires_grad_()
    u, v = torch.rand(2, *logits.shape, dtype=logits.dtype, device=logits.device).logit(eps=1e-7)
    with torch.enable_grad():
        z = logits + u
        b = (z > 0).to(logits.dtype).detach()
        # z given b, as a function of the logits and an independent v: its gradient counts, too.
        conditional = torch.where(b > 0, softplus(v + softplus(logits)), -softplus(v + softplus(-logits)))
        c, c_conditional = (relaxed_cost(cost, (x / temperature).sigmoid()) for x in (z, conditional))
        (by_z,) = torch.autograd.grad(c.sum(), logits)
        (by_conditional,) = torch.autograd.grad(c_conditional.sum(), logits)
    f, score = cost(b), b - logits.detach().sigmoid()
    return f, _wide(f, q) * score, _wide(c_conditional, q) * score - by_z + by_conditional, score


@estimator(
    unbiased=True,
    requires=(bernoulli,),
    reference="tucker2017rebar",
    evaluations=lambda n, q: 3 * n,
    title="REBAR, η = 1",
)
def rebar(q: Distribution, cost: Cost, n: int, *, temperature: float = 0.5, scale: float = 1.0) -> Tensor:
    """Score function with the relaxed cost as control variate, c(z) = scale · f(sigmoid(z / temperature)).

    The cost must be differentiable between 0 and 1. The published method, `adaptive.adaptive_rebar`, learns
    scale and temperature, and makes z and z̃ from one random number. Here the two are given, and the draws
    independent.
    """
    f, gradient, control, _ = _with_controls(q, cost, n, temperature)
    return f + inject(gradient - scale * control, unwrap(q).logits, q)


@estimator(
    unbiased=True,
    requires=(bernoulli, several),
    reference="grathwohl2018backpropagation",
    evaluations=lambda n, q: 3 * n,
    title="RELAX, linear",
)
def relax(q: Distribution, cost: Cost, n: int, *, temperature: float = 0.5) -> Tensor:
    """As REBAR, with a fitted control variate c(z) = w₁ f(sigmoid(z / temperature)) + w₂.

    The published method, `adaptive.adaptive_relax`, learns a network by stochastic gradient descent on the
    variance. This c is linear in w, so the minimum is solved for: for each sample from the n − 1 others,
    which keeps the estimate unbiased, and shrunk a little towards REBAR's w = (1, 0), which settles it where
    the others are few. With n = 2 it fits two coefficients to one sample.
    """
    f, gradient, relaxed, score = _with_controls(q, cost, n, temperature)
    controls = torch.stack([relaxed, score])
    products = sum_event(
        controls.unsqueeze(1) * torch.stack([relaxed, score, gradient]), q
    )  # (2, 3, n, *batch)
    others = leave_one_out(products.movedim(2, 0)).movedim((1, 2), (-2, -1))  # (n, *batch, 2, 3)
    normal, right = others[..., :2], others[..., 2:]
    ridge = 0.01 * normal.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    ridge = ridge + torch.finfo(ridge.dtype).tiny
    prior = torch.tensor([[1.0], [0.0]], dtype=f.dtype, device=f.device)
    eye = torch.eye(2, dtype=f.dtype, device=f.device)
    w = torch.linalg.solve(normal + ridge * eye, right + ridge * prior).squeeze(-1).movedim(-1, 0)
    best = (w[wide(q)] * controls).sum(0)
    return f + inject(gradient - best, unwrap(q).logits, q)
