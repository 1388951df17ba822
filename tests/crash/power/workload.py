"""Workloads: programs that use a log, and say before each thing what they do and behind it what was acknowledged.

    ["open", fsync] ["opened", next, durable, epoch]            ["durable", offset]           a durable offset that anybody saw
    ["write", op, [id, size] ..., with a key?] ["wrote", op, offsets ...]   ["compact"]   ["trim", before] ["trimmed", before, fsync]
    ["close", fsync, next] ["closed", fsync, next]              ["looked", first, [id ...]]   what recovery had left

A record's payload says who it is: its id, its size and a hash come first, so that whatever is read can be judged alone.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import struct
import threading
import traceback
from collections.abc import Callable
from typing import Any

import xxhash

from seglog.engine.compaction import compact
from seglog.engine.errors import PartitionFailed, SeglogError, StoreIOError

IDENTITY = struct.Struct("<QQ")
POOL = random.Random(0).randbytes(1 << 18)
SMALL = 65_536
URANDOM = os.urandom
LEVELS = ("never", "interval", "always")


def payload(number: int, size: int) -> bytes:
    """The bytes of a record: its id, a hash, and bytes that hardly any other has."""
    size = max(size, IDENTITY.size)
    start = number * 7919 % (len(POOL) - size)
    body = POOL[start : start + size - IDENTITY.size]
    return IDENTITY.pack(number, xxhash.xxh3_64_intdigest(body, number)) + body


def identity(value: bytes) -> int:
    """The id of a record's payload; -1 when these are no bytes that anybody wrote."""
    if len(value) < IDENTITY.size:
        return -1
    number, digest = IDENTITY.unpack_from(value)
    return number if xxhash.xxh3_64_intdigest(value[IDENTITY.size :], number) == digest else -1


class Clock:
    """Time that only this program moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000_000

    def __call__(self) -> int:
        self.now += 1000
        return self.now


class Settings:
    """How the logs of one workload are opened."""

    def __init__(self, rng: random.Random, fsync: str | None = None) -> None:
        self.fsync = fsync or rng.choice(LEVELS)
        self.mixed = fsync is None and rng.random() < 0.15
        self.write = rng.choice(["map", "pwrite"])
        self.segment_bytes = rng.choice([SMALL, SMALL, 4 * SMALL])
        self.batch_bytes = rng.choice([1024, 4096, SMALL])
        self.codec = rng.choice(["none"] * 7 + ["zstd"])
        self.age = rng.choice([0.0, 0.0, 0.02])
        self.clock = Clock()
        self.failures = 0  # syncs that failed so far

    def level(self, rng: random.Random) -> str:
        return rng.choice(LEVELS) if self.mixed else self.fsync

    def open(self, opener: Callable[..., Any], path: str, fsync: str, **more: Any) -> Any:
        return opener(
            path,
            fsync=fsync,
            write=self.write,
            segment_bytes=self.segment_bytes,
            segment_bytes_min=SMALL,
            segment_age=self.age,
            batch_bytes=self.batch_bytes,
            codec=self.codec,
            clock=self.clock,
            **more,
        )


class Writer:
    """One that appends to a log, trims and closes it, and says so."""

    def __init__(
        self, who: int, path: str, settings: Settings, rng: random.Random, say: Callable[..., None], opener: Callable[..., Any]
    ) -> None:
        self.who, self.path, self.settings, self.rng, self.say, self.opener = who, path, settings, rng, say, opener
        self.made = self.ops = self.opened_after = 0
        self.log: Any = None
        self.fsync = settings.fsync
        self.compacts = rng.random() < 0.25
        self.sizes = rng.choice([[16, 50, 100], [100, 1000, 3000], [16, 300, 9000], [2000], [40, 40, 40, 33_000, 70_000], [448]])

    def open(self) -> None:
        self.fsync = self.settings.level(self.rng)
        self.say("open", self.fsync)
        self.opened_after = self.settings.failures
        self.log = self.settings.open(self.opener, self.path, self.fsync)
        self.say("opened", self.log.next_offset, self.log.durable_offset, self.log.epoch)

    def new(self, count: int) -> list[tuple[int, int]]:
        """Ids and sizes of records that nobody wrote yet."""
        made = []
        for _ in range(count):
            self.made += 1
            made.append((self.who << 24 | self.made, max(self.rng.choice(self.sizes), IDENTITY.size)))
        return made

    def append(self) -> None:
        key = self._key()
        self._write(self.new(1), lambda values: [(at := self.log.append(values[0], key=key), at + 1)], key is not None)

    def append_many(self) -> None:
        self._write(
            self.new(self.rng.choice([2, 5, 20])),
            lambda values: [(span.start, span.stop) for span in self.log.append_many(values)],
        )

    def _key(self) -> bytes | None:
        return b"key" if self.rng.random() < (0.3 if self.compacts else 0.1) else None

    def _write(
        self, records: list[tuple[int, int]], write: Callable[[list[bytes]], list[tuple[int, int]]], keyed: bool = False
    ) -> None:
        self.ops += 1
        op = f"{self.who}.{self.ops}"
        self.say("write", op, records, keyed)
        spans = write([payload(number, size) for number, size in records])
        self.say("wrote", op, self.fsync, [offset for start, stop in spans for offset in range(start, stop)])

    def sync(self) -> None:
        self.say("durable", self.log.sync())

    def upkeep(self) -> None:
        self.log.upkeep()
        self.say("durable", self.log.durable_offset)

    def compact(self) -> None:
        self.say("compact")
        if self.rng.random() < 0.5:
            self.log.close_segment()
        compact(self.log, memory=self.rng.choice([1536, 1 << 20]), grace_us=1 << 60)

    def trim(self) -> None:
        first, following = self.log.first_offset, self.log.next_offset
        before = self.rng.randint(first, following)
        self.say("trim", before)
        self.log.trim(before)
        self.say("trimmed", before, self.fsync)

    def close(self) -> None:
        if self.log is None:
            return
        self.say("close", self.fsync, self.log.next_offset)
        following, epoch = self.log.next_offset, self.log.epoch
        self.log.close()
        self.log = None
        # A handle from before a sync failed is good for nothing more: what others appended since is not its business.
        stale = self.opened_after != self.settings.failures
        self.say("closed", "never" if stale else self.fsync, following, epoch)

    def reopen(self) -> None:
        self.close()
        self.open()

    def drop(self) -> None:
        """As a process that ends without a word."""
        self.log = None

    def fail_over(self) -> None:
        """After a sync that failed: close, open again, go on."""
        self.say("failed")
        self.settings.failures += 1
        if self.log is not None:
            with contextlib.suppress(SeglogError):
                self.log.close()
        self.log = None
        try:
            self.open()
        except StoreIOError:  # the one that failed was in here
            self.open()

    def work(self, steps: int, trims: bool = True) -> None:
        verbs: list[Callable[[], None]] = [self.append] * 12 + [self.append_many] * 5 + [self.sync] * 3 + [self.upkeep] * 4
        verbs += [self.reopen] * 2 + [self.trim] * trims + [self.compact] * 2 * self.compacts
        if self.rng.random() < 0.3:  # nothing but appends: rolls tell what the level is worth
            verbs = [self.append, self.append_many] * 10 + [self.compact] * self.compacts
        if self.log is None:
            try:
                self.open()
            except StoreIOError:
                self.fail_over()
        for _ in range(steps):
            try:
                self.rng.choice(verbs)()
            except (PartitionFailed, StoreIOError):
                self.fail_over()


class Workload:
    """One seeded program on the log at `path`: one writer, two in turn, some threads, or some processes; one whose syncs fail, and one
    that is killed while another goes on.

    `teller` has `say`, and for the last two `fail` and `mortal`: a Shim.
    """

    def __init__(self, path: str, rng: random.Random, teller: Any, opener: Callable[..., Any], fsync: str | None = None) -> None:
        self.rng, self.teller = rng, teller
        self.settings = Settings(rng, fsync)
        self.shape = rng.choice(["one", "one", "one", "one", "two", "threads", "processes", "failing", "mortal"])
        count = 1 if self.shape == "one" else 2
        self.writers = [
            Writer(1 + i, path, self.settings, random.Random(rng.random()), teller.say, opener) for i in range(count)
        ]
        self.steps = rng.choice([3, 10, 30, 60])

    def run(self) -> None:
        first = self.writers[0]
        half = [lambda writer=writer: writer.work(self.steps // 2 + 1) for writer in self.writers]
        if self.shape == "one":
            first.work(self.steps)
        elif self.shape == "two":
            self._in_turn()
        elif self.shape == "failing":
            if self.rng.random() < 0.5:
                first.open()
            self.teller.fail(self.rng.choice([1, 2, 3, 5, 9]))
            self._in_turn()
            self.teller.fail(self.rng.choice([0, 1, 2]))
            first.work(self.steps // 4 + 1)
        elif self.shape == "threads":
            together(half)
        elif self.shape == "processes":
            in_processes(half)
        else:
            self._survive(first, self.writers[1])
        if self.rng.random() < 0.3:
            self.teller.fail(0)
            for writer in self.writers:
                with contextlib.suppress(PartitionFailed):
                    writer.close()
        for writer in self.writers:
            writer.drop()

    def _in_turn(self) -> None:
        for _ in range(max(2, self.steps // 5)):
            self.rng.choice(self.writers).work(5)

    def _survive(self, survivor: Writer, victim: Writer) -> None:
        """One is killed, perhaps with the lock in its hands, and the other goes on."""
        if self.rng.random() < 0.8:
            survivor.work(self.rng.choice([1, 5]))
        count = self.rng.choice([1, 2, 3, 5, 8, 13, 21])

        def doomed() -> None:
            self.teller.mortal(count)
            victim.work(self.steps)

        in_processes([doomed], may_die=True)
        survivor.work(self.steps // 3 + 1)

    def __str__(self) -> str:
        s = self.settings
        return (
            f"{self.shape}, {self.steps} steps, fsync {s.fsync}{' and others' if s.mixed else ''}, write {s.write}, segments {s.segment_bytes}, "
            f"batches {s.batch_bytes}, codec {s.codec}, age {s.age}, sizes {self.writers[0].sizes}"
        )


def together(tasks: list[Callable[[], None]]) -> None:
    errors: list[BaseException] = []

    def run(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def in_processes(tasks: list[Callable[[], None]], may_die: bool = False) -> None:
    """Each in a forked child; the shim's history is shared."""
    children = []
    for task in tasks:
        pid = os.fork()
        if pid == 0:
            try:
                os.urandom = URANDOM  # not the same salts in all of them
                task()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in children]
    if [status for status in statuses if status and not (may_die and status == signal.SIGKILL)]:
        raise RuntimeError(f"a child of the workload ended with {statuses}")
