"""Images drawn here, of shapes whose factors are known: `sprites`."""

from __future__ import annotations

import zlib
from functools import cache

import numpy as np

from .contract import Loaded, dataset

SPRITES = ("square", "ellipse", "heart")


@dataset("sprites")
@cache
def _sprites(items: int = 6000, size: int = 28, fine: int = 3) -> Loaded:
    """One filled shape on each image, its edge smoothed by `fine` x `fine` points per pixel."""
    rng = np.random.default_rng(zlib.crc32(b"sprites"))
    shape = rng.integers(len(SPRITES), size=items)
    factors = {
        "scale": rng.uniform(0.2, 0.45, items),  # of half the image's width
        "rotation": rng.uniform(0, 2 * np.pi, items),
        "x": rng.uniform(-0.5, 0.5, items),
        "y": rng.uniform(-0.5, 0.5, items),
    }
    line = ((np.arange(size * fine) + 0.5) / (size * fine) * 2 - 1).astype(np.float32)
    images = np.empty((items, size * size))
    for chunk in np.array_split(np.arange(items), max(1, items // 500)):
        scale, rotation, x, y = (values[chunk, None, None].astype(np.float32) for values in factors.values())
        dx, dy = line[None, None, :] - x, -line[None, :, None] - y
        u = (np.cos(rotation) * dx + np.sin(rotation) * dy) / scale
        v = (np.cos(rotation) * dy - np.sin(rotation) * dx) / scale
        inside = np.stack(
            [
                np.maximum(abs(u), abs(v)) < 0.8,
                u**2 + (1.7 * v) ** 2 < 1,
                (u**2 + v**2 - 0.6) ** 3 < u**2 * v**3,
            ]
        )
        drawn = np.take_along_axis(inside, shape[None, chunk, None, None], axis=0)[0]
        images[chunk] = drawn.reshape(len(chunk), size, fine, size, fine).mean((2, 4)).reshape(len(chunk), -1)
    return Loaded(images, shape, (size, size), np.arange(items) >= items * 5 // 6, {"shape": shape} | factors)
