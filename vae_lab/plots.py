"""Figures: from tidy frames and tensors to matplotlib Axes, in one style.

Figures are drawn with `INK` on `PAPER`, as vector graphics. The book swaps exactly these two colours for
its dark mode, so anything else that is drawn must read on both backgrounds. Lines take the colours
of Okabe and Ito, safe for colour-blind readers, and differ in style too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from torch import Tensor

from .statistics import mean_interval

INK, PAPER, FAINT = "#1f2328", "#ffffff", "#8b949e"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))


def use_style() -> None:
    """Use the project's style for all figures of this process; in a notebook, as SVG."""
    mpl.rcParams.update(
        {
            "figure.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "axes.edgecolor": FAINT,
            "axes.labelcolor": INK,
            "axes.prop_cycle": cycler(color=PALETTE, linestyle=LINES),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.titleweight": "bold",  # or it could be the label of the axis above
            "figure.constrained_layout.h_pad": 0.08,
            "figure.constrained_layout.use": True,
            "figure.figsize": (6, 3),
            "font.size": 11,
            "grid.color": FAINT,
            "image.cmap": "gray_r",
            "image.interpolation": "none",
            "legend.frameon": False,
            "svg.hashsalt": "vae_lab",  # the same figure has the same bytes in every run
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})
    except (ImportError, AttributeError):
        pass  # not in a notebook: figures are saved by whoever draws them


def learning_curves(history: pd.DataFrame, columns: Mapping[str, str], ax: Axes | None = None) -> Axes:
    """Mean over replicas by epoch, with the 95% t interval as a band.

    `history` is what `fit` returns; `columns` maps its columns to labels. Rows without a value (epochs
    that were not scored) are left out. A single replica has no band.
    """
    ax = ax or plt.gca()
    for (column, label), color, line in zip(columns.items(), cycle(PALETTE), cycle(LINES), strict=False):
        by_epoch = history.dropna(subset=column).groupby("epoch")[column]
        mean = by_epoch.mean()
        ax.plot(mean.index, mean, color=color, linestyle=line, label=label)
        if by_epoch.size().min() > 1:
            band = np.array([mean_interval(values) for _, values in by_epoch])
            ax.fill_between(mean.index, band[:, 1], band[:, 2], color=color, alpha=0.25, linewidth=0)
    ax.set(xlabel="epoch", ylabel="nats per item")
    ax.legend()
    return ax


def plot_benchmark(frame: pd.DataFrame, quantity: str = "variance", ax: Axes | None = None) -> Axes:
    """Estimators against each other: `frame` is what `benchmark` returns, averaged over coordinates.

    `quantity` is "variance" or "efficiency" (logarithmic) or "bias", each with its 95% interval where
    the frame has a standard error. One marker for each parameter; hollow where an estimator does not
    claim to be unbiased. Nothing is drawn where there is no value, or a variance of zero.
    """
    ax = ax or plt.gca()
    keys = ["estimator", "parameter"]
    se = f"{quantity}_se"
    shown = frame.assign(square=frame[se] ** 2 if se in frame else np.nan)
    grouped = shown.groupby(keys, sort=False)
    means = grouped[[quantity, "unbiased"]].mean().reset_index()
    means["half"] = (1.96 * grouped["square"].sum() ** 0.5 / grouped.size()).to_numpy()
    if quantity != "bias":
        means = means[means[quantity] > 0]
        ax.set_xscale("log")
    else:
        ax.axvline(0, color=FAINT, linewidth=1)
    order = means.groupby("estimator")[quantity].mean().abs()
    names = list(order.sort_values(ascending=quantity != "efficiency").index)
    parameters = list(dict.fromkeys(means["parameter"]))
    looks = zip(parameters, cycle(PALETTE), cycle("osD^v"), strict=False)
    for i, (parameter, color, marker) in enumerate(looks):
        rows = means[means["parameter"] == parameter]
        places = np.array([names.index(name) for name in rows["estimator"]], dtype=float)
        places += 0.18 * (i - (len(parameters) - 1) / 2)
        ax.errorbar(rows[quantity], places, xerr=rows["half"], fmt="none", color=color, capsize=2)
        for unbiased, face in ((True, color), (False, PAPER)):
            chosen = (rows["unbiased"] > 0.5) == unbiased
            label = parameter if unbiased or not (rows["unbiased"] > 0.5).any() else None
            look: dict[str, Any] = {"color": color, "marker": marker, "markerfacecolor": face}
            ax.plot(
                rows.loc[chosen, quantity], places[chosen.to_numpy()], linestyle="none", label=label, **look
            )
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.set(
        xlabel=f"{quantity} of one estimate" if quantity == "variance" else quantity,
        ylim=(len(names) - 0.5, -0.5),
    )
    if len(parameters) > 1:
        ax.legend()
    return ax


def name_line(ax: Axes, x: float, y: float, name: str) -> None:
    """Writes `name` under a horizontal line, ending at (x, y), on a ground that covers what else is there."""
    ground = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 0.5}
    ax.annotate(name, (x, y), (0, -12), textcoords="offset points", ha="right", bbox=ground, zorder=5)


def image_rows(
    rows: Mapping[str, Tensor],
    shape: tuple[int, int],
    ax: Axes | None = None,
    columns: Sequence[str] = (),
) -> Axes:
    """Rows of images under each other: label -> items (n, features) in [0, 1], each of `shape`.

    `columns` are labels under the columns, one for each of the n.
    """
    ax = ax or plt.gca()
    height, width = shape
    pad = max(1, height // 14)
    tiles = np.stack([np.asarray(items).reshape(-1, height, width) for items in rows.values()])
    padded = np.pad(tiles, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=np.nan)
    picture = padded.transpose(0, 2, 1, 3).reshape(len(rows) * (height + 2 * pad), -1)
    ax.imshow(np.ma.masked_invalid(picture), vmin=0, vmax=1)
    ax.set_xticks((np.arange(len(columns)) + 0.5) * (width + 2 * pad) - 0.5, columns)
    ax.set_yticks((np.arange(len(rows)) + 0.5) * (height + 2 * pad) - 0.5, list(rows))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def latent_map(mu: Tensor, labels: Tensor, ax: Axes | None = None, sigma: Tensor | None = None) -> Axes:
    """Posterior means `mu` (items, 2), each drawn as the digit of its label (items,).

    Digits as markers can be told apart without colour. With `sigma` (items, 2) the ellipse of one standard
    deviation lies around each.
    """
    ax = ax or plt.gca()
    points, classes = np.asarray(mu), np.asarray(labels)
    for k, color in zip(np.unique(classes), cycle(mpl.color_sequences["tab10"]), strict=False):
        chosen = classes == k
        if sigma is not None:
            size = np.asarray(sigma)[chosen]
            look: dict[str, Any] = {
                "facecolors": "none",
                "edgecolors": color,
                "linewidths": 0.7,
                "alpha": 0.6,
            }
            place: dict[str, Any] = {
                "units": "xy",
                "offsets": points[chosen],
                "offset_transform": ax.transData,
            }
            ax.add_collection(
                EllipseCollection(2 * size[:, 0], 2 * size[:, 1], np.zeros(len(size)), **place, **look)
            )
            ax.update_datalim(np.concatenate([points[chosen] - size, points[chosen] + size]))
        ax.scatter(points[chosen, 0], points[chosen, 1], s=26, color=color, marker=f"${k}$", linewidths=0.3)
    ax.set(xlabel="z₁", ylabel="z₂", aspect="equal")
    return ax


def autograd_graph(root: Tensor, leaves: Mapping[str, Tensor], ax: Axes | None = None) -> Axes:
    """The graph that torch recorded for `root`, read from its `grad_fn`: nothing is drawn by hand.

    `leaves` names the tensors that want a gradient. Arrows point the way backpropagation walks. An input
    that torch did not record is a dashed dead end; a leaf that cannot be reached stands alone.
    """
    ax = ax or plt.gca()
    names = {id(leaf): name for name, leaf in leaves.items()}
    graph: nx.DiGraph = nx.DiGraph()
    stack = [root.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or graph.nodes.get(id(node)):
            continue
        variable = getattr(node, "variable", None)
        kind = "operation" if variable is None else "leaf"
        label = node.name().removesuffix("Backward0") if variable is None else names.get(id(variable), "?")
        # The node object is kept: torch makes its Python wrapper afresh when nobody holds it.
        graph.add_node(id(node), label=label, kind=kind, node=node)
        for position, (following, _) in enumerate(node.next_functions):
            if following is None:
                dead_end = (id(node), position)
                graph.add_node(dead_end, label="not recorded", kind="dead end")
                graph.add_edge(id(node), dead_end)
            else:
                stack.append(following)
                graph.add_edge(id(node), id(following))
    layers = dict(enumerate(nx.topological_generations(graph)))
    reached = {id(d["node"].variable) for _, d in graph.nodes(data=True) if d["kind"] == "leaf"}
    for key, name in names.items():
        if key not in reached:
            graph.add_node(("leaf", key), label=f"{name}: no path", kind="cut off")
            layers.setdefault(len(layers) - 1, []).append(("leaf", key))
    _draw_graph(graph, nx.multipartite_layout(graph, subset_key=layers), ax)
    return ax


def _draw_graph(graph: nx.DiGraph, place: Mapping[object, np.ndarray], ax: Axes) -> None:
    """Layers from left (root) to right (leaves); kinds differ in outline, fill and line style."""
    looks = {
        "operation": {"facecolor": PAPER, "edgecolor": FAINT, "linestyle": "-"},
        "leaf": {"facecolor": "#009e7333", "edgecolor": "#009e73", "linestyle": "-"},
        "dead end": {"facecolor": "none", "edgecolor": FAINT, "linestyle": "--"},
        "cut off": {"facecolor": "#d55e0033", "edgecolor": "#d55e00", "linestyle": "--"},
    }
    boxes = {
        node: _box(ax, x, y, graph.nodes[node]["label"], "round", **looks[graph.nodes[node]["kind"]])
        for node, (x, y) in place.items()
    }
    for start, end in graph.edges:
        _arrow(ax, boxes[start], boxes[end], color=FAINT)
    ax.update_datalim(np.array(list(place.values())))  # texts and arrows do not count for the limits
    ax.margins(0.14, 0.25)
    ax.autoscale_view()
    ax.set_axis_off()


def _box(
    ax: Axes, x: float, y: float, text: str, outline: str, size: float | str = "small", **look: object
) -> Text:
    box = {"boxstyle": f"{outline},pad=0.4", "facecolor": PAPER, "linewidth": 1.4, **look}
    return ax.text(x, y, text, ha="center", va="center", size=size, bbox=box)


def _arrow(ax: Axes, start: Text, end: Text, bend: float = 0.0, **look: object) -> None:
    """An arrow from the edge of one box to the edge of another."""
    style = {"arrowstyle": "-|>", "mutation_scale": 13, "color": INK, "shrinkA": 3, "shrinkB": 3}
    ends = start.get_bbox_patch(), end.get_bbox_patch()
    joint = f"arc3,rad={bend}"
    props = {"patchA": ends[0], "patchB": ends[1], "connectionstyle": joint, **style, **look}
    # Above the texts, whose boxes get their size only when they are drawn.
    ax.annotate("", end.get_position(), start.get_position(), arrowprops=props, zorder=4)


def vae_diagram(ax: Axes | None = None) -> Axes:
    """Encoder, reparameterization (shaded grey) and decoder.

    Solid arrows carry values forward; dashed arrows carry gradients back. The random node is the dashed
    circle: no dashed arrow has to pass through it.
    """
    ax = ax or plt.gca()
    blue, orange = PALETTE[:2]
    ax.add_patch(FancyBboxPatch((3.0, -0.65), 4.1, 4.5, boxstyle="round,pad=0.1", fc=FAINT + "40", ec="none"))
    ax.text(5.05, 4.15, "reparameterization", ha="center")
    nodes = {  # name: (x, y, text, outline)
        "x": (0.3, 1.9, "x", "square"),
        "encoder": (1.7, 1.9, "encoder", "round"),
        "mu": (3.5, 2.9, "μ", "circle"),
        "sigma": (3.5, 0.9, "σ", "circle"),
        "eps": (4.9, -0.25, "ε", "circle"),
        "times": (4.9, 0.9, "×", "circle"),
        "plus": (5.6, 2.9, "+", "circle"),
        "z": (6.7, 2.9, "z", "circle"),
        "decoder": (8.6, 1.9, "decoder", "round"),
        "p": (10.3, 1.9, "p(x|z)", "square"),
    }
    size = 10.5  # so large that the whole fits a phone
    boxes = {name: _box(ax, *node, size, edgecolor=blue) for name, node in nodes.items() if name != "eps"}
    boxes["eps"] = _box(ax, *nodes["eps"], size, edgecolor=orange, linestyle="--")
    forward = [
        "x encoder",
        "encoder mu",
        "encoder sigma",
        "mu plus",
        "sigma times",
        "eps times",
        "times plus",
    ]
    for edge in [*forward, "plus z", "z decoder", "decoder p"]:
        start, end = edge.split()
        _arrow(ax, boxes[start], boxes[end])
    back = {"z plus": -0.6, "plus mu": -0.35, "plus times": -0.6, "times sigma": -0.45}
    for edge, bend in back.items():
        start, end = edge.split()
        _arrow(ax, boxes[start], boxes[end], bend=bend, color=orange, linestyle="--")
    note: dict[str, Any] = {"color": orange, "ha": "center"}
    ax.text(4.5, 1.95, "∂z/∂μ = 1", **note)
    ax.text(4.1, 0.1, "∂z/∂σ = ε", **note)
    ax.text(5.35, -0.3, "~ N(0, 1)", ha="left", va="center")
    ax.set(xlim=(-0.2, 11.1), ylim=(-0.9, 4.6), aspect="equal")
    ax.set_axis_off()
    return ax
