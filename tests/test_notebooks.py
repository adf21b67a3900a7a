"""The notebooks themselves: their form, their quick runs, and what they say to bad parameters."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from vae_lab.notebook import CLAIM_MIME, PROVENANCE_MIME, recorded

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tagged(cells: list[Any], tag: str) -> list[int]:
    return [i for i, cell in enumerate(cells) if tag in cell.metadata.get("tags", [])]


@each_notebook
def test_form(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    title, question = cells[0].source.split("\n\n")[:2]
    assert title.startswith("# ") and "\n" not in title
    assert re.fullmatch(r"\*\*[^*]+\?\*\*", question), "the question stands right under the title"
    code = code_cells(path)
    (parameters,) = tagged(code, "parameters")
    assert parameters == 1, "imports, then parameters"
    assert code[2].source == "check_parameters(globals())"
    assert code[-1].source == f'provenance("{path.stem}")'
    for node in ast.parse(code[1].source).body:
        assert isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Name)
    for line in code[1].source.splitlines():
        assert re.search(r"  # \w", line), f"say what the parameter means: {line}"


@each_notebook
def test_notebooks_define_nothing_and_loop_over_no_training(path: Path) -> None:
    forbidden = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.While)
    for cell in code_cells(path):
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            assert not isinstance(node, forbidden), f"{type(node).__name__} in: {cell.source}"
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"backward", "step"}, "training belongs to the package"
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.match(r"(/|~|[A-Za-z]:\\)\S", node.value), f"absolute path: {node.value}"


@each_notebook
def test_every_figure_has_a_name_a_caption_and_alt_text(path: Path) -> None:
    names = []
    for cell in code_cells(path):
        draws = re.search(r"plt\.|plots\.(?!use_style|PALETTE|LINES|INK|FAINT)", cell.source)
        if draws and not re.search(r"^(from|import) ", cell.source, re.MULTILINE):
            meta = cell.metadata["mystnb"]
            names.append(meta["figure"]["name"])
            assert meta["figure"]["name"].startswith("fig-")
            assert len(meta["figure"]["caption"]) > 60, "the caption states the finding"
            assert len(meta["image"]["alt"]) > 60, "the alternative text says what is seen"
    assert len(names) == len(set(names)) >= 3
    prose = "".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    assert all(f"`{name}`" in prose for name in names), "every figure is referred to"


def outputs(path: Path, mime: str) -> list[Any]:
    return recorded(nbformat.read(path, as_version=4), mime)


@each_notebook
def test_quick_run(path: Path, quick_book: Path, root: Path) -> None:
    executed = root / "build" / "quick" / "notebooks" / path.name
    assert len(outputs(executed, CLAIM_MIME)) >= 3
    (record,) = outputs(executed, PROVENANCE_MIME)
    assert record["notebook"] == path.stem
    for cell in code_cells(executed):
        streams = [output for output in cell.outputs if output.output_type == "stream"]
        assert not streams or "remove-stderr" in cell.metadata.tags, "no stray output in a page"
        assert all(stream.name == "stderr" for stream in streams)


@pytest.mark.parametrize("path", NOTEBOOKS[:2], ids=lambda path: path.stem)
def test_claims_hold_as_published(path: Path, quick_book: Path, root: Path) -> None:
    """These notebooks run with their published parameters in the quick configuration, too."""
    claims = outputs(root / "build" / "quick" / "notebooks" / path.name, CLAIM_MIME)
    assert [claim["sentence"] for claim in claims if not claim["holds"]] == []


def papermill(notebook: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(notebook), str(output), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


SMALL = {"dataset": "digits", "epochs": 3, "replicas": 2, "hidden": 16, "importance_samples": 5}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Notebook 03, run twice with the same small parameters by papermill alone."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("first.ipynb", "second.ipynb"):
        options = [word for key, value in SMALL.items() for word in ("-p", key, str(value))]
        run = papermill(ROOT / "notebooks" / "03_vae.ipynb", folder / name, *options)
        assert run.returncode == 0, run.stderr
    return [folder / "first.ipynb", folder / "second.ipynb"]


def test_two_runs_give_identical_numbers_and_figures(two_runs: list[Path]) -> None:
    def content(path: Path) -> list[Any]:
        results = []
        for cell in code_cells(path)[:-1]:  # the last one says how long it took
            for output in [] if "timing" in cell.metadata.get("tags", []) else cell.outputs:
                if output.output_type == "stream":
                    continue  # progress, with times
                text = json.dumps(output.data)
                # pandas' styles have random ids, and their plain text is an address
                results.append(re.sub(r"T_[0-9a-f]{5}|0x[0-9a-f]+", "", text))
        return results

    first, second = map(content, two_runs)
    assert len(first) > 10
    assert first == second


def test_the_injected_parameters_are_the_ones_used(two_runs: list[Path]) -> None:
    (record,) = outputs(two_runs[0], PROVENANCE_MIME)
    assert record["parameters"]["epochs"] == 3
    assert "-r dataset digits -p epochs 3 -p replicas 2" in record["command"]


def test_an_estimator_from_a_cell_joins_every_table(tmp_path: Path) -> None:
    """The cell that chapter 4 shows, put into the chapter."""
    notebook = nbformat.read(ROOT / "notebooks" / "04_estimators.ipynb", as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    (code,) = re.findall(r"```python\n(.*?)```", prose, re.DOTALL)
    place = 1 + next(i for i, cell in enumerate(notebook.cells) if "check_parameters(" in cell.source)
    notebook.cells.insert(place, nbformat.v4.new_code_cell(code))
    nbformat.write(notebook, tmp_path / "forked.ipynb")
    run = papermill(tmp_path / "forked.ipynb", tmp_path / "out.ipynb", "-p", "replicates", "2000")
    assert run.returncode == 0, run.stderr
    tables = [page for page in outputs(tmp_path / "out.ipynb", "text/html") if "<table" in page]
    assert sum("pathwise_twice" in page for page in tables) >= 3, "normal, gamma, and the price list"
    figures = outputs(tmp_path / "out.ipynb", "image/svg+xml")
    assert any("pathwise twice" in figure for figure in figures)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("epoch", "5"), "epoch = 5: no such parameter; did you mean epochs?"),
        (("epochs", "ten"), "epochs = 'ten': Input should be a valid integer"),
        (("epochs", "-1"), "epochs = -1: Input should be greater than 0"),
    ],
)
def test_bad_parameters_stop_the_run_before_any_compute(
    option: tuple[str, str], message: str, tmp_path: Path
) -> None:
    output = tmp_path / "out.ipynb"
    run = papermill(ROOT / "notebooks" / "03_vae.ipynb", output, "-p", *option)
    assert run.returncode != 0
    assert message in run.stderr
    assert "epochs: integer > 0" in run.stderr and "dataset: one of 'digits', 'fashion-mnist'" in run.stderr
    last = max(cell.execution_count or 0 for cell in code_cells(output))
    assert last == 4, "imports, parameters, papermill's parameters, and the check that fails"


def test_a_noise_law_from_a_cell_joins_every_table_and_figure(tmp_path: Path) -> None:
    """The cell that the page on forking shows, put into chapter 9."""
    page = (ROOT / "book" / "fork.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    notebook = nbformat.read(ROOT / "notebooks" / "09_epsilon_ablation.ipynb", as_version=4)
    place = 1 + next(i for i, cell in enumerate(notebook.cells) if "check_parameters(" in cell.source)
    notebook.cells.insert(place, nbformat.v4.new_code_cell(code))
    nbformat.write(notebook, tmp_path / "forked.ipynb")
    quick = yaml.safe_load((ROOT / "config" / "quick.yaml").read_text())["notebooks"]["09_epsilon_ablation"]
    options = [word for key, value in quick.items() for word in ("-p", key, str(value))]
    run = papermill(tmp_path / "forked.ipynb", tmp_path / "out.ipynb", *options)
    assert run.returncode == 0, run.stderr
    tables = [page for page in outputs(tmp_path / "out.ipynb", "text/html") if "<table" in page]
    figures = outputs(tmp_path / "out.ipynb", "image/svg+xml")
    assert len(tables) == 2 and len(figures) == 8
    assert all("triangular" in output for output in (*tables, *figures))
