"""The chapters again on other seeds: from the runs to the table, and from the table to the page."""

from __future__ import annotations

import ast
import csv
import re
import shutil
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
import yaml
from chapters import NOTEBOOKS
from checkout import Checkout

from vae_lab.criteria import above, below, fact, within
from vae_lab.measure.statistics import Interval
from vae_lab.records import code_mark
from vae_workflow.replication import COLUMNS, rows

ROOT = Path(__file__).resolve().parent.parent

CLAIM = """from IPython.display import display
none = {"value": None, "low": None, "high": None, "bounds": (None, None), "chance": None, "count": 1}
sure = none | {"what": "so", "holds": True, "kind": "fact", "because": ""}
low = none | {"what": "seed", "holds": seed < 1500, "kind": "interval", "because": "half"}
low |= {"bounds": (None, 1500.0), "value": float(seed), "low": seed - 1.0, "high": seed + 1.0}
claim = {"sentence": "Seeds are small.", "value": f"{seed}", "holds": low["holds"], "evidence": ""}
origin = {"parameters": {"seed": seed}, "versions": {"python": "3", "torch": "2"}, "machine": "one"}
for kind, record in (("claim", claim | {"criteria": [low, sure]}), ("provenance", origin)):
    display({"text/plain": kind, f"application/vnd.vae-lab.{kind}+json": record}, raw=True)"""


def test_all_variants_of_all_chapters_make_one_table(checkout: Checkout) -> None:
    checkout.notebooks(one=CLAIM, two=CLAIM)
    settings = {"variants": {f"block{b}": {"seed": 1000 * b} for b in (1, 2)}, "table": "book/measured/t.csv"}
    checkout.configure(name="replicate", one=None, two=None, settings=settings)
    arguments = ("table", "--forcerun", "table", "--configfile", "config/replicate.yaml")
    assert " ".join(arguments) in (ROOT / "Makefile").read_text("utf-8")
    first_run = checkout.run(*arguments)
    assert first_run.returncode == 0, first_run.stderr
    assert len(re.findall(r"^(?:one|two)--block[12]: done in", first_run.stderr, re.MULTILINE)) == 4
    with (checkout.folder / "book/measured/t.csv").open(newline="", encoding="utf-8") as lines:
        table = list(csv.DictReader(lines))
    assert tuple(table[0]) == COLUMNS
    assert [(row["page"], row["variant"], row["holds"]) for row in table if row["criterion"] == "1"] == [
        (page, f"block{b}", str(b == 1)) for page in ("one", "two") for b in (1, 2)
    ]
    first, second = table[:2]
    assert (first["value"], first["low"], first["upper_bound"], first["lower_bound"]) == (
        "1000",
        "999",
        "1500",
        "",
    )
    assert (second["criterion"], second["value"], second["holds"]) == ("2", "", "True")
    assert {row["parameters"] for row in table} == {"seed = 1000", "seed = 2000"}
    assert {row["versions"] for row in table} == {"python 3, torch 2"}
    # The code is that of both blocks, whatever the seed, and changes with it.
    assert len({row["code"] for row in table}) == 1
    again = checkout.run(*arguments)
    assert again.returncode == 0 and "done in" not in again.stderr
    # As in a fresh clone: the table is there, and what it came from is not.
    for name in ("build", ".snakemake"):
        shutil.rmtree(checkout.folder / name)
    assert checkout.run(*arguments).stderr.count(": done in") == 4


def test_the_mark_of_the_code_leaves_prose_and_parameters_out() -> None:
    def notebook(code: str, prose: str = "p", seed: int = 0, package: str = "v1") -> dict[str, object]:
        cell = {"cell_type": "code", "metadata": {}}
        injected = cell | {"metadata": {"tags": ["injected-parameters"]}, "source": f"seed = {seed}"}
        cells = [{"cell_type": "markdown", "source": prose}, injected, cell | {"source": [code]}]
        return {"cells": cells, "metadata": {"sources": {"package": package, "lock": "l"}}}

    mark = code_mark(notebook("fit()"))
    assert re.fullmatch("[0-9a-f]{12}", mark)
    assert code_mark(notebook("fit()", prose="q", seed=7)) == mark
    assert len({mark, code_mark(notebook("fit(1)")), code_mark(notebook("fit()", package="v2"))}) == 3


def test_the_blocks_are_disjoint_and_those_of_all_chapters() -> None:
    """No chapter counts further than the next block, and all begin beyond the published seeds."""
    config = yaml.safe_load((ROOT / "config/replicate.yaml").read_text("utf-8"))
    book = yaml.safe_load((ROOT / "config/book.yaml").read_text("utf-8"))
    assert list(config["notebooks"]) == list(book["notebooks"])
    assert config["notebooks"] == book["notebooks"]
    seeds = [variant["seed"] for variant in config["variants"].values()]
    assert len(seeds) == 10 and min(seeds) >= 100_000
    assert min(b - a for a, b in pairwise(seeds)) >= 1000


# The page

HEADER = ",".join(COLUMNS)


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "book/extensions"))
    import vae_replication

    return vae_replication  # type: ignore[no-any-return]


def test_a_claim_holds_in_a_block_if_all_its_criteria_do(extension: ModuleType, tmp_path: Path) -> None:
    lines = [HEADER]
    for block in range(3):
        for criterion in (1, 2):
            holds = not (block == 1 and criterion == 2)
            lines.append(
                f"one,block{block},seed = {block},A claim.,{holds},{criterion},{block},,,0.5,,abc,m,v"
            )
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    found = extension.Replication(tmp_path / "t.csv")
    claim = found.claims["one", "A claim."]
    assert claim.holds == {"block0": True, "block1": False, "block2": True}
    assert claim.share == "2/3"
    assert extension.value_range(claim.criteria[1]) == "0 … 2"
    assert (found.mark("one"), found.mark("two"), found.origins) == ("abc", "", ["m, v"])
    assert found.variants == ["block0", "block1", "block2"]
    assert extension.Replication(tmp_path / "none.csv").claims == {}


def test_a_claim_is_constant_if_no_number_of_it_differs(extension: ModuleType) -> None:
    def claim(*criteria: tuple[str, str]) -> Any:
        rows = {i: [{"value": value} for value in values] for i, values in enumerate(criteria)}
        return extension.Claim({"a": True, "b": True}, rows)

    assert claim(("0.5", "0.5")).is_constant and claim(("0.5", "0.5"), ("", "")).is_constant
    assert not claim(("0.5", "0.5"), ("0.5", "0.6")).is_constant
    assert not claim(("", "")).is_constant  # a fact, which has no number


def texts_of_code() -> dict[str, set[str]]:
    """Every text in the code of a chapter, and so the sentences of its claims."""
    return {
        path.stem: {
            node.value
            for cell in nbformat.read(path, as_version=4).cells
            if cell.cell_type == "code"
            for node in ast.walk(ast.parse(cell.source))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        for path in NOTEBOOKS
    }


def test_what_is_known_to_fail_on_other_data_is_a_claim_of_its_chapter() -> None:
    known = yaml.safe_load((ROOT / "config/full.yaml").read_text("utf-8"))["known_failures"]
    texts = texts_of_code()
    stale = {page: set(sentences) - texts[page.partition("--")[0]] for page, sentences in known.items()}
    assert known and not any(stale.values()), stale


def test_no_claim_of_the_book_fails_in_more_than_one_of_ten_blocks(extension: ModuleType) -> None:
    """In the committed table; it may have sentences that have been reworded since."""
    texts = texts_of_code()
    table = extension.Replication(ROOT / "book/measured/replication.csv")
    present = {key: claim for key, claim in table.claims.items() if key[1] in texts[key[0]]}
    assert len(table.variants) == 10 and len(present) > 0.8 * len(table.claims)
    assert {key: claim.share for key, claim in present.items() if sum(claim.holds.values()) < 9} == {}


def test_the_page_on_sensitivity_says_what_its_table_says(extension: ModuleType) -> None:
    """Its text names what fails and how; if a new table has it otherwise, the text has to change too."""
    text = (ROOT / "book/sensitivity.md").read_text("utf-8")
    words = text.split("from-results:: sensitivity\n\n")[1].split("```")[0].split("\n")
    shown = [line.strip() for line in words if line.strip()]
    claims = extension.Replication(ROOT / "book/measured/sensitivity.csv").claims
    verdicts = {}
    for line in shown:
        (found,) = (claim for (_, sentence), claim in claims.items() if line in sentence)
        verdicts[line] = {run: {*map(extension.is_open, rows)} for run, rows in found.failures.items()}
    ruled_out = {
        (line, run) for line, runs in verdicts.items() for run, is_open in runs.items() if False in is_open
    }
    assert ruled_out == {
        ("The training curve ends above the score on new items", "digits"),
        ("The importance-weighted bound is tighter than the ELBO", "digits"),
        ("A penalty of this size on the decoder's weights does part of the work", "mnist"),
        ("Halfway between two codes the distance to the data", "mnist"),
    }
    assert {run for runs in verdicts.values() for run in runs} == {"digits", "mnist", "sprites"}
    assert {line for line, runs in verdicts.items() if not runs} == {
        "On unseen items the trained VAE beats independent pixels",
        "In this VAE the variance of the plain score function's gradients",
        "Half of the folklore is right",
        "And yet one sample is enough",
        "Without noise, a VAE reports a better reconstruction",
        "new images of a model that was trained without ε score as more diverse",
        "And they are less real",
        "The prior has holes",
    }
    # The text also speaks of claims that the table of the page leaves out.
    ablation = {
        sentence: claim for (page, sentence), claim in claims.items() if page == "09_epsilon_ablation"
    }
    assert len(ablation) == 14
    assert {run for claim in ablation.values() for run in claim.failures} == {"mnist"}
    expected = {
        ("Uniform, Laplace and Student's t noise", True),
        ("It is not enough that ε has mean 0", True),
        ("A coin toss reports more", True),
        ("Wasserstein's distance orders best", True),
        ("But freezing ε for each item costs little", True),
        ("The easier ε is to learn by heart", True),
        ("A σ that the reconstruction cannot reach", True),
        ("By the importance-weighted bound, a better encoder", True),
        ("A penalty of this size on the decoder's weights", False),
        ("Halfway between two codes the distance to the data", False),
    }
    found = {sentence: claim.failures["mnist"] for sentence, claim in ablation.items() if claim.failures}
    for words, is_open in expected:
        (rows_of_it,) = (rows for sentence, rows in found.items() if sentence.startswith(words))
        assert all(map(extension.is_open, rows_of_it)) is is_open, words
    assert len(found) == len(expected)
    images = {
        sentence.split(",")[0]: claim.failures
        for (page, sentence), claim in claims.items()
        if page == "12_new_images" and claim.failures
    }
    assert {words[:27] for words in images} == {"Where fewer codes live", "Halfway between two codes l"}
    assert all(set(runs) == {"digits"} for runs in images.values())
    assert all(extension.is_open(row) for runs in images.values() for row in runs["digits"])


def table_row(criterion: object) -> dict[str, str]:
    """The row of a table for a claim with this criterion."""
    claim = {"sentence": "S.", "criteria": [vars(criterion)]}
    origin = {"versions": {}, "machine": ""}
    outputs = [
        {"data": {f"application/vnd.vae-lab.{kind}+json": record}}
        for kind, record in (("claim", claim), ("provenance", origin))
    ]
    cell = {"cell_type": "code", "metadata": {}, "source": "", "outputs": outputs}
    (row,) = rows("one--block1", {"cells": [cell], "metadata": {}})
    return {key: str(value) for key, value in row.items()}


@pytest.mark.parametrize(
    ("criterion", "room"),
    [
        (above("x", Interval(1.0, 0.5, 1.5)), 0.5),
        (above("x", Interval(1.0, -0.5, 2.5)), -0.5),
        (below("x", 3.0, 5.0, "any"), 2.0),
        (within("x", Interval(0.0, -0.5, 0.75), -1, 1, "any"), 0.25),
        (fact("x", True), None),
    ],
)
def test_a_mark_lies_where_the_nearer_end_does(
    extension: ModuleType, criterion: object, room: float | None
) -> None:
    written = table_row(criterion)
    drawn = extension.strip([written], "1 of 1")
    if room is None:
        assert drawn == ""
        return
    assert extension.room(written) == pytest.approx(room)
    assert ('class="vae-holds"' in drawn, 'class="vae-fails"' in drawn) == (room > 0, room < 0)
    assert 'aria-label="1 of 1"' in drawn


@pytest.mark.parametrize(
    ("criterion", "is_open", "text"),
    [
        (above("x", Interval(-1.0, -2.5, 0.5)), True, "−1 [−2.5, 0.5]"),
        (above("x", Interval(-1.0, -1.5, -0.5)), False, "−1 [−1.5, −0.5]"),
        (above("x", Interval(0.5, 0.25, 0.75), 1, "any"), False, "0.5 [0.25, 0.75]"),
        (below("x", Interval(-40.5, -1268.4, 827.4), 5.0, "any"), True, "−40.5 [−1,268, 827]"),
        (below("x", 7.0, 5.0, "any"), False, "7"),
        (within("x", Interval(0.2, -0.1, 0.6), -0.1, 0.1, "any"), True, "0.2 [−0.1, 0.6]"),
        (within("x", Interval(-2.0, -3.0, -1.0), -0.1, 0.1, "any"), False, "−2 [−3, −1]"),
        (fact("x", False), False, "–"),
    ],
)
def test_a_criterion_that_is_missed_is_left_open_or_ruled_out(
    extension: ModuleType, criterion: object, is_open: bool, text: str
) -> None:
    written = table_row(criterion)
    assert written["holds"] == "False"
    assert (extension.is_open(written), extension.with_interval(written)) == (is_open, text)
