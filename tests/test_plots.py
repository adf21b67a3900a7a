import io
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from torch.distributions import Normal

from vae_lab import benchmark, exact_gradient, plots
from vae_lab.estimators import plain_name
from vae_lab.estimators.costs import COSTS
from vae_lab.measure.statistics import mean_interval
from vae_lab.records import CLASSES


@pytest.fixture(autouse=True)
def style() -> object:
    with mpl.rc_context():
        plots.use_style()
        yield
        plt.close("all")


def svg(figure: plt.Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def texts(ax: plt.Axes) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


def test_learning_curves_draw_mean_and_interval() -> None:
    history = pd.DataFrame(
        {"epoch": [1, 1, 1, 2, 2, 2], "replica": [0, 1, 2] * 2, "elbo": [1.0, 2.0, 4.0, 2.0, 3.0, 5.0]}
    )
    history["test_elbo"] = [np.nan] * 3 + [1.0, 2.0, 2.5]
    ax = plots.learning_curves(history, {"elbo": "training", "test_elbo": "test"})
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "test"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [7 / 3, 10 / 3])
    assert list(ax.lines[1].get_xdata()) == [2]
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    interval = mean_interval([1.0, 2.0, 4.0])
    np.testing.assert_allclose((band.min(), band.max()), (interval.low, mean_interval([2.0, 3.0, 5.0]).high))
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle(), "colour is not the only difference"


def test_a_single_replica_has_a_line_and_no_band() -> None:
    history = pd.DataFrame({"epoch": [1, 2], "replica": [0, 0], "elbo": [1.0, 2.0]})
    ax = plots.learning_curves(history, {"elbo": "training"})
    assert len(ax.lines) == 1 and not ax.collections


def test_image_rows_place_every_image() -> None:
    rows = {"a": torch.rand(3, 6), "b": torch.rand(3, 6)}
    ax = plots.image_rows(rows, (3, 2))
    picture = ax.images[0].get_array()
    assert picture.shape == (10, 12)
    np.testing.assert_allclose(picture[1:4, 5:7], rows["a"][1].view(3, 2))
    np.testing.assert_allclose(picture[6:9, 9:11], rows["b"][2].view(3, 2))
    assert picture.mask[0].all()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]


def test_images_of_three_channels_are_drawn_in_colour() -> None:
    rows = {"a": 2 * torch.rand(2, 3 * 2 * 3, requires_grad=True)}
    picture = plots.image_rows(rows, (3, 2, 3)).images[0].get_array()
    assert picture.shape == (4, 10, 4)
    second = rows["a"][1].detach().view(3, 2, 3).permute(1, 2, 0).clamp(0, 1)
    np.testing.assert_allclose(picture[1:3, 6:9, :3], second)
    assert (picture[1:3, 6:9, 3] == 1).all() and (picture[0, :, 3] == 0).all(), "paper between the images"
    for shape, message in (((2, 3, 3), "drawn from 1 channel or 3"), ((3, 3), "number of features, 18")):
        with pytest.raises(ValueError, match=message):
            plots.image_rows(rows, shape)


def test_images_have_a_figure_of_their_own_in_which_they_can_be_seen() -> None:
    """A digit with its margin is at least 52 pixels wide on the page, which has 96 pixels to the inch."""
    rows = {"a row": torch.rand(9, 28 * 28), "another": torch.rand(9, 28 * 28)}
    ax = plots.image_rows(rows, (28, 28), columns=list("abcdefghi"))
    ax.figure.draw_without_rendering()
    width = ax.get_window_extent().width / ax.figure.dpi * 96
    assert width / 9 > 52


def test_latent_map_draws_every_item_as_its_label() -> None:
    labels = torch.tensor([0, 1, 1, 2])
    ax = plots.latent_map(torch.randn(4, 2), labels)
    assert [len(c.get_offsets()) for c in ax.collections] == [1, 2, 1]


def test_latent_map_names_each_label_where_it_is_densest_unless_told_otherwise() -> None:
    mu = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [9.0, 9.0], [4.0, -4.0]])
    labels = torch.tensor([7, 7, 7, 7, 3])
    ax = plots.latent_map(mu, labels)
    assert texts(ax) == ["3", "7"]
    assert ax.texts[0].get_position() == (4.0, -4.0)
    assert max(map(abs, ax.texts[1].get_position())) < 0.2, "not between the two places"
    assert not plots.latent_map(mu, labels, plt.figure().subplots(), names=False).texts


def test_ten_labels_have_ten_colours() -> None:
    """Those of the lines first, which the figures to play with share; no two look alike."""
    assert CLASSES[: len(plots.PALETTE)] == plots.PALETTE and len(CLASSES) == 10
    ax = plots.latent_map(torch.randn(10, 2), torch.arange(10))
    assert [to_hex(c.get_facecolor()[0]) for c in ax.collections] == list(CLASSES)
    places = lab(linear(CLASSES))
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    assert apart[~np.eye(10, dtype=bool)].min() > 25


def test_latent_map_draws_an_ellipse_of_one_deviation_around_each() -> None:
    mu, sigma = torch.tensor([[0.0, 0.0], [3.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.2, 2.0]])
    ax = plots.latent_map(mu, torch.tensor([4, 4]), plt.figure().subplots(), sigma)
    regions = ax.collections[0]
    assert regions.get_widths().tolist() == pytest.approx([2.0, 0.4])
    assert regions.get_heights().tolist() == pytest.approx([1.0, 4.0])
    assert ax.dataLim.intervaly.tolist() == pytest.approx([-1.0, 3.0]), "all of it is in view"


def graph(cost: torch.Tensor, **leaves: torch.Tensor) -> list[str]:
    return texts(plots.autograd_graph(cost, leaves, plt.figure().subplots()))


def test_autograd_graph_is_torchs() -> None:
    mu, sigma, w = (torch.tensor(v, requires_grad=True) for v in (0.5, 1.0, 2.0))
    q = torch.distributions.Normal(mu, sigma)
    cut = graph((w * q.sample()) ** 2, mu=mu, sigma=sigma, w=w)
    assert sorted(cut) == ["Mul", "Pow", "mu: no path", "not recorded", "sigma: no path", "w"]
    whole = graph((w * q.rsample()) ** 2, mu=mu, sigma=sigma, w=w)
    assert sorted(whole) == ["Add", "Mul", "Mul", "Pow", "mu", "not recorded", "sigma", "w"]


def test_autograd_graph_counts_a_shared_node_once() -> None:
    mu = torch.tensor(0.5, requires_grad=True)
    square = mu * mu
    assert graph(square + square.sin(), mu=mu).count("Mul") == 1


def test_figures_use_only_the_two_inks_that_the_book_swaps_for_dark_mode() -> None:
    figure, ax = plt.subplots()
    ax.plot([1, 2])
    ax.set(xlabel="x", title="t")
    for text in (ax.xaxis.label, ax.title):
        assert to_hex(text.get_color()) == plots.INK
    assert to_hex(figure.get_facecolor()) == plots.PAPER
    content = svg(figure)
    assert plots.INK in content and plots.PAPER in content
    assert "#000000" not in content


def test_diagram_shows_the_parts_and_the_derivatives() -> None:
    shown = texts(plots.vae_diagram())
    parts = ("encoder", "reparameterization", "decoder", "loss", "μ", "σ", "ε", "z", "∂z/∂μ = 1", "∂z/∂σ = ε")
    for part in parts:
        assert shown.count(part) == 1, part


@pytest.mark.parametrize(("name", "k"), [("cosine", 1.3), ("quadratic", -1.0), ("bump", 0.4)])
def test_the_three_ideas_are_estimates_of_the_gradient(name: str, k: float) -> None:
    """With 300 evenly spread draws, each mean is the integral that the idea stands for."""
    q, cost = Normal(torch.tensor(0.5), torch.tensor(1.2)), COSTS[name](k)
    exact = exact_gradient(cost, q)["loc"].item()
    axes = plt.subplots(3, 1)[1]
    found = plots.three_ideas(cost, q, axes, draws=300)
    assert list(found) == ["move the sample", "weigh the sample", "difference of two"]
    for numbers in found.values():
        assert numbers.mean().item() == pytest.approx(exact, abs=0.02)
    for ax, (idea, numbers) in zip(axes, found.items(), strict=True):
        assert ax.get_title(loc="left").lower().startswith(idea)
        written = [float(text.replace("−", "-")) for text in texts(ax) if text[0] in "+−"]
        np.testing.assert_allclose(written, numbers, atol=0.0051)


def test_a_map_of_winners_names_whom_it_shows() -> None:
    x, y = np.logspace(0, 1, 8), np.logspace(0, 1, 6)
    best = np.where(np.arange(8) < 5, "a_b", "c") * np.ones((6, 1), dtype=object)
    best[0, 7] = "d"
    decided = np.broadcast_to(np.arange(8) != 4, best.shape)
    ax = plots.winner_map(
        x, y, best, decided, {"a_b": "first", "c": "third", "d": "few", "e": "none"}, plt.gca()
    )
    handles, labels = ax.get_legend_handles_labels()
    assert labels == ["first", "third", "few"], "only winners"
    assert texts(ax) == ["first", "third"], "where there is room"
    solid, pale = ax.collections
    assert (solid.get_array().mask != pale.get_array().mask).all()
    assert (solid.get_array().mask == ~decided).all()
    for text, handle, label in zip(ax.texts, handles, labels, strict=False):
        column, row = (
            np.abs(np.log(g / v)).argmin() for g, v in zip((x, y), text.get_position(), strict=True)
        )
        color = solid.cmap(solid.norm(solid.get_array().data[row, column]))
        assert text.get_text() == label and to_hex(color) == to_hex(handle.get_color())


def test_the_same_figure_has_the_same_bytes() -> None:
    first, second = (svg(plots.vae_diagram(plt.figure().subplots()).figure) for _ in range(2))
    assert first == second


def test_the_readmes_picture_is_the_books() -> None:
    def shown(content: str) -> list[str]:
        return re.findall("<!-- (.*?) -->", content)  # matplotlib notes each text it draws

    picture = (Path(__file__).parents[1] / "book" / "assets" / "vae.svg").read_text("utf-8")
    assert shown(picture) == shown(svg(plots.vae_diagram(plt.figure().subplots()).figure))
    assert len(shown(picture)) > 10


@pytest.mark.parametrize("quantity", ["variance", "efficiency", "bias"])
def test_a_benchmark_shows_every_estimator_with_its_interval(quantity: str) -> None:
    q = Normal(torch.tensor([0.5, 1.0]), torch.tensor(1.2))
    frame = benchmark(torch.cos, q, ["pathwise", "score_function", "frozen_epsilon"], replicates=2_000)
    ax = plots.plot_benchmark(frame, quantity)
    names = [label.get_text() for label in ax.get_yticklabels()]
    known = {"pathwise", "score function", "ε = 1"}
    assert set(names) == (known - {"ε = 1"} if quantity == "variance" else known)
    means = frame.groupby(["estimator", "parameter"])[quantity].mean()
    code, drawn = {plain_name(name): name for name in frame["estimator"]}, {}
    for line in ax.lines:
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True):
            if line.get_linestyle() == "None" and line.get_marker() in "os":
                parameter = {"o": "loc", "s": "scale"}[line.get_marker()]
                drawn[code[names[round(y)]], parameter] = x
                hollow = to_hex(line.get_markerfacecolor()) == plots.PAPER
                assert hollow == (names[round(y)] == "ε = 1"), "hollow: not declared unbiased"
    for key, value in drawn.items():
        np.testing.assert_allclose(value, means[key])
    assert len(drawn) == 2 * len(names)
    best = means.groupby("estimator").mean().abs()
    assert code[names[0]] == (best.idxmax() if quantity == "efficiency" else best[best > 0].idxmin())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["μ", "σ"]
    if quantity == "variance":
        pathwise = frame[(frame["estimator"] == "pathwise") & (frame["parameter"] == "loc")]
        half = 1.96 * (pathwise["variance_se"] ** 2).sum() ** 0.5 / 2
        ends = np.concatenate([segment[:, 0] for c in ax.collections for segment in c.get_segments()])
        assert np.isclose(ends, pathwise["variance"].mean() + half).any(), "an interval is drawn"


# Colours as people with a colour-blindness see them, for linear RGB: Machado, Oliveira and Fernandes (2009),
# doi 10.1109/TVCG.2009.113, table 1, full severity.
BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(colours: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB (n, 3), for daylight (D65)."""
    xyz = colours @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    ratio = np.maximum(xyz / [0.9505, 1.0, 1.089], 0)
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)


def linear(colours: tuple[str, ...]) -> np.ndarray:
    rgb = np.array([mpl.colors.to_rgb(colour) for colour in colours])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("kind", [None, *BLINDNESS])
def test_the_colours_can_be_told_apart(kind: str | None) -> None:
    """By people with and without a colour-blindness. A difference of 2 can just be seen."""
    seen = linear(plots.PALETTE)
    if kind:
        seen = np.clip(seen @ np.array(BLINDNESS[kind]).T, 0, 1)
    places = lab(seen)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    assert apart[~np.eye(len(places), dtype=bool)].min() > 10


def test_in_grey_lines_differ_in_style() -> None:
    """Some colours are the same grey, so each line has its own style; and all show on white and black."""
    grey = lab(linear(plots.PALETTE))[:, 0]
    assert len(set(map(str, plots.LINES))) == len(plots.LINES) == len(plots.PALETTE)
    assert (grey > 35).all() and (grey < 85).all()
