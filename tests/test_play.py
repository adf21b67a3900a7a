"""Figures to play with: their data, and what all of them have in common."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from player import (
    FIGURES,
    SCRIPTS,
    assert_predicts,
    unpack,
)
from playwright.sync_api import Browser, Locator, Page
from reader import open_page
from torch.distributions import Normal

from vae_lab import VAE, benchmark, exact_gradient, load, play, plots
from vae_lab.estimators.costs import COSTS
from vae_lab.exact.variance import exact_variance
from vae_lab.play import bound_on_grid, dense_layers, gradient_strips, latent_explorer, pack
from vae_lab.records import PLAY_MIME
from vae_lab.vae.layers import ACTIVATIONS
from vae_lab.wording import read_words

BOOK = Path(__file__).parents[1] / "book"
CHAPTERS = dict.fromkeys(chapter for chapter, _ in FIGURES)
each_figure = pytest.mark.parametrize(("chapter", "name"), FIGURES)


# Data


@pytest.mark.parametrize("shape", [(5,), (40, 3), (2, 7, 4)])
def test_packed_numbers_are_off_by_less_than_one_step(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.randn(shape, dtype=torch.float64) * torch.logspace(-3, 3, shape[-1], dtype=torch.float64)
    packed = json.loads(json.dumps(pack(values)))
    largest = values.reshape(-1, shape[-1]).abs().amax(0).numpy()
    # Half a step, and the rounding of the scale to float32.
    assert (np.abs(unpack(packed) - values.numpy()) <= largest * (2**-16 + 2**-23)).all()


def test_packing_keeps_zeros_and_bytes_and_refuses_what_is_not_finite() -> None:
    assert (unpack(pack(torch.zeros(3, 2))) == 0).all()
    levels = torch.arange(256, dtype=torch.uint8).reshape(2, 128)
    assert (unpack(pack(levels)) == levels.numpy()).all()
    with pytest.raises(ValueError, match="finite"):
        pack(torch.tensor([1.0, torch.inf]))


@pytest.mark.parametrize("options", [{"channels": (2,)}, {"likelihood": "gaussian"}])
def test_only_decoders_that_the_page_can_run_are_exported(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="dense decoders"):
        dense_layers(VAE(64, 2, (8,), **options))


def test_the_explorer_has_the_replica_and_the_items_that_it_names() -> None:
    data, vae = load("digits"), VAE(64, 2, (8,), replicas=2)
    explorer = latent_explorer(vae, data, codes=20, of_each=3)
    with torch.no_grad():
        q = vae.encoder(data.test)
    assert len(explorer["codes"]["mu"]) == len(explorer["codes"]["labels"]) == 20
    items = explorer["items"]
    assert items["labels"] == sorted(list(range(10)) * 3)
    for label, mu, sigma, picture in zip(
        items["labels"], items["mu"], items["sigma"], items["pictures"], strict=True
    ):
        same = [i for i in range(300) if torch.equal((255 * data.test[i]).to(torch.uint8), picture)]
        assert {int(data.test_labels[i]) for i in same} == {label}
        assert any(np.allclose([mu, sigma], [q.mu[0, i], q.sigma[0, i]], atol=1e-4) for i in same)
    first = explorer["decoder"]["layers"][0]["weight"]
    assert torch.equal(first, vae.decoder.stack.layers[0].weight[0])
    plots.latent_map(q.mu[0], data.test_labels)
    drawn = [to_hex(one.get_facecolor()[0]) for one in plt.gca().collections]
    plt.close()
    assert list(explorer["looks"].values()) == drawn, "as on the map of the chapter"
    with pytest.raises(ValueError, match="two latents"):
        latent_explorer(VAE(64, 3), data)


def test_the_published_explorer_weighs_a_few_hundred_kilobytes() -> None:
    """For images of 28 x 28 pixels and the default width of chapter 3."""
    chapter = nbformat.read(BOOK.parent / "notebooks/03_vae.ipynb", as_version=4)
    (width,) = [
        m[1] for c in chapter.cells if (m := re.search(r"^hidden: \w+ = (\d+)", c.source, re.MULTILINE))
    ]
    half = (int(width) + 1) // 2
    digits = load("digits")
    train, test = (torch.rand(len(x), 784) for x in (digits.train, digits.test))
    data = replace(digits, train=train, test=test, shape=(28, 28))
    explorer = latent_explorer(VAE(784, 2, (half, half)), data)
    assert len(json.dumps(explorer, default=pack)) < 500_000


def test_a_bound_on_a_grid_has_the_evidence_of_an_integral_and_refuses_what_is_no_grid() -> None:
    z = torch.linspace(-5, 5, 401, dtype=torch.float64)
    prior, likelihood = Normal(0.0, 1.0).log_prob(z), Normal(z, 0.5).log_prob(torch.tensor(0.7))
    found = json.loads(json.dumps(bound_on_grid(z, likelihood, prior, 0.1, 0.6)))
    expected = Normal(0.0, 1.25**0.5).log_prob(torch.tensor(0.7)).item()  # of x = z + noise
    assert found["log_evidence"] == pytest.approx(expected, abs=1e-6)
    assert sum(found["width"]) == pytest.approx(10, abs=1e-3)
    assert (found["mu"], found["sigma"]) == (0.1, 0.6)
    with pytest.raises(ValueError, match="three or more numbers"):
        bound_on_grid(z, likelihood[1:], prior)
    with pytest.raises(ValueError, match="rise"):
        bound_on_grid(z.flip(0), likelihood, prior)
    with pytest.raises(ValueError, match="finite"):
        bound_on_grid(z, likelihood.log(), prior)


def test_strips_are_samples_of_the_gradient_with_its_exact_moments() -> None:
    k = torch.tensor([0.5, 2.0], dtype=torch.float64)
    q = Normal(torch.full_like(k, 1.0), torch.full_like(k, 0.7))
    names = ["pathwise", "measure_valued"]
    measured = benchmark(COSTS["cosine"](k), q, names, replicates=2000)
    strips = gradient_strips("cosine", k, 1.0, 0.7, measured, samples=4000)
    truth = exact_gradient(COSTS["cosine"](k), q)
    for parameter, found in strips.items():
        assert found["gradient"] == pytest.approx(truth[parameter].tolist())
        pathwise, other = found["estimators"]
        assert (pathwise["name"], other["name"]) == tuple(names)
        assert pathwise["variance"] == exact_variance("pathwise", COSTS["cosine"](k), q)[parameter].tolist()
        assert pathwise["standard_error"] is None
        rows = measured.query("estimator == 'measure_valued' and parameter == @parameter")
        assert other["variance"] == rows["variance"].tolist()
        assert other["standard_error"] == rows["variance_se"].tolist()
        for entry in found["estimators"]:
            off = entry["draws"].mean(0) - truth[parameter]
            assert (off.abs() < 5 * (torch.tensor(entry["variance"]) / 4000) ** 0.5).all()


def test_playable_displays_data_under_a_type_that_the_book_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(play, "display", lambda data, raw: shown.append(data))
    play.playable("trick", {"values": torch.ones(2, 3), "mu": 1.0})
    extension = runpy.run_path(str(BOOK / "extensions" / "vae_book.py"))
    found = shown[0][PLAY_MIME]
    assert found["kind"] == "trick" and found["data"]["mu"] == 1.0
    assert (unpack(found["data"]["values"]) == 1).all()
    with pytest.raises(ValueError, match="JSON"):
        play.playable("trick", {"mu": float("nan")})
    words = {"no": 'No: "{answer}" <b>'}
    element = extension["play_data"]("fig-x", {"kind": "trick", "data": {"text": "</script><b>"}}, words)
    assert json.loads(BeautifulSoup(element, "html.parser").script["data-words"]) == words  # type: ignore[index]
    assert element.count("</script>") == 1 and "<b>" not in element
    assert json.loads(element.partition(">")[2].removesuffix("</script>")) == {"text": "</script><b>"}


# In the browser


@each_figure
def test_replaces_the_static_picture_on_a_screen_only(
    look_at: Callable[[str, str], Locator], chapter: str, name: str
) -> None:
    figure = look_at(chapter, name)
    widget, picture = figure.locator(".vae-play"), figure.locator("img.only-light")
    assert widget.is_visible() and not picture.is_visible()
    assert figure.locator("figcaption").is_visible()
    figure.page.emulate_media(media="print")
    figure.scroll_into_view_if_needed()  # only now is the picture loaded
    picture.wait_for(state="visible")
    on_paper = widget.is_visible()
    figure.page.emulate_media(media="screen")
    assert not on_paper


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_without_scripts_the_static_picture_is_there(browser: Browser, site: str, chapter: str) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{site}chapters/{chapter}.html")
    for name in (name for place, name in FIGURES if place == chapter):
        assert page.locator(f"#{name} img.only-light").is_visible()
    assert page.locator(".vae-play").count() == 0
    page.context.close()


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_works_from_a_folder(browser: Browser, quick_book: Path, chapter: str) -> None:
    visit = open_page(browser, (quick_book / f"chapters/{chapter}.html").as_uri())
    for name in (name for place, name in FIGURES if place == chapter):
        assert visit.page.locator(f"#{name} .vae-play").is_visible()
    assert visit.problems == []
    visit.page.context.close()


def test_other_pages_do_not_load_the_scripts(quick_book: Path) -> None:
    with_scripts = {page.stem for page in quick_book.rglob("*.html") if "_static/play/" in page.read_text()}
    assert with_scripts == set(CHAPTERS)


@each_figure
def test_all_is_labelled_and_quiet(look_at: Callable[[str, str], Locator], chapter: str, name: str) -> None:
    figure = look_at(chapter, name)
    controls = figure.locator(".vae-play :is(input, select)")
    assert controls.count() >= 2
    assert controls.evaluate_all("all => all.filter(one => !one.labels[0]?.textContent.trim()).length") == 0
    drawings = figure.locator(".vae-play :is(svg, canvas)")
    assert (
        drawings.evaluate_all("all => all.filter(one => !(one.getAttribute('aria-label') && one.role))") == []
    )
    numbers = figure.locator(".vae-play output")
    assert set(numbers.evaluate_all("all => all.map(one => one.ariaLive)")) == {"off"}
    status = figure.get_by_role("status").filter(has_not=figure.page.locator("output"))
    assert figure.locator("p[role=status]").count() == 1 and status.count() >= 1


@each_figure
def test_asks_before_it_shows(look_at: Callable[[str, str], Locator], chapter: str, name: str) -> None:
    question = look_at(chapter, name).locator(".vae-play-predict")
    assert question.count() == 1 and question.locator("xpath=preceding-sibling::*").count() == 0
    assert question.get_by_role("button").count() in (2, 3)


@each_figure
def test_fits_a_phone(look_at: Callable[[str, str], Locator], chapter: str, name: str) -> None:
    figure = look_at(chapter, name)
    figure.page.set_viewport_size({"width": 360, "height": 700})
    figure.page.wait_for_timeout(100)
    boxes = figure.locator(".vae-play :is(svg, canvas, button, select, input, output)")
    edges = boxes.evaluate_all(
        "all => all.map(one => [one.getBoundingClientRect().left, one.getBoundingClientRect().right])"
    )
    assert min(left for left, _ in edges) >= 0 and max(right for _, right in edges) <= 360
    targets = figure.locator(".vae-play :is(button, select, label:has(input), .vae-play-slider)")
    assert min(targets.evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")) >= 32


@each_figure
def test_text_is_readable_in_both_modes(
    look_at: Callable[[str, str], Locator], chapter: str, name: str
) -> None:
    """At least 4.5 : 1 for the letters of the drawings and of the controls (WCAG 1.4.3)."""
    figure = look_at(chapter, name)

    def luminance(colour: str) -> float:
        parts = np.array([float(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for theme in ("light", "dark"):
        figure.page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        page = luminance(figure.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        texts = figure.locator(".vae-play :is(svg > text, .vae-play-slider output, legend, button)")
        colours = texts.evaluate_all(
            "all => all.map(one => getComputedStyle(one)[one instanceof SVGElement ? 'fill' : 'color'])"
        )
        for value in map(luminance, set(colours)):
            low, high = sorted([value, page])
            assert (high + 0.05) / (low + 0.05) >= 4.5


# What figures share


@pytest.fixture(scope="module")
def bare(browser: Browser) -> Iterator[Page]:
    """A page with the scripts and nothing else."""
    page = browser.new_page()
    page.set_content("<main></main>")
    for script in ("play.js", "latents.js"):
        page.add_script_tag(path=SCRIPTS / script)
    page.add_style_tag(path=SCRIPTS / "play.css")
    page.evaluate("words => Object.assign(vaePlay.words, words)", dict(read_words()["play"]))
    yield page
    page.context.close()


def test_a_question_waits_for_answer_and_sight_and_blocks_nothing(bare: Page) -> None:
    bare.evaluate(
        "asked = vaePlay.predict('What comes?', ['one', 'two', 'three'], 1, 'Two is one, twice. '.repeat(9));"
        "document.querySelector('main').replaceChildren(asked.element)"
    )
    main = bare.locator("main")
    assert main.get_by_role("group", name="Predict: What comes?").count() == 1
    bare.set_viewport_size({"width": 360, "height": 800})
    without = main.evaluate("main => main.clientHeight")
    main.get_by_role("button", name="one").click()
    height = main.evaluate("main => main.clientHeight")
    assert height > without, "there is room for the verdict once it can come"
    assert_predicts(main, lambda: bare.evaluate("asked.seen()"), right=1)
    assert main.evaluate("main => main.clientHeight") == height, "a verdict moves nothing"
    bare.evaluate(
        "asked = vaePlay.predict('What comes?', ['one', 'two'], 0, 'Who has seen it may still answer it.');"
        "document.querySelector('main').replaceChildren(asked.element); asked.seen()"
    )
    verdict = main.locator("[aria-live]")
    assert not verdict.inner_text().startswith(("Right", "Not so")), "and nobody is told before"
    main.get_by_role("button", name="one").click()
    assert verdict.inner_text().startswith("Right. ")


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_a_run_makes_steps_until_it_is_paused_or_done(bare: Page, motion: Any) -> None:
    bare.emulate_media(reduced_motion=motion)
    bare.evaluate(
        "made = []; limit = 1000;"
        "more = n => { made.push(n); return made.length < limit; };"
        "vaeRun = vaePlay.runner(more, { pace: () => 2, leap: 50 });"
        "document.querySelector('main').replaceChildren(...vaeRun.buttons)"
    )
    step, run = bare.get_by_role("button", name="Step"), bare.locator("main button").nth(1)
    step.click()
    assert bare.evaluate("made") == [1]
    run.click()
    if motion == "reduce":
        assert bare.evaluate("made") == [1, 50] and run.inner_text() == "Run"
        return
    bare.wait_for_function("made.length > 3")
    assert set(bare.evaluate("made.slice(1)")) == {2} and run.inner_text() == "Pause"
    run.click()
    paused = bare.evaluate("made.length")
    bare.wait_for_timeout(150)
    assert bare.evaluate("made.length") == paused and run.inner_text() == "Run"
    bare.evaluate("limit = made.length + 2")
    run.click()
    bare.wait_for_function("made.length === limit")
    bare.wait_for_timeout(100)
    assert bare.evaluate("made.length === limit") and run.inner_text() == "Run"


DECODE = "([decoder, points]) => { const f = vaePlay.decoder(decoder); return points.map(z => [...f(z)]); }"
POINTS = torch.cartesian_prod(torch.linspace(-2.5, 2.5, 6), torch.linspace(-3, 3, 5))


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_the_page_decodes_as_torch(bare: Page, activation: str) -> None:
    """With every activation, and weights as large as training makes them."""
    vae = VAE(784, 2, (128, 96), activation=activation, seed=3)
    with torch.no_grad():
        for weights in vae.decoder.parameters():
            weights *= 3
        means = vae.decoder(POINTS).mean[0].numpy()
    decoder = json.loads(json.dumps(dense_layers(vae), default=pack))
    found = bare.evaluate(DECODE, [decoder, POINTS.tolist()])
    assert np.abs(np.array(found) - means).max() < 3e-4, "tight enough to tell the forms of GELU apart"
    assert np.ptp(means) > 0.9
