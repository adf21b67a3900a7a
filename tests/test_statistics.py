import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from vae_lab.measure.statistics import (
    Interval,
    deviation_limit,
    distances_from_normal,
    mean_interval,
    moments,
    ratio_interval,
    two_way_interval,
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


# What the book's intervals are taken of: values that vary with 5 seeds and some hundreds of items, such as
# scores of models on the same test items. Numbers of both; standard deviations of seeds, of items, and of
# what is left.
REGIMES = {
    "only seeds": (5, 300, 1.0, 0.0, 0.0),
    "mostly seeds": (5, 300, 1.0, 1.0, 1.0),
    "seeds and items": (5, 300, 0.3, 1.0, 1.0),
    "mostly items": (5, 300, 0.1, 3.0, 1.0),
    "only items": (5, 300, 0.0, 1.0, 1.0),
    "mostly chance": (5, 300, 0.1, 1.0, 3.0),
    "many of both": (15, 1000, 0.1, 1.0, 1.0),
}


def covered(intervals: list[Interval], truth: float = 0.0) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


@pytest.mark.parametrize("regime", REGIMES)
def test_the_two_way_interval_covers_what_varies_with_seeds_and_items(regime: str) -> None:
    """Between 93% and 97%, with the items' values skewed, as scores of items are."""
    seeds, items, *spread = REGIMES[regime]
    rng, runs = np.random.default_rng(0), 2_000 if items < 1000 else 400
    found = []
    for _ in range(runs):
        effects = (
            rng.normal(size=(seeds, 1)),
            rng.exponential(size=(1, items)) - 1,
            rng.normal(size=(seeds, items)),
        )
        found.append(two_way_interval(sum(s * e for s, e in zip(spread, effects, strict=True))))
    reach = deviation_limit(len(REGIMES)) * np.sqrt(0.95 * 0.05 / runs)  # what chance may take away or add
    assert 0.93 - reach < covered(found) < 0.97 + reach


def test_without_items_that_differ_it_is_students_interval_and_never_narrower_where_seeds_decide() -> None:
    values = np.random.default_rng(1).normal(size=(5, 1)) + np.zeros((5, 40))
    assert two_way_interval(values) == pytest.approx(mean_interval(values.mean(1)))
    wide, narrow = (two_way_interval(values + np.eye(5, 40), level) for level in (0.95, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert two_way_interval(np.ones((5, 40))) == Interval(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"expected \(seeds, items\), at least 2 of each, got shape \(5,\)"):
        two_way_interval(values[:, 0])


@pytest.mark.parametrize("law", ["normal", "laplace"])
def test_the_interval_of_a_ratio_of_variances_covers_it(law: str) -> None:
    """Of values with equal tails and variances 4 and 1, and its inverse is that of the inverse ratio."""
    rng, runs, found = np.random.default_rng(0), 2_000, []
    draw = {"normal": rng.normal, "laplace": rng.laplace}[law]
    for _ in range(runs):
        over, under = moments(draw(0, 2, 1_000)), moments(draw(0, 1, 1_000))
        found.append(ratio_interval(over.variance, over.variance_se, under.variance, under.variance_se))
    reach = deviation_limit(2) * np.sqrt(0.95 * 0.05 / runs)
    assert 0.93 - reach < covered(found, 4.0) < 0.97 + reach
    inverse = ratio_interval(under.variance, under.variance_se, over.variance, over.variance_se)
    assert (1 / inverse.high, 1 / inverse.low) == pytest.approx(found[-1][1:])


@pytest.mark.parametrize("seeds", [5, 6, 15])
@pytest.mark.parametrize("law", ["normal", "uniform", "student_t"])
def test_students_interval_covers_means_over_seeds(seeds: int, law: str) -> None:
    """Between 93% and 97% for values that are normal, lighter in their tails, or heavier."""
    rng, runs = np.random.default_rng(0), 20_000
    draw = {
        "normal": rng.normal,
        "uniform": lambda size: rng.uniform(-1, 1, size),
        "student_t": lambda size: rng.standard_t(5, size),
    }[law]
    values = draw(size=(runs, seeds))
    middle, half = values.mean(1), stats.t.ppf(0.975, seeds - 1) * stats.sem(values, axis=1)
    first = mean_interval(values[0])
    assert (first.low, first.high) == pytest.approx((middle[0] - half[0], middle[0] + half[0]))
    reach = deviation_limit(9) * np.sqrt(0.95 * 0.05 / runs)
    assert 0.93 - reach < (abs(middle) < half).mean() < 0.97 + reach


@pytest.mark.parametrize(
    ("law", "density_jumps"),
    [(stats.norm(), 0), (stats.uniform(-(3**0.5), 2 * 3**0.5), 2), (stats.expon(-1), 1)],
)
def test_distances_from_the_normal_law_are_those_of_quadrature(law: Any, density_jumps: int) -> None:
    """The quantiles of a law, evenly spread, in place of a sample: what is left is the rounding to cells."""
    p = (np.arange(400_000) + 0.5) / 400_000
    found = distances_from_normal(law.ppf(p))
    x = np.linspace(-9, 9, 1_800_001)
    f, normal = law.pdf(x), stats.norm.pdf(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(f > 0, f * (np.log(f) - np.log(normal)), 0.0)
    exact = {
        "Wasserstein": np.abs(law.cdf(x) - stats.norm.cdf(x)).sum() * 1e-5,  # as good as by quantiles
        "total variation": np.maximum(f - normal, 0).sum() * 1e-5,
        "Kullback-Leibler": relative.sum() * 1e-5,
        "skewness": abs(float(law.stats("s"))),
        "excess kurtosis": abs(float(law.stats("k"))),
    }
    for name, value in exact.items():
        # A cell across a jump of the density, 1 at most, takes half a cell's share times log 2 from them.
        reach = 2e-3 + math.log(2) / 40 * density_jumps
        assert found[name] == pytest.approx(value, rel=5e-3, abs=reach), name


def test_distances_of_laws_without_a_density_are_finite() -> None:
    found = distances_from_normal([-1.0, 1.0] * 1000)
    assert found["Wasserstein"] == pytest.approx(0.5354, abs=1e-3)  # 2 ∫|1 − q| φ(q) over the positive half
    assert 0.9 < found["total variation"] < 1 and np.isfinite(found["Kullback-Leibler"])
    assert np.isfinite(distances_from_normal([-60.0, 60.0])["Kullback-Leibler"]), "far in the tails"


def test_laws_without_skewness_have_the_same() -> None:
    """Namely 0, whatever their samples have; a skewed law has its own."""
    rng = np.random.default_rng(0)
    draws = (rng.laplace(size=10_000), rng.standard_t(5, 10_000), rng.exponential(size=10_000) - 1)
    assert [distances_from_normal(values)["skewness"] == 0 for values in draws] == [True, True, False]
