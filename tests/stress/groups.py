"""Groups: four producers and four consumers of one group, killed, stopped and restarted at random; their histories are judged.

    PYTHONPATH=tests python -m stress.groups --seconds 60 --seed S

Everybody writes down what happens to him, a line each, in a file that survives him. At the end all are killed, one more consumer
reads what is left, and `judge` looks for the anomalies of Jepsen's Kafka tests, by their names:

    lost write           a send returned, and the record is not in the log, or nobody ever got it
    duplicate            a record that was sent once stands in the log twice
    inconsistent offsets two who look at one offset see different records
    skipped poll         a member passes records over, or begins behind what was committed
    non-monotonic poll   a member goes back
    lost commit          a member begins before what was committed: beyond at-least-once
    two owners           a member has a partition that another has not let go of

Exit status 1 and the store left behind when there is one.
"""

from __future__ import annotations

import collections
import json
import math
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import seglog
from crash.kills.children import Child, Died, stop_all
from stress.program import program

ACTORS, PARTITIONS, GROUP = 4, 4, "group"


class Anomaly(AssertionError):
    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.name = name


# ---- histories -------------------------------------------------------------------------------------------------------


class Event(NamedTuple):
    """What somebody wrote down, `when` by the monotonic clock, which all processes share."""

    when: float
    who: str
    kind: str
    """sent, assign (`first` is where it begins), revoke, poll (`first` .. `stop`), intend and commit (`stop`), death."""
    partition: int = -1
    first: int = 0
    stop: int = 0
    values: tuple[str, ...] = ()


@dataclass
class Holding:
    """A member has a partition, from an assign to a revoke or its death."""

    who: str
    since: float
    at: int
    until: float | None = None
    begins: set[int] = field(default_factory=set)
    """Where the next one may begin."""


def judge(events: Iterable[Event], log: dict[int, list[str]]) -> collections.Counter[str]:
    """Raises Anomaly; else what there was. `log` is what the partitions hold in the end."""
    events = sorted(events)
    where: dict[str, tuple[int, int]] = {}
    for partition, values in log.items():
        for offset, value in enumerate(values):
            if value in where:
                raise Anomaly("duplicate", f"{value} is at {where[value]} and at {(partition, offset)}")
            where[value] = (partition, offset)
    polled: set[tuple[int, int]] = set()
    happened: collections.Counter[str] = collections.Counter()
    for event in events:
        happened[event.kind] += 1
        for offset, value in enumerate(event.values, event.first):
            stands = log[event.partition][offset] if offset < len(log[event.partition]) else None
            if event.kind == "sent" and stands is None:
                raise Anomaly("lost write", f"{value} was sent to {event.partition}, {offset}, and is not there")
            if stands != value:
                raise Anomaly(
                    "inconsistent offsets", f"{event.partition}, {offset}: {event.who} saw {value}, not {stands}"
                )
            if event.kind == "poll":
                polled.add((event.partition, offset))
    for event in events:
        if event.kind == "sent" and (event.partition, event.first) not in polled:
            raise Anomaly("lost write", f"nobody got {event.values[0]}, at {event.partition}, {event.first}")
    for partition in log:
        judge_members(partition, [e for e in events if e.partition in (partition, -1)])
    happened["records"] = len(where)
    return happened


def judge_members(partition: int, events: list[Event]) -> None:
    """Who had this partition, one after the other, and what they did with it."""
    now: Holding | None = None
    begins = {0}
    for event in events:
        mine = now is not None and now.who == event.who
        if event.kind == "assign":
            if now is not None and not mine:
                raise Anomaly("two owners", f"{event.who} takes {partition} from {now.who}, who has not let go")
            if event.first < min(begins):
                raise Anomaly(
                    "lost commit", f"{event.who} begins at {partition}, {event.first}, and {begins} is committed"
                )
            if event.first not in begins:
                raise Anomaly("skipped poll", f"{event.who} begins at {partition}, {event.first}, and not at {begins}")
            now = Holding(event.who, event.when, event.first, begins=begins)
        elif event.kind in ("revoke", "death"):
            now = None if mine else now
        elif event.kind in ("poll", "intend", "commit"):
            if not mine or now is None:
                raise Anomaly("two owners", f"{event.who} has {event.kind} {partition}, which is {now}'s")
            if event.kind == "poll":
                if event.first < now.at:
                    raise Anomaly("non-monotonic poll", f"{event.who}: {partition}, {event.first} after {now.at}")
                if event.first > now.at:
                    raise Anomaly("skipped poll", f"{event.who}: {partition}, {event.first} after {now.at}")
                now.at = event.stop
            elif event.kind == "intend":
                begins.add(event.stop)
            else:
                begins.clear()
                begins.add(event.stop)


class History:
    """Where one writes what happens to him; each line is there when `note` returns, whatever becomes of him."""

    def __init__(self, folder: str, who: str) -> None:
        self.who = who
        self.fd = os.open(os.path.join(folder, f"{who}.history"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def note(self, kind: str, partition: int = -1, first: int = 0, stop: int = 0, values: Iterable[str] = ()) -> None:
        line = [time.monotonic(), self.who, kind, partition, first, stop, list(values)]
        os.write(self.fd, json.dumps(line).encode() + b"\n")


def events_of(folder: str) -> list[Event]:
    found = []
    for path in Path(folder).glob("*.history"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            *start, values = json.loads(line)
            found.append(Event(*start, tuple(values)))
    return found


# ---- what happens, by an actor ---------------------------------------------------------------------------------------


def produce(path: str, folder: str, who: str, seed: int) -> None:
    rng, history = random.Random(seed), History(folder, who)
    topic = seglog.open(path, fsync="never").topic("t")
    number = 0
    while True:
        for _ in range(rng.randrange(1, 20)):
            value, partition = f"{who}:{number}", rng.randrange(PARTITIONS)
            number += 1
            offset = topic.send(value.encode(), partition=partition).offset
            history.note("sent", partition, offset, offset + 1, [value])
        time.sleep(rng.random() * 0.01)


def consume(path: str, folder: str, who: str, seed: int, until: float | None = None) -> None:
    """Be a member, again and again; with `until`, one that reads what there is and leaves."""
    rng, history = random.Random(seed), History(folder, who)
    store = seglog.open(path, fsync=rng.choice(["never", "interval"]), fsync_interval=0.02)
    instance = who.split("-")[1] if until is None else None
    life = 0
    while True:
        history.who = f"{who}.{life}"
        life += 1

        def assigned(consumer: seglog.Consumer, what: Any) -> None:
            for partition in what["t"]:
                history.note("assign", partition, consumer.position(partition))

        def revoked(consumer: seglog.Consumer, what: Any) -> None:
            for partition in what["t"]:
                history.note("revoke", partition)

        with store.topic("t").consumer(
            GROUP,
            on_assign=assigned,
            on_revoke=revoked,
            instance=instance if instance in ("0", "1") else None,
            rejoin_within=0.1 if instance == "1" else 0.0,
        ) as consumer:
            batches = rng.randrange(1, 200)
            while until is not None or batches:
                batches -= 1
                batch = consumer.receive(rng.choice([1, 5, 100]), timeout=0.5 if until is None else until)
                if batch is None:
                    if until is not None:
                        return
                    continue
                history.note(
                    "poll",
                    batch.partition,
                    batch.first_offset,
                    batch.next_offset,
                    [(record.value or b"").decode() for record in batch],
                )
                if rng.random() < 0.02:
                    time.sleep(rng.random() * 0.1)  # some take long
                if rng.random() < 0.7:
                    history.note("intend", batch.partition, 0, batch.next_offset)
                    consumer.commit(batch)
                    history.note("commit", batch.partition, 0, batch.next_offset)


def make(path: str) -> None:
    with seglog.open(path) as store:
        store.topic("t", partitions=PARTITIONS)


def contents(path: str) -> dict[int, list[str]]:
    with seglog.open(path, upkeep=False) as store:
        topic = store.topic("t")
        return {
            partition: [(record.value or b"").decode() for record in topic.read(partition=partition)]
            for partition in range(PARTITIONS)
        }


# ---- a round ----------------------------------------------------------------------------------------------------------


class Actor:
    def __init__(self, round: Round, work: Callable[..., None], name: str) -> None:
        self.round, self.work, self.name = round, work, name
        self.lives = 0
        self.child: Child | None = None
        self.stopped_until = 0.0
        self.again_at = 0.0

    @property
    def who(self) -> str:
        return f"{self.name}-{self.lives}"

    def start(self) -> None:
        self.lives += 1
        seed = self.round.rng.getrandbits(32)
        self.child = Child(self.work, self.round.path, self.round.folder, self.who, seed)
        self.round.happened["started"] += 1

    def end(self) -> None:
        """Kill it; what it had is free from this moment on, and not before."""
        assert self.child is not None
        when = time.monotonic()
        self.child.kill(signal.SIGCONT)
        self.child.kill(signal.SIGKILL)
        how = self.child.wait()
        if how != -signal.SIGKILL:
            self.child.answer(1.0)  # raises what it failed with
            raise Died(f"{self.who} came to an end by itself ({how})")
        self.child.stop()
        self.round.deaths.append((when, self.who))
        self.child, self.stopped_until = None, 0.0


class Round:
    def __init__(self, folder: Path, seed: str) -> None:
        self.rng = random.Random(seed)
        folder.mkdir(parents=True)
        self.folder, self.path = str(folder), str(folder / "store")
        self.producers = [Actor(self, produce, f"producer-{n}") for n in range(ACTORS)]
        self.consumers = [Actor(self, consume, f"consumer-{n}") for n in range(ACTORS)]
        self.actors = self.producers + self.consumers
        self.deaths: list[tuple[float, str]] = []
        self.happened: collections.Counter[str] = collections.Counter()

    def play(self, seconds: float) -> None:
        Child(make, self.path).answer()
        for actor in self.actors:
            actor.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = time.monotonic()
            for actor in self.actors:
                if actor.child is None and now >= actor.again_at:
                    actor.start()
                elif actor.child is not None and actor.stopped_until and now >= actor.stopped_until:
                    actor.child.kill(signal.SIGCONT)
                    actor.stopped_until = 0.0
            self.strike(self.rng.choice(self.actors))
            time.sleep(self.rng.random() * 0.1)
        for actor in self.actors:
            if actor.child is not None:
                actor.end()
        last = Child(consume, self.path, self.folder, "last-9-1", self.rng.getrandbits(32), 1.0)
        last.answer(60.0)
        last.stop()
        self.judge()

    def strike(self, actor: Actor) -> None:
        if actor.child is None or actor.stopped_until:
            return
        fate = self.rng.random()
        if fate < 0.3:
            actor.end()
            actor.again_at = time.monotonic() + self.rng.choice([0.0, 0.3]) * self.rng.random()
            self.happened["killed"] += 1
        elif fate < 0.5:
            actor.child.kill(signal.SIGSTOP)
            actor.stopped_until = time.monotonic() + self.rng.random() * 0.4
            self.happened["stopped"] += 1

    def judge(self) -> None:
        events = events_of(self.folder)
        dead = {who: when for when, who in self.deaths}
        last: dict[str, float] = {}
        for event in events:
            last[event.who] = max(event.when, last.get(event.who, 0.0))
        for who, when in last.items():
            died = dead.get(who.rpartition(".")[0])
            if died is not None:  # it may have done something between the look at the clock and the signal
                events.append(Event(math.nextafter(max(when, died), math.inf), who, "death"))
        self.happened += judge(events, Child(contents, self.path).answer(60.0))


def groups(folder: Path, seconds: float, seed: int, round_seconds: float = 10.0) -> str:
    """Rounds for so long; what happened. Raises Anomaly or Died, with the store left in `folder`."""
    total: collections.Counter[str] = collections.Counter()
    began, number = time.monotonic(), 0
    while number == 0 or time.monotonic() - began < seconds:
        round = Round(folder / f"round-{number}", f"{seed}:{number}")
        try:
            round.play(min(seconds, round_seconds))
        except AssertionError as error:
            error.add_note(f"in round {number} of seed {seed:#x}, left in {folder}")
            raise
        finally:
            stop_all()
        total += round.happened
        shutil.rmtree(folder / f"round-{number}")
        number += 1
    return f"{number} rounds: " + ", ".join(f"{count:,} {what}" for what, count in sorted(total.items()))


if __name__ == "__main__":
    sys.exit(program("groups", __doc__, groups, "seconds", 60))
