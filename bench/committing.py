"""Committing: what a commit costs, and how long the partitions of a killed member stand still.

    python bench/ratios.py groups

A commit is `consumer.commit(record)`, from one process, on one core, with fsync="never"; a replacement is the time from a SIGKILL
until another member, which waits for records, is handed one of the dead member's partitions.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time

import seglog
from machine import Figure, one_core, progress

__all__ = ["measure"]

RECORDS, ROUNDS, KILLS = 200_000, 7, 20


def commits(directory: str) -> list[float]:
    """Seconds per commit, of each round: record by record, over four partitions."""
    with seglog.open(os.path.join(directory, "commits"), fsync="never") as store:
        topic = store.topic("t", partitions=4)
        topic.send_many([b"x" * 100] * RECORDS)
        took = []
        for turn in range(ROUNDS):
            with topic.consumer(f"g{turn}") as consumer:
                records = [record for batch in consumer.batches(timeout=0) for record in batch]
                commit = consumer.commit
                with one_core():
                    start = time.perf_counter()
                    for record in records:
                        commit(record)
                    took.append((time.perf_counter() - start) / len(records))
                assert consumer.lag() == 0 and sum(consumer.committed(p) or 0 for p in range(4)) == RECORDS
        return took


def replacements(directory: str) -> list[float]:
    path, took = os.path.join(directory, "replacements"), []
    with seglog.open(path, fsync="never") as store:
        topic = store.topic("t", partitions=2)
        for turn in range(KILLS):
            progress(f"groups: kill {turn + 1}/{KILLS}")
            with subprocess.Popen([sys.executable, __file__, path], stdout=subprocess.PIPE) as child:
                with topic.consumer("g", commit="after") as here:
                    assert child.stdout is not None
                    while here.assignment == {} or len(here.assignment["t"]) != 1 or not child.stdout.peek():
                        here.receive(timeout=0.01)
                    (other,) = {0, 1} - set(here.assignment["t"])
                    while here.receive(timeout=0.01) is not None:
                        pass
                    topic.send(b"x", partition=other)
                    while here.lag() or store.group("g").describe().places[other].lag:
                        here.receive(timeout=0.01)
                    child.send_signal(signal.SIGKILL)
                    start = time.perf_counter()
                    topic.send(b"x", partition=other)
                    while (batch := here.receive(timeout=5)) is None or batch.partition != other:
                        assert time.perf_counter() - start < 30
                    took.append(time.perf_counter() - start)
    return took


def measure(args: argparse.Namespace, directory: str) -> tuple[list[tuple[str, list[Figure]]], dict[str, object]]:
    progress("groups: commits")
    each, waits = commits(directory), replacements(directory)
    progress("")
    rate = 1 / statistics.median(each)
    figures = [
        Figure("commit(record), one process", rate / 1e6, "M/s", at_least=1.0, note=f"{1e9 / rate:.0f} ns each"),
        Figure(f"a killed member is replaced, p50 of {KILLS}", statistics.median(waits) * 1e3, "ms", at_most=100,
               note=f"at most {max(waits) * 1e3:.0f} ms"),
    ]
    return [("groups: fsync never", figures)], {"seconds per commit": each, "seconds to replace": waits}


def be_a_member(path: str) -> None:
    with seglog.open(path, fsync="never").topic("t").consumer("g", commit="after") as consumer:
        told = False
        while True:
            consumer.receive(timeout=0.01)
            if consumer.assignment and not told:
                print("reads", flush=True)
                told = True


if __name__ == "__main__":
    be_a_member(sys.argv[1])
