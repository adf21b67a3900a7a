"""The parameters of a notebook: their types, how they are read, and how values are checked.

The parameters of a notebook are the annotated assignments of one cell: `epochs: PositiveInt = 20`. They are
read from its source, not from `__annotations__`, which Python 3.14 makes only when asked.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from collections.abc import Collection, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, PositiveInt, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema

from .registry import Registry

# The kinds of things that a parameter may name: where the package keeps those that are registered.
REGISTRIES = {
    "activation": (".vae.layers", "ACTIVATIONS"),
    "cost": (".estimators.costs", "COSTS"),
    "dataset": (".data", "DATASETS"),
    "estimator": (".estimators", "ESTIMATORS"),
    "noise": (".vae.noise_registry", "NOISES"),
    "objective": (".vae.objectives", "OBJECTIVES"),
}


def name_of(kind: str, own: Collection[str] = (), others: bool = False) -> Any:
    """A type for parameters that name a registered thing of a kind in `REGISTRIES`.

    `own` are names that a notebook will register when it runs; with `others`, it may register more of them.
    The package's own are loaded when they are asked for, so that reading parameters does not wait for torch.
    """

    def known() -> Registry[Any]:
        module, registry = REGISTRIES[kind]
        return getattr(importlib.import_module(module, __package__), registry)

    def check(name: str) -> str:
        if name not in own and not others:
            Registry({**known(), **dict.fromkeys(own)}, kind=known().kind)[name]  # or an error that helps
        return name

    def list_names(schema: dict[str, Any]) -> None:
        schema["examples" if others else "enum"] = sorted({*known(), *own})

    return Annotated[str, AfterValidator(check), Field(json_schema_extra=list_names)]


AtLeastTwo = Annotated[int, Field(ge=2)]  # what an interval needs
AtLeastFifty = Annotated[int, Field(ge=50)]  # what nearest neighbours in a fifth of a sample need
LargeSample = Annotated[int, Field(ge=100_000)]  # enough for standard errors of heavy-tailed estimates
PositiveInts = list[PositiveInt]
CostName, DatasetName = name_of("cost"), name_of("dataset")
EstimatorName, NoiseName, ObjectiveName = name_of("estimator"), name_of("noise"), name_of("objective")
ActivationName = name_of("activation")

# Of a number outside of these and 1, double precision loses one beside the other; and the squares of those
# inside are within single precision. A whole number up to the last one is a seed to every library, with room
# to count on from it: some take 32 bits.
SMALLEST, LARGEST, LARGEST_INTEGER = 1e-12, 1e12, 2**31 - 1


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

    def adapter(self, namespace: dict[str, Any]) -> TypeAdapter[Any]:
        """What checks values against the type, evaluated in the `namespace` of the kernel that ran the code.

        Who only reads a notebook must not call this: a type may be any code.
        """
        kind = eval(ast.unparse(self.hint), namespace)
        kind = eval(kind, namespace) if isinstance(kind, str) else kind  # a type in quotes
        try:
            return TypeAdapter(kind)
        except PydanticUserError:  # a class of which it knows nothing, such as torch.dtype
            return TypeAdapter(Any)


def annotated(cell: ast.Module) -> list[Assignment]:
    """The annotated assignments in a cell, in order."""
    return [
        Assignment(node.target.id, node.annotation, node.value)
        for node in cell.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
    ]


def validate(allowed: Mapping[str, TypeAdapter[Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, converted to the types of the parameters that `allowed` names.

    Unknown names, wrong types, values out of range, and numbers with which nothing can compute raise one
    `ParameterError` that lists them all.
    """
    problems, converted = [], {}
    for name, value in values.items():
        if name not in allowed:
            nearest = difflib.get_close_matches(name, allowed, n=1, cutoff=0.0)[0]
            problems.append(f"{name} = {_shown(value)}: no such parameter; did you mean {nearest}?")
            continue
        try:
            converted[name] = allowed[name].validate_python(value)
        except ValidationError as error:
            faults = "; ".join(detail["msg"] for detail in error.errors())
            problems.append(f"{name} = {_shown(value)}: {faults}")
            continue
        if _loses_truth(value, converted[name]):
            problems.append(f"{name} = {value}: expected {describe(allowed[name])}, not a truth value")
        problems += [f"{name} = {_shown(value)}: {fault}" for fault in _faults(converted[name])]
    if problems:
        raise ParameterError(problems, allowed)
    return converted


def _shown(value: Any) -> str:
    """A value in a message, and no more than a line of it."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}… ({len(text)} letters)"


def _loses_truth(value: Any, converted: Any) -> bool:
    """Whether a truth value became a number, which pydantic allows."""
    if isinstance(value, list | tuple) and isinstance(converted, list | tuple):
        return any(map(_loses_truth, value, converted))
    return isinstance(value, bool) and not isinstance(converted, bool)


def _faults(value: Any) -> list[str]:
    """Why nothing can compute with a value, or with numbers in it."""
    if isinstance(value, Mapping):
        return [fault for part in value.items() for fault in _faults(part)]
    if isinstance(value, list | tuple | set | frozenset):
        return [fault for part in value for fault in _faults(part)]
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return ["this is not Unicode text"]
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return [f"a whole number has a size of at most {LARGEST_INTEGER:,}, as seeds of 32 bits allow"]
    if isinstance(value, float) and value and not SMALLEST <= abs(value) <= LARGEST:  # so is NaN
        return [f"a number is 0 or has a size from {SMALLEST:g} to {LARGEST:g}, as floating point allows"]
    return []


def describe(adapter: TypeAdapter[Any]) -> str:
    """Allowed values in words, such as `integer > 0` or `one of 'digits', 'mnist-5k'`."""
    try:
        return in_words(adapter.json_schema())
    except PydanticInvalidForJsonSchema:
        return "any value that the notebook accepts"


def in_words(schema: Mapping[str, Any]) -> str:
    """What a JSON Schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(in_words(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(repr(v) for v in schema.get("enum", [schema.get("const")]))
    if "examples" in schema:
        return (
            "one of " + ", ".join(map(repr, schema["examples"])) + ", or another that the notebook registers"
        )
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = " and ".join(f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema)
    if "items" in schema:
        return f"list of ({in_words(schema['items'])})"
    return f"{schema.get('type', 'any value')} {limits}".strip()
