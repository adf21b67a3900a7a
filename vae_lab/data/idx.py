"""Files in the IDX format: `fashion-mnist` and `mnist`, found on this machine or downloaded, and checked."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .. import records
from .contract import DataError, Loaded, dataset


@dataclass(frozen=True)
class _Files:
    """Where files in the IDX format come from, and the SHA-256 of each one's decompressed bytes."""

    name: str
    url: str
    package: str
    sha256: Mapping[str, str]


FASHION_MNIST = _Files(
    records.FASHION,
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
    records.MNIST,
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "a copy of the original files",
    {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)


LARGEST = 2**26  # bytes of a decompressed file; the largest published one has 47,040,016


def read_idx(path: Path, sha256: str, ways: str = "") -> np.ndarray:
    """The array of bytes in a file of the IDX format, compressed by gzip if its name ends in .gz.

    Raises `DataError` that says what is wrong with it, followed by `ways` to mend it.
    """

    def wrong(what: str) -> DataError:
        return DataError(f"{path}: {what}. {ways}".rstrip())

    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        what = "a truncated gzip file" if isinstance(error, EOFError) else "not a gzip file, or a damaged one"
        raise wrong(f"{what} ({error})") from error
    except OSError as error:
        raise wrong(f"cannot be read ({error.strerror})") from error
    if len(content) > LARGEST:
        raise wrong(f"too long: more than {LARGEST:,} bytes, which no published file has")
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise wrong(f"not an IDX file of bytes: it starts with {content[:4].hex(' ')}, not 00 00 08")
    axes = content[3]
    shape = (
        tuple(np.frombuffer(content, ">u4", count=axes, offset=4).tolist())
        if len(content) >= 4 + 4 * axes
        else ()
    )
    expected = 4 + 4 * axes + math.prod(shape)
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
        f"{files.package} under {records.DATA_SYSTEM}/{files.name}; or go online, and it is downloaded "
        f"from {files.url}"
    )
    for folder in map(Path, filter(None, (own, records.DATA_SYSTEM))):
        for candidate in (folder / files.name / f"{name}.gz", folder / files.name / name):
            try:
                candidate.stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise DataError(f"{candidate}: cannot be read ({error.strerror}). {ways}") from error
            return candidate, ways
    try:
        import pooch
    except ImportError as error:
        raise DataError(
            f"{files.name} is not on this machine, and the package that downloads it is not installed: "
            f"pip install pooch. {ways}"
        ) from error

    pooch.get_logger().setLevel("WARNING")
    cache = pooch.os_cache("vae_lab") / files.name
    try:
        found = pooch.retrieve(f"{files.url}{name}.gz", None, f"{name}.gz", cache)
    except (OSError, ValueError) as error:  # of requests, which pooch uses
        with suppress(OSError):  # not empty: files of before
            cache.rmdir()
        raise DataError(
            f"{files.name} is not on this machine, and the download failed: {error}. {ways}"
        ) from error
    return Path(found), f"Delete it and try again. {ways}"


def _load(files: _Files) -> Loaded:
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
    dataset(_files.name)(partial(_load, _files))
