"""Checking: what the benchmarks measure, held against what was measured before: `make bench-check`.

A nanosecond says little on another day. So each benchmark is a ratio: its processor time over that of a fixed piece of work, Python
writing 5,000 records to a file, which takes turns with it; of both the least disturbed round counts. The ratios that were
are in baseline.json. One that is more than LIMIT times what it was is measured again, up to ATTEMPTS times: noise comes and goes, a
change stays. Processors differ in their ratios too: on another one, make a baseline first (`make bench-baseline`).
"""

from __future__ import annotations

import gc
import json
import math
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Baseline", "Checker", "ratio", "reference"]

LIMIT = 1.15  # so that 20 % is seen, with noise in it
FILES, FILES_LIMIT = ("test_open_", "test_create_"), 1.6  # making files is the kernel's time, and depends on what else it writes
ATTEMPTS = 6
PATIENCE = 0.5  # seconds more before each of them
ROUNDS = 15
LAP = 0.002  # seconds that a round has at least: a short piece of work is repeated
FILE = Path(__file__).parent / "baseline.json"


def reference(path: str) -> Callable[[], None]:
    """The fixed piece of work; nothing in it is seglog's."""
    value, pack = bytes(range(100)), struct.Struct("<I").pack

    def work() -> None:
        with open(path, "wb") as file:
            write = file.write
            for _ in range(5_000):
                write(pack(len(value)))
                write(value)

    return work


def took(work: Callable[[], object], times: int) -> float:
    start = time.thread_time()
    for _ in range(times):
        work()
    return (time.thread_time() - start) / times


def ratio(work: Callable[[], object], fixed: Callable[[], object], rounds: int = ROUNDS) -> float:
    """What `work` takes for one of what `fixed` takes, each at its least disturbed; they take turns."""
    for each in (fixed, work):
        each()
    times = max(1, math.ceil(LAP / max(took(work, 1), 1e-7)))
    gc.collect()
    gc.disable()
    try:
        pairs = [(took(fixed, 1), took(work, times)) for _ in range(rounds)]
    finally:
        gc.enable()
    return min(mine for _, mine in pairs) / min(its for its, _ in pairs)


class Baseline:
    """The ratios by the names of the benchmarks, and where they were measured."""

    def __init__(self, path: Path = FILE, renew: bool = False) -> None:
        self.path, self.renew = path, renew
        told = json.loads(path.read_text()) if path.exists() else {}
        self.cpu: str = told.get("cpu", "")
        self.ratios: dict[str, float] = told.get("ratios", {})

    def judge(self, name: str, measure: Callable[[], float]) -> str | None:
        """What is wrong with it; None when nothing is. The least of the attempts counts, now and then."""
        if self.renew:
            self.ratios[name] = round(min(measure() for _ in range(ATTEMPTS // 2)), 5)
            return None
        if name not in self.ratios:
            return f"{name} has no baseline: make bench-baseline"
        was, now, limit = self.ratios[name], math.inf, FILES_LIMIT if name.startswith(FILES) else LIMIT
        for attempt in range(ATTEMPTS):
            time.sleep(attempt * PATIENCE)  # what disturbs may be over by then
            now = min(now, measure())
            if now <= was * limit:
                return None
        return f"{name} takes {now / was:.2f} times what it took: {now:.3g} of the reference, and the baseline is {was:.3g}"

    def save(self, cpu: str) -> None:
        if self.renew:
            self.path.write_text(json.dumps({"cpu": cpu, "ratios": dict(sorted(self.ratios.items()))}, indent=1) + "\n")


class Checker:
    """What pytest-benchmark's `pedantic` does instead: measure a ratio, and fail when it is more than it was."""

    def __init__(self, name: str, baseline: Baseline, directory: str) -> None:
        self.name, self.baseline = name, baseline
        self.fixed = reference(os.path.join(directory, "reference"))

    def pedantic(self, work: Callable[[], Any], rounds: int = ROUNDS, warmup_rounds: int = 0) -> Any:
        wrong = self.baseline.judge(self.name, lambda: ratio(work, self.fixed, min(rounds, ROUNDS)))
        if wrong:
            raise AssertionError(wrong)
        return work()
