"""Transacting: what a transaction costs beside the sends that it is made of.

    python bench/ratios.py transactions

Each figure is the median of each round's own ratio: the two are done in turns, on one core, with fsync="never" and 100 B values.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import seglog
from machine import Figure, one_core, progress

__all__ = ["measure"]

ROUNDS, VALUE = 15, b"x" * 100


def timed(work: Callable[[], None], times: int) -> float:
    """Seconds per call."""
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times


def measure(args: argparse.Namespace, directory: str) -> tuple[list[tuple[str, list[Figure]]], dict[str, object]]:
    progress("transactions")
    values = [VALUE] * 250
    with seglog.open(os.path.join(directory, "transactions"), fsync="never") as store:
        one, four = store.topic("one"), store.topic("four", partitions=4)

        def send() -> None:
            one.send(VALUE)

        def transact() -> None:
            with store.transaction() as tx:
                one.send(VALUE, tx=tx)

        def send_two() -> None:
            four.send(VALUE, partition=0)
            four.send(VALUE, partition=1)

        def transact_two() -> None:
            with store.transaction() as tx:
                four.send(VALUE, partition=0, tx=tx)
                four.send(VALUE, partition=1, tx=tx)

        source = store.topic("source")
        source.send_many([VALUE] * 10)
        consumer = source.consumer("bench")
        record = consumer.receive(timeout=0)[0]

        def send_and_commit() -> None:
            one.send(VALUE)
            consumer.commit(record)

        def transact_and_commit() -> None:
            with store.transaction() as tx:
                one.send(VALUE, tx=tx)
                consumer.commit(record, tx=tx)

        def sends() -> None:
            for i in range(1000):
                four.send(VALUE, partition=i & 3)

        def transact_sends() -> None:
            with store.transaction() as tx:
                for i in range(1000):
                    four.send(VALUE, partition=i & 3, tx=tx)

        def send_many() -> None:
            for p in range(4):
                four.send_many(values, partition=p)

        def transact_many() -> None:
            with store.transaction() as tx:
                for p in range(4):
                    four.send_many(values, partition=p, tx=tx)

        pairs = {
            "one record": (transact, send, 20_000, 5.0),
            "a record for each of 2 partitions": (transact_two, send_two, 20_000, 5.0),
            "a record and a commit": (transact_and_commit, send_and_commit, 20_000, 5.0),
            "1,000 sends over 4 partitions": (transact_sends, sends, 100, 1.3),
            "send_many of 1,000 over 4 partitions": (transact_many, send_many, 200, 1.3),
        }
        laps: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
        with one_core():
            for turn in range(ROUNDS + 1):
                for name, (within, without, times, _) in pairs.items():
                    lap = timed(within, times), timed(without, times)
                    if turn:  # the first one is for warming up
                        laps[name].append(lap)
        consumer.close()
    progress("")
    figures = [
        Figure(
            f"a transaction of {name}, of the same without",
            statistics.median(a / b for a, b in laps[name]),
            "x",
            at_most=most,
            note=f"{statistics.median(a for a, _ in laps[name]) * 1e6:,.2f} us each",
        )
        for name, (_, _, _, most) in pairs.items()
    ]
    return [(f"transactions: fsync never, medians of {ROUNDS} rounds", figures)], {"laps": laps}
