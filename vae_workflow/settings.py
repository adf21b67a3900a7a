"""Settings such as `-p epochs=5,20`: read, checked, and combined."""

from __future__ import annotations

import ast
import difflib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vae_lab.parameters import ParameterError, validate

from .experiments import Experiment, Expression, Parameter

MOST_RUNS = 10_000  # of one sweep: more is a slip of the keyboard
RANGE = re.compile(r"(-?\d{1,18}):(-?\d{1,18})(?::([1-9]\d{0,17}))?", re.ASCII)
_UNREADABLE = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)


def split(text: str) -> Iterator[str]:
    """`text` at its commas, but not at those in brackets; `0:3` means 0, 1, 2 and `0:10:5` means 0, 5.

    Spaces beside commas do not count; those of a value alone do, as in a single run.
    """
    if "," not in text and not RANGE.fullmatch(text.strip()):
        yield text
        return
    held: list[str] = []
    for part in text.split(","):
        held.append(part)
        whole = ",".join(held).strip()
        if whole[:1] in {"[", "(", "{"} and not _is_literal(whole):  # the next comma belongs to it
            continue
        held = []
        if found := RANGE.fullmatch(whole):
            yield from map(str, range(int(found[1]), int(found[2]), int(found[3] or 1)))
        else:
            yield whole
    if held:
        yield ",".join(held).strip()


def _is_literal(text: str) -> bool:
    try:
        literal(text)
    except _UNREADABLE:
        return False
    return True


def literal(text: str) -> Any:
    """The value that `text` writes in JSON or in Python. Raises one of several errors if it writes none."""
    try:
        return json.loads(text)
    except ValueError:
        value = ast.literal_eval(text.strip())
    if isinstance(value, tuple) and not text.lstrip().startswith("("):
        raise ValueError("several values, and none of them a tuple")
    json.dumps(value)  # nothing else can be handed on
    return value


def readings(parameter: Parameter, text: str) -> Iterator[Any]:
    """What `text` may mean: a value as JSON and Python write it, unless a text is asked for; and itself."""
    if parameter.schema.get("type") != "string" and _is_literal(text):
        yield literal(text)
    yield text


def grid(experiment: Experiment, settings: Sequence[str], several: bool = True) -> list[dict[str, Any]]:
    """All combinations of `name=value,value,…` settings: for each run, what differs from the defaults.

    Without `several`, all of `name=value` after the sign is one value. Raises one `ParameterError` that lists
    all that is wrong and what is allowed.
    """
    axes: dict[str, list[Any]] = {}
    problems: list[str] = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        name, shown = name.strip(), setting[:100]
        if not equals:
            problems.append(f"{shown}: write name=value")
        elif name in axes:
            problems.append(f"{shown}: {name} was already given" + "; write all its values at once" * several)
        elif name not in experiment.parameters:
            near = difflib.get_close_matches(name[:100], experiment.parameters, n=1, cutoff=0.0)[0]
            problems.append(f"{shown}: no such parameter; did you mean {near}?")
        else:
            written = list(itertools.islice(split(text), MOST_RUNS + 1)) if several else [text]
            axes[name] = _values(experiment.parameters[name], written, problems, several)
            if not written:
                problems.append(f"{shown}: no value")
    if problems:
        raise ParameterError(problems, {name: p.adapter for name, p in experiment.parameters.items()})
    if math.prod(map(len, axes.values())) > MOST_RUNS:
        sizes = " × ".join(f"{len(values)} of {name}" for name, values in axes.items())
        raise ValueError(f"{sizes} are more than {MOST_RUNS:,} runs. Take fewer at once.")
    default = {name: parameter.default for name, parameter in experiment.parameters.items()}
    points = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    return [
        {name: value for name, value in point.items() if not _same(value, default[name])} for point in points
    ]


def _same(value: Any, other: Any) -> bool:
    """Whether runs with two values are the same: with 1 and 1.0 they are, with 1 and True they are not."""
    if isinstance(other, Expression) or isinstance(value, bool) != isinstance(other, bool):
        return False
    return bool(value == other)


def _values(parameter: Parameter, written: Iterable[str], problems: list[str], several: bool) -> list[Any]:
    """The different values of one parameter; what is wrong with them goes to `problems`."""
    found: dict[Any, Any] = {}
    for text in written:
        try:
            value = _value(parameter, text)
        except ParameterError as error:
            many = not several and (RANGE.fullmatch(text.strip()) or "," in text)
            hint = "; `vae-lab sweep` takes several values" if many else ""
            problems += [problem + hint for problem in error.problems]
        else:
            found.setdefault((isinstance(value, bool), _hashable(value)), value)  # as `_same`, and at once
    return list(found.values())


def _hashable(value: Any) -> Any:
    """What is equal where values are."""
    if isinstance(value, dict):
        return frozenset((name, _hashable(part)) for name, part in value.items())
    return (type(value), *map(_hashable, value)) if isinstance(value, (list, tuple)) else value


def _value(parameter: Parameter, text: str) -> Any:
    """The first of its `readings` that a parameter takes. Raises `ParameterError`, about the first of all."""
    errors = []
    for reading in readings(parameter, text):
        try:
            return validate({parameter.name: parameter.adapter}, {parameter.name: reading})[parameter.name]
        except ParameterError as error:
            errors.append(error)
    raise errors[0]
