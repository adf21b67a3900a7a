"""Files that appear whole or not at all, forks among them, and tables for other programs."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml
from checkout import VALUE, Checkout
from typer.testing import CliRunner

from vae_workflow import files
from vae_workflow.cli import FAILED, REFUSED, app
from vae_workflow.experiments import read_experiment
from vae_workflow.files import MARK, clear_leftovers, folder_for_sockets, write_all, write_whole
from vae_workflow.tables import as_csv, as_parquet

LISTS = ("book/_toc.yml", "config/book.yaml", "config/quick.yaml")


def call(*words: str, code: int = 0) -> str:
    """What a command says."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output + repr(result.exception)
    return re.sub(r"\s+", " ", result.output)


@pytest.fixture
def here(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a checkout with a notebook `one`, which is in the book."""
    checkout.notebooks(one=VALUE)
    shutil.copy(checkout.folder / "config/book.yaml", checkout.folder / "config/quick.yaml")
    monkeypatch.chdir(checkout.folder)
    return checkout.folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, those with a dot, too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failing(monkeypatch: pytest.MonkeyPatch, name: str, at: int, error: BaseException) -> None:
    """Lets the call number `at` of a function of `os` fail."""
    right, count = getattr(os, name), iter(range(99))

    def wrong(*args: Any, **kwargs: Any) -> Any:
        if next(count) == at:
            raise error
        return right(*args, **kwargs)

    monkeypatch.setattr(files.os, name, wrong)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full", "interrupted"])
@pytest.mark.parametrize(
    ("name", "at"), [("fsync", 0), ("fsync", 2), ("replace", 0), ("replace", 1), ("replace", 2)]
)
def test_several_files_change_together_or_not_at_all(
    name: str, at: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("old a")
    (tmp_path / "b").write_text("old b")
    new = {tmp_path / name: f"new {name}" for name in ("a", "c", "b")}
    with monkeypatch.context() as patch:
        failing(patch, name, at, error)
        with pytest.raises(type(error)):
            write_all(new)
    assert contents(tmp_path) == {"a": b"old a", "b": b"old b"}
    write_all(new)
    assert contents(tmp_path) == {"a": b"new a", "b": b"new b", "c": b"new c"}


def test_links_modes_and_devices_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    write_whole(Path(os.devnull), "nothing")
    assert Path(os.devnull).is_char_device()
    for path, error in ((tmp_path, IsADirectoryError), (tmp_path / "no/where", FileNotFoundError)):
        with pytest.raises(error):
            write_whole(path, "")


def test_what_dead_processes_left_goes_and_what_is_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    for name in (f"{MARK}dead", f".{MARK}dead", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "k-1").touch()
    with folder_for_sockets() as used:
        clear_leftovers(tmp_path)
        assert set(tmp_path.iterdir()) == {used, tmp_path / "other"} or used.parent != tmp_path
    assert not used.exists() and (tmp_path / "other/k-1").exists()


# Forks


@pytest.mark.parametrize("new", ["2026_11", "13", "yes", "null", "on", "1e3", "0x1f", "true", "1_0"])
def test_a_name_that_yaml_reads_as_something_else_is_a_name(here: Path, new: str) -> None:
    before = {path: yaml.safe_load((here / path).read_text()) for path in LISTS}
    call("fork", "one", new, "--book")
    call("fork", new, "and_another", "--book")
    for path in LISTS[1:]:
        found = yaml.safe_load((here / path).read_text())
        assert found == {**before[path], "notebooks": {"one": None, new: None, "and_another": None}}
    assert [c["file"] for c in yaml.safe_load((here / LISTS[0]).read_text())["chapters"]] == [
        f"chapters/{name}" for name in ("one", new, "and_another")
    ]


PATHS = ["", ".", "..", "/", "a/b", "../up", "notebooks/one.ipynb", "{x}", "*"]
LETTERS = ["-x", "a b", "é", "a\nb", "a--b", "_a", "x" * 65, "con", "NUL", "One", "ONE", "\udcff", "\0"]


@pytest.mark.parametrize("name", PATHS + LETTERS)
def test_what_is_no_name_is_refused_by_every_command(here: Path, name: str) -> None:
    before = contents(here)
    assert "Traceback" not in call("fork", "one", "--book", "--", name, code=REFUSED)
    for command in ("list", "run", "sweep", "results", "claims", "clean"):
        said = call(command, "--", name, code=REFUSED)
        assert "no such notebook" in said or "There are no runs of" in said
    assert contents(here) == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("book/_toc.yml", "root: index\n"),
        ("book/_toc.yml", "chapters: [{file: chapters/one}]\n"),
        ("book/_toc.yml", "root: [\n"),
        ("config/book.yaml", "notebooks: {one: }\n"),
        ("config/quick.yaml", "name: quick\n"),
        ("config/quick.yaml", ""),
        ("config/quick.yaml", None),
    ],
)
def test_a_list_in_another_form_is_left_alone(here: Path, file: str, text: str | None) -> None:
    (here / file).unlink() if text is None else (here / file).write_text(text)
    before = contents(here)
    assert file in call("fork", "one", "two", "--book", code=REFUSED)
    assert contents(here) == before


def test_a_fork_that_fails_leaves_nothing_and_the_next_try_works(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(here)
    for name, at in (("fsync", 0), ("fsync", 3), ("replace", 3)):
        with monkeypatch.context() as patch:
            failing(patch, name, at, FULL)
            assert "No space left on device" in call("fork", "one", "two", "--book", code=REFUSED)
        assert contents(here) == before
    with monkeypatch.context() as patch:
        failing(patch, "replace", 3, SystemExit(9))  # killed before the notebook came, and not tidied up
        patch.setattr(files._Writing, "undo", lambda self: None)
        call("fork", "one", "two", "--book", code=9)
    call("fork", "one", "two", "--book")
    for path in LISTS:
        assert (here / path).read_text().count("two") == 1
    assert read_experiment(here / "notebooks/two.ipynb").parameters["seed"].default == 0


@pytest.mark.parametrize(
    "value", [".inf", "inf", "Infinity", "nan", "1e400", "1e-300", "5e-324", "1e39", "-1e300"]
)
def test_a_number_with_which_nothing_can_compute_is_refused(here: Path, value: str) -> None:
    path = here / "notebooks/one.ipynb"
    path.write_text(path.read_text().replace("seed: int = 0", "seed: int = 0\\nsigma: float = 1.0"))
    for words in (("fork", "one", "two"), ("run", "one"), ("sweep", "one")):
        said = call(*words, "-p", f"sigma={value}", code=REFUSED)
        assert "1 problem with the parameters" in said
    assert not (here / "notebooks/two.ipynb").exists() and not (here / "build").exists()


def test_notebooks_of_any_age_and_form_are_forked_and_listed(here: Path) -> None:
    notebook = nbformat.read(here / "notebooks/one.ipynb", as_version=4)
    notebook.cells = notebook.cells[1:]  # no text
    (here / "notebooks/v3.ipynb").write_text(nbformat.v3.writes_json(nbformat.convert(deepcopy(notebook), 3)))
    for cell in notebook.cells:
        cell["id"] = "same"
    notebook.metadata = {}
    for name, minor in (("twice", 5), ("old", 4)):
        text = json.dumps(notebook | {"nbformat_minor": minor})
        (here / f"notebooks/{name}.ipynb").write_text(
            text if minor == 5 else text.replace('"id": "same",', "")
        )
    for number, name in enumerate(("v3", "twice", "old")):
        call("list", name)
        call("fork", name, f"mine{number}", "-p", "seed=3")
        made = nbformat.read(here / f"notebooks/mine{number}.ipynb", as_version=4)
        nbformat.validate(made)
        assert made.cells[0].source == "seed: int = 3"


# Tables


def test_a_spreadsheet_takes_no_text_for_a_formula() -> None:
    texts = ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\n=1", "  =1", "-0.13 [−1, 1]"]
    numbers = ["-0.13", "+5", "-1e3", "two\nlines"]
    table = pd.DataFrame({"value": [*texts, *numbers], "number": range(-1, 11)})
    again = pd.read_csv(
        io.StringIO(as_csv(table.replace("two\nlines", "two\rlines"))), dtype=str, keep_default_na=False
    )
    assert again["value"].tolist() == [*(f"'{text}" for text in texts), *numbers]
    assert again["number"].tolist() == [str(number) for number in range(-1, 11)]


def test_a_column_of_numbers_and_texts_goes_into_parquet() -> None:
    table = pd.DataFrame({"mixed": [1.5, "auto", None], "lists": [[1], [2], None], "plain": [1, 2, 3]})
    again = pd.read_parquet(io.BytesIO(as_parquet(table)))
    again = again.astype(object).where(again.notna(), None)
    assert again["mixed"].tolist() == ["1.5", "auto", None]
    assert again["lists"].tolist() == ["[1]", "[2]", None]
    assert again["plain"].tolist() == [1, 2, 3]


def test_an_export_that_fails_leaves_the_old_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "build/runs/one/notebooks").mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(), here / "build/runs/one/notebooks/one--1.ipynb")
    for kind in ("csv", "parquet"):
        path = here / f"old.{kind}"
        path.write_text("old")
        with monkeypatch.context() as patch:
            failing(patch, "fsync", 0, FULL)
            said = call("results", "one", f"--{kind}", str(path), code=REFUSED)
        assert f"old.{kind} cannot be written: No space left on device" in said
        assert path.read_text() == "old" and not list(here.glob(f".{MARK}*"))
    assert call("results", "one", "--csv", ".", code=REFUSED)
    assert call("claims", "one", code=FAILED)
