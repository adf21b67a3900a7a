"""Fixtures for all tests."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def quick_book() -> Path:
    """The folder of the HTML book made from small runs of the notebooks, built if anything changed."""
    command = [sys.executable, "-m", "snakemake", "--configfile", "config/quick.yaml"]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        pytest.fail(f"the quick book could not be built:\n{run.stdout}", pytrace=False)
    return ROOT / "build" / "quick" / "_build" / "html"
