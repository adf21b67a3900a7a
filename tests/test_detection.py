import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logit

from vae_lab import load
from vae_lab.exact.linear import ppca
from vae_lab.measure.detection import auroc_interval
from vae_lab.measure.statistics import Interval, auroc_values, deviation_limit, two_way_interval

ITEMS, POSITIVE = 300, 30  # as the test items of the small digits, and those of one class among them


def covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def reach(runs: int, comparisons: int) -> float:
    """What chance may take away from a coverage of 95%, or add to it."""
    return deviation_limit(comparisons) * np.sqrt(0.95 * 0.05 / runs)


def hardness(rng: np.random.Generator, law: str, size: int) -> np.ndarray:
    """What is hard about an item, for every seed alike; with mean 0 and variance 1."""
    return rng.normal(size=size) if law == "normal" else (rng.gamma(4, size=size) - 4) / 2


def true_area(law: str, signal: float) -> float:
    """In closed form for normal scores; else by a large sample, to about two in ten thousand."""
    if law == "normal":
        return float(stats.norm.cdf(signal / np.sqrt(2 * (0.81 + 0.44**2) + 0.04)))
    rng, draws = np.random.default_rng(1), 4_000_000
    rest = np.sqrt(2 * 0.44**2 + 0.04) * rng.normal(size=draws)
    return float((signal + 0.9 * (hardness(rng, law, draws) - hardness(rng, law, draws)) + rest > 0).mean())


@pytest.mark.parametrize(
    ("law", "signal"), [("normal", 0.0), ("normal", 1.0), ("normal", 2.0), ("gamma", 1.0), ("gamma", 3.0)]
)
def test_the_interval_covers_the_area_of_a_single_class(law: str, signal: float) -> None:
    """Areas from 0.5 to 0.98: of thirty items against 270, by ten seeds, as in chapter 13."""
    rng, seeds, runs, hits = np.random.default_rng(0), 10, 600, []
    positive, area = np.arange(ITEMS) < POSITIVE, true_area(law, signal)
    for _ in range(runs):
        scores = (signal + 0.2 * rng.normal(size=(seeds, 1))) * positive
        scores = scores + 0.9 * hardness(rng, law, ITEMS) + 0.44 * rng.normal(size=(seeds, ITEMS))
        hits.append(covers(auroc_interval(auroc_values(scores, positive), positive), area))
    assert 0.93 - reach(runs, 5) < np.mean(hits) < 0.97 + reach(runs, 5)


def test_the_interval_covers_the_areas_of_the_books_own_scores() -> None:
    """PPCA's of each digit left out: thirty items of it and 270 others, drawn from all that there are."""
    data, folds, runs, hits = load("digits", None), 6, 100, []
    images = torch.cat([data.train, data.test]).double()
    labels = torch.cat([data.train_labels, data.test_labels])
    rng = np.random.default_rng(0)
    for left_out in range(10):
        parts = [np.array_split(rng.permutation(np.flatnonzero(labels == k)), folds) for k in range(10)]
        scores = np.empty(len(labels))
        for fold in range(folds):  # every item is scored by a model that has not seen it
            seen = [
                i for k in range(10) for f in range(folds) if k != left_out and f != fold for i in parts[k][f]
            ]
            own = np.concatenate([parts[k][fold] for k in range(10)])
            scores[own] = -ppca(images[seen], 8).distribution.log_prob(images[own])
        positive = labels.numpy() == left_out
        area = auroc_values(scores, positive).mean()
        few = np.arange(ITEMS) < POSITIVE
        for _ in range(runs):
            drawn = [rng.choice(np.flatnonzero(positive == kind), n) for kind, n in ((1, 30), (0, 270))]
            values = auroc_values(np.tile(scores[np.concatenate(drawn)], (2, 1)), few)
            hits.append(covers(auroc_interval(values, few), area))
    assert 0.93 - reach(len(hits), 1) < np.mean(hits) < 0.97 + reach(len(hits), 1)


@pytest.mark.parametrize("signal", [1.0, 2.0, 3.0])
def test_the_interval_covers_averages_over_classes(signal: float) -> None:
    """Of ten classes, each the anomaly once, on the same items."""
    rng, seeds, classes, runs, hits = np.random.default_rng(0), 5, 10, 200, []
    labels = np.arange(ITEMS) % classes
    positive = labels == np.arange(classes)[:, None, None]
    for _ in range(runs):
        scores = (signal + 0.2 * rng.normal(size=(classes, seeds, 1))) * positive
        scores = scores + 0.9 * rng.normal(size=(classes, 1, ITEMS))
        scores = scores + 0.44 * rng.normal(size=(classes, seeds, ITEMS))
        areas = [auroc_values(score, mask[0]) for score, mask in zip(scores, positive, strict=True)]
        hits.append(covers(auroc_interval(np.mean(areas, 0)), true_area("normal", signal)))
    assert 0.93 - reach(runs, 3) < np.mean(hits) < 0.97 + reach(runs, 3)


def test_where_a_few_items_decide_it_is_a_little_short_and_far_better_than_a_symmetric_one() -> None:
    """As its docstring says: with an area of 0.98 most of the thirty items are beyond all others."""
    rng, runs, hits, symmetric = np.random.default_rng(0), 600, [], []
    positive, area = np.arange(ITEMS) < POSITIVE, true_area("normal", 3)
    for _ in range(runs):
        scores = (3 + 0.2 * rng.normal(size=(10, 1))) * positive + 0.9 * rng.normal(size=ITEMS)
        values = auroc_values(scores + 0.44 * rng.normal(size=(10, ITEMS)), positive)
        hits.append(covers(auroc_interval(values, positive), area))
        symmetric.append(covers(two_way_interval(values), area))
    assert 0.98 < area < 0.985
    assert np.mean(hits) == pytest.approx(0.91, abs=reach(runs, 1))
    assert np.mean(hits) > np.mean(symmetric) + 0.03


def test_seeds_alone_give_students_interval_of_the_log_odds() -> None:
    """To first order in the log-odds, that is, with the areas of seeds and no item that differs."""
    areas = np.array([0.8, 0.84, 0.86, 0.81, 0.9])
    interval = auroc_interval(np.tile(areas[:, None], 40), np.arange(40) < 10)
    half = stats.t.ppf(0.975, 4) * stats.sem(areas) / (areas.mean() * (1 - areas.mean()))
    assert interval.mean == pytest.approx(areas.mean())
    assert logit(interval.high) - logit(interval.mean) == pytest.approx(half)
    assert logit(interval.mean) - logit(interval.low) == pytest.approx(half)


def test_the_rarer_kind_decides_and_the_opposite_score_has_the_opposite_interval() -> None:
    rng, positive = np.random.default_rng(2), np.arange(200) < 20
    scores = rng.normal(size=200) + positive + 0.3 * rng.normal(size=(5, 200))
    interval, wide, fewer = (
        auroc_interval(auroc_values(rows, mask), mask, level)
        for rows, mask, level in (
            (scores, positive, 0.95),
            (scores, positive, 0.99),
            (scores[:, :110], positive[:110], 0.95),
        )
    )
    assert 0 < wide.low < interval.low < interval.mean < interval.high < wide.high < 1
    # Half of the others say little less, since the twenty positive items are the same.
    assert fewer.high - fewer.low < 1.3 * (interval.high - interval.low)
    opposite = auroc_interval(auroc_values(-scores, positive), positive)
    assert opposite == pytest.approx((1 - interval.mean, 1 - interval.high, 1 - interval.low))


def test_scores_that_never_err_have_a_limit_by_the_rarer_kind() -> None:
    """With n pairs in order the share p of such pairs has pⁿ ≥ 2.5%."""
    positive = np.arange(100) < 30
    interval = auroc_interval(auroc_values(np.tile(positive * 1.0, (3, 1)), positive), positive)
    assert interval == pytest.approx((1.0, 0.025 ** (1 / 30), 1.0))
    opposite = auroc_interval(auroc_values(np.tile(positive * -1.0, (3, 1)), positive), positive)
    assert opposite == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 30)))


def test_a_single_item_is_taken_as_given() -> None:
    """So only the others' spread counts: that of a share of them."""
    rng, single = np.random.default_rng(3), np.arange(400) == 0
    scores = np.tile(rng.normal(size=400), (2, 1))
    scores[:, 0] = 0.5
    interval = auroc_interval(auroc_values(scores, single), single)
    share = (scores[0, 1:] < 0.5).mean()
    error = np.sqrt(share * (1 - share) / 398)
    assert interval.mean == pytest.approx(share)
    assert logit(interval.high) - logit(share) == pytest.approx(
        stats.t.ppf(0.975, 398) * error / (share * (1 - share))
    )


def test_values_that_have_no_interval_are_refused() -> None:
    positive = np.arange(6) < 3
    for values in (np.ones(6), np.ones((1, 6)), np.ones((2, 5))):
        with pytest.raises(ValueError, match=r"expected values \(seeds, items\) of 2 seeds at least"):
            auroc_interval(values, positive)
    with pytest.raises(ValueError, match="no kind has 2 items"):
        auroc_interval(np.ones((2, 6)), np.arange(6))
