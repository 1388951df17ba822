"""Store: one directory with topics in it, shared by any number of threads and processes.

It promises that what a process creates or deletes here is either done or not, whatever dies in between; that several processes
that open, create and delete at once agree; and that `close` leaves everything readable by the next.

    data/
      SEGLOG                        who this is (identity.py)
      create.lock                   the door for whoever makes or deletes names
      lock  shm                     which processes live, and their shared memory (the engine)
      meta/                         what there is (topology.py)
      topics/<name>/<partition>/    the logs
      groups/<group>/<topic>.positions

A topic is created inside out: directories and empty logs first, then its topology record, synced. A crash before the
record leaves empty logs that the next creation takes over. It is deleted outside in: the record first, then the files;
whoever opens the store next, or takes the name again, finishes what a crash left.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from seglog import transactions
from seglog.assignment import Assignor, AssignorName
from seglog.clock import Clock, seconds, system_clock
from seglog.config import Codec, Fsync, Partitioner, Recover, StoreConfig, TopicConfig, Write, choice
from seglog.consumer import Assignment, CommitMode, Consumer, Reset, Source
from seglog.dtypes import dtype_of, text_of
from seglog.engine.liveness import Liveness, is_network
from seglog.engine.log import Log
from seglog.engine.transactions import Transaction, Transactions
from seglog.errors import (
    ClosedError,
    ConfigError,
    CorruptStore,
    ForkedHandle,
    NetworkFileSystem,
    SeglogError,
    TopicMismatch,
    TopicNotFound,
)
from seglog.files import FileLock, has_segments, listed, make_directory, sync_directory, told
from seglog.identity import directory_of, establish, gate
from seglog.membership import Membership
from seglog.names import check_name
from seglog.positions import Positions
from seglog.producer import Producer
from seglog.queueconfig import Backoff, Overflow
from seglog.record import Loss
from seglog.start import Start, one_offset_needs_one_partition
from seglog.statistics import StoreStatistics
from seglog.ticker import Ticker
from seglog.topic import CustomPartitioner, Isolation, Topic, plural
from seglog.topology import Topology

if TYPE_CHECKING:
    from seglog.exchange import Exchange
    from seglog.exchanges import Exchanges
    from seglog.groups import Group
    from seglog.handlers import Dedup, Handler
    from seglog.limits import RateLimit
    from seglog.queue import Queue
    from seglog.queues import Queues
    from seglog.requests import Inbox, Requests
    from seglog.routing import ExchangeType
    from seglog.workers import Workers, WorkerStatistics

__all__ = ["Store", "open"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

TOPIC = "topic"  # the kind, in the topology
TIDY_INTERVAL = 1.0  # seconds from one look at what retention and compaction may take to the next
WARNINGS_KEPT = 16

_open: weakref.WeakSet[Store] = weakref.WeakSet()


def open(  # it is what it does, and is said with its module: seglog.open
    path: str | os.PathLike[str],
    *,
    fsync: Fsync = "interval",
    fsync_interval: float | timedelta = 0.1,
    segment_bytes: int = 64 << 20,
    recover: Recover = "raise",
    write: Write = "auto",
    clock: Clock | None = None,
    upkeep: bool = True,
    create: bool = True,
    lock_timeout: float | timedelta = 30.0,
    allow_network: bool = False,
) -> Store:
    """Open the store at `path`, or make it: the directory, and its parents, when there are none.

    The settings are those of `StoreConfig`, where each says what it means and why; durations are seconds or
    timedeltas. `clock` gives µs since the epoch, for tests; `create=False` raises NotAStore where there is none.

    Any number of processes may have it open. Cost: some file operations and a replay of the topology; nothing that
    grows with the records. Raises NotAStore (another program's files are left alone), UnsupportedFormat (a newer
    seglog's), CorruptStore, ReadOnlyStore, ConfigError.

    >>> import seglog
    >>> with seglog.open("data", fsync="always") as store:
    ...     where = store.topic("orders").send(b"one")
    >>> with seglog.open("data", create=False) as store:
    ...     store.topic("orders")[where].value
    b'one'
    """
    config = StoreConfig(
        fsync=fsync,
        fsync_interval=seconds(fsync_interval, "fsync_interval"),
        segment_bytes=segment_bytes,
        recover=recover,
        write=write,
        upkeep=upkeep,
        lock_timeout=seconds(lock_timeout, "lock_timeout"),
        allow_network=allow_network,
    )
    if clock is not None and not callable(clock):
        raise ConfigError(
            f"clock must be callable and return µs since the epoch, not {type(clock).__name__}",
            setting="clock",
            value=clock,
        )
    if not isinstance(create, bool):
        raise ConfigError(f"create is {create!r}; it must be True or False", setting="create", value=create)
    return Store(directory_of(path), config, clock=clock, create=create)


def refuse_network(directory: str, allowed: bool) -> None:
    """Raise NetworkFileSystem when the directory, or the nearest one above that exists, lies on one."""
    there = directory
    while not os.path.exists(there) and os.path.dirname(there) != there:
        there = os.path.dirname(there)
    if not allowed and is_network(there):
        raise NetworkFileSystem(
            f"{directory} lies on a network file system. Processes share a store through memory that only one kernel "
            "has, so a second machine would write over the records of the first. Use a local disk; or, when only "
            "this machine ever opens it, seglog.open(..., allow_network=True). Nothing was changed.",
            path=directory,
        )


class Store:
    """What `seglog.open` returns. Close it, or use it in a `with`. Threads may share it.

    >>> import seglog
    >>> with seglog.open("data") as store:
    ...     orders = store.topic("orders", partitions=4)
    ...     store.topics(), store.topic("orders") is orders
    (['orders'], True)
    """

    def __init__(self, directory: str, config: StoreConfig, *, clock: Clock | None, create: bool) -> None:
        self.path = directory
        self.config = config
        self.clock: Clock = clock or system_clock
        self._engine_clock = clock  # None: the engine asks the system itself, without a Python frame
        self._lock = threading.RLock()
        self._closed = False
        self._topics: dict[str, Topic] = {}
        self._consumers: set[Consumer | Producer] = set()  # who has places, and is synced and closed with us
        self._queues: Queues | None = None
        self._exchanges: Exchanges | None = None
        self._ticker: Ticker | None = None
        self._handlers: list[Handler] = []  # in the order in which they were written
        self._workers: weakref.WeakSet[Workers] = weakref.WeakSet()
        self._inbox: Inbox | None = None
        self._tidier: Ticker | None = None  # a thread of its own: compacting takes long, and a sync must not wait for it
        self._warnings: deque[str] = deque(maxlen=WARNINGS_KEPT)
        refuse_network(directory, config.allow_network)
        self.identity = establish(directory, create=create, clock=self.clock, timeout=config.lock_timeout)
        with told(directory, "open the store"):
            self._liveness = Liveness(directory)
        try:
            self._topology = Topology(directory, config, self._liveness)
            self._transactions = Transactions(directory, self._decisions)
            try:
                self._transactions.attach()  # before any partition is opened: it may be the first look after a power cut
                self._finish_deletions(self._topology.deleted(TOPIC))
            except BaseException:
                self._topology.close()
                raise
        except BaseException:
            self._liveness.close()
            raise
        _open.add(self)
        if config.upkeep:
            self._ticker = Ticker(config.fsync_interval, self._tick)

    # ---- topics -----------------------------------------------------------------------------------

    def topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        segment_bytes: int | None = None,
        segment_age: float | timedelta | None = None,
        codec: Codec | None = None,
        partitioner: Partitioner | Callable[[bytes, int], int] | None = None,
        record_bytes_max: int | None = None,
        batch_bytes: int | None = None,
        dedup_window: float | timedelta | None = None,
        dedup_records: int | None = None,
        dtype: Any = None,
        retention: float | timedelta | None = None,
        retention_bytes: int | None = None,
        retention_records: int | None = None,
        keep_for_groups: Iterable[str] | None = None,
        retention_max_bytes: int | None = None,
        compact: bool | None = None,
        compact_keep: int | None = None,
        compact_min_lag: float | timedelta | None = None,
        compact_max_lag: float | timedelta | None = None,
        compact_dirty_ratio: float | None = None,
        tombstone_grace: float | timedelta | None = None,
        compact_memory: int | None = None,
    ) -> Topic:
        """The topic of that name: opened when it exists, created when it does not.

        The settings are those of `TopicConfig`, where each says what it means and why; one that is left out has its
        default in a new topic (one partition, xxh3, no codec), and is whatever it is in an existing one. A setting
        that differs from the existing topic's raises TopicMismatch and changes nothing. `partitioner` may be a
        callable `(key, partitions) -> partition`, to be passed at each opening. `dtype` may be whatever `numpy.dtype` takes.

        Cost: creating takes a few fsyncs; opening a few file operations per partition; asking again, a dict lookup.
        Raises InvalidName, ConfigError, TopicMismatch, StoreFull, ReadOnlyStore.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders", partitions=4)
        ...     try:
        ...         store.topic("orders", partitions=8)
        ...     except seglog.TopicMismatch as error:
        ...         error.differences
        {'partitions': (8, 4)}
        """
        check_name(name)
        asked = given(
            partitions=partitions,
            segment_bytes=segment_bytes,
            segment_age=in_seconds(segment_age, "segment_age"),
            codec=codec,
            partitioner="custom" if callable(partitioner) else partitioner,
            record_bytes_max=record_bytes_max,
            batch_bytes=batch_bytes,
            dedup_window=in_seconds(dedup_window, "dedup_window"),
            dedup_records=dedup_records,
            dtype=None if dtype is None else text_of(dtype),
            retention=in_seconds(retention, "retention"),
            retention_bytes=retention_bytes,
            retention_records=retention_records,
            keep_for_groups=None if keep_for_groups is None else names_of(keep_for_groups),
            retention_max_bytes=retention_max_bytes,
            compact=compact,
            compact_keep=compact_keep,
            compact_min_lag=in_seconds(compact_min_lag, "compact_min_lag"),
            compact_max_lag=in_seconds(compact_max_lag, "compact_max_lag"),
            compact_dirty_ratio=compact_dirty_ratio,
            tombstone_grace=in_seconds(tombstone_grace, "tombstone_grace"),
            compact_memory=compact_memory,
        )
        wanted = TopicConfig(**({"segment_bytes": self.config.segment_bytes} | asked))
        with self._lock:
            self._check()
            self._topology.refresh()
            topic = self._existing(name) or self._create(name, wanted)
            differences = topic.config.differences(asked)
            if differences:
                raise mismatch(name, differences)
            if callable(partitioner) and topic.custom_partitioner is not None:
                topic.custom_partitioner.function = partitioner
            return topic

    def topics(self) -> list[str]:
        """The names of the topics there are, sorted. O(topics)."""
        self._check()
        self._topology.refresh()
        return [name for name in self._topology.names(TOPIC) if not name.startswith("~")]

    def delete_topic(self, name: str) -> None:
        """Delete a topic, its records, and every group's place in it, for every process.

        Final when it returns; a crash in the middle is finished by whoever opens the store next. Other processes that
        have it open get an error at their next call. Raises TopicNotFound.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     _ = store.topic("orders")
        ...     store.delete_topic("orders")
        ...     store.topics()
        []
        """
        check_name(name.removeprefix("~"))
        self._check()
        self._topology.refresh()
        if self._topology.get(TOPIC, name) is None:
            raise not_found(name)
        # Without a lock: they call on_revoke, and take their groups' locks.
        for consumer in [c for c in list(self._consumers) if isinstance(c, Consumer) and name in c.topics]:
            with suppress(SeglogError):
                consumer.close()
        with self._lock:
            self._check()
            with self.gate():
                self._topology.refresh()
                if self._topology.get(TOPIC, name) is None:
                    raise not_found(name)
                self._topology.remove(TOPIC, name)
                topic = self._topics.pop(name, None)
                for log in topic.logs if topic is not None else ():
                    with suppress(SeglogError):  # even if a stopped process holds its lock: the record is written
                        log.delete()
                self._remove_files(name)
                if self._topology.names("binding"):
                    self.all_exchanges().sweep()

    # ---- queues -----------------------------------------------------------------------------------

    def queue(
        self,
        name: str,
        *,
        lease: float | timedelta | None = None,
        max_lease: float | timedelta | None = None,
        max_attempts: int | None = None,
        backoff: float | timedelta | Backoff | None = None,
        dead_letter: bool | str | None = None,
        dead_letter_expired: bool | None = None,
        ttl: float | timedelta | None = None,
        max_length: int | None = None,
        max_bytes: int | None = None,
        overflow: Overflow | None = None,
        priorities: int | None = None,
        weighted: bool | None = None,
        fifo: bool | None = None,
        fair: bool | None = None,
        lookahead: int | None = None,
        dedup_window: float | timedelta | None = None,
        keep_acked: float | timedelta | None = None,
        single_active: bool | None = None,
        segment_bytes: int | None = None,
    ) -> Queue:
        """The queue of that name: opened when it exists, made when it does not.

        The settings are those of `QueueConfig`, where each says what it means and why; one that is left out has its default
        in a new queue, and is whatever it is in an existing one. One that differs raises QueueMismatch. Cost: making it takes
        some fsyncs; asking again, a dict lookup. Raises InvalidName, ConfigError, StoreFull, ReadOnlyStore.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     jobs = store.queue("jobs", lease=60, max_attempts=3)
        ...     _ = jobs.send(b"one", priority=0, delay=0)
        ...     (message,) = jobs.receive(timeout=0)
        ...     message.ack()
        ...     jobs.statistics().depth
        0
        """
        settings = {setting: value for setting, value in locals().items() if setting not in ("self", "name")}
        return self.all_queues().queue(name, settings)

    def queues(self) -> list[str]:
        """The names of the queues there are, sorted."""
        return self.all_queues().names()

    def delete_queue(self, name: str) -> None:
        """Delete a queue with its messages, for every process; those that have it open get an error at their next call. Raises
        QueueNotFound."""
        self.all_queues().delete(name)

    def dead_letters(self, name: str) -> Queue:
        """For queues: the one that takes dead letters; made when there is none, where nothing is tried without end."""
        return self.queue_of(name) or self.queue(name)

    def queue_of(self, name: str) -> Queue | None:
        """The queue of that name; None when there is none."""
        return self.all_queues().existing(name)

    def all_queues(self) -> Queues:
        """For queues: the one who makes them."""
        from seglog.queues import Queues

        self._check()
        with self._lock:
            if self._queues is None:
                self._queues = Queues(self)
            return self._queues

    # ---- exchanges --------------------------------------------------------------------------------

    def exchange(
        self,
        name: str,
        type: ExchangeType | None = None,
        *,
        alternate: str | Exchange | None = None,
        hash_header: str | None = None,
    ) -> Exchange:
        """The exchange of that name: opened when it exists, made when it does not and `type` says what it is to be.

        * `type`: "direct" (the key is the pattern), "topic" (patterns of words), "fanout" (all of them), "headers" (by the
          message's headers) or "hash" (one of them, by the hash of the key). `Exchange.bind` says what a binding is in each.
        * `alternate`: the exchange, or its name, that gets what no binding matches; it may be made later.
        * `hash_header`: of a hash exchange, the header whose value is hashed, instead of the key.

        A setting that is left out has its default in a new exchange, and is whatever it is in an existing one; one that differs
        raises ExchangeMismatch and changes nothing. Cost: making it is an fsync; asking again, a dict lookup. Raises
        ExchangeNotFound when there is none and no type was said, InvalidName, ConfigError.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     events = store.exchange("events", "topic")
        ...     try:
        ...         store.exchange("events", "fanout")
        ...     except seglog.ExchangeMismatch as error:
        ...         error.differences, store.exchange("events") is events
        ({'type': ('fanout', 'topic')}, True)
        """
        return self.all_exchanges().exchange(name, {"type": type, "alternate": alternate, "hash_header": hash_header})

    def exchanges(self) -> list[str]:
        """The names of the exchanges there are, sorted. O(exchanges)."""
        return self.all_exchanges().names()

    def delete_exchange(self, name: str) -> None:
        """Delete an exchange and its bindings, in both directions, for every process. Queues and topics keep what they have.

        Final when it returns, whatever dies in between. Raises ExchangeNotFound."""
        self.all_exchanges().delete(name)

    def all_exchanges(self) -> Exchanges:
        """For exchanges: the one who makes them."""
        from seglog.exchanges import Exchanges

        self._check()
        with self._lock:
            if self._exchanges is None:
                self._exchanges = Exchanges(self)
            return self._exchanges

    # ---- what queues and exchanges ask for ----------------------------------------------------------

    def internal_topic(self, name: str, config: TopicConfig) -> Topic:
        """For queues: a topic whose name no user can give; opened, or made."""
        with self._lock:
            self._check()
            self._topology.refresh()
            return self._existing(name) or self._create(name, config)

    @property
    def topology(self) -> Topology:
        """For queues: what there is."""
        return self._topology

    @property
    def lock(self) -> threading.RLock:
        """For queues: what is open in this process changes under it."""
        return self._lock

    # ---- consumers --------------------------------------------------------------------------------

    def consumer(
        self,
        group: str,
        topics: Sequence[str | Topic],
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
        """A member of `group` that reads its share of these topics, which exist. See `Consumer`, also for `commit`.

        * `start`: where a *new* group begins: "earliest", "latest", an aware datetime, or an offset of a single partition. A
          group that has committed goes on from there.
        * `assignor`: how partitions are shared, "sticky" (moves as few as it can), "range", "roundrobin" or a callable;
          see `seglog.assignment`. All members say the same.
        * `instance`: a name under which this member, when it comes back, gets the partitions that it had; others read them
          meanwhile, but only after `rejoin_within` seconds.
        * `reset`: what to do when the records that come next were trimmed away, or when a power cut took records that the
          group had done: "raise" (OffsetOutOfRange, LogTruncated), or go on at the "earliest" that is left or the "latest".
        * `isolation="durable"` hands out only what survives a power cut.
        * `on_assign(consumer, {topic: partitions})` and `on_revoke(...)` are called inside `receive` (and `close`) when
          partitions come and before they go: the time to load or to commit what belongs to them.

        Cost: some file operations. Raises TopicNotFound, GroupInUse for an `instance` that is alive, ConfigError.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     for name in ("orders", "refunds"):
        ...         _ = store.topic(name).send(name.encode())
        ...     with store.consumer("billing", ["orders", "refunds"]) as consumer:
        ...         [(batch.topic, batch.values.tolist()) for batch in consumer.batches(timeout=0)]
        [('orders', [b'orders']), ('refunds', [b'refunds'])]
        """
        self._check()
        if isinstance(topics, str | Topic):
            topics = [topics]
        with self._lock:
            self._topology.refresh()
            found = {t.name: t for t in (self._named(topic) for topic in topics)}
        if not found:
            raise ConfigError("a consumer reads at least one topic; topics is empty", setting="topics", value=topics)
        check_name(group, "group")
        choice("isolation", isolation, ("visible", "durable"))
        hold = seconds(rejoin_within, "rejoin_within")
        one_offset_needs_one_partition(start, "start", [log for topic in found.values() for log in topic.current()])
        membership = Membership(self.group_path(group), group, self._liveness, self.config.lock_timeout)
        sources: list[Source] = []
        try:
            with membership.still():
                sources += [Source(name, topic.current, self.positions(group, topic)) for name, topic in found.items()]
            consumer = Consumer(
                group,
                sources,
                membership,
                start=start,
                commit=commit,
                assignor=assignor,
                instance=instance,
                rejoin_within=hold,
                reset=reset,
                durable=isolation == "durable",
                on_assign=on_assign,
                on_revoke=on_revoke,
                sync_commits=self.config.fsync == "always",
                sync_close=self.config.fsync != "never",
                clock=self.clock,
                closed=self._consumers.discard,
            )
        except BaseException:
            for source in sources:
                source.positions.close()
            raise
        self._consumers.add(consumer)
        return consumer

    def producer(self, id: str) -> Producer:
        """Sends that are numbered by their sender, so that what is sent again after a crash is there once: see `Producer`.

        Opening it takes the id from whoever had it. Cost: a few file operations, and a sync. Raises InvalidName for an id that
        is no name: letters, digits, `.`, `_` and `-`.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders = store.topic("orders")
        ...     with store.producer("importer") as producer:
        ...         producer.send(orders, b"one", sequence=17), producer.send(orders, b"one", sequence=17)
        (Position(partition=0, offset=0), None)
        """
        check_name(id, "producer")
        self._check()
        producer = Producer(
            id,
            os.path.join(self.path, "producers", id),
            self,
            self._liveness,
            timeout=self.config.lock_timeout,
            sync_close=self.config.fsync != "never",
            closed=self._consumers.discard,
        )
        self._consumers.add(producer)
        return producer

    def groups(self) -> list[str]:
        """The names of the consumer groups there are, sorted. One look at a directory."""
        from seglog.groups import groups_of

        self._check()
        return groups_of(self)

    def group(self, name: str) -> Group:
        """A group, to look at, reset or delete, without being a member. Raises GroupNotFound. See `seglog.groups.Group`."""
        from seglog.groups import Group

        self._check()
        return Group(self, name)

    def _named(self, topic: str | Topic) -> Topic:
        if isinstance(topic, Topic):
            return topic
        check_name(topic.removeprefix("~"))
        existing = self._existing(topic)
        if existing is None:
            raise not_found(topic)
        return existing

    # ---- transactions -----------------------------------------------------------------------------

    def transaction(self) -> Transaction:
        """Records for any topics and partitions, all there when the block ends, or none: pass `tx=` to `send` and `send_many`.

        Nothing is written before the end; an exception gives everything up. All or nothing also when the process is killed at
        any point, and, unless `fsync` is "never", when the power goes. Other processes see the parts within microseconds of
        each other. Everything for one partition must fit into a segment. Cost: that of the sends, a lock per partition, and a
        record; with `fsync="always"` two fdatasyncs more than the sends.

        `tx.spans` says afterwards where everything went; for one thread. Raises what a send raises; then nothing was written.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     orders, stock = store.topic("orders"), store.topic("stock")
        ...     with store.transaction() as tx:
        ...         orders.send(b"one table", tx=tx)
        ...         stock.send(b"-1", key=b"table", tx=tx)
        ...     [record.value for topic in (orders, stock) for record in topic.read()]
        [b'one table', b'-1']
        """
        if self._closed:
            self._check()
        return self._transactions.begin()

    # ---- handlers and requests ----------------------------------------------------------------------

    def handler(
        self,
        source: Any,
        *,
        concurrency: int = 1,
        group: str | None = None,
        dedup: Dedup | None = None,
        rate_limit: float | RateLimit | None = None,
        prefetch: int | None = None,
    ) -> Callable[[F], F]:
        """A decorator: the function is called with each message of a queue, or, with `group=`, each record of a topic. The name may
        be that of one which is made, with defaults, when the workers begin. What is done when it raises, see `seglog.handlers`.

        * `concurrency`: how many messages are in work at once in each process: threads, or tasks for an async function. For a
          topic: how many members of the group, so more than partitions are idle.
        * `dedup="message_id"`, or a function of a message that returns bytes: a message whose id was done in the last 7 days is
          acked without a call; the mark is made in the transaction of the ack.
        * `rate_limit`: at most so many a second in this process; or a `RateLimit`, to be shared with others.
        * `prefetch`: how many messages are taken at once; 1, the default, takes no more than there are free workers.

        A function with a parameter `tx` gets a transaction, for what it sends. Nothing is called before `run` or `workers`. Raises
        ConfigError, also when the source has a handler already.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     @store.handler("jobs", concurrency=4)
        ...     def work(message):
        ...         print(message.value)
        ...     _ = store.queue("jobs").send(b"one")
        ...     store.run(timeout=0.1).done
        b'one'
        1
        """
        from seglog.handlers import handler_of

        def register(function: F) -> F:
            self._register(
                handler_of(
                    function,
                    source,
                    concurrency=concurrency,
                    group=group,
                    dedup=dedup,
                    rate_limit=rate_limit,
                    prefetch=prefetch,
                )
            )
            return function

        return register

    def replier(self, name: str, *, concurrency: int = 1) -> Callable[[F], F]:
        """A decorator: the function is called with each request that comes through queue `name`, and returns the reply, bytes.

        It gets the message: `value`, `headers`, `attempts`. What it raises reaches the caller as ReplyError, and settles the
        request; `seglog.Retry` has it tried again, within its timeout. Sync or async. Works with the handlers: see `run`.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     @store.replier("add")
        ...     def add(message):
        ...         return b"%d" % sum(map(int, message.value.split()))
        ...     with store.workers():
        ...         store.request("add", b"1 2 3")
        b'6'
        """
        from seglog.handlers import handler_of
        from seglog.requests import replying

        def register(function: F) -> F:
            self._register(handler_of(replying(self, function), name, concurrency=concurrency))
            return function

        return register

    def _register(self, handler: Handler) -> None:
        with self._lock:
            if any(handler.name == other.name for other in self._handlers):
                raise ConfigError(
                    f"{handler.name} has a handler already: of two functions each would get some of the messages. For more at once "
                    "say concurrency=.",
                    setting="source",
                    value=handler.name,
                )
            self._handlers.append(handler)

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """What `handler` and `replier` registered."""
        return tuple(self._handlers)

    def workers(self, *, workers: int | None = None, grace: float | timedelta = 30.0) -> Workers:
        """The handlers at work while a `with` block runs: `run`, for programs that have something else to do."""
        from seglog.workers import Workers

        self._check()
        made = Workers(self, self._handlers, workers=workers, grace=grace)
        self._workers.add(made)
        return made

    def run(
        self,
        *,
        workers: int | None = None,
        grace: float | timedelta = 30.0,
        timeout: float | timedelta | None = None,
    ) -> WorkerStatistics:
        """Call the handlers until SIGTERM or Ctrl-C says stop, or until for `timeout` seconds no message came; returns what was
        done.

        When told to stop, what is in work has `grace` seconds to finish, and then goes back to its queue, with no attempt
        counted; a second signal ends the grace. `workers` replaces the `concurrency` of each handler. One process: for several,
        that are replaced when they die and become more when there is more to do, `seglog worker module:store`.

        Raises ConfigError when there is no handler, and what the store raises; never what a handler does.
        """
        return self.workers(workers=workers, grace=grace).run(timeout)

    def request(
        self,
        name: str,
        value: Any,
        key: Any = None,
        *,
        headers: Mapping[str, Any] | None = None,
        timeout: float | timedelta = 30.0,
    ) -> bytes:
        """Ask through queue `name`, and return the reply of one of its repliers, in whatever process. See `replier`.

        Cost: two sends, an ack, and the wake-ups of two threads. Raises RequestTimeout when no reply came in time, when nobody
        will begin to work on it any more; and ReplyError with what the replier raised. For many at once: `requests`, or threads.
        """
        return self.requests(name).request(value, key, headers=headers, timeout=timeout)

    def requests(self, name: str) -> Requests:
        """Requests through queue `name` that do not wait for one another: see `Requests`."""
        from seglog.requests import Inbox, Requests

        self._check()
        with self._lock:
            if self._inbox is None:
                self._inbox = Inbox(self)
        return Requests(self, self._inbox, name)

    # ---- care -------------------------------------------------------------------------------------

    def sync(self) -> None:
        """A barrier: returns when everything that was sent before, to any topic that this process has open, survives a
        power cut, and every commit of its consumers too. At most one fsync per partition with something new."""
        self._check()
        for topic in list(self._topics.values()):
            with suppress(TopicNotFound):  # another process deleted it: the others are still to be synced
                topic.sync()
        for queue in self._queues.opened() if self._queues else ():
            with suppress(ClosedError, TopicNotFound):
                queue.sync()
        for consumer in list(self._consumers):
            consumer.sync()

    def upkeep(self) -> None:
        """What the background threads do, for programs that opened with `upkeep=False`: with `fsync="interval"` sync what is
        new; close segments that are old enough; delete what retention says and compact what is worth it, in the topics that
        this process has open. Raises the first error after having tried everything."""
        self._check()
        errors = self._care() + self._tidy()
        if errors:
            raise errors[0]

    def statistics(self) -> StoreStatistics:
        """What there is, counted; frozen. With `.losses`: what recovery found.

        A topic that is not open in this process is opened for the moment. O(partitions)."""
        self._check()
        return StoreStatistics(
            path=self.path,
            topics=dict(self._ask_all(Topic.statistics)),
            upkeep_errors=tuple(error for ticker in (self._ticker, self._tidier) if ticker for error in ticker.errors),
            warnings=tuple(self._warnings),
        )

    def verify(self) -> list[Loss]:
        """Read everything and check every hash; which records are lost, over all topics; empty is the usual answer.

        Changes nothing, and goes on after each finding. Losses that `seglog doctor --repair` set aside are not told again: they
        were accepted. This is the part of `seglog.doctor.examine` that is about records; that tells of everything else too,
        and what can be repaired. Cost: reading the whole store, at about memory speed when it is cached.
        """
        self._check()
        from seglog.doctor import examine  # stands above: it looks at stores

        return list(examine(self.path).losses)

    # ---- close ------------------------------------------------------------------------------------

    @property
    def liveness(self) -> Liveness:
        """This process's slot in the store; its bell rings for every partition."""
        self._check()
        return self._liveness

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Close every topic and consumer. Nothing needs it: what a send returned is safe without. A clean close
        marks where the logs end, which makes the next opening cheap after a reboot too. Closing twice is fine."""
        closing: list[Callable[[], None]] = []
        errors: list[Exception] = []
        if not self._closed:
            for workers in list(self._workers):
                workers.stop()
            if self._inbox is not None:
                self._inbox.close()
            for consumer in list(self._consumers):  # while the store is open: their on_revoke may commit
                try:
                    consumer.close()
                except ForkedHandle:
                    pass
                except Exception as error:
                    errors.append(error)
        with self._lock:
            if self._closed:
                return
            self._closed = True
            tickers, self._ticker, self._tidier = (self._ticker, self._tidier), None, None
        for ticker in tickers:  # without the lock: a tick that is under way may want it
            if ticker is not None:
                ticker.stop()
        closing += [self._queues.close] if self._queues else []
        closing += [consumer.close for consumer in list(self._consumers)]  # made meanwhile, by another thread
        closing += [log.close for topic in self._topics.values() for log in topic.logs]
        closing += [self._transactions.close, self._topology.close, self._liveness.close]
        for close in closing:  # each has its turn, whatever the others say
            try:
                close()
            except ForkedHandle:  # a child without a place sent nothing, and has nothing to put on disk
                pass
            except Exception as error:
                errors.append(error)
        self._topics.clear()
        self._consumers.clear()
        if errors:
            raise errors[0]

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            return f"<Store {self.path}, closed>"
        count = len(self._topology.names(TOPIC))
        return f"<Store {self.path}, {plural(count, 'topic')}, fsync {self.config.fsync}>"

    # ---- what topics and consumers ask for (topic.Home) ---------------------------------------------

    def refresh(self, topic: Topic) -> None:
        """Take in what other processes did to `topic`. One load from shared memory when they did nothing."""
        self._check()
        self._topology.refresh()
        if topic.seen == self._topology.version:
            return
        with self._lock:
            self._check()
            version = self._topology.version
            entry = self._topology.get(TOPIC, topic.name)
            if entry is None or entry["id"] != topic.topic_id:
                self._topics.pop(topic.name, None)
                raise not_found(topic.name)
            config = TopicConfig.from_json(entry["config"], topic.name)
            if config.partitions > topic.partitions:
                more = self._logs_of(topic.name, config, topic.partitions)
                topic.become(config, topic.logs + more)
            topic.seen = version

    def grow(self, topic: Topic, to: int) -> None:
        """Add partitions, in the order of a creation: logs first, then the record."""
        with self._lock, self.gate():
            self.refresh(topic)
            if to < topic.partitions:
                raise ConfigError(
                    f"topic {topic.name} has {plural(topic.partitions, 'partition')}; it cannot have fewer, {to}, since "
                    "records would be lost with them. Nothing was changed.",
                    setting="partitions",
                    value=to,
                )
            if to == topic.partitions:
                return
            config = TopicConfig(**(topic.config.to_json() | {"partitions": to}))  # type: ignore[arg-type]
            more = self._logs_of(topic.name, config, topic.partitions, create=True)
            with closed_on_error(more):
                self._write_down(topic.name, topic.topic_id, config)
                topic.become(config, topic.logs + more)

    def gate(self) -> FileLock:
        door = gate(self.path, self.config.lock_timeout)
        door.doing = "make or delete names"
        return door

    def group_path(self, group: str) -> str:
        """For groups: the folder that one has."""
        return os.path.join(self.path, "groups", group)

    def positions(self, group: str, topic: Topic) -> Positions:
        """Under the group's lock: open its positions in a topic; made when there are none."""
        path = os.path.join(self.group_path(group), topic.name + ".positions")
        return Positions(path, topic_id=int(topic.topic_id, 16), partitions=len(topic.current()))

    def existing(self, name: str) -> Topic:
        """For groups: a topic that there is. Raises TopicNotFound."""
        self._check()
        with self._lock:
            self._topology.refresh()
            return self._named(name)

    def sync_positions(self, group: str, topic: str) -> None:
        """Under the group's lock: put on the disk what it committed in a topic."""
        positions = self.positions(group, self.existing(topic))
        try:
            positions.sync()
        finally:
            positions.close()

    # ---- creating, opening, deleting ----------------------------------------------------------------

    def _existing(self, name: str) -> Topic | None:
        topic = self._topics.get(name)
        if topic is not None:
            with suppress(TopicNotFound):  # another process deleted it, and may have made it anew
                self.refresh(topic)
                return topic
        if self._topology.get(TOPIC, name) is None:
            return None
        topic = self._topics[name] = self._opened(name)
        return topic

    def _opened(self, name: str) -> Topic:
        entry = self._topology.get(TOPIC, name)
        if entry is None:
            raise not_found(name)
        config = TopicConfig.from_json(entry["config"], name)
        return self._made_of(name, entry["id"], config, self._logs_of(name, config))

    def _create(self, name: str, config: TopicConfig) -> Topic:
        with told(self.path, f"create topic {name}"), self.gate():
            self._topology.refresh()
            found = self._existing(name)
            if found is not None:  # another process was quicker
                return found
            if os.path.isdir(os.path.join(self.path, "topics", name)):
                self._clear(name)
            topic_id = secrets.token_hex(8)
            logs = self._logs_of(name, config, create=True)
            with closed_on_error(logs):
                self._write_down(name, topic_id, config)
                topic = self._topics[name] = self._made_of(name, topic_id, config, logs)
                return topic

    def _clear(self, name: str) -> None:
        """Files stand where a topic is to be made. Those of a deleted one go, those that nothing was ever said of are taken over;
        but only as far as it is certain that nothing was said of them that is lost."""
        if name not in self._topology.deleted(TOPIC):
            if self._topology.settled():
                return
            what_to_do = (
                "Put meta back from a backup; or let `seglog doctor --repair` set the damage aside and repeat this"
            )
        elif self._topology.certain(TOPIC, [name]):
            self._remove_files(name)
            return
        else:
            what_to_do = f"Put meta back from a backup; or move topics/{name} elsewhere, which gives its records up"
        raise CorruptStore(
            f"topics/{name} has files, and the topology log in meta, which would say whose they are, is damaged. They may be a "
            f"live topic's: nothing was changed. {what_to_do}; or take another name.",
            path=self.path,
            name=name,
        )

    def _made_of(self, name: str, topic_id: str, config: TopicConfig, logs: tuple[Log, ...]) -> Topic:
        custom = CustomPartitioner(name) if config.partitioner == "custom" else None
        if config.bounded or config.compact or name.startswith("~"):
            self._begin_to_tidy()
        return Topic(self, name, topic_id, config, logs, custom)

    def _begin_to_tidy(self) -> None:
        if self.config.upkeep and self._tidier is None:
            self._tidier = Ticker(TIDY_INTERVAL, self._tidy_tick)

    def _write_down(self, name: str, topic_id: str, config: TopicConfig) -> None:
        self._topology.put(TOPIC, name, {"id": topic_id, "created": self.clock(), "config": config.to_json()})

    def _logs_of(self, name: str, config: TopicConfig, first: int = 0, create: bool = False) -> tuple[Log, ...]:
        """Partitions `first` and up."""
        folder = os.path.join(self.path, "topics", name)
        if create:
            make_directory(folder)
        logs: list[Log] = []
        with closed_on_error(logs):
            for partition in range(first, config.partitions):
                logs += [self._open_log(folder, config, partition, create)]
            if create:
                sync_directory(folder)
        return tuple(logs)

    def _open_log(self, folder: str, config: TopicConfig, partition: int, create: bool) -> Log:
        path = os.path.join(folder, str(partition))
        if not create and not has_segments(path):
            raise CorruptStore(
                f"the log in {path} is missing: partition {partition} of a topic with "
                f"{plural(config.partitions, 'partition')} was removed or not restored. The other partitions are not "
                "affected. Put it back from a backup, or let `seglog doctor --repair` begin it anew, or delete the topic. "
                "Nothing was changed.",
                path=path,
                partition=partition,
            )
        return Log(
            path,
            create=create,
            partition=partition,
            topic=os.path.basename(folder),
            segment_bytes=config.segment_bytes,
            segment_bytes_min=min(config.segment_bytes, 1 << 16 if os.path.basename(folder).startswith("~") else 1 << 20),
            segment_age=config.close_at_age or 0.0,
            fsync=self.config.fsync,
            write=self.config.write,
            codec=config.codec,
            batch_bytes=config.batch_bytes,
            record_bytes_max=config.record_bytes_max,
            recover=self.config.recover,
            clock=self._engine_clock,
            liveness=self._liveness,
            decisions=self._transactions,
            lock_timeout=self.config.lock_timeout,
            dtype=None if config.dtype is None else dtype_of(config.dtype),
        )

    def _decisions(self, create: bool) -> Log | None:
        """The transaction log; made, when it is wanted, by the first transaction."""
        if create and not transactions.exists(self.path):
            with told(self.path, "make the transaction log"), self.gate():
                make_directory(os.path.join(self.path, transactions.FOLDER))
        return transactions.open_log(
            self.path,
            self._transactions,
            create=create,
            fsync="never" if self.config.fsync == "never" else "interval",
            write=self.config.write,
            clock=self._engine_clock,
            liveness=self._liveness,
            lock_timeout=self.config.lock_timeout,
        )

    def _trim_decisions(self) -> None:
        log = self._transactions.log
        if log is not None:
            transactions.trim(log, self._log_at)

    def _log_at(self, path: str) -> Log | None:
        """The log of the partition `path`, as decisions call it: opened with its topic when need be."""
        _, name, partition = path.split("/")
        with suppress(TopicNotFound, IndexError):
            return self.existing(name).current()[int(partition)]
        return None

    def _finish_deletions(self, names: Iterable[str]) -> None:
        topics = os.path.join(self.path, "topics")
        left = set(names).intersection(listed(topics))
        if left:
            with self.gate():
                self._topology.refresh()
                for name in self._topology.certain(TOPIC, left):
                    if self._topology.get(TOPIC, name) is None:
                        self._remove_files(name)

    def _remove_files(self, name: str) -> None:
        """Unlink what a deleted topic left, the records last: their directory says that there is more to do."""
        with told(self.path, f"delete the files of topic {name}"):
            for folder in (os.path.join(self.path, "groups"), os.path.join(self.path, "producers")):
                for one in listed(folder):
                    with suppress(FileNotFoundError, NotADirectoryError):
                        os.unlink(os.path.join(folder, one, name + ".positions"))
            folder = os.path.join(self.path, "topics", name)
            for partition in listed(folder):
                # Tell every process that still has it mapped. What cannot be opened, nobody has.
                with suppress(SeglogError, OSError):
                    Log(os.path.join(folder, partition), create=False, liveness=self._liveness).delete()
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)
                sync_directory(os.path.dirname(folder))

    # ---- helpers ----------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._closed:
            raise ClosedError(f"the store {self.path} is closed. Nothing was read or written.", path=self.path)
        self._liveness.check()  # a forked child may have found no place here

    def _ask_all(self, ask: Callable[[Topic], T]) -> Iterator[tuple[str, T]]:
        """The answer of each topic there is; one that is not open in this process is opened for that moment."""
        for name in self.topics():
            with suppress(TopicNotFound):  # deleted meanwhile
                topic = self._topics.get(name)
                if topic is not None:
                    yield name, ask(topic)
                    continue
                topic = self._opened(name)
                try:
                    yield name, ask(topic)
                finally:
                    close_all(topic.logs)

    def _tick(self) -> None:
        ticker = self._ticker
        for error in self._care():
            if ticker is not None and not self._closed:
                ticker.note(error)

    def _tidy_tick(self) -> None:
        ticker = self._tidier
        for error in self._tidy():
            if ticker is not None and not self._closed:
                ticker.note(error)

    def _tidy(self) -> list[Exception]:
        """Retention and compaction of what is open. Several processes may do it at once: a second trim finds nothing to do, and
        a second compaction leaves it to the first."""
        from seglog.upkeep import tidy  # stands above: it looks at groups too

        errors: list[Exception] = []
        for topic in list(self._topics.values()):
            try:
                for warning in tidy(topic, self.path, self.clock, lambda: self._closed):
                    if warning not in self._warnings:
                        self._warnings.append(warning)
            except (ClosedError, TopicNotFound):  # closed or deleted meanwhile: nothing to tidy
                pass
            except Exception as error:
                errors.append(error)
        for queue in self._queues.opened() if self._queues else ():
            try:
                queue.tidy(lambda: self._closed)
            except (ClosedError, TopicNotFound):
                pass
            except Exception as error:
                errors.append(error)
        return errors

    def _care(self) -> list[Exception]:
        """Upkeep of everything that is open; one that fails does not keep the others from theirs."""
        work: list[Callable[[], object]] = [self._topology.upkeep]
        work += [log.upkeep for topic in list(self._topics.values()) for log in topic.logs]
        work += [self._trim_decisions]
        if self.config.fsync == "interval":
            work += [consumer.sync for consumer in list(self._consumers)]
            work += [queue.sync_states for queue in self._queues.opened()] if self._queues else []
        errors: list[Exception] = []
        for task in work:
            try:
                task()
            except ClosedError:  # closed or deleted meanwhile: nothing to care for
                pass
            except Exception as error:
                errors.append(error)
        return errors


@contextmanager
def closed_on_error(logs: Iterable[Log]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        close_all(logs)
        raise


def close_all(logs: Iterable[Log]) -> None:
    for log in logs:
        with suppress(SeglogError):
            log.close()


def in_seconds(duration: float | timedelta | None, what: str) -> float | None:
    return None if duration is None else seconds(duration, what)


def names_of(groups: Iterable[str]) -> tuple[str, ...]:
    if isinstance(groups, str):
        raise TypeError(f"keep_for_groups is a tuple of names, not one string: ({groups!r},)")
    return tuple(sorted(set(groups)))


def given(**settings: object) -> dict[str, Any]:
    """Those that were passed."""
    return {setting: value for setting, value in settings.items() if value is not None}


def not_found(name: str) -> TopicNotFound:
    return TopicNotFound(
        f"there is no topic {name}: it was never created, or it was deleted, with its records. store.topic({name!r}) "
        "creates one. Nothing was read or written.",
        name=name,
    )


def mismatch(name: str, differences: Mapping[str, tuple[object, object]]) -> TopicMismatch:
    told_apart = ", ".join(
        f"{setting} is {existing!r}, not {asked!r}" for setting, (asked, existing) in differences.items()
    )
    return TopicMismatch(
        f"topic {name} exists with other settings: {told_apart}. Nothing was changed. Leave the settings out to open it "
        "as it is; partitions can be added with topic.add_partitions().",
        name=name,
        differences=dict(differences),
    )


def _after_fork_in_child() -> None:
    # The parent's locks may have been held by threads that are not here. The engine takes care of its own.
    for store in list(_open):
        store._lock = threading.RLock()
        store._topology.after_fork()
        store._transactions.after_fork()
        if store._exchanges is not None:
            store._exchanges.routes.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
