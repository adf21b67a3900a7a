"""The system's Chromium: it prints the book, and the tests read the book in it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright


class NoChromium(Exception):
    """There is no browser on this machine."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium, which resolves no host but this one."""
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    executable = next((path for path in map(shutil.which, filter(None, names)) if path), None)
    if executable is None:
        raise NoChromium("no Chromium found: install it, or name its executable in CHROMIUM")
    offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    arguments = [offline, "--disable-gpu", "--disable-quic", *["--no-sandbox"] * (os.geteuid() == 0)]
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=executable, args=arguments) as browser,
    ):
        yield browser
