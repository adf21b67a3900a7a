"""Every registered estimator keeps the contracts, every ruined one breaks one, and misuse is refused."""

import inspect
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from estimator_contracts import BIASED, CHECKS, HAND_BIT, HAND_NORMAL, UNBIASED, applies, check_unbiased
from problems import NORMAL, PROBLEMS, t
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Gamma,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
    Poisson,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.transforms import AffineTransform, ExpTransform

from vae_lab import (
    ESTIMATORS,
    DiagonalNormal,
    Family,
    NotApplicable,
    benchmark,
    estimator,
    estimators,
)
from vae_lab.estimators import contract, coupled, discrete, families, path, score, von_mises
from vae_lab.estimators.costs import CheckedCost, CostError, quadratic, step
from vae_lab.estimators.von_mises import VonMises
from vae_lab.registry import UnknownName

PROMISED = """
    pathwise score_function score_function_baseline rloo measure_valued antithetic quasi_monte_carlo
    delta_control_variate finite_difference frozen_epsilon implicit_reparameterization
    gumbel_softmax straight_through arm disarm rebar relax
"""


def test_the_registry_holds_what_is_promised() -> None:
    assert set(PROMISED.split()) <= set(ESTIMATORS)
    for name, entry in ESTIMATORS.items():
        assert entry.name == name and entry.summary
        assert entry.reference or name == "frozen_epsilon", "nobody proposes it"
        assert all(requirement.__doc__ for requirement in entry.requires), "the book's table quotes them"


def test_every_problem_has_an_unbiased_estimator() -> None:
    for problem in PROBLEMS:
        assert any(applies(name, problem) for name in UNBIASED), problem.name


def test_every_estimator_has_its_formula_and_every_biased_one_its_bias() -> None:
    assert set(ESTIMATORS) == set(HAND_NORMAL) | set(HAND_BIT)
    assert {name for name, entry in ESTIMATORS.items() if not entry.unbiased} == set(BIASED)


@pytest.mark.parametrize(
    ("check", "name"),
    [(check, name) for check, names in CHECKS.items() for name in sorted(names)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_contract_holds(check: Callable[[list[str]], None], name: str) -> None:
    check([name])


# Ruined variants: the estimator they belong to, where its code is, what is changed


MUTANTS: dict[str, tuple[str, ModuleType, str, str, str]] = {
    "dropped score term": (
        "score_function",
        score,
        "score_function",
        "f.detach() * (log_q - log_q.detach())",
        "0 * log_q",
    ),
    "score term of the wrong sign": ("score_function", score, "score_function", "f + f.", "f - f."),
    "score function along a path": (
        "score_function",
        score,
        "score_function",
        "q.sample",
        "(q.rsample if q.has_rsample else q.sample)",
    ),
    "cost not detached": (
        "score_function",
        score,
        "score_function",
        "f.detach() * (log_q - log_q.detach())",
        "f * log_q - (f * log_q).detach()",
    ),
    "value not detached": (
        "score_function",
        score,
        "score_function",
        "log_q - log_q.detach()",
        "log_q",
    ),
    "baseline sees its own sample": (
        "rloo",
        score,
        "rloo",
        "leave_one_out(f.detach()) / (n - 1)",
        "f.detach().mean(0)",
    ),
    "optimal baseline sees its own sample": (
        "score_function_baseline",
        score,
        "score_function_baseline",
        "leave_one_out(f.detach()[axes] * s**2) / leave_one_out(s**2)",
        "(f.detach()[axes] * s**2).sum(0) / (s**2).sum(0)",
    ),
    "sample detached": (
        "pathwise",
        path,
        "pathwise",
        "cost(q.rsample(torch.Size((n,))))",
        "cost(q.sample(torch.Size((n,)))) + 0 * cost(q.rsample(torch.Size((n,))))",
    ),
    "z = μ + σ declared unbiased": (
        "frozen_epsilon",
        path,
        "frozen_epsilon",
        "unbiased=False",
        "unbiased=True",
    ),
    "implicit, not divided by the density": (
        "implicit_reparameterization",
        path,
        "implicit_reparameterization",
        " / density",
        "",
    ),
    "implicit, density not detached": (
        "implicit_reparameterization",
        path,
        "implicit_reparameterization",
        "(rank - rank.detach()) / density",
        "rank / base.log_prob(z).exp() - (rank / base.log_prob(z).exp()).detach()",
    ),
    "von Mises concentration without a path": (
        "implicit_reparameterization",
        von_mises,
        "von_mises_path",
        " + slope * (concentration - concentration.detach())",
        "",
    ),
    "measure-valued, wrong constant": (
        "measure_valued",
        coupled,
        "measure_valued",
        "inject(constant *",
        "inject(0.5**0.5 * constant *",
    ),
    "measure-valued, whole vector replaced": (
        "measure_valued",
        coupled,
        "_one_at_a_time",
        "torch.where(swap,",
        "torch.where(swap | True,",
    ),
    "mirrored at zero": ("antithetic", coupled, "antithetic", "2 * unwrap(q).loc - z", "-z"),
    "points not shifted": (
        "quasi_monte_carlo",
        coupled,
        "quasi_monte_carlo",
        "+ shift)",
        "+ 0 * shift + 0.5)",
    ),
    "one shift for all problems": (
        "quasi_monte_carlo",
        coupled,
        "quasi_monte_carlo",
        "torch.rand(*q.batch_shape, size, dtype=torch.float64, device=like.device)",
        "torch.rand(size, dtype=torch.float64, device=like.device).expand(*q.batch_shape, size)",
    ),
    "delta method without the trace": (
        "delta_control_variate",
        coupled,
        "delta_control_variate",
        " + 0.5 * trace",
        "",
    ),
    "difference divided by one step": (
        "finite_difference",
        coupled,
        "finite_difference",
        "(plus - minus) / (2 * h)",
        "(plus - minus) / h",
    ),
    "fresh random numbers": (
        "finite_difference",
        coupled,
        "finite_difference",
        ".icdf(u) for moved",
        ".icdf(torch.rand_like(u)) for moved",
    ),
    "temperature ignored": (
        "gumbel_softmax",
        discrete,
        "gumbel_softmax",
        "torch.as_tensor(temperature,",
        "torch.as_tensor(1.0,",
    ),
    "straight-through without its slope": (
        "straight_through",
        discrete,
        "straight_through",
        "(base.probs - base.probs.detach())",
        "(base.logits - base.logits.detach())",
    ),
    "ARM with one draw": ("arm", discrete, "arm", "_wide(mirrored - f, q)", "_wide(2 * mirrored, q)"),
    "ARM of the wrong sign": ("arm", discrete, "arm", "mirrored - f,", "f - mirrored,"),
    "DisARM without its weight": (
        "disarm",
        discrete,
        "disarm",
        "logits.detach().abs().sigmoid()",
        "0.5",
    ),
    "REBAR without the derivative through z̃": (
        "rebar",
        discrete,
        "_with_controls",
        " + by_conditional",
        "",
    ),
    "RELAX without the derivative through z̃": (
        "relax",
        discrete,
        "_with_controls",
        " + by_conditional",
        "",
    ),
    "RELAX with a control variate that sees its own sample": (
        "relax",
        discrete,
        "relax",
        "leave_one_out(products.movedim(2, 0))",
        "(products.movedim(2, 0).sum(0) + 0 * products.movedim(2, 0))",
    ),
    "z̃ drawn without regard to b": (
        "rebar",
        discrete,
        "_with_controls",
        "torch.where(b > 0, softplus(v + softplus(logits)), -softplus(v + softplus(-logits)))",
        "logits + v",
    ),
}


def ruin(patch: pytest.MonkeyPatch, mutant: str) -> str:
    """Put the changed code in the place of the right one, and return the estimator it belongs to."""
    estimator_name, module, name, right, wrong = MUTANTS[mutant]
    target = getattr(module, name)
    source = inspect.getsource(getattr(target, "function", target))
    assert source.count(right) == 1, f"{mutant}: the code has changed; change the mutant"
    patch.setitem(ESTIMATORS, estimator_name, ESTIMATORS[estimator_name])  # put back afterwards
    namespace = vars(module).copy()
    exec("from __future__ import annotations\n" + source.replace(right, wrong), namespace)
    for user in (module, path):
        if hasattr(user, name):
            patch.setattr(user, name, namespace[name])
    return estimator_name


@pytest.mark.parametrize("mutant", MUTANTS)
def test_ruined_variant_breaks_a_contract(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = ruin(monkeypatch, mutant)
    for check in reversed(CHECKS):  # the quick ones first
        if name not in CHECKS[check] and ESTIMATORS[name].unbiased == (name in UNBIASED):
            continue
        try:
            check([name])
        except AssertionError:
            return
    pytest.fail("no contract noticed")


BIASING = [
    "dropped score term",
    "baseline sees its own sample",
    "optimal baseline sees its own sample",
    "sample detached",
    "z = μ + σ declared unbiased",
    "RELAX without the derivative through z̃",
    "RELAX with a control variate that sees its own sample",
]


@pytest.mark.parametrize("mutant", BIASING)
def test_bias_shows_in_the_mean(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The formula of a single estimate is not all that notices."""
    name = ruin(monkeypatch, mutant)
    with pytest.raises(AssertionError, match=", not "):
        check_unbiased([name])


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_relaxed_one_hot_vector_moves_like_a_softmax(temperature: float) -> None:
    """∂y_i/∂λ_j = y_i (1[i = j] − y_j) / temperature."""
    logits, seen, weights = t([0.2, -0.3, 0.5]).requires_grad_(), [], t([0.2, 1.0, -0.7])

    def cost(z: torch.Tensor) -> torch.Tensor:
        seen.append(z.detach())
        return (z @ weights) ** 2

    q = OneHotCategorical(logits=logits)
    surrogate = ESTIMATORS["gumbel_softmax"](q, cost, 1, temperature=temperature)
    (gradient,) = torch.autograd.grad(surrogate.sum(), logits)
    y = seen[-1][0]
    slope = 2 * (y @ weights) * weights
    torch.testing.assert_close(gradient, (torch.diag(y) - torch.outer(y, y)) @ slope / temperature)


# What does not apply says why


class Unknown(Distribution):
    """A distribution without density and path."""

    arg_constraints = Normal.arg_constraints
    support = Normal.support
    loc, scale = t(0.0), t(1.0)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        return torch.zeros(*sample_shape, dtype=torch.float64)


class Skew(Normal):
    """The skew normal, by its density alone."""

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        x = (value - self.loc) / self.scale
        return math.log(2) + super().log_prob(value) + torch.special.log_ndtr(3 * x)


SHARED = Family(lambda scale: Normal(t([0.0, 1.0]), scale), scale=t(1.0))
TWICE = Family(lambda loc: TransformedDistribution(Normal(loc, 1.0), ExpTransform()), loc=t(0.0))


REFUSALS = [
    ("pathwise", Categorical(logits=torch.zeros(3)), 1, "Categorical has no rsample"),
    ("pathwise", Poisson(t(2.0)), 1, "Poisson has no rsample"),
    ("pathwise", VonMises(t(0.0), t(2.0)), 1, "equal values at −π and π"),
    ("pathwise", OneHotCategoricalStraightThrough(logits=t([0.0, 1.0])), 1, "has no rsample"),
    ("score_function", Unknown(validate_args=False), 1, "Unknown has no log_prob"),
    ("score_function", Uniform(t(0.0), t(2.0)), 1, "the support of Uniform moves with low, high"),
    ("score_function", Bernoulli(t(0.0)), 1, "a probability of Bernoulli is 0 or 1 to rounding"),
    ("gumbel_softmax", OneHotCategorical(probs=t([0.0, 0.5, 0.5])), 1, "is 0 or 1 to rounding"),
    ("arm", Bernoulli(t([0.3, 1.0])), 1, "a probability of Bernoulli is 0 or 1 to rounding"),
    ("rloo", NORMAL, 1, "n must be at least 2; got 1"),
    ("score_function_baseline", NORMAL, 1, "n must be at least 2; got 1"),
    ("relax", Bernoulli(t(0.5)), 1, "n must be at least 2; got 1"),
    ("score_function_baseline", SHARED, 2, "share a parameter"),
    ("finite_difference", TWICE, 1, "names no real-valued constructor arguments"),
    ("pathwise", Skew(t(0.3), t(0.8)), 1, "Skew defines log_prob but inherits rsample"),
    ("score_function", Skew(t(0.3), t(0.8)), 1, "Skew defines log_prob but inherits sample, rsample"),
    ("measure_valued", Skew(t(0.3), t(0.8)), 1, "knows Skew, a subclass with another density by name only"),
    ("antithetic", Skew(t(0.3), t(0.8)), 2, "inherits rsample"),
    ("delta_control_variate", Skew(t(0.3), t(0.8)), 1, "inherits rsample"),
    ("measure_valued", Gamma(t(1.0), t(1.0)), 1, "no decomposition of the derivative of Gamma"),
    ("antithetic", NORMAL, 3, "n is even, got 3"),
    ("antithetic", Gamma(t(1.0), t(1.0)), 2, "it mirrors samples at loc"),
    ("quasi_monte_carlo", Gamma(t(1.0), t(1.0)), 2, "with an icdf, which Gamma lacks"),
    ("quasi_monte_carlo", MultivariateNormal(t([0.0, 0.0]), torch.eye(2).double()), 2, "independent"),
    ("finite_difference", Poisson(t(1.0)), 2, "with an icdf, which Poisson lacks"),
    ("delta_control_variate", Laplace(t(0.0), t(1.0)), 1, "it needs a Normal, got Laplace"),
    ("frozen_epsilon", Gamma(t(1.0), t(1.0)), 1, "it needs a Normal, got Gamma"),
    ("implicit_reparameterization", Bernoulli(t(0.5)), 1, "continuous distribution function"),
    ("gumbel_softmax", Categorical(logits=t([0.0, 1.0])), 1, "a Bernoulli or a OneHotCategorical, got Cat"),
    ("straight_through", NORMAL, 1, "a Bernoulli or a OneHotCategorical, got Normal"),
    ("arm", OneHotCategorical(logits=t([0.0, 1.0])), 1, "it needs a Bernoulli, got OneHotCategorical"),
    ("disarm", NORMAL, 1, "it needs a Bernoulli, got Normal"),
    ("rebar", NORMAL, 1, "it needs a Bernoulli, got Normal"),
]


def sum_of_squares(z: torch.Tensor) -> torch.Tensor:
    return z.square().sum(-1)


@pytest.mark.parametrize(
    ("name", "q", "n", "reason"), REFUSALS, ids=[f"{name}, {reason}" for name, _, _, reason in REFUSALS]
)
def test_not_applicable_says_why(name: str, q: Distribution, n: int, reason: str) -> None:
    with pytest.raises(NotApplicable, match=f"{name} is not applicable: .*{reason}"):
        ESTIMATORS[name](q, sum_of_squares if q.event_shape else quadratic(0.2), n)


def test_every_requirement_is_refused_somewhere() -> None:
    required = {(name, need) for name, entry in ESTIMATORS.items() for need in entry.requires}
    met = {
        (name, need)
        for name, need in required
        for refused, q, n, _ in REFUSALS
        if refused == name and need(q, CheckedCost(torch.square, len(q.event_shape)), n)
    }
    needs = {need for _, need in required}
    assert {need for _, need in met} == needs


def live(q: Distribution) -> Distribution:
    """q with parameters that want a gradient."""
    return families.rebuild(
        q, **{k: p.detach().clone().requires_grad_() for k, p in families.parameters(q).items()}
    )


@pytest.mark.parametrize(
    "name", ["pathwise", "antithetic", "quasi_monte_carlo", "implicit_reparameterization"]
)
@pytest.mark.parametrize(
    ("cost", "reason"),
    [
        (step(0.3), "breaks the graph"),
        (lambda z: z.detach() ** 2, "breaks the graph"),
        (lambda z: torch.as_tensor(z.detach().numpy() ** 2), "breaks the graph"),
        (lambda z: torch.as_tensor(z.numpy() ** 2), "breaks the graph"),
        (lambda z: torch.ones_like(z).requires_grad_() * 2, "breaks the graph"),
        (torch.sign, "uses sign, a step"),
        (lambda z: z.round() ** 2, "uses round, a step"),
        (lambda z: z.floor() + z, "uses floor, a step"),
    ],
    ids=["step", "detach", "numpy", "numpy of a leaf", "other leaf", "sign", "round", "floor"],
)
def test_a_cost_without_a_path_is_refused(name: str, cost: Any, reason: str) -> None:
    with pytest.raises(NotApplicable, match=reason):
        ESTIMATORS[name](live(NORMAL), cost, 2)
    ESTIMATORS["score_function"](live(NORMAL), cost, 2)  # needs none


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (lambda z: z.sum(), "one value for each draw"),
        (lambda z: z.unsqueeze(-1), "one value for each draw"),
        (lambda z: 1.0, "got float"),
        (lambda z: z.sum(tuple(range(z.ndim))) + 0 * z.amax() * torch.ones(3), r"got shape \(3,\)"),
        (lambda z: z.flatten(1).sum(-1) * math.nan, "the cost is NaN for"),
        (lambda z: z.detach().sub_(1.0).flatten(1).sum(-1), "changes z in place"),
    ],
    ids=["sum", "extra axis", "number", "fixed shape", "nan", "in place"],
)
def test_a_bad_cost_is_named(name: str, cost: Any, message: str) -> None:
    q = next(problem.q for problem in PROBLEMS if applies(name, problem) and problem.q.event_shape)
    with pytest.raises(CostError, match=message):
        ESTIMATORS[name](live(q), cost, 2)


def test_on_a_torus_each_angle_is_turned_alone() -> None:
    q = Independent(VonMises(t([0.3, -0.2]), t([2.0, 1.0])), 1)
    with pytest.raises(NotApplicable, match="equal values at −π and π"):
        ESTIMATORS["pathwise"](q, lambda z: (z[..., 0] - z[..., 1]) ** 2, 2)
    ESTIMATORS["pathwise"](q, lambda z: (z[..., 0] - z[..., 1]).cos(), 2)


def test_better_placed_points_and_cross_terms_pay() -> None:
    """Sobol points beat independent ones; the delta method knows all second derivatives."""
    plain, even = (benchmark(torch.cos, NORMAL, ["quasi_monte_carlo"], n=n) for n in (1, 16))
    assert (even["variance"] < 0.25 * plain["variance"] / 16).all()
    q = DiagonalNormal(t([0.3, -0.6]), t([0.1, -0.2]))
    crossed = benchmark(lambda z: z[..., 0] * z[..., 1] + z[..., 0] ** 2, q, ["delta_control_variate"])
    assert (crossed["variance"] < 1e-20).all()


def test_names_and_counts_are_checked() -> None:
    with pytest.raises(UnknownName, match="did you mean 'pathwise'"):
        ESTIMATORS["pathwize"]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ESTIMATORS["pathwise"](NORMAL, torch.square, 0)


def test_ones_own_estimator_joins_and_is_held_to_the_contract() -> None:
    @estimator(unbiased=True, requires=(estimators.reparameterizable,), reference="kingma2014auto")
    def of_a_wrong_shape(q: Any, cost: Any, n: int) -> torch.Tensor:
        """Sums where it should not."""
        return cost(q.rsample((n,))).sum()

    try:
        assert ESTIMATORS["of_a_wrong_shape"].summary == "Sums where it should not."
        with pytest.raises(ValueError, match=r"'of_a_wrong_shape' returned shape \(\); the contract is"):
            ESTIMATORS["of_a_wrong_shape"](NORMAL, torch.square, 3)
    finally:
        del ESTIMATORS["of_a_wrong_shape"]


def test_a_surrogate_without_gradient_is_named() -> None:
    @estimator(unbiased=True, reference="kingma2014auto")
    def cut(q: Any, cost: Any, n: int) -> torch.Tensor:
        """Detached by mistake."""
        return cost(q.sample((n,)))

    try:
        with pytest.raises(ValueError, match="'cut' returned a surrogate that carries no gradient"):
            ESTIMATORS["cut"](live(NORMAL), torch.square, 2)
        assert ESTIMATORS["cut"](NORMAL, torch.square, 2).shape == (2,)  # where nobody wants one
    finally:
        del ESTIMATORS["cut"]


def test_a_mixture_has_an_implicit_path() -> None:
    """Torch gives a mixture of normals no rsample, but a distribution function."""
    loc = t([-1.0, 2.0]).expand(20_000, 2).clone().requires_grad_()
    weights = Categorical(t([0.3, 0.7]).expand(20_000, 2))
    q = MixtureSameFamily(weights, Normal(loc, t([0.5, 0.8])))
    torch.manual_seed(0)
    surrogate = ESTIMATORS["implicit_reparameterization"](q, torch.square, 1)
    (g,) = torch.autograd.grad(surrogate.sum(), loc)
    exact = 2 * t([0.3, 0.7]) * t([-1.0, 2.0])  # of Σ w (μ² + σ²)
    assert ((g.mean(0) - exact).abs() < 5 * g.std(0) / len(g) ** 0.5).all()
    assert (g.std(0) / len(g) ** 0.5 < 0.05 * exact.abs()).all()


def test_a_path_across_a_gap_in_the_density_is_refused() -> None:
    """Its gradient would be wrong: -1 in place of -2 for the weight of [0, 1] against [2, 3] for z."""
    weight = t([0.4, 0.6]).requires_grad_()

    def mixture(*starts: float) -> MixtureSameFamily:
        low = t(starts)
        parts = Uniform(low, low + 1, validate_args=False)
        return MixtureSameFamily(Categorical(weight), parts, validate_args=False)

    estimator = ESTIMATORS["implicit_reparameterization"]
    with pytest.raises(NotApplicable, match="the density of MixtureSameFamily has a gap"):
        estimator(mixture(0.0, 2.0), torch.square, 4)
    moved = TransformedDistribution(mixture(0.0, 2.0), AffineTransform(1.0, 2.0), validate_args=False)
    with pytest.raises(NotApplicable, match="the density of TransformedDistribution has a gap"):
        estimator(moved, torch.square, 4)
    whole = estimator(mixture(0.0, 0.5), lambda z: z, 20_000)
    gradient = torch.autograd.grad(whole.mean(), weight)[0]
    # One estimate is at most ½ (distribution functions) / 0.4 (density); five standard errors of the mean.
    assert gradient[0] - gradient[1] == pytest.approx(-0.5, abs=5 * 1.25 / 20_000**0.5)


def test_the_others_are_summed_without_loss() -> None:
    values = torch.tensor([[1e8], [1e-3], [2e-3]])
    torch.testing.assert_close(contract.leave_one_out(values)[0], torch.tensor([3e-3]), rtol=1e-6, atol=0)
    assert torch.equal(contract.leave_one_out(values[:1]), torch.zeros(1, 1))


def test_with_two_samples_the_optimal_baseline_is_the_other_cost() -> None:
    """In single precision, with scores from tiny to huge: the weights cancel whatever they are."""
    q = DiagonalNormal(torch.zeros(5000, 8), torch.full((5000, 8), -3.0))
    gradients = []
    for name in ("rloo", "score_function_baseline"):
        torch.manual_seed(0)
        leaf = q.mu.clone().requires_grad_()
        surrogate = ESTIMATORS[name](DiagonalNormal(leaf, q.log_sigma), lambda z: z.sum(-1) - 30, 2)
        gradients += torch.autograd.grad(surrogate.mean(0).sum(), leaf)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-3)


def test_single_precision_is_kept() -> None:
    for q in (Normal(torch.tensor(0.5), torch.tensor(1.2)), Bernoulli(logits=torch.tensor(0.3))):
        for entry in ESTIMATORS.values():
            try:
                surrogate = entry(live(q), quadratic(0.2), 2)
            except NotApplicable:
                continue
            assert surrogate.dtype == torch.float32, entry.name
