"""Aioqueue: a queue awaited, for `seglog.aio`: any number of coroutines wait for messages, and one thread listens for them.

What takes nanoseconds runs where it is called; what waits for the disk (`fsync="always"`) or may be long runs in a thread. A
cancelled `receive` loses no message: nothing is claimed before an await, but in a thread, and then it is given back as soon as
that is through, with no attempt counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from seglog.clock import seconds
from seglog.errors import QueueFull, SeglogError
from seglog.queue import Message, Queue
from seglog.queuestatistics import QueueStatistics
from seglog.record import Position, Span

if TYPE_CHECKING:
    from seglog.engine.transactions import Transaction

__all__ = ["AsyncQueue"]

T = TypeVar("T")
LOST_MIN, LOST_MAX = 0.0005, 0.01  # seconds to wait when others were quicker: longer each time
ROOM = 0.01  # seconds between two looks for room in a full queue


class Listener(Protocol):
    """Who wakes coroutines: `seglog.aio.Listener`."""

    async def wait(self, ready: Callable[[], bool], timeout: float | None) -> bool: ...

    def stop(self) -> None: ...


class AsyncQueue:
    """A queue whose verbs are awaited; `queue.sync_queue` is the one underneath, with everything that is not here.

    Settle messages through it (`await queue.ack(message)`), or with their own verbs where those do not wait for the disk.

    >>> import asyncio, seglog.aio
    >>> async def main():
    ...     async with await seglog.aio.open("data") as store:
    ...         jobs = await store.queue("jobs")
    ...         await jobs.send(b"resize cat.jpg")
    ...         for message in await jobs.receive(10, timeout=1):
    ...             print(message.value)
    ...             await jobs.ack(message)
    >>> asyncio.run(main())
    b'resize cat.jpg'
    """

    def __init__(self, queue: Queue, listener: Listener, blocking: bool) -> None:
        """Made by `AsyncStore.queue`."""
        self.sync_queue = queue
        self.name = queue.name
        self._listener = listener
        self._blocking = blocking  # an ack waits for the disk

    # ---- sending ------------------------------------------------------------------------------------

    async def send(
        self,
        value: Any,
        key: Any = None,
        headers: Any = None,
        *,
        timeout: float | timedelta | None = None,
        **how: Any,
    ) -> Position | None:
        """`Queue.send`, awaited. Where a full queue makes it wait, it holds no thread: cancelled then, it has sent nothing."""
        return await self._with_room(lambda room: self.sync_queue.send(value, key, headers, **room, **how), timeout, how.get("tx"))

    async def send_many(
        self,
        values: Sequence[Any],
        keys: Sequence[Any] | None = None,
        headers: Sequence[Any] | None = None,
        *,
        timeout: float | timedelta | None = None,
        **how: Any,
    ) -> list[Span]:
        """`Queue.send_many`, awaited, in a thread: it may be long."""
        return await self._with_room(
            lambda room: self.sync_queue.send_many(values, keys, headers, **room, **how), timeout, how.get("tx"), long=True
        )

    async def _with_room(
        self,
        send: Callable[[dict[str, Any]], T],
        timeout: float | timedelta | None,
        tx: Transaction | None,
        long: bool = False,
    ) -> T:
        """`send`, told not to wait for room, until there is some; in a transaction it is there or not."""
        config = self.sync_queue.config
        if not config.bounded or config.overflow != "block" or tx is not None:
            return await self._run(lambda: send({}), long)
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + seconds(timeout, "timeout")
        while True:
            try:
                return await self._run(lambda: send({"timeout": 0}), long)
            except QueueFull as full:
                if getattr(full, "never", False) or (deadline is not None and loop.time() >= deadline):
                    raise
            await asyncio.sleep(ROOM if deadline is None else max(0.0, min(ROOM, deadline - loop.time())))

    # ---- receiving ----------------------------------------------------------------------------------

    async def receive(
        self, max_messages: int = 1, timeout: float | timedelta | None = None, *, tx: Transaction | None = None
    ) -> list[Message]:
        """`Queue.receive`, awaited: up to `max_messages`; an empty list when none came for `timeout` seconds. None waits for ever.

        Holds no thread while it waits. Cancelled, it has claimed nothing, or what it had is released.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + seconds(timeout, "timeout")
        nap = LOST_MIN
        while True:
            messages = await self._claim(max_messages, tx)
            if messages:
                return messages
            left = None if deadline is None else deadline - loop.time()
            if left is not None and left <= 0:
                return []
            if self.sync_queue.ready():
                # Others were quicker, or what there is cannot be had yet: not at once again.
                await asyncio.sleep(nap if left is None else min(nap, left))
                nap = min(nap * 2, LOST_MAX)
            else:
                await self._listener.wait(self.sync_queue.ready, left)
                nap = LOST_MIN

    async def _claim(self, n: int, tx: Transaction | None) -> list[Message]:
        if not self._blocking:
            return self.sync_queue.receive(n, 0, tx=tx)
        loop = asyncio.get_running_loop()
        claim = loop.run_in_executor(None, lambda: self.sync_queue.receive(n, 0, tx=tx))
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            claim.add_done_callback(give_back)
            raise

    # ---- settling -----------------------------------------------------------------------------------

    async def ack(self, messages: Message | Sequence[Message], tx: Transaction | None = None) -> None:
        """They are done, and never come again; after LeaseLost none of them was acked. With `tx`, when that commits."""
        await self._run(lambda: self.sync_queue.ack(listed(messages), tx))

    async def nack(
        self,
        messages: Message | Sequence[Message],
        delay: float | timedelta | None = None,
        error: str | None = None,
    ) -> None:
        """They failed: each comes again after `delay` seconds (default: the queue's backoff), or is dead after `max_attempts`."""
        await self._run(lambda: self.sync_queue.nack(listed(messages), delay, error))

    async def release(self, messages: Message | Sequence[Message]) -> None:
        """Give them back as if they had not been received."""
        await self._run(lambda: self.sync_queue.release(listed(messages)))

    async def reject(
        self, messages: Message | Sequence[Message], reason: str = "rejected", tx: Transaction | None = None
    ) -> None:
        """They will never succeed: to the dead letters, for this reason."""
        await self._run(lambda: self.sync_queue.reject(listed(messages), reason, tx))

    async def extend(self, messages: Message | Sequence[Message], seconds: float | timedelta) -> None:
        """Their leases end `seconds` from now."""
        await self._run(lambda: self.sync_queue.extend(listed(messages), seconds))

    # ---- looking, and care --------------------------------------------------------------------------

    async def peek(self, n: int = 1) -> list[Message]:
        """`Queue.peek`, awaited."""
        return await self._run(lambda: self.sync_queue.peek(n))

    async def statistics(self) -> QueueStatistics:
        """`Queue.statistics`, awaited, in a thread: it may have something to move."""
        return await asyncio.to_thread(self.sync_queue.statistics)

    async def redrive(self, to: Queue | AsyncQueue | str | None = None, **how: Any) -> int:
        """`Queue.redrive`, awaited, in a thread: it may be long. Cancelling does not end it."""
        target = to.sync_queue if isinstance(to, AsyncQueue) else to
        return await asyncio.to_thread(lambda: self.sync_queue.redrive(target, **how))

    async def purge(self) -> int:
        """`Queue.purge`, awaited, in a thread."""
        return await asyncio.to_thread(self.sync_queue.purge)

    async def sync(self) -> None:
        """`Queue.sync`, awaited."""
        await asyncio.to_thread(self.sync_queue.sync)

    def stop(self) -> None:
        """For the store, which closes: who waits looks once more, and finds it closed."""
        self._listener.stop()

    async def _run(self, work: Callable[[], T], long: bool = False) -> T:
        """In place, or in a thread when it is long or waits for the disk."""
        return await asyncio.to_thread(work) if long or self._blocking else work()

    def __repr__(self) -> str:
        return f"<Async{repr(self.sync_queue)[1:]}"


def listed(messages: Message | Sequence[Message]) -> list[Message]:
    return [messages] if isinstance(messages, Message) else list(messages)


def give_back(claim: asyncio.Future[list[Message]]) -> None:
    """Nobody waits any more for what was claimed."""
    if claim.cancelled() or claim.exception() is not None:
        return
    for message in claim.result():
        with suppress(SeglogError):  # the store was closed: it comes back with that
            message.release()
