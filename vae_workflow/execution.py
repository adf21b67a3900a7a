"""Executing a notebook by papermill: a result appears only when it is complete, and a failure is kept."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat

from .executed import Damaged, failure_in
from .files import folder_for_sockets
from .sources import files_of, fingerprint, unchanged
from .workplace import Workplace

# Errors that say of a file of ours that it cannot be written, and nothing of the notebook.
NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
NO_PLACE |= {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}


class Narrator:
    """Reports a notebook's progress in whole lines, readable when several notebooks run at once."""

    def __init__(self, name: str, every: float = 5.0) -> None:
        self.name, self.every, self.spoken = name, every, time.monotonic()
        self.cell = self.cells = 0

    def say(self, text: str) -> None:
        sys.stderr.write(f"{self.name}: {text}\n")
        sys.stderr.flush()

    def on_cell_execute(self, cell: Mapping[str, Any], cell_index: int) -> None:
        self.cell += 1
        self.say(f"cell {self.cell} of {self.cells}")

    def write(self, text: str) -> None:
        """Takes what the notebook prints and passes on its newest line now and then."""
        lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).strip())
        if lines[-1] and time.monotonic() - self.spoken >= self.every:
            self.spoken = time.monotonic()
            self.say(f"    {lines[-1][:150]}")

    def flush(self) -> None: ...


def execute(notebook: Path, output: Path, failed: Path, parameters: dict[str, Any], limit: int = 0) -> int:
    """Executes `notebook` to `output`, or `failed`; stopped after `limit` seconds, if not 0."""
    run = _Execution(notebook, output, failed, parameters, limit)
    try:
        return run.execute()
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
        with suppress(OSError):
            run.private.unlink()
        run.narrator.say(f"failed: {error.filename or output.parent} cannot be written to: {error.strerror}")
        return 1


class _Execution:
    """One execution of a notebook, in a file of its own until it is complete."""

    def __init__(
        self, notebook: Path, output: Path, failed: Path, parameters: dict[str, Any], limit: int
    ) -> None:
        self.notebook, self.output, self.failed = notebook, output, failed
        self.parameters, self.limit = parameters, limit
        self.started, self.narrator = time.monotonic(), Narrator(output.stem)
        # Papermill saves the notebook after every cell, so it is not complete while it runs.
        self.running = output.parent.parent / "running"
        self.private = self.running / f"{output.stem}.{os.getpid()}.ipynb"
        self.lock = Workplace(Path.cwd()).lock

    def execute(self) -> int:
        for folder in (self.running, self.output.parent, self.failed.parent):
            folder.mkdir(parents=True, exist_ok=True)
        for left in (self.failed, *self.running.glob(f"{self.output.stem}.*.ipynb")):
            left.unlink(missing_ok=True)
        try:
            with unchanged(self.notebook, self.lock, *files_of(self.notebook)):
                used = fingerprint(self.notebook, self.lock, self.parameters)
                self.run()
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_PLACE:
                raise
            failure = self.failure(error)
            self.keep(self.failed, {"failure": failure})
            self.narrator.say(f"failed: {describe_failure(failure)}")
            return 1
        self.keep(self.output, {"sources": used})
        self.narrator.say(f"done in {time.monotonic() - self.started:.0f} s")
        return 0

    def run(self) -> None:
        """Runs the cells, one after the other, into the private file."""
        import papermill
        from traitlets.config import Config

        notebook = nbformat.read(self.notebook, as_version=4)
        self.narrator.cells = sum(c.cell_type == "code" and bool(c.source.strip()) for c in notebook.cells)
        self.narrator.cells += bool(self.parameters)  # papermill adds a cell with them
        kernel = notebook.metadata.get("kernelspec", {})
        with folder_for_sockets() as folder:
            papermill.execute_notebook(
                self.notebook,
                self.private,
                self.parameters,
                kernel_name=kernel.get("name", "python3"),
                language=kernel.get("language", "python"),
                progress_bar=False,
                on_cell_execute=self.narrator.on_cell_execute,
                stdout_file=self.narrator,
                stderr_file=self.narrator,
                extra_arguments=["--log-level=CRITICAL"],  # the kernel's own remarks
                shutdown_kernel="immediate",  # nothing is left; an orderly end takes seconds
                # For nbclient: sockets that are files, since kernels that start at once may choose the same
                # port, and the time that is left for a cell.
                config=Config({"ConnectionFileMixin": connection(folder)}),
                timeout_func=lambda _: self.time_left(),
            )

    def time_left(self) -> float | None:
        return max(1, self.limit + self.started - time.monotonic()) if self.limit else None

    def failure(self, error: Exception) -> dict[str, Any]:
        """What went wrong, for people: the cell, the kind of error and its message."""
        from nbclient.exceptions import CellTimeoutError, DeadKernelError
        from papermill.exceptions import PapermillExecutionError

        failure = {"cell": self.narrator.cell, "error": type(error).__name__, "message": str(error)}
        if isinstance(error, PapermillExecutionError):
            failure |= {"error": error.ename, "message": error.evalue}
        elif isinstance(error, CellTimeoutError):
            failure |= {"error": "TimeLimit", "message": f"stopped at the time limit of {self.limit} s"}
        elif isinstance(error, DeadKernelError):
            failure["message"] = "the kernel died, as it does when memory runs out"
        return failure

    def keep(self, target: Path, note: Mapping[str, Any]) -> None:
        """Puts what ran to `target`, at once and complete, with a `note` in its metadata."""
        if not self.private.exists():  # failed before the first cell
            shutil.copyfile(self.notebook, self.private)
        executed = nbformat.read(self.private, as_version=4)
        executed.metadata.setdefault("papermill", {})["output_path"] = str(target)
        executed.metadata.update(note)
        nbformat.write(executed, self.private)
        os.replace(self.private, target)


def connection(folder: Path) -> dict[str, str]:
    """How to reach a kernel: by files in `folder` alone, which goes when the kernel does."""
    return {"transport": "ipc", "ip": str(folder / "k"), "connection_file": str(folder / "kernel.json")}


def describe_failure(failure: Mapping[str, Any]) -> str:
    place = f"in cell {failure['cell']}, " if failure["cell"] else ""
    message = str(failure["message"]).strip().replace("\n", "\n        ")
    return f"{place}{failure['error']}: {message}"


def summary(notebooks: Mapping[str, tuple[str, str]], index: str) -> str:
    """What went wrong, from where each notebook's (executed, failed) files lie, and the book's first page."""
    lines = []
    for name, (executed, failed) in notebooks.items():
        if Path(executed).exists():
            continue
        if Path(failed).exists():
            try:
                said = describe_failure(failure_in(Path(failed)))
            except Damaged as damage:
                said = str(damage)
            lines += [f"  {name}: {said}", f"      kept at {failed}"]
        else:
            lines += [f"  {name}: interrupted, killed, out of memory, or not asked for"]
    if not lines and Path(index).exists():
        return f"\nAll notebooks ran and the book is built ({index}), with the faults named above."
    if not lines:
        return "\nAll notebooks ran; the book could not be built, for the reasons above."
    return "\n".join(["", "These notebooks failed (the others are done):", *lines])
