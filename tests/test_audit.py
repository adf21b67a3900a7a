"""A table that audits itself: what is wrong is not shown as unbiased, and the table says why."""

import math
import re
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as pyro
import pytest
import torch
from problems import NORMAL, t
from torch import Tensor, nn, tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Cauchy,
    ContinuousBernoulli,
    Distribution,
    Gamma,
    InverseGamma,
    Kumaraswamy,
    LKJCholesky,
    LogNormal,
    Normal,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    TransformedDistribution,
    VonMises,
    Wishart,
    constraints,
)
from torch.distributions.transforms import TanhTransform

from vae_lab import DiagonalNormal, Family, NotApplicable, benchmark
from vae_lab.estimators.costs import CostError, quadratic, stochastic
from vae_lab.measure.benchmarking import table

SCORES = {"score_function", "rloo", "score_function_baseline"}


def batch_normalised(z: Tensor) -> Tensor:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))(z.reshape(-1, 1)).view(z.shape)


def in_place(z: Tensor) -> Tensor:
    z.data.clamp_(min=0)
    return z.square()


def in_numpy(z: Tensor) -> Tensor:
    z.detach().numpy()[...] *= 2
    return z.square()


IMPURE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "batch normalisation": (batch_normalised, "not a function of that draw"),
    "dropout": (lambda z: nn.functional.dropout(z, 0.5), "not a function of that draw"),
    "the first draw": (lambda z: (z - z[:1] + 0.1) ** 2, "not a function of that draw"),
    "the draw before": (lambda z: z * z.roll(1, 0), "not a function of that draw"),
    "sorted": (lambda z: z.sort(0).values, "not a function of that draw"),
    "in place, by .data": (in_place, "changes z in place"),
    "in place, by numpy": (in_numpy, "changes z in place"),
    "complex": (lambda z: torch.complex(z, z), "real numbers, got torch.complex"),
    "NaN": (lambda z: z.log(), "the cost is NaN"),
    "of another shape": (lambda z: z @ torch.ones(3), r"the cost fails for z \(16,\) of torch.float"),
    "no function": (None, "a cost is a function of z, got NoneType"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", IMPURE)
def test_a_cost_that_is_none_is_an_error(name: str, precision: torch.dtype) -> None:
    cost, message = IMPURE[name]
    if name == "batch normalisation" and precision == torch.float64:
        pytest.skip("its weights are float32")
    with pytest.raises(CostError, match=message):
        benchmark(cost, Normal(tensor(0.3, dtype=precision), tensor(1.0, dtype=precision)), replicates=50)


def test_a_network_of_another_precision_is_named() -> None:
    """Of q's, an error; of float64, in which the oracle computes, no more than a note."""
    network = nn.Linear(1, 1)
    cost: Any = lambda z: network(z.unsqueeze(-1)).squeeze(-1)  # noqa: E731
    with pytest.raises(CostError, match=r"of torch.float64: .*need the precision of q: .float\(\) or"):
        benchmark(cost, NORMAL)
    frame = benchmark(cost, Normal(tensor(0.3), tensor(1.0)), ["pathwise"], replicates=50)
    assert frame["exact"].isna().all() and frame["note"].str.contains(r"float32 weights, \.double").all()


@pytest.mark.parametrize(
    ("q", "message"),
    [
        (
            Normal(torch.zeros(0), torch.ones(0)),
            r"batch shape \(0,\) and event shape \(\), so that its draws",
        ),
        (DiagonalNormal(torch.zeros(0), torch.zeros(0)), r"event shape \(0,\), so that its draws hold no"),
        (Normal(tensor(1e8), tensor(1.0)), "differ by hardly more than float32 rounds"),
        (Normal(t(1e18), t(1.0)), "differ by hardly more than float64 rounds"),
        (Beta(tensor(1e8), tensor(1.5)), "differ by hardly more than float32 rounds"),
        (Normal(tensor(0.0), t(1.0)), "need one precision, got torch.float32, torch.float64"),
        (nn.Linear(1, 1), r"expected a torch distribution, got Linear; .* Family\(module\)"),
        (pyro.Delta(tensor(1.0)), "differ by hardly more"),
        (pyro.VonMises3D(tensor([1.0, 0.0, 0.0])), "cannot be sampled: torch lacks a method"),
        (pyro.ZeroInflatedPoisson(tensor(2.0), gate=tensor(0.3)), "is not made again from its arguments"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_measured_is_refused(q: Any, message: str) -> None:
    with pytest.raises(NotApplicable, match=message):
        benchmark(lambda z: z.square().sum(-1) if q.event_shape else z.square(), q, replicates=50)


def test_no_estimators_are_none() -> None:
    for none in ([], {}):
        with pytest.raises(ValueError, match="estimators: expected one or more"):
            benchmark(torch.square, NORMAL, none)


def test_half_precision_is_not_accused_of_its_rounding() -> None:
    for precision in (torch.bfloat16, torch.float16):
        q = Normal(tensor(0.3, dtype=precision), tensor(1.0, dtype=precision))
        frame = benchmark(torch.square, q, ["antithetic", "delta_control_variate"], n=2, replicates=500)
        assert frame["unbiased"].all() and frame["exact"].notna().all()


@pytest.mark.parametrize("convert", [Tensor.byte, Tensor.int, Tensor.bool, Tensor.long])
def test_counts_and_truth_values_are_numbers(convert: Callable[[Tensor], Tensor]) -> None:
    frame = benchmark(lambda z: convert(z > 0.5), Bernoulli(t(0.3)), n=2, replicates=4000)
    assert (frame["exact"] == 1).all() and frame["unbiased"].all()
    assert set(frame["estimator"]) == SCORES | {"measure_valued", "arm", "disarm"}


class Split(Distribution):
    """Uniform on [0, 1] with probability w, else on [2, 3]: as w grows, draws leap from there to here."""

    arg_constraints: ClassVar = {"w": constraints.unit_interval}
    support = constraints.interval(0.0, 3.0)
    has_rsample = True

    def __init__(self, w: Tensor) -> None:
        self.w = w
        super().__init__(w.shape)

    def icdf(self, u: Tensor) -> Tensor:
        return torch.where(u < self.w, u / self.w, 2 + (u - self.w) / (1 - self.w))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.icdf(torch.rand(self._extended_shape(sample_shape), dtype=self.w.dtype))

    def log_prob(self, z: Tensor) -> Tensor:
        above = torch.where((z >= 2) & (z <= 3), (-self.w).log1p(), -torch.inf)
        return torch.where((z >= 0) & (z <= 1), self.w.log(), above)


# (q, cost, who is not shown as unbiased or not at all, a word of the reason)
WRONG: dict[str, tuple[Distribution, Callable[[Tensor], Tensor], set[str], str]] = {
    "clamped relaxed bit": (
        RelaxedBernoulli(tensor(0.1), logits=tensor(3.0)),
        torch.square,
        SCORES,
        "cuts? off",
    ),
    "clamped beta": (Beta(tensor(2.0), tensor(0.1)), torch.square, SCORES, "cuts? off"),
    "clamped gamma": (Gamma(tensor(0.01), tensor(1.0)), torch.cos, SCORES, "cuts? off"),
    "clamped one-hot": (
        RelaxedOneHotCategorical(tensor(0.1), logits=tensor([0.0, 1.0, 2.0])),
        lambda z: z[..., 0] ** 2,
        SCORES,
        "cuts? off",
    ),
    "clamped at both ends": (Beta(t(1e-3), t(1e-3)), torch.square, {"pathwise", *SCORES}, "cuts? off"),
    "derivative lost": (
        Beta(tensor(66_000.0), tensor(1.5)),
        torch.square,
        {"pathwise"},
        "contradicts the exact gradient",
    ),
    "flat path": (
        ContinuousBernoulli(logits=tensor(0.0)),
        torch.positive,
        {"pathwise", "implicit_reparameterization"},
        "never varies",
    ),
    "flat path by probs": (
        ContinuousBernoulli(probs=tensor(0.4995)),
        torch.positive,
        {"pathwise", "implicit_reparameterization"},
        "never varies",
    ),
    "sampler against density": (
        LKJCholesky(3, tensor(1.0)),
        lambda z: z[..., 1, 0] * z[..., 2, 0],
        SCORES,
        "sampler and density of LKJCholesky disagree",
    ),
    "infinite slope": (
        Normal(tensor(0.3), tensor(1.0)),
        lambda z: torch.where(z > 0, z.sqrt(), torch.zeros(())),
        {"pathwise", "implicit_reparameterization"},
        "estimates are NaN or infinite",
    ),
    "NaN score": (
        VonMises(tensor(1.0), tensor(1e-6)),
        torch.cos,
        {"score_function", "rloo"},
        "NaN or infinite",
    ),
    "more than float64 holds": (
        LogNormal(t(0.0), t(60.0)),
        torch.square,
        {"pathwise", *SCORES},
        "variance is more than float64 holds",
    ),
    "saturated": (
        Family(lambda loc: TransformedDistribution(Normal(loc, 4.0), [TanhTransform()]), loc=tensor(3.0)),
        torch.square,
        SCORES,
        "cuts? off",
    ),
    "a jump": (NORMAL, lambda z: 0.1 * z**2 + 3 * (z > 0.3), {"pathwise", "antithetic"}, "contradicts"),
    "a jump in many dimensions": (
        DiagonalNormal(t([0.0] * 5), t([0.0] * 5)),
        lambda z: 0.1 * z.square().sum(-1) + 3 * (z.sum(-1) > 0.3),
        {"pathwise"},
        "contradicts score_function",
    ),
    "draws that leap across a gap": (
        Split(t(0.4)),
        torch.positive,
        {"pathwise", "quasi_monte_carlo"},
        "contradicts the exact gradient",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_fails_a_check_is_not_shown_as_unbiased(name: str) -> None:
    q, cost, wrong, reason = WRONG[name]
    frame = benchmark(cost, q, n=2, replicates=5000)
    shown = frame[frame["estimator"].isin(wrong)]
    for who, rows in shown.groupby("estimator"):
        assert not rows["unbiased"].all(), f"{who} is shown as unbiased: {rows.to_string()}"
    notes = "; ".join(frame["note"])
    if shown.empty:
        with pytest.raises(NotApplicable, match=reason):
            benchmark(cost, q, [min(wrong)], n=2, replicates=50)
    else:
        assert re.search(reason, notes)
    if frame["exact"].notna().all():  # what is shown as unbiased is right
        kept = frame[frame["unbiased"]]
        assert (kept["bias"].abs() <= 6 * kept["bias_se"] + 1e-6 * kept["exact"].abs().max()).all()


def test_the_note_says_why_there_is_no_exact_value_and_the_page_shows_what_failed() -> None:
    frame = benchmark(lambda z: z.prod(-1), DiagonalNormal(torch.zeros(7), torch.zeros(7)), ["pathwise"])
    assert frame["note"].str.contains("no exact value: with event shape").all() and frame["unbiased"].all()
    assert "No exact value: with event shape" in table(frame).to_html()
    failed = benchmark(torch.positive, ContinuousBernoulli(logits=tensor(0.0)), replicates=2000)
    assert "never varies" in table(failed).to_html()
    assert "note" not in table(benchmark(torch.cos, NORMAL, ["pathwise"], replicates=100)).to_html()


def test_estimates_of_a_heavy_tail_are_not_judged_and_the_note_says_so() -> None:
    """E[1/z; z > 0] is infinite, and no mean shows that; nor does one of a Cauchy variable's square."""
    frame = benchmark(
        lambda z: torch.where(z > 0, z.log(), torch.zeros(())), NORMAL, ["pathwise", "rloo"], 2, 5000
    ).set_index("estimator")
    assert frame.loc["pathwise", "note"].str.contains("its mean says little").all()
    assert (frame.loc["rloo", "note"] == "").all()
    frame = benchmark(torch.square, Cauchy(t(0.0), t(1.0)), ["pathwise"], replicates=5000)
    assert frame["note"].str.contains("its mean says little; no exact value").all()


def test_nothing_right_is_accused() -> None:
    """Eight seeds, four problems, all estimators: the declared rate makes one false alarm very unlikely."""
    problems = [
        (torch.cos, NORMAL),
        (torch.log, Gamma(tensor(1.5), tensor(2.0))),
        (quadratic(0.45), Bernoulli(logits=t(0.3))),
        (torch.log, InverseGamma(tensor(3.0), tensor(2.0))),
    ]
    for cost, q in problems:
        for seed in range(8):
            frame = benchmark(cost, q, n=2, replicates=500, seed=seed)
            claimed = frame[~frame["estimator"].isin(BIASED)]
            assert claimed["unbiased"].all(), claimed[["estimator", "mean", "bias_se", "note"]].to_string()


BIASED = {"finite_difference", "frozen_epsilon", "gumbel_softmax", "straight_through"}


def test_estimates_that_are_not_finite_are_an_error_where_asked_for() -> None:
    root: Any = lambda z: torch.where(z > 0, z.sqrt(), torch.zeros(()))  # noqa: E731
    with pytest.raises(
        CostError, match=r"pathwise: 0\.\d+ of its estimates are NaN or infinite \(usual causes"
    ):
        benchmark(root, Normal(tensor(0.3), tensor(1.0)), ["pathwise"], replicates=500)


def test_draws_that_are_not_finite_are_named() -> None:
    with pytest.raises(NotApplicable, match="gives draws that are NaN or infinite"):
        benchmark(torch.square, LogNormal(tensor(0.0), tensor(60.0)), replicates=100)


def test_an_estimator_that_fails_at_the_end_of_a_support_leaves_the_table_to_the_others() -> None:
    """E[z²] = 2 / ((b + 1)(b + 2)) of a Kumaraswamy variable, a = 1; its density at 1 is NaN to torch."""
    frame = benchmark(torch.square, Kumaraswamy(tensor(1.0), tensor(0.5)), replicates=20_000)
    by_name = frame[frame["parameter"] == "concentration0"].set_index("estimator")
    assert "NaN or infinite" in by_name.loc["score_function", "note"]
    assert not by_name.loc["score_function", "unbiased"] and by_name.loc["pathwise", "unbiased"]
    off = by_name.loc["pathwise", "mean"] + 2 * 4 / (1.5 * 2.5) ** 2
    assert abs(off) < 6 * by_name.loc["pathwise", "bias_se"]


def test_a_tail_where_the_cost_is_nan_does_not_spoil_the_table() -> None:
    """log z under N(10, 1), which is negative once in 10²³ draws: E by Gauss's rule on both sides of 10."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    inside = np.abs(nodes) < 9
    z, w = 10 + nodes[inside], weights[inside] / weights.sum()
    frame = benchmark(torch.log, Normal(tensor(10.0), tensor(1.0)), replicates=2000)
    exact = frame.set_index(["estimator", "parameter"])["exact"]["pathwise"]
    assert exact["loc"] == pytest.approx((w / z).sum(), rel=1e-6)
    assert frame[~frame["estimator"].isin(BIASED)]["unbiased"].all()


@pytest.mark.filterwarnings("ignore:Singular sample detected")  # by torch, of any sample
def test_distributions_that_torch_half_supports() -> None:
    uneven = benchmark(torch.square, Binomial(tensor([5.0, 9.0]), tensor([0.3, 0.4])), replicates=2000)
    expected = [n * (1 - 2 * p) + 2 * n * n * p for n, p in ((5, 0.3), (9, 0.4))]
    np.testing.assert_allclose(uneven["exact"][:2], expected, rtol=1e-6)
    wishart = benchmark(lambda z: z.diagonal(dim1=-2, dim2=-1).sum(-1), Wishart(tensor(4.0), torch.eye(2)))
    assert set(wishart["estimator"]) <= SCORES and wishart["mean"].notna().all()


def test_a_stochastic_cost_that_says_so_has_its_table() -> None:
    """E[(z + u)²] = E[z²] + 1 for noise u of mean 0 and variance 1."""

    @stochastic
    def noisy(z: Tensor) -> Tensor:
        return (z + torch.randn_like(z)) ** 2

    frame = benchmark(noisy, NORMAL, n=2, replicates=20_000).set_index(["estimator", "parameter"])
    assert frame["exact"].isna().all() and frame["note"].str.contains("the cost is stochastic").all()
    for who in ("pathwise", "score_function", "measure_valued", "rloo"):
        row = frame.loc[who, "loc"]
        assert row["unbiased"] and abs(row["mean"] - 1.0) < 6 * row["bias_se"]


def test_the_oracle_can_be_left_out_or_held_short() -> None:
    calls = [0]

    def cost(z: Tensor) -> Tensor:
        calls[0] += z.numel()
        return z.cos()

    frame = benchmark(cost, NORMAL, ["pathwise"], replicates=200, oracle=False)
    assert calls[0] < 300 and frame["exact"].isna().all() and "the oracle was not asked" in frame["note"][0]
    assert frame.attrs["spent"]["oracle"] == 0 and sum(frame.attrs["spent"].values()) == calls[0]
    calls[0] = 0
    frame = benchmark(cost, NORMAL, ["pathwise"], replicates=200, oracle=20_000)
    assert calls[0] < 21_000 and frame["exact"].notna().all()
    expected = -math.exp(-0.72) * math.sin(0.5)
    assert frame["exact"][0] == pytest.approx(expected, rel=1e-6)
    frame = benchmark(cost, NORMAL, ["pathwise"], replicates=200, oracle=100)
    assert "too few" in frame["note"][0]


def test_the_declared_limit_is_that_of_all_comparisons() -> None:
    """A jump too small for the replicates is not accused, a large one is: the check has power and no
    prejudice."""
    few = benchmark(lambda z: z**2 + 1e-3 * (z > 0.3), NORMAL, ["pathwise"], replicates=500)
    many = benchmark(lambda z: z**2 + 3.0 * (z > 0.3), NORMAL, ["pathwise"], replicates=5000)
    assert few["unbiased"].all() and not many["unbiased"].all()
