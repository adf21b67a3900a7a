"""Pages of the book as text: their sections, and the code that they show."""

from __future__ import annotations

import re
from pathlib import Path

BOOK = Path(__file__).parents[1] / "book"


def sections(page: str, level: int = 2) -> dict[str, str]:
    """Heading -> text of the sections of that level, in order; hashes inside code are no headings."""
    found: dict[str, str] = {}
    title, in_code = "", False
    for line in (BOOK / f"{page}.md").read_text("utf-8").splitlines(keepends=True):
        in_code ^= line.lstrip().startswith("```")
        heading = None if in_code else re.match(r"(#+) (.+)", line)
        if heading and len(heading[1]) <= level:
            title = heading[2].strip() if len(heading[1]) == level else ""
            found |= {title: ""} if title else {}
        elif title:
            found[title] += line
    return found


def code(text: str, language: str = "python") -> list[str]:
    """The blocks of code in a text."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
