"""Conditions: sends that happen only if the topic is as the sender believes: `expected_offset`, `expected_version`, `dedup_id`.

It promises that a condition is looked at under the partition's lock, in the same moment as the record is written: of any number
of processes that expect the same, one succeeds. Each is a transaction with a requirement, of one frame where that is enough.
It leaves the looking to `Finder` (where keys stand) and to `Window` (which ids were sent).

An id stands in the log, in a header of its record, so the window outlives every process: who needs it reads the end of the log
once, and after that what is new.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from seglog.engine.log import Log
from seglog.engine.partitions import partition_for
from seglog.errors import ConfigError, OffsetOutOfRange, VersionConflict
from seglog.record import Position, Span
from seglog.start import natural

if TYPE_CHECKING:
    from seglog.topic import Topic

__all__ = ["DEDUP_AT", "DEDUP_ID", "Window", "send_if", "send_many_if"]

DEDUP_ID = "dedup-id"
"""The header that holds the id."""
DEDUP_AT = "dedup-at"
"""When it was sent, µs since the epoch, as 8 bytes; only where the record's timestamp says something else."""
BATCH_RECORDS, BATCH_BYTES = 10_000, 4 << 20


class Repeat(Exception):
    """A record with this id is there: at `offset`."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


class Window:
    """The ids that were sent to one partition of late, and where their records are.

    Threads may share it. Memory: some 300 bytes an id.
    """

    def __init__(self) -> None:
        self._found: dict[bytes, tuple[int, int]] = {}  # id -> offset, when (µs)
        self._order: deque[tuple[int, int, bytes]] = deque()  # the same, oldest first
        self._at = 0  # the next offset to take in
        self._lock = threading.Lock()

    def find(self, log: Log, dedup_id: bytes, now: int, window: int, records: int) -> int | None:
        """The offset of the record with this id, among the last `records` and sent in the last `window` µs; None: it is new."""
        with self._lock:
            end = log.next_offset
            self._take_in(log, end, records)
            while self._order and (self._order[0][0] < end - records or self._order[0][1] < now - window):
                offset, when, known = self._order.popleft()
                if self._found.get(known) == (offset, when):
                    del self._found[known]
            found = self._found.get(dedup_id)
            return None if found is None or found[1] < now - window else found[0]

    def _take_in(self, log: Log, end: int, records: int) -> None:
        while self._at < end:
            try:
                start = max(self._at, log.first_offset, end - records)
                for batch in log.batches(start, end, BATCH_RECORDS, BATCH_BYTES):
                    if batch.headers is not None:
                        for each in zip(batch.headers, batch.offsets.tolist(), batch.timestamps.tolist(), strict=True):
                            self._learn(*each)
                    self._at = batch.next_offset
                self._at = end
            except OffsetOutOfRange:  # trimmed between the look and the reading: look again
                continue

    def _learn(self, headers: dict[str, Any], offset: int, timestamp: int) -> None:
        dedup_id = headers.get(DEDUP_ID)
        if dedup_id is not None:
            at = headers.get(DEDUP_AT)
            when = timestamp if at is None else int.from_bytes(at, "little")
            self._found[dedup_id] = offset, when
            self._order.append((offset, when, dedup_id))


def send_if(
    topic: Topic,
    value: Any,
    key: Any,
    headers: Any,
    timestamp: Any,
    partition: int | None,
    tx: Any,
    expected_offset: int | None,
    expected_version: int | None,
    dedup_id: Any,
) -> Position | None:
    """`Topic.send` with a condition."""
    logs = topic.current()
    ident = None if dedup_id is None else bytes_of(dedup_id, "dedup_id")
    if partition is None and key is None and ident is not None:
        partition = partition_for(ident, len(logs))  # the same for the same id, so that it is met again
    log = chosen(topic, key, partition, "send")
    own = topic.transaction() if tx is None else tx
    conditions = conditions_of(topic, log, key, own, expected_offset, expected_version)
    if ident is not None:
        if tx is not None:
            raise ConfigError(
                "dedup_id and tx exclude each other: a transaction cannot know before it commits whether the record is to be in "
                "it. Nothing was written.",
                setting="dedup_id",
                value=dedup_id,
            )
        if topic.config.compact:
            raise ConfigError(
                f"topic {topic.name} is compacted: a record may go while its dedup_id should still be known. Give it a key, which "
                "compaction keeps once, and expected_version=. Nothing was written.",
                setting="dedup_id",
                value=dedup_id,
            )
        headers = dict(headers or {}) | {DEDUP_ID: ident}
        if timestamp is not None:
            headers[DEDUP_AT] = topic.clock().to_bytes(8, "little", signed=True)
        found = repeated(topic, log, ident)  # most of the looking, before the lock is held
        if found is not None:
            return Position(log.partition, found)

        def is_new() -> None:
            found = repeated(topic, log, ident)
            if found is not None:
                raise Repeat(found)

        conditions.insert(0, is_new)
    topic.send(value, key, headers, timestamp=timestamp, partition=log.partition, tx=own)
    for condition in conditions:
        own.require(condition)
    if tx is not None:
        return None
    try:
        own.commit()
    except Repeat as repeat:
        return Position(log.partition, repeat.offset)
    ((_, span),) = own.spans
    return Position(log.partition, span.start)


def send_many_if(
    topic: Topic,
    values: Any,
    keys: Any,
    headers: Any,
    timestamps: Any,
    partition: int | None,
    tx: Any,
    expected_offset: int | None,
    expected_version: int | None,
) -> list[Span]:
    """`Topic.send_many` with a condition: all of them are there, or none."""
    key = None
    if keys is not None:
        distinct = {bytes_of(key, "key") for key in keys if key is not None}
        if len(distinct) > 1 or (distinct and None in keys):
            raise ConfigError(
                f"with expected_offset or expected_version all records have one key; these have {len(distinct)}. Nothing was "
                "written.",
                setting="keys",
                value=len(distinct),
            )
        key = next(iter(distinct), None)
    log = chosen(topic, key, partition, "send_many")
    own = topic.transaction() if tx is None else tx
    conditions = conditions_of(topic, log, key, own, expected_offset, expected_version)
    topic.send_many(values, keys, headers, timestamps=timestamps, partition=log.partition, tx=own)
    for condition in conditions:
        own.require(condition)
    if tx is not None:
        return []
    own.commit()
    return [span for _, span in own.spans]


def chosen(topic: Topic, key: Any, partition: int | None, verb: str) -> Log:
    """The partition that the records go to."""
    logs = topic.current()
    if partition is not None:
        return topic.select(natural(partition, "partition"))[0]
    if key is not None:
        return logs[topic.partition_of(bytes_of(key, "key"))]
    if len(logs) > 1:
        raise ConfigError(
            f"{verb} with a condition: topic {topic.name} has {len(logs)} partitions, so say which, with key= or partition=. "
            "Nothing was written.",
            setting="partition",
            value=None,
        )
    return logs[0]


def conditions_of(
    topic: Topic, log: Log, key: Any, tx: Any, expected_offset: int | None, expected_version: int | None
) -> list[Callable[[], None]]:
    """What is to be asked under the lock, before the records that are sent next are written. Raises what is wrong with the
    question."""
    conditions: list[Callable[[], None]] = []
    if expected_offset is not None:
        offset, ahead = natural(expected_offset, "expected_offset"), tx.ahead(log)

        def is_next() -> None:
            actual = log.next_offset + ahead
            if actual != offset:
                raise VersionConflict(
                    f"the next record of {topic.name}[{log.partition}] will have offset {actual:,}, not {offset:,}: somebody "
                    "was quicker. Nothing was written.",
                    topic=topic.name,
                    partition=log.partition,
                    expected=offset,
                    actual=actual,
                )

        conditions.append(is_next)
    if expected_version is not None:
        if key is None:
            raise ConfigError(
                "expected_version is a key's: the offset of its last record. Say key=. Nothing was written.",
                setting="expected_version",
                value=expected_version,
            )
        version, its_key = natural(expected_version, "expected_version", -1), bytes_of(key, "key")
        end = log.next_offset
        found = topic.finder.find(log, its_key)  # the looking that takes time, before the lock is held
        known = -1 if found is None else found.offset

        def is_last() -> None:
            actual = max(known, last_of(log, its_key, end))
            if actual != version:
                raise VersionConflict(
                    f"the last record of key {its_key!r} in {topic.name}[{log.partition}] is at {actual:,}, not at {version:,} "
                    "(-1: there is none): somebody was quicker. Nothing was written.",
                    topic=topic.name,
                    partition=log.partition,
                    key=its_key,
                    expected=version,
                    actual=actual,
                )

        conditions.append(is_last)
    return conditions


def last_of(log: Log, key: bytes, start: int) -> int:
    """The offset of the last record with this key, of those from `start` on; -1 when there is none."""
    last = -1
    if start < log.next_offset:
        for batch in log.batches(max(start, log.first_offset), log.next_offset, BATCH_RECORDS, BATCH_BYTES):
            keys = batch.keys
            if keys is not None:
                for offset, its_key in zip(batch.offsets.tolist(), keys, strict=True):
                    if its_key == key:
                        last = offset
    return last


def repeated(topic: Topic, log: Log, dedup_id: bytes) -> int | None:
    window, records = round(topic.config.dedup_window * 1e6), topic.config.dedup_records
    return topic.window(log.partition).find(log, dedup_id, topic.clock(), window, records)


def bytes_of(what: Any, name: str) -> bytes:
    if isinstance(what, str):
        raise TypeError(f"a {name} is bytes, not str; encode it first, for instance {name}.encode()")
    return bytes(memoryview(what))
