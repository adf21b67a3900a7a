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
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))

# Each module of the package imports only from those above it.
ORDER = [
    "registry",
    "statistics",
    "distributions",
    "noise",
    "costs",
    "oracle",
    "estimators",
    "coupled",
    "discrete",
    "benchmark",
    "device",
    "networks",
    "objectives",
    "gradients",
    "posterior",
    "linear",
    "data",
    "training",
    "diversity",
    "plots",
    "play",
    "notebook",
    "experiments",
    "sweeps",
    "cli",
]


def files() -> list[Path]:
    """The text files of the project: those that git tracks or would track."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"needs a git checkout: {listed.stderr.strip()}")
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [p for p in paths if p.is_file() and p.suffix not in {".png", ".jpg", ".webp", ".ico", ".woff2"}]


def imported(module: Path) -> set[str]:
    """The modules of the package that a module imports, wherever in its code."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                found |= {node.module.split(".")[0]} if node.module else {a.name for a in node.names}
            elif node.module == "vae_lab":
                found |= {a.name for a in node.names}
            elif (node.module or "").startswith("vae_lab."):
                found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("vae_lab.")}
    return found


@pytest.mark.parametrize("module", sorted((ROOT / "vae_lab").glob("*.py")), ids=lambda path: path.stem)
def test_modules_import_only_from_those_above(module: Path) -> None:
    if module.stem == "__init__":
        return
    assert module.stem in ORDER, "give the new module its place in ORDER"
    extensions = {"coupled", "discrete"} if module.stem == "estimators" else set()  # loaded at its end
    assert imported(module) - extensions <= set(ORDER[: ORDER.index(module.stem)])


def test_all_notebooks_are_in_both_configurations_and_in_the_book() -> None:
    names = list(yaml.safe_load((ROOT / "config/book.yaml").read_text())["notebooks"])
    assert set(names) <= {path.stem for path in NOTEBOOKS}, "others need not be in the book"
    assert [path.name for path in CONFIGS] == ["book.yaml", "full.yaml", "quick.yaml"]
    for path in CONFIGS[::2]:
        config = yaml.safe_load(path.read_text())
        assert config["name"] == path.stem
        assert list(config["notebooks"]) == names, path.name

    contents = yaml.safe_load((ROOT / "book/_toc.yml").read_text())
    listed = [page["file"] for part in contents["parts"] for page in part["chapters"]]
    chapters = [page for page in listed if page.startswith("chapters/")]
    assert chapters == [f"chapters/{name}" for name in names]


def test_further_pages_take_the_parameters_of_their_notebook() -> None:
    pages = yaml.safe_load((ROOT / "config/full.yaml").read_text())["notebooks"]
    assert [page[:2] for page in pages] == ["03", "09", "11", "12"]
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
    assert len(workflows) == 2
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
