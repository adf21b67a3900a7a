"""Runs of one notebook, which Snakemake executes: what is to be done, was done, failed.

A run lies in `build/runs/NOTEBOOK/notebooks/RUN.ipynb`, or, if it failed, in `failed` beside it. Both appear
at once and complete, wherever they are executed, so it is enough to watch files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from .executed import Damaged, Executed, checked, failure_in, read_executed, take_away_damaged
from .experiments import Experiment, run_name
from .files import write_whole
from .workplace import PARENT, RUNS, Workplace, lock_file

DRY_RUN = {"-n", "--dry-run", "--dryrun"}  # options of Snakemake
PATIENCE = {True: 60, False: 10}  # seconds to stop after an interruption, on a cluster and here
PARTS = ("notebooks", "failed", "running")  # of a folder of runs


class Busy(RuntimeError):
    """Another process executes runs of this notebook in this checkout."""


class CannotWrite(RuntimeError):
    """The folder cannot be written to; the message says why."""


class CannotRead(RuntimeError):
    """The storage cannot be read; the message says why."""


@dataclass(frozen=True)
class Failure:
    """Why a run is not there, and where what there is of it is kept."""

    error: str
    message: str
    kept: str | None


class Runs:
    """Runs of `experiment` in the folder of `place`, one for each of `points`, which are parameters.

    `storage` is where results are kept if not there, such as `s3://bucket/folder`.
    """

    def __init__(
        self,
        place: Workplace,
        experiment: Experiment,
        points: Sequence[Mapping[str, Any]],
        storage: str | None = None,
    ) -> None:
        self.place, self.root = place, place.root
        self.experiment, self.storage = experiment, storage and storage.rstrip("/")
        plain = (json.loads(json.dumps(point)) for point in points)  # as they are handed on
        self.points: dict[str, dict[str, Any]] = {run_name(experiment.name, point): point for point in plain}
        self.folder = Path(RUNS) / experiment.name
        kept = Path(".snakemake/storage") / storage.replace("://", "/") if storage else Path()
        self.here = self.root / kept / self.folder  # results, or copies of them
        self.log = self.root / self.folder / f"snakemake.{os.getpid()}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.before: dict[str, _Stamps] = {}
        self.patience = PATIENCE[False]

    def executed(self, run: str) -> Path:
        return self.here / "notebooks" / f"{run}.ipynb"

    def failed(self, run: str) -> Path:
        return self.root / self.folder / "failed" / f"{run}.ipynb"

    def start(
        self,
        cores: int | None = None,
        executor: str | None = None,
        time_limit: int | None = None,
        more: Sequence[str] = (),
        quietly: bool = True,
    ) -> subprocess.Popen[bytes]:
        """Starts Snakemake, which ends when this process ends. Raises `CannotWrite`.

        `executor` is a folder of profiles/, or a name that Snakemake knows; `cores` is how many runs go on at
        a time; `time_limit` is in seconds, for each; `more` goes to Snakemake as it is. `quietly`: its
        messages go to a file.
        """
        self.patience = PATIENCE[bool(executor)]
        text = yaml.safe_dump(self._config(time_limit))
        # One for each set of runs: on a cluster every job reads it again.
        file = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:10]}.yaml"
        command = [sys.executable, "-m", "snakemake", "notebooks", "--configfile", str(file)]
        command += [*self._where(), *self._how(cores, executor)]
        self.before = self._stamps()
        try:
            self.place.note_versions()
            for part in (self.root / ".snakemake", *(self.root / self.folder / name for name in PARTS)):
                part.mkdir(parents=True, exist_ok=True)
            write_whole(self.root / file, text)
            log = self.log.open("wb") if quietly else None
        except OSError as error:
            where = error.filename or self.root / self.folder
            raise CannotWrite(f"{where} cannot be written to: {error.strerror}") from error
        self.process = subprocess.Popen(
            [*command, *more],
            cwd=self.root,
            stdout=log or sys.stderr,
            stderr=log or sys.stderr,
            env={**os.environ, PARENT: str(os.getpid())},
            start_new_session=True,  # so that an interruption comes once
        )
        return self.process

    def _config(self, time_limit: int | None) -> dict[str, Any]:
        name = self.folder.relative_to("build").as_posix()
        limit = {"time_limit": time_limit} if time_limit else {}
        return {"name": name, "notebooks": self.points, **limit}

    def _where(self) -> list[str]:
        """Options of Snakemake that say where sources are, and results."""
        lent = [] if self.place.is_checkout else ["--snakefile", str(self.place.lender / "Snakefile")]
        if not self.storage:
            return lent
        provider = self.storage.partition(":")[0]
        kept = ["--default-storage-provider", provider, "--default-storage-prefix", self.storage]
        kept += ["--keep-storage-local-copies"]
        return [*lent, *kept, "--shared-fs-usage", "persistence", "source-cache", "sources"]

    def _how(self, cores: int | None, executor: str | None) -> list[str]:
        """Options of Snakemake that say what executes the runs, and how many at a time."""
        if not executor:
            return ["--cores", str(cores or "all")]
        profile = self.place.lender / "profiles" / executor
        chosen = ["--profile", str(profile)] if profile.is_dir() else ["--executor", executor]
        return [*chosen, *(["--jobs", str(cores)] if cores else [])]

    def interrupt(self) -> None:
        """Stops Snakemake and its jobs, as Ctrl-C does, and by force if they have not stopped in time.

        Snakemake does not notice an interruption that comes while it writes a message. Being killed loses no
        more than being interrupted, except that jobs on a cluster then go on.
        """
        assert self.process
        for sign in (signal.SIGINT, signal.SIGKILL):
            if self.process.poll() is None:
                os.killpg(self.process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(self.patience)

    def _stamps(self) -> dict[str, _Stamps]:
        return {run: (_stamp(self.executed(run)), _stamp(self.failed(run))) for run in self.points}

    def missing(self) -> int:
        """How many runs are not there."""
        return sum(not self.executed(run).exists() for run in self.points)

    def current(self) -> bool:
        """Whether all runs are there, from the present notebook, package and versions.

        Then there is nothing to do, and Snakemake, which takes seconds to say so, need not be started.
        """
        if self.storage or self.missing():
            return False
        try:
            self.place.note_versions()
        except OSError:
            return False
        # In a process that works where the runs do, and so finds the modules that they would.
        command = [sys.executable, "-m", "vae_workflow.sources", str(self.experiment.path)]
        found = subprocess.run(command, cwd=self.root, capture_output=True, text=True)
        if found.returncode:
            return False
        (present,) = json.loads(found.stdout).values()
        return all(
            read_executed(self.executed(run))["metadata"].get("sources") == present | {"parameters": point}
            for run, point in self.points.items()
        )

    def take_away_damaged(self, say: Callable[[str], Any], more: Sequence[str] = ()) -> None:
        """Deletes what is there of these runs and cannot be read, and says so.

        In a storage, it would have to be fetched for that. Nor is it done where `more` asks Snakemake for a
        dry run, which then names it.
        """
        if not self.storage and not DRY_RUN & set(more):
            take_away_damaged(map(self.executed, self.points), say)

    def finished(self) -> dict[str, str]:
        """Runs that ended since the start: "done" or "failed"."""
        found = {}
        for run, (executed, failed) in self._stamps().items():
            if executed and executed != self.before[run][0]:
                found[run] = "done"
            elif failed and failed != self.before[run][1]:
                found[run] = "failed"
        return found

    def ended(self) -> dict[str, str]:
        """What became of each run, when all has ended: done, failed, skipped or lost. Raises `Busy`."""
        assert self.process
        code, finished = self.process.wait(), self.finished()
        if not code:
            self.log.unlink(missing_ok=True)
        if code and not finished and is_held(lock_of(self.root, self.experiment.name)):
            raise Busy(f"Runs of {self.experiment.name} go on in this folder. Wait until they have ended.")
        there = {run for run in self.points if not code or self.executed(run).exists()}
        return {run: finished.get(run, "skipped" if run in there else "lost") for run in self.points}

    def failure(self, run: str) -> Failure:
        """Why a run failed or was lost."""
        if not self.failed(run).exists():
            said = re.findall(rf"(?m)^{re.escape(run)}: failed: (.*)$", self.messages())
            unsaid = "interrupted, killed, out of memory, or never started"
            return Failure("Lost", said[-1] if said else unsaid, None)
        kept = str(self.failed(run).relative_to(self.root))
        try:
            failure = failure_in(self.failed(run))
        except Damaged as damage:
            return Failure("Lost", str(damage), kept)
        where = f"in cell {failure['cell']}: " if failure["cell"] else ""
        return Failure(failure["error"], f"{where}{failure['message']}", kept)

    def messages(self) -> str:
        """What Snakemake said in the last quiet run."""
        return self.log.read_text("utf-8", errors="replace") if self.log.exists() else ""


def lock_of(root: Path, experiment: str) -> FileLock:
    """What a Snakemake that executes runs of the experiment holds, and lets go of however it ends."""
    return FileLock(lock_file(root, f"runs/{experiment}"))


def is_held(lock: FileLock) -> bool:
    """Whether another process holds the lock."""
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def folders_of_runs(root: Path) -> list[Path]:
    """The folders with runs, one for each notebook: they lie directly in `RUNS`, and are not links."""
    there = (root / RUNS).iterdir() if (root / RUNS).is_dir() else ()
    real = [folder for folder in there if folder.is_dir() and not folder.is_symlink()]
    return sorted(folder for folder in real if any((folder / part).is_dir() for part in PARTS))


def delete_runs(folder: Path) -> None:
    """Deletes the runs in one of `folders_of_runs`, what belongs to them, and the folder if that is all."""
    for part in PARTS:
        if (folder / part).is_dir():
            shutil.rmtree(folder / part)
    for file in (*folder.glob("*.yaml"), *folder.glob("snakemake.*.log")):
        file.unlink()
    with contextlib.suppress(OSError):  # it holds files of somebody else
        folder.rmdir()


_Stamps = tuple[tuple[int, int] | None, tuple[int, int] | None]


def _stamp(path: Path) -> tuple[int, int] | None:
    """A mark of a file, which changes when another file takes its name."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def stored(
    root: Path, experiment: str, say: Callable[[str], Any], storage: str | None = None
) -> Iterator[tuple[str, Executed]]:
    """All runs of an experiment, (name, notebook): those in the checkout `root`, or in `storage`.

    Damaged ones are left out, and what is wrong with them goes to `say`. Raises `CannotRead`.
    """
    from papermill.iorw import papermill_io

    folder = f"{RUNS}/{experiment}"
    if storage:
        try:
            executed = papermill_io.listdir(f"{storage.rstrip('/')}/{folder}/notebooks/")
        except Exception as error:  # of whatever package reads it
            raise CannotRead(f"{storage} cannot be read: {error}") from error
    else:
        executed = map(str, (root / folder / "notebooks").glob("*.ipynb"))
    failed = map(str, (root / folder / "failed").glob("*.ipynb"))
    for path in [*sorted(executed), *sorted(failed)]:
        try:
            if storage and path.startswith(storage):
                content = papermill_io.read(path)
                text = content if isinstance(content, str) else "\n".join(content)
                found = checked(path, text)
            else:
                found = read_executed(Path(path))
        except Damaged as damage:
            say(f"{damage}.")
        except Exception as error:  # of whatever package reads the storage
            raise CannotRead(f"{path} cannot be read: {error}") from error
        else:
            yield Path(path).stem, found
