"""Fixtures for all tests."""

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from reader import Visit, open_page, served

from workflow.browser import chromium

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


@pytest.fixture(scope="module")
def site(quick_book: Path) -> Iterator[str]:
    """Address of the built book."""
    with served(quick_book) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def visit(browser: Browser, site: str) -> Callable[[str], Visit]:
    """Name of a page -> its visit, made once."""
    return functools.cache(lambda name: open_page(browser, f"{site}{name}.html"))
