"""Which results differ between two folders of executed notebooks: `python -m vae_workflow.changes BEFORE
AFTER`.

Prints a table in Markdown, of claims (verdict and value) and of the numbers in the text.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from vae_lab.records import CLAIM_MIME, glued, recorded

from .console import survive_any_locale
from .executed import Damaged, read_executed


def shown_results(folder: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """(page, name of the result) -> the result as the page shows it."""
    for path in sorted(folder.glob("*.ipynb")):
        try:
            notebook = read_executed(path)
        except Damaged as damage:
            sys.stderr.write(f"{damage}\n")
            continue
        for claim in recorded(notebook, CLAIM_MIME):
            verdict = "holds" if claim["holds"] else "does not hold"
            yield (path.stem, claim["sentence"]), f"{claim['value']} ({verdict})"
        for name, text in glued(notebook).items():
            yield (path.stem, f"`{name}`"), rounded(text)


def rounded(text: str) -> str:
    """As a page would show a number."""
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text


def markdown(before: Path, after: Path) -> str:
    """The results that changed, came or went, in Markdown."""
    old, new = dict(shown_results(before)), dict(shown_results(after))
    rows = [[*key, old.get(key, "–"), new.get(key, "–")] for key in old | new if old.get(key) != new.get(key)]
    lines = [f"{len(rows)} of {len(old | new)} results changed."]
    if rows:
        lines += ["", "| page | result | before | after |", "|---|---|---|---|"]
    cells = ([" ".join(cell.replace("|", r"\|").split()) for cell in row] for row in rows)
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells)])


def main() -> None:
    survive_any_locale()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args()
    for folder in (args.before, args.after):
        if not any(folder.glob("*.ipynb")):
            parser.error(f"{folder} holds no executed notebooks, which a run leaves in build/NAME/notebooks")
    print(markdown(args.before, args.after))


if __name__ == "__main__":
    main()
