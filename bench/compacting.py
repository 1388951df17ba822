"""Compacting: how fast a topic is compacted of which nine in ten records are dead, beside copying its files; and its memory.

    python bench/ratios.py compaction            0.5 GiB, and 10 million keys: a minute or two
    python bench/ratios.py compaction --large    10 GiB of the first kind, and 100 million keys: needs 30 GiB of disk

Copying is read and write in blocks of 1 MiB, with one fsync a file, as compaction does. The two are done in turns, each
compaction by a process of its own on a fresh copy that is on disk, and the middle one of the rounds' ratios counts. Keys come
in random order.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from machine import Figure, free_gib, progress
from memory import MIB, done, peak_of, ready
from seglog.engine.compaction import compact
from seglog.engine.log import Log
from seglog.record import Packed

__all__ = ["measure"]

BLOCK = 10_000  # records of one append_many
MEMORY = 128 * MIB  # what a topic has unless it says something else
SPARE_GIB = 5.0


class Kind(NamedTuple):
    name: str
    value: int  # bytes
    share: float  # of the size that is asked for
    one_by_one: bool


KINDS = (
    Kind("values of 1,000 B", 1000, 1.0, False),
    Kind("values of 100 B", 100, 1.0, False),
    Kind("values of 100 B, sent one by one", 100, 0.5, True),
)


class Outcome(NamedTuple):
    seconds: float
    grown: int  # bytes of memory that it took for itself, at the most
    removed: int
    passes: int


# ---- what is compacted --------------------------------------------------------------------------------------------


def names(keys: np.ndarray) -> Packed:
    starts = np.arange(len(keys), dtype=np.int64) * 8
    return Packed(keys.astype("<i8").tobytes(), starts, starts + 8)


def fill(path: Path, keys: np.ndarray, value: int, *, one_by_one: bool = False) -> int:
    """A record of each key, in this order, in closed segments; the bytes of their files."""
    body = np.random.default_rng(1).bytes(max(value, 1) * 1000)
    with Log(path, fsync="never") as log:
        for at in range(0, len(keys), BLOCK):
            some = keys[at : at + BLOCK]
            if one_by_one:
                for i, key in enumerate(some.tolist()):
                    start = i % 1000 * value
                    log.append(body[start : start + value], key.to_bytes(8, "little"))
            else:
                starts = np.arange(len(some), dtype=np.int64) % 1000 * value
                log.append_many(Packed(body, starts, starts + value), keys=names(some))
        log.close_segment()
        log.sync()
        return sum(size for _, size, _ in log.segments()[:-1])


def copied(path: Path, to: Path) -> float:
    """Seconds to copy the segments, each on disk when it is whole."""
    to.mkdir()
    began = time.perf_counter()
    for file in sorted(path.glob("*.log")):
        with open(file, "rb", buffering=0) as source, open(to / file.name, "wb", buffering=0) as target:
            while block := source.read(1 << 20):
                target.write(block)
            os.fsync(target.fileno())
    return time.perf_counter() - began


def compacted(path: Path, memory: int) -> Outcome:
    """What a process says that compacts the log and does nothing else."""
    for name in ("shm", "tail.shm", "lock"):
        (path / name).unlink(missing_ok=True)
    before, peak, said = peak_of(str(path), str(memory), program=__file__)
    seconds, removed, passes = said.split()
    return Outcome(float(seconds), peak - before, int(removed), int(passes))


def compact_and_tell(path: str, memory: int) -> None:
    with Log(path, fsync="never") as log:
        ready()
        began = time.perf_counter()
        said = compact(log, memory=memory)
        took = time.perf_counter() - began
        assert said is not None and said["finished"]
        done(f"{took} {said['records_removed']} {said['passes']}")


# ---- beside each other --------------------------------------------------------------------------------------------


def compare(kind: Kind, gib: float, rounds: int, directory: Path) -> tuple[list[Figure], dict[str, object]]:
    path, copy = directory / "compact", directory / "copy"
    records = int(gib * kind.share * 2**30 / (kind.value + 20))
    progress(f"compaction: filling {gib * kind.share:g} GiB, {kind.name}")
    keys = np.random.default_rng(1).integers(0, records // 10, records)
    size = fill(path, keys, kind.value, one_by_one=kind.one_by_one)
    distinct = len(np.unique(keys))
    copies, outcomes = [], []
    for turn in range(rounds):
        progress(f"compaction: {kind.name}, {turn + 1}/{rounds}")
        copies.append(copied(path, copy))
        outcomes.append(compacted(copy, MEMORY))
        shutil.rmtree(copy)
        assert outcomes[-1].removed == records - distinct
    shutil.rmtree(path)
    ratio = statistics.median(copied / outcome.seconds for copied, outcome in zip(copies, outcomes))
    speed = statistics.median(size / outcome.seconds for outcome in outcomes) / 1e6
    passes = outcomes[0].passes
    figure = Figure(
        f"{size / 2**30:.2g} GiB, {kind.name}: of the speed of copying", ratio, "x", at_least=1 / 3,
        note=f"{speed:,.0f} MB/s, {passes} pass{'es' * (passes > 1)}, {1 - distinct / records:.0%} dead",
    )
    return [figure], {"copy seconds": copies, "outcomes": [outcome._asdict() for outcome in outcomes], "bytes": size}


def bounded(count: int, directory: Path) -> tuple[list[Figure], dict[str, object]]:
    """More keys than the memory holds, and a tenth of them again: each pass learns what fits."""
    path = directory / "keys"
    progress(f"compaction: filling {count:,} keys")
    once = np.random.default_rng(2).permutation(count)
    size = fill(path, np.concatenate([once, once[: count // 10]]), 0)
    progress(f"compaction: {count:,} keys")
    outcome = compacted(path, MEMORY)
    shutil.rmtree(path)
    assert outcome.removed == count // 10
    figure = Figure(
        f"memory for {count / 1e6:g} million keys, of the budget of {MEMORY // MIB} MiB", outcome.grown / MEMORY, "x",
        at_most=1.1,
        note=f"{outcome.grown / MIB:.0f} MiB, {outcome.passes} passes, {outcome.seconds:.0f} s for {size / 2**30:.1f} GiB",
    )
    return [figure], outcome._asdict()


def measure(args: argparse.Namespace, directory: str) -> tuple[list[tuple[str, list[Figure]]], dict[str, object]]:
    gib, count, rounds = (10.0, 100_000_000, 3) if args.large else (0.5, 10_000_000, 7)
    figures: list[Figure] = []
    raw: dict[str, object] = {}
    for kind in KINDS[:1] if args.large else KINDS:
        if free_gib(directory) - SPARE_GIB >= 2 * gib:
            found, raw[kind.name] = compare(kind, gib, rounds, Path(directory))
            figures += found
    if free_gib(directory) - SPARE_GIB >= 2 * count * 25 / 2**30:
        found, raw["keys"] = bounded(count, Path(directory))
        figures += found
    progress("")
    return [(f"compaction: medians of {rounds} rounds", figures)], raw


if __name__ == "__main__":
    compact_and_tell(sys.argv[1], int(sys.argv[2]))
