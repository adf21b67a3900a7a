"""Pages that are made from the package when the book is built.

`.. from-package:: WHAT` writes a table of what is registered, and autodoc the entries of a module. Docstrings
are written for people who read the source; `for_the_page` turns them into reStructuredText. A page with such
a table is read again when any module of the package changes.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import import_module
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.autodoc import DataDocumenter, FunctionDocumenter
from sphinx.util.docutils import SphinxDirective
from torch import distributions as d

import vae_lab
from vae_lab.estimators import ESTIMATORS, Estimator
from vae_lab.estimators.costs import CheckedCost
from vae_lab.registry import Registry, first_sentence
from vae_lab.vae.objectives import OBJECTIVES, Objective

# Names


@cache
def modules() -> dict[str, ModuleType]:
    """The modules of the package by their full names, from the bottom layer up, a folder before its files.

    The layers are those that import-linter checks.
    """
    project = tomllib.loads((Path(vae_lab.__path__[0]).parent / "pyproject.toml").read_text("utf-8"))
    rank = {
        f"{container}.{name}": (-height, place)
        for contract in project["tool"]["importlinter"]["contracts"]
        for container in contract.get("containers", [])
        for height, layer in enumerate(contract["layers"])
        for place, name in enumerate(layer.split(" | "))
    }

    def order(name: str) -> list[tuple[int, int, str]]:
        parts = name.split(".")
        paths = [".".join(parts[: i + 1]) for i in range(1, len(parts))]
        return [(*rank.get(path, (0, 0)), path) for path in paths]

    names = [module.name for module in pkgutil.walk_packages(vae_lab.__path__, "vae_lab.")]
    return {name: import_module(name) for name in sorted(names, key=order)}


def address(name: str, thing: Any) -> str:
    """The full name of `thing` where it is defined.

    A registry is data and knows no module of its own. Of the modules that have it, the one that defines it
    annotates it.
    """
    if not isinstance(thing, Registry):
        return f"{getattr(thing, 'function', thing).__module__}.{name}"
    (home,) = [full for full, module in modules().items() if name in module.__annotations__]
    return f"{home}.{name}"


@cache
def classes() -> dict[str, str]:
    """Names of classes and registries -> full names. Functions are left out: the names of many are also those
    of arguments, such as `cost`."""
    return {
        name: address(name, thing)
        for module in modules().values()
        for name, thing in dict(vars(module)).items()  # `address` may add annotations
        if isinstance(thing, Registry) or (isinstance(thing, type) and thing.__module__ == module.__name__)
    }


def summary(thing: Any) -> str:
    """The first sentence of what is said about `thing`."""
    if isinstance(thing, Registry):
        return f"Every registered {thing.kind} by its name."
    return first_sentence(thing)


# Docstrings

KEY = r"[a-z]+\d{4}[a-z]+"  # of the bibliography; one that is not there is a warning, and so an error
MARKUP = re.compile(
    rf"^(?P<bullet>\s*[*-] )|`(?P<code>[^`]+)`|(?<!\w)\*(?P<stressed>\w+)\*(?!\w)|"
    rf"\((?P<keys>{KEY}(?:,\s+{KEY})*)\)|\b(?P<key>{KEY})\b|(?P<special>[\\`*_|])",
    re.MULTILINE,
)


def inline(text: str) -> str:
    """Text of a docstring as reStructuredText: code and citations marked up, all else as it is."""

    def mark_up(match: re.Match[str]) -> str:
        kind = str(match.lastgroup)
        found = " ".join(match[kind].split())
        if kind == "code":
            full = classes().get(found)
            return (f":py:obj:`{found} <{full}>`" if full else f"``{found}``") + "\\ "
        return {
            "bullet": match[0],
            "stressed": f"*{found}*",
            "keys": f":cite:p:`{found}`",
            "key": f":cite:t:`{found}`",
            "special": f"\\{found}",
        }[kind]

    return MARKUP.sub(mark_up, text)


def for_the_page(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText. Indented paragraphs are formulas and set as they are, like
    examples."""
    page: list[str] = []
    for blank, group in groupby(lines, lambda line: not line.strip()):
        paragraph = list(group)
        if blank or paragraph[0].startswith(">>>"):
            page += paragraph
        elif all(line.startswith(" ") for line in paragraph):
            page += [".. code-block:: text", "", *paragraph]
        else:
            page += inline("\n".join(paragraph)).split("\n")
    lines[:] = page


def as_function(registered: Estimator | Objective) -> Callable[..., Any]:
    """What a registered estimator or objective is to its callers: a function with a signature and a text."""

    called = list(inspect.signature(registered).parameters.values())
    if called[-1].kind is inspect.Parameter.VAR_KEYWORD:  # options, which the function itself names
        own = inspect.signature(registered.function).parameters.values()
        called[-1:] = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
    text = inspect.cleandoc(registered.function.__doc__ or "")
    claim = f"{bias(registered).capitalize()}. " if isinstance(registered, Estimator) else ""
    source = f"Source: {registered.reference}." if registered.reference else ""
    text = f"{text}\n\n{claim}{source}"
    return stand_in(inspect.Signature(called), text, registered.function.__module__, registered.name)


def stand_in(signature: inspect.Signature, text: str, module: str, name: str) -> Callable[..., Any]:
    """A function with this signature, and no source from which Sphinx would read another one."""

    def function() -> None: ...

    function.__signature__, function.__doc__ = signature, text  # type: ignore[attr-defined]
    function.__module__, function.__qualname__ = module, name
    return function


class CallableDocumenter(FunctionDocumenter):
    """Functions, and the estimators and objectives that decorators made of functions."""

    @classmethod
    def can_document_member(cls, member: Any, membername: str, isattr: bool, parent: Any) -> bool:
        registered = isinstance(member, Estimator | Objective)
        return registered or super().can_document_member(member, membername, isattr, parent)

    def import_object(self, raiseerror: bool = False) -> bool:
        found = super().import_object(raiseerror)
        if found and isinstance(self.object, Estimator | Objective):
            self.object = as_function(self.object)
        elif found and hasattr(self.object, "__signature__"):
            signature, text = self.object.__signature__, self.object.__doc__
            self.object = stand_in(signature, text, self.object.__module__, self.object.__qualname__)
        return found

    def format_signature(self, **kwargs: Any) -> str:
        # A function with variants by type has a signature for each; without the types they are all the same.
        return "\n".join(dict.fromkeys(super().format_signature(**kwargs).split("\n")))


class RegistryDocumenter(DataDocumenter):
    """Registries, with the names in them."""

    objtype, directivetype = "registry", "data"

    @classmethod
    def can_document_member(cls, member: Any, membername: str, isattr: bool, parent: Any) -> bool:
        return isinstance(member, Registry)

    def check_module(self) -> bool:
        return address(self.objpath[-1], self.object) == self.fullname

    def should_suppress_value_header(self) -> bool:
        return True

    def get_doc(self) -> list[list[str]]:
        names = ", ".join(f"`{name}`" for name in self.object)
        return [[f"{summary(self.object).removesuffix('.')}: {names}.", ""]]


def choose_member(
    app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object
) -> bool | None:
    """Keep what has a text other than its class's `__doc__`, and no field of a NamedTuple, which has none."""
    if isinstance(thing, Registry | Objective):
        return False
    return True if type(thing).__name__ == "_tuplegetter" else None


def without_entry(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, name: nodes.Element
) -> nodes.Element | None:
    """A name of the package that no page has an entry for has no link. Only names found in the
    package itself come as `py:obj`, so that none is a typing error."""
    return name if (node.get("refdomain"), node["reftype"]) == ("py", "obj") else None


def fold_contents(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Beside a page of entries, list the modules; a module's entries open when the reader gets there."""
    if '<dl class="py ' in context.get("body", ""):
        context["theme_show_toc_level"] = 1


# Tables


def bias(estimator: Estimator) -> str:
    return "unbiased" if estimator.unbiased else "biased"


def link(name: str, thing: Any) -> str:
    return f":py:obj:`{name} <{address(name, thing)}>`"


def table(caption: str, name: str, header: Sequence[str], rows: Iterable[Sequence[list[str]]]) -> str:
    """A table, numbered if it has a caption, whose cells are lists of paragraphs."""
    lines = [f".. list-table:: {caption}".rstrip(), "   :header-rows: 1"]
    lines += [f"   :name: table-{name}", f"   :class: vae-{name}"]
    for row in [[[title] for title in header], *rows]:
        for start, cell in zip(["   * -", *["     -"] * len(row)], row, strict=False):
            lines += ["", f"{start} " + "\n\n       ".join(cell)]
    return "\n".join(lines)


def names_at_the_top() -> str:
    things = {name: getattr(vae_lab, name) for name in vae_lab.__all__}
    rows = [([link(name, thing)], [inline(summary(thing))]) for name, thing in things.items()]
    return table("What ``from vae_lab import …`` offers.", "names", ["Name", "What it is"], rows)


# Kinds of q in D dimensions to count an estimator's evaluations with: any tensor gives the parameters.
Family = Callable[[torch.Tensor], d.Distribution]
FAMILIES: dict[str, Family] = {
    "Normal": lambda x: d.Independent(d.Normal(x, x), 1),
    "Laplace": lambda x: d.Independent(d.Laplace(x, x), 1),
    "Gamma": lambda x: d.Independent(d.Gamma(x, x), 1),
    "Exponential": lambda x: d.Independent(d.Exponential(x), 1),
    "Poisson": lambda x: d.Independent(d.Poisson(x), 1),
    "Bernoulli": lambda x: d.Independent(d.Bernoulli(x), 1),
    "OneHotCategorical": d.OneHotCategorical,
    "Dirichlet": d.Dirichlet,
}


def count(estimator: Estimator, family: Family) -> str:
    """Evaluations of the cost as a formula a + b D + n (c + d D), in LaTeX, by four of its values."""

    def evaluations(n: int, size: int) -> int:
        return estimator.evaluations(n, family(torch.full((size,), 0.5)))

    def total(constant: float, slope: float, name: str) -> str:
        terms = [f"{constant:g}"] if constant else []
        terms += [("" if slope == 1 else f"{slope:g}") + name] if slope else []
        return " + ".join(terms)

    points = [(n, size) for n in (4, 8) for size in (2, 3)]
    a, b, c, e = np.linalg.solve(
        [[1, size, n, n * size] for n, size in points], [evaluations(*point) for point in points]
    ).round(6)
    if a + 7 * b + 20 * (c + 7 * e) != evaluations(20, 7):
        return rf"{evaluations(4, 2)} \text{{ for }} n = 4, D = 2"
    times_n = rf"n\,({total(c, e, 'D')})" if c and e else total(0, c, "n") + total(0, e, "nD")
    return " + ".join(filter(None, [times_n, total(a, b, "D")]))


def counts(estimator: Estimator) -> list[str]:
    """The formula, or the formulas and the kinds of q that each is for."""
    found: dict[str, list[str]] = {}
    cost = CheckedCost(lambda z: 0 * z.sum(-1), event_dims=1)
    for name, family in FAMILIES.items():
        q = family(torch.full((2,), 0.5))
        if all(requirement(q, cost, 4) is None for requirement in estimator.requires):
            found.setdefault(count(estimator, family), []).append(name)
    if len(found) == 1:
        return [f":math:`{formula}`" for formula in found]
    return [f":math:`{formula}` for {', '.join(names)}" for formula, names in found.items()] or ["–"]


def estimators() -> str:
    rows = [
        (
            [link(name, estimator), *([f":cite:`{estimator.reference}`"] if estimator.reference else [])],
            [inline(estimator.summary)],
            [inline(summary(requirement)) for requirement in estimator.requires] or ["nothing"],
            [bias(estimator)],
            counts(estimator),
        )
        for name, estimator in ESTIMATORS.items()
    ]
    caption = (
        "All registered estimators, with their sources. Evaluations of the cost are for :math:`n` samples in "
        ":math:`D` dimensions."
    )
    return table(caption, "estimators", ["Estimator", "Definition", "Requires", "Bias", "Evaluations"], rows)


def objectives() -> str:
    rows = [
        ([link(name, objective)], [inline(objective.summary)], [f":cite:`{objective.reference}`"])
        for name, objective in OBJECTIVES.items()
    ]
    return table("All registered objectives.", "objectives", ["Objective", "Definition", "Source"], rows)


def map_of_the_package() -> str:
    """Each file and folder at the top of the package, and the workflow, by the first line about it."""
    rooms = {name: module for name, module in modules().items() if name.count(".") == 1}
    rooms["vae_workflow"] = import_module("vae_workflow")
    rows = []
    for name, module in rooms.items():
        path = name.replace(".", "/") + ("/" if hasattr(module, "__path__") else ".py")
        link = f":py:mod:`{path} <{name}>`" if name in modules() else f"``{path}``"
        rows.append(([link], [inline(summary(module))]))
    return table("The packages, from the bottom layer up.", "map", ["File or folder", "What it is"], rows)


MODULES = "<!-- the modules of the package -->"


def write_modules(app: Sphinx, page: str, content: list[str]) -> None:
    """Put a section for each module, those of a folder below it, in the place of the line `MODULES`."""
    sections = []
    for name, module in modules().items():
        members = "   :no-members:\n" if hasattr(module, "__path__") else ""
        block = f"```{{eval-rst}}\n.. automodule:: {name}\n{members}```\n"
        sections.append(f"{'#' * (name.count('.') + 1)} `{name}`\n\n{block}")
    content[0] = content[0].replace(MODULES, "\n".join(sections))


class FromPackage(SphinxDirective):
    """`.. from-package:: WHAT`: a table of the package as it is now."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        for path in Path(vae_lab.__path__[0]).rglob("*.py"):
            self.env.note_dependency(str(path))
        write = {
            "map": map_of_the_package,
            "names": names_at_the_top,
            "estimators": estimators,
            "objectives": objectives,
        }
        return self.parse_text_to_nodes(write[self.arguments[0]]())


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.autodoc")
    app.add_autodocumenter(CallableDocumenter, override=True)
    app.add_autodocumenter(RegistryDocumenter)
    app.add_directive("from-package", FromPackage)
    app.connect("source-read", write_modules)
    app.connect("autodoc-process-docstring", for_the_page)
    app.connect("autodoc-skip-member", choose_member)
    app.connect("missing-reference", without_entry)
    app.connect("html-page-context", fold_contents, priority=400)  # the theme uses it at once
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
