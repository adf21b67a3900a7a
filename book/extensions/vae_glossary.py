"""What a term means, where it is used: each link to the glossary carries the first sentence of its entry.

The sentence is the link's title, which every browser shows and every screen reader reads; assets/glossary.js
shows it at once, and to the keyboard, too.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from docutils import nodes
from sphinx.addnodes import glossary, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PAGE = "glossary"


@cache
def definitions(env: BuildEnvironment) -> dict[str, str]:
    """Ids of the glossary's terms -> first sentences of their definitions."""
    found = {}
    for entries in env.get_doctree(PAGE).findall(glossary):
        for entry in entries.findall(nodes.definition_list_item):
            text = next(entry.findall(nodes.paragraph)).astext()
            sentence = re.split(r"(?<=\.)\s", text, maxsplit=1)[0]
            found |= {name: sentence for term in entry.findall(nodes.term) for name in term["ids"]}
    return found


def depend_on_glossary(app: Sphinx, doctree: nodes.document) -> None:
    """A page with links to terms is read again when the glossary changes."""
    if any(link.get("reftype") == "term" for link in doctree.findall(pending_xref)):
        app.env.note_dependency(app.env.doc2path(PAGE))


def define_terms(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for link in doctree.findall(nodes.reference):
        if link.children and "std-term" in getattr(link[0], "attributes", {}).get("classes", []):
            name = link.get("refid") or link["refuri"].partition("#")[2]
            link["reftitle"] = definitions(app.env)[name]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", depend_on_glossary)
    app.connect("doctree-resolved", define_terms)
    app.add_js_file("glossary.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
