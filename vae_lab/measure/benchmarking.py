"""Bias, variance, time and cost-adjusted efficiency of gradient estimators, on any cost and any q."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..clock import counts_as
from ..estimators import ESTIMATORS, Estimator, plain_name
from ..estimators.copies import replicas, slopes, stacks, varied
from ..estimators.costs import CheckedCost, Cost, CostError, NotApplicable, counted
from ..estimators.families import empty, kind, parameters, rebuild, symbols
from ..estimators.requirements import differentiable_density
from ..exact.oracle import exact_gradient
from ..exact.quadrature import EVALUATIONS
from ..settings import Count, Seed, Several, Whole, check
from .audit import TYPICAL, Sampler, check_sampler, judge, not_finite

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

# Numbers per chunk of replicates, evaluations of the cost counted: some tens of megabytes for a cheap cost.
_CHUNK = 2**20
_SHARED = 64  # replicates at once where all share their parameters, since each takes a backward pass


@counts_as("gradients")
def replicate_gradients(
    estimator: Callable[..., Tensor], cost: Cost, q: Distribution, n: int, replicates: int
) -> dict[str, Tensor]:
    """Independent gradient estimates: parameter -> (replicates, *its shape), by a single backward pass.

    Draws from torch's global generator. An element of q's batch is a problem of its own, so replicates are
    further elements.
    """
    leaves, copies, apart = replicas(q, replicates)
    surrogate = estimator(copies, cost, n).mean(0)
    try:
        return slopes(surrogate.reshape(replicates, -1).sum(1), leaves, apart)
    except RuntimeError as error:  # NotImplementedError is one
        raise NotApplicable(f"torch cannot take the derivative: {error}") from error


@counts_as("gradients")
def benchmark(
    cost: Cost,
    q: Distribution,
    estimators: Iterable[str] | Mapping[str, Callable[..., Tensor]] | None = None,
    n: int = 1,
    replicates: int = 10_000,
    seed: int = 0,
    oracle: bool | int = True,
) -> pd.DataFrame:
    """Measure gradient estimators of E_q[cost(z)]: one row per estimator, parameter and coordinate.

    `cost` maps z (…, *q.event_shape) to values (…); `q` is any torch distribution or `Family`, and the
    elements of its batch are independent problems. `estimators` are names in `ESTIMATORS`, or label ->
    estimator (for example `functools.partial(discrete.gumbel_softmax, temperature=1.0)`, or a function that
    is not registered and so claims nothing), or None for all that apply. `oracle` is whether to look for the
    exact gradient, or how many evaluations of the cost that may take; for a `stochastic` cost there is none.

    Columns: `estimator, parameter, coordinate` (position in the flattened parameter), `exact` (NaN where no
    oracle applies), `mean, bias, bias_se` over the replicates, `variance` of one n-sample estimate and
    `variance_se` (by the fourth moment), `evaluations` of the cost and `seconds` per estimate, `efficiency` =
    1 / (evaluations · mean squared error), `unbiased`, what the estimator claims and the checks of `audit` do
    not refute, and `note`, why not, and why there is no exact value. The mean squared error is the variance,
    plus the squared bias of what is not unbiased. `frame.attrs["spent"]` counts evaluations of the cost by
    the oracle, the audit and the estimators, and `frame.attrs["symbols"]` has the letters of q's parameters.

    Memory is bounded whatever `replicates`. Raises `NotApplicable` for a named estimator that does not apply,
    or where none does, and `CostError`, also for a named estimator whose estimates are NaN or infinite.
    """
    replicates, n = check("replicates", Several, replicates), check("n", Count, n)
    seed, oracle = check("seed", Seed, seed), check("oracle", bool | Whole, oracle)
    chosen = _chosen(estimators)
    given = _taken_apart(q)
    cost, counter = counted(CheckedCost(cost, len(q.event_shape)).cost)
    size = sum(p.numel() for p in given.values())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sampler = check_sampler(q, 3 * len(chosen) * size)
        _probe(cost, q, sampler.draws)
        spent = {"audit": counter.take()}
        exact, missing = _exact(cost, q, oracle)
        spent["oracle"] = counter.take()
        frames, reasons = [], []
        for label, estimator in chosen.items():
            torch.manual_seed(seed)
            try:
                _refuse_clamped(label, estimator, q, sampler)
                sums, seconds = _sums(label, estimator, cost, q, n, replicates, strict=estimators is not None)
            except NotApplicable as reason:
                if estimators is not None:
                    raise
                reasons.append(str(reason))
                continue
            frames.append(_rows(label, estimator, sums, given, exact, n, q, replicates, seconds))
    if not frames:
        raise NotApplicable("no registered estimator applies:\n" + "\n".join(f"  {r}" for r in reasons))
    weighs = {label: _weighs_score(estimator) for label, estimator in chosen.items()}
    frame = _with_efficiency(judge(pd.concat(frames, ignore_index=True), sampler, weighs, missing))
    frame.attrs |= {"spent": spent | {"estimators": counter.take()}, "symbols": symbols(q)}
    return frame


def _refuse_clamped(label: str, estimator: Callable[..., Tensor], q: Distribution, sampler: Sampler) -> None:
    if sampler.clamped and _weighs_score(estimator):
        raise NotApplicable(
            f"{label} is not applicable: the sampler of {kind(q)} cuts off {sampler.clamped:.1%} of its "
            "draws at an end of the support, and the score of such a draw is not that of what it was"
        )


def _taken_apart(q: Distribution) -> dict[str, Tensor]:
    """The parameters of a q that can be built again from them."""
    try:
        given = parameters(q)
        rebuild(q, **given)
    except TypeError as error:
        raise NotApplicable(str(error)) from error
    if why := empty(q):
        raise NotApplicable(why)
    if len(kinds := {str(p.dtype) for p in given.values()}) > 1:
        raise NotApplicable(f"the parameters of {kind(q)} need one precision, got {', '.join(sorted(kinds))}")
    return given


def _probe(cost: Cost, q: Distribution, draws: Tensor) -> None:
    """Raise `CostError` for a cost that fails on some draws (M, *batch, *event), or is none."""
    some = varied(draws, 32)
    try:
        CheckedCost(cost, len(q.event_shape)).probe(*some.split(16))
    except RuntimeError as error:
        raise CostError(
            f"the cost fails for z {(16, *some.shape[1:])} of {some.dtype}: {error}; a network's weights "
            "need the precision of q: .float() or .double() them"
        ) from error


def _chosen(
    estimators: Iterable[str] | Mapping[str, Callable[..., Tensor]] | None,
) -> dict[str, Callable[..., Tensor]]:
    """Label -> estimator, each of them checked."""
    if estimators is not None and not isinstance(estimators, str):
        estimators = estimators if isinstance(estimators, Mapping) else list(estimators)
        if not estimators:
            raise ValueError("estimators: expected one or more, or None for all that apply, got none")
    if estimators is None or isinstance(estimators, Mapping):
        given_ones = ESTIMATORS if estimators is None else estimators
        return {label: _checked(label, function) for label, function in given_ones.items()}
    names = [estimators] if isinstance(estimators, str) else list(estimators)
    return {name: ESTIMATORS[name] for name in names}


def _exact(cost: Cost, q: Distribution, oracle: bool | int) -> tuple[Mapping[str, Tensor], str]:
    """The exact gradient, or why there is none."""
    if oracle is False:
        return {}, "the oracle was not asked"
    try:
        return exact_gradient(cost, q, evaluations=EVALUATIONS if oracle is True else int(oracle)), ""
    except NotApplicable as reason:
        return {}, str(reason).partition("with this cost: ")[2] or str(reason)


def _weighs_score(estimator: Callable[..., Tensor]) -> bool:
    return differentiable_density in getattr(_registered(estimator), "requires", ())


def _sums(
    label: str,
    estimator: Callable[..., Tensor],
    cost: Cost,
    q: Distribution,
    n: int,
    replicates: int,
    strict: bool,
) -> tuple[Tensor, float]:
    """Mean, sums of second and fourth powers about it, and the share of NaN and infinite ones, of the
    gradients (4, numbers); where it is not zero, the others are NaN, or, if `strict`, an error."""
    replicate_gradients(estimator, cost, q, n, 1)  # refuses before it counts, and warms up
    size = sum(p.numel() for p in parameters(q).values())
    numbers = max(size, q.batch_shape.numel() * q.event_shape.numel())
    chunk = max(1, _CHUNK // (numbers * _registered(estimator).evaluations(n, q)))
    chunk = chunk if stacks(q) else min(chunk, _SHARED)
    total, start = torch.zeros(4, size, dtype=torch.float64), time.perf_counter()
    broken = torch.zeros(size, dtype=torch.float64)
    centre: Tensor | None = None
    for first in range(0, replicates, chunk):
        count = min(chunk, replicates - first)
        parts = replicate_gradients(estimator, cost, q, n, count)
        g = torch.cat([part.reshape(count, -1) for part in parts.values()], dim=1).double().cpu()
        broken += (~g.isfinite()).sum(0)
        # A typical value, so that powers lose nothing, and one of them, so that equal ones vary by exactly 0.
        centre = g[0].clone() if centre is None else centre
        g -= centre
        total += torch.stack([(g**power).sum(0) for power in (1, 2, 3, 4)])
    seconds = (time.perf_counter() - start) / replicates
    assert centre is not None
    d = total[0] / replicates
    second = total[1] - replicates * d**2
    fourth = total[3] - 4 * d * total[2] + 6 * d**2 * total[1] - 3 * replicates * d**4
    broken /= replicates
    if strict and broken.any():
        raise CostError(f"{label}: {not_finite(float(broken.max()))}")
    return torch.stack([centre + d, second, fourth, broken]), seconds


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
    mean, second, fourth, broken = sums.numpy()
    variance = second / (replicates - 1)
    # torch may round one and the same number differently in two places of a vector: that is not variance.
    unit = torch.cat([torch.full((p.numel(),), torch.finfo(p.dtype).eps) for p in given.values()]).numpy()
    variance[variance**0.5 <= 2 * unit * np.abs(mean)] = 0.0
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
    with np.errstate(over="ignore", invalid="ignore"):
        rows["variance_se"] = ((fourth / replicates - variance**2).clip(0.0) / replicates) ** 0.5
    rows["evaluations"] = _registered(estimator).evaluations(n, q)
    rows["seconds"] = seconds
    rows["unbiased"] = _registered(estimator).unbiased
    rows["broken"] = broken
    with np.errstate(all="ignore"):
        rows["effective"] = np.nan_to_num(second**2 / fourth, nan=0.0, posinf=0.0)
    rows["heavy"] = (rows["effective"] < min(TYPICAL, replicates / TYPICAL)) & (variance > 0)
    return rows


def _with_efficiency(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as it is handed out."""
    biased = frame["refuted"] | ~frame["unbiased"]
    error = frame["variance"] + (frame["bias"] ** 2).where(biased, 0.0).fillna(0.0)
    efficiency = 1 / (frame["evaluations"] * error.where(error > 0))
    frame.insert(list(frame).index("unbiased"), "efficiency", efficiency)
    return frame.drop(columns=["broken", "effective", "heavy", "refuted"])


def whole_gradient(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame of `benchmark`, with the efficiency of an estimator's whole gradient in each of its rows.

    It is 1 / (evaluations · the sum of the mean squared errors over all parameters and coordinates), NaN
    where there is no error. The evaluations are those for the whole gradient, so `benchmark`'s own efficiency
    charges each row for all of them: too much where an estimator evaluates the cost for each parameter
    separately. For a q without a batch, and parameters in the same units.
    """
    price = (1 / frame["efficiency"]).groupby(frame["estimator"]).transform("sum")
    return frame.assign(efficiency=1 / price.where(price > 0))


def _three_digits(number: Any) -> str:
    """Three significant digits, without an exponent where a number is at least 100 and below a million."""
    if 100 <= abs(number) < 1e6:
        return f"{float(f'{number:.3g}'):,.0f}"
    return f"{number:#.3g}" if number else "0"


def table(frame: pd.DataFrame) -> Styler:
    """The frame of `benchmark` for a page, with the names of texts: biases are in standard errors.

    In italics: what does not claim to be unbiased, or fails a check; the column `note`, where there is one,
    says which. The caption says why there is no exact value.
    """
    shown = frame.assign(
        error=frame["bias"] / frame["bias_se"].where(frame["bias_se"] > 0),
        estimator=frame["estimator"]
        .map(plain_name)
        .where(frame["estimator"] != frame["estimator"].shift(), ""),
        parameter=frame["parameter"].replace(frame.attrs.get("symbols", {})),
    )
    several = frame["coordinate"].nunique() > 1
    columns = ["estimator", "parameter", *(["coordinate"] if several else []), "exact", "mean", "error"]
    columns += ["variance", "evaluations", "efficiency"]
    failed, _, missing = (part for _, part in shown["note"].str.partition("no exact value: ").items())
    shown["note"] = failed.str.rstrip("; ")
    columns += ["note"] if shown["note"].any() else []
    shown = shown[columns].rename(columns={"error": "bias / s.e."})
    faint = ~frame["unbiased"].to_numpy()
    page = shown.style if not missing.any() else shown.style.set_caption(f"No exact value: {missing.max()}.")
    return (
        page.hide()
        .format(precision=4, na_rep="–", subset=["exact", "mean"])
        .format("{:.1f}", na_rep="–", subset=["bias / s.e."])
        .format(_three_digits, na_rep="–", subset=["variance", "efficiency"])
        .apply(lambda column: ["font-style: italic; opacity: 0.75" if f else "" for f in faint])
        .set_properties(subset=["estimator"], **{"text-align": "left"})
    )
