"""Notebooks are read and never run: their types, and the names that they and their modules register."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from vae_lab.notebook import check_parameters
from vae_lab.parameters import ParameterError
from vae_workflow.experiments import Experiment, NotAnExperiment, read_experiment
from vae_workflow.settings import grid
from vae_workflow.sources import files_of

IMPORTS = """
import pydantic, typing as t
from typing import Annotated, Literal, Optional, Union
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt, conint
from vae_lab.device import Device as Where
from vae_lab.vae.decoder import Likelihood
from vae_lab.parameters import AtLeastTwo, CostName, DatasetName
Size = Annotated[int, Field(ge=3, le=5)]
Other = Size
"""


def read(folder: Path, *cells: str, parameters: str) -> Experiment:
    """A notebook of these cells, of which the last but one is that of the parameters."""
    code = [new_code_cell(cell) for cell in (*cells, parameters, "1")]
    code[-2].metadata["tags"] = ["parameters"]
    nbformat.write(new_notebook(cells=code), folder / "one.ipynb")
    return read_experiment(folder / "one.ipynb", folder)


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        ("int", "3", "x"),
        ("t.Literal['a', 2]", "2", "3"),
        ("PositiveInt | None", "null", "0"),
        ("Optional[PositiveInt]", "None", "-1"),
        ("Union[float, bool]", "true", "digits"),
        ("'PositiveInt | None'", "5", "0"),
        ("list[PositiveInt]", "[1, 2]", "[0]"),
        ("tuple[int, ...]", "(1, 2)", "['a']"),
        ("dict[str, FiniteFloat]", '{"a": 1.5}', '{"a": "b"}'),
        ("pydantic.PositiveInt", "1", "0"),
        ("conint(ge=2, le=4)", "2", "5"),
        ("Annotated[list[int], Field(max_length=2)]", "[1]", "[1, 2, 3]"),
        ("Other", "4", "6"),
        ("Where", "cpu", "tpu"),
        ("Likelihood", "gaussian", "poisson"),
        ("AtLeastTwo", "2", "1"),
        ("DatasetName", "digits", "digit"),
    ],
)
def test_a_type_means_what_it_means_in_the_kernel(hint: str, good: str, bad: str, tmp_path: Path) -> None:
    one = read(tmp_path, IMPORTS, parameters=f"x: {hint} = {{}}")
    ((point,), wrong) = grid(one, [f"x={good}"], several=False), f"x={bad}"
    with pytest.raises(ParameterError):
        grid(one, [wrong], several=False)
    namespace = {"In": [IMPORTS, f"x: {hint} = {{}}"], **point}
    exec(IMPORTS, namespace)
    check_parameters(namespace)
    assert namespace["x"] == point["x"]


@pytest.mark.parametrize(
    "hint",
    [
        "__import__('os').mkdir('pwned')",
        "(lambda: open('pwned', 'w'))()",
        "[open('pwned', 'w') for _ in 'a'][0]",
        "Annotated[int, open('pwned', 'w')]",
        "Literal[open('pwned', 'w')]",
        "conint(ge=open('pwned', 'w'))",
        "list[open('pwned', 'w')]",
        '\'open("pwned", "w")\'',
        "pydantic.ImportString",
        "evil.T",
        "Evil",
        "evil.sub.T",
        "torch.dtype",
    ],
)
def test_nothing_is_run_and_such_types_are_left_to_the_notebook(
    hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil").mkdir()
    for name in ("__init__", "sub"):
        (tmp_path / f"evil/{name}.py").write_text("open('pwned', 'w')\nT = print('pwned')\n")
    one = read(
        tmp_path,
        f"{IMPORTS}\nimport evil.sub, torch\nfrom evil import T as Evil",
        parameters=f"x: {hint} = 0",
    )
    assert grid(one, ["x=anything"]) == [{"x": "anything"}]
    assert not (tmp_path / "pwned").exists()


def test_a_type_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotAnExperiment, match=r"'x: Nonsense = 1' cannot be read: name 'Nonsense'"):
        read(tmp_path, IMPORTS, parameters="x: Nonsense = 1")
    read(tmp_path, "from somewhere import *", parameters="x: Nonsense = 1")


def test_a_default_may_be_any_expression(tmp_path: Path) -> None:
    one = read(tmp_path, parameters="x: int = 2 * 64\ny: float = float('inf')")
    assert [repr(p.default) for p in one.parameters.values()] == ["2 * 64", "float('inf')"]
    assert grid(one, ["x=128"]) == [{"x": 128}]


OWN = "from vae_lab.data import dataset\nfrom vae_lab.estimators.costs import COSTS, cost\n"


@pytest.mark.parametrize(
    "cell",
    [
        "@cost\ndef mine(k): ...\n@dataset('stripes')\ndef f(): ...",
        "def mine(k): ...\ndef f(): ...\ncost(mine)\ndataset('stripes')(f)",
        "def mine(k): ...\nCOSTS['mine'] = mine\n@dataset(name='stripes')\ndef f(): ...",
        "import vae_lab.data as d, vae_lab.estimators.costs as c\n@c.cost\ndef mine(k): ...\n"
        "def f(): ...\nd.dataset('stripes')(f)",
        "%matplotlib inline\n@cost\ndef mine(k): ...\nx = !ls\ndataset('stripes')(print)",
        "%%time\n@cost\ndef mine(k): ...\n@dataset('stripes')\ndef f(): ...",
        "from own.parts import stripes, mine\ncost(mine)\ndataset('stripes')(stripes)",
        "import own.registers",
        "from own import registers",
        "from own.outer import something",
    ],
)
def test_names_of_ones_own_are_known_and_others_are_not(cell: str, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    registers = f"{OWN}@cost\ndef mine(k): ...\n@dataset('stripes')\ndef f(): ..."
    files = {"__init__": "", "parts": "mine = stripes = None", "registers": registers}
    for name, text in {**files, "outer": "from . import registers\nsomething = 1"}.items():
        (tmp_path / f"own/{name}.py").write_text(text)
    parameters = "f: CostName = 'cosine'\ndata: DatasetName = 'digits'"
    one = read(tmp_path, IMPORTS, OWN, cell, parameters=parameters)
    assert grid(one, ["f=mine", "data=stripes"]) == [{"f": "mine", "data": "stripes"}]
    assert "'mine'" in one.parameters["f"].allowed and "'stripes'" in one.parameters["data"].allowed
    for wrong in ("f=mini", "data=stripe"):
        with pytest.raises(ParameterError, match=r"did you mean '(mine|stripes)'"):
            grid(one, [wrong])


@pytest.mark.parametrize(
    "cell",
    [
        "for name in ('a', 'b'):\n    dataset(name)(print)",
        "register = dataset\nregister('b')(print)",
        "from functools import partial\npartial(dataset, 'b')",
        "from vae_lab.data import DATASETS\nDATASETS.update(b=print)",
        "from nowhere_to_be_found import anything",
        "exec('from mine import b')",
        "%run b.py",
        "pip install b",
    ],
)
def test_where_the_code_does_not_tell_the_names_any_may_come(cell: str, tmp_path: Path) -> None:
    one = read(tmp_path, IMPORTS, OWN, cell, parameters="data: DatasetName = 'digits'")
    assert grid(one, ["data=b"]) == [{"data": "b"}]
    assert one.parameters["data"].allowed.endswith("or another that the notebook registers")


def test_results_depend_on_modules_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("import other\nfrom vae_lab.vae import decoder")
    (tmp_path / "other.py").write_text("import numpy")
    read(tmp_path, "import mine, pandas", parameters="x: int = 1")
    found = {path.name for path in files_of(tmp_path / "one.ipynb")}
    assert {"mine.py", "other.py", "decoder.py"} < found and "diversity.py" not in found
