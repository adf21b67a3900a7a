"""Numbers in the text are computed: where prose has digits that look like a result, they come from the run.

A result is written with a decimal point, as a percentage, or with a unit. What is given, not found, such as
the level of an interval, is listed here with its reason.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from chapters import NOTEBOOKS

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*NOTEBOOKS, *(ROOT / "book").glob("*.md"), ROOT / "README.md"])

NUMBER = r"(?<![\w.])\d[\d,]*"
UNITS = "per cent|nats?|bits|times|-?fold|seconds?|s|minutes?|hours?|points?|standard errors?"
WORDS = "two|three|four|five|six|seven|eight|nine|ten"
RESULT = re.compile(rf"{NUMBER}(?:\.\d+|\s?(?:%|(?:{UNITS})\b))|\b(?:{WORDS}) (?:per cent|nats|times as)\b")
GIVEN = [
    r"central 90% interval|in 90% of cases|90% t intervals",  # calibration and equivalence
    r"more than 90% certainty|each at its own 5%|the 5% level",  # of a decision
    r"quantiles of the prior from 5% to 95%|two per cent below the left edge",  # what is drawn
    r"standard deviation 0\.1|\(b − 0\.\d+\)²|learning rate,\s+which is three times as large",  # of examples
    r"noise with the standard deviation 0\.25|a standard deviation (?:σ )?of 0\.(?:1|71)|σ of 0\.1",  # also
    r"cost more than 0\.1 nats|below 0\.01 nats with every seed",  # criteria, stated before the numbers
    r"[Pp]ython 3\.11(?: to 3\.14)?",
    r"(?m)^## \d+\.\d+\.\d+$",  # versions
    r"SHA-256|CC BY(?:-SA)? \d\.\d",
    r"95%",  # intervals
    r"(?m)^\| `[\w-]+` \|.*$",  # the table of data sets: tests/test_data.py compares it with them
]
MARKUP = [
    r"```.*?```|~~~.*?~~~",  # code
    r"\$\$.*?\$\$|\$[^$]+\$|`+[^`]+`+",  # formulas, code, roles
    r"\]\([^)]*\)|<[^>]*>|https?://\S+",  # addresses
    r"(?m)^    .*$",  # code, by indentation
    r"(?m)^\(.*\)=$|^:\w+:.*$|^:{3,}.*$",  # labels, options
]


def prose(text: str) -> str:
    """What a reader reads as text, without markup and without what is given."""
    for pattern in [*MARKUP, *GIVEN]:
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    return text


def texts(path: Path) -> Iterator[str]:
    if path.suffix == ".md":
        yield path.read_text("utf-8")
        return
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            yield cell.source
        shown = cell.metadata.get("mystnb", {})
        yield shown.get("figure", {}).get("caption", "")  # the alternative text names places on axes


def typed(text: str) -> list[str]:
    return [match[0] for match in RESULT.finditer(prose(text))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_result_is_typed(path: Path) -> None:
    found = {number: text for text in texts(path) for number in typed(text)}
    assert found == {}, "glue the number, or say in GIVEN why it is none"


@pytest.mark.parametrize(
    "text",
    [
        "It gains 2.78 nats.",
        "It is better by 3 nats",
        "in 12% of cases",
        "takes 40 seconds",
        "about 1.5 times the variance, 40 times in all",
        "a 12-fold gain",
        "ten times as noisy",
    ],
)
def test_the_lint_finds_results(text: str) -> None:
    assert typed(text)


@pytest.mark.parametrize(
    "text",
    [
        "with mean 0 and variance 1",
        "chapter 6",
        "$0.5$ nats",
        "a 95% interval",
        "`3.2`",
        "1. First",
        "28 × 28",
    ],
)
def test_the_lint_lets_pass_what_is_no_result(text: str) -> None:
    assert typed(text) == []
