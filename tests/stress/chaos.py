"""Chaos: eight writers and four readers of one store, killed, stopped and restarted at random, and their clocks jump by hours.

    PYTHONPATH=tests python -m stress.chaos --seconds 600 --seed S

A round lasts a few seconds on a fresh store. Each actor keeps a journal that survives it (`crash.kills.ledger`). While a round
runs it is watched that others go on within a second of every death; at its end all are killed, and the histories are
held against what is in the log: nothing acknowledged is lost, moved, there twice or out of order, nothing is there that nobody
wrote, and every reader saw exactly what is there, each record once. Exit status 1 and the store left behind otherwise.
"""

from __future__ import annotations

import collections
import random
import shutil
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

import xxhash

import seglog
from crash.kills.children import Child, Died, stop_all
from crash.kills.ledger import (
    ACKNOWLEDGED,
    INTENDED,
    READ,
    REFUSED,
    Journal,
    Ledger,
    Look,
    Seen,
    Writer,
    Wrong,
    key_of,
    look,
    seen,
    value_of,
)
from process.fair import fair
from stress.program import program

WRITERS, READERS, PARTITIONS = 8, 4, 2
HOUR = 3600 * 1_000_000
A_SECOND = 1.0


# ---- what happens, by an actor ---------------------------------------------------------------------------------------


class Jumping:
    """A clock that jumps by hours, both ways."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.off = rng, 0

    def __call__(self) -> int:
        if self.rng.random() < 0.02:
            self.off = self.rng.randrange(-48 * HOUR, 48 * HOUR)
        return time.time_ns() // 1000 + self.off


def opened(path: str, rng: random.Random, **more: Any) -> seglog.Store:
    return seglog.open(
        path,
        fsync=rng.choice(["interval", "interval", "always", "never"]),
        fsync_interval=0.02,
        segment_bytes=1 << 18,
        lock_timeout=rng.choice([0.1, 30.0]),
        clock=Jumping(rng),
        **more,
    )


def write(path: str, number: int, journal: str, seed: int, kind: type[Writer] = Writer) -> None:
    """Send for ever, to the partition of this writer; go on with the number after the last that was intended."""
    rng = random.Random(seed)
    rows = Journal(journal, rows=100_000)
    writer = kind(number, rows, max((a + b for what, a, b, _ in rows.rows() if what == INTENDED), default=0))
    log = None
    while not rows.full:
        try:
            if log is None:
                log = opened(path, rng).topic("chaos").logs[number % PARTITIONS]
            if rng.random() < 0.7:
                writer.one(log, rng.choice([20, 60, 200, 2000]))
            else:
                writer.many(log, [rng.choice([20, 60, 200]) for _ in range(rng.randrange(1, 40))])
            if rng.random() < 0.02:
                log.sync()
        except (seglog.LockTimeout, seglog.DirectoryInUse):
            rows.note(REFUSED)  # a stopped process holds the lock, and this one was not to wait
        time.sleep(rng.random() * 0.004)


def read(path: str, number: int, journal: str, seed: int) -> None:
    """Read for ever, all partitions, from where the life before this one came; note what was seen."""
    rng = random.Random(seed)
    rows = Journal(journal, rows=100_000)
    at = [0] * PARTITIONS
    for what, place, _, following in rows.rows():
        if what == READ:
            at[place & 1] = following
    store = seglog.open(path, lock_timeout=30.0, upkeep=False)
    topic = store.topic("chaos")
    while not rows.full:
        for partition in range(PARTITIONS):
            log = topic.logs[partition]
            if not log.wait(at[partition], rng.choice([0.0, 0.01])):
                continue
            batch = log.read(at[partition], rng.choice([1, 10, 1000]))
            if batch is None:
                continue
            records = [seen(record.offset, record.value, record.key) for record in batch]
            digest = digest_of(records)
            if [record.offset for record in records] != list(range(at[partition], batch.next_offset)):
                raise Wrong(
                    "hole", f"reader {number}: {records[0].offset:,} .. {batch.next_offset:,} after {at[partition]:,}"
                )
            rows.note(READ, at[partition] << 1 | partition, digest, batch.next_offset)
            at[partition] = batch.next_offset


def digest_of(records: list[Seen]) -> int:
    return int(xxhash.xxh3_64_intdigest(b"".join(struct.pack("<qIQ", *record) for record in records)) >> 1)


def make(path: str) -> None:
    with seglog.open(path) as store:
        store.topic("chaos", partitions=PARTITIONS)


def look_at(path: str, partition: int) -> tuple[Look, list[tuple[int, int, int]]]:
    """All of a partition; and of some moments, the first record at or after them, as the log says and as it is."""
    with seglog.open(path, upkeep=False) as store:
        log = store.topic("chaos").logs[partition]
        saw = look(log)
        times = [record.timestamp for record in log.records()]
        asked = []
        for when in random.Random(0).sample(times, min(20, len(times))):
            for moment in (when, when + 1):
                first = next((i for i, t in enumerate(times) if t >= moment), len(times))
                asked.append((moment, log.offset_for_time(moment), saw.first + first))
        return saw, asked


# ---- a round ----------------------------------------------------------------------------------------------------------


class Actor:
    """A number, a journal, and the process that acts now, if one does."""

    def __init__(self, number: int, folder: Path, work: Any) -> None:
        self.number, self.journal, self.work = number, str(folder / f"journal-{number}"), work
        Journal(self.journal, rows=100_000).close()
        self.rows = Journal(self.journal)
        self.child: Child | None = None
        self.stopped_until = 0.0
        self.again_at = 0.0


class Round:
    def __init__(self, folder: Path, seed: str, writer: type[Writer] = Writer) -> None:
        self.rng = random.Random(seed)
        folder.mkdir(parents=True)
        self.path = str(folder / "store")
        self.writers = [Actor(n, folder, write) for n in range(1, WRITERS + 1)]
        self.readers = [Actor(n, folder, read) for n in range(101, 101 + READERS)]
        self.actors = self.writers + self.readers
        self.writer = writer
        self.happened: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0

    def start(self, actor: Actor) -> None:
        more = (self.writer,) if actor.work is write else ()
        actor.child = Child(actor.work, self.path, actor.number, actor.journal, self.rng.getrandbits(32), *more)
        self.happened["started"] += 1

    def play(self, seconds: float) -> None:
        Child(make, self.path).answer()
        for actor in self.actors:
            self.start(actor)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = time.monotonic()
            for actor in self.actors:
                if actor.child is None and now >= actor.again_at:
                    self.start(actor)
                elif actor.child is not None and actor.stopped_until and now >= actor.stopped_until:
                    actor.child.kill(signal.SIGCONT)
                    actor.stopped_until = 0.0
            self.strike(self.rng.choice(self.actors))
            time.sleep(self.rng.random() * 0.04)
        for actor in self.actors:
            if actor.child is not None:
                self.end(actor)
        self.judge()

    def strike(self, actor: Actor) -> None:
        if actor.child is None or actor.stopped_until:
            return
        fate = self.rng.random()
        if fate < 0.5:
            self.end(actor)
            actor.again_at = time.monotonic() + self.rng.choice([0.0, 0.0, 0.2]) * self.rng.random()
            self.happened["killed"] += 1
            self.others_go_on()
        elif fate < 0.7:
            actor.child.kill(signal.SIGSTOP)
            actor.stopped_until = time.monotonic() + self.rng.random() * 0.3
            self.happened["stopped"] += 1

    def end(self, actor: Actor) -> None:
        assert actor.child is not None
        actor.child.kill(signal.SIGCONT)
        actor.child.kill(signal.SIGKILL)
        how = actor.child.wait()
        if how != -signal.SIGKILL:
            actor.child.answer(1.0)  # raises what it failed with
            raise Died(f"actor {actor.number} came to an end by itself ({how})")
        actor.child.stop()
        actor.child, actor.stopped_until = None, 0.0

    def others_go_on(self) -> None:
        """Somebody's append returns within a second, unless a stopped one may be what they all wait for."""
        if any(actor.stopped_until for actor in self.actors):
            return
        alive = [actor for actor in self.writers if actor.child is not None]
        before, began = [actor.rows.count for actor in alive], fair()
        while [actor.rows.count for actor in alive] == before and alive:
            if fair() - began > A_SECOND:
                raise Wrong("stands still", "nobody appends, a second after a death")
            time.sleep(0.0005)
        self.slowest = max(self.slowest, fair() - began)

    def judge(self) -> None:
        for partition in range(PARTITIONS):
            ledger = Ledger()
            for actor in self.writers:
                if actor.number % PARTITIONS == partition:
                    rows = actor.rows.rows()
                    ledger.take(actor.number, rows)
                    self.happened["acknowledged"] += sum(b for what, _, b, _ in rows if what == ACKNOWLEDGED)
                    self.happened["refused"] += sum(what == REFUSED for what, *_ in rows)
            saw, asked = Child(look_at, self.path, partition).answer(60.0)
            ledger.check(saw, contiguous=True)
            if saw.epoch != 1 or saw.losses:
                raise Wrong("recovered", f"epoch {saw.epoch}, losses {saw.losses}, in one boot")
            for moment, told, true in asked:
                if told != true:
                    raise Wrong(
                        "time", f"partition {partition}: the first at or after {moment} is {true:,}, not {told:,}"
                    )
            for actor in self.readers:
                self.judge_reader(actor, partition, saw)
            self.happened["there"] += len(saw.records)

    def judge_reader(self, actor: Actor, partition: int, saw: Look) -> None:
        at = 0
        for what, place, digest, following in actor.rows.rows():
            if what != READ or place & 1 != partition:
                continue
            if place >> 1 != at:
                raise Wrong(
                    "seen twice" if place >> 1 < at else "missed", f"reader {actor.number}: {place >> 1:,} after {at:,}"
                )
            if digest != digest_of(saw.records[at:following]):
                raise Wrong("seen wrong", f"reader {actor.number}: {at:,} .. {following:,} of partition {partition}")
            at = following
        self.happened["seen"] += at


class Liar(Writer):
    """Broken on purpose: acknowledges first, and loses one in fifty."""

    def one(self, log: Any, size: int) -> int:
        number = self.take(1)
        if number % 50 == 49:
            self.journal.note(ACKNOWLEDGED, number, 1, self.writer * 10**9 + number)
            return 0
        offset = log.append(value_of(self.writer, number, size), key_of(self.writer, number))
        self.journal.note(ACKNOWLEDGED, number, 1, offset)
        return int(offset)


class Repeater(Writer):
    """Broken on purpose: now and then sends once more what it was told is there."""

    def one(self, log: Any, size: int) -> int:
        offset = super().one(log, size)
        if self.number % 50 == 0:
            log.append(value_of(self.writer, self.number - 1, size), key_of(self.writer, self.number - 1))
        return offset


def chaos(folder: Path, seconds: float, seed: int, writer: type[Writer] = Writer, round_seconds: float = 8.0) -> str:
    """Rounds for so long; what happened. Raises Wrong or Died, with the store left in `folder`."""
    total: collections.Counter[str] = collections.Counter()
    slowest, began, number = 0.0, time.monotonic(), 0
    while number == 0 or time.monotonic() - began < seconds:
        round = Round(folder / f"round-{number}", f"{seed}:{number}", writer)
        try:
            round.play(min(seconds, round_seconds))
        except AssertionError as error:
            error.add_note(f"in round {number} of seed {seed:#x}, left in {folder}")
            raise
        finally:
            stop_all()
        total += round.happened
        slowest = max(slowest, round.slowest)
        shutil.rmtree(folder / f"round-{number}")
        number += 1
    counts = ", ".join(f"{count:,} {what}" for what, count in total.items())
    return f"{number} rounds: {counts}; others stood still for {slowest * 1000:.0f} ms at most"


if __name__ == "__main__":
    sys.exit(program("chaos", __doc__, chaos, "seconds", 600))
