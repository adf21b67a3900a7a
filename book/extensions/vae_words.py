"""The words that the book adds to its pages, from one file: the package's English ones, or the translation
that `vae_words` in `_config.yml` names. Sphinx and the theme have translations of theirs; `language` chooses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxRole

from vae_lab.wording import Words, read_words


def words_of(app: Sphinx) -> Words:
    """The words of the book that is being built."""
    named = app.config.vae_words
    return read_words(Path(app.confdir, named)) if named else read_words()


def name_parts(app: Sphinx, config: Config) -> None:
    """Give what Sphinx and its other extensions name by settings the names of the file."""
    words = words_of(app)
    config.numfig_format = {kind: words["references"][kind] for kind in ("figure", "table", "section")}
    config.math_eqref_format = words["references"]["equation"]
    config.html_theme_options |= {
        "search_bar_text": words["page"]["search"],
        "extra_footer": words["page"]["footer"],
    }


class Verdict(SphinxRole):
    """`{verdict}`true``: a verdict on a statement, as a word with a colour."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        words = words_of(self.env.app)["verdicts"]
        if self.text not in words:
            problem = self.inliner.reporter.error(
                f"expected a verdict ({', '.join(words)}), got {self.text}", line=self.lineno
            )
            return [], [problem]
        badge = nodes.inline("", words[self.text], classes=["vae-verdict", f"vae-verdict-{self.text}"])
        return [badge], []


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("vae_words", "", "env", str)
    app.add_role("verdict", Verdict())
    app.connect("config-inited", name_parts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
