"""A notebook depends on what it imports, directly or not, and on nothing else of the package."""

import re
from pathlib import Path

import nbformat
import pytest
from chapters import NOTEBOOKS as CHAPTERS
from nbformat.v4 import new_code_cell, new_notebook

from vae_workflow.sources import files_of, fingerprint, imports

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def write(path: Path, *cells: str) -> Path:
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells]), path)
    return path


def needs(path: Path) -> set[str]:
    return {file.as_posix() for file in files_of(path)}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapters_depend_on_what_they_use(path: Path) -> None:
    """On the trick, all of them; on a measure of diversity, those that call one; on the workflow, none."""
    found, code = needs(path), path.read_text("utf-8")
    assert "vae_lab/reparameterization.py" in found and "vae_lab/__init__.py" in found
    measures = re.search(r"import diversity|measure\.diversity|measure\.classifier", code) is not None
    assert ("vae_lab/measure/diversity.py" in found) == measures
    assert not [name for name in found if name.startswith("vae_workflow")]
    assert all((ROOT / name).is_file() for name in found)


def test_names_that_the_package_hands_on_stand_for_their_module(tmp_path: Path) -> None:
    path = write(tmp_path / "one.ipynb", "from vae_lab import reparameterize")
    assert needs(path) == {"vae_lab/__init__.py", "vae_lab/reparameterization.py"}
    path = write(tmp_path / "one.ipynb", "from vae_lab import exact_gradient as g, NOISES")
    assert {
        "vae_lab/exact/oracle.py",
        "vae_lab/vae/noise_registry.py",
        "vae_lab/estimators/families.py",
    } < needs(path)
    assert "vae_lab/vae/training.py" not in needs(path)


@pytest.mark.parametrize(
    "code",
    [
        "from vae_lab.vae.objectives import Draws",
        "import vae_lab.vae.objectives as o",
        "from vae_lab.vae import objectives",
        "def later():\n    from vae_lab.vae.objectives import Draws",
        "%matplotlib inline\nif True:\n    from vae_lab.vae.objectives import (Draws, Terms)",
        "%%time\nfrom vae_lab.vae.objectives import Draws",
        "a = !ls\nfrom vae_lab.vae.objectives import Draws",
    ],
)
def test_imports_are_found_however_they_are_written(code: str, tmp_path: Path) -> None:
    found = needs(write(tmp_path / "one.ipynb", "1 +", code))
    around = {"vae_lab/__init__.py", "vae_lab/vae/__init__.py", "vae_lab/vae/objectives.py"}
    below = {"vae_lab/vae/model.py", "vae_lab/vae/streams.py", "vae_lab/estimators/path.py"}
    assert around | below <= found
    assert not {"vae_lab/vae/training.py", "vae_lab/measure/diversity.py"} & found


@pytest.mark.parametrize(
    "code",
    [
        "import vae_lab",
        "from vae_lab import *",
        "import vae_lab as v, os",
        "import vae_lab.records\nvae_lab.fit",
        "from importlib import import_module\nimport_module('vae_lab.' + 'vae')",
        "exec('from vae_lab import fit')",
        "%run other.py",
    ],
)
def test_whoever_imports_everything_depends_on_everything(code: str, tmp_path: Path) -> None:
    everything = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vae_lab").rglob("*.py")}
    assert needs(write(tmp_path / "one.ipynb", code)) == everything


def test_a_notebook_without_the_package_depends_on_itself_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "one.ipynb", "import math, vae_labyrinth", "from vae_workflow import cli")
    assert imports(path) == set() and needs(path) == set()
    path = write(tmp_path / "old.ipynb", "from vae_lab import reparameterize")
    old = nbformat.convert(nbformat.read(path, as_version=4), 3)
    path.write_text(nbformat.v3.writes_json(old))
    assert needs(path) == {"vae_lab/__init__.py", "vae_lab/reparameterization.py"}
    (tmp_path / "broken.ipynb").write_text("{")
    assert needs(tmp_path / "broken.ipynb") == set()


def test_the_fingerprint_changes_with_what_is_used(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("a==1")
    one, other = (write(tmp_path / f"{n}.ipynb", f"from vae_lab import {n}") for n in ("fit", "VAE"))
    before = fingerprint(one, lock, {"seed": 1})
    assert fingerprint(one, lock, {"seed": 1}) == before
    assert before["package"] != fingerprint(other, lock, {"seed": 1})["package"]
    assert before["notebook"] != fingerprint(other, lock, {"seed": 1})["notebook"]
    lock.write_text("a==2")
    assert before["lock"] != fingerprint(one, lock, {"seed": 1})["lock"]
