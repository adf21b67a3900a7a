"""Fixtures for all tests."""

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkout import Checkout
from filelock import FileLock
from playwright.sync_api import Browser, Locator
from reader import Visit, open_page, served

from vae_workflow.browser import chromium
from vae_workflow.files import folder_for_sockets

ROOT = Path(__file__).resolve().parent.parent


LONG = [
    "access",
    "cli",
    "workflow",
    "damage",
    "notebooks",
    "reliability",
    "cluster",
    "play_figures",
    "book",
    "fuzz_commands",
    "fuzz_estimators",
    "play",
    "fuzz_models",
    "fuzz_files",
    "play_models",
    "teaching",
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


@pytest.fixture(scope="session", autouse=True)
def outside() -> Iterator[None]:
    """What the processes that tests start, interrupt and kill depend on, and leave behind."""
    # They inherit it, and a shell that starts the tests in the background lets nobody be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # With a path that is short enough for folders of sockets in it, unlike those of `tmp_path`.
    with pytest.MonkeyPatch.context() as patch, folder_for_sockets(letters=30) as folder:
        for name in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR"):
            patch.setenv(name, str(folder))
        yield


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


# A new widget, drawn; with the page's own chance again, should a test have taken it away.
BUILD = """async name => {
    Math.fair ??= Math.random;
    Math.random = Math.fair;
    document.documentElement.dataset.theme = "light";
    vaePlay.build(document.querySelector(`script.vae-play-data[data-figure='${name}']`));
    for (let frames = 0; frames < 2; frames++) await new Promise(requestAnimationFrame);
}"""


@pytest.fixture
def open_figure(visit: Callable[[str], Visit], site: str) -> Iterator[Callable[[tuple[str, str]], Locator]]:
    """(chapter, name) -> a figure to play with as on a first visit: made anew, in a page that tests share.

    Afterwards nothing has gone wrong, and no host was asked.
    """
    visits = []

    def opened(figure: tuple[str, str]) -> Locator:
        visits.append(visit(f"chapters/{figure[0]}"))
        page = visits[-1].page
        page.set_viewport_size({"width": 1280, "height": 720})
        page.evaluate(BUILD, figure[1])
        return page.locator(f"#{figure[1]}")

    yield opened
    for one in visits:
        assert one.problems == []
        assert [url for url in one.requests if not url.startswith((site, "data:"))] == []


@pytest.fixture
def look_at(visit: Callable[[str], Visit]) -> Callable[[str, str], Locator]:
    """A figure to look at, not to operate, by its chapter and name."""
    return lambda chapter, name: visit(f"chapters/{chapter}").page.locator(f"#{name}")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)
