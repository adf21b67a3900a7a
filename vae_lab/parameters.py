"""The parameters of a notebook: their types, how they are read, and how values are checked.

The parameters of a notebook are the annotated assignments of one cell: `epochs: PositiveInt = 20`. They are
read from its source, not from `__annotations__`, which Python 3.14 makes only when asked.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, PositiveInt, TypeAdapter, ValidationError

from .registry import Registry


def _name_in(module: str, registry: str) -> Any:
    """A type for parameters that name a registered thing, including those a forker registers.

    The module is loaded for the first name, so that reading parameters does not wait for torch.
    """

    def known() -> Registry[Any]:
        return getattr(importlib.import_module(module, __package__), registry)

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
CostName = _name_in(".estimators.costs", "COSTS")
DatasetName = _name_in(".data", "DATASETS")


class ParameterError(ValueError):
    """Parameters that a notebook does not take; the message lists all problems and what is allowed."""

    def __init__(self, problems: list[str], allowed: Mapping[str, TypeAdapter[Any]]) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [f"{count} with the parameters", *(f"  {problem}" for problem in problems), "Allowed:"]
        super().__init__("\n".join(lines + [f"  {name}: {describe(a)}" for name, a in allowed.items()]))
        self.problems = problems


class Assignment(NamedTuple):
    """An annotated assignment: its name, and the expressions of its type and of its value."""

    name: str
    hint: ast.expr
    value: ast.expr

    def adapter(self, namespace: Mapping[str, Any]) -> TypeAdapter[Any]:
        """What checks values against the type, whose names `namespace` resolves."""
        return TypeAdapter(
            eval(ast.unparse(self.hint), namespace if type(namespace) is dict else {}, namespace)
        )


def annotated(cell: ast.Module) -> list[Assignment]:
    """The annotated assignments in a cell, in order."""
    return [
        Assignment(node.target.id, node.annotation, node.value)
        for node in cell.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
    ]


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
