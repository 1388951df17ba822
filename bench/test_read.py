"""Reading back 100,000 records: as batches, as columns, as lists, as records, one by one. Times are per round of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

import seglog
from contestants import Load

COUNT = 100_000
PerRecord = Callable[..., Any]


@pytest.fixture(params=["sent_together", "one_by_one"])
def topic(store: seglog.Store, size: int, request: pytest.FixtureRequest) -> Iterator[seglog.Topic]:
    """100,000 records, in frames of 1,000 or in frames of one."""
    topic, values = store.topic("t"), Load(size, 1).values
    for _ in range(COUNT // 1000):
        if request.param == "sent_together":
            topic.send_many(values)
        else:
            for value in values:
                topic.send(value)
    return topic


def test_batches(topic: seglog.Topic, per_record: PerRecord) -> None:
    assert per_record(lambda: sum(len(batch) for batch in topic.batches()), COUNT) == COUNT


def test_columns_as_arrays(topic: seglog.Topic, per_record: PerRecord) -> None:
    assert per_record(lambda: sum(len(batch.values.starts) for batch in topic.batches()), COUNT) == COUNT


def test_timestamps_as_arrays(topic: seglog.Topic, per_record: PerRecord) -> None:
    assert per_record(lambda: sum(len(batch.timestamps) for batch in topic.batches()), COUNT) == COUNT


def test_lists_of_bytes(topic: seglog.Topic, per_record: PerRecord) -> None:
    assert per_record(lambda: sum(len(batch.values.tolist()) for batch in topic.batches()), COUNT) == COUNT


def test_records(topic: seglog.Topic, per_record: PerRecord) -> None:
    assert per_record(lambda: sum(record.value is not None for record in topic.read()), COUNT, rounds=10) == COUNT


def test_one_record_at_a_random_offset(topic: seglog.Topic, per_record: PerRecord) -> None:
    offsets = [Random(3).randrange(COUNT) for _ in range(1000)]

    def work() -> int:
        return sum(topic[0, offset].offset == offset for offset in offsets)

    assert per_record(work, 1000) == 1000


def test_merged_by_time_from_four_partitions(store: seglog.Store, size: int, per_record: PerRecord) -> None:
    topic, values = store.topic("four", partitions=4), Load(size, 1).values
    for _ in range(20):
        topic.send_many(values, [b"%d" % i for i in range(1000)])
    assert per_record(lambda: sum(1 for _ in topic.read()), 20_000, rounds=10) == 20_000
