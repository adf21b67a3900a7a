"""Numbers as curves and points, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from ..estimators import plain_name
from ..measure.statistics import mean_interval
from ..records import FAINT, PALETTE, PAPER
from .style import LINES


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
    letters = frame.attrs.get("symbols", {})
    looks = zip(parameters, cycle(PALETTE), cycle("osD^v"), strict=False)
    for i, (parameter, color, marker) in enumerate(looks):
        rows = means[means["parameter"] == parameter]
        places = np.array([names.index(name) for name in rows["estimator"]], dtype=float)
        places += 0.18 * (i - (len(parameters) - 1) / 2)
        ax.errorbar(rows[quantity], places, xerr=rows["half"], fmt="none", color=color, capsize=2)
        for unbiased, face in ((True, color), (False, PAPER)):
            chosen = (rows["unbiased"] > 0.5) == unbiased
            label = (
                letters.get(parameter, parameter) if unbiased or not (rows["unbiased"] > 0.5).any() else None
            )
            look: dict[str, Any] = {"color": color, "marker": marker, "markerfacecolor": face}
            look["markeredgewidth"] = 1.0 if unbiased else 1.8  # hollow ones must show on black, too
            ax.plot(
                rows.loc[chosen, quantity], places[chosen.to_numpy()], linestyle="none", label=label, **look
            )
    ax.set_yticks(range(len(names)), [plain_name(name) for name in names])
    ax.set(
        xlabel=f"{quantity} of one estimate" if quantity == "variance" else quantity,
        ylim=(len(names) - 0.5, -0.5),
    )
    if len(parameters) > 1:
        ax.legend()
    return ax


def winner_map(
    x: NDArray[Any],
    y: NDArray[Any],
    best: NDArray[Any],
    decided: NDArray[Any],
    names: Mapping[str, str],
    ax: Axes,
) -> Axes:
    """Who wins where, on logarithmic axes: `best` (len(y), len(x)) holds keys of `names`, key -> name shown.

    Each winner has a colour and a handle for a legend, and its name is written into its region where that is
    wide. Where a win is not `decided`, of the same shape, the colour is pale.
    """
    codes = np.searchsorted(sorted(names), best)
    colors = dict(zip(names, cycle([*PALETTE, FAINT]), strict=False))
    look: dict[str, Any] = {"cmap": ListedColormap([colors[name] for name in sorted(names)])}
    look |= {"vmin": -0.5, "vmax": len(names) - 0.5, "shading": "nearest", "linewidth": 0}
    for certain, alpha in ((True, 0.85), (False, 0.4)):
        ax.pcolormesh(x, y, np.ma.masked_array(codes, decided != certain), alpha=alpha, **look)
    ax.set(xscale="log", yscale="log")
    ground = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    for name in np.unique(best):
        depth = distance_transform_edt(np.pad(best == name, 1))[1:-1, 1:-1]
        row, column = divmod(int(depth.argmax()), len(x))
        ax.plot([], [], "s", color=colors[name], markersize=9, label=names[name])
        if depth.max() > 1.5:  # cells
            ax.text(
                float(x[column]),
                float(y[row]),
                names[name],
                ha="center",
                va="center",
                size="small",
                bbox=ground,
            )
    return ax


def name_line(ax: Axes, x: float, y: float, name: str) -> None:
    """Writes `name` under a horizontal line, ending at (x, y), on a background that hides what lies behind
    it."""
    ground = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 0.5}
    ax.annotate(name, (x, y), (0, -12), textcoords="offset points", ha="right", bbox=ground, zorder=5)
