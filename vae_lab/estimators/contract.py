"""Gradient estimators of E_q[f(z)]: one contract, one registry.

An estimator is a function `(q, cost, n) -> surrogate` of shape (n, *q.batch_shape). The mean of the
surrogate over n estimates E_q[cost(z)], and the *gradient* of that mean estimates the gradient of the
expectation, with respect to the parameters of q and to whatever else the cost depends on. So

    pathwise         cost(z(ε))
    score function   cost + cost.detach() · (log q − log q.detach())
    any other        cost + g.detach() · (θ − θ.detach())

where g estimates the gradient with respect to θ.

Values are right and gradients are of first order: do not differentiate twice. The elements of q's batch are
independent problems, which is how thousands of replicates run at once. Theory: mohamed2020monte.

Your own estimator joins by the decorator; every table, test and figure that iterates `ESTIMATORS` has it:

>>> from vae_lab.estimators import reparameterizable
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

from collections.abc import Callable
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..registry import Registry, first_sentence
from .costs import CheckedCost, Cost, NotApplicable
from .families import kind, parameters

Surrogate = Callable[..., Tensor]
# What keeps an estimator from being applied, in words, or None: (q, cost, n) -> reason.
Requirement = Callable[[Distribution, CheckedCost, int], str | None]


@dataclass(frozen=True, repr=False)
class Estimator:
    """An estimator. Call it as `(q, cost, n=1, **options)`; it checks what it requires first.

    `unbiased` is the claim that the contract tests hold it to; `evaluations(n, q)` counts the evaluations of
    the cost for one estimate from n samples; `reference` is a key of the bibliography, if there is one;
    `title` is what texts call it, where that is not its name with spaces.
    """

    name: str
    function: Surrogate
    unbiased: bool
    requires: tuple[Requirement, ...]
    evaluations: Callable[[int, Distribution], int]
    reference: str
    summary: str
    title: str = ""

    def __post_init__(self) -> None:
        for name in ("__doc__", "__name__", "__module__"):  # so that help() describes the function
            object.__setattr__(self, name, getattr(self.function, name, None))

    def __repr__(self) -> str:
        return repr(self.name)

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
    title: str = "",
) -> Callable[[Surrogate], Estimator]:
    """Register the decorated `(q, cost, n, **options) -> surrogate` in `ESTIMATORS` under its own name."""

    def register(function: Surrogate) -> Estimator:
        name, summary = function.__name__, first_sentence(function)
        ESTIMATORS[name] = Estimator(
            name, function, unbiased, requires, evaluations, reference, summary, title
        )
        return ESTIMATORS[name]

    return register


def find_estimator(given: str | Estimator) -> Estimator:
    """The estimator of that name, or the one that is given itself. Raises `UnknownName`."""
    return given if isinstance(given, Estimator) else ESTIMATORS[given]


def plain_name(label: str) -> str:
    """What texts call the estimator of this name, or of this label in a benchmark.

    >>> plain_name("quasi_monte_carlo"), plain_name("my_own")
    ('quasi-Monte Carlo', 'my own')
    """
    registered = ESTIMATORS.get(label)
    return (registered.title if registered else "") or label.replace("_", " ")


# Tools for surrogates


def sum_event(values: Tensor, q: Distribution) -> Tensor:
    """Sum over the event axes of q."""
    return values.sum(tuple(range(-len(q.event_shape), 0))) if q.event_shape else values


def inject(gradient: Tensor, parameter: Tensor, q: Distribution) -> Tensor:
    """Zero, with the gradient `gradient` (n, *batch, *event) with respect to `parameter` (*batch, *event)."""
    return sum_event(gradient.detach() * (parameter - parameter.detach()), q)


def leave_one_out(values: Tensor) -> Tensor:
    """For each of n values along the first axis, the sum of the others.

    Of those before and those after: the sum of all, less the value, would lose the small ones in rounding.
    """
    none = torch.zeros_like(values[:1])
    before = torch.cat([none, values[:-1].cumsum(0)])
    after = torch.cat([values[1:].flip(0).cumsum(0).flip(0), none])
    return before + after
