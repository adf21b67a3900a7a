"""Data sets, parameters and written values that nobody thought of. Which are right is known before."""

import ast
import json
import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import torch
from fuzzing import Inputs, fuzz, json_values
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter

from vae_lab import load
from vae_lab.data.contract import DATASETS, DataError, Loaded
from vae_lab.data.contract import dataset as register
from vae_lab.parameters import LARGEST, LARGEST_INTEGER, SMALLEST, ParameterError, validate
from vae_workflow.settings import literal

inputs = Inputs()


# Data sets: right ones in any form, and the same with one thing wrong

FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": np.asarray,
    "list": lambda x: x.tolist(),
    "tensor": torch.as_tensor,
    "Fortran": np.asfortranarray,
    "reversed twice": lambda x: x[::-1].copy()[::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}
Parts = dict[str, Any]


def spoil(part: str, change: Callable[[np.ndarray], Any]) -> Callable[[Parts], Parts]:
    """One part of what a loader gives, changed."""
    return lambda parts: parts | {part: change(np.array(parts[part]))}


def put(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """An array with its first number replaced."""

    def change(x: np.ndarray) -> np.ndarray:
        x = x.astype(float)
        x.flat[0] = value
        return x

    return change


FAULTS: dict[str, Callable[[Parts], Parts]] = {
    "a NaN": spoil("images", put(math.nan)),
    "an infinity": spoil("images", put(math.inf)),
    "more than single precision": spoil("images", put(1e39)),
    "above 1": spoil("images", put(1.5)),
    "below 0": spoil("images", put(-0.1)),
    "no images": spoil("images", lambda x: x[:0]),
    "one axis": spoil("images", np.ravel),
    "another item": spoil("images", lambda x: np.concatenate([x, x[:1]])),
    "images in words": spoil("images", lambda x: x.astype("U4")),
    "complex images": spoil("images", lambda x: x + 1j),
    "objects": spoil("images", lambda x: x.astype(object)),
    "ragged": spoil("images", lambda x: [row * (1 + i % 2) for i, row in enumerate(x.tolist())]),
    "images missing": spoil("images", lambda x: None),
    "another feature": spoil("images", lambda x: np.concatenate([x.reshape(len(x), -1)] * 2, 1)),
    "half labels": spoil("labels", put(0.5)),
    "NaN labels": spoil("labels", put(math.nan)),
    "huge labels": spoil("labels", put(1e30)),
    "names": spoil("labels", lambda x: [f"n{i}" for i in x.tolist()]),
    "labels in columns": spoil("labels", lambda x: x[:, None]),
    "too few labels": spoil("labels", lambda x: x[1:]),
    "labels missing": spoil("labels", lambda x: None),
    "all for testing": spoil("is_test", np.ones_like),
    "none for testing": spoil("is_test", np.zeros_like),
    "indices": spoil("is_test", lambda x: np.flatnonzero(x) if x.sum() < len(x) else x[:1]),
    "counts": spoil("is_test", put(2)),
    "NaN in the mask": spoil("is_test", put(math.nan)),
    "a longer mask": spoil("is_test", lambda x: np.append(x, True)),
    "mask missing": spoil("is_test", lambda x: None),
    "another shape": spoil("shape", lambda x: (*x[:-1].tolist(), int(x[-1]) + 1)),
    "a flat shape": spoil("shape", lambda x: (int(x.prod()),)),
    "negative sizes": spoil("shape", lambda x: (-int(x[0]), *x[1:-1].tolist(), -int(x[-1]))),
    "sizes with fractions": spoil("shape", lambda x: tuple(map(float, x))),
    "shape in words": spoil("shape", lambda x: "×".join(map(str, x.tolist()))),
    "a NaN factor": spoil("factor", put(math.nan)),
    "a short factor": spoil("factor", lambda x: x[1:]),
    "a factor in words": spoil("factor", lambda x: x.astype("U8")),
}
OF_GREY = {"above 1", "below 0"}  # are none without binarize


@st.composite
def loadings(draw: Any) -> tuple[Parts, str, str | None]:
    """Parts of what a loader gives, the one thing that is wrong with them, or "", and `binarize`."""
    shape = draw(st.sampled_from([(2, 3), (1, 1), (4, 1), (1, 2, 2), (3, 2, 1), (3, 1, 2)]))
    n = draw(st.integers(2, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from([np.float32, np.float64, np.float16, np.uint8, np.bool_]))
    flat = draw(st.booleans())
    images = (rng.random((n, *shape)) * (2 if kind in (np.uint8, np.bool_) else 1)).astype(kind)
    is_test = rng.permutation(n) < draw(st.integers(1, n - 1))
    parts: Parts = {
        "images": images.reshape(n, -1) if flat else images,
        "labels": rng.integers(-3, 300, n).astype(draw(st.sampled_from([np.int64, np.int32, np.float64]))),
        "is_test": is_test.astype(draw(st.sampled_from([np.bool_, np.uint8, np.float32]))),
        "shape": shape,
        "factor": rng.normal(size=n).astype(np.float32),
    }
    fault = draw(st.just("") | st.sampled_from(sorted(FAULTS)))
    binarize = draw(st.sampled_from([None, "fixed", "dynamic"]))
    if fault:
        parts = FAULTS[fault](parts)
    forms = {part: draw(st.sampled_from(sorted(FORMS))) for part in ("images", "labels", "is_test", "factor")}
    for part, form in forms.items() if not fault else ():
        parts[part] = FORMS[form](parts[part])
    return parts, fault, binarize


@fuzz(450)
@given(loadings())
def test_data_of_any_kind(loading: tuple[Parts, str, str | None]) -> None:
    parts, fault, binarize = loading
    loaded = Loaded(
        parts["images"], parts["labels"], parts["shape"], parts["is_test"], {"f": parts["factor"]}
    )
    register("fuzzed")(lambda: loaded)
    data, error = inputs.attempt("data sets", loading, lambda: load("fuzzed", binarize=binarize), DataError)
    del DATASETS["fuzzed"]
    wrong = fault and not (fault in OF_GREY and binarize is None)
    assert bool(wrong) == ("'fuzzed'" in (error or "")), f"{error}, of {loading}"
    if error:
        return
    array = {part: np.asarray(x.numpy() if isinstance(x, torch.Tensor) else x) for part, x in parts.items()}
    mask = array["is_test"].astype(bool)
    grey = array["images"].reshape(len(mask), -1).astype(np.float32)
    for found, expected, drawn in (
        (data.train, grey[~mask], binarize == "fixed"),
        (data.test, grey[mask], binarize is not None),
        (data.train_labels, array["labels"][~mask], False),
        (data.test_labels, array["labels"][mask], False),
        (data.train_factors[:, 0], array["factor"][~mask], False),
        (data.test_factors[:, 0], array["factor"][mask], False),
    ):
        assert found.shape == expected.shape
        sure = (expected == 0) | (expected == 1) if drawn else np.full(expected.shape, True)
        np.testing.assert_array_equal(found.numpy()[sure], expected[sure])
        assert not drawn or set(found.unique().tolist()) <= {0.0, 1.0}


# Parameters: right and wrong values of each, several at a time

TINY = st.sampled_from([5e-324, 1e-13, -1e-13, 1.0000001e12, -2e12, 1e308])
NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf])
counts, no_counts = (
    st.integers(1, LARGEST_INTEGER) | st.integers(1, 10**6).map(float) | st.integers(1, 9).map(str),
    st.integers(max_value=0)
    | st.integers(LARGEST_INTEGER + 1, 2**80)
    | st.floats(0.001, 1e6).filter(lambda x: not x.is_integer())
    | NOT_FINITE
    | st.booleans()
    | st.none()
    | st.sampled_from(["", "x", "1.5", "-3", "1e", "0"])
    | st.lists(st.integers(1, 3), max_size=2),
)
PARAMETERS: dict[str, tuple[Any, Any, Any]] = {  # type, right values, wrong values
    "epochs": (PositiveInt, counts, no_counts),
    "sigma": (
        PositiveFloat,
        st.floats(SMALLEST, LARGEST) | st.integers(1, 10**9),
        st.floats(max_value=0.0) | TINY | NOT_FINITE | st.booleans() | st.none() | st.sampled_from(["", "σ"]),
    ),
    "share": (
        Annotated[float, Field(ge=0, le=1)],
        st.floats(SMALLEST, 1.0) | st.sampled_from([0, 1, 0.0, "0.5"]),
        st.floats(1.0, exclude_min=True)
        | st.floats(max_value=0.0, exclude_max=True)
        | NOT_FINITE
        | st.none(),
    ),
    "label": (
        str,
        st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
        st.integers()
        | st.floats()
        | st.none()
        | st.just("a\udcff")
        | st.lists(st.text(max_size=2), max_size=2),
    ),
    "widths": (
        list[PositiveInt],
        st.lists(counts, max_size=4),
        st.tuples(st.lists(counts, max_size=3), no_counts).map(lambda pair: [*pair[0], pair[1]])
        | st.integers()
        | st.text(max_size=3),
    ),
    "flag": (
        bool,
        st.booleans(),
        st.sampled_from(["", "maybe", 2, -1, 0.5, None, math.nan]) | st.lists(st.booleans(), max_size=2),
    ),
    "either": (Literal["left", "right"], st.sampled_from(["left", "right"]), st.text(max_size=4) | st.none()),
}
ALLOWED = {name: TypeAdapter(kind) for name, (kind, _, _) in PARAMETERS.items()}


@st.composite
def settings_of_a_notebook(draw: Any) -> tuple[dict[str, Any], set[str]]:
    """Values by name, and the names of those that are wrong."""
    chosen = draw(st.lists(st.sampled_from(sorted(PARAMETERS)), min_size=1, max_size=4, unique=True))
    spoilt = set(draw(st.lists(st.sampled_from(chosen), max_size=2))) if draw(st.booleans()) else set()
    values = {name: draw(PARAMETERS[name][2 if name in spoilt else 1]) for name in chosen}
    if draw(st.integers(0, 9)) == 0:
        unknown = draw(st.text(max_size=6).filter(lambda name: name not in PARAMETERS))
        values[unknown] = draw(json_values)
        spoilt = spoilt | {unknown}
    return values, spoilt


def as_one_would_read(name: str, value: Any) -> Any:
    """What a right value means."""
    if name == "epochs":
        return int(value)
    if name == "widths":
        return [int(n) for n in value]
    return float(value) if name in {"sigma", "share"} else value


@fuzz(500)
@given(settings_of_a_notebook())
def test_parameters_of_any_kind(chosen: tuple[dict[str, Any], set[str]]) -> None:
    values, spoilt = chosen
    taken, error = inputs.attempt("parameters", values, lambda: validate(ALLOWED, values), ParameterError)
    problems = (error or "").partition("\nAllowed:")[0]
    assert {name for name in values if f"\n  {name} = " in problems} == spoilt, f"{error}, of {values}"
    for name, value in values.items() if not error else ():
        expected = as_one_would_read(name, value)
        assert type(taken[name]) is type(expected) and taken[name] == expected, f"{name}: {value!r}"


# Values as they are written on the command line

python_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@fuzz(300)
@given(
    python_values.map(lambda value: (json.dumps(value), value))
    | python_values.map(lambda value: (repr(value), value))
    | st.text(max_size=20).map(lambda text: (text, None))
    | st.text(alphabet="0123456789.e+-_xj[](){},:'\"\\ \nTrue", max_size=12).map(lambda text: (text, None))
)
def test_what_is_written_is_read_as_json_or_python_reads_it(written: tuple[str, Any]) -> None:
    text, value = written
    unreadable = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
    read, error = inputs.attempt("written values", text, lambda: literal(text), *unreadable)
    if error is not None:
        assert value is None and text not in ("null", "None"), f"{text!r} writes {value!r}"
        return
    if value is not None:
        assert read == value and type(read) is type(value)
        return
    try:
        expected = json.loads(text)
    except ValueError:
        expected = ast.literal_eval(text.strip())
    assert repr(read) == repr(expected) and not re.search(r"\bset\(|b'|\dj", repr(read))


def test_the_figures_are_told(record_property: Callable[[str, object], None]) -> None:
    inputs.tell(record_property, least=700)
