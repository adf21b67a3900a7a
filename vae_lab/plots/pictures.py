"""Items as pictures, and where the encoder puts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import nan
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.patheffects import withStroke
from torch import Tensor, nn

from ..data.contract import image_shape
from ..records import CLASSES, PAPER

# Inches of an image, and of a letter beside it, in a figure that has the size of its images. On a wide screen
# an image is 58 pixels, and on a phone still half of that.
IMAGE, LETTER = 0.6, 0.09


def image_rows(
    rows: Mapping[str, Tensor],
    shape: Sequence[int],
    ax: Axes | None = None,
    columns: Sequence[str] = (),
) -> Axes:
    """Rows of images under each other: label -> items (n, features) in [0, 1], each of `shape`.

    That is (height, width) of ink on paper, or (channels, height, width), where three channels are red, green
    and blue. `columns` are labels under the columns, one for each of the n. Without `ax`, they get a figure
    of their own, in which every image is large enough to be read. Raises ValueError for items that are not
    such images.
    """
    items = torch.stack([torch.as_tensor(row).detach().cpu().float() for row in rows.values()])
    channels, height, width = image_shape(shape, items.shape[-1])
    if channels not in (1, 3):
        raise ValueError(f"an image is drawn from 1 channel or 3, got shape {tuple(shape)}")
    if ax is None:
        wide = len(items[0]) * IMAGE + LETTER * max(map(len, rows)) + 0.2
        high = len(items) * IMAGE * height / width + (0.4 if columns else 0.1)
        ax = plt.subplots(figsize=(wide, high))[1]
    pad = max(1, height // 14)
    padded = nn.functional.pad(
        items.unflatten(-1, (channels, height, width)), (pad, pad, pad, pad), value=nan
    )
    picture = padded.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).numpy()  # height, width, channels
    if channels == 3:  # and what is between the images, transparent
        picture = np.concatenate([picture.clip(0, 1), np.isfinite(picture[..., :1])], axis=-1)
        ax.imshow(np.nan_to_num(picture))
    else:
        ax.imshow(np.ma.masked_invalid(picture[..., 0]), vmin=0, vmax=1)
    ax.set_xticks((np.arange(len(columns)) + 0.5) * (width + 2 * pad) - 0.5, columns)
    ax.set_yticks((np.arange(len(rows)) + 0.5) * (height + 2 * pad) - 0.5, list(rows))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def latent_map(
    mu: Tensor, labels: Tensor, ax: Axes | None = None, sigma: Tensor | None = None, names: bool = True
) -> Axes:
    """Posterior means `mu` (items, 2), each drawn as the digit of its label (items,).

    Ten labels have ten colours, and digits can be told apart without them. With `names`, each label is also
    written large where its items are densest. With `sigma` (items, 2) the ellipse of one standard deviation
    lies around each.
    """
    ax = ax or plt.gca()
    points, classes = (np.asarray(torch.as_tensor(x).detach().cpu()) for x in (mu, labels))
    for k, color in zip(np.unique(classes), cycle(CLASSES), strict=False):
        chosen = points[classes == k]
        if sigma is not None:
            size = np.asarray(sigma.detach().cpu())[classes == k]
            look: dict[str, Any] = {
                "facecolors": "none",
                "edgecolors": color,
                "linewidths": 0.7,
                "alpha": 0.75,
            }
            place: dict[str, Any] = {"units": "xy", "offsets": chosen, "offset_transform": ax.transData}
            ax.add_collection(
                EllipseCollection(2 * size[:, 0], 2 * size[:, 1], np.zeros(len(size)), **place, **look)
            )
            ax.update_datalim(np.concatenate([chosen - size, chosen + size]))
        digit: dict[str, Any] = {"color": color, "marker": f"${k}$", "linewidths": 0.3, "zorder": 2}
        ax.scatter(chosen[:, 0], chosen[:, 1], s=20, **digit)
        if names:
            halo = [withStroke(linewidth=3, foreground=PAPER)]
            x, y = _densest(chosen)
            letter: dict[str, Any] = {"size": "xx-large", "weight": "bold", "path_effects": halo}
            ax.text(x, y, str(k), color=color, ha="center", va="center", zorder=3, **letter)
    ax.set(xlabel="z₁", ylabel="z₂", aspect="equal")
    return ax


def _densest(points: np.ndarray) -> np.ndarray:
    """The one of `points` (n, 2) that has a quarter of all of them nearest to it."""
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return points[np.sort(apart, axis=1)[:, len(points) // 4].argmin()]
