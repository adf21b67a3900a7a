"""Results that are damaged, letters that a terminal lacks, and temporary folders that are none."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from checkout import VALUE, WAIT, Checkout

from vae_workflow.cli import FAILED, REFUSED
from vae_workflow.executed import Damaged, read_executed
from vae_workflow.experiments import read_experiment
from vae_workflow.sweeps import Runs
from vae_workflow.workplace import Workplace


def around(*cells: object) -> str:
    return json.dumps({"nbformat": 4, "metadata": {}, "cells": cells})


def with_output(output: object) -> str:
    return around({"cell_type": "code", "source": "", "outputs": [output]})


def shown(kind: str, record: object) -> dict[str, object]:
    return {"output_type": "display_data", "data": {f"application/vnd.vae-lab.{kind}+json": record}}


HALF_A_CLAIM = {"application/vnd.vae-lab.claim+json": {"sentence": "Half"}}
CLAIM = {"sentence": "Small.", "value": "1", "holds": True, "evidence": ""}
DAMAGED = {
    "empty": "",
    "cut": '{"cells": [{"cell_type": "code"',
    "text": "not JSON",
    "list": "[]",
    "null": "null",
    "object": "{}",
    "cells": '{"nbformat": 4, "metadata": {}, "cells": 3}',
    "cell": around("code"),
    "outputs": with_output(1),
    "claim": with_output({"output_type": "display_data", "data": HALF_A_CLAIM}),
    "verdict": with_output(shown("claim", CLAIM | {"holds": "yes"})),
    "value": with_output(shown("claim", CLAIM | {"value": [1]})),
    "seconds": with_output(shown("provenance", {"seconds": "long"})),
    "machine": with_output(shown("provenance", {"machine": {}})),
    "number": with_output({"output_type": "display_data", "data": {}, "metadata": {"scrapbook": {}}}),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_notebook_is_named_with_the_reason(content: str, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    path.write_text(content)
    with pytest.raises(Damaged, match=r"run.ipynb is damaged, and counts as absent \("):
        read_executed(path)


def test_damaged_runs_are_made_again(checkout: Checkout) -> None:
    checkout.notebooks(one=VALUE)
    assert checkout.vae_lab("sweep", "one", "-p", "seed=0:2").returncode == 0
    folder = checkout.folder / "build/runs/one"
    cut, whole = sorted((folder / "notebooks").iterdir())
    cut.write_bytes(cut.read_bytes()[:500])
    (folder / "failed").mkdir(exist_ok=True)
    (folder / "failed/one--0.ipynb").write_text("{}")
    for command, code in (("results", 0), ("claims", FAILED)):
        shown = checkout.vae_lab(command, "one")
        assert shown.returncode == code and "Traceback" not in shown.stderr, shown.stderr
        for path in (cut.name, "one--0.ipynb"):
            assert f"{path} is damaged" in "".join(shown.stderr.split("\n")), command
    before, half = whole.stat().st_mtime_ns, cut.read_bytes()
    plan = checkout.vae_lab("sweep", "one", "-p", "seed=0:2", "--dry-run")
    assert f"{cut.name} is damaged" in plan.stderr, plan.stderr
    one = read_experiment(checkout.folder / "notebooks/one.ipynb")
    Runs(Workplace(checkout.folder), one, [{}, {"seed": 1}]).take_away_damaged(print, ["-n"])
    assert cut.read_bytes() == half, "a dry run changes nothing"
    again = checkout.vae_lab("sweep", "one", "-p", "seed=0:2")
    assert again.returncode == 0, again.stderr
    assert f"{cut.name} is damaged" in again.stderr and "1 ran, 1 done before" in again.stderr
    assert whole.stat().st_mtime_ns == before
    read_executed(cut)


def test_the_books_jobs_make_damaged_results_again(checkout: Checkout) -> None:
    checkout.notebooks(one=VALUE, two=VALUE)
    checkout.succeeds()
    executed, claims = (
        checkout.folder / "build/book" / name for name in ("notebooks/one.ipynb", "claims.json")
    )
    executed.write_text("")
    claims.write_text("[{")
    plan = checkout.run("--dry-run")
    assert plan.returncode == 0 and "; a run makes it again." in plan.stderr, plan.stderr
    assert (executed.read_text(), claims.read_text()) == ("", "[{"), "a dry run changes nothing"
    shown = checkout.vae_lab("claims")
    assert shown.returncode == FAILED
    assert "claims.json is damaged" in shown.stderr and "make book" in shown.stderr
    assert checkout.succeeds() == {"one"}
    assert json.loads(claims.read_text()) == []


@pytest.mark.parametrize(
    "place", ["build", "build/runs/one", "build/runs/one/notebooks", "build/runs/one/failed", ".snakemake"]
)
def test_a_file_in_the_place_of_a_folder_is_named(checkout: Checkout, place: str) -> None:
    checkout.notebooks(one=VALUE)
    checkout.write(place, "")
    run = checkout.vae_lab("run", "one")
    assert run.returncode == REFUSED
    assert re.search(rf"{place}\S* cannot be written to: (Not a directory|File exists)", run.stderr)
    assert "Traceback" not in run.stderr


# Output


@pytest.mark.parametrize(
    ("encoding", "book"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, False),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, True),
    ],
)
def test_any_encoding_will_do(
    checkout: Checkout, encoding: dict[str, str], book: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Letters that it lacks are written as numbers, and files are UTF-8 anyway."""
    checkout.notebooks(one=CLAIM)
    path = checkout.folder / "notebooks/one.ipynb"
    path.write_text(path.read_text("utf-8").replace("Chapter one", "The ε-ablation 🎲"), "utf-8")
    monkeypatch.delenv("LC_ALL", raising=False)
    for name, value in encoding.items():
        monkeypatch.setenv(name, value)
    for words in (
        ("list",),
        ("list", "one", "--json"),
        ("run", "one"),
        ("claims", "one"),
        ("--help",),
        ("results", "one", "--json"),
    ):
        done = subprocess.run(
            [Path(sys.executable).with_name("vae-lab"), *words], cwd=checkout.folder, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode("latin-1")
        if "--json" in words:
            json.loads(done.stdout.decode("ascii"))
    if book:
        assert checkout.run().returncode == 0
        (claim,) = json.loads((checkout.folder / "build/book/claims.json").read_text("utf-8"))
        assert claim["sentence"] == "ε is small 🎲."


CLAIM = """from IPython.display import display
claim = {"sentence": "ε is small 🎲.", "value": "σ", "holds": True, "evidence": "–"}
display({"text/plain": "ε", "application/vnd.vae-lab.claim+json": claim}, raw=True)"""


# Temporary folders


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder whose path is short enough for sockets, as that of a test beside others is not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_what_is_killed_leaves_nothing_for_ever(
    checkout: Checkout, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run tidies up, and touches nothing of one that is alive."""
    checkout.notebooks(one=WAIT, two=VALUE)
    cache = checkout.folder / "cache/snakemake/snakemake/source-cache/snakemake-runtime-cache"
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("XDG_CACHE_HOME", str(checkout.folder / "cache"))

    def there() -> set[Path]:
        return {*temporary.iterdir(), *cache.iterdir()}

    with checkout.command("sweep", "one") as sweep:
        kernel, job = checkout.waiting()
        (snakemake,) = psutil.Process(sweep.pid).children()
        used = there()
        assert {path.name[:7] for path in used} >= {"vae-lab", "snakema"}
        assert checkout.vae_lab("sweep", "two").returncode == 0
        assert there() == used
        for process in (job, snakemake):
            process.kill()
        psutil.wait_procs([job, kernel, snakemake], timeout=20)
    assert there() >= {
        path for path in used if path.parent == cache or path.name[:7] in ("vae-lab", "snakema")
    }
    assert checkout.vae_lab("sweep", "two", "-p", "seed=1").returncode == 0
    assert there() == set()


@pytest.mark.parametrize("folder", ["x" * 100, "missing", "a file"])
def test_any_tmpdir_will_do(
    checkout: Checkout, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.notebooks(one=VALUE)
    temporary = tmp_path / folder
    if folder == "a file":
        temporary.touch()
    elif folder != "missing":
        temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    run = checkout.vae_lab("run", "one")
    assert run.returncode == 0, run.stderr
