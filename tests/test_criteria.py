"""What decides a claim: the right side of a threshold, where it comes from, and that it can be missed."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from vae_lab.criteria import Criterion, above, agrees, below, equivalent, fact, within
from vae_lab.measure.statistics import (
    Interval,
    deviation_limit,
    mean_interval,
    visible_deviation,
)
from vae_lab.wording import criterion_text, read_words


def text_of(criterion: Criterion) -> str:
    return criterion_text(asdict(criterion), read_words())


WIDE = Interval(0.5, -0.1, 1.1)
CLEAR = Interval(0.5, 0.1, 0.9)


@pytest.mark.parametrize(
    ("criterion", "holds", "words"),
    [
        (above("gain", CLEAR), True, "gain > 0 (all of its interval)"),
        (above("gain", WIDE), False, "gain > 0 (all of its interval)"),
        (below("gain", WIDE), False, "gain < 0 (all of its interval)"),
        (above("gain", 0.5), True, "gain > 0"),
        (above("gain", 0.0), False, "gain > 0"),
        (
            below("gap", 1e-9, 1e-6, "float64 rounds to 1e-16"),
            True,
            "gap < 1e−06 (float64 rounds to 1e-16)",
        ),
        (
            above("gain", [CLEAR, WIDE]),
            False,
            "gain > 0 (each of 2; all of their intervals)",
        ),
        (
            above("gain", {"one": CLEAR, "two": CLEAR}, 0.05, "one in twenty"),
            True,
            "gain > 0.05 (each of 2; all of their intervals; one in twenty)",
        ),
        (
            within("slope", CLEAR, 0, 0.95, "the law"),
            True,
            "0 < slope < 0.95 (all of its interval; the law)",
        ),
        (
            within("slope", CLEAR, 0.2, 0.95, "the law"),
            False,
            "0.2 < slope < 0.95 (all of its interval; the law)",
        ),
        (above("ratio", pd.Series([2.0, 0.5]), 1, "equal"), False, "ratio > 1 (each of 2; equal)"),
        (
            agrees("deviation", [-3.0, 1.0], 4.9, "2 % would have shown"),
            True,
            "deviation < 4.9 (each of 2; the limit for chance; 2 % would have shown)",
        ),
        (
            agrees("deviation", [-5.0, 1.0], 4.9, "2 % would have shown"),
            False,
            "deviation < 4.9 (each of 2; the limit for chance; 2 % would have shown)",
        ),
        (fact("no gradient", True), True, "no gradient"),
        (fact("no gradient", False), False, "no gradient"),
    ],
)
def test_criteria_in_words_and_their_verdicts(criterion: Criterion, holds: bool, words: str) -> None:
    assert (criterion.holds, text_of(criterion)) == (holds, words)


@pytest.mark.parametrize("measured", [math.nan, [1.0, math.nan], Interval(1.0, math.nan, math.nan)])
def test_what_is_not_a_number_holds_for_nothing(measured: Any) -> None:
    for criterion in (above("a", measured), below("a", measured), within("a", measured, -9, 9, "any")):
        assert not criterion.holds
        assert criterion.value is None or math.isfinite(criterion.value)


def test_the_value_is_that_of_the_nearest_to_missing_it() -> None:
    criterion = above("gain", [CLEAR, WIDE, Interval(9, 8, 10)])
    assert (criterion.value, criterion.low, criterion.high) == (0.5, -0.1, 1.1)
    assert (criterion.bounds, criterion.chance) == ((0.0, None), 0.025)
    assert within("x", [0.0, 0.9, -0.5], -1, 1, "any").value == 0.9
    assert below("x", 1.0, 2.0, "any").chance is None


@pytest.mark.parametrize("empty", [[], {}, np.array([]), pd.Series([], dtype=float)])
def test_nothing_measured_is_an_error(empty: Any) -> None:
    with pytest.raises(ValueError, match="measured nowhere"):
        above("gain", empty)


def test_a_threshold_says_where_it_comes_from() -> None:
    with pytest.raises(ValueError, match=r"“gain > 0.2”: say where the threshold comes from"):
        above("gain", CLEAR, 0.2)
    with pytest.raises(ValueError, match="which disagreement would have been seen"):
        agrees("deviation", [1.0], 4.9, "")


@pytest.mark.parametrize(
    ("make", "can_fail"),
    [
        (lambda p: within("AUROC", CLEAR, -0.02, 0.02, "margin", possible=p), {(-0.983, 0.017): True}),
        (lambda p: within("AUROC", CLEAR, -0.02, 0.02, "margin", possible=p), {(-0.01, 0.017): False}),
        (lambda p: below("share", CLEAR, 1.5, "all", possible=p), {(0.0, 1.0): False, (0.0, 2.0): True}),
        (lambda p: above("share", CLEAR, possible=p), {(0.0, 1.0): True, (0.1, 1.0): False}),
        (lambda p: equivalent("d", [0.0, 0.1], 0.5, "m", possible=p), {(-0.4, 0.4): False, (-1, 1): True}),
    ],
)
def test_a_criterion_that_cannot_fail_is_an_error(make: Any, can_fail: dict[Any, bool]) -> None:
    for possible, can in can_fail.items():
        if can:
            make(possible)
        else:
            with pytest.raises(ValueError, match="cannot fail"):
                make(possible)


def test_equivalence_is_that_of_two_one_sided_tests() -> None:
    rng = np.random.default_rng(0)
    for values in rng.normal(0.05, 0.05, size=(40, 5)):
        criterion = equivalent("difference", values, 0.1, "a tenth of the effect")
        above_low = stats.ttest_1samp(values, -0.1, alternative="greater").pvalue
        below_high = stats.ttest_1samp(values, 0.1, alternative="less").pvalue
        assert criterion.holds == (max(above_low, below_high) < 0.05)
        low, high = criterion.low, criterion.high
        assert low is not None and high is not None
        assert criterion.holds == (low > -0.1 and high < 0.1), "a mark is on the side of its verdict"
    assert (
        text_of(criterion)
        == "−0.1 < difference < 0.1 (two one-sided t tests at 5 % each; a tenth of the effect)"
    )


def test_false_verdicts_are_as_rare_as_stated() -> None:
    """With the truth on the threshold, the criteria hold as often as their `chance` says."""
    rng, runs = np.random.default_rng(0), 4_000
    samples = rng.normal(size=(runs, 5))
    on_zero = [above("gain", mean_interval(row)) for row in samples]
    on_margin = [equivalent("difference", row, 6.0, "any") for row in samples + 6.0]
    for criteria in (on_zero, on_margin):
        chance = criteria[0].chance
        assert chance is not None
        share = np.mean([criterion.holds for criterion in criteria])
        assert abs(share - chance) < deviation_limit(2) * np.sqrt(chance * (1 - chance) / runs)


def test_a_visible_deviation_is_seen() -> None:
    rng, limit, error, runs = np.random.default_rng(0), deviation_limit(10), 0.3, 20_000
    found = visible_deviation(error, limit) + error * rng.normal(size=runs)
    missed = np.mean(found < limit * error)
    assert abs(missed - 1e-3) < deviation_limit() * np.sqrt(1e-3 / runs)
