"""Boxes and arrows: the graph that torch recorded, and the parts of a VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from torch import Tensor

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
