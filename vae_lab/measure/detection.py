"""How surely a score detects anomalies."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .statistics import Interval, two_way_variance


def auroc_values(scores: ArrayLike, positive: ArrayLike) -> np.ndarray:
    """One value per item whose mean is the area under the ROC curve of `scores` (..., items): their shape.

    The area is the probability that a positive item scores higher than another, ties counting half;
    `positive` (items,) is a mask. To first order the values are independent over items, whatever the model,
    so that averages and differences of areas on the same items are averages and differences of values, and
    `two_way_interval` gives their uncertainty. Raises ValueError without an item of either kind.
    Source: delong1988comparing.

    >>> float(auroc_values([0.1, 0.4, 0.3, 0.9], [False, False, True, True]).mean())
    0.75
    """
    from scipy.stats import rankdata

    scores, positive = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    if positive.shape != scores.shape[-1:] or positive.all() or not positive.any():
        raise ValueError(
            f"expected scores (..., items) and a mask (items,) with both kinds of items, "
            f"got shapes {scores.shape} and {positive.shape} with {int(positive.sum())} positive"
        )
    if np.isnan(scores).any():
        raise ValueError("the scores hold NaN, which has no rank")
    ranks, values = rankdata(scores, axis=-1), np.empty(scores.shape)
    for kind in (True, False):
        own, others = positive == kind, np.count_nonzero(positive != kind)
        below = (ranks[..., own] - rankdata(scores[..., own], axis=-1)) / others  # of the other kind
        shares = below if kind else 1 - below
        area = shares.mean(-1, keepdims=True)
        values[..., own] = area + (shares - area) * (scores.shape[-1] / np.count_nonzero(own))
    return values


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
    variance, freedom = two_way_variance(values, parts)
    half = stdtrit(freedom, (1 + level) / 2) * np.sqrt(variance) / (area * (1 - area))
    low, high = expit(logit(area) + np.array([-half, half]))
    return Interval(area, float(low), float(high))
