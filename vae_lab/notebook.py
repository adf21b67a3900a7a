"""What every notebook does: check its parameters, state its claims, and say where it came from."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from IPython.display import display
from pydantic import TypeAdapter

from .clock import restart, spent
from .criteria import Criterion
from .parameters import annotated, validate
from .records import CLAIM_MIME, PROVENANCE_MIME, parsed
from .wording import claim_box, provenance_box, provenance_terms, read_words


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
    adapters = _adapters(namespace)
    if not adapters:
        raise ValueError("no annotated parameters found; write them like: epochs: PositiveInt = 20")
    given = {name: namespace.get(name) for name in _injected_names(namespace)}
    values = validate(adapters, given | {name: namespace[name] for name in adapters})
    namespace.update(values)
    _run = _Run(values, time.perf_counter())
    restart()


def _adapters(namespace: dict[str, Any]) -> dict[str, TypeAdapter[Any]]:
    """A validator for each annotated name, from the code of the cells that ran, the last that has it."""
    last = {one.name: one for cell in _cells(namespace) for one in annotated(cell)}
    return {name: one.adapter(namespace) for name, one in last.items() if name in namespace}


def _cells(namespace: Mapping[str, Any]) -> Iterator[ast.Module]:
    """The code of the cells that ran, which IPython keeps in `In`; a cell that is not Python is skipped."""
    for cell in namespace.get("In", []):
        with suppress(SyntaxError, ValueError):
            yield parsed(cell)


def _injected_names(namespace: Mapping[str, Any]) -> list[str]:
    """Names assigned in papermill's injected cell, which starts with the comment `# Parameters`."""
    cells = [cell for cell in namespace.get("In", []) if cell.split("\n", 1)[0].strip() == "# Parameters"]
    statements = [s for cell in cells for s in parsed(cell).body if isinstance(s, ast.Assign)]
    return [target.id for s in statements for target in s.targets if isinstance(target, ast.Name)]


def claim(sentence: str, value: str, criteria: Criterion | Sequence[Criterion], evidence: str) -> None:
    """Display what the reader should take away, and whether the numbers just computed support it.

    `value` is the formatted number, `criteria` are what has to be true of it (`vae_lab.criteria`), all of
    them if there are several, and `evidence` is how it was measured and how sure it is. The output also
    carries the claim as data, under the MIME type `CLAIM_MIME`.
    """
    given = criteria if isinstance(criteria, Sequence) else [criteria]
    if not given or not all(isinstance(one, Criterion) for one in given):
        raise TypeError(
            "a claim takes the criteria that decide it, such as above('gain', gain) of vae_lab.criteria, "
            f"got {criteria!r}"
        )
    words = read_words()
    data = {
        "sentence": sentence,
        "value": value,
        "holds": all(one.holds for one in given),
        "evidence": evidence,
        "criteria": [asdict(one) for one in given],
    }
    plain = f"[{words['claim']['holds' if data['holds'] else 'fails']}] {sentence} {value} ({evidence})"
    display({"text/html": claim_box(data, words), "text/plain": plain, CLAIM_MIME: data}, raw=True)


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
    spent: dict[str, float]  # of them, in seconds, by what `clock` counts


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
        spent={kind: round(seconds, 1) for kind, seconds in spent.items()},
    )
    words, data = read_words(), asdict(record)
    terms = provenance_terms(data, words)
    plain = "\n".join([record.command, *(f"{name}: {value}" for name, value in terms.items())])
    display({"text/html": provenance_box(data, words), "text/plain": plain, PROVENANCE_MIME: data}, raw=True)


def papermill_command(notebook: str, parameters: Mapping[str, Any]) -> str:
    """The one command that runs `notebook` with these parameters, in a folder that has it.

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
    if not (Path(__file__).parents[1] / ".git").exists():  # installed, perhaps in a folder of another project
        return "not in a git checkout"
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
