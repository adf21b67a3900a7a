"""What a table of gradient estimators has to withstand before it says `unbiased`.

Three checks, all at one declared false-alarm rate. *Score*: draws have E[∇log q] = 0, or sampler and density
are not of one distribution. *Oracle*: the mean of unbiased estimates is the exact gradient. *Others*: without
an exact gradient, the means of estimators that claim to be unbiased do not contradict each other; those that
weigh the score decide, where the first check passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..estimators.copies import score_terms
from ..estimators.costs import NotApplicable
from ..estimators.families import discrete, kind, moving_with, parameters, unwrap
from .statistics import deviation_limit

FALSE_ALARM = 1e-6  # for all comparisons of a table together
DRAWS, NUMBERS = 4096, 2**22  # of the checks of q itself: draws, and the most numbers in them
CLAMPED = 3  # equal draws at an end that are not a coincidence
ROUNDING, UNITS = 1e-6, 8  # of the largest exact value, and roundings of its precision, which are no bias
RESOLVED = 8  # rounding steps per deviation of draws that do not round away what is asked
TYPICAL = 30  # estimates that a mean must effectively consist of to be judged by its standard error


@dataclass(frozen=True)
class Sampler:
    """What the checks of q itself found: the share of draws at a clamp, what is wrong with sampler and
    density together, in words, and the draws (M, *batch, *event)."""

    clamped: float
    disagreement: str
    draws: Tensor


def check_sampler(q: Distribution, comparisons: int) -> Sampler:
    """Check draws of q (under the caller's seed). Raises `NotApplicable` where q cannot be sampled."""
    count = max(64, min(DRAWS, NUMBERS // max(1, q.batch_shape.numel() * q.event_shape.numel())))
    try:
        with torch.no_grad():
            z = q.sample(torch.Size((count,)))
    except (NotImplementedError, RuntimeError) as error:
        raise NotApplicable(f"{kind(q)} cannot be sampled: {str(error) or 'torch lacks a method'}") from error
    if not z.isfinite().all():
        share = 1 - float(z.isfinite().double().mean())
        raise NotApplicable(f"{kind(q)} gives draws that are NaN or infinite, {share:.2g} of them")
    if _unresolved(q, z):
        raise NotApplicable(
            f"the draws of {kind(q)} differ by hardly more than {str(z.dtype).removeprefix('torch.')} rounds "
            "numbers of their size; shift q and the cost towards zero, or compute in float64"
        )
    clamped = _clamped(q, z)
    return Sampler(clamped, "" if clamped else _disagreement(q, z, comparisons), z)


def _unresolved(q: Distribution, z: Tensor) -> bool:
    """Whether draws of a continuous q are too near each other for their precision."""
    if discrete(q):
        return False
    numbers = z.double().flatten(1 + len(q.batch_shape)) if q.event_shape else z.double().unsqueeze(-1)
    spread, size = numbers.std(0), numbers.abs().median(0).values
    constant = spread == 0  # such as the entries of a triangular draw, unless all of them are
    narrow = spread < RESOLVED * torch.finfo(z.dtype).eps * size
    return bool((narrow & ~constant).any() or constant.all(-1).any())


def _clamped(q: Distribution, z: Tensor) -> float:
    """The share of draws of a continuous q that are equal at the largest or smallest value, where its sampler
    cuts them off."""
    if discrete(q):
        return 0.0
    z = z.flatten(1) if z.ndim > 1 else z.unsqueeze(1)
    counts = torch.stack([(z == end).sum(0) for end in (z.amin(0), z.amax(0))])
    constant = z.amin(0) == z.amax(0)  # such as the entries of a triangular draw
    return float(counts.where((counts >= CLAMPED) & ~constant, 0).amax()) / len(z)


def _disagreement(q: Distribution, z: Tensor, comparisons: int) -> str:
    """What the mean score says about sampler and density, in words, or nothing."""
    try:
        if type(unwrap(q)).log_prob is Distribution.log_prob or moving_with(q):
            return ""
        terms = score_terms(q, z)
    except (NotImplementedError, RuntimeError, ValueError):
        return ""  # those who need the score will say so
    for name, score in zip(parameters(q), terms, strict=True):
        score = score.double()
        mean, error = score.mean(0), score.std(0) / len(z) ** 0.5
        heavy = (_effective(score) < TYPICAL) & (error > 0)
        size = score.abs().amax(0)
        off = (mean.abs() > deviation_limit(comparisons, FALSE_ALARM) * error + ROUNDING * size) & ~heavy
        if off.any():
            i = int(off.flatten().nonzero()[0])
            return (
                f"the mean score with respect to {name} is {mean.flatten()[i]:.3g} ± "
                f"{error.flatten()[i]:.1g}, not 0: "
                f"sampler and density of {kind(q)} disagree"
            )
    return ""


def _effective(values: Tensor) -> Tensor:
    """How many of the values (M, …) make up their variance: M over the kurtosis."""
    squares = (values - values.mean(0)) ** 2
    return squares.sum(0) ** 2 / (squares**2).sum(0).clamp_min(1e-300)


def judge(frame: pd.DataFrame, sampler: Sampler, by_score: dict[str, bool], missing: str) -> pd.DataFrame:
    """`frame`, its `unbiased` withdrawn where a check fails, with a column `note` that says which.

    `by_score` says for each estimator whether it weighs the score; `missing` why there is no exact gradient.
    Columns needed: estimator, parameter, coordinate, exact, mean, bias, bias_se, effective, heavy, broken,
    unbiased.
    """
    limit = deviation_limit(3 * len(frame), FALSE_ALARM)
    exact, bias, error = (frame[name].to_numpy(dtype=float) for name in ("exact", "bias", "bias_se"))
    known, broken = ~np.isnan(exact), frame["broken"].to_numpy(dtype=float)
    typical = (frame["effective"].to_numpy(dtype=float) >= TYPICAL) | (error == 0)
    rounding = max(ROUNDING, UNITS * torch.finfo(sampler.draws.dtype).eps)
    allowed = limit * error + rounding * np.abs(exact[known]).max(initial=0.0)
    seen = typical & known & (np.abs(np.nan_to_num(bias)) > allowed)
    weighs = np.array([by_score[name] for name in frame["estimator"]])
    claims = frame["unbiased"].to_numpy(dtype=bool)
    notes: list[list[str]] = [[] for _ in range(len(frame))]
    for i in range(len(frame)):
        if broken[i] > 0:
            notes[i].append(not_finite(broken[i]))
            continue
        if not claims[i]:
            continue
        if not np.isfinite(error[i]):
            notes[i].append("its variance is more than float64 holds")
        if seen[i]:
            how = (
                f"{abs(bias[i]) / error[i]:.0f} standard errors off"
                if error[i] > 0
                else "though it never varies"
            )
            notes[i].append(f"contradicts the exact gradient, {how}")
        if sampler.disagreement and (weighs[i] or not known[i]):
            notes[i].append(sampler.disagreement)
        if sampler.clamped and not (known[i] or weighs[i]):
            notes[i].append(
                f"{sampler.clamped:.1%} of the draws are cut off at an end of the support, and no exact "
                "gradient tells whether that matters"
            )
    failed = np.array([bool(note) for note in notes])
    if frame["exact"].isna().any():
        _compare_others(frame, weighs, claims & ~failed & typical, failed, notes, (limit, rounding))
    heavy = claims & ~failed & frame["heavy"].to_numpy(dtype=bool)
    for note, spread_by_few in zip(notes, heavy, strict=True):
        if spread_by_few:
            note.append("a few of its estimates make up its variance, so that its mean says little")
        if missing:
            note.append(f"no exact value: {missing}")
    return frame.assign(
        unbiased=frame["unbiased"] & ~failed,
        note=["; ".join(parts) for parts in notes],
        refuted=failed | seen,
    )


def _compare_others(
    frame: pd.DataFrame,
    weighs: np.ndarray,
    judged: np.ndarray,
    failed: np.ndarray,
    notes: list[list[str]],
    limits: tuple[float, float],
) -> None:
    """Compare the means of those that are `judged`, parameter by parameter; add to `failed` and `notes`."""
    mean, error = frame["mean"].to_numpy(dtype=float), frame["bias_se"].to_numpy(dtype=float)
    names = list(frame["estimator"])
    for group in frame.groupby(["parameter", "coordinate"]).indices.values():
        places = np.asarray(group)[judged[group]]
        apart = np.abs(mean[places][:, None] - mean[places])
        rounding = limits[1] * np.abs(mean[places]).max(initial=0.0)
        tied = limits[0] * np.hypot(error[places][:, None], error[places]) + rounding
        for a, b in np.argwhere(apart > tied):
            i, j = places[a], places[b]
            # The score is right wherever the first check passes, unless there is none.
            if weighs[i] and error[i] > 0 and not weighs[j]:
                continue
            failed[i] = True
            if not any("contradicts" in note for note in notes[i]):
                notes[i].append(f"contradicts {names[j]}")


def not_finite(share: float) -> str:
    """What is said of estimates that are NaN or infinite."""
    return (
        f"{share:.2g} of its estimates are NaN or infinite (usual causes: a derivative that is infinite at "
        "an end of the support, torch.where over a branch that is not defined everywhere, or a density that "
        "torch cannot differentiate there)"
    )
