"""Opening: how long it takes until a store that holds much can be written to, after a clean close and after a kill -9.

What is timed is `seglog.open`, the topic, and its next offset; then one record is sent, so that each opening finds what a
program leaves. The killed process has sent records that nobody synced, and dies in the middle of sending.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

import seglog
from growth import fill
from machine import Figure, free_gib, progress

__all__ = ["measure"]

TIMES = 9
SPARE_GIB = 3.0


def open_once(path: str) -> tuple[float, float]:
    """(seconds to open, seconds of the first send)."""
    start = time.perf_counter()
    store = seglog.open(path, fsync="never")
    topic = store.topic("grown")
    following = topic.next_offset()
    opened = time.perf_counter()
    assert topic.send(b"x").offset == following
    sent = time.perf_counter()
    store.close()
    return opened - start, sent - opened


def kill_a_writer(path: str) -> None:
    """A process opens the store, sends 10,000 records, goes on, and is killed."""
    with subprocess.Popen([sys.executable, __file__, path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"sending\n"
        time.sleep(0.05)
        child.send_signal(signal.SIGKILL)


def send_until_killed(path: str) -> None:
    send = seglog.open(path, fsync="never").topic("grown").send
    for i in range(10_000_000):
        send(b"x" * 100)
        if i == 10_000:
            print("sending", flush=True)


def measure(args: argparse.Namespace, directory: str) -> tuple[list[tuple[str, list[Figure]]], dict[str, object]]:
    sizes = (1.0, 10.0) if args.large else (0.1, 1.0)
    figures: list[Figure] = []
    raw: dict[str, object] = {}
    for gib in sizes:
        if free_gib(directory) - SPARE_GIB < gib:
            continue
        path = os.path.join(directory, f"open-{gib:g}")
        with seglog.open(path, fsync="never") as store:
            fill(store.topic("grown"), gib * 2**30, "open: filling a topic")
        open_once(path)
        for how in ("clean close", "kill -9"):
            times = []
            for turn in range(TIMES):
                progress(f"open: after {how}, {gib:g} GiB, {turn + 1}/{TIMES}")
                if how == "kill -9":
                    kill_a_writer(path)
                times.append(open_once(path))
            raw[f"{gib:g} GiB, {how}"] = times
            opening = statistics.median(first for first, _ in times)
            sending = statistics.median(second for _, second in times)
            figures.append(Figure(f"{gib:g} GiB, after {how}", opening * 1e3, "ms", at_most=50 if how == "kill -9" else 100,
                                  note=f"the first send {sending * 1e3:.2g} ms"))
        shutil.rmtree(path)
    progress("")
    return [(f"open: one topic, fsync never, medians of {TIMES}", figures)], raw


if __name__ == "__main__":
    send_until_killed(sys.argv[1])
