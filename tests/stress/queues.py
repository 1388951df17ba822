"""Queues: workers of one queue are killed at random, in whatever they do; every message comes to one end.

    PYTHONPATH=tests python -m stress.queues --kills 1000 --seed S

Workers receive, and ack, nack, release, reject or hold what they have; a feeder sends. All are killed and stopped at any moment.
Each notes what it is about to do before it does it, and what is done after, in a file that survives it. `judge` holds the
histories against each other, and against what is left in the queue and among its dead letters:

    lost            sent, and neither acked nor there
    invented        received, and never sent
    came again      received in a call that began after its ack had returned; or there in the end
    two ends        acked, and among the dead; or twice there
    two hands       handed out twice under one number of delivery
    attempts fell   by something else than a release; or grew by more than there were deliveries

Exit status 1 and the store left behind when there is one.
"""

from __future__ import annotations

import collections
import os
import random
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import seglog
from crash.kills.children import Child, Died, stop_all
from stress.program import program, rounds

WORKERS, MAX_ATTEMPTS, WAITING_MAX = 4, 6, 2000
SENDING, SENT, RECEIVED, ACKING, ACKED, RELEASING = "sending", "sent", "received", "acking", "acked", "releasing"


class Anomaly(AssertionError):
    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.name = name


class Event(NamedTuple):
    """What somebody noted. `at`: for RECEIVED when the call began, for ACKED when it had returned; ns, monotonic."""

    what: str
    value: bytes
    at: int = 0
    deliveries: int = 0
    attempts: int = 0


def judge(events: Iterable[Event], left: list[bytes], dead: list[bytes]) -> collections.Counter[str]:
    """Raises Anomaly; else how much there was."""
    by_kind: dict[str, list[Event]] = collections.defaultdict(list)
    for event in events:
        by_kind[event.what].append(event)
    intended = {event.value for event in by_kind[SENDING]}
    sent = {event.value for event in by_kind[SENT]}
    acked = {event.value: event.at for event in by_kind[ACKED]}
    acking = {event.value for event in by_kind[ACKING]}
    there = collections.Counter(left + dead)
    for value in sorted(there.keys() | {event.value for event in by_kind[RECEIVED]}):
        if value not in intended:
            raise Anomaly("invented", repr(value))
        if there[value] > 1:
            raise Anomaly("two ends", f"{value!r} is there {there[value]} times")
    for value in sorted(sent):
        if value not in acking and not there[value]:
            raise Anomaly("lost", f"{value!r} was sent, and is neither acked nor there")
    for value in acked:
        if value in dead:
            raise Anomaly("two ends", f"{value!r} was acked, and is among the dead")
        if there[value]:
            raise Anomaly("came again", f"{value!r} was acked, and is there")
    releases = {(event.value, event.deliveries) for event in by_kind[RELEASING]}
    seen: dict[bytes, list[Event]] = collections.defaultdict(list)
    for event in by_kind[RECEIVED]:
        if event.value in acked and event.at > acked[event.value]:
            raise Anomaly("came again", f"{event.value!r} was acked at {acked[event.value]}, and received after that")
        seen[event.value].append(event)
    for value, its in seen.items():
        its.sort(key=lambda event: event.deliveries)
        before = Event(RECEIVED, value)
        for event in its:
            passed = event.deliveries - before.deliveries
            if passed == 0:
                raise Anomaly("two hands", f"delivery {event.deliveries} of {value!r} was handed out twice")
            given_back = (value, before.deliveries) in releases
            if not passed - given_back <= event.attempts - before.attempts <= passed:
                raise Anomaly("attempts fell", f"{value!r}: from {before} to {event}")
            before = event
    return collections.Counter(
        sent=len(sent),
        received=len(by_kind[RECEIVED]),
        acked=len(acked),
        dead=len(dead),
        left=len(left),
        released=len(releases),
        again=sum(len(its) - 1 for its in seen.values()),
    )


# ---- who does what --------------------------------------------------------------------------------------


class Notes:
    """A line an event, written by one call: who is killed leaves whole lines."""

    def __init__(self, path: str) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def add(self, *events: Event) -> None:
        os.write(self.file, b"".join(b"%s %s %d %d %d\n" % (e.what.encode(), *e[1:]) for e in events))


def noted(path: Path) -> list[Event]:
    rows = [line.split() for line in path.read_bytes().split(b"\n")[:-1]]
    return [Event(what.decode(), value, *map(int, numbers)) for what, value, *numbers in rows]


def opened(path: str, rng: random.Random) -> seglog.Queue:
    return seglog.open(path, fsync=rng.choice(["never", "interval"]), fsync_interval=0.02).queue("jobs")


def feed(path: str, notes: str, number: int, seed: int) -> None:
    rng, book, queue, sent = random.Random(seed), Notes(notes), opened(path, random.Random(seed)), 0
    while True:
        values = [b"%d.%d" % (number, sent + i) for i in range(rng.choice([1, 1, 20]))]
        sent += len(values)
        delay = rng.choice([None, None, None, 0.01])
        book.add(*(Event(SENDING, value) for value in values))
        if len(values) == 1:
            queue.send(values[0], delay=delay)
        else:
            queue.send_many(values, delay=delay)
        book.add(*(Event(SENT, value) for value in values))
        while queue.statistics().depth > WAITING_MAX:
            time.sleep(0.01)
        time.sleep(0.002)


def work(path: str, notes: str, seed: int) -> None:
    rng, book, queue = random.Random(seed), Notes(notes), opened(path, random.Random(seed))
    while True:
        began = time.monotonic_ns()
        messages = queue.receive(rng.choice([1, 1, 5, 50]), timeout=0.1)
        if not messages:
            continue
        book.add(*(Event(RECEIVED, m.value, began, m.deliveries, m.attempts) for m in messages))
        if rng.random() < 0.05:
            time.sleep(rng.random() * 0.05)
        dice = rng.random()
        if dice < 0.1:
            queue.nack(messages, delay=rng.choice([None, 0.01]))
        elif dice < 0.2:
            book.add(*(Event(RELEASING, m.value, 0, m.deliveries) for m in messages))
            queue.release(messages)
        elif dice < 0.22:
            queue.reject(messages, "no good")
        else:
            book.add(*(Event(ACKING, m.value) for m in messages))
            if len(messages) == 1:
                messages[0].ack()
            else:
                queue.ack(messages)
            now = time.monotonic_ns()
            book.add(*(Event(ACKED, m.value, now) for m in messages))


def make(path: str) -> None:
    with seglog.open(path) as store:
        store.queue("jobs", lease=3600, max_attempts=MAX_ATTEMPTS, segment_bytes=1 << 18)


def rest(path: str) -> tuple[list[bytes], list[bytes]]:
    """What is left: in the queue, once everything that was out has come back, and among the dead."""
    with seglog.open(path) as store:
        found = []
        for name in ("jobs", "jobs.dead"):
            values: list[bytes] = []
            queue = store.queue(name)
            while messages := queue.receive(1000, timeout=0.3):
                queue.ack(messages)
                values += [message.value or b"" for message in messages]
            found.append(values)
        assert store.queue("jobs").statistics().depth == 0, "something is there, and does not come"
        return found[0], found[1]


# ---- a round ----------------------------------------------------------------------------------------------


def play(folder: Path, seed: str, kills: int) -> collections.Counter[str]:
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    path = str(folder / "store")
    Child(make, path).answer()
    started = 0
    happened: collections.Counter[str] = collections.Counter()

    def start(what: str) -> Child:
        nonlocal started
        started += 1
        notes = str(folder / f"{started}.notes")
        if what == "feeder":
            return Child(feed, path, notes, started, rng.getrandbits(32))
        return Child(work, path, notes, rng.getrandbits(32))

    roles = ["feeder"] + ["worker"] * WORKERS
    actors = [start(what) for what in roles]
    while happened["kills"] < kills:
        time.sleep(rng.random() * rng.choice([0.01, 0.05, 0.2]))
        number = rng.randrange(len(actors))
        if rng.random() < 0.2:
            actors[number].kill(signal.SIGSTOP)
            time.sleep(rng.random() * 0.2)
            actors[number].kill(signal.SIGCONT)
            happened["stops"] += 1
            continue
        end(actors[number], roles[number])
        actors[number] = start(roles[number])
        happened["kills"] += 1
    for actor, what in zip(actors, roles):
        end(actor, what)
    left, dead = Child(rest, path).answer(120.0)
    return happened + judge([event for file in folder.glob("*.notes") for event in noted(file)], left, dead)


def end(child: Child, what: str) -> None:
    child.kill(signal.SIGKILL)
    if child.wait() != -signal.SIGKILL:
        child.stop()
        try:
            child.answer(1.0)
        except Died as why:
            raise AssertionError(f"{what} ended by itself: {why}") from why
    child.stop()


def queues(folder: Path, kills: int, seed: int) -> str:
    """Rounds of 100 kills; what was done, in words."""
    return rounds(folder, kills, seed, 100, play, stop_all)


if __name__ == "__main__":
    sys.exit(program("queues", __doc__, queues, "kills", 1000))
