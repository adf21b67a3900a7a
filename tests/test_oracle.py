"""The oracle against closed forms and against scipy, and what it refuses."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from problems import BITS, FORMS, NORMAL, bits, parity, t
from scipy import special, stats
from scipy.integrate import quad
from strips import random_problem
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Dirichlet,
    Distribution,
    Exponential,
    Gamma,
    Gumbel,
    HalfCauchy,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
    StudentT,
    Uniform,
)

from vae_lab import DiagonalNormal, NotApplicable, exact_gradient
from vae_lab.estimators.costs import CostError, Separable, bump, cosine, quadratic, step, stochastic
from vae_lab.estimators.von_mises import VonMises


@pytest.mark.parametrize("k", [0.01, 0.7, 3.0, 100.0])
@pytest.mark.parametrize("name", FORMS)
def test_normals_against_closed_forms(name: str, k: float) -> None:
    make, forms = FORMS[name]
    closed = forms(k, 0.5, 1.2)["gradient"]
    scale = max(map(abs, closed.values()))
    for parameter, value in exact_gradient(make(k), NORMAL).items():
        assert value.dtype == torch.float64 and value.shape == ()
        assert value.item() == pytest.approx(closed[parameter], rel=1e-9, abs=1e-9 * scale + 1e-12)


def euler_beta(a: float, b: float) -> dict[str, float]:
    return {"concentration1": b / (a + b) ** 2, "concentration0": -a / (a + b) ** 2}


ratio = special.iv(1, 2.0) / special.iv(0, 2.0)
ANSWERS: list[tuple[str, Distribution, Callable[[Tensor], Tensor], dict[str, object]]] = [
    ("step", NORMAL, step(0.3), {"loc": stats.norm.pdf(0.3, 0.5, 1.2)}),
    ("log of a gamma", Gamma(t(1.5), t(2.0)), torch.log, {"concentration": special.polygamma(1, 1.5)}),
    ("a gamma", Gamma(t(1.5), t(2.0)), torch.positive, {"concentration": 1 / 2, "rate": -1.5 / 4}),
    ("a tiny gamma", Gamma(t(0.05), t(2.0)), torch.positive, {"concentration": 1 / 2}),
    ("a beta", Beta(t(2.0), t(3.0)), torch.positive, euler_beta(2.0, 3.0)),
    ("a steep beta", Beta(t(0.2), t(30.0)), torch.positive, euler_beta(0.2, 30.0)),
    (
        "square of a Student t",
        StudentT(t(9.0), t(0.5), t(1.5)),
        torch.square,
        {"loc": 1.0, "scale": 2 * 1.5 * 9 / 7, "df": 1.5**2 * (1 / 7 - 9 / 49)},
    ),
    ("an exponential", Exponential(t(1.5)), torch.square, {"rate": -4 / 1.5**3}),
    (
        "cosine of an angle",
        VonMises(t(0.0), t(2.0)),
        torch.cos,
        {"loc": 0.0, "concentration": 1 - ratio / 2 - ratio**2},
    ),
    ("a Laplace, absolute value", Laplace(t(0.0), t(2.0)), torch.abs, {"loc": 0.0, "scale": 1.0}),
    (
        "logarithm of a log-normal",
        LogNormal(t(0.5), t(2.0)),
        lambda z: z.log() ** 2,
        {"loc": 1.0, "scale": 4.0},
    ),
    ("a Poisson", Poisson(t(2.5)), torch.square, {"rate": 6.0}),
    ("a large Poisson", Poisson(t(400.0)), torch.square, {"rate": 801.0}),
    ("a Bernoulli", Bernoulli(t(0.3)), quadratic(0.2), {"probs": 0.64 - 0.04}),
    ("a binomial", Binomial(3, t(0.4)), torch.square, {"probs": 3 * (1 - 0.8) + 2 * 9 * 0.4}),
    ("a categorical", Categorical(t([0.2, 0.3, 0.5])), torch.square, {"probs": [-2.3, -1.3, 1.7]}),
    (
        "a Dirichlet, log",
        Dirichlet(t([1.0, 2.0, 3.0])),
        Separable(torch.log),
        {"concentration": special.polygamma(1, [1.0, 2.0, 3.0]) - 3 * special.polygamma(1, 6.0)},
    ),
    (
        "one-hot",
        OneHotCategorical(logits=t([0.2, -0.3])),
        lambda z: z[..., 0],
        {"logits": [1 / (4 * math.cosh(0.25) ** 2), -1 / (4 * math.cosh(0.25) ** 2)]},
    ),
    (
        "fifty coordinates",
        DiagonalNormal(t([0.5] * 50), t([0.0] * 50)),
        Separable(torch.square),
        {"mu": [1.0] * 50, "log_sigma": [2.0] * 50},
    ),
    (
        "a multivariate normal",
        MultivariateNormal(t([0.5, 1.0]), scale_tril=t([[1.0, 0.0], [0.5, 2.0]])),
        lambda z: z.prod(-1),
        {"loc": [1.0, 0.5], "scale_tril": [[0.5, 0.0], [1.0, 0.0]]},
    ),
    (
        "coordinates that are multivariate themselves",
        Independent(MultivariateNormal(t([[0.5], [1.0]]), scale_tril=t([[[1.0]], [[2.0]]])), 1),
        lambda z: z.flatten(-2).prod(-1),
        {"loc": [[1.0], [0.5]]},
    ),
    (
        "three coordinates",
        Independent(Normal(t([0.5, 1.0, 2.0]), t([1.0, 1.0, 1.0])), 1),
        lambda z: z.prod(-1) ** 2,
        {"loc": [2 * 0.5 * 2 * 5, 2 * 1 * 1.25 * 5, 2 * 2 * 1.25 * 2]},
    ),
]


@pytest.mark.parametrize(("q", "cost", "answer"), [a[1:] for a in ANSWERS], ids=[a[0] for a in ANSWERS])
def test_closed_forms(q: Distribution, cost: Callable[[Tensor], Tensor], answer: dict[str, object]) -> None:
    found = exact_gradient(cost, q)
    for parameter, expected in answer.items():
        np.testing.assert_allclose(found[parameter], expected, rtol=2e-7, atol=2e-7)


def test_bits_by_enumeration() -> None:
    """∂/∂λ_d = Σ_b p(b) f(b) (b_d − p_d)."""
    values, probabilities = bits()
    p = 1 / (1 + np.exp(-np.array([-0.4, 0.3, 1.0])))
    expected = (probabilities * parity(t(values)).numpy()) @ (values - p)
    np.testing.assert_allclose(exact_gradient(parity, BITS)["logits"], expected, rtol=1e-12)


def test_a_gamma_against_scipy() -> None:
    """Central differences of an integral by scipy, in the shape."""

    def mean(shape: float) -> float:
        density = stats.gamma(shape, scale=0.5).pdf
        return quad(lambda z: math.cos(1.3 * z) * density(z), 0, np.inf, epsabs=1e-13, limit=500)[0]

    by_difference = (mean(1.5 + 1e-4) - mean(1.5 - 1e-4)) / 2e-4
    found = exact_gradient(cosine(1.3), Gamma(t(1.5), t(2.0)))["concentration"].item()
    assert found == pytest.approx(by_difference, abs=1e-7)


def test_elements_of_a_batch_are_problems_of_their_own() -> None:
    k = t([[0.5], [2.0]])
    loc, scale = t([[0.1, 0.2, 0.3], [1.0, 1.1, 1.2]]), t([[1.0, 2.0, 0.5], [0.7, 0.8, 0.9]])
    together = exact_gradient(bump(k), Normal(loc, scale))
    for i in range(2):
        for j in range(3):
            alone = exact_gradient(bump(k[i, 0]), Normal(loc[i, j], scale[i, j]))
            for parameter, value in alone.items():
                torch.testing.assert_close(together[parameter][i, j], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("q", "cost", "reason"),
    [
        (DiagonalNormal(torch.zeros(7), torch.zeros(7)), lambda z: z.prod(-1), r"event shape \(7,\)"),
        (
            Dirichlet(t([1.0, 2.0])),
            lambda z: z.prod(-1),
            "no coordinates are known for the support of Dirichlet",
        ),
        (Uniform(t(0.0), t(1.0)), torch.square, "the support of Uniform moves with low, high"),
        (Bernoulli(t(0.0)), torch.square, "a probability of Bernoulli is 0 or 1 to rounding"),
        (Categorical(probs=t([0.0, 0.5, 0.5])), torch.square, "a probability of Categorical is 0 or 1"),
        (StudentT(t(1.5)), torch.square, "StudentT with this cost: it has too heavy a tail"),
        (StudentT(t(2.1)), torch.square, "of the integral is out of reach"),
        (HalfCauchy(t(1.0)), torch.positive, "HalfCauchy with this cost: .* of the integral is out of reach"),
        (Independent(Bernoulli(torch.full((30,), 0.5)), 1), lambda z: z.sum(-1), r"2\^30 values"),
        (
            MixtureSameFamily(Categorical(torch.ones(2)), Normal(torch.zeros(2), torch.ones(2))),
            torch.square,
            "names no real-valued constructor arguments",
        ),
        (NORMAL, lambda z: z @ torch.ones(3), "computed in float64, where the cost or the density fails"),
        (Normal(t(1e18), t(1.0)), lambda z: (z - 1e18) ** 2, "too narrow for float64 so far from zero"),
        (NORMAL, stochastic(torch.square), "the cost is stochastic"),
        (Beta(t(1e-3), t(1e-3)), torch.square, "too heavy a tail|out of reach|integrates to"),
        (Gamma(t(0.01), t(1.0)), torch.cos, "out of reach"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_oracle_says_why(q: Distribution, cost: Callable[[Tensor], Tensor], reason: str) -> None:
    with pytest.raises(NotApplicable, match=reason):
        exact_gradient(cost, q)


@pytest.mark.parametrize("rate", [5000.0, 20_000.0])
def test_counts_far_from_zero_are_reached(rate: float) -> None:
    assert exact_gradient(torch.positive, Poisson(t(rate)))["rate"].item() == pytest.approx(1.0, rel=1e-6)


def test_each_element_is_as_exact_as_if_alone_whatever_its_size() -> None:
    """A step beside a large cost, and a small one beside nothing."""
    pair = Normal(t([1.0, 0.0]), t([1.0, 1.0]))
    scales = t([1e6, 0.0]), t([0.0, 1.0])
    found = exact_gradient(lambda z: scales[0] * z**2 + scales[1] * step(0.3)(z), pair)["loc"]
    np.testing.assert_allclose(found, [2e6, stats.norm.pdf(0.3)], rtol=2e-7)
    for size in (1e-12, 1e9):
        small = exact_gradient(lambda z, size=size: size * step(1.3)(z), Gamma(t(2.0), t(0.8)))
        one = exact_gradient(step(1.3), Gamma(t(2.0), t(0.8)))
        torch.testing.assert_close(small["rate"], size * one["rate"], rtol=1e-6, atol=0)
    # d/drate P(z > 1.3) of a gamma variable with shape 2: −1.3² rate e^(−1.3 rate)
    assert one["rate"].item() == pytest.approx(-(1.3**2) * 0.8 * math.exp(-1.3 * 0.8), rel=1e-6)


def test_a_growing_cost_hides_no_jump_and_no_tail() -> None:
    both = exact_gradient(lambda z: (2 * z).exp() + 10 * step(0.3)(z), Normal(t(0.0), t(1.0)))
    expected = 2 * math.exp(2) + 10 * stats.norm.pdf(0.3)
    assert both["loc"].item() == pytest.approx(expected, rel=1e-6)
    # E exp(a z²) = (1 − 2aσ²)^(−1/2) with most of the integral far out, and infinite for a ≥ ½
    steep = exact_gradient(lambda z: (0.45 * z**2).exp(), Normal(t(0.0), t(1.0)))
    assert steep["scale"].item() == pytest.approx(0.9 * 0.1**-1.5, rel=1e-6)
    for a in (0.6, 1.0):
        with pytest.raises(NotApplicable, match="no exact gradient"):
            exact_gradient(lambda z, a=a: (a * z**2).exp(), Normal(t(0.0), t(1.0)))


STRIPS = range(18)


def test_random_strips_waves_and_bumps_are_right_or_refused() -> None:
    """Features from a thousandth of a deviation to all of it, in one to three dimensions, along any
    direction."""
    answered = 0
    for seed in STRIPS:
        problem = random_problem(seed)
        try:
            found = exact_gradient(problem.cost, problem.q)
        except NotApplicable:
            continue
        answered += 1
        for parameter, expected in problem.gradient.items():
            off = np.abs(found[parameter].numpy() - expected).max() / problem.size
            assert off < 1e-6, f"seed {seed}, {problem.kind}, {parameter}: {off}"
    assert answered >= len(STRIPS) / 2


@pytest.mark.parametrize(
    ("dims", "cost", "answer"),
    [
        (3, lambda z: (z > 0.11) & (z < 0.44), (0.0344011, -0.1157204)),  # φ(a) − φ(b), a φ(a) − b φ(b)
        (2, lambda z: (z > 0.005) & (z < 0.12), (0.0028571, -0.0455349)),
        (2, lambda z: (49 * (z + 0.3)).cos(), (0.0, 0.0)),  # times e^(−49² / 2)
    ],
    ids=["3-d", "2-d", "wave"],
)
def test_what_coarse_grids_miss_or_alias(
    dims: int, cost: Callable[[Tensor], Tensor], answer: tuple[float, float]
) -> None:
    """Two of them agreed on 0 for the strips, and on .48 for the wave."""
    q = Independent(Normal(torch.zeros(dims), torch.ones(dims)), 1)
    found = exact_gradient(lambda z: cost(z[..., 0]), q)
    for name, expected in zip(("loc", "scale"), answer, strict=True):
        np.testing.assert_allclose(found[name], [expected, *[0.0] * (dims - 1)], atol=1e-7)


@pytest.mark.parametrize("width", [1e-3, 3e-3, 1e-2, 0.1])
def test_a_narrow_strip_on_a_smooth_cost_is_seen(width: float) -> None:
    try:
        found = exact_gradient(lambda z: 0.1 * z**2 + ((z > 0.3) & (z < 0.3 + width)), Normal(t(0.0), t(1.0)))
    except NotApplicable:
        return
    expected = stats.norm.pdf(0.3) - stats.norm.pdf(0.3 + width)
    assert found["loc"].item() == pytest.approx(expected, abs=1e-6)


def test_a_cost_seen_nowhere_is_no_answer() -> None:
    with pytest.raises(NotApplicable, match="the cost is 0 at all"):
        exact_gradient(lambda z: ((z > 7.0) & (z < 7.0 + 1e-9)).to(z), Normal(t(0.0), t(1.0)))


@pytest.mark.parametrize(
    "q", [Laplace(t(100.0), t(0.01)), Gumbel(t(1.0), t(1e-4))], ids=["Laplace", "Gumbel"]
)
def test_what_all_draws_cost_takes_no_digits(q: Distribution) -> None:
    """E[z] by the location, which is far from zero in deviations."""
    assert exact_gradient(torch.positive, q)["loc"].item() == pytest.approx(1.0, abs=2e-7)


def test_an_infinite_result_is_none() -> None:
    with pytest.raises(NotApplicable, match="infinite"):
        exact_gradient(torch.log, Bernoulli(t(0.3)))


@pytest.mark.parametrize("q", [BITS, Normal(t([0.3, 0.1]), t([1.0, 2.0]))], ids=["bits", "normals"])
@pytest.mark.parametrize(
    "ruin",
    [
        lambda f: torch.nn.functional.dropout(f + 1, 0.5),
        lambda f: f - f.mean(0),
        lambda f: f - f.mean(-1, keepdim=True) if f.ndim > 1 else f - f.mean(0),
    ],
    ids=["chance", "draws", "batch"],
)
def test_a_cost_that_is_no_function_of_its_draw_is_named(
    q: Distribution, ruin: Callable[[Tensor], Tensor]
) -> None:
    with pytest.raises(CostError, match="not a function of that draw"):
        exact_gradient(lambda z: ruin(parity(z) if q.event_shape else z**2), q)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (lambda z: z.sum(), "one value for each draw"),
        (lambda z: z / z * math.nan, "the cost is NaN on a share of 1 of q's mass"),
        (lambda z: 1, "got int"),
    ],
)
def test_a_bad_cost_is_named(cost: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(CostError, match=message):
        exact_gradient(cost, NORMAL)
