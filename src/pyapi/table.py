"""Table: a topic as a mapping of keys to their last values; and the search for one key's last record.

A table follows its topic: whatever is asked of it first takes in what was sent since the last time, by any process. It holds
keys and values in memory; the topic stays the truth, so a table can be thrown away and made anew at any time. With
`compact=True` the topic keeps what a table needs and little else, so that making one costs what there is, not what there was.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Self

from seglog.clock import seconds
from seglog.engine.compaction import learn
from seglog.engine.keymap import Keymap
from seglog.engine.log import Log
from seglog.errors import ClosedError, OffsetOutOfRange
from seglog.record import Position, Record
from seglog.topic import Topic
from seglog.waiting import wait_for_any

__all__ = ["Finder", "Table"]

BATCH_RECORDS, BATCH_BYTES = 100_000, 4 << 20
FINDER_BYTES = 64 << 20  # of remembered keys, per topic and process


class Table(Mapping[bytes, bytes]):
    """What `Topic.table` returns: key -> last value, read-only. A tombstone removes its key; records without a key are passed over.

    Threads may share it. Each look costs a load per partition when nothing is new, else one pass over what is. After a key was
    deleted by retention, rather than by a tombstone, a table that has it keeps it; one made anew does not have it.

    >>> import seglog
    >>> with seglog.open("data") as store:
    ...     stock = store.topic("stock", compact=True)
    ...     where = stock.send(b"7", key=b"tea")
    ...     with stock.table() as table:
    ...         _ = stock.send(b"3", key=b"milk"), stock.send(None, key=b"tea")
    ...         table.get(b"tea"), table[b"milk"], len(table), table.wait_for(where, timeout=1)
    (None, b'3', 1, True)
    """

    def __init__(self, topic: Topic) -> None:
        """Made by `Topic.table`."""
        self._topic = topic
        self._held: dict[bytes, bytes] = {}
        self._at: list[int] = []  # per partition: the next offset to take in
        self._closed = False
        self._lock = threading.Lock()
        self.refresh()

    # ---- follow -----------------------------------------------------------------------------------

    def refresh(self) -> int:
        """Take in what was sent; how many records that were. Everything else calls it first."""
        taken = 0
        with self._lock:
            for log in self._logs():
                stop = log.next_offset
                while self._at[log.partition] < stop:
                    with suppress(OffsetOutOfRange):  # trimmed between the look and the reading: look again
                        start = max(self._at[log.partition], log.first_offset)
                        for batch in log.batches(start, stop, BATCH_RECORDS, BATCH_BYTES):
                            keys = batch.keys
                            if keys is not None:
                                self._take(keys.tolist(), batch.raw.tolist())
                            taken += len(batch)
                            self._at[log.partition] = batch.next_offset
                        self._at[log.partition] = stop  # also where nothing is left of the last offsets
        return taken

    def wait_for(self, position: Position | tuple[int, int], timeout: float | timedelta | None = None) -> bool:
        """True once the table has taken in the record at `position`, as `send` returned it; False after `timeout` seconds."""
        partition, offset = position
        limit = None if timeout is None else seconds(timeout, "timeout")
        deadline = None if limit is None else time.monotonic() + limit
        while True:
            self.refresh()
            if partition < len(self._at) and self._at[partition] > offset:
                return True
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            logs = self._logs()
            if partition < len(logs):
                wait_for_any([logs[partition]], [offset], left, self._gone)
            else:  # a partition that another process is about to add
                time.sleep(0.01 if left is None else min(0.01, left))

    def close(self) -> None:
        """Let go of what it holds; asked again it raises ClosedError. Twice is fine."""
        self._closed = True
        self._held = {}

    def _take(self, keys: list[bytes | None], values: list[bytes | None]) -> None:
        held = self._held
        for key, value in zip(keys, values, strict=True):
            if key is None:
                continue
            if value is None:
                held.pop(key, None)
            else:
                held[key] = value

    def _logs(self) -> tuple[Log, ...]:
        if self._closed:
            raise ClosedError(f"this table of topic {self._topic.name} was closed before this call; nothing was read")
        logs = self._topic.select(None)
        self._at += [0] * (len(logs) - len(self._at))
        return logs

    def _gone(self) -> bool:
        self._logs()  # raises when the table or the store was closed, or the topic deleted
        return False

    # ---- the mapping ------------------------------------------------------------------------------

    def __getitem__(self, key: bytes) -> bytes:
        self.refresh()
        return self._held[key]

    def __contains__(self, key: object) -> bool:
        self.refresh()
        return key in self._held

    def __iter__(self) -> Iterator[bytes]:
        """The keys there are now; what comes during the iteration is not among them."""
        self.refresh()
        return iter(list(self._held))

    def __len__(self) -> int:
        self.refresh()
        return len(self._held)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            return f"<Table of {self._topic.name}, closed>"
        return f"<Table of {self._topic.name}, {len(self._held):,} keys>"


class Finder:
    """Which segment a key was seen in last: one `Keymap` for each segment that was looked at.

    A map may be older than its segment: compaction took records out of it. What such a map finds is looked at, and when it is
    not there any more, nothing before it is either: compaction takes what has a successor, which a newer segment would have
    shown, or a tombstone whose time was over.
    """

    def __init__(self) -> None:
        self._maps: OrderedDict[tuple[int, int], tuple[int, int, Keymap]] = OrderedDict()  # by partition and base
        self._lock = threading.Lock()

    def find(self, log: Log, key: bytes) -> Record | None:
        """The last record of `key` in this partition."""
        end = log.next_offset
        with self._lock:
            for base in reversed([base for base, _, _ in log.segments()]):
                if base < end:
                    offset = self._map(log, base, end).last(key)
                    if offset is not None and offset >= log.first_offset:
                        with suppress(OffsetOutOfRange):  # compacted away, or trimmed meanwhile
                            return log.record(offset)
                end = min(end, base)
        return None

    def _map(self, log: Log, base: int, end: int) -> Keymap:
        """The keys of the records from `base` up to `end`, as far as they are known, and then the rest."""
        known = self._maps.get((log.partition, base))
        if known is None or known[1] > end:
            at, keymap = base, Keymap(FINDER_BYTES)
        else:
            at, keymap = known[1], known[2]
        at = max(at, log.first_offset)
        while at < end:
            at = learn(log, keymap, at, end)
            if at < end:  # full: the same again, with room for more, as much as it takes
                at, keymap = max(base, log.first_offset), Keymap(4 * keymap.memory)
        self._maps[log.partition, base] = (base, max(at, end), keymap)
        self._maps.move_to_end((log.partition, base))
        while len(self._maps) > 1 and sum(keymap.memory for _, _, keymap in self._maps.values()) > FINDER_BYTES:
            self._maps.popitem(last=False)
        return keymap
