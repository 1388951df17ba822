"""Growth: an append costs the same in a large topic as in a small one, and in a store of many topics as in one of few.

Both stores are filled first and stay open; then they take turns, a few thousand sends each, so that whatever the machine does
meanwhile meets both. What is told is the median of those turns, and its ratio.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import cycle, islice
from typing import BinaryIO

import seglog
from machine import Figure, free_gib, one_core, progress

__all__ = ["measure"]

TURNS = 60
SENDS = 5_000
VALUE = b"x" * 100
SPARE_GIB = 3.0

Send = Callable[[bytes], object]


def fill(topic: seglog.Topic, size: float, say: str) -> None:
    """Up to `size` bytes of values."""
    values, sent = [os.urandom(1024) for _ in range(1000)], 0
    while sent < size:
        if sent % (1 << 28) < 1024 * 1000:
            progress(f"{say}: {sent / 2**30:.1f} of {size / 2**30:g} GiB")
        topic.send_many(values)
        sent += 1024 * 1000


def in_turns(contestants: Sequence[Callable[[], None]], sends: int) -> list[list[float]]:
    """ns per send, per turn, of each."""
    times: list[list[float]] = [[] for _ in contestants]
    gc.collect()
    gc.disable()
    try:
        with one_core():
            for turn in range(TURNS + 2):
                for mine, contestant in zip(times, contestants):
                    start = time.thread_time_ns()
                    contestant()
                    if turn >= 2:
                        mine.append((time.thread_time_ns() - start) / sends)
    finally:
        gc.enable()
    return times


def to_one(send: Send) -> Callable[[], None]:
    def work() -> None:
        for _ in range(SENDS):
            send(VALUE)

    return work


def to_all(sends: Sequence[Send]) -> Callable[[], None]:
    """One record to each in turn, going on where the turn before stopped."""
    order = cycle(sends)

    def work() -> None:
        for send in islice(order, SENDS):
            send(VALUE)

    return work


def compared(name: str, small: str, large: str, times: list[list[float]], at_most: float | None) -> list[Figure]:
    few, many = statistics.median(times[0]), statistics.median(times[1])
    return [
        Figure(f"{name}, {small}", few, "ns"),
        Figure(f"{name}, {large}", many, "ns"),
        Figure("... how much more", many / few, "x", at_most=at_most),
    ]


def of_size(small_gib: float, large_gib: float, directory: str) -> tuple[list[Figure], list[list[float]]]:
    with ExitStack() as stack:
        topics = []
        for gib in (small_gib, large_gib):
            store = stack.enter_context(seglog.open(os.path.join(directory, f"size-{gib:g}"), fsync="never"))
            topics.append(store.topic("grown"))
            fill(topics[-1], gib * 2**30, "growth: filling a topic")
        times = in_turns([to_one(topic.send) for topic in topics], SENDS)
    for gib in (small_gib, large_gib):
        shutil.rmtree(os.path.join(directory, f"size-{gib:g}"))
    return compared("send to a topic", f"of {small_gib:g} GiB", f"of {large_gib:g} GiB", times, 1.25), times


def of_topics(count: int, directory: str) -> tuple[list[Figure], list[list[float]]]:
    with ExitStack() as stack:
        one = stack.enter_context(seglog.open(os.path.join(directory, "one"), fsync="never")).topic("topic-0")
        store = stack.enter_context(seglog.open(os.path.join(directory, "many"), fsync="never"))
        topics = []
        for i in range(count):
            if i % 50 == 0:
                progress(f"growth: topic {i:,} of {count:,}")
            topics.append(store.topic(f"topic-{i}"))
        os.mkdir(os.path.join(directory, "files"))
        files = [stack.enter_context(open(os.path.join(directory, "files", str(i)), "wb")) for i in range(count)]
        times = in_turns(
            [
                to_one(one.send), to_one(topics[-1].send), to_all([one.send]), to_all([topic.send for topic in topics]),
                to_all([write_prefixed(files[0])]), to_all([write_prefixed(file) for file in files]),
            ],
            SENDS,
        )
    for name in ("one", "many", "files"):
        shutil.rmtree(os.path.join(directory, name))
    figures = compared("send to a topic", "the only one", f"one of {count:,}", times[:2], 1.25)
    # Each topic has its own lines in the caches and its own pages in the address space, as each file has: this is what
    # those misses cost, and what they cost a program that writes files.
    figures += compared("send to each in turn", "of 1", f"of {count:,}", times[2:4], None)
    figures += compared("Python file.write to each in turn", "of 1", f"of {count:,}", times[4:], None)
    return figures, times


def write_prefixed(file: BinaryIO) -> Send:
    write, pack = file.write, struct.Struct("<I").pack

    def send(value: bytes) -> None:
        write(pack(len(value)))
        write(value)

    return send


def allow_files(count: int) -> int:
    """Raise the limit of open files as far as it goes; how many topics fit (each active one keeps up to 6, and one plain file)."""
    try:
        import resource
    except ImportError:
        return count
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count * 7 + 200
    if hard == resource.RLIM_INFINITY or hard > soft:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, max(wanted, soft))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(count, (soft - 200) // 7)


def measure(args: argparse.Namespace, directory: str) -> tuple[list[tuple[str, list[Figure]]], dict[str, object]]:
    tables = []
    raw: dict[str, object] = {}
    small, large = (1.0, 20.0) if args.large else (0.25, 2.0)
    free = free_gib(directory) - SPARE_GIB
    method = f"100 B, fsync never, medians of {TURNS} turns of {SENDS:,}, processor time"
    if free < small + large:
        tables.append((f"growth with size: skipped, {small + large:g} GiB are needed and {free:.1f} are free", []))
    else:
        figures, raw["size"] = of_size(small, large, directory)
        tables.append((f"growth with the size of the topic: {method}", figures))
    count = min(allow_files(2000), int((free_gib(directory) - SPARE_GIB) * 800))
    if count < 100:
        tables.append(("growth with the number of topics: skipped, for want of disk or of open files", []))
    else:
        figures, raw["topics"] = of_topics(count, directory)
        tables.append((f"growth with the number of topics: {method}", figures))
    progress("")
    return tables, raw
