"""Rules that the checkout keeps as a whole."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from chapters import NOTEBOOKS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def files() -> list[Path]:
    """The text files of the project: those that git tracks, and not what somebody has beside them."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    command = ["git", "ls-files"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"needs a git checkout: {listed.stderr.strip()}")
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [p for p in paths if p.is_file() and p.suffix not in {".png", ".jpg", ".webp", ".ico", ".woff2"}]


def test_the_map_of_the_packages_is_the_same_everywhere() -> None:
    """README and CONTRIBUTING show what the modules say of themselves; so does the book (test_book.py)."""
    for page in ("README.md", "CONTRIBUTING.md"):
        rows = re.findall(r"^\| `(vae_[\w/.]+)` \| (.*) \|$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
        said = {path: summary(ROOT / path) for path, _ in rows}
        assert dict(rows) == said, page
        top = {p for p in (ROOT / "vae_lab").iterdir() if p.suffix == ".py" or p.is_dir()}
        top -= {ROOT / "vae_lab/__init__.py", ROOT / "vae_lab/__pycache__"}
        assert {ROOT / path for path in said} == {*top, ROOT / "vae_workflow"}, page


def summary(path: Path) -> str:
    """The first line that a module or a folder says about itself."""
    file = path / "__init__.py" if path.is_dir() else path
    return str(ast.get_docstring(ast.parse(file.read_text("utf-8")))).partition("\n")[0]


def layers(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("vae_lab/reparameterization.py", "from vae_lab.vae import layers"),
        ("vae_lab/estimators/costs.py", "from vae_lab.exact.oracle import exact_gradient"),
        ("vae_lab/estimators/path.py", "from vae_lab.estimators.score import rloo"),
        ("vae_lab/vae/layers.py", "def later():\n    from vae_lab.vae.training import fit"),
        ("vae_lab/data/idx.py", "import vae_workflow.jobs"),
        ("vae_lab/another.py", "# without a place in the order"),
        ("vae_workflow/workplace.py", "from vae_workflow.cli import app"),
    ],
)
def test_an_import_upwards_is_found(file: str, line: str, tmp_path: Path) -> None:
    """By import-linter, in a copy of the packages. `make lint` checks the packages themselves."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("vae_lab", "vae_workflow"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / file).open("a") as source:
        source.write(f"\n{line}\n")
    run = layers(tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "BROKEN" in run.stdout or "not listed" in run.stdout.lower(), run.stdout


def test_all_notebooks_are_in_both_configurations_and_in_the_book() -> None:
    names = list(yaml.safe_load((ROOT / "config/book.yaml").read_text())["notebooks"])
    assert all(path.is_file() for path in NOTEBOOKS)
    for name in ("book", "quick"):
        config = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())
        assert config["name"] == name
        assert list(config["notebooks"]) == names, name

    contents = yaml.safe_load((ROOT / "book/_toc.yml").read_text())
    listed = [page["file"] for part in contents["parts"] for page in part["chapters"]]
    chapters = [page for page in listed if page.startswith("chapters/")]
    assert chapters == [f"chapters/{name}" for name in names]


def test_further_pages_take_the_parameters_of_their_notebook() -> None:
    pages = yaml.safe_load((ROOT / "config/full.yaml").read_text())["notebooks"]
    assert [page[:2] for page in pages] == ["03", "09", "11", "12", "13"]
    for page, parameters in pages.items():
        name, _, variant = page.partition("--")
        cells = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells
        (cell,) = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
        known = {
            node.target.id for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.AnnAssign)
        }  # type: ignore[union-attr]
        assert set(parameters) <= known, page
        assert parameters["dataset"] == variant == "fashion-mnist"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(notebook: Path) -> None:
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    for cell in content.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is None
            assert not cell.outputs
    assert content.metadata.kernelspec.name == "python3"
    assert content.metadata.kernelspec.language == "python", "papermill needs it to write parameters"


def test_github_workflows_follow_their_schema() -> None:
    workflows = sorted(map(str, (ROOT / ".github/workflows").glob("*.yml")))
    assert len(workflows) == 3
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    run = subprocess.run([*command, *workflows], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_no_file_names_a_place_on_one_machine() -> None:
    place = re.compile(r"(?<![\w.}/])/(work|root|home|Users|tmp|opt|mnt)/\w")
    for path in files():
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            assert not place.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()[:150]}"


def test_the_lock_has_one_exact_version_of_all_that_the_project_asks_for() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {canonicalize_name((r := Requirement(line)).name): str(r.specifier) for line in lines}
    assert len(locked) == len(lines)
    assert all(re.fullmatch(r"==[\w.!]+", version) for version in locked.values())
    assert locked["torch"] == "==2.13.0"
    assert not {"torchvision", "torchaudio"} & set(locked)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    for text in [*project["dependencies"], *extras]:
        if text.startswith(project["name"]):  # another extra of its own
            continue
        requirement = Requirement(text)
        assert canonicalize_name(requirement.name) in locked, f"{text} is not in requirements.lock"
        version = locked[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), f"{text} against {version}"


def test_the_readmes_commands_and_code_are_true(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for target in re.findall(r"^    make (\w+)", readme, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    for path in re.findall(r"\]\((?!http)([^)]+)\)", readme):
        assert (ROOT / path).is_file(), path
    training, measuring = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(training.replace("epochs=150", "epochs=1"), {})
    assert "log_likelihood" in capsys.readouterr().out
    exec(measuring, {})
    assert "efficiency" in capsys.readouterr().out
