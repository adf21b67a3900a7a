"""What became of the claims in other runs of their chapters, read from a committed table.

The tables come from `snakemake table` with config/replicate.yaml, where runs differ in their seeds, and with
config/sensitivity.yaml, where they differ in a setting; vae_workflow/replication.py writes them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

Row = Mapping[str, str]


class Claim(NamedTuple):
    """A claim in all runs of its page: whether it holds, by run, and the rows of each of its criteria."""

    holds: dict[str, bool]
    criteria: dict[int, list[Row]]

    @property
    def share(self) -> str:
        return f"{sum(self.holds.values())}/{len(self.holds)}"

    @property
    def is_constant(self) -> bool:
        """Whether it has numbers, and each of its criteria the same in all runs."""
        numbers = [{row["value"] for row in rows} - {""} for rows in self.criteria.values()]
        return any(numbers) and all(len(values) <= 1 for values in numbers)

    @property
    def failures(self) -> dict[str, list[Row]]:
        """The rows of the criteria that are missed, by run, for the runs that miss one."""
        missed: dict[str, list[Row]] = {run: [] for run, holds in self.holds.items() if not holds}
        for rows in self.criteria.values():
            for row in rows:
                if row["holds"] != "True":
                    missed[row["variant"]].append(row)
        return missed


class Replication:
    """The table at `path`; without rows if there is none."""

    def __init__(self, path: Path) -> None:
        self.rows: list[Row] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as lines:
                self.rows = list(csv.DictReader(lines))

    @cached_property
    def claims(self) -> dict[tuple[str, str], Claim]:
        """All claims by page and sentence."""
        found: dict[tuple[str, str], Claim] = {}
        for row in self.rows:
            claim = found.setdefault((row["page"], row["claim"]), Claim({}, {}))
            held = claim.holds.get(row["variant"], True)
            claim.holds[row["variant"]] = held and row["holds"] == "True"
            claim.criteria.setdefault(int(row["criterion"]), []).append(row)
        return found

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(row["variant"] for row in self.rows))

    @property
    def origins(self) -> list[str]:
        """The machines and versions that the runs had."""
        return list(dict.fromkeys(f"{row['machine']}, {row['versions']}" for row in self.rows))

    def parameters(self, page: str) -> dict[str, str]:
        """What is different in each run of a page: variant -> parameters."""
        return {row["variant"]: row["parameters"] for row in self.rows if row["page"] == page}

    def mark(self, page: str) -> str:
        """That of the code that the runs of a page came from; empty for a page without any."""
        return next((row["code"] for row in self.rows if row["page"] == page), "")


def room(row: Row) -> float:
    """How far what was measured lies on the right side of its threshold, negative on the wrong one.

    Of an interval that is the end that is nearest to the threshold.
    """
    value = row["value"]
    low, high = (float(row[end] or value or "nan") for end in ("low", "high"))
    lower, upper = (row["lower_bound"], row["upper_bound"])
    rooms = [low - float(lower)] if lower else []
    rooms += [float(upper) - high] if upper else []
    return min(rooms) if rooms else float("nan")


def rounded(value: float) -> str:
    """Three digits, and those before the point."""
    return (f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}").replace("-", "−")


def value_range(rows: list[Row]) -> str:
    """From the lowest value to the highest; a dash for what has no numbers."""
    values = sorted(float(row["value"]) for row in rows if row["value"])
    if not values:
        return "–"
    low, high = map(rounded, (values[0], values[-1]))
    return low if low == high else f"{low} … {high}"


def is_open(row: Row) -> bool:
    """Whether some of the interval of what was measured is on the right side of its threshold."""
    if not row["value"]:
        return False
    low, high = (float(row[end] or row["value"]) for end in ("low", "high"))
    lower, upper = (row["lower_bound"], row["upper_bound"])
    return (not lower or high > float(lower)) and (not upper or low < float(upper))


def with_interval(row: Row) -> str:
    """What was measured: `2.4 [0.923, 3.88]`, or a dash for what has no numbers."""
    value, *ends = [rounded(float(row[key])) for key in ("value", "low", "high") if row[key]] or ["–"]
    return f"{value} [{', '.join(ends)}]" if ends else value


WIDTH, HEIGHT, MARGIN = 132, 16, 8


def strip(rows: list[Row], description: str) -> str:
    """SVG with a mark for each run, at its `room` relative to the largest; the threshold is the line.

    Those on the right side are discs on its right, others are crosses on its left.
    """
    rooms = [room(row) for row in rows]
    known = [r for r in rooms if r == r]
    if not known:
        return ""
    largest, middle = max(map(abs, known)) or 1.0, WIDTH / 2
    marks = []
    for row, r in zip(rows, rooms, strict=True):
        if r == r:
            x = middle + r / largest * (middle - MARGIN)
            if row["holds"] == "True":
                marks.append(f'<circle class="vae-holds" cx="{x:.1f}" cy="8" r="3.5"/>')
            else:
                marks.append(f'<path class="vae-fails" d="M{x - 4:.1f} 4l8 8m0-8l-8 8"/>')
    return (
        f'<svg class="vae-strip" role="img" aria-label="{description}" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}"><path class="vae-strip-line" d="M{middle:g} 0V16M0 8H{WIDTH}"/>'
        f"{''.join(marks)}</svg>"
    )
