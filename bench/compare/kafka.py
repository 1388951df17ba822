"""Kafka: one broker, KRaft, no ZooKeeper; the client is confluent-kafka. `make compare-servers` fetches the jars with Maven."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compare.peer import Log, Peer, Place, Queue
from compare.server import Server, found, free_port

JARS = Path(__file__).parents[2] / "build" / "kafka"

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={directory}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
"""


class KafkaServer(Server):
    program = "java"

    @classmethod
    def missing(cls) -> str | None:
        if not found("java"):
            return "java is not installed (apt-get install openjdk-17-jre-headless)"
        return None if list(JARS.glob("kafka_*.jar")) else "Kafka's jars are not there (make compare-servers)"

    def command(self) -> list[str]:
        properties = Path(self.directory, "server.properties")
        properties.write_text(PROPERTIES.format(port=self.port, controller=free_port(), directory=self.directory))
        java = [found("java") or "", "-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-cp", f"{JARS}/*"]
        storage = [*java, "kafka.tools.StorageTool", "format", "-t", "c2VnbG9nLWJlbmNoLS0tLQ", "-c", str(properties)]
        subprocess.run(storage, check=True, capture_output=True, cwd=self.directory)
        return [*java, "kafka.Kafka", str(properties)]

    def ready(self) -> bool:
        from confluent_kafka.admin import AdminClient

        quiet = {"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0}
        return bool(super().ready() and AdminClient(quiet).list_topics(timeout=5).brokers)

    def version(self) -> str:
        return next(JARS.glob("kafka_*.jar")).stem.rpartition("-")[2]


class Kafka(Peer):
    module, package, server = "confluent_kafka", "confluent-kafka", KafkaServer
    linger_ms = 5

    def __init__(self, place: Place) -> None:
        import confluent_kafka
        from confluent_kafka.admin import AdminClient, NewTopic

        assert place.server
        self.topic, self.partition = place.name, place.worker
        self.broker = {"bootstrap.servers": f"127.0.0.1:{place.server.port}", "log_level": 0}
        self.api, self.consumers = confluent_kafka, list[Any]()
        how = {"flush.messages": "1"} if place.synced else {}
        admin = AdminClient(self.broker)
        made = admin.create_topics([NewTopic(self.topic, 2, 1, config=how)])
        try:
            made[self.topic].result()
        except confluent_kafka.KafkaException as error:
            if error.args[0].code() != confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        self.producer = confluent_kafka.Producer(
            self.broker
            | {
                "linger.ms": self.linger_ms, "batch.size": 1 << 20, "batch.num.messages": 100_000, "compression.type": "lz4",
                "queue.buffering.max.messages": 1_000_000, "acks": "all",
            }
        )

    def append(self, value: bytes) -> None:
        self.producer.produce(self.topic, value, partition=self.partition)
        self.producer.flush()

    def append_many(self, values: list[bytes]) -> None:
        self.producer.produce_batch(self.topic, [{"value": value} for value in values], self.partition)
        self.producer.poll(0)

    def flush(self) -> None:
        if left := self.producer.flush(30):
            raise RuntimeError(f"{left} records were not acknowledged in 30 s")

    def consumer(self) -> Any:
        given = {
            "group.id": self.topic, "enable.auto.commit": False, "queued.min.messages": 200_000, "fetch.wait.max.ms": 500,
            "auto.offset.reset": "earliest",
        }
        consumer = self.api.Consumer(self.broker | given)
        consumer.assign([self.api.TopicPartition(self.topic, self.partition, 0)])
        self.consumers.append(consumer)
        return consumer

    def close(self) -> None:
        for consumer in self.consumers:
            consumer.close()
        self.producer.flush(30)


class KafkaLog(Kafka, Log):
    name = "Apache Kafka"
    given = "acks=all, lz4, linger 5 ms, batches of 1 MiB; consume(1,000), and poll(); a flush for each single record"
    synced = "flush.messages=1, acks=all"
    tails = "linger 1 ms; poll()"

    def __init__(self, place: Place) -> None:
        self.linger_ms = 1 if place.paced else 5
        super().__init__(place)

    def post(self, value: bytes) -> None:
        self.producer.produce(self.topic, value, partition=self.partition)
        self.producer.poll(0)

    def batches(self, count: int) -> Iterator[list[bytes]]:
        consume = self.consumer().consume
        while count > 0:
            got = [message.value() for message in consume(1000, 10)]
            if not got:
                return
            count -= len(got)
            yield got

    def each(self, count: int) -> Iterator[bytes]:
        poll = self.consumer().poll
        for _ in range(count):
            if (message := poll(10)) is None:
                return
            yield message.value()

    def tail(self) -> Iterator[bytes]:
        poll = self.consumer().poll
        yield b""
        while True:
            if (message := poll(10)) is not None and not message.error():
                yield message.value()


class KafkaQueue(Kafka, Queue):
    name = "Apache Kafka"
    given = "a partition per worker; produce + flush, poll, commit; lists: consume(100), one commit"
    linger_ms = 0

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.reader = self.consumer()

    def one(self, value: bytes) -> bytes | None:
        self.append(value)
        if (message := self.reader.poll(5)) is None:
            return None
        self.reader.commit(message, asynchronous=False)
        return bytes(message.value())

    def many(self, values: list[bytes]) -> list[bytes]:
        self.append_many(values)
        self.flush()
        got: list[Any] = []
        while len(got) < len(values) and (some := self.reader.consume(len(values) - len(got), 5)):
            got += some
        if got:
            self.reader.commit(got[-1], asynchronous=False)
        return [bytes(message.value()) for message in got]
