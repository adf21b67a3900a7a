"""Notebooks as experiments: what can be changed in them.

A notebook is read, not run: its title and question from the first cell of text, its parameters with type,
default and meaning from the cell tagged `parameters`.
"""

from __future__ import annotations

import ast
import hashlib
import json
import tokenize
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import nbformat
from pydantic import TypeAdapter

from vae_lab.parameters import Assignment, annotated, in_words
from vae_lab.records import parsed, python_of

from .annotations import Reader
from .reading import Code
from .registered import Registered


class NotAnExperiment(ValueError):
    """A notebook that cannot be read as an experiment; the message says what it lacks."""


class Expression(str):
    """A default that is not a plain value, such as `2 * 64`: its code, which is not evaluated."""

    __slots__ = ()
    __repr__ = str.__str__


@dataclass(frozen=True)
class Parameter:
    """One name of a parameters cell."""

    name: str
    default: Any
    meaning: str
    adapter: TypeAdapter[Any]

    @property
    def allowed(self) -> str:
        """Its values in words, such as `integer > 0`."""
        return in_words(self.schema)

    @property
    def schema(self) -> dict[str, Any]:
        """Its values as JSON Schema."""
        return self.adapter.json_schema()


@dataclass(frozen=True)
class Experiment:
    """A notebook, as it can be run."""

    path: Path
    title: str
    question: str
    parameters: dict[str, Parameter]

    @property
    def name(self) -> str:
        return self.path.stem


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path`, in the newest format, whose cells have ids. Raises `NotAnExperiment`."""
    try:
        return notebook_of(path.read_text("utf-8"))
    except OSError as error:
        raise NotAnExperiment(f"{path.name} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # nbformat raises many
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise NotAnExperiment(f"{path.name} cannot be read as a notebook: {said}") from error


def notebook_of(text: str) -> nbformat.NotebookNode:
    """The notebook that `text` writes."""
    with warnings.catch_warnings():  # about ids that it lacks, or has twice
        warnings.simplefilter("ignore")
        notebook = nbformat.v4.upgrade(nbformat.reads(text, as_version=4))
        for number, cell in enumerate(notebook.cells):  # the same ones, whenever it is read
            cell.setdefault("id", f"cell-{number}")
            if cell.cell_type == "code":
                cell.update({"outputs": cell.get("outputs", []), "execution_count": None})
        _, notebook = nbformat.validator.normalize(notebook)
        nbformat.validate(notebook)
    return notebook


def tagged(cell: Mapping[str, Any]) -> bool:
    """Whether a cell is that of the parameters."""
    return "parameters" in cell["metadata"].get("tags", [])


def read_experiment(path: Path, root: Path | None = None) -> Experiment:
    """The notebook at `path` as an experiment, which would run in `root`. Raises `NotAnExperiment`."""
    return experiment_of(read_notebook(path), path, root or Path.cwd())


def experiment_of(notebook: nbformat.NotebookNode, path: Path, root: Path) -> Experiment:
    """A notebook that lies, or will lie, at `path`, as an experiment. Raises `NotAnExperiment`."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    places = [place for place, cell in enumerate(code) if tagged(cell)]
    if len(places) != 1:
        raise NotAnExperiment(
            f"{path.name} has {len(places)} cells tagged 'parameters'; it needs one: epochs: int = 20"
        )
    (place,) = places
    texts = [cell.source for cell in code]
    read = Code(root, texts)
    parameters = _parameters(texts[place], Reader(read, Registered(read)), path.name)
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    title, _, rest = (prose[0] if prose else path.stem).partition("\n\n")
    question = " ".join(rest.split("\n\n")[0].strip("* \n").split())
    return Experiment(path, title.removeprefix("# ").strip(), question, parameters)


def _parameters(source: str, reader: Reader, notebook: str) -> dict[str, Parameter]:
    try:
        cell = parsed(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotAnExperiment(f"{notebook} cannot be read: {error}, in the cell of parameters") from error
    found, meanings = {}, _comments(source)
    for one in annotated(cell):
        try:
            adapter = reader.adapter(one.hint)
        except NameError as error:
            line = f"{one.name}: {ast.unparse(one.hint)} = {ast.unparse(one.value)}"
            raise NotAnExperiment(f"{notebook}: the parameter {line!r} cannot be read: {error}") from error
        found[one.name] = Parameter(one.name, _default(one), meanings.get(one.hint.lineno, ""), adapter)
    if not found:
        raise NotAnExperiment(f"{notebook} has no annotated parameters; write them like: epochs: int = 20")
    return found


def _default(one: Assignment) -> Any:
    """The value of a parameter, or its code, where it is not a plain value."""
    try:
        json.dumps(value := ast.literal_eval(one.value))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return Expression(ast.unparse(one.value))
    return value


def _comments(source: str) -> dict[int, str]:
    """The comments of a cell, by their lines."""
    found: dict[int, str] = {}
    with suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(StringIO(python_of(source)).readline):
            if token.type == tokenize.COMMENT:
                found[token.start[0]] = token.string.lstrip("# ")
    return found


def run_name(experiment: str, parameters: Mapping[str, Any]) -> str:
    """The name of the run of an experiment with `parameters`: the same for the same values, in any order."""
    text = json.dumps(parameters, sort_keys=True)
    return f"{experiment}--{hashlib.sha256(text.encode()).hexdigest()[:10]}"
