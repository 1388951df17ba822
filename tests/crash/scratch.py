"""A folder in memory for what this process's tests write there; those of runs that were killed are removed by the next.

One folder a process, /dev/shm/seglog-tests-*, with a flock on it for as long as the process lives: the kernel lets that go however it
dies. Whoever makes one removes those that nobody holds. A process that ends by itself and leaves something there, says so: what
a broken promise left behind is there to be looked at.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

MEMORY = "/dev/shm"
PREFIX = "seglog-tests-"
KEPT = ".kept"
YOUNG = 60.0  # seconds in which a new folder may be without its lock


@functools.cache
def memory() -> str | None:
    """This process's folder, for `tempfile`'s `dir=`; None where no file system in memory is known."""
    if not os.access(MEMORY, os.W_OK):
        return None
    sweep()
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=MEMORY)
    held = hold(folder)  # until the process ends
    if held is None:  # a file system without locks: nobody could tell that we are alive
        os.rmdir(folder)
        return None
    atexit.register(leave, folder, os.getpid())
    return folder


def sweep() -> None:
    """Remove the folders of processes that are no more."""
    for found in Path(MEMORY).glob(PREFIX + "*"):
        with contextlib.suppress(OSError):  # another's, or gone meanwhile
            if (found / KEPT).exists() or time.time() - found.stat().st_mtime < YOUNG:
                continue
            held = hold(found)
            if held is not None:
                shutil.rmtree(found, ignore_errors=True)
                os.close(held)


def hold(folder: str | Path) -> int | None:
    """A descriptor with the lock; None when somebody has it. Forked children share it, programs that are started do not."""
    import fcntl

    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def leave(folder: str, pid: int) -> None:
    if os.getpid() != pid:  # a forked child
        return
    try:
        os.rmdir(folder)
    except OSError:
        with contextlib.suppress(OSError):
            Path(folder, KEPT).touch()


@contextlib.contextmanager
def folder(name: str, otherwise: Path | None = None) -> Iterator[Path]:
    """A folder in memory for as long as the block; where there is none: `otherwise`, or on the disk."""
    if memory() is None and otherwise is not None:
        yield otherwise
        return
    with tempfile.TemporaryDirectory(prefix=f"seglog-{name}-", dir=memory(), ignore_cleanup_errors=True) as path:
        yield Path(path)
