"""Items as pictures, and where the encoder puts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import nan
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from torch import Tensor, nn

from ..data.contract import image_shape


def image_rows(
    rows: Mapping[str, Tensor],
    shape: Sequence[int],
    ax: Axes | None = None,
    columns: Sequence[str] = (),
) -> Axes:
    """Rows of images under each other: label -> items (n, features) in [0, 1], each of `shape`.

    That is (height, width) of ink on paper, or (channels, height, width), where three channels are red, green
    and blue. `columns` are labels under the columns, one for each of the n. Raises ValueError for items that
    are no such images.
    """
    ax = ax or plt.gca()
    items = torch.stack([torch.as_tensor(row).detach().cpu().float() for row in rows.values()])
    channels, height, width = image_shape(shape, items.shape[-1])
    if channels not in (1, 3):
        raise ValueError(f"an image is drawn from 1 channel or 3, got shape {tuple(shape)}")
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


def latent_map(mu: Tensor, labels: Tensor, ax: Axes | None = None, sigma: Tensor | None = None) -> Axes:
    """Posterior means `mu` (items, 2), each drawn as the digit of its label (items,).

    Digits as markers can be told apart without colour. With `sigma` (items, 2) the ellipse of one standard
    deviation lies around each.
    """
    ax = ax or plt.gca()
    points, classes = (np.asarray(torch.as_tensor(x).detach().cpu()) for x in (mu, labels))
    for k, color in zip(np.unique(classes), cycle(mpl.color_sequences["tab10"]), strict=False):
        chosen = classes == k
        if sigma is not None:
            size = np.asarray(sigma.detach().cpu())[chosen]
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
