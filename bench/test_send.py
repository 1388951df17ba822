"""Sending: one at a time, with keys and headers, and many at once. Each round is 10,000 records; times are per round."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import numpy as np
import pytest

import seglog
from contestants import Load

COUNT = 10_000
PerRecord = Callable[..., Any]


def ten_thousand(size: int) -> list[bytes]:
    return Load(size, 1).values * (COUNT // 1000)


def test_send(store: seglog.Store, size: int, per_record: PerRecord) -> None:
    send, values = store.topic("t").send, ten_thousand(size)

    def work() -> None:
        for value in values:
            send(value)

    per_record(work, COUNT)


def test_send_with_a_key_to_four_partitions(store: seglog.Store, size: int, per_record: PerRecord) -> None:
    send, values = store.topic("t", partitions=4).send, ten_thousand(size)
    pairs = list(zip(values, islice(cycle([b"%d" % i for i in range(997)]), COUNT)))

    def work() -> None:
        for value, key in pairs:
            send(value, key)

    per_record(work, COUNT)


def test_send_with_headers(store: seglog.Store, size: int, per_record: PerRecord) -> None:
    send, values, headers = store.topic("t").send, ten_thousand(size), {"traceparent": b"00-4bf92f3577b34da6"}

    def work() -> None:
        for value in values:
            send(value, headers=headers)

    per_record(work, COUNT)


def test_send_many(store: seglog.Store, size: int, per_record: PerRecord) -> None:
    send_many, values = store.topic("t").send_many, Load(size, 1).values

    def work() -> None:
        for _ in range(COUNT // 1000):
            send_many(values)

    per_record(work, COUNT)


def test_send_many_with_keys_to_four_partitions(store: seglog.Store, size: int, per_record: PerRecord) -> None:
    send_many, values = store.topic("t", partitions=4).send_many, Load(size, 1).values
    keys = [b"%d" % (i % 97) for i in range(len(values))]

    def work() -> None:
        for _ in range(COUNT // 1000):
            send_many(values, keys)

    per_record(work, COUNT)


def test_send_many_of_an_array(store: seglog.Store, size: int, per_record: PerRecord) -> None:
    send_many, rows = store.topic("t").send_many, np.frombuffer(b"".join(Load(size, 1).values), "u1").reshape(1000, size)

    def work() -> None:
        for _ in range(COUNT // 1000):
            send_many(rows)

    per_record(work, COUNT)


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_send_many_compressed(store: seglog.Store, size: int, codec: Any, per_record: PerRecord) -> None:
    pytest.importorskip({"zstd": "zstandard", "lz4": "lz4"}[codec])
    values = [b"GET /index.html?user=%06d HTTP/1.1 " % i * (size // 35 + 1) for i in range(1000)]
    send_many, values = store.topic("t", codec=codec).send_many, [value[:size] for value in values]

    def work() -> None:
        for _ in range(COUNT // 1000):
            send_many(values)

    per_record(work, COUNT)


def test_send_and_sync(disk: str, size: int, per_record: PerRecord) -> None:
    """fsync="always": each send waits for the disk. This measures the disk."""
    with seglog.open(f"{disk}/data", fsync="always") as store:
        send, value = store.topic("t").send, Load(size, 1).values[0]
        per_record(lambda: send(value), 1, rounds=100)
