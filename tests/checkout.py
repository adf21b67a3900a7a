"""A small checkout with the project's workflow, and notebooks that wait, fail and die on demand."""

import contextlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600  # seconds, until a test is taken to hang: slowness of a busy machine is no failure

VALUE = "import random, vae_lab\nprint(random.Random(seed).random() + vae_lab.OFFSET)"
# Leaves the process ids of its kernel and of its runner, then waits for the test to open the gate.
WAIT = """import os, pathlib, time
pathlib.Path("waiting.tmp").write_text(f"{os.getpid()} {os.getppid()}")
os.replace("waiting.tmp", "waiting")
while not pathlib.Path("gate").exists():
    time.sleep(0.05)"""


BOOK = {
    "title": "Book",
    "author": "Nobody",
    "execute": {"execute_notebooks": "off"},
    "sphinx": {
        "config": {"suppress_warnings": ["mystnb.unknown_mime_type"]}
    },  # claims, without our extension
}


class Checkout:
    """A checkout with the project's workflow and little else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(ROOT / "Snakefile", folder)
        for name in ("vae_workflow", "profiles"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.write("requirements.lock", "")
        self.write("vae_lab/__init__.py", "OFFSET = 1\n")
        for name in ("records.py", "wording.py", "words.toml"):  # on which the workflow depends
            self.write(f"vae_lab/{name}", (ROOT / "vae_lab" / name).read_text("utf-8"))
        self.write("book/_config.yml", yaml.dump(BOOK))
        self.write("book/index.md", "# Welcome\n")

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def notebooks(self, **cells: str) -> None:
        """Writes notebooks of one code cell each (after that of the parameters), and lists them."""
        for name, source in cells.items():
            notebook = new_notebook(
                cells=[  # with fixed ids, so that the same cells make the same file
                    new_markdown_cell(f"# Chapter {name}", id="title"),
                    new_code_cell("seed: int = 0", id="parameters", metadata={"tags": ["parameters"]}),
                    new_code_cell(source, id="work"),
                ],
                metadata={
                    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
                },
            )
            (self.folder / "notebooks").mkdir(exist_ok=True)
            nbformat.write(notebook, self.folder / "notebooks" / f"{name}.ipynb")
        chapters = [{"file": f"chapters/{name}"} for name in cells]
        self.write("book/_toc.yml", yaml.dump({"format": "jb-book", "root": "index", "chapters": chapters}))
        self.configure(**dict.fromkeys(cells))

    def configure(
        self,
        name: str = "book",
        output: str = "book",
        settings: dict[str, Any] | None = None,
        **notebooks: Any,
    ) -> None:
        config = {"name": name, "output": output, "notebooks": notebooks, **(settings or {})}
        self.write(f"config/{name}.yaml", yaml.dump(config))

    @contextlib.contextmanager
    def _process(self, *command: str | Path, stdout: int) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(command, cwd=self.folder, stdout=stdout, stderr=subprocess.PIPE, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def started(self, *arguments: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
        """A run in the background, killed at the end of the block if it still goes on."""
        return self._process(sys.executable, "-m", "snakemake", *arguments, stdout=subprocess.DEVNULL)

    def command(self, *words: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
        """The command `vae-lab` in the background, killed at the end of the block if it still goes on."""
        # By its script: `python -m` would take the package of this checkout, which has nothing in it.
        return self._process(Path(sys.executable).with_name("vae-lab"), *words, stdout=subprocess.PIPE)

    def vae_lab(self, *words: str) -> subprocess.CompletedProcess[str]:
        with self.command(*words) as process:
            stdout, stderr = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.started(*arguments) as run:
            _, stderr = run.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(run.args, run.returncode, None, stderr)

    def succeeds(self, *arguments: str) -> set[str]:
        """Runs the workflow; the notebooks that it executed."""
        run = self.run(*arguments)
        assert run.returncode == 0, run.stderr
        return set(re.findall(r"^(\w+): done in", run.stderr, flags=re.MULTILINE))

    def outputs(self, name: str, build: str = "book") -> list[Any]:
        notebook = nbformat.read(self.folder / f"build/{build}/notebooks/{name}.ipynb", as_version=4)
        return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]

    def executed(self, build: str = "book") -> set[str]:
        return {path.stem for path in (self.folder / f"build/{build}/notebooks").glob("*")}

    def incomplete(self) -> int:
        """How many results Snakemake takes for incomplete: those that it has not seen the end of."""
        return sum(path.is_file() for path in (self.folder / ".snakemake/incomplete").rglob("*"))

    def waiting(self) -> list[psutil.Process]:
        """Kernel and runner of the notebook that waits at the gate."""
        eventually((self.folder / "waiting").exists)
        return [psutil.Process(int(pid)) for pid in (self.folder / "waiting").read_text().split()]

    def open_gate(self) -> None:
        self.write("gate", "")


def eventually(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
