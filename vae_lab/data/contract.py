"""What a data set is, the registry of loaders, and how grey levels become pixels.

Values are grey levels in [0, 1]. With `binarize="dynamic"` a grey level is the probability of
ink (1): training draws x afresh at every presentation, the test items are drawn once with a fixed seed, so
that every model is scored on the same items (salakhutdinov2008quantitative, burda2016importance).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Generator, Tensor

from ..registry import Registry

Binarize = Literal["dynamic", "fixed"]


@dataclass(frozen=True)
class Dataset:
    """Items as float tensors (items, features) in [0, 1], with integer labels (items,).

    `shape` is the height and width of one item's image. `binarize` says what `train` holds:
    probabilities to draw from at every presentation (`"dynamic"`), draws made once (`"fixed"`), or grey
    levels (None). `test` holds draws unless it is None. Where the factors behind an image are known,
    `factors` names them, and `train_factors` and `test_factors` (items, factors) hold them.
    """

    name: str
    train: Tensor
    test: Tensor
    train_labels: Tensor
    test_labels: Tensor
    shape: tuple[int, int]
    binarize: Binarize | None = None
    factors: tuple[str, ...] = ()
    train_factors: Tensor | None = None
    test_factors: Tensor | None = None

    @property
    def features(self) -> int:
        """Number of features of one item."""
        return self.train.shape[1]


class Loaded(NamedTuple):
    """What a loader gives: images (items, features) in [0, 1], labels (items,), the shape of an image, a mask
    (items,) of those for testing, and the factors behind the images: name -> (items,), where known."""

    images: np.ndarray
    labels: np.ndarray
    shape: tuple[int, int]
    is_test: np.ndarray
    factors: Mapping[str, np.ndarray] = {}


DATASETS: Registry[Callable[[], Loaded]] = Registry(kind="data set")


def dataset(name: str) -> Callable[[Callable[[], Loaded]], Callable[[], Loaded]]:
    """Register the decorated loader in `DATASETS`; it is called when the data are asked for."""

    def register(loader: Callable[[], Loaded]) -> Callable[[], Loaded]:
        DATASETS[name] = loader
        return loader

    return register


def load(name: str, binarize: Binarize | None = "dynamic", items: int | None = None) -> Dataset:
    """The data set `name`, one of `DATASETS`.

    `binarize`: `"dynamic"` (train on fresh draws, test on one draw), `"fixed"` (both drawn once) or None
    (grey levels). `items` keeps no more than so many training items, a fixed random choice of them.
    Raises `UnknownName`, with the nearest valid one, and ValueError.

    >>> load("digits").train.shape, load("mnist-5k").test.shape
    (torch.Size([1497, 64]), torch.Size([1000, 784]))
    """
    if binarize is not None and binarize not in get_args(Binarize):
        raise ValueError(f"binarize is 'dynamic', 'fixed' or None, got {binarize!r}")
    if items is not None and items < 1:
        raise ValueError(f"items is at least 1, or None for all, got {items}")
    loaded = DATASETS[name]()
    x, y = (
        torch.as_tensor(loaded.images, dtype=torch.float32),
        torch.as_tensor(loaded.labels, dtype=torch.int64),
    )
    known = None
    if loaded.factors:
        known = torch.as_tensor(np.stack(list(loaded.factors.values()), axis=1), dtype=torch.float32)
    is_test = torch.as_tensor(loaded.is_test)
    chosen = (~is_test).nonzero().squeeze(1)
    if items is not None and items < len(chosen):
        order = torch.randperm(len(chosen), generator=Generator().manual_seed(0))
        chosen = chosen[order[:items].sort().values]
    train, test = x[chosen], x[is_test]
    generator = Generator().manual_seed(zlib.crc32(name.encode()))
    if binarize is not None:
        test = torch.bernoulli(test, generator=generator)
    if binarize == "fixed":
        train = torch.bernoulli(train, generator=generator)
    return Dataset(
        name,
        train,
        test,
        y[chosen],
        y[is_test],
        loaded.shape,
        binarize,
        tuple(loaded.factors),
        None if known is None else known[chosen],
        None if known is None else known[is_test],
    )
