"""Prose: its numbers are computed, and its English is natural.

Numbers: where prose has digits that look like a result, they come from the run. A result is written with a
decimal point, as a percentage, or with a unit. What is given, not found, such as the level of an interval, is
listed here with its reason.

English: proselint knows the common faults of English prose, and `STYLE` those that CONTRIBUTING.md names.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import proselint.checks
import pytest
from chapters import NOTEBOOKS
from proselint.config import DEFAULT, Config
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

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
    r"standard deviation 0\.25|cost more than 0\.1 nats|below 0\.01 nats",  # criteria
    r"standard deviation of 0\.71|σ of 0\.1\b",  # √½, and a setting
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


# English

WRITTEN = sorted(
    [
        *FILES,
        ROOT / "CONTRIBUTING.md",
        *(p for name in ("vae_lab", "vae_workflow") for p in (ROOT / name).rglob("*.py")),
    ]
)
DIRECTIVE = re.compile(r"^(`{3,}|~{3,}|:{3,})\{.*?\n(.*?)^\1$", re.MULTILINE | re.DOTALL)  # its text is prose
CODE = [MARKUP[0], r"`+[^`]+`+", *MARKUP[2:4]]

# What is wrong, a sentence that has it, and the same in good English.
STYLE = [
    (
        r"\b(?:gradient|derivative|slope|cosine|quadratic)s?\b[^.,;:]{0,60} by "
        r"(?:\$\\(?:mu|sigma|theta|phi)\b|[μσθφ]|(?:mu|sigma)\b)",
        "The gradient by $\\mu$ is one.",
        "The gradient with respect to $\\mu$ is one.",
    ),
    (r"\bone['’]s own\b", "Take a cost of one's own.", "Take your own cost."),
    (
        r"\bstands?\b(?![- ](?:for|in|out)\b)",
        "The sum stands below.",
        "The sum that stands for the integral is below.",
    ),
    (r"\bWho wants\b", "Who wants more, adds it.", "If you want more, add it."),
    (r"\bWhat of\b", "What of the prior?", "What about the prior?"),
    (r"\bfor ever\b", "It is kept for ever.", "It is kept for good."),
    (r"\ball the same\b", "It helps all the same.", "It still helps."),
    (r"\bat that[.,;:!?]", "A small one at that.", "And a small one. At that price it is cheap."),
    (r"\bbe it\b", "Any law, be it normal or not.", "Any law, normal or not."),
    (r"\bresp\.", "For μ resp. σ.", "For μ and σ."),
    (r"\bhas the more\b", "It has the more variance.", "It has more variance."),
    (
        r"\b(?:is|are) par\b",
        "It is scaled so that one is par.",
        "It is scaled so that real images score one.",
    ),
    (
        r"\b(?:has|have) not[.,;:)]",
        "It needs a path, which this has not.",
        "It needs a path, which this does not have.",
    ),
    (r"\bin the place of\b", "A number in the place of a bit.", "A number in place of a bit."),
    (r"\b(?:in|out)side of\b", "It lies outside of it.", "It lies outside it."),
    (r"\b(?:^|[.!?]\s)Besides,", "It helps. Besides, it is cheap.", "It helps. It is also cheap."),
    (r"\bsays? (?:more )?of\b", "What a code says of its item.", "What a code says about its item."),
    (r"\blearnt\b", "It has learnt that.", "It has learned that."),
]
UNWANTED = [  # checks of proselint
    "typography.symbols.sentence_spacing",  # markup that was taken out leaves spaces
    "typography.punctuation.spacing",
    "typography.symbols.curly_quotes",  # the builder of the book makes them
    "weasel_words.very",
]
TERMS = r"(?i)antithetic|number of different images"  # of the field
LINT = Config(
    max_errors=1000,
    checks={
        **dict.fromkeys(UNWANTED, False),
        **{name: on for name, on in DEFAULT["checks"].items() if name not in UNWANTED},
    },
)
CheckRegistry().register_many(proselint.checks.__register__)


def english(path: Path) -> Iterator[str]:
    """All texts of a file that somebody reads: those above, alternative texts, docstrings and messages."""
    if path.suffix == ".py":
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        strings = (node.value for node in nodes if isinstance(node, ast.Constant))
        yield from (text for text in strings if isinstance(text, str))
        return
    for text in texts(path):
        while text != (text := DIRECTIVE.sub(r"\2", text)):
            pass
        yield text
    if path.suffix == ".ipynb":
        for cell in nbformat.read(path, as_version=4).cells:
            yield cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")


def unnatural(text: str) -> list[str]:
    """What `STYLE` finds in a text without its code. Formulas stay."""
    for pattern in CODE:
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    return [match[0] for rule, _, _ in STYLE for match in re.finditer(rule, text)]


def faults(text: str) -> list[str]:
    """What proselint finds in a text, where a sentence ends with its paragraph."""
    plain = re.sub(r"\n\s*\n", ".\n\n", re.sub(TERMS, "", prose(text)))
    return [
        f"{found.check_result.check_path}: {found.check_result.message}"
        for found in LintFile("", plain).lint(LINT)
    ]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_english_is_natural(path: Path) -> None:
    found = {words: text for text in english(path) for words in unnatural(text)}
    assert found == {}, "see Style in CONTRIBUTING.md"


@pytest.mark.parametrize(
    "path", [path for path in WRITTEN if path.suffix != ".py"], ids=lambda path: path.stem
)
def test_proselint_finds_nothing(path: Path) -> None:
    assert faults("\n\n".join(english(path))) == []


@pytest.mark.parametrize(("rule", "wrong", "right"), STYLE)
def test_each_rule_of_style_finds_its_fault(rule: str, wrong: str, right: str) -> None:
    assert re.search(rule, wrong) and unnatural(wrong)
    assert unnatural(right) == []


@pytest.mark.parametrize(
    "wrong",
    ["It is is wrong.", "This is a more unique answer.", "For all intensive purposes it is the same."],
)
def test_proselint_finds_faults(wrong: str) -> None:
    assert faults(wrong)


def test_the_text_of_a_directive_is_read() -> None:
    text = "```{glossary}\nword\n  It stands here.\n```\n\n```python\nstands\n```"
    (inner,) = (DIRECTIVE.sub(r"\2", text),)
    assert unnatural(inner) == ["stands"]
