"""Notebooks as experiments: what can be changed in them, grids of settings, and tables of what came out.

A notebook is read, not run: its title and question from the first cell, its parameters with type, default and
meaning from the cell tagged `parameters`. A run is an executed notebook, which carries its parameters,
claims, results and provenance, so that a folder of runs is a table.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import itertools
import json
import math
import re
import tokenize
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import yaml
from pydantic import TypeAdapter

from vae_lab.parameters import ParameterError, annotated, describe, validate
from vae_lab.records import CLAIM_MIME, MAGIC, PROVENANCE_MIME, glued, parsed, recorded

if TYPE_CHECKING:
    import pandas as pd

MOST_RUNS = 10_000  # of one sweep: more is a slip of the keyboard


class NotAnExperiment(ValueError):
    """A notebook that cannot be read as an experiment; the message says what it lacks."""


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
        return describe(self.adapter)

    @property
    def schema(self) -> dict[str, Any]:
        """Its values as JSON Schema."""
        return self.adapter.json_schema()

    def parse(self, text: str) -> Any:
        """The value that `text` writes: as it is where a text is asked for, and YAML otherwise."""
        return text if self.schema.get("type") == "string" else yaml.safe_load(text)


@dataclass(frozen=True)
class Experiment:
    """A notebook, as it can be run."""

    path: Path
    title: str
    question: str
    parameters: dict[str, Parameter]
    registered: frozenset[str]  # costs, estimators, noises and data sets of its own

    @property
    def name(self) -> str:
        return self.path.stem


def read_experiment(path: Path) -> Experiment:
    """The notebook at `path` as an experiment. Raises `NotAnExperiment`."""
    try:
        cells = nbformat.read(path, as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        trees = [parsed(cell.source) for cell in code]
    except Exception as error:  # nbformat raises many
        raise NotAnExperiment(f"{path.name} cannot be read: {error}") from error
    tagged = [i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise NotAnExperiment(
            f"{path.name} has {len(tagged)} cells tagged 'parameters'; it needs one: epochs: int = 20"
        )
    nodes = [node for tree in trees for node in ast.walk(tree)]
    text = [cell.source for cell in cells if cell.cell_type == "markdown"]
    title, _, rest = (text[0] if text else path.stem).partition("\n\n")
    parameters = _parameters(code[tagged[0]].source, _Names(nodes), path.name)
    question = " ".join(rest.split("\n\n")[0].strip("* \n").split())
    return Experiment(
        path, title.removeprefix("# ").strip(), question, parameters, frozenset(_registered(nodes))
    )


class _Names(dict[str, Any]):
    """What annotations may name: builtins, and what the notebook imports, loaded when it is asked for."""

    def __init__(self, nodes: Collection[ast.AST]) -> None:
        super().__init__()
        self.homes = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in nodes
            if isinstance(node, ast.ImportFrom) and node.module and not node.level
            for alias in node.names
        }
        whole = [alias for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        self.modules = {a.asname or a.name.partition(".")[0]: a for a in whole}

    def __missing__(self, name: str) -> Any:
        if alias := self.modules.get(name):
            return importlib.import_module(alias.name if alias.asname else name)
        module, attribute = self.homes.get(name, ("builtins", name))
        return getattr(importlib.import_module(module), attribute)


def _parameters(source: str, names: _Names, notebook: str) -> dict[str, Parameter]:
    tokens = tokenize.generate_tokens(StringIO(MAGIC.sub(r"\1pass", source)).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    found = {}
    for one in annotated(parsed(source)):
        try:
            adapter, default = one.adapter(names), ast.literal_eval(one.value)
        except Exception as error:
            line = f"{one.name}: {ast.unparse(one.hint)} = {ast.unparse(one.value)}"
            raise NotAnExperiment(f"{notebook}: the parameter {line!r} cannot be read: {error}") from error
        found[one.name] = Parameter(one.name, default, comments.get(one.hint.lineno, ""), adapter)
    if not found:
        raise NotAnExperiment(f"{notebook} has no annotated parameters; write them like: epochs: int = 20")
    return found


def _registered(nodes: Iterable[ast.AST]) -> Iterable[str]:
    """Names under which the notebook itself may register functions: `@noise()` or `@dataset("stripes")`."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            yield node.name
            for decorator in node.decorator_list:
                arguments = decorator.args[:1] if isinstance(decorator, ast.Call) else []
                yield from (
                    a.value for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str)
                )


# Settings

RANGE = re.compile(r"(-?\d+):(-?\d+)(?::([1-9]\d*))?")


def split(text: str) -> Iterable[str]:
    """`text` at its commas, but not at those in brackets; `0:3` means 0, 1, 2 and `0:10:5` for 0, 5."""
    for part in re.split(r",(?![^\[]*\])", text):
        if found := RANGE.fullmatch(part.strip()):
            yield from map(str, range(int(found[1]), int(found[2]), int(found[3] or 1)))
        else:
            yield part.strip()


def grid(experiment: Experiment, settings: Sequence[str], several: bool = True) -> list[dict[str, Any]]:
    """All combinations of `name=value,value,…` settings: for each run, what differs from the defaults.

    Without `several`, all of `name=value` after the sign is one value. Raises one `ParameterError` that lists
    all that is wrong and what is allowed.
    """
    axes: dict[str, list[Any]] = {}
    problems: list[str] = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals:
            problems.append(f"{setting}: write name=value")
        elif name in axes:
            problems.append(
                f"{setting}: {name} was already given" + "; write all its values at once" * several
            )
        elif name not in experiment.parameters:
            near = difflib.get_close_matches(name, experiment.parameters, n=1, cutoff=0.0)[0]
            problems.append(f"{setting}: no such parameter; did you mean {near}?")
        else:
            written = list(itertools.islice(split(text), MOST_RUNS + 1)) if several else [text]
            axes[name] = _values(experiment, name, written, problems)
            if not written:
                problems.append(f"{setting}: no value")
    if problems:
        raise ParameterError(problems, {name: p.adapter for name, p in experiment.parameters.items()})
    if math.prod(map(len, axes.values())) > MOST_RUNS:
        sizes = " × ".join(f"{len(values)} of {name}" for name, values in axes.items())
        raise ValueError(f"{sizes} are more than {MOST_RUNS:,} runs. Take fewer at once.")
    default = {name: parameter.default for name, parameter in experiment.parameters.items()}
    points = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    return [{name: value for name, value in point.items() if value != default[name]} for point in points]


def _values(experiment: Experiment, name: str, written: Iterable[str], problems: list[str]) -> list[Any]:
    """The different values of one parameter; what is wrong with them goes to `problems`."""
    parameter = experiment.parameters[name]
    found: list[Any] = []
    for text in written:
        try:
            value = parameter.parse(text)
            if not ("enum" in parameter.schema and value in experiment.registered):
                value = validate({name: parameter.adapter}, {name: value})[name]
        except ParameterError as error:
            problems += error.problems
        except yaml.YAMLError as error:
            problems.append(f"{name}={text}: not a value ({' '.join(str(error).split())})")
        else:
            found += [value] if value not in found else []
    return found


def run_name(experiment: str, parameters: Mapping[str, Any]) -> str:
    """The name of the run of an experiment with `parameters`: the same for the same values, in any order."""
    text = json.dumps(parameters, sort_keys=True)
    return f"{experiment}--{hashlib.sha256(text.encode()).hexdigest()[:10]}"


# Results

START = ["run", "status"]
END = [
    "kind",
    "name",
    "value",
    "number",
    "holds",
    "evidence",
    "commit",
    "code",
    "torch",
    "machine",
    "seconds",
]


def column(parameter: str) -> str:
    """The column of a parameter in `results`: its name, unless another column has it."""
    return f"parameter_{parameter}" if parameter in (*START, *END) else parameter


def results(runs: Iterable[tuple[str, Mapping[str, Any]]], experiment: Experiment) -> pd.DataFrame:
    """What came out of executed notebooks `runs`, pairs (name, notebook): a row for each claim and result.

    Columns: `run`, `status` (done or failed), one for each parameter, `kind` (claim, result or error),
    `name`, `value` (as text), `number` (where it is one), `holds` and `evidence` (of claims), and where it
    came from: `commit`, `code` (short hash of notebook, package and lock file: equal where these were equal),
    `torch`, `machine`, `seconds`.
    """
    import pandas as pd

    default = {column(name): parameter.default for name, parameter in experiment.parameters.items()}
    rows = []
    for run, notebook in runs:
        metadata = notebook["metadata"]
        origin = (recorded(notebook, PROVENANCE_MIME) or [{}])[-1]
        failure, sources = metadata.get("failure"), metadata.get("sources", {})
        given = metadata.get("papermill", {}).get("parameters", {}) | origin.get("parameters", {})
        start = {"run": run, "status": "failed" if failure else "done", **default}
        start |= {column(name): value for name, value in given.items()}
        code = json.dumps([sources.get(key) for key in ("notebook", "package", "lock")])
        end = {
            "commit": origin.get("commit"),
            "code": hashlib.sha256(code.encode()).hexdigest()[:8] if sources else None,
            "torch": origin.get("versions", {}).get("torch"),
            "machine": origin.get("machine"),
            "seconds": origin.get("seconds"),
        }
        claims = recorded(notebook, CLAIM_MIME)
        found = [{"kind": "claim", "name": claim["sentence"], **claim} for claim in claims]
        found += [{"kind": "result", "name": name, "value": value} for name, value in glued(notebook).items()]
        if failure:
            found.append({"kind": "error", "name": failure["error"], "value": failure["message"]})
        rows += [start | row | end for row in found or [{"kind": "run", "name": run, "value": None}]]
    table = pd.DataFrame(rows).reindex(columns=[*START, *default, *END])
    table["number"] = pd.to_numeric(table["value"], errors="coerce")
    return table.astype({"holds": "boolean", "seconds": "float"})


# Forks


def fork(experiment: Experiment, name: str, defaults: Mapping[str, Any]) -> nbformat.NotebookNode:
    """The notebook of `experiment` under the name `name`, with other defaults and cell ids of its own."""
    notebook = nbformat.read(experiment.path, as_version=4)
    for cell in notebook.cells:
        cell["id"] = hashlib.sha256(f"{name} {cell['id']}".encode()).hexdigest()[:8]
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = _with_defaults(cell.source, defaults)
        if cell.cell_type == "code":
            cell.source = cell.source.replace(f'provenance("{experiment.name}")', f'provenance("{name}")')
    return notebook


def _with_defaults(source: str, defaults: Mapping[str, Any]) -> str:
    """A parameters cell with other values, and all else as it is."""
    lines = [line.encode() for line in re.split(r"(?<=\n)", source)]  # ast counts bytes, and lines by \\n
    for name, _, value in reversed(annotated(parsed(source))):
        if name in defaults:
            assert value.end_lineno and value.end_col_offset
            before = lines[value.lineno - 1][: value.col_offset]
            after = lines[value.end_lineno - 1][value.end_col_offset :]
            lines[value.lineno - 1 : value.end_lineno] = [before + repr(defaults[name]).encode() + after]
    return b"".join(lines).decode()


LISTS = ("book/_toc.yml", "config/book.yaml", "config/quick.yaml")


def listed(lists: Mapping[str, str], name: str, new: str, defaults: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the files `LISTS`, by their names, with the chapter `new`, a fork of `name`, at the end.

    It has the parameters that `name` has there, but in the published book for its own `defaults`.
    """
    found = {}
    for path, text in lists.items():
        if path == "book/_toc.yml":
            *_, last = re.finditer(r"(?m)^( *)- file: chapters/\S+\n", text)
            found[path] = f"{text[: last.end()]}{last[1]}- file: chapters/{new}\n{text[last.end() :]}"
            continue
        given = (yaml.safe_load(text)["notebooks"].get(name) or {}).items()
        own = defaults if path == "config/book.yaml" else {}
        values = [f"\n    {key}: {json.dumps(value)}" for key, value in given if key not in own]
        (block,) = re.findall(r"(?m)^notebooks:\n(?:(?: .*)?\n)*", text)
        found[path] = text.replace(block, f"{block.rstrip()}\n  {new}:{''.join(values)}\n")
    return found
