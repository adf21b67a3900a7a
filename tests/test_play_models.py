"""Figures to play with that show trained models and exact answers: their numbers are those of the package."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from player import (
    NOISE,
    SPECTRUM,
    TEMPERATURE,
    THRESHOLD,
    assert_predicts,
    content,
    ink,
    readout,
    slider,
    unpack,
)
from playwright.sync_api import Locator
from scipy import integrate
from sklearn.metrics import roc_auc_score
from torch.distributions import RelaxedBernoulli

from vae_lab import VAE, load
from vae_lab.exact.linear import ppca
from vae_lab.play import noisy_codes

Open = Callable[[tuple[str, str]], Locator]


def means(decoder: dict, z: np.ndarray) -> np.ndarray:
    """What a decoder of the page makes of z (points, latents), computed here."""
    bends = {"relu": torch.relu, "tanh": torch.tanh, "gelu": torch.nn.functional.gelu}
    x = torch.as_tensor(z, dtype=torch.float64)
    for i, layer in enumerate(decoder["layers"]):
        weight, bias = (torch.as_tensor(unpack(layer[key]).copy()).double() for key in ("weight", "bias"))
        x = x @ weight + bias
        x = bends[decoder["activation"]](x) if i < len(decoder["layers"]) - 1 else torch.sigmoid(x)
    return x.numpy()


def test_noisy_codes_are_those_of_the_replicas_that_are_named() -> None:
    data, vae = load("digits"), VAE(64, 3, (8,), replicas=2)
    found = noisy_codes(vae, {"a": 1, "b": 0}, data, torch.zeros(4, 3))
    assert found["labels"] == list(range(10)) and found["pictures"].shape == (10, 64)
    with torch.no_grad():
        mu = vae.encoder(data.test).mu
    for model, replica in zip(found["models"], (1, 0), strict=True):
        where = [int((data.test_labels == label).nonzero()[0]) for label in range(10)]
        assert np.allclose(model["mu"], mu[replica, where])
        assert model["spread"] == pytest.approx(float(mu[replica].var(0).mean().sqrt()), rel=1e-5)
        assert torch.equal(
            model["decoder"]["layers"][0]["weight"], vae.decoder.stack.layers[0].weight[replica]
        )


@pytest.mark.parametrize("unit", ["absolute", "relative"])
def test_noise_changes_pictures_as_much_as_the_decoders_say(open_figure: Open, unit: str) -> None:
    figure = open_figure(NOISE)
    data = content(figure)
    slider(figure, "size").fill("0.5")
    figure.locator(f"input[value={unit}]").check()
    for model in data["models"]:
        mu, eps = np.array(model["mu"][0]), np.array(data["eps"])
        width = 0.5 * (model["spread"] if unit == "relative" else 1)
        middle, moved = means(model["decoder"], mu[None]), means(model["decoder"], mu + width * eps)
        expected = math.sqrt(((moved - middle) ** 2).mean())
        assert readout(figure, f"grey levels change, trained {model['name']}") == pytest.approx(
            expected, abs=1e-3
        )
    canvas = figure.get_by_role("img", name=f"Decoded with noise, trained {data['models'][1]['name']}").first
    assert np.abs(ink(canvas) - 255 * moved[0]).max() <= 1.5
    slider(figure, "size").fill("0")
    assert readout(figure, f"grey levels change, trained {data['models'][0]['name']}") == 0


def test_the_figure_with_noise_asks_first(open_figure: Open) -> None:
    figure = open_figure(NOISE)
    changes = []
    for model in content(figure)["models"]:
        eps = np.array(content(figure)["eps"])
        pairs = [
            (means(model["decoder"], np.array([mu])), means(model["decoder"], mu + 0.25 * eps))
            for mu in model["mu"]
        ]
        changes.append(np.mean([np.sqrt(((b - a) ** 2).mean()) for a, b in pairs]))
    alike = abs(changes[0] - changes[1]) < 0.2 * max(changes)
    right = 2 if alike else int(changes[1] > changes[0])
    assert_predicts(figure, lambda: slider(figure, "size").fill("0.3"), right=right)


def test_the_threshold_divides_as_sklearn_and_counting_do(open_figure: Open) -> None:
    figure = open_figure(THRESHOLD)
    data = content(figure)
    normal = np.array(data["familiar"])
    for i, kind in enumerate(data["kinds"]):
        figure.get_by_label("Anomalies", exact=True).select_option(index=i)
        strange, t = np.array(kind["scores"]), slider(figure, "t")
        t.fill(str(float(np.median(normal))))
        at = float(t.input_value())
        assert readout(figure, "familiar images above t") == pytest.approx((normal > at).mean(), abs=1e-3)
        assert readout(figure, "anomalies above t") == pytest.approx((strange > at).mean(), abs=1e-3)
        truth = np.r_[np.zeros(len(normal)), np.ones(len(strange))]
        area = roc_auc_score(truth, np.r_[normal, strange])
        assert readout(figure, "AUROC") == pytest.approx(area, abs=1e-3)


def test_the_line_of_the_threshold_can_be_dragged(open_figure: Open) -> None:
    figure = open_figure(THRESHOLD)
    before = float(slider(figure, "t").input_value())
    grip = figure.locator(".vae-play-grip")
    grip.scroll_into_view_if_needed()
    box = grip.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse = figure.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + 40, y)
    mouse.up()
    assert float(slider(figure, "t").input_value()) > before


def test_the_threshold_asks_first(open_figure: Open) -> None:
    figure = open_figure(THRESHOLD)
    data = content(figure)
    normal, strange = np.sort(data["familiar"]), np.array(data["kinds"][0]["scores"])
    caught = (strange > normal[math.ceil(0.9 * len(normal)) - 1]).mean()
    right = 0 if caught > 0.75 else 1 if caught > 0.25 else 2
    assert_predicts(figure, lambda: slider(figure, "t").press("ArrowRight"), right=right)


def test_bias_and_noise_at_a_temperature_are_those_of_the_run(open_figure: Open) -> None:
    figure = open_figure(TEMPERATURE)
    data = content(figure)
    for i in (0, len(data["temperatures"]) - 1):
        slider(figure, "τ").fill(str(i))
        slider(figure, "n").fill("2")
        unit = abs(data["exact"])  # all in units of the gradient
        bias, noise = data["bias"][i] / unit, math.sqrt(data["variance"][i] / 100) / unit
        assert readout(figure, "bias") == pytest.approx(bias, abs=1e-3)
        assert readout(figure, "noise of a mean of n") == pytest.approx(noise, abs=1e-3)
        assert readout(figure, "root mean squared error") == pytest.approx(math.hypot(bias, noise), abs=1e-3)


def test_the_relaxed_bit_has_the_density_of_torch(open_figure: Open) -> None:
    figure, x = open_figure(TEMPERATURE), np.linspace(0.02, 0.98, 25)
    for t in (0.3, 1.5):
        found = figure.page.evaluate("([t, x]) => x.map(vaePlay.relaxedBit(1.0, t))", [t, x.tolist()])
        q = RelaxedBernoulli(torch.tensor(t), logits=torch.tensor(1.0))
        assert found == pytest.approx(q.log_prob(torch.as_tensor(x)).exp().tolist(), rel=1e-3)
    assert integrate.trapezoid(found, x) == pytest.approx(1, abs=0.05)


def test_the_temperature_asks_first(open_figure: Open) -> None:
    figure = open_figure(TEMPERATURE)
    variance = content(figure)["variance"]
    right = 2 if variance[0] > 1.2 * variance[-1] else 0 if variance[0] < variance[-1] / 1.2 else 1
    assert_predicts(figure, lambda: slider(figure, "τ").fill("0"), right=right)


@pytest.mark.parametrize("k", [1, 7])
def test_the_spectrum_is_that_of_the_exact_model(open_figure: Open, k: int) -> None:
    figure = open_figure(SPECTRUM)
    data = load("digits", binarize=None)
    exact = ppca(torch.cat([data.train, data.test]).double(), k)
    slider(figure, "k").fill(str(k))
    assert readout(figure, "noise variance t") == pytest.approx(exact.noise_variance, rel=5e-3)
    assert readout(figure, "KL, nats") == pytest.approx(float(exact.kl.sum()), abs=1e-3)
    assert readout(figure, "log p(x), nats per item") == pytest.approx(exact.log_likelihood, abs=1e-3)


def test_the_spectrum_asks_first(open_figure: Open) -> None:
    figure = open_figure(SPECTRUM)
    assert_predicts(figure, lambda: slider(figure, "k").fill("6"), right=2)
