"""What other packages test their gradient estimators on, and more of the kind, against closed forms.

The cases are those of the packages, the formulas are ours: none of their code is here. A cost may know q, as
that of a KL divergence does, and have parameters of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from problems import t
from scipy.special import digamma, expit, polygamma, softmax
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    Distribution,
    Exponential,
    Gamma,
    Independent,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
)

from vae_lab import ESTIMATORS, DiagonalNormal, Family, NotApplicable, benchmark, exact_gradient
from vae_lab.estimators.costs import Cost, Separable
from vae_lab.estimators.families import parameters, rebuild
from vae_lab.measure.statistics import deviation_limit

Gradients = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """E_q[cost(q, **own)(z)] and its gradient with respect to the parameters of q and `own` ones of the cost.

    `through_q`: the cost's own dependence on q adds nothing to the gradient, as in E_q[log q].
    """

    source: str
    q: Distribution
    cost: Callable[..., Cost]
    gradient: Gradients
    own: dict[str, Tensor] = field(default_factory=dict)
    through_q: bool = True


def plain(cost: Cost) -> Callable[..., Cost]:
    return lambda q: cost


def relative_to(p: Distribution) -> Callable[..., Cost]:
    """log q − log p, whose mean is KL(q ‖ p)."""
    return lambda q: lambda z: q.log_prob(z) - p.log_prob(z)


# Normals, by log σ: "sge" is optax's stochastic_gradient_estimators_test, of which mc_gradients has a part


def diagonal(mu: list[float], log_sigma: list[float]) -> DiagonalNormal:
    return DiagonalNormal(t(mu), t(log_sigma))


def constant() -> Case:
    zeros = [0.0, 0.0, 0.0]
    return Case(
        "sge",
        diagonal([1.5] * 3, zeros),
        plain(lambda z: torch.full_like(z[..., 0], 0.5)),
        {"mu": zeros, "log_sigma": zeros},
    )


def linear(mu: list[float], log_sigma: list[float], weights: list[float]) -> Case:
    """E[w·z] = w·μ."""
    return Case(
        "sge",
        diagonal(mu, log_sigma),
        plain(Separable(lambda z: z * t(weights))),
        {"mu": weights, "log_sigma": np.zeros(3)},
    )


def squared(mu: list[float], log_sigma: list[float], weights: list[float]) -> Case:
    """E[(w·z)²] = (w·μ)² + Σ w² σ²."""
    w, m, s = np.array(weights), np.array(mu), np.exp(log_sigma)
    return Case(
        "sge",
        diagonal(mu, log_sigma),
        plain(lambda z: (z @ t(weights)) ** 2),
        {"mu": 2 * w * (w @ m), "log_sigma": 2 * w**2 * s**2},
    )


def sum_of_squares(mu: float, log_sigma: float) -> Case:
    """E[Σ z²] = Σ μ² + σ²."""
    return Case(
        "mc_gradients",
        diagonal([mu] * 3, [log_sigma] * 3),
        plain(Separable(torch.square)),
        {"mu": [2 * mu] * 3, "log_sigma": [2 * np.exp(2 * log_sigma)] * 3},
    )


def waves(k: float, mu: list[float], log_sigma: list[float], together: bool) -> Case:
    """E[cos kz] = exp(−k²σ²/2) cos kμ, of each coordinate or of their sum."""
    m, v = np.array(mu), np.exp(2 * np.array(log_sigma))
    angle, spread = (m.sum(), v.sum()) if together else (m, v)
    height = np.exp(-(k**2) * spread / 2)
    by_mu, by_log = -k * height * np.sin(k * angle), -(k**2) * v * height * np.cos(k * angle)
    cost = (lambda z: (k * z.sum(-1)).cos()) if together else (lambda z: (k * z).cos().sum(-1))
    return Case("sge", diagonal(mu, log_sigma), plain(cost), {"mu": by_mu + 0 * m, "log_sigma": by_log})


def far_away() -> Case:
    """E[z] = μ, however far from zero."""
    loc = t([-1e6, -100.0, -10.0, -1.0, 1.0, 10.0, 100.0, 1e6])
    return Case(
        "TFP, expectation_test",
        Normal(loc, torch.ones_like(loc)),
        plain(torch.positive),
        {"loc": np.ones(8), "scale": np.zeros(8)},
    )


# Divergences: the cost is log q − log p


def normals(loc: list[float], scale: list[float], other: list[float], width: list[float]) -> Case:
    m, s, a, b = map(np.array, (loc, scale, other, width))
    return Case(
        "TFP, csiszar_divergence_test",
        Normal(t(loc), t(scale)),
        relative_to(Normal(t(other), t(width))),
        {"loc": (m - a) / b**2, "scale": s / b**2 - 1 / s},
    )


def both_sides() -> Case:
    """By the mean of p in the cost, too: μ_p enters KL as (μ − μ_p)² / 2σ_p²."""
    return Case(
        "TFP, expectation_test",
        Normal(t(0.0), t(1.0)),
        lambda q, other: lambda z: q.log_prob(z) - Normal(other, 2.0).log_prob(z),
        {"loc": -1 / 4, "scale": 1 / 4 - 1, "other": 1 / 4},
        own={"other": t(1.0)},
    )


def coins(p: float, other: float) -> Case:
    """KL = p log(p/o) + (1 − p) log((1 − p)/(1 − o))."""
    return Case(
        "TFP, expectation_test",
        Bernoulli(t(p)),
        lambda q, other: lambda z: q.log_prob(z) - Bernoulli(other).log_prob(z),
        {
            "probs": np.log(p / other) - np.log((1 - p) / (1 - other)),
            "other": (1 - p) / (1 - other) - p / other,
        },
        own={"other": t(other)},
    )


def forward(m: float, s: float, a: float, b: float) -> Case:
    """E_q[u log u] with u = p/q is KL(p ‖ q); here the cost's own dependence on q counts."""

    def cost(q: Distribution) -> Cost:
        def u_log_u(z: Tensor) -> Tensor:
            log_u = Normal(t(a), t(b)).log_prob(z) - q.log_prob(z)
            return log_u.exp() * log_u

        return u_log_u

    return Case(
        "TFP, csiszar_divergence_test",
        Normal(t(m), t(s)),
        cost,
        {"loc": (m - a) / s**2, "scale": 1 / s - (b**2 + (m - a) ** 2) / s**3},
        through_q=False,
    )


def tridiagonal() -> Case:
    """KL(N(0, s² I) ‖ N(0, Σ)) has the slope s tr Σ⁻¹ − D/s."""
    covariance = np.eye(3) + 0.5 * (np.eye(3, k=1) + np.eye(3, k=-1))
    p = MultivariateNormal(torch.zeros(3, dtype=torch.float64), t(covariance.tolist()))
    s = 1.3
    q = Family(lambda s: Independent(Normal(0.0, s.unsqueeze(-1).expand(*s.shape, 3)), 1), s=t(s))
    return Case(
        "TFP, csiszar_divergence_test",
        q,
        relative_to(p),
        {"s": s * np.trace(np.linalg.inv(covariance)) - 3 / s},
    )


def joint() -> Case:
    """To z_0 ~ N(0, 1), z_1 ~ N(z_0, 1): ½ (m_0² + 2s_0² + (m_1 − m_0)² + s_1²) − log s_0 s_1 + c."""
    s = np.array([1.0, 2**0.5])
    return Case(
        "TFP, csiszar_divergence_test",
        Independent(Normal(t([0.0, 0.3]), t(s.tolist())), 1),
        lambda q: (
            lambda z: (
                q.log_prob(z)
                - Normal(0.0, 1.0).log_prob(z[..., 0])
                - Normal(z[..., 0], 1.0).log_prob(z[..., 1])
            )
        ),
        {"loc": [-0.3, 0.3], "scale": [2 * s[0] - 1 / s[0], s[1] - 1 / s[1]]},
    )


def posterior() -> Case:
    """−ELBO of z ~ N(0, 1), x ~ N(z, 1): by the mean 2m − x, by the deviation 2s − 1/s."""
    x = t([-0.5, 2.0])
    return Case(
        "pyro, test_gradient",
        Normal(torch.zeros_like(x), torch.ones_like(x)),
        lambda q: lambda z: q.log_prob(z) - Normal(0.0, 1.0).log_prob(z) - Normal(z, 1.0).log_prob(x),
        {"loc": [0.5, -2.0], "scale": [1.0, 1.0]},
    )


def gammas(a: list[float], b: list[float]) -> Case:
    """KL to Gamma(1, 1) = (a − 1) ψ(a) − log Γ(a) + log b + a (1 − b)/b."""
    shape, rate = np.array(a), np.array(b)
    return Case(
        "pyro, test_rejector",
        Gamma(t(a), t(b)),
        relative_to(Gamma(t(1.0), t(1.0))),
        {
            "concentration": (shape - 1) * polygamma(1, shape) + (1 - rate) / rate,
            "rate": 1 / rate - shape / rate**2,
        },
    )


def exponentials(rate: list[float]) -> Case:
    """KL to Exponential(1) = log r + 1/r − 1."""
    r = np.array(rate)
    return Case(
        "pyro, test_rejector",
        Exponential(t(rate)),
        relative_to(Exponential(t(1.0))),
        {"rate": 1 / r - 1 / r**2},
    )


def poissons(rate: list[float], other: float) -> Case:
    """KL = r log(r/o) − r + o."""
    return Case(
        "ours", Poisson(t(rate)), relative_to(Poisson(t(other))), {"rate": np.log(np.array(rate) / other)}
    )


def categoricals(logits: list[float], other: list[float]) -> Case:
    """By a logit: p_k (log(p_k/o_k) − KL)."""
    p, o = softmax(logits), softmax(other)
    ratio = np.log(p / o)
    return Case(
        "ours",
        Categorical(logits=t(logits)),
        relative_to(Categorical(logits=t(other))),
        {"logits": p * (ratio - p @ ratio)},
    )


def beta_entropy(a: float, b: float) -> Case:
    """E[log q] = −log B(a, b) + (a − 1) ψ(a) + (b − 1) ψ(b) − (a + b − 2) ψ(a + b)."""
    both = (a + b - 2) * polygamma(1, a + b)
    return Case(
        "ours",
        Beta(t(a), t(b)),
        lambda q: q.log_prob,
        {
            "concentration1": (a - 1) * polygamma(1, a) - both,
            "concentration0": (b - 1) * polygamma(1, b) - both,
        },
    )


def normal_entropy() -> Case:
    """E[log q] = −log σ + c."""
    return Case("ours", Normal(t(0.7), t(0.4)), lambda q: q.log_prob, {"loc": 0.0, "scale": -1 / 0.4})


def full_entropy() -> Case:
    """E[log q] = −Σ log L_ii + c."""
    q = MultivariateNormal(t([0.3, -0.4]), scale_tril=t([[0.9, 0.0], [0.5, 0.7]]))
    gradient = {"loc": [0.0, 0.0], "scale_tril": [[-1 / 0.9, 0.0], [0.0, -1 / 0.7]]}
    return Case("ours", q, lambda q: q.log_prob, gradient)


# Other laws


def quadratic_form() -> Case:
    """E[zᵀAz] = mᵀAm + tr(A L Lᵀ), A symmetric."""
    a, m = np.array([[1.0, 0.4], [0.4, 0.5]]), np.array([0.6, -0.8])
    low = np.array([[0.9, 0.0], [0.5, 0.7]])
    return Case(
        "rezende2014stochastic",
        MultivariateNormal(t(m.tolist()), scale_tril=t(low.tolist())),
        plain(lambda z: (z @ t(a.tolist()) * z).sum(-1)),
        {"loc": 2 * a @ m, "scale_tril": np.tril(2 * a @ low)},
    )


def bits(logits: list[float], targets: list[float], source: str) -> Case:
    """E[Σ (b − t)²]: by a logit p (1 − p) (1 − 2t)."""
    p, at = expit(logits), np.array(targets)
    return Case(
        source,
        Independent(Bernoulli(logits=t(logits)), 1),
        plain(lambda b: (b - t(targets)).square().sum(-1)),
        {"logits": p * (1 - p) * (1 - 2 * at)},
    )


def one_hot() -> Case:
    """E[c·z] with probabilities that are normalised: c_k − c·p. A constant changes nothing."""
    p, c = np.array([0.95, *[0.01] * 5]), 2.4 * np.arange(1, 7)
    return Case(
        "storchastic, is_unbiased",
        OneHotCategorical(t(p.tolist())),
        plain(lambda z: z @ t(c.tolist()) + 100),
        {"probs": c - c @ p},
    )


def betas(a: list[float], b: list[float]) -> Case:
    """E[z] = a/(a + b)."""
    a_, b_ = np.array(a), np.array(b)
    return Case(
        "pyro, test_rejector",
        Beta(t(a), t(b)),
        plain(torch.positive),
        {"concentration1": b_ / (a_ + b_) ** 2, "concentration0": -a_ / (a_ + b_) ** 2},
    )


LOGITS, LOC = np.array([0.3, 1.2, 0.7]), np.array([[0.2, 0.9], [0.6, 0.1], [-0.8, 0.4]])
SCALE = np.array([[1.1, 1.4], [1.2, 1.0], [1.3, 1.05]])


def mixed(cost: Cost, value: np.ndarray, by_loc: np.ndarray, by_scale: np.ndarray) -> Case:
    """From what the components have as means (3,), and their slopes (3, 2)."""
    weights = softmax(LOGITS)

    def build(logits: Tensor, loc: Tensor, scale: Tensor) -> Distribution:
        return MixtureSameFamily(Categorical(logits=logits), Independent(Normal(loc, scale), 1))

    return Case(
        "pyro, test_gaussian_mixtures",
        Family(build, logits=t(LOGITS.tolist()), loc=t(LOC.tolist()), scale=t(SCALE.tolist())),
        plain(cost),
        {
            "logits": weights * (value - weights @ value),
            "loc": weights[:, None] * by_loc,
            "scale": weights[:, None] * by_scale,
        },
    )


def mixed_squares() -> Case:
    value = (LOC**2 + SCALE**2).sum(1)
    return mixed(lambda z: z.square().sum(-1), value, 2 * LOC, 2 * SCALE)


def mixed_waves() -> Case:
    """exp(−½ Σ ω² s²) cos ω·m of each component."""
    omega = np.array([0.8, 0.5])
    height = np.exp(-0.5 * (omega * SCALE) ** 2 @ np.ones(2))
    wave, slope = height * np.cos(LOC @ omega), height * np.sin(LOC @ omega)
    return mixed(
        lambda z: (z @ t(omega.tolist())).cos(),
        wave,
        -slope[:, None] * omega,
        -wave[:, None] * omega**2 * SCALE,
    )


def exponential_cost(c: float, m: float, s: float) -> Case:
    """E[exp cz] = exp(cm + c²s²/2)."""
    mean = np.exp(c * m + c**2 * s**2 / 2)
    return Case(
        "ours",
        Normal(t(m), t(s)),
        plain(lambda z: (c * z).exp()),
        {"loc": c * mean, "scale": c**2 * s * mean},
    )


def log_normal(m: float, s: float) -> Case:
    mean = np.exp(m + s**2 / 2)
    return Case("ours", LogNormal(t(m), t(s)), plain(torch.positive), {"loc": mean, "scale": s * mean})


def gamma_laplace(a: float, b: float) -> Case:
    """E[exp −z] = (b/(1 + b))^a."""
    mean = (b / (1 + b)) ** a
    gradient = {"concentration": mean * np.log(b / (1 + b)), "rate": mean * a / (b * (1 + b))}
    return Case("ours", Gamma(t(a), t(b)), plain(lambda z: (-z).exp()), gradient)


def gamma_wave(k: float, a: float, b: float) -> Case:
    """E[exp ikz] = (1 − ik/b)^−a; its imaginary part is the mean of the sine."""
    w = 1 - 1j * k / b
    by_shape, by_rate = -np.log(w) * w**-a, -a * w ** (-a - 1) * 1j * k / b**2
    return Case(
        "ours",
        Gamma(t(a), t(b)),
        plain(lambda z: (k * z).sin()),
        {"concentration": by_shape.imag, "rate": by_rate.imag},
    )


def exponential_wave(k: float, r: float) -> Case:
    """E[sin kz] = kr/(k² + r²)."""
    size = k**2 + r**2
    return Case(
        "ours", Exponential(t(r)), plain(lambda z: (k * z).sin()), {"rate": k / size - 2 * k * r**2 / size**2}
    )


def exponential_power(r: float) -> Case:
    """E[z³] = 6/r³."""
    return Case("ours", Exponential(t(r)), plain(lambda z: z**3), {"rate": -18 / r**4})


def poisson_power(r: list[float]) -> Case:
    """E[z³] = r³ + 3r² + r."""
    rate = np.array(r)
    return Case("ours", Poisson(t(r)), plain(lambda z: z**3), {"rate": 3 * rate**2 + 6 * rate + 1})


def poisson_wave(k: float, r: float) -> Case:
    """E[exp ikz] = exp(r (exp ik − 1))."""
    slope = np.exp(1j * k) - 1
    gradient = {"rate": (slope * np.exp(r * slope)).real}
    return Case("ours", Poisson(t(r)), plain(lambda z: (k * z).cos()), gradient)


def dirichlet_entropy(alpha: list[float]) -> Case:
    """E[Σ z log z] = Σ_k m_k (ψ(α_k + 1) − ψ(A + 1)), m = α/A, A = Σ α: minus the mean entropy of z."""
    a = np.array(alpha)
    total = a.sum()
    gap = digamma(a + 1) - digamma(total + 1)
    gradient = (gap - a @ gap / total) / total + a / total * polygamma(1, a + 1) - polygamma(1, total + 1)
    return Case(
        "ours", Dirichlet(t(alpha)), plain(Separable(lambda z: z * z.log())), {"concentration": gradient}
    )


def dirichlet_squares(alpha: list[float]) -> Case:
    """E[Σ z²] = Σ α (α + 1) / (A (A + 1))."""
    a = np.array(alpha)
    total = a.sum()
    mean = (a * (a + 1)).sum() / (total * (total + 1))
    gradient = (2 * a + 1 - mean * (2 * total + 1)) / (total * (total + 1))
    return Case("ours", Dirichlet(t(alpha)), plain(Separable(torch.square)), {"concentration": gradient})


MU, LOW, FLAT = [1.0, 2.0, 3.0], [-1.0, 0.3, -2.0], [0.1, 0.2, 0.1]
CASES = {
    "constant": constant(),
    "linear, narrow": linear([0.5] * 3, [-1.0] * 3, [1.0] * 3),
    "linear": linear([0.7] * 3, [0.0] * 3, [1.0] * 3),
    "linear, wide": linear([0.8] * 3, [0.1] * 3, [1.0] * 3),
    "weighted linear": linear(MU, LOW, [4.0, 2.0, 3.0]),
    "weighted linear, wide": linear(MU, FLAT, [10.0, 5.0, 1.0]),
    "sum of squares": sum_of_squares(1.0, 0.3),
    "sum of squares, wide": sum_of_squares(1.0, 1.0),
    "weighted quadratic": squared(MU, LOW, [1.0, 1.0, 1.0]),
    "weighted quadratic, steep": squared(MU, LOW, [4.0, 2.0, 3.0]),
    "weighted quadratic, wide": squared(MU, FLAT, [3.0, 5.0, 1.0]),
    "cosine": waves(1.0, [1.0], [1.0], together=False),
    "two cosines": waves(2.0, [1.0, 2.0], [-1.0, -2.0], together=False),
    "cosine of a sum": waves(2.0, [1.0, 2.0], [-1.0, -2.0], together=True),
    "means far away": far_away(),
    "a structured sample": sum_of_squares(0.0, 0.0),
    "KL of a normal, both sides": both_sides(),
    "KL of six normals": normals(
        [1.0] * 6, [0.5, 1.0, 1.5, 2.0, 2.5, 3.0], [1.1] * 6, [0.3, 0.8, 1.3, 1.8, 2.3, 2.8]
    ),
    "forward KL": forward(0.3, 1.3, 0.0, 0.8),
    "KL to a tridiagonal covariance": tridiagonal(),
    "KL to a chain": joint(),
    "KL of coins": coins(0.4, 0.7),
    "negative ELBO": posterior(),
    "KL of gammas": gammas([1.0, 2.0, 5.0, 2.0, 5.0, 1.0], [0.5, 0.5, 1.0, 2.0, 5.0, 2.0]),
    "KL of exponentials": exponentials([0.5, 1.1, 2.0]),
    "KL of Poissons": poissons([0.8, 2.5], 1.7),
    "KL of categoricals": categoricals([0.2, -0.3, 0.5, 0.0], [0.0, 1.0, -0.5, 0.3]),
    "entropy of a beta": beta_entropy(2.0, 3.5),
    "entropy of a normal": normal_entropy(),
    "entropy of a full normal": full_entropy(),
    "quadratic form": quadratic_form(),
    "a bit near its target": bits([0.0], [0.499], "relax, toy problem"),
    "a bit, easier": bits([0.0], [0.45], "relax, toy problem"),
    "three bits": bits([0.2, 0.9, 0.4], [0.2, 0.55, 0.9], "relax, autograd tests"),
    "three rare bits": bits([-4.0] * 3, [0.6, 0.51, 0.48], "storchastic, bernoulli_toy"),
    "one of six": one_hot(),
    "betas": betas([0.5, 1.0, 4.0, 4.0], [0.5, 4.0, 1.0, 4.0]),
    "a mixture's squares": mixed_squares(),
    "a mixture's waves": mixed_waves(),
    "exponential": exponential_cost(0.6, 0.5, 0.9),
    "log-normal": log_normal(0.3, 0.5),
    "Laplace transform of a gamma": gamma_laplace(1.7, 2.3),
    "sine of a gamma": gamma_wave(0.9, 1.7, 2.3),
    "sine of an exponential": exponential_wave(0.9, 0.6),
    "cube of an exponential": exponential_power(1.6),
    "cube of a Poisson": poisson_power([0.8, 2.5]),
    "cosine of a Poisson": poisson_wave(0.7, 2.5),
    "entropy under a Dirichlet": dirichlet_entropy([1.0, 2.0, 3.0]),
    "squares under a Dirichlet": dirichlet_squares([0.7, 2.0, 1.5]),
}

FALSE_ALARM = 1e-6  # of all comparisons of means together
REPLICATES, SAMPLES = 20_000, 4
POWER = 0.05  # of the gradient: the largest standard error of the best estimator
# What claims to be unbiased, and central differences, whose bias is rounding.
HELD = [name for name, entry in ESTIMATORS.items() if entry.unbiased or name == "finite_difference"]
LIMIT = deviation_limit(
    len(HELD) * sum(np.size(g) for c in CASES.values() for g in c.gradient.values()), FALSE_ALARM
)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.through_q])
def test_the_exact_gradient_is_the_closed_form(name: str) -> None:
    case = CASES[name]
    found = exact_gradient(case.cost(case.q, **case.own), case.q)
    size = max(np.abs(case.gradient[parameter]).max() for parameter in found)
    for parameter, value in found.items():
        np.testing.assert_allclose(
            value, case.gradient[parameter], rtol=1e-6, atol=1e-7 * (size or 1), err_msg=parameter
        )


def estimates(name: str, case: Case) -> dict[str, np.ndarray]:
    """Of every parameter, of q and of the cost: (replicates, *shape). Raises `NotApplicable`."""

    def copies(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: p.expand(REPLICATES, *p.shape).clone().requires_grad_() for key, p in values.items()}

    given, own = copies(parameters(case.q)), copies(case.own)
    q = rebuild(case.q, **given)
    torch.manual_seed(0)
    surrogate = ESTIMATORS[name](q, case.cost(q, **own), SAMPLES)
    leaves = given | own
    slopes = torch.autograd.grad(
        surrogate.mean(0).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return {key: slope.numpy() for key, slope in zip(leaves, slopes, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_every_estimator_that_applies_has_the_closed_form_as_its_mean(name: str) -> None:
    case = CASES[name]
    size = max(np.abs(g).max() for g in case.gradient.values()) or 1.0
    best = np.inf
    for held in HELD:
        try:
            found = estimates(held, case)
        except NotApplicable:
            continue
        errors = []
        for parameter, expected in case.gradient.items():
            mean, error = found[parameter].mean(0), found[parameter].std(0) / REPLICATES**0.5
            message = f"{held}, {parameter}: {mean} ± {error}, not {expected}"
            assert (np.abs(mean - expected) <= LIMIT * error + 1e-6 * size).all(), message
            errors.append(error.max())
        best = min(best, max(errors))
    assert best < POWER * size, "no estimator has power"


@pytest.mark.parametrize(
    "q",
    # They check their values, whatever pyro, which another test may have imported, has made the default.
    [Bernoulli(t(0.4), validate_args=True), OneHotCategorical(t([0.4, 0.6]), validate_args=True)],
    ids=["bit", "one-hot"],
)
def test_a_density_as_the_cost_keeps_its_checks_and_the_table_its_rows(q: Distribution) -> None:
    """Relaxations need values at which torch's densities raise: they do not apply, and the others do."""
    found = benchmark(lambda z: q.log_prob(z) - 1, q, n=2, replicates=100)
    assert {"score_function", "rloo"} <= set(found["estimator"])
    assert not {"gumbel_softmax", "rebar", "relax"} & set(found["estimator"])
    with pytest.raises(NotApplicable, match=r"refuses values between .* validate_args=False"):
        ESTIMATORS["gumbel_softmax"](q, q.log_prob, 2)
