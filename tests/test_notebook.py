"""Parameter validation, claims and provenance, as a notebook's kernel would call them."""

import shlex
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter

from vae_lab import notebook
from vae_lab.criteria import above, fact
from vae_lab.estimators.costs import COSTS, cost
from vae_lab.measure.statistics import Interval
from vae_lab.notebook import check_parameters
from vae_lab.parameters import AtLeastTwo, CostName, DatasetName, ParameterError, describe
from vae_lab.records import CLAIM_MIME, PROVENANCE_MIME


def kernel(injected: str = "", **annotated: tuple[Any, Any]) -> dict[str, Any]:
    """A kernel's namespace after a parameters cell, (type, value) by name, and papermill's cell."""
    values = {name: value for name, (_, value) in annotated.items()}
    hints = {f"type_of_{name}": hint for name, (hint, _) in annotated.items()}
    cell = "\n".join(f"{name}: type_of_{name} = {value!r}" for name, value in values.items())
    namespace: dict[str, Any] = {"In": ["", "import this", cell, injected], "os": object(), **values, **hints}
    exec(injected, namespace)
    return namespace


def test_good_parameters_pass_and_are_converted() -> None:
    namespace = kernel("# Parameters\nrate = 1\n", epochs=(PositiveInt, 3), rate=(PositiveFloat, 0.1))
    check_parameters(namespace)
    assert namespace["epochs"] == 3
    assert isinstance(namespace["rate"], float) and namespace["rate"] == 1.0


def test_all_problems_are_listed_at_once_with_what_is_allowed() -> None:
    injected = "# Parameters\nepoch = 5\nepochs = 'ten'\nseed = -1\ndataset = 'mnist-6k'\n"
    namespace = kernel(
        injected, epochs=(PositiveInt, 3), seed=(NonNegativeInt, 0), dataset=(DatasetName, "digits")
    )
    with pytest.raises(ParameterError) as caught:
        check_parameters(namespace)
    assert str(caught.value).splitlines() == [
        "4 problems with the parameters",
        "  epoch = 5: no such parameter; did you mean epochs?",
        "  epochs = 'ten': Input should be a valid integer, unable to parse string as an integer",
        "  seed = -1: Input should be greater than or equal to 0",
        "  dataset = 'mnist-6k': Value error, unknown data set 'mnist-6k'; did you mean 'mnist-5k'? "
        "Known: digits, fashion-mnist, mnist, mnist-5k, sprites",
        "Allowed:",
        "  epochs: integer > 0",
        "  seed: integer >= 0",
        "  dataset: one of 'digits', 'fashion-mnist', 'mnist', 'mnist-5k', 'sprites'",
    ]
    assert namespace["epochs"] == "ten", "nothing is changed when something is wrong"


def test_a_truth_value_is_no_number() -> None:
    with pytest.raises(ParameterError, match="epochs = True: expected integer > 0, not a truth value"):
        check_parameters(kernel(epochs=(PositiveInt, True)))


def test_names_outside_the_injected_cell_are_no_parameters() -> None:
    namespace = kernel(epochs=(PositiveInt, 3))
    namespace["In"].append("other = 5")
    check_parameters(namespace | {"other": 5})


def test_a_notebook_without_parameters_is_told_how_to_write_them() -> None:
    with pytest.raises(ValueError, match="epochs: PositiveInt = 20"):
        check_parameters({})


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (AtLeastTwo, "integer >= 2"),
        (PositiveFloat, "number > 0"),
        (Literal["a", "b"], "one of 'a', 'b'"),
        (Literal["a"], "one of 'a'"),
        (PositiveInt | None, "integer > 0 or null"),
        (list[PositiveInt], "list of (integer > 0)"),
        (bool, "boolean"),
        (Any, "any value"),
    ],
)
def test_allowed_values_in_words(hint: Any, words: str) -> None:
    assert describe(TypeAdapter(hint)) == words


def test_what_is_registered_later_is_an_allowed_name() -> None:
    @cost
    def own(k: Any) -> Any:
        return lambda z: k * z

    try:
        assert "'own'" in describe(TypeAdapter(CostName))
        check_parameters(kernel(f=(CostName, "own")))
    finally:
        del COSTS["own"]


def test_a_corrected_cell_and_one_that_is_no_python_do_no_harm() -> None:
    """In a notebook that somebody works on, cells run again, and some fail."""
    namespace = kernel(epochs=(PositiveInt, 3))
    namespace["In"][1:1] = ["epochs: PositveInt = 3", "epochs: = 3", "%%bash\nls -l | wc"]
    check_parameters(namespace)
    namespace = kernel(odd=(Annotated[int, AfterValidator(lambda v: v)], 3))
    namespace["In"][2] = "odd: Annotated[int, AfterValidator(lambda v: twice(v))] = 3"
    namespace |= {"Annotated": Annotated, "AfterValidator": AfterValidator, "twice": lambda v: 2 * v}
    check_parameters(namespace)
    assert namespace["odd"] == 6


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    outputs: list[dict[str, Any]] = []
    monkeypatch.setattr(notebook, "display", lambda data, raw: outputs.append(data))
    return outputs


@pytest.mark.parametrize("holds", [True, False])
def test_claim(displayed: list[dict[str, Any]], holds: bool) -> None:
    gain = Interval(1.0, 0.5 if holds else -0.5, 1.5)
    notebook.claim(
        "a < b & c", "d = 1.0", [above("<d>", gain), fact("e", True)], "95% interval over <5> seeds"
    )
    (output,) = displayed
    page = output["text/html"]
    assert ("vae-claim-holds" in page, "vae-claim-fails" in page) == (holds, not holds)
    assert "a &lt; b &amp; c" in page and "<5>" not in page
    assert "Criterion: &lt;d&gt; &gt; 0 (all of its interval) · e" in page
    assert output["text/plain"].startswith("[Holds]" if holds else "[Does not hold in this run]")
    record = output[CLAIM_MIME]
    assert {name: record[name] for name in ("sentence", "value", "holds", "evidence")} == {
        "sentence": "a < b & c",
        "value": "d = 1.0",
        "holds": holds,
        "evidence": "95% interval over <5> seeds",
    }
    assert record["criteria"][0] == {
        "what": "<d>",
        "holds": holds,
        "kind": "interval",
        "because": "",
        "count": 1,
        "value": 1.0,
        "low": gain.low,
        "high": 1.5,
        "bounds": (0.0, None),
        "chance": 0.025,
    }


@pytest.mark.parametrize("criteria", [True, [], [True], "holds"])
def test_a_claim_needs_criteria(criteria: Any) -> None:
    with pytest.raises(TypeError, match="above"):
        notebook.claim("A sentence.", "1", criteria, "one seed")


def test_provenance(displayed: list[dict[str, Any]]) -> None:
    check_parameters(kernel(epochs=(PositiveInt, 3), dataset=(DatasetName, "digits")))
    notebook.provenance("03_vae")
    record = displayed[0][PROVENANCE_MIME]
    assert record["parameters"] == {"epochs": 3, "dataset": "digits"}
    assert record["command"] == "papermill notebooks/03_vae.ipynb out.ipynb -p epochs 3 -r dataset digits"
    assert record["command"] in displayed[0]["text/html"]
    assert record["versions"]["torch"] and record["commit"]
    assert record["seconds"] >= 0
    assert set(record["spent"]) == {"training", "evaluation", "gradients", "plotting"}


def test_provenance_needs_checked_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "_run", None)
    with pytest.raises(RuntimeError, match="call check_parameters"):
        notebook.provenance("03_vae")


def test_the_command_survives_a_shell() -> None:
    parameters = {"name": "it's 5", "rate": 1e-05, "on": True, "widths": [8, 4]}
    words = shlex.split(notebook.papermill_command("a b", parameters))
    assert words[1] == "notebooks/a b.ipynb"
    assert words[3:] == [
        "-r",
        "name",
        "it's 5",
        "-p",
        "rate",
        "1e-05",
        "-p",
        "on",
        "True",
        "-y",
        "widths: [8, 4]",
    ]


def test_types_that_pydantic_does_not_know_are_the_notebooks_own_affair() -> None:
    class Own:
        pass

    one = Own()
    namespace = kernel(x=(Own, None), size=("int | None", 3))
    namespace["x"] = one
    check_parameters(namespace)
    assert namespace["x"] is one
    assert describe(TypeAdapter(Annotated[Any, Field(default_factory=Own)])) == "any value"


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (2**31, int),
        (2**32 + 1, int),
        (-(10**20), int),
        (float("inf"), float),
        (float("nan"), float),
        (1e39, float),
        (1e-17, PositiveFloat),
        (1e-300, PositiveFloat),
        (5e-324, float | None),
        ([1.0, 1e-200], list[float]),
        ({"a": 1e300}, dict[str, float]),
        ([True], list[int]),
        ("\udcff", str),
    ],
)
def test_what_nothing_can_compute_with_is_refused(value: Any, hint: Any) -> None:
    namespace = kernel(x=(hint, None))
    namespace["x"] = value
    with pytest.raises(ParameterError, match="1 problem"):
        check_parameters(namespace)


@pytest.mark.parametrize(
    ("value", "hint"),
    [(True, bool), (True, Any), (True, Literal[True, 2]), (0.0, float), (-1e12, float), (2**31 - 1, int)],
)
def test_what_can_be_used_is_taken(value: Any, hint: Any) -> None:
    namespace = kernel(x=(hint, value))
    check_parameters(namespace)
    assert namespace["x"] == value
