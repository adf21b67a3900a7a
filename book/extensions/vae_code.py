"""Code in pages: what is folded away, and what its names lead to.

**Folded code** is behind one bar for each result.

**Names** of the package lead to their entries, and from there to their source. What a name means is read from
the imports in the code of the same page. Only the first mention in each block is a link, so that the tab key
does not stop at every other word.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx
from vae_reference import address

from vae_lab.records import CLAIM_MIME
from vae_workflow.reading import Code

BLOCK = re.compile(r'(<div class="highlight"><pre>)(.*?)(</pre>)', re.DOTALL)
# A name, and one after it where the first is a module's; not an attribute of something else, nor an argument.
NAME = re.compile(
    r'(?<!<span class="o">\.</span>)<span class="n">(?P<name>\w+)</span>(?!<span class="o">=</span>)'
    r'(?:<span class="o">\.</span><span class="n">(?P<inner>\w+)</span>)?'
)


def plain(block: str) -> str:
    """The code of a highlighted block."""
    return html.unescape(re.sub(r"<[^>]*>", "", block))


def full_name(imported: str, inner: str | None) -> str:
    """The name, where it is defined, of what an import binds, or of its attribute `inner` if it is a module.

    "" for what is none of the package's.
    """
    home, _, name = imported.rpartition(".")
    if imported.partition(".")[0] != "vae_lab":
        return ""
    thing: Any = getattr(import_module(home), name, None) if home else None
    if isinstance(thing, ModuleType) and inner:
        name, thing = inner, getattr(thing, inner, None)
    return address(name, thing) if hasattr(thing, "__module__") else ""


def link_names(block: str, imported: dict[str, str], target: Callable[[str], str | None]) -> str:
    """The highlighted `block` with a link around the first mention of each name that has a `target`."""
    seen: set[str] = set()

    def link(match: re.Match[str]) -> str:
        full = full_name(imported.get(match["name"], ""), match["inner"])
        place = target(full) if full not in seen else None
        if not full or place is None:
            return match[0]
        seen.add(full)
        return f'<a class="vae-entry" href="{html.escape(place)}">{match[0]}</a>'

    return NAME.sub(link, block)


def link_code(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    if doctree is None or "body" not in context:
        return
    entries = app.env.get_domain("py").objects  # type: ignore[attr-defined]
    blocks = [plain(match[2]) for match in BLOCK.finditer(context["body"])]
    imported = Code(Path(app.srcdir), blocks).imported if blocks else {}

    def target(full: str) -> str | None:
        if full not in entries:
            return None
        return f"{app.builder.get_relative_uri(page, entries[full].docname)}#{entries[full].node_id}"

    context["body"] = BLOCK.sub(
        lambda match: match[1] + link_names(match[2], imported, target) + match[3], context["body"]
    )


Cell = dict[str, Any]  # of a notebook, as JSON
FOLDED = "hide-input"
REMOVED = {"remove-cell", "remove-input"}
GLUED = "application/papermill.record/"  # of numbers that the prose quotes


def fold(cells: list[Cell], words: Mapping[str, str]) -> list[Cell]:
    """The cells, where folded code that shows nothing itself joins the folded code after it: one bar for each
    result. The bar says what the code makes, in one of the `words`."""
    kept: list[Cell] = []
    waiting: list[Cell] = []  # folded, and without outputs
    for cell in cells:
        tags = set(cell["metadata"].get("tags", []))
        if FOLDED in tags and not shows(cell):
            waiting.append(cell | {"outputs": []})
            if cell["outputs"]:  # numbers for the prose, which stay
                own = {"id": f"{cell['id']}-numbers", "source": "", "metadata": {"tags": ["remove-cell"]}}
                kept.append(cell | own)
            continue
        if FOLDED in tags:
            cell["source"] = "\n\n".join("".join(part["source"]) for part in [*waiting, cell])
            waiting = []
        elif not tags & REMOVED:  # the reader sees this, so the two cannot be one
            kept += waiting
            waiting = []
        kept.append(cell)
    kept += waiting
    for cell in kept:
        if FOLDED in cell["metadata"].get("tags", []):
            prompt = words[made_by(cell)]
            look = cell["metadata"].setdefault("mystnb", {})
            look |= {"code_prompt_show": prompt, "code_prompt_hide": prompt}
    return kept


def shows(cell: Cell) -> bool:
    """Whether a reader sees an output of the cell."""
    outputs = cell["outputs"]
    return any("data" not in o or any(not mime.startswith(GLUED) for mime in o["data"]) for o in outputs)


def made_by(cell: Cell) -> str:
    """What folded code is for: the name of a text of `words.toml`, in its section `code`."""
    if "figure" in cell["metadata"].get("mystnb", {}):
        return "figure"
    kinds = [mime for output in cell["outputs"] for mime in output.get("data", {})]
    if claims := kinds.count(CLAIM_MIME):
        return "claim" if claims == 1 else "claims"
    if kinds:
        return "table"
    return "imports" if re.match(r"(import|from) ", "".join(cell["source"])) else "other"


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.viewcode")  # [source] beside each entry
    app.connect("html-page-context", link_code)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
