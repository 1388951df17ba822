"""Producer: sends that are numbered by their sender, so that what is sent again after a crash is there once.

    producers/<id>/epoch              u64: how many came with this id, the last of them being the one that may send
    producers/<id>/<topic>.positions  the next number of each partition, as a group's place (`positions`)
    producers/<id>/lock               the door of both

A send is a transaction: the record, and the number that follows its own. Both are there or neither, after a kill and after a
power cut. A newer producer of the same id takes the places; the older one's next send raises Fenced and writes nothing.
It leaves to its user what the numbers are: lines of a file, offsets of another system, anything that only grows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, Self

from seglog.engine.liveness import Liveness
from seglog.engine.places import Place
from seglog.engine.transactions import Transaction
from seglog.errors import ClosedError, CorruptStore, Fenced, ForkedHandle, VersionConflict
from seglog.files import FileLock, make_directory, read_whole, told, write_whole
from seglog.positions import Positions
from seglog.record import Position, Span
from seglog.start import natural
from seglog.topic import Topic

__all__ = ["Producer"]

SUFFIX = ".positions"


class Home(Protocol):
    """What a producer asks of the store it lives in."""

    def transaction(self) -> Transaction: ...

    def topics(self) -> list[str]: ...

    def existing(self, name: str) -> Topic:
        """Opened; raises TopicNotFound."""


class Producer:
    """What `store.producer(id)` returns; one at a time has an id, and the newest one has it.

    `sequence` numbers what you send, in the order in which you send it; gaps are fine. What has a number that its partition
    has seen is not written again. So a program that crashed anywhere goes through its input once more, from wherever it likes:

    >>> import seglog
    >>> lines = [b"one", b"two", b"three"]
    >>> with seglog.open("data") as store:
    ...     log = store.topic("log")
    ...     with store.producer("loader") as producer:
    ...         _ = [producer.send(log, line, sequence=n) for n, line in enumerate(lines[:2])]  # and here it crashes
    ...     with store.producer("loader") as producer:
    ...         again = [producer.send(log, line, sequence=n) for n, line in enumerate(lines)]
    ...     again, [record.value for record in log.read()]
    ([None, None, Position(partition=0, offset=2)], [b'one', b'two', b'three'])

    Numbers count for each topic and partition. So what is sent again must go to the same partition: that of its key, the one
    that is named, or, without either, number modulo partitions; and partitions must not be added in between. For one thread
    at a time.
    """

    def __init__(
        self,
        name: str,
        folder: str,
        home: Home,
        liveness: Liveness,
        *,
        timeout: float,
        sync_close: bool,
        closed: Callable[[Producer], None],
    ) -> None:
        """Made by `Store.producer`."""
        self.id = name
        self._folder = folder
        self._home = home
        self._liveness = liveness
        self._word = liveness.word
        self._timeout = timeout
        self._sync_close = sync_close
        self._when_closed = closed
        self._closed = False
        self._positions: dict[str, Positions] = {}  # by topic
        self._places: dict[tuple[str, int], Place] = {}
        try:
            with told(folder, "open the producer"):
                make_directory(os.path.dirname(folder))
                make_directory(folder)
                with self._door():
                    self.epoch = self._newest() + 1
                    write_whole(os.path.join(folder, "epoch"), self.epoch.to_bytes(8, "little"))
                    for topic in home.topics():
                        if os.path.exists(os.path.join(folder, topic + SUFFIX)):
                            self._put_out(home.existing(topic))
        except BaseException:
            for positions in self._positions.values():
                positions.close()
            raise

    @contextmanager
    def _door(self) -> Iterator[None]:
        with FileLock(os.path.join(self._folder, "lock"), timeout=self._timeout):
            yield

    def _newest(self) -> int:
        """Under the lock: the epoch of the producer that came last."""
        path = os.path.join(self._folder, "epoch")
        try:
            data = read_whole(path)
        except FileNotFoundError:
            return 0
        if len(data) != 8:
            raise CorruptStore(
                f"{path} has {len(data)} bytes, not 8. The records are not touched; put the number of producers that came with "
                f"id {self.id} there, or more, as 8 bytes.",
                path=path,
            )
        return int.from_bytes(data, "little")

    def _put_out(self, topic: Topic) -> None:
        """Under the lock: whoever had the places in this topic has them no more."""
        positions = self._positions[topic.name] = self._opened(topic)
        for log in topic.current()[: positions.partitions]:
            place = positions.place(log)
            place.expel()
            positions.forget(place)

    def _opened(self, topic: Topic) -> Positions:
        path = os.path.join(self._folder, topic.name + SUFFIX)
        return Positions(path, topic_id=int(topic.topic_id, 16), partitions=len(topic.current()))

    def _place(self, topic: Topic, partition: int) -> Place:
        place = self._places.get((topic.name, partition))
        if place is not None and not place.log.closed:
            return place
        with told(self._folder, "open the producer"), self._door():
            if self._newest() != self.epoch:
                raise self._fenced(topic)
            positions = self._positions.get(topic.name)
            if positions is None or positions.topic_id != int(topic.topic_id, 16):
                if positions is not None:  # of a topic of that name that was deleted
                    positions.close()
                positions = self._positions[topic.name] = self._opened(topic)
            logs = topic.current()
            positions.grow(len(logs))
            place = positions.place(logs[partition])
            place.counts = True
            try:
                place.take(self._word << 32 | self.epoch & 0xFFFFFFFF)
            except BaseException:
                place.release()
                positions.forget(place)
                raise
        self._places[topic.name, partition] = place
        return place

    # ---- send ---------------------------------------------------------------------------------------

    def send(
        self,
        topic: Topic,
        value: Any,
        key: Any = None,
        headers: Any = None,
        *,
        sequence: int,
        timestamp: Any = None,
        partition: int | None = None,
        tx: Transaction | None = None,
    ) -> Position | None:
        """`topic.send`, unless a record with this number or a higher one was sent there; None then.

        With `tx` it happens when that commits, and None is returned, too. Cost: some 15 to 25 sends. Raises what
        `topic.send` raises, and Fenced when a newer producer has this id.
        """
        self._check()
        number = natural(sequence, "sequence")
        where = self._partition(topic, key, partition, number)
        place = self._place(topic, where)
        own = self._home.transaction() if tx is None else tx
        with self._told(topic):
            if number < self._next(place, own):
                return None
            topic.send(value, key, headers, timestamp=timestamp, partition=where, tx=own)
            self._count(place, number + 1, own, tx is not None)
            if tx is not None:
                return None
            own.commit()
        ((_, span),) = own.spans
        return Position(where, span.start)

    def send_many(
        self,
        topic: Topic,
        values: Sequence[Any],
        keys: Sequence[Any] | None = None,
        *,
        first_sequence: int,
        partition: int | None = None,
        tx: Transaction | None = None,
    ) -> list[Span]:
        """`topic.send_many` of those that are not there yet; numbered from `first_sequence` on. All of them are there when it
        returns, or after an error none. The spans of what was written; none with `tx`."""
        self._check()
        first = natural(first_sequence, "first_sequence")
        if keys is not None and len(keys) != len(values):
            raise ValueError(f"there are {len(values):,} values and {len(keys):,} keys. Nothing was written.")
        mine: dict[int, list[int]] = {}
        for i in range(len(values)):
            where = self._partition(topic, None if keys is None else keys[i], partition, first + i)
            mine.setdefault(where, []).append(i)
        own = self._home.transaction() if tx is None else tx
        with self._told(topic):
            for where, chosen in mine.items():
                place = self._place(topic, where)
                known = self._next(place, own)
                new = [i for i in chosen if first + i >= known]
                if new:
                    its_keys = None if keys is None else [keys[i] for i in new]
                    topic.send_many([values[i] for i in new], its_keys, partition=where, tx=own)
                    self._count(place, first + new[-1] + 1, own, tx is not None)
            if tx is not None:
                return []
            own.commit()
        return [span for _, span in own.spans]

    def last_sequence(self, topic: Topic) -> int | None:
        """The highest number that was sent to the topic with this id; None when there is none. After a kill everything before it
        is there as well. After a power cut that holds with `fsync="always"`; else begin where you called `sync` last."""
        self._check()
        highest = max(self._next(self._place(topic, p), None) for p in range(len(topic.current())))
        return highest - 1 if highest else None

    def _partition(self, topic: Topic, key: Any, partition: int | None, number: int) -> int:
        if partition is not None:
            return topic.select(natural(partition, "partition"))[0].partition
        if key is not None:
            return topic.partition_of(key)
        return number % len(topic.current())

    def _next(self, place: Place, tx: Transaction | None) -> int:
        """The number that the place waits for, after what `tx` has sent. Raises Fenced: a newer one's is not ours to judge."""
        place.check(0)
        moved = None if tx is None else tx.moved(place)
        return next_number(place) if moved is None else moved

    def _count(self, place: Place, number: int, tx: Transaction, lasts: bool) -> None:
        """The place waits for `number` when `tx` commits; where that `lasts`, only if nothing else was sent meanwhile."""
        try:
            if lasts and tx.moved(place) is None:
                seen = next_number(place)

                def is_still() -> None:
                    if next_number(place) != seen:
                        raise VersionConflict(
                            f"producer {self.id} sent to {place.log.topic}[{place.log.partition}] in another transaction "
                            f"meanwhile: the next number there is {next_number(place):,}, not {seen:,}. Nothing of this one was "
                            "written.",
                            topic=place.log.topic,
                            partition=place.log.partition,
                            expected=seen,
                            actual=next_number(place),
                        )

                tx.require(is_still)
            tx.move(place, number)
        except BaseException:
            tx.abort()  # it holds the record already
            raise

    @contextmanager
    def _told(self, topic: Topic) -> Iterator[None]:
        try:
            yield
        except ForkedHandle:
            raise
        except Fenced as error:
            raise self._fenced(topic) from error

    def _fenced(self, topic: Topic) -> Fenced:
        return Fenced(
            f"a newer producer has the id {self.id}: it will send what this one did not. Nothing was written to {topic.name}.",
            topic=topic.name,
            producer=self.id,
        )

    # ---- care ---------------------------------------------------------------------------------------

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(self._positions)

    def sync(self) -> None:
        """Returns when every number survives a power cut; with them the records they belong to."""
        for positions in list(self._positions.values()):
            if positions.dirty:
                positions.sync()

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Closing twice is fine. The id is free for another; nothing of it is forgotten."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._sync_close and self._liveness.word == self._word:
                self.sync()
        finally:
            for place in self._places.values():
                place.release()
            for positions in self._positions.values():
                positions.close()
            self._places = {}
            self._when_closed(self)

    def _check(self) -> None:
        if self._closed:
            raise ClosedError(f"producer {self.id} is closed. Nothing was written.")
        if self._liveness.word != self._word:
            raise ForkedHandle(
                f"producer {self.id} was carried across a fork, and belongs to the parent. Open one in the child: that one is the "
                "newer. Nothing was written."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Producer {self.id}, the {self.epoch:,}. of its id{', closed' if self._closed else ''}>"


def next_number(place: Place) -> int:
    mark = place.committed()
    return 0 if mark is None else mark[0]
