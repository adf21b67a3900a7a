"""Notebooks read as experiments, grids of settings, and tables of what came out."""

import ast
import json
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
import pytest
from chapters import NOTEBOOKS
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from vae_lab.parameters import ParameterError
from vae_lab.records import CLAIM_MIME, PROVENANCE_MIME
from vae_workflow.experiments import Experiment, NotAnExperiment, read_experiment, run_name
from vae_workflow.forks import fork
from vae_workflow.settings import MOST_RUNS, grid, split
from vae_workflow.tables import results

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = """\
epochs: PositiveInt = 20  # passes over the data
rate: PositiveFloat = 1e-3
name: str = "a"
widths: list[PositiveInt] = [8, 16]  # of layers
f: CostName = "cosine"
flag: bool = False
kind: Literal["x", "y"] = "x"  # µ and σ"""
IMPORTS = """\
from typing import Literal
from pydantic import PositiveFloat, PositiveInt
from vae_lab.estimators.costs import cost
from vae_lab.parameters import CostName"""


def write(path: Path, *code: str, tags: tuple[str, ...] = ("parameters",)) -> Path:
    """A notebook whose second cell of code is that of the parameters."""
    cells = [new_markdown_cell("# A title\n\n**What is\nasked?**\n\nMore.")]
    cells += [new_code_cell(source) for source in code]
    cells[2].metadata["tags"] = list(tags)
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    own = "@cost\ndef mine(k):\n    return None\ndef yours(k): ...\ncost(yours)"
    path = tmp_path_factory.mktemp("notebooks") / "one.ipynb"
    return read_experiment(write(path, IMPORTS, PARAMETERS, own, 'provenance("one")'))


def test_a_notebook_is_read_without_being_run(one: Experiment) -> None:
    assert (one.name, one.title, one.question) == ("one", "A title", "What is asked?")
    found = [(p.name, p.default, p.allowed, p.meaning) for p in one.parameters.values()]
    assert found[:2] == [
        ("epochs", 20, "integer > 0", "passes over the data"),
        ("rate", 0.001, "number > 0", ""),
    ]
    assert found[3] == ("widths", [8, 16], "list of (integer > 0)", "of layers")
    assert found[6] == ("kind", "x", "one of 'x', 'y'", "µ and σ")
    assert one.parameters["epochs"].schema == {"type": "integer", "exclusiveMinimum": 0}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_books_notebooks_are_experiments_as_papermill_sees_them(path: Path) -> None:
    found = read_experiment(path)
    assert found.question.endswith("?")
    theirs = papermill.inspect_notebook(str(path))
    assert list(found.parameters) == list(theirs)
    for name, parameter in found.parameters.items():
        assert parameter.default == ast.literal_eval(theirs[name]["default"])
        assert parameter.meaning == theirs[name]["help"]
        assert parameter.meaning, "say what the parameter is"
    default = {name: parameter.default for name, parameter in found.parameters.items()}
    written = [f"{name}={v if isinstance(v, str) else json.dumps(v)}" for name, v in default.items()]
    assert grid(found, written, several=False) == [{}], "a default is allowed, and no change"


@pytest.mark.parametrize(
    ("code", "tags", "message"),
    [
        ((IMPORTS, PARAMETERS), (), "has 0 cells tagged 'parameters'"),
        ((IMPORTS, "epochs = 20"), ("parameters",), "no annotated parameters"),
        ((IMPORTS, "epochs: Nonsense = 20"), ("parameters",), "'epochs: Nonsense = 20' cannot be read"),
        ((IMPORTS, "epochs: int ="), ("parameters",), "one.ipynb cannot be read: invalid syntax"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, code: tuple[str, ...], tags: tuple[str, ...], message: str
) -> None:
    with pytest.raises(NotAnExperiment, match=message):
        read_experiment(write(tmp_path / "one.ipynb", *code, tags=tags))


def test_files_that_are_no_notebooks_are_named(tmp_path: Path) -> None:
    for content in ("", "{}", "[1]", '{"nbformat": 4}', "\x00"):
        (tmp_path / "one.ipynb").write_text(content)
        with pytest.raises(NotAnExperiment, match=r"one.ipynb"):
            read_experiment(tmp_path / "one.ipynb")


def test_a_grid_has_all_combinations_without_defaults(one: Experiment) -> None:
    assert grid(one, []) == [{}]
    assert grid(one, ["epochs=5,20", "rate=1e-2"]) == [{"epochs": 5, "rate": 0.01}, {"rate": 0.01}]
    assert grid(one, ["epochs=1:4"]) == [{"epochs": 1}, {"epochs": 2}, {"epochs": 3}]
    assert grid(one, ["widths=[1, 2],[3]"]) == [{"widths": [1, 2]}, {"widths": [3]}]
    assert grid(one, ["epochs=5,5.0,5"]) == [{"epochs": 5}]
    assert grid(one, ["flag=true,false"]) == [{"flag": True}, {}]
    assert grid(one, ["name=a,b", "kind=y"]) == [{"kind": "y"}, {"name": "b", "kind": "y"}]
    assert grid(one, ["name=a,b"], several=False) == [{"name": "a,b"}]
    assert grid(one, ["name=x=y; 1:3"], several=False) == [{"name": "x=y; 1:3"}]
    assert grid(one, ["name=  "], several=False) == grid(one, ["name=  "]) == [{"name": "  "}]
    assert grid(one, ["name=b, c"]) == [{"name": "b"}, {"name": "c"}], "spaces beside commas do not count"


@given(st.integers(-99, 99), st.integers(-99, 99), st.integers(1, 9))
def test_ranges_are_those_of_python(start: int, stop: int, step: int) -> None:
    assert list(split(f"{start}:{stop}:{step}")) == [str(i) for i in range(start, stop, step)]
    assert list(split(f"7,{start}:{stop}")) == ["7", *(str(i) for i in range(start, stop))]


def test_a_name_that_the_notebook_registers_is_known(one: Experiment) -> None:
    assert grid(one, ["f=mine,yours"]) == [{"f": "mine"}, {"f": "yours"}]


def test_all_problems_of_a_grid_come_at_once(one: Experiment) -> None:
    settings = ["epoch=3", "epochs=0,2,x", "rate", "f=cosin", "flag=[", "name=a", "name=b", "epochs=1"]
    with pytest.raises(ParameterError) as caught:
        grid(one, settings)
    assert len(caught.value.problems) == 8
    for part in (
        "8 problems with the parameters",
        "epoch=3: no such parameter; did you mean epochs?",
        "epochs = 0: Input should be greater than 0",
        "epochs = 'x': Input should be a valid integer",
        "rate: write name=value",
        "did you mean 'cosine'?",
        "flag = '[': Input should be a valid boolean",
        "name=b: name was already given; write all its values at once",
        "  kind: one of 'x', 'y'",
    ):
        assert part in str(caught.value), part
    with pytest.raises(ParameterError, match="epochs=3:3: no value"):
        grid(one, ["epochs=3:3"])


def test_a_slip_of_the_keyboard_starts_no_million_runs(one: Experiment) -> None:
    with pytest.raises(ValueError, match=r"200 of epochs × 100 of rate are more than 10,000 runs"):
        grid(one, ["epochs=1:201", "rate=" + ",".join(str(i) for i in range(1, 101))])
    with pytest.raises(ValueError, match=f"more than {MOST_RUNS:,} runs"):
        grid(one, ["epochs=1:1000000000000"])


@given(st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False) | st.text() | st.booleans()))
def test_a_run_is_named_by_its_values_in_any_order(parameters: dict[str, Any]) -> None:
    backwards = dict(reversed(parameters.items()))
    name = run_name("one", parameters)
    assert name == run_name("one", backwards)
    assert name != run_name("one", {**parameters, "another": 1}) or "another" in parameters
    assert name.startswith("one--")
    assert len(name) == len("one--") + 10


def test_a_fork_has_other_defaults_and_is_still_read(one: Experiment, tmp_path: Path) -> None:
    """Annotations, comments and all that is not asked for stay; the name at its end is its own."""
    other = {"epochs": 3, "widths": [4], "kind": "y", "name": "it's # 1"}
    notebook = fork(one, "two", other)
    source = notebook.cells[2].source
    assert source.splitlines()[0] == "epochs: PositiveInt = 3  # passes over the data"
    assert source.splitlines()[3] == "widths: list[PositiveInt] = [4]  # of layers"
    assert source.splitlines()[6] == "kind: Literal['x', 'y'] = 'y'  # µ and σ".replace(
        "'x', 'y'", '"x", "y"'
    )
    assert notebook.cells[-1].source == 'provenance("two")'
    nbformat.validate(notebook)
    nbformat.write(notebook, tmp_path / "two.ipynb")
    again = read_experiment(tmp_path / "two.ipynb")
    default = {name: p.default for name, p in again.parameters.items()}
    assert default == {name: p.default for name, p in one.parameters.items()} | other
    ids = [{cell["id"] for cell in nb.cells} for nb in (notebook, nbformat.read(one.path, as_version=4))]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize(
    "cell",
    [
        "%matplotlib inline\nepochs: PositiveInt = 3  # passes\n!echo it's fine\nrate: PositiveFloat = 0.1",
        "epochs: PositiveInt = 3  # passes\n?print\nrate: PositiveFloat = 0.1",
        "a: str = '\u2028\f'\nepochs: PositiveInt = 3  # passes\nrate: PositiveFloat = 0.1",
    ],
)
def test_cells_with_magics_and_odd_line_ends_are_read_and_forked(cell: str, tmp_path: Path) -> None:
    one = read_experiment(write(tmp_path / "one.ipynb", IMPORTS, cell))
    assert one.parameters["epochs"].meaning == "passes"
    source = fork(one, "two", {"epochs": 7, "rate": 0.5}).cells[2].source
    assert source == cell.replace("= 3", "= 7").replace("= 0.1", "= 0.5")


def test_types_may_be_reached_through_a_module(tmp_path: Path) -> None:
    imports = "import pydantic\nimport typing as t"
    cell = 'epochs: pydantic.PositiveInt = 3\nkind: t.Literal["a", "b"] = "a"'
    one = read_experiment(write(tmp_path / "one.ipynb", imports, cell))
    assert [p.allowed for p in one.parameters.values()] == ["integer > 0", "one of 'a', 'b'"]


def executed(seed: int, holds: bool, failure: dict[str, Any] | None = None) -> nbformat.NotebookNode:
    claim = {"sentence": "Small.", "value": f"{seed}", "holds": holds, "evidence": "one"}
    origin = {
        "parameters": {"epochs": seed},
        "commit": "abc",
        "machine": "this",
        "seconds": 2.5,
        "versions": {"torch": "2"},
    }
    glue = {"application/papermill.record/text/plain": f"'{seed}.50'"}
    outputs = [
        new_output("display_data", {"text/plain": "", CLAIM_MIME: claim}),
        new_output("display_data", glue, metadata={"scrapbook": {"name": "half"}}),
        new_output("stream", text="words"),
        new_output("display_data", {"text/plain": "", PROVENANCE_MIME: origin}),
    ]
    notebook = new_notebook(cells=[new_markdown_cell("text"), new_code_cell("1", outputs=outputs)])
    notebook.metadata["papermill"] = {"parameters": {"epochs": seed}}
    notebook.metadata["sources"] = {"notebook": "n", "package": "p", "lock": "l", "parameters": {}}
    if failure:
        notebook.metadata["failure"] = failure
        notebook.cells[1].outputs = []
    return notebook


def test_a_table_has_a_row_for_each_claim_result_and_error(one: Experiment, tmp_path: Path) -> None:
    failure = {"cell": 2, "error": "ValueError", "message": "no"}
    runs = [("a", executed(3, True)), ("b", executed(4, False)), ("c", executed(5, True, failure))]
    table = results(runs, one)
    assert table["kind"].tolist() == ["claim", "result", "claim", "result", "error"]
    assert table["epochs"].tolist() == [3, 3, 4, 4, 5]
    assert set(table["rate"]) == {0.001}, "a parameter that was not given has its default"
    assert set(table["parameter_name"]) == {"a"}, "another column is called so"
    assert table["status"].tolist() == ["done"] * 4 + ["failed"]
    assert table["name"].tolist() == ["Small.", "half", "Small.", "half", "ValueError"]
    assert table["value"].tolist() == ["3", "3.50", "4", "4.50", "no"]
    assert table["number"].tolist()[:4] == [3, 3.5, 4, 4.5]
    assert table["holds"].tolist() == [True, pd.NA, False, pd.NA, pd.NA]
    assert table["seconds"].tolist()[:4] == [2.5] * 4
    assert table["code"].nunique() == 1
    notebook = executed(3, True)
    notebook.metadata["sources"]["package"] = "changed"
    assert results([*runs, ("d", notebook)], one)["code"].nunique() == 2
    assert results([], one).empty
