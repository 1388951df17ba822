"""How fast a topic with 90 % dead records is compacted, against copying its files; and what it takes of memory.

    .venv/bin/python bench/compacting.py [--records N] [--value BYTES] [--in DIR]

The copy is by reads and writes of 1 MiB, each file synced at its end, as the compaction does. They run in turns, and the middle one
counts: a machine is seldom alone. The project's target: at least a third of the speed of copying.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from seglog.engine.compaction import compact
from seglog.engine.log import Log
from seglog.record import Packed


def fill(path: Path, records: int, value: int, single: bool) -> int:
    """`records` records of a tenth as many keys, in random order; the bytes of the files that hold them."""
    rng = np.random.default_rng(1)
    keys = rng.integers(0, records // 10, records)
    body = rng.bytes(value * 1000)
    with Log(path, fsync="never") as log:
        for at in range(0, records, 10_000):
            names = [b"key-%010d" % key for key in keys[at : at + 10_000]]
            if single:
                for name in names:
                    log.append(body[:value], name)
            else:
                n = len(names)
                starts = np.arange(n, dtype=np.int64) % 1000 * value
                log.append_many(Packed(body, starts, starts + value), keys=names)
        log.close_segment()
        log.sync()
        return sum(size for _, size, _ in log.segments()[:-1])


def copied(path: Path, to: Path) -> float:
    began = time.perf_counter()
    to.mkdir()
    for file in sorted(path.glob("*.log")):
        with open(file, "rb", buffering=0) as source, open(to / file.name, "wb", buffering=0) as target:
            while block := source.read(1 << 20):
                target.write(block)
            os.fsync(target.fileno())
    took = time.perf_counter() - began
    shutil.rmtree(to)
    return took


def compacted(path: Path, to: Path, memory: int) -> tuple[float, float, dict[str, int]]:
    """Seconds, MiB of memory that it took at most, and what it said; on a copy, by a process of its own."""
    shutil.copytree(path, to)
    for name in ("shm", "tail.shm", "lock"):
        (to / name).unlink(missing_ok=True)
    said = subprocess.run(
        [sys.executable, __file__, "--only", str(to), "--memory", str(memory)], capture_output=True, text=True, check=True
    ).stdout.split()
    shutil.rmtree(to)
    return float(said[0]), float(said[1]), {"records_removed": int(said[2]), "passes": int(said[3])}


def only(path: str, memory: int) -> None:
    """Compact, and say what it took."""
    with Log(path, fsync="never") as log:
        began = time.perf_counter()
        said = compact(log, memory=memory)
        took = time.perf_counter() - began
    assert said is not None
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    print(took, peak, said["records_removed"], said["passes"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--value", type=int, default=100)
    parser.add_argument("--single", action="store_true", help="one append each, rather than batches")
    parser.add_argument("--memory", type=int, default=128 << 20)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--in", dest="folder", default=None)
    parser.add_argument("--only")
    options = parser.parse_args()
    if options.only:
        only(options.only, options.memory)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "log")
        size = fill(path, options.records, options.value, options.single)
        copies, compactions, peak = [], [], 0.0
        for _ in range(options.turns):
            copies.append(copied(path, Path(folder, "copy")))
            took, peak, said = compacted(path, Path(folder, "again"), options.memory)
            compactions.append(took)
        copy, compaction = statistics.median(copies), statistics.median(compactions)
        kind = "single appends" if options.single else "batches"
        print(f"{options.records:,} records of {options.value} bytes, {kind}, {size / 1e6:,.0f} MB; {said}")
        print(f"copy     {size / copy / 1e6:9,.0f} MB/s")
        print(f"compact  {size / compaction / 1e6:9,.0f} MB/s   {copy / compaction:.2f} of it; peak {peak:,.0f} MiB")


if __name__ == "__main__":
    main()
