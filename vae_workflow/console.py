"""What the command line says: tables on standard output, and words on standard error."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .sweeps import Runs

if TYPE_CHECKING:
    import pandas as pd

FAILED, REFUSED, BUSY, INTERRUPTED = 1, 2, 3, 130


def survive_any_locale() -> None:
    """Lets the output have letters that the terminal's encoding lacks, written as `\\u03b5`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


out, err = Console(), Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """A line on standard error, as it is."""
    err.print(escape(message), soft_wrap=True)


def refuse(message: str, code: int = REFUSED) -> NoReturn:
    say(message)
    raise typer.Exit(code)


def as_table(rows: Iterable[Sequence[Any]], *columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    return table


def json_of(table: pd.DataFrame) -> str:
    return str(table.to_json(orient="records", indent=1))


def report(runs: Runs, status: dict[str, str], seconds: float, as_json: bool) -> None:
    """What ran, failed, was skipped, or was lost."""
    failures = {run: runs.failure(run) for run, what in status.items() if what in {"failed", "lost"}}
    if as_json:
        content = {
            "notebook": runs.experiment.name,
            "runs": {run: {"status": what, "parameters": runs.points[run]} for run, what in status.items()},
            "failures": {run: asdict(failure) for run, failure in failures.items()},
            "seconds": round(seconds, 1),
        }
        print(json.dumps(content, indent=1))
        return
    words = {"done": "ran", "skipped": "done before", "failed": "failed", "lost": "lost"}
    counts = {what: sum(value == what for value in status.values()) for what in words}
    summary = ", ".join(f"{n} {words[what]}" for what, n in counts.items() if n)
    err.print(f"{runs.experiment.name}: {summary}, in {seconds:.0f} s")
    for run, failure in failures.items():
        settings = ", ".join(f"{key}={value}" for key, value in runs.points[run].items()) or "defaults"
        err.print(escape(f"  {run} ({settings}): {failure.error}: {failure.message}"), soft_wrap=True)
        if failure.kept:
            err.print(escape(f"      kept at {failure.kept}"), soft_wrap=True)


def claims_in(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["kind"] == "claim"][["run", "name", "value", "holds", "evidence"]]


def show_claims(table: pd.DataFrame) -> None:
    marks = {True: "holds", False: "does not hold"}
    rows = [(marks[bool(h)], name, value) for h, name, value in table[["holds", "name", "value"]].to_numpy()]
    out.print(as_table(rows, "verdict", "claim", "value"))
