"""What the time of a run goes to: seconds of training, of evaluation, of gradients and of plotting.

Each kind counts its own time only: a score within a training is evaluation, not training. Threads add up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Literal, ParamSpec, TypeVar, get_args

P = ParamSpec("P")
T = TypeVar("T")
Kind = Literal["training", "evaluation", "gradients", "plotting"]

spent: dict[Kind, float] = dict.fromkeys(get_args(Kind), 0.0)


class _Calls(threading.local):
    """The timed calls in progress in a thread."""

    def __init__(self) -> None:
        self.within: list[float] = []  # for each of them, the seconds of those that it made


_calls = _Calls()


def restart() -> None:
    """Count from now on."""
    spent.update(dict.fromkeys(spent, 0.0))


@contextmanager
def _timed(kind: Kind) -> Iterator[None]:
    start, within = time.perf_counter(), _calls.within
    within.append(0.0)
    try:
        yield
    finally:
        seconds = time.perf_counter() - start
        spent[kind] += seconds - within.pop()
        if within:
            within[-1] += seconds


def counts_as(kind: Kind) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorates a function whose time is of this kind."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            with _timed(kind):
                return function(*args, **kwargs)

        return timed

    return decorate
