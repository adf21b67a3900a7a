"""The words that a page adds to a chapter's own, in the language of one file, and the boxes made of them."""

from __future__ import annotations

import html
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Words = Mapping[str, Mapping[str, str]]

ENGLISH = Path(__file__).with_name("words.toml")
FILLED_IN = re.compile(r"\{\w*\}|%s")


def read_words(path: Path = ENGLISH) -> Words:
    """The words in a file like `words.toml`, which has the English ones: section -> name -> text.

    Raises ValueError that lists all names that are missing or unknown there, and texts that do not fill in
    what the English ones do.
    """
    words: Words = tomllib.loads(path.read_text("utf-8"))
    english: Words = tomllib.loads(ENGLISH.read_text("utf-8"))
    given, known = _named(words), _named(english)
    problems = [f"{name} is missing" for name in known if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in known]
    problems += [
        f"{name} has to fill in {' and '.join(wanted) or 'nothing'}"
        for name in known.keys() & given.keys()
        if (wanted := sorted(FILLED_IN.findall(known[name]))) != sorted(FILLED_IN.findall(given[name]))
    ]
    if problems:
        raise ValueError(f"{path}: {'; '.join(sorted(problems))}. Copy words.toml, and translate its texts.")
    return words


def _named(words: Words) -> dict[str, str]:
    return {f"{section}.{name}": text for section, texts in words.items() for name, text in texts.items()}


def claim_box(claim: Mapping[str, Any], words: Words) -> str:
    """HTML of a claim, a record of the type `CLAIM_MIME`: verdict, sentence, value, evidence and criteria."""
    verdict = "holds" if claim["holds"] else "fails"
    sentence, value, evidence = (html.escape(claim[part]) for part in ("sentence", "value", "evidence"))
    return (
        f'<div class="vae-claim vae-claim-{verdict}"><p class="vae-claim-sentence">'
        f'<strong class="vae-claim-verdict">{words["claim"][verdict]}.</strong> {sentence}</p>'
        f'<p class="vae-claim-evidence"><strong>{value}</strong> · {evidence}</p>'
        f'<p class="vae-claim-criterion">{words["claim"]["criterion"]}: '
        f"{html.escape(criteria_text(claim, words))}</p></div>"
    )


def criteria_text(claim: Mapping[str, Any], words: Words) -> str:
    """What has to be true for a claim to hold; empty for one that was recorded without it."""
    return " · ".join(criterion_text(one, words) for one in claim.get("criteria", ()))


def criterion_text(criterion: Mapping[str, Any], words: Words) -> str:
    """A record of a `vae_lab.criteria.Criterion` in words: the comparison, and in brackets how it is made."""
    named, count, kind = words["criteria"], criterion["count"], criterion["kind"]
    notes = [named["each"].format(count=f"{count:,}")] if count > 1 else []
    if kind == "interval":
        notes.append(named["interval" if count == 1 else "intervals"])
    elif kind in ("chance", "tests"):
        notes.append(named[kind])
    notes += filter(None, [criterion["because"]])
    return sides(criterion["what"], criterion["bounds"]) + (f" ({'; '.join(notes)})" if notes else "")


def sides(what: str, bounds: Sequence[float | None]) -> str:
    """A comparison with a lower and an upper bound, either of them None where there is none."""
    low, high = (None if bound is None else f"{bound:.4g}".replace("-", "−") for bound in bounds)
    below = "" if low is None else f"{low} < "
    if high is None:
        return f"{what} > {low}" if low is not None else what
    return f"{below}{what} < {high}"


def provenance_terms(record: Mapping[str, Any], words: Words) -> dict[str, str]:
    """What the foot of a page lists: name -> value, from a record of the type `PROVENANCE_MIME`."""
    values = {
        "parameters": ", ".join(f"{name} = {value!r}" for name, value in record["parameters"].items()),
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "commit": record["commit"],
        "machine": record["machine"],
        "duration": f"{record['seconds']:.0f} s",
    }
    return {words["provenance"][name]: value for name, value in values.items()}


def provenance_box(record: Mapping[str, Any], words: Words) -> str:
    """HTML of the foot of a page: the command that repeats it, and where its numbers come from."""
    terms = provenance_terms(record, words)
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in terms.items())
    return (
        f'<footer class="vae-provenance"><p>{words["provenance"]["title"]}</p>'
        f"<pre><code>{html.escape(record['command'])}</code></pre><dl>{rows}</dl></footer>"
    )
