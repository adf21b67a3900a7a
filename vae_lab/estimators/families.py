"""Families of distributions, as functions of their parameters.

Any torch distribution can be taken apart into the arguments of its constructor (`parameters`) and put
together again from others (`rebuild`); estimators and oracles need no more than that.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints


def unwrap(q: Distribution) -> Any:
    """The distribution of one coordinate: what is inside `Independent`, or `q` itself."""
    while isinstance(q, Independent):
        q = q.base_dist
    return q


# Constructors take one of each group. Torch computes the others when they are first asked for.
_ALTERNATIVES = ({"probs", "logits"}, {"covariance_matrix", "precision_matrix", "scale_tril"})


def parameters(q: Distribution) -> dict[str, Tensor]:
    """The real-valued arguments that `q` was constructed from: name -> tensor, with its graph.

    Those of what is inside, where `q` is torch's `Independent`. Counts, such as a binomial's
    `total_count`, are not differentiated and so left out. Raises TypeError where there are none.

    >>> from torch.distributions import Normal
    >>> sorted(parameters(Normal(torch.zeros(3), torch.ones(3))))
    ['loc', 'scale']
    """
    if type(q) is Independent:
        return parameters(q.base_dist)
    holder = vars(getattr(q, "_categorical", q))  # where torch's one-hot categorical keeps its argument
    names = [name for name, constraint in q.arg_constraints.items() if not constraint.is_discrete]
    for group in _ALTERNATIVES:
        if group & set(names):
            given = next((name for name in holder if name in group), "logits")  # the first that was set
            names = [name for name in names if name not in group - {given}]
    if not names:
        raise TypeError(f"{type(q).__name__} names no real-valued constructor arguments (arg_constraints)")
    return {name: getattr(q, name) for name in names}


def rebuild(q: Distribution, **values: Tensor) -> Distribution:
    """A distribution like `q` from other constructor arguments: all those that `parameters(q)` names.

    New leading axes of the values become new batch axes. Above the diagonal of a triangular argument there is
    nothing to differentiate with respect to, so that its gradient there is zero.
    """
    if type(q) is Independent:
        return Independent(rebuild(q.base_dist, **values), q.reinterpreted_batch_ndims, validate_args=False)
    alternatives = set().union(*(group for group in _ALTERNATIVES if group & set(values)))
    for name, argument in inspect.signature(type(q)).parameters.items():
        if name in values or name in alternatives or name == "validate_args":
            continue
        given = getattr(q, name, getattr(q, f"_{name}", argument.default))
        if given is inspect.Parameter.empty:
            raise TypeError(f"{type(q).__name__} does not keep its constructor's argument {name!r}")
        values[name] = given
    for name, constraint in q.arg_constraints.items():
        if constraint is constraints.lower_cholesky and name in values:
            values[name] = values[name].tril()
    return type(q)(**values, validate_args=False)  # type: ignore[arg-type]


def support_bounds(base: Any) -> dict[str, Any]:
    """`lower_bound` and `upper_bound` of the support of a distribution of one coordinate, those it has."""
    support = base.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return {name: v for name, v in vars(support).items() if name in ("lower_bound", "upper_bound")}


def moving_with(base: Any) -> list[str]:
    """The real-valued arguments of a distribution of one coordinate that move the ends of its support."""
    real = [name for name, constraint in base.arg_constraints.items() if not constraint.is_discrete]
    return [name for name in real if any(getattr(base, name) is v for v in support_bounds(base).values())]


def certain(q: Distribution) -> str | None:
    """What keeps the mass function of `q` from having a derivative with respect to its probabilities, in
    words, or None.

    Torch keeps given probabilities a rounding error away from 0 and 1, where its derivative is then zero.
    """
    try:
        given = parameters(q)["probs"]
    except (KeyError, TypeError):  # q was not made from them, or names no parameters
        return None
    margin = torch.finfo(given.dtype).eps
    if not ((given < margin) | (given > 1 - margin)).any():
        return None
    return f"a probability of {type(unwrap(q)).__name__} is 0 or 1 to rounding, where torch has no derivative"


def kind(q: Distribution) -> str:
    """The name of the distribution of one coordinate."""
    return type(unwrap(q)).__name__
