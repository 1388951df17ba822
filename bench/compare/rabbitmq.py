"""RabbitMQ: a stream as the log, a quorum queue where each message must be on the disk, a durable classic queue for work.

The client is py-amqp, whose confirms need not be waited for one by one.
"""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compare.peer import Log, Peer, Place, Queue
from compare.server import Server, found, free_port

WINDOW = 5_000  # of messages that are not confirmed yet, or handed out and not acked


class RabbitServer(Server):
    program, package = "rabbitmq-server", "rabbitmq-server"

    def command(self) -> list[str]:
        """Not Debian's wrapper, which would change the user; with a port mapper of its own, that ends with it."""
        self.mapper = free_port()
        Path(self.directory, "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.console = true\n")
        return ["/bin/sh", "-c", f"epmd -address 127.0.0.1 -port {self.mapper} & exec /usr/lib/rabbitmq/bin/rabbitmq-server"]

    def environment(self) -> dict[str, str]:
        here = self.directory
        return {
            "HOME": here, "ERL_EPMD_PORT": str(self.mapper), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"bench{self.port}@localhost", "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": here, "RABBITMQ_LOG_BASE": here, "RABBITMQ_PID_FILE": f"{here}/pid",
            "RABBITMQ_CONFIG_FILE": f"{here}/rabbitmq", "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/plugins",
            "RABBITMQ_CONF_ENV_FILE": f"{here}/none",
        }

    def ready(self) -> bool:
        import amqp

        with amqp.Connection(f"127.0.0.1:{self.port}", connect_timeout=2):
            return True

    def version(self) -> str:
        asked = ["dpkg-query", "-W", "-f", "${Version}", self.package]
        return subprocess.run(asked, capture_output=True, text=True).stdout or "?"

    @classmethod
    def missing(cls) -> str | None:
        return super().missing() or (None if found("epmd") else "epmd is not installed (apt-get install erlang-base)")


class Rabbit(Peer):
    module, server = "amqp", RabbitServer
    kind = "classic"

    def __init__(self, place: Place) -> None:
        import amqp

        assert place.server
        self.connection = amqp.Connection(f"127.0.0.1:{place.server.port}")
        self.connection.connect()
        self.channel = self.connection.channel()
        self.queue = place.name
        self.declare()
        self.channel.confirm_select()
        self.sent = self.confirmed = 0
        self.channel.events["basic_ack"].add(self.on_confirm)
        self.message = amqp.Message

    def declare(self) -> None:
        self.channel.queue_declare(
            self.queue, durable=True, auto_delete=False, arguments={"x-queue-type": self.kind}
        )

    def on_confirm(self, number: int, multiple: bool) -> None:
        self.confirmed = number if multiple else self.confirmed + 1

    def publish(self, value: bytes, window: int) -> None:
        self.channel.basic_publish(self.message(value, delivery_mode=2), routing_key=self.queue)
        self.sent += 1
        while self.sent - self.confirmed > window:
            self.connection.drain_events(timeout=30)

    def consume(self, arguments: dict[str, Any], window: int = WINDOW) -> deque[Any]:
        """Where the messages will appear while events are drained."""
        came: deque[Any] = deque()
        self.channel.basic_qos(0, window, False)
        self.channel.basic_consume(self.queue, callback=came.append, arguments=arguments)
        return came

    def close(self) -> None:
        self.connection.close()


class RabbitLog(Rabbit, Log):
    name = "RabbitMQ"
    given = f"stream; confirms, {WINDOW:,} under way; prefetch {WINDOW:,}"
    synced = "quorum queue; confirms, 100 under way"
    tails = "consumer of a stream"

    def __init__(self, place: Place) -> None:
        self.kind = "quorum" if place.synced else "stream"
        super().__init__(place)

    def append(self, value: bytes) -> None:
        self.publish(value, 0)

    def append_many(self, values: list[bytes]) -> None:
        for value in values:
            self.publish(value, WINDOW)

    def post(self, value: bytes) -> None:
        self.publish(value, WINDOW)

    def flush(self) -> None:
        while self.confirmed < self.sent:
            self.connection.drain_events(timeout=30)

    def batches(self, count: int) -> Iterator[list[bytes]]:
        came = self.consume({"x-stream-offset": "first"} if self.kind == "stream" else {})
        while count > 0:
            while len(came) < min(1000, count):
                self.connection.drain_events(timeout=10)
            some = [came.popleft() for _ in range(len(came))]
            some[-1].channel.basic_ack(some[-1].delivery_tag, multiple=True)
            count -= len(some)
            yield [bytes_of(message.body) for message in some]

    def tail(self) -> Iterator[bytes]:
        came = self.consume({"x-stream-offset": "first"})
        yield b""
        while True:
            self.connection.drain_events()
            if came:
                self.channel.basic_ack(came[-1].delivery_tag, multiple=True)
            while came:
                yield bytes_of(came.popleft().body)


class RabbitQueue(Rabbit, Queue):
    name = "RabbitMQ"
    warms = False  # the prefetch of one that waits would keep what another needs
    given = "durable classic queue, persistent messages; confirm, get, ack; lists: consumer, ack multiple"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.came: deque[Any] | None = None

    def one(self, value: bytes) -> bytes | None:
        self.publish(value, 0)
        message = self.channel.basic_get(self.queue)
        if message is None:
            return None
        self.channel.basic_ack(message.delivery_tag)
        return bytes_of(message.body)

    def many(self, values: list[bytes]) -> list[bytes]:
        if self.came is None:
            self.came = self.consume({}, len(values))
        for value in values:
            self.publish(value, WINDOW)
        while len(self.came) < len(values) or self.confirmed < self.sent:
            self.connection.drain_events(timeout=20)
        some = [self.came.popleft() for _ in values]
        self.channel.basic_ack(some[-1].delivery_tag, multiple=True)
        return [bytes_of(message.body) for message in some]


def bytes_of(body: bytes | str) -> bytes:
    """py-amqp decodes what it takes for text."""
    return body.encode() if isinstance(body, str) else bytes(body)
