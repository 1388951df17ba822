"""Topic: a named run of records in one or more partitions; what most programs send to and read from.

It promises that records of one partition keep their order and their offsets for ever, and that the same key always goes to the
same partition (until partitions are added). The hot verbs, `send`, `send_many` and `topic[partition, offset]`, are the
engine's own and have no Python frame on top; everything here decides something and leaves the moving to the engine.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, Protocol, SupportsIndex

from seglog.assignment import Assignor, AssignorName
from seglog.clock import Clock, micros, seconds
from seglog.config import StoreConfig, TopicConfig, choice
from seglog.consumer import Assignment, CommitMode, Consumer, Reset
from seglog.dtypes import Dtype, dtype_of
from seglog.engine.arrow import ArrowTable
from seglog.engine.claim import Claim
from seglog.engine.decode import Decoded
from seglog.engine.fields import Fields, Shape
from seglog.engine.log import Log
from seglog.engine.partitions import Partitions, partition_for
from seglog.engine.transactions import Transaction
from seglog.errors import ConfigError, PartitionNotFound
from seglog.record import Batch, Position, Record, Span
from seglog.start import (
    Start,
    end_of,
    natural,
    one_offset,
    one_offset_needs_one_partition,
    start_of,
    start_of_last,
)
from seglog.statistics import TopicStatistics, partition_statistics
from seglog.waiting import any_ready, wait_for_any

if TYPE_CHECKING:
    from seglog.conditions import Window
    from seglog.table import Finder, Table
    from seglog.upkeep import CompactionReport

__all__ = ["CustomPartitioner", "Following", "Home", "Isolation", "Topic"]

Isolation = Literal["visible", "durable"]

# What upkeep found in a partition the last time: its segments, when that was (µs), and what there was to compact in them.
Looked = tuple[tuple[int, ...], int, tuple[int, int, int | None]]


class Home(Protocol):
    """What a topic asks of the store it lives in."""

    config: StoreConfig
    clock: Clock

    def refresh(self, topic: Topic) -> None:
        """Take in what other processes did to `topic`; raises ClosedError or TopicNotFound when it is no more."""

    def grow(self, topic: Topic, to: int) -> None: ...

    def transaction(self) -> Transaction: ...

    @property
    def consumer(self) -> Callable[..., Consumer]:
        """`consumer(group, topics, **settings)`: a member of the group, synced and closed together with the store."""


class CustomPartitioner:
    """A callable of the user's, `(key, partitions) -> partition`, which no file can hold: given anew at each opening."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.function: Callable[[bytes, int], int] | None = None

    def __call__(self, key: bytes, partitions: int) -> int:
        if self.function is None:
            raise ConfigError(
                f"topic {self.topic} was created with a partitioner of its own, which cannot be written down: pass it, "
                f"as in store.topic({self.topic!r}, partitioner=...), or name a partition= for each send. "
                "Nothing was written.",
                setting="partitioner",
                value=None,
            )
        return self.function(key, partitions)


class Topic(Partitions):
    """What `store.topic(name)` returns: the same object for the same name, for as long as the store is open.

    Threads may share it. From the engine, without a Python frame on top:

    * `send(value, key=None, headers=None, *, timestamp=None, partition=None)` -> `Position`
    * `send_many(values, keys=None, headers=None, *, timestamps=None, partition=None)` -> list of `Span`; values and keys are lists,
      numpy arrays, buffers with offsets, Arrow arrays or tables
    * `topic[partition, offset]` -> `Record`; raises OffsetOutOfRange

    Values and keys are bytes-like; a `str` raises TypeError, since only you know its encoding. A value of None is a
    tombstone. Without key and `partition=`, each `send` takes the next partition, and so does each `send_many`, whole.

    >>> import seglog
    >>> with seglog.open("data") as store:
    ...     orders = store.topic("orders", partitions=4)
    ...     where = orders.send(b"one", key=b"42", headers={"trace": b"7"})
    ...     orders[where].value, orders[where].headers, orders
    (b'one', {'trace': b'7'}, <Topic orders, 4 partitions, 1 record>)
    """

    def __init__(
        self,
        home: Home,
        name: str,
        topic_id: str,
        config: TopicConfig,
        logs: tuple[Log, ...],
        partitioner: CustomPartitioner | None,
    ) -> None:
        """Made by `Store.topic`."""
        super().__init__(logs, partitioner or config.partitioner)
        self._home = home
        self._name = name
        self._config = config
        self.topic_id = topic_id
        self.seen = -1  # the version of the topology at which the store looked after it last
        self.custom_partitioner = partitioner
        self.looked_at: dict[int, Looked] = {}  # by partition; for upkeep
        self._finder: Finder | None = None
        self._windows: dict[int, Window] = {}

    # ---- what it is -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def config(self) -> TopicConfig:
        """Its settings, as they are now."""
        return self._config

    @property
    def dtype(self) -> Dtype | None:
        """The numpy dtype of its values; None when they are bytes of any length."""
        return None if self._config.dtype is None else dtype_of(self._config.dtype)

    @property
    def partitions(self) -> int:
        """How many partitions there are."""
        return len(self.logs)

    def become(self, config: TopicConfig, logs: tuple[Log, ...]) -> None:
        """For the store: the topic has more partitions now."""
        self._config = config
        self._attach(logs)

    # ---- write in place ---------------------------------------------------------------------------

    def claim(
        self,
        n_bytes: int,
        key: Any = None,
        headers: Mapping[str, bytes | None] | None = None,
        *,
        timestamp: datetime | int | None = None,
        partition: int | None = None,
        tx: Transaction | None = None,
    ) -> Claim:
        """Memory for a value of `n_bytes`, to be written by the block: published when it ends, abandoned when it raises.

        The block gets a writable memoryview, of a topic with a dtype an array of that dtype, each item a record; full of
        zeros. `claim.position` is where it went. Nobody waits for the block: it holds no lock, and the
        frame is moved into the segment by the append, as that of a `send` is. A view that is kept for longer writes into
        nobody's record. Raises at once RecordTooLarge, and ValueError for a size that no record has; at the end what a
        `send` would.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     images = store.topic("images")
        ...     claim = images.claim(4, key=b"7")
        ...     with claim as view:
        ...         view[:] = b"jpeg"
        ...     images[claim.position].value, images[claim.position].key
        (b'jpeg', b'7')
        """
        self.current()
        return Claim(self, n_bytes, key, headers, timestamp, partition, tx, self.dtype)

    # ---- read -------------------------------------------------------------------------------------

    def read(
        self,
        start: Start = "earliest",
        *,
        partition: int | None = None,
        stop: Start | None = None,
        isolation: Isolation = "visible",
    ) -> Iterator[Record]:
        """The records from `start` up to `stop`, or up to what there is when `read` is called, one by one.

        In offset order inside each partition; several partitions are merged by timestamp. `start` is an offset, an
        aware datetime (the first record at or after it), "earliest" or "latest", and `stop`, which is not included,
        the same. `isolation="durable"` stops at what survives a power cut.

        Lazy: O(log segments) at the start, then a Python object per record, whose parts are made when asked for.
        Raises OffsetOutOfRange, PartitionNotFound, and ConfigError for an offset without its partition.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders")
        ...     _ = orders.send_many([b"one", b"two", b"three"])
        ...     [(record.offset, record.value) for record in orders.read(start=1)]
        [(1, b'two'), (2, b'three')]
        """
        starts, stops = self._range(start, stop, partition, isolation)
        if len(starts) == 1:
            return self.select(partition)[0].records(starts[0], stops[0])
        return self.merged(starts, stops)

    def batches(
        self,
        start: Start = "earliest",
        *,
        partition: int | None = None,
        max_records: int = 10_000,
        stop: Start | None = None,
        isolation: Isolation = "visible",
        check_hashes: bool = True,
    ) -> Iterator[Batch]:
        """The same as batches: columns over the map, at most `max_records` each, no object per record.

        One partition after the other: batches cannot be merged without taking them apart. What a `Batch` of n records
        gives, all of it read-only and valid for as long as it is held, also after retention, compaction, deletion and close:

        * `values`: a `Column` (`data` uint8, `starts` and `ends` int64[n], `valid` bool[n] or None); of a topic with a
          dtype an array of it, shape (n,), a view of the file where the items lie evenly, as those of one `send_many` do
        * `keys`: a `Column`, or None
        * `offsets`: int64[n]; `timestamps`: int64[n], µs since the epoch, a view where the file has them
        * `raw`: the values as a `Column`, with a dtype too

        `check_hashes=False` does not read the values to check them, which halves what a sum over them costs: bits that rotted on
        the disk are not told then. That frames are whole, and columns within them, is checked all the same.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders")
        ...     _ = orders.send_many([b"one", b"two", b"three"])
        ...     [batch.values.tolist() for batch in orders.batches()]
        [[b'one', b'two', b'three']]

        >>> import numpy as np
        >>> with seglog.open("data") as store:
        ...     ticks = store.topic("ticks", dtype=[("at", "i8"), ("price", "f8")])
        ...     _ = ticks.send_many(np.array([(1, 9.5), (2, 10.5)], ticks.dtype))
        ...     [float(batch.values["price"].mean()) for batch in ticks.batches()]
        [10.0]
        """
        count = natural(max_records, "max_records", 1)
        starts, stops = self._range(start, stop, partition, isolation)
        return chain.from_iterable(
            log.batches(first, end, count, check_hashes=check_hashes)
            for log, first, end in zip(self.select(partition), starts, stops, strict=False)
            if first < end
        )

    def read_batch(self, *, partition: int = 0, offset: int, max_records: int = 10_000) -> Batch | None:
        """At most `max_records` records from `offset` on, as far as they lie together; None when there are none yet.

        `batch.next_offset` is where to go on. What a batch gives: see `batches`. O(log segments), no copy. Raises OffsetOutOfRange.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders")
        ...     _ = orders.send_many([b"one", b"two", b"three"])
        ...     batch = orders.read_batch(offset=0, max_records=2)
        ...     batch.values.tolist(), batch.offsets.tolist(), batch.next_offset
        ([b'one', b'two'], [0, 1], 2)
        """
        log = self._log(partition)
        first = start_of(one_offset(offset, "offset"), log)
        return log.read(first, natural(max_records, "max_records", 1))

    def arrow(
        self,
        start: Start = "earliest",
        stop: Start | None = None,
        *,
        partition: int | None = None,
        isolation: Isolation = "visible",
        schema: Any = None,
    ) -> ArrowTable:
        """The records from `start` up to `stop` as an Arrow table: whatever reads `__arrow_c_stream__` reads it, pyarrow,
        Polars, DuckDB; none of them is needed to make it.

        Fixed at this call: each stream that is asked of it gives the same records, also while others send, and after
        retention, compaction and close. Ask again for newer ones. Columns: `partition` (int32, with several partitions),
        `offset` (int64), `timestamp` (µs, UTC), `key` (binary), `value`: binary_view, whose bytes are the file's own and are
        not copied (but those of 12 or fewer, which a view holds itself, and those of compressed frames). With a dtype the
        fields are columns instead, one that is called like a column above in its place. Headers are not in it.

        `schema` makes columns of values that are JSON objects or msgpack maps, instead of `value`: a mapping of names to
        "int64", "float64", "bool", "string", "binary", "timestamp" (a number of µs, or ISO 8601) or "json" (whatever it is, as
        text), to the Python types like them, or an Arrow schema. A field that is missing is null; one that is there and is of
        another type is an error, which names the offset. Cost: some microseconds a value.

        `start`, `stop`, `partition`, `isolation`: as in `read`; one partition comes after the other. O(log segments) to
        make, each is mapped; then lazy, at most 65,536 records at a time. Raises as `read` does; damage that a stream meets
        is an error of the library that reads it, with our words.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders")
        ...     _ = orders.send_many([b"one", b"two", b"three"], keys=[b"a", b"b", None])
        ...     orders.arrow()
        <ArrowTable 0:0..3: offset, timestamp, key, value>
        """
        starts, stops = self._range(start, stop, partition, isolation)
        logs, shape = self.select(partition), self._shape(schema)
        return ArrowTable(zip(logs, starts, stops, strict=False), shape, len(self.logs) > 1)

    def _shape(self, schema: Any) -> Shape | None:
        if schema is None:
            return None if self.dtype is None else Fields(self.dtype)
        if self.dtype is not None:
            raise ConfigError(
                f"topic {self.name} has a dtype, {self.dtype}: its values are no JSON and no msgpack, and its fields are "
                "columns already",
                setting="schema",
                value=schema,
            )
        return Decoded(schema)

    def to_parquet(
        self,
        path: str | os.PathLike[str],
        start: Start = "earliest",
        stop: Start | None = None,
        *,
        partition: int | None = None,
        schema: Any = None,
    ) -> int:
        """Write `arrow(start, stop, partition=, schema=)` to a Parquet file; how many records it has.

        The file is whole or not there. One batch is in memory at a time. Raises ExtraMissing without pyarrow
        (`pip install 'seglog[arrow]'`), and OSError, with our words, at damage.
        """
        from seglog.export import write_parquet

        return write_parquet(self.arrow(start, stop, partition=partition, schema=schema), path)

    def last(self, n: int, *, partition: int | None = None) -> list[Record]:
        """The last `n` records, oldest first; fewer when there are fewer. Merged by time over partitions.

        O(n) per partition. Offsets that a crash took are not counted.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders")
        ...     _ = orders.send_many([b"one", b"two", b"three"])
        ...     [record.value for record in orders.last(2)]
        [b'two', b'three']
        """
        count = natural(n, "n")
        logs = self.select(partition)
        stops = [log.next_offset for log in logs]
        starts = [start_of_last(count, log, stop) for log, stop in zip(logs, stops, strict=True)]
        if len(logs) == 1:
            return list(logs[0].records(starts[0], stops[0]))
        return list(deque(self.merged(starts, stops), maxlen=count))

    def tail(
        self,
        start: Start = "latest",
        *,
        partition: int | None = None,
        timeout: float | timedelta | None = None,
    ) -> Iterator[Record]:
        """Records as they come, from any process; ends when none came for `timeout` seconds (None: never).

        Waits without burning a core; the GIL is released, and Ctrl-C works. The place is fixed by the call, not by the
        first `next()`, so nothing sent in between is missed. An append wakes it at once.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders")
        ...     following = orders.tail(timeout=0)
        ...     _ = orders.send(b"news")
        ...     [record.value for record in following]
        [b'news']
        """
        limit = None if timeout is None else seconds(timeout, "timeout")
        following = self.follow(start, partition)

        def records() -> Iterator[Record]:
            while True:
                yield from following.records()
                if not following.wait(limit):
                    return

        return records()

    def follow(self, start: Start = "latest", partition: int | None = None) -> Following:
        """A place in the topic that moves with what is read from it: what `tail` is made of, here and in `seglog.aio`."""
        starts, _ = self._range(start, None, partition, "visible")
        return Following(self, partition, starts)

    def wait(self, offset: int, *, partition: int = 0, timeout: float | timedelta | None = None) -> bool:
        """True once there is a record at `offset`; False after `timeout` seconds. None waits for ever.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders")
        ...     where = orders.send(b"one")
        ...     orders.wait(where.offset, timeout=1), orders.wait(where.offset + 1, timeout=0)
        (True, False)
        """
        limit = None if timeout is None else seconds(timeout, "timeout")

        def changed() -> bool:
            self.select(partition)  # raises when the store was closed, or the topic deleted
            return False

        return wait_for_any([self._log(partition)], [one_offset(offset, "offset")], limit, changed)

    # ---- where ------------------------------------------------------------------------------------

    def first_offset(self, partition: int = 0) -> int:
        """The offset of the oldest record that is kept."""
        return self._log(partition).first_offset

    def next_offset(self, partition: int = 0) -> int:
        """The offset that the next record will get."""
        return self._log(partition).next_offset

    def offset_for_time(self, when: datetime | SupportsIndex, partition: int = 0) -> int:
        """The offset of the first record with a timestamp at or after `when`; the next offset when there is none.

        `when` is an aware datetime, or µs since the epoch. O(log segments).
        """
        return self._log(partition).offset_for_time(micros(when, "when"))

    # ---- keep less, or spread more ----------------------------------------------------------------

    def trim(self, before: Start, partition: int | None = None) -> dict[int, int]:
        """Let go of all records before an offset, or a time; returns the first offset of each partition it touched.

        Offsets stay what they are. Space comes back in whole segments. A time trims every partition, or the one
        named; an offset needs `partition=` when there are several. Readers in the middle are not disturbed.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders")
        ...     _ = orders.send_many([b"one", b"two", b"three"])
        ...     orders.trim(before=2), [record.value for record in orders.read()]
        ({0: 2}, [b'three'])
        """
        logs = self.select(partition)
        one_offset_needs_one_partition(before, "before", logs)
        if not isinstance(before, str | datetime):
            offset = one_offset(before, "before")
            if offset > logs[0].next_offset:
                start_of(offset, logs[0])  # raises OffsetOutOfRange: more than there is, so probably a mistake
        return {log.partition: log.trim(max(log.first_offset, end_of(before, log))) for log in logs}

    def add_partitions(self, to: int) -> None:
        """Have `to` partitions from now on. All records stay where they are; fewer is not possible.

        A key may belong to another partition afterwards, so its new records are not behind its old ones: read up to
        the end before, where the order of a key matters. Other processes see it at their next read.
        Raises ConfigError for fewer. Cost: one fsync of the topology, and a directory each.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders")
        ...     orders.add_partitions(3)
        ...     orders.partitions
        3
        """
        self.current()
        self._home.grow(self, natural(to, "partitions", 1))

    def compact(self, partition: int | None = None) -> CompactionReport:
        """Compact now what upkeep would compact some time: of each key only the last records stay, as the settings say.

        The segment being written is closed first, so that all there is takes part. Offsets and order stay; readers are not
        disturbed. Cost: reading the topic about twice, and writing what stays where something went. Raises ConfigError for a
        topic that was not created with `compact=True`: its records are its history. A partition that another process is
        compacting at the moment is left to it.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     prices = store.topic("prices", compact=True)
        ...     _ = prices.send_many([b"1", b"2", b"3"], keys=[b"tea", b"milk", b"tea"])
        ...     prices.compact().records_removed, [(record.key, record.value) for record in prices.read()]
        (1, [(b'milk', b'2'), (b'tea', b'3')])
        """
        from seglog.upkeep import compact_now

        logs = self.select(partition)
        if not self.config.compact:
            raise ConfigError(
                f"topic {self.name} was not created with compact=True: its records are history, and stay. Nothing was changed.",
                setting="compact",
                value=False,
            )
        return compact_now(self, logs)

    # ---- by key -----------------------------------------------------------------------------------

    def latest(self, key: bytes) -> Record | None:
        """The last record with this key; None when there is none. A tombstone is a record too: its value is None.

        Looked for in the partition that the key belongs to and, when it has none, in the others: records sent with
        `partition=`, or before partitions were added. Cost: a look at each segment, newest first, until one has it. A
        segment that is looked at for the first time is walked once; this process then remembers its keys (some 50 bytes each,
        of the segments used last, up to 64 MiB). For many keys, see `table`.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     prices = store.topic("prices")
        ...     _ = prices.send_many([b"1", b"2", b"3"], keys=[b"tea", b"milk", b"tea"])
        ...     prices.latest(b"tea").value, prices.latest(b"salt")
        (b'3', None)
        """
        logs = self.current()
        first = self.place_of(key)
        for log in (logs[first], *logs[:first], *logs[first + 1 :]):
            found = self.finder.find(log, key)
            if found is not None:
                return found
        return None

    def version(self, key: bytes) -> int:
        """The offset of the last record with this key in the partition that the key belongs to; -1 when there is none. What
        `send(expected_version=)` compares. Cost as that of `latest`.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     accounts = store.topic("accounts")
        ...     opened = accounts.send(b"opened", key=b"7", expected_version=-1)
        ...     seen = accounts.version(b"7")
        ...     _ = accounts.send(b"+10", key=b"7", expected_version=seen)
        ...     try:
        ...         accounts.send(b"-10", key=b"7", expected_version=seen)
        ...     except seglog.VersionConflict as error:
        ...         error.expected, error.actual
        (0, 1)
        """
        found = self.finder.find(self.current()[self.partition_of(key)], key)
        return -1 if found is None else found.offset

    @property
    def finder(self) -> Finder:
        """What this process remembers of where keys stand."""
        from seglog.table import Finder

        if self._finder is None:
            self._finder = Finder()
        return self._finder

    def transaction(self) -> Transaction:
        """A transaction of the store."""
        return self._home.transaction()

    @property
    def clock(self) -> Clock:
        """µs since the epoch, as the store counts them."""
        return self._home.clock

    def window(self, partition: int) -> Window:
        """The ids that this process knows to have been sent there of late."""
        from seglog.conditions import Window

        return self._windows.setdefault(partition, Window())

    def _send_if(self, *how: Any) -> Position | None:
        from seglog.conditions import send_if

        return send_if(self, *how)

    def _send_many_if(self, *how: Any) -> list[Span]:
        from seglog.conditions import send_many_if

        return send_many_if(self, *how)

    def table(self) -> Table:
        """The topic as a mapping of keys to their last values, kept up to date: see `Table`. Close it when you are done.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     prices = store.topic("prices")
        ...     with prices.table() as table:
        ...         _ = prices.send(b"3", key=b"tea")
        ...         dict(table)
        {b'tea': b'3'}
        """
        from seglog.table import Table

        return Table(self)

    # ---- consumers --------------------------------------------------------------------------------

    def consumer(
        self,
        group: str,
        *,
        start: Start = "earliest",
        commit: CommitMode = "manual",
        assignor: AssignorName | Assignor = "sticky",
        instance: str | None = None,
        rejoin_within: float | timedelta = 0.0,
        reset: Reset = "raise",
        isolation: Isolation = "visible",
        on_assign: Callable[[Consumer, Assignment], object] | None = None,
        on_revoke: Callable[[Consumer, Assignment], object] | None = None,
    ) -> Consumer:
        """A member of `group` that reads its share of this topic. See `Consumer`, also for `commit`, and
        `Store.consumer` for the settings.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders")
        ...     with orders.consumer("billing") as consumer:
        ...         consumer
        <Consumer of orders for billing, next {0: 0}>
        """
        self.current()
        return self._home.consumer(
            group,
            (self,),
            start=start,
            commit=commit,
            assignor=assignor,
            instance=instance,
            rejoin_within=rejoin_within,
            reset=reset,
            isolation=isolation,
            on_assign=on_assign,
            on_revoke=on_revoke,
        )

    # ---- care -------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Returns when everything that was sent here before, by any process, survives a power cut. At most one fsync per
        partition; none for those that have nothing new."""
        for log in self.current():
            if log.dirty:
                log.sync()

    def statistics(self) -> TopicStatistics:
        """What there is, counted; frozen. O(partitions)."""
        return TopicStatistics(self.name, tuple(partition_statistics(log) for log in self.current()))

    def __repr__(self) -> str:
        if any(log.closed for log in self.logs):
            return f"<Topic {self.name}, closed>"
        count = sum(log.next_offset - log.first_offset for log in self.logs)
        return f"<Topic {self.name}, {plural(self.partitions, 'partition')}, {plural(count, 'record')}>"

    # ---- helpers ----------------------------------------------------------------------------------

    def place_of(self, key: bytes) -> int:
        """The partition that records with this key go to."""
        custom = self.custom_partitioner
        if custom is None:
            return partition_for(key, len(self.logs), self.config.partitioner)
        return custom(key, len(self.logs)) if custom.function is not None else 0

    def current(self) -> tuple[Log, ...]:
        """The logs of the partitions as they are now, also when another process added some."""
        self._home.refresh(self)
        return self.logs

    def select(self, partition: int | None) -> tuple[Log, ...]:
        """The log of a partition, or all, as they are now. Raises PartitionNotFound, ClosedError, TopicNotFound."""
        return self.current() if partition is None else (self._log(partition),)

    def _log(self, partition: int) -> Log:
        logs = self.current()
        number = natural(partition, "partition")
        if number >= len(logs):
            raise PartitionNotFound(
                f"topic {self.name} has {plural(len(logs), 'partition')}, 0 .. {len(logs) - 1}; there is no {number}.",
                partition=number,
                partitions=len(logs),
            )
        return logs[number]

    def _range(
        self, start: Start, stop: Start | None, partition: int | None, isolation: Isolation
    ) -> tuple[list[int], list[int]]:
        """Where to begin and where to end, per partition."""
        choice("isolation", isolation, ("visible", "durable"))
        logs = self.select(partition)
        one_offset_needs_one_partition(start, "start", logs)
        one_offset_needs_one_partition(stop, "stop", logs)
        starts = [start_of(start, log) for log in logs]
        stops = [end_of(stop, log) for log in logs]
        if isolation == "durable":
            stops = [min(end, log.durable_offset) for end, log in zip(stops, logs, strict=True)]
        return starts, [max(pair) for pair in zip(starts, stops, strict=True)]


class Following:
    """A place in each partition of a topic, or in one; made by `Topic.follow`."""

    def __init__(self, topic: Topic, partition: int | None, starts: list[int]) -> None:
        self._topic = topic
        self._partition = partition
        self._at = starts

    def _logs(self) -> tuple[Log, ...]:
        logs = self._topic.select(self._partition)
        self._at += [log.first_offset for log in logs[len(self._at) :]]  # partitions that were added
        return logs

    def records(self) -> Iterator[Record]:
        """What is there now, merged by time; the place moves behind it when the last of it was handed out."""
        logs = self._logs()
        stops = [log.next_offset for log in logs]
        if len(logs) == 1:
            yield from logs[0].records(self._at[0], stops[0])
        else:
            yield from self._topic.merged(self._at, stops)
        self._at = stops

    def ready(self) -> bool:
        """Whether there are records to hand out. One load per partition; raises once the store is closed."""
        return any_ready(self._logs(), self._at)

    def wait(self, timeout: float | None) -> bool:
        """True once there are; False after `timeout` seconds."""
        logs = self._logs()
        return wait_for_any(logs, self._at, timeout, lambda: len(self._logs()) != len(logs))


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
