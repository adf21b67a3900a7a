"""Inputs that nobody thought of: each ends in the right result, by an independent computation, or in one of
the project's own errors.

`make fuzz` tries as many as one likes: `make fuzz INPUTS=100000`.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import PositiveFloat, PositiveInt, TypeAdapter
from torch import Tensor
from torch import distributions as d

from vae_lab import Family, NotApplicable, benchmark, exact_gradient, load
from vae_lab.data.contract import DATASETS, DataError, Loaded
from vae_lab.data.contract import dataset as register
from vae_lab.estimators.costs import CostError
from vae_lab.parameters import ParameterError, validate
from vae_workflow.settings import literal

SCALE = int(os.environ.get("INPUTS", "2000")) / 2000  # of how many inputs are tried
tried: Counter[str] = Counter()


def fuzz(examples: int) -> Any:
    """So many examples in the tests; always the same ones, unless more are asked for."""
    return settings(
        max_examples=max(1, int(examples * SCALE)),
        deadline=None,
        derandomize=SCALE == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


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


@fuzz(400)
@given(laws(), st.sampled_from([1, 2]))
def test_exact_gradients_of_moments(law: Any, power: int) -> None:
    build, given = family(law)
    tried["oracle, tried"] += 1
    try:
        found = exact_gradient(lambda z: z**power, Family(build, **given), evaluations=2**16)
    except NotApplicable:
        tried["oracle, refused"] += 1
        return
    expected = by_moments(build, given, power)
    size = max(float((g.abs() * given[name].abs()).max()) for name, g in expected.items())
    for name, value in found.items():
        off = float(((value - expected[name]) * given[name]).abs().max())
        assert off <= 2e-5 * size + 1e-12, f"{law}, {name}: {value}, not {expected[name]}"


@fuzz(120)
@given(laws(), st.sampled_from([1, 2]), st.integers(0, 2**31))
def test_what_a_table_calls_unbiased_is_right(law: Any, power: int, seed: int) -> None:
    """Six and a half standard errors: about one false alarm in 10⁷ means of normal estimates."""
    build, given = family(law)
    tried["tables, tried"] += 1
    try:
        frame = benchmark(
            lambda z: z**power, Family(build, **given), n=2, replicates=400, seed=seed, oracle=2**16
        )
    except (NotApplicable, CostError):
        tried["tables, refused"] += 1
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


@fuzz(150)
@given(st.sampled_from(sorted(COSTS)), laws())
def test_costs_of_any_kind(name: str, law: Any) -> None:
    build, given = family(law)
    tried["costs, tried"] += 1
    try:
        frame = benchmark(COSTS[name], build(**given), n=2, replicates=50, oracle=2**14)
    except (NotApplicable, CostError):
        tried["costs, refused"] += 1
        return
    assert name in {"infinite", "bool", "half", "constant", "zero", "detached", "fine"}, frame.to_string()
    assert (frame["mean"].notna() | (frame["note"] != "")).all()


# Data sets

anything = st.one_of(
    st.none(),
    st.text(max_size=5),
    st.integers(-3, 300),
    st.floats(),
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.uint8, np.int64, np.bool_, np.dtype("U3")]),
        arrays.array_shapes(max_dims=4, max_side=6),
    ),
    st.lists(st.integers(0, 5), max_size=8),
)


truth = st.lists(st.sampled_from([False, True, 0, 1]), min_size=8, max_size=8)
masks = truth | truth.map(np.array) | truth.map(torch.tensor) | anything
names = st.lists(st.integers(0, 9), min_size=8, max_size=8) | anything


@fuzz(500)
@given(anything, names, masks, st.booleans())
def test_data_of_any_kind(images: Any, labels: Any, mask: Any, usual: bool) -> None:
    """What is taken has all items once, in train or in test, with finite values."""
    if usual:  # near what is right, or nearly all would be refused at once
        images = np.abs(np.asarray(np.random.default_rng(0).random((8, 6)), dtype=np.float32))
        mask = mask if mask is not None else np.arange(8) >= 6
        labels = labels if labels is not None else np.zeros(8, dtype=int)
    tried["data sets, tried"] += 1
    register("fuzzed")(lambda: Loaded(images, labels, (2, 3), mask))
    try:
        data = load("fuzzed", binarize=None)
    except DataError:
        tried["data sets, refused"] += 1
        return
    finally:
        del DATASETS["fuzzed"]
    assert len(data.train) + len(data.test) == len(images) and data.train.isfinite().all()
    assert len(data.train_labels) == len(data.train)


# Parameters

near_right = st.integers(1, 100) | st.floats(1e-3, 1e3) | st.lists(st.integers(1, 9), max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
ALLOWED = {
    "epochs": TypeAdapter(PositiveInt),
    "sigma": TypeAdapter(PositiveFloat),
    "name": TypeAdapter(str),
    "hidden": TypeAdapter(list[PositiveInt]),
}


@fuzz(700)
@given(st.sampled_from([*ALLOWED, *ALLOWED, "epoch", ""]), near_right | json_values)
def test_parameters_of_any_kind(name: str, value: Any) -> None:
    tried["parameters, tried"] += 1
    try:
        taken = validate(ALLOWED, {name: value})[name]
    except ParameterError:
        tried["parameters, refused"] += 1
        return
    numbers = taken if isinstance(taken, list) else [taken]
    if name in {"epochs", "hidden"}:
        assert all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 2**31 for n in numbers)
    if name == "sigma":
        assert isinstance(taken, float) and 1e-12 <= taken <= 1e12


@fuzz(300)
@given(json_values | st.text(max_size=20))
def test_what_is_written_is_read_as_json_or_python_reads_it(value: Any) -> None:
    tried["written values, tried"] += 1
    text = value if isinstance(value, str) else json.dumps(value)
    try:
        read = literal(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        tried["written values, refused"] += 1
        return
    if not isinstance(value, str):
        assert read == value or (isinstance(value, float) and math.isnan(value)) or "NaN" in text


def test_the_figures_are_told(record_property: Callable[[str, object], None]) -> None:
    """Those of the tests above: whatever was wrong, or no error of the project's, made one of them fail."""
    for kind in sorted({key.partition(", ")[0] for key in tried}):
        count, refused = tried[f"{kind}, tried"], tried[f"{kind}, refused"]
        record_property(
            "figures", f"{count} inputs of the kind {kind}: {count - refused} right, {refused} refused"
        )
    assert sum(count for key, count in tried.items() if key.endswith("tried")) >= 2000 * min(1, SCALE)
