"""Opening a store: an empty one, one with 100 MB in it, and one with many topics. Times are per opening."""

from __future__ import annotations

from typing import Any

import seglog
from contestants import Load


def open_and_look(path: str, topic: str) -> int:
    with seglog.open(path, fsync="never") as store:
        return store.topic(topic).next_offset()


def test_open_a_new_store(disk: str, benchmark: Any) -> None:
    number = iter(range(10_000))
    benchmark.pedantic(lambda: open_and_look(f"{disk}/{next(number)}", "t"), rounds=20)


def test_open_an_empty_store_again(disk: str, benchmark: Any) -> None:
    open_and_look(disk + "/data", "t")
    assert benchmark.pedantic(lambda: open_and_look(disk + "/data", "t"), rounds=30, warmup_rounds=1) == 0


def test_open_100_megabytes(disk: str, size: int, benchmark: Any) -> None:
    load = Load(size, 100_000_000 // size // 1000)
    with seglog.open(disk + "/data", fsync="never") as store:
        for _ in range(load.blocks):
            store.topic("t").send_many(load.values)
    found = benchmark.pedantic(lambda: open_and_look(disk + "/data", "t"), rounds=30, warmup_rounds=1)
    assert found == load.records


def test_open_one_topic_of_200(disk: str, benchmark: Any) -> None:
    with seglog.open(disk + "/data", fsync="never") as store:
        for i in range(200):
            store.topic(f"topic-{i}")
    assert benchmark.pedantic(lambda: open_and_look(disk + "/data", "topic-7"), rounds=30, warmup_rounds=1) == 0
