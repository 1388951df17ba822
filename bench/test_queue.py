"""Queues: send, receive, ack, one at a time and in lists of 100; with a thousand that wait. Times are per message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import seglog
from contestants import Load

COUNT = 2_000
PerRecord = Callable[..., Any]


def test_queue_one_at_a_time(store: seglog.Store, size: int, per_record: PerRecord) -> None:
    queue, values = store.queue("q"), Load(size, 1).values
    queue.send_many(values)

    def work() -> None:
        for value in values * (COUNT // 1000):
            queue.send(value)
            queue.receive(1, 0)[0].ack()

    per_record(work, COUNT)


def test_queue_lists_of_100(store: seglog.Store, size: int, per_record: PerRecord) -> None:
    queue, values = store.queue("q"), Load(size, 1).values
    queue.send_many(values)

    def work() -> None:
        for at in range(0, COUNT, 100):
            queue.send_many(values[at % 1000 : at % 1000 + 100])
            queue.ack(queue.receive(100, 0))

    per_record(work, COUNT)
