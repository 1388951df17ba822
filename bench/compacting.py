"""Compacting: how fast a topic is compacted of which nine in ten records are dead, beside copying its files; and its memory.

    python bench/ratios.py compaction            0.5 GiB, and 10 million keys: a minute or two
    python bench/ratios.py compaction --large    10 GiB, and 100 million keys: needs 30 GiB of disk

Copying is read and write in blocks of 1 MiB, with one fsync a file, as compaction does. The two are done in turns, each
compaction by a process of its own on a fresh copy that is on disk, and the middle one of the rounds' ratios counts. Keys come
in random order.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from machine import Figure, free_gib, progress
from seglog.engine.compaction import compact
from seglog.engine.log import Log
from seglog.record import Packed

__all__ = ["measure"]

BLOCK = 10_000  # records of one append_many
MEMORY = 128 << 20  # what a topic has unless it says something else
SPARE_GIB = 5.0


class Kind(NamedTuple):
    name: str
    value: int  # bytes
    share: float  # of the size that is asked for
    one_by_one: bool
    judged_at: float  # GiB; larger ones are for information


KINDS = (
    Kind("values of 1,000 B", 1000, 1.0, False, 10),
    Kind("values of 100 B", 100, 1.0, False, 1),
    Kind("values of 100 B, sent one by one", 100, 0.5, True, 1),
)


class Outcome(NamedTuple):
    seconds: float
    grown: int  # KiB of memory, at the most
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
    said = subprocess.run([sys.executable, __file__, str(path), str(memory)], capture_output=True, text=True, check=True)
    seconds, grown, removed, passes = said.stdout.split()
    return Outcome(float(seconds), int(grown), int(removed), int(passes))


def compact_and_tell(path: str, memory: int) -> None:
    with Log(path, fsync="never") as log:
        before = peak()
        began = time.perf_counter()
        said = compact(log, memory=memory)
        took = time.perf_counter() - began
    assert said is not None and said["finished"]
    print(took, peak() - before, said["records_removed"], said["passes"])


def peak() -> int:
    """KiB that this process has had at the most; 0 where there is no /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


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
        f"{size / 2**30:.2g} GiB, {kind.name}: of the speed of copying", ratio, "x",
        at_least=1 / 3 if gib <= kind.judged_at else None,
        note=f"{speed:,.0f} MB/s, {passes} pass{'es' * (passes > 1)}, {1 - distinct / records:.0%} dead",
    )
    return [figure], {"copy seconds": copies, "outcomes": [outcome._asdict() for outcome in outcomes], "bytes": size}


def bounded(count: int, directory: Path) -> tuple[list[Figure], dict[str, object]]:
    """More keys than the memory holds: each is written twice, and each pass learns what fits."""
    path = directory / "keys"
    progress(f"compaction: filling {count:,} keys")
    once = np.random.default_rng(2).permutation(count)
    size = fill(path, np.concatenate([once, once]), 0)
    progress(f"compaction: {count:,} keys")
    outcome = compacted(path, MEMORY)
    shutil.rmtree(path)
    assert outcome.removed == count
    figure = Figure(
        f"memory for {count / 1e6:g} million keys, of the budget of {MEMORY >> 20} MiB", outcome.grown / (MEMORY >> 10), "x",
        at_most=1.1,
        note=f"{outcome.grown / 1024:.0f} MiB, {outcome.passes} passes, {outcome.seconds:.0f} s for {size / 2**30:.1f} GiB",
    )
    return [figure], outcome._asdict()


def measure(args: argparse.Namespace, directory: str) -> tuple[list[tuple[str, list[Figure]]], dict[str, object]]:
    gib, count, rounds = (10.0, 100_000_000, 3) if args.large else (0.5, 10_000_000, 7)
    figures: list[Figure] = []
    raw: dict[str, object] = {}
    for kind in KINDS:
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
