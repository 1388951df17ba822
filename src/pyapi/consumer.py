"""Consumer: one reader of a topic on behalf of a group, which remembers how far the group has come.

It promises that records of one partition come in order; that what was committed is not handed out again, not even after
a kill; and that what was not committed is, so that nothing is missed. The partitions take turns, so that
a busy one does not starve the others.

A group has one live consumer for now; a second one is refused. Use a consumer from one thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Literal, Self, SupportsIndex, overload

from seglog.clock import Clock, seconds
from seglog.config import choice
from seglog.engine.log import Log
from seglog.errors import ClosedError, OffsetOutOfRange, PartitionNotFound
from seglog.positions import Positions
from seglog.record import Batch, Record
from seglog.start import Start, natural, one_offset, start_of
from seglog.waiting import any_ready, wait_for_any

__all__ = ["CommitMode", "Consumer"]

CommitMode = Literal["manual", "after", "before"]

RECORDS_MAX = 10_000  # of a batch, unless said otherwise


class Consumer:
    """What `topic.consumer(group)` returns.

    `commit` says who commits, and so what a crash costs:

    * "manual", the default: you do, with `commit()`.
    * "after": asking for more commits what was handed out before, and so does leaving the `with` block without an
      exception. At least once: a crash repeats what was being worked on.
    * "before": a batch is committed before it is handed out. At most once: a crash loses what was being worked on.

    >>> import seglog
    >>> with seglog.open("data") as store:
    ...     orders = store.topic("orders")
    ...     _ = orders.send_many([b"one", b"two", b"three"])
    ...     with orders.consumer("billing") as consumer:
    ...         first = consumer.receive(max_records=2, timeout=0)
    ...         consumer.commit()
    ...     with orders.consumer("billing") as consumer:
    ...         rest = consumer.receive(timeout=0)
    ...     first.values.tolist(), rest.values.tolist()
    ([b'one', b'two'], [b'three'])
    """

    def __init__(
        self,
        topic: str,
        group: str,
        *,
        logs: Callable[[], tuple[Log, ...]],
        positions: Positions,
        start: Start,
        commit: CommitMode,
        sync_commits: bool,
        sync_close: bool,
        clock: Clock,
        closed: Callable[[Consumer], None],
    ) -> None:
        """Made by `Topic.consumer`. `logs` gives the topic's logs as they are now, or raises what there is to say."""
        choice("commit", commit, ("manual", "after", "before"))
        self.topic = topic
        self.group = group
        self._logs = logs
        self._positions = positions
        self._commit_mode = commit
        self._sync_commits, self._sync_close = sync_commits, sync_close
        self._clock = clock
        self._when_closed = closed
        self._closed = False
        self._paused: set[int] = set()
        self._turn = 0
        self._moved: set[int] = set()  # partitions whose position is not what was committed last
        self._at: list[int] = []
        self._begin(start)

    def _begin(self, start: Start) -> None:
        """Go to what was committed; in a new group, to `start`."""
        logs = self._logs()
        marks = [self._positions.committed(log.partition) for log in logs]
        # A group that knows other partitions is not new: one that was added later is read from its beginning.
        new = not any(marks)
        for log, mark in zip(logs, marks, strict=True):
            if mark is not None:
                self._at.append(mark.offset)
            else:
                self._at.append(start_of(start, log) if new else log.first_offset)
        if new and start != "earliest":
            # Else what is sent before the first commit, and after a crash, would lie before a second "latest".
            self._commit_all(dict(enumerate(self._at)))

    # ---- receive ----------------------------------------------------------------------------------

    def receive(self, max_records: int = RECORDS_MAX, timeout: float | timedelta | None = None) -> Batch | None:
        """The next run of records of one partition, at most `max_records`; None when none came for `timeout` seconds.

        `timeout=None` waits for ever and 0 only looks. Cost: a read of one frame or a few, no copy of their bytes.
        Raises OffsetOutOfRange when the records that come next were trimmed away, since skipping is yours to decide.
        """
        limit = None if timeout is None else time.monotonic() + seconds(timeout, "timeout")
        count = natural(max_records, "max_records", 1)
        self._check()
        if self._commit_mode == "after":
            self.commit()
        while True:
            batch = self._next(count)
            if batch is not None:
                break
            left = None if limit is None else max(0.0, limit - time.monotonic())
            if not self._wait(left):
                return None
        if self._commit_mode == "before":
            self._commit_all({batch.partition: batch.next_offset})
        return batch

    def batches(self, max_records: int = RECORDS_MAX, timeout: float | timedelta | None = None) -> Iterator[Batch]:
        """Batches as they come; ends when none came for `timeout` seconds. 0: what there is; None: never ends.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders", partitions=2)
        ...     _ = orders.send_many([b"one", b"two", b"three"])
        ...     with orders.consumer("billing") as consumer:
        ...         for batch in consumer.batches(max_records=500, timeout=0):
        ...             consumer.commit(batch)
        ...         consumer.lag()
        0
        """
        while (batch := self.receive(max_records, timeout)) is not None:
            yield batch

    def records(self, timeout: float | timedelta | None = None) -> Iterator[Record]:
        """Record by record; ends when none came for `timeout` seconds.

        The position moves with each record: `commit()` in the middle covers those up to the one in hand. Cost: a
        Python object per record; `batches` has none.
        """
        for batch in self.batches(timeout=timeout):
            yield from self.walk(batch)

    def walk(self, batch: Batch) -> Iterator[Record]:
        """The records of a batch that was just received; the position goes back to its start, and moves with each."""
        partition = batch.partition
        for record in batch:
            here = record.offset + 1
            self._at[partition] = here
            self._moved.add(partition)  # again: a commit in between emptied it
            yield record
            if self._closed or self._at[partition] != here or partition in self._paused:
                break  # somebody went elsewhere: the rest of this batch is not what comes next
        else:
            self._at[partition] = batch.next_offset

    def __iter__(self) -> Iterator[Record]:
        """Every record, and those to come: waits for ever. `records(timeout=)` ends."""
        return self.records()

    def _next(self, max_records: int) -> Batch | None:
        logs = self._current()
        for _ in logs:
            partition = self._turn % len(logs)
            self._turn = partition + 1
            if partition in self._paused:
                continue
            log, at = logs[partition], self._at[partition]
            after = log.next_offset
            if at >= after:
                continue
            if at < log.first_offset:
                raise self._trimmed(log, at)
            batch = log.read(at, max_records)
            self._moved.add(partition)
            if batch is not None:
                self._at[partition] = batch.next_offset
                return batch
            self._at[partition] = after  # offsets that no record has: a loss, or compacted away
        return None

    def ready(self) -> bool:
        """Whether `receive` has something to hand out now. One load per partition; raises ClosedError once closed."""
        self._check()
        heard = [log for log in self._current() if log.partition not in self._paused]
        return any_ready(heard, [self._at[log.partition] for log in heard])

    def _wait(self, timeout: float | None) -> bool:
        logs = self._current()
        heard = [log for log in logs if log.partition not in self._paused]
        offsets = [self._at[log.partition] for log in heard]

        def changed() -> bool:
            self._check()
            return len(self._logs()) != len(logs)

        return wait_for_any(heard, offsets, timeout, changed)

    def _current(self) -> tuple[Log, ...]:
        """The logs; a partition that was added meanwhile joins from its beginning."""
        logs = self._logs()
        if len(logs) > len(self._at):
            self._positions.grow(len(logs))
            self._at += [log.first_offset for log in logs[len(self._at) :]]
        return logs

    # ---- commit -----------------------------------------------------------------------------------

    def commit(self, what: Record | Batch | Mapping[int, int] | None = None) -> None:
        """The group is done with what was handed out; or up to and with a record or a batch; or with all before
        the given offset of each partition.

        Cost: two hashes and a store per partition; with `fsync="always"` one fdatasync as well. With "interval" the
        store's upkeep does that. Raises ConfigError for an offset that is not there yet.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders")
        ...     _ = orders.send_many([b"one", b"two", b"three"])
        ...     with orders.consumer("billing") as consumer:
        ...         for record in consumer.records(timeout=0):
        ...             consumer.commit(record)
        ...         consumer.commit({0: 1})
        ...         consumer.committed(0)
        1
        """
        self._check()
        if what is None:
            self._commit_all({partition: self._at[partition] for partition in sorted(self._moved)})
        elif isinstance(what, Batch):
            self._commit_all({what.partition: what.next_offset})
        elif isinstance(what, Record):
            self._commit_all({what.partition: what.offset + 1})
        elif isinstance(what, Mapping):
            self._commit_all(what)
        else:
            raise TypeError(
                f"commit takes a record, a batch or {{partition: offset}}, not {type(what).__name__}: {what!r}"
            )

    def _commit_all(self, offsets: Mapping[int, int]) -> None:
        logs = self._current()
        checked = [(self._log(logs, partition), one_offset(at, "offset")) for partition, at in offsets.items()]
        for log, offset in checked:  # all are right before the first is stored
            if offset > log.next_offset:
                raise OffsetOutOfRange(
                    f"cannot commit offset {offset:,} of partition {log.partition}: the next record there will be "
                    f"{log.next_offset:,}. Nothing was committed.",
                    offset=offset,
                    first=log.first_offset,
                    next=log.next_offset,
                    partition=log.partition,
                )
        for log, offset in checked:
            self._positions.commit(log.partition, offset, log.epoch, self._clock())
            if offset == self._at[log.partition]:
                self._moved.discard(log.partition)
        if self._sync_commits and checked:
            self._positions.sync()

    def sync(self) -> None:
        """Returns when every commit survives a power cut, whatever `fsync` says. One fdatasync, none if there is
        nothing to do."""
        if self._positions.dirty:
            self._positions.sync()

    # ---- where ------------------------------------------------------------------------------------

    @overload
    def seek(self, where: datetime | Literal["earliest", "latest"], /) -> None: ...
    @overload
    def seek(self, partition: SupportsIndex, where: Start, /) -> None: ...
    def seek(self, first: Start, second: Start | None = None, /) -> None:
        """`seek(partition, where)`, or `seek(where)` for all partitions: go on reading from there.

        `where` is an offset (of one partition), an aware datetime, "earliest" or "latest". Nothing is committed.
        Raises OffsetOutOfRange for an offset that is not there.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders")
        ...     _ = orders.send_many([b"one", b"two", b"three"])
        ...     with orders.consumer("billing") as consumer:
        ...         consumer.seek(0, 2)
        ...         [record.value for record in consumer.records(timeout=0)]
        [b'three']
        """
        self._check()
        logs = self._current()
        if second is not None:
            logs, where = (self._log(logs, first),), second
        elif isinstance(first, str | datetime):
            where = first
        else:
            raise TypeError(
                f"seek({first!r}) does not say where: seek(partition, offset), or seek(datetime), "
                'seek("earliest"), seek("latest") for all partitions'
            )
        targets = [(log.partition, start_of(where, log)) for log in logs]
        for partition, offset in targets:
            self._at[partition] = offset
            self._moved.add(partition)

    def position(self, partition: int = 0) -> int:
        """The offset of the next record to be received from `partition`."""
        return self._at[self._log(self._current(), partition).partition]

    def committed(self, partition: int = 0) -> int | None:
        """The offset that the group would go on from after a crash; None while nothing was committed."""
        mark = self._positions.committed(self._log(self._current(), partition).partition)
        return None if mark is None else mark.offset

    def lag(self, partition: int | None = None) -> int:
        """How many records are yet to be received, of one partition or of all. O(partitions)."""
        logs = self._current()
        if partition is not None:
            logs = (self._log(logs, partition),)
        return sum(max(0, log.next_offset - max(self._at[log.partition], log.first_offset)) for log in logs)

    @property
    def assignment(self) -> tuple[int, ...]:
        """The partitions that this consumer reads: for now, all."""
        return tuple(range(len(self._current())))

    def pause(self, partitions: Iterable[int] | None = None) -> None:
        """Hand out nothing from these partitions, or from any, until `resume`. Positions stay."""
        self._paused |= self._numbers(partitions)

    def resume(self, partitions: Iterable[int] | None = None) -> None:
        """The reverse of `pause`."""
        self._paused -= self._numbers(partitions)

    def _numbers(self, partitions: Iterable[int] | None) -> set[int]:
        logs = self._current()
        if partitions is None:
            return set(range(len(logs)))
        return {self._log(logs, partition).partition for partition in partitions}

    def _log(self, logs: tuple[Log, ...], partition: object) -> Log:
        number = natural(partition, "partition")
        if number >= len(logs):
            raise PartitionNotFound(
                f"topic {self.topic} has {len(logs)} partitions, 0 .. {len(logs) - 1}; there is no {number}.",
                partition=number,
                partitions=len(logs),
            )
        return logs[number]

    def _trimmed(self, log: Log, at: int) -> OffsetOutOfRange:
        return OffsetOutOfRange(
            f"group {self.group} is at offset {at:,} of {self.topic}[{log.partition}], but records before "
            f"{log.first_offset:,} were trimmed away: {log.first_offset - at:,} are gone. To go on with what is "
            f'left, say seek({log.partition}, "earliest").',
            offset=at,
            first=log.first_offset,
            next=log.next_offset,
            partition=log.partition,
        )

    # ---- close ------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Free the group for another consumer. Commits nothing; with `fsync` other than "never", what was committed
        before is synced. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._sync_close and not self._positions.closed:  # they are in a forked child, which has no place
                self.sync()
        finally:
            self._positions.close()
            self._when_closed(self)

    def _check(self) -> None:
        if self._closed:
            raise ClosedError(
                f"the consumer of {self.topic} for group {self.group} is closed. Nothing was read or committed."
            )
        self._logs()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None and self._commit_mode == "after" and not self._closed:
                self.commit()
        finally:
            self.close()

    def __repr__(self) -> str:
        if self._closed:
            return f"<Consumer of {self.topic} for {self.group}, closed>"
        places = ", ".join(f"{partition}: {at:,}" for partition, at in enumerate(self._at[:8]))
        more = ", ..." if len(self._at) > 8 else ""
        return f"<Consumer of {self.topic} for {self.group}, next {{{places}{more}}}>"
