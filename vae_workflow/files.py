"""Files that appear whole or not at all, and folders that do not outlive the process that made them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

# Files aside and folders for sockets have names with this. Their process locks them, and the system lets go
# of the lock however the process ends: one that is not locked was left over.
MARK = "vae-lab-"
CLAIM = f".{MARK}claim"  # a file in a folder that others made: as for the above, its lock says who is alive
LONGEST_SOCKET = 100  # letters of its path: Linux allows 107, macOS 103


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes one file, as `write_all` does."""
    write_all({path: content})


def write_all(files: Mapping[Path, str | bytes]) -> None:
    """Writes all of `files`, or leaves all as they were: each is written aside first, and then renamed.

    Text becomes UTF-8. A link leads to the file that is replaced, and what is not an ordinary file, such as a
    device, is written to as it is. Raises OSError.
    """
    writings = [_Writing(path, content) for path, content in files.items()]
    try:
        for writing in writings:
            writing.prepare(again=writing is not writings[-1])
        for writing in writings:
            writing.put()
    except BaseException:  # an interruption, too
        for writing in writings if not writings[-1].done else ():
            writing.undo()
        raise
    finally:
        for writing in writings:
            writing.tidy()


class _Writing:
    """One file on its way to its place."""

    def __init__(self, path: Path, content: str | bytes) -> None:
        self.target = Path(os.path.realpath(path))
        self.content = content.encode() if isinstance(content, str) else content
        self.new: Path | None = None
        self.old: Path | None = None  # a copy of what was there
        self.existed = self.done = False
        self.locks: list[int] = []

    def prepare(self, again: bool) -> None:
        """Writes it aside, and, to be put in place `again` if need be, what is there."""
        self.existed = self.target.exists()
        if self.existed and not self.target.is_file():
            if self.target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.target))
            return
        if self.existed and not os.access(self.target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.target))
        clear_leftovers(self.target.parent)
        self.new = self._aside(self.content)
        if self.existed:
            shutil.copymode(self.target, self.new)
            if again:
                self.old = self._aside(self.target.read_bytes())
                shutil.copymode(self.target, self.old)

    def _aside(self, content: bytes) -> Path:
        path, lock = _locked(lambda: _empty_file(self.target.parent))
        self.locks.append(lock)
        try:
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def put(self) -> None:
        if self.new:
            os.replace(self.new, self.target)
            self.done = True
        else:
            self.target.write_bytes(self.content)

    def undo(self) -> None:
        if self.done and self.old:
            os.replace(self.old, self.target)
        elif self.done and not self.existed:
            self.target.unlink()

    def tidy(self) -> None:
        for path in filter(None, (self.new, self.old)):
            path.unlink(missing_ok=True)
        for lock in self.locks:
            os.close(lock)


def _empty_file(folder: Path) -> Path:
    path = folder / f".{MARK}{uuid.uuid4().hex}"
    path.touch(exist_ok=False)
    return path


def _locked(make: Callable[[], Path]) -> tuple[Path, int]:
    """What `make()` makes, with a lock of this process on it."""
    while True:
        path = make()
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # somebody took it for left over before it was locked
            continue
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path, lock
        os.close(lock)


def clear_leftovers(folder: Path) -> None:
    """Deletes what dead processes of this user left in a folder, by our name for it."""
    for path in (*folder.glob(f"{MARK}*"), *folder.glob(f".{MARK}*")):
        with suppress(OSError):  # somebody's at work, or gone
            status = path.lstat()
            if status.st_uid != os.getuid() or not (stat.S_ISREG(status.st_mode) or path.is_dir()):
                continue
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if stat.S_ISDIR(status.st_mode) else path.unlink()
            finally:
                os.close(lock)


def claim(folder: Path) -> int:
    """Says that a temporary folder, which others made for this process, goes when this process is dead: the
    next claim in the same place deletes it. The answer holds the claim, for as long as it is not closed."""
    for left in folder.parent.glob(f"*/{CLAIM}"):
        with suppress(OSError):  # somebody else's, or gone
            lock = os.open(left, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.getuid():
                    shutil.rmtree(left.parent)
            finally:
                os.close(lock)
    lock = os.open(folder / CLAIM, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with suppress(OSError):  # a file system without locks, where nothing is ever taken for left over
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


@contextmanager
def folder_for_sockets(letters: int = 10) -> Iterator[Path]:
    """A folder of this process, with so short a path that names with so many `letters` fit behind it."""
    parents = dict.fromkeys(map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp")))
    fitting = [p for p in parents if len(os.fsencode(p / f"{MARK}12345678")) + 1 + letters <= LONGEST_SOCKET]
    folder, lock = _first_possible(fitting)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _first_possible(parents: Iterable[Path]) -> tuple[Path, int]:
    """A locked folder in the first of `parents` that takes one."""
    for parent in parents:
        clear_leftovers(parent)
        with suppress(OSError):
            return _locked(partial(_folder_in, parent))
    raise OSError(
        f"the sockets of a kernel need a folder with a short path, but {tempfile.gettempdir()} is too long "
        "or cannot be written to, like /tmp; set TMPDIR to another one"
    )


def _folder_in(parent: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=MARK, dir=parent))
