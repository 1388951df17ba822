"""Memory: what a process keeps for itself (RssAnon) while it reads a large topic, and while it sends a million records at once.

Maps of files are not counted: the kernel takes those pages back whenever it needs them. The process that works is a child; its
parent looks at /proc/<pid>/status every millisecond, so looking costs the child nothing and no peak hides between two of
its own instructions. Only Linux has RssAnon.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import seglog
from machine import Figure, free_gib, progress

__all__ = ["MIB", "done", "measure", "peak_of", "ready"]

MIB = 2**20
SPARE_GIB = 3.0  # of disk that stays free


def anonymous_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def peak_of(*arguments: str, program: str = __file__) -> tuple[int, int, str]:
    """Runs this file, or `program`, as a child: it says "ready", waits, works, says what it did. (before, peak, what it said)."""
    command = [sys.executable, program, *arguments]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # numpy's threads have memory of their own
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        ready = child.stdout.readline()
        assert ready == "ready\n", f"the child said {ready!r}"
        before = peak = anonymous_bytes(child.pid)
        os.set_blocking(child.stdout.fileno(), False)
        child.stdin.write("go\n")
        child.stdin.flush()
        while not (said := child.stdout.readline()) and child.poll() is None:
            peak = max(peak, anonymous_bytes(child.pid))
            time.sleep(0.001)
        child.stdin.close()
    assert child.returncode == 0, f"the child failed: {child.returncode}"
    return before, peak, said.strip()


def ready() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def done(said: object) -> None:
    print(said, flush=True)
    sys.stdin.read()  # stay, so that the last look finds us


# ---- the children ---------------------------------------------------------------------------------------------------


def fill(path: str, size: int, value_size: int = 1024) -> int:
    """A topic of `size` bytes of values; how many records that are."""
    values = [os.urandom(value_size) for _ in range(1000)]
    with seglog.open(path, fsync="never") as store:
        send_many = store.topic("large").send_many
        for _ in range(-(-size // (value_size * 1000))):
            send_many(values)
        return store.topic("large").next_offset()


def read(path: str, how: str) -> None:
    with seglog.open(path, fsync="never") as store:
        topic = store.topic("large")
        ready()
        records = 0
        if how == "batches":
            for batch in topic.batches():
                records += len(batch.values)
        elif how == "lists":
            for batch in topic.batches():
                records += len(batch.values.tolist())
        elif how == "hoard":  # what the others must not do: the test of this file looks whether it would be seen
            records = len([value for batch in topic.batches() for value in batch.values.tolist()])
        else:
            for record in topic.read():
                records += record.value is not None
        done(records)


def send_million(path: str, shape: str) -> None:
    import numpy

    count, size = 1_000_000, 100
    block = os.urandom(count * size)
    values: Any = numpy.frombuffer(block, "u1").reshape(count, size)
    if shape != "array":
        values = [block[at : at + size] for at in range(0, count * size, size)]
    keys = [b"%d" % (i % 1000) for i in range(count)] if shape == "keyed list, 4 partitions" else None
    with seglog.open(path, fsync="never") as store:
        topic = store.topic("million", partitions=4 if keys else 1)
        topic.send_many(values[:1000], keys=keys and keys[:1000])
        ready()
        topic.send_many(values, keys=keys)
        done(sum(topic.next_offset(p) for p in range(topic.partitions)))


# ---- the figures ----------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace, directory: str) -> tuple[list[tuple[str, list[Figure]]], dict[str, object]]:
    if not sys.platform.startswith("linux"):
        return [("memory: only Linux tells a process's anonymous memory", [])], {}
    wanted = args.size_gib if args.size_gib is not None else 5.0 if args.large else 1.0
    size_gib = min(wanted, free_gib(directory) - SPARE_GIB)
    if size_gib <= 0:
        return [(f"memory: skipped, since less than {SPARE_GIB:g} GiB of {directory} are free", [])], {}
    raw: dict[str, object] = {"size_gib": size_gib}
    figures = []
    path = os.path.join(directory, "large")
    progress(f"memory: filling a topic with {size_gib:g} GiB")
    records = fill(path, int(size_gib * 2**30))
    for how in ("batches", "lists", "records"):
        progress(f"memory: reading it as {how}")
        before, peak, said = peak_of("read", path, how)
        assert int(said) == records, f"read {said} of {records} records"
        raw[how] = {"before": before, "peak": peak}
        figures.append(Figure(f"peak of a process that reads it as {how}", peak / MIB, "MiB", at_most=100,
                              note=f"{before / MIB:.0f} before the first"))
    shutil.rmtree(path)
    reading = f"memory: RssAnon, a topic of {size_gib:.3g} GiB of 1,024 B values"
    if size_gib < wanted:
        reading += f" ({wanted:g} do not fit)"
    sending = []
    for shape in ("list", "array", "keyed list, 4 partitions"):
        progress(f"memory: a million records at once, {shape}")
        before, peak, said = peak_of("send", path, shape)
        assert int(said) == 1_001_000, f"sent {said}"
        raw[shape] = {"before": before, "peak": peak}
        sending.append(Figure(f"growth during the call, {shape}", (peak - before) / MIB, "MiB", at_most=24,
                              note=f"of {before / MIB:.0f}"))
        shutil.rmtree(path)
    progress("")
    return [(reading, figures), ("memory: RssAnon, send_many of 1,000,000 x 100 B (a copy would be 95 MiB)", sending)], raw


if __name__ == "__main__":
    {"read": read, "send": send_million}[sys.argv[1]](*sys.argv[2:])
