"""What must hold of every registered gradient estimator, as checks that can also be run on ruined ones.

Each check takes the names of the estimators to look at, so that a ruined variant needs only its own.
"""

import functools
import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from problems import BITS, FORMS, NORMAL, PROBLEMS, Problem, bit_variances, bits, choice, parity, t
from scipy.integrate import quad
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Exponential,
    Normal,
    OneHotCategorical,
    Poisson,
)

from vae_lab import ESTIMATORS, NotApplicable, benchmark, exact_gradient
from vae_lab.estimators.costs import CheckedCost, cosine, quadratic
from vae_lab.estimators.families import parameters, rebuild
from vae_lab.measure.benchmarking import replicate_gradients
from vae_lab.measure.statistics import deviation_limit

FALSE_ALARM = 1e-6  # of all comparisons of means together
REPLICATES, SAMPLES = 50_000, 4
VARIANCE_REPLICATES = 400_000
LIMIT = deviation_limit(
    len(ESTIMATORS) * sum(p.numel() for problem in PROBLEMS for p in parameters(problem.q).values()),
    FALSE_ALARM,
)
POWER = 0.05  # the largest standard error of a mean, as a share of the gradient it is compared with
ORACLE = 1e-7  # the exact gradient's own relative error


exact = functools.cache(lambda problem: exact_gradient(problem.cost, problem.q))


def applies(name: str, problem: Problem) -> bool:
    try:
        replicate_gradients(ESTIMATORS[name], problem.cost, problem.q, SAMPLES, 1)
    except NotApplicable:
        return False
    return True


def check_unbiased(names: Iterable[str]) -> None:
    """What claims to be unbiased has the exact gradient as its mean, wherever it applies.

    The comparison has power: a standard error is at most 5 % of the largest component of the gradient.
    """
    for name in (name for name in names if ESTIMATORS[name].unbiased):
        applicable = [problem for problem in PROBLEMS if applies(name, problem)]
        assert applicable, f"{name} applies to no problem"
        for problem in applicable:
            torch.manual_seed(0)
            estimates = replicate_gradients(ESTIMATORS[name], problem.cost, problem.q, SAMPLES, REPLICATES)
            for parameter, gradient in exact(problem).items():
                mean, se = estimates[parameter].mean(0), estimates[parameter].std(0) / REPLICATES**0.5
                size = gradient.abs().max()
                message = f"{name}, {problem.name}, {parameter}: {mean} ± {se}, not {gradient}"
                assert (se < POWER * size).all(), f"no power: {message}"
                assert ((mean - gradient).abs() <= LIMIT * se + ORACLE * size).all(), message


def check_variances(names: Iterable[str]) -> None:
    """Measured variances are the closed forms, within 5 standard errors by the fourth moment."""
    names = set(names)
    for q, k in ((NORMAL, 1.3), (Normal(t(-0.3), t(0.6)), 0.7)):
        for make, forms in FORMS.values():
            closed = forms(k, q.loc.item(), q.scale.item())
            gradient = closed.pop("gradient")
            for parameter, value in exact_gradient(make(k), q).items():
                np.testing.assert_allclose(value, gradient[parameter], rtol=1e-10)
            for name in names & set(closed):
                rows = benchmark(make(k), q, [name], replicates=VARIANCE_REPLICATES).set_index("parameter")
                compare_variances(rows, closed[name])
    for p in (0.2, 0.5, 0.7):
        for (name, n), variance in bit_variances((0 - 0.45) ** 2, (1 - 0.45) ** 2, p).items():
            if name in names:
                q = Bernoulli(logits=t(p).logit())
                rows = benchmark(quadratic(0.45), q, [name], n=n, replicates=VARIANCE_REPLICATES)
                compare_variances(rows.set_index("parameter"), {"logits": variance})
    others = [  # (estimator, q, cost z², parameter -> variance)
        ("measure_valued", Poisson(t(2.5)), {"rate": 4 * 2.5}),  # of 2z + 1
        ("measure_valued", Exponential(t(1.5)), {"rate": 48 / 1.5**6}),  # of −(2zE + E²) / rate
        ("antithetic", NORMAL, {"loc": 0.0, "scale": 8 * 1.2**2}),  # the mean of a pair: 2μ, and 2σε²
        ("delta_control_variate", NORMAL, {"loc": 0.0, "scale": 0.0}),
    ]
    for name, q, variances in others:
        if name in names:
            rows = benchmark(
                torch.square, q, [name], n=2 if name == "antithetic" else 1, replicates=VARIANCE_REPLICATES
            )
            compare_variances(rows.set_index("parameter"), variances)


def compare_variances(rows: pd.DataFrame, closed: dict[str, float]) -> None:
    for parameter, variance in closed.items():
        row = rows.loc[parameter]
        message = f"{row['estimator']}, {parameter}: {row['variance']} ± {row['variance_se']}, not {variance}"
        assert row["variance_se"] < 0.05 * variance + 1e-20, "the comparison must have power"
        # Where an estimate takes two values equally often, the fourth moment leaves no error of order
        # 1/√R; the one of order 1/R is that of their frequencies, squared.
        allowed = 5 * row["variance_se"] + 5**2 / VARIANCE_REPLICATES * variance + 1e-20
        assert abs(row["variance"] - variance) <= allowed, message


# Gradients of single estimates by hand


def single(name: str, q: Any, cost: Any, n: int) -> tuple[dict[str, Tensor], list[Tensor], Tensor]:
    """One estimate, all that the cost was asked for, and one uniform number per draw from the same seed."""
    seen = []

    def recording(z: Tensor) -> Tensor:
        seen.append(z.detach())
        return cost(z)

    leaves = {key: p.detach().clone().requires_grad_() for key, p in parameters(q).items()}
    torch.manual_seed(5)
    surrogate = ESTIMATORS[name].function(rebuild(q, **leaves), CheckedCost(recording, len(q.event_shape)), n)
    gradients = torch.autograd.grad(surrogate.mean(0).sum(), list(leaves.values()))
    torch.manual_seed(5)
    return dict(zip(leaves, gradients, strict=True)), seen, torch.rand(n, dtype=torch.float64)


K, MU, SIGMA, LOGIT, TARGET = 1.3, 0.5, 1.2, -0.4, 0.45


def f(z: Tensor) -> Tensor:
    return (K * z).cos()


def slope(z: Tensor) -> Tensor:
    return -K * (K * z).sin()


def along_path(z: Tensor) -> tuple[Tensor, Tensor]:
    eps = (z - MU) / SIGMA
    return slope(z).mean(), (slope(z) * eps).mean()


def scores(z: Tensor) -> Tensor:
    """By μ and by σ: (2, n)."""
    eps = (z - MU) / SIGMA
    return torch.stack([eps / SIGMA, (eps**2 - 1) / SIGMA])


def hand_score_function(seen: list[Tensor]) -> Tensor:
    return (f(seen[0]) * scores(seen[0])).mean(1)


def hand_rloo(seen: list[Tensor]) -> Tensor:
    (z,) = seen
    others = torch.stack([torch.cat([f(z)[:i], f(z)[i + 1 :]]).mean() for i in range(len(z))])
    return ((f(z) - others) * scores(z)).mean(1)


def hand_baseline(seen: list[Tensor]) -> Tensor:
    (z,) = seen
    terms = []
    for i in range(len(z)):
        s = scores(torch.cat([z[:i], z[i + 1 :]]))
        b = (f(torch.cat([z[:i], z[i + 1 :]])) * s**2).sum(1) / (s**2).sum(1)
        terms.append((f(z[i]) - b) * scores(z)[:, i])
    return torch.stack(terms).mean(0)


def hand_measure_valued(seen: list[Tensor]) -> tuple[Tensor, Tensor]:
    z, (plus, minus, maxwell) = seen
    torch.testing.assert_close(plus - MU, MU - minus)  # coupled: one Rayleigh draw
    assert (plus > MU) and ((maxwell - MU) / (z - MU) >= 1).all()  # ε is a part of the Maxwell draw
    by_mu = (f(plus) - f(minus)) / (SIGMA * math.sqrt(2 * math.pi))
    return by_mu, ((f(maxwell) - f(z)) / SIGMA)[0]


def hand_delta(seen: list[Tensor]) -> tuple[Tensor, Tensor]:
    """f − h along the path, and h's own: E[h] = f(μ₀) + f'(μ₀)(μ − μ₀) + ½ f''(μ₀)((μ − μ₀)² + σ²)."""
    z, mu = seen[-1], t(MU)
    bend = -(K**2) * (K * mu).cos()
    rest = slope(z) - slope(mu) - bend * (z - mu)
    return rest.mean() + slope(mu), (rest * (z - mu) / SIGMA).mean() + bend * SIGMA


def hand_finite_difference(seen: list[Tensor]) -> tuple[Tensor, Tensor]:
    (up, down, wider, narrower), z = seen
    h = torch.finfo(torch.float64).eps ** (1 / 3)
    eps = (z[0] - MU) / SIGMA
    torch.testing.assert_close(torch.stack([up, down]), z + t([h, -h]), rtol=1e-12, atol=0)
    expected = MU + SIGMA * (1 + t([h, -h])) * eps
    torch.testing.assert_close(torch.stack([wider, narrower]), expected, rtol=1e-12, atol=0)
    return (f(up) - f(down)) / (2 * h), (f(wider) - f(narrower)) / (2 * h * SIGMA)


HAND_NORMAL: dict[str, tuple[int, Callable[[list[Tensor]], Any]]] = {
    "pathwise": (3, lambda seen: along_path(seen[0])),
    "quasi_monte_carlo": (3, lambda seen: along_path(seen[0])),
    "antithetic": (4, lambda seen: along_path(torch.cat([seen[0][:2], 2 * MU - seen[0][:2]]))),
    "implicit_reparameterization": (3, lambda seen: along_path(seen[0])),
    "frozen_epsilon": (3, lambda seen: (slope(t(MU + SIGMA)), slope(t(MU + SIGMA)))),
    "score_function": (3, hand_score_function),
    "score_function_baseline": (3, hand_baseline),
    "rloo": (3, hand_rloo),
    "measure_valued": (1, hand_measure_valued),
    "delta_control_variate": (3, hand_delta),
    "finite_difference": (1, hand_finite_difference),
}


def g(b: Tensor | float) -> Any:
    return (b - TARGET) ** 2


def by_logit(relaxed: Tensor, temperature: float = 0.5) -> Tensor:
    """d g(sigmoid(z / temperature)) / dz, from the value of the sigmoid."""
    return 2 * (relaxed - TARGET) * relaxed * (1 - relaxed) / temperature


def hand_controls(seen: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """f·s, REBAR's control variate for it, and s, for each sample. Given b, dz̃/dλ is (1 − e^∓z̃) σ(±λ)."""
    relaxed, given, b = seen
    p = t(LOGIT).sigmoid()
    z_given = 0.5 * given.logit()
    assert ((z_given > 0) == (b > 0)).all()
    moves = torch.where(b > 0, (1 - (-z_given).exp()) * p, (1 - z_given.exp()) * (1 - p))
    score = b - p
    return g(b) * score, g(given) * score - by_logit(relaxed) + by_logit(given) * moves, score


def hand_relax(seen: list[Tensor]) -> Tensor:
    """Least squares on the other samples, with REBAR's (1, 0) as a weak prior."""
    gradient, control, score = hand_controls(seen)
    design, terms = torch.stack([control, score], 1), []
    for i in range(len(gradient)):
        others = torch.arange(len(gradient)) != i
        ridge = (0.01 * (design[others] ** 2).sum(0).mean()).sqrt()
        rows = torch.cat([design[others], ridge * torch.eye(2, dtype=torch.float64)])
        right = torch.cat([gradient[others], ridge * t([1.0, 0.0])])
        w = torch.linalg.lstsq(rows, right).solution
        terms.append(gradient[i] - design[i] @ w)
    return torch.stack(terms).mean()


def hand_arm(seen: list[Tensor], u: Tensor) -> Tensor:
    p = t(LOGIT).sigmoid()
    b, mirrored = (u < p).double(), (u > 1 - p).double()
    torch.testing.assert_close(seen[0], torch.cat([b, mirrored]))
    return ((g(mirrored) - g(b)) * (u - 0.5)).mean()


def hand_disarm(seen: list[Tensor], u: Tensor) -> Tensor:
    b, other = seen[0].chunk(2)
    p = t(LOGIT).sigmoid()
    return (0.5 * (g(b) - g(other)) * (b - other) * torch.maximum(p, 1 - p)).mean()


HAND_BIT: dict[str, tuple[int, Callable[[list[Tensor], Tensor], Any]]] = {
    "gumbel_softmax": (3, lambda seen, u: by_logit(seen[0]).mean()),
    "straight_through": (
        3,
        lambda seen, u: (2 * (seen[0] - TARGET)).mean() * t(LOGIT).sigmoid() * (1 - t(LOGIT).sigmoid()),
    ),
    "arm": (5, hand_arm),
    "disarm": (5, hand_disarm),
    "rebar": (3, lambda seen, u: (hand_controls(seen)[0] - hand_controls(seen)[1]).mean()),
    "relax": (6, lambda seen, u: hand_relax(seen)),
}


def check_single_estimates(names: Iterable[str]) -> None:
    """The gradient of one estimate equals the formula written out, to 1e-10 in float64."""
    for name in names:
        if name in HAND_NORMAL:
            n, by_hand = HAND_NORMAL[name]
            gradients, seen, _ = single(name, Normal(t(MU), t(SIGMA)), f, n)
            expected = dict(zip(("loc", "scale"), by_hand(seen), strict=True))
        else:
            n, with_uniforms = HAND_BIT[name]
            gradients, seen, u = single(name, Bernoulli(logits=t(LOGIT)), g, n)
            expected = {"logits": with_uniforms(seen, u)}
        for parameter, value in expected.items():
            torch.testing.assert_close(
                gradients[parameter],
                torch.as_tensor(value),
                rtol=1e-10,
                atol=1e-10,
                msg=lambda text, name=name: f"{name}: {text}",
            )


# Biased estimators: exactly what they estimate instead


def enumerated_straight_through() -> tuple[Any, Any, Tensor]:
    """Σ_b p(b) ∂f/∂b_d p_d (1 − p_d) over the eight values of three bits."""
    values, probabilities = bits()
    b = t(values).requires_grad_()
    (by_bit,) = torch.autograd.grad(parity(b).sum(), b)
    p = t([-0.4, 0.3, 1.0]).sigmoid()
    return BITS, parity, (t(probabilities).unsqueeze(-1) * by_bit).sum(0) * p * (1 - p)


def enumerated_straight_through_choice() -> tuple[Any, Any, Tensor]:
    """Σ_k p_k ∇f(e_k) · ∂p/∂logits over the values of a one-hot vector."""
    logits = t([0.2, -0.3, 0.5])
    p = logits.softmax(0)
    b = torch.eye(3, dtype=torch.float64).requires_grad_()
    (by_bit,) = torch.autograd.grad(choice(b).sum(), b)
    return OneHotCategorical(logits=logits), choice, (p @ by_bit) @ (torch.diag(p) - torch.outer(p, p))


def integrated_gumbel_softmax(temperature: float) -> tuple[Any, Any, Tensor]:
    """∫ f'(y) y (1 − y) / temperature over the logistic law of z, y = sigmoid(z / temperature)."""

    def integrand(noise: float) -> float:
        y = 1 / (1 + math.exp(-(LOGIT + noise) / temperature))
        return 2 * (y - TARGET) * y * (1 - y) / temperature / (4 * math.cosh(noise / 2) ** 2)

    value = quad(integrand, -40, 40, points=[-LOGIT], epsabs=1e-12, limit=500)[0]
    return Bernoulli(logits=t(LOGIT)), quadratic(TARGET), t(value)


def stepped_finite_difference(step: float) -> tuple[Any, Any, Tensor]:
    """Differences of E[cos kz] = exp(−k²σ²/2) cos kμ, with a step that is not small."""

    def mean(mu: float, sigma: float) -> float:
        return math.exp(-((K * sigma) ** 2) / 2) * math.cos(K * mu)

    h, relative = step, step * SIGMA
    by_mu = (mean(MU + h, SIGMA) - mean(MU - h, SIGMA)) / (2 * h)
    by_sigma = (mean(MU, SIGMA + relative) - mean(MU, SIGMA - relative)) / (2 * relative)
    return Normal(t(MU), t(SIGMA)), cosine(K), t([by_mu, by_sigma])


def at_one_point() -> tuple[Any, Any, Tensor]:
    """∇ f(μ + σ), with no expectation in it."""
    return Normal(t(MU), t(SIGMA)), cosine(K), slope(t(MU + SIGMA)).repeat(2)


BIASED: dict[str, list[tuple[dict[str, float], Callable[[], tuple[Any, Any, Tensor]]]]] = {
    "frozen_epsilon": [({}, at_one_point)],
    "straight_through": [({}, enumerated_straight_through), ({}, enumerated_straight_through_choice)],
    "gumbel_softmax": [
        ({"temperature": heat}, functools.partial(integrated_gumbel_softmax, heat)) for heat in (0.3, 1.0)
    ],
    "finite_difference": [({"step": 0.3}, functools.partial(stepped_finite_difference, 0.3))],
}


def check_exact_bias(names: Iterable[str]) -> None:
    """A biased estimator has exactly the bias that its definition implies, and it is visible here."""
    cases = [(name, *case) for name in names if not ESTIMATORS[name].unbiased for case in BIASED[name]]
    limit = deviation_limit(4 * sum(map(len, BIASED.values())), FALSE_ALARM)
    for name, options, expectation in cases:
        q, cost, expected = expectation()
        biased = functools.partial(ESTIMATORS[name], **options)
        rows = benchmark(cost, q, {name: biased}, replicates=VARIANCE_REPLICATES)
        off = (rows["mean"] - expected.flatten().numpy()).abs()
        assert (off <= limit * rows["bias_se"] + 1e-12).all(), rows.to_string()
        assert (rows["bias"].abs() > limit * rows["bias_se"]).any(), "the bias is too small to be seen here"


def check_counts(names: Iterable[str]) -> None:
    """`evaluations` is the number of draws that the cost is asked for."""
    for name in names:
        for problem in (problem for problem in PROBLEMS if applies(name, problem)):
            asked: list[int] = []

            def counting(z: Tensor, problem: Problem = problem, asked: list[int] = asked) -> Tensor:
                value = problem.cost(z)
                asked.append(value.numel())
                return value

            # Without the wrapper's checks of requirements, which may ask once more.
            counter = CheckedCost(counting, len(problem.q.event_shape))
            replicate_gradients(ESTIMATORS[name].function, counter, problem.q, SAMPLES, 1)
            expected = problem.q.batch_shape.numel() * ESTIMATORS[name].evaluations(SAMPLES, problem.q)
            assert sum(asked) == expected, f"{problem.name}, {name}: {sum(asked)}, not {expected}"


def check_values(names: Iterable[str]) -> None:
    """The surrogate's value estimates E[cost], and so does its gradient by a factor of the cost.

    That is how a decoder learns: its weights are in the cost.
    """
    values, probabilities = bits()
    cases = [
        (NORMAL, cosine(K), math.exp(-((K * 1.2) ** 2) / 2) * math.cos(K * 0.5)),
        (BITS, parity, float(probabilities @ parity(t(values)).numpy())),
    ]
    limit = deviation_limit(4 * len(ESTIMATORS), FALSE_ALARM)
    for name in (name for name in names if ESTIMATORS[name].unbiased):
        for q, cost, expected in cases:
            factor = torch.ones(REPLICATES, dtype=torch.float64, requires_grad=True)
            given = {key: p.expand(REPLICATES, *p.shape) for key, p in parameters(q).items()}
            torch.manual_seed(0)
            try:
                surrogate = ESTIMATORS[name](
                    rebuild(q, **given), lambda z, cost=cost, factor=factor: factor * cost(z), SAMPLES
                )
            except NotApplicable:
                continue
            (by_factor,) = torch.autograd.grad(surrogate.mean(0).sum(), factor)
            for estimates in (surrogate.detach().mean(0), by_factor):
                se = estimates.std().item() / REPLICATES**0.5
                assert abs(estimates.mean().item() - expected) <= limit * se + 1e-12, f"{name}: {expected}"


def check_problems_apart(names: Iterable[str]) -> None:
    """Elements of q's batch are independent problems: a surrogate depends on its own parameters only."""
    for name in names:
        for q, cost in ((Normal(t([0.5, -0.2]), t([1.2, 0.7])), f), (Bernoulli(logits=t([-0.4, 0.8])), g)):
            leaves = {key: p.detach().clone().requires_grad_() for key, p in parameters(q).items()}
            try:
                surrogate = ESTIMATORS[name](rebuild(q, **leaves), cost, SAMPLES)
            except NotApplicable:
                continue
            assert surrogate.shape == (SAMPLES, 2)
            for gradient in torch.autograd.grad(surrogate[:, 0].sum(), list(leaves.values())):
                assert gradient[1] == 0


UNBIASED = {name for name, entry in ESTIMATORS.items() if entry.unbiased}

# Each check, and the estimators that it says something about.
CHECKS: dict[Callable[[Iterable[str]], None], Collection[str]] = {
    check_unbiased: UNBIASED,
    check_variances: {
        *("pathwise", "score_function", "rloo", "measure_valued", "arm", "disarm"),
        *("antithetic", "delta_control_variate"),
    },
    check_single_estimates: ESTIMATORS,
    check_exact_bias: BIASED,
    check_counts: ESTIMATORS,
    check_values: UNBIASED,
    check_problems_apart: ESTIMATORS,
}
