"""What teachers need: the book without solutions, and in another language."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from checkout import Checkout
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from vae_lab.records import CLAIM_MIME, PLAY_MIME, PROVENANCE_MIME, code_mark
from vae_lab.wording import ENGLISH, read_words
from vae_workflow.pages import bring_together
from vae_workflow.replication import COLUMNS

ROOT = Path(__file__).resolve().parent.parent

# Without solutions

EXERCISES = """\
# Exercises

## 1. A question

How many?

:::{dropdown} Solution of exercise 1
Fortytwo, as `assert 42` shows.
:::

## 2. Another

Why?
"""


def pages_with(text: str, html: Path) -> list[str]:
    """The files of a built book that have `text`, the index of its search and sources among them."""
    files = [path for path in html.rglob("*") if path.suffix in {".html", ".js", ".md", ".txt"}]
    return sorted(str(path.relative_to(html)) for path in files if text in path.read_text("utf-8").lower())


def test_a_book_can_be_built_without_solutions(checkout: Checkout) -> None:
    """And with them again. No notebook runs for it, and none of them is left in sources or search."""
    checkout.notebooks(one="print(seed)")
    files = [{"file": "exercises"}, {"file": "chapters/one"}]
    contents = {"format": "jb-book", "root": "index", "chapters": files}
    checkout.write("book/_toc.yml", yaml.dump(contents))
    checkout.write("book/exercises.md", EXERCISES)
    checkout.configure(one={}, settings={"solutions": "yes"})
    html = checkout.folder / "book/_build/html"
    assert checkout.succeeds() == {"one"}
    shown = pages_with("fortytwo", html)
    assert {"exercises.html", "searchindex.js", "_sources/exercises.md"} <= set(shown)
    assert checkout.succeeds("--config", "solutions=no") == set()
    assert pages_with("fortytwo", html) == []
    assert {"exercises.html", "_sources/exercises.md"} <= set(pages_with("how many?", html))
    assert {"exercises.html", "_sources/exercises.md"} <= set(pages_with("why?", html))
    assert checkout.succeeds() == set()
    assert pages_with("fortytwo", html) == shown
    run = checkout.run("--config", "solutions=perhaps")
    assert run.returncode and "solutions is yes or no, and not perhaps" in run.stderr


def test_make_hands_the_wish_on() -> None:
    """Where none is given, the configuration decides."""
    for target in ("book", "pdf", "full"):
        command = ["make", "--no-print-directory", "-n", "-o", ".venv/ready", target]
        plain, without = (
            subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
            for words in ([], ["SOLUTIONS=no"])
        )
        assert "solutions" not in plain
        assert without.strip() == f"{plain.strip()} --config solutions=no"


def test_all_that_is_folded_in_the_exercises_is_a_solution() -> None:
    """The build without solutions takes all of it away."""
    page = (ROOT / "book/exercises.md").read_text("utf-8")
    folded = re.findall(r"^:::\{dropdown\} (.*)$", page, re.MULTILINE)
    assert folded == [f"Solution of exercise {i + 1}" for i in range(len(folded))]
    assert len(re.findall(r"^:::$", page, re.MULTILINE)) == len(folded)


# In another language

NASS, SICHER, BELEGT, GLEICH = (
    {"what": what, "holds": True, "kind": kind, "because": "", "count": count, "value": 2.0}
    | {"low": 1.0, "high": 3.0, "bounds": (0.0, None), "chance": chance}
    for what, kind, count, chance in (
        ("Nässe", "interval", 1, 0.025),
        ("Sicherheit", "interval", 7, 0.025),
        ("Beleg", "chance", 1, None),
        ("Gleichheit", "tests", 1, 0.05),
    )
)
CLAIM = {"sentence": "Wasser ist nass.", "value": "sehr", "holds": True, "evidence": "gemessen"}
CLAIM["criteria"] = [NASS, SICHER, BELEGT, GLEICH]
PROVENANCE = {
    "notebook": "one",
    "parameters": {"seed": 0},
    "command": "papermill one.ipynb",
    "commit": "abc",
    "versions": {"python": "3", "torch": "2"},
    "machine": "Rechner",
    "seconds": 8.0,
    "spent": {"training": 4.0, "evaluation": 2.0, "gradients": 0.0, "plotting": 1.0},
}
PAGE = """\
# Seite

{verdict}`true` {verdict}`imprecise` {verdict}`false` {claim}`Wasser ist nass` {claim}`da <ist trocken>`

```{figure} bild.svg
:name: fig-bild

Ein Bild.
```

{numref}`fig-bild` {numref}`tab-eins` {numref}`sec-eins` {eq}`eq-eins`

$$ 1 $$ (eq-eins)

```{table} Eine Tabelle.
:name: tab-eins

| a |
|---|
| 1 |
```

(sec-eins)=
## Abschnitt

```{eval-rst}
.. from-results:: claims
.. from-results:: timings
.. from-results:: replication
.. from-results:: sensitivity

   ist nass
   ist trocken
```
"""
SETTINGS = f"""\
import sys
sys.path.insert(0, {str(ROOT / "book/extensions")!r})
extensions = ["myst_nb", "sphinx_design", "sphinx_book_theme"]
extensions += ["vae_book", "vae_code", "vae_results", "vae_words"]
html_theme, html_title, language = "sphinx_book_theme", "Buch", "de"
vae_words = "words.de.toml"
myst_enable_extensions = ["colon_fence", "dollarmath"]
nb_execution_mode, numfig = "off", True
exclude_patterns = ["built"]
"""


def chapter() -> nbformat.NotebookNode:
    """An executed notebook with an English box for each of two claims, code of all kinds, and its foot."""
    records = [CLAIM, CLAIM | {"sentence": "Wasser ist trocken.", "holds": False}]
    boxes = [{"text/html": "<div>Holds.</div>", CLAIM_MIME: claim} for claim in records]
    boxes.append({"text/html": "<div>How to repeat this page</div>", PROVENANCE_MIME: PROVENANCE})
    outputs = [new_output("display_data", data) for data in boxes]
    Image.new("L", (1, 1)).save(pixel := io.BytesIO(), "png")
    picture = base64.b64encode(pixel.getvalue()).decode()
    played = new_output("display_data", {"image/png": picture, PLAY_MIME: {"kind": "trick", "data": {}}})
    cells = [
        new_code_cell("import math", metadata={"tags": ["hide-input"]}),
        new_code_cell("seed = 0"),
        new_code_cell("two()", outputs=outputs[:2], metadata={"tags": ["hide-input"]}),
        new_code_cell("play()", outputs=[played], metadata={"mystnb": {"figure": {"name": "fig-spiel"}}}),
        new_code_cell("foot()", outputs=outputs[2:], metadata={"tags": ["remove-input"]}),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    info = {"name": "python", "pygments_lexer": "ipython3"}
    metadata = {"kernelspec": kernel, "language_info": info}
    return new_notebook(cells=[new_markdown_cell("# Eins"), *cells], metadata=metadata)


def translated(text: str) -> str:
    return f"«{text}»"


BLOCKS = (("block1", "seed = 1000"), ("block2", "seed = 2000"))


def book_in_another_language(
    folder: Path, page: str, measured: tuple[tuple[str, str], ...] = BLOCKS, mark: str = "abc"
) -> tuple[str, str]:
    """All built pages of a small book, and what the build complained of."""
    texts = re.sub(r'= "(.*)"', lambda text: f'= "{translated(text[1])}"', ENGLISH.read_text("utf-8"))
    (folder / "words.de.toml").write_text(texts, "utf-8")
    (folder / "conf.py").write_text(SETTINGS, "utf-8")
    contents = "# Buch\n\n```{toctree}\n:numbered:\nseite\nchapters/01_eins\n```\n"
    (folder / "index.md").write_text(contents, "utf-8")
    (folder / "seite.md").write_text(page, "utf-8")
    shutil.copy(ROOT / "book/assets/random-node.svg", folder / "bild.svg")
    (folder / "chapters").mkdir()
    nbformat.write(chapter(), folder / "chapters/01_eins.ipynb")
    (folder / "measured").mkdir()
    lines = [",".join(COLUMNS)]
    for variant, parameters in measured:
        for sentence in ("Wasser ist nass.", "Wasser ist trocken."):
            holds = "nass" in sentence or variant == "block1"
            row = (
                f"01_eins,{variant},{parameters},{sentence},{holds},1,2,{1 if holds else -1},3,0,,{mark},m,v"
            )
            lines.append(row)
    for name in ("replication", "sensitivity"):
        (folder / f"measured/{name}.csv").write_text("\n".join(lines) + "\n", "utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "--keep-going", str(folder), str(folder / "built")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    built = [path.read_text("utf-8") for path in (folder / "built").rglob("*.html")]
    return "\n".join(built), run.stderr


def test_the_words_of_one_file_are_on_the_pages(tmp_path: Path) -> None:
    """Each of them, translated, and no English one. No notebook runs for it."""
    pages, complaints = book_in_another_language(tmp_path, PAGE)
    assert complaints == ""
    shown = re.sub(r"<[^>]*>", "", pages)
    english = tomllib.loads(ENGLISH.read_text("utf-8"))
    other_results = {"code.figure", "code.claim", "code.table", "code.other", "page.further"}
    other_results |= {"replication.none", "replication.new", "replication.current"}
    other_results |= {"sensitivity.none", "sensitivity.excluded"}
    for section, texts in english.items():
        for name, text in texts.items():
            if f"{section}.{name}" in other_results:
                continue  # than this chapter has
            filled = re.sub(r"%s|\\\{\w*\\\}", r".+?", re.escape(translated(text)))
            assert (
                re.search(filled, shown) or re.search(f'="{filled}"', pages) or translated(text) in pages
            ), f"{section}.{name}"
    assert not re.search(r"(?<!«)(Holds|Does not hold|How to repeat)", shown)
    assert "«Holds»: <a" in pages.replace("</span>", "")
    assert "«Holds» · 2/2" in shown and "«Does not hold» · 1/2" in shown, "on the page of claims"
    assert "«Of 2 claims, 1 hold in all 2 blocks of seeds, 1 in 1 of them, and 0 in fewer.»" in shown
    assert "seed = 2000: 2 [−1,\N{NO-BREAK SPACE}3], «left open»: Nässe &gt; 0" in shown, (
        "a setting in which a claim fails"
    )
    strips = re.findall(r'<svg class="vae-strip".*?</svg>', pages)
    assert [(s.count("vae-holds"), s.count("vae-fails")) for s in strips] == [(2, 0), (1, 1)]


def test_a_replication_says_whether_it_is_of_the_present_code(tmp_path: Path) -> None:
    page = "# Seite\n\n```{eval-rst}\n.. from-results:: replication\n```\n"
    (tmp_path / "same").mkdir()
    (tmp_path / "none").mkdir()
    pages, _ = book_in_another_language(tmp_path / "same", page, mark=code_mark(chapter()))
    assert "«The code of no chapter has changed since these runs.»" in pages
    pages, _ = book_in_another_language(tmp_path / "none", page, measured=())
    assert "«This has not been done for the present chapters" in pages


@pytest.mark.parametrize(("named", "caption"), [("", "On other data"), ("words.de.toml", "«On other data»")])
def test_further_pages_have_a_heading_from_the_file(tmp_path: Path, named: str, caption: str) -> None:
    book, staged = tmp_path / "book", tmp_path / "staged"
    book.mkdir()
    texts = ENGLISH.read_text("utf-8").replace('"On other data"', '"«On other data»"')
    (book / "words.de.toml").write_text(texts, "utf-8")
    (book / "_config.yml").write_text(f"sphinx: {{config: {{vae_words: '{named}'}}}}", "utf-8")
    (book / "_toc.yml").write_text("chapters: [{file: chapters/01_eins}]", "utf-8")
    page = tmp_path / "01_eins--bunt.ipynb"
    nbformat.write(chapter(), page)
    bring_together(book, [page], staged)
    contents = yaml.safe_load((staged / "_toc.yml").read_text("utf-8"))
    assert contents["parts"][1]["caption"] == caption


def test_a_citation_of_no_claim_and_a_verdict_of_no_kind_are_errors(tmp_path: Path) -> None:
    page = "# Seite\n\n{claim}`Wasser ist Wein` {claim}`Wasser` {verdict}`perhaps`\n"
    _, complaints = book_in_another_language(tmp_path, page)
    assert "expected one claim with the words “Wasser ist Wein”, found 0; nearest: Wasser ist" in complaints
    assert "with the words “Wasser”, found 2" in complaints
    assert "expected a verdict (true, imprecise, false), got perhaps" in complaints


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('holds = "Holds"', "", "claim.holds is missing"),
        ("[page]", '[page]\nmore = "mehr"', "page.more is unknown"),
        ('figure = "Figure %s"', 'figure = "Abbildung"', "references.figure has to fill in %s"),
        (
            "{true} of {all}",
            "{true} von {alle}",
            "claims.summary has to fill in {all} and {pages} and {true}",
        ),
    ],
)
def test_a_translation_with_gaps_is_refused(tmp_path: Path, old: str, new: str, problem: str) -> None:
    """With all of them, before a page is made."""
    text = ENGLISH.read_text("utf-8")
    assert old in text
    file = tmp_path / "words.toml"
    file.write_text(text.replace(old, new, 1).replace('"Commit"', '"{commit}"'), "utf-8")
    with pytest.raises(ValueError, match=r"Copy words\.toml") as error:
        read_words(file)
    assert problem in str(error.value)
    assert "provenance.commit has to fill in nothing" in str(error.value)
