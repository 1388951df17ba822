"""A queue against a plain model: whatever is sent, received, settled or given back, by whichever handle, and however time passes,
the next message is the one that has to come, and the counts are the model's. In the end every message came to one end, and no
message came from nowhere.

Time is a `ManualClock`, so delays, leases and lives end when the test says so. Up to three stores are open on the directory, each
as another process has it, and processes come, receive and die.

The short form is part of `make test`, and always the same. The long form looks elsewhere each time, or where SEED says:
make traps ARGS="-k model" SEED=7
"""

import os
import shutil
import sys
import tempfile

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import seglog
from conftest import SEED
from crash.scratch import memory
from unit.face.queue_model import ACKED, DEAD, DELAYED, DROPPED, EXPIRED, LEASED, PURGED, READY, QueueModel

LONG = os.environ.get("SEGLOG_LONG", "0") not in ("", "0")
START = 1_700_000_000_000_000
HANDLES_MAX = 3
VERBS = ["ack", "nack", "release", "reject", "extend"]
which = st.integers(0, 7)  # to be taken modulo what there is
delays = st.sampled_from([0, 0, 0, 1, 5, 10])
groups = st.sampled_from([b"a", b"b", b"c"])
ids = st.sampled_from([None, None, None, b"x", b"y"])


class Held:
    """A message in somebody's hand, and what the model thinks that it is."""

    def __init__(self, handle, message, sent):
        self.handle, self.message, self.sent, self.receipt = handle, message, sent, sent.receipt

    @property
    def good(self):
        return self.sent.state == LEASED and self.sent.receipt == self.receipt


class Handle:
    """A store of its own on the same directory, as another process has one."""

    def __init__(self, machine, **config):
        self.store = seglog.open(machine.path, fsync="never", upkeep=False, clock=machine.clock, segment_bytes=1 << 16)
        self.queue = self.store.queue("q", **config)


class Open:
    """A transaction that is not over: what was received in it, what it will do to whom, and what it will send."""

    def __init__(self, handle):
        self.handle, self.tx, self.got, self.verbs, self.sent = handle, handle.store.transaction(), [], [], []


class QueueMachine(RuleBasedStateMachine):
    fifo = False

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="seglog-queue-", dir=memory())
        self.path = self.folder + "/data"
        self.clock = seglog.ManualClock(START)
        self.handles, self.held, self.open, self.number = [], [], [], 0
        self.places, self.names = {}, {}

    @initialize(
        priorities=st.integers(1, 3),
        max_attempts=st.integers(1, 4),
        ttl=st.sampled_from([None, None, None, 40]),
        dead=st.sampled_from(["kept", "kept", "with the expired", "dropped"]),
        bound=st.sampled_from([{}, {}, {"max_length": 4}, {"max_bytes": 7}]),
        overflow=st.sampled_from(["reject", "drop_oldest", "drop_new", "dead_letter"]),
        padding=st.sampled_from([0, 0, 4000]),
    )
    def begin(self, priorities, max_attempts, ttl, dead, bound, overflow, padding):
        config = {"lease": 20, "max_lease": 40, "max_attempts": max_attempts, "dedup_window": 60.5, **bound}
        config |= {"fifo": True} if self.fifo else {"priorities": priorities}
        config |= {} if ttl is None else {"ttl": ttl}
        config |= {"overflow": overflow} if bound else {}
        config |= {"kept": {}, "dropped": {"dead_letter": False}}.get(dead, {"dead_letter_expired": True})
        self.model = QueueModel(now=START, **config)
        self.bound, self.padding = bound, 0 if "max_bytes" in bound else padding
        self.handles.append(Handle(self, **config))

    # ---- sending

    def new_value(self):
        self.number += 1
        return (b"%d" % self.number).ljust(self.padding)

    def options(self, level, group):
        """For the queue, and for the model."""
        return ({"group": group},) * 2 if self.fifo else ({"priority": level}, {"level": level})

    @rule(who=which, level=st.integers(0, 3), delay=delays, ttl=st.sampled_from([None, None, 15, 30]), group=groups, dedup_id=ids)
    def send(self, who, level, delay, ttl, group, dedup_id):
        theirs, ours = self.options(level, group)
        more = {"delay": delay, "ttl": ttl, "dedup_id": dedup_id}
        value = self.new_value()
        if dedup_id in self.model.unsure:  # it was purged: known still, or not
            return
        send = self.pick(who).queue.send
        became = self.model.send(value, **ours, **more)
        position = self.sent_or_full(became, lambda: send(value, **theirs, **more))
        if became == "duplicate":
            assert position == self.places.get(dedup_id, position), "the first one's place is told"
        elif became == "sent":
            if not delay:
                assert position.partition == self.model.messages[-1].level
            if dedup_id is not None:
                self.places.pop(dedup_id, None)
                if not delay:  # a delayed one moves
                    self.places[dedup_id] = position

    def sent_or_full(self, became, send):
        if became != "full":
            return send()
        with pytest.raises(seglog.QueueFull):
            send()
        return None

    @rule(who=which, count=st.sampled_from([0, 1, 2, 3, 9]), level=st.integers(0, 2), delay=delays, group=groups)
    def send_many(self, who, count, level, delay, group):
        values = [self.new_value() for _ in range(count)]
        theirs, ours = self.options(level, group)
        became = self.model.send(*values, delay=delay, **ours)
        self.sent_or_full(became, lambda: self.pick(who).queue.send_many(values, delay=delay, **theirs))

    @rule(who=which, levels=st.sampled_from([(0, 1, 2, 0, 1), (2, 2, 1, 0, 0, 0), (1,) * 8]), group=groups)
    def send_some(self, who, levels, group):
        """Until there is no room."""
        for level in levels:
            self.send(who, level, 0, None, group, None)

    # ---- receiving

    def pick(self, who):
        return self.handles[who % len(self.handles)]

    @rule(who=which, most=st.sampled_from([1, 1, 2, 5, 100]))
    def receive(self, who, most):
        handle = self.pick(who)
        self.take(handle, handle.queue.receive(most, 0), most)

    def take(self, handle, got, most):
        expected = self.model.receive(most, handle)
        assert [row(message) for message in got] == [
            (each.value, each.level, each.attempts, each.deliveries, each.first_received_at, each.sent_at, each.group)
            for each in expected
        ]
        for message, sent in zip(got, expected, strict=True):
            assert [death["reason"] for death in message.deaths] == list(dict.fromkeys(reversed(sent.reasons)))
            assert message.id == self.names.setdefault(sent, message.id)
        mine = [Held(handle, message, each) for message, each in zip(got, expected, strict=True)]
        self.held += mine
        return mine

    @rule(who=which, most=st.integers(1, 10))
    def peek(self, who, most):
        """Nothing is leased by it, and nothing can be done to what was looked at."""
        seen = self.pick(who).queue.peek(most)
        found = [message.value for message in seen]
        expected = [each.value for each in self.model.in_order()]
        if self.fifo:  # those that are blocked may be shown among them
            waiting = {each.value for each in self.model.those(READY)}
            assert set(found) <= waiting
            found = [value for value in found if value in expected]
            most = most if len(seen) < most else len(found)
        assert found == expected[:most]
        for message in seen[:1]:
            with pytest.raises(seglog.LeaseLost):
                message.ack()

    # ---- settling

    def good_ones(self):
        return [held for held in self.held if held.good]

    @precondition(lambda self: self.good_ones())
    @rule(who=which, verb=st.sampled_from(VERBS), seconds=st.sampled_from([0, 3, 25, 500]))
    def settle(self, who, verb, seconds):
        good = self.good_ones()
        held = good[who % len(good)]
        more = {"reject": ("no such customer",), "nack": (seconds % 5,), "extend": (seconds,)}.get(verb, ())
        getattr(held.message, verb)(*more)
        getattr(self.model, verb)(held.sent, *more)
        if verb == "extend" and seconds == 0:
            self.upkeep()

    @precondition(lambda self: self.good_ones())
    @rule(who=which, verb=st.sampled_from(VERBS))
    def settle_all_of_one(self, who, verb):
        """The batch forms, with one that is named twice."""
        good = self.good_ones()
        handle = good[who % len(good)].handle
        mine = [held for held in good if held.handle is handle]
        more = {"reject": ("bad",), "extend": (15,)}.get(verb, ())
        getattr(handle.queue, verb)([held.message for held in [*mine, mine[0]]], *more)
        for held in mine:
            getattr(self.model, verb)(held.sent, *more)

    @precondition(lambda self: any(not held.good for held in self.held))
    @rule(who=which, verb=st.sampled_from(VERBS), how=st.sampled_from(["alone", "among good ones", "in a transaction"]))
    def settle_a_stale_one(self, who, verb, how):
        """All or nothing. First those that somebody has again."""
        stale = [held for held in self.held if not held.good]
        stale = [held for held in stale if held.sent.state == LEASED] or stale
        held = stale[who % len(stale)]
        more = (5,) if verb == "extend" else ()
        with pytest.raises(seglog.LeaseLost):
            if how == "alone":
                getattr(held.message, verb)(*more)
            elif how == "among good ones":
                mine = [each for each in self.good_ones() if each.handle is held.handle]
                getattr(held.handle.queue, verb)([each.message for each in [*mine, held]], *more)
            else:
                with held.handle.store.transaction() as tx:
                    getattr(held.message, "reject" if verb == "reject" else "ack")(tx=tx)

    @precondition(lambda self: self.good_ones())
    @rule(who=which, verb=st.sampled_from(VERBS), how=st.sampled_from(["alone", "among good ones", "in a transaction"]))
    def be_too_slow(self, who, verb, how):
        """However often the lease was extended; and somebody may have it again."""
        good = self.good_ones()
        good[who % len(good)].message.extend(500)
        self.model.extend(good[who % len(good)].sent, 500)
        self.clock.advance(41)
        self.upkeep(who)
        self.receive(who, 100)
        self.settle_a_stale_one(who, verb, how)

    # ---- transactions

    @rule(who=which, most=st.integers(1, 4))
    def receive_in_a_transaction(self, who, most):
        one = Open(self.pick(who))
        one.got = self.take(one.handle, one.handle.queue.receive(most, 0, tx=one.tx), most)
        self.open.append(one)

    @precondition(lambda self: self.held)
    @rule(who=which, verb=st.sampled_from(["ack", "ack", "reject"]))
    def settle_in_a_transaction(self, who, verb):
        """Also what is stale already: the commit will tell."""
        held = self.held[who % len(self.held)]
        one = next((one for one in self.open if one.handle is held.handle), None)
        if one is None:
            one = Open(held.handle)
            self.open.append(one)
        if all(other is not held for _, other in one.verbs):
            getattr(held.message, verb)(tx=one.tx)
            one.verbs.append((verb, held))

    @precondition(lambda self: self.good_ones())
    @rule(who=which)
    def two_transactions_ack_the_same(self, who):
        """The second commits before anybody has seen what the first did."""
        good = self.good_ones()
        held = good[who % len(good)]
        first, second = held.handle.store.transaction(), held.handle.store.transaction()
        held.message.ack(tx=first)
        held.message.ack(tx=second)
        first.commit()
        with pytest.raises(seglog.LeaseLost):
            second.commit()
        self.model.ack(held.sent)

    @precondition(lambda self: self.open and not self.bound)
    @rule(who=which, level=st.integers(0, 2), delay=delays, group=groups)
    def send_in_a_transaction(self, who, level, delay, group):
        one = self.open[who % len(self.open)]
        theirs, ours = self.options(level, group)
        value = self.new_value()
        assert one.handle.queue.send(value, delay=delay, tx=one.tx, **theirs) is None
        one.sent.append((value, {"delay": delay, "at": self.clock(), **ours}))

    @precondition(lambda self: self.open)
    @rule(who=which, commit=st.booleans())
    def end_a_transaction(self, who, commit):
        self.end(self.open.pop(who % len(self.open)), commit)

    def end(self, one, commit):
        """All of it, or nothing."""
        holds = commit and all(held.good for _, held in one.verbs)
        if holds:
            one.tx.commit()
            for verb, held in one.verbs:
                getattr(self.model, verb)(held.sent, *(("rejected",) if verb == "reject" else ()))
            for value, options in one.sent:
                self.model.send(value, **options)
            self.upkeep()  # some may be due already
            return
        if commit:
            with pytest.raises(seglog.LeaseLost):
                one.tx.commit()
        else:
            one.tx.abort()
        for held in one.got:
            if held.good:
                self.model.release(held.sent)

    # ---- time, and who comes and goes

    def upkeep(self, who=0):
        self.pick(who).store.upkeep()
        self.model.tick(self.clock())

    @rule(who=which, seconds=st.sampled_from([1, 2, 5, 12, 21, 100]))
    def time_passes(self, who, seconds):
        self.clock.advance(seconds)
        self.upkeep(who)

    @rule(who=which, seconds=st.sampled_from([1, 5, 12, 21]), most=st.sampled_from([1, 5, 100]))
    def time_passes_and_somebody_receives(self, who, seconds, most):
        """There is nobody else to see what is due."""
        self.clock.advance(seconds)
        self.model.tick(self.clock())
        self.receive(who, most)

    @precondition(lambda self: len(self.handles) < HANDLES_MAX)
    @rule()
    def open_another(self):
        self.handles.append(Handle(self))

    @precondition(lambda self: len(self.handles) > 1)
    @rule(who=which)
    def close_one(self, who):
        handle = self.handles.pop(who % len(self.handles))
        self.give_up(handle)
        handle.store.close()
        self.left(handle)

    def give_up(self, handle):
        for one in [one for one in self.open if one.handle is handle]:
            self.open.remove(one)
            self.end(one, False)

    def left(self, *gone):
        """What they had comes back, as soon as somebody looked whether they live."""
        self.model.leave(*gone)
        self.held = [held for held in self.held if held.handle not in gone]
        self.upkeep()

    @precondition(lambda self: hasattr(os, "fork"))
    @rule(most=st.sampled_from([1, 3]))
    def a_process_receives_and_dies(self, most):
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                got = Handle(self).queue.receive(most, 0)
                os.write(tell, b" ".join(message.value.rstrip() for message in got))
            finally:
                os._exit(0)
        os.close(tell)
        with open(told, "rb") as pipe:
            found = pipe.read().split()
        os.waitpid(child, 0)
        assert found == [each.value.rstrip() for each in self.model.receive(most, child)]
        self.left(child)

    @rule(rebooted=st.booleans())
    def reopen(self, rebooted):
        """All close; one comes again, and finds the files, or the files that are left after the machine was restarted."""
        gone = list(self.handles)
        for handle in gone:
            self.give_up(handle)
        self.upkeep()  # what came back so may have expired
        for handle in gone:
            handle.store.close()
        if rebooted:
            for folder, _, names in os.walk(self.path):
                for name in {"shm", "tail.shm"} & set(names):
                    os.unlink(os.path.join(folder, name))
            self.model.counted.clear()  # what happened is counted since the machine started
        self.handles[:] = [Handle(self)]
        self.left(*gone)

    # ---- by hand

    @rule(who=which, really=st.sampled_from([False] * 5 + [True]))
    def purge(self, who, really):
        if really:  # not too often: it ends what is interesting
            self.upkeep()
            assert self.pick(who).queue.purge() == self.model.purge()

    @precondition(lambda self: self.model.those(DEAD))
    @rule(who=which)
    def redrive(self, who):
        dead = {each.value: each for each in self.model.those(DEAD)}
        order = [dead[value] for value in self.dead_values()]
        assert [each.died for each in order] == sorted(each.died for each in dead.values()), "dead in the order of dying"
        assert self.pick(who).store.queue("q.dead").redrive() == len(dead)
        assert self.dead_values() == []
        self.model.redrive(order)

    def dead_values(self):
        store = self.handles[0].store
        return [message.value for message in store.queue("q.dead").browse()] if "q.dead" in store.queues() else []

    # ---- what must hold

    @invariant()
    def the_counts_are_those_of_the_model(self):
        if not self.handles:
            return
        found = self.handles[-1].queue.statistics()
        names = self.model.statistics()
        told = {name: getattr(found, name) for name in names}
        told["ready"] += found.blocked
        assert told == names and found.dead == found.damaged == 0

    def teardown(self):
        try:
            if self.handles and sys.exc_info()[0] is None:
                self.drain()
        finally:
            for handle in self.handles:
                handle.store.close()
            shutil.rmtree(self.folder)

    def drain(self):
        """Everything that is left comes, in the model's order; the dead are among the dead; nothing else is anywhere."""
        while self.open:
            self.end(self.open.pop(), False)
        handle = self.handles[0]
        while self.model.those(READY) + self.model.those(DELAYED) + self.model.those(LEASED):
            for held in self.good_ones():
                held.message.ack()
                self.model.ack(held.sent)
            self.time_passes(0, 11)
            self.take(handle, handle.queue.receive(7, 0), 7)
        assert handle.queue.receive(100, 0) == []
        assert list(handle.queue.browse()) == []
        assert sorted(self.dead_values()) == sorted(each.value for each in self.model.those(DEAD))
        assert {each.state for each in self.model.messages} <= {ACKED, DEAD, DROPPED, EXPIRED, PURGED}
        self.the_counts_are_those_of_the_model()


def row(message):
    return (
        message.value,
        message.priority,
        message.attempts,
        message.deliveries,
        message.first_received_at,
        message.sent_at,
        message.group,
    )


class FifoMachine(QueueMachine):
    """The same with groups: one at a time of each, whoever receives."""

    fifo = True


@pytest.mark.timeout(7200 if LONG else 120)
@pytest.mark.parametrize("machine", [QueueMachine, FifoMachine])
def test_a_queue_does_what_the_model_does(machine):
    if LONG:
        hypothesis.seed(SEED)(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=1500 if LONG else 60,
            stateful_step_count=60 if LONG else 30,
            derandomize=not LONG,
            database=None,
            deadline=None,
            print_blob=LONG,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
