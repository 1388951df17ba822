"""Limits: what the machine does without seglog, one by one: copying, making bytes objects, a codec.

    a send       against a Cython method with the same signature that only copies 100 bytes into the new pages of a mapped file
    lists        of bytes, a batch at a time, against making as many bytes objects from memory
    records      one at a time, each an object, its value not looked at
    codecs       `send_many` of a topic that has one, against joining the same records, the library, and a copy into new pages of a
                 mapped file; `batches`, against the library out of a mapped file

In turns, on one core, fsync="never".
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from contestants import BLOCK, Load, built, call_each, seglog_sends, send_blocks, topic_in
from machine import Contestant, Figure, Laps, in_turns, one_core, progress
from seglog.engine import codecs

__all__ = ["measure"]

TEXTS = 100  # blocks of them, each squeezed by itself, and each in a place of its own, as in a file


@contextmanager
def mapped(place: str, size: int) -> Iterator[memoryview]:
    with open(os.path.join(place, "mapped"), "w+b") as file:
        os.posix_fallocate(file.fileno(), 0, size)
        with mmap.mmap(file.fileno(), size) as area, memoryview(area) as view:
            yield view


def copying(load: Load) -> Contestant:
    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        with mapped(place, load.records * load.size) as view:
            copier = built("noop").Copier(view)
            yield partial(call_each, copier.send, load)
            copier.close()

    return contestant


def making_bytes(load: Load) -> Contestant:
    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        memory, make = b"".join(load.values) * load.blocks, built("noop").bytes_from

        def work() -> int:
            step = BLOCK * load.size
            return sum(len(make(memory, at, load.size, BLOCK)) for at in range(0, len(memory), step))

        yield work

    return contestant


def reading(load: Load, read: Callable[[Any], int]) -> Contestant:
    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        with topic_in(place) as topic:
            send_blocks(topic.send_many, load)
        with topic_in(place) as topic:
            yield partial(read, topic)

    return contestant


def lists(topic: Any) -> int:
    return sum(len(batch.values.tolist()) for batch in topic.batches())


def records(topic: Any) -> int:
    return sum(1 for _ in topic.read())


class Texts(Load):
    """Records as programs log them: JSON of about 80 bytes."""

    @property
    def values(self) -> list[bytes]:  # type: ignore[override]
        any_of, names = random.Random(2), ["UA", "AA", "DL"]
        rows = ({"id": n, "carrier": any_of.choice(names), "x": any_of.random() * 100} for n in range(BLOCK))
        return [json.dumps(row).encode() for row in rows]


def squeezing(texts: list[bytes], codec: str) -> Contestant:
    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        squeeze = codecs.load(codec)[0]
        with mapped(place, TEXTS * sum(map(len, texts))) as view:

            def work() -> int:
                at = 0
                for _ in range(TEXTS):
                    small = squeeze(b"".join(texts))
                    view[at : at + len(small)] = small
                    at += len(small)
                return TEXTS

            yield work

    return contestant


def expanding(texts: list[bytes], codec: str) -> Contestant:
    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        block, (squeeze, expand) = b"".join(texts), codecs.load(codec)
        small = squeeze(block)
        with open(os.path.join(place, "blocks"), "wb") as file:
            file.write(small * TEXTS)
        with open(os.path.join(place, "blocks"), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as area:

            def work() -> int:
                with memoryview(area) as view:
                    for at in range(0, len(view), len(small)):
                        expand(view[at : at + len(small)], len(block))
                return TEXTS

            yield work

    return contestant


def sending(texts: list[bytes], codec: str) -> Contestant:
    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        with topic_in(place, codec=codec) as topic:

            def work() -> int:
                for _ in range(TEXTS):
                    topic.send_many(texts)
                return TEXTS

            yield work

    return contestant


def reading_back(texts: list[bytes], codec: str) -> Contestant:
    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        with topic_in(place, codec=codec) as topic:
            for _ in range(TEXTS):
                topic.send_many(texts)
            yield lambda: sum(len(batch) for batch in topic.batches()) // BLOCK

    return contestant


def measure(args: argparse.Namespace, directory: str) -> tuple[list[tuple[str, list[Figure]]], dict[str, object]]:
    load, texts = Load(100, max(1, args.records // BLOCK)), Texts(80, 1).values
    how: dict[str, Any] = {"rounds": args.rounds, "directory": directory, "say": progress}
    with one_core():
        sent = in_turns({"copy": copying(load), "send": seglog_sends(load)}, load.records, **how)
        these = {"made": making_bytes(load), "lists": reading(load, lists), "records": reading(load, records)}
        read = in_turns(these, load.records, **how)
        squeezed: dict[str, Laps] = {}
        for codec in ("zstd", "lz4"):
            makers = {"squeeze": squeezing, "send": sending, "expand": expanding, "read": reading_back}
            laps = in_turns({name: make(texts, codec) for name, make in makers.items()}, TEXTS, **how)
            squeezed |= {f"{codec} {name}": each for name, each in laps.items()}

    def against(name: str, one: Laps, limit: Laps, at_most: float) -> Figure:
        note = f"{one.median(args.clock) * 1e9:,.0f} ns, the limit {limit.median(args.clock) * 1e9:,.0f}"
        return Figure(name, one.times(limit, args.clock), "x", at_most=at_most, note=note)

    figures = [
        against("send() of a call that only copies the value into new pages", sent["send"], sent["copy"], 2),
        against("lists of bytes, of making them from memory", read["lists"], read["made"], 1.3),
        Figure("records, one at a time", 1e-6 / read["records"].median(args.clock), "million/s", at_least=5),
    ]
    for codec in ("zstd", "lz4"):
        for name, verb, library in (("send_many()", "send", "squeeze"), ("batches()", "read", "expand")):
            what = f"{name} with {codec}, of the library on the same blocks"
            figures.append(against(what, squeezed[f"{codec} {verb}"], squeezed[f"{codec} {library}"], 1.2))
    raw = {name: [lap.wall for lap in each.laps] for name, each in {**sent, **read, **squeezed}.items()}
    return [(f"limits: {args.rounds} rounds, {args.clock} time, fsync never", figures)], raw
