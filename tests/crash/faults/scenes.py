"""Scenes: lives of a log and of a store, in which any call may fail; and what must hold after each of them.

Whatever a verb raises is an error of the tree, and the program goes on: with the next verb, or by opening again what says that it is done for. In the
end nothing fails any more. Then everything acknowledged is there and right, nothing is there that was not sent, `verify` finds nothing, appends
work; the same after the next boot; and no descriptor and no map is left over.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
from collections.abc import Callable
from typing import Any

import seglog
from seglog.engine.errors import ClosedError, LockTimeout, OffsetOutOfRange, PartitionFailed, SeglogError
from seglog.engine.log import Log

from ..power.workload import SMALL, identity, payload

TRIES = 2  # openings that may fail one after the other; then nothing fails any more
PATIENCE = 3.0  # seconds for a lock: only one that was left behind keeps anybody waiting here


class Sent:
    """What was sent to one partition, and what came of it."""

    def __init__(self) -> None:
        self.sent: set[int] = set()
        self.acknowledged: dict[int, int] = {}  # offset -> id
        self.trimming = 0
        self.twice: list[str] = []

    def acknowledge(self, offset: int, value: bytes) -> None:
        if offset in self.acknowledged:
            self.twice.append(f"offset {offset} was given out twice")
        self.acknowledged[offset] = identity(value)

    def complaints(self, log: Log) -> list[str]:
        wrong, there = list(self.twice), {}
        at = log.first_offset
        if at > self.trimming:
            wrong.append(f"the log begins at {at}, and was trimmed up to {self.trimming} at most")
        while (batch := log.read(at)) is not None:
            for offset, value in zip(batch.offsets.tolist(), batch.values.tolist()):
                number = identity(value)
                if number not in self.sent:
                    wrong.append(f"offset {offset} holds what nobody sent")
                if number in there.values():
                    wrong.append(f"record {number} is there twice")
                there[offset] = number
            at = batch.next_offset
        for offset, number in self.acknowledged.items():
            if offset >= self.trimming and there.get(offset) != number:
                wrong.append(f"lost: record {number}, acknowledged at {offset}, where {there.get(offset)} is")
        if found := log.verify():
            wrong.append(f"verify finds {found[:2]}")
        return wrong[:5]


class Scene:
    """A program that goes on. `faults.calm()` ends all faults."""

    boots = 3  # in which it is judged
    tidy = True  # whether what is left open is wrong

    def __init__(self, path: str, rng: random.Random, fsync: str, write: str, faults: Any) -> None:
        self.path, self.rng, self.fsync, self.write, self.faults = path, rng, fsync, write, faults
        self.wrong: list[str] = []
        self.said: list[str] = []
        self.made = 0

    def attempt(self, verb: Callable[[], Any]) -> BaseException | None:
        """Do it, or be told by an error of the tree."""
        try:
            verb()
        except LockTimeout as error:
            self.wrong.append(f"{verb.__name__} left a lock behind: {error}")
            return error
        except SeglogError as error:
            self.said.append(f"{verb.__name__}: {type(error).__name__}: {error}"[:200])
            return error
        except Exception as error:
            where, at = "", error.__traceback__
            while at:
                where, at = f"{at.tb_frame.f_code.co_filename.rsplit('/', 2)[-1]}:{at.tb_lineno}", at.tb_next
            self.wrong.append(f"{verb.__name__} raised {error!r} at {where}")
            return error
        return None

    def go(self, *verbs: Callable[[], Any]) -> None:
        for verb in verbs:
            if not self.is_open() and not self.come_back():
                return
            error = self.attempt(verb)
            if isinstance(error, (PartitionFailed, ClosedError)):
                self.leave()

    def come_back(self) -> bool:
        for tries in range(TRIES + 1):
            if tries == TRIES:
                self.faults.calm()
            if self.attempt(self.open) is None:
                return True
        self.wrong.append(f"it cannot be opened although nothing fails any more: {self.said[-1:]}")
        return False

    def records(self, sent: Sent, *sizes: int) -> list[bytes]:
        numbers = range(self.made + 1, self.made + 1 + len(sizes))
        self.made += len(sizes)
        sent.sent |= set(numbers)
        return [payload(number, size) for number, size in zip(numbers, sizes)]

    def reboot(self) -> None:
        """Everybody is gone, and so are the words in memory; all that was written is on the disk."""
        self.drop()
        with self.faults.paused():
            for folder, _, names in os.walk(self.path):
                for name in set(names) & {"shm", "tail.shm"}:
                    os.unlink(os.path.join(folder, name))

    def play(self) -> None:
        self.story()
        self.faults.calm()
        self.leave()
        for _ in range(self.boots):
            self.go(self.everything_is_there, self.once_more)
            self.reboot()
        gc.collect()
        if self.tidy:
            self.wrong += [f"left open: {name}" for name in left_open(self.path)][:3]

    # Each kind of scene says these.
    is_open: Callable[[], bool]
    open: Callable[[], None]
    leave: Callable[[], None]
    drop: Callable[[], None]
    story: Callable[[], None]
    everything_is_there: Callable[[], None]
    once_more: Callable[[], None]


def left_open(path: str) -> list[str]:
    names = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    with open("/proc/self/maps") as maps:
        names += [line.split(None, 5)[5].strip() for line in maps if line.count(" ") >= 5 and path in line]
    return [name for name in names if name.startswith(path)]


class LogScene(Scene):
    """One log: appends of every size, rolls, reads, syncs, trims, closes, and the next boot."""

    log: Log | None = None
    opener: Callable[..., Log] = Log

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sent = Sent()

    def is_open(self) -> bool:
        return self.log is not None

    def open(self) -> None:
        self.log = self.opener(self.path, fsync=self.fsync, write=self.write, segment_bytes=SMALL * 2, segment_bytes_min=SMALL, batch_bytes=4096,
                               lock_timeout=PATIENCE)  # fmt: skip

    def leave(self) -> None:
        if self.log is not None:
            self.attempt(self.log.close)
            self.log = None

    def drop(self) -> None:
        self.log = None
        gc.collect()

    def append(self, *sizes: int) -> Callable[[], None]:
        def append() -> None:
            for value in self.records(self.sent, *sizes):
                self.sent.acknowledge(self.log.append(value), value)

        return append

    def append_many(self) -> None:
        values = self.records(self.sent, *self.rng.choices([20, 100, 900], k=40))
        for span in self.log.append_many(values):
            for offset, value in zip(range(span.start, span.stop), values):
                self.sent.acknowledge(offset, value)
            values = values[span.stop - span.start :]

    def trim(self) -> None:
        before = self.rng.randrange(self.log.first_offset, self.log.next_offset + 1)
        self.sent.trimming = max(self.sent.trimming, before)
        self.log.trim(before)

    def look(self) -> None:
        log, at = self.log, self.log.first_offset
        while (batch := log.read(at)) is not None:
            at = batch.next_offset
        if log.first_offset < log.next_offset:
            log.offset_for_time(0)
            with contextlib.suppress(OffsetOutOfRange):  # in a gap
                assert identity(log.record(log.first_offset).value) in self.sent.sent
        log.verify()

    def sync(self) -> None:
        self.log.sync()

    def upkeep(self) -> None:
        self.log.upkeep()

    def story(self) -> None:
        self.go(self.append(20, 300), self.append_many, self.sync, self.look)
        self.go(self.append(33_000, 20, 20_000), self.append(50_000), self.append_many, self.upkeep, self.look)
        self.go(self.trim, self.append(100, 40_000), self.append(200_000), self.append(20), self.look)
        self.leave()
        self.go(self.look, self.append(20, 5000), self.sync)
        self.reboot()
        self.go(self.look, self.append(20, 9000), self.trim, self.append_many)
        self.leave()
        self.go(self.append(60_000), self.look)

    def everything_is_there(self) -> None:
        self.wrong += self.sent.complaints(self.log)

    def once_more(self) -> None:
        self.append(20, 5000)()
        self.sync()


class StoreScene(Scene):
    """A store: topics made, grown and deleted, sent to, and consumed by a group that commits."""

    store: Any = None
    others: frozenset[str] = frozenset()  # topics that another judges

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.topics: dict[str, list[Sent]] = {}  # made, as far as anybody was told
        self.perhaps: dict[str, str] = {}  # what a making or deleting that failed leaves open
        self.commits: dict[int, set[int]] = {}  # by partition: where the group may stand
        self.group: Any = None

    def is_open(self) -> bool:
        return self.store is not None

    def open(self) -> None:
        self.store = seglog.open(self.path, fsync=self.fsync, write=self.write, segment_bytes=SMALL, upkeep=False, lock_timeout=PATIENCE)  # type: ignore[arg-type]

    def leave(self) -> None:
        self.group = None
        if self.store is not None:
            self.attempt(self.store.close)
            self.store = None

    def drop(self) -> None:
        if self.store is not None:  # a store cannot be dropped: its group would keep its lock
            self.leave()
        gc.collect()

    def topic(self, name: str, partitions: int) -> Callable[[], None]:
        def topic() -> None:
            if self.perhaps.get(name) == "deleted":  # it may be the old one, or a new one
                for sent in self.topics.get(name, []):
                    sent.acknowledged.clear()
            self.perhaps[name] = "made"
            made = self.store.topic(name, partitions=partitions)
            del self.perhaps[name]
            known = self.topics.setdefault(name, [])
            known += [Sent() for _ in range(made.partitions - len(known))]

        return topic

    def delete(self, name: str) -> Callable[[], None]:
        def delete() -> None:
            if name in self.topics:
                self.perhaps[name] = "deleted"
                self.store.delete_topic(name)
                del self.topics[name], self.perhaps[name]

        return delete

    def send(self, name: str, *sizes: int) -> Callable[[], None]:
        def send() -> None:
            for partition, sent in enumerate(self.topics.get(name, [])):
                values = self.records(sent, *sizes)
                for span in self.store.topic(name).send_many(values, partition=partition):
                    for offset, value in zip(range(span.start, span.stop), values):
                        sent.acknowledge(offset, value)
                    values = values[span.stop - span.start :]

        return send

    def consume(self) -> None:
        if "orders" not in self.topics:
            return
        if self.group is None:
            self.group = self.store.topic("orders").consumer("billing")
        batch = self.group.receive(max_records=5, timeout=0)
        if batch is not None:
            stands = self.commits.setdefault(batch.partition, {-1})
            stands.add(batch.next_offset)
            self.group.commit(batch)
            stands.clear()
            stands.add(batch.next_offset)

    def look(self) -> None:
        for name in self.topics:
            for _ in self.store.topic(name).read():
                pass
        self.store.statistics()

    def sync(self) -> None:
        self.store.sync()

    def story(self) -> None:
        self.go(self.topic("orders", 2), self.send("orders", 20, 3000, 100), self.consume, self.topic("jobs", 1), self.send("jobs", 40_000, 30))
        self.go(self.look, self.sync, self.consume, self.send("orders", 30_000, 30_000, 30_000), self.consume)
        self.leave()
        self.go(self.topic("orders", 2), self.send("orders", 20), self.consume, self.delete("jobs"), self.topic("jobs", 1), self.send("jobs", 20))
        self.reboot()
        self.go(self.consume, self.send("orders", 100, 100), self.consume, self.sync, self.look)

    def everything_is_there(self) -> None:
        there = set(self.store.topics()) - self.others
        for name in {*self.topics, *there} - set(self.perhaps):
            if (name in self.topics) != (name in there):
                self.wrong.append(f"topic {name} is {'there' if name in there else 'gone'}")
        for name in set(self.topics) & there - set(self.perhaps):
            logs = self.store.topic(name).logs
            if len(logs) < len(self.topics[name]):
                self.wrong.append(f"topic {name} has {len(logs)} partitions")
            for sent, log in zip(self.topics[name], logs):
                self.wrong += [f"{name}[{log.partition}]: {text}" for text in sent.complaints(log)]
        if "orders" in self.topics and "orders" not in self.perhaps:
            with self.store.topic("orders").consumer("billing") as group:
                for partition, stands in self.commits.items():
                    at = group.committed(partition)
                    if (-1 if at is None else at) not in stands:
                        self.wrong.append(f"the group stands at {at} of orders[{partition}], and committed {stands}")

    def once_more(self) -> None:
        self.perhaps.clear()
        for name in set(self.store.topics()) - self.others:
            known = self.topics.setdefault(name, [])
            known += [Sent() for _ in range(self.store.topic(name).partitions - len(known))]
            self.send(name, 20, 5000)()
        for name in set(self.topics) - set(self.store.topics()):
            del self.topics[name]
        self.topic("late", 1)()
        self.send("late", 20)()
        self.sync()


SCENES: dict[str, type[Scene]] = {"log": LogScene, "store": StoreScene}
