"""Hunger: a verb whose n-th piece of memory is refused, asked for by the engine (ENGINE: once, or from then on) or by Python on the way (PYTHON).

It raises MemoryError (or what Python has instead), or an error of the tree, or does its work. Whatever it was: what was acknowledged is there, in the same process at once,
after the next opening and after the next boot; every message that was not acked can be received, at once; nobody is left with a lock, no descriptor and no
map stays, and the doctor finds nothing. A verb stands alone with a store made for it, so that every n can be tried.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import random
from collections.abc import Callable
from typing import Any

import numpy as np

import seglog
from seglog import doctor

from ..power.workload import SMALL, identity, payload
from .scenes import PATIENCE, Sent, StoreScene


class Hungry(StoreScene):
    """What is in the store before is the same for each verb."""

    verb = ""
    others = frozenset({"prices"})
    boots = 2

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.jobs, self.keyed, self.numbers = Messages(), Sent(), 0
        self.rng = random.Random(0)
        self.eating = False
        self.held: list[Any] = []

    # ---- what may come of it ----------------------------------------------------------------------------------------

    def attempt(self, verb: Callable[[], Any]) -> BaseException | None:
        def fed() -> None:
            try:
                verb()
            except Exception as error:
                if not (self.eating and of_hunger(error)):
                    raise
                self.said.append(f"{self.verb}: {type(error).__name__}: {error}")

        return super().attempt(fed)

    # ---- a life -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        self.store = seglog.open(self.path, fsync=self.fsync, write=self.write, segment_bytes=SMALL, upkeep=False, lock_timeout=PATIENCE)  # type: ignore[arg-type]

    @property
    def queue(self) -> Any:
        return self.store.queue("jobs", max_attempts=0, lease=3600, max_lease=3600)

    def story(self) -> None:
        before, verb = VERBS[self.verb]
        self.go(self.topic("orders", 1), self.send("orders", 20, 3000, 100), self.fill)
        if self.wrong or self.said:
            self.wrong.append(f"before anything failed: {self.said}")
            return
        ready = before(self) if before else None
        self.eating = True
        self.attempt(lambda: self.starve(verb, ready))
        self.eating = False
        for message in self.held:  # those that are still leased
            with contextlib.suppress(seglog.LeaseLost):
                self.queue.release([message])
        self.held, ready = [], None
        gc.collect()
        if self.is_open() and not self.store.closed:
            self.go(self.everything_is_there, self.once_more)
        else:
            self.store = None

    def starve(self, verb: Callable[[Hungry, Any], Any], ready: Any) -> None:
        self.faults.window(True)
        try:
            verb(self, ready)
        finally:
            self.faults.window(False)

    def fill(self) -> None:
        self.jobs.send(self.queue, 12)
        done = self.queue.receive(3, timeout=0)
        self.queue.ack(done)
        self.jobs.acked(done)
        values = [payload(self.number(), 40) for _ in range(20)]
        self.keyed.sent |= {identity(value) for value in values}
        prices = self.store.topic("prices", compact=True)
        for k, value in enumerate(values):
            self.keyed.acknowledge(prices.send(value, b"%d" % (k % 4)).offset, value)

    def number(self) -> int:
        self.numbers += 1
        return 1_000_000 + self.numbers

    # ---- what must hold ---------------------------------------------------------------------------------------------

    def everything_is_there(self) -> None:
        super().everything_is_there()
        self.wrong += self.jobs.complaints(self.queue)
        there = {record.key: identity(record.value) for record in self.store.topic("prices", compact=True).read()}
        for key, number in self.keyed_last().items():
            if there.get(key) != number:
                self.wrong.append(f"prices: the last record of {key!r} is {there.get(key)}, not {number}")
        self.wrong += [f"the doctor finds {finding}" for finding in doctor.examine(self.path).findings if finding.severity == "damage"][:2]

    def keyed_last(self) -> dict[bytes, int]:
        return {b"%d" % (k % 4): number for k, number in enumerate(self.keyed.acknowledged.values())}

    def once_more(self) -> None:
        super().once_more()
        self.store.queue("more").send(b"1")
        self.jobs.send(self.queue, 2)
        some = self.queue.receive(1, timeout=0)
        self.queue.ack(some)
        self.jobs.acked(some)


class Messages:
    """What was sent to a queue, and what came of it."""

    def __init__(self) -> None:
        self.sent: set[bytes] = set()
        self.acknowledged: set[bytes] = set()
        self.perhaps: set[bytes] = set()  # an ack of these was begun
        self.done: set[bytes] = set()
        self.number = 0

    def made(self, count: int) -> list[bytes]:
        values = [b"%d" % (self.number + k) for k in range(count)]
        self.number += count
        self.sent |= set(values)
        return values

    def send(self, queue: Any, count: int) -> None:
        for value in self.made(count):
            queue.send(value)
            self.acknowledged.add(value)

    def acked(self, messages: Any) -> None:
        self.done |= {message.value for message in messages}

    def complaints(self, queue: Any) -> list[str]:
        """Receives everything, and gives it back."""
        wrong, got = [], []
        while some := queue.receive(7, timeout=0):
            got += some
        values = [message.value for message in got]
        counts = queue.statistics()
        if counts.in_flight != len(got) or counts.ready or counts.delayed:
            wrong.append(f"{len(got)} were received, and it says {counts}")
        queue.release(got)
        if len(set(values)) != len(values):
            wrong.append(f"received twice: {sorted(values)}")
        if lost := self.acknowledged - self.perhaps - self.done - set(values):
            wrong.append(f"messages are lost: {sorted(lost)}")
        if again := self.done & set(values):
            wrong.append(f"acked messages come again: {sorted(again)}")
        if strange := set(values) - self.sent:
            wrong.append(f"nobody sent {sorted(strange)}")
        return wrong


def of_hunger(error: Exception) -> bool:
    """Whether it says that there is no memory; Python has several ways to."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and "can't allocate" in str(error))  # the lock of a file
    )


# ---- the verbs ------------------------------------------------------------------------------------------------------
# Each: what is made ready while there is memory, and what is done without.

FRUGAL = {"acking", "giving_back", "receiving", "receiving_what_came_back", "sending_many_messages"}
Before = Callable[[Hungry], Any] | None
VERBS: dict[str, tuple[Before, Callable[[Hungry, Any], Any]]] = {}


def verb(before: Before = None) -> Callable[[Callable[[Hungry, Any], Any]], Any]:
    def register(function: Callable[[Hungry, Any], Any]) -> Any:
        VERBS[function.__name__] = before, function
        return function

    return register


def closed(its: Hungry) -> None:
    its.leave()


def killed(its: Hungry) -> None:
    """As a kill leaves it, and the next boot finds it: nothing was closed."""
    its.store.sync()
    its.reboot()


def orders(its: Hungry) -> Any:
    return its.store.topic("orders")


def leased(its: Hungry) -> Any:
    queue = its.queue
    its.held = queue.receive(4, timeout=0)
    return queue, its.held, {message.value for message in its.held}


@verb(closed)
def opening(its: Hungry, _: Any) -> None:
    its.open()
    its.store.topic("orders").statistics()
    its.queue.statistics()


@verb(killed)
def recovery(its: Hungry, _: Any) -> None:
    its.open()
    its.store.topic("orders").statistics()
    its.queue.statistics()


@verb()
def closing(its: Hungry, _: Any) -> None:
    its.store.close()


@verb()
def making(its: Hungry, _: Any) -> None:
    its.topic("made", 2)()


@verb()
def deleting(its: Hungry, _: Any) -> None:
    its.delete("orders")()


@verb(lambda its: its.records(its.topics["orders"][0], 20, 900))
def sending(its: Hungry, values: Any) -> None:
    for value in values:
        its.topics["orders"][0].acknowledge(its.store.topic("orders").send(value, b"key", {"h": b"v"}).offset, value)


@verb(lambda its: its.records(its.topics["orders"][0], 33_000, 40_000, 20, 90_000))
def rolling(its: Hungry, values: Any) -> None:
    for value in values:
        its.topics["orders"][0].acknowledge(its.store.topic("orders").send(value).offset, value)


def acknowledged(its: Hungry, spans: Any, values: Any) -> None:
    for span in spans:
        for offset, value in zip(range(span.start, span.stop), values):
            its.topics["orders"][0].acknowledge(offset, value)
        values = values[span.stop - span.start :]


@verb(lambda its: its.records(its.topics["orders"][0], *[20, 100, 900, 5000] * 8))
def sending_many(its: Hungry, values: Any) -> None:
    acknowledged(its, orders(its).send_many(values), values)


@verb(lambda its: its.records(its.topics["orders"][0], *[48] * 50))
def sending_an_array(its: Hungry, values: Any) -> None:
    acknowledged(its, orders(its).send_many(np.frombuffer(b"".join(values), "V48")), values)


@verb(lambda its: its.records(its.topics["orders"][0], 500))
def claiming(its: Hungry, values: Any) -> None:
    claim = orders(its).claim(500)
    with claim as view:
        view[:] = values[0]
    its.topics["orders"][0].acknowledge(claim.position.offset, values[0])


@verb(lambda its: its.records(its.topics["orders"][0], 30, 40))
def committing(its: Hungry, values: Any) -> None:
    with its.store.transaction() as tx:
        for value in values:
            orders(its).send(value, tx=tx)


@verb()
def reading(its: Hungry, _: Any) -> None:
    topic = orders(its)
    for record in topic.read():
        assert identity(record.value) in its.topics["orders"][0].sent
    topic.last(2), topic.offset_for_time(0)


@verb()
def columns(its: Hungry, _: Any) -> None:
    for batch in orders(its).batches():
        values, _keys = batch.values, batch.keys
        assert all(identity(value) in its.topics["orders"][0].sent for value in values.tolist())
        batch.offsets.tolist(), batch.timestamps.tolist()


@verb()
def lending(its: Hungry, _: Any) -> None:
    import pyarrow

    try:
        table = pyarrow.table(orders(its).arrow())
    except pyarrow.ArrowException:  # ours, in its words
        raise MemoryError from None
    assert len(table) == 3


@verb()
def consuming(its: Hungry, _: Any) -> None:
    its.consume()


@verb()
def trimming(its: Hungry, _: Any) -> None:
    sent = its.topics["orders"][0]
    sent.trimming = 2
    its.store.topic("orders").trim(2)


@verb()
def compacting(its: Hungry, _: Any) -> None:
    its.store.topic("prices", compact=True).compact()


@verb()
def looking_up(its: Hungry, _: Any) -> None:
    found = its.store.topic("prices", compact=True).latest(b"1")
    assert identity(found.value) == its.keyed_last()[b"1"]


@verb()
def syncing(its: Hungry, _: Any) -> None:
    its.store.sync()


@verb()
def tidying(its: Hungry, _: Any) -> None:
    its.store.upkeep()


@verb()
def verifying(its: Hungry, _: Any) -> None:
    assert its.store.verify() == []
    its.store.statistics()


@verb()
def making_a_queue(its: Hungry, _: Any) -> None:
    its.store.queue("more").send(b"1")


@verb(lambda its: (its.queue, its.jobs.made(3)))
def sending_messages(its: Hungry, ready: Any) -> None:
    queue, (one, two, three) = ready
    queue.send(one)
    its.jobs.acknowledged.add(one)
    queue.send(two, headers={"h": b"v"})
    its.jobs.acknowledged.add(two)
    queue.send(three, dedup_id=b"three")
    its.jobs.acknowledged.add(three)


@verb(lambda its: (its.queue, its.jobs.made(40)))
def sending_many_messages(its: Hungry, ready: Any) -> None:
    queue, values = ready
    queue.send_many(values)
    its.jobs.acknowledged |= set(values)


@verb(lambda its: its.queue)
def receiving(its: Hungry, queue: Any) -> None:
    """What was not handed out by an error can be received at once; what was handed out is given back."""
    one = some = ()
    try:
        one = queue.receive(1, timeout=0)
        some = queue.receive(5, timeout=0)
    finally:
        its.faults.window(False)
        queue.release([*one, *some])


@verb(leased)
def receiving_what_came_back(its: Hungry, ready: Any) -> None:
    queue, messages, _ = ready
    its.faults.window(False)
    queue.release(messages)
    its.faults.window(True)
    VERBS["receiving"][1](its, queue)


@verb(leased)
def acking(its: Hungry, ready: Any) -> None:
    """One alone, the others together."""
    queue, messages, values = ready
    its.jobs.perhaps |= values
    messages[0].ack()
    queue.ack(messages[1:])
    its.jobs.done |= values


@verb(leased)
def acking_in_a_transaction(its: Hungry, ready: Any) -> None:
    queue, messages, values = ready
    its.jobs.perhaps |= values
    with its.store.transaction() as tx:
        queue.ack(messages, tx=tx)
    its.jobs.done |= values


@verb(leased)
def giving_back(its: Hungry, ready: Any) -> None:
    queue, messages, _ = ready
    messages[0].nack(delay=0)
    queue.release(messages[1:3])
    messages[3].extend(100)


# Broken on purpose: instead of a verb, one that takes MemoryError for nothing, or gives nothing back.


def hushing(its: Hungry, ready: Any) -> None:
    topic, values = ready
    following = topic.next_offset()
    with contextlib.suppress(MemoryError):
        topic.send_many(values)
    for offset, value in enumerate(values, following):
        its.topics["orders"][0].acknowledge(offset, value)


def hoarding(its: Hungry, queue: Any) -> None:
    its.kept = queue.receive(3, timeout=0)
    bytearray(100)




BREAKS: dict[str, tuple[str, Before, Callable[[Hungry, Any], Any], str]] = {
    "hushing": ("sending_many", lambda its: (orders(its), its.records(its.topics["orders"][0], 20, 900)), hushing, "acknowledged at"),
    "hoarding": ("receiving", lambda its: its.queue, hoarding, "messages are lost"),
}


def scenes(broken: str) -> dict[str, type[Hungry]]:
    if broken in BREAKS:
        name, before, function, _ = BREAKS[broken]
        VERBS[name] = before, function
    return {name: type(name, (Hungry,), {"verb": name}) for name in VERBS}
