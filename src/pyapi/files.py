"""Files: the few things that the face itself does to a directory, so that a power cut leaves the old or the new.

>>> write_whole("note", b"hello"); read_whole("note")
b'hello'
>>> with FileLock("gate"):
...     pass
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator

from seglog.errors import DirectoryInUse, ReadOnlyStore, SeglogError, StoreFull, StoreIOError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = [
    "FileLock",
    "has_segments",
    "listed",
    "make_directory",
    "read_whole",
    "sync_data",
    "sync_directory",
    "told",
    "try_lock",
    "unlock",
    "write_all",
    "write_whole",
]

O_BINARY = getattr(os, "O_BINARY", 0)
LOCK_AT = 1 << 40  # where Windows locks a byte: locks are mandatory there, and must not cover anyone's data
NAP_MIN, NAP_MAX = 0.0005, 0.02  # seconds between two tries for a lock


@contextlib.contextmanager
def told(path: str, doing: str) -> Iterator[None]:
    """Turns the file system's errors into seglog's, which say where and what follows."""
    try:
        yield
    except SeglogError:  # says so already; some of them are OSErrors
        raise
    except OSError as error:
        where = os.fspath(error.filename) if error.filename else path
        reason = error.strerror or str(error)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ReadOnlyStore(
                f"cannot {doing}: {where}: {reason}. A store must be writable for its readers too: they register "
                "in its shared memory. Nothing was changed; make it writable, or copy it.",
                path=where,
                errno=error.errno,
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(
                f"cannot {doing}: {where}: {reason}. What was written before is intact; try again with room.",
                path=where,
                errno=error.errno,
            ) from error
        raise StoreIOError(f"cannot {doing}: {where}: {reason}.", path=where, errno=error.errno) from error


def sync_data(fd: int) -> None:
    """Returns when the bytes of `fd` are on the disk, also those stored through a map. One fdatasync."""
    if sys.platform == "darwin":
        with contextlib.suppress(OSError):  # not every file system there has it; then fsync is the most there is
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    getattr(os, "fdatasync", os.fsync)(fd)


def sync_directory(path: str) -> None:
    """Returns when the names in `path` are on the disk. Windows has no such call, and needs none for NTFS."""
    if sys.platform == "win32":
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: str) -> None:
    """Make `path` and its parents, and make each name durable: also of those that are there, for whoever made them may have
    died before that. It ends at a store, whose own name was durable before its SEGLOG had one, and where a file system begins."""
    there = os.path.isdir(path)
    parent = os.path.dirname(path) or "."
    if there and (parent == path or os.path.ismount(path) or os.path.exists(os.path.join(path, "SEGLOG"))):
        return
    make_directory(parent)
    if not there:
        with contextlib.suppress(FileExistsError):  # another process was quicker
            os.mkdir(path)
    try:
        sync_directory(parent)
    except OSError as error:
        if not there or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL, errno.ENOTSUP):
            raise  # else it is somebody else's directory, and so is the name


def has_segments(path: str) -> bool:
    """Whether there is a log in `path`: one has a segment from its creation to its end. The engine would begin a new
    one in an empty directory, which is wrong where somebody lost the old."""
    return any(name.endswith(".log") for name in listed(path))


def listed(path: str) -> list[str]:
    """The names in the directory `path`; none when there is no such directory, which is not the same as one that cannot be read."""
    names: list[str] = []
    with told(path, "list it"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names = os.listdir(path)
    return names


def read_whole(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def write_all(fd: int, data: bytes) -> None:
    """All of `data` at the position of `fd`: the system may take less at once. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def write_whole(path: str, data: bytes) -> None:
    """The file `path` is exactly `data`, on disk, or it is what it was: temporary name, fsync, rename, fsync."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | O_BINARY, 0o666)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(path) or ".")


def try_lock(fd: int) -> bool:
    """Take the file that `fd` is open on, for as long as `fd` is; False when another holds it."""
    try:
        if sys.platform == "win32":
            os.lseek(fd, LOCK_AT, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


def unlock(fd: int) -> None:
    """Let go at once, even where a forked child still has a copy of `fd`."""
    if sys.platform == "win32":
        os.lseek(fd, LOCK_AT, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(fd, fcntl.LOCK_UN)


class FileLock:
    """A door that one thread of one process goes through at a time, for the short moments in which names are made.

    Waits up to `timeout` seconds, then raises DirectoryInUse. The kernel opens it when its holder dies.
    """

    def __init__(self, path: str, timeout: float = 30.0) -> None:
        self.path = path
        self.timeout = timeout
        self.doing = ""  # what it is taken for, to be told when it cannot be had; else the caller tells
        self._fd = -1

    def __enter__(self) -> FileLock:
        with told(self.path, self.doing) if self.doing else contextlib.nullcontext():
            self._fd = self._taken()
        return self

    def _taken(self) -> int:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | O_BINARY, 0o666)
        deadline, nap = time.monotonic() + self.timeout, NAP_MIN
        try:
            while not try_lock(fd):
                if time.monotonic() > deadline:
                    raise DirectoryInUse(
                        f"{self.path} stayed locked for {self.timeout:g} s: another process is making or deleting "
                        "something here, and is slow or stopped. Nothing was changed; try again.",
                        path=self.path,
                    )
                time.sleep(nap)
                nap = min(nap * 2, NAP_MAX)
        except BaseException:
            os.close(fd)
            raise
        return fd

    @property
    def is_there(self) -> bool:
        """Whether the file that is held is still the one of that name. It is not when the folder was deleted meanwhile."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def __exit__(self, *error: object) -> None:
        fd, self._fd = self._fd, -1
        unlock(fd)
        os.close(fd)

    def __repr__(self) -> str:
        return f"<FileLock {self.path}, {'held' if self._fd >= 0 else 'free'}>"
