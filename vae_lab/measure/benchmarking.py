"""Bias, variance, time and cost-adjusted efficiency of gradient estimators, on any cost and any q."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..estimators import ESTIMATORS, Estimator
from ..estimators.costs import Cost, NotApplicable
from ..estimators.families import parameters, rebuild
from ..exact.oracle import exact_gradient
from .statistics import deviation_limit

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

# Numbers per chunk of replicates, evaluations of the cost counted: some tens of megabytes for a cheap cost.
_CHUNK = 2**20


def replicate_gradients(
    estimator: Callable[..., Tensor], cost: Cost, q: Distribution, n: int, replicates: int
) -> dict[str, Tensor]:
    """Independent gradient estimates: parameter -> (replicates, *its shape), by a single backward pass.

    Draws from torch's global generator. An element of q's batch is a problem of its own, so replicates are
    further elements.
    """
    leaves = {
        name: p.detach().expand(replicates, *p.shape).clone().requires_grad_()
        for name, p in parameters(q).items()
    }
    surrogate = estimator(rebuild(q, **leaves), cost, n)
    try:
        gradients = torch.autograd.grad(
            surrogate.mean(0).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    except NotImplementedError as error:
        raise NotApplicable(f"torch lacks a derivative that this takes: {error}") from error
    return dict(zip(leaves, gradients, strict=True))


def benchmark(
    cost: Cost,
    q: Distribution,
    estimators: Iterable[str] | Mapping[str, Callable[..., Tensor]] | None = None,
    n: int = 1,
    replicates: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure gradient estimators of E_q[cost(z)]: one row per estimator, parameter and coordinate.

    `cost` maps z (…, *q.event_shape) to values (…); `q` is any torch distribution, and the elements of its
    batch are independent problems. `estimators` are names in `ESTIMATORS`, or label -> estimator (for example
    `functools.partial(discrete.gumbel_softmax, temperature=1.0)`, or a function that is not registered and
    so claims nothing), or None for all that apply.

    Columns: `estimator, parameter, coordinate` (position in the flattened parameter), `exact` (NaN where no
    oracle applies), `mean, bias, bias_se` over the replicates, `variance` of one n-sample estimate and
    `variance_se` (by the fourth moment), `evaluations` of the cost and `seconds` per estimate, `efficiency` =
    1 / (evaluations · mean squared error), and `unbiased`, what the estimator claims. The mean squared error
    is the variance, plus the squared bias of an estimator that does not claim to be unbiased, or whose claim
    this measurement refutes (one false alarm in a million for each row).

    Memory is bounded whatever `replicates`. Raises `NotApplicable` for a named estimator that does not apply,
    or where none does, and `CostError`.
    """
    if replicates < 2 or n < 1:
        raise ValueError(f"replicates is at least 2 and n at least 1, got {replicates=} and {n=}")
    chosen: dict[str, Callable[..., Tensor]]
    if estimators is None or isinstance(estimators, Mapping):
        given_ones = ESTIMATORS if estimators is None else estimators
        chosen = {label: _checked(label, function) for label, function in given_ones.items()}
    else:
        names = [estimators] if isinstance(estimators, str) else list(estimators)
        chosen = {name: ESTIMATORS[name] for name in names}
    exact: Mapping[str, Tensor] = {}
    try:
        given = parameters(q)
        exact = exact_gradient(cost, q)
    except TypeError as error:
        raise NotApplicable(str(error)) from error
    except NotApplicable:
        pass  # the table says so, by NaN
    frames, reasons = [], []
    with torch.random.fork_rng():
        for label, estimator in chosen.items():
            torch.manual_seed(seed)
            try:
                sums, seconds = _sums(estimator, cost, q, n, replicates)
            except NotApplicable as reason:
                if estimators is not None:
                    raise
                reasons.append(str(reason))
                continue
            frames.append(_rows(label, estimator, sums, given, exact, n, q, replicates, seconds))
    if not frames:
        raise NotApplicable("no registered estimator applies:\n" + "\n".join(f"  {r}" for r in reasons))
    return pd.concat(frames, ignore_index=True)


def _sums(
    estimator: Callable[..., Tensor], cost: Cost, q: Distribution, n: int, replicates: int
) -> tuple[Tensor, float]:
    """Mean, and the sums of second, third and fourth powers about it, of the gradients (4, numbers)."""
    size = sum(p.numel() for p in parameters(q).values())
    numbers = max(size, q.batch_shape.numel() * q.event_shape.numel())
    chunk = max(1, _CHUNK // (numbers * _registered(estimator).evaluations(n, q)))
    replicate_gradients(estimator, cost, q, n, 1)  # refuses before it counts, and warms up
    total, start = torch.zeros(4, size, dtype=torch.float64), time.perf_counter()
    centre: Tensor | None = None
    for first in range(0, replicates, chunk):
        count = min(chunk, replicates - first)
        parts = replicate_gradients(estimator, cost, q, n, count)
        g = torch.cat([part.reshape(count, -1) for part in parts.values()], dim=1).double().cpu()
        # A typical value, so that powers lose nothing, and one of them, so that equal ones vary by exactly 0.
        centre = g[0].clone() if centre is None else centre
        g -= centre
        total += torch.stack([(g**power).sum(0) for power in (1, 2, 3, 4)])
    seconds = (time.perf_counter() - start) / replicates
    assert centre is not None
    d = total[0] / replicates
    second = total[1] - replicates * d**2
    fourth = total[3] - 4 * d * total[2] + 6 * d**2 * total[1] - 3 * replicates * d**4
    return torch.stack([centre + d, second, fourth]), seconds


def _registered(estimator: Callable[..., Tensor]) -> Estimator:
    """The estimator itself, or the one inside functools.partial."""
    inside: Any = getattr(estimator, "func", estimator)
    return cast(Estimator, inside)


def _checked(label: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` as an estimator that is checked like the registered ones."""
    if isinstance(_registered(function), Estimator):
        return function
    return Estimator(label, function, False, (), lambda n, q: n, "", "")


def _rows(
    label: str,
    estimator: Callable[..., Tensor],
    sums: Tensor,
    given: Mapping[str, Tensor],
    exact: Mapping[str, Tensor],
    n: int,
    q: Distribution,
    replicates: int,
    seconds: float,
) -> pd.DataFrame:
    unbiased = _registered(estimator).unbiased
    evaluations = _registered(estimator).evaluations(n, q)
    mean, second, fourth = sums.numpy()
    variance = second / (replicates - 1)
    # torch may round one and the same number differently in two places of a vector: that is no variance.
    unit = torch.cat([torch.full((p.numel(),), torch.finfo(p.dtype).eps) for p in given.values()]).numpy()
    variance[variance <= (2 * unit * mean) ** 2] = 0.0
    truth = [
        exact[k].flatten() if k in exact else torch.full((p.numel(),), math.nan) for k, p in given.items()
    ]
    rows = pd.DataFrame(
        {
            "estimator": label,
            "parameter": [name for name, p in given.items() for _ in range(p.numel())],
            "coordinate": [i for p in given.values() for i in range(p.numel())],
            "exact": torch.cat([values.cpu() for values in truth]).double().numpy(),
            "mean": mean,
        }
    )
    rows["bias"] = rows["mean"] - rows["exact"]
    rows["bias_se"] = (variance / replicates) ** 0.5
    rows["variance"] = variance
    rows["variance_se"] = ((fourth / replicates - variance**2).clip(0.0) / replicates) ** 0.5
    rows["evaluations"] = evaluations
    rows["seconds"] = seconds
    # Rounding is no refutation.
    seen = rows["bias"].abs() > deviation_limit() * rows["bias_se"] + 1e-6 * rows["exact"].abs().max()
    error = rows["variance"] + (rows["bias"] ** 2).where(seen | (not unbiased), 0.0)
    rows["efficiency"] = 1 / (evaluations * error.where(error > 0))
    rows["unbiased"] = unbiased
    return rows


def table(frame: pd.DataFrame) -> Styler:
    """The frame of `benchmark` for a page: estimators by parameter, biases in standard errors.

    In italics: estimators that do not claim to be unbiased.
    """
    shown = frame.assign(
        error=frame["bias"] / frame["bias_se"].where(frame["bias_se"] > 0),
        estimator=frame["estimator"].where(frame["estimator"] != frame["estimator"].shift(), ""),
    )
    several = frame["coordinate"].nunique() > 1
    columns = ["estimator", "parameter", *(["coordinate"] if several else []), "exact", "mean", "error"]
    columns += ["variance", "evaluations", "efficiency"]
    shown = shown[columns].rename(columns={"error": "bias / s.e."})
    faint = ~frame["unbiased"].to_numpy()
    return (
        shown.style.hide()
        .format(precision=4, na_rep="–", subset=["exact", "mean"])
        .format("{:.1f}", na_rep="–", subset=["bias / s.e."])
        .format("{:.3g}", na_rep="–", subset=["variance", "efficiency"])
        .apply(lambda column: ["font-style: italic; opacity: 0.75" if f else "" for f in faint])
        .set_properties(subset=["estimator"], **{"text-align": "left"})
    )
