"""Where the command line and the Snakefile work: a checkout of the project, or a folder of your own.

The wheel holds the notebooks, the Snakefile and the profiles beside this module. A folder that is not a
checkout borrows them, and has notebooks of its own in `notebooks`.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vae_lab.records import DATA_FILES, DATA_SYSTEM

from .files import write_whole

RUNS = "build/runs"  # the folder of all runs that are not part of the book, one folder for each notebook
PARENT = "VAE_LAB_PARENT"  # the environment variable that names the process to end with, for the Snakefile
_HERE = Path(__file__).resolve().parent
BORROWED = _HERE if (_HERE / "Snakefile").is_file() else _HERE.parent  # of the wheel, or of a checkout


def near(path: Path) -> Path:
    """`path` relative to the working directory, where it lies in it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def lock_file(root: Path, name: str) -> Path:
    """What the Snakemake that executes the configuration `name` in `root` holds, however it ends."""
    return root / "build" / f".{name.replace('/', '-')}.lock"


def is_checkout(folder: Path) -> bool:
    """Whether a folder is a checkout of this project, and not of another one with a Snakefile."""
    return all((folder / name).exists() for name in ("Snakefile", "notebooks", "vae_workflow"))


@dataclass(frozen=True)
class Workplace:
    """The folder `root`, which a command was called in or below."""

    root: Path

    @classmethod
    def around(cls, folder: Path) -> Workplace:
        """The checkout that `folder` lies in, or `folder` itself."""
        return cls(next(filter(is_checkout, (folder, *folder.parents)), folder))

    @property
    def is_checkout(self) -> bool:
        return is_checkout(self.root)

    @property
    def lender(self) -> Path:
        """The folder that has the Snakefile and the profiles."""
        return self.root if self.is_checkout else BORROWED

    def notebooks(self) -> dict[str, Path]:
        """All notebooks by name: those of the folder, and, if it is not a checkout, those of the package."""
        folders = dict.fromkeys([self.lender / "notebooks", self.root / "notebooks"])
        found = [p for folder in folders for p in folder.glob("*.ipynb") if p.is_file()]
        return dict(sorted((path.stem, path) for path in found if not path.name.startswith(".")))

    @property
    def lock(self) -> Path:
        """The file that says which versions results come from."""
        name = "requirements.lock" if self.is_checkout else "build/installed.txt"
        return self.root / name

    def note_versions(self) -> None:
        """Where no lock file says so, write down what is installed, unless that is known already."""
        if self.is_checkout:
            return
        found = {f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions()}
        text = "\n".join([*sorted(found, key=str.lower), ""])
        if not self.lock.is_file() or self.lock.read_bytes() != text.encode():
            self.lock.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.lock, text)


def absent(parameters: Mapping[str, Any]) -> list[str]:
    """The data sets among the values of `parameters` that are files, and not on this machine.

    This is found out without importing the package, which would load torch.
    """
    wanted = [name for name in DATA_FILES if name in parameters.values()]
    if not wanted:
        return []
    import pooch

    folders = [os.environ.get("VAE_LAB_DATA"), DATA_SYSTEM, pooch.os_cache("vae_lab")]
    return [name for name in wanted if not any(any((Path(f) / name).glob("*")) for f in folders if f)]
