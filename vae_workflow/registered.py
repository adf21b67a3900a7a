"""What a notebook registers when it runs, as far as its code says so: costs, data sets, estimators, noises.

In the notebook, or in a module of its author's that it imports, these are read: `@cost`, `@noise()`,
`@dataset("stripes")`, `dataset("stripes")(load_stripes)`, `COSTS["mine"] = …`. Whatever else is done with
these functions and registries may register any name.
"""

from __future__ import annotations

import ast
from collections import defaultdict

from vae_lab.parameters import REGISTRIES

from .reading import HIDDEN, OURS, Code

_KINDS = {registry: kind for kind, (_, registry) in REGISTRIES.items()}


class Registered:
    """The names that a notebook registers, by their kind, and the kinds of which there may be others.

    Its code is gone through when the first kind is asked for, which in many notebooks never happens.
    """

    def __init__(self, code: Code) -> None:
        self.code, self.read = code, False
        self.names: defaultdict[str, set[str]] = defaultdict(set)
        self.others: set[str] = set()

    def __call__(self, kind: str) -> tuple[set[str], bool]:
        if not self.read:
            self.read = True
            modules, all_found = self.code.own_modules()
            hidden = any(map(HIDDEN.search, self.code.cells)) or not all_found
            self.others |= set(REGISTRIES) if hidden else set()
            for one in (self.code, *modules.values()):
                for tree in one.trees:
                    _Reader(self, one).visit(tree)
        return self.names[kind], kind in self.others

    def note(self, kind: str, name: str | None) -> None:
        """Takes a name, or None for one that the code does not tell."""
        if name is None:
            self.others.add(kind)
        else:
            self.names[kind].add(name)


class _Reader(ast.NodeVisitor):
    """Goes through code, and takes away what it understands before it meets what it does not."""

    def __init__(self, found: Registered, code: Code) -> None:
        self.found, self.code = found, code

    def kind(self, node: ast.AST) -> str:
        """The kind that a function of the package registers, or ""."""
        home, _, last = self.code.full_name(node).rpartition(".")
        return last if last in REGISTRIES and home.partition(".")[0] in OURS else ""

    def registry(self, node: ast.AST) -> str:
        """The kind that a registry of the package holds, or ""."""
        home, _, last = self.code.full_name(node).rpartition(".")
        return _KINDS.get(last, "") if home.partition(".")[0] in OURS else ""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for decorator in node.decorator_list:
            self._decorator(decorator, node.name)
        for child in ast.iter_child_nodes(node):
            if child not in node.decorator_list:
                self.visit(child)

    def _decorator(self, decorator: ast.expr, function: str) -> None:
        if kind := self.kind(decorator):
            self.found.note(kind, function)
        elif isinstance(decorator, ast.Call) and (kind := self.kind(decorator.func)):
            self.found.note(kind, self._given(kind, decorator, function))
        else:
            self.visit(decorator)

    def visit_Call(self, node: ast.Call) -> None:
        maker = node.func
        if kind := self.kind(maker):  # cost(f), or dataset("x"), whatever becomes of it
            self.found.note(kind, self._given(kind, node, self._function(node) if kind == "cost" else None))
            self._visit_arguments(node)
        elif isinstance(maker, ast.Call) and (kind := self.kind(maker.func)):  # dataset("x")(f)
            self.found.note(kind, self._given(kind, maker, self._function(node)))
            self._visit_arguments(maker)
            self._visit_arguments(node)
        else:
            if isinstance(maker, ast.Attribute) and maker.attr in {"update", "setdefault", "__setitem__"}:
                self._change(maker.value, None)
            self.generic_visit(node)

    def _visit_arguments(self, node: ast.Call) -> None:
        for argument in (*node.args, *node.keywords):
            self.visit(argument)

    def _function(self, node: ast.Call) -> str | None:
        """The name of the function that a call is given."""
        one = node.args[0] if node.args else None
        return self.code.full_name(one).rpartition(".")[2] or None if one is not None else None

    @staticmethod
    def _given(kind: str, maker: ast.Call, function: str | None) -> str | None:
        """The name under which a function is registered; only data sets have another than their own."""
        if kind != "dataset":
            return function
        names = [*maker.args[:1], *(word.value for word in maker.keywords if word.arg == "name")]
        return _text(names[0]) if names else None

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Store):
            self._change(node.value, _text(node.slice))
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._change(node.target, None)
        self.generic_visit(node)

    def _change(self, registry: ast.expr, name: str | None) -> None:
        if kind := self.registry(registry):
            self.found.note(kind, name)

    def visit_Name(self, node: ast.Name) -> None:
        if (kind := self.kind(node)) and node.id not in self.code.assigned:  # handed on to who knows what
            self.found.note(kind, None)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if kind := self.kind(node):
            self.found.note(kind, None)
        self.generic_visit(node)


def _text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
