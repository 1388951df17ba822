"""Queues: the same proof for messages: sent, received, settled in every way, moved, and their states made, done and given back.

    ["queue", name] ["queued", name]                             making one
    ["send", op, where, [[id, size] ...], due] ["sent", op, fsync]   to a queue, or to the topic; `due`: not before, 0 is at once
    ["settle", op, queue, [id ...]] ["settled", op, fsync]       acked, purged (durable unless "never"), or neither: ["stays", op]
    ["tx", op, [id ...], [id ...]]                               what it acks and what it sends, beside "settle" and "send"; ["void", op]
    ["got", [id ...]] ["synced", [name ...]]                     these may be moved from now on; what was said of these is on the disk
    ["looked", [id ...]]                                         what was there after a recovery

Promised, whatever the level: no message that nobody sent, none altered; what a sync covered, or `always` returned from, is there until it is acked, and not
again after that ack was durable; what recovery had not found never comes; nothing comes before it is due; statistics count what can be received.
Without `never`: each message is in one place, its queue or the dead letters; of a transaction all is there, and all is acked, or nothing. Without a
power cut between two boots all that returned is so.
"""

from __future__ import annotations

import copy
import gc
import random
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import seglog
import seglog.doctor
from seglog.errors import CorruptBatch, CorruptSegment, LeaseLost, SeglogError

from .judge import look
from .workload import LEVELS, SMALL, Clock, identity, in_processes, payload

QUEUES = ("jobs", "mail")
DEAD = "jobs.dead"
RESULTS = "results"  # a topic
VICTIM = 2  # the program that is killed
BEGUN, RETURNED, DURABLE = 1, 2, 3
KINDS: list[dict[str, Any]] = [{}, {}, {"priorities": 2}, {"fifo": True}, {"fair": True}]


class Program:
    """One process that uses the queues of a store, and says so."""

    def __init__(self, who: int, path: str, rng: random.Random, teller: Any, fsync: str, settings: dict[str, Any]) -> None:
        self.who, self.path, self.rng, self.say, self.fsync, self.settings = who, path, rng, teller.say, fsync, settings
        self.boots: Callable[[], None] = lambda: None
        self.made = self.ops = 0
        self.clock = Clock()
        self.store: Any = None
        self.queues: dict[str, Any] = {}
        self.out: list[Any] = []  # messages that were received

    # ---- the store ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        self.say("level", self.fsync)
        self.store = seglog.open(
            self.path, fsync=self.fsync, write=self.settings["write"], segment_bytes=self.settings["segment_bytes"], upkeep=False, clock=self.clock
        )
        self.adopt()

    def adopt(self) -> None:
        self.queues = {name: self.store.queue(name) for name in self.store.queues()}

    def close(self) -> None:
        self.store.close()
        if self.fsync != "never":
            self.say("synced", [*self.queues, RESULTS])
        self.drop()

    def drop(self) -> None:
        """As a process that ends without a word."""
        self.out, self.queues, self.store = [], {}, None
        gc.collect()

    def reopen(self) -> None:
        self.rng.choice([self.close, self.drop])()
        self.open()

    def reboot(self) -> None:
        """Without a power cut. Offsets jump behind it, so that a few messages fill whole chunks."""
        self.rng.choice([self.close, self.drop, self.drop])()
        self.boots()
        self.open()

    # ---- what becomes of a message ----------------------------------------------------------------------------------

    def op(self) -> str:
        self.ops += 1
        return f"{self.who}.{self.ops}"

    def new(self, count: int) -> list[tuple[int, int]]:
        first = self.made
        self.made += count
        return [(self.who << 24 | first + 1 + i, self.rng.choice(self.settings["sizes"])) for i in range(count)]

    def queue(self, name: str) -> Any:
        if name not in self.queues:
            if not name.endswith(".dead"):
                self.queue(name + ".dead")  # where nothing is dropped however often it was tried
            self.say("queue", name)
            self.queues[name] = self.store.queue(name, max_attempts=0 if name.endswith(".dead") else 2, **self.settings["kind"] if name == "jobs" else {})
            self.say("queued", name)
        return self.queues[name]

    def send(self) -> None:
        queue, rng, op = self.queue(self.rng.choice(QUEUES[:1] * 3 + QUEUES)), self.rng, self.op()
        records = self.new(rng.choice([1, 1, 1, 2, 10, 70]))
        delay = rng.choice([None] * 4 + [5, 5, 1000])
        more = {"delay": delay, "priority": rng.choice([0, 0, 1, None]), "group": rng.choice([b"a", b"b"]) if queue.config.fifo or queue.config.fair else None}
        self.say("send", op, queue.name, records, self.clock.now + delay * 1_000_000 if delay else 0)
        values = [payload(number, size) for number, size in records]
        if len(values) == 1:
            queue.send(values[0], **more)
        else:
            queue.send_many(values, **more)
        self.say("sent", op, self.fsync)

    def receive(self) -> None:
        name = self.rng.choice([*self.queues, *self.queues, "jobs"])
        got = self.queue(name).receive(self.rng.choice([1, 3, 10, 100]), timeout=0)
        self.say("got", [identity(m.value) for m in got])
        self.out += got

    def some(self) -> tuple[Any, list[Any]]:
        """Some of what was received, of one queue."""
        name = self.rng.choice(sorted({m.queue.name for m in self.out}))
        chosen = [m for m in self.out if m.queue.name == name][: self.rng.choice([1, 1, 5, 100])]
        self.out = [m for m in self.out if m not in chosen]
        return self.queues[name], chosen

    def ack(self) -> None:
        if not self.out:
            return self.receive()
        queue, messages = self.some()
        op = self.op()
        self.say("settle", op, queue.name, [identity(m.value) for m in messages])
        try:
            messages[0].ack() if len(messages) == 1 else queue.ack(messages)
        except LeaseLost:
            return self.say("stays", op)
        return self.say("settled", op, self.fsync)

    def fail(self) -> None:
        if not self.out:
            return self.receive()
        queue, messages = self.some()
        end = queue.release if queue.dead_letter is None else queue.reject
        verb = self.rng.choice([queue.nack, queue.nack, end, queue.release, lambda some: queue.nack(some, delay=5)])
        with suppress(LeaseLost):
            verb(messages)
        return None

    def transact(self) -> None:
        """Acks, and sends to another queue and to a topic, all or none."""
        if not self.out:
            return self.receive()
        queue, messages = self.some()
        rng, op, numbers = self.rng, self.op(), [identity(m.value) for m in messages]
        parts = [(where, self.new(rng.choice([1, 1, 4]))) for where in rng.choice([["mail"], [RESULTS], ["mail", RESULTS]])]
        made = {"mail": self.queue("mail") if parts[0][0] == "mail" else None, RESULTS: self.store.topic(RESULTS)}
        self.say("settle", op, queue.name, numbers)
        for where, records in parts:
            self.say("send", op, where, records, 0)
        self.say("tx", op, numbers, [number for _, records in parts for number, _ in records])
        tx = self.store.transaction()
        try:
            for where, records in parts:
                made[where].send_many([payload(number, size) for number, size in records], tx=tx)
            queue.ack(messages, tx=tx)
            tx.commit()
        except LeaseLost:
            tx.abort()
            return self.say("void", op)
        self.say("sent", op, self.fsync)
        return self.say("settled", op, self.fsync)

    def redrive(self) -> None:
        if DEAD in self.queues:
            self.queues[DEAD].redrive()

    def purge(self) -> None:
        queue, op = self.queue(self.rng.choice(QUEUES)), self.op()
        ids = [identity(m.value) for m in queue.browse()]
        self.say("settle", op, queue.name, ids)
        queue.purge()
        self.say("settled", op, "never" if self.fsync == "never" else "always")  # it trims

    def sync(self) -> None:
        if self.rng.random() < 0.5:
            self.store.sync()
            self.say("synced", [*self.queues, RESULTS])
        else:
            queue = self.queue("jobs")
            queue.sync()
            self.say("synced", ["jobs"])

    def upkeep(self) -> None:
        self.store.upkeep()
        if self.fsync != "never":
            self.say("synced", [*self.queues, RESULTS])

    def reclaim(self) -> None:
        self.queue("jobs").reclaim()

    def jump(self) -> None:
        """Leases end, and the shorter delays."""
        self.clock.now += self.rng.choice([7, 40]) * 1_000_000

    def work(self, steps: int) -> None:
        verbs: list[Callable[[], None]] = [self.send] * 8 + [self.receive] * 6 + [self.ack] * 8 + [self.fail] * 5 + [self.transact] * 4 + [self.sync] * 3
        verbs += [self.upkeep] * 3 + [self.reclaim, self.jump, self.redrive, self.reopen, self.reboot, self.reboot]
        verbs += [self.purge] * (self.rng.random() < 0.2)
        if self.store is None:
            self.open()
        for _ in range(steps):
            self.rng.choice(verbs)()


class QueueWorkload:
    """One seeded program on the store at `path`; or one that is killed, and another that goes on."""

    def __init__(self, path: str, rng: random.Random, teller: Any, opener: Any, fsync: str | None = None) -> None:
        self.rng, self.teller = rng, teller
        self.shape = rng.choice(["one", "one", "mortal"])
        self.steps = rng.choice([5, 15, 40, 80])
        self.fsync = fsync or rng.choice(LEVELS)
        self.settings = {
            "write": rng.choice(["map", "pwrite"]),
            "segment_bytes": rng.choice([SMALL, 16 * SMALL]),  # of the larger ones one reserves more offsets than a chunk has
            "sizes": rng.choice([[16, 100], [16, 2000], [9000]]),
            "kind": rng.choice(KINDS),
        }
        self.programs = [Program(who, path, random.Random(rng.random()), teller, self.fsync, self.settings) for who in (1, VICTIM)]
        self.programs[0].boots = lambda: teller.boot(f"{rng.random()}")

    def run(self) -> None:
        program, victim = self.programs
        if self.shape == "mortal":
            count = self.rng.choice([20, 40, 50, 60, 70, 80, 100, 130])

            def doomed() -> None:
                self.teller.mortal(count)
                victim.work(30)

            in_processes([doomed], may_die=True)
        program.work(self.steps)
        if self.rng.random() < 0.3:
            program.close()
        program.drop()

    def __str__(self) -> str:
        return f"queues, {self.shape}, {self.steps} steps, fsync {self.fsync}, {self.settings}"


class Fate:
    """What is known of one message."""

    there = gone = 0  # BEGUN, RETURNED, DURABLE
    touched = absent = double = False

    def __init__(self, where: str, due: int) -> None:
        self.where, self.due, self.by = where, due, ""


class QueueModel:
    """What was said up to a moment, and so what must be, may be, and cannot be."""

    def __init__(self, judged_as: str | None = None) -> None:
        self.judged_as = judged_as
        self.fates: dict[int, Fate] = {}
        self.pending: dict[str, tuple[list[int], list[int]]] = {}  # by op: what it sends, and settles
        self.before: dict[str, list[tuple[int, int]]] = {}  # by op: how far what it settles was gone
        self.transactions: dict[str, tuple[list[int], list[int]]] = {}  # by op: what it acks, and sends
        self.names: dict[str, int] = {}
        self.levels: set[str] = set()

    @property
    def promised(self) -> bool:
        return "never" not in self.levels

    def hear_all(self, said: list[tuple[int, list[Any]]], moment: int) -> QueueModel:
        for at, words in said:
            if at <= moment:
                self.hear(*words)
        return self

    def hear(self, what: str, *rest: Any) -> None:
        fates = self.fates
        if what == "level":
            self.levels.add(rest[0])
        elif what in ("queue", "queued"):
            self.names[rest[0]] = BEGUN if what == "queue" else RETURNED
        elif what == "send":
            op, where, records, due = rest
            for number, _ in records:
                fates[number] = Fate(where, due)
                fates[number].there = BEGUN
                fates[number].touched = due > 0  # it is moved when it is due
            self.pending.setdefault(op, ([], []))[0].extend(number for number, _ in records)
        elif what == "settle":
            op, queue, numbers = rest
            self.before[op] = [(number, fates[number].gone) for number in numbers]
            for number in numbers:
                fates[number].gone, fates[number].by = max(BEGUN, fates[number].gone), queue
            self.pending.setdefault(op, ([], []))[1].extend(numbers)
        elif what in ("sent", "settled"):
            level = DURABLE if (self.judged_as or rest[1]) == "always" else RETURNED
            for number in self.pending[rest[0]][what == "settled"]:
                setattr(fates[number], "there" if what == "sent" else "gone", level)
        elif what in ("stays", "void"):
            sends, _ = self.pending.pop(rest[0])
            self.transactions.pop(rest[0], None)
            for number, gone in self.before[rest[0]]:
                fates[number].gone = gone
            for number in sends:
                fates[number].absent = True
        elif what == "tx":
            self.transactions[rest[0]] = rest[1], rest[2]
        elif what == "got":
            for number in rest[0]:
                fates[number].touched = True
        elif what == "synced":
            for fate in fates.values():
                if fate.there == RETURNED and fate.where in rest[0]:
                    fate.there = DURABLE
                if fate.gone == RETURNED and fate.by in rest[0]:
                    fate.gone = DURABLE
                if len(rest[0]) > 1 and not fate.due:
                    fate.touched = False
        elif what == "looked":
            there = set(rest[0])
            for number, fate in fates.items():
                fate.there, fate.gone, fate.absent = (DURABLE, 0, False) if number in there else (0, 0, True)
            self.pending.clear()
            self.transactions.clear()

    def check(self, seen: dict[str, list[int]], whole: bool, promised: bool) -> list[str]:
        """What is wrong with what is there. `whole`: no power was cut since somebody looked; `promised`: or nothing was written with never."""
        wrong: list[str] = []
        enough = RETURNED if whole else DURABLE
        whole = whole or promised
        there: dict[int, list[str]] = defaultdict(list)
        for name, numbers in seen.items():
            for number in numbers:
                there[number].append(name)
        for number, places in there.items():
            fate = self.fates.get(number)
            if number < 0:
                wrong.append(f"a wrong message in {places}: bytes that nobody sent")
            elif fate is None:
                wrong.append(f"an invented message in {places}: nobody had begun to send {number:#x}")
            elif fate.absent:
                wrong.append(f"the dead are back: message {number:#x} in {places} was not there after an earlier recovery")
            elif fate.gone >= enough:
                wrong.append(f"message {number:#x} in {places} came again: it had been acked for good")
            elif len(places) > 1 and not self.doubtful(fate, whole):
                wrong.append(f"message {number:#x} is there twice: {places}")
            if fate is not None and len(places) > 1:
                fate.double = True
        for number, fate in self.fates.items():
            if number not in there and fate.there >= enough and not fate.gone and not self.doubtful(fate, whole):
                wrong.append(f"lost: message {number:#x}, sent to {fate.where} and not acked")
        if whole:
            for op, (acks, sends) in self.transactions.items():
                arrived = [n for n in sends if n in there]
                if arrived and (some := [n for n in sends if n not in there and not self.fates[n].gone] + [n for n in acks if n in there]):
                    wrong.append(f"transaction {op} is there in parts: {arrived} are there, and of {some} that is not so")
                elif not arrived and not any(self.fates[n].gone for n in sends):
                    if some := [n for n in acks if n not in there and self.fates[n].there >= enough]:
                        wrong.append(f"transaction {op} is there in parts: {some} are acked, and nothing was sent")
        return wrong

    def doubtful(self, fate: Fate, whole: bool) -> bool:
        """With never, of a move any part may be there."""
        return fate.double or not (whole or not fate.touched)


class QueueJudge:
    """Judges one image of a store with queues: as Judge does of a log."""

    def __init__(self, path: str, model: QueueModel, rng: random.Random, boots: Callable[[], None], opener: Any) -> None:
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
        settings = {"write": rng.choice(["map", "pwrite"]), "segment_bytes": SMALL, "sizes": [16, 300], "kind": {}}
        program = Program(who, self.path, rng, self, rng.choice(LEVELS), settings)
        program.boots = self.boots
        program.clock.now += rng.choice([500, 5000]) * 1_000_000
        promised = self.model.promised
        if rng.random() < 0.3:
            self._examine("before it is opened", promised)
        for round in range(2):
            if round == 0 or rng.random() < 0.7:
                self.boots()
            if not self._looked(program, round, promised):
                # A hole, as never may leave: a queue does not go past it by itself.
                program.drop()
                seglog.doctor.repair(self.path)
                program.open()
                self._look(program, round, promised)
            if self.wrong or round == 1:
                break
            program.work(rng.choice([2, 5, 10]))
            if rng.random() < 0.5:
                program.close()
            program.drop()
        program.drop()
        if rng.random() < 0.3:
            self._examine("after all", promised)
        return self.wrong

    def _looked(self, program: Program, round: int, promised: bool) -> bool:
        try:
            program.open()
            self.say("opened")
            self._look(program, round, promised)
        except (CorruptBatch, CorruptSegment):
            if promised:
                raise
            return False
        return True

    def _examine(self, when: str, promised: bool) -> None:
        try:
            report = seglog.doctor.examine(self.path)
        except SeglogError:  # no store yet
            return
        if promised:
            self.wrong += [f"the doctor finds damage {when}: {finding}" for finding in report.damage]

    def _look(self, program: Program, round: int, promised: bool) -> None:
        model, seen = self.model, {}
        for name, known in model.names.items():
            if name not in program.queues and known == RETURNED:
                self._complain(round, f"queue {name} is gone, though its making had returned")
        if RESULTS in program.store.topics():
            sight = look(program.store.topic(RESULTS).logs[0], self.rng)
            seen[RESULTS] = [number for _, number in sight.records]
        for queue in list(program.queues.values()):
            queue.upkeep()  # so that all who are dead by now are where dead letters are
        program.adopt()
        for name, queue in program.queues.items():
            self.say("queued", name)
            said = queue.statistics()
            there = list(queue.browse())
            seen[name] = [identity(m.value) for m in there]
            self.say("got", [number for number in seen[name] if number in model.fates])
            # With never there may be holes, whose offsets count until they are passed.
            if promised and len(there) != said.depth:
                self._complain(round, f"{name} says that {said.depth} are there, and shows {len(there)}")
            got: list[Any] = []
            while some := queue.receive(1000, timeout=0):
                got += some
            if promised and len(got) != said.ready and not queue.config.fifo:
                self._complain(round, f"{name} says that {said.ready} are ready, and hands out {len(got)}")
            early = [m for m in got if program.who == 16 and (fate := model.fates.get(identity(m.value))) and fate.due > program.clock.now]
            # Cut again, time may have gone back.
            self._complain(round, *(f"{name} hands {identity(m.value):#x} out before it is due" for m in early))
            if name.endswith(".dead"):
                self._complain(round, *(f"{name} has {identity(m.value):#x}, which did not die" for m in there if not m.deaths))
            queue.release(got)
        if round == 0:
            numbers = {number for some in seen.values() for number in some}
            self.found = len(numbers)
            self.lost = sum(1 for number, fate in model.fates.items() if fate.there >= RETURNED and not fate.gone and number not in numbers)
        self._complain(round, *model.check(seen, round > 0, promised))
        self.say("looked", [number for some in seen.values() for number in some])

    def _complain(self, round: int, *wrong: str) -> None:
        self.wrong += [f"opening {round + 1}: {text}" for text in wrong]
