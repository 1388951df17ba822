"""Files: what a program does that writes its own log, and what the disk can do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import chain

from compare.peer import Log, Place

LOOK = 0.0001  # seconds between two looks of a reader that nobody wakes


class FlushedFile(Log):
    """Length-prefixed records; the reader takes the file in large pieces."""

    name, module = "file, flushed", "os"
    given = "write + flush"
    synced = "write + flush + fdatasync"
    tails = f"looks every {LOOK * 1e6:.0f} us"

    def __init__(self, place: Place) -> None:
        self.path, self.synced_now = place.path + "/file", place.synced
        self.file = open(self.path, "ab")  # noqa: SIM115
        self.close = self.file.close  # type: ignore[method-assign]

    def append(self, value: bytes) -> None:
        self.file.write(len(value).to_bytes(4, "little") + value)
        self.kept()

    def append_many(self, values: list[bytes]) -> None:
        self.file.write(b"".join(chain.from_iterable((len(value).to_bytes(4, "little"), value) for value in values)))
        self.kept()

    def kept(self) -> None:
        self.file.flush()
        if self.synced_now:
            os.fdatasync(self.file.fileno())

    def each(self, count: int) -> Iterator[bytes]:
        with open(self.path, "rb") as file:
            read = file.read
            while prefix := read(4):
                yield read(int.from_bytes(prefix, "little"))

    def batches(self, count: int) -> Iterator[list[bytes]]:
        rest = b""
        with open(self.path, "rb") as file:
            while piece := file.read(1 << 20):
                values, rest = split(rest + piece)
                yield values

    def tail(self) -> Iterator[bytes]:
        rest = b""
        with open(self.path, "rb", buffering=0) as file:
            yield b""
            while True:
                if piece := file.read(1 << 16):
                    values, rest = split(rest + piece)
                    yield from values
                else:
                    time.sleep(LOOK)


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole records, and what is left."""
    values, at, end = [], 0, len(data)
    while at + 4 <= end:
        stop = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if stop > end:
            break
        values.append(data[at + 4 : stop])
        at = stop
    return values, data[at:]


class BufferedFile(FlushedFile):
    name = "file, buffered"
    given = "write; flushed at the end: what is in the buffer dies with the process"
    synced = None
    tails = None

    def kept(self) -> None: ...

    def flush(self) -> None:
        self.file.flush()


class RawDisk(Log):
    """The same bytes into a file whose blocks are there already: an fdatasync that has nothing else to do."""

    name, module = "the raw disk", "os"
    synced = "pwrite of the same bytes into a written file + fdatasync: the limit"
    only = frozenset({"sync-each", "sync-100"})

    def __init__(self, place: Place) -> None:
        self.file = os.open(place.path + "/raw", os.O_RDWR | os.O_CREAT)
        self.allocate()
        os.fsync(self.file)
        self.at = 0

    def allocate(self) -> None:
        for _ in range(4):
            os.write(self.file, bytes(1 << 20))

    def append(self, value: bytes) -> None:
        self.at = (self.at + os.pwrite(self.file, value, self.at)) % (3 << 20)
        os.fdatasync(self.file)

    def append_many(self, values: list[bytes]) -> None:
        self.append(b"".join(values))

    def close(self) -> None:
        os.close(self.file)


class NewBlocks(RawDisk):
    """What every log that grows must have: blocks that were given, but never written; the file system writes that down too."""

    name = "the raw disk, new blocks"
    synced = "the same into a file that posix_fallocate made"

    def allocate(self) -> None:
        os.posix_fallocate(self.file, 0, 64 << 20)

    def append(self, value: bytes) -> None:
        self.at += os.pwrite(self.file, value, self.at)
        os.fdatasync(self.file)
