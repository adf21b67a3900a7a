"""The chapters: the notebooks that the book lists. Others in `notebooks/` are somebody's own."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [
    ROOT / "notebooks" / f"{name}.ipynb"
    for name in yaml.safe_load((ROOT / "config/book.yaml").read_text("utf-8"))["notebooks"]
]
