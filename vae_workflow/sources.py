"""What the results of a notebook depend on: its code, the modules that it imports, directly or not, versions.

`python -m vae_workflow.sources NOTEBOOK …` prints that of each notebook, as JSON.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import nbformat

from .reading import HIDDEN, Code
from .workplace import Workplace, near

PACKAGE = "vae_lab"


class SourcesChanged(Exception):
    """A source file was edited while a job used it."""


@contextmanager
def unchanged(*sources: Path) -> Iterator[None]:
    """Raises `SourcesChanged` if a file changes while the block runs: Snakemake takes the state at the
    end of a job for what the job has seen."""
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in sources}
    yield
    changed = [
        str(path)
        for path, digest in before.items()
        if not path.exists() or hashlib.sha256(path.read_bytes()).digest() != digest
    ]
    if changed:
        raise SourcesChanged(f"{', '.join(changed)} changed while this ran; run again")


def code_of(notebook: Path) -> list[str]:
    """The cells of code of a notebook. One that cannot be read has none; running it says why."""
    try:
        content = json.loads(notebook.read_text("utf-8"))
        if "cells" not in content:  # of an old format
            content = nbformat.read(notebook, as_version=4)
        return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    except Exception:  # nbformat raises many
        return []


def files_of(notebook: Path) -> list[Path]:
    """The files of the package and of its author that `notebook` imports, directly or not, relative to this
    folder if they lie in it."""
    own, _ = Code(Path.cwd(), code_of(notebook)).own_modules()
    modules = needed(imports(notebook))
    spec = importlib.util.find_spec(PACKAGE)
    assert spec and spec.origin
    home = Path(spec.origin).parent.parent
    stems = [home.joinpath(*module.split(".")) for module in sorted(modules)]
    paths = [stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py") for stem in stems]
    return [near(path) for path in (*paths, *sorted(own))]


def imports(notebook: Path) -> set[str]:
    """Full names of what the code of `notebook` imports from the package: modules, or things in them.

    A name that the package hands on, such as `vae_lab.fit`, means the module that has it, and an import
    of the whole package for all of its modules, since any may be reached through it.
    """
    cells = code_of(notebook)
    code = Code(Path.cwd(), cells)
    modules, _ = code.own_modules()
    found = {f"{PACKAGE}.*"} if any(map(HIDDEN.search, cells)) else set()
    for node in (node for one in (code, *modules.values()) for node in one.nodes):
        if isinstance(node, ast.Import):  # without `as`, it binds the whole package
            found |= {a.name if a.asname else a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    own = {name for name in found if name.partition(".")[0] == PACKAGE}
    if {PACKAGE, f"{PACKAGE}.*"} & own:
        own |= graph().modules
    return own


@cache
def graph() -> grimp.ImportGraph:
    """The imports of the package as it is in this process, without those that only type checkers see."""
    return grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)


@cache
def homes() -> Mapping[str, str]:
    """The names that the package hands on, and the full name of the module of each."""
    handed = getattr(importlib.import_module(PACKAGE), "HOMES", {})
    return {f"{PACKAGE}.{name}": f"{PACKAGE}.{home}" for name, home in handed.items()}


def needed(names: Iterable[str]) -> set[str]:
    """The modules that an import of `names` loads: they, the packages around them, and what these import."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        parent = name.rpartition(".")[0]
        waiting += [parent] if parent else []
        waiting += [homes()[name]] if name in homes() and name not in graph().modules else []
        if name in graph().modules and name not in found:
            found.add(name)
            waiting += graph().find_modules_directly_imported_by(name)
    return found


def fingerprint(notebook: Path, lock: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the results of a notebook depend on: its parameters, and the SHA-256 of all that it uses."""
    code = hashlib.sha256()
    for path in files_of(notebook):
        module = path.as_posix().rpartition(f"{PACKAGE}/")[2]
        code.update(f"{module}\0".encode() + path.read_bytes() + b"\0")
    return {
        "notebook": hashlib.sha256(notebook.read_bytes()).hexdigest(),
        "package": code.hexdigest(),
        "lock": hashlib.sha256(lock.read_bytes()).hexdigest(),
        "parameters": dict(parameters),
    }


if __name__ == "__main__":
    place = Workplace(Path.cwd())
    json.dump({name: fingerprint(Path(name), place.lock, {}) for name in sys.argv[1:]}, sys.stdout)
