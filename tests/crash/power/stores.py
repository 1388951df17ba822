"""Stores: the same proof one floor up: topics made and deleted, sent to, and consumed by groups that commit.

    ["create", name, incarnation, partitions] ["created", name, incarnation]   ["delete", name] ["deleted", name]
    ["grow", name, partitions] ["grown", name, partitions]       ["in", key, ...]    what workload.py says, of one partition
    ["commit", place, offset] ["committed", place]               ["kept", place]     the commits before are on disk
    ["tx", op, {key: [id ...]}, {place: offset}]                 what a transaction is to write and commit, beside "write" and "commit"

Some topics are compacted; there a part of a transaction goes when a later record of its key is there.

An incarnation is a topic made under a name; a key is `name#incarnation/partition`; a place is a key and a group.

Promised besides what judge.py says of each partition: what `topic()` returned exists, and what `delete_topic` returned from does not; all partitions
of a topic are there; a group stands where it committed last before a sync, or where it committed later; a topic made anew under an
old name inherits no record and no place; of a transaction all is there or nothing, in all of its partitions that still exist, and the group stands behind it, or before.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import random
from collections.abc import Callable
from typing import Any

import seglog
from seglog.errors import CorruptBatch, CorruptSegment, OffsetOutOfRange

from .judge import Model, Sight, brief, look
from .workload import LEVELS, SMALL, Clock, in_processes, payload

NAMES = ("orders", "jobs", "a")
GROUPS = ("billing", "audit")
VICTIM = 2  # the program that is killed


class Program:
    """One process that uses a store, and says so."""

    def __init__(self, who: int, path: str, rng: random.Random, say: Callable[..., None], fsync: str, write: str) -> None:
        self.who, self.path, self.rng, self.say, self.fsync, self.write = who, path, rng, say, fsync, write
        self.made = self.ops = 0
        self.clock = Clock()
        self.store: Any = None
        self.incarnations: dict[str, int] = {}
        self.count = 0
        self.damaged = False  # whether damage is to be expected, since something was written with never
        self.consumers: dict[tuple[str, str], Any] = {}
        self.sizes = rng.choice([[16, 100, 1000], [3000, 9000], [40, 40, 33_000]])

    # ---- the store ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        self.say("level", self.fsync)
        self.store = seglog.open(
            self.path, fsync=self.fsync, write=self.write, segment_bytes=SMALL, upkeep=False, clock=self.clock
        )

    def reopen(self) -> None:
        self.close()
        self.open()

    def close(self) -> None:
        keys = list(self.keys())
        ends = {key: log.next_offset for key, log in keys}
        places = [f"{self.key(topic, p)} {group}" for (group, topic), c in self.consumers.items() for p in c.assignment.get(topic, ())]
        self.store.close()
        self.consumers.clear()
        self.store = None
        if self.fsync != "never":
            for key, end in ends.items():
                self.say("in", key, "durable", end)
            for place in places:
                self.say("kept", place)

    def drop(self) -> None:
        """As a process that ends without a word."""
        for consumer in self.consumers.values():
            for source in consumer._sources.values():
                source.positions.close()  # what the kernel would do: its descriptor is no object's
        self.consumers.clear()
        self.store = None
        gc.collect()

    # ---- topics -------------------------------------------------------------------------------------------------

    def key(self, topic: str, partition: int) -> str:
        return f"{topic}#{self.incarnations[topic]}/{partition}"

    def keys(self) -> Any:
        for name, topic in self.topics():
            for log in topic.logs:
                yield self.key(name, log.partition), log

    def topics(self) -> list[tuple[str, Any]]:
        return [(name, self.store.topic(name)) for name in sorted(self.incarnations)]

    def adopt(self) -> None:
        """Go on with the topics that another program made before it was killed; it deleted none."""
        there = self.store.topics()
        for name in NAMES:
            if name not in there:
                self.say("deleted", name)
            elif name not in self.incarnations:
                topic = self.store.topic(name)
                self.incarnations[name] = VICTIM * 1000 + 100 * NAMES.index(name)
                self.say("created", name, self.incarnations[name])
                self.say("grown", name, topic.partitions)

    def create(self) -> None:
        free = [name for name in NAMES if name not in self.incarnations]
        if free:
            name, partitions = self.rng.choice(free), self.rng.choice([1, 1, 2])
            self.count += 1
            incarnation = self.who * 1000 + (self.count if self.who != VICTIM else 100 * NAMES.index(name))
            self.say("create", name, incarnation, partitions)
            self.store.topic(name, partitions=partitions, compact=self.rng.random() < 0.4)
            self.incarnations[name] = incarnation
            self.say("created", name, incarnation)

    def compact(self) -> None:
        for topic in self._about_to_compact():
            topic.compact()

    def _about_to_compact(self) -> list[Any]:
        topics = [(name, topic) for name, topic in self.topics() if topic.config.compact]
        for name, topic in topics:
            for log in topic.logs:
                self.say("in", self.key(name, log.partition), "compact")
        return [topic for _, topic in topics]

    def delete(self) -> None:
        if self.incarnations and self.rng.random() < 0.5:
            name = self.rng.choice(sorted(self.incarnations))
            for group, topic in [place for place in self.consumers if place[1] == name]:
                self.consumers.pop((group, topic)).close()
            self.say("delete", name)
            del self.incarnations[name]
            self.store.delete_topic(name)
            self.say("deleted", name)

    def grow(self) -> None:
        if self.incarnations:
            name = self.rng.choice(sorted(self.incarnations))
            topic = self.store.topic(name)
            if topic.partitions < 4:
                to = topic.partitions + 1
                self.say("grow", name, to)
                topic.add_partitions(to)
                self.say("grown", name, to)

    # ---- records ------------------------------------------------------------------------------------------------

    def send(self) -> None:
        if not self.incarnations:
            return self.create()
        name = self.rng.choice(sorted(self.incarnations))
        topic = self.store.topic(name)
        partition = self.rng.randrange(topic.partitions)
        records = []
        for _ in range(self.rng.choice([1, 1, 1, 3, 12])):
            self.made += 1
            records.append((self.who << 24 | self.made, max(16, self.rng.choice(self.sizes))))
        self.ops += 1
        op, key = f"{self.who}.{self.ops}", self.key(name, partition)
        keyed = self._keyed(topic)
        self.say("in", key, "write", op, records, keyed)
        keys = [b"key"] * len(records) if keyed else None
        spans = topic.send_many([payload(number, size) for number, size in records], keys=keys, partition=partition)
        self.say("in", key, "wrote", op, self.fsync, [o for span in spans for o in range(span.start, span.stop)])
        return None

    def transact(self) -> None:
        """Some records for some partitions, all or none."""
        if not self.incarnations:
            return
        parts = {}
        for _ in range(self.rng.choice([1, 2, 2, 3])):
            name = self.rng.choice(sorted(self.incarnations))
            parts[name, self.rng.randrange(self.store.topic(name).partitions)] = 0
        tx = self.store.transaction()
        self.ops += 1
        op, said = f"{self.who}.{self.ops}", {}
        for name, partition in parts:
            records = []
            for _ in range(self.rng.choice([1, 1, 4])):
                self.made += 1
                records.append((self.who << 24 | self.made, max(16, self.rng.choice(self.sizes))))
            topic, values = self.store.topic(name), [payload(number, size) for number, size in records]
            keyed = self._keyed(topic)
            said[self.key(name, partition)] = [number for number, _ in records]
            self.say("in", self.key(name, partition), "write", op, records, keyed)
            if self.rng.random() < 0.5:
                topic.send_many(values, keys=[b"key"] * len(values) if keyed else None, partition=partition, tx=tx)
            else:
                for value in values:
                    topic.send(value, key=b"key" if keyed else None, partition=partition, tx=tx)
        moves = self.moves_of(tx) if self.rng.random() < 0.6 else {}
        self.say("tx", op, said, moves)
        for place, offset in moves.items():
            self.say("commit", place, offset)
        tx.commit()
        for place in moves:
            self.say("committed", place)
            if self.fsync == "always":
                self.say("kept", place)
        for name, span in tx.spans:
            self.say("in", self.key(name, span.partition), "wrote", op, self.fsync, list(range(span.start, span.stop)))

    def _keyed(self, topic: Any) -> bool:
        """Whether what is sent now has the one key there is."""
        return bool(topic.config.compact) and self.rng.random() < 0.5

    def moves_of(self, tx: Any) -> dict[str, int]:
        """What one more batch of some group moves, in a transaction."""
        got = self.some_batch()
        if got is None:
            return {}
        consumer, batch, place = got
        consumer.commit(batch, tx=tx)
        return {place: batch.next_offset}

    def sync(self) -> None:
        keys = [(key, log, log.next_offset) for key, log in self.keys()]
        self.store.sync()
        self._synced(keys)

    def upkeep(self) -> None:
        keys = [(key, log, log.next_offset) for key, log in self.keys()]
        self._about_to_compact()
        self.store.upkeep()
        if self.fsync != "never":
            self._synced(keys)

    def _synced(self, keys: list[tuple[str, Any, int]]) -> None:
        for key, _, end in keys:
            self.say("in", key, "durable", end)
        for (group, topic), consumer in self.consumers.items():
            for partition in consumer.assignment.get(topic, ()):
                self.say("kept", f"{self.key(topic, partition)} {group}")

    def consume(self) -> None:
        got = self.some_batch()
        if got is not None:
            consumer, batch, place = got
            self.say("commit", place, batch.next_offset)
            consumer.commit(batch)
            self.say("committed", place)
            if self.fsync == "always":
                self.say("kept", place)

    def some_batch(self) -> tuple[Any, Any, str] | None:
        """The next one of some group, and its place."""
        if not self.incarnations:
            return None
        name, group = self.rng.choice(sorted(self.incarnations)), self.rng.choice(GROUPS)
        consumer = self.consumers.get((group, name))
        if consumer is None:
            consumer = self.consumers[group, name] = self.store.topic(name).consumer(group, reset="earliest")
        try:
            batch = consumer.receive(max_records=self.rng.choice([1, 5, 100]), timeout=0)
        except (CorruptBatch, CorruptSegment) as error:
            if not self.damaged:
                raise
            where = [p for p in consumer.assignment.get(name, ()) if consumer.position(p) <= error.resume_offset]  # type: ignore[attr-defined]
            for partition in where:
                with contextlib.suppress(OffsetOutOfRange):
                    consumer.seek(partition, error.resume_offset)  # type: ignore[attr-defined]
            return None
        return None if batch is None else (consumer, batch, f"{self.key(name, batch.partition)} {group}")

    def leave(self) -> None:
        if self.consumers:
            group, name = self.rng.choice(sorted(self.consumers))
            consumer = self.consumers.pop((group, name))
            partitions = consumer.assignment.get(name, ())
            consumer.close()
            if self.fsync != "never":
                for partition in partitions:
                    self.say("kept", f"{self.key(name, partition)} {group}")

    def work(self, steps: int) -> None:
        verbs: list[Callable[[], None]] = [self.send] * 8 + [self.transact] * 6 + [self.consume] * 5 + [self.sync] * 2 + [self.upkeep] * 3
        verbs += [self.create] * 2 + [self.grow, self.leave, self.reopen] + [self.delete] * (self.who != VICTIM) + [self.compact] * 2
        if self.store is None:
            self.open()
        for _ in range(steps):
            self.rng.choice(verbs)()


class StoreWorkload:
    """One seeded program on the store at `path`; or one that is killed, and another that goes on."""

    def __init__(self, path: str, rng: random.Random, teller: Any, opener: Any, fsync: str | None = None) -> None:
        self.rng, self.teller = rng, teller
        self.shape = rng.choice(["one", "one", "mortal"])
        self.steps = rng.choice([5, 15, 40])
        self.fsync, self.write = fsync or rng.choice(LEVELS), rng.choice(["map", "pwrite"])
        self.programs = [
            Program(who, path, random.Random(rng.random()), teller.say, self.fsync, self.write) for who in (1, VICTIM)
        ]

    def run(self) -> None:
        program, victim = self.programs
        if self.shape == "mortal":
            count = self.rng.choice([3, 8, 20, 30, 40, 50, 60, 80, 100])

            def doomed() -> None:
                self.teller.mortal(count)
                victim.work(30)

            in_processes([doomed], may_die=True)
            program.open()
            program.adopt()
        program.work(self.steps)
        if self.rng.random() < 0.3:
            program.close()
        program.drop()

    def __str__(self) -> str:
        return f"store, {self.shape}, {self.steps} steps, fsync {self.fsync}, write {self.write}, sizes {self.programs[0].sizes}"


class StoreModel:
    """What was said of a store up to a moment."""

    def __init__(self, judged_as: str | None = None) -> None:
        self.judged_as = judged_as
        self.partitions: dict[str, Model] = {}  # by key
        self.topics: dict[str, set[int]] = {}  # by name: the incarnations that may be there; 0 is none
        self.counts: dict[int, set[int]] = {}  # by incarnation: how many partitions it may have
        self.transactions: dict[str, tuple[dict[str, list[int]], dict[str, int]]] = {}  # by op: the ids of each key; where places went
        self.places: dict[str, list[int]] = {}  # by place: the commits since the last that was kept, that one first; -1 is none
        self.levels: set[str] = set()

    def hear_all(self, said: list[tuple[int, list[Any]]], moment: int) -> StoreModel:
        for at, words in said:
            if at <= moment:
                self.hear(*words)
            elif words[0] == "in" and words[2] == "wrote" and words[1] in self.partitions:
                self.partitions[words[1]].hear_all([(at, words[2:])], moment)
        return self

    def hear(self, what: str, *rest: Any) -> None:
        if what == "in":
            self.of(rest[0]).hear(*rest[1:])
        elif what == "level":
            self.levels.add(rest[0])
            for model in self.partitions.values():
                model.levels.add(rest[0])
        elif what == "create":
            name, incarnation, partitions = rest
            self.topics.setdefault(name, {0}).add(incarnation)
            self.counts[incarnation] = {partitions}
        elif what == "created":
            self.topics[rest[0]] = {rest[1]}
        elif what == "delete":
            self.topics[rest[0]].add(0)
        elif what == "deleted":
            self.topics[rest[0]] = {0}
        elif what in ("grow", "grown"):
            (incarnation,) = self.topics[rest[0]] - {0}
            if what == "grow":
                self.counts[incarnation].add(rest[1])
            else:
                self.counts[incarnation] = {rest[1]}
        elif what == "tx":
            self.transactions[rest[0]] = rest[1], rest[2]
        elif what == "tx gone":
            del self.transactions[rest[0]]
        elif what == "commit":
            self.places.setdefault(rest[0], [-1]).append(rest[1])
        elif what == "kept" and rest[0] in self.places:
            self.places[rest[0]] = self.places[rest[0]][-1:]

    def of(self, key: str) -> Model:
        if key not in self.partitions:
            self.partitions[key] = Model(self.judged_as)
            self.partitions[key].levels |= self.levels
        return self.partitions[key]


class StoreJudge:
    """Judges one image of a store: as Judge does of a log."""

    def __init__(self, path: str, model: StoreModel, rng: random.Random, boots: Callable[[], None], opener: Any) -> None:
        self.path, self.rng, self.boots = path, rng, boots
        self.model = copy.deepcopy(model)
        self.also: Callable[..., None] = lambda *words: None
        self.fail: Callable[[int], None] = lambda n: None
        self.wrong: list[str] = []
        self.lost = self.found = self.losses = 0

    def say(self, *words: Any) -> None:
        self.model.hear(*words)
        self.also(*words)

    def judge(self, who: int) -> list[str]:
        rng = self.rng
        program = Program(who, self.path, rng, self.say, rng.choice(LEVELS), rng.choice(["map", "pwrite"]))
        expected: dict[str, list[tuple[int, int]]] = {}
        for round in range(2):
            booted = round == 0 or rng.random() < 0.7
            if booted:
                self.boots()
            model = copy.deepcopy(self.model)
            program.damaged = "never" in model.levels
            program.open()
            seen = self._look(program, model, round, booted)
            if round == 0:
                self.found = sum(len(s.records) for s in seen.values())
                self.losses = sum(s.losses for s in seen.values())
                self.lost = sum(
                    len(set(m.given) - {o for o, _ in seen[key].records}) for key, m in model.partitions.items() if key in seen
                )
            for key, records in expected.items():
                if key in seen and (left := model.of(key).left_of)(seen[key].records) != left(records):
                    self._complain(round, [f"{key}: there were {brief(records)}, and now {brief(seen[key].records)}"])
            if self.wrong or round == 1:
                break
            given = {key: set(m.given) for key, m in self.model.partitions.items()}
            program.work(rng.choice([2, 5]))
            if rng.random() < 0.7 and program.store is not None:
                program.sync()
            for key, m in self.model.partitions.items():
                new = set(m.given) - given.get(key, set())
                if new and given.get(key) and min(new) <= max(given[key]):
                    self._complain(round, [f"{key}: offset {min(new)} was given out although {max(given[key])} had been"])
                if key in seen or new:
                    expected[key] = (seen[key].records if key in seen else []) + sorted((o, m.given[o]) for o in new)
            if rng.random() < 0.5:
                program.close()
            program.drop()
        program.drop()
        return self.wrong

    def _look(self, program: Program, model: StoreModel, round: int, booted: bool) -> dict[str, Sight]:
        store = program.store
        there = store.topics()
        program.incarnations.clear()
        seen: dict[str, Sight] = {}
        stands: dict[str, int] = {}
        for name in sorted({*model.topics, *there}):
            may = model.topics.get(name, {0})
            if name not in there:
                if 0 not in may:
                    self._complain(round, [f"topic {name} is gone, though its creation had returned"])
                self.say("deleted", name)
                continue
            incarnation = max(may)
            if incarnation == 0:
                self._complain(round, [f"topic {name} is there, and should not be"])
                continue
            topic = store.topic(name)
            program.incarnations[name] = incarnation
            self.say("created", name, incarnation)
            if topic.partitions not in model.counts[incarnation]:
                self._complain(round, [f"topic {name} has {topic.partitions} partitions, not {model.counts[incarnation]}"])
            self.say("grown", name, topic.partitions)
            for log in topic.logs:
                key = program.key(name, log.partition)
                one = look(log, self.rng, "never" not in model.levels, model.of(key).spared)
                seen[key] = one
                self._complain(round, [f"{key}: {text}" for text in model.of(key).check(one)])
                self.say("in", key, "looked", one.first, [number for _, number in one.records])
                self.say("in", key, "opened", one.next, one.durable, one.epoch)
            for group in GROUPS:
                stands |= self._places(program, model, round, topic, group, booted)
        if "never" not in model.levels:
            ids = {key: {number for _, number in sight.records} for key, sight in seen.items()}
            taken = {key: model.of(key).taken(sight.records) for key, sight in seen.items()}
            for op, (parts, moves) in model.transactions.items():
                whole = {key: set(numbers) - taken[key] <= ids[key] for key, numbers in parts.items() if key in ids}
                part = {key: bool(set(numbers) & ids[key]) for key, numbers in parts.items() if key in ids}
                if any(part.values()) and not all(whole.values()):
                    self._complain(round, [f"transaction {op} is there in parts: {whole}"])
                for place, offset in moves.items():
                    compacted = any(taken[key] & set(numbers) for key, numbers in parts.items() if key in taken)
                    if place in stands and whole and not compacted and all(whole.values()) != (stands[place] >= offset):
                        there = "there" if all(whole.values()) else "not there"
                        self._complain(round, [f"transaction {op} is {there}, and {place} stands at {stands[place]}, not {offset}"])
                if not any(part.values()):
                    self.say("tx gone", op)
        for loss in store.verify() if self.rng.random() < 0.2 and "never" not in model.levels else ():
            self._complain(round, [f"verify finds {loss}"])
        return seen

    def _places(self, program: Program, model: StoreModel, round: int, topic: Any, group: str, booted: bool) -> dict[str, int]:
        """Where a group stands; after a boot that is what is on the disk, and so what holds."""
        stands = {}
        keys = [program.key(topic.name, p) for p in range(topic.partitions)]
        if not any(f"{key} {group}" in model.places for key in keys):
            return {}
        with topic.consumer(group) as consumer:
            for p, key in enumerate(keys):
                may = model.places.get(f"{key} {group}", [-1])
                at = consumer.committed(p)
                stands[f"{key} {group}"] = at = -1 if at is None else at
                if at not in may:
                    self._complain(round, [f"group {group} stands at {at} of {key}, not at one of {may[-10:]}"])
                if booted:
                    self.say("commit", f"{key} {group}", at)
                    self.say("kept", f"{key} {group}")
        return stands

    def _complain(self, round: int, wrong: list[str]) -> None:
        self.wrong += [f"opening {round + 1}: {text}" for text in wrong]
