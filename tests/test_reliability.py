"""Runs that are killed, starved, locked out or attacked: nothing is lost, and nothing incomplete is a result.

What each test went through is printed at the end of the test run.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
import torch
from checkout import VALUE, WAIT, Checkout, eventually
from safetensors.torch import save_file

from vae_lab import VAE
from vae_lab.parameters import ParameterError
from vae_lab.vae.files import load_model, save_model
from vae_workflow.cli import FAILED, REFUSED
from vae_workflow.experiments import read_experiment
from vae_workflow.settings import grid

SEED = 0  # of the moments at which runs are killed
KILLS = 6
Figures = Callable[[str], None]


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Takes what is printed at the end of the test run."""
    return lambda text: record_property("figures", text)


@contextlib.contextmanager
def mounted(*options: str, at: Path) -> Iterator[None]:
    """A file system of its own; the test is skipped where that is not allowed."""
    at.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(at)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this system lets nobody mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def value(notebook: nbformat.NotebookNode) -> float:
    """What `VALUE` printed."""
    (output,) = notebook.cells[-1].outputs
    return float(output.text)


# Killed


def test_a_run_may_be_killed_at_any_moment(checkout: Checkout, figures: Figures) -> None:
    """After each kill, all results that are there are complete and right; in the end, all are there."""
    checkout.notebooks(one=VALUE)
    points = {f"one--{seed}": {"seed": seed} for seed in range(8)}
    checkout.configure(**points)
    folder = checkout.folder / "build/book/notebooks"

    def found() -> dict[str, float]:
        return {p.stem: value(nbformat.read(p, as_version=4)) for p in folder.glob("*")}

    right = {name: random.Random(point["seed"]).random() + 1 for name, point in points.items()}
    moments, before, useful = random.Random(SEED), set(), 0
    for _ in range(KILLS):
        with checkout.started("notebooks", "--cores", "2") as run:
            runner = psutil.Process(run.pid)
            eventually(lambda run=run, runner=runner: run.poll() is not None or runner.children())  # type: ignore[misc]
            time.sleep(moments.uniform(0, 2))  # jobs take about a second
            useful += run.poll() is None
            children = runner.children(recursive=True) if run.poll() is None else []
            run.kill()
            run.wait()
        now = found()
        assert now.items() <= right.items(), "a result is wrong"
        # Snakemake runs again what it has not seen the end of, and takes it away to begin with.
        assert len(before - set(now)) <= 2, "results are lost"
        before = set(now)
        psutil.wait_procs(children, timeout=20)
    checkout.succeeds("notebooks", "--cores", "2")
    assert found() == right
    assert not list((checkout.folder / "build/book/running").iterdir())
    assert useful >= KILLS / 2, "most kills came after the end"
    figures(
        f"{KILLS} kills of the runner survived ({useful} of them while it worked), {len(right)} results right"
    )


def test_snakemake_ends_with_the_command_that_started_it(checkout: Checkout, figures: Figures) -> None:
    checkout.notebooks(one=f"{WAIT}\n{VALUE}")
    with checkout.command("sweep", "one") as sweep:
        processes = checkout.waiting()
        (snakemake,) = psutil.Process(sweep.pid).children()
        sweep.kill()
    _, alive = psutil.wait_procs([snakemake, *processes], timeout=20)
    assert not alive, "the killed command left processes behind"
    checkout.open_gate()
    assert checkout.vae_lab("sweep", "one").returncode == 0
    figures("1 kill of the command line: its runner and kernel ended, and the next sweep did the rest")


def test_a_kernel_that_dies_is_named(checkout: Checkout, figures: Figures) -> None:
    """As the system does when memory runs out: by SIGKILL, to the kernel or to the job around it."""
    checkout.notebooks(
        one="import os, signal, time\n"
        "os.kill(os.getppid() if seed else os.getpid(), signal.SIGKILL)\ntime.sleep(60)"
    )
    sweep = checkout.vae_lab("sweep", "one", "-p", "seed=0,1")
    assert sweep.returncode == FAILED
    assert (
        "(defaults): DeadKernelError: in cell 2: the kernel died, as it does when memory runs out"
        in sweep.stderr
    )
    assert "(seed=1): Lost: interrupted, killed, out of memory, or never started" in sweep.stderr
    assert checkout.executed("runs/one") == set()
    figures("2 deaths of a kernel and of a job reported with the name of the run")


HANGS = """import signal, time
if seed:  # deaf
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
    time.sleep(600)
while True:  # busy
    pass"""


def test_a_notebook_that_hangs_is_stopped(checkout: Checkout, figures: Figures) -> None:
    checkout.notebooks(one=HANGS)
    start = time.monotonic()
    sweep = checkout.vae_lab("sweep", "one", "-p", "seed=0,1", "--cores", "2", "--time-limit", "8")
    assert sweep.returncode == FAILED
    assert sweep.stderr.count("TimeLimit: in cell 2: stopped at the time limit of 8 s") == 1
    assert sweep.stderr.count("TimeLimit: in cell 3: stopped at the time limit of 8 s") == 1
    assert time.monotonic() - start < 60
    figures("2 hanging notebooks, one busy and one deaf, stopped at their time limit")


# No place


def test_a_full_disk_is_an_error_and_no_result(checkout: Checkout, figures: Figures) -> None:
    checkout.notebooks(one="print('a' * 3_000_000 if seed else 'b')")
    with mounted("-t", "tmpfs", "-o", "size=2m", "tmpfs", at=checkout.folder / "build"):
        sweep = checkout.vae_lab("sweep", "one", "-p", "seed=0,1", "--cores", "1")
        assert sweep.returncode == FAILED
        assert "No space left on device" in sweep.stderr
        (path,) = (checkout.folder / "build/runs/one/notebooks").iterdir()
        nbformat.validate(nbformat.read(path, as_version=4))
        assert not list((checkout.folder / "build/runs/one/running").iterdir())

        stuffing = checkout.folder / "build/stuffing"
        with contextlib.suppress(OSError), stuffing.open("wb") as file:
            while True:
                file.write(b"0" * 4096)
        sweep = checkout.vae_lab("sweep", "one", "-p", "seed=0:3")
        assert sweep.returncode == REFUSED
        assert "cannot be written to: No space left on device" in sweep.stderr
        assert "Traceback" not in sweep.stderr

        stuffing.unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(checkout.folder / "build")], check=True)
        assert checkout.vae_lab("sweep", "one", "-p", "seed=0,1").returncode == 0
    figures("2 full disks: before the start and amid a run")


def test_a_checkout_that_cannot_be_written_to_says_so(checkout: Checkout, figures: Figures) -> None:
    checkout.notebooks(one=VALUE)
    with mounted("--bind", str(checkout.folder), at=checkout.folder):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(checkout.folder)], check=True)
        sweep = checkout.vae_lab("sweep", "one")
        fork = checkout.vae_lab("fork", "one", "two")
        listing = checkout.vae_lab("list")
    assert [sweep.returncode, fork.returncode, listing.returncode] == [REFUSED, REFUSED, 0]
    for said in (sweep.stderr, fork.stderr):
        assert "Read-only file system" in said
        assert "Traceback" not in said
    figures("2 commands in a read-only checkout refused with the reason")


def test_any_path_will_do(tmp_path: Path, figures: Figures) -> None:
    folder = tmp_path / "with spaces" / "Übung µ + σ·ε 再参数化" / 'it\'s "quoted" $HOME {braces} (1)'
    folder.mkdir(parents=True)
    checkout = Checkout(folder)
    checkout.notebooks(one=VALUE)
    sweep = checkout.vae_lab("sweep", "one")
    assert sweep.returncode == 0, sweep.stderr
    figures("a path with spaces, quotes, braces and letters of four scripts")


# Attacked

CODE = [
    "__import__('os').system('touch pwned')",
    "1; open('pwned', 'w')",
    "1\nopen('pwned', 'w')",
    "!!python/object/apply:os.system ['touch pwned']",
    "!!python/object/new:os.system [touch pwned]",
    "!!python/name:os.system",
    "$(touch pwned)",
    "`touch pwned`",
    "' || touch pwned; '",
    '"; touch pwned; "',
    "'''\nopen('pwned', 'w')\n'''",
    '"""\nopen("pwned", "w")\n"""',
    "\\'; open(\\'pwned\\', \\'w\\') #",
    "{open('pwned', 'w')}",
    "{input} {output} {wildcards.notebook}",
    "%run pwned",
    "!touch pwned",
    "&& touch pwned",
    "| touch pwned",
    "${HOME}",
    "\x1b[31m",
    "a\\\nb",
    "# Parameters",
    "--help",
    "../../pwned",
    "null",
    "[1, 2",
    "é ε 🎲",
]


def test_code_in_a_parameter_is_a_value(checkout: Checkout, figures: Figures) -> None:
    """As text it arrives as it is; where a number is asked for it is refused."""
    checkout.notebooks(one="import json\nprint(json.dumps([name, names]))")
    path = checkout.folder / "notebooks/one.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = "seed: int = 0\nname: str = ''\nnames: list[str] = []\nrate: float = 1.0"
    nbformat.write(notebook, path)
    one = read_experiment(path)
    for text in CODE:
        assert grid(one, [f"name={text}"], several=False) == [{"name": text}]
        for parameter in ("seed", "rate", "names"):
            with pytest.raises(ParameterError):
                grid(one, [f"{parameter}={text}" if text != "null" else f"{parameter}=x"], several=False)

    words = ["-p", f"name={CODE[12]}", "-p", f"names={json.dumps(CODE)}"]
    run = checkout.vae_lab("run", "one", *words)
    assert run.returncode == 0, run.stderr
    (path,) = (checkout.folder / "build/runs/one/notebooks").iterdir()
    (output,) = nbformat.read(path, as_version=4).cells[-1].outputs
    assert json.loads(output.text) == [CODE[12], CODE]
    assert not list(checkout.folder.rglob("*pwned*"))
    figures(f"{len(CODE)} pieces of code tried as parameters of four types")


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch '{self.path}'",)


def test_a_model_file_is_never_unpickled(tmp_path: Path, figures: Figures) -> None:
    bomb, trace = Bomb(tmp_path / "pwned"), tmp_path / "pwned"
    pickle.loads(pickle.dumps(bomb))
    assert trace.exists(), "the bomb works"
    trace.unlink()
    files = {
        name: tmp_path / name for name in ("pickle", "torch", "legacy", "metadata", "config", "cut", "empty")
    }
    files["pickle"].write_bytes(pickle.dumps(bomb))
    torch.save({"weights": bomb}, files["torch"])
    torch.save({"weights": bomb}, files["legacy"], _use_new_zipfile_serialization=False)
    weights = {"weight": torch.zeros(2)}
    text = pickle.dumps(bomb).decode("latin-1")
    save_file(weights, files["metadata"], metadata={"vae_lab": text})
    save_file(weights, files["config"], metadata={"vae_lab": json.dumps({"features": text, "latents": 1})})
    save_model(VAE(4, 1), files["cut"])
    files["cut"].write_bytes(files["cut"].read_bytes()[:-7])
    files["empty"].touch()
    for path in files.values():
        with pytest.raises(ValueError, match="is not a model that"):
            load_model(path)
        assert not trace.exists(), path.name
    figures(f"{len(files)} hostile or damaged model files refused, none executed")
