import numpy as np
import pytest
from scipy import stats

from vae_lab.statistics import bootstrap_interval, deviation_limit, equivalence, mean_interval, moments


def test_interval_is_students() -> None:
    values = [3.1, 2.7, 4.4, 3.9, 2.2]
    expected = stats.t.interval(0.9, 4, np.mean(values), stats.sem(values))
    interval = mean_interval(values, level=0.9)
    np.testing.assert_allclose((interval.low, interval.high), expected)
    assert f"{interval:.1f}" == "3.3 [2.4, 4.1]"


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
