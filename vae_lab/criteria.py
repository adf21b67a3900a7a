"""Criteria of claims: what a measured quantity has to be, where the threshold comes from, and whether it is.

A criterion names a quantity, takes what was measured of it, and compares that with a threshold. What is
measured is an `Interval`, all of which has to be on the right side, a number, or several of either, each of
which has to be.

    above("ELBO gained", mean_interval(gain))           ELBO gained > 0 (all of its interval)
    below("gap", gap, 1e-6, "float64 rounds to 1e-16")  gap < 1e−06 (float64 rounds to 1e-16)
    within("slope", slope, 0.25, 0.75, "law ½")         0.25 < slope < 0.75 (law ½)

A threshold other than zero says where it comes from. A criterion that no measurement could miss says nothing:
give the values that are possible, and one that holds for all of them is an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .measure.statistics import Interval, mean_interval
from .wording import sides

# Of a false "holds" where the truth is on the threshold: by one end of a 95% interval, by two one-sided
# tests.
INTERVAL_CHANCE, EQUIVALENCE_CHANCE = 0.025, 0.05

Kind = Literal["interval", "number", "chance", "tests", "fact"]
Range = tuple[float, float]
Measured = ArrayLike | Interval | Iterable[Interval] | Mapping[Any, Any]


@dataclass(frozen=True)
class Criterion:
    """What was asked, and the answer; `vae_lab.wording.criterion_text` puts it into words.

    `what` was measured, `count` times; all of it has to lie within `bounds`, `because` of something. `value`
    is the one that is nearest to missing them, of an interval its mean; `low` and `high` are the ends of that
    interval. `kind` is how it was decided: by the ends of an "interval", by a "number", by the limit for
    "chance", by two "tests", or as a "fact". `chance` is the probability of a false "holds" where the truth
    is on the threshold, or None where none is stated.
    """

    what: str
    holds: bool
    kind: Kind
    because: str = ""
    count: int = 1
    value: float | None = None
    low: float | None = None
    high: float | None = None
    bounds: tuple[float | None, float | None] = (None, None)
    chance: float | None = None


def above(
    what: str, measured: Measured, bound: float = 0.0, because: str = "", *, possible: Range | None = None
) -> Criterion:
    """`measured` > `bound`; `possible` are the ends of the values that it could have. Raises ValueError for a
    bound without a reason, for nothing measured, and where it could not fail."""
    return _compared(what, measured, (bound, math.inf), because, possible)


def below(
    what: str, measured: Measured, bound: float = 0.0, because: str = "", *, possible: Range | None = None
) -> Criterion:
    """`measured` < `bound`; the rest as for `above`."""
    return _compared(what, measured, (-math.inf, bound), because, possible)


def within(
    what: str, measured: Measured, low: float, high: float, because: str, *, possible: Range | None = None
) -> Criterion:
    """`low` < `measured` < `high`; the rest as for `above`."""
    return _compared(what, measured, (low, high), because, possible)


def agrees(what: str, deviations: ArrayLike, limit: float, power: str) -> Criterion:
    """Each of `deviations`, in standard errors, is below the `limit` for chance (`deviation_limit`).

    Agreement is worth what a disagreement of some size would have shown: `power` says which one would have
    been seen.
    """
    if not power:
        raise ValueError(f"“{what}” agrees: say which disagreement would have been seen, or it shows nothing")
    sizes = np.abs(np.asarray(deviations, float))
    return replace(_compared(what, sizes, (-math.inf, limit), power), kind="chance")


def equivalent(
    what: str, values: ArrayLike, margin: float, because: str, *, possible: Range | None = None
) -> Criterion:
    """The mean of `values` (n,) is within ± `margin` by two one-sided t tests at 5 % each.

    That is so where its 90 % t interval is. One that is missed shows nothing, least of all a difference.
    Source: schuirmann1987comparison.
    """
    interval = mean_interval(values, 1 - 2 * EQUIVALENCE_CHANCE)
    compared = _compared(what, interval, (-margin, margin), because, possible)
    return replace(compared, kind="tests", chance=EQUIVALENCE_CHANCE)


def fact(what: str, true: bool) -> Criterion:
    """Something that is so or not, without a number."""
    return Criterion(what, bool(true), "fact")


def _compared(
    what: str, measured: Measured, bounds: Range, because: str, possible: Range | None = None
) -> Criterion:
    lows, values, highs, kind = _ends(what, measured)
    ends = _finite(bounds[0]), _finite(bounds[1])
    said = f"“{sides(what, ends)}”"
    if not because and any(end not in {None, 0.0} for end in ends):
        raise ValueError(f"{said}: say where the threshold comes from, in `because`")
    if possible is not None and bounds[0] < possible[0] and possible[1] < bounds[1]:
        raise ValueError(
            f"{said} cannot fail: only values from {possible[0]:.4g} to {possible[1]:.4g} are possible; "
            "choose a margin that leaves room to miss it"
        )
    room = np.minimum(lows - bounds[0], bounds[1] - highs)
    # NaN holds for nothing, and is the nearest to missing it.
    worst = int(np.argmin(np.where(np.isnan(room), -math.inf, room)))
    low, high = (_finite(lows[worst]), _finite(highs[worst])) if kind == "interval" else (None, None)
    chance = INTERVAL_CHANCE if kind == "interval" else None
    holds, value = bool((room > 0).all()), _finite(values[worst])
    return Criterion(what, holds, kind, because, len(values), value, low, high, ends, chance)


def _ends(what: str, measured: Measured) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], Kind]:
    """Lower ends, values and upper ends, each (n,), and whether they are those of intervals."""
    if isinstance(measured, Interval):
        measured = [measured]
    elif isinstance(measured, Mapping):
        measured = list(measured.values())
    elif hasattr(measured, "to_numpy"):  # of pandas
        measured = measured.to_numpy()
    elif not isinstance(measured, np.ndarray) and isinstance(measured, Iterable):
        measured = list(measured)
    if isinstance(measured, list) and measured and all(isinstance(m, Interval) for m in measured):
        values, lows, highs = np.array(measured, float).T
        return lows, values, highs, "interval"
    values = np.asarray(measured, float).ravel()
    if not values.size:
        raise ValueError(f"“{what}” was measured nowhere, so that nothing could miss the criterion")
    return values, values, values, "number"


def _finite(value: float) -> float | None:
    """As JSON can say it."""
    return float(value) if math.isfinite(value) else None
