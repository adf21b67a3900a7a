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
        sign, digits = (spec[0], spec[1:]) if spec[:1] in {"+", "-", " "} else ("", spec)
        mean, low, high = (format(float(value), f"{sign}z{digits}") for value in self)  # z: no -0.00
        return f"{mean} [{low}, {high}]"


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


def ratio_interval(
    value: float, value_se: float, other: float, other_se: float, level: float = 0.95
) -> Interval:
    """Interval for the ratio of two independent positive estimates, such as two variances of `moments`.

    Normal for the logarithm, so that a ratio and its inverse have inverse intervals, and none reaches 0
    however large the standard errors are.
    Estimates from common random numbers mostly rise and fall together; for these it is too wide.

    >>> f"{ratio_interval(4.0, 0.2, 2.0, 0.2):.2f}"
    '2.00 [1.61, 2.49]'
    """
    from scipy.special import ndtri

    ratio, error = value / other, np.hypot(value_se / value, other_se / other)
    factor = np.exp(ndtri((1 + level) / 2) * error)
    return Interval(float(ratio), float(ratio / factor), float(ratio * factor))


def two_way_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Interval for the mean of `values` (seeds, items) that vary with both, for new seeds and new items
    alike.

    Such as the difference of two paired models on the same test items. The mean squares of seeds A, of items
    B and of what is left E estimate the variance of the mean, (A + B − E) / (seeds · items), and Student's t
    has the degrees of freedom of Satterthwaite's approximation. Where seeds dominate it is `mean_interval` of
    the means over items. It covers a little more than `level` where neither seeds nor items differ but by
    chance. Source: satterthwaite1946approximate.

    >>> f"{two_way_interval([[1.0, 2.0], [2.0, 3.0]]):.1f}"
    '2.0 [-1.0, 5.0]'
    """
    from scipy.special import stdtrit

    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"expected (seeds, items), at least 2 of each, got shape {values.shape}")
    variance, freedom = two_way_variance(values, [values])
    mean, half = values.mean(), stdtrit(freedom, (1 + level) / 2) * np.sqrt(variance)
    return Interval(float(mean), float(mean - half), float(mean + half))


def two_way_variance(values: np.ndarray, kinds: list[np.ndarray]) -> tuple[float, float]:
    """The variance of the mean of `values` (seeds, items) over new seeds and new items of the same kinds, and
    its degrees of freedom.

    `kinds` holds the values (seeds, n) of the items of each kind, n >= 2; items of none are taken as given.
    With mean squares A of seeds, B of items and E of what is left it is (A + B − E) / (seeds · items), where
    B and E are sums over kinds, each weighted by its share of the items; and it is never less than
    E / (seeds · items). Source: satterthwaite1946approximate.
    """
    seeds, items = values.shape
    terms, freedoms = [values.mean(1).var(ddof=1) / seeds], [seeds - 1]
    for own in kinds:
        n = own.shape[1]
        weight, left = (n / items) ** 2, own - own.mean(0) - own.mean(1, keepdims=True) + own.mean()
        freedoms += [n - 1, (seeds - 1) * (n - 1)]
        terms += [weight * own.mean(0).var(ddof=1) / n, -weight * (left**2).sum() / freedoms[-1] / left.size]
    variance = max(sum(terms), -sum(term for term in terms if term < 0))
    squares = sum(term**2 / freedom for term, freedom in zip(terms, freedoms, strict=True))
    return variance, variance**2 / squares if squares else 1.0


def distances_from_normal(values: ArrayLike) -> dict[str, float]:
    """How far the law of a large sample `values` (n,) is from N(0, 1), by several measures.

    Wasserstein's distance (of order 1: how far the quantiles lie apart, on average); total variation and the
    Kullback-Leibler divergence of the law from N(0, 1) in nats, both with values rounded to a twentieth, so
    that they are finite for laws without a density; and the sizes of skewness and excess kurtosis, as far as
    they exceed `deviation_limit()` standard errors, so that two laws without skewness have the same.
    """
    from scipy.special import log_ndtr, ndtri

    def size(terms: np.ndarray) -> float:
        mean, error = terms.mean(), terms.std() / np.sqrt(len(terms))
        return float(abs(mean)) if abs(mean) > deviation_limit() * error else 0.0

    values = np.sort(np.asarray(values, dtype=float).ravel())
    quantiles = ndtri((np.arange(len(values)) + 0.5) / len(values))
    cells, counts = np.unique(np.round(values * 20), return_counts=True)
    shares = counts / len(values)
    near, far = (log_ndtr((end - np.abs(cells)) / 20) for end in (0.5, -0.5))
    normal = near + np.log1p(-np.exp(far - near))  # the logarithm of the normal law's share, in any tail
    return {
        "Wasserstein": float(np.abs(values - quantiles).mean()),
        "total variation": float(np.maximum(shares - np.exp(normal), 0).sum()),
        "Kullback-Leibler": float((shares * (np.log(shares) - normal)).sum()),
        "skewness": size(values**3),
        "excess kurtosis": size(values**4 - 3),
    }


def deviation_limit(comparisons: int = 1, false_alarm: float = 1e-6) -> float:
    """How many standard errors a mean may be away from the truth before it counts as wrong.

    With this limit, all of `comparisons` two-sided comparisons pass with probability 1 − `false_alarm`
    at least (Bonferroni) when nothing is wrong and the means are normal.

    >>> round(deviation_limit(), 2)
    4.89
    """
    from scipy.special import ndtri

    return float(-ndtri(false_alarm / (2 * comparisons)))


def visible_deviation(standard_error: ArrayLike, limit: float, power: float = 0.999) -> np.ndarray:
    """The smallest deviation that a comparison with such a `standard_error` all but surely shows: its shape.

    With probability `power` at least it leads to a value further than `limit` standard errors from the truth.
    So it says what an agreement is worth.

    >>> float(visible_deviation(0.1, limit=deviation_limit()).round(2))
    0.8
    """
    from scipy.special import ndtri

    return (limit + ndtri(power)) * np.asarray(standard_error, dtype=float)
