"""The notebooks themselves: their form, their quick runs, and what they say to bad parameters."""

import ast
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from chapters import NOTEBOOKS
from pages import code, sections

from vae_lab.records import CLAIM_MIME, PROVENANCE_MIME, recorded
from vae_workflow.experiments import read_experiment
from vae_workflow.settings import grid

ROOT = Path(__file__).resolve().parent.parent
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
    assert re.fullmatch(r"\*\*[^*]+\?\*\*", question), "the question is right under the title"
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
    """But for the listing of a whole VAE in one chapter; tests/test_from_scratch.py looks after it."""
    forbidden = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.While)
    cells = code_cells(path)
    listings = tagged(cells, "from-scratch")
    assert len(listings) == (path.stem == "03_vae")
    for cell in (cell for number, cell in enumerate(cells) if number not in listings):
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


def last_words(path: Path) -> str:
    """The section *Try*, which ends the chapter's text."""
    cells = nbformat.read(path, as_version=4).cells
    assert cells[-1].source.startswith("provenance("), "nothing comes between it and the foot of the page"
    text, found, section = cells[-2].source.rpartition("## Try\n\n")
    assert cells[-2].cell_type == "markdown" and found and (not text or text.endswith("\n\n"))
    return section


@each_notebook
def test_ends_with_something_to_try(path: Path) -> None:
    """Exercises and questions that exist, and a change that the chapter's parameters allow."""
    section = last_words(path)
    for page, word in (("exercises", "exercise"), ("faq", "faq")):
        known = re.findall(rf"^\(({word}-[\w-]+)\)=$", (ROOT / f"book/{page}.md").read_text(), re.MULTILINE)
        named = re.findall(rf"\{{ref\}}`({word}-[\w-]+)`", section)
        assert named and set(named) <= set(known)
    ((name, settings),) = re.findall(r"`vae-lab run (\S+)([^`]*)`", section)
    assert name == path.stem
    experiment = read_experiment(path)
    (change,) = grid(experiment, re.findall(r"-p (\S+)", settings), several=False)
    assert change
    for parameter, value in change.items():
        assert value != experiment.parameters[parameter].default, "a change"


def test_the_learners_path_is_that_of_the_introduction() -> None:
    """Each of its chapters ends with a link to the next, and no other chapter does."""
    intro = (ROOT / "book" / "intro.md").read_text()
    (card,) = re.findall(r"grid-item-card\} You are learning\n(.*?)\n:::", intro, re.DOTALL)
    path = re.findall(r"^\d\. \{doc\}`chapters/(\w+)`$", card, re.MULTILINE)
    leads = {
        notebook.stem: re.findall(
            r"Next on the learner's path: \{doc\}`/chapters/(\w+)`", last_words(notebook)
        )
        for notebook in NOTEBOOKS
    }
    assert len(path) >= 5
    assert {name: to for name, to in leads.items() if to} == {
        here: [there] for here, there in itertools.pairwise(path)
    }
    assert [n.stem for n in NOTEBOOKS if "The learner's path ends here" in last_words(n)] == [path[-1]]


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
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


SMALL = {"dataset": "digits", "epochs": 3, "replicas": 2, "hidden": 16, "importance_samples": 5}
SMALL |= {"larger_epochs": 1, "channels": [2, 3], "plain_epochs": 1}


@pytest.fixture(scope="module")
def two_runs(quick_book: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Notebook 03 with the same small parameters, run by the workflow and by papermill alone."""
    second = tmp_path_factory.mktemp("runs") / "second.ipynb"
    quick = yaml.safe_load((ROOT / "config" / "quick.yaml").read_text())["notebooks"]["03_vae"]
    run = papermill(ROOT / "notebooks" / "03_vae.ipynb", second, "-y", yaml.safe_dump(quick))
    assert run.returncode == 0, run.stderr
    return [ROOT / "build" / "quick" / "notebooks" / "03_vae.ipynb", second]


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
    (record,) = outputs(two_runs[1], PROVENANCE_MIME)
    assert record["parameters"]["epochs"] == 2
    for setting in ("-r dataset mnist-5k", "-p epochs 2", "-p replicas 5", "-y 'channels: [2, 3]'"):
        assert setting in record["command"]


def test_bad_parameters_stop_the_run_before_any_compute(tmp_path: Path) -> None:
    output = tmp_path / "out.ipynb"
    options = ["-p", "epoch", "5", "-p", "hidden", "ten", "-p", "epochs", "-1"]
    run = papermill(ROOT / "notebooks" / "03_vae.ipynb", output, *options)
    assert run.returncode != 0
    for message in (
        "epoch = 5: no such parameter; did you mean epochs?",
        "hidden = 'ten': Input should be a valid integer",
        "epochs = -1: Input should be greater than 0",
        "epochs: integer > 0",
        "dataset: one of 'digits', 'fashion-mnist'",
    ):
        assert message in run.stderr
    last = max(cell.execution_count or 0 for cell in code_cells(output))
    assert last == 4, "imports, parameters, papermill's parameters, and the check that fails"


OWN_DATA = """import numpy as np

from vae_lab.data import Loaded, dataset


@dataset("own")
def own():
    images = np.random.default_rng(0).random((60, *{shape}))
    return Loaded(images, np.arange(60) % 3, {shape}, np.arange(60) >= 40)"""


def test_the_chapter_on_vaes_takes_colour_images_that_are_not_square(tmp_path: Path) -> None:
    fork("03_vae", tmp_path, OWN_DATA.format(shape=(3, 8, 10)), **(SMALL | {"dataset": "own"}))


# Forks: the examples of the page on forking, as they are there.

FORKS = sections("fork", level=3)


def fork(name: str, folder: Path, *cells: str, **parameters: Any) -> Path:
    """The notebook, with cells right below its imports and with these parameters over those of quick runs."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    imports = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells[imports + 1 : imports + 1] = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(notebook, folder / "forked.ipynb")
    quick = yaml.safe_load((ROOT / "config" / "quick.yaml").read_text())["notebooks"][name] or {}
    run = papermill(folder / "forked.ipynb", folder / "out.ipynb", "-y", json.dumps(quick | parameters))
    assert run.returncode == 0, run.stderr
    return folder / "out.ipynb"


def tables(path: Path) -> list[str]:
    return [page for page in outputs(path, "text/html") if "<table" in page]


def figures(path: Path) -> list[str]:
    return outputs(path, "image/svg+xml")


def test_an_estimator_and_a_cost_from_cells_join_every_table(tmp_path: Path) -> None:
    cost, outside, random = code(FORKS["A cost"])
    (estimator,) = code(FORKS["An estimator"])
    out = fork("04_estimators", tmp_path, cost, estimator, cost="logistic", k=2.0)
    assert sum("pathwise twice" in table for table in tables(out)) >= 3, "normal, gamma, and the price list"
    assert any("pathwise twice" in figure for figure in figures(out))
    (record,) = outputs(out, PROVENANCE_MIME)
    assert record["parameters"]["cost"] == "logistic"
    for program, estimator in {outside: "implicit_reparameterization", random: "score_function"}.items():
        run = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
        assert run.returncode == 0 and estimator in run.stdout, run.stderr


def test_a_noise_from_a_cell_joins_every_table_and_figure(tmp_path: Path) -> None:
    out = fork("09_epsilon_ablation", tmp_path, *code(FORKS["A noise"]))
    assert len(tables(out)) == 3 and len(figures(out)) == 11
    assert [output for output in (*tables(out), *figures(out)) if "triangular" not in output] == [
        figure for figure in figures(out) if "+ ε" in figure or "pixels drawn" in figure
    ], "those that compare two models only"


def test_a_data_set_from_a_cell_is_learnt(tmp_path: Path) -> None:
    """And the chapter bears no convolutions."""
    out = fork("03_vae", tmp_path, *code(FORKS["A data set"]), dataset="stripes", channels=[])
    (about,) = [table for table in tables(out) if "data set" in table]
    assert "stripes" in about and "8 × 8" in about


def test_a_model_is_trained_on_a_device_for_a_block(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = code(sections("fork")["On a GPU"])
    exec(program, {})
    assert "log_likelihood" in capsys.readouterr().out


def test_a_page_of_ones_own_joins_the_book(tmp_path: Path) -> None:
    section = sections("fork")["Join the book"]
    (settings,), (command,) = code(section, "yaml"), code(section, "bash")
    (tmp_path / "mine.yaml").write_text(settings)
    program, *options = shlex.split(command)
    assert options[-1] == "config/mine.yaml"
    options[-1] = str(tmp_path / "mine.yaml")
    plan = [sys.executable, "-m", program, *options, "--dry-run", "--quiet", "host"]
    shutil.copytree(ROOT, tmp_path / "work", ignore=shutil.ignore_patterns(".*", "build", "_build"))
    run = subprocess.run(plan, cwd=tmp_path / "work", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (page,) = yaml.safe_load(settings)["notebooks"]
    assert f"notebooks/{page}.ipynb" in run.stdout


class Leaks(ast.NodeVisitor):
    """Names of one cell that a loop of a later one binds again, and a still later one reads: what is there is
    what the loop happened to leave. Cells are visited in their order, with the number of each in `cell`."""

    def __init__(self) -> None:
        self.cell, self.last, self.found = 0, dict[str, tuple[str, int]](), list[str]()

    def visit_Name(self, node: ast.Name) -> None:
        kind, cell = self.last.get(node.id, ("", self.cell))
        if isinstance(node.ctx, ast.Store):
            self.last[node.id] = ("name", self.cell)
        elif kind == "loop" and cell != self.cell:
            self.found.append(f"{node.id} in cell {self.cell}, from the loop of cell {cell}")

    def visit_Assign(self, node: ast.Assign) -> None:
        for part in (node.value, *node.targets):
            self.visit(part)

    def visit_For(self, node: ast.For) -> None:
        before = dict(self.last)
        self.generic_visit(node)
        for name in ast.walk(node):
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                _, first = before.get(name.id, ("", self.cell))
                self.last[name.id] = ("loop" if first != self.cell else "name", self.cell)

    def apart(self, node: ast.AST) -> None:
        """What binds names of its own leaves those outside as they were."""
        before = self.last
        own = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        own |= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
        self.last = {name: how for name, how in before.items() if name not in own}
        self.generic_visit(node)
        self.last = before

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = apart
    visit_FunctionDef = visit_Lambda = apart


def leaks(cells: Iterable[str]) -> list[str]:
    visitor = Leaks()
    for visitor.cell, source in enumerate(cells):
        visitor.visit(ast.parse(source))
    return visitor.found


def test_a_name_that_a_loop_of_an_earlier_cell_leaves_is_found() -> None:
    assert leaks(["n = 8", "for n in (1, 3):\n    print(n)", "n"]) == ["n in cell 2, from the loop of cell 1"]
    assert not leaks(["n = 8", "[n for n in (1, 3)]\nf = lambda n: n", "n"])
    assert leaks(["n = 8", "for k in (1, 3):\n    n = k", "n"]) == ["n in cell 2, from the loop of cell 1"]
    assert not leaks(["total = 0\nfor k in (1, 3):\n    total += k", "total"])
    assert not leaks(["n = 8", "for n in (1, 3):\n    print(n)\nn = 8", "n"])


@each_notebook
def test_no_cell_reads_what_a_loop_of_an_earlier_cell_has_left(path: Path) -> None:
    """The evidence of a claim once said n = 3, which another loop had left, where n was 8."""
    assert leaks(cell.source for cell in code_cells(path)) == []
