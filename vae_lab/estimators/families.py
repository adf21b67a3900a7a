"""Families of distributions, as functions of their parameters.

A family is a function from named parameters to a distribution. `family.Family` holds one; a ready-made torch
distribution is taken apart into the arguments of its constructor (`parameters`) and put together again from
others (`rebuild`). Estimators and oracles need no more than that.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeGuard

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Independent, Normal, constraints
from torch.distributions.utils import logits_to_probs, probs_to_logits

from .family import Copies, Family

# Which density, which sampler


def unwrap(q: Distribution) -> Any:
    """The distribution of one coordinate: what is inside a `Family` or torch's `Independent`, or `q`
    itself."""
    while True:
        if isinstance(q, Family | Copies):
            q = q.base
        elif isinstance(q, Independent) and type(q).log_prob is Independent.log_prob:
            q = q.base_dist
        else:
            return q


def kind(q: Distribution) -> str:
    """The name of the distribution of one coordinate."""
    return type(unwrap(q)).__name__


def symbols(q: Distribution) -> dict[str, str]:
    """What texts call parameters of `q` by: name -> letter. A normal's `loc` and `scale` are μ and σ; another
    distribution's are not, since its scale is not a standard deviation."""
    letters = {"mu": "μ", "sigma": "σ", "log_sigma": "log σ"}
    return letters | ({"loc": "μ", "scale": "σ"} if is_law(unwrap(q), Normal) else {})


def foreign(q: Distribution, *methods: str) -> list[str]:
    """Those of `methods` that `q` inherits from a class with another density than the one that `q` has."""
    return [
        name
        for name in methods
        if (owner := next((c for c in type(q).__mro__ if name in vars(c)), Distribution)) is not Distribution
        and not _same_density(q, owner)
    ]


def is_law(base: Any, *families: type[Distribution]) -> bool:
    """Whether a distribution of one coordinate is one of `families` in density, and not only in name: a
    subclass with another density is another law."""
    return any(isinstance(base, family) and _same_density(base, family) for family in families)


def _same_density(q: Distribution, parent: type[Distribution]) -> bool:
    """Whether the density of `q` is that of a class it derives from, seen at some draws."""
    ours, theirs = type(q).log_prob, parent.log_prob
    if ours is theirs or theirs is Distribution.log_prob:
        return True
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            z = q.sample(Size((16,)))
            return bool(torch.allclose(theirs(q, z), q.log_prob(z), rtol=1e-3, atol=1e-3))
        except (RuntimeError, ValueError, TypeError, AttributeError):
            return False


# Parameters

_FACTOR = "_unbroadcasted_scale_tril"  # what torch computes from whichever matrix was given, and copies first
# Constructors take one of each group. Torch computes the others when they are first asked for.
_ALTERNATIVES = ({"probs", "logits"}, {"covariance_matrix", "precision_matrix", "scale_tril"})


def parameters(q: Distribution) -> dict[str, Tensor]:
    """The real-valued arguments that `q` was constructed from: name -> tensor, with its graph.

    Those of a `Family`, or of what is inside torch's `Independent`. Counts, such as a binomial's
    `total_count`, are not differentiated and so left out. Raises TypeError where there are none.

    >>> from torch.distributions import Normal
    >>> sorted(parameters(Normal(torch.zeros(3), torch.ones(3))))
    ['loc', 'scale']
    """
    if not isinstance(q, Distribution):
        raise TypeError(
            f"expected a torch distribution, got {type(q).__name__}; a module that returns one goes in as "
            "Family(module)"
        )
    if isinstance(q, Family):
        return q.given
    if isinstance(q, Copies) or _plain(q):
        return parameters(q.base if isinstance(q, Copies) else q.base_dist)
    holder = getattr(q, "_categorical", q)  # where torch's one-hot categorical keeps its argument
    try:
        constraints_of = q.arg_constraints
    except NotImplementedError:
        constraints_of = {}
    names = [name for name, constraint in constraints_of.items() if not _is_discrete(constraint)]
    for group in _ALTERNATIVES:
        if group & set(names):
            names = [name for name in names if name not in group - {_given_one(holder, group)}]
    if not names:
        raise TypeError(
            f"{type(q).__name__} names no real-valued constructor arguments (arg_constraints); say what to "
            "differentiate with respect to: Family(build, name=tensor, ...)"
        )
    try:
        given = {name: getattr(q, name) for name in names}
    except (AttributeError, NotImplementedError) as error:
        raise TypeError(
            f"{type(q).__name__} does not keep an argument that its arg_constraints name ({error}); use "
            "Family(build, name=tensor, ...)"
        ) from error
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{type(q).__name__} keeps {name!r} as {type(value).__name__}, not as a tensor")
    return given


def _plain(q: Distribution) -> TypeGuard[Independent]:
    """Whether `q` is torch's `Independent`, or another package's that adds no parameters to it."""
    return isinstance(q, Independent) and not q.arg_constraints


def _given_one(holder: Any, group: set[str]) -> str:
    """Which one of alternative arguments a distribution was made from, though torch may have computed others
    since, and copied both."""
    held = [name for name in vars(holder) if name in group]
    if set(held) == {"probs", "logits"}:
        binary = not holder.event_shape and type(holder).__name__ != "Categorical"
        computed = {
            "logits": torch.equal(holder.probs, logits_to_probs(holder.logits, is_binary=binary)),
            "probs": torch.equal(holder.logits, probs_to_logits(holder.probs, is_binary=binary)),
        }
        if sum(computed.values()) == 1:
            return next(name for name, others in computed.items() if others)
        if hasattr(holder, "_param"):  # both agree to the last bit
            return "logits" if holder._param is holder.logits else "probs"
    factor = getattr(holder, _FACTOR, None)
    names = list(vars(holder))
    if len(held) > 1 and factor is not None and names.index(held[0]) > names.index(_FACTOR):  # a copy
        made = {"covariance_matrix": factor @ factor.mT, "precision_matrix": torch.cholesky_inverse(factor)}
        values = {name: getattr(holder, name) for name in held if name in made}
        apart = [name for name, v in values.items() if not torch.equal(v, made[name].expand_as(v))]
        return apart[0] if len(apart) == 1 else "scale_tril" if "scale_tril" in held else held[0]
    return next(iter(held), "logits")  # the first that was set


def rebuild(q: Distribution, **values: Tensor) -> Distribution:
    """A distribution like `q` from other constructor arguments: all those that `parameters(q)` names.

    New leading axes of the values become new batch axes. Above the diagonal of a triangular argument there is
    nothing to differentiate with respect to, so that its gradient there is zero.
    """
    if isinstance(q, Family):
        return Family.__new__(Family)._hold(q.build, values)
    if isinstance(q, Copies):
        return rebuild(q.base, **values)
    if _plain(q):
        return Independent(rebuild(q.base_dist, **values), q.reinterpreted_batch_ndims, validate_args=False)
    alternatives = set().union(*(group for group in _ALTERNATIVES if group & set(values)))
    arguments: dict[str, Any] = dict(values)
    signature = inspect.signature(type(q)).parameters
    for name, argument in signature.items():
        if (
            name in values
            or name in alternatives
            or argument.kind in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL)
        ):
            continue
        try:
            given = getattr(q, name, getattr(q, f"_{name}", argument.default))
        except NotImplementedError:  # a property such as `mean`, which torch leaves open
            given = inspect.Parameter.empty
        if given is inspect.Parameter.empty:
            raise TypeError(
                f"{type(q).__name__} does not keep its constructor's argument {name!r}; keep it as an "
                "attribute, or use Family(build, name=tensor, ...)"
            )
        arguments[name] = given
    for name, constraint in q.arg_constraints.items():
        if constraint is constraints.lower_cholesky and name in arguments:
            arguments[name] = arguments[name].tril()
    if "validate_args" in signature:  # a parameter on the way may lie outside
        arguments["validate_args"] = False
    try:
        return type(q)(**arguments)
    except ValueError as error:  # of alternatives that other packages know
        raise TypeError(
            f"{type(q).__name__} is not made again from its arguments ({error}); use "
            "Family(build, name=tensor, ...)"
        ) from error


# Supports


def support(q: Distribution) -> Any:
    """The support of one coordinate, as one of torch's constraints; of real numbers where q does not say."""
    try:
        found = unwrap(q).support
    except (NotImplementedError, AttributeError):
        return constraints.real
    while hasattr(found, "base_constraint"):
        found = found.base_constraint
    return found


def discrete(q: Distribution) -> bool:
    """Whether q says that its draws are discrete."""
    return _is_discrete(support(q))


def _is_discrete(constraint: Any) -> bool:
    try:
        return bool(constraint.is_discrete)
    except NotImplementedError:  # of a constraint that depends on others
        return False


def support_bounds(q: Distribution) -> dict[str, Any]:
    """`lower_bound` and `upper_bound` of the support of one coordinate, those it has."""
    return {name: v for name, v in vars(support(q)).items() if name in ("lower_bound", "upper_bound")}


def moving_with(q: Distribution) -> list[str]:
    """The parameters of `q` that move the ends of its support, as far as the support says so."""
    leaves = {name: p.detach().clone().requires_grad_() for name, p in parameters(q).items()}
    with torch.enable_grad():
        bounds = support_bounds(rebuild(q, **leaves)).values()
        moving = [bound.sum() for bound in bounds if isinstance(bound, Tensor) and bound.requires_grad]
        if not moving:
            return []
        slopes = torch.autograd.grad(torch.stack(moving).sum(), list(leaves.values()), allow_unused=True)
    return [name for name, slope in zip(leaves, slopes, strict=True) if slope is not None]


def empty(q: Distribution) -> str | None:
    """That there is nothing in a draw of `q`, in words, or None."""
    if q.batch_shape.numel() and q.event_shape.numel():
        return None
    shapes = f"batch shape {tuple(q.batch_shape)} and event shape {tuple(q.event_shape)}"
    return f"{kind(q)} has {shapes}, so that its draws hold no number"


def certain(q: Distribution) -> str | None:
    """What keeps the mass function of `q` from having a derivative with respect to its probabilities, in
    words, or None.

    Torch keeps given probabilities a rounding error away from 0 and 1, where its derivative is then zero.
    """
    try:
        given = parameters(unwrap(q))["probs"]
    except (KeyError, TypeError):  # q was not made from them, or names no parameters
        return None
    margin = torch.finfo(given.dtype).eps
    if not ((given < margin) | (given > 1 - margin)).any():
        return None
    return f"a probability of {type(unwrap(q)).__name__} is 0 or 1 to rounding, where torch has no derivative"
