"""Fixtures for all tests."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkout import Checkout
from filelock import FileLock
from playwright.sync_api import Browser
from reader import Visit, open_page, served

from vae_workflow.browser import chromium

ROOT = Path(__file__).resolve().parent.parent


LONG = [
    "access",
    "cli",
    "workflow",
    "reliability",
    "damage",
    "fuzz",
    "notebooks",
    "book",
    "cluster",
    "play",
    "data",
    "diversity",
    "training",
]


@pytest.hookimpl(optionalhook=True)  # also without xdist
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: the tests of the workflow, of clusters and of pages often wait."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that no process is left alone with one of them at the end."""
    place = {f"test_{name}": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what the tests of reliability went through."""
    reports = terminalreporter.getreports("passed")
    lines = [str(text) for report in reports for key, text in report.user_properties if key == "figures"]
    if lines:
        terminalreporter.section("survived")
        terminalreporter.write_line("\n".join(sorted(lines)))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def quick_book() -> Path:
    """The folder of the HTML book made from small runs of the notebooks, built if anything changed."""
    command = [sys.executable, "-m", "snakemake", "--configfile", "config/quick.yaml"]
    (ROOT / "build").mkdir(exist_ok=True)
    with FileLock(ROOT / "build" / ".quick-tests.lock"):  # of the processes that share the tests
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


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)
