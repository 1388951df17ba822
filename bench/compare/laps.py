"""Laps: one peer does one workload once, in a process of its own, and is checked; the peers take turns.

A process of its own, because a library that is loaded, threads that run and memory that was given back are then the lap's own;
and a peer that crashes or hangs costs its lap, not the run. Everyone may use all cores. Whoever gives back fewer records than
it took, or others, gets no figure: the table says what was missing.
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import select
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import xxhash

from compare.peer import Peer, Place
from compare.server import Server

LIMIT = 90.0  # seconds that a lap may take, with filling and checking


class Lap(NamedTuple):
    """Seconds per record: on the wall, of the client's processor time, of the server's; latencies in seconds where asked."""

    wall: float
    cpu: float
    server: float
    p50: float = 0.0
    p99: float = 0.0


class Lost(Exception):
    """What came back is not what was given."""


class Clock:
    """Times a block; garbage collection is off."""

    def __init__(self, place: Place) -> None:
        self.server = place.server

    def now(self) -> tuple[float, float, float]:
        mine = resource.getrusage(resource.RUSAGE_SELF)
        return time.perf_counter(), mine.ru_utime + mine.ru_stime, self.server.used() if self.server else 0.0

    def __enter__(self) -> Clock:
        gc.collect()
        gc.disable()
        self.start = self.now()
        return self

    def __exit__(self, *_: object) -> None:
        self.took = [after - before for before, after in zip(self.start, self.now())]
        gc.enable()

    def lap(self, records: int) -> Lap:
        return Lap(*(seconds / records for seconds in self.took))


def digest(values: Iterable[bytes]) -> tuple[int, int]:
    """(how many, a hash of all in this order)."""
    hash_, count = xxhash.xxh3_64(), 0
    for value in values:
        hash_.update(value)
        count += 1
    return count, hash_.intdigest()


def check(got: Iterable[bytes], given: Iterable[bytes]) -> None:
    (n, its), (wanted, ours) = digest(got), digest(given)
    if n != wanted:
        raise Lost(f"gave back {n:,} of {wanted:,} records")
    if its != ours:
        raise Lost(f"gave back {n:,} records, but not those, or not in this order")


class Child:
    """A process that does `work` and tells what it returned."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.told, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.told)
                try:
                    said = pickle.dumps((None, work()))
                except BaseException as error:
                    last = traceback.extract_tb(error.__traceback__)[-1]
                    where = "" if isinstance(error, Lost) else f" ({os.path.basename(last.filename)}:{last.lineno})"
                    said = pickle.dumps((f"{type(error).__name__}: {error}{where}", None))
                with open(tell, "wb") as file:
                    file.write(said)
            finally:
                os._exit(0)
        os.close(tell)

    def result(self, timeout: float = LIMIT) -> Any:
        """What it returned; raises Lost with what it raised, or with how it ended."""
        said, end = b"", time.monotonic() + timeout
        try:
            while select.select([self.told], [], [], max(0.0, end - time.monotonic()))[0]:
                if not (more := os.read(self.told, 1 << 20)):
                    break
                said += more
            else:
                raise Lost(f"was not done after {timeout:.0f} s")
        finally:
            self.end()
        if not said:
            raise Lost("its process died")
        error, value = pickle.loads(said)
        if error:
            raise Lost(error)
        return value

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        with suppress(OSError):
            os.close(self.told)


Work = Callable[[Any, Place, int], Lap]
"""A peer's class, where it lives, how many records; it opens the peer, does the work, checks it."""


class Turns:
    """A B C, A B C, ...: two untimed rounds that find out how many records make a lap, then the rounds that count."""

    def __init__(self, directory: str, servers: dict[type[Server], Server], seconds: float, say: Callable[[str], None]) -> None:
        self.directory, self.servers, self.seconds, self.say = directory, servers, seconds, say
        self.number = 0

    def lap(self, kind: type[Peer], work: Work, count: int, **where: Any) -> Lap:
        self.number += 1
        name = f"b{os.getpid()}-{self.number}"
        place = Place(os.path.join(self.directory, name), name, self.servers.get(kind.server) if kind.server else None, **where)
        os.mkdir(place.path)
        if place.synced:
            os.sync()  # what others left to write is not this one's
        try:
            return Child(lambda: work(kind, place, count)).result()  # type: ignore[no-any-return]
        finally:
            shutil.rmtree(place.path)

    def run(
        self, kinds: list[type[Any]], work: Work, *, rounds: int, least: int, most: int, **where: Any
    ) -> tuple[dict[str, list[Lap]], dict[str, str]]:
        """(the laps of each peer by name, what went wrong with the others)."""
        counts, laps, failed = dict.fromkeys(kinds, least), {kind.name: list[Lap]() for kind in kinds}, dict[str, str]()
        for turn in range(-1, rounds + 1):
            for kind in kinds:
                if kind.name in failed:
                    continue
                self.say(f"round {turn}/{rounds}: {kind.name}, {counts[kind]:,} records")
                try:
                    lap = self.lap(kind, work, counts[kind], **where)
                except Lost as lost:
                    failed[kind.name] = str(lost)
                    laps.pop(kind.name)
                    self.say(f"{kind.name}: {lost}")
                    continue
                if turn > 0:
                    laps[kind.name].append(lap)
                else:
                    # Of the wall's time others on this machine may have had a share; who waits for a disk or a server has no other.
                    took = lap.wall if kind.server or where.get("synced") else max(lap.cpu, 1e-8)
                    counts[kind] = max(least, min(most, round(self.seconds / took / least) * least))
        return laps, failed
