"""Gradient problems with exact answers, and closed forms for some of them, used by all tests of estimators.

Everything is float64. Formulas here are written out by hand and share no code with the package.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
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
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Poisson,
    StudentT,
)

from vae_lab import DiagonalNormal
from vae_lab.estimators.costs import Cost, Separable, bump, cosine, quadratic, step
from vae_lab.estimators.von_mises import VonMises

t = partial(torch.tensor, dtype=torch.float64)


@dataclass(frozen=True)
class Problem:
    """∇ E_q[cost(z)] is wanted."""

    name: str
    q: Distribution
    cost: Cost


def ripple(z: Tensor) -> Tensor:
    """Smooth, and not a sum over coordinates: sin(Σ z) + Π z / 4."""
    return z.sum(-1).sin() + 0.25 * z.prod(-1)


def parity(z: Tensor) -> Tensor:
    """Of three bits, with interactions of all orders."""
    return (z @ t([1.0, -2.0, 0.5]) - 0.3) ** 2 + z.prod(-1)


def choice(z: Tensor) -> Tensor:
    """Of a one-hot vector."""
    return (z @ t([0.2, 1.0, -0.7])) ** 2 + 0.5 * z[..., 0]


NORMAL = Normal(t(0.5), t(1.2))
SEVERAL = Normal(t([-0.5, 0.4, 1.0]), t([0.7, 1.0, 1.3]))
BITS = Independent(Bernoulli(logits=t([-0.4, 0.3, 1.0])), 1)

PROBLEMS = [
    Problem("normal, quadratic", NORMAL, quadratic(-0.7)),
    Problem("normal, bump", NORMAL, bump(0.8)),
    Problem("normal, cosine", NORMAL, cosine(1.3)),
    Problem("normal, step", NORMAL, step(0.3)),
    Problem("three normals, a cosine each", SEVERAL, cosine(t([0.5, 1.0, 2.0]))),
    Problem("two coordinates, ripple", Independent(Normal(t([0.3, -0.6]), t([0.8, 1.1])), 1), ripple),
    Problem(
        "three coordinates, separable",
        DiagonalNormal(t([0.3, -0.6, 0.9]), t([0.0, -0.3, 0.2])),
        Separable(lambda z: 0.5 * z**2 + z.sin()),
    ),
    Problem(
        "two batches, ripple",
        DiagonalNormal(t([[0.3, -0.6], [0.8, 0.2]]), t([[-0.2, 0.1], [0.1, 0.0]])),
        ripple,
    ),
    Problem(
        "multivariate normal, ripple",
        MultivariateNormal(t([0.3, -0.4]), scale_tril=t([[0.9, 0.0], [0.5, 0.7]])),
        ripple,
    ),
    Problem("Laplace, cosine", Laplace(t(0.5), t(0.8)), cosine(1.3)),
    Problem("Student t, cosine", StudentT(t(5.0), t(0.5), t(0.8)), cosine(1.3)),
    Problem("gamma, cosine", Gamma(t([1.5, 3.0]), t([2.0, 1.5])), cosine(1.3)),
    Problem("beta, quadratic", Beta(t(2.0), t(3.0)), quadratic(-0.2)),
    Problem("Dirichlet, separable", Dirichlet(t([1.0, 2.0, 3.0])), Separable(torch.square)),
    Problem("exponential, cosine", Exponential(t([0.7, 1.5])), cosine(0.8)),
    Problem("von Mises, cosine", VonMises(t(0.6), t(2.0)), cosine(1.0)),
    Problem("Bernoulli by probability", Bernoulli(t(0.3)), quadratic(0.2)),
    Problem("Bernoulli by logits", Bernoulli(logits=t([-0.4, 0.9])), quadratic(0.2)),
    Problem("three bits, parity", BITS, parity),
    Problem("categorical, quadratic", Categorical(logits=t([0.2, -0.3, 0.5, 0.0])), quadratic(0.7)),
    Problem("one-hot, choice", OneHotCategorical(logits=t([0.2, -0.3, 0.5])), choice),
    Problem("binomial, quadratic", Binomial(3, t(0.4)), quadratic(0.7)),
    Problem("Poisson, cosine", Poisson(t([0.8, 2.5])), cosine(0.7)),
]


# Expectations under N(m, s²) that the closed forms are made of


def cosine_moments(a: float, m: float, s: float) -> tuple[float, float, float]:
    """E[ε^p cos(az)] for p = 0, 2, 4 and z = m + sε: by derivatives of the characteristic function."""
    w = a * s
    polynomials = (1.0, 1 - w**2, 3 - 6 * w**2 + w**4)
    zero, two, four = (p * math.exp(-(w**2) / 2) * math.cos(a * m) for p in polynomials)
    return zero, two, four


def tilted_mean(coefficients: list[float], a: float, m: float, s: float) -> float:
    """E[p(ε) exp(−a z²)], p(ε) = Σ c_i ε^i, z = m + sε: exp(−a z²) turns the normal into another one."""
    d = 1 + 2 * a * s**2
    height = math.exp(-a * m**2 / d) / math.sqrt(d)
    mean, deviation = -2 * a * m * s / d, 1 / math.sqrt(d)  # of ε, tilted
    raw = [1.0, mean]
    for power in range(2, len(coefficients)):
        raw.append(mean * raw[-1] + (power - 1) * deviation**2 * raw[-2])
    return height * sum(c * r for c, r in zip(coefficients, raw, strict=False))


def _by(mu: float, sigma: float) -> dict[str, float]:
    return {"loc": mu, "scale": sigma}


def quadratic_forms(k: float, m: float, s: float) -> dict[str, dict[str, float]]:
    """Gradient of E[(z − k)²], and the variances of single-sample estimates of it."""
    d = m - k
    return {
        "gradient": _by(2 * d, 2 * s),
        "pathwise": _by(4 * s**2, 4 * d**2 + 8 * s**2),
        "score_function": _by(
            (d**4 + 18 * d**2 * s**2 + 15 * s**4) / s**2 - 4 * d**2,
            (2 * d**4 + 60 * d**2 * s**2 + 78 * s**4) / s**2 - 4 * s**2,
        ),
        # c · 4dσW with W Rayleigh; and ε = UM with M double-sided Maxwell, U uniform.
        "measure_valued": _by(16 * d**2 / (2 * math.pi) * (2 - math.pi / 2), 4 * d**2 + 4 * s**2),
    }


def bump_forms(k: float, m: float, s: float) -> dict[str, dict[str, float]]:
    """The same for E[exp(−k z²)]. Estimates are polynomials in ε times the cost."""
    gradient = _by(
        tilted_mean([-2 * k * m, -2 * k * s], k, m, s), tilted_mean([0, -2 * k * m, -2 * k * s], k, m, s)
    )
    square = [4 * k**2 * m**2, 8 * k**2 * m * s, 4 * k**2 * s**2]  # (2kz)²
    second = {
        "pathwise": _by(tilted_mean(square, 2 * k, m, s), tilted_mean([0, 0, *square], 2 * k, m, s)),
        "score_function": _by(
            tilted_mean([0, 0, 1], 2 * k, m, s) / s**2, tilted_mean([1, 0, -2, 0, 1], 2 * k, m, s) / s**2
        ),
    }
    return {"gradient": gradient} | _variances(second, gradient)


def cosine_forms(k: float, m: float, s: float) -> dict[str, dict[str, float]]:
    """The same for E[cos kz], with cos² = (1 + cos 2kz) / 2."""
    gradient = _by(
        -k * math.exp(-((k * s) ** 2) / 2) * math.sin(k * m),
        -(k**2) * s * math.exp(-((k * s) ** 2) / 2) * math.cos(k * m),
    )
    zero, two, four = cosine_moments(2 * k, m, s)
    second = {
        "pathwise": _by(k**2 * (1 - zero) / 2, k**2 * (1 - two) / 2),
        "score_function": _by((1 + two) / 2 / s**2, (2 + four - 2 * two + zero) / 2 / s**2),
    }
    return {"gradient": gradient} | _variances(second, gradient)


def _variances(
    second: dict[str, dict[str, float]], gradient: dict[str, float]
) -> dict[str, dict[str, float]]:
    return {name: {p: v - gradient[p] ** 2 for p, v in by.items()} for name, by in second.items()}


FORMS: dict[str, tuple[Callable[[float], Cost], Callable[..., dict[str, dict[str, float]]]]] = {
    "quadratic": (quadratic, quadratic_forms),
    "bump": (bump, bump_forms),
    "cosine": (cosine, cosine_forms),
}


def bit_variances(f0: float, f1: float, p: float) -> dict[tuple[str, int], float]:
    """Variances for one Bernoulli variable by its logit: (estimator, n) -> variance of one estimate."""
    q, small = 1 - p, min(p, 1 - p)
    gradient = p * q * (f1 - f0)
    second = {
        ("score_function", 1): p * (f1 * q) ** 2 + q * (f0 * p) ** 2,
        ("rloo", 2): 2 * p * q * (f1 - f0) ** 2 / 4,
        ("measure_valued", 1): gradient**2,
        ("arm", 1): 2 * (f1 - f0) ** 2 * (0.5**3 - (0.5 - small) ** 3) / 3,
        ("disarm", 1): 2 * small * ((f1 - f0) * (1 - small) / 2) ** 2,
    }
    return {key: value - gradient**2 for key, value in second.items()}


def bits() -> tuple[np.ndarray, np.ndarray]:
    """All values of `BITS` (8, 3) and their probabilities (8,)."""
    p = 1 / (1 + np.exp(-np.array([-0.4, 0.3, 1.0])))
    values = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)], dtype=float)
    return values, np.where(values == 1, p, 1 - p).prod(1)
