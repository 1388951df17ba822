"""Consumer: a member of a group, which reads its share of one or more topics and remembers how far the group has come.

It promises that records of one partition come in order; that each partition is read by one member of its group at a time; that what
was committed is not handed out again, not even after a kill; and that what was not committed is, to whoever reads the partition
next, so that nothing is missed. The partitions of a member take turns, so that a busy one does not starve the others.

Who reads what is decided in `membership`; a member takes part in that between two batches, inside `receive`: it gives up what
is to go to another, takes what has become free, and looks after the dead. Use a consumer from one thread at a time.

The race: a member is replaced while it works. Only a dead one is, or one that an operator evicted; and a commit looks at the
owner that stands beside the slots before it stores, so a late one raises Fenced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from types import TracebackType
from typing import Literal, Self, SupportsIndex, overload

from seglog.assignment import ASSIGNORS, Assignor, AssignorName
from seglog.clock import Clock, seconds
from seglog.config import choice
from seglog.engine.log import Log
from seglog.engine.places import Place, first_ready
from seglog.engine.transactions import Transaction
from seglog.errors import (
    ClosedError,
    ConfigError,
    DirectoryInUse,
    Fenced,
    ForkedHandle,
    GroupNotFound,
    LogTruncated,
    OffsetOutOfRange,
    PartitionNotFound,
    StoreFull,
)
from seglog.membership import Membership, State
from seglog.names import check_name
from seglog.positions import Positions
from seglog.record import Batch, Record
from seglog.start import Start, natural, one_offset, start_of

__all__ = ["Assignment", "CommitMode", "Consumer", "Reset", "Source"]

CommitMode = Literal["manual", "after", "before"]
Reset = Literal["raise", "earliest", "latest"]
Assignment = dict[str, tuple[int, ...]]
"""Partitions by topic."""
TopicPartition = tuple[str, int]

RECORDS_MAX = 10_000  # of a batch, unless said otherwise
LOOK = 0.05  # seconds between two looks at who is alive, and the longest sleep
PATIENCE = 0.1  # seconds for which a partition waits for the member that should read it, and a member for the group's lock


class Source:
    """A topic as the consumer sees it: its logs as they are now, and the group's positions in it."""

    def __init__(self, topic: str, logs: Callable[[], tuple[Log, ...]], positions: Positions) -> None:
        self.topic = topic
        self.logs = logs  # raises what there is to say: closed, deleted
        self.positions = positions

    def place(self, partition: int) -> Place:
        """Under the group's lock, which keeps the file from being made longer twice."""
        logs = self.logs()
        self.positions.grow(len(logs))
        return self.positions.place(logs[partition])


class Consumer:
    """What `topic.consumer(group)` and `store.consumer(group, topics)` return.

    `commit` says who commits, and so what a crash costs:

    * "manual", the default: you do, with `commit()`.
    * "after": asking for more commits what was handed out before, and so does leaving the `with` block without an
      exception. At least once: a crash repeats what was being worked on.
    * "before": a batch is committed before it is handed out. At most once: a crash loses what was being worked on.

    Members of one group, in any thread and any process, share the partitions. One that is killed is replaced within 100 ms
    by those that wait for records; one that is slow is never replaced, however long it takes.

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
        group: str,
        sources: Sequence[Source],
        membership: Membership,
        *,
        start: Start,
        commit: CommitMode,
        assignor: AssignorName | Assignor,
        instance: str | None,
        rejoin_within: float,
        reset: Reset,
        durable: bool,
        on_assign: Callable[[Consumer, Assignment], object] | None,
        on_revoke: Callable[[Consumer, Assignment], object] | None,
        sync_commits: bool,
        sync_close: bool,
        clock: Clock,
        closed: Callable[[Consumer], None],
    ) -> None:
        """Made by `Store.consumer` and `Topic.consumer`, which say what the settings mean."""
        choice("commit", commit, ("manual", "after", "before"))
        choice("reset", reset, ("raise", "earliest", "latest"))
        if not callable(assignor):
            choice("assignor", assignor, tuple(ASSIGNORS))
        if instance is not None:
            check_name(instance, "instance")
        for setting, function in (("on_assign", on_assign), ("on_revoke", on_revoke)):
            if function is not None and not callable(function):
                raise ConfigError(f"{setting} must be callable, not {function!r}", setting=setting, value=function)
        self.group = group
        self.topics = tuple(source.topic for source in sources)
        self._sources = {source.topic: source for source in sources}
        self._membership = membership
        self._word = membership.liveness.word
        self._custom = assignor if callable(assignor) else None
        self._commit_mode, self._reset, self._durable = commit, reset, durable
        self._on_assign, self._on_revoke = on_assign, on_revoke
        self._sync_commits, self._sync_close = sync_commits, sync_close
        self._clock = clock
        self._when_closed = closed
        self._closed = self._closing = False
        self._places: dict[TopicPartition, Place] = {}
        self._order: list[Place] = []  # the same, for taking turns
        self._turn = 0
        self._paused: set[TopicPartition] = set()
        self._trouble: dict[TopicPartition, LogTruncated] = {}
        self._counts: dict[str, int] = {}  # partitions per topic, as the group was told
        self._seen = 0  # the generation that was attended to
        self._undone = False  # something of that is left to do, at the next look
        self._untold = False  # the group does not know of partitions that were added
        self._awaited: list[tuple[Place, int]] = []  # what is ours once that owner gives it up
        self._fresh: set[TopicPartition] = set()  # taken, and on_assign was not called yet
        self._looked = 0.0
        self._viewed = -1  # the generation of the next two
        self._owners: set[int] = set()
        self._others: dict[TopicPartition, Place] = {}  # what others should read
        self._unread: dict[TopicPartition, float] = {}  # of them: what nobody owns, and since when
        self._seen_places: dict[TopicPartition, Place] = {}  # to look at
        self._join(start, "custom" if callable(assignor) else assignor, instance, rejoin_within)

    # ---- the group --------------------------------------------------------------------------------

    def _join(self, start: Start, assignor: str, instance: str | None, hold: float) -> None:
        with self._membership.change() as state:
            self._counts = {topic: len(source.logs()) for topic, source in self._sources.items()}
            read = {topic for member in state.members for topic in member.topics}
            ids = {topic: source.positions.topic_id for topic, source in self._sources.items()}
            self._membership.join(state, self._counts, ids, assignor, self._custom, instance, hold)
            for topic, source in self._sources.items():
                if topic not in read:
                    self._found(source, start, state)
        try:
            self._attend()
        except BaseException:
            try:
                self._give_up(list(self._places))
            finally:
                self._membership.leave(self._custom)
            raise

    def _found(self, source: Source, start: Start, state: State) -> None:
        """A group that never committed begins at `start`, in every partition that there is now."""
        places = [source.place(partition) for partition in range(self._counts[source.topic])]
        # A group that knows other partitions is not new: one that was added later is read from its beginning. And "earliest"
        # is where a place without a commit begins; else what is sent before the first one would lie before a second "latest".
        if start != "earliest" and not any(place.committed() for place in places):
            for place in places:
                place.put(start_of(start, place.log), state.generation + 1)
        for place in places:
            source.positions.forget(place)

    def _attend(self, give_up: bool = True) -> None:
        """Take part in the group: see who died, give up what is another's, take what is ours and free."""
        group = self._membership
        self._looked = time.monotonic()
        counts = {topic: len(source.logs()) for topic, source in self._sources.items()}
        self._untold = self._untold or counts != self._counts
        self._counts = counts
        unread = self._look_at_others()
        if self._untold or group.state().stale or group.me().busy or unread or group.dead():
            # On a full disk, and while somebody is stopped who holds the group's lock, members read on what they have: the
            # disk may get room by what they do. The next look tries again.
            with suppress(DirectoryInUse, StoreFull), group.change(PATIENCE) as state:
                for topic, count in counts.items():
                    state.know(topic, self._sources[topic].positions.topic_id, count)
                    self._sources[topic].positions.grow(count)  # for all, who then see whether somebody comes for it
                for member in state.members:
                    member.busy = member.busy and member.number != group.number
                for where in unread:
                    state.take_from(where)
                state.rebalance(self._custom)
                self._untold = False
        group.me()
        if group.generation == self._seen and not self._undone and not self._awaited:
            return
        state = group.state()
        self._seen = state.generation
        wanted = set(state.of(group.number))
        self._undone, whole = True, False  # unless we come to the end
        try:
            if give_up:
                self._give_up([where for where in self._places if where not in wanted])
        finally:
            if not self._closed:  # by on_revoke
                try:
                    whole = self._take(wanted.difference(self._places))
                finally:
                    self._announce()
        self._check()
        self._undone = not whole or not wanted.issuperset(self._places)

    def _look_at_others(self) -> set[TopicPartition]:
        """What others should read, and nobody has come for in a tenth of a second. A load per partition of theirs."""
        group = self._membership
        state = group.state()
        if state.generation != self._viewed:
            self._viewed = state.generation
            self._owners = {member.owner for member in state.members}
            awaited = {member.number for member in state.members if member.gone is not None} | {group.number}
            self._others = {}
            for where, number in state.target.items():
                if number not in awaited and (place := self._look(where)) is not None:
                    self._others[where] = place
        unread = {
            where: self._unread.get(where, self._looked)
            for where, place in self._others.items()
            if place.owner not in self._owners
        }
        self._unread = unread
        return {where for where, since in unread.items() if self._looked - since > PATIENCE}

    def _look(self, where: TopicPartition) -> Place | None:
        """A place of the group, to look at; None where we do not read, or know of no such partition yet."""
        place = self._seen_places.get(where)
        source = self._sources.get(where[0])
        if place is None and source is not None and where[1] < self._counts[where[0]]:
            place = source.positions.look(source.logs()[where[1]])
            if place is not None:
                self._seen_places[where] = place
        return place

    def _take(self, missing: set[TopicPartition]) -> bool:
        """Of these, what is ours and free; whether that was all that there is to do."""
        self._awaited = []
        if not missing:
            return True
        errors: list[Exception] = []
        whole = True
        try:
            with self._membership.still(PATIENCE) as state:
                me = self._membership.me()
                owners = {member.owner for member in state.members} - {me.owner}
                for topic, source in self._sources.items():
                    if any(t == topic for t, _ in missing):
                        source.positions.grow(len(source.logs()))
                for where in sorted(missing.intersection(state.of(me.number))):
                    place = self._look(where)
                    if place is None:
                        whole = False
                    elif (owner := place.owner) in owners:
                        self._awaited.append((place, owner))  # it lives, and gives it up between two batches
                    else:
                        try:
                            self._take_one(where, me.owner)
                        except Exception as error:  # a damaged place must not keep us from the others
                            errors.append(error)
        except DirectoryInUse:
            whole = False
        if errors:
            raise errors[0]
        return whole

    def _take_one(self, where: TopicPartition, me: int) -> None:
        source = self._sources[where[0]]
        place = source.place(where[1])
        try:
            place.take(me)
            place.durable = self._durable
            place.paused = where in self._paused
            self._begin(where[0], place)
        except BaseException:
            place.release()
            source.positions.forget(place)
            raise
        self._places[where] = place
        self._fresh.add(where)

    def _announce(self) -> None:
        """Say what was taken, and only then read from it: on_assign may have something to load, or a place to go to."""
        fresh = sorted(self._fresh)
        self._fresh.clear()
        try:
            if fresh and self._on_assign is not None:
                self._on_assign(self, by_topic(fresh))
        except BaseException:
            self._fresh.update(where for where in fresh if where in self._places)
            raise
        finally:
            self._line_up()

    def _line_up(self) -> None:
        self._order = [self._places[where] for where in sorted(self._places) if where not in self._fresh]

    def _begin(self, topic: str, place: Place) -> None:
        """Go to what was committed."""
        log, mark = place.log, place.committed()
        if mark is None:
            place.at = log.first_offset
            return
        place.at, epoch = mark[0], mark[1]
        end = log.end_of_epoch(epoch)
        if place.at <= end:
            return
        if self._reset != "raise":
            place.at = end if self._reset == "earliest" else log.next_offset
            place.moved = True
            return
        self._trouble[topic, log.partition] = LogTruncated(
            f"group {self.group} was at offset {place.at:,} of {topic}[{log.partition}], but a power cut took the records "
            f"from {end:,} on: {place.at - end:,} that it had done are gone, and what came later has other offsets. Undo what "
            f"they did where that matters, then say seek({log.partition}, {end}) to read what came instead.",
            offset=place.at,
            end=end,
            first=log.first_offset,
            next=log.next_offset,
            topic=topic,
            partition=log.partition,
        )

    def _give_up(self, lost: list[TopicPartition]) -> None:
        if not lost:
            return
        told = [where for where in lost if where not in self._fresh]
        try:
            try:
                if self._commit_mode == "after":
                    self._commit_moved(lost)
            finally:
                if told and self._on_revoke is not None:
                    self._on_revoke(self, by_topic(told))
            # What a transaction committed and waits for the disk is written by its owner, and by nobody else.
            young = any(self._places[where].young for where in lost if where in self._places)
            if self._sync_commits or (young and self._sync_close):
                self.sync()
        finally:
            for where in lost:
                place = self._places.pop(where, None)
                if place is not None:  # else on_revoke closed us
                    place.release()
                    self._sources[where[0]].positions.forget(place)
            self._trouble = {where: error for where, error in self._trouble.items() if where in self._places}
            self._fresh.difference_update(lost)
            self._line_up()
            self._membership.liveness.ring()

    # ---- receive ----------------------------------------------------------------------------------

    def receive(self, max_records: int = RECORDS_MAX, timeout: float | timedelta | None = None) -> Batch | None:
        """The next run of records of one partition, at most `max_records`; None when none came for `timeout` seconds.

        `timeout=None` waits for ever and 0 only looks. Cost: a read of one frame or a few, no copy of their bytes.
        Raises OffsetOutOfRange when the records that come next were trimmed away, and LogTruncated when a power cut took
        records that the group had done, unless `reset` says what to do; skipping is yours to decide. Raises Fenced
        when the consumer was evicted from its group.
        """
        count = RECORDS_MAX if max_records is RECORDS_MAX else natural(max_records, "max_records", 1)
        deadline = None if timeout is None else time.monotonic() + seconds(timeout, "timeout")
        self._check()
        if self._commit_mode == "after":
            self._commit_moved(self._places)
        liveness = self._membership.liveness
        while True:
            if self._due():
                self._attend()
            batch = self._next(count)
            if batch is not None:
                break
            ticket = liveness.listen()
            if self.ready():
                continue
            left = LOOK if deadline is None else min(LOOK, deadline - time.monotonic())
            if left <= 0:
                return None
            liveness.wait(ticket, left)
            self._check()
        if self._commit_mode == "before":
            self._commit_all({(batch.topic or "", batch.partition): batch.next_offset})
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
        where = batch.topic or "", batch.partition
        place = self._places.get(where)
        if place is None:
            return
        for record in batch:
            here = record.offset + 1
            place.at = here
            place.moved = True  # again: a commit in between lowered it
            yield record
            if place.at != here or place.paused or self._places.get(where) is not place:
                return  # somebody went elsewhere: the rest of this batch is not what comes next
        place.at = batch.next_offset

    def __iter__(self) -> Iterator[Record]:
        """Every record, and those to come: waits for ever. `records(timeout=)` ends."""
        return self.records()

    def _next(self, max_records: int) -> Batch | None:
        while (i := first_ready(self._order, self._turn)) >= 0:
            self._turn = i + 1
            place = self._order[i]
            if self._trouble:
                error = self._trouble.get((place.log.topic or "", place.log.partition))
                if error is not None:
                    raise error
            try:
                batch = place.next(max_records)
            except OffsetOutOfRange as error:
                if self._reset == "raise":
                    raise self._trimmed(place) from error
                place.at = place.log.first_offset if self._reset == "earliest" else place.log.next_offset
                place.moved = True
                continue
            if batch is not None:
                return batch
        return None

    def ready(self) -> bool:
        """Whether `receive` has something to do now. One load per partition; raises ClosedError once closed."""
        self._check()
        return self._due() or first_ready(self._order, 0) >= 0

    def _due(self) -> bool:
        """Whether it is time to look after the group."""
        if self._membership.generation != self._seen or any(place.owner != owner for place, owner in self._awaited):
            return True
        return time.monotonic() - self._looked > LOOK

    # ---- commit -----------------------------------------------------------------------------------

    def commit(
        self,
        what: Record | Batch | Mapping[int, int] | Mapping[TopicPartition, int] | None = None,
        *,
        tx: Transaction | None = None,
    ) -> None:
        """The group is done with what was handed out; or up to and with a record or a batch; or with all before the given
        offset of each partition, `{partition: offset}`, or `{(topic, partition): offset}` with several topics.

        Cost: a hash and a store per partition, well under a microsecond for a record; with `fsync="always"` one fdatasync as well.
        With "interval" the store's upkeep does that. Raises OffsetOutOfRange for an offset that is not there yet, and
        Fenced for a partition that is not this member's (any more); then nothing was committed.

        With `tx`, a transaction of the store, the group is done with it when that commits, and only if it does; a partition that
        is another member's by then raises Fenced, and gives the transaction up. For `commit="manual"`.

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
        if type(what) is Record:
            place = self._places.get((what.topic, what.partition))  # type: ignore[arg-type]
            if place is not None and tx is None and not self._sync_commits:
                place.commit(what.offset + 1, self._seen)
                return
            if place is not None and tx is not None and self._commit_mode == "manual":
                tx.move(place, what.offset + 1, self._seen)
                return
        self._check()
        if tx is not None and self._commit_mode != "manual":
            raise ConfigError(
                f'this consumer commits by itself (commit="{self._commit_mode}"), so a transaction cannot: open it with '
                'commit="manual". Nothing was committed.',
                setting="commit",
                value=self._commit_mode,
            )
        if what is None:
            self._commit_moved(self._places, tx)
        elif isinstance(what, Batch):
            self._commit_all({self._whose(what): what.next_offset}, tx)
        elif isinstance(what, Record):
            self._commit_all({self._whose(what): what.offset + 1}, tx)
        elif isinstance(what, Mapping):
            self._commit_all({self._where(key): one_offset(offset, "offset") for key, offset in what.items()}, tx)
        else:
            raise TypeError(
                f"commit takes a record, a batch or {{partition: offset}}, not {type(what).__name__}: {what!r}"
            )

    def _whose(self, what: Record | Batch) -> TopicPartition:
        if what.topic is None or what.topic not in self._sources:
            raise ConfigError(
                f"cannot commit a record of {what.topic or 'no topic'}: group {self.group} reads {', '.join(self.topics)} here. "
                "Nothing was committed.",
                setting="topic",
                value=what.topic,
            )
        return what.topic, what.partition

    def _commit_moved(self, places: Iterable[TopicPartition], tx: Transaction | None = None) -> None:
        here = self._places
        self._commit_all({where: here[where].at for where in places if where in here and here[where].moved}, tx)

    def _commit_all(self, offsets: Mapping[TopicPartition, int], tx: Transaction | None = None) -> None:
        places = [(self._owned(where), offset) for where, offset in offsets.items()]
        if tx is not None:
            for place, offset in places:
                tx.move(place, offset, self._seen)
            return
        for place, offset in places:  # all are right before the first is stored
            place.check(offset)
        for place, offset in places:
            place.commit(offset, self._seen)
        if self._sync_commits and places:
            self.sync()

    def sync(self) -> None:
        """Returns when every commit survives a power cut, whatever `fsync` says. One fdatasync per topic, none if there is
        nothing to do."""
        for source in self._sources.values():
            if source.positions.dirty:
                source.positions.sync()

    # ---- where ------------------------------------------------------------------------------------

    @overload
    def seek(self, where: datetime | Literal["earliest", "latest"], /) -> None: ...
    @overload
    def seek(self, partition: SupportsIndex, where: Start, /, *, topic: str | None = None) -> None: ...
    def seek(self, first: Start, second: Start | None = None, /, *, topic: str | None = None) -> None:
        """`seek(partition, where)`, or `seek(where)` for all partitions of this member: go on reading from there.

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
        self._attend(give_up=False)  # that is between two batches, and this may be in the middle of one
        if second is not None:
            places, where = [self._owned(self._where(first, topic))], second
        elif isinstance(first, str | datetime):
            places, where = [p for (name, _), p in sorted(self._places.items()) if topic in (None, name)], first
        else:
            raise TypeError(
                f"seek({first!r}) does not say where: seek(partition, offset), or seek(datetime), "
                'seek("earliest"), seek("latest") for all partitions'
            )
        targets = [(place, start_of(where, place.log)) for place in places]
        for place, offset in targets:
            place.at, place.moved = offset, True
            self._trouble.pop((place.log.topic or "", place.log.partition), None)

    def position(self, partition: int = 0, *, topic: str | None = None) -> int:
        """The offset of the next record to be received from `partition`. Raises Fenced when another member reads it."""
        self._catch_up()
        return self._owned(self._where(partition, topic)).at

    def committed(self, partition: int = 0, *, topic: str | None = None) -> int | None:
        """The offset that the group would go on from after a crash; None while nothing was committed. Of any partition."""
        self._check()
        name, number = self._where(partition, topic)
        place = self._places.get((name, number))
        if place is None:
            source = self._sources[name]
            with self._membership.still():
                place = source.place(number)
                source.positions.forget(place)
        mark = place.committed()
        return None if mark is None else mark[0]

    def lag(self, partition: int | None = None, *, topic: str | None = None) -> int:
        """How many records are yet to be received, of one partition or of all of this member's. O(partitions)."""
        self._catch_up()
        places = self._asked(partition, topic)
        return sum(max(0, p.log.next_offset - max(p.at, p.log.first_offset)) for p in places)

    def lag_seconds(self, partition: int | None = None, *, topic: str | None = None) -> float:
        """How old the oldest record is that is yet to be received; 0.0 when there is none. One read per partition."""
        self._catch_up()
        places = self._asked(partition, topic)
        return max((age_of_next(p.log, p.at, self._clock) for p in places), default=0.0)

    def _asked(self, partition: int | None, topic: str | None) -> list[Place]:
        if partition is None:
            return [place for (name, _), place in self._places.items() if topic in (None, name)]
        return [self._owned(self._where(partition, topic))]

    @property
    def assignment(self) -> Assignment:
        """The partitions that this member reads now, by topic."""
        return by_topic(sorted(self._places))

    @property
    def member(self) -> str:
        """What this member is called in `seglog group describe`."""
        return self._membership.me().name

    def pause(self, partitions: Iterable[int] | None = None, *, topic: str | None = None) -> None:
        """Hand out nothing from these partitions, or from any, until `resume`. Positions stay, and so does ownership."""
        self._paused |= self._numbers(partitions, topic)
        self._apply_paused()

    def resume(self, partitions: Iterable[int] | None = None, *, topic: str | None = None) -> None:
        """The reverse of `pause`."""
        self._paused -= self._numbers(partitions, topic)
        self._apply_paused()

    def _apply_paused(self) -> None:
        for where, place in self._places.items():
            place.paused = where in self._paused

    def _numbers(self, partitions: Iterable[int] | None, topic: str | None) -> set[TopicPartition]:
        self._check()
        if partitions is not None:
            return {self._where(partition, topic) for partition in partitions}
        return {
            (name, partition)
            for name, source in self._sources.items()
            if topic in (None, name)
            for partition in range(len(source.logs()))
        }

    def _where(self, partition: object, topic: str | None = None) -> TopicPartition:
        """A partition of a topic that is read here, named by number, or by topic and number."""
        if isinstance(partition, tuple) and len(partition) == 2 and topic is None:
            topic, partition = partition
        if topic is None:
            if len(self.topics) > 1:
                raise ConfigError(
                    f"group {self.group} reads {', '.join(self.topics)} here: say of which, with topic=.",
                    setting="topic",
                    value=None,
                )
            topic = self.topics[0]
        if topic not in self._sources:
            raise ConfigError(
                f"group {self.group} does not read {topic!r} here, but {', '.join(self.topics)}.", setting="topic", value=topic
            )
        number, count = natural(partition, "partition"), len(self._sources[topic].logs())
        if number >= count:
            raise PartitionNotFound(
                f"topic {topic} has {count} partitions, 0 .. {count - 1}; there is no {number}.",
                partition=number,
                partitions=count,
            )
        return topic, number

    def _owned(self, where: TopicPartition) -> Place:
        place = self._places.get(where)
        if place is None:
            self._where(where)
            raise Fenced(
                f"{where[0]}[{where[1]}] is not assigned to this member of group {self.group}, which has "
                f"{spoken(self.assignment)}. Nothing was committed: another member reads it, or is about to.",
                topic=where[0],
                partition=where[1],
            )
        return place

    def _trimmed(self, place: Place) -> OffsetOutOfRange:
        log, at = place.log, place.at
        return OffsetOutOfRange(
            f"group {self.group} is at offset {at:,} of {log.topic}[{log.partition}], but records before "
            f"{log.first_offset:,} were trimmed away: {log.first_offset - at:,} are gone. To go on with what is "
            f'left, say seek({log.partition}, "earliest"), or open the consumer with reset="earliest".',
            offset=at,
            first=log.first_offset,
            next=log.next_offset,
            topic=log.topic,
            partition=log.partition,
        )

    # ---- close ------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Leave the group: the other members have its partitions at once. Commits nothing (but calls `on_revoke`); with `fsync`
        other than "never", what was committed before is synced. Closing twice is fine."""
        if self._closed or self._closing:  # on_revoke may call it
            return
        self._closing = True
        try:
            if not self._forked:
                try:
                    told = by_topic(where for where in self._places if where not in self._fresh)
                    if self._on_revoke is not None and told:
                        self._on_revoke(self, told)
                    if self._sync_close:
                        self.sync()
                finally:
                    for place in self._places.values():
                        place.release()
                    with suppress(GroupNotFound):  # evicted, and the group was deleted since
                        self._membership.leave(self._custom)
        finally:
            self._closed = True
            self._places, self._order, self._awaited = {}, [], []
            for source in self._sources.values():
                source.positions.close()
            self._when_closed(self)

    @property
    def _forked(self) -> bool:
        return self._membership.liveness.word != self._word

    def _check(self) -> None:
        if self._closed:
            raise ClosedError(
                f"the consumer of {', '.join(self.topics)} for group {self.group} is closed. Nothing was read or committed."
            )
        if self._forked:
            raise ForkedHandle(
                "this consumer was carried across a fork, and its place belongs to the parent. Open one of its own in "
                "the child. Nothing was read or committed."
            )
        for topic, source in self._sources.items():
            if len(source.logs()) != self._counts[topic]:
                self._looked = 0.0  # partitions were added: look after the group at once

    def _catch_up(self) -> None:
        """`_check`, and take what was added since."""
        self._check()
        if self._looked == 0.0:
            self._attend(give_up=False)

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
        what = f"<Consumer of {', '.join(self.topics)} for {self.group}"
        if self._closed:
            return what + ", closed>"
        several = len(self.topics) > 1
        places = ", ".join(
            f"{f'{topic}:' if several else ''}{partition}: {place.at:,}"
            for (topic, partition), place in sorted(self._places.items())[:8]
        )
        return f"{what}, next {{{places}{', ...' if len(self._places) > 8 else ''}}}>"


def by_topic(where: Iterable[TopicPartition]) -> Assignment:
    found: dict[str, list[int]] = {}
    for topic, partition in sorted(where):
        found.setdefault(topic, []).append(partition)
    return {topic: tuple(partitions) for topic, partitions in found.items()}


def spoken(assignment: Assignment) -> str:
    said = (f"{topic}[{', '.join(map(str, partitions))}]" for topic, partitions in assignment.items())
    return ", ".join(said) or "none"


def age_of_next(log: Log, at: int, clock: Clock) -> float:
    """Seconds since the timestamp of the record at or after `at`; 0.0 when there is none."""
    at = max(at, log.first_offset)
    batch = log.read(at, 1) if at < log.next_offset else None
    return 0.0 if batch is None else max(0.0, (clock() - int(batch.timestamps[0])) / 1e6)
