"""Machine: what a number was taken on, and the care it takes to make two numbers comparable.

It promises that figures name their cpu, cores, kernel, file system and Python; that scratch files lie on a real file system,
never in memory; and that what is compared was run in turns, in one process, on one core, after an untimed round of all.

On a fresh virtual machine the first touch of a page of memory costs several times what later ones cost: the host has to find
it first. The untimed round pays for that, and each round removes its files, so that the next gets the same pages again.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "Contestant", "Figure", "Laps", "add_arguments", "describe", "file_system", "free_gib", "in_turns", "one_core", "progress",
    "scratch", "table",
]

IN_MEMORY = {"tmpfs", "ramfs", "hugetlbfs"}

Contestant = Callable[[str], AbstractContextManager[Callable[[], int]]]
"""Given an empty directory, a context around the work: a callable that does it and returns how many records it did."""


# ---- what it is ---------------------------------------------------------------------------------------------------


def file_system(path: str) -> str:
    """The type of the file system that `path` lies on, as mounted; "unknown" where there is no /proc."""
    best, kind = "", "unknown"
    with suppress(OSError):
        real = os.path.realpath(path)
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, found, *_ = line.split(" ")
            mount = mount.encode().decode("unicode_escape")
            if (real + "/").startswith(mount.rstrip("/") + "/") and len(mount) >= len(best):
                best, kind = mount, found
    return kind


def free_gib(path: str) -> float:
    return shutil.disk_usage(path).free / 2**30


def cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Hardware")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_gib() -> float:
    with suppress(OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return 0.0


def describe(directory: str) -> dict[str, str]:
    """The machine in words, for the head of every table."""
    try:
        load = f"{os.getloadavg()[0]:.1f}"
    except OSError:
        load = "unknown"
    return {
        "cpu": cpu_model(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory_gib():.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "file system": f"{file_system(directory)} ({os.path.realpath(directory)})",
        "load at start": load,
    }


@contextmanager
def scratch(parent: str | None = None) -> Iterator[str]:
    """A directory that is gone afterwards, under `parent` (default: here). Refuses a file system that is in memory."""
    parent = parent or os.getcwd()
    if file_system(parent) in IN_MEMORY:
        raise SystemExit(f"{parent} is {file_system(parent)}, which is memory: pass --dir on a disk, or the figures mean nothing")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=parent) as directory:
        yield directory


@contextmanager
def one_core() -> Iterator[None]:
    """Run on one core: the last, where fewer interrupts go. A system without affinity chooses itself."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# ---- how long -----------------------------------------------------------------------------------------------------


class Lap(NamedTuple):
    """Seconds per record: on the wall, and of this thread's processor time."""

    wall: float
    cpu: float


@dataclass
class Laps:
    """The laps of one contestant."""

    name: str
    laps: list[Lap] = field(default_factory=list)

    def median(self, clock: str = "wall") -> float:
        """Seconds per record."""
        return statistics.median(getattr(lap, clock) for lap in self.laps)

    def spread(self, clock: str = "wall") -> float:
        """(3rd quartile - 1st) / median."""
        low, middle, high = statistics.quantiles((getattr(lap, clock) for lap in self.laps), n=4)
        return (high - low) / middle

    def times(self, other: Laps, clock: str = "wall") -> float:
        """How many times as long as `other`: the median over rounds, each lap against the other's of the same round.

        A virtual machine's speed changes by half from one second to the next; what ran beside each other changed together.
        """
        return statistics.median(getattr(mine, clock) / getattr(its, clock) for mine, its in zip(self.laps, other.laps))

    def share(self) -> float:
        """How much of the wall's time this thread had a core, or wanted one; the rest is other programs, and the disk."""
        return self.median("cpu") / self.median("wall")


def in_turns(
    contestants: dict[str, Contestant], records: int, *, rounds: int, directory: str, say: Callable[[str], None]
) -> dict[str, Laps]:
    """A B C, A B C, ...: one untimed round, then `rounds` timed ones, fresh files each, garbage collection off."""
    laps = {name: Laps(name) for name in contestants}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds + 1):
            for number, (name, contestant) in enumerate(contestants.items()):
                say(f"round {turn}/{rounds}: {name}")
                place = os.path.join(directory, f"{turn}-{number}")
                os.mkdir(place)
                gc.collect()
                with contestant(place) as work:
                    cpu, wall = time.thread_time(), time.perf_counter()
                    done = work()
                    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
                assert done >= records, f"{name} did {done:,} of {records:,} records"
                if turn:
                    laps[name].laps.append(Lap(wall / done, cpu / done))
                shutil.rmtree(place)
    finally:
        say("")
        if collecting:
            gc.enable()
    return laps


def progress(line: str) -> None:
    """One line that is written over, on a terminal; nothing in a file."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


# ---- how it is told -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One line of a table. `target` is a bound on `value`: at least, or at most; None: for information."""

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def passed(self) -> bool | None:
        if self.at_least is not None:
            return self.value >= self.at_least
        if self.at_most is not None:
            return self.value <= self.at_most
        return None

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name, "value": self.value, "unit": self.unit, "at_least": self.at_least, "at_most": self.at_most,
            "passed": self.passed, "note": self.note,
        }


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def table(title: str, figures: Sequence[Figure]) -> str:
    """The figures as text: what, how much, what was wanted, whether it is."""
    bounded = any(figure.passed is not None for figure in figures)
    rows = [("", "measured", "wanted" if bounded else "", "", "")]
    for figure in figures:
        wanted = ""
        if figure.at_least is not None:
            wanted = f">= {number(figure.at_least)}"
        elif figure.at_most is not None:
            wanted = f"<= {number(figure.at_most)}"
        verdict = {True: "pass", False: "FAIL", None: ""}[figure.passed]
        rows.append((figure.name, f"{number(figure.value)} {figure.unit}".strip(), wanted, verdict, figure.note))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [title]
    for name, value, wanted, verdict, note in rows:
        line = f"  {name:<{widths[0]}}  {value:>{widths[1]}}  {wanted:>{widths[2]}}  {verdict:<{widths[3]}}  {note}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every program of the bench takes."""
    parser.add_argument("--dir", default=None, help="where scratch files go: a real disk (default: here)")
    parser.add_argument("--json", metavar="FILE", default=None, help="write everything there too; - for stdout")
