"""Redis Streams: XADD and XREAD; as a queue, a consumer group with XREADGROUP and XACK."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

from compare.peer import Log, Peer, Place, Queue
from compare.server import Server, found


class RedisServer(Server):
    program, package = "redis-server", "redis-server"

    def command(self) -> list[str]:
        said = "--save|--appendonly yes|--appendfsync everysec|--auto-aof-rewrite-percentage 0|--bind 127.0.0.1|--daemonize no"
        options = [word for option in said.split("|") for word in (option.split() + [""])[:2]]
        return [found(self.program) or "", "--port", str(self.port), "--dir", self.directory, *options]

    def ready(self) -> bool:
        import redis

        with redis.Redis(port=self.port) as client:
            return bool(client.ping())

    def version(self) -> str:
        return subprocess.run([self.command()[0], "-v"], capture_output=True, text=True).stdout.split()[2].removeprefix("v=")


class Redis(Peer):
    module, server = "redis", RedisServer

    def __init__(self, place: Place) -> None:
        import redis

        assert place.server
        self.client = redis.Redis(port=place.server.port)
        self.name_ = place.name
        self.close = self.client.close  # type: ignore[method-assign]
        self.run = self.client.execute_command

    def pipe(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        with self.client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return list(pipe.execute())

    def add(self, values: list[bytes]) -> None:
        self.pipe([("XADD", self.name_, "*", "v", value) for value in values])


class RedisLog(Redis, Log):
    name = "Redis Streams"
    given = "AOF, appendfsync=everysec; pipelines of 1,000; XREAD COUNT 1,000, and COUNT 1"
    synced = "AOF, appendfsync=always; pipelines of 100"
    tails = "XREAD BLOCK"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.client.config_set("appendfsync", "always" if place.synced else "everysec")

    def append(self, value: bytes) -> None:
        self.run("XADD", self.name_, "*", "v", value)

    def append_many(self, values: list[bytes]) -> None:
        self.add(values)

    def reads(self, at_most: int, block: bool = False) -> Iterator[list[bytes]]:
        last: Any = "0"
        how = ("COUNT", at_most, "BLOCK", 10_000) if block else ("COUNT", at_most)
        while True:
            if not (streams := self.run("XREAD", *how, "STREAMS", self.name_, last)):
                return
            entries = next(iter(streams.values()))[0] if isinstance(streams, dict) else streams[0][1]
            last = entries[-1][0]
            yield [next(iter(fields.values())) for _, fields in entries]

    def batches(self, count: int) -> Iterator[list[bytes]]:
        return self.reads(1000)

    def each(self, count: int) -> Iterator[bytes]:
        for values in self.reads(1):
            yield values[0]

    def tail(self) -> Iterator[bytes]:
        yield b""
        for values in self.reads(1000, block=True):
            yield from values


class RedisQueue(Redis, Queue):
    name = "Redis Streams"
    given = "AOF, appendfsync=everysec; XADD, XREADGROUP, XACK; lists by pipeline"

    def __init__(self, place: Place) -> None:
        import redis

        super().__init__(place)
        try:
            self.client.xgroup_create(self.name_, "g", "0", mkstream=True)
        except redis.ResponseError:
            assert place.worker, "somebody else made the group"
        self.reading = ("XREADGROUP", "GROUP", "g", f"w{place.worker}", "COUNT")

    def take(self, at_most: int) -> list[tuple[bytes, bytes]]:
        if not (streams := self.run(*self.reading, at_most, "STREAMS", self.name_, ">")):
            return []
        entries = next(iter(streams.values()))[0] if isinstance(streams, dict) else streams[0][1]
        return [(number, next(iter(fields.values()))) for number, fields in entries]

    def one(self, value: bytes) -> bytes | None:
        self.run("XADD", self.name_, "*", "v", value)
        for number, got in self.take(1):
            self.run("XACK", self.name_, "g", number)
            return got
        return None

    def many(self, values: list[bytes]) -> list[bytes]:
        self.add(values)
        entries = self.take(len(values))
        self.run("XACK", self.name_, "g", *(number for number, _ in entries))
        return [got for _, got in entries]
