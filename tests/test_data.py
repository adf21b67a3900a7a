import gzip
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from pages import code, sections

from vae_lab import load, records
from vae_lab.data import DATASETS, Dataset, Loaded
from vae_lab.data import idx as module
from vae_lab.data.idx import FASHION_MNIST, DataError, read_idx
from vae_lab.registry import UnknownName

SIZES = {
    "digits": (1497, 300, (8, 8)),
    "mnist-5k": (4000, 1000, (28, 28)),
    "sprites": (5000, 1000, (28, 28)),
}
CLASSES = {"sprites": 3}


def test_what_needs_no_download_is_tested_here() -> None:
    assert set(DATASETS) == {*SIZES, "fashion-mnist", "mnist"}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("binarize", ["dynamic", "fixed", None])
def test_every_data_set(name: str, binarize: str | None) -> None:
    data = load(name, binarize)  # type: ignore[arg-type]
    train, test, shape = SIZES[name]
    assert (len(data.train), len(data.test), data.shape) == (train, test, shape)
    assert data.features == shape[0] * shape[1] == data.test.shape[1]
    assert len(data.train_labels) == train and len(data.test_labels) == test
    assert (
        set(data.train_labels.tolist()) == set(data.test_labels.tolist()) == set(range(CLASSES.get(name, 10)))
    )
    for x in (data.train, data.test):
        assert x.dtype == torch.float32
        assert x.min() == 0 and x.max() == 1
    binary = {"train": binarize == "fixed", "test": binarize is not None}
    for split, expected in binary.items():
        x = getattr(data, split)
        assert bool(((x == 0) | (x == 1)).all()) == expected, split


@pytest.mark.parametrize("name", SIZES)
def test_the_split_and_the_test_draw_are_fixed(name: str) -> None:
    grey, dynamic, again, fixed = (load(name, how) for how in (None, "dynamic", "dynamic", "fixed"))
    assert torch.equal(dynamic.test, again.test)
    assert torch.equal(dynamic.test, fixed.test)
    assert torch.equal(grey.train, dynamic.train)
    assert (dynamic.test[grey.test == 0] == 0).all()
    assert (dynamic.test[grey.test == 1] == 1).all()


PAGE = (Path(__file__).parent.parent / "book" / "data.md").read_text("utf-8")


def test_the_page_on_data_has_every_set_with_its_size() -> None:
    rows = dict(re.findall(r"^\| `(\S+)` \| (.*)$", PAGE, re.MULTILINE))
    assert set(rows) == set(DATASETS)
    for name, row in rows.items():
        train, test, pixels, _, _, licence = row.strip(" |").split(" | ")
        assert licence
        if name not in ("mnist", "fashion-mnist"):
            data = load(name)
            assert (train, test) == (f"{len(data.train):,}", f"{len(data.test):,}")
            assert pixels == "{} × {}".format(*data.shape)


def test_a_loader_of_ones_own_works() -> None:
    (example,) = code(sections("fork", level=3)["A data set"])
    try:
        exec(example, {"__name__": "example"})
        data = load("stripes")
        assert data.train.shape == (800, 64)
        assert len(data.test) == 200 and set(data.test.unique().tolist()) == {0, 1}
    finally:
        del DATASETS["stripes"]


# What a loader gives: a hundred images of 3 x 4 pixels, the last twenty for testing

N = 100
X = np.random.default_rng(0).random((N, 12))
IS_TEST = np.arange(N) >= 80
OWN = {"images": X, "labels": np.arange(N) % 3, "shape": (3, 4), "is_test": IS_TEST}


@pytest.fixture
def own() -> Iterator[Callable[..., Dataset]]:
    """Loads your own data set, which differs from the good one."""

    def loaded(binarize: str | None = None, **changes: Any) -> Dataset:
        DATASETS["own"] = lambda: Loaded(**(OWN | changes))
        return load("own", binarize)  # type: ignore[arg-type]

    yield loaded
    del DATASETS["own"]


@pytest.mark.parametrize(
    "changes",
    [
        {"is_test": IS_TEST.astype(int)},
        {"is_test": torch.tensor(IS_TEST).byte()},
        {"is_test": IS_TEST.astype(float)},
        {"is_test": IS_TEST.tolist()},
        {"is_test": pd.Series(IS_TEST)},
        {"labels": OWN["labels"].astype(float)},
        {"labels": pd.Series(OWN["labels"])},
        {"images": pd.DataFrame(X)},
        {"images": torch.tensor(X, requires_grad=True)},
        {"images": X.tolist()},
        {"images": X.astype(">f8")},
        {"images": X.reshape(N, 3, 4)},
        {"images": X.reshape(N, 1, 3, 4)},
        {"images": X.reshape(N, 3, 4, 1)},
        {"images": X.reshape(N, 3, 2, 2), "shape": (3, 2, 2)},
    ],
    ids=lambda changes: " ".join(f"{k} {type(v).__name__}" for k, v in changes.items()),
)
def test_what_can_mean_one_thing_only_is_taken(changes: dict[str, Any], own: Callable[..., Dataset]) -> None:
    data = own(**changes)
    torch.testing.assert_close(data.train, torch.tensor(X[:80], dtype=torch.float32))
    torch.testing.assert_close(data.test, torch.tensor(X[80:], dtype=torch.float32))
    assert data.train_labels.tolist() == [i % 3 for i in range(80)]
    assert data.train_labels.dtype == torch.int64 and data.shape == changes.get("shape", (3, 4))


BROKEN = X.copy()
BROKEN[[2, 5], 0] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_test": np.arange(80, 100)}, r"is_test: expected a mask \(100,\).* got int64 \(20,\); np.isin"),
        ({"is_test": np.arange(N)}, r"is_test: expected a mask \(100,\)"),
        ({"is_test": IS_TEST[:50]}, r"is_test: expected a mask \(100,\).* got bool \(50,\)"),
        ({"is_test": None}, "is_test: expected an array of numbers without gaps, got None"),
        ({"is_test": IS_TEST | True}, "is_test: 100 of 100 items are for testing; both parts need 1"),
        ({"labels": ["a", "b"] * 50}, r"labels: expected .* got <U1 \(100,\); np.unique\(labels"),
        ({"labels": None}, r"labels: expected .* got None; .* np.zeros\(n, int\) of none"),
        ({"labels": X[:, 0]}, r"labels: expected integers \(100,\), one for each image, got float64"),
        ({"labels": np.arange(9)}, r"labels: expected integers \(100,\), .* got int64 \(9,\)"),
        ({"labels": np.eye(3)[OWN["labels"]]}, r"labels: expected integers \(100,\), .* \(100, 3\)"),
        ({"labels": np.full(N, np.nan)}, "labels: expected integers"),
        ({"images": X[:0]}, r"images: expected .* 1 item or more, got float64 \(0, 12\)"),
        ({"images": X[:, 0]}, r"images: expected .* got float64 \(100,\)"),
        ({"images": X.reshape(N, 4, 3)}, r"images: expected .*\(items, 3, 4\).* got float64 \(100, 4, 3\)"),
        ({"images": X.reshape(N, 2, 2, 3), "shape": (3, 2, 2)}, r"\(items, 3, 2, 2\).* \(100, 2, 2, 3\)"),
        ({"images": np.ma.masked_array(X, X > 0.9)}, "images: expected an array of numbers without gaps"),
        ({"images": [[1, 2], [3]]}, "images: expected an array of numbers without gaps, got list"),
        ({"images": X * 1j}, "images: expected an array of numbers without gaps, got complex128"),
        ({"images": X * 1e300}, "images: NaN, infinity or more than float32 can hold in 100 items"),
        ({"images": BROKEN}, "images: NaN, .* in 2 items, the first is item 2"),
        ({"images": X * 255, "binarize": "dynamic"}, r"expected values in \[0, 1\], .*span .*: x / 255; or"),
        ({"images": (X * 255).astype(np.uint8), "binarize": "fixed"}, r"expected values in \[0, 1\]"),
        ({"images": X - 0.5, "binarize": "dynamic"}, r"\(x \+ 0.49981\) / 0.999311; or standardise"),
        ({"shape": (3, 5)}, r"whose product is the number of features, 12; got \(3, 5\)"),
        ({"shape": (12,)}, r"shape is \(height, width\) or \(channels, height, width\).* got \(12,\)"),
        ({"shape": 12}, r"shape: expected \(height, width\) or \(channels, height, width\), got 12"),
        ({"images": np.zeros((N, 8, 8, 3)), "shape": (8, 8, 3)}, "move the channels to the front"),
        ({"factors": {"x": X[:5, 0]}}, r"factors\['x'\]: expected finite numbers \(100,\)"),
        ({"factors": [X[:, 0]]}, "factors: expected a dictionary"),
    ],
)
def test_what_breaks_the_contract_is_refused_by_its_name(
    changes: dict[str, Any], message: str, own: Callable[..., Dataset]
) -> None:
    with pytest.raises(DataError, match=f"^data set 'own': .*{message}"):
        own(**changes)


@pytest.mark.parametrize(
    "given", [tuple(OWN.values()), pd.DataFrame(X), None], ids=["tuple", "frame", "None"]
)
def test_a_loader_gives_a_loaded(given: Any, own: Callable[..., Dataset]) -> None:
    DATASETS["own"] = lambda: given
    with pytest.raises(
        DataError, match=r"'own': the loader: expected Loaded\(images, labels, shape, is_test\)"
    ):
        load("own")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train": torch.ones(4, 12, dtype=torch.int64)},
            r"train: expected a float tensor .*got torch.int64",
        ),
        (
            {"test": torch.rand(20, 11)},
            r"test: expected 12 features, as in train, got torch.float32 \(20, 11\)",
        ),
        ({"test_labels": torch.arange(3)}, r"test_labels: expected a tensor \(20,\)"),
        ({"train": torch.full((80, 12), 3.0), "binarize": "dynamic"}, "span 3 to 3: x / 3"),
        ({"shape": (5, 5)}, "whose product is the number of features, 12"),
    ],
)
def test_a_data_set_made_by_hand_keeps_the_contract(
    changes: dict[str, Any], message: str, own: Callable[..., Dataset]
) -> None:
    with pytest.raises(DataError, match=message):
        replace(own(), **changes)


@pytest.mark.parametrize("name", ["mnist-5k", "sprites"])
def test_fewer_items_are_a_fixed_choice_of_the_training_items(name: str) -> None:
    few, all_of_them = (load(name, None, items) for items in (300, None))
    where = torch.cdist(few.train, all_of_them.train).argmin(1)
    assert (where.diff() > 0).all(), "300 different ones, in order"
    assert torch.equal(few.train, all_of_them.train[where])
    assert torch.equal(few.train_labels, all_of_them.train_labels[where])
    assert len(few.train_labels.unique()) == len(all_of_them.train_labels.unique())
    if all_of_them.train_factors is not None:
        assert few.train_factors is not None
        assert torch.equal(few.train_factors, all_of_them.train_factors[where])
    assert torch.equal(few.test, all_of_them.test)
    assert torch.equal(load(name, None, 10**6).train, all_of_them.train)
    with pytest.raises(ValueError, match="items should be greater than or equal to 1, got 0"):
        load(name, items=0)


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
    with pytest.raises(UnknownName, match="unknown data set 'mnist-5'; did you mean 'mnist-5k'"):
        load("mnist-5")
    with pytest.raises(ValueError, match="binarize is 'dynamic', 'fixed' or None, got 'yes'"):
        load("digits", "yes")  # type: ignore[arg-type]


def test_a_data_set_is_frozen() -> None:
    data = load("digits")
    assert isinstance(data, Dataset)
    with pytest.raises(AttributeError):
        data.name = "other"  # type: ignore[misc]


def test_sprites_are_what_their_factors_say() -> None:
    data = load("sprites", None)
    assert data.factors == ("shape", "scale", "rotation", "x", "y")
    assert data.train_factors is not None and data.train_factors.shape == (5000, 5)
    assert torch.equal(data.train_factors[:, 0].long(), data.train_labels)
    images, (shape, scale, rotation, x, y) = data.train.view(-1, 28, 28), data.train_factors.T
    line = (torch.arange(28) + 0.5) / 14 - 1
    mass = images.sum((1, 2))
    # The area of a square or an ellipse in pixels is exact up to the points per pixel.
    area = torch.where(shape == 0, 4 * 0.8**2, torch.pi / 1.7) * scale**2 * 14**2
    known = shape < 2
    assert ((mass - area).abs()[known] < 0.05 * area[known] + 1).all()
    # Their centre of mass is at (x, y), y pointing up, to a fifth of a pixel.
    across = (images.sum(1) * line).sum(1) / mass
    down = (images.sum(2) * line).sum(1) / mass
    assert (across - x).abs()[known].max() < 0.1 / 14 * 2 and (down + y).abs()[known].max() < 0.1 / 14 * 2
    turned = rotation[shape == 1]
    spread = images[shape == 1]
    u, v = line - x[shape == 1, None], -line - y[shape == 1, None]
    tilt = torch.einsum("nij,ni,nj->n", spread, v, u)  # the sign of the covariance of position
    clear = (2 * turned).sin().abs() > 0.3
    assert torch.equal(tilt[clear] > 0, (2 * turned).sin()[clear] > 0)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


IMAGES = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
GOOD = idx(IMAGES)
DIGEST = hashlib.sha256(GOOD).hexdigest()
CORRUPT = {
    "truncated gzip": (gzip.compress(GOOD)[:-20], "a truncated gzip file"),
    "truncated": (
        gzip.compress(GOOD[:-7]),
        r"truncated: its header asks for 76 bytes of shape \(5, 4, 3\), it has 69",
    ),
    "header only": (gzip.compress(GOOD[:9]), "truncated"),
    "wrong magic number": (
        gzip.compress(b"PK\x03\x04" + GOOD[4:]),
        "not an IDX file of bytes: it starts with 50 4b 03 04",
    ),
    "wrong count": (
        gzip.compress(GOOD[:7] + b"\x04" + GOOD[8:]),
        r"too long: its header asks for 64 bytes of shape \(4, 4",
    ),
    "flipped byte": (
        gzip.compress(GOOD[:-1] + b"\xff"),
        "not the published file: SHA-256 of the decompressed bytes is",
    ),
    "not gzip": (GOOD, "not a gzip file, or a damaged one"),
    "empty": (b"", "not an IDX file|truncated"),
}


def test_a_file_is_read_no_further_than_a_published_one_is_long(tmp_path: Path) -> None:
    """Zeros compress to a thousandth: a file of a megabyte would take a gigabyte of memory."""
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(2 * module.LARGEST)))
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 2**40)
    for name in ("bomb.gz", "sparse"):
        with pytest.raises(
            DataError, match="too long: more than 67,108,864 bytes, which no published file has"
        ):
            read_idx(tmp_path / name, DIGEST)


def test_data_that_cannot_be_read_are_an_error_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.gz").mkdir()
    with pytest.raises(DataError, match=r"folder\.gz: cannot be read \(Is a directory\)\. The way out"):
        read_idx(tmp_path / "folder.gz", DIGEST, "The way out.")
    # The superuser may read all, so the system's refusal is played.
    refuse = Mock(side_effect=PermissionError(13, "Permission denied"))
    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setenv("VAE_LAB_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)\. Three ways to get it"):
        module._load(FASHION_MNIST)


@pytest.mark.parametrize("kind", CORRUPT)
def test_each_corruption_has_its_own_error(kind: str, tmp_path: Path) -> None:
    content, message = CORRUPT[kind]
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, DIGEST, "The way out.")
    assert str(caught.value).startswith(str(path)) and str(caught.value).endswith("The way out.")


def test_plain_and_compressed_files_are_read(tmp_path: Path) -> None:
    for name, content in (("a.gz", gzip.compress(GOOD, 1)), ("b.gz", gzip.compress(GOOD, 9)), ("c", GOOD)):
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(read_idx(tmp_path / name, DIGEST), IMAGES)


def small_files(url: str) -> tuple[module._Files, dict[str, bytes]]:
    """A data set of 6 + 2 images in the form of Fashion-MNIST."""
    rng = np.random.default_rng(0)
    contents = {}
    for part, count in (("train", 6), ("t10k", 2)):
        contents[f"{part}-images-idx3-ubyte"] = idx(rng.integers(256, size=(count, 28, 28)).astype(np.uint8))
        contents[f"{part}-labels-idx1-ubyte"] = idx(rng.integers(10, size=count).astype(np.uint8))
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return replace(FASHION_MNIST, url=url, sha256=digests), contents


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A local server of the small files; `server.cut` says after how many bytes it hangs up, or None."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = gzip.compress(contents[self.path.strip("/").removesuffix(".gz")])
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: running.cut])  # type: ignore[attr-defined]

        def log_message(self, *args: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.cut = None  # type: ignore[attr-defined]
    running.files, contents = small_files(f"http://127.0.0.1:{running.server_port}/")  # type: ignore[attr-defined]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(records, "DATA_SYSTEM", str(tmp_path / "nowhere"))
    monkeypatch.delenv("VAE_LAB_DATA", raising=False)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_download_is_checked_and_kept(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    first = module._load(server.files)  # type: ignore[attr-defined]
    server.cut = 0  # type: ignore[attr-defined]
    again = module._load(server.files)  # type: ignore[attr-defined]
    assert np.array_equal(first.images, again.images) and first.images.shape == (8, 784)
    assert first.is_test.tolist() == [False] * 6 + [True] * 2
    kept = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sorted(kept) == sorted(f"{name}.gz" for name in server.files.sha256)  # type: ignore[attr-defined]


def test_an_interrupted_download_leaves_nothing(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    server.cut = 40  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"the download failed.*Three ways to get it: set VAE_LAB_DATA"):
        module._load(server.files)  # type: ignore[attr-defined]
    assert not list((tmp_path / "cache").rglob(FASHION_MNIST.name)), "a folder would count as the data"


def test_the_folder_in_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, contents = small_files("http://127.0.0.1:9/")
    for name, content in contents.items():
        (tmp_path / files.name).mkdir(exist_ok=True)
        (tmp_path / files.name / name).write_bytes(content)
    monkeypatch.setenv("VAE_LAB_DATA", str(tmp_path))
    assert module._load(files).images.shape == (8, 784)


@pytest.mark.skipif(
    not Path(records.DATA_SYSTEM, records.FASHION).is_dir(), reason="needs Debian's dataset-fashion-mnist"
)
def test_fashion_mnist() -> None:
    data = load("fashion-mnist", None)
    assert data.train.shape == (60_000, 784) and data.test.shape == (10_000, 784)
    assert torch.bincount(data.test_labels).tolist() == [1000] * 10
