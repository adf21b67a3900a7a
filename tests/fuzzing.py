"""How many inputs that nobody thought of are tried, and what becomes of them.

Each ends in the right result, by an independent computation, or in one of the project's own errors; where it
is known beforehand which, that is checked, too.
"""

import os
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SCALE = int(os.environ.get("INPUTS", "2000")) / 2000  # of how many inputs are tried


def fuzz(examples: int) -> Any:
    """So many examples in the tests; always the same ones, unless more are asked for."""
    return settings(
        max_examples=max(1, int(examples * SCALE)),
        deadline=None,
        derandomize=SCALE == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class Inputs:
    """The inputs of one file of tests, by their kind. Equal ones count once."""

    def __init__(self) -> None:
        self.tried: defaultdict[str, set[int]] = defaultdict(set)
        self.refused: defaultdict[str, set[int]] = defaultdict(set)

    def attempt(
        self, kind: str, given: object, call: Callable[[], Any], *errors: type[Exception]
    ) -> tuple[Any, str | None]:
        """The result of `call`, and None; or, where one of the project's own `errors` refused it, what it
        said. Counts the input, which is what is `given`."""
        key = hash(repr(given))
        self.tried[kind].add(key)
        try:
            return call(), None
        except errors as error:
            self.refused[kind].add(key)
            return None, str(error)

    def tell(self, record_property: Callable[[str, object], None], least: int) -> None:
        """Hands the figures on to be printed; there must be `least` inputs, of all kinds together."""
        for kind, keys in self.tried.items():
            right, refused = len(keys - self.refused[kind]), len(self.refused[kind])
            record_property(
                "figures", f"{len(keys)} inputs of the kind {kind}: {right} right, {refused} refused"
            )
        assert sum(map(len, self.tried.values())) >= least * min(1, SCALE)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
