"""Many topics: making one, asking for one again, and sending to each of 200 in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import seglog
from contestants import Load

PerRecord = Callable[..., Any]


def test_create_a_topic(store: seglog.Store, benchmark: Any) -> None:
    number = iter(range(10_000))
    benchmark.pedantic(lambda: store.topic(f"topic-{next(number)}"), rounds=50, warmup_rounds=1)


def test_ask_for_a_topic_again(store: seglog.Store, benchmark: Any) -> None:
    topic = store.topic("t")
    assert benchmark(lambda: store.topic("t")) is topic


@pytest.mark.parametrize("topics", [1, 200])
def test_send_to_each_in_turn(store: seglog.Store, topics: int, size: int, per_record: PerRecord) -> None:
    sends = [store.topic(f"topic-{i}").send for i in range(topics)] * (10_000 // topics)
    value = Load(size, 1).values[0]

    def work() -> None:
        for send in sends:
            send(value)

    per_record(work, 10_000)
