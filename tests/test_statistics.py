import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from vae_lab.measure.statistics import (
    Interval,
    auroc_values,
    bootstrap_interval,
    deviation_limit,
    equivalence,
    mean_interval,
    moments,
)


def test_interval_is_students() -> None:
    values = [3.1, 2.7, 4.4, 3.9, 2.2]
    expected = stats.t.interval(0.9, 4, np.mean(values), stats.sem(values))
    interval = mean_interval(values, level=0.9)
    np.testing.assert_allclose((interval.low, interval.high), expected)
    assert f"{interval:.1f}" == "3.3 [2.4, 4.1]"


@pytest.mark.parametrize(
    ("spec", "text"),
    [(".2f", "0.00 [-0.12, 0.25]"), ("+.1f", "+0.0 [-0.1, +0.2]"), (".0%", "0% [-12%, 25%]")],
)
def test_interval_has_no_negative_zero(spec: str, text: str) -> None:
    assert format(Interval(-0.001, -0.12, 0.246), spec) == text


@pytest.mark.parametrize("values", [[1.0], [], [[1.0, 2.0]]])
def test_interval_needs_two_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 2 values"):
        mean_interval(values)


def test_interval_covers_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).normal(size=(4_000, 5))
    intervals = [mean_interval(row) for row in samples]
    covered = np.mean([interval.low < 0 < interval.high for interval in intervals])
    assert abs(covered - 0.95) < deviation_limit() * np.sqrt(0.95 * 0.05 / 4_000)


def test_moments_know_their_own_errors() -> None:
    """Over many repetitions, the errors in standard errors have variance 1, for a skewed distribution too."""
    rng = np.random.default_rng(0)
    repeats = [moments(rng.gamma(2.0, size=5_000)) for _ in range(1_000)]
    mean_score = [(m.mean - 2) / m.mean_se for m in repeats]
    variance_score = [(m.variance - 2) / m.variance_se for m in repeats]
    for score in (mean_score, variance_score):
        spread = moments(score)
        # The estimated standard error adds of the order of 1/√n to the spread.
        assert abs(spread.variance - 1) < deviation_limit(2) * spread.variance_se


def test_deviation_limit_is_bonferronis() -> None:
    assert stats.norm.sf(deviation_limit(7, 1e-3)) * 2 * 7 == pytest.approx(1e-3)


def test_the_bootstrap_covers_what_varies_with_seeds_and_items() -> None:
    rng = np.random.default_rng(0)
    seeds, items, runs = 20, 60, 400
    covered = 0
    for _ in range(runs):
        values = rng.normal(size=(seeds, 1)) + rng.normal(size=(1, items)) + rng.normal(size=(seeds, items))
        interval = bootstrap_interval(values, resamples=500, seed=int(rng.integers(2**31)))
        covered += interval.low <= 0 <= interval.high
    # Of 400 intervals of level 95%. With 20 seeds the bootstrap's own standard error is 2.5% too short, which
    # takes it to 94.4%; the limits have a false-alarm rate of 1e-6.
    low, high = stats.binom(runs, 0.944).ppf([5e-7, 1 - 5e-7])
    assert low <= covered <= high


def test_the_bootstrap_repeats_and_follows_its_level() -> None:
    values = np.random.default_rng(1).normal(size=(5, 40))
    wide, again, narrow = (bootstrap_interval(values, level) for level in (0.95, 0.95, 0.5))
    assert wide == again and wide.low < narrow.low < narrow.high < wide.high
    assert wide.mean == pytest.approx(values.mean())
    with pytest.raises(ValueError, match=r"expected \(seeds, items\), at least 2 of each, got shape \(5,\)"):
        bootstrap_interval(values[:, 0])


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


@pytest.mark.parametrize("shift", [-0.3, -0.05, 0.0, 0.08, 0.1, 0.4])
def test_equivalence_is_two_one_sided_tests(shift: float) -> None:
    values = np.random.default_rng(2).normal(shift, 0.05, size=6)
    above = stats.ttest_1samp(values, -0.1, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 0.1, alternative="less").pvalue
    assert equivalence(values, 0.1) == pytest.approx(max(above, below), rel=1e-9)


def test_equivalence_of_equal_values_and_bad_input() -> None:
    assert equivalence([0.05, 0.05], 0.1) == 0 and equivalence([0.2, 0.2], 0.1) == 1
    for values, margin in (([0.1], 0.1), ([0.1, 0.2], 0.0), ([[0.1], [0.2]], 0.1)):
        with pytest.raises(ValueError, match="at least 2 values in one axis and a positive margin"):
            equivalence(values, margin)
