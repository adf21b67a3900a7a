"""What a data set is, the registry of loaders, and how grey levels become pixels.

Values are levels of grey, or of each colour, in [0, 1]. With `binarize="dynamic"` a level is the probability
of ink (1): training draws x afresh at every presentation, the test items are drawn once with a fixed seed, so
that every model is scored on the same items (salakhutdinov2008quantitative, burda2016importance).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Generator, Tensor

from ..registry import Registry
from ..settings import Count, check, plain

Binarize = Literal["dynamic", "fixed"]
Shape = tuple[int, int] | tuple[int, int, int]


class DataError(ValueError):
    """Data that cannot be used; the message names them, and says what is wrong and what helps."""


@dataclass(frozen=True)
class Dataset:
    """Items as float tensors (items, features), with integer labels (items,).

    `shape` is that of one item's image: (height, width), or (channels, height, width). `binarize` says what
    `train` holds: probabilities to draw from at every presentation (`"dynamic"`), draws made once
    (`"fixed"`), or values as they are (None). `test` holds draws unless it is None. Where the factors behind
    an image are known, `factors` names them, and `train_factors` and `test_factors` (items, factors) hold
    them. Raises `DataError` for parts that do not fit each other.
    """

    name: str
    train: Tensor
    test: Tensor
    train_labels: Tensor
    test_labels: Tensor
    shape: Shape
    binarize: Binarize | None = None
    factors: tuple[str, ...] = ()
    train_factors: Tensor | None = None
    test_factors: Tensor | None = None

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            x, labels = getattr(self, part), getattr(self, f"{part}_labels")
            if not isinstance(x, Tensor) or x.ndim != 2 or not x.is_floating_point() or not x.numel():
                raise _wrong(self.name, part, "a float tensor (items, features)", x)
            _check_values(self.name, part, x, self.binarize)
            if not isinstance(labels, Tensor) or labels.shape != x.shape[:1]:
                raise _wrong(self.name, f"{part}_labels", f"a tensor ({len(x)},)", labels)
            if x.shape[1] != self.features:
                raise _wrong(self.name, part, f"{self.features} features, as in train", x)
        _check_shape(self.name, self.shape, self.features)

    @property
    def features(self) -> int:
        """Number of features of one item."""
        return self.train.shape[1]


class Loaded(NamedTuple):
    """What a loader gives: images (items, features) in [0, 1], labels (items,), the shape of an image, a mask
    (items,) of those for testing, and the factors behind the images: name -> (items,), where known.

    Arrays, tensors, lists or columns of a frame. Images may also be (items, *shape), with the shape (height,
    width) or (channels, height, width). Labels are integers, and the mask is True for a test item."""

    images: Any
    labels: Any
    shape: Shape
    is_test: Any
    factors: Mapping[str, Any] = {}


def image_shape(shape: Sequence[int], features: int) -> tuple[int, int, int]:
    """(channels, height, width) from these or from (height, width), which make so many `features`.

    Raises ValueError where they do not.
    """
    sizes = check("shape", tuple[Count, ...], shape)
    if len(sizes) not in (2, 3) or math.prod(sizes) != features:
        raise ValueError(
            "shape is (height, width) or (channels, height, width), whose product is the number of features, "
            f"{features}; got {shape}"
        )
    if len(sizes) == 3 and sizes[0] > 4 and sizes[2] in (1, 3, 4):
        raise ValueError(f"shape is (channels, height, width), got {shape}: move the channels to the front")
    channels, height, width = (1, *sizes)[-3:]
    return channels, height, width


def scaled(low: Tensor | float, high: Tensor | float) -> str:
    """The advice for values between `low` and `high`, which should lie in [0, 1]."""
    low, high = float(low), 255.0 if 127 < high <= 255 else float(high)  # of bytes
    rule = f"x / {high:g}" if low >= 0 else f"(x + {-low:g}) / {high - low:g}"
    return f"scale the data, which span {low:g} to {high:g}: {rule}"


def _wrong(name: str, part: str, expected: str, got: object, advice: str = "") -> DataError:
    if hasattr(got, "shape") and hasattr(got, "dtype"):
        got = f"{got.dtype} {tuple(got.shape)}"
    else:
        got = f"{got!r:.80}" if got is None or isinstance(got, str | int | float) else type(got).__name__
    return DataError(f"data set {name!r}: {part}: expected {expected}, got {got}{advice and '; ' + advice}")


def _check_values(name: str, part: str, x: Tensor, binarize: Binarize | None) -> None:
    low, high = x.aminmax()
    if not (low.isfinite() and high.isfinite()):
        bad = (~x.isfinite()).any(1).nonzero()
        raise DataError(
            f"data set {name!r}: {part}: NaN, infinity or more than float32 can hold in {len(bad)} items, "
            f"the first is item {int(bad[0])}"
        )
    if binarize is not None and (low < 0 or high > 1):
        raise DataError(
            f"data set {name!r}: {part}: expected values in [0, 1], the probability of ink with {binarize=}; "
            f"{scaled(low, high)}; or standardise them, and load with binarize=None"
        )


def _check_shape(name: str, shape: Sequence[int], features: int) -> None:
    try:
        image_shape(shape, features)
    except ValueError as error:
        raise DataError(f"data set {name!r}: {error}") from None


def _array(name: str, part: str, value: Any, advice: str = "") -> np.ndarray:
    """Numbers or truth values as an array; in an array of objects they could be anything."""
    if isinstance(value, Tensor):
        value = (value.float() if value.dtype == torch.bfloat16 else value).detach().cpu()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "buif" or np.ma.is_masked(value):
        got = value if array.ndim == 0 or np.ma.is_masked(value) else array
        raise _wrong(name, part, "an array of numbers without gaps", got, advice)
    return array


def _images(name: str, value: Any, shape: Sequence[int], binarize: Binarize | None) -> Tensor:
    """Images as a float32 tensor (items, features)."""
    array = _array(name, "images", value)
    expected = f"(items, features) or (items, {', '.join(map(str, shape))}), and 1 item or more"
    axes = [n for n in array.shape[1:] if n > 1]  # of those of length 1 it does not matter where they are
    fits = array.ndim == 2 or (array.ndim > 2 and axes == [n for n in shape if n > 1])
    if not fits or 0 in array.shape:
        raise _wrong(name, "images", expected, array)
    with np.errstate(over="ignore"):
        flat = np.ascontiguousarray(array.reshape(len(array), -1), np.float32)
    # torch takes no array backwards, and warns of one that cannot be written to, such as a file's.
    x = torch.as_tensor(flat if flat.flags.writeable else flat.copy())
    _check_values(name, "images", x, binarize)
    _check_shape(name, shape, x.shape[1])
    return x


def _labels(name: str, value: Any, items: int) -> Tensor:
    advice = "np.unique(labels, return_inverse=True)[1] makes integers of names, np.zeros(n, int) of none"
    array = _array(name, "labels", value, advice)
    with np.errstate(invalid="ignore"):
        integers = array.astype(np.int64)
    if array.shape != (items,) or not (integers == array).all():
        raise _wrong(name, "labels", f"integers ({items},), one for each image", array)
    return torch.as_tensor(integers)


def _mask(name: str, value: Any, items: int) -> Tensor:
    advice = f"np.isin(np.arange({items}), indices) makes one of indices"
    array = _array(name, "is_test", value, advice)
    if array.shape != (items,) or not np.isin(array, (0, 1)).all():
        raise _wrong(name, "is_test", f"a mask ({items},), True for a test item", array, advice)
    mask = torch.as_tensor(array.astype(bool))
    if not 0 < int(mask.sum()) < items:
        raise DataError(
            f"data set {name!r}: is_test: {int(mask.sum())} of {items} items are for testing; "
            "both parts need 1 or more"
        )
    return mask


def _factors(name: str, value: Any, items: int) -> Tensor | None:
    """Factors as a float32 tensor (items, factors), if there are any."""
    if not isinstance(value, Mapping):
        raise _wrong(name, "factors", "a dictionary: name -> (items,)", value)
    columns = {factor: _array(name, f"factors[{factor!r}]", column) for factor, column in value.items()}
    for factor, column in columns.items():
        if column.shape != (items,) or not np.isfinite(column).all():
            raise _wrong(name, f"factors[{factor!r}]", f"finite numbers ({items},)", column)
    stacked = [torch.as_tensor(column.astype(np.float32)) for column in columns.values()]
    return torch.stack(stacked, dim=1) if stacked else None


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
    (values as they are, which then need not be in [0, 1]). `items` keeps no more than so many training items,
    a fixed random choice of them. Raises `UnknownName`, with the nearest valid one, ValueError, and
    `DataError` for what a loader gives that breaks the contract of `Loaded`.

    >>> load("digits").train.shape, load("mnist-5k").test.shape
    (torch.Size([1497, 64]), torch.Size([1000, 784]))
    """
    if binarize is not None and binarize not in get_args(Binarize):
        raise ValueError(f"binarize is 'dynamic', 'fixed' or None, got {binarize!r}")
    items = check("items", Count | None, items)
    loaded = DATASETS[name]()
    if not isinstance(loaded, Loaded):
        raise _wrong(name, "the loader", "Loaded(images, labels, shape, is_test)", loaded)
    shape = plain(loaded.shape)
    if not isinstance(shape, tuple):
        raise _wrong(name, "shape", "(height, width) or (channels, height, width)", loaded.shape)
    x = _images(name, loaded.images, shape, binarize)
    y, is_test = _labels(name, loaded.labels, len(x)), _mask(name, loaded.is_test, len(x))
    known = _factors(name, loaded.factors, len(x))
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
        shape,
        binarize,
        tuple(loaded.factors),
        None if known is None else known[chosen],
        None if known is None else known[is_test],
    )
