"""REBAR and RELAX with control variates that learn: unbiased at every step, and less and less noisy."""

from collections.abc import Callable
from copy import deepcopy
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from problems import BITS, parity, t
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Normal
from torch.nn.functional import softplus

from vae_lab import ESTIMATORS, VAE, NotApplicable, benchmark, evaluate, exact_gradient, fit, load
from vae_lab.estimators import Estimator
from vae_lab.estimators.adaptive import LearnedControl, adaptive_rebar, adaptive_relax, tuned
from vae_lab.estimators.costs import Cost, quadratic
from vae_lab.measure.benchmarking import replicate_gradients
from vae_lab.measure.statistics import deviation_limit

Make = Callable[..., Estimator]
both = pytest.mark.parametrize("make", [adaptive_rebar, adaptive_relax])
COINS = Bernoulli(logits=t([-2.0, -0.8, 0.5, 2.0]))


def control_of(estimator: Estimator) -> LearnedControl:
    assert isinstance(estimator.function, LearnedControl)
    return estimator.function


def state(estimator: Estimator) -> dict[str, Tensor]:
    return {name: w.detach().clone() for name, w in control_of(estimator).weights.items()}


@both
@pytest.mark.parametrize(
    ("q", "sets"), [(BITS, ()), (COINS, (4,)), (COINS, ())], ids=["bits", "sets", "shared"]
)
def test_estimates_are_unbiased_while_the_control_variate_learns(
    make: Make, q: Distribution, sets: Any
) -> None:
    """Even with a rate at which it never settles. Standard errors are at most 5% of the gradient."""
    cost = parity if q is BITS else quadratic(0.3)
    estimator, found = make(sets, learning_rate=0.2), []
    torch.manual_seed(0)
    for _ in range(100):
        before = state(estimator)
        found.append(replicate_gradients(estimator, cost, q, 3, 1000)["logits"])
        assert all(not torch.equal(w, control_of(estimator).weights[name]) for name, w in before.items())
    estimates, exact = torch.cat(found), exact_gradient(cost, q)["logits"]
    error = estimates.std(0) / len(estimates) ** 0.5
    assert (error < 0.05 * exact.abs().max()).all(), "the comparison must have power"
    limit = deviation_limit(6 * exact.numel())
    assert ((estimates.mean(0) - exact).abs() < limit * error).all(), (
        f"{estimates.mean(0)} ± {error}, not {exact}"
    )


def conditional(logits: Tensor, v: Tensor, b: Tensor) -> Tensor:
    """z given b, from a logistic variable v."""
    return torch.where(b > 0, softplus(v + softplus(logits)), -softplus(v + softplus(-logits)))


@both
def test_one_estimate_is_the_formula_of_the_papers(make: Make) -> None:
    """(f(b) − c(z̃)) ∇log q + ∇c(z) − ∇c(z̃), each derivative by itself, after some learning."""
    estimator = tuned(make(learning_rate=0.05), BITS, parity, 50, n=20)
    control, seen = control_of(estimator), []

    def recording(z: Tensor) -> Tensor:
        seen.append(z.detach())
        return parity(z)

    logits = BITS.base_dist.logits.clone().requires_grad_()
    torch.manual_seed(3)
    surrogate = estimator.function(type(BITS)(Bernoulli(logits=logits), 1), recording, 5)
    (found,) = torch.autograd.grad(surrogate.mean(0), logits)
    relaxed, b = seen
    heat = control.temperature.detach()
    z = heat * (relaxed.logit() - logits.detach() * heat / (heat + 1))
    assert torch.equal(z > 0, b > 0)
    inside = torch.where(b > 0, z, -z).expm1().log()  # the inverse of softplus
    side = torch.where(b > 0, softplus(logits), softplus(-logits)).detach()
    v = torch.where(b > 0, inside - side, side - inside)
    v = torch.where(b > 0, v, -v)
    assert torch.allclose(conditional(logits, v, b), z)

    def c(z: Tensor, logits: Tensor) -> Tensor:
        return control.control(BITS, parity, z, logits)

    leaf = logits.detach().expand(5, 3).clone().requires_grad_()
    by_path = torch.autograd.grad(c(leaf + (z - logits).detach(), leaf).sum(), leaf)[0]
    given = conditional(leaf, v.detach(), b)
    by_given = torch.autograd.grad(c(given, leaf).sum(), leaf)[0]
    weight = (parity(b) - c(z, logits).detach()).unsqueeze(-1)
    expected = weight * (b - logits.sigmoid()) + by_path - by_given
    torch.testing.assert_close(found, expected.mean(0).detach(), rtol=1e-8, atol=1e-8)
    assert control.hidden == 0 or control.weights["from_units"].abs().min() > 0, "the network takes part"


@both
def test_the_control_variate_follows_the_gradient_of_the_squared_estimate(make: Make) -> None:
    """By differences: the same draws at parameters a little to either side."""
    estimator = tuned(make(learning_rate=0.05), BITS, parity, 20, n=20)
    control, n = control_of(estimator), 4

    def squared() -> float:
        """The mean over draws of ‖g‖², each from its own row of a surrogate."""
        torch.manual_seed(1)
        logits = BITS.base_dist.logits.clone().requires_grad_()
        surrogate = estimator.function(type(BITS)(Bernoulli(logits=logits), 1), parity, n)
        rows = [torch.autograd.grad(one, logits, retain_graph=True)[0] for one in surrogate]
        return torch.stack(rows).square().sum(1).mean().item()

    start, step = state(estimator), 1e-5
    control.learning = True
    squared()
    slopes = {name: w.grad.clone() for name, w in control.weights.items() if w.grad is not None}
    control.learning = False
    assert set(slopes) == set(start)
    for name, slope in slopes.items():
        for place in range(min(slope.numel(), 3)):
            sides = []
            for sign in (1, -1):
                for other, w in control.weights.items():
                    w.data.copy_(start[other])
                control.weights[name].data.view(-1)[place] += sign * step
                sides.append(squared())
            expected = (sides[0] - sides[1]) / (2 * step)
            assert slope.flatten()[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-7), name


def test_learning_takes_variance_away_as_published() -> None:
    """tucker2017rebar's toy problem, t = 0.45: from fixed REBAR to adaptive REBAR to RELAX.

    At θ = ½ the cost of the mean is almost 0, so that REBAR has little to subtract, and RELAX has more.
    """
    cost, n = quadratic(0.45), 4
    coins = Bernoulli(logits=t([-2.0, -0.8, 0.0, 0.5, 2.0]))
    ways = {
        "rebar": tuned(adaptive_rebar((5,), 0.06), coins, cost, 1000),
        "relax": tuned(adaptive_relax((5,), 0.06), coins, cost, 1000),
        "fixed": ESTIMATORS["rebar"],
        "rloo": ESTIMATORS["rloo"],
    }
    rows = benchmark(cost, coins, ways, n=n, replicates=20_000)
    variance = rows.pivot(index="coordinate", columns="estimator", values="variance")
    assert (variance["rebar"] < 0.8 * variance["fixed"]).all()
    assert (variance["rebar"].drop(2) < 0.1 * variance["fixed"].drop(2)).all()
    assert variance["relax"][2] < 0.1 * variance["rebar"][2]
    assert (variance["relax"] < 0.2 * variance["rloo"]).all()
    assert rows["unbiased"].all() and not rows["note"].any()
    assert (rows["evaluations"] == rows["estimator"].map({"fixed": 3 * n, "rloo": n}).fillna(2 * n)).all()


@both
def test_sets_learn_apart(make: Make) -> None:
    ends = []
    for other in (0.3, 2.5):
        estimator = make((2,), learning_rate=0.1)
        tuned(estimator, Bernoulli(logits=t([-0.4, other])), quadratic(0.2), 10, n=5)
        ends.append(state(estimator))
    for name, w in ends[0].items():
        assert torch.equal(w[0], ends[1][name][0])
        assert not torch.equal(w[1], ends[1][name][1]), name


def test_what_was_tuned_stays_as_it_is_and_the_generator_too() -> None:
    before = torch.get_rng_state()
    estimator = tuned(adaptive_rebar(), COINS, quadratic(0.2), 3)
    assert torch.equal(before, torch.get_rng_state())
    kept = state(estimator)
    estimator(COINS, quadratic(0.2), 2)
    assert all(torch.equal(w, kept[name]) for name, w in state(estimator).items())
    with pytest.raises(TypeError, match="rloo learns nothing; make one by adaptive_rebar"):
        tuned(ESTIMATORS["rloo"], COINS, quadratic(0.2), 3)


@both
def test_the_contract_is_kept(make: Make) -> None:
    with pytest.raises(NotApplicable, match="is not applicable: it needs a Bernoulli, got Normal"):
        make()(Normal(t(0.0), t(1.0)), torch.square, 2)
    with pytest.raises(NotApplicable, match="uses sign, a step"):
        make()(COINS, torch.sign, 2)
    single = Bernoulli(logits=torch.tensor([0.3, 0.4], requires_grad=True))
    surrogate = make()(single, quadratic(0.2), 2)
    assert surrogate.dtype == torch.float32 and surrogate.requires_grad
    with torch.no_grad():
        assert not make()(single, quadratic(0.2), 2).requires_grad


@both
def test_a_vae_trains_by_it_and_runs_repeat(make: Make) -> None:
    data, runs = load("digits"), []
    for seed in (0, 0, 1):
        vae = VAE(64, 6, (16,), latent="bernoulli", replicas=2)
        before = evaluate(vae, data.test)["elbo"]
        estimator = make((2, 1), learning_rate=0.05)
        torch.rand(7)  # the caller's generator is elsewhere in each run
        history = fit(
            vae,
            data.train[:400],
            epochs=4,
            learning_rate=1e-2,
            estimator=estimator,
            seed=seed,
            progress=False,
        )
        assert (evaluate(vae, data.test)["elbo"] > before + 5).all()
        runs.append((history["elbo"].to_numpy(), state(estimator)))
    (first, learned), (same, again), (other, _) = runs
    assert np.array_equal(first, same) and not np.array_equal(first, other)
    for name, w in learned.items():
        assert torch.equal(w, again[name])
        assert not torch.equal(w[0], w[1]), "each replica has learned for itself"


def test_a_training_names_its_estimator_and_refuses_what_is_none() -> None:
    vae, x = VAE(4, 2, (3,), latent="bernoulli"), torch.rand(10, 4)
    with pytest.raises(ValueError, match=r"estimator.* should be .*got 3"):
        fit(vae, x, epochs=1, estimator=3, progress=False)
    with pytest.raises(ValueError, match="'adaptive_rebar' draws z by itself"):
        fit(vae, x, epochs=1, estimator=adaptive_rebar(), noise="none", progress=False)


def test_what_learns_and_cannot_be_copied_repeats_too() -> None:
    """A moving average in a closure: the trial before a training teaches it, but alike in every run."""

    def score_less_average() -> Estimator:
        average, lock = [torch.zeros(())], Lock()

        def function(q: Distribution, f: Cost, n: int) -> Tensor:
            with lock:
                z, centre = q.sample((n,)), average[0]
                average[0] = 0.9 * centre + 0.1 * f(z).detach().mean()
                return (f(z).detach() - centre) * q.log_prob(z).sum(-1)

        one = LockedFunction(function, lock)
        return Estimator("averaged", one, True, (), lambda n, q: n, "williams1992simple", "")

    class LockedFunction:
        def __init__(self, function: Callable[..., Tensor], lock: Any) -> None:
            self.function, self.lock = function, lock

        def __call__(self, q: Distribution, f: Cost, n: int) -> Tensor:
            return self.function(q, f, n)

    histories = []
    for _ in range(2):
        vae = VAE(4, 2, (3,), latent="bernoulli")
        torch.rand(7)  # the caller's generator is elsewhere in each run
        estimator = score_less_average()
        with pytest.raises(TypeError, match="pickle"):
            deepcopy(estimator)
        history = fit(vae, torch.eye(4), epochs=3, batch_size=2, estimator=estimator, progress=False)
        histories.append(history["elbo"].to_numpy())
    assert np.array_equal(*histories)
