"""Your own notebooks, which start as copies of others, with other defaults."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import nbformat
import yaml

from vae_lab.parameters import annotated
from vae_lab.records import parsed

from .experiments import (
    Experiment,
    NotAnExperiment,
    experiment_of,
    notebook_of,
    read_notebook,
    tagged,
)
from .pages import apart

LISTS = ("book/_toc.yml", "config/book.yaml", "config/quick.yaml")
LONGEST = 64  # letters of a name, to which a file's name adds 30 or so
# Names that Windows keeps for itself, with any ending.
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def fault_in_name(new: str, known: Collection[str]) -> str:
    """Why a new notebook cannot have this name beside the `known` ones, or ""."""
    if not re.fullmatch(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)*", new):
        return "a name is made of letters and digits without accents, joined by single underscores."
    if len(new) > LONGEST:
        return f"a name has at most {LONGEST} letters."
    if new.casefold() in RESERVED:
        return "some systems keep this name for a device; take another one."
    if same := [name for name in known if name.casefold() == new.casefold()]:
        return f"there is a notebook of that name already, {same[0]}; take another one."
    return ""


def fault_of_file(name: str) -> str:
    """Why a notebook with a file of this name cannot be run, or ""."""
    if "--" in name or set(name) & set("{}*?[]\\\n\r\t") or not name.isprintable() or name != name.strip():
        return "its runs cannot have this name; rename the file, to letters, digits and underscores."
    return "this name is too long for that of a file with its runs; rename it." if len(name) > 180 else ""


def fork(experiment: Experiment, name: str, defaults: Mapping[str, Any]) -> nbformat.NotebookNode:
    """The notebook of `experiment` under the name `name`, with other defaults and cell ids of its own."""
    notebook = read_notebook(experiment.path)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = hashlib.sha256(f"{name} {number}".encode()).hexdigest()[:8]
        if cell.cell_type == "code":
            if tagged(cell):
                cell.source = _with_defaults(cell.source, defaults)
            cell.source = cell.source.replace(f'provenance("{experiment.name}")', f'provenance("{name}")')
    return notebook


def text_of_fork(experiment: Experiment, name: str, defaults: Mapping[str, Any], root: Path) -> str:
    """A fork as text, with labels of its own. Raises `NotAnExperiment` if it cannot be read as such."""
    path = experiment.path.with_name(f"{name}.ipynb")
    try:
        text = apart(nbformat.writes(fork(experiment, name, defaults)), name.replace("_", "-"))
        again = experiment_of(notebook_of(text), path, root).parameters
    except Exception as error:  # nbformat raises many
        raise NotAnExperiment(f"{experiment.path.name} cannot be copied: {error}") from error
    for parameter in again.values():
        right = defaults.get(parameter.name, experiment.parameters[parameter.name].default)
        if parameter.default != right:
            raise NotAnExperiment(
                f"{parameter.name} = {right!r} cannot be written into a copy of {experiment.path.name}. "
                "Fork it without, and edit the copy."
            )
    return text


def _with_defaults(source: str, defaults: Mapping[str, Any]) -> str:
    """A parameters cell with other values, and all else as it is."""
    lines = [line.encode() for line in re.split(r"(?<=\n)", source)]  # ast counts bytes, and lines by \n
    for name, _, value in reversed(annotated(parsed(source))):
        if name in defaults:
            assert value.end_lineno and value.end_col_offset
            before = lines[value.lineno - 1][: value.col_offset]
            after = lines[value.end_lineno - 1][value.end_col_offset :]
            lines[value.lineno - 1 : value.end_lineno] = [before + repr(defaults[name]).encode() + after]
    return b"".join(lines).decode()


class CannotList(ValueError):
    """A file of `LISTS` has not the form in which a chapter can be added; the message names it."""


def listed(lists: Mapping[str, str], name: str, new: str, defaults: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the files `LISTS`, by their names, with the chapter `new`, a fork of `name`, at the end.

    It has the parameters that `name` has there, but in the published book for its own `defaults`. What lists
    it already stays as it is. Raises `CannotList`.
    """
    return {
        path: _in_contents(path, text, new)
        if path == "book/_toc.yml"
        else _in_configuration(path, text, name, new, defaults if path == "config/book.yaml" else {})
        for path, text in lists.items()
    }


def _in_contents(path: str, text: str, new: str) -> str:
    content, page = _content(path, text), f"chapters/{new}"
    if _without(content, page) != content:
        return text
    entries = list(re.finditer(r"(?m)^( *- file: +)chapters/.*\n", f"{text.rstrip()}\n"))
    last = entries[-1] if entries else None
    added = f"{text[: last.end()]}{last[1]}{page}\n{text[last.end() :]}" if last else text
    after = _content(path, added)
    if after == content or _without(after, page) != content:
        raise CannotList(f"{path} is not written as `vae-lab` knows it; add {page} to it by hand.")
    return added


def _without(content: Any, page: str) -> Any:
    """A table of contents without a page."""
    if isinstance(content, dict):
        return {key: _without(value, page) for key, value in content.items()}
    if isinstance(content, list):
        return [_without(entry, page) for entry in content if entry != {"file": page}]
    return content


def _in_configuration(path: str, text: str, name: str, new: str, own: Mapping[str, Any]) -> str:
    content = _content(path, text)
    notebooks = content.get("notebooks") if isinstance(content, dict) else None
    if not isinstance(notebooks, dict):
        raise CannotList(f"{path} has no list of notebooks to which {new} could be added.")
    if new in notebooks:
        return text
    given = {key: value for key, value in (notebooks.get(name) or {}).items() if key not in own}
    values = [f"\n    {key}: {json.dumps(value)}" for key, value in given.items()]
    block = re.search(r"(?m)^notebooks:[^\n]*\n(?:(?: .*)?(?:\n|\Z))*", f"{text.rstrip()}\n")
    found = block[0] if block else ""
    # In quotes, where YAML would read another thing: 2026_11 is a number to it, and yes is true.
    key = new if yaml.safe_load(new) == new else json.dumps(new)
    added = f"{text.rstrip()}\n".replace(found, f"{found.rstrip()}\n  {key}:{''.join(values)}\n", 1)
    if _content(path, added) != {**content, "notebooks": {**notebooks, new: given or None}}:
        raise CannotList(f"{path} is not written as `vae-lab` knows it; add {new} to its notebooks by hand.")
    return added


def _content(path: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CannotList(f"{path} is not YAML: {' '.join(str(error).split())}") from error
