"""Sharing: what it costs that any number of processes may have the store open, and that nothing is lost when one dies.

The lock of a partition, and two processes at once in it; how long from one process's clock to the record in another's hand,
beside two that wake each other by bare futexes; fsync="always" beside the system calls that it cannot do without, and eight
producers who share them; opening after a power cut. What is compared was run in turns, a few tenths of a second each; told are
medians of the turns' ratios.

Two processes need two cores of their own. `had` says how much of one each got: where it is far below 100 %, others were at work,
and the figure is theirs too. `--clock cpu` judges two processes by what they did in a second of processor time, as if each had
had its core.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import resource
import shutil
import signal
import statistics
import struct
import subprocess
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import seglog
from contestants import built
from machine import Figure, free_gib, one_core, progress
from seglog.engine.log import Log

__all__ = ["measure"]

VALUE = b"x" * 100
FRAME = 168  # bytes that the file gets for one of them: header, value, padding
FRAMES = 10_472  # ... and for a batch of 100: header, where each ends, values
TURN = 0.4  # seconds
PACE = 100_000  # ns: 10,000 a second


# ---- processes ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def forked(work: Callable[[int], None]) -> Iterator[int]:
    """A child that does `work(descriptor to write to)`; the other end. It is gone afterwards."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(told)
            work(tell)
            code = 0
        finally:
            os._exit(code)
    os.close(tell)
    try:
        yield told
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(told)


def whole(descriptor: int) -> bytes:
    data = b""
    while more := os.read(descriptor, 1 << 20):
        data += more
    return data


def used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def rates(
    path: str, do: Callable[[seglog.Topic], int], processes: int, seconds: float, threads: int = 1, **settings: Any
) -> tuple[float, float]:
    """(how many a second all of them did together, the share of a core that each had): all begin and end at the same moments."""
    begin = time.monotonic() + 0.1 + 0.02 * processes
    done = struct.Struct("<qd")

    def work(tell: int) -> None:
        with seglog.open(path, upkeep=False, **settings) as store:
            topic = store.topic("shared")
            counts = [0] * threads

            def run(number: int) -> None:
                time.sleep(max(0.0, begin - time.monotonic()))
                while time.monotonic() < begin + seconds:
                    counts[number] += do(topic)

            others = [threading.Thread(target=run, args=(number,)) for number in range(1, threads)]
            for other in others:
                other.start()
            time.sleep(max(0.0, begin - time.monotonic()))
            before = used()
            run(0)
            share = (used() - before) / seconds
            for other in others:
                other.join()
            os.write(tell, done.pack(sum(counts), share))

    with contextlib.ExitStack() as stay:
        told = [done.unpack(whole(end)) for end in [stay.enter_context(forked(work)) for _ in range(processes)]]
    return sum(count for count, _ in told) / seconds, statistics.mean(share for _, share in told)


def in_turn(turn: int, rate: Callable[[int], Any]) -> list[Any]:
    """`rate` of one process and of two; who is first changes from turn to turn, and each makes files of its own: a busy disk,
    and memory that a virtual machine gave back and has to ask for again, are to hit both alike."""
    both = {processes: rate(processes) for processes in ((1, 2), (2, 1))[turn % 2]}
    return [both[1], both[2]]


# ---- the lock -----------------------------------------------------------------------------------------------------


def send_some(topic: seglog.Topic) -> int:
    send = topic.send
    for _ in range(200):
        send(VALUE)
    return 200


BATCH = [VALUE] * 100


def send_batches(topic: seglog.Topic) -> int:
    for _ in range(20):
        topic.send_many(BATCH)
    return 2000


def bare_rates(size: int, processes: int, seconds: float) -> float:
    """Frames a second of `processes` that do no more than hash, lock, copy: what the machine gives when they share a tail."""
    locks = built("locks")
    with mmap.mmap(-1, 1 << 25) as area:
        begin = time.monotonic_ns() + 200_000_000
        end = begin + int(seconds * 1e9)

        def work(tell: int) -> None:
            os.write(tell, struct.pack("<q", locks.bare_appends(area, bytes(size), begin, end)))

        with contextlib.ExitStack() as stay:
            ends = [stay.enter_context(forked(work)) for _ in range(processes)]
            return sum(struct.unpack("<q", whole(end))[0] for end in ends) / seconds


def compare_locks(args: argparse.Namespace, directory: str, raw: dict[str, object]) -> list[Figure]:
    locks = built("locks")
    with Log(os.path.join(directory, "lock"), fsync="never") as log, one_core():
        locks.take_and_give(log, 1000)
        laps = [locks.take_and_give(log, 200_000) / 200_000 for _ in range(21)]
    raw["lock_ns"] = laps
    figures = [Figure("the lock, taken and given back, nobody else there", statistics.median(laps), "ns", at_most=20)]
    for name, do, least, size in (("100 B each", send_some, 0.7, FRAME), ("100 B, in batches of 100", send_batches, 1.0, FRAMES)):
        turns, bare = [], []
        for turn in range(args.rounds):
            progress(f"sharing: two at once, {name}, {turn + 1}/{args.rounds}")

            path = os.path.join(directory, f"two-{turn}")

            def rate(processes: int, path: str = path, do: Any = do) -> tuple[float, float]:
                with seglog.open(path, fsync="never") as store:
                    store.topic("shared").send(b"the first")
                got = rates(path, do, processes, TURN, fsync="never")
                shutil.rmtree(path)
                return got

            turns.append(in_turn(turn, rate))
            bare.append([bare_rates(size, processes, TURN) for processes in (1, 2)])
        raw[f"two: {name}"] = turns
        raw[f"two, bare: {name}"] = bare
        ratios = {
            "wall": statistics.median(two / one for (one, _), (two, _) in turns),
            "cpu": statistics.median((two / its) / (one / mine) for (one, mine), (two, its) in turns),
        }
        one, two = (statistics.median(turn[i][0] for turn in turns) / 1e6 for i in (0, 1))
        had = " and ".join(f"{statistics.median(turn[i][1] for turn in turns):.0%}" for i in (0, 1))
        other = "cpu" if args.clock == "wall" else "wall"
        figures.append(
            Figure(
                f"two processes in one partition, of one alone: {name}",
                ratios[args.clock],
                "x",
                at_least=least,
                note=f"{other} {ratios[other]:.2f}; {one:.2f} and {two:.2f} million records/s; had {had}",
            )
        )
        one, two = (statistics.median(turn[i] for turn in bare) / 1e6 for i in (0, 1))
        figures.append(
            Figure(
                "... of a bare lock, and a copy into memory that is there",
                statistics.median(both / alone for alone, both in bare),
                "x",
                note=f"{one:.2f} and {two:.2f} million frames/s of {size:,} B",
            )
        )
    return figures


# ---- waking -------------------------------------------------------------------------------------------------------


def quantiles(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return statistics.median(ordered), ordered[len(ordered) * 99 // 100]


def bare_round_trips(count: int) -> list[float]:
    """µs from the call of one process to the answer of another that slept, at the pace of the records."""
    locks = built("locks")
    words = memoryview(mmap.mmap(-1, 4096)).cast("I")
    took = array("q", bytes(8 * count))
    with forked(lambda _: locks.pong(words, count)):
        time.sleep(0.05)
        locks.ping(words, took, PACE)
    return [ns / 1000 for ns in took]


def hand_to_hand(path: str, count: int) -> list[float]:
    """µs from the producer's clock to the consumer's record in hand."""
    stamp = struct.Struct("<q")

    def consume(tell: int) -> None:
        came = array("q")
        with seglog.open(path, fsync="never", upkeep=False) as store:
            tail = store.topic("shared").tail()
            os.write(tell, b"!")
            for record in tail:
                came.append(time.monotonic_ns() - stamp.unpack(record.value)[0])
                if len(came) == count:
                    break
        os.write(tell, came.tobytes())

    with seglog.open(path, fsync="never") as store, forked(consume) as told:
        topic = store.topic("shared")
        os.read(told, 1)
        time.sleep(0.1)
        due = time.monotonic_ns()
        for _ in range(count):
            due += PACE
            while time.monotonic_ns() < due:
                pass
            topic.send(stamp.pack(time.monotonic_ns()))
        return [ns / 1000 for ns in array("q", whole(told))]


def wait_idly(path: str, seconds: float) -> float:
    """The share of a core that a reader burns who waits for records that do not come."""

    def wait(tell: int) -> None:
        with seglog.open(path, fsync="never", upkeep=False) as store:
            topic = store.topic("shared")
            topic.wait(topic.next_offset(), timeout=0.2)
            before = used()
            topic.wait(topic.next_offset(), timeout=seconds)
            os.write(tell, struct.pack("<d", (used() - before) / seconds))

    with forked(wait) as told:
        return float(struct.unpack("<d", whole(told))[0])


def compare_waking(args: argparse.Namespace, directory: str, raw: dict[str, object]) -> list[Figure]:
    path, count = os.path.join(directory, "waking"), 5_000
    with seglog.open(path, fsync="never") as store:
        store.topic("shared").send(b"the first")
    turns = []
    for turn in range(max(3, args.rounds // 2)):
        progress(f"sharing: from hand to hand, {turn + 1}")
        turns.append((quantiles(bare_round_trips(count)), quantiles(hand_to_hand(path, count))))
    raw["waking_us"] = turns
    bare, hand = (statistics.median(turn[i][0] for turn in turns) for i in (0, 1))
    late_bare, late = (statistics.median(turn[i][1] for turn in turns) for i in (0, 1))
    idle = min(wait_idly(path, 1.0) for _ in range(3))
    return [
        Figure(
            "producer's clock to consumer's hand, p50, of a bare futex round trip",
            hand / bare,
            "x",
            at_most=3,
            note=f"{hand:.1f} and {bare:.1f} us, 10,000/s, {count:,} each of {len(turns)} turns",
        ),
        Figure("... p99", late / 1000, "ms", at_most=1, note=f"the bare round trip's {late_bare / 1000:.3f} ms"),
        Figure("a reader that waits, of a core", idle * 100, "%", at_most=0.5),
    ]


# ---- fsync="always" -----------------------------------------------------------------------------------------------


def send_one(topic: seglog.Topic) -> int:
    topic.send(VALUE)
    return 1


def raw_syncs(path: str, seconds: float) -> float:
    """pwrite and fdatasync of as many bytes as a record takes in the file, into a file that is there: how many a second."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.posix_fallocate(fd, 0, 1 << 20)
        os.pwrite(fd, bytes(4096), 0)
        os.fsync(fd)
        data, at, count, end = bytes(FRAME), 4096, 0, time.monotonic() + seconds
        while time.monotonic() < end:
            os.pwrite(fd, data, at)
            os.fdatasync(fd)
            at = at + FRAME if at + 2 * FRAME < 1 << 20 else 4096
            count += 1
        return count / seconds
    finally:
        os.close(fd)
        os.unlink(path)


def compare_always(args: argparse.Namespace, directory: str, raw: dict[str, object]) -> list[Figure]:
    path, turns = os.path.join(directory, "always"), []
    with seglog.open(path, fsync="always") as store:
        store.topic("shared").send(b"the first")
    for turn in range(args.rounds):
        progress(f"sharing: always, {turn + 1}/{args.rounds}")
        turns.append(
            [
                raw_syncs(os.path.join(directory, "raw"), TURN),
                rates(path, send_one, 1, TURN, fsync="always")[0],
                rates(path, send_one, 1, TURN, threads=8, fsync="always")[0],
                rates(path, send_one, 8, TURN, fsync="always")[0],
            ]
        )
    raw["always_per_second"] = turns
    bare, one, threads, processes = (statistics.median(turn[i] for turn in turns) for i in range(4))

    def ratio(above: int, below: int) -> float:
        return statistics.median(turn[above] / turn[below] for turn in turns)

    return [
        Figure(
            'fsync="always", one producer, of pwrite + fdatasync',
            ratio(1, 0),
            "x",
            at_least=0.9,
            note=f"{one:,.0f} and {bare:,.0f} a second",
        ),
        Figure("... eight threads, of one producer", ratio(2, 1), "x", at_least=3, note=f"{threads:,.0f} a second"),
        Figure("... eight processes, of one producer", ratio(3, 1), "x", at_least=3, note=f"{processes:,.0f} a second"),
    ]


# ---- after a power cut --------------------------------------------------------------------------------------------


def cut(path: str, size: int, durable: float) -> int:
    """A log that a power cut left: `size` bytes of records, the first part synced and marked; how many lie behind the mark.

    The disk kept everything, and what it kept is in the cache: so what is timed is the looking."""

    def work(tell: int) -> None:
        capacity = size + (size >> 5)  # little more than that: a segment's unused rest is looked at too
        log = Log(path, fsync="interval", segment_bytes=capacity, segment_bytes_min=capacity)
        values = [os.urandom(1000) for _ in range(1000)]
        synced = sent = 0
        while sent < size:
            log.append_many(values)
            sent += 1_000_000
            if not synced and durable and sent >= size * durable:
                log.sync()
                log.append(b"the mark lags by one sync")
                log.sync()
                synced = sent
        os.write(tell, struct.pack("<q", sent - synced))
        os._exit(0)

    with forked(work) as told:
        (behind,) = struct.unpack("<q", whole(told))
    for file in Path(path).iterdir():
        if file.name in ("shm", "tail.shm") or file.name.startswith("lock"):
            file.unlink()  # of another boot
        else:
            subprocess.run(["sync", str(file)], check=True)
    return int(behind)


def compare_recovery(args: argparse.Namespace, directory: str, raw: dict[str, object]) -> list[Figure]:
    size = 900_000_000 if args.large else 300_000_000
    if free_gib(directory) < 3:
        return []
    figures: list[Figure] = []
    seconds: dict[str, float] = {}
    for name, durable in (("nothing was synced", 0.0), ("nine tenths were synced", 0.9)):
        times = []
        for turn in range(5):
            progress(f"sharing: a power cut, {name}, {turn + 1}/5")
            path = os.path.join(directory, f"cut-{durable}")
            behind = cut(path, size, durable)
            wall, cpu = time.perf_counter(), time.thread_time()
            log = Log(path, fsync="never")
            wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
            times.append({"wall": wall, "cpu": cpu, "bytes": behind})
            assert log.next_offset >= size // 1000
            log.close()
            shutil.rmtree(path)
        raw[f"cut: {name}"] = times
        seconds[name] = statistics.median(took[args.clock] for took in times)
        if not durable:
            speed = {
                clock: statistics.median(took["bytes"] / took[clock] for took in times) / 2**30
                for clock in ("wall", "cpu")
            }
            other = "cpu" if args.clock == "wall" else "wall"
            figures.append(
                Figure(
                    "after a power cut, a warm log is verified",
                    speed[args.clock],
                    "GiB/s",
                    at_least=1,
                    note=f"{other} {speed[other]:.2f}; {size / 2**20:.0f} MiB in {seconds[name] * 1e3:.0f} ms",
                )
            )
    whole_time, tail_time = seconds.values()
    figures.append(
        Figure(
            "... only from the durable mark: time with nine tenths synced",
            tail_time / whole_time,
            "x",
            at_most=0.25,
            note=f"{tail_time * 1e3:.0f} ms",
        )
    )
    return figures


def measure(args: argparse.Namespace, directory: str) -> tuple[list[tuple[str, list[Figure]]], dict[str, object]]:
    raw: dict[str, object] = {}
    figures: list[Figure] = []
    for part in (compare_locks, compare_waking, compare_always, compare_recovery):
        figures += part(args, directory, raw)
    progress("")
    return [(f"sharing: medians of {args.rounds} turns of {TURN} s, or as said", figures)], raw
