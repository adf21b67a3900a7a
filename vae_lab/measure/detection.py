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

    As `two_way_interval`, but with a mean square of items for every kind, because the rarer one decides; and
    symmetric for the log-odds of the area, because an area near 1 has further to fall than to rise. Where all
    scores are in order nothing varies. Then as many pairs as the rarer kind has items are in order, too: that
    gives Clopper and Pearson's limit. The interval is too short where few items decide: with thirty positive
    ones and an area of 0.98 it covers 0.91 where scores are normal, and less where rare items are far off.
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
    seeds, items = values.shape
    area, found = float(values.mean()), [values[:, kinds == kind] for kind in np.unique(kinds)]
    found = [own for own in found if own.shape[1] > 1]
    if not found:
        raise ValueError(f"no kind has 2 items; give more than the {items}, or fewer kinds")
    terms = [(values.mean(1).var(ddof=1) / seeds, seeds - 1)]
    for own in found:
        n, weight = own.shape[1], (own.shape[1] / items) ** 2
        left = own - own.mean(0) - own.mean(1, keepdims=True) + own.mean()
        freedom = (seeds - 1) * (n - 1)
        terms += [
            (weight * own.mean(0).var(ddof=1) / n, n - 1),
            (-weight * (left**2).sum() / freedom / (seeds * n), freedom),
        ]
    parts, freedoms = np.array(terms).T
    variance = max(parts.sum(), -parts[parts < 0].sum())
    if variance == 0 or not 0 < area < 1:
        limit = ((1 - level) / 2) ** (1 / min(own.shape[1] for own in found))
        return Interval(area, area * limit, 1 - (1 - area) * limit)
    reach = stdtrit(variance**2 / (parts**2 / freedoms).sum(), (1 + level) / 2)
    half = reach * np.sqrt(variance) / (area * (1 - area))
    low, high = expit(logit(area) + np.array([-half, half]))
    return Interval(area, float(low), float(high))
