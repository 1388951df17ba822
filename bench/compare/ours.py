"""Ours: seglog as a program would use it, through its public API."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import numpy as np

import seglog
from compare.peer import Log, Place, Queue

SETTINGS = 'fsync="never"'


class Seglog(Log):
    name, module = "seglog", "seglog"
    given = f"{SETTINGS}; read as lists of bytes, and record by record"
    synced = 'fsync="always"'
    tails = "tail(): sleeps until woken"

    def __init__(self, place: Place) -> None:
        self.store = seglog.open(place.path + "/seglog", fsync="always" if place.synced else "never")
        self.topic = self.store.topic("t")
        self.append, self.append_many = self.topic.send, self.topic.send_many
        self.close = self.store.close  # type: ignore[method-assign]

    def batches(self, count: int) -> Iterator[list[bytes]]:
        for batch in self.topic.batches():
            yield batch.values.tolist()

    def each(self, count: int) -> Iterator[Any]:
        return map(attrgetter("value"), self.topic.read())

    def tail(self) -> Iterator[Any]:
        yield b""
        for record in self.topic.tail("earliest"):
            yield record.value


class SeglogArrays(Seglog):
    """The same records as a 2-D array, and read as columns over the file itself: no object per record is made."""

    name = "seglog, arrays"
    given = f"{SETTINGS}; sent from a 2-D array, read as numpy columns over the file"
    only = frozenset({"produce-batch", "consume-batch"})

    def prepare(self, values: list[bytes]) -> Any:
        return np.frombuffer(b"".join(values), "u1").reshape(len(values), -1)

    def columns(self, count: int) -> Iterator[Any]:
        for batch in self.topic.batches():
            yield batch.values.data, batch.values.starts, batch.values.ends


class SeglogSpins(Seglog):
    name = "seglog, spinning"
    only = frozenset({"latency"})
    tails = "read_batch() in a loop: takes a whole core"

    def tail(self) -> Iterator[Any]:
        offset, read_batch = 0, self.topic.read_batch
        yield b""
        while True:
            if batch := read_batch(offset=offset):
                yield from batch.values.tolist()
                offset = batch.next_offset


class SeglogQueue(Queue):
    name, module, given = "seglog", "seglog", SETTINGS

    def __init__(self, place: Place) -> None:
        self.store = seglog.open(place.path + "/seglog", fsync="never", upkeep=False)
        self.queue = self.store.queue("q")
        self.close = self.store.close  # type: ignore[method-assign]

    def one(self, value: bytes) -> bytes | None:
        queue = self.queue
        queue.send(value)
        for message in queue.receive(1, 0):
            message.ack()
            return message.value
        return None

    def many(self, values: list[bytes]) -> list[bytes | None]:
        queue = self.queue
        queue.send_many(values)
        messages = queue.receive(len(values), 0)
        queue.ack(messages)
        return [message.value for message in messages]
