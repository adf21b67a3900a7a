"""What estimators require of q, of the cost and of n: functions that say in words what is missing, or
None."""

from __future__ import annotations

import math

import torch
from torch.distributions import Distribution, Normal
from torch.distributions import VonMises as _VonMises

from .costs import CheckedCost
from .families import certain, discrete, foreign, is_law, kind, moving_with, parameters, unwrap
from .family import Copies, Family


def reparameterizable(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """q has an `rsample` of its own density, and on a circle the cost is periodic."""
    if not q.has_rsample or discrete(q):
        return (
            f"{kind(q)} has no rsample (a discrete sample does not move with parameters, "
            "and for some others torch knows no path); estimators by the score need none"
        )
    return own(q, "rsample") or periodic(q, cost, n)


def own(q: Distribution, *methods: str) -> str | None:
    """`methods` belong to the density that q has."""
    base = unwrap(q)
    if not (inherited := foreign(base, *methods)):
        return None
    return (
        f"{kind(q)} defines log_prob but inherits {', '.join(inherited)} from a class with another density; "
        "define what belongs to its own"
    )


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


def differentiable_density(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """q has a density or mass function of its own, on a support that stays where it is."""
    base = unwrap(q)
    if type(base).log_prob is Distribution.log_prob:
        return f"{kind(q)} has no log_prob, and the score is its gradient"
    if moving := moving_with(q):
        return f"the support of {kind(q)} moves with {', '.join(moving)}"
    return own(q, "sample", "rsample") or certain(q)


def aligned(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """The first axes of each parameter are those of q's batch, or there is no batch but that of
    replicates."""
    batch = q.batch_shape
    apart = all(p.shape[: len(batch)] == batch for p in parameters(q).values())
    if apart or (isinstance(q, Family | Copies) and q.own_batch == () and len(batch) <= 1):
        return None
    return (
        f"elements of q's batch {tuple(batch)} share a parameter, and it weighs the score of each by itself"
    )


def several(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """n >= 2: a sample is compared with the others."""
    return None if n >= 2 else f"it compares each sample with the others, so n must be at least 2; got {n}"


def normal(q: Distribution, cost: CheckedCost, n: int) -> str | None:
    """The coordinates of z are independent normal variables."""
    return None if is_law(unwrap(q), Normal) else f"it needs a Normal, got {named(q, Normal)}"


def named(q: Distribution, *families: type[Distribution]) -> str:
    """What q is, for a message, and that it is one of `families` in name only."""
    if isinstance(unwrap(q), families):
        return f"{kind(q)}, a subclass with another density"
    return kind(q)
