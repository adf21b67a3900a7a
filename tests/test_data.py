import gzip
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import code, sections

from vae_lab import load, records
from vae_lab.data import DATASETS, Dataset
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
    with pytest.raises(ValueError, match="items is at least 1, or None for all, got 0"):
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
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


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
