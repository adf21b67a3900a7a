"""How surely a score detects anomalies."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .statistics import Interval


def auroc_interval(values: ArrayLike, kinds: ArrayLike | None = None, level: float = 0.95) -> Interval:
    """Interval for an area under the ROC curve, for new seeds and new items alike.

    `values` (seeds, items) are `auroc_values` of one score, or their averages over several choices of what is
    positive. `kinds` (items,) says which items are of one kind, such as the mask of the positive ones, where
    there will be as many of each again; without it any item may be of any kind. A kind with a single item is
    taken as given, since nothing says how others of it would do.

    As `two_way_interval`, but with a mean square of items for every kind, because the rarer one decides;
    and symmetric for the log-odds of the area, because near 1 it has further to fall than to rise. An area
    of 0 or 1 has Clopper and Pearson's limit, with these seeds, for as many independent pairs as the rarer
    kind has items (as there are items, without kinds). The interval is too short where few items decide:
    with thirty positive ones it covers 0.91 of areas of 0.98, and less the nearer they are to 1.
    Raises ValueError for values that are not finite or whose mean is no area, and for shapes that do not fit.
    Sources: satterthwaite1946approximate, delong1988comparing.

    >>> from vae_lab.measure.statistics import auroc_values
    >>> positive = [True, True, True, False, False, False]
    >>> scores = [[0.4, 0.7, 0.9, 0.1, 0.5, 0.2], [0.3, 0.7, 0.9, 0.1, 0.5, 0.2]]
    >>> f"{auroc_interval(auroc_values(scores, positive), positive):.2f}"
    '0.89 [0.09, 1.00]'
    """
    from scipy.special import expit, logit, stdtrit

    values = np.asarray(values, dtype=float)
    kinds = np.zeros(values.shape[-1:]) if kinds is None else np.asarray(kinds)
    if values.ndim != 2 or len(values) < 2 or kinds.shape != values.shape[1:]:
        raise ValueError(
            f"expected values (seeds, items) of 2 seeds at least, and kinds (items,); "
            f"got shapes {values.shape} and {kinds.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("the values hold NaN or infinity; auroc_values gives finite ones")
    names, kind = np.unique(kinds, return_inverse=True)
    parts = [own for own in (values[:, kind == k] for k in range(len(names))) if own.shape[1] > 1]
    if not parts:
        raise ValueError(f"no kind has 2 items; give more than the {len(kinds)}, or fewer kinds")
    area = float(values.mean())
    if not 0 <= area <= 1:
        raise ValueError(f"an area lies between 0 and 1, got {area:.3g}; differences have two_way_interval")
    if area in {0, 1}:
        limit = ((1 - level) / 2) ** (1 / min(own.shape[1] for own in parts))
        return Interval(area, area * limit, 1 - (1 - area) * limit)
    variance, freedom = _variance_of_mean(values, parts)
    half = stdtrit(freedom, (1 + level) / 2) * np.sqrt(variance) / (area * (1 - area))
    low, high = expit(logit(area) + np.array([-half, half]))
    return Interval(area, float(low), float(high))


def _variance_of_mean(values: np.ndarray, parts: list[np.ndarray]) -> tuple[float, float]:
    """Of `values` (seeds, items), with its degrees of freedom; `parts` (seeds, n) have the items of a kind.

    From the mean squares of seeds, and for every kind those of items and of what is left.
    """
    seeds, items = values.shape
    terms, freedoms = [values.mean(1).var(ddof=1) / seeds], [seeds - 1]
    for own in parts:
        n, weight = own.shape[1], (own.shape[1] / items) ** 2
        left = ((own - own.mean(0) - own.mean(1, keepdims=True) + own.mean()) ** 2).sum()
        freedoms += [n - 1, (seeds - 1) * (n - 1)]
        terms += [weight * own.mean(0).var(ddof=1) / n, -weight * left / freedoms[-1] / (seeds * n)]
    chance = -sum(term for term in terms if term < 0)  # what is left varies at least
    variance = max(sum(terms), chance)
    squares = sum(term**2 / freedom for term, freedom in zip(terms, freedoms, strict=True))
    return variance, variance**2 / squares if squares else 1.0
