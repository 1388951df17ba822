"""Feed: where a handler's messages come from, and how each of them is settled.

`QueueFeed` is shared by the workers of a handler: one of them waits for the queue, the others work or wait for their turn, so a
message wakes one thread, and no more are taken than there are free workers. It knows what is in their hands, extends those
leases, and gives back what is not finished in time.

`TopicFeed` belongs to one worker: a member of the handler's group. Records of a partition come in order; one that fails is
handed out again after its pause, and nothing of its partition meanwhile; the other partitions go on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from seglog.engine.transactions import Transaction
from seglog.errors import ClosedError, Fenced, LeaseLost
from seglog.handlers import Handler, Reject, Retry, message_id
from seglog.queue import Message, Queue
from seglog.queueconfig import Backoff
from seglog.record import Record
from seglog.topic import Topic

if TYPE_CHECKING:
    from seglog.store import Store

__all__ = ["Feed", "QueueFeed", "TopicFeed", "feeds_of"]

USUAL = Backoff()  # between the attempts of a queue that has no backoff of its own, and of a topic's record
LOOK = 0.1  # seconds: the longest sleep in a receive, after which it is seen that the workers stop
RECORDS = 500  # of a batch of a topic's records: they are looked at where they lie, so it costs nothing to take many


class QueueFeed:
    """The messages of a queue, for all workers of a handler."""

    comes_again = True  # what could not be settled: when its lease runs out

    def __init__(self, store: Store, handler: Handler, stopping: threading.Event) -> None:
        self.handler = handler
        self.queue: Queue = store.queue(handler.source) if isinstance(handler.source, str) else handler.source
        self._lease = self.queue.config.lease
        self._has_backoff = self.queue.config.backoff is not None
        self._stopping = stopping
        self._turn = threading.Lock()
        self._waiting: deque[Message] = deque()  # taken, and not handed out yet
        self._paid = False  # a token of the rate limit was taken for the next one
        self._held: dict[int, Message] = {}  # taken, and not settled

    def next(self) -> Message | None:
        """The next message; None when the workers stop."""
        with self._turn:
            while not self._stopping.is_set() and self._may_go():
                if not self._waiting:
                    for message in self.queue.receive(max_messages=self.handler.prefetch, timeout=LOOK):
                        self._held[id(message)] = message
                        self._waiting.append(message)
                elif not self._stopping.is_set():
                    self._paid = False
                    return self._waiting.popleft()
            while self._waiting:
                self._release(self._waiting.popleft())
        return None

    def _may_go(self) -> bool:
        """Wait for the rate limit before a message is taken, not with it in hand; False when the workers stop."""
        if self.handler.rate_limit is not None and not self._paid:
            self._paid = True
            return not self._stopping.wait(self.handler.rate_limit.take())
        return True

    def done(self, message: Message, tx: Transaction | None = None) -> None:
        message.ack(tx=tx)

    def failed(self, message: Message, error: BaseException) -> None:
        if isinstance(error, Reject):
            message.reject(error.reason)
            return
        delay = error.delay if isinstance(error, Retry) else None
        if delay is None and not self._has_backoff:
            delay = USUAL.delay(message.attempts)
        message.nack(delay=delay, error=spoken(error))

    def forget(self, message: object) -> None:
        """It is settled, or somebody else's."""
        self._held.pop(id(message), None)

    def attempts(self, message: Message) -> int:
        return message.attempts

    def ident(self, message: Message) -> bytes:
        """What `dedup` calls it."""
        return ident_of(self.handler, message, self.queue.topic)

    @property
    def tick(self) -> float:
        """Seconds from one `keep` to the next: twice within a lease one may come late."""
        return float(self._lease) / 3

    def keep(self) -> None:
        """Extend the leases of what is being worked on; the queue does so up to `max_lease`, for then the handler hangs."""
        for message in self._held.copy().values():
            with suppress(LeaseLost):
                message.extend(self._lease)

    def release(self) -> int:
        """Give back what is still being worked on; its attempt does not count. How many that were."""
        return sum([self._release(message) for message in self._held.copy().values()])

    def _release(self, message: Message) -> bool:
        self._held.pop(id(message), None)
        with suppress(LeaseLost, ClosedError):
            message.release()
            return True
        return False

    def close(self) -> None:
        pass


class TopicFeed:
    """The records that one member of the group reads."""

    tick = float("inf")
    comes_again = False  # a later commit would pass it over

    def __init__(self, store: Store, handler: Handler, stopping: threading.Event) -> None:
        self.handler = handler
        topic = store.topic(handler.source) if isinstance(handler.source, str) else handler.source
        self._topic: Topic = topic
        assert handler.group is not None
        self._consumer = topic.consumer(handler.group)
        self._stopping = stopping
        self._records: Iterator[Record] = iter(())
        self._failed: dict[int, tuple[int, int]] = {}  # by partition: the offset, and how often
        self._due: dict[int, float] = {}  # when its partition goes on
        self._paid = False

    def next(self) -> Record | None:
        """The next record; None when the workers stop."""
        limit = self.handler.rate_limit
        while not self._stopping.is_set():
            if limit is not None and not self._paid:
                self._paid = True
                if self._stopping.wait(limit.take()):
                    break
            for record in self._records:
                self._paid = False
                return record
            self._go_on()
            batch = self._consumer.receive(RECORDS, timeout=LOOK if not self._due else LOOK / 10)
            if batch is not None:
                self._records = self._consumer.walk(batch)
        return None

    def _go_on(self) -> None:
        """With the partitions whose pause is over."""
        now = time.monotonic()
        over = [partition for partition, due in self._due.items() if due <= now]
        if over:
            self._consumer.resume(over)
            for partition in over:
                del self._due[partition]

    def done(self, record: Record, tx: Transaction | None = None) -> None:
        self._consumer.commit(record, tx=tx)
        self._failed.pop(record.partition, None)

    def failed(self, record: Record, error: BaseException) -> None:
        if isinstance(error, Reject):
            self.done(record)
            return
        where = record.partition
        self._failed[where] = record.offset, self.attempts(record)
        delay = error.delay if isinstance(error, Retry) else None
        self._consumer.seek(where, record.offset)
        self._consumer.pause([where])
        self._due[where] = time.monotonic() + (USUAL.delay(self.attempts(record) - 1) if delay is None else delay)

    def attempts(self, record: Record) -> int:
        """1 the first time; counted by this member only, since a topic does not count."""
        offset, count = self._failed.get(record.partition, (-1, 0))
        return count + 1 if offset == record.offset else 1

    def ident(self, record: Record) -> bytes:
        return ident_of(self.handler, record, self._topic)

    def forget(self, record: object) -> None:
        pass

    def keep(self) -> None:
        pass

    def release(self) -> int:
        """What was not committed comes again."""
        return 0

    def close(self) -> None:
        with suppress(ClosedError, Fenced):
            self._consumer.close()


Feed = QueueFeed | TopicFeed


def feeds_of(store: Store, handler: Handler, slots: int, stopping: threading.Event) -> list[Feed]:
    """One for each of so many workers; those of a queue share one."""
    if handler.group is None:
        return [QueueFeed(store, handler, stopping)] * slots
    return [TopicFeed(store, handler, stopping) for _ in range(slots)]


def ident_of(handler: Handler, message: Any, topic: Topic) -> bytes:
    """Raises TypeError where `dedup` returns something else than bytes."""
    assert handler.dedup is not None
    ident: object = handler.dedup(message)
    if not isinstance(ident, bytes):
        raise TypeError(f"dedup returned {type(ident).__name__}, not bytes: {ident!r}. The message was not handled.")
    # One that is deleted and made anew gives its ids a second time.
    return ident + topic.topic_id.encode() if handler.dedup is message_id else ident


def spoken(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
