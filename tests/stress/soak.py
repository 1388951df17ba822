"""Soak: one process does everything again and again, and takes no more of anything at the end than at the beginning.

    PYTHONPATH=tests python -m stress.soak --seconds 600 --seed S

Descriptors, maps, threads and memory of its own (pages that are neither a file's nor shared) are looked at after each round. The
first third warms up; from then on they must stay flat. Others come, go and are killed meanwhile, in the same store. Exit status 1
when something grew.
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import seglog
from crash.scratch import memory
from seglog.engine.log import Log


class Taken(NamedTuple):
    """What this process has now."""

    descriptors: int
    maps: int
    threads: int
    memory: int  # bytes


# How much more may be there at the end: now and then a few more segments are being read (two maps and two descriptors each),
# and the allocator takes an arena.
SLACK = Taken(10, 20, 0, 1 << 20)


def taken() -> Taken:
    gc.collect()
    with open("/proc/self/status") as status:
        anonymous = next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))
    with open("/proc/self/maps") as maps:
        count = sum(1 for _ in maps)
    return Taken(len(os.listdir("/proc/self/fd")), count, threading.active_count(), anonymous)


class Life:
    """A store that stays open, and what is done with it, and beside it, in each round."""

    def __init__(self, path: str, seed: int) -> None:
        self.path, self.rng = path, random.Random(seed)
        self.store = seglog.open(path, segment_bytes=1 << 18, fsync_interval=0.02)
        self.topic = self.store.topic("steady", partitions=2)
        self.readers = [0, 0]
        self.leak: list[Any] = []

    def round(self) -> None:
        rng, topic = self.rng, self.topic
        for _ in range(300):
            topic.send(
                rng.randbytes(rng.choice([10, 100, 1000])),
                rng.randbytes(4),
                {"h": b"1"} if rng.random() < 0.1 else None,
            )
        topic.send_many([rng.randbytes(200) for _ in range(500)])
        topic.send(bytes(40_000))
        for log in topic.logs:
            at = max(self.readers[log.partition], log.first_offset)
            while (batch := log.read(at)) is not None:
                batch.values.tolist()
                at = batch.next_offset
            self.readers[log.partition] = at
            if log.next_offset > 4000:
                log.trim(log.next_offset - 4000)
        topic.wait(topic.next_offset(), timeout=0.001)
        topic.sync()
        self.consume()
        self.come_and_go()
        self.err()

    def consume(self) -> None:
        with self.topic.consumer("group", start="latest", commit="after") as consumer:
            self.topic.send(b"for the group")
            while consumer.receive(timeout=0) is not None:
                pass

    def come_and_go(self) -> None:
        """A topic and a store that are opened, used, closed; a child that is killed; one that ends well."""
        with seglog.open(self.path) as other:
            other.topic("passing").send(b"x")
            other.statistics()
            other.delete_topic("passing")
        log = Log(os.path.join(self.path, "alone"))
        log.append_many([b"y"] * 10, [b"k"] * 10)
        list(log.records(max(log.next_offset - 20, log.first_offset)))
        if self.rng.random() < 0.5:
            log.close()
        for killed in (False, True):
            pid = os.fork()
            if pid == 0:
                try:
                    self.topic.send(b"from a child")
                    if killed:
                        os.kill(os.getpid(), signal.SIGKILL)
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)

    def err(self) -> None:
        """Errors leave nothing behind either."""
        for wrong in (
            lambda: self.topic.read_batch(offset=10**15),
            lambda: self.topic.send(object()),
            lambda: self.topic.send_many([b"x", 5]),  # type: ignore[list-item]
            lambda: self.topic[0, 10**12],
            lambda: self.store.topic("steady", partitions=7),
            lambda: seglog.open(self.path + "/none", create=False),
        ):
            try:
                wrong()
            except (seglog.SeglogError, TypeError):
                continue
            raise AssertionError("that should have been an error")

    def close(self) -> None:
        self.store.close()


class Leaky(Life):
    """Broken on purpose: forgets to close what it opens."""

    def come_and_go(self) -> None:
        self.leak.append(seglog.open(self.path, upkeep=False))


class Hoarder(Life):
    """Broken on purpose: keeps what it read."""

    def consume(self) -> None:
        self.leak.append(bytearray(self.rng.randbytes(1 << 17)))


LIVES: dict[str, type[Life]] = {"sound": Life, "leaky": Leaky, "hoarder": Hoarder}


def soak(
    path: str, seconds: float, seed: int, life: type[Life] = Life, rounds: int = 12, say: Callable[[str], None] = print
) -> list[str]:
    """Live for so long, and so many rounds; what grew. Run it in a process of its own."""
    living, looks = life(path, seed), []
    began = told = time.monotonic()
    while time.monotonic() - began < seconds or len(looks) < rounds:
        living.round()
        looks.append(taken())
        if time.monotonic() - told > 30:
            told = time.monotonic()
            say(f"{told - began:.0f} s, {len(looks):,} rounds: {looks[-1]}")
    living.close()
    third = len(looks) // 3
    early, late = (
        [sorted(values)[third // 2] for values in zip(*some)] for some in (looks[third : 2 * third], looks[-third:])
    )
    grew = [
        f"{name} grew from {before:,} to {after:,}"
        for name, slack, before, after in zip(Taken._fields, SLACK, early, late, strict=True)
        if after > before + slack
    ]
    say(
        f"{len(looks):,} rounds in {time.monotonic() - began:.0f} s: first {looks[0]}, then {looks[third]}, last {looks[-1]}"
    )
    return grew


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--seed", type=lambda text: int(text, 0), default=secrets.randbits(32))
    options.add_argument("--rounds", type=int, default=12, help="at least so many")
    options.add_argument("--life", choices=list(LIVES), default="sound", help="a broken one, to see that it is caught")
    given = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="seglog-soak-", dir=memory()))
    print(f"seed {given.seed:#x}", flush=True)
    told = functools.partial(print, flush=True)
    try:
        grew = soak(str(folder / "store"), given.seconds, given.seed, LIVES[given.life], given.rounds, told)
    finally:
        shutil.rmtree(folder)
    for what in grew:
        print("BROKEN:", what)
    return 1 if grew else 0


if __name__ == "__main__":
    sys.exit(main())
