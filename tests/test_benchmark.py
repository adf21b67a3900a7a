import functools
import math
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from problems import FORMS, NORMAL, PROBLEMS, bit_variances, t
from scipy import special, stats
from torch.distributions import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gamma,
    Independent,
    InverseGamma,
    MixtureSameFamily,
    Multinomial,
    MultivariateNormal,
    Normal,
    Uniform,
)

from vae_lab import ESTIMATORS, DiagonalNormal, NotApplicable, benchmark, estimator, exact_gradient
from vae_lab import benchmark as function
from vae_lab.estimators.costs import CostError, cosine, quadratic, step
from vae_lab.estimators.families import parameters, rebuild
from vae_lab.exact.variance import exact_variance
from vae_lab.measure import benchmarking as module
from vae_lab.measure.benchmarking import replicate_gradients, table, whole_gradient
from vae_lab.measure.statistics import moments
from vae_lab.registry import Registry, UnknownName

COLUMNS = """
    estimator parameter coordinate exact mean bias bias_se variance variance_se evaluations seconds
    efficiency unbiased note
"""


def test_one_row_per_estimator_parameter_and_coordinate() -> None:
    q = Normal(t([[0.5, 1.0]]), t([[1.2, 0.7]]))
    frame = benchmark(cosine(1.3), q, ["pathwise", "measure_valued"], n=3, replicates=500)
    assert list(frame) == COLUMNS.split()
    assert frame["estimator"].tolist() == ["pathwise"] * 4 + ["measure_valued"] * 4
    assert frame["parameter"].tolist() == ["loc", "loc", "scale", "scale"] * 2
    assert frame["coordinate"].tolist() == [0, 1] * 4
    exact = exact_gradient(cosine(1.3), q)
    np.testing.assert_allclose(frame["exact"][:4], torch.cat([exact["loc"][0], exact["scale"][0]]))
    np.testing.assert_allclose(frame["bias"], frame["mean"] - frame["exact"])
    np.testing.assert_allclose(frame["bias_se"], (frame["variance"] / 500) ** 0.5)
    assert frame["evaluations"].tolist() == [3] * 4 + [12] * 4
    np.testing.assert_allclose(frame["efficiency"], 1 / (frame["evaluations"] * frame["variance"]))
    assert frame["unbiased"].all() and (frame["seconds"] > 0).all()


def test_efficiency_counts_the_squared_bias_of_what_is_not_unbiased() -> None:
    row = benchmark(torch.cos, NORMAL, ["finite_difference", "frozen_epsilon"], n=2, replicates=500)
    expected = 1 / (row["evaluations"] * (row["variance"] + row["bias"] ** 2))
    np.testing.assert_allclose(row["efficiency"], expected)
    assert row["evaluations"].tolist() == [10, 10, 2, 2]


def test_the_efficiency_of_a_whole_gradient_charges_evaluations_once() -> None:
    """The evaluations of measure-valued gradients are for one parameter each, those of pathwise for both."""
    frame = benchmark(cosine(1.3), NORMAL, ["pathwise", "measure_valued", "frozen_epsilon"], replicates=500)
    whole = whole_gradient(frame)
    error = frame["variance"] + (frame["bias"] ** 2).where(~frame["unbiased"], 0.0)
    for name, rows in frame.groupby("estimator"):
        expected = 1 / (rows["evaluations"].iloc[0] * error[rows.index].sum())
        np.testing.assert_allclose(whole.loc[rows.index, "efficiency"], expected, err_msg=str(name))
    assert whole.attrs == frame.attrs
    straight = whole_gradient(benchmark(lambda z: z, NORMAL, ["pathwise"], replicates=500))
    only_sigma = benchmark(lambda z: z, NORMAL, ["pathwise"], replicates=500)["efficiency"].max()
    np.testing.assert_allclose(straight["efficiency"], only_sigma)  # no error for μ, and so no price
    certain = benchmark(lambda z: 2.0 * z, Bernoulli(logits=t([0.3])), ["measure_valued"], replicates=20)
    assert whole_gradient(certain)["efficiency"].isna().all()


def test_a_refuted_claim_counts_as_bias() -> None:
    """Pathwise cannot see a jump inside a cost that has slopes elsewhere."""
    frame = benchmark(lambda z: 0.1 * z**2 + 3 * (z > 0.3), NORMAL, ["pathwise", "measure_valued"], n=2)
    by_loc = frame[frame["parameter"] == "loc"].set_index("estimator")
    blind = by_loc.loc["pathwise"]
    assert not blind["unbiased"] and "contradicts the exact gradient" in blind["note"]
    assert abs(blind["bias"]) > 10 * blind["bias_se"] and by_loc.loc["measure_valued", "unbiased"]
    assert blind["efficiency"] == pytest.approx(1 / (2 * (blind["variance"] + blind["bias"] ** 2)))
    assert by_loc.loc["measure_valued", "efficiency"] > blind["efficiency"]


def test_seconds_are_those_of_one_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 2 * 100)
    start = time.perf_counter()
    frame = benchmark(torch.cos, NORMAL, ["pathwise"], replicates=1000)
    assert 0 < 1000 * frame["seconds"][0] <= time.perf_counter() - start


def test_moments_over_chunks_are_those_of_all_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large mean and a small spread, which sums of squares about zero would lose."""
    numbers = 1e6 + torch.randn(1001, generator=torch.Generator().manual_seed(0)).double()
    stream = iter(range(10**9))

    def counted(q: Any, cost: Any, n: int) -> torch.Tensor:
        take = [
            max(0, next(stream) - 1) for _ in range(q.loc.numel())
        ]  # one replicate goes first, to warm up
        return cost(q.loc * numbers[take].unsqueeze(0)).expand(n, -1)

    monkeypatch.setattr(module, "_CHUNK", 2 * 100)
    frame = benchmark(torch.positive, NORMAL, {"counted": counted}, replicates=1001)
    row, expected = frame.iloc[0], moments(numbers.numpy())
    assert row["mean"] == pytest.approx(expected.mean, rel=1e-14)
    assert row["variance"] == pytest.approx(expected.variance, rel=1e-9)
    assert row["variance_se"] == pytest.approx(expected.variance_se, rel=1e-9)
    assert not row["unbiased"], "a function that is not registered claims nothing"


@pytest.mark.parametrize(("units", "varies"), [(1, False), (100, True)])
def test_rounding_is_no_variance(units: int, varies: bool) -> None:
    """torch may round one number in two ways, by its place in a vector."""
    q = torch.distributions.Normal(torch.tensor(0.5), torch.tensor(1.0))

    def rounded(q: Any, cost: Any, n: int) -> torch.Tensor:
        odd = torch.arange(q.loc.numel()) % 2
        return cost(q.loc * (1 + units * torch.finfo(torch.float32).eps * odd)).expand(n, -1)

    frame = benchmark(torch.positive, q, {"rounded": rounded}, replicates=500)
    assert (frame["variance"][0] > 0) == varies


def test_replicates_are_independent_and_laid_out_by_parameter() -> None:
    q = DiagonalNormal(t([0.5, 1.0]), t([0.1, -0.3]))
    torch.manual_seed(0)
    g = replicate_gradients(ESTIMATORS["pathwise"], lambda z: z.square().sum(-1), q, 1, 20_000)
    assert {name: tuple(value.shape) for name, value in g.items()} == dict.fromkeys(
        ("mu", "log_sigma"), (20_000, 2)
    )
    neighbours = torch.corrcoef(torch.stack([g["mu"][:-1, 0], g["mu"][1:, 0]]))[0, 1]
    assert abs(neighbours) < 5 / 20_000**0.5


def test_the_seed_decides_and_the_callers_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, same, other = (
        benchmark(torch.cos, NORMAL, replicates=300, seed=s).drop(columns="seconds") for s in (0, 0, 1)
    )
    assert torch.equal(state, torch.get_rng_state())
    pd.testing.assert_frame_equal(first, same)
    assert not first["mean"].equals(other["mean"])


def test_an_estimators_numbers_do_not_depend_on_its_company() -> None:
    alone = benchmark(torch.cos, NORMAL, ["rloo"], n=2, replicates=300)
    together = benchmark(torch.cos, NORMAL, n=2, replicates=300).query("estimator == 'rloo'")
    np.testing.assert_array_equal(alone["mean"], together["mean"])


def test_none_means_all_that_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = benchmark(step(0.3), NORMAL, replicates=10)
    assert set(frame["estimator"]) == {"score_function", "measure_valued", "finite_difference"}
    with pytest.raises(NotApplicable, match=r"rloo is not applicable: .* n must be at least 2; got 1"):
        benchmark(torch.cos, NORMAL, ["pathwise", "rloo"])
    others = {name: entry for name, entry in ESTIMATORS.items() if name != "finite_difference"}
    monkeypatch.setattr(
        module, "ESTIMATORS", Registry(others, kind="estimator")
    )  # deleted and put back, it would be the last
    with pytest.raises(NotApplicable, match=r"no registered estimator applies:\n  pathwise"):
        benchmark(step(0.3), Uniform(t(0.0), t(1.0)))
    with pytest.raises(UnknownName, match="did you mean 'pathwise'"):
        benchmark(torch.cos, NORMAL, ["pathwize"])
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), Normal(torch.zeros(2), torch.ones(2)))
    with pytest.raises(NotApplicable, match="names no real-valued constructor arguments"):
        benchmark(torch.cos, mixture)


def test_without_an_oracle_there_is_no_exact_value() -> None:
    q = DiagonalNormal(torch.zeros(7), torch.zeros(7))
    frame = benchmark(lambda z: z.prod(-1), q, ["pathwise", "frozen_epsilon"], replicates=50)
    assert frame[["exact", "bias"]].isna().all(axis=None)
    assert frame[["mean", "variance", "bias_se"]].notna().all(axis=None)
    known = frame.groupby("estimator")["efficiency"].apply(lambda e: e.notna().all())
    assert known.to_dict() == {"pathwise": True, "frozen_epsilon": False}, "of unknown bias, none"


def test_options_by_partial_and_ones_own_estimator() -> None:
    @estimator(unbiased=True, reference="kingma2014auto", evaluations=lambda n, q: 2 * n)
    def doubled(q: Any, cost: Any, n: int) -> torch.Tensor:
        """Two draws for one."""
        return cost(q.rsample((2 * n,))).unflatten(0, (2, n)).mean(0)

    try:
        frame = benchmark(torch.cos, NORMAL, replicates=20_000).set_index(["estimator", "parameter"])
        ours, plain = frame.loc["doubled", "loc"], frame.loc["pathwise", "loc"]
        assert ours["evaluations"] == 2 and ours["unbiased"]
        error = ours["variance_se"] / ours["variance"] + plain["variance_se"] / plain["variance"]
        assert ours["variance"] / plain["variance"] == pytest.approx(0.5, rel=5 * error)
    finally:
        del ESTIMATORS["doubled"]
    hot, cold = (functools.partial(ESTIMATORS["gumbel_softmax"], temperature=x) for x in (2.0, 0.2))
    frame = benchmark(quadratic(0.3), Bernoulli(t(0.4)), {"hot": hot, "cold": cold}, replicates=20_000)
    assert not frame["unbiased"].any()
    hot_row, cold_row = frame.iloc[0], frame.iloc[1]
    assert hot_row["variance"] < cold_row["variance"] and abs(hot_row["bias"]) > abs(cold_row["bias"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"replicates": 1}, ValueError, "replicates should be greater than or equal to 2, got 1"),
        ({"replicates": 10.0}, ValueError, "replicates should be a valid integer, got 10.0"),
        ({"n": 0}, ValueError, "n should be greater than or equal to 1, got 0"),
        ({"seed": None}, ValueError, "seed should be a valid integer, got None"),
        ({"oracle": "no"}, ValueError, "oracle"),
        ({"oracle": -1}, ValueError, "oracle"),
        ({"cost": lambda z: z.sum()}, CostError, "one value for each draw"),
        ({"cost": lambda z: z * math.nan}, CostError, "the cost is NaN on a share of 1"),
        ({"estimators": {"sum": lambda q, f, n: f(q.rsample((n,))).sum()}}, ValueError, "'sum' returned"),
        ({"estimators": {"cut": lambda q, f, n: f(q.sample((n,)))}}, ValueError, "carries no gradient"),
    ],
)
def test_misuse_is_named(call: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        function(**({"cost": torch.cos, "q": NORMAL} | call))


@pytest.mark.parametrize("name", FORMS)
def test_exact_variances_are_the_closed_forms(name: str) -> None:
    make, forms = FORMS[name]
    for k in (0.3, 1.3, 4.0):
        for which in ("pathwise", "score_function"):
            expected = forms(k, 0.5, 1.2)[which]
            for parameter, value in exact_variance(which, make(k), NORMAL).items():
                assert value.item() == pytest.approx(expected[parameter], rel=1e-7)


def test_exact_variance_by_enumeration() -> None:
    q = Bernoulli(logits=t(0.3).logit())
    found = exact_variance("score_function", quadratic(0.45), q)["logits"].item()
    assert found == pytest.approx(bit_variances(0.45**2, 0.55**2, 0.3)["score_function", 1], rel=1e-10)
    with pytest.raises(NotApplicable, match="disarm uses more randomness than one draw of q"):
        exact_variance("disarm", quadratic(0.45), q)
    with pytest.raises(NotApplicable, match="measure_valued uses more randomness"):
        exact_variance("measure_valued", torch.cos, NORMAL)
    with pytest.raises(NotApplicable, match="the support of Uniform moves with low, high"):
        exact_variance("pathwise", torch.cos, Uniform(t(0.0), t(1.0)))
    with pytest.raises(NotApplicable, match="the derivative of a draw is known for normals only"):
        exact_variance("pathwise", torch.cos, Gamma(t(1.5), t(2.0)))


def test_exact_variances_of_a_score() -> None:
    """E[1 s²] − E[1 s]² over an interval, with s = z; and of s_α = log z + log β − ψ(α), whose variance is
    ψ'(α)."""
    low, high = 1.0005, 1.0075
    q = Normal(t(0.0), t(1.0))
    found = exact_variance("score_function", lambda z: ((z > low) & (z < high)).to(z), q)["loc"].item()
    second = (
        stats.norm.cdf(high) - stats.norm.cdf(low) - high * stats.norm.pdf(high) + low * stats.norm.pdf(low)
    )
    assert found == pytest.approx(second - (stats.norm.pdf(low) - stats.norm.pdf(high)) ** 2, rel=1e-6)
    found = exact_variance("score_function", torch.ones_like, Gamma(t(1.5), t(2.0)))["concentration"].item()
    assert found == pytest.approx(special.polygamma(1, 1.5), rel=1e-7)


def test_exact_variances_refuse_and_bear_what_exact_gradients_do() -> None:
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), Normal(torch.zeros(2), torch.ones(2)))
    with pytest.raises(NotApplicable, match="no exact variance: MixtureSameFamily names no"):
        exact_variance("score_function", torch.cos, mixture)
    network = torch.nn.Linear(1, 1)
    with pytest.raises(NotApplicable, match=r"\.double\(\) them"):
        exact_variance("score_function", lambda z: network(z.unsqueeze(-1)).squeeze(-1), NORMAL)
    with pytest.raises(NotApplicable, match="where the cost is known"):
        exact_variance("score_function", torch.log, NORMAL)
    far = exact_variance("pathwise", torch.log, Normal(t(10.0), t(1.0)))["loc"].item()  # of 1/z
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z, w = 10 + nodes[np.abs(nodes) < 9], weights[np.abs(nodes) < 9] / weights.sum()
    assert far == pytest.approx((w / z**2).sum() - (w / z).sum() ** 2, rel=1e-6)


def test_what_torch_lacks_is_skipped() -> None:
    frame = benchmark(torch.cos, InverseGamma(t(3.0), t(2.0)), n=2, replicates=50)
    assert {"pathwise", "score_function"} <= set(frame["estimator"])
    with pytest.raises(NotApplicable, match="igamma: input"):
        benchmark(torch.cos, InverseGamma(t(3.0), t(2.0)), ["implicit_reparameterization"], replicates=50)


def test_all_constructor_arguments_are_kept() -> None:
    whole = Multinomial(4, t([0.2, 0.3, 0.5]))
    assert rebuild(whole, **parameters(whole)).total_count == 4  # type: ignore[attr-defined]
    narrow = ContinuousBernoulli(t(0.3), lims=(0.4, 0.6))
    assert rebuild(narrow, **parameters(narrow))._lims == (0.4, 0.6)  # type: ignore[attr-defined]

    class Forgetful(Normal):
        def __init__(self, loc: Any, scale: Any, heat: float, validate_args: Any = None) -> None:
            super().__init__(loc, scale * heat, validate_args)

    with pytest.raises(NotApplicable, match="Forgetful does not keep its constructor's argument 'heat'"):
        benchmark(torch.cos, Forgetful(t(0.0), t(1.0), 2.0))


def test_parameters_are_the_constructors_arguments() -> None:
    for problem in PROBLEMS:
        given = parameters(problem.q)
        again = rebuild(problem.q, **given)
        assert type(again) is type(problem.q)
        z = problem.q.sample((4,))
        torch.testing.assert_close(again.log_prob(z), problem.q.log_prob(z))
        wide = rebuild(problem.q, **{name: p.expand(6, *p.shape) for name, p in given.items()})
        assert wide.batch_shape == (6, *problem.q.batch_shape)
    by_covariance = MultivariateNormal(t([0.0, 0.0]), covariance_matrix=torch.eye(2).double())
    assert set(parameters(by_covariance)) == {"loc", "covariance_matrix"}
    assert set(parameters(Independent(Bernoulli(t([0.5])), 1))) == {"probs"}
    assert set(parameters(Bernoulli(logits=t([0.5])))) == {"logits"}


def test_the_table_of_a_page() -> None:
    frame = benchmark(torch.cos, NORMAL, ["pathwise", "frozen_epsilon"], replicates=1000)
    page = table(frame).to_html()
    assert "italic" in page and "italic" not in table(frame[frame["unbiased"]]).to_html()
    for text in ("pathwise", "ε = 1", ">μ<", ">σ<", "bias / s.e.", f"{frame['exact'][0]:.4f}"):
        assert text in page
    assert "coordinate" not in page, "only where there is more than one"
    assert "nan" not in page.lower()
