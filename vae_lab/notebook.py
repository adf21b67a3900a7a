"""What every notebook does: validate its parameters, state its claims, and say where it came from."""

from __future__ import annotations

import ast
import difflib
import html
import importlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from IPython.display import display
from pydantic import AfterValidator, Field, PositiveInt, TypeAdapter, ValidationError

from .registry import Registry

CLAIM_MIME = "application/vnd.vae-lab.claim+json"
PROVENANCE_MIME = "application/vnd.vae-lab.provenance+json"
PLAY_MIME = "application/vnd.vae-lab.play+json"


def _name_in(module: str, registry: str) -> Any:
    """A type for parameters that name a registered thing, including those a forker registers.

    The module is loaded for the first name: whoever reads parameters need not wait for torch.
    """

    def known() -> Registry[Any]:
        return getattr(importlib.import_module(f".{module}", __package__), registry)

    def check(name: str) -> str:
        known()[name]
        return name

    def list_names(schema: dict[str, Any]) -> None:
        schema["enum"] = sorted(known())

    return Annotated[str, AfterValidator(check), Field(json_schema_extra=list_names)]


AtLeastTwo = Annotated[int, Field(ge=2)]  # what an interval needs
AtLeastFifty = Annotated[int, Field(ge=50)]  # what nearest neighbours in a fifth of a sample need
LargeSample = Annotated[int, Field(ge=100_000)]  # enough for standard errors of heavy-tailed estimates
PositiveInts = Annotated[list[PositiveInt], Field(min_length=1)]
CostName = _name_in("costs", "COSTS")
DatasetName = _name_in("data", "DATASETS")
EstimatorName = _name_in("estimators", "ESTIMATORS")
NoiseName = _name_in("noise", "NOISES")


class ParameterError(ValueError):
    """Parameters that a notebook does not take; the message lists all problems and what is allowed."""

    def __init__(self, problems: list[str], allowed: Mapping[str, TypeAdapter[Any]]) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [f"{count} with the parameters", *(f"  {problem}" for problem in problems), "Allowed:"]
        super().__init__("\n".join(lines + [f"  {name}: {describe(a)}" for name, a in allowed.items()]))
        self.problems = problems


@dataclass(frozen=True)
class _Run:
    parameters: dict[str, Any]
    start: float


_run: _Run | None = None


def check_parameters(namespace: dict[str, Any]) -> None:
    """Validate a notebook's parameters before any compute: call it with `globals()`.

    The parameters are the annotated assignments of the cell tagged `parameters`; papermill's values come
    in a cell of their own after it. Unknown names, wrong types and values out of range raise one
    `ParameterError` that lists them all. Values are converted to the annotated types.
    """
    global _run
    annotations: dict[str, Any] = namespace.get("__annotations__", {})
    adapters = {name: TypeAdapter(hint) for name, hint in annotations.items() if name in namespace}
    if not adapters:
        raise ValueError("no annotated parameters found; write them like: epochs: PositiveInt = 20")
    given = {name: namespace.get(name) for name in _injected_names(namespace)}
    values = validate(adapters, given | {name: namespace[name] for name in adapters})
    namespace.update(values)
    _run = _Run(values, time.perf_counter())


def validate(allowed: Mapping[str, TypeAdapter[Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, converted to the types of the parameters that `allowed` names.

    Unknown names, wrong types and values out of range raise one `ParameterError` that lists them all.
    """
    problems, converted = [], {}
    for name, value in values.items():
        if name not in allowed:
            nearest = difflib.get_close_matches(name, allowed, n=1, cutoff=0.0)[0]
            problems.append(f"{name} = {value!r}: no such parameter; did you mean {nearest}?")
        elif isinstance(value, bool) and "boolean" not in describe(allowed[name]):
            problems.append(f"{name} = {value}: expected {describe(allowed[name])}, not a truth value")
        else:
            try:
                converted[name] = allowed[name].validate_python(value)
            except ValidationError as error:
                problems.append(
                    f"{name} = {value!r}: {'; '.join(detail['msg'] for detail in error.errors())}"
                )
    if problems:
        raise ParameterError(problems, allowed)
    return converted


def _injected_names(namespace: Mapping[str, Any]) -> list[str]:
    """Names assigned in papermill's injected cell, which starts with the comment `# Parameters`."""
    cells = [cell for cell in namespace.get("In", []) if cell.split("\n", 1)[0].strip() == "# Parameters"]
    statements = [s for cell in cells for s in ast.parse(cell).body if isinstance(s, ast.Assign)]
    return [target.id for s in statements for target in s.targets if isinstance(target, ast.Name)]


def describe(adapter: TypeAdapter[Any]) -> str:
    """Allowed values in words, such as `integer > 0` or `one of 'digits', 'mnist-5k'`."""
    return _in_words(adapter.json_schema())


def _in_words(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_in_words(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(repr(v) for v in schema.get("enum", [schema.get("const")]))
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = " and ".join(f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema)
    if "items" in schema:
        return f"list of ({_in_words(schema['items'])})"
    return f"{schema.get('type', 'any value')} {limits}".strip()


def claim(sentence: str, value: str, holds: bool, evidence: str) -> None:
    """Display what the reader should take away, and whether the numbers just computed support it.

    `value` is the formatted number, `evidence` how it was measured and how sure it is. The output also
    carries the claim as data, under the MIME type `CLAIM_MIME`.
    """
    holds = bool(holds)
    verdict, word = ("holds", "Holds") if holds else ("fails", "Does not hold in this run")
    text = [html.escape(part) for part in (sentence, value, evidence)]
    page = (
        f'<div class="vae-claim vae-claim-{verdict}"><p class="vae-claim-sentence">'
        f'<strong class="vae-claim-verdict">{word}.</strong> {text[0]}</p>'
        f'<p class="vae-claim-evidence"><strong>{text[1]}</strong> · {text[2]}</p></div>'
    )
    data = {"sentence": sentence, "value": value, "holds": holds, "evidence": evidence}
    plain = f"[{word}] {sentence} {value} ({evidence})"
    display({"text/html": page, "text/plain": plain, CLAIM_MIME: data}, raw=True)


def playable(kind: str, data: Mapping[str, Any]) -> None:
    """Let readers of the book play with the figure of this cell, which is what all others see.

    `kind` names the script of the book that does it (book/assets/play/KIND.js), `data` is what that script
    works on: anything for JSON, and tensors, which `play.pack` makes ready.
    """
    from .play import pack

    content = json.loads(json.dumps(data, default=pack, allow_nan=False))
    plain = "[In the book, this figure can be played with.]"
    display({"text/plain": plain, PLAY_MIME: {"kind": kind, "data": content}}, raw=True)


@dataclass(frozen=True)
class Provenance:
    """Where a page's numbers come from."""

    notebook: str
    parameters: dict[str, Any]
    command: str
    commit: str
    versions: dict[str, str]
    machine: str
    seconds: float


def provenance(notebook: str) -> None:
    """Close the page: parameters, versions, commit, machine, duration and the command that repeats it.

    `notebook` is the file's name without its ending, such as `"03_vae"`. Needs `check_parameters` before.
    """
    import torch

    if _run is None:
        raise RuntimeError("call check_parameters(globals()) in the cell after the parameters first")
    packages = ("vae-lab", "torch", "numpy", "pandas", "matplotlib")
    record = Provenance(
        notebook=notebook,
        parameters=_run.parameters,
        command=papermill_command(notebook, _run.parameters),
        commit=_commit(),
        versions={"python": platform.python_version()} | {p: _version(p) for p in packages},
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} used by torch",
        seconds=round(time.perf_counter() - _run.start, 1),
    )
    terms = {
        "Parameters": ", ".join(f"{k} = {v!r}" for k, v in record.parameters.items()),
        "Versions": ", ".join(f"{k} {v}" for k, v in record.versions.items()),
        "Commit": record.commit,
        "Machine": record.machine,
        "Duration": f"{record.seconds:.0f} s",
    }
    rows = "".join(f"<dt>{k}</dt><dd>{html.escape(v)}</dd>" for k, v in terms.items())
    page = (
        f'<footer class="vae-provenance"><p>How to repeat this page</p>'
        f"<pre><code>{html.escape(record.command)}</code></pre><dl>{rows}</dl></footer>"
    )
    plain = "\n".join([record.command, *(f"{k}: {v}" for k, v in terms.items())])
    display({"text/html": page, "text/plain": plain, PROVENANCE_MIME: asdict(record)}, raw=True)


def recorded(notebook: Mapping[str, Any], mime: str) -> list[dict[str, Any]]:
    """All records of one kind in an executed notebook, in order: its claims, for `CLAIM_MIME`."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return [output["data"][mime] for output in outputs if mime in output.get("data", {})]


def glued(notebook: Mapping[str, Any]) -> dict[str, str]:
    """The numbers in the text of an executed notebook, by their names, as `glue` shows them."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    marked = [o for o in outputs if "scrapbook" in o.get("metadata", {})]
    named = {o["metadata"]["scrapbook"]["name"]: o["data"] for o in marked}
    key = "application/papermill.record/text/plain"
    return {name: data[key].strip("'\"") for name, data in named.items() if key in data}


def papermill_command(notebook: str, parameters: Mapping[str, Any]) -> str:
    """The one command that runs `notebook` with these parameters.

    Strings go by -r, which takes them as they are; papermill would read some of them as numbers. Lists and
    the like go by -y, as YAML.
    """
    words = ["papermill", f"notebooks/{notebook}.ipynb", "out.ipynb"]
    for name, value in parameters.items():
        if isinstance(value, str):
            words += ["-r", name, value]
        elif isinstance(value, int | float):
            words += ["-p", name, str(value)]
        else:
            words += ["-y", f"{name}: {json.dumps(value)}"]
    return shlex.join(words)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The checkout's commit, marked when files differ from it."""
    git = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=12",
        "--exclude=*",
        "--dirty=, with uncommitted changes",
    ]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not in a git checkout"
    return done.stdout.strip()
