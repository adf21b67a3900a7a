"""Files that nobody thought of: models, data in the IDX format, executed notebooks, and tables for others."""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fuzzing import Inputs, fuzz, json_values
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from vae_lab import VAE
from vae_lab.data.contract import DataError
from vae_lab.data.idx import read_idx
from vae_lab.records import CLAIM_MIME, PROVENANCE_MIME
from vae_lab.vae.files import load_model, save_model
from vae_workflow.executed import Damaged, read_executed
from vae_workflow.experiments import Experiment, Parameter
from vae_workflow.tables import as_csv, as_parquet, results

inputs = Inputs()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@st.composite
def damage(draw: Any, content: bytes) -> bytes:
    """The same bytes, or some of them cut off, added, or changed."""
    kind = draw(st.sampled_from(["none", "none", "none", "cut", "added", "bytes", "bits", "moved"]))
    if kind == "none" or not content:
        return content
    place = draw(st.integers(0, len(content) - 1) | st.integers(0, min(len(content) - 1, 64)))
    if kind == "cut":
        return content[:place]
    if kind == "added":
        return content + draw(st.binary(min_size=1, max_size=20))
    if kind == "bits":
        return content[:place] + bytes([content[place] ^ 1 << draw(st.integers(0, 7))]) + content[place + 1 :]
    new = draw(st.binary(min_size=1, max_size=8))
    return content[:place] + new + content[place + (len(new) if kind == "bytes" else 0) :]


# Models

MODELS = [
    {"features": 3, "latents": 1, "hidden": ()},
    {"features": 2, "latents": 2, "hidden": (2,), "replicas": 2, "likelihood": "gaussian"},
    {"features": 4, "latents": 1, "hidden": (), "channels": (2,), "latent": "bernoulli"},
]
CHANGES = st.sampled_from(
    [
        "features",
        "latents",
        "hidden",
        "replicas",
        "channels",
        "shape",
        "sigma",
        "seed",
        "activation",
        "likelihood",
    ]
)
VALUES = (
    st.integers(-1, 4)
    | st.sampled_from(
        [10**9, 2**31, 2**63, "tanh", "gaussian", "bernoulli", [2], [2, 2], [10**9], [], None, 0.5]
    )
    | json_values
)


def tensors_in(content: bytes) -> dict[str, np.ndarray]:
    """The numbers in a safetensors file, by its published format, and no library."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    body, kinds = content[8 + length :], {"F32": np.float32, "F64": np.float64, "F16": np.float16}
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], kinds[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def with_metadata(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A safetensors file with another text about itself."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    config = json.loads(header["__metadata__"]["vae_lab"])
    header["__metadata__"]["vae_lab"] = json.dumps(change(config))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


@fuzz(300)
@given(st.data())
def test_model_files(folder: Path, data: st.DataObject) -> None:
    """What is opened has the weights that the bytes hold; nothing is opened that is too small for its
    claims."""
    arguments, path = data.draw(st.sampled_from(MODELS)), folder / "model.safetensors"
    vae = VAE(**arguments, seed=data.draw(st.integers(0, 2**31)))  # type: ignore[arg-type]
    if data.draw(st.booleans()):
        vae.double()
    save_model(vae, path)
    before = path.read_bytes()
    content = before
    match data.draw(st.sampled_from(["whole", "metadata", "bytes"])):
        case "metadata":
            key, value = data.draw(CHANGES), data.draw(VALUES)
            content = with_metadata(before, lambda config: config | {key: value})
        case "bytes":
            content = data.draw(damage(before))
    path.write_bytes(content)
    loaded, error = inputs.attempt("model files", content, lambda: load_model(path), ValueError)
    if error:
        assert content != before and "model.safetensors' " in error, error
        return
    expected = tensors_in(content)
    assert {name: tuple(x.shape) for name, x in expected.items()} == {
        name: tuple(x.shape) for name, x in vae.state_dict().items()
    }
    for name, weights in loaded.state_dict().items():
        np.testing.assert_array_equal(weights.numpy(), expected[name])
    if content == before:
        assert loaded.config == vae.config


# Data in the IDX format


@fuzz(200)
@given(st.data())
def test_idx_files(folder: Path, data: st.DataObject) -> None:
    """Whatever becomes of a file, it gives the published bytes or says what is wrong."""
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    array = np.random.default_rng(data.draw(st.integers(0, 2**31))).integers(0, 256, shape, dtype=np.uint8)
    header = b"\0\0\x08" + bytes([len(shape)]) + np.array(shape, ">u4").tobytes()
    whole = header + array.tobytes()
    path = folder / data.draw(st.sampled_from(["x-ubyte", "x-ubyte.gz"]))
    inner = data.draw(damage(whole))
    # Sometimes the sum is that of what is there, so that only the form can be wrong.
    published = hashlib.sha256(inner if data.draw(st.booleans()) else whole).hexdigest()
    content = gzip.compress(inner, mtime=0) if path.suffix else inner
    content = data.draw(damage(content)) if path.suffix else content
    path.write_bytes(content)
    given = (path.suffix, content, published)
    found, error = inputs.attempt("IDX files", given, lambda: read_idx(path, published, "Get it."), DataError)
    if error:
        assert error.startswith(f"{path}: ") and error.endswith(". Get it."), error
        assert content != (gzip.compress(whole, mtime=0) if path.suffix else whole), error
        return
    # Its own words about its shape, and all of its bytes
    assert hashlib.sha256(inner).hexdigest() == published
    axes = inner[3]
    assert found.shape == tuple(int.from_bytes(inner[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    assert found.dtype == np.uint8 and found.tobytes() == inner[4 + 4 * axes :]


# Executed notebooks


def display(mime: str, content: Any) -> dict[str, Any]:
    return {"output_type": "display_data", "data": {mime: content}, "metadata": {}}


def glued(name: str, text: str) -> dict[str, Any]:
    data = {"application/papermill.record/text/plain": text}
    return {"output_type": "display_data", "data": data, "metadata": {"scrapbook": {"name": name}}}


claims = st.fixed_dictionaries(
    {
        "sentence": st.text(max_size=6),
        "value": st.text(max_size=4) | st.floats(),
        "holds": st.booleans(),
        "evidence": st.text(max_size=4),
    }
)
origins = st.fixed_dictionaries(
    {"parameters": st.fixed_dictionaries({"seed": st.integers(0, 9)}), "versions": st.just({"torch": "2"})},
    optional={
        "commit": st.just("abc"),
        "machine": st.just("m"),
        "seconds": st.floats(0, 100),
        "spent": st.just({"training": 1.0}),
    },
)
executed = st.builds(
    lambda found, origin, numbers, failure: {
        "nbformat": 4,
        "metadata": {"papermill": {"parameters": {"seed": 1}}, **({"failure": failure} if failure else {})},
        "cells": [
            {"cell_type": "markdown", "source": "# Title"},
            {"cell_type": "code", "source": [], "outputs": [display(CLAIM_MIME, one) for one in found]},
            {"cell_type": "code", "source": "", "outputs": [display(PROVENANCE_MIME, origin)]},
            {"cell_type": "code", "source": "", "outputs": [glued(*pair) for pair in numbers.items()]},
        ],
    },
    st.lists(claims, max_size=3),
    origins,
    st.dictionaries(st.text(max_size=3), st.text(max_size=4), max_size=2),
    st.none() | st.just({"cell": 2, "error": "ValueError", "message": "no"}),
)


def places(content: Any) -> list[tuple[Any, Any]]:
    """All (container, key) in a JSON value."""
    keys = (
        content.keys()
        if isinstance(content, dict)
        else range(len(content) if isinstance(content, list) else 0)
    )
    return [place for key in keys for place in ((content, key), *places(content[key]))]


SEED = Parameter("seed", 0, "", TypeAdapter(int))
EXPERIMENT = Experiment(Path("one.ipynb"), "One", "?", {"seed": SEED})


@fuzz(400)
@given(st.data())
def test_executed_notebooks(folder: Path, data: st.DataObject) -> None:
    """What is not called damaged goes into a table, with a row for each claim, and out to files."""
    whole, path = json.dumps(data.draw(executed)), folder / "one--1.ipynb"
    notebook = json.loads(whole)
    match data.draw(st.sampled_from(["whole", "bytes", "value", "value", "value", "gone"])):
        case "bytes":
            content = data.draw(damage(whole.encode()))
        case "value":
            container, key = data.draw(st.sampled_from(places(notebook)))
            container[key] = data.draw(json_values)
            content = json.dumps(notebook).encode()
        case "gone":
            container, key = data.draw(st.sampled_from(places(notebook)))
            del container[key]
            content = json.dumps(notebook).encode()
        case _:
            content = whole.encode()
    path.write_bytes(content)
    found, error = inputs.attempt("executed notebooks", content, lambda: read_executed(path), Damaged)
    if error:
        assert content != whole.encode() and error.startswith(f"{path} is damaged"), error
        return
    table = results([("one--1", found)], EXPERIMENT)
    said = [
        output["data"][CLAIM_MIME]
        for cell in json.loads(content)["cells"]
        for output in cell.get("outputs", [])
        if CLAIM_MIME in output.get("data", {})
    ]
    rows = table[table["kind"] == "claim"]
    assert rows["name"].tolist() == [claim["sentence"] for claim in said]
    assert rows["holds"].tolist() == [bool(claim["holds"]) for claim in said]
    assert as_parquet(table)
    assert len(list(csv.reader(io.StringIO(as_csv(table), newline="")))) == len(table) + 1


# Tables


@fuzz(200)
@given(
    st.lists(
        st.text(alphabet="=+-@\t\r\n ,\"'ab1.e", max_size=6) | st.text(max_size=6) | st.floats().map(str),
        min_size=1,
        max_size=4,
    )
)
def test_cells_of_a_table(texts: list[str]) -> None:
    """A reader of CSV finds all texts again, and no spreadsheet takes one for a formula."""
    text, error = inputs.attempt("cells", texts, lambda: as_csv(pd.DataFrame({"value": texts})))
    assert error is None
    header, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert header == ["value"] and len(rows) == len(texts)
    for row, written in zip(rows, texts, strict=True):
        (cell,) = row or [""]
        lines = written.replace("\r\n", "\n").replace("\r", "\n")
        assert cell in (lines, f"'{lines}")
        if cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\n")):
            float(cell)  # a number is none


def test_the_figures_are_told(record_property: Callable[[str, object], None]) -> None:
    inputs.tell(record_property, least=700)
