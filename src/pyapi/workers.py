"""Workers: the threads of this process that call the handlers.

    with store.workers():        they work while the block runs
    store.run()                  they work until a signal says stop

Each handler has `concurrency` of them. It promises that a message is acked only after its handler returned, and not at all when
it raised; that no exception of a handler ends a worker; that a lease is extended for as long as its handler runs, up to the
queue's `max_lease`; and that stopping loses nothing: no new messages, what is in work has `grace` seconds to finish, and what is
left goes back to its queue with its attempt not counted. A thread cannot be ended from outside: a handler that is still at it
then has lost its lease, and what it sends with its `tx` is given up.

The race: a message is given back in the moment in which its handler returns. Ack and release are fenced by the same receipt, so
one of the two finds it gone, and says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from seglog.clock import seconds
from seglog.engine.transactions import Transaction
from seglog.errors import ConfigError, Fenced, LeaseLost
from seglog.feeds import Feed, feeds_of
from seglog.handlers import Handler, Reject, Retry
from seglog.marks import Marks
from seglog.start import natural

if TYPE_CHECKING:
    from seglog.store import Store

__all__ = ["WorkerStatistics", "Workers"]

log = logging.getLogger("seglog.workers")


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """What the workers of this process did since they began."""

    done: int = 0  # handled and acked
    failed: int = 0  # the handler raised: to be tried again
    rejected: int = 0  # the handler said Reject
    repeated: int = 0  # acked without a call: `dedup` knew them
    lost: int = 0  # handled, but the lease was gone by then: somebody else has the message, or had it
    released: int = 0  # given back unfinished, when the workers stopped
    working: int = 0  # in a handler at this moment


class Workers:
    """What `store.workers()` returns; use it in a `with`, once."""

    def __init__(
        self,
        store: Store,
        handlers: Sequence[Handler],
        *,
        workers: int | None = None,
        grace: float | timedelta = 30.0,
    ) -> None:
        """Made by `Store.workers`."""
        if not handlers:
            raise ConfigError(
                "there is no handler to run: write one, with @store.handler(queue) or @store.replier(queue) above it, before this.",
                setting="handlers",
                value=0,
            )
        self._store = store
        self._handlers = tuple(handlers)
        self._slots = None if workers is None else natural(workers, "workers", 1)
        self.grace = seconds(grace, "grace")
        self._stopping = threading.Event()
        self._settled = threading.Event()  # nothing is in work any more: leases need no extending
        self._given_up = False  # the grace is over
        self._news: queue.SimpleQueue[None] = (
            queue.SimpleQueue()
        )  # its `put` may be called in a signal handler, in the middle of a `get`
        self._signals = 0
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._alive = 0
        self._last = time.monotonic()  # when the last message was settled
        self._error: BaseException | None = None
        self._feeds: list[Feed] = []
        self._marks: dict[Handler, Marks] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    # ---- begin ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        works: list[Feed] = []
        try:
            for handler in self._handlers:
                works += feeds_of(self._store, handler, self._slots or handler.concurrency, self._stopping)
                if handler.dedup is not None:
                    self._marks[handler] = Marks(self._store, handler.name)
        except BaseException:
            for feed in works:
                feed.close()
            raise
        self._feeds = list(dict.fromkeys(works))
        if any(handler.is_async for handler in self._handlers):
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="seglog-asyncio", daemon=True).start()
        threading.Thread(target=self._keep, name="seglog-leases", daemon=True).start()
        self._alive = len(works)
        for number, feed in enumerate(works):
            name = f"seglog-{feed.handler.name}-{number}"
            # An interpreter that ends does not wait for a handler that hangs: its message comes again.
            threading.Thread(target=self._work, args=(feed,), name=name, daemon=True).start()
        return self

    # ---- work -------------------------------------------------------------------------------------

    def _work(self, feed: Feed) -> None:
        try:
            while (message := feed.next()) is not None:
                with self._lock:
                    self._counts["working"] += 1
                try:
                    self._attempt(feed, message)
                finally:
                    feed.forget(message)
                    with self._lock:
                        self._counts["working"] -= 1
                        self._last = time.monotonic()
        except BaseException as error:  # not of a handler: the store is closed, or its disk failed
            if not self._stopping.is_set():
                self._error = error
            self._stopping.set()
        finally:
            with self._lock:
                self._alive -= 1
            self._news.put(None)

    def _attempt(self, feed: Feed, message: Any) -> None:
        handler, tx, ident, repeated = feed.handler, None, b"", False
        marks = self._marks.get(handler)
        try:
            try:
                if marks is not None:
                    ident = feed.ident(message)
                    repeated = marks.has(ident)
                if not repeated:
                    if handler.takes_tx or marks is not None:
                        tx = self._store.transaction()
                    self._call(handler, message, tx)
            except BaseException as error:
                self._count(self._failed(feed, message, error, tx))
                return
            what = self._settle(feed, message, tx, marks, ident)
            self._count("repeated" if repeated else what)
        except (LeaseLost, Fenced):
            if not self._given_up:
                self._count("lost")
                log.warning("%s: a message was somebody else's before it was settled", handler.name)
        except Exception:  # the disk is full, for instance
            if not feed.comes_again:
                raise
            log.exception("%s: a message could not be settled; it comes again when its lease runs out", handler.name)
        finally:
            if tx is not None:
                tx.abort()

    def _settle(self, feed: Feed, message: Any, tx: Transaction | None, marks: Marks | None, ident: bytes) -> str:
        """Its handler returned: with `tx` it is done together with what was sent and with the mark, or not at all. How it ended."""
        try:
            if tx is None:
                feed.done(message)
            else:
                if marks is not None:
                    marks.add(ident, tx)
                feed.done(message, tx)
                tx.commit()
            return "done"
        except LeaseLost:
            raise
        except BaseException as error:  # a condition that the handler sent with, or a full disk
            if tx is not None and marks is not None and marks.refused(error):
                feed.done(message)
                return "repeated"
            return self._failed(feed, message, error, tx)

    def _call(self, handler: Handler, message: Any, tx: Transaction | None) -> None:
        more = {"tx": tx} if handler.takes_tx else {}
        result = handler.function(message, **more)
        if handler.is_async:
            assert self._loop is not None
            asyncio.run_coroutine_threadsafe(result, self._loop).result()

    def _failed(self, feed: Feed, message: Any, error: BaseException, tx: Transaction | None) -> str:
        if tx is not None:
            tx.abort()
        if self._given_up:
            raise LeaseLost("it was given back")
        attempt = feed.attempts(message)
        feed.failed(message, error)
        if isinstance(error, Reject):
            log.warning("%s: rejected: %s", feed.handler.name, error)
            return "rejected"
        if isinstance(error, Retry):
            log.info("%s: attempt %d is to be repeated: %s", feed.handler.name, attempt, error)
        else:
            log.warning("%s: attempt %d failed", feed.handler.name, attempt, exc_info=error)
        return "failed"

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _keep(self) -> None:
        """The thread that extends leases."""
        tick = min(feed.tick for feed in self._feeds)
        while not self._settled.wait(min(tick, threading.TIMEOUT_MAX)):
            for feed in self._feeds:
                try:
                    feed.keep()
                except Exception:  # of a store that is closed, or fails: those who settle are told
                    log.exception("%s: leases could not be extended", feed.handler.name)

    # ---- wait -------------------------------------------------------------------------------------

    def wait(self, timeout: float | timedelta | None = None) -> None:
        """Return when somebody said `stop`, or when for `timeout` seconds no message came and none was in work. Raises what ended a
        worker: an error of the store, never of a handler."""
        limit = None if timeout is None else seconds(timeout, "timeout")
        while not self._stopping.is_set() and not self._signals:
            left = None
            if limit is not None:
                with self._lock:
                    idle = 0.0 if self._counts["working"] else time.monotonic() - self._last
                if idle >= limit:
                    break
                left = limit - idle
            self._sleep(left)
        if self._error is not None:
            raise self._error

    def run(
        self, timeout: float | timedelta | None = None, signals: Sequence[int] = (signal.SIGTERM, signal.SIGINT)
    ) -> WorkerStatistics:
        """Begin, wait and stop; these signals say stop, a second one that there is no time to finish anything."""
        with self.on_signals(signals), self:
            self.wait(timeout)
        return self.statistics()

    def ask(self) -> None:
        """What a signal does: the first time `wait` returns, and so the workers stop; the second time the grace is over."""
        self._signals += 1
        self._news.put(None)

    @contextlib.contextmanager
    def on_signals(self, which: Sequence[int]) -> Iterator[None]:
        """Within the block these signals `ask`. Only in the main thread: others get none."""

        def told(number: int, frame: FrameType | None) -> None:
            self.ask()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, told) for number in which}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _sleep(self, timeout: float | None) -> None:
        with contextlib.suppress(queue.Empty):
            self._news.get(timeout=timeout)

    # ---- end --------------------------------------------------------------------------------------

    def stop(self, grace: float | timedelta | None = None) -> None:
        """No new messages; return when what is in work is finished or, after `grace` seconds, given back. From any thread but a
        handler's; twice is fine."""
        end = time.monotonic() + (self.grace if grace is None else seconds(grace, "grace"))
        self._stopping.set()
        self._news.put(None)  # for who waits
        while self._alive and self._signals < 2 and (left := end - time.monotonic()) > 0:
            self._sleep(min(left, 0.5))  # two who stop at once take each other's news
        if self._alive:
            self._given_up = True
            for feed in self._feeds:
                with self._lock:
                    self._counts["released"] += feed.release()
        self._settled.set()
        self._end_loop()
        for feed in self._feeds:
            feed.close()
        self._news.put(None)  # again: who waits may have been robbed of the first

    def _end_loop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is None:
            return

        async def cancel() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await loop.shutdown_asyncgens()

        # A task that does not let itself be cancelled, or blocks the loop, is left where it is.
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(cancel(), loop).result(1.0)
        loop.call_soon_threadsafe(loop.stop)

    def statistics(self) -> WorkerStatistics:
        """What they did, counted; frozen."""
        with self._lock:
            return WorkerStatistics(**self._counts)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        names = ", ".join(handler.name for handler in self._handlers)
        return f"<Workers of {names}: {self._alive} of them, {self.statistics().working} at work>"
