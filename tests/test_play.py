"""Figures to play with: their data, and each of them operated in the browser as a reader does it."""

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
from player import (
    EXPLORER,
    FIGURES,
    SCRIPTS,
    STRIPS,
    TRICK,
    assert_predicts,
    beside,
    content,
    ink,
    number,
    place,
    readout,
    slider,
    unpack,
)
from playwright.sync_api import Browser, Locator, Page
from reader import open_page
from scipy import stats
from torch.distributions import Normal

from vae_lab import VAE, benchmark, exact_gradient, fit, load, play
from vae_lab.estimators.costs import COSTS
from vae_lab.exact.variance import exact_variance
from vae_lab.measure.statistics import deviation_limit
from vae_lab.play import dense_layers, gradient_strips, latent_explorer, pack
from vae_lab.records import PLAY_MIME, PROVENANCE_MIME
from vae_lab.vae.layers import ACTIVATIONS

BOOK = Path(__file__).parents[1] / "book"
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
    element = extension["play_data"]("fig-x", {"kind": "trick", "data": {"text": "</script><b>"}})
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


@each_figure
def test_without_scripts_the_static_picture_is_there(
    browser: Browser, site: str, chapter: str, name: str
) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{site}chapters/{chapter}.html")
    assert page.locator(f"#{name} img.only-light").is_visible()
    assert page.locator(".vae-play").count() == 0
    page.context.close()


@each_figure
def test_works_from_a_folder(browser: Browser, quick_book: Path, chapter: str, name: str) -> None:
    visit = open_page(browser, (quick_book / f"chapters/{chapter}.html").as_uri())
    assert visit.page.locator(f"#{name} .vae-play").is_visible()
    assert visit.problems == []
    visit.page.context.close()


def test_other_pages_do_not_load_the_scripts(quick_book: Path) -> None:
    with_scripts = {page.stem for page in quick_book.rglob("*.html") if "_static/play/" in page.read_text()}
    assert with_scripts == {chapter for chapter, _ in FIGURES}


@each_figure
def test_all_is_labelled_and_quiet(look_at: Callable[[str, str], Locator], chapter: str, name: str) -> None:
    figure = look_at(chapter, name)
    controls = figure.locator(".vae-play :is(input, select)")
    assert controls.count() >= 3
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
    yield page
    page.context.close()


def test_a_question_waits_for_answer_and_sight_and_blocks_nothing(bare: Page) -> None:
    bare.evaluate(
        "asked = vaePlay.predict('What comes?', ['one', 'two', 'three'], 1, 'Two is one and one.');"
        "document.querySelector('main').replaceChildren(asked.element)"
    )
    main = bare.locator("main")
    assert main.get_by_role("group", name="Predict: What comes?").count() == 1
    height = main.evaluate("main => main.clientHeight")
    assert_predicts(main, lambda: bare.evaluate("asked.seen()"), right=1)
    assert main.evaluate("main => main.clientHeight") == height, "a verdict moves nothing"
    bare.evaluate(
        "asked = vaePlay.predict('What comes?', ['one', 'two'], 0, 'Who has seen it may still answer it.');"
        "document.querySelector('main').replaceChildren(asked.element); asked.seen()"
    )
    verdict = main.locator("[aria-live]")
    assert not verdict.inner_text().startswith(("Yes", "No")), "and nobody is told before"
    main.get_by_role("button", name="one").click()
    assert verdict.inner_text().startswith("Yes. ")


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_a_run_makes_steps_until_it_is_paused_or_done(bare: Page, motion: Any) -> None:
    bare.emulate_media(reduced_motion=motion)
    bare.evaluate(
        "made = []; limit = 1000;"
        "vaeRun = vaePlay.runner(n => { made.push(n); return made.length < limit; }, { pace: 2, leap: 50 });"
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


# The trick


def test_with_frozen_noise_the_sample_slides_along_its_paths(
    open_figure: Callable[[tuple[str, str]], Locator],
) -> None:
    figure = open_figure(TRICK)
    mu, sigma, eps = (slider(figure, name) for name in ("μ", "σ", "ε"))
    assert figure.get_by_label("freeze ε").is_checked()
    eps.fill("1.3")
    before, m, s = readout(figure, "z"), beside(mu), beside(sigma)
    assert before == pytest.approx(m + 1.3 * s, abs=1e-9)
    dot = figure.locator(".vae-play-overview .sample")
    x = place(dot)[0]

    mu.fill(f"{m + 0.31:.2f}")
    assert readout(figure, "z") == pytest.approx(before + 0.31, abs=1e-9)
    assert place(dot)[0] > x
    sigma.fill(f"{s + 0.2:.2f}")
    assert readout(figure, "z") == pytest.approx(before + 0.31 + 1.3 * 0.2, abs=1e-9)
    assert beside(eps) == 1.3
    assert (readout(figure, "∂z/∂μ"), readout(figure, "∂z/∂σ")) == (1.0, 1.3)

    for route in figure.locator(".vae-play-route").all():
        line = route.locator(".path").get_attribute("d") or ""
        (x0, y0), (x1, y1) = (map(float, end.split()) for end in line.removeprefix("M").split("L"))
        x, y = place(route.locator(".sample"))
        assert x0 < x < x1
        assert y == pytest.approx(y0 + (x - x0) / (x1 - x0) * (y1 - y0), abs=0.2)
        assert y1 < y0, "both slopes are positive, and SVG counts downwards"


def test_without_freezing_every_move_draws_again(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(TRICK)
    mu, eps = slider(figure, "μ"), slider(figure, "ε")
    figure.get_by_label("freeze ε").uncheck()
    seen = set()
    for step in range(5):
        mu.fill(f"{beside(mu) + 0.05:.2f}")
        seen.add(beside(eps))
        assert readout(figure, "z") == pytest.approx(
            beside(mu) + beside(slider(figure, "σ")) * beside(eps), abs=1e-9
        )
        assert figure.locator(".vae-play-overview .mark").count() == 2 * (step + 1)
    assert len(seen) > 3


def test_drawing_again_changes_the_noise_only(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(TRICK)
    names = ("μ", "σ", "ε")
    before = [beside(slider(figure, name)) for name in names]
    figure.get_by_role("button", name="Draw ε again").click()
    figure.get_by_role("button", name="Draw ε again").press("Enter")
    after = [beside(slider(figure, name)) for name in names]
    assert after[:2] == before[:2] and after[2] != before[2]
    draws = np.array(figure.page.evaluate("Array.from({length: 100000}, vaePlay.normal)"))
    assert stats.kstest(draws, "norm").pvalue > 1e-6  # one false alarm in a million
    assert abs(draws.var() - 1) < deviation_limit() * (2 / len(draws)) ** 0.5


def test_without_noise_nothing_is_left_of_the_derivative_by_sigma(
    open_figure: Callable[[tuple[str, str]], Locator],
) -> None:
    figure = open_figure(TRICK)
    mu, sigma, eps = (slider(figure, name) for name in ("μ", "σ", "ε"))
    for label, slope in (("no ε: z = μ", 0.0), ("z = μ + σ", 1.0)):
        figure.get_by_label(label, exact=True).check()
        for value in ("-1.5", "2.25"):
            eps.fill(value)
            assert readout(figure, "z") == pytest.approx(beside(mu) + slope * beside(sigma), abs=1e-9)
        assert (readout(figure, "∂z/∂μ"), readout(figure, "∂z/∂σ")) == (1.0, slope)
        before = readout(figure, "z")
        sigma.fill(f"{beside(sigma) + 0.1:.2f}")
        assert readout(figure, "z") == pytest.approx(before + 0.1 * slope, abs=1e-9)
    figure.get_by_label("z = μ + σ · ε").check()
    assert readout(figure, "∂z/∂σ") == 2.25


def test_sliders_take_arrow_keys_and_the_status_waits(
    open_figure: Callable[[tuple[str, str]], Locator],
) -> None:
    figure = open_figure(TRICK)
    sigma, status = slider(figure, "σ"), figure.locator("p[role=status]")
    figure.page.wait_for_timeout(1000)
    said, before = status.inner_text(), beside(sigma)
    sigma.focus()
    for _ in range(4):
        sigma.press("ArrowRight")
    assert beside(sigma) == pytest.approx(before + 0.04)
    assert sigma.get_attribute("aria-valuetext") == f"{beside(sigma):.2f}"
    assert status.inner_text() == said, "says nothing while a control moves"
    figure.page.wait_for_timeout(1000)
    assert status.inner_text() != said


# The latent explorer


def trained_as_the_page(executed: Path) -> VAE:
    """The chapter's model with two latents, trained again, by the parameters of the run."""
    cells = nbformat.read(executed, as_version=4).cells
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    (run,) = [data[PROVENANCE_MIME] for data in outputs if PROVENANCE_MIME in data]
    given = run["parameters"]
    data, half = load(given["dataset"]), (given["hidden"] + 1) // 2
    vae = VAE(data.features, 2, (half, half), seed=given["seed"])
    settings = {name: given[name] for name in ("epochs", "batch_size", "learning_rate", "seed")}
    fit(vae, data, progress=False, **settings)
    return vae


POINTS = torch.cartesian_prod(torch.linspace(-2.5, 2.5, 6), torch.linspace(-3, 3, 5))


def test_the_page_decodes_as_the_model_that_the_chapter_trained(
    open_figure: Callable[[tuple[str, str]], Locator], root: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the notebook, so that training repeats to the last digit
    vae = trained_as_the_page(root / "build" / "quick" / "notebooks" / "03_vae.ipynb")
    torch.set_num_threads(threads)
    with torch.no_grad():
        means = vae.decoder(POINTS).mean[0].numpy()
    figure = open_figure(EXPLORER)
    decode = (
        "([decoder, points]) => { const f = vaePlay.decoder(decoder); return points.map(z => [...f(z)]); }"
    )
    found = np.array(figure.page.evaluate(decode, [content(figure)["decoder"], POINTS.tolist()]))
    assert found.shape == means.shape
    assert np.abs(found - means).max() < 1e-3
    assert means.std(0).max() > 0.01, "the decoder does not ignore z"


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_the_page_decodes_as_torch(bare: Page, activation: str) -> None:
    """With every activation, and weights as large as training makes them."""
    vae = VAE(784, 2, (128, 96), activation=activation, seed=3)
    with torch.no_grad():
        for weights in vae.decoder.parameters():
            weights *= 3
        means = vae.decoder(POINTS).mean[0].numpy()
    decoder = json.loads(json.dumps(dense_layers(vae), default=pack))
    found = bare.evaluate(
        "([decoder, points]) => { const f = vaePlay.decoder(decoder); return points.map(z => [...f(z)]); }",
        [decoder, POINTS.tolist()],
    )
    assert np.abs(np.array(found) - means).max() < 3e-4, "tight enough to tell the forms of GELU apart"
    assert np.ptp(means) > 0.9


def shown_z(figure: Locator) -> list[float]:
    return [beside(slider(figure, name)) for name in ("z₁", "z₂")]


def assert_shows(figure: Locator, canvas: Locator, z: list[float], within: float = 1.0) -> None:
    """The canvas shows what the page decodes from z."""
    means = figure.page.evaluate(
        "([decoder, z]) => [...vaePlay.decoder(decoder)(z)]", [content(figure)["decoder"], z]
    )
    assert np.abs(ink(canvas) - 255 * np.array(means)).max() <= within


def on_map(figure: Locator, across: float, up: float) -> tuple[float, float, list[float]]:
    """A point of the map by fractions of its sides: where it is on the screen, and its z."""
    chart = figure.locator(".vae-play-map")
    chart.scroll_into_view_if_needed()
    left, top, width, height = chart.evaluate(
        "m => { const box = m.getBoundingClientRect(); return [box.left, box.top, box.width, box.height]; }"
    )
    reach = float(slider(figure, "z₁").get_attribute("max") or "nan")
    z = [(2 * fraction - 1) * reach for fraction in (across, up)]
    return left + across * width, top + (1 - up) * height, z


def test_dragging_on_the_map_decodes_what_is_under_the_pointer(
    open_figure: Callable[[tuple[str, str]], Locator],
) -> None:
    figure = open_figure(EXPLORER)
    mouse, large = figure.page.mouse, figure.locator(".vae-play-large canvas")
    x, y, z = on_map(figure, 0.3, 0.6)
    mouse.move(x, y)
    before = shown_z(figure)
    assert before != pytest.approx(z, abs=0.05), "hovering moves nothing"
    mouse.down()
    assert shown_z(figure) == pytest.approx(z, abs=0.05)
    first = ink(large)
    x, y, z = on_map(figure, 0.75, 0.2)
    mouse.move(x, y, steps=4)
    assert shown_z(figure) == pytest.approx(z, abs=0.05)
    assert_shows(figure, large, shown_z(figure))
    assert not np.array_equal(ink(large), first)
    mouse.move(x + 3000, y)
    assert shown_z(figure)[0] == float(slider(figure, "z₁").get_attribute("max") or "nan"), (
        "not beyond the map"
    )
    mouse.up()
    mouse.move(*on_map(figure, 0.5, 0.5)[:2])
    assert shown_z(figure) != pytest.approx([0, 0], abs=0.05), "let go"


def test_a_finger_draws_on_the_map_and_does_not_scroll(browser: Browser, site: str) -> None:
    context = browser.new_context(has_touch=True, viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto(f"{site}chapters/{EXPLORER[0]}.html")
    figure = page.locator(f"#{EXPLORER[1]}")
    x, y, z = on_map(figure, 0.4, 0.7)
    scrolled = page.evaluate("scrollY")
    finger = context.new_cdp_session(page)
    touch = "Input.dispatchTouchEvent"
    finger.send(touch, {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    assert shown_z(figure) == pytest.approx(z, abs=0.05)
    x, y, z = on_map(figure, 0.5, 0.2)
    for step in (0.5, 1.0):
        finger.send(touch, {"type": "touchMove", "touchPoints": [{"x": x, "y": y - 40 * (1 - step)}]})
    finger.send(touch, {"type": "touchEnd", "touchPoints": []})
    assert shown_z(figure) == pytest.approx(z, abs=0.05)
    assert page.evaluate("scrollY") == scrolled
    context.close()


def test_arrow_keys_move_on_the_map(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(EXPLORER)
    chart = figure.locator(".vae-play-map")
    figure.get_by_role("button", name="Next").focus()
    chart.scroll_into_view_if_needed()
    x, y = shown_z(figure)
    scrolled = figure.page.evaluate("scrollY")
    chart.focus()
    chart.press("ArrowRight")
    assert shown_z(figure) == pytest.approx([x + 0.1, y], abs=0.011)
    chart.press("Shift+ArrowUp")
    assert shown_z(figure) == pytest.approx([x + 0.1, y + 0.5], abs=0.011)
    chart.press("ArrowLeft")
    chart.press("ArrowDown")
    assert shown_z(figure) == pytest.approx([x, y + 0.4], abs=0.021)
    assert figure.page.evaluate("scrollY") == scrolled
    assert_shows(figure, figure.locator(".vae-play-large canvas"), shown_z(figure))
    assert chart.evaluate("m => getComputedStyle(m).outlineStyle") == "solid", "the focus is seen"


def test_sliders_move_on_the_map(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(EXPLORER)
    slider(figure, "z₁").fill("1.5")
    slider(figure, "z₂").fill("-0.75")
    ring = figure.locator(".vae-play-map .hollow")
    reach, width = (
        float(slider(figure, "z₁").get_attribute("max") or "nan"),
        figure.locator(".vae-play-map").evaluate("m => m.getBoundingClientRect().width"),
    )
    expected = [width / 2 * (1 + 1.5 / reach), width / 2 * (1 + 0.75 / reach)]
    assert place(ring) == pytest.approx(expected, abs=2)
    assert_shows(figure, figure.locator(".vae-play-large canvas"), [1.5, -0.75])


def test_a_test_item_comes_with_its_picture_and_its_posterior(
    open_figure: Callable[[tuple[str, str]], Locator],
) -> None:
    figure = open_figure(EXPLORER)
    data, chart = content(figure), figure.locator(".vae-play-map")
    items, size = data["items"], data["shape"][0] * data["shape"][1]
    pictures = unpack(items["pictures"]).reshape(-1, size)
    choose = figure.get_by_label("Test picture", exact=True)
    reach = max(3, *np.abs(np.array(data["codes"]["mu"] + items["mu"])).ravel()) + 0.2
    scale = chart.evaluate("m => m.getBoundingClientRect().width") / (2 * reach)

    def assert_chosen(i: int) -> None:
        assert int(choose.input_value()) == i
        frames = figure.locator(".vae-play-strip canvas")
        assert frames.count() == 2
        assert (ink(frames.nth(0)) == pictures[i]).all()
        assert_shows(figure, frames.nth(1), items["mu"][i])
        assert shown_z(figure) == pytest.approx(items["mu"][i], abs=0.0051)
        inner, outer = figure.locator("ellipse.posterior").evaluate_all(
            "all => all.map(e => [e.cx, e.cy, e.rx, e.ry].map(one => one.baseVal.value))"
        )
        sigma = np.array(items["sigma"][i]) * scale
        assert inner[2:] == pytest.approx(sigma, rel=0.02) and outer[2:] == pytest.approx(2 * sigma, rel=0.02)
        assert inner[0] == pytest.approx((items["mu"][i][0] + reach) * scale, abs=2)

    assert_chosen(0)
    choose.select_option(index=17)
    assert_chosen(17)
    figure.get_by_role("button", name="Next").click()
    assert_chosen(18)
    choose.select_option(index=0)
    figure.get_by_role("button", name="Previous").click()
    assert_chosen(len(pictures) - 1)


def test_zooming_in_shows_the_posterior_at_its_own_size(
    open_figure: Callable[[tuple[str, str]], Locator],
) -> None:
    figure = open_figure(EXPLORER)
    items, chart = content(figure)["items"], figure.locator(".vae-play-map")
    figure.get_by_label("Test picture", exact=True).select_option(index=8)
    figure.get_by_label("zoom in on it").check()
    mu, sigma = items["mu"][8], items["sigma"][8]
    width = chart.evaluate("m => m.getBoundingClientRect().width")
    centre, radii = chart.locator(".posterior").first.evaluate(
        "e => [[e.cx, e.cy], [e.rx, e.ry]].map(pair => pair.map(one => one.baseVal.value))"
    )
    assert centre == pytest.approx([width / 2, width / 2], abs=2)
    assert radii == pytest.approx([s / max(sigma) * width / 8 for s in sigma], rel=0.02)
    x, y, _ = on_map(figure, 0.75, 0.25)  # two of the larger standard deviations to the right, and down
    figure.page.mouse.click(x, y)
    expected = [mu[0] + 2 * max(sigma), mu[1] - 2 * max(sigma)]
    assert shown_z(figure) == pytest.approx(expected, abs=0.006 + 8 * max(sigma) / width)
    before = shown_z(figure)
    chart.press("ArrowRight")
    assert shown_z(figure) == pytest.approx([before[0] + 0.01, before[1]], abs=1e-6)


def test_samples_of_a_posterior_join_the_strip(
    open_figure: Callable[[tuple[str, str]], Locator],
) -> None:
    figure = open_figure(EXPLORER)
    items, chance = content(figure)["items"], figure.page
    frames, draw = (
        figure.locator(".vae-play-strip canvas"),
        figure.get_by_role("button", name="Draw a sample"),
    )
    chance.evaluate("Math.random = () => 0.1")
    eps = (-2 * np.log(0.9)) ** 0.5 * np.cos(0.2 * np.pi)
    draw.click()
    assert frames.count() == 3
    z = np.array(items["mu"][0]) + np.array(items["sigma"][0]) * eps
    assert shown_z(figure) == pytest.approx(z, abs=0.0051)
    assert_shows(figure, frames.nth(2), z.tolist())
    assert figure.locator(".vae-play-map .draw").count() == 1
    figure.get_by_role("button", name="Draw ten").click()
    assert frames.count() == 13
    for _ in range(2):
        figure.get_by_role("button", name="Draw ten").click()
    assert frames.count() == 25 and figure.locator(".vae-play-map .draw").count() == 23, "the latest ones"
    figure.get_by_role("button", name="Next").click()
    assert frames.count() == 2 and figure.locator(".vae-play-map .draw").count() == 0


# Variance


def positions(figure: Locator, strip: int) -> dict[str, Any]:
    """What a strip shows, in the numbers of its axis."""
    view = figure.locator(".vae-play-samples").nth(strip)
    labels = view.locator("text").evaluate_all(
        "all => all.filter(t => t.textContent).map(t => [t.x.baseVal[0].value, t.textContent])"
    )
    scale = np.polyfit([x for x, _ in labels], [float(text.replace("−", "-")) for _, text in labels], 1)
    dots = view.locator("circle.point").evaluate_all("all => all.map(one => one.cx.baseVal.value)")
    bar = (view.locator(".deviation").get_attribute("d") or "").removeprefix("M").partition(" ")[0]
    line = view.locator(".exact").evaluate("one => one.x1.baseVal.value")
    return {
        "points": np.polyval(scale, dots),
        "beyond": view.locator("path.beyond").count(),
        "exact": np.polyval(scale, line),
        "low": np.polyval(scale, float(bar)),
        "tolerance": 0.5 * abs(scale[0]),
    }


@pytest.mark.parametrize("name", ["quadratic", "bump", "cosine"])
def test_strips_show_the_samples_of_the_run_around_the_exact_gradient(
    open_figure: Callable[[tuple[str, str]], Locator], name: str
) -> None:
    figure = open_figure(STRIPS)
    data, index = content(figure), ["quadratic", "bump", "cosine"].index(name)
    figure.get_by_label("Cost").select_option(index=index)
    cost = data["costs"][index]
    k = slider(figure, "k")
    for column in (0, 5, len(cost["k"]) - 1):
        k.fill(str(column))
        assert beside(k) == pytest.approx(cost["k"][column], rel=0.005)
        q = Normal(torch.tensor(1.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
        f = COSTS[name](torch.tensor(cost["k"][column], dtype=torch.float64))
        gradient = exact_gradient(f, q)
        for label, parameter in (("μ", "loc"), ("σ", "scale")):
            figure.get_by_label(label, exact=True).and_(figure.get_by_role("radio")).check()
            truth = gradient[parameter].item()
            assert number(figure.locator(".vae-play-exact output")) == pytest.approx(
                truth, rel=0.006, abs=1e-9
            )
            shown = [number(output) for output in figure.locator(".vae-play-row output").all()]
            for strip, entry in enumerate(cost["parameters"][parameter]["estimators"]):
                variance = entry["variance"][column]
                if entry["standard_error"] is None:
                    variance = exact_variance(entry["name"], f, q)[parameter].item()
                assert shown[strip] == pytest.approx(variance, rel=0.006, abs=1e-9)
                seen = positions(figure, strip)
                samples = unpack(entry["draws"])[:50, column]
                assert len(seen["points"]) + seen["beyond"] == 50
                inside = np.sort(samples)[: len(seen["points"])] if not seen["beyond"] else None
                if inside is not None:
                    assert np.sort(seen["points"]) == pytest.approx(inside, abs=seen["tolerance"])
                assert seen["exact"] == pytest.approx(truth, abs=seen["tolerance"])
                assert seen["low"] == pytest.approx(truth - variance**0.5, abs=seen["tolerance"])


def test_drawing_again_shows_other_samples_of_the_same_gradients(
    open_figure: Callable[[tuple[str, str]], Locator],
) -> None:
    figure = open_figure(STRIPS)
    again = figure.get_by_role("button", name="Draw again")

    def state() -> tuple[list[float], list[str], float]:
        seen = positions(figure, 0)
        return list(seen["points"]), figure.locator(".vae-play-row output").all_inner_texts(), seen["exact"]

    first = state()
    again.click()
    second = state()
    assert second[0] != first[0] and second[1:] == first[1:]
    again.click()
    assert state()[0] not in (first[0], second[0])
    again.press("Enter")
    assert state() == first, "three batches were exported"


def test_the_strips_start_as_the_static_picture(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(STRIPS)
    data = content(figure)
    assert figure.get_by_label("Cost").input_value() == str(data["start"]["cost"])
    assert int(slider(figure, "k").input_value()) == data["start"]["k"] > 0
    assert figure.get_by_label("μ", exact=True).is_checked()


def test_the_page_itself_keeps_its_place(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    """Playing does not change the height of a figure, so that the text below does not jump."""
    for figure, control in ((open_figure(TRICK), "σ"), (open_figure(STRIPS), "k")):
        page: Page = figure.page
        before = page.evaluate("document.body.scrollHeight")
        slider(figure, control).press("End")
        after = page.evaluate("document.body.scrollHeight")
        assert abs(after - before) <= 1, "but for rounding"
