"""Means with their uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Interval(NamedTuple):
    """A mean and its confidence interval; prints as `mean [low, high]`."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's t interval for the mean of independent `values` (n,), n >= 2.

    Exact for normal values. With the five seeds that most experiments use it is 2.8 standard errors
    to each side, which a percentile bootstrap of five numbers would understate.

    >>> f"{mean_interval([1.0, 2.0, 3.0]):.2f}"
    '2.00 [-0.48, 4.48]'
    """
    from scipy.special import stdtrit

    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs at least 2 values in one axis, got shape {values.shape}")
    mean = values.mean()
    half = stdtrit(len(values) - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(float(mean), float(mean - half), float(mean + half))


class Moments(NamedTuple):
    """Mean and variance of a sample, each with its standard error."""

    mean: float
    mean_se: float
    variance: float
    variance_se: float


def moments(values: ArrayLike) -> Moments:
    """Mean and unbiased variance of independent `values` (n,), with standard errors.

    The variance's standard error comes from the fourth central moment m4, √((m4 − variance²) / n), and
    so holds for values that are not normal; the heavier their tails, the more of them it takes.
    """
    values = np.asarray(values, dtype=float)
    n, centred = len(values), values - values.mean()
    variance = (centred**2).sum() / (n - 1)
    spread = (centred**4).mean() - variance**2
    return Moments(
        float(values.mean()),
        float(np.sqrt(variance / n)),
        float(variance),
        float(np.sqrt(max(spread, 0.0) / n)),
    )


def deviation_limit(comparisons: int = 1, false_alarm: float = 1e-6) -> float:
    """How many standard errors a mean may lie off the truth before it counts as wrong.

    With this limit, all of `comparisons` two-sided comparisons pass with probability 1 − `false_alarm`
    at least (Bonferroni) when nothing is wrong and the means are normal.

    >>> round(deviation_limit(), 2)
    4.89
    """
    from scipy.special import ndtri

    return float(-ndtri(false_alarm / (2 * comparisons)))
