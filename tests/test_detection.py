import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from vae_lab import load
from vae_lab.exact.linear import ppca
from vae_lab.measure.detection import auroc_interval, auroc_values
from vae_lab.measure.statistics import deviation_limit, moments, two_way_interval

ITEMS, POSITIVE = 300, 30  # as the test items of the small digits, and those of one class among them


def reach(runs: int, comparisons: int, share: float = 0.95) -> float:
    """How far chance takes a share, with one false alarm in a thousand."""
    return deviation_limit(comparisons, 1e-3) * np.sqrt(share * (1 - share) / runs)


def test_auroc_values_have_the_mean_of_sklearns_area() -> None:
    """Ties included, for any leading axes."""
    rng = np.random.default_rng(3)
    positive = rng.random(60) < 0.3
    scores = np.round(rng.normal(size=(2, 3, 60)) + positive, 1)
    values = auroc_values(scores, positive)
    expected = [[roc_auc_score(positive, row) for row in rows] for rows in scores]
    np.testing.assert_allclose(values.mean(-1), expected, rtol=1e-12)
    np.testing.assert_allclose(auroc_values(-scores, ~positive), values, rtol=1e-12)


def test_auroc_values_spread_as_the_area_does() -> None:
    """Their standard error is the standard deviation of the area over 2,000 fresh samples."""
    rng = np.random.default_rng(4)
    positive = np.arange(200) < 40
    values = auroc_values(rng.normal(size=(2000, 200)) + positive, positive)
    claimed = np.sqrt(values.var(-1).mean() / 200)
    # DeLong's divisors are 39 and 159 in place of 40 and 160, and the variance of 2,000 areas has a
    # relative standard error of √(2/1999): 4.89 of them for one false alarm in a million.
    assert values.mean(-1).var() == pytest.approx(
        claimed**2, rel=1 / 39 + deviation_limit() * (2 / 1999) ** 0.5
    )


def test_auroc_values_refuse_what_has_no_area() -> None:
    for scores, positive in (([1.0, 2.0], [True, True]), ([1.0, 2.0], [False] * 2), ([1.0], [True, False])):
        with pytest.raises(ValueError, match=r"a mask \(items,\) with both kinds of items, got shapes"):
            auroc_values(scores, positive)
    with pytest.raises(ValueError, match="NaN"):
        auroc_values([1.0, np.nan], [True, False])


def hardness(rng: np.random.Generator, law: str, size: int) -> np.ndarray:
    """What is hard about an item, for every seed alike; with mean 0 and variance 1."""
    return rng.normal(size=size) if law == "normal" else (rng.gamma(4, size=size) - 4) / 2


def true_area(law: str, signal: float) -> float:
    """In closed form for normal scores; else by a large sample, to about two in ten thousand."""
    if law == "normal":
        return float(stats.norm.cdf(signal / np.sqrt(2 * (0.81 + 0.44**2) + 0.04)))
    rng, draws = np.random.default_rng(1), 4_000_000
    rest = np.sqrt(2 * 0.44**2 + 0.04) * rng.normal(size=draws)
    apart = hardness(rng, law, draws) - hardness(rng, law, draws)
    return float((signal + 0.9 * apart + rest > 0).mean())


def covered(law: str, signal: float, runs: int, seeds: int = 10) -> pd.DataFrame:
    """Whether the intervals of a class of thirty items against 270 hold the true area: by kinds of items,
    without them, and symmetric for the area."""
    rng, hits, positive = np.random.default_rng(0), [], np.arange(ITEMS) < POSITIVE
    area = true_area(law, signal)
    for _ in range(runs):
        scores = (signal + 0.2 * rng.normal(size=(seeds, 1))) * positive
        scores = scores + 0.9 * hardness(rng, law, ITEMS) + 0.44 * rng.normal(size=(seeds, ITEMS))
        values = auroc_values(scores, positive)
        found = auroc_interval(values, positive), auroc_interval(values), two_way_interval(values)
        hits.append([interval.low <= area <= interval.high for interval in found])
    return pd.DataFrame(hits, columns=["by kind", "of one kind", "symmetric"]).astype(float)


@pytest.mark.parametrize(("law", "signal"), [("normal", 1.0), ("normal", 2.0), ("gamma", 3.0)])
def test_the_interval_covers_the_area_of_a_single_class(law: str, signal: float) -> None:
    """Areas of 0.76, 0.92 and 0.98, by ten seeds, as in chapter 13."""
    hits = covered(law, signal, runs=2_000)
    assert 0.93 - reach(len(hits), 3) < hits["by kind"].mean() < 0.97 + reach(len(hits), 3)
    gain = moments(hits["by kind"] - hits["symmetric"])
    assert signal == 1 or gain.mean > deviation_limit(2, 1e-3) * gain.mean_se


def test_where_few_items_decide_it_is_too_short_but_less_so_than_a_symmetric_one() -> None:
    """With an area of 0.98 nearly all of the thirty items are beyond the others."""
    hits = covered("normal", 3.0, runs=3_000)
    assert hits["by kind"].mean() == pytest.approx(0.91, abs=reach(len(hits), 3, 0.91))
    assert hits["by kind"].mean() < 0.95 - reach(len(hits), 3)
    for other in ("of one kind", "symmetric"):
        gain = moments(hits["by kind"] - hits[other])
        assert gain.mean > deviation_limit(3, 1e-3) * gain.mean_se
    assert covered("normal", 4.0, runs=1_000)["by kind"].mean() < hits["by kind"].mean() - reach(1_000, 3)


def test_with_seeds_that_agree_the_variance_is_delongs_with_welchs_freedom() -> None:
    """By his placements: the share of the other kind that an item is on the right side of."""
    rng = np.random.default_rng(5)
    for m, n in ((3, 297), (30, 50)):
        x, y = rng.normal(size=m) + 1, rng.normal(size=n)
        right = x[:, None] > y
        area = right.mean()
        squared = np.array([right.mean(1).var(ddof=1) / m, right.mean(0).var(ddof=1) / n])
        freedom = squared.sum() ** 2 / (squared**2 / [m - 1, n - 1]).sum()
        half = stats.t.ppf(0.95, freedom) * np.sqrt(squared.sum()) / (area * (1 - area))
        positive = np.arange(m + n) < m
        values = auroc_values(np.tile(np.concatenate([x, y]), (2, 1)), positive)
        interval = auroc_interval(values, np.where(positive, "anomaly", "normal"), level=0.9)
        expected = area, expit(logit(area) - half), expit(logit(area) + half)
        assert interval == pytest.approx(expected)


def test_the_interval_covers_the_areas_of_the_books_own_scores() -> None:
    """PPCA's of each digit left out: thirty items of it and 270 others, drawn from all that there are."""
    data, folds, runs, hits = load("digits", None), 6, 200, []
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
            interval = auroc_interval(values, few)
            hits.append(interval.low <= area <= interval.high)
    assert 0.93 - reach(len(hits), 1) < np.mean(hits) < 0.97 + reach(len(hits), 1)


@pytest.mark.parametrize("signal", [2.0, 3.0])
def test_the_interval_covers_averages_over_classes(signal: float) -> None:
    """Of ten classes, each the anomaly once, on the same items."""
    rng, seeds, classes, runs, hits = np.random.default_rng(0), 5, 10, 400, []
    labels = np.arange(ITEMS) % classes
    positive = labels == np.arange(classes)[:, None, None]
    for _ in range(runs):
        scores = (signal + 0.2 * rng.normal(size=(classes, seeds, 1))) * positive
        scores = scores + 0.9 * rng.normal(size=(classes, 1, ITEMS))
        scores = scores + 0.44 * rng.normal(size=(classes, seeds, ITEMS))
        areas = [auroc_values(score, mask[0]) for score, mask in zip(scores, positive, strict=True)]
        interval = auroc_interval(np.mean(areas, 0))
        hits.append(interval.low <= true_area("normal", signal) <= interval.high)
    assert 0.93 - reach(runs, 2) < np.mean(hits) < 0.97


@pytest.mark.parametrize("signal", [1.0, 2.0])
def test_the_two_way_interval_covers_differences_of_areas(signal: float) -> None:
    """Of two detectors of each of ten classes, on the same items, averaged over classes: as in chapter 13."""
    rng, seeds, classes, runs, hits = np.random.default_rng(0), 5, 10, 200, []
    positive = np.arange(ITEMS) % classes == np.arange(classes)[:, None, None]
    gap = true_area("normal", signal) - true_area("normal", 0.8 * signal)
    for _ in range(runs):
        known = 0.9 * rng.normal(size=(classes, 1, ITEMS))  # what is hard about an item, for both
        areas = []
        for share in (1.0, 0.8):
            scores = (share * signal + 0.2 * rng.normal(size=(classes, seeds, 1))) * positive
            scores = scores + known + 0.44 * rng.normal(size=(classes, seeds, ITEMS))
            areas.append(np.mean([auroc_values(s, p[0]) for s, p in zip(scores, positive, strict=True)], 0))
        interval = two_way_interval(areas[0] - areas[1])
        hits.append(interval.low <= gap <= interval.high)
    assert 0.93 - reach(runs, 2) < np.mean(hits) < 0.97 + reach(runs, 2)


def test_seeds_alone_give_students_interval_of_the_log_odds() -> None:
    """To first order in the log-odds, that is, with the areas of seeds and no item that differs."""
    areas = np.array([0.8, 0.84, 0.86, 0.81, 0.9])
    interval = auroc_interval(np.tile(areas[:, None], 40), np.arange(40) < 10)
    half = stats.t.ppf(0.975, 4) * stats.sem(areas) / (areas.mean() * (1 - areas.mean()))
    assert interval.mean == pytest.approx(areas.mean())
    assert logit(interval.high) - logit(interval.mean) == pytest.approx(half)
    assert logit(interval.mean) - logit(interval.low) == pytest.approx(half)


def test_the_opposite_score_has_the_opposite_interval_and_a_higher_level_a_wider_one() -> None:
    rng, positive = np.random.default_rng(2), np.arange(200) < 20
    scores = rng.normal(size=200) + positive + 0.3 * rng.normal(size=(5, 200))
    values = auroc_values(scores, positive)
    interval, wide = (auroc_interval(values, positive, level) for level in (0.95, 0.99))
    assert 0 < wide.low < interval.low < interval.mean < interval.high < wide.high < 1
    opposite = auroc_interval(auroc_values(-scores, positive), torch.tensor(positive))
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
    with pytest.raises(ValueError, match="NaN or infinity"):
        auroc_interval([[0.5, np.nan, 1.0]] * 2)
    with pytest.raises(ValueError, match=r"an area lies between 0 and 1, got -0\.2; differences"):
        auroc_interval([[-0.5, 0.1, -0.2]] * 2)


def test_scores_that_tell_nothing_have_an_area_of_one_half_for_certain() -> None:
    values = auroc_values(np.zeros((3, 20)), np.arange(20) < 5)
    assert auroc_interval(values, np.arange(20) < 5) == auroc_interval(values) == (0.5, 0.5, 0.5)
