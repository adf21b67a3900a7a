"""Registries: dictionaries of named things, whose lookup error helps."""

from __future__ import annotations

import difflib
import re
from typing import TypeVar

T = TypeVar("T")


class UnknownName(KeyError, ValueError):
    """A name that no registered thing has; the message gives the nearest valid one and all of them."""

    # KeyError prints the repr of its argument, which would escape the quotes of a whole sentence.
    __str__ = Exception.__str__


class Registry(dict[str, T]):
    """name -> thing, where asking for an unknown name raises `UnknownName`.

    >>> Registry({"rloo": 1}, kind="estimator")["rlo"]
    Traceback (most recent call last):
    ...
    vae_lab.registry.UnknownName: unknown estimator 'rlo'; did you mean 'rloo'? Known: rloo
    """

    def __init__(self, *args: object, kind: str) -> None:
        super().__init__(*args)
        self.kind = kind

    def __missing__(self, name: object) -> T:
        nearest = difflib.get_close_matches(str(name), self, n=1, cutoff=0.0)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise UnknownName(f"unknown {self.kind} {name!r}{hint} Known: {', '.join(sorted(self))}")


def first_sentence(thing: object) -> str:
    """Of what is said about `thing`: all of the first paragraph up to a full stop, in one line.

    >>> class Long:
    ...     '''A sentence of
    ...     two lines. Another.'''
    >>> first_sentence(Long)
    'A sentence of two lines.'
    """
    paragraph = " ".join((thing.__doc__ or "").strip().partition("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph, maxsplit=1)[0]
