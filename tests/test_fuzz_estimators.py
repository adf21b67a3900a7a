"""Distributions and costs that nobody thought of: the oracle, and the table of estimators."""

import math
from collections.abc import Callable
from typing import Any

import torch
from fuzzing import Inputs, fuzz
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch import distributions as d

from vae_lab import Family, NotApplicable, benchmark, exact_gradient
from vae_lab.estimators.costs import CostError

inputs = Inputs()


# Gradients of moments: the oracle and the estimators against torch's own formulas for mean and variance

# Constructor, and the exponents of ten of its parameters.
LAWS: dict[str, tuple[Callable[..., Any], list[tuple[float, float]]]] = {
    "Normal": (d.Normal, [(-2, 3), (-3, 3)]),
    "Laplace": (d.Laplace, [(-2, 2), (-3, 3)]),
    "Gumbel": (d.Gumbel, [(-2, 2), (-2, 2)]),
    "LogNormal": (d.LogNormal, [(-2, 0), (-2, 0.3)]),
    "StudentT": (lambda df, loc, scale: d.StudentT(2 + df, loc, scale), [(-1, 2), (-2, 2), (-2, 2)]),
    "Gamma": (d.Gamma, [(-2.5, 3), (-2, 2)]),
    "InverseGamma": (lambda a, rate: d.InverseGamma(2 + a, rate), [(-1, 2), (-2, 2)]),
    "Exponential": (d.Exponential, [(-3, 3)]),
    "HalfNormal": (d.HalfNormal, [(-3, 3)]),
    "Weibull": (d.Weibull, [(-2, 2), (-0.5, 1.5)]),
    "Beta": (d.Beta, [(-3, 3), (-3, 3)]),
    "Kumaraswamy": (d.Kumaraswamy, [(-1, 1.5), (-1, 1.5)]),
    "Poisson": (d.Poisson, [(-3, 3)]),
    "Bernoulli": (lambda p: d.Bernoulli(p / (1 + p)), [(-3, 3)]),
    "Geometric": (lambda p: d.Geometric(p / (1 + p)), [(-2, 2)]),
    "Binomial": (lambda p: d.Binomial(7, p / (1 + p)), [(-3, 3)]),
    "NegativeBinomial": (lambda p: d.NegativeBinomial(3, p / (1 + p)), [(-2, 0.5)]),
    "Uniform": (lambda low, width: d.Uniform(low, low + width), [(-2, 2), (-2, 2)]),
}


@st.composite
def laws(draw: Any) -> tuple[str, list[float], torch.dtype, tuple[int, ...]]:
    name = draw(st.sampled_from(sorted(LAWS)))
    exponents = [draw(st.floats(low, high)) for low, high in LAWS[name][1]]
    precision = draw(st.sampled_from([torch.float32, torch.float64]))
    return name, [10**e for e in exponents], precision, draw(st.sampled_from([(), (1,), (3,), (2, 2)]))


def family(law: tuple[str, list[float], torch.dtype, tuple[int, ...]]) -> tuple[Any, dict[str, Tensor]]:
    """The distribution as a function of p0, p1, …, and their values."""
    name, values, precision, batch = law
    make = LAWS[name][0]
    spread = 1 + 0.1 * torch.arange(math.prod(batch), dtype=precision).reshape(batch)
    given = {f"p{i}": value * spread for i, value in enumerate(values)}
    return (lambda **p: make(*p.values())), given


def by_moments(build: Any, given: dict[str, Tensor], power: int) -> dict[str, Tensor]:
    """∇E[z] or ∇E[z²], in float64, by torch's mean and variance."""
    leaves = {name: p.double().clone().requires_grad_() for name, p in given.items()}
    q = build(**leaves)
    moment = q.mean if power == 1 else q.variance + q.mean**2
    slopes = torch.autograd.grad(
        moment.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, slopes, strict=True))


@fuzz(200)
@given(laws(), st.sampled_from([1, 2]))
def test_exact_gradients_of_moments(law: Any, power: int) -> None:
    build, given = family(law)
    found, error = inputs.attempt(
        "oracle",
        (law, power),
        lambda: exact_gradient(lambda z: z**power, Family(build, **given), evaluations=2**16),
        NotApplicable,
    )
    if error:
        return
    expected = by_moments(build, given, power)
    size = max(float((g.abs() * given[name].abs()).max()) for name, g in expected.items())
    for name, value in found.items():
        off = float(((value - expected[name]) * given[name]).abs().max())
        assert off <= 2e-5 * size + 1e-12, f"{law}, {name}: {value}, not {expected[name]}"


@fuzz(80)
@given(laws(), st.sampled_from([1, 2]), st.integers(0, 2**31))
def test_what_a_table_calls_unbiased_is_right(law: Any, power: int, seed: int) -> None:
    """Six and a half standard errors: about one false alarm in 10⁷ means of normal estimates."""
    build, given = family(law)
    q, options = Family(build, **given), {"n": 2, "replicates": 400, "seed": seed, "oracle": 2**16}
    frame, error = inputs.attempt(
        "tables",
        (law, power, seed),
        lambda: benchmark(lambda z: z**power, q, **options),
        NotApplicable,
        CostError,
    )
    if error:
        return
    expected = by_moments(build, given, power)
    for row in frame[frame["unbiased"]].itertuples():
        exact = float(expected[row.parameter].reshape(-1)[row.coordinate])
        off, size = abs(row.mean - exact), float(expected[row.parameter].abs().max())
        heavy = row.variance_se > 0.18 * row.variance  # of less than 30 effective estimates
        assert heavy or off <= 6.5 * row.bias_se + 1e-5 * size, f"{law}: {row}"


# Costs that are none

COSTS: dict[str, Callable[[Tensor], Any]] = {
    "sum": lambda z: z.sum(),
    "None": lambda z: None,
    "number": lambda z: 1.0,
    "list": lambda z: z.tolist(),
    "numpy": lambda z: z.detach().numpy(),
    "wider": lambda z: torch.stack([z, z]),
    "NaN": lambda z: z * math.nan,
    "infinite": lambda z: z / 0,
    "complex": lambda z: z + 1j,
    "bool": lambda z: z > 0,
    "half": lambda z: z.half(),
    "noise": lambda z: z + torch.randn_like(z),
    "mean": lambda z: z - z.mean(),
    "in place": lambda z: z.mul_(2),
    "data": lambda z: z.data.mul_(2),
    "reversed": lambda z: z.flip(0),
    "constant": torch.ones_like,
    "zero": torch.zeros_like,
    "detached": lambda z: z.detach() ** 2,
    "fine": torch.cos,
}


@fuzz(100)
@given(st.sampled_from(sorted(COSTS)), laws())
def test_costs_of_any_kind(name: str, law: Any) -> None:
    build, given = family(law)
    q, options = build(**given), {"n": 2, "replicates": 50, "oracle": 2**14}
    frame, error = inputs.attempt(
        "costs", (name, law), lambda: benchmark(COSTS[name], q, **options), NotApplicable, CostError
    )
    if error:
        return
    assert name in {"infinite", "bool", "half", "constant", "zero", "detached", "fine"}, frame.to_string()
    assert (frame["mean"].notna() | (frame["note"] != "")).all()


def test_the_figures_are_told(record_property: Callable[[str, object], None]) -> None:
    inputs.tell(record_property, least=350)
