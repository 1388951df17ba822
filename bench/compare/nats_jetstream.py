"""NATS JetStream: streams in files. Its client is asyncio's; each call here runs the loop until it is done."""

from __future__ import annotations

import asyncio
import subprocess
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from compare.peer import Log, Peer, Place, Queue
from compare.server import Server, found


class NatsServer(Server):
    program, package = "nats-server", "nats-server"

    def command(self) -> list[str]:
        return [found(self.program) or "", "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", self.directory]

    def version(self) -> str:
        return subprocess.run([self.command()[0], "-v"], capture_output=True, text=True).stdout.split()[-1].removeprefix("v")


class Nats(Peer):
    module, package, server = "nats", "nats-py", NatsServer

    def __init__(self, place: Place) -> None:
        self.loop = asyncio.new_event_loop()
        self.run, self.subject = self.loop.run_until_complete, place.name
        assert place.server
        self.run(self.connect(place.server.port))

    async def connect(self, port: int) -> None:
        import nats

        self.client = await nats.connect(f"nats://127.0.0.1:{port}")
        self.stream = self.client.jetstream()
        await self.stream.add_stream(name=self.subject, subjects=[self.subject])

    async def publish_all(self, values: list[bytes]) -> None:
        """All under way at once: about three times as fast as `publish_async`."""
        await asyncio.gather(*(self.stream.publish(self.subject, value) for value in values))

    def close(self) -> None:
        self.run(self.client.close())
        self.loop.close()


class NatsLog(Nats, Log):
    name = "NATS JetStream"
    given = "file storage, its own sync every 2 min; lists: all under way at once; fetch(1,000), and a push consumer"
    tails = "push consumer"

    def append(self, value: bytes) -> None:
        self.run(self.stream.publish(self.subject, value))

    def append_many(self, values: list[bytes]) -> None:
        self.run(self.publish_all(values))

    def flush(self) -> None:
        self.run(self.stream.publish_async_completed())  # of what was posted

    def post(self, value: bytes) -> None:
        self.run(self.stream.publish_async(self.subject, value))

    def pause(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    def batches(self, count: int) -> Iterator[list[bytes]]:
        from nats.js.api import AckPolicy, ConsumerConfig

        wanted = ConsumerConfig(ack_policy=AckPolicy.NONE)
        pull = self.run(self.stream.pull_subscribe(self.subject, config=wanted))
        while count > 0:
            got = [message.data for message in self.run(pull.fetch(min(1000, count), timeout=10))]
            count -= len(got)
            yield got

    def each(self, count: int) -> Iterator[bytes]:
        async def take() -> list[bytes]:
            push = await self.stream.subscribe(self.subject, ordered_consumer=True)
            return [(await push.next_msg(timeout=10)).data for _ in range(count)]

        yield from self.run(take())

    def tail(self) -> Iterator[bytes]:
        came, some = deque[bytes](), asyncio.Event()

        async def take(message: Any) -> None:
            came.append(message.data)
            some.set()

        self.run(self.stream.subscribe(self.subject, cb=take, ordered_consumer=True))
        yield b""
        while True:
            while came:
                yield came.popleft()
            some.clear()
            self.run(some.wait())


class NatsQueue(Nats, Queue):
    name = "NATS JetStream"
    given = "file storage, a work-queue of explicit acks; publish, fetch, ack; lists: all under way at once"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.pull = self.run(self.stream.pull_subscribe(self.subject, durable="workers"))

    async def take(self, values: list[bytes]) -> list[bytes]:
        from nats.errors import TimeoutError as Nothing

        await self.publish_all(values)
        got: list[bytes] = []
        with suppress(Nothing):
            for message in await self.pull.fetch(len(values), timeout=1):
                await message.ack()
                got.append(message.data)
        return got

    def one(self, value: bytes) -> bytes | None:
        return next(iter(self.run(self.take([value]))), None)

    def many(self, values: list[bytes]) -> list[bytes]:
        return list(self.run(self.take(values)))
