"""The pages of the book: executed notebooks and the texts around them, built by jupyter-book."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import nbformat
import yaml

from vae_lab.wording import ENGLISH, Words, read_words

from .executed import Damaged, read_executed
from .sources import PACKAGE, fingerprint, unchanged
from .workplace import Workplace

PDF = "book.pdf"
UNFINISHED = ".unfinished"
# Read by the extensions of the book, beside its own files.
BEHIND_ALL_PAGES = (
    "pyproject.toml",
    "vae_workflow/__init__.py",
    *(f"{PACKAGE}/{name}" for name in ("records.py", "wording.py", "words.toml")),
)
EXERCISES = "exercises.md"
SOLUTION = re.compile(r"^:::\{dropdown\} .*?^:::\n", re.MULTILINE | re.DOTALL)  # all that is folded there


def page_files(book: Path) -> Iterator[Path]:
    """The source files of the book: all that is neither built nor hidden."""
    for path in book.rglob("*"):
        parts = path.relative_to(book).parts
        if path.is_file() and not any(part in {"_build", "__pycache__"} or part[0] == "." for part in parts):
            yield path


def build_book(
    book: Path,
    staged: Path,
    output: Path,
    parameters: Mapping[str, Mapping[str, Any]],
    chapters: list[Path],
    solutions: bool = True,
) -> int:
    """Builds the book from the folder `book` and the executed `chapters`; any warning is an error.

    So is a chapter that was not executed from the present sources and `parameters`. `staged` is a folder in
    which both come together. Without `solutions` the exercises have none: not on their page, not in the
    search, and not in the page's source.
    """
    try:
        stale = list(_stale(chapters, parameters))
    except Damaged as damage:
        sys.stderr.write(f"book: {damage}. Run again.\n")
        return 1
    if stale:
        sys.stderr.write(
            f"book: these results are not those of the present sources: {'; '.join(stale)}. "
            "Delete the files and run again.\n"
        )
        return 1
    built = output / "_build"
    clear_what_is_old(built, book)
    former = seen_everywhere(staged)
    shutil.rmtree(staged, ignore_errors=True)
    try:
        with unchanged(*page_files(book), *Path(PACKAGE).rglob("*.py")):
            bring_together(book, chapters, staged, solutions)
            if seen_everywhere(staged) != former:
                shutil.rmtree(built / "html", ignore_errors=True)
                shutil.rmtree(built / ".doctrees", ignore_errors=True)
            sphinx(staged, output)
    except Exception as error:
        sys.stderr.write(f"book: {error}\n")
        return 1
    (built / UNFINISHED).unlink()
    sys.stderr.write(f"book: {built / 'html' / 'index.html'}\n")
    return 0


def clear_what_is_old(built: Path, book: Path) -> None:
    """Takes away what Sphinx would take for new in the folder `built`, which is marked as unfinished.

    Sphinx reads again the pages that changed, and those that say they depend on the package when that
    changed. It does not notice other changes (an extension, a static file, a page that is gone) nor that its
    last run was cut short: then everything is built afresh.
    """
    doctrees = built / ".doctrees" / "environment.pickle"
    files = list(page_files(book))
    others = {p for p in files if p.suffix != ".md"} | {p.parent for p in files}
    others |= {Workplace(Path.cwd()).lock, *filter(Path.exists, map(Path, BEHIND_ALL_PAGES))}
    last = doctrees.stat().st_mtime if doctrees.exists() else 0.0
    if (built / UNFINISHED).exists() or any(p.stat().st_mtime > last for p in others):
        shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True, exist_ok=True)
    (built / UNFINISHED).touch()
    if (built / "html" / PDF).exists():  # of the former book; and the pages lead to it
        shutil.rmtree(built / "html")


def seen_everywhere(staged: Path) -> tuple[str, bool]:
    """What has to be the same if pages of the last build are to be kept: the contents, which each page shows,
    and whether exercises have solutions, which no file's time of change tells."""
    contents, exercises = (
        path.read_text("utf-8") if path.exists() else "" for path in (staged / "_toc.yml", staged / EXERCISES)
    )
    return contents, bool(SOLUTION.search(exercises))


def bring_together(book: Path, chapters: list[Path], staged: Path, solutions: bool = True) -> None:
    """Puts the texts of `book` and the executed `chapters` into the folder `staged`."""
    for page in page_files(book):
        copy(page, staged / page.relative_to(book))
    exercises = staged / EXERCISES
    if not solutions and exercises.exists():
        exercises.write_text(SOLUTION.sub("", exercises.read_text("utf-8")), "utf-8")
    for chapter in chapters:
        copy(chapter, staged / "chapters" / chapter.name)
        if "--" in chapter.stem:
            set_apart(staged / "chapters" / chapter.name)
    if further := [c.stem for c in chapters if "--" in c.stem]:
        add_to_contents(staged / "_toc.yml", further, words_of(book)["page"]["further"])


def words_of(book: Path) -> Words:
    """The words that the book in the folder `book` adds to its pages."""
    config = yaml.safe_load((book / "_config.yml").read_text("utf-8"))
    named = config.get("sphinx", {}).get("config", {}).get("vae_words")
    return read_words(book / named if named else ENGLISH)


def _stale(chapters: list[Path], parameters: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The executed chapters that do not come from the present sources, and which of these differ."""
    place = Workplace(Path.cwd())
    notebooks = place.notebooks()
    for chapter in chapters:
        notebook = notebooks[chapter.stem.partition("--")[0]]
        record = read_executed(chapter)["metadata"].get("sources", {})
        now = fingerprint(notebook, place.lock, parameters[chapter.stem])
        if changed := ", ".join(key for key in now if now[key] != record.get(key)):
            yield f"{chapter} ({changed})"


def copy(source: Path, target: Path) -> None:
    """Copies a file with its time of change, by which Sphinx knows what is new."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def set_apart(page: Path) -> None:
    """Gives the page NAME--VARIANT a title and labels unlike those of the page NAME of the same notebook."""
    times = page.stat()
    page.write_text(apart(page.read_text("utf-8"), page.stem.partition("--")[2]), "utf-8")
    os.utime(page, ns=(times.st_atime_ns, times.st_mtime_ns))


def apart(text: str, variant: str) -> str:
    """A notebook, as text, with `variant` in its title and in its labels of figures, equations and tables."""
    notebook = nbformat.reads(text, as_version=4)
    shown = [c.metadata.get("mystnb") or {} for c in notebook.cells]
    figures = [(of.get("figure") or {}).get("name") for of in shown]
    label = re.compile(r"^(?:\$\$ \(|:name: )(\S+?)\)?$", re.MULTILINE)  # of an equation, or of a table
    others = [name for c in notebook.cells for name in label.findall(c.source)]
    labels = "|".join(map(re.escape, filter(None, [*figures, *others])))
    if labels:
        text = re.sub(rf"(?<![\w-])({labels})(?![\w-])", rf"\1-{variant}", text)
    notebook = nbformat.reads(text, as_version=4)
    for title in [c for c in notebook.cells if c.cell_type == "markdown"][:1]:
        title.source = re.sub(r"^# .*", rf"\g<0>: {variant}", title.source)
    return str(nbformat.writes(notebook)) + "\n"


def add_to_contents(contents: Path, names: list[str], caption: str) -> None:
    """Lists further pages in a part of their own after the last part that has chapters."""
    toc = yaml.safe_load(contents.read_text("utf-8"))
    further = {
        "caption": caption,
        "numbered": True,
        "chapters": [{"file": f"chapters/{name}"} for name in names],
    }
    if "parts" not in toc:
        toc["parts"] = [{"chapters": toc.pop("chapters")}]
    holds = [any(c["file"].startswith("chapters/") for c in part["chapters"]) for part in toc["parts"]]
    toc["parts"].insert(len(holds) - holds[::-1].index(True), further)
    contents.write_text(yaml.safe_dump(toc, sort_keys=False), "utf-8")


def sphinx(source: Path, output: Path) -> None:
    """Runs jupyter-book in this process, showing its warnings only, and raises if there were any."""
    from jupyter_book.cli.main import main as jupyter_book

    options = ["--path-output", str(output), "-W", "-n", "--keep-going", "--quiet"]
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        try:
            jupyter_book(["build", str(source), *options], standalone_mode=False)
        except SystemExit as stop:
            if stop.code:
                raise RuntimeError("there were warnings (above), and each counts as an error") from None
