import numpy as np
import pytest
from scipy import stats

from vae_lab.statistics import deviation_limit, mean_interval, moments


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
