"""Arrays: what sending and reading them costs, against memcpy and against the same array in memory.

    sending      1,000 records of 100 bytes a call: an array, a buffer with offsets, an Arrow array, a list; against a memcpy of
                 the same bytes into the new pages of a mapped file
    claims       1 MiB written in place and published; against filling as much of a mapped file, which is what writing in the
                 segment itself would be
    views        of a batch of 1,000 records of a topic with a dtype, made by a read before: values, and all four columns
    a sum        over a topic of float64, frames of 4 MiB, the file in the page cache; against the sum of an array in memory. With
                 `check_hashes=False`, and with every hash checked, which is one more pass over the same bytes

Everything is interleaved, on one core, fsync="never"; medians of each round's ratio.
"""

from __future__ import annotations

import argparse
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np

import contestants
import seglog
from contestants import BLOCK, Load
from machine import Contestant, Figure, Laps, free_gib, in_turns, one_core, progress

__all__ = ["measure"]

SIZE = 100
CLAIM = 1 << 20
FRAME = 1 << 22
B = "b: memcpy, new pages"


# ---- sending --------------------------------------------------------------------------------------------------------


def sending(load: Load, values: Any) -> Contestant:
    def work(topic: seglog.Topic) -> int:
        send_many = topic.send_many
        for _ in range(load.blocks):
            send_many(values)
        return load.records

    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        with contestants.topic_in(place) as topic:
            yield partial(work, topic)

    return contestant


def shapes(load: Load) -> dict[str, Any]:
    """The same values, as callers have them."""
    block = b"".join(load.values)
    given: dict[str, Any] = {
        "an array": np.frombuffer(block, np.uint8).reshape(BLOCK, SIZE),
        "a buffer with offsets": seglog.Packed(block, np.arange(BLOCK + 1) * SIZE),
        "a list": load.values,
    }
    with suppress(ImportError):
        import pyarrow

        given["an Arrow array"] = pyarrow.array(load.values)
    return given


# ---- claims ---------------------------------------------------------------------------------------------------------


def claiming(count: int, source: bytes) -> Contestant:
    def work(topic: seglog.Topic) -> int:
        for _ in range(count):
            with topic.claim(CLAIM) as view:
                view[:] = source
        return count

    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        with contestants.topic_in(place) as topic:
            yield partial(work, topic)

    return contestant


def filling(count: int, source: bytes) -> Contestant:
    def work(view: memoryview) -> int:
        for at in range(0, count * CLAIM, CLAIM):
            view[at : at + CLAIM] = source
        return count

    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        with open(os.path.join(place, "mapped"), "w+b") as file:
            os.posix_fallocate(file.fileno(), 0, count * CLAIM)
            with mmap.mmap(file.fileno(), count * CLAIM) as mapped, memoryview(mapped) as view:
                yield partial(work, view)

    return contestant


# ---- views ----------------------------------------------------------------------------------------------------------


def viewing(batches: int, look: Callable[[Any], object]) -> Contestant:
    def work(made: list[Any]) -> int:
        count = len(made)
        while made:
            look(made.pop())        # which then goes, as in a loop over batches, and its memory serves the next one
        return count

    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        with seglog.open(os.path.join(place, "data"), fsync="never") as store:
            topic = store.topic("bench", dtype=f"V{SIZE}")
            values = np.zeros((BLOCK, SIZE), np.uint8)
            times = np.arange(BLOCK)
            for _ in range(batches):
                topic.send_many(values, timestamps=times)
            for batch in topic.batches():
                look(batch)         # the first of everything is the allocator's and the page tables' business
            yield partial(work, list(topic.batches()))

    return contestant


def values(batch: Any) -> object:
    return batch.values


def columns(batch: Any) -> object:
    return batch.values, batch.keys, batch.offsets, batch.timestamps


# ---- a sum ----------------------------------------------------------------------------------------------------------


def sums(directory: str, size: int, rounds: int) -> dict[str, list[float]]:
    """Seconds over the topic, unchecked and checked, and over the array, of each round; one untimed round before."""
    place = os.path.join(directory, "sum")
    per_call = FRAME // 8
    with seglog.open(place, fsync="never") as store:
        topic = store.topic("numbers", dtype="<f8", batch_bytes=FRAME)
        array = np.random.default_rng(2).random(min(size, 256 << 20) // 8)
        for at in range(0, size // 8, per_call):
            topic.send_many(array[at % len(array) :][:per_call])
        ways: dict[str, Callable[[], float]] = {
            "unchecked": lambda: sum(b.values.sum() for b in topic.batches(max_records=per_call, check_hashes=False)),
            "array": lambda: sum(array.sum() for _ in range(size // array.nbytes)),
            "checked": lambda: sum(b.values.sum() for b in topic.batches(max_records=per_call)),
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            progress(f"sum, round {turn}/{rounds}")
            found = {}
            for name, way in ways.items():
                began = time.perf_counter()
                found[name] = way()
                if turn:
                    took[name].append(time.perf_counter() - began)
            assert max(found.values()) - min(found.values()) < 1e-6 * found["array"]
    progress("")
    shutil.rmtree(place)
    return took


def median(ratios: list[float]) -> float:
    return sorted(ratios)[len(ratios) // 2]


def measure(args: argparse.Namespace, directory: str) -> tuple[list[tuple[str, list[Figure]]], dict[str, object]]:
    load = Load(SIZE, max(1, args.records // BLOCK))
    megabyte = os.urandom(CLAIM)
    claims, batches = 100, 500
    size = 5 << 30 if args.large and free_gib(directory) > 8 else 256 << 20
    with one_core():
        given = shapes(load)
        sent = in_turns(
            {B: contestants.memcpy_into_new_pages(load), **{name: sending(load, value) for name, value in given.items()}},
            load.records, rounds=args.rounds, directory=directory, say=progress,
        )  # fmt: skip
        claimed = in_turns(
            {"filled": filling(claims, megabyte), "claimed": claiming(claims, megabyte)},
            claims, rounds=args.rounds, directory=directory, say=progress,
        )  # fmt: skip
        seen = in_turns(
            {"values": viewing(batches, values), "all": viewing(batches, columns)},
            batches, rounds=args.rounds, directory=directory, say=progress,
        )  # fmt: skip
        took = sums(directory, size, args.rounds)

    def against(name: str, at_least: float | None) -> Figure:
        memcpy, its = sent[B], sent[name]
        note = f"{its.median(args.clock) * 1e9:.0f} ns a record, memcpy {memcpy.median(args.clock) * 1e9:.0f}"
        what = f"send_many() of {name}, of memcpy into new pages (b)"
        return Figure(what, memcpy.times(its, args.clock), "x", at_least, note=note)

    limits = {"an array": 0.9, "a list": 0.8}
    figures = [against(name, limits.get(name)) for name in given]
    figures += [
        Figure(
            "a claim of 1 MiB, of filling as much of a mapped file", claimed["filled"].times(claimed["claimed"], args.clock), "x",
            note=f"{CLAIM / claimed['claimed'].median(args.clock) / 1e9:.1f} GB/s",
        ),
        Figure("values of a batch of 1,000 records, as a view", seen["values"].median(args.clock) * 1e9, "ns", at_most=1000),
        Figure("its values, keys, offsets and timestamps", seen["all"].median(args.clock) * 1e9, "ns"),
    ]  # fmt: skip
    for name, what, wanted in (("unchecked", ", check_hashes=False", 0.8), ("checked", "", None)):
        ratio = median([its / mine for mine, its in zip(took[name], took["array"], strict=True)])
        speeds = f"{size / median(took[name]) / 1e9:.1f} GB/s, in memory {size / median(took['array']) / 1e9:.1f}"
        label = f"a sum over {size >> 20:,} MiB of float64 in a topic{what}, of the same in memory"
        figures.append(Figure(label, ratio, "x", wanted, note=speeds))
    title = f"arrays: {args.rounds} rounds, {args.clock} time, fsync never"
    return [(title, figures)], {"laps": {name: laps_of(each) for name, each in {**sent, **claimed, **seen}.items()},
                                "sum": took}  # fmt: skip


def laps_of(laps: Laps) -> list[dict[str, float]]:
    return [{"wall_ns": lap.wall * 1e9, "cpu_ns": lap.cpu * 1e9} for lap in laps.laps]
