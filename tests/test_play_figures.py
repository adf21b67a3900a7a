"""Each figure to play with, operated as a reader does it; its numbers held to those of the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from player import (
    BOUND,
    ESTIMATES,
    EXPLORER,
    STRIPS,
    TRICK,
    assert_predicts,
    beside,
    content,
    ink,
    line,
    number,
    place,
    press,
    readout,
    run,
    slider,
    unpack,
)
from playwright.sync_api import Browser, Locator, Page
from scipy import integrate, interpolate, stats
from test_play import DECODE, POINTS
from torch.distributions import Normal, kl_divergence

from vae_lab import VAE, exact_gradient, fit, load
from vae_lab.estimators.costs import COSTS
from vae_lab.exact.variance import exact_variance
from vae_lab.measure.statistics import deviation_limit
from vae_lab.records import PROVENANCE_MIME

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
    dot = figure.locator(".vae-play-overview .sample").last
    x = place(dot)[0]

    mu.fill(f"{m + 0.31:.2f}")
    assert readout(figure, "z") == pytest.approx(before + 0.31, abs=1e-9)
    assert place(dot)[0] > x
    sigma.fill(f"{s + 0.2:.2f}")
    assert readout(figure, "z") == pytest.approx(before + 0.31 + 1.3 * 0.2, abs=1e-9)
    assert beside(eps) == 1.3
    assert (readout(figure, "∂z/∂μ"), readout(figure, "∂z/∂σ")) == (1.0, 1.3)

    routes = figure.locator(".vae-play-route")
    for route, slope in zip(routes.all(), (1.0, 1.3), strict=True):
        (x0, y0), (x1, y1) = line(route.locator(".path"))
        x, y = place(route.locator(".sample"))
        assert x0 < x < x1
        assert y == pytest.approx(y0 + (x - x0) / (x1 - x0) * (y1 - y0), abs=0.2)
        assert (y0 - y1) / (x1 - x0) == pytest.approx(slope, abs=0.02), (
            "as steep to the eye as the number says"
        )


def test_without_freezing_every_move_draws_again(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(TRICK)
    mu, eps = slider(figure, "μ"), slider(figure, "ε")
    routes = figure.locator(".vae-play-route")
    assert routes.locator(".path").count() == 2
    figure.get_by_label("freeze ε").uncheck()
    assert routes.locator(".path").count() == 0, "nothing to slide along is left"
    seen = set()
    for step in range(5):
        mu.fill(f"{beside(mu) + 0.05:.2f}")
        seen.add(beside(eps))
        assert readout(figure, "z") == pytest.approx(
            beside(mu) + beside(slider(figure, "σ")) * beside(eps), abs=1e-9
        )
        assert figure.locator(".vae-play-overview .mark.drawn").count() == 2 * (step + 1)
        assert routes.locator(".draw").count() == 2 * (step + 1)
    assert len(seen) > 3


def test_a_sample_without_the_trick_has_no_path(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(TRICK)
    figure.get_by_label("sample()").check()
    gone = figure.locator("dl > div", has_text="∂z/∂").locator("output")
    assert gone.all_inner_texts() == ["none", "none"]
    assert figure.locator(".path, .arrow, .link").count() == 0
    before = readout(figure, "z")
    slider(figure, "μ").fill(f"{beside(slider(figure, 'μ')) + 0.01:.2f}")
    assert abs(readout(figure, "z") - before - 0.01) > 1e-9, "another sample, not the same one moved"


def test_a_step_goes_where_torch_would(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(TRICK)
    data = content(figure)
    figure.page.evaluate("Math.random = () => 0.1")
    eps = (-2 * np.log(0.9)) ** 0.5 * np.cos(0.2 * np.pi)
    for label, noise in (("z = μ + σ · ε", round(eps, 2)), ("z = μ + σ", 1.0), ("no ε: z = μ", 0.0)):
        press(figure, "Reset")
        figure.get_by_label(label, exact=True).check()
        leaves = torch.tensor([data["mu"], data["sigma"]], dtype=torch.float64, requires_grad=True)
        cost = COSTS["quadratic"](data["target"])
        for _ in range(3):
            press(figure, "Step")
            (gradient,) = torch.autograd.grad(cost(leaves[0] + leaves[1] * noise), leaves)
            leaves = (leaves - data["rate"] * gradient).detach().requires_grad_()
        z = leaves[0] + leaves[1] * noise
        (slope,) = torch.autograd.grad(cost(z), z, retain_graph=True)
        assert readout(figure, "z") == pytest.approx(z.item(), abs=1e-3)
        assert readout(figure, "cost") == pytest.approx(cost(z).item(), abs=1e-3)
        assert readout(figure, "its slope") == pytest.approx(slope.item(), abs=1e-3)
        mean = (leaves[0] - data["target"]) ** 2 + leaves[1] ** 2
        assert readout(figure, "expected cost") == pytest.approx(mean.item(), abs=1e-3)
        (x0, y0), (x1, y1) = line(figure.locator(".tangent"))
        width = figure.locator(".vae-play-overview").evaluate("one => one.getBoundingClientRect().width")
        across, up = (width - 28) / (12 * data["sigma"]), 92 / (25 * data["sigma"] ** 2)
        drawn = (y0 - y1) / up / ((x1 - x0) / across)
        assert drawn == pytest.approx(slope.item(), abs=0.03), "the tangent is as steep as the cost"


def test_only_the_trick_learns(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(TRICK)
    data = content(figure)
    mu, sigma = slider(figure, "μ"), slider(figure, "σ")
    at_first = readout(figure, "expected cost")

    def learn(label: str) -> None:
        figure.get_by_label(label, exact=True).check()
        run(figure)

    learn("sample()")
    assert (beside(mu), beside(sigma)) == (data["mu"], data["sigma"]), "no gradient, no step"
    assert readout(figure, "expected cost") == at_first
    learn("z = μ + σ")
    assert beside(mu) + beside(sigma) == pytest.approx(data["target"], abs=0.021)
    assert beside(sigma) > data["sigma"], "one point is at the minimum, the distribution is not"
    assert readout(figure, "expected cost") > 0.25 * at_first
    learn("no ε: z = μ")
    assert beside(mu) == pytest.approx(data["target"], abs=0.011) and beside(sigma) == data["sigma"]
    learn("z = μ + σ · ε")
    assert readout(figure, "expected cost") < 0.25 * at_first and beside(sigma) < data["sigma"] / 2
    assert figure.locator(".vae-play-history .earlier").count() == 3
    press(figure, "Reset")
    assert (beside(mu), beside(sigma)) == (data["mu"], data["sigma"])
    assert figure.locator(".vae-play-history .earlier").count() == 0
    assert readout(figure, "expected cost") == at_first
    assert_predicts(open_figure(TRICK), lambda: run(figure), right=1)


def test_drawing_again_changes_the_noise_only(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(TRICK)
    names = ("μ", "σ", "ε")
    before = [beside(slider(figure, name)) for name in names]
    figure.get_by_role("button", name="Draw again").click()
    figure.get_by_role("button", name="Draw again").press("Enter")
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
    found = np.array(figure.page.evaluate(DECODE, [content(figure)["decoder"], POINTS.tolist()]))
    assert found.shape == means.shape
    assert np.abs(found - means).max() < 1e-3
    assert means.std(0).max() > 0.01, "the decoder does not ignore z"


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


def test_the_map_decodes_what_is_under_the_mouse_and_keeps_what_is_clicked(
    open_figure: Callable[[tuple[str, str]], Locator],
) -> None:
    figure = open_figure(EXPLORER)
    mouse, large = figure.page.mouse, figure.locator(".vae-play-large canvas")
    chosen, kept = shown_z(figure), ink(large)
    x, y, z = on_map(figure, 0.3, 0.6)
    mouse.move(x, y)
    assert shown_z(figure) == chosen, "the sliders wait"
    assert_shows(figure, large, z, within=12)  # a pixel of the map is not a point
    assert not np.array_equal(ink(large), kept)
    mouse.move(x, y - 600)
    assert np.array_equal(ink(large), kept), "gone with the mouse"
    mouse.move(x, y)
    mouse.down()
    mouse.up()
    assert shown_z(figure) == pytest.approx(z, abs=0.05)
    assert_shows(figure, large, shown_z(figure))
    mouse.move(x, y - 600)
    assert_shows(figure, large, shown_z(figure))
    # The ring, by its handle.
    mouse.move(x, y)
    mouse.down()
    x, y, z = on_map(figure, 0.75, 0.2)
    mouse.move(x, y, steps=4)
    assert shown_z(figure) == pytest.approx(z, abs=0.05)
    mouse.move(x + 3000, y)
    edge = float(slider(figure, "z₁").get_attribute("max") or "nan")
    assert shown_z(figure)[0] == edge, "not beyond the map"
    mouse.up()
    colours = figure.locator(".codes text").evaluate_all(
        "all => all.map(t => [t.textContent, getComputedStyle(t).fill])"
    )
    looks = {str(label): colour for label, colour in content(figure)["looks"].items()}
    for label, fill in dict(map(tuple, colours)).items():
        numbers = [round(255 * part) for part in to_rgb(looks[label])]
        assert fill == f"rgb({', '.join(map(str, numbers))})", "as on the chapter's own map"


def test_a_finger_scrolls_over_the_map_taps_and_drags_the_ring(browser: Browser, site: str) -> None:
    context = browser.new_context(has_touch=True, viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto(f"{site}chapters/{EXPLORER[0]}.html")
    figure = page.locator(f"#{EXPLORER[1]}")
    finger = context.new_cdp_session(page)

    def swipe(start: tuple[float, float], end: tuple[float, float]) -> None:
        ways = [
            tuple(a + (b - a) * part / 8 for a, b in zip(start, end, strict=True)) for part in range(1, 9)
        ]
        kinds = ["touchStart", *["touchMove"] * 8]
        for kind, (x, y) in zip(kinds, [start, *ways], strict=True):
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_timeout(300)

    x, y, z = on_map(figure, 0.7, 0.7)
    page.touchscreen.tap(x, y)
    assert shown_z(figure) == pytest.approx(z, abs=0.05)
    scrolled = page.evaluate("scrollY")
    x1, y1, z = on_map(figure, 0.4, 0.3)
    swipe((x, y), (x1, y1))
    assert shown_z(figure) == pytest.approx(z, abs=0.05)
    assert page.evaluate("scrollY") == scrolled, "on the ring a finger draws"
    x, y, _ = on_map(figure, 0.8, 0.8)
    swipe((x, y), (x, y - 150))
    assert page.evaluate("scrollY") > scrolled + 50, "beside it, it scrolls"
    assert shown_z(figure) == pytest.approx(z, abs=0.05)
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
    slider(figure, "τ").fill("6")
    wide = np.array(items["mu"][0]) + 6 * np.array(items["sigma"][0]) * eps
    assert_shows(figure, frames.nth(2), wide.tolist())
    assert not np.array_equal(ink(frames.nth(2)), ink(frames.nth(1))), "the same ε, further away"
    slider(figure, "τ").fill("0")
    assert np.array_equal(ink(frames.nth(2)), ink(frames.nth(1))), "no noise, no spread"
    figure.get_by_role("button", name="Draw ten").click()
    assert frames.count() == 13
    for _ in range(2):
        figure.get_by_role("button", name="Draw ten").click()
    assert frames.count() == 25 and figure.locator(".vae-play-map .draw").count() == 23, "the latest ones"
    figure.get_by_role("button", name="Next").click()
    assert frames.count() == 2 and figure.locator(".vae-play-map .draw").count() == 0
    first = np.unique(items["labels"], return_index=True)[1]
    mu, sigma = (np.array(items[name])[first] for name in ("mu", "sigma"))
    ways = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    points = (mu[:, None] + sigma[:, None] * ways).reshape(-1, 2).tolist()
    means = np.array(figure.page.evaluate(DECODE, [content(figure)["decoder"], points]))
    means = means.reshape(len(first), 5, -1)
    inside = np.sqrt(((means[:, 1:] - means[:, :1]) ** 2).mean(-1)).mean()
    between = np.sqrt(((means[:, 0] - np.roll(means[:, 0], -1, 0)) ** 2).mean(-1)).mean()
    right = 0 if inside < between / 2 else 1
    assert_predicts(open_figure(EXPLORER), lambda: press(figure, "Draw ten"), right=right)


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
    figure.get_by_label("Cost", exact=True).select_option(index=index)
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


def test_the_axis_of_the_strips_keeps_its_scale(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(STRIPS)
    data, k, fit = content(figure), slider(figure, "k"), figure.get_by_label("fit the axis to this k")
    last = len(data["costs"][-1]["k"]) - 1
    axis = figure.locator(".vae-play-samples").first.locator("text")

    def spread() -> float:
        ends = (
            figure.locator(".vae-play-samples")
            .first.locator(".deviation")
            .evaluate("one => [one.getBBox().x, one.getBBox().x + one.getBBox().width]")
        )
        return ends[1] - ends[0]

    k.fill("2")
    labels, narrow = axis.all_inner_texts(), spread()
    k.fill(str(last))
    variance = data["costs"][-1]["parameters"]["loc"]["estimators"][0]["variance"]
    assert axis.all_inner_texts() == labels
    assert spread() / narrow == pytest.approx((variance[last] / variance[2]) ** 0.5, rel=0.02), "in pixels"
    fit.check()
    k.fill("2")
    assert axis.all_inner_texts() != labels and spread() > 1.5 * narrow


def test_the_cost_and_the_density_are_those_of_the_package(
    open_figure: Callable[[tuple[str, str]], Locator],
) -> None:
    figure = open_figure(STRIPS)
    data, picture = content(figure), figure.locator(".vae-play-cost")
    z = torch.tensor(data["q"]["z"], dtype=torch.float64)
    for index, name in enumerate(["quadratic", "bump", "cosine"]):
        figure.get_by_label("Cost", exact=True).select_option(index=index)
        slider(figure, "k").fill("4")
        cost = COSTS[name](data["costs"][index]["k"][4])(z).numpy()
        curve = line(picture.locator(".second"))
        off = np.corrcoef(curve[:, 1], -cost)[0, 1]
        assert off > 0.999, "the same curve, in pixels"
    density = line(picture.locator(".density"))
    assert np.corrcoef(density[:, 1], -Normal(1.0, 1.0).log_prob(z).exp())[0, 1] > 0.999
    slider(figure, "k").fill(str(data["start"]["k"]))
    entries = data["costs"][-1]["parameters"]["loc"]["estimators"][:2]
    growth = [entry["variance"][-1] / entry["variance"][data["start"]["k"]] for entry in entries]
    right = 2 if min(growth) > 1.5 else int(np.argmax(growth))
    figure = open_figure(STRIPS)
    assert_predicts(figure, lambda: slider(figure, "k").press("End"), right=right)


def test_the_strips_start_as_the_static_picture(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(STRIPS)
    data = content(figure)
    assert figure.get_by_label("Cost", exact=True).input_value() == str(data["start"]["cost"])
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


# Estimates run, the mean settles


def test_single_gradients_are_those_of_torch(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(ESTIMATES)
    w, eps = content(figure)["weight"], [-2.1, -0.3, 0.0, 0.8, 1.7]
    for mu, sigma in ((0.5, 1.0), (-1.2, 0.4)):
        found = figure.page.evaluate(
            "([w, mu, sigma, eps]) => eps.map(one => vaePlay.singleGradients(w, mu, sigma, one))",
            [w, mu, sigma, eps],
        )
        loc, scale = (
            torch.full((len(eps),), value, dtype=torch.float64, requires_grad=True) for value in (mu, sigma)
        )
        z = loc + scale * torch.tensor(eps, dtype=torch.float64)
        cut = z.detach()
        surrogates = {
            "pathwise": (w * z) ** 2,
            "score": (w * cut) ** 2 * Normal(loc, scale).log_prob(cut),
        }
        for name, surrogate in surrogates.items():
            gradients = torch.autograd.grad(surrogate.sum(), (loc, scale))
            for parameter, gradient in zip(("mu", "sigma"), gradients, strict=True):
                shown = [one[name][parameter] for one in found]
                assert shown == pytest.approx(gradient.tolist(), abs=1e-9)


def test_running_means_settle_at_the_exact_gradient(
    open_figure: Callable[[tuple[str, str]], Locator],
) -> None:
    figure = open_figure(ESTIMATES)
    data, most = content(figure), 10_000
    w, mu = data["weight"], data["mu"]
    slider(figure, "σ").fill("0.8")
    chance = np.random.default_rng(0).random(2 * most)
    figure.page.evaluate("given => { let i = 0; Math.random = () => given[i++]; }", chance.tolist())
    pairs = chance.reshape(most, 2).T
    eps = np.sqrt(-2 * np.log1p(-pairs[0])) * np.cos(2 * np.pi * pairs[1])
    z = mu + 0.8 * eps
    truth = {"μ": 2 * w**2 * mu, "σ": 2 * w**2 * 0.8}
    expected = {
        ("μ", "pathwise"): 2 * w**2 * z,
        ("σ", "pathwise"): 2 * w**2 * z * eps,
        ("μ", "score function"): (w * z) ** 2 * eps / 0.8,
        ("σ", "score function"): (w * z) ** 2 * (eps**2 - 1) / 0.8,
    }
    press(figure, "One sample")
    assert readout(figure, "samples") == 1
    assert readout(figure, "pathwise") == pytest.approx(expected["μ", "pathwise"][0], abs=1e-3)
    run(figure)
    assert figure.locator("dl output").first.inner_text() == "10,000"
    for (parameter, name), values in expected.items():
        figure.get_by_label(parameter, exact=True).and_(figure.get_by_role("radio")).check()
        assert readout(figure, "exact") == pytest.approx(truth[parameter], abs=1e-3)
        assert readout(figure, name) == pytest.approx(values.mean(), abs=1e-3)
        shown = figure.locator(f"dl > div:has(dt:text-is('{name}')) output").inner_text()
        assert float(shown.split(" ± ")[1]) == pytest.approx(2 * values.std(ddof=1) / most**0.5, rel=0.01)
        assert abs(values.mean() - truth[parameter]) < deviation_limit(4) * values.std() / most**0.5
    assert figure.locator(".band").count() == 2
    figure.get_by_label("pathwise", exact=True).check()
    assert figure.locator(".band").count() == 1
    slider(figure, "σ").press("ArrowRight")
    assert readout(figure, "samples") == 0, "another σ starts anew"
    assert_predicts(open_figure(ESTIMATES), lambda: run(figure), right=0)


# The bound


def test_the_terms_of_the_bound_are_those_of_torch(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(BOUND)
    data = content(figure)
    grid, log_likelihood = np.array(data["z"]), np.array(data["log_likelihood"])
    smooth = interpolate.CubicSpline(grid, log_likelihood)
    for mu, sigma in ((0.0, 1.0), (1.2, 0.25), (-0.7, 0.5)):
        slider(figure, "μ").fill(str(mu))
        slider(figure, "σ").fill(str(sigma))
        q = stats.norm(mu, sigma)
        reconstruction = integrate.quad(lambda z, q=q: q.pdf(z) * smooth(z), -6, 6, limit=200)[0]
        kl = kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).item()
        assert readout(figure, "reconstruction") == pytest.approx(reconstruction, abs=2e-3)
        assert readout(figure, "KL") == pytest.approx(kl, abs=2e-3)
        assert readout(figure, "ELBO") == pytest.approx(reconstruction - kl, abs=3e-3)
        evidence = np.log(integrate.quad(lambda z: np.exp(smooth(z)) * stats.norm.pdf(z), -6, 6)[0])
        assert readout(figure, "log p(x)") == pytest.approx(evidence, abs=1e-3)
        assert readout(figure, "gap") == pytest.approx(evidence - reconstruction + kl, abs=3e-3)


def test_q_is_moved_by_its_handles_and_climbs(open_figure: Callable[[tuple[str, str]], Locator]) -> None:
    figure = open_figure(BOUND)
    drawing, mouse = figure.locator(".vae-play-densities"), figure.page.mouse
    drawing.scroll_into_view_if_needed()
    left, top = drawing.evaluate("d => [d.getBoundingClientRect().left, d.getBoundingClientRect().top]")
    width = drawing.evaluate("d => d.getBoundingClientRect().width")
    low, high = (float(slider(figure, "μ").get_attribute(end) or "nan") for end in ("min", "max"))
    unit = (width - 24) / (high - low)

    def drag(handle: int, by: float) -> None:
        x, y = place(drawing.locator(".sample").nth(handle))
        mouse.move(left + x, top + y)
        mouse.down()
        mouse.move(left + x + by * unit, top + y, steps=3)
        mouse.up()

    mu, sigma = beside(slider(figure, "μ")), beside(slider(figure, "σ"))
    drag(0, 0.5)
    assert beside(slider(figure, "μ")) == pytest.approx(mu + 0.5, abs=0.03)
    assert beside(slider(figure, "σ")) == sigma
    drag(1, 0.4)
    assert beside(slider(figure, "σ")) == pytest.approx(sigma + 0.4, abs=0.03)
    press(figure, "Reset")
    assert (beside(slider(figure, "μ")), beside(slider(figure, "σ"))) == (mu, sigma)

    before = readout(figure, "ELBO")
    press(figure, "One step uphill")
    assert readout(figure, "ELBO") > before
    for _ in range(4):
        run(figure)
    score = "([data, m, s]) => vaePlay.bound(data, m, s).elbo"
    at = [beside(slider(figure, "μ")), beside(slider(figure, "σ"))]
    top_score = readout(figure, "ELBO")
    for off in ((0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05)):
        beyond = [a + b for a, b in zip(at, off, strict=True)]
        assert figure.page.evaluate(score, [content(figure), *beyond]) < top_score
    assert readout(figure, "gap") > 0
    assert_predicts(open_figure(BOUND), lambda: [run(figure) for _ in range(4)] and None, right=1)
