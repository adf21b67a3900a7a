"""Figures to play with, as tests operate them. A chapter's page is loaded once: see `open_figure`."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Locator

SCRIPTS = Path(__file__).resolve().parent.parent / "book" / "assets" / "play"
ESTIMATES, TRICK, BOUND, EXPLORER, STRIPS, TEMPERATURE, NOISE, SPECTRUM, THRESHOLD = FIGURES = [
    ("01_random_node", "fig-settle"),
    ("02_reparameterization", "fig-trick"),
    ("03_vae", "fig-bound"),
    ("03_vae", "fig-explore"),
    ("05_variance", "fig-strips"),
    ("08_beyond_gaussian", "fig-temperature"),
    ("09_epsilon_ablation", "fig-beside"),
    ("10_exact_answers", "fig-spectrum"),
    ("13_applications", "fig-threshold"),
]


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """What the scripts read from `pack`."""
    if "bytes" in packed:
        return np.frombuffer(base64.b64decode(packed["bytes"]), "u1").reshape(packed["shape"])
    integers = np.frombuffer(base64.b64decode(packed["integers"]), "<i2").reshape(packed["shape"])
    return integers * np.frombuffer(base64.b64decode(packed["scales"]), "<f4")


def number(shown: Locator) -> float:
    """The number that an <output> begins with."""
    found = re.match(r"([−\d.]+)(?: · 10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?", shown.inner_text())
    assert found
    power = (found[2] or "0").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    return float(f"{found[1].replace('−', '-')}e{power}")


def press(figure: Locator, name: str) -> None:
    figure.get_by_role("button", name=name, exact=True).click()


def run(figure: Locator) -> None:
    """Press Run as a reader who wants less motion: its steps come at once."""
    figure.page.emulate_media(reduced_motion="reduce")
    press(figure, "Run")


def slider(figure: Locator, name: str) -> Locator:
    return figure.get_by_role("slider", name=name, exact=True)


def beside(control: Locator) -> float:
    """The number shown beside a slider."""
    return number(control.locator("xpath=following-sibling::output"))


def readout(figure: Locator, name: str) -> float:
    return number(figure.locator(f"dl > div:has(dt:text-is('{name}')) output"))


def content(figure: Locator) -> dict[str, Any]:
    """The data of a figure, from its page."""
    name = figure.get_attribute("id")
    return json.loads(figure.page.locator(f"script.vae-play-data[data-figure='{name}']").inner_text())


def ink(canvas: Locator) -> np.ndarray:
    """Grey levels 0 to 255 of a picture, pixel by pixel."""
    pixels = canvas.evaluate(
        "c => { const size = [c.width, c.height], often = { willReadFrequently: true };"
        "const copy = new OffscreenCanvas(...size).getContext('2d', often); copy.drawImage(c, 0, 0);"
        "return [...copy.getImageData(0, 0, ...size).data]; }"
    )
    return np.array(pixels).reshape(-1, 4)[:, 3]


def line(path: Locator) -> np.ndarray:
    """The points of a path of straight pieces, (points, 2)."""
    pieces = (path.get_attribute("d") or "").strip("MZ").split("L")
    return np.array([[float(number) for number in piece.split()] for piece in pieces])


def place(dot: Locator) -> tuple[float, float]:
    x, y = dot.evaluate("dot => [dot.cx.baseVal.value, dot.cy.baseVal.value]")
    return x, y


def assert_predicts(figure: Locator, operate: Callable[[], None], *, right: int) -> None:
    """The figure asks first, and gives its verdict when it was both answered and operated."""
    question = figure.locator(".vae-play-predict")
    answers, verdict = question.get_by_role("button"), question.locator("[aria-live]")
    assert answers.count() in (2, 3)
    wrong = (right + 1) % answers.count()
    answers.nth(wrong).click()
    assert answers.nth(wrong).get_attribute("aria-pressed") == "true"
    assert verdict.inner_text() == "Now try it."
    operate()
    assert verdict.inner_text().startswith("Not so: ")
    marks = answers.evaluate_all("all => all.map(one => one.dataset.mark)")
    assert (marks[right], marks[wrong]) == ("✓", "✗")
    answers.nth(right).press("Enter")
    assert verdict.inner_text().startswith("Right. ") and len(verdict.inner_text()) > 20
