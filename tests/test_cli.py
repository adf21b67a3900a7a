"""The command line in a small checkout: what it says, what it starts, what it leaves, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from chapters import NOTEBOOKS
from checkout import PATIENCE, VALUE, WAIT, Checkout, eventually
from pages import code, sections
from typer.testing import CliRunner

from vae_workflow.cli import BUSY, FAILED, INTERRUPTED, REFUSED, app
from vae_workflow.experiments import read_experiment
from vae_workflow.sweeps import Runs
from vae_workflow.workplace import Workplace

ROOT = Path(__file__).resolve().parent.parent
FAIL = "if seed == 2: raise ValueError('two [is] too many')\n"


@pytest.fixture
def here(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """The working directory, with one notebook `one`."""
    checkout.notebooks(one=VALUE)
    monkeypatch.chdir(checkout.folder)
    return checkout


def call(*words: str, code: int = 0) -> str:
    """What a command says, in this process; nothing in it may start a run."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output + str(result.exception)
    return result.output


def statuses(checkout: Checkout, *words: str, code: int = 0) -> list[str]:
    """What became of the runs of a sweep."""
    report = checkout.vae_lab("sweep", *words, "--json")
    assert report.returncode == code, report.stderr
    return [run["status"] for run in json.loads(report.stdout)["runs"].values()]


# Looking


def test_lists_notebooks_and_their_parameters(here: Checkout) -> None:
    assert "one" in call("list")
    assert re.search(r"seed +0 +integer", call("list", "one"))
    content = json.loads(call("list", "--json"))
    assert content["one"]["title"] == "Chapter one"
    assert content["one"]["parameters"]["seed"] == {
        "default": 0,
        "allowed": "integer",
        "meaning": "",
        "schema": {"type": "integer"},
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("run", "on"), REFUSED, "on: no such notebook; did you mean one? `vae-lab list` has all."),
        (("run", "one", "-p", "sed=1"), REFUSED, "did you mean seed?"),
        (("run", "one", "-p", "seed=0:4"), REFUSED, "seed = '0:4': Input should be a valid integer"),
        (("run", "one", "-p", "seed=x", "-p", "a=1"), REFUSED, "2 problems with the parameters"),
        (("run", "one", "-p", "seed=1:2:3"), REFUSED, "seed = '1:2:3': Input should be a valid integer"),
        (("run", "one", "-p", "seed=4294967296"), REFUSED, "a size of at most 2,147,483,647, as seeds of 32"),
        (("sweep", "one", "-p", "seed=0:20000"), REFUSED, "more than 10,000 runs"),
        (("sweep", "one", "--cores", "0"), REFUSED, "--cores"),
        (("results", "one"), FAILED, "one has no runs yet; `vae-lab run one` makes one."),
        (("claims",), FAILED, "Nothing has run yet. To run it: make book"),
        (("claims", "one"), FAILED, "vae-lab run one"),
        (("fork", "one", "one"), REFUSED, "one: there is a notebook of that name already"),
        (("fork", "one", "a/b"), REFUSED, "a/b: a name is made of letters and digits"),
        (("fork", "one", "two", "-p", "seed=1,2"), REFUSED, "seed = '1,2'"),
        (("nothing",), REFUSED, "nothing"),
        ((), REFUSED, "Exit codes"),
    ],
)
def test_wrong_use_starts_nothing(here: Checkout, words: tuple[str, ...], code: int, message: str) -> None:
    said = re.sub(r"\s+", " ", call(*words, code=code))
    assert message in said
    assert "Traceback" not in said
    assert not (here.folder / "build").exists()
    assert len(list((here.folder / "notebooks").iterdir())) == 1


def test_a_folder_of_your_own_borrows_the_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_install.py` runs one there, from the wheel."""
    monkeypatch.chdir(tmp_path)
    said = re.sub(r"\s+", " ", call("list"))
    assert "03_vae How do encoder" in said
    assert "A checkout of the project adds the book" in said
    assert list(tmp_path.iterdir()) == [], "looking leaves nothing behind"
    call("fork", "02_reparameterization", "mine", "-p", "sigma=0.9")
    assert [path.name for path in tmp_path.rglob("*.ipynb")] == ["mine.ipynb"]
    assert re.search(r"sigma +0.9", call("list", "mine"))
    assert "no such notebook; did you mean mine?" in call("run", "min", code=REFUSED)
    for words in (("claims",), ("fork", "mine", "other", "--book")):
        said = re.sub(r"\s+", " ", call(*words, code=REFUSED))
        assert "is not inside a checkout of vae_lab. A checkout of the project adds the book" in said
    assert len(list(tmp_path.rglob("*.ipynb"))) == 1


def test_a_broken_notebook_is_named_and_the_others_are_listed(here: Checkout) -> None:
    here.notebooks(one=VALUE, two=VALUE)
    here.write("notebooks/one.ipynb", "{")
    assert "one.ipynb cannot be read" in call("run", "one", code=REFUSED)
    said = call("list")
    assert "one.ipynb cannot be read" in said
    assert "two" in said


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_names(here: Checkout, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"COMP_WORDS": "vae-lab run o", "COMP_CWORD": "2", "_TYPER_COMPLETE_ARGS": "vae-lab run o"}
    for name, value in {**words, "_VAE_LAB_COMPLETE": f"complete_{shell}"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    result = CliRunner().invoke(app, [], prog_name="vae-lab")
    assert "one" in result.output


# Running


def test_runs_once_and_shows_what_came_out(here: Checkout) -> None:
    run = here.vae_lab("run", "one", "-p", "seed=3")
    assert run.returncode == 0, run.stderr
    assert "cell 2 of 3" in run.stderr
    (path,) = (here.folder / "build/runs/one/notebooks").iterdir()
    assert str(path) in run.stderr
    assert nbformat.read(path, as_version=4).metadata.papermill.parameters == {"seed": 3}

    failing = here.vae_lab("run", "one", "-p", "seed=4", "--", "--config", "nonsense")
    assert failing.returncode == FAILED, "Snakemake refused what comes after --"
    assert "lost" in failing.stderr


def test_a_sweep_skips_what_is_done_and_keeps_what_fails(here: Checkout) -> None:
    here.notebooks(one=FAIL + VALUE)
    sweep = here.vae_lab("sweep", "one", "-p", "seed=1:3", "--cores", "2")
    assert sweep.returncode == FAILED
    assert "one: 1 ran, 1 failed, in" in sweep.stderr
    assert "(seed=2): ValueError: in cell 3: two [is] too many" in sweep.stderr
    kept = re.findall(r"kept at (\S+)", sweep.stderr)
    assert [(here.folder / path).exists() for path in kept] == [True]

    again = here.vae_lab("sweep", "one", "-p", "seed=0:3", "--json")
    assert again.returncode == FAILED
    report = json.loads(again.stdout)
    seeds = {run["parameters"].get("seed", 0): run["status"] for run in report["runs"].values()}
    assert seeds == {0: "done", 1: "skipped", 2: "failed"}
    ((run, failure),) = report["failures"].items()
    assert failure == {
        "error": "ValueError",
        "message": "in cell 3: two [is] too many",
        "kept": f"build/runs/one/failed/{run}.ipynb",
    }

    table = pd.DataFrame(json.loads(call("results", "one", "--json")))
    assert sorted(zip(table["seed"], table["status"], table["kind"], strict=True)) == [
        (0, "done", "run"),
        (1, "done", "run"),
        (2, "failed", "error"),
    ]
    csv, parquet = here.folder / "a.csv", here.folder / "a.parquet"
    call("results", "one", "--csv", str(csv), "--parquet", str(parquet))
    assert (
        pd.read_csv(csv)["seed"].tolist()
        == pd.read_parquet(parquet)["seed"].tolist()
        == table["seed"].tolist()
    )
    assert "cannot be written" in call("results", "one", "--csv", "nowhere/a.csv", code=REFUSED)

    here.notebooks(one=VALUE)
    assert statuses(here, "one", "-p", "seed=0:3") == ["done"] * 3
    assert statuses(here, "one", "-p", "seed=0:3") == ["skipped"] * 3
    assert not list((here.folder / "build/runs/one/failed").iterdir())

    assert "Delete 3 runs of one?" in CliRunner().invoke(app, ["clean"], input="n\n").output
    assert len(list((here.folder / "build/runs/one/notebooks").iterdir())) == 3
    assert call("clean", "one", "--yes") == "3 runs deleted.\n"
    assert call("clean") == "There are no runs.\n"


@pytest.mark.parametrize(
    "name", ["../../notebooks", "..", "../..", ".", "", "*", "on?", "linked", "one/notebooks", "/"]
)
def test_nothing_is_deleted_but_a_folder_of_runs(here: Checkout, name: str) -> None:
    here.write("build/runs/one/notebooks/one--1.ipynb", "{}")
    (here.folder / "build/runs/linked").symlink_to(here.folder / "notebooks")
    before = sorted(here.folder.rglob("*"))
    call("clean", name, "--yes", code=REFUSED)
    call("clean", str(here.folder / "notebooks"), "--yes", code=REFUSED)
    assert sorted(here.folder.rglob("*")) == before
    here.write("build/runs/tensorboard/events", "of another program")
    here.write("build/runs/one/notes.txt", "somebody's")
    assert call("clean", "--yes") == "1 runs deleted.\n"
    left = {
        path.relative_to(here.folder / "build/runs").as_posix()
        for path in (here.folder / "build/runs").rglob("*")
    }
    assert left == {"linked", "one", "one/notes.txt", "tensorboard", "tensorboard/events"}
    assert (here.folder / "notebooks/one.ipynb").exists()


CLAIM = """from IPython.display import display
claim = {"sentence": "Small.", "value": f"{seed}", "holds": seed < 5, "evidence": "one seed"}
display({"text/plain": "a claim", "application/vnd.vae-lab.claim+json": claim}, raw=True)"""


def test_claims_of_runs_and_of_the_book(here: Checkout) -> None:
    here.notebooks(one=CLAIM)
    run = here.vae_lab("run", "one")
    assert re.search(r"holds +Small\. +0", run.stdout)
    assert call("claims", "one").split() == ["verdict", "claim", "value", "holds", "Small.", "0"]
    statuses(here, "one", "-p", "seed=0,7")
    found = json.loads(call("claims", "one", "--json", code=FAILED))
    assert sorted(claim["holds"] for claim in found) == [False, True]
    assert "does not hold" in call("claims", "one", code=FAILED)
    claim = {"page": "one", "sentence": "S.", "value": "1", "holds": True, "evidence": "one seed"}
    here.write("build/book/claims.json", json.dumps([claim]))
    assert "S." in call("claims")


def test_of_two_sweeps_of_one_notebook_one_must_wait_and_of_two_notebooks_none(here: Checkout) -> None:
    here.notebooks(one=f"{WAIT}\n{VALUE}", two=VALUE)
    with here.command("sweep", "one") as first:
        here.waiting()
        second = here.vae_lab("sweep", "one", "-p", "seed=1")
        assert second.returncode == BUSY
        assert "Runs of one go on in this folder. Wait until they have ended." in second.stderr
        assert here.vae_lab("run", "one", "-p", "seed=1").returncode == BUSY
        assert "Wait until they have ended" in call("clean", "--yes", code=BUSY)
        assert statuses(here, "two", "-p", "seed=0:2") == ["done", "done"]
        here.open_gate()
        _, stderr = first.communicate(timeout=60)
    assert first.returncode == 0, stderr
    assert "one: 1 ran" in stderr


def test_an_interrupted_sweep_stops_and_is_carried_on(here: Checkout) -> None:
    here.notebooks(one=f"{VALUE}\nif seed:\n" + "".join(f"    {line}\n" for line in WAIT.splitlines()))
    with here.command("sweep", "one", "-p", "seed=0:2") as sweep:
        processes = here.waiting()
        eventually(lambda: len(here.executed("runs/one")) == 1)
        eventually(lambda: here.incomplete() == 1)
        sweep.send_signal(signal.SIGINT)
        _, stderr = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == INTERRUPTED, stderr
    assert "Interrupted. What is done is kept; the same command carries on." in stderr
    assert "1 ran, 1 lost" in stderr
    for process in processes:
        process.wait(10)
    here.open_gate()
    assert statuses(here, "one", "-p", "seed=0:2") == ["skipped", "done"]


def test_a_sweep_in_the_background_can_be_stopped(here: Checkout) -> None:
    """Where a shell lets it ignore interruptions: all of it ends, and no further run begins."""
    here.notebooks(one=WAIT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the processes inherit it
    try:
        with here.command("sweep", "one", "-p", "seed=0:3", "--cores", "1") as sweep:
            processes = here.waiting()
            sweep.terminate()
            _, stderr = sweep.communicate(timeout=PATIENCE)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert sweep.returncode == INTERRUPTED, stderr
    assert "3 lost" in stderr
    for process in processes:
        process.wait(10)
    assert len(list((here.folder / "build/runs/one/running").iterdir())) == 1, "no further run began"


DEAF = """import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print(flush=True)
time.sleep(600)"""


def test_what_is_deaf_to_an_interruption_is_killed(here: Checkout) -> None:
    runs = Runs(Workplace(here.folder), read_experiment(here.folder / "notebooks/one.ipynb"), [{}])
    command = [sys.executable, "-c", DEAF]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as runs.process:
        assert runs.process.stdout and runs.process.stdout.readline()
        runs.patience = 1
        runs.interrupt()
    assert runs.process.returncode == -signal.SIGKILL
    runs.interrupt()  # too late, which is no error


def test_a_terminal_shows_a_bar_with_the_time_left(here: Checkout) -> None:
    master, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    command = [Path(sys.executable).with_name("vae-lab"), "sweep", "one", "-p", "seed=0:2", "--cores", "1"]
    with subprocess.Popen(command, stderr=terminal, cwd=here.folder, env=environment) as process:
        os.close(terminal)
        said = b""
        with contextlib.suppress(OSError):  # Linux says so at the end
            while part := os.read(master, 65536):
                said += part
    os.close(master)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", said.decode())
    for part in ("0/2", "1/2", "2/2", "━", "-:--:--"):
        assert part in text, part


def test_a_time_limit_runs_nothing_again(here: Checkout) -> None:
    assert statuses(here, "one") == ["done"]
    assert statuses(here, "one", "--time-limit", "600") == ["skipped"]


# Your own notebook


def test_a_fork_runs_with_its_own_defaults(here: Checkout) -> None:
    said = call("fork", "one", "my_own", "-p", "seed=5")
    assert "run it by `vae-lab run my_own`" in re.sub(r"\s+", " ", said)
    notebook = nbformat.read(here.folder / "notebooks/my_own.ipynb", as_version=4)
    assert notebook.cells[0].source == "# Chapter one: my-own"
    assert notebook.cells[1].source == "seed: int = 5"
    assert here.vae_lab("run", "my_own").returncode == 0


@pytest.mark.parametrize(
    ("written", "meant"), [("010", 10), ("0x10", 16), ("0o10", 8), ("1_000", 1000), (" +7", 7), ("1e3", 1000)]
)
def test_a_number_is_what_python_or_a_reader_takes_it_for(here: Checkout, written: str, meant: int) -> None:
    """And not what YAML takes it for: 8, or seconds by the sixties."""
    call("fork", "one", "mine", "-p", f"seed={written}")
    cell = nbformat.read(here.folder / "notebooks/mine.ipynb", as_version=4).cells[1]
    assert cell.source == f"seed: int = {meant}"


def test_a_fork_can_be_a_chapter(here: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork of a real chapter keeps the rules of the book, with labels of its own."""
    name = "02_reparameterization"
    for path in ("config/book.yaml", "config/quick.yaml", "book/_toc.yml", f"notebooks/{name}.ipynb"):
        here.write(path, (ROOT / path).read_text("utf-8"))
    before = {
        path: yaml.safe_load((here.folder / path).read_text())
        for path in ("config/book.yaml", "book/_toc.yml")
    }
    call("fork", name, "my_own", "-p", "sigma=0.9", "--book")
    config = yaml.safe_load((here.folder / "config/book.yaml").read_text())
    assert list(config["notebooks"]) == [*before["config/book.yaml"]["notebooks"], "my_own"]
    assert {**config, "notebooks": 0} == {**before["config/book.yaml"], "notebooks": 0}
    contents = (here.folder / "book/_toc.yml").read_text()
    assert contents.replace("      - file: chapters/my_own\n", "") == (ROOT / "book/_toc.yml").read_text()
    listed = [page["file"] for part in yaml.safe_load(contents)["parts"] for page in part["chapters"]]
    assert listed.index("chapters/my_own") == listed.index("chapters/14_in_practice") + 1
    call("fork", "my_own", "again", "--book")
    quick = yaml.safe_load((here.folder / "config/quick.yaml").read_text())["notebooks"]
    assert list(quick)[-2:] == ["my_own", "again"]
    both = [(here.folder / f"notebooks/{n}.ipynb").read_text() for n in (name, "my_own")]
    figures = [set(re.findall(r'"name": "(fig-[\w-]+)"', text)) for text in both]
    assert figures[1] == {f"{figure}-my-own" for figure in figures[0]}
    assert 'provenance(\\"my_own\\")' in both[1]


def lighten(path: Path) -> None:
    """Leaves nothing of a notebook but its parameters: many runs of it then take little time."""
    notebook = nbformat.read(path, as_version=4)
    title, (imports, parameters) = notebook.cells[0], [c for c in notebook.cells if c.cell_type == "code"][:2]
    types = re.findall(r"^from (?:pydantic|vae_lab\.parameters) .+$", imports.source, re.MULTILINE)
    imports.source = "\n".join(types)
    notebook.cells = [title, imports, parameters]
    nbformat.write(notebook, path)


def test_the_commands_of_the_readme_and_of_the_page_on_forking_do_what_they_say(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """As written, one after the other, in a copy of this checkout."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "_build", "__pycache__"))
    (copy / ".venv").symlink_to(sys.prefix)
    for path in (copy / "notebooks").glob("*.ipynb"):  # without what somebody made by these very commands
        if path.name not in {chapter.name for chapter in NOTEBOOKS}:
            path.unlink()

    def follow(commands: list[str]) -> list[str]:
        script = "set -eu\n" + "".join(f"{command}\necho ---\n" for command in commands)
        run = subprocess.run(["bash", "-c", script], cwd=copy, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
        return re.sub(r" *\n *", "\n", run.stdout).split("---\n")

    start = time.monotonic()
    readme = (ROOT / "README.md").read_text("utf-8").partition("## Fork an experiment")[2].partition("```")[0]
    commands = re.findall(r"^    (.+)", readme, re.MULTILINE)
    _, listing, verdicts, forked, _ = follow(commands[:4])
    lighten(copy / "notebooks/mine.ipynb")  # "Edit it as you like"
    _, swept, results, _ = follow([commands[0], *commands[4:]])
    minutes = (time.monotonic() - start) / 60
    assert "sigma" in listing
    assert (verdicts.count("\nholds"), verdicts.count("\ndoes not hold")) == (3, 1)
    assert (forked, swept) == ("", "")
    assert {tuple(line.split()[:2]) for line in results.splitlines() if line[:1] in "01"} == {
        ("0.0", "0"),
        ("0.0", "1"),
        ("1.0", "0"),
        ("1.0", "1"),
    }
    record_property("figures", f"{len(commands)} commands of the README followed in {minutes:.1f} minutes")

    activate, pages = commands[0], sections("fork")
    value, many = (code(pages[title], "bash")[0].splitlines() for title in ("Another value", "Many values"))
    assert "does not hold" in follow([activate, *value])[2]
    lighten(copy / "notebooks/02_reparameterization.ipynb")
    follow([activate, *many])
    table = pd.read_csv(copy / "results.csv")
    assert len(table[["seed", "sigma"]].drop_duplicates()) == 6
    slurm, kubernetes, whole = (text.strip() for text in code(pages["On a cluster"], "bash"))
    follow([activate, slurm.replace(" -- ", " --dry-run -- ")])
    assert "--storage s3://bucket/folder -- " in kubernetes
    follow([activate, f"{whole} --dry-run"])


def test_the_module_can_be_run_too() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "vae_workflow.cli", "--version-of-nothing"], capture_output=True, text=True
    )
    assert run.returncode == REFUSED
