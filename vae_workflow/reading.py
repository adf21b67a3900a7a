"""Code that is read and not run: what its names mean, and where the modules lie that it imports."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache, cached_property
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from vae_lab.records import parsed

# Code that may import what no import statement names.
HIDDEN = re.compile(r"\bimport_module\b|\b__import__\b|\bexec\(|^\s*%run\b", re.MULTILINE)
OURS = ("vae_lab", "vae_workflow")
_INSTALLED = {"site-packages", "dist-packages"}  # the folders of packages, wherever they lie
_STANDARD = sysconfig.get_path("stdlib")


class Code:
    """The code of a notebook, given by its cells, or of a module, which has a name, a package and a file.

    `root` is the folder in which it would be run.
    """

    def __init__(
        self, root: Path, cells: Iterable[str] = (), name: str = "", package: str = "", file: Path = Path()
    ) -> None:
        self.root, self.cells = root, list(cells)
        self.name, self.package, self.file = name or "__main__", package, file

    @cached_property
    def trees(self) -> list[ast.Module]:
        """Its syntax; a cell that cannot be parsed, such as `pip install x`, is left out."""
        found = []
        for cell in self.cells or [self.text]:
            with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
                found.append(parsed(cell))
        return found

    @cached_property
    def text(self) -> str:
        """The text of a module."""
        try:
            with tokenize.open(self.file) as file:
                return file.read()
        except (OSError, SyntaxError, ValueError):
            return ""

    @property
    def complete(self) -> bool:
        """Whether all of it could be parsed."""
        return len(self.trees) == (len(self.cells) or 1)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All of its syntax."""
        return [node for tree in self.trees for node in ast.walk(tree)]

    @cached_property
    def imported(self) -> dict[str, str]:
        """Name -> the full name of what an import binds to it."""
        found: dict[str, str] = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    bound = alias.asname or alias.name.partition(".")[0]
                    found[bound] = alias.name if alias.asname else bound
            elif isinstance(node, ast.ImportFrom):
                home = self._home(node)
                found |= {a.asname or a.name: f"{home}.{a.name}" for a in node.names if a.name != "*"}
        return found

    @cached_property
    def imports(self) -> set[str]:
        """Full names of all that it imports: modules, or things in them, which may be modules too."""
        found: set[str] = set()
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{self._home(node)}.{alias.name}" for alias in node.names}
        return found

    def _home(self, node: ast.ImportFrom) -> str:
        """The full name of the module that is imported from."""
        if not node.level:
            return node.module or ""
        parents = self.package.split(".")
        above = parents[: len(parents) - node.level + 1]
        return ".".join([*above, *([node.module] if node.module else [])])

    @cached_property
    def assigned(self) -> dict[str, ast.expr]:
        """Name -> the expression that an assignment outside functions binds to it."""
        found: dict[str, ast.expr] = {}
        for node in (node for tree in self.trees for node in tree.body):
            if isinstance(node, ast.Assign):
                found |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                found[node.target.id] = node.value
            elif type(node).__name__ == "TypeAlias":  # from Python 3.12 on: type Small = int
                found[node.name.id] = node.value  # type: ignore[attr-defined]
        return found

    @cached_property
    def defined(self) -> set[str]:
        """Names of functions and classes."""
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        return {node.name for node in self.nodes if isinstance(node, kinds)}

    def full_name(self, node: ast.AST) -> str:
        """What an expression such as `t.Literal` names, as `typing.Literal`; "" if it names nothing."""
        if isinstance(node, ast.Attribute):
            before = self.full_name(node.value)
            return f"{before}.{node.attr}" if before else ""
        if not isinstance(node, ast.Name):
            return ""
        if node.id in self.imported:
            return self.imported[node.id]
        own = node.id in self.assigned or node.id in self.defined
        return f"{self.name}.{node.id}" if own else f"builtins.{node.id}"

    def modules(self) -> Iterator[tuple[str, Code | None]]:
        """The modules that it imports, and the packages around them, with their code, if it can be found."""
        for name in sorted({part for full in self.imports for part in _with_parents(full)}):
            if name.partition(".")[0] in sys.stdlib_module_names:
                continue
            code = module(name, self.root)
            if code or "." not in name:
                yield name, code

    def own_modules(self) -> tuple[dict[Path, Code], bool]:
        """The modules of its author that it imports, directly or not, and whether all were found."""
        found: dict[Path, Code] = {}
        waiting, all_found = [self], self.complete
        while waiting:
            for name, code in waiting.pop().modules():
                if name.partition(".")[0] in OURS:
                    continue
                if code is None:
                    all_found &= _is_there(name)
                elif code.is_own and code.file not in found:
                    found[code.file] = code
                    waiting.append(code)
        return found, all_found

    @cached_property
    def is_own(self) -> bool:
        """Whether it is a module of the notebook's author: not installed, or one that knows vae_lab."""
        installed = _INSTALLED & set(self.file.parts) or self.file.is_relative_to(_STANDARD)
        return not installed or "vae_lab" in self.text


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


@cache
def module(name: str, root: Path) -> Code | None:
    """The code of a module, as a kernel in `root` would find it; nothing is imported."""
    spec = _spec(name, root)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin)
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    return Code(root, name=name, package=package, file=path)


def _spec(name: str, root: Path) -> ModuleSpec | None:
    """Where a module lies, found without the import of the packages around it."""
    found: ModuleSpec | None = None
    for part in _with_parents(name):
        if found is None and "." in part:
            return None
        with suppress(ImportError, ValueError, AttributeError):
            where = [str(root)] if found is None else found.submodule_search_locations
            found = PathFinder.find_spec(part, where) if where is not None else None
            if found is None and "." not in part:
                found = importlib.util.find_spec(part)  # of a whole package, imports nothing
    return found


def _is_there(name: str) -> bool:
    """Whether a whole package can be found, if perhaps no code of it: it may be compiled."""
    with suppress(ImportError, ValueError):
        return importlib.util.find_spec(name) is not None
    return False
