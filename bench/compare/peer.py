"""Peer: something that keeps bytes for a program, and how to use it at its best.

A `Log` appends and reads back in order; a `Queue` gives each message to one worker. Each says what it is called, what must be
installed for it, and with which settings it runs. All promise the same: what was appended, flushed or put survives the death of
the process that did it (kill -9); `synced`, it is on the disk. Where one cannot promise that, its settings say so.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from compare.server import Server


class Place(NamedTuple):
    """Where a peer lives for one lap: a directory, or a server; the name is used once in a run."""

    path: str
    name: str
    server: Server | None = None
    synced: bool = False  # each append is on the disk when it returns
    paced: bool = False  # latency counts, not throughput
    worker: int = 0  # which of those that share a queue


class Peer:
    name: ClassVar[str] = ""
    module: ClassVar[str] = ""  # what is imported
    package: ClassVar[str] = ""  # what is installed
    server: ClassVar[type[Server] | None] = None
    given: ClassVar[str] = ""  # settings, for the table
    only: ClassVar[frozenset[str] | None] = None  # workloads it takes part in; None: all that its settings allow

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot take part: what is not installed; None when all is there."""
        if not importlib.util.find_spec(cls.module):
            return f"{cls.package or cls.module} is not installed"
        return cls.server.missing() if cls.server else None

    def __init__(self, place: Place) -> None:
        raise NotImplementedError

    def close(self) -> None: ...


class Log(Peer):
    synced: ClassVar[str | None] = None  # settings with which each append is on the disk; None: it cannot promise that
    tails: ClassVar[str | None] = None  # how a reader in another process learns of a record; None: not compared

    def prepare(self, values: list[bytes]) -> Any:
        """The list as this one takes it best; not timed."""
        return values

    def append(self, value: bytes) -> Any:
        """One record; it is kept when this returns."""
        raise NotImplementedError

    def append_many(self, values: list[bytes]) -> Any:
        """A list; kept when `flush` returns, which lets a client have as many under way as it likes."""
        raise NotImplementedError

    def flush(self) -> None: ...

    def post(self, value: bytes) -> Any:
        """One record, at a pace: without waiting for an answer, where the client can."""
        return self.append(value)

    def pause(self, seconds: float) -> None:
        """The sender has nothing to do for so long; a client without a thread of its own works meanwhile."""
        time.sleep(seconds)

    def batches(self, count: int) -> Iterator[list[bytes]]:
        """The first `count` records, as many at a time as suits it."""
        raise NotImplementedError

    def each(self, count: int) -> Iterator[bytes]:
        """The same one by one, in the way in which it gives single records."""
        for batch in self.batches(count):
            yield from batch

    def tail(self) -> Iterator[bytes]:
        """What another process appends, for ever; yields b"" once, when it is ready."""
        raise NotImplementedError


class Queue(Peer):
    """`one`: put, get, ack; what was got. `many`: the same for a list, if it has calls for that."""

    together: ClassVar[bool] = True  # several processes may work on it
    warms: ClassVar[bool] = True  # a worker may try before the others work: it gets back what it put

    def one(self, value: bytes) -> bytes | None:
        raise NotImplementedError
