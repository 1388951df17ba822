"""The same store, awaited: one thread per store, and one per queue, listens for all that wait, and no call blocks the event loop
for long.

What takes nanoseconds (a send, a read of what is there) runs where it is called; what waits for other processes' records is
awaited; what waits for the disk (open, sync, close, a send with `fsync="always"`) runs in a thread. Cancelling an awaited
call loses nothing: a record is handed out in the same step in which the position moves, never before an await.

>>> import asyncio, seglog.aio
>>> async def main():
...     async with await seglog.aio.open("data") as store:
...         orders = await store.topic("orders")
...         await orders.send(b"one")
...         async with orders.consumer("billing") as consumer:
...             batch = await consumer.receive(timeout=1)
...             return batch.values.tolist()
>>> asyncio.run(main())
[b'one']
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import seglog.store
from seglog.aioqueue import AsyncQueue
from seglog.clock import seconds
from seglog.consumer import RECORDS_MAX, Consumer
from seglog.engine.transactions import Transaction
from seglog.errors import SeglogError
from seglog.record import Batch, Position, Record, Span
from seglog.start import Start
from seglog.store import Store
from seglog.topic import Following, Topic

__all__ = ["AsyncConsumer", "AsyncQueue", "AsyncStore", "AsyncTopic", "open"]

LINGER = 1.0  # seconds that the listening thread stays when nobody waits


class Listener:
    """One thread that sleeps on a bell, of the store or of a queue, for every coroutine that waits; it exists while somebody does.

    `listen` gives a ticket, and `hear` sleeps until the bell rang since, for a short while."""

    def __init__(self, listen: Callable[[], int], hear: Callable[[int, float], object]) -> None:
        self._listen_for, self._hear = listen, hear
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}
        self._thread: threading.Thread | None = None
        self._came = threading.Event()
        self._stopped = False

    async def wait(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """True once `ready()`; False after `timeout` seconds. Cancel it at any time."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            self._waiting[future] = ready
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="seglog-listener", daemon=True)
                self._thread.start()
        self._came.set()
        try:
            # After it is listed: whoever appends from now on is heard by the thread.
            if ready():
                return True
            await asyncio.wait_for(future, timeout)
            return True
        except TimeoutError:
            return ready()
        finally:
            with self._lock:
                self._waiting.pop(future, None)

    def _listen(self) -> None:
        while True:
            try:
                ticket = self._listen_for()
            except SeglogError:  # closed, or deleted
                with self._lock:
                    waiting, self._thread = list(self._waiting.items()), None
                for future, _ in waiting:
                    self._wake(future)
                return
            self._came.clear()  # before the look: who is listed after it raises it again
            with self._lock:
                waiting = list(self._waiting.items())
            for future, ready in waiting:
                try:
                    is_ready = ready()
                except Exception:  # a closed log, a deleted topic: the coroutine's own look raises it
                    is_ready = True
                if is_ready:
                    self._wake(future)
            if waiting:
                with contextlib.suppress(SeglogError):  # the next `listen` raises it again
                    self._hear(ticket, 0.05)
                continue
            if self._stopped or not self._came.wait(LINGER):
                with self._lock:
                    if not self._waiting:
                        self._thread = None
                        return

    @staticmethod
    def _wake(future: asyncio.Future[None]) -> None:
        def resolve() -> None:
            if not future.done():
                future.set_result(None)

        try:
            future.get_loop().call_soon_threadsafe(resolve)
        except RuntimeError:  # the loop was closed with the coroutine in it
            future.cancel()

    def stop(self) -> None:
        """Let the thread end: the store closes. Who still waits looks once more, and finds it closed."""
        self._stopped = True
        with self._lock:
            waiting = list(self._waiting)
        for future in waiting:
            self._wake(future)
        self._came.set()


class AsyncTopic:
    """A topic whose waiting verbs are awaited. `topic.sync_topic` is the one underneath."""

    def __init__(self, topic: Topic, listener: Listener, blocking: bool) -> None:
        self.sync_topic = topic
        self.name = topic.name
        self._listener = listener
        self._blocking = blocking  # a send waits for the disk

    async def send(
        self, value: Any, key: Any = None, headers: Any = None, *, timestamp: Any = None, partition: int | None = None, **how: Any
    ) -> Position | None:
        """`Topic.send`, awaited: in place, or in a thread with `fsync="always"` or a condition. None with `tx`."""

        def send() -> Position | None:
            where: Position | None = self.sync_topic.send(
                value, key, headers, timestamp=timestamp, partition=partition, **how
            )
            return where

        return await asyncio.to_thread(send) if self._blocking or how else send()

    async def send_many(self, values: Any, keys: Any = None, headers: Any = None, **how: Any) -> list[Span]:
        """`Topic.send_many`, awaited, in a thread: it may be long."""
        return await asyncio.to_thread(self.sync_topic.send_many, values, keys, headers, **how)

    async def read(self, start: Any = "earliest", **how: Any) -> AsyncIterator[Record]:
        """`Topic.read`: the records that are there. Lets other tasks run between batches of 1,000."""
        for number, record in enumerate(self.sync_topic.read(start, **how)):
            yield record
            if number % 1000 == 999:
                await asyncio.sleep(0)

    def tail(
        self,
        start: Start = "latest",
        *,
        partition: int | None = None,
        timeout: float | timedelta | None = None,
    ) -> AsyncIterator[Record]:
        """`Topic.tail`: the records from `start` on, and those to come; ends when none came for `timeout` seconds.

        The place is fixed by the call, as there: nothing sent before the first `async for` step is missed.
        """
        limit = None if timeout is None else seconds(timeout, "timeout")
        return self._follow(self.sync_topic.follow(start, partition), limit)

    async def _follow(self, following: Following, timeout: float | None) -> AsyncIterator[Record]:
        while True:
            for number, record in enumerate(following.records()):
                yield record
                if number % 1000 == 999:
                    await asyncio.sleep(0)
            if not await self._listener.wait(following.ready, timeout):
                return

    async def wait(self, offset: int, *, partition: int = 0, timeout: float | timedelta | None = None) -> bool:
        """`Topic.wait`, awaited: True once there is a record at `offset`; False after `timeout` seconds."""
        limit = None if timeout is None else seconds(timeout, "timeout")
        self.sync_topic.wait(offset, partition=partition, timeout=0)  # raises what there is to say
        return await self._listener.wait(lambda: self.sync_topic.wait(offset, partition=partition, timeout=0), limit)

    def consumer(self, group: str, **how: Any) -> AsyncConsumer:
        """`Topic.consumer`, with `receive` and iteration awaited."""
        return AsyncConsumer(self.sync_topic.consumer(group, **how), self._listener)

    def __repr__(self) -> str:
        return f"<Async{repr(self.sync_topic)[1:]}"


class AsyncConsumer:
    """A consumer whose `receive` is awaited; everything else is that of `consumer.sync_consumer`."""

    def __init__(self, consumer: Consumer, listener: Listener) -> None:
        self.sync_consumer = consumer
        self._listener = listener

    async def receive(
        self, max_records: int = RECORDS_MAX, timeout: float | timedelta | None = None
    ) -> Batch | None:
        """The next run of records of one partition; None when none came for `timeout` seconds.

        Cancelled while it waits, it has handed out nothing and moved nothing.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + seconds(timeout, "timeout")
        while True:
            batch = self.sync_consumer.receive(max_records, timeout=0)
            if batch is not None:
                return batch
            left = None if deadline is None else deadline - loop.time()
            if left is not None and left <= 0:
                return None
            await self._listener.wait(self.sync_consumer.ready, left)

    async def batches(
        self, max_records: int = RECORDS_MAX, timeout: float | timedelta | None = None
    ) -> AsyncIterator[Batch]:
        """Batches as they come; ends when none came for `timeout` seconds."""
        while (batch := await self.receive(max_records, timeout)) is not None:
            yield batch

    async def records(self, timeout: float | timedelta | None = None) -> AsyncIterator[Record]:
        """`Consumer.records`: one by one; the position moves with each, so `commit()` covers those up to the one in hand."""
        async for batch in self.batches(timeout=timeout):
            for record in self.sync_consumer.walk(batch):
                yield record

    def __aiter__(self) -> AsyncIterator[Record]:
        """Every record, and those to come."""
        return self.records()

    async def commit(self, what: Any = None, *, tx: Transaction | None = None) -> None:
        """`Consumer.commit`, in a thread when it waits for the disk."""
        await asyncio.to_thread(lambda: self.sync_consumer.commit(what, tx=tx))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sync_consumer, name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.sync_consumer.__exit__, kind, error, traceback)


class AsyncStore:
    """A store whose blocking verbs are awaited. `store.sync_store` is the one underneath."""

    def __init__(self, store: Store) -> None:
        self.sync_store = store
        self._listener = Listener(store.liveness.listen, store.liveness.wait)
        self._queues: dict[str, AsyncQueue] = {}

    async def topic(self, name: str, **settings: Any) -> AsyncTopic:
        """`Store.topic`, awaited."""
        topic = await asyncio.to_thread(self.sync_store.topic, name, **settings)
        return AsyncTopic(topic, self._listener, self.sync_store.config.fsync == "always")

    async def queue(self, name: str, **settings: Any) -> AsyncQueue:
        """`Store.queue`, awaited. The same object for the same queue: who waits for its messages shares one listening thread."""
        queue = await asyncio.to_thread(self.sync_store.queue, name, **settings)
        known = self._queues.get(name)
        if known is None or known.sync_queue is not queue:
            listener = Listener(queue.listen, queue.hear)
            known = self._queues[name] = AsyncQueue(queue, listener, self.sync_store.config.fsync == "always")
        return known

    def queues(self) -> list[str]:
        """`Store.queues`."""
        return self.sync_store.queues()

    async def delete_queue(self, name: str) -> None:
        """`Store.delete_queue`, awaited."""
        await asyncio.to_thread(self.sync_store.delete_queue, name)

    def topics(self) -> list[str]:
        """`Store.topics`."""
        return self.sync_store.topics()

    async def delete_topic(self, name: str) -> None:
        """`Store.delete_topic`, awaited."""
        await asyncio.to_thread(self.sync_store.delete_topic, name)

    async def request(
        self, name: str, value: Any, key: Any = None, *, headers: Any = None, timeout: float | timedelta = 30.0
    ) -> bytes:
        """`Store.request`, awaited; any number at once."""

        def submit() -> Future[bytes]:
            return self.sync_store.requests(name).submit(value, key, headers=headers, timeout=timeout)

        return await asyncio.wrap_future(await asyncio.to_thread(submit))

    async def sync(self) -> None:
        """`Store.sync`, awaited: one fdatasync per partition that has something new."""
        await asyncio.to_thread(self.sync_store.sync)

    async def close(self) -> None:
        """`Store.close`, awaited."""
        self._listener.stop()
        for queue in self._queues.values():
            queue.stop()
        await asyncio.to_thread(self.sync_store.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Async{repr(self.sync_store)[1:]}"


async def open(path: Any, **settings: Any) -> AsyncStore:
    """`seglog.open`, awaited: opening may have to recover after a power cut, and reads then."""
    return AsyncStore(await asyncio.to_thread(seglog.store.open, path, **settings))
