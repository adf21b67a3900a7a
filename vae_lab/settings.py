"""Settings of models, training and measures: what their values may be, and the error where they are not.

Types are strict: 2.0 is not an integer, "False" not a truth value, and True not a number. Each of them would
silently count as something else. Numbers of numpy and torch are those of Python.
"""

from __future__ import annotations

import reprlib
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

Count = Annotated[int, Field(ge=1, lt=2**31)]
Several = Annotated[int, Field(ge=2, lt=2**31)]
Whole = Annotated[int, Field(ge=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]  # what torch's generators take
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def plain(value: Any) -> Any:
    """`value` with tuples for lists and ranges, and Python's numbers for those of numpy, torch and pandas."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(plain, value)) if isinstance(value, list | tuple | range) else value


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def check(name: str, kind: Any, value: Any) -> Any:
    """`value` as a `kind`, a type with its bounds.

    >>> check("epochs", Count, 2.0)
    Traceback (most recent call last):
    ...
    ValueError: epochs should be a valid integer, got 2.0

    Raises ValueError that names the setting, what was expected and what came.
    """
    try:
        return _adapter(kind).validate_python(plain(value), strict=True)
    except ValidationError as error:
        detail = error.errors()[0]
        place = "".join(f"[{part}]" for part in detail["loc"] if isinstance(part, int))
        wrong = detail["msg"].removeprefix("Input ")
        raise ValueError(f"{name}{place} {wrong}, got {reprlib.repr(plain(value))}") from None
