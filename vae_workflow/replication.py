"""The claims of a book's chapters in many runs, as one table: on other seeds, or under other settings.

A run NAME--VARIANT is the chapter NAME by other parameters. The table has a row for each claim of each run
and each of its criteria, and is made to be committed: it costs hours, so it carries the mark of the code that
it came from (`vae_lab.records.code_mark`), and its page says when the code has changed since.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vae_lab.records import CLAIM_MIME, PROVENANCE_MIME, code_mark, recorded

from .executed import Damaged, read_executed
from .files import write_whole

COLUMNS = (
    "page",
    "variant",
    "parameters",
    "claim",
    "holds",
    "criterion",
    "value",
    "low",
    "high",
    "lower_bound",
    "upper_bound",
    "code",
    "machine",
    "versions",
)


def collect(output: Path, runs: list[Path]) -> int:
    """Writes the table of the executed notebooks `runs` to `output`."""
    file = io.StringIO()
    table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    table.writeheader()
    for run in sorted(runs):
        try:
            table.writerows(rows(run.stem, read_executed(run)))
        except Damaged as damage:
            sys.stderr.write(f"table: {damage}. Run again.\n")
            return 1
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, file.getvalue())
    return 0


def rows(name: str, notebook: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of the run `name`, PAGE--VARIANT."""
    page, _, variant = name.partition("--")
    (origin,) = recorded(notebook, PROVENANCE_MIME)
    versions = ", ".join(f"{package} {version}" for package, version in origin["versions"].items())
    given = notebook["metadata"].get("sources", {}).get("parameters", {})
    parameters = ", ".join(f"{parameter} = {value}" for parameter, value in given.items())
    run = {"page": page, "variant": variant, "parameters": parameters, "code": code_mark(notebook)}
    run |= {"machine": origin["machine"], "versions": versions}
    for claim in recorded(notebook, CLAIM_MIME):
        for number, criterion in enumerate(claim.get("criteria", ()), start=1):
            lower, upper = criterion["bounds"]
            measured = {key: criterion[key] for key in ("value", "low", "high")}
            measured |= {"lower_bound": lower, "upper_bound": upper}
            yield {
                **run,
                "claim": claim["sentence"],
                "holds": criterion["holds"],
                "criterion": number,
                **{key: "" if v is None else f"{v:.4g}" for key, v in measured.items()},
            }
