"""Requests: ask through a queue, and get the answer back.

    caller    submit -- queue `name` (header correlation-id, ttl = timeout) -->  replier: a handler with a `tx`
              inbox  <-- topic ~seglog.replies (key = the correlation id) -----  reply and ack, in one transaction

A request is a message: it waits while no replier runs, it is delivered again within its timeout when a replier is killed, and it
expires with its timeout, so that nobody begins to work for a caller who gave up. The reply and the ack are one transaction: no
request is acked without its reply, and none is answered twice unless its replier lost the lease.

**Why one topic for all replies.** A reply is worth something only to the process that asked, and only until its timeout. A queue
for each caller would have to be made (some fsyncs), found and, when its caller died, swept away. In one bounded topic there is
nothing to clean up: a dead caller's replies go with their segment, and whoever has asked reads along with one thread, picks out
what begins with his own name and passes over the rest, which costs a comparison each. The thread sleeps on the topic's bell.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import secrets
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from seglog.clock import seconds
from seglog.config import TopicConfig
from seglog.engine.transactions import Transaction
from seglog.errors import ClosedError, ConfigError, OffsetOutOfRange, ReplyError, RequestTimeout, SeglogError
from seglog.handlers import Retry
from seglog.names import check_name
from seglog.topic import Topic

if TYPE_CHECKING:
    from seglog.store import Store

__all__ = ["CORRELATION_ID", "REPLIES", "Inbox", "RequestStatistics", "Requests", "replying"]

CORRELATION_ID = "correlation-id"
"""The header of a request that names it, and under which name its reply comes back."""
ERROR = "reply-error"
"""The header of a reply that tells of an exception, as JSON."""
REPLIES = "~seglog.replies"
KEPT_BYTES = 64 << 20  # of replies, at least: far more than any reader is ever behind
LOOK = 0.1  # seconds from one look at what is overdue to the next
TRACEBACK_MAX = 16_000  # characters, the last ones


@dataclass(frozen=True, slots=True)
class RequestStatistics:
    """What this process asked of one queue, counted."""

    outstanding: int
    sent: int
    replied: int
    failed: int  # the replier raised
    timed_out: int
    late: int  # replies that nobody waited for any more: dropped


class Outstanding:
    """A request that was not answered yet."""

    __slots__ = ("due", "future", "ident", "name", "timeout")

    def __init__(self, ident: str, name: str, timeout: float) -> None:
        self.ident = ident
        self.name = name
        self.timeout = timeout
        self.due = time.monotonic() + timeout
        self.future: Future[bytes] = Future()


class Inbox:
    """Where the replies come in that this process waits for; one per store. Threads share it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._topic: Topic | None = None
        self._mine = secrets.token_hex(8)  # no two processes, and no two runs of one, have the same
        self._waiting: dict[str, Outstanding] = {}
        self._due: list[tuple[float, str]] = []
        self._number = 0
        self._closed = False
        self._counts: dict[str, Counter[str]] = {}

    def submit(
        self, name: str, queue: Any, value: Any, key: Any, headers: Mapping[str, Any] | None, timeout: float
    ) -> Outstanding:
        self._open()
        with self._lock:
            self._number += 1
            ident = f"{self._mine}/{name}/{self._number}"
            one = self._waiting[ident] = Outstanding(ident, name, timeout)
            heappush(self._due, (one.due, ident))
            if len(self._due) > 1000 + 2 * len(self._waiting):  # most of them were answered
                self._due = sorted((other.due, other.ident) for other in self._waiting.values())
            self._counts.setdefault(name, Counter())["sent"] += 1
        try:
            queue.send(value, key, {**(headers or {}), CORRELATION_ID: ident.encode()}, ttl=timeout, timeout=timeout)
        except BaseException:
            with self._lock:
                self._waiting.pop(ident, None)
                self._counts[name]["sent"] -= 1
            raise
        return one

    def expire(self, one: Outstanding) -> None:
        """Its time is over, or its caller gave up: the reply, when it comes, is late."""
        with self._lock:
            found = self._waiting.pop(one.ident, None)
            self._counts[one.name]["timed_out"] += found is not None
        if found is not None:
            fail(one, overdue(one))

    def statistics(self, name: str) -> RequestStatistics:
        with self._lock:
            counts = self._counts.get(name, Counter())
            outstanding = sum(one.name == name for one in self._waiting.values())
            return RequestStatistics(
                outstanding, *(counts[what] for what in ("sent", "replied", "failed", "timed_out", "late"))
            )

    def close(self) -> None:
        """Who waits gets ClosedError. Closing twice is fine."""
        path = self._store.path
        self._fail_all(ClosedError(f"the store {path} was closed before the reply came.", path=path))

    # ---- the thread that reads --------------------------------------------------------------------

    def _open(self) -> None:
        """Before the first request: whatever is replied to it comes behind where the reading begins."""
        if self._pid != os.getpid():  # a forked child: its parent's requests are not its own, and threads do not come along
            self._lock = threading.Lock()
            self._begin()
        with self._lock:
            if self._topic is None:
                self._topic = replies_of(self._store)
                at = self._topic.next_offset()
                self._closed = False
                threading.Thread(target=self._read, args=(self._topic, at), name="seglog-replies", daemon=True).start()

    def _read(self, topic: Topic, at: int) -> None:
        mine = f"{self._mine}/".encode()
        try:
            while not self._closed:
                if topic.wait(at, timeout=LOOK):
                    try:
                        batch = topic.read_batch(offset=at)
                    except OffsetOutOfRange:  # this process stood still for so long that replies went
                        at = topic.first_offset()
                        continue
                    if batch is not None:
                        keys = batch.keys.tolist() if batch.keys is not None else []
                        for i, key in enumerate(keys):
                            if key is not None and key.startswith(mine):
                                record = batch[i]
                                self._replied(key.decode(), record.value or b"", record.headers.get(ERROR))
                        at = batch.next_offset
                self._expire_overdue()
        except Exception as error:  # the store was closed, or the topic deleted: nothing will be read any more
            self._fail_all(error)

    def _replied(self, ident: str, value: bytes, error: bytes | None) -> None:
        name = ident.split("/")[1]
        with self._lock:
            one = self._waiting.pop(ident, None)
            what = "late" if one is None else "replied" if error is None else "failed"
            self._counts.setdefault(name, Counter())[what] += 1
        if one is not None and error is not None:
            fail(one, told(name, error))
        elif one is not None:
            with suppress(InvalidStateError):  # its caller cancelled it
                one.future.set_result(value)

    def _expire_overdue(self) -> None:
        late = []
        with self._lock:
            while self._due and self._due[0][0] <= time.monotonic():
                one = self._waiting.pop(heappop(self._due)[1], None)
                if one is not None:
                    self._counts[one.name]["timed_out"] += 1
                    late.append(one)
        for one in late:
            fail(one, overdue(one))

    def _fail_all(self, error: Exception) -> None:
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
            self._closed, self._topic = True, None
        for one in waiting:
            fail(one, error)


class Requests:
    """What `store.requests(name)` returns: for many requests at once, whose replies come in any order. Threads may share it.

    >>> import seglog
    >>> with seglog.open("data") as store:
    ...     @store.replier("upper", concurrency=4)
    ...     def upper(message):
    ...         return message.value.upper()
    ...     with store.workers():
    ...         futures = [store.requests("upper").submit(word, timeout=5) for word in (b"a", b"b", b"c")]
    ...         [future.result() for future in futures]
    [b'A', b'B', b'C']
    """

    def __init__(self, store: Store, inbox: Inbox, name: str) -> None:
        """Made by `Store.requests`."""
        self.name = check_name(name, "queue")
        self._inbox = inbox
        self._queue = store.queue(name)

    def submit(
        self,
        value: Any,
        key: Any = None,
        *,
        headers: Mapping[str, Any] | None = None,
        timeout: float | timedelta = 30.0,
    ) -> Future[bytes]:
        """Ask, and go on: the future has the reply, or raises RequestTimeout (at most a tenth of a second late) or ReplyError.

        `asyncio.wrap_future` makes it awaitable. Cost: a send, and half a kilobyte until it is answered. Raises what
        `queue.send` does.
        """
        return self._submit(value, key, headers, timeout).future

    def request(
        self,
        value: Any,
        key: Any = None,
        *,
        headers: Mapping[str, Any] | None = None,
        timeout: float | timedelta = 30.0,
    ) -> bytes:
        """`Store.request`, of this queue."""
        one = self._submit(value, key, headers, timeout)
        try:
            return one.future.result(max(0.0, one.due - time.monotonic()))
        except TimeoutError:
            self._inbox.expire(one)
            return one.future.result()  # raises what it was given; or has the reply, if that was quicker
        finally:
            self._inbox.expire(one)  # Ctrl-C: nobody waits any more

    def _submit(
        self, value: Any, key: Any, headers: Mapping[str, Any] | None, timeout: float | timedelta
    ) -> Outstanding:
        limit = seconds(timeout, "timeout")
        if limit <= 0:
            raise ConfigError(
                "timeout is 0: no reply comes that fast. Nothing was sent.", setting="timeout", value=timeout
            )
        return self._inbox.submit(self.name, self._queue, value, key, headers, limit)

    def statistics(self) -> RequestStatistics:
        """What this process asked, counted; frozen."""
        return self._inbox.statistics(self.name)

    def __repr__(self) -> str:
        return f"<Requests to {self.name}, {self.statistics().outstanding} outstanding>"


# ---- the other side ---------------------------------------------------------------------------------


def replying(store: Store, function: Callable[[Any], Any]) -> Callable[..., Any]:
    """The handler that calls `function` with a request, and sends what it returns to whoever asked."""
    topics: list[Topic] = []

    def reply(message: Any, value: Any, error: BaseException | None, tx: Transaction) -> None:
        ident = message.headers.get(CORRELATION_ID)
        if ident is None:  # sent with `queue.send`: nobody waits
            if error is not None:
                raise error
            return
        if not topics:
            topics.append(replies_of(store))
        if error is None:
            try:
                if not isinstance(value, bytes | bytearray | memoryview):
                    raise TypeError(f"a replier returns bytes, not {type(value).__name__}: {value!r}")
                topics[0].send(value, key=ident, tx=tx)
                return
            except (TypeError, SeglogError) as refused:
                error = refused
        topics[0].send(b"", key=ident, headers={ERROR: described(error)}, tx=tx)

    if inspect.iscoroutinefunction(function):

        async def answer_async(message: Any, tx: Transaction) -> None:
            value, error = None, None
            try:
                value = await function(message)
            except Retry:
                raise
            except Exception as raised:
                error = raised
            await asyncio.to_thread(reply, message, value, error, tx)

        return answer_async

    def answer(message: Any, tx: Transaction) -> None:
        value, error = None, None
        try:
            value = function(message)
        except Retry:
            raise
        except Exception as raised:
            error = raised
        reply(message, value, error, tx)

    return answer


def replies_of(store: Store) -> Topic:
    return store.internal_topic(REPLIES, TopicConfig(retention_bytes=KEPT_BYTES))


# ---- errors, there and back -------------------------------------------------------------------------


def described(error: BaseException) -> bytes:
    """An exception as text. Whatever cannot be told must not keep the reply from being sent."""
    kind = type(error)
    try:
        text = str(error)
    except Exception:
        text = "(its text could not be made)"
    lines = "".join(traceback.format_exception(error))[-TRACEBACK_MAX:]
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return json.dumps({"type": name, "text": text[-TRACEBACK_MAX:], "traceback": lines}).encode()


def told(name: str, error: bytes) -> ReplyError:
    fields = json.loads(error)
    return ReplyError(
        f"the replier of {name} raised {fields['type']}: {fields['text']}. The request is settled, and is not tried again; "
        "where it happened is in .traceback.",
        queue=name,
        **fields,
    )


def overdue(one: Outstanding) -> RequestTimeout:
    return RequestTimeout(
        f"no reply from {one.name} within {one.timeout:g} s. The request has expired: nobody begins to work on it any more; "
        "if somebody has begun, his reply will be dropped, and counted. Is a replier running, and has it free workers?",
        queue=one.name,
        timeout=one.timeout,
    )


def fail(one: Outstanding, error: Exception) -> None:
    with suppress(InvalidStateError):  # its caller cancelled it
        one.future.set_exception(error)
