"""What notebooks, the book and the workflow share: record types, data folders, colours, reading of cells.

Nothing heavy is imported here, so that reading a notebook or colouring a page does not wait for torch.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

# MIME types of the machine-readable outputs of a notebook.
MIME = "application/vnd.vae-lab."
CLAIM_MIME = f"{MIME}claim+json"
PROVENANCE_MIME = f"{MIME}provenance+json"
PLAY_MIME = f"{MIME}play+json"

# Data sets that are files, and where Debian's packages put such files.
FASHION, MNIST = DATA_FILES = ("fashion-mnist", "mnist")
DATA_SYSTEM = "/usr/share/datasets"

# Colours of the figures. The book swaps INK and PAPER for those of its dark mode; the others read on both.
# The palette is that of Okabe and Ito, safe for colour-blind readers.
INK, PAPER, FAINT = "#1f2328", "#ffffff", "#8b949e"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# Ten, for labels, which are drawn as digits, too.
CLASSES = (*PALETTE, "#8800ee", "#8866ee", "#ee0044", "#aacc66")

# Magics whose cell is Python all the same: it sees and leaves the notebook's names.
PYTHON_CELLS = {"time", "timeit", "capture", "prun"}


def outputs(notebook: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All outputs of an executed notebook, in order."""
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def recorded(notebook: Mapping[str, Any], mime: str) -> list[dict[str, Any]]:
    """All records of one kind in an executed notebook, in order: its claims, for `CLAIM_MIME`."""
    return [output["data"][mime] for output in outputs(notebook) if mime in output.get("data", {})]


def glued(notebook: Mapping[str, Any]) -> dict[str, str]:
    """The numbers in the text of an executed notebook, by their names, as `glue` shows them."""
    marked = [o for o in outputs(notebook) if "scrapbook" in o.get("metadata", {})]
    named = {o["metadata"]["scrapbook"]["name"]: o["data"] for o in marked}
    key = "application/papermill.record/text/plain"
    return {name: data[key].strip("'\"") for name, data in named.items() if key in data}


def code_mark(notebook: Mapping[str, Any]) -> str:
    """A short hash of what the results of an executed notebook depend on, whatever its parameters.

    That is its cells of code, the modules that they use, and the versions of all packages; not its prose.
    """
    code = hashlib.sha256()
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and "injected-parameters" not in cell["metadata"].get("tags", []):
            code.update("".join(cell["source"]).encode() + b"\0")
    for part in ("package", "lock"):
        code.update(notebook["metadata"].get("sources", {}).get(part, "").encode() + b"\0")
    return code.hexdigest()[:12]


def python_of(cell: str) -> str:
    """The Python of a cell, as IPython understands its magics, each line where it was. None in a cell of
    another language, such as `%%bash`."""
    if _is_python(cell):
        return cell
    blank = cell[: len(cell) - len(cell.lstrip("\n"))]  # IPython drops these
    first, _, rest = cell.lstrip("\n").partition("\n")
    if first.startswith("%%"):
        name = re.match(r"%%(\w*)", first)
        return f"{blank}\n{python_of(rest)}" if name and name[1] in PYTHON_CELLS else ""
    from IPython.core.inputtransformer2 import TransformerManager

    return blank + TransformerManager().transform_cell(cell)


def _is_python(code: str) -> bool:
    try:
        _tree(code)
    except (SyntaxError, ValueError):
        return False
    return True


def _tree(code: str) -> ast.Module:
    with warnings.catch_warnings():  # about escapes such as "\d"
        warnings.simplefilter("ignore")
        return ast.parse(code)


def parsed(cell: str) -> ast.Module:
    """The syntax tree of the code of a cell, without its magics. Raises SyntaxError if it is not Python."""
    return _tree(python_of(cell))
