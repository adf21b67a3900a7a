"""Names, parameters and commands that nobody thought of: what is not refused is done, and nothing else.

No notebook is executed: where a run would start, what would be run is looked at.
"""

import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from checkout import VALUE, Checkout
from fuzzing import Inputs, fuzz
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from vae_lab.parameters import LARGEST, LARGEST_INTEGER, SMALLEST
from vae_workflow.cli import app
from vae_workflow.experiments import read_experiment
from vae_workflow.forks import LISTS
from vae_workflow.sweeps import Runs

inputs = Inputs()
PARAMETERS = """seed: int = 0
sigma: float = 1.0  # of the noise
label: str = "a"
widths: list[int] = [1, 2]
flag: bool = False"""
DEFAULTS = {"seed": 0, "sigma": 1.0, "label": "a", "widths": [1, 2], "flag": False}


class Started(Exception):
    """Snakemake would start now."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout with two notebooks, runs of them, and files beside all of these."""
    folder = tmp_path_factory.mktemp("around") / "checkout"
    folder.mkdir()
    checkout = Checkout(folder)
    checkout.notebooks(one=VALUE, two_2=VALUE)
    shutil.copy(folder / "config/book.yaml", folder / "config/quick.yaml")
    for path in (folder / "notebooks").iterdir():
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[1].source = PARAMETERS
        nbformat.write(notebook, path)
    make_runs(folder)
    for name in ("build/other/notebooks/x.ipynb", "build/runs/notes.txt", "../outside/notebooks/x.ipynb"):
        checkout.write(name, "precious")
    (folder / "build/runs/link").symlink_to(folder.parent / "outside")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(Runs, "start", start)
        yield folder


def start(runs: Runs, *args: Any, **options: Any) -> None:
    raise Started(runs)


def make_runs(folder: Path) -> None:
    """What a run leaves, of two notebooks."""
    for name in ("one", "two_2"):
        for part in ("notebooks", "failed", "running"):
            (folder / "build/runs" / name / part).mkdir(parents=True, exist_ok=True)
        path = folder / "build/runs" / name / "notebooks" / f"{name}--1.ipynb"
        path.write_text(nbformat.writes(nbformat.v4.new_notebook()))


def contents(folder: Path) -> dict[str, bytes]:
    """All files around the checkout, but for the locks."""
    found = (path for path in folder.parent.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if folder in path.parents} | {
        f"../{path.relative_to(folder.parent)}": path.read_bytes()
        for path in (folder.parent / "outside").rglob("*")
        if path.is_file()
    }


def call(kind: str, *words: str) -> tuple[int, str, Exception | None]:
    """Exit code, words, and what would be started. Counts a refusal by its exit code."""
    result = CliRunner().invoke(app, words)
    started = isinstance(result.exception, Started)
    expected = result.exception is None or isinstance(result.exception, SystemExit)
    assert started or expected, f"{words}: {result.exception!r}"
    assert "Traceback" not in result.output

    def judged() -> None:
        if result.exit_code and not started:
            raise PermissionError(result.output)

    inputs.attempt(kind, words, judged, PermissionError)
    return result.exit_code, result.output, result.exception if started else None


# What a parameter may be given as on the command line, and what that means

RIGHT: dict[str, st.SearchStrategy[tuple[str, Any]]] = {
    "seed": st.integers(-LARGEST_INTEGER, LARGEST_INTEGER).map(lambda n: (str(n), n)),
    "sigma": (st.floats(SMALLEST, LARGEST) | st.floats(-LARGEST, -SMALLEST) | st.just(0.0)).map(
        lambda x: (repr(x), x)
    ),
    "label": st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=",:"), max_size=6).map(
        lambda text: (text, text)
    ),
    "widths": st.lists(st.integers(-9, 99), max_size=3).map(lambda found: (repr(found), found)),
    "flag": st.sampled_from([("true", True), ("false", False), ("True", True), ("False", False)]),
}
WRONG = {
    "seed": ["", "x", "1.5", "1e400", "9" * 20, "true", "[1]", "None", "1,2"],
    "sigma": ["", "x", "nan", "inf", "-Infinity", "1e400", "1e-300", "1e39", "[1.0]", "true", "None"],
    "label": ["\udcff"],
    "widths": ["", "1", "x", "[1", "[1.5]", "['x']", "[true]", "[" * 3, "{}", "[1e30]"],
    "flag": ["", "maybe", "2", "[true]", "None"],
    "sed": ["1"],
    "": ["1"],
    "label ": ["\udcff"],
}
OTHERS = st.sampled_from(
    ["one", "two_2", "One", "on", "", ".", "..", "/", "../outside", "link", "notes.txt", "one/"]
)
WEIRD = st.text(max_size=8) | st.text(alphabet="./\\one_-{}*~ \n\0", max_size=8)
NOTEBOOKS = ("one", "two_2")


@st.composite
def commands(draw: Any) -> tuple[str, str, list[str], list[dict[str, Any]] | None]:
    """A command on notebooks with runs, the name, its options, and the points that it means, or None where it
    is wrong."""
    known = st.sampled_from(NOTEBOOKS)
    name = draw(st.one_of(*[known] * 9, OTHERS, WEIRD))
    started = ["run"] * 5 + ["sweep"] * 7
    command = draw(st.sampled_from([*started, "results", "claims", "clean", "list"]))
    right, axes, words = name in NOTEBOOKS, {}, []
    if command in ("run", "sweep"):
        chosen = draw(st.lists(st.sampled_from(sorted(RIGHT)), min_size=1, max_size=3, unique=True))
        spoilt = draw(st.sampled_from(sorted(WRONG))) if draw(st.integers(0, 3)) == 3 else None
        for key in chosen:
            several = command == "sweep" and key not in ("label", "widths")
            pairs = draw(st.lists(RIGHT[key], min_size=1, max_size=3 if several else 1))
            if key == "seed" and command == "sweep" and draw(st.booleans()):
                low, step, count = draw(st.tuples(st.integers(-5, 5), st.integers(1, 3), st.integers(1, 3)))
                found = list(range(low, low + step * count, step))
                pairs = [(f"{low}:{low + step * count}:{step}", None)]
            else:
                found = [value for _, value in pairs]
            axes[key] = found
            comma = draw(st.sampled_from([",", ", "]))
            words += ["-p", f"{key}=" + comma.join(text for text, _ in pairs)]
        if spoilt is not None:
            value = draw(st.sampled_from(WRONG[spoilt]))
            if spoilt in chosen or not (command == "sweep" and value == "1,2"):
                words += ["-p", f"{spoilt}={value}"]
                right = False
    points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    return command, name, words, points if right else None


def distinct(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what equals the defaults, and without doubles."""
    found: list[dict[str, Any]] = []
    for point in points:
        changed = {key: value for key, value in point.items() if value != DEFAULTS[key]}
        found += [changed] if changed not in found else []
    return found


@fuzz(250)
@given(commands())
def test_commands(here: Path, command: tuple[str, str, list[str], list[dict[str, Any]] | None]) -> None:
    word, name, options, points = command
    before = contents(here)
    confirmed = ["--yes"] if word == "clean" else []
    code, said, started = call("commands", word, *options, *confirmed, "--", name)
    after = contents(here)
    if points is None:
        assert code and started is None and after == before, f"{command}: {said}"
    elif word in ("run", "sweep"):
        assert isinstance(started, Started) and after == before, f"{command}: {said}"
        assert sorted(map(repr, started.runs.points.values())) == sorted(map(repr, distinct(points)))
    elif word == "clean":
        gone = {path: content for path, content in before.items() if path.startswith(f"build/runs/{name}/")}
        assert not code and gone and after == {k: v for k, v in before.items() if k not in gone}, said
        make_runs(here)
    else:
        assert after == before and code == (1 if word == "claims" else 0), f"{command}: {said}"


# Forks

LETTERS = "abcXYZ019"
names = st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=1, max_size=3).map("_".join)
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def is_name(text: str) -> bool:
    """Letters and digits of ASCII, joined by single underscores, that no device and no notebook has."""
    parts = text.split("_")
    plain = all(part and part.isascii() and part.isalnum() for part in parts)
    taken = text.casefold() in DEVICES or text.casefold() in NOTEBOOKS
    return plain and len(text) <= 64 and not taken


@fuzz(150)
@given(
    st.one_of(
        names, names, names, names, WEIRD, OTHERS, st.sampled_from(["con", "COM1", "yes", "1_0", "x" * 65])
    ),
    st.dictionaries(st.sampled_from(sorted(RIGHT)), st.none(), max_size=3).flatmap(
        lambda chosen: st.fixed_dictionaries({key: RIGHT[key] for key in chosen})
    ),
    st.sampled_from([*[None] * 16, *sorted(WRONG)]).flatmap(
        lambda key: st.none() if key is None else st.tuples(st.just(key), st.sampled_from(WRONG[key]))
    ),
    st.booleans(),
)
def test_forks(
    here: Path, new: str, values: dict[str, tuple[str, Any]], wrong: tuple[str, str] | None, book: bool
) -> None:
    """A fork appears whole, and is read again with its values, or nothing changes."""
    before = contents(here)
    settings = [f"{key}={text}" for key, (text, _) in values.items()]
    settings += [] if wrong is None else ["=".join(wrong)]
    words = [word for setting in settings for word in ("-p", setting)]
    code, said, _ = call("forks", "fork", *words, *(["--book"] if book else []), "--", "one", new)
    after = contents(here)
    assert (code == 0) == (wrong is None and is_name(new)), f"{new!r}, {words}: {said}"
    if code:
        assert after == before
        return
    path = here / f"notebooks/{new}.ipynb"
    own = {str(path.relative_to(here)), *(LISTS if book else ())}
    assert {key for key in after if after[key] != before.get(key)} == own and before.keys() <= after.keys()
    expected = DEFAULTS | {key: value for key, (_, value) in values.items()}
    found = {key: p.default for key, p in read_experiment(path, here).parameters.items()}
    assert list(map(repr, found.values())) == list(map(repr, expected.values()))
    made, source = (nbformat.read(p, as_version=4) for p in (path, here / "notebooks/one.ipynb"))
    assert [c.source for c in made.cells if c.id] != [] and len(made.cells) == len(source.cells)
    assert [c.source for c in made.cells[2:]] == [c.source for c in source.cells[2:]]
    for file in LISTS[1:] if book else ():
        listed = yaml.safe_load((here / file).read_text())["notebooks"]
        assert list(listed) == [*yaml.safe_load(before[file])["notebooks"], new]
    path.unlink()
    for file in own & before.keys():
        (here / file).write_bytes(before[file])


def test_the_figures_are_told(record_property: Callable[[str, object], None]) -> None:
    inputs.tell(record_property, least=300)
