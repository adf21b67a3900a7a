"""The types of parameters, as far as they can be told without running anything.

An annotation is looked up, and never evaluated. Known are the types of Python and pydantic that hold plain
values, those of `vae_lab.parameters`, and what is made of them: `Literal[…]`, `X | None`, lists, tuples,
dictionaries, `Annotated[X, Field(…)]`, and other names for all of these, in whatever module they are given.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable
from typing import Annotated, Any, Literal, Optional, Union

import pydantic
from pydantic import Field, TypeAdapter

from vae_lab import device, parameters
from vae_lab.parameters import REGISTRIES, name_of

from .reading import Code, module

_PLAIN = [f"{sign}{kind}" for sign in ("Non", "") for kind in ("NegativeInt", "PositiveInt")]
_PLAIN += [f"{sign}{kind}" for sign in ("Non", "") for kind in ("NegativeFloat", "PositiveFloat")]
_PLAIN += ["FiniteFloat", "StrictInt", "StrictFloat", "StrictBool", "StrictStr"]
_TYPES: dict[str, Any] = {f"builtins.{t.__name__}": t for t in (int, float, bool, str, list, tuple, dict)}
_TYPES |= {f"pydantic.{name}": getattr(pydantic, name) for name in _PLAIN}
_TYPES |= {"typing.List": list, "typing.Tuple": tuple, "typing.Dict": dict, "typing.Any": Any}
_TYPES |= {"vae_lab.device.Device": device.Device}
_TYPES |= {
    f"vae_lab.parameters.{name}": getattr(parameters, name)
    for name in ("AtLeastTwo", "AtLeastFifty", "LargeSample", "PositiveInts")
}
_NAMES = {f"vae_lab.parameters.{kind.title()}Name": kind for kind in REGISTRIES}
_CONSTRAINED = {f"pydantic.{n}": getattr(pydantic, n) for n in ("conint", "confloat", "constr", "conlist")}
_FIELD = {"gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "allow_inf_nan"}


class UnknownType(ValueError):
    """A type that only the notebook itself can tell, by running."""


class Reader:
    """Reads annotations in `code`. `own(kind)` are names of a kind that the notebook registers, and whether
    there may be others."""

    def __init__(self, code: Code, own: Callable[[str], tuple[set[str], bool]]) -> None:
        self.code, self.own = code, own

    def adapter(self, hint: ast.expr) -> TypeAdapter[Any]:
        """What checks values of the type. Any value will do for a type that only the notebook can tell.

        Raises NameError for a name that is not there.
        """
        try:
            return TypeAdapter(self.type_of(hint))
        except (UnknownType, pydantic.PydanticUserError, TypeError, RecursionError):
            return TypeAdapter(Any)

    def type_of(self, hint: ast.expr) -> Any:
        """The type that an expression names. Raises `UnknownType` or NameError."""
        match hint:
            case ast.Constant(value=None):
                return None
            case ast.Constant(value=str(text)):  # a type in quotes
                return self.type_of(_expression(text))
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return Union[self.type_of(left), self.type_of(right)]  # noqa: UP007
            case ast.Subscript(value=value, slice=inner):
                return self._generic(self.code.full_name(value), inner)
            case ast.Call(func=func, args=args, keywords=keywords):
                return self._constrained(self.code.full_name(func), args, keywords)
            case ast.Name() | ast.Attribute():
                return self._named(hint)
        raise UnknownType(ast.unparse(hint))

    def _named(self, hint: ast.expr) -> Any:
        name = self._in_the_tables(self.code.full_name(hint))
        if name in _TYPES:
            return _TYPES[name]
        if kind := _NAMES.get(name):
            names, others = self.own(kind)
            return name_of(kind, frozenset(names), others)
        home, _, last = name.rpartition(".")
        if home == "builtins" and not self._may_come_from_elsewhere(last):
            raise NameError(f"name {last!r} is not defined")
        where = self.code if home == self.code.name else module(home, self.code.root)
        if where is None:
            raise UnknownType(name)
        if last in where.assigned:
            return Reader(where, self.own).type_of(where.assigned[last])
        if last in where.imported and where is not self.code:
            return Reader(where, self.own).type_of(ast.Name(last))
        raise UnknownType(name)

    def _in_the_tables(self, name: str) -> str:
        """The name by which the tables have what `from pydantic import *` may have brought."""
        stars = [imported[:-1] for imported in self.code.imports if imported.endswith(".*")]
        usual = [_canonical(name), *(_canonical(star + name.rpartition(".")[2]) for star in stars)]
        return next((one for one in usual if one in _TYPES or one in _NAMES), usual[0])

    def _may_come_from_elsewhere(self, name: str) -> bool:
        stars = any(imported.endswith(".*") for imported in self.code.imports)
        return stars or not self.code.complete or hasattr(builtins, name)

    def _generic(self, name: str, inner: ast.expr) -> Any:
        name = _canonical(name)
        parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        if name == "typing.Literal":
            return Literal[tuple(map(_constant, parts))]
        if name == "typing.Annotated":
            fields = [self._field(part) for part in parts[1:]]
            return Annotated[self.type_of(parts[0]), *[field for field in fields if field]]
        if name == "typing.Optional":
            return Optional[self.type_of(inner)]  # noqa: UP045
        if name == "typing.Union":
            return Union[tuple(map(self.type_of, parts))]  # noqa: UP007
        if (base := _TYPES.get(name)) in (list, tuple, dict):
            several = tuple(... if _is_ellipsis(part) else self.type_of(part) for part in parts)
            return base.__class_getitem__(several if base is not list else several[0])
        raise UnknownType(name)

    def _field(self, call: ast.expr) -> Any:
        """The conditions of `Field(…)`; of others, the notebook will see to it."""
        if isinstance(call, ast.Call) and _canonical(self.code.full_name(call.func)) == "pydantic.Field":
            given = {word.arg: word.value for word in call.keywords if word.arg in _FIELD}
            return Field(**{str(key): _constant(value) for key, value in given.items()})
        return None

    def _constrained(self, name: str, args: list[ast.expr], keywords: list[ast.keyword]) -> Any:
        make = _CONSTRAINED.get(_canonical(name))
        if make is None or not all(word.arg for word in keywords):
            raise UnknownType(name)
        return make(*map(self.type_of, args), **{str(word.arg): _constant(word.value) for word in keywords})


def _canonical(name: str) -> str:
    """The one name in the tables of what can be imported from several modules."""
    for other, usual in (("typing_extensions.", "typing."), ("pydantic.types.", "pydantic.")):
        name = usual + name.removeprefix(other) if name.startswith(other) else name
    return "pydantic.Field" if name == "pydantic.fields.Field" else name


def _expression(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnknownType(text) from error


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def _constant(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise UnknownType(ast.unparse(node)) from error
