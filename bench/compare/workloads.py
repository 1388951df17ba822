"""Workloads: what is measured, of whom. Each opens a peer, does its work inside the clock, and checks what came back outside."""

from __future__ import annotations

import os
import random
import select
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import xxhash

from compare.laps import Child, Clock, Lap, Lost, Work, check
from compare.peer import Log, Place, Queue

BLOCK = 1000  # records of a list
WARM = 100  # records before the clock starts: what making files costs is not the question
RATE = 10_000  # a second, where latency is measured


class Workload(NamedTuple):
    key: str
    title: str
    unit: str  # of the table: ns, us
    work: Callable[[int], Work]  # for values of so many bytes
    least: int  # records of a lap; a lap has a multiple of them
    most: int
    where: dict[str, Any] = {}  # noqa: RUF012
    queue: bool = False

    def takes(self, kind: type[Any]) -> bool:
        """Whether the peer takes part; what it cannot do it says in its settings."""
        if self.queue:
            return ("-100" not in self.key or hasattr(kind, "many")) and (kind.together or self.key[-1] == "1")
        if kind.only is not None:
            return self.key in kind.only
        if self.key == "latency":
            return kind.tails is not None
        return kind.synced is not None if self.where.get("synced") else True

    def settings(self, kind: type[Any]) -> str:
        if self.key == "latency":
            return str(kind.tails)
        return str(kind.synced if self.where.get("synced") else kind.given)


def values_of(size: int, count: int = BLOCK) -> list[bytes]:
    """Different random bytes, the same in every run."""
    source = random.Random(2)
    return [source.randbytes(size) for _ in range(count)]


def endless(values: list[bytes], count: int) -> Iterator[bytes]:
    return islice(chain.from_iterable(iter(lambda: values, None)), count)


def produce(size: int, kind: type[Log], place: Place, count: int) -> Lap:
    values = values_of(size)
    with closing(kind(place)) as log:
        append = log.append
        warm = 1 if place.synced else WARM
        for value in values[:warm]:
            append(value)
        with Clock(place) as clock:
            for value in endless(values, count):
                append(value)
            log.flush()
    if kind.only is None:  # one that is here for this alone does not read
        check_log(kind, place, chain(values[:warm], endless(values, count)), count + warm)
    return clock.lap(count)


def produce_batch(block: int, size: int, kind: type[Log], place: Place, count: int) -> Lap:
    values = values_of(size, block)
    with closing(kind(place)) as log:
        append_many, prepared = log.append_many, log.prepare(values)
        append_many(prepared)
        log.flush()
        with Clock(place) as clock:
            for _ in range(count // block):
                append_many(prepared)
                if place.synced:
                    log.flush()
            log.flush()
    if kind.only is None:  # one that is here for this alone does not read
        check_log(kind, place, endless(values, count + block), count + block)
    return clock.lap(count)


def check_log(kind: type[Log], place: Place, given: Iterator[bytes], count: int) -> None:
    """By a reader that was not there when it was written."""
    with closing(kind(place)) as log:
        check(chain.from_iterable(log.batches(count)), given)


def drain(stream: Iterator[Any], one_by_one: bool, columns: Any) -> int:
    """How many came. Each is dropped when the next one is there, as a program that works on them does."""
    count = 0
    if one_by_one:
        for _ in stream:
            count += 1
    else:
        for batch in stream:
            count += len(batch[1]) if columns else len(batch)
    return count


def consume(one_by_one: bool, size: int, kind: type[Log], place: Place, count: int) -> Lap:
    """Read twice: inside the clock, and once more to compare what comes."""
    values = values_of(size)
    with closing(kind(place)) as log:
        for _ in range(count // BLOCK):
            log.append_many(values)
        log.flush()
    columns = getattr(kind, "columns", None)
    with closing(kind(place)) as log:
        stream = columns(log, count) if columns else log.each(count) if one_by_one else log.batches(count)
        with Clock(place) as clock:
            came = drain(stream, one_by_one, columns)
        del stream  # it may hold the store open
    if came != count:
        raise Lost(f"gave back {came:,} of {count:,} records")
    with closing(kind(place)) as log:
        if columns:
            parts = ((bytes(data), starts.tolist(), ends.tolist()) for data, starts, ends in columns(log, count))
            again = (data[a:b] for data, starts, ends in parts for a, b in zip(starts, ends))
        else:
            again = iter(log.each(count)) if one_by_one else chain.from_iterable(log.batches(count))
        check(again, endless(values, count))
    return clock.lap(count)


def latency(size: int, kind: type[Log], place: Place, count: int) -> Lap:
    """From the sender's clock to the value in the hand of a reader in another process, at RATE a second."""
    ready, say = os.pipe()

    def read() -> tuple[list[int], float]:
        with closing(kind(place)) as log:
            delays, numbers = array("q"), array("q")
            stream = log.tail()
            next(stream)
            os.write(say, b"!")
            clock = Clock(place)
            start = clock.now()[1]
            for value in stream:
                delays.append(time.monotonic_ns() - int.from_bytes(value[:8], "little"))
                numbers.append(int.from_bytes(value[8:16], "little"))
                if len(numbers) == count:
                    break
            used = clock.now()[1] - start
            if numbers.tolist() != list(range(count)):
                raise Lost("gave other records, or in another order")
            return delays.tolist(), used

    reader = Child(read)
    try:
        await_word(reader, ready, say)
        with closing(kind(place)) as log:
            time.sleep(0.1)
            fill, pace, post, pause = bytes(size - 16), 1_000_000_000 // RATE, log.post, log.pause
            with Clock(place) as clock:
                begin = time.monotonic_ns()
                for number in range(count):
                    while (left := begin + number * pace - time.monotonic_ns()) > 0:
                        pause(left / 1e9)
                    post(time.monotonic_ns().to_bytes(8, "little") + number.to_bytes(8, "little") + fill)
                log.flush()
            delays, used = reader.result(20)
    finally:
        reader.end()
    wall, cpu, server = clock.lap(count)[:3]
    delays.sort()
    return Lap(wall, cpu + used / count, server, delays[count // 2] / 1e9, delays[count * 99 // 100] / 1e9)


def await_word(child: Child, ready: int, say: int) -> None:
    """Until it says that it is ready; if it died instead, it tells why."""
    os.close(say)
    if not select.select([ready], [], [], 30)[0] or not os.read(ready, 1):
        child.result(1)


def work(workers: int, block: int, size: int, kind: type[Queue], place: Place, count: int) -> Lap:
    """Put, get, ack, by `workers` processes that begin together; each message must come once, to one of them."""
    begin, say = os.pipe()
    each = count // workers

    def worker(number: int) -> Child:
        ready, tell = os.pipe()

        def work() -> tuple[float, float, list[int]]:
            with closing(kind(place._replace(worker=number))) as queue:
                values = [number.to_bytes(8, "little") + value[8:] for value in values_of(size)]
                lists = [values[at : at + block] for at in range(0, BLOCK, block)]
                step = queue.one if block == 1 else queue.many  # type: ignore[attr-defined]
                some = [*values] if block == 1 else lists
                for one in some[: max(1, WARM // block) * kind.warms]:
                    step(one)
                got: list[Any] = []
                os.write(tell, b"!")
                os.read(begin, 1)
                start = time.monotonic()
                with Clock(place) as clock:
                    for _ in range(each // block // len(some)):
                        got += [step(one) for one in some]
                wall = time.monotonic() - start
                flat = got if block == 1 else list(chain.from_iterable(got))
                came = [xxhash.xxh3_64_intdigest(value) for value in flat if value is not None]
                put = [xxhash.xxh3_64_intdigest(value) * (each // BLOCK) for value in values]
                return wall, clock.took[1], [len(came), sum(came) - sum(put)]

        child = Child(work)
        await_word(child, ready, tell)
        return child

    crew: list[Child] = []
    try:
        crew += [worker(0)]
        crew += [worker(number) for number in range(1, workers)]
        server = place.server.used() if place.server else 0.0
        os.write(say, b"!" * workers)
        told = [child.result() for child in crew]
        server = place.server.used() - server if place.server else 0.0
    finally:
        for child in crew:
            child.end()
    if (n := sum(tally[0] for _, _, tally in told)) != count:
        raise Lost(f"gave back {n:,} of {count:,} messages")
    if sum(tally[1] for _, _, tally in told):
        raise Lost(f"gave back {n:,} messages, but not each of them once")
    return Lap(max(wall for wall, _, _ in told) / count, sum(cpu for _, cpu, _ in told) / count, server / count)


LOGS = [
    Workload("produce", "produce, one at a time", "ns", lambda size: partial(produce, size), 1000, 500_000),
    Workload("produce-batch", "produce, lists of 1,000", "ns", lambda size: partial(produce_batch, BLOCK, size), 1000, 500_000),
    Workload("consume", "consume, one at a time", "ns", lambda size: partial(consume, True, size), 1000, 500_000),
    Workload("consume-batch", "consume, in batches", "ns", lambda size: partial(consume, False, size), 1000, 500_000),
    Workload("sync-each", "produce, each on the disk before the next", "us", lambda size: partial(produce, size),
             40, 1_000, {"synced": True}),
    Workload("sync-100", "produce, lists of 100, each on the disk before the next", "us",
             lambda size: partial(produce_batch, 100, size), 2_000, 50_000, {"synced": True}),
    Workload("latency", f"from one process to another, at {RATE:,} a second", "us", lambda size: partial(latency, size),
             RATE, RATE, {"paced": True}),
]

QUEUES = [
    Workload(f"queue{'-100' * (block > 1)}-{workers}", f"put + get + ack, {how}, {who}", "us",
             lambda size, block=block, workers=workers: partial(work, workers, block, size),  # type: ignore[misc]
             BLOCK * workers, 200_000, queue=True)
    for block, how in ((1, "one at a time"), (100, "lists of 100"))
    for workers, who in ((1, "one worker"), (2, "two workers"))
]
