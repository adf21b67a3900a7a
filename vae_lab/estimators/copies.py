"""Many copies of a distribution at once, each with parameters to differentiate with respect to.

That is how replicates run without a loop, and how the score of every draw is had by itself.
"""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from .families import parameters, rebuild
from .family import Family, expanded

_SORTED = 2**18  # numbers that are sorted to find draws that differ


def replicas(q: Distribution, count: int) -> tuple[dict[str, Tensor], Distribution, bool]:
    """Leaves to differentiate with respect to, `count` copies of `q` along a first batch axis made from them,
    and whether each copy has leaves of its own, (count, *shape), or all share one set."""
    given = {name: p.detach() for name, p in parameters(q).items()}
    if stacks(q):
        leaves = {name: p.expand(count, *p.shape).clone().requires_grad_() for name, p in given.items()}
        return leaves, rebuild(q, **leaves), True
    leaves = {name: p.clone().requires_grad_() for name, p in given.items()}
    return leaves, expanded(rebuild(q, **leaves), Size((count, *q.batch_shape))), False


def slopes(values: Tensor, leaves: dict[str, Tensor], apart: bool) -> dict[str, Tensor]:
    """The gradient of each of `values` (count,), (count, *shape), with respect to its own leaves (count,
    *shape) where they are `apart`, and else to those that all share."""
    every = list(leaves.values())
    if apart:
        found = torch.autograd.grad(values.sum(), every, allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, found, strict=True))
    eye = torch.eye(len(values), dtype=values.dtype, device=values.device)
    options: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
    try:
        rows = torch.autograd.grad(values, every, (eye,), is_grads_batched=True, **options)
    except RuntimeError:  # an operation that torch cannot differentiate many times at once
        single = [torch.autograd.grad(v, every, materialize_grads=True, **options) for v in values]
        rows = tuple(torch.stack(parts) for parts in zip(*single, strict=True))
    none = [torch.zeros(len(values), *leaf.shape).to(leaf) for leaf in every]
    return {name: o if g is None else g for name, g, o in zip(leaves, rows, none, strict=True)}


def score_terms(q: Distribution, z: Tensor, factor: Tensor | None = None) -> list[Tensor]:
    """∇log q of each of n draws z (n, *batch, *event): one tensor (n, *shape) for each parameter; where all
    elements of q's batch share a parameter, (n, *batch, *shape), or, with a `factor` (n, *batch) that weighs
    them, their sum (n, *shape)."""
    with torch.enable_grad():
        leaves, copies, apart = replicas(q, len(z))
        log_q = copies.log_prob(z)
        log_q = log_q.where(log_q > -math.inf, 0.0)  # infinite where q has no mass, and then of no weight
        log_q = log_q if factor is None else log_q * factor
        if apart or factor is not None:
            return list(slopes(log_q.reshape(len(z), -1).sum(1), leaves, apart).values())
        return [g.unflatten(0, log_q.shape) for g in slopes(log_q.flatten(), leaves, apart).values()]


def directional_scores(q: Distribution, z: Tensor) -> list[Tensor]:
    """The score at z (n, *batch, *event) along random directions: (n, *batch) each, or (n,) for a parameter
    whose first axes are not those of the batch.

    One direction for each parameter; where `q` does not stack, two of all parameters together, by
    differentiating forwards. Raises RuntimeError where torch cannot.
    """
    given = {name: p.detach() for name, p in parameters(q).items()}
    generator = torch.Generator().manual_seed(0)

    def direction() -> dict[str, Tensor]:
        return {name: torch.randn(p.shape, generator=generator).to(p) for name, p in given.items()}

    if not stacks(q):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch about itself
            forwards = partial(torch.func.jvp, lambda p: rebuild(q, **p).log_prob(z), (given,))
            return [forwards((direction(),))[1].detach() for _ in range(2)]
    found, lead = [], 1 + len(q.batch_shape)
    for way, terms in zip(direction().values(), score_terms(q, z), strict=True):
        own = lead if way.shape[: lead - 1] == q.batch_shape else 1
        weighed = terms * way
        found.append(weighed.flatten(own).sum(own) if weighed.ndim > own else weighed)
    return found


_STACKS: WeakKeyDictionary[Distribution, bool] = WeakKeyDictionary()  # it takes draws to know


def stacks(q: Distribution) -> bool:
    """Whether parameters with a further axis in front give as many distributions like `q`."""
    if q not in _STACKS:
        _STACKS[q] = _seen_to_stack(q)
    return _STACKS[q]


def _seen_to_stack(q: Distribution) -> bool:
    given = {name: p.detach() for name, p in parameters(q).items()}
    with torch.no_grad(), torch.random.fork_rng():
        try:
            alone = rebuild(q, **given)
            several = rebuild(q, **{name: p.expand(2, *p.shape).clone() for name, p in given.items()})
            if (several.batch_shape, several.event_shape) != ((2, *q.batch_shape), q.event_shape):
                return False
            z = several.sample()
            return bool(torch.allclose(several.log_prob(z), alone.log_prob(z), 1e-3, 1e-4, equal_nan=True))
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
            return not isinstance(q, Family) and type(q).__module__.startswith("torch.")


def varied(draws: Tensor, count: int) -> Tensor:
    """`count` of the draws (M, ...) that differ as far as they do, from one end of their order to the other;
    the same ones again where fewer differ."""
    rows = draws.reshape(len(draws), -1)[: max(count, _SORTED // max(1, draws[0].numel()))]
    different = torch.unique(rows, dim=0)
    places = torch.linspace(0, len(different) - 1, count).round().long()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return different[places[order].to(draws.device)].reshape(count, *draws.shape[1:])
