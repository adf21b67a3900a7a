"""Costs f(z): named families, sums over coordinates, and the checks that every estimator makes of a cost.

A cost is any function from draws z (…, *event) to values (…): one value for each draw, whatever axes come
first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..registry import Registry

Cost = Callable[[Tensor], Tensor]


class NotApplicable(ValueError):
    """An estimator or an oracle was asked for something it cannot do; the message says why."""


class CostError(ValueError):
    """A cost returned something that is not one finite or infinite number for each draw."""


_COMPARED = 4096  # of the numbers in z, to see whether a cost has changed them
# Their derivative is zero wherever it exists, so a gradient through them is silently lost.
_STEPS = {"Sign", "Round", "Floor", "Ceil", "Trunc"}


class CheckedCost:
    """A cost whose every answer is checked; estimators see only these.

    Raises `CostError` for a wrong shape, NaN, or a z that was changed, and `NotApplicable` if z carries a
    gradient that does not arrive at the cost.
    """

    def __init__(self, cost: Cost, event_dims: int) -> None:
        if not callable(cost):
            raise CostError(f"a cost is a function of z, got {type(cost).__name__}")
        self.cost, self.event_dims = cost, event_dims

    def __call__(self, z: Tensor) -> Tensor:
        """The cost of z (..., *event), (...)."""
        value = self.values(z)
        if value.isnan().any():
            draws = (
                int(z.isnan().flatten(value.ndim).any(-1).sum()) if self.event_dims else int(z.isnan().sum())
            )
            own = f", of which {draws} are NaN themselves, as the sampler gave them" if draws else ""
            raise CostError(f"the cost is NaN for {int(value.isnan().sum())} of {value.numel()} draws{own}")
        return value

    def values(self, z: Tensor) -> Tensor:
        """The same, where NaN is let through."""
        version, sample = z._version, z.detach().flatten()[:: max(1, z.numel() // _COMPARED)]
        before = sample.clone()
        try:
            value = self.cost(z)
        except RuntimeError as error:
            if z.requires_grad and "requires grad" in str(error):  # asked for numpy, or the like
                raise NotApplicable(f"the cost breaks the graph: {error}") from error
            raise
        if z._version != version or not torch.equal(sample.nan_to_num(), before.nan_to_num()):
            raise CostError(
                "the cost changes z in place (an operation such as .sub_ or +=, through .data or numpy?); "
                "work on a copy"
            )
        expected = z.shape[: z.ndim - self.event_dims]
        if not isinstance(value, Tensor) or value.shape != expected:
            came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise CostError(
                f"a cost returns one value for each draw: for z {tuple(z.shape)} with {self.event_dims} "
                f"event axes a tensor {tuple(expected)}, got {came}; reduce over the event axes only, as in "
                ".sum(-1)"
            )
        if value.is_complex():
            raise CostError(f"a cost returns real numbers, got {value.dtype}; take .real or .abs()")
        if not value.is_floating_point():  # counts and truth values would wrap around in sums and differences
            value = value.to(z.dtype)
        if z.requires_grad and torch.is_grad_enabled():
            self._check_path(z, value)
        return value

    def probe(self, draws: Tensor, others: Tensor) -> None:
        """Raise `CostError` if the cost changes its draws, or if that of one depends on chance, on other
        draws or on other problems.

        `draws` and `others` are (M, *batch, *event), M >= 2, in the precision that the cost is meant for.
        """
        with torch.no_grad():
            value = self.values(draws)
            if is_stochastic(self.cost):
                return
            batch = (slice(None), *[slice(0, 1)] * (value.ndim - 1))  # one problem of q's batch
            mixed = others.clone()
            mixed[batch] = draws[batch]
            few = slice(len(draws) // 2, None)
            pairs = [
                (self.values(draws[few].clone()), value[few]),
                (self.values(draws.flip(0)).flip(0), value),
                (self.values(mixed)[batch], value[batch]),
            ]
        # Sums in another order round in another way.
        rounding = 1e3 * torch.finfo(value.dtype).eps
        for again, first in pairs:
            size = float(first.nan_to_num(0.0, 0.0, 0.0).abs().amax())
            if not torch.allclose(again, first, rtol=rounding, atol=rounding * size, equal_nan=True):
                raise CostError(
                    "the cost of one draw is not a function of that draw: it changes with chance "
                    "(dropout?), with the other draws (batch normalisation?), or with other elements of q's "
                    "batch; if chance is meant, mark it with @stochastic"
                )

    @staticmethod
    def _check_path(z: Tensor, value: Tensor) -> None:
        """Walks the graph from the cost's value back to z."""
        if value is z:
            return
        arrived, seen, stack = False, set(), [value.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node is z.grad_fn or getattr(node, "variable", None) is z:
                arrived = True
                continue
            operation = node.name().partition("Backward")[0]
            if operation in _STEPS:
                raise NotApplicable(
                    f"the cost uses {operation.lower()}, a step, whose derivative "
                    "is zero almost everywhere; only estimators that never differentiate the cost are right"
                )
            stack += [following for following, _ in node.next_functions]
        if not arrived:
            raise NotApplicable(
                "the cost breaks the graph: its value has no path back to z (a comparison, .detach(), "
                ".item(), numpy?); estimators that never differentiate the cost do not need one"
            )


def stochastic(cost: Cost) -> Cost:
    """Declare that a cost draws random numbers of its own, independent ones for each z, and means it.

    Its expectation is then over those, too. No exact gradient is sought, and the cost is not held to give the
    same value twice. Use it as a decorator, or around a cost: `stochastic(network_with_dropout)`.

    >>> noisy = stochastic(lambda z: z**2 + torch.randn_like(z))
    >>> is_stochastic(noisy), is_stochastic(torch.square)
    (True, False)
    """

    def noisy(z: Tensor) -> Tensor:
        return cost(z)

    noisy.is_stochastic = True  # type: ignore[attr-defined]
    return noisy


def is_stochastic(cost: Cost) -> bool:
    """Whether a cost was declared to be `stochastic`."""
    return bool(getattr(cost, "is_stochastic", False))


class Counter:
    """Counts evaluations of a cost."""

    def __init__(self) -> None:
        self.count = 0

    def take(self) -> int:
        """The evaluations since last asked."""
        count, self.count = self.count, 0
        return count


def counted(cost: Cost) -> tuple[Cost, Counter]:
    """The same cost, and what counts its evaluations: of a `Separable` one, those of its term."""
    counter = Counter()

    def counting(inner: Cost) -> Cost:
        def count(z: Tensor) -> Tensor:
            value = inner(z)
            counter.count += value.numel() if isinstance(value, Tensor) else 0
            return value

        return stochastic(count) if is_stochastic(inner) else count

    return (Separable(counting(cost.term)) if isinstance(cost, Separable) else counting(cost)), counter


class Separable:
    """cost(z) = Σ_d term(z_d) over the last axis. The oracle needs one dimension, however many there are.

    >>> Separable(torch.square)(torch.tensor([3.0, 4.0]))
    tensor(25.)
    """

    def __init__(self, term: Cost) -> None:
        self.term = term

    def __call__(self, z: Tensor) -> Tensor:
        """(…, D) -> (…)."""
        return self.term(z).sum(-1)


COSTS: Registry[Callable[[Any], Cost]] = Registry(kind="cost")


def cost(make: Callable[[Any], Cost]) -> Callable[[Any], Cost]:
    """Register the decorated `k -> cost` in `COSTS`: a family of costs of one real z, with parameter k.

    k is a number, or a tensor that broadcasts against q's batch, for many costs at once.
    """
    COSTS[make.__name__] = make
    return make


@cost
def quadratic(k: float | Tensor) -> Cost:
    """(z − k)²."""
    return lambda z: (z - k) ** 2


@cost
def bump(k: float | Tensor) -> Cost:
    """exp(−k z²): the larger k, the narrower."""
    return lambda z: (-k * z**2).exp()


@cost
def cosine(k: float | Tensor) -> Cost:
    """cos(k z): the larger k, the faster it oscillates."""
    return lambda z: (k * z).cos()


@cost
def step(k: float | Tensor) -> Cost:
    """1 where z > k, else 0: no derivative, so no pathwise gradient."""
    return lambda z: (z > k).to(z.dtype)
