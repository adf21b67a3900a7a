"""The claims of executed notebooks, collected, and whether they hold."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from vae_lab.records import CLAIM_MIME, recorded

from .executed import Damaged, read_executed
from .files import write_whole


def check_claims(output: Path, failing: str, known: Mapping[str, list[str]], chapters: list[Path]) -> int:
    """Writes all claims of the executed `chapters` to `output`, and names those that do not hold.

    They are an error if `failing` is "error", unless `known` lists their sentence under their page; so is a
    sentence in `known` that its page does not claim.
    """
    claims = []
    for chapter in chapters:
        try:
            found = recorded(read_executed(chapter), CLAIM_MIME)
        except Damaged as damage:
            sys.stderr.write(f"claims: {damage}. Run again.\n")
            return 1
        claims += [{"page": chapter.stem, **claim} for claim in found]
    problems = [
        f"  {claim['page']}: {claim['sentence']} {claim['value']} ({claim['evidence']})"
        for claim in claims
        if failing == "error" and not claim["holds"]
        if claim["sentence"] not in known.get(claim["page"], [])
    ]
    for page, sentences in known.items():
        made = {claim["sentence"] for claim in claims if claim["page"] == page}
        problems += [
            f"  {page} makes no such claim: {text}" for text in sentences if made and text not in made
        ]
    if problems:
        sys.stderr.write("\n".join(["claims: these do not hold:", *problems, ""]))
        return 1
    write_whole(output, json.dumps(claims, indent=1, ensure_ascii=False) + "\n")
    true = sum(claim["holds"] for claim in claims)
    sys.stderr.write(f"claims: {true} of {len(claims)} hold\n")
    return 0
