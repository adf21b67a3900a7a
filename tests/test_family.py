"""Any distribution as a function of named parameters, each against an answer that is had in another way."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as pyro
import pytest
import torch
import zuko
from problems import NORMAL, t
from scipy import integrate, special, stats
from torch import Size, Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    Gumbel,
    Independent,
    InverseGamma,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    Multinomial,
    MultivariateNormal,
    Normal,
    Pareto,
    Poisson,
    TransformedDistribution,
    Uniform,
    Weibull,
    constraints,
)
from torch.distributions.transforms import AffineTransform, TanhTransform

from vae_lab import ESTIMATORS, Family, NotApplicable, benchmark, exact_gradient
from vae_lab.estimators.copies import stacks
from vae_lab.estimators.families import parameters, rebuild

GUMBEL_MEAN = 0.5772156649015329


def differences(mean: Callable[..., float], **at: float) -> dict[str, float]:
    """Central differences of a mean by its parameters, of fourth order."""
    slopes = {}
    for name, value in at.items():
        h = 1e-3 * max(1.0, abs(value))
        f = [mean(**{**at, name: value + k * h}) for k in (-2, -1, 1, 2)]
        slopes[name] = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)
    return slopes


def squashed(loc: float, scale: float) -> float:
    """E[tanh(x)²], x normal, by scipy."""
    return float(stats.norm(loc, scale).expect(lambda x: math.tanh(x) ** 2, epsabs=1e-13))


def mixed(weight: float, left: float, right: float) -> float:
    """E[cos z] of two unit normals."""
    share = special.expit(weight)
    return math.exp(-0.5) * (share * math.cos(left) + (1 - share) * math.cos(right))


def two_normals(weight: Tensor, left: Tensor, right: Tensor) -> Distribution:
    logits = torch.stack([weight, torch.zeros_like(weight)], -1)
    return MixtureSameFamily(Categorical(logits=logits), Normal(torch.stack([left, right], -1), 1.0))


def sac(loc: Tensor, scale: Tensor) -> Distribution:
    return TransformedDistribution(Normal(loc, scale), [TanhTransform()])


# (q, cost, parameter -> exact gradient, who of the usual estimators must be there)
Answers = dict[str, Any]
CASES: dict[str, tuple[Distribution, Callable[[Tensor], Tensor], Answers, set[str]]] = {
    "mixture": (
        Family(two_normals, weight=t(0.4), left=t(-1.0), right=t(2.0)),
        torch.cos,
        differences(mixed, weight=0.4, left=-1.0, right=2.0),
        {"score_function", "implicit_reparameterization"},
    ),
    "mixture of shared parts": (
        Family(
            lambda loc: MixtureSameFamily(Categorical(t([0.5, 0.5])), Independent(Normal(loc, t(1.0)), 1)),
            loc=t([[0.0, 1.0], [2.0, 3.0]]),
        ),
        lambda z: z.sum(-1) ** 2,  # E = ½ Σ_k (Σ_d loc_kd)² + 2
        {"loc": [[1.0, 1.0], [5.0, 5.0]]},
        {"score_function"},
    ),
    "mixture of bits": (
        Family(lambda p: MixtureSameFamily(Categorical(t([1.0, 3.0])), Bernoulli(p)), p=t([0.2, 0.7])),
        torch.square,
        {"p": [0.25, 0.75]},
        {"score_function"},
    ),
    "squashed normal": (
        Family(sac, loc=t(0.3), scale=t(0.8)),
        torch.square,
        differences(squashed, loc=0.3, scale=0.8),
        {"pathwise", "score_function"},
    ),
    "low-rank normal": (  # E[z_0 z_1] = loc_0 loc_1 + factor_0 factor_1
        LowRankMultivariateNormal(t([0.5, 1.0]), t([[1.0], [0.7]]), t([0.3, 0.4])),
        lambda z: z.prod(-1),
        {"loc": [1.0, 0.5], "cov_factor": [[0.7], [1.0]], "cov_diag": [0.0, 0.0]},
        {"pathwise", "score_function", "antithetic"},
    ),
    "multinomial": (  # E[z_0 z_1] = n (n − 1) p_0 p_1, p normalised
        Family(lambda logits: Multinomial(3, logits=logits), logits=t([0.2, 0.3, 0.5]).log()),
        lambda z: z[..., 0] * z[..., 1],
        {"logits": [0.36 * (1 - 0.4), 0.36 * (1 - 0.6), -0.36 * 1.0]},
        {"score_function"},
    ),
    "inverse gamma": (  # E[log z] = log rate − ψ(concentration)
        InverseGamma(t(3.0), t(2.0)),
        torch.log,
        {"concentration": -special.polygamma(1, 3.0), "rate": 0.5},
        {"pathwise", "score_function"},
    ),
    "Weibull": (  # E[log z] = log scale − γ / concentration
        Weibull(t(2.0), t(1.5)),
        torch.log,
        {"scale": 0.5, "concentration": GUMBEL_MEAN / 1.5**2},
        {"pathwise", "score_function"},
    ),
    "Gumbel": (  # E[z²] = (loc + γ scale)² + π² scale² / 6
        Gumbel(t(0.5), t(1.5)),
        torch.square,
        {
            "loc": 2 * (0.5 + GUMBEL_MEAN * 1.5),
            "scale": 2 * GUMBEL_MEAN * (0.5 + GUMBEL_MEAN * 1.5) + math.pi**2 * 1.5 / 3,
        },
        {"pathwise", "score_function"},
    ),
    "log of a gamma": (
        Family(lambda a: Gamma(a.exp(), t(1.0)), a=t(0.4)),
        torch.log,
        {"a": math.exp(0.4) * special.polygamma(1, math.exp(0.4))},
        {"pathwise", "score_function"},
    ),
    "a normal by its precision": (
        Family(lambda precision: Normal(t(0.0), precision.rsqrt()), precision=t(4.0)),
        torch.square,
        {"precision": -1 / 16},
        {"pathwise", "measure_valued", "antithetic", "quasi_monte_carlo", "delta_control_variate", "rloo"},
    ),
    "bits by a shared number": (
        Family(lambda a: Bernoulli(logits=2 * a), a=t(0.3)),
        torch.square,
        {"a": 2 * special.expit(0.6) * special.expit(-0.6)},
        {"score_function", "arm", "disarm", "measure_valued"},
    ),
    "pyro's normal": (
        pyro.Normal(t([0.5, 0.2]), t([1.2, 1.0])).to_event(1),
        lambda z: z.square().sum(-1),
        {"loc": [1.0, 0.4], "scale": [2.4, 2.0]},
        {"pathwise", "score_function", "measure_valued"},
    ),
    "pyro's counts with more zeros": (  # E[z²] = (1 − gate) (rate + rate²)
        Family(lambda rate, gate: pyro.ZeroInflatedPoisson(rate, gate=gate), rate=t(2.0), gate=t(0.3)),
        torch.square,
        {"rate": 0.7 * 5.0, "gate": -6.0},
        {"score_function"},
    ),
    "zuko's normal": (
        zuko.distributions.DiagNormal(t([0.5, 0.2]), t([1.2, 1.0])),
        lambda z: z.square().sum(-1),
        {"loc": [1.0, 0.4], "scale": [2.4, 2.0]},
        {"pathwise", "score_function"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_exact_gradient_and_all_estimators(name: str) -> None:
    q, cost, answers, usual = CASES[name]
    exact = exact_gradient(cost, q)
    for parameter, expected in answers.items():
        np.testing.assert_allclose(exact[parameter], expected, rtol=1e-6, atol=1e-7, err_msg=parameter)
    frame = benchmark(cost, q, n=2, replicates=2000)
    assert usual <= set(frame["estimator"])
    claimed = frame[frame["estimator"].isin([k for k, entry in ESTIMATORS.items() if entry.unbiased])]
    assert claimed["unbiased"].all(), claimed[["estimator", "parameter", "mean", "note"]].to_string()
    assert (claimed["bias"].abs() <= 7 * claimed["bias_se"] + 1e-6).all()


@pytest.mark.parametrize(
    ("q", "cost", "answers"),
    [
        (Uniform(t(0.0), t(1.0)), torch.square, {"low": 1 / 3, "high": 2 / 3}),
        (Pareto(t(2.0), t(3.0)), torch.log, {"scale": 0.5, "alpha": -1 / 9}),  # E = log scale + 1/alpha
        (
            Family(lambda low: Uniform(low, low + 2), low=t(0.5)),
            torch.square,
            {"low": 3.0},  # E z² = ((low + 2)³ − low³) / 6
        ),
    ],
    ids=["uniform", "Pareto", "a moving window"],
)
def test_where_the_support_moves_the_path_is_right(q: Any, cost: Any, answers: dict[str, float]) -> None:
    frame = benchmark(cost, q, n=2, replicates=20_000)
    assert frame["note"].str.contains("the support of .* moves with").all()
    assert "score_function" not in set(frame["estimator"])
    for row in frame[frame["estimator"] == "pathwise"].itertuples():
        assert row.unbiased and abs(row.mean - answers[row.parameter]) <= 6 * row.bias_se + 1e-12


def test_a_support_that_moves_in_secret_is_found() -> None:
    """The density of a shifted exponential integrates to one wherever it begins, and torch does not say
    where."""
    q = Family(
        lambda low: TransformedDistribution(Exponential(t(1.0)), AffineTransform(low, 1.0)), low=t(0.3)
    )
    frame = benchmark(torch.square, q, n=2, replicates=2000)
    assert frame["exact"].isna().all() and not frame["unbiased"].any()


# Flows, whose modules' weights are the parameters


def flow(module: Any) -> Family:
    """A zuko flow with weights that are not those it begins with, all of them its parameters."""
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return Family(module)


def integrated(q: Family, name: str, place: int, step: float = 1e-4) -> float:
    """∂/∂θ of ∫ cos z q(z) dz for one number θ, by scipy's quadrature and central differences."""

    def mean(by: float) -> float:
        moved = {key: p.clone() for key, p in q.given.items()}
        moved[name].view(-1)[place] += by
        with torch.no_grad():
            other = rebuild(q, **moved)
            z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
            return float(integrate.simpson(z.cos() * other.log_prob(z[:, None]).exp(), x=z))

    return (mean(step) - mean(-step)) / (2 * step)


def test_a_flow_of_one_variable() -> None:
    torch.manual_seed(0)
    q = flow(zuko.flows.MAF(1, transforms=2))
    assert not stacks(q)
    cost: Any = lambda z: z.cos().sum(-1)  # noqa: E731
    exact = exact_gradient(cost, q)
    for name, gradient in list(exact.items())[:3]:
        assert gradient.view(-1)[0].item() == pytest.approx(integrated(q, name, 0), rel=1e-4, abs=1e-6)
    frame = benchmark(cost, q, ["score_function", "score_function_baseline"], n=2, replicates=200)
    assert frame["unbiased"].all() and frame["exact"].notna().all()


def test_a_flow_of_two_variables_by_its_path_and_its_score() -> None:
    torch.manual_seed(0)
    q = flow(zuko.flows.MAF(2, transforms=1, hidden_features=(4,), activation=torch.nn.Tanh))
    frame = benchmark(
        lambda z: z.cos().sum(-1), q, ["pathwise", "score_function", "rloo"], n=4, replicates=500
    )
    assert frame["unbiased"].all(), frame["note"].unique()
    assert frame["exact"].notna().all() and (frame["exact"].abs() > 0.01).sum() > 10


# Distributions of your own


def skew_log_prob(q: Any, value: Tensor) -> Tensor:
    """Of 2 φ Φ(3 x)."""
    return math.log(2) + Normal.log_prob(q, value) + torch.special.log_ndtr(3 * (value - q.loc) / q.scale)


class SkewNormal(Normal):
    """A law of its own, whatever class it comes from."""

    def log_prob(self, value: Tensor) -> Tensor:
        return skew_log_prob(self, value)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = Size((2, *sample_shape, *self.batch_shape))
        u, v = torch.randn(shape, dtype=self.loc.dtype)
        share = 3 / 10**0.5
        return self.loc + self.scale * (share * u.abs() + (1 - share**2) ** 0.5 * v)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)


class OnlyDensity(Normal):
    """The same density without a sampler."""

    log_prob = skew_log_prob


class Triangle(Distribution):
    """On [−width, width], from nothing but this class: what a distribution of your own needs."""

    arg_constraints = {"width": constraints.positive}  # noqa: RUF012
    support = constraints.real

    def __init__(self, width: Tensor) -> None:
        self.width = width
        super().__init__(width.shape, validate_args=False)

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        u = torch.rand(2, *sample_shape, *self.batch_shape, dtype=self.width.dtype)
        return self.width * (u[0] - u[1])


@pytest.mark.parametrize("made", ["ready", "as a family"])
def test_a_subclass_with_a_density_of_its_own_is_another_law(made: str) -> None:
    def skew(loc: float, scale: float) -> float:
        law = stats.skewnorm(3, loc, scale)
        return float(law.expect(math.cos, epsabs=1e-12))

    q: Any = SkewNormal(t(0.3), t(0.8))
    if made == "as a family":
        q = Family(SkewNormal, loc=t(0.3), scale=t(0.8))
    expected = differences(skew, loc=0.3, scale=0.8)
    for name, value in exact_gradient(torch.cos, q).items():
        assert value.item() == pytest.approx(expected[name], rel=1e-6)
    bare = exact_gradient(torch.cos, OnlyDensity(t(0.3), t(0.8)))
    assert bare["loc"].item() == pytest.approx(expected["loc"], rel=1e-6)
    frame = benchmark(torch.cos, q, n=2, replicates=5000)
    assert set(frame["estimator"]) == {"pathwise", "score_function", "score_function_baseline", "rloo"}
    assert frame["unbiased"].all()
    with pytest.raises(NotApplicable, match="defines log_prob but inherits"):
        benchmark(torch.cos, OnlyDensity(t(0.3), t(0.8)))


def test_a_class_from_nothing() -> None:
    """E[z²] = width² / 6."""
    frame = benchmark(torch.square, Triangle(t(1.5)), replicates=20_000)
    assert set(frame["estimator"]) == {"pathwise"}
    row = frame.iloc[0]
    assert row["unbiased"] and abs(row["mean"] - 0.5) < 6 * row["bias_se"]


def test_parameters_are_those_that_were_given() -> None:
    """Whatever torch has computed since, and however it was copied."""
    for make, name in ((lambda p: Bernoulli(probs=p), "probs"), (lambda p: Bernoulli(logits=p), "logits")):
        q = make(torch.rand(50, generator=torch.Generator().manual_seed(0)))
        _ = q.mean, q.logits, q.probs
        assert set(parameters(q)) == {name}
        assert set(parameters(q.expand((3, 50)))) == {name}
        assert set(parameters(rebuild(q, **parameters(q)))) == {name}
    q = Categorical(logits=t([0.1, 0.2, 0.9]))
    _ = q.probs
    assert set(parameters(q.expand((4,)))) == {"logits"}
    matrix = t([[2.0, 0.3], [0.3, 1.7]])
    for name in ("scale_tril", "covariance_matrix", "precision_matrix"):
        q = MultivariateNormal(t([0.0, 0.0]), **{name: matrix.tril() if name == "scale_tril" else matrix})
        _ = q.precision_matrix, q.scale_tril, q.covariance_matrix
        assert set(parameters(q)) == set(parameters(q.expand((4,)))) == {"loc", name}


class Renamed(Triangle):
    """Its constructor's argument has another name than the attribute, and one that torch leaves open."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__(mean)


class Narrowed(Triangle):
    """It keeps a number."""

    def __init__(self, width: Tensor) -> None:
        super().__init__(width)
        self.width = float(width)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Renamed, "does not keep its constructor's argument 'mean'"), (Narrowed, "keeps 'width' as float, not")],
)
def test_what_a_class_of_ones_own_lacks_is_named(kind: type[Triangle], message: str) -> None:
    for ask in (benchmark, exact_gradient):
        with pytest.raises(NotApplicable, match=message):
            ask(torch.square, kind(t(1.5)))


def test_whether_parameters_stack_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    q = Family(lambda loc: calls.append(loc) or Normal(loc, 1.0), loc=t(0.5))  # type: ignore[func-returns-value]
    stacks(q)
    count = len(calls)
    assert stacks(q) and len(calls) == count


FLOW = zuko.flows.MAF(
    2, transforms=1, hidden_features=(4,)
)  # computes its weights when it is asked for a density
WEIGHTS = dict(FLOW.named_parameters())


@pytest.mark.parametrize(
    ("build", "given", "message"),
    [
        (
            lambda **weights: torch.func.functional_call(FLOW, weights, ()),
            WEIGHTS,
            r"goes in as it is: Family\(flow",
        ),
        (Normal, {}, "at least one parameter"),
        (Normal, {"loc": 0.0, "scale": t(1.0)}, "'loc' of a Family is a floating-point tensor, got float"),
        (Normal, {"loc": torch.tensor(1), "scale": t(1.0)}, "got torch.int64"),
        (lambda loc: loc, {"loc": t(1.0)}, "build returns a torch distribution, got Tensor"),
    ],
)
def test_a_family_says_what_it_needs(build: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Family(build, **given)


def test_torch_checks_the_parameters_of_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Distribution, "_validate_args", True)  # pyro sets it to False for all
    with pytest.raises(ValueError, match="scale"):
        Family(Normal, loc=t(0.0), scale=t(-1.0))
    assert Distribution._validate_args, "torch's own setting is left as it was"
    with pytest.raises(NotApplicable, match=r"Family\(build, name=tensor"):
        benchmark(torch.cos, two_normals(t(0.0), t(0.0), t(1.0)))
    q = Family(lambda rate: Poisson(rate), rate=t(2.5))
    assert exact_gradient(torch.square, q)["rate"].item() == pytest.approx(6.0)
    assert (Family(Normal, loc=t(0.5), scale=t(1.2)).mean, NORMAL.mean) == (t(0.5), t(0.5))
