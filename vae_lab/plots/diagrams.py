"""Drawings that explain: the graph that torch recorded, the parts of a VAE, the ideas of estimators."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from torch import Tensor
from torch.distributions import Normal

from ..records import FAINT, INK, PALETTE, PAPER


def autograd_graph(root: Tensor, leaves: Mapping[str, Tensor], ax: Axes | None = None) -> Axes:
    """The graph that torch recorded for `root`, read from its `grad_fn`: nothing is drawn by hand.

    `leaves` names the tensors that want a gradient. Arrows point the way backpropagation walks. An input
    that torch did not record is a dashed dead end; a leaf that cannot be reached has no arrow.
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
    orange, green = PALETTE[1:3]
    looks = {
        "operation": {"facecolor": PAPER, "edgecolor": FAINT, "linestyle": "-"},
        "leaf": {"facecolor": green + "33", "edgecolor": green, "linestyle": "-"},
        "dead end": {"facecolor": "none", "edgecolor": FAINT, "linestyle": "--"},
        "cut off": {"facecolor": orange + "33", "edgecolor": orange, "linestyle": "--"},
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
    """Encoder, reparameterization (shaded grey), decoder and loss.

    Solid arrows carry values forward; dashed arrows carry gradients back, from the loss to the encoder. The
    random node is the dashed circle: no dashed arrow has to pass through it.
    """
    ax = ax or plt.gca()
    blue, orange = PALETTE[:2]
    ax.add_patch(FancyBboxPatch((2.9, -0.6), 4.3, 4.4, boxstyle="round,pad=0.1", fc=FAINT + "40", ec="none"))
    ax.text(5.05, 4.1, "reparameterization", ha="center")
    nodes = {  # name: (x, y, text, outline)
        "x": (0.2, 1.9, "x", "square"),
        "encoder": (1.6, 1.9, "encoder", "round"),
        "mu": (3.5, 2.9, "μ", "circle"),
        "sigma": (3.5, 0.9, "σ", "circle"),
        "eps": (4.9, -0.2, "ε", "circle"),
        "times": (4.9, 0.9, "×", "circle"),
        "plus": (5.6, 2.9, "+", "circle"),
        "z": (6.7, 2.9, "z", "circle"),
        "decoder": (8.5, 2.9, "decoder", "round"),
        "p": (10.5, 2.9, "p(x|z)", "square"),
        "loss": (10.5, 0.9, "loss", "round"),
    }
    size = 10.5  # so large that the whole fits a phone
    boxes = {name: _box(ax, *node, size, edgecolor=blue) for name, node in nodes.items() if name != "eps"}
    boxes["eps"] = _box(ax, *nodes["eps"], size, edgecolor=orange, linestyle="--")
    forward = "x>encoder encoder>mu encoder>sigma mu>plus sigma>times eps>times times>plus plus>z"
    for edge in f"{forward} z>decoder decoder>p p>loss".split():
        start, end = edge.split(">")
        _arrow(ax, boxes[start], boxes[end])
    back = {"loss>p": -0.5, "p>decoder": -0.5, "decoder>z": -0.4, "z>plus": -0.6, "plus>mu": -0.3}
    back |= {"plus>times": -0.6, "times>sigma": -0.45, "mu>encoder": -0.35, "sigma>encoder": 0.35}
    for edge, bend in back.items():
        start, end = edge.split(">")
        _arrow(ax, boxes[start], boxes[end], bend=bend, color=orange, linestyle="--")
    ax.text(4.45, 1.95, "∂z/∂μ = 1", ha="center")
    ax.text(4.1, 0.12, "∂z/∂σ = ε", ha="center")
    ax.text(5.35, -0.25, "~ N(0, 1)", ha="left", va="center")
    ax.set(xlim=(-0.2, 11.4), ylim=(-0.8, 4.5), aspect="equal")
    ax.set_axis_off()
    return ax


def three_ideas(
    cost: Callable[[Tensor], Tensor], q: Normal, axes: Sequence[Axes], draws: int = 4
) -> dict[str, Tensor]:
    """How draws of z tell the derivative of E_q[cost(z)] with respect to the mean of a normal q, one idea on
    each of three Axes: move the sample, weigh the sample, difference of two.

    Above is the cost (dotted: zero), below the density of q, before (solid) and after a step of its mean
    (dashed). The draws are evenly spread, so that they can be told apart. Returns the estimates that are
    written above them: idea -> (draws,).
    """
    z = q.icdf((torch.arange(draws, dtype=torch.float64) + 0.5) / draws).requires_grad_()
    mu, sigma = float(q.loc), float(q.scale)
    (slopes,) = torch.autograd.grad(cost(z).sum(), z)
    z = z.detach()
    weights = (z - mu) / sigma**2
    # The derivative of the density by the mean is a Rayleigh density on the right less one on the left.
    radius = sigma * (-2 * torch.log1p(-(torch.arange(draws, dtype=torch.float64) + 0.5) / draws)).sqrt()
    pair, share = (mu + radius, mu - radius), 1 / (sigma * math.sqrt(2 * math.pi))
    found = {
        "move the sample": slopes,
        "weigh the sample": cost(z) * weights,
        "difference of two": share * (cost(pair[0]) - cost(pair[1])),
    }
    for ax, (idea, numbers) in zip(axes, found.items(), strict=True):
        low, high = _stage(ax, cost, q, shade=idea != "move the sample")
        ax.set_title(f"{idea.capitalize()}: {_QUESTIONS[idea]}", loc="left", fontsize="small")
        for i, (place, number) in enumerate(zip(pair[0] if "two" in idea else z, numbers, strict=True)):
            text = f"{float(number):+.2f}".replace("-", "−")
            height = (0.14, 0.37)[i % 2] if "two" in idea else 0.25  # pairs are close to each other
            ax.text(float(place), high + height * (high - low), text, ha="center", va="center", size="small")
    _moved(axes[0], cost, z, slopes, _STEP * sigma)
    _weighed(axes[1], cost, z, weights)
    _paired(axes[2], cost, *pair)
    axes[-1].set_xlabel("z")
    return found


_QUESTIONS = {
    "move the sample": "how steep is the cost at each draw?",
    "weigh the sample": "what does it cost, and is it getting likelier?",
    "difference of two": "does what is gained cost more than what is lost?",
}
_STEP = 0.5  # of the mean, in standard deviations
_GAIN, _LOSS = PALETTE[2], PALETTE[1]


def _stage(ax: Axes, cost: Callable[[Tensor], Tensor], q: Normal, shade: bool) -> tuple[float, float]:
    """The cost, and below it the density before and after a step of the mean. Returns the cost's range."""
    mu, sigma = float(q.loc), float(q.scale)
    grid = torch.linspace(mu - 2.7 * sigma, mu + 2.7 * sigma, 300, dtype=torch.float64)
    values = cost(grid).detach()
    low, high = float(values.min()), float(values.max())
    height, floor = 0.9 * (high - low), low - 1.1 * (high - low)
    before, after = (
        floor + height * (-(((grid - centre) / sigma) ** 2) / 2).exp() for centre in (mu, mu + _STEP * sigma)
    )
    ax.plot(grid, values, color=INK, linestyle="-", linewidth=1.5)
    ax.plot(grid, before, color=PALETTE[0], linestyle="-", linewidth=1)
    ax.plot(grid, after, color=PALETTE[0], linestyle="--", linewidth=1)
    ax.axhline(floor, color=FAINT, linestyle="-", linewidth=0.8)
    if shade:
        look: dict[str, Any] = {"alpha": 0.45, "linewidth": 0}
        for color, where in ((_GAIN, after >= before), (_LOSS, after < before)):
            ax.fill_between(grid, before, after, where=where.tolist(), color=color, **look)
    ax.set(xlim=(float(grid[0]), float(grid[-1])), ylim=(floor, high + 0.55 * (high - low)), yticks=[])
    at: dict[str, Any] = {
        "xycoords": ax.get_yaxis_transform(),
        "va": "center",
        "ha": "right",
        "size": "small",
    }
    heights = {
        "estimate": high + 0.25 * (high - low),
        "cost": float(values[0]),
        "density": floor + 0.15 * height,
    }
    if low <= 0 <= high:
        ax.axhline(0, color=FAINT, linestyle=":", linewidth=0.8)
        ax.annotate("0", (1, 0), (4, 0), textcoords="offset points", **at | {"ha": "left"})
    for name, place in heights.items():
        ax.annotate(name, (0, place), (-4, 0), textcoords="offset points", **at)
    ax.spines[["left", "bottom"]].set_visible(False)
    return low, high


def _moved(ax: Axes, cost: Callable[[Tensor], Tensor], z: Tensor, slopes: Tensor, step: float) -> None:
    """Each draw takes a step to the right, along the tangent of the cost."""
    f = cost(z)
    arrow = {"arrowstyle": "-|>", "color": _GAIN, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
    for x, y, slope in zip(z.tolist(), f.tolist(), slopes.tolist(), strict=True):
        ax.annotate("", (x + step, y + step * slope), (x, y), arrowprops=arrow)
    ax.plot(z, f, "o", color=PALETTE[0])


def _weighed(ax: Axes, cost: Callable[[Tensor], Tensor], z: Tensor, weights: Tensor) -> None:
    """Each draw stays; it counts for (upwards) or against (downwards) in proportion to its score."""
    floor = ax.get_ylim()[0]
    for x, y, weight in zip(z.tolist(), cost(z).tolist(), weights.tolist(), strict=True):
        color, marker = (_GAIN, "^") if weight > 0 else (_LOSS, "v")
        ax.plot([x, x], [floor, y], color=color, linestyle=":", linewidth=1)
        ax.plot(x, y, marker, color=color, markersize=5 + 7 * abs(weight) / float(weights.abs().max()))


def _paired(ax: Axes, cost: Callable[[Tensor], Tensor], plus: Tensor, minus: Tensor) -> None:
    """Draws from what is gained (full) and from what is lost (hollow), in pairs."""
    for right, left in zip(plus, minus, strict=True):
        ends = torch.stack([left, right])
        ax.plot(ends, cost(ends), color=FAINT, linestyle="--", linewidth=1)
    ax.plot(minus, cost(minus), "v", color=_LOSS, markerfacecolor=PAPER, markersize=7)
    ax.plot(plus, cost(plus), "^", color=_GAIN, markersize=7)
