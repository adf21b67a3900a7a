import pytest
import torch

from vae_lab import load
from vae_lab.data import DATASETS, Dataset
from vae_lab.registry import UnknownName

SIZES = {"digits": (1497, 300, (8, 8)), "mnist-5k": (4000, 1000, (28, 28))}


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("binarize", ["dynamic", "fixed", None])
def test_every_data_set(name: str, binarize: str | None) -> None:
    data = load(name, binarize)  # type: ignore[arg-type]
    train, test, shape = SIZES[name]
    assert (len(data.train), len(data.test), data.shape) == (train, test, shape)
    assert data.features == shape[0] * shape[1] == data.test.shape[1]
    assert len(data.train_labels) == train and len(data.test_labels) == test
    assert set(data.train_labels.tolist()) == set(data.test_labels.tolist()) == set(range(10))
    for x in (data.train, data.test):
        assert x.dtype == torch.float32
        assert x.min() == 0 and x.max() == 1
    binary = {"train": binarize == "fixed", "test": binarize is not None}
    for split, expected in binary.items():
        x = getattr(data, split)
        assert bool(((x == 0) | (x == 1)).all()) == expected, split


@pytest.mark.parametrize("name", DATASETS)
def test_the_split_and_the_test_draw_are_fixed(name: str) -> None:
    grey, dynamic, again, fixed = (load(name, how) for how in (None, "dynamic", "dynamic", "fixed"))
    assert torch.equal(dynamic.test, again.test)
    assert torch.equal(dynamic.test, fixed.test)
    assert torch.equal(grey.train, dynamic.train)
    assert (dynamic.test[grey.test == 0] == 0).all()
    assert (dynamic.test[grey.test == 1] == 1).all()


def test_digits_are_split_by_position() -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    data = load("digits", None)
    torch.testing.assert_close(data.train, torch.tensor(images[:1497] / 16, dtype=torch.float32))
    assert data.test_labels.tolist() == labels[-300:].tolist()


def test_mnist_is_stratified_without_overlap() -> None:
    data = load("mnist-5k", None)
    assert torch.bincount(data.train_labels).tolist() == [400] * 10
    assert torch.bincount(data.test_labels).tolist() == [100] * 10
    assert torch.cdist(data.test, data.train).min() > 0


def test_wrong_names_are_refused() -> None:
    with pytest.raises(UnknownName, match="unknown data set 'mnist'; did you mean 'mnist-5k'"):
        load("mnist")
    with pytest.raises(ValueError, match="binarize is 'dynamic', 'fixed' or None, got 'yes'"):
        load("digits", "yes")  # type: ignore[arg-type]


def test_a_data_set_is_frozen() -> None:
    data = load("digits")
    assert isinstance(data, Dataset)
    with pytest.raises(AttributeError):
        data.name = "other"  # type: ignore[misc]
