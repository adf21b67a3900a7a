"""The built book as a visitor sees it: in headless Chromium, where each visit is a first visit."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, Response


@dataclass
class Visit:
    """A page in the browser, and all that happened while it loaded."""

    page: Page
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Requests are recorded in the browser."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of `folder`, served from this process."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def open_page(browser: Browser, address: str) -> Visit:
    """Open `address` in a fresh profile and wait until nothing loads any more and formulas are drawn."""
    visit = Visit(browser.new_context(color_scheme="light").new_page())
    page, problems = visit.page, visit.problems

    def note_message(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            problems.append(f"console {message.type}: {message.text}")

    def note_response(response: Response) -> None:
        if response.status >= 400:
            problems.append(f"status {response.status}: {response.url}")

    page.on("console", note_message)
    page.on("response", note_response)
    page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    page.on("request", lambda request: visit.requests.append(request.url))
    page.goto(address, wait_until="load")
    page.evaluate("window.MathJax?.startup?.promise")
    page.wait_for_load_state("networkidle")
    return visit
