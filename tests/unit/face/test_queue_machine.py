"""A queue against a plain model: whatever is sent, received, settled or given back, by whichever handle, and however time passes,
the next message is the one that has to come, and the counts are the model's. In the end every message came to one end, and no
message came from nowhere.

Time is a `ManualClock`, so delays, leases and lives end when the test says so. The short form is part of `make test`. The long
form: SEGLOG_LONG=1 make test ARGS=tests/unit/face/test_queue_machine.py
"""

import os
import shutil
import tempfile
import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import seglog
from unit.face.queue_model import ACKED, DEAD, DELAYED, DROPPED, EXPIRED, LEASED, PURGED, READY, QueueModel

LONG = os.environ.get("SEGLOG_LONG", "0") not in ("", "0")

# It still finds differences (in the order of messages that are due together), which take longer to shrink than `make test` has.
pytestmark = pytest.mark.skipif(not LONG, reason="the long form only: differences between queue and model are open")
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
START = 1_700_000_000_000_000
HANDLES_MAX = 3
which = st.integers(0, 10**6)  # to be taken modulo what there is
delays = st.sampled_from([0, 0, 0, 1, 5, 10])


class Held:
    """A message in somebody's hand, and what the model thinks that it is."""

    def __init__(self, handle, message, sent):
        self.handle, self.message, self.sent, self.delivery = handle, message, sent, sent.deliveries

    @property
    def good(self):
        return self.sent.state == LEASED and self.sent.deliveries == self.delivery and self.sent.holder is self.handle


class Handle:
    """A store of its own on the same directory, as another process has one."""

    def __init__(self, machine, **config):
        self.store = seglog.open(machine.path, fsync="never", upkeep=False, clock=machine.clock, segment_bytes=1 << 16)
        self.queue = self.store.queue("q", **config)


class QueueMachine(RuleBasedStateMachine):
    fifo = False

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="seglog-queue-", dir=MEMORY)
        self.path = self.folder + "/data"
        self.clock = seglog.ManualClock(START)
        self.handles, self.held, self.number = [], [], 0

    @initialize(
        priorities=st.integers(1, 3),
        max_attempts=st.integers(1, 4),
        ttl=st.sampled_from([None, None, None, 40]),
        bound=st.sampled_from([None, None, None, "reject", "drop_oldest", "drop_new"]),
    )
    def begin(self, priorities, max_attempts, ttl, bound):
        config = {"lease": 20, "max_lease": 90, "max_attempts": max_attempts, "dedup_window": 60.5}
        config |= {"fifo": True} if self.fifo else {"priorities": priorities}
        if ttl is not None:
            config["ttl"] = ttl
        if bound is not None:
            config |= {"max_length": 6, "overflow": bound}
        self.model = QueueModel(now=START, **config)
        self.bound, self.mortal = bound, ttl is not None
        self.handles.append(Handle(self, **config))

    # ---- sending

    def new_value(self):
        self.number += 1
        return b"%d" % self.number

    @rule(
        who=which,
        level=st.integers(0, 4),
        delay=delays,
        ttl=st.sampled_from([None, None, 15, 30]),
        group=st.sampled_from([b"a", b"b", b"c"]),
        dedup_id=st.sampled_from([None, None, None, b"x", b"y"]),
    )
    def send(self, who, level, delay, ttl, group, dedup_id):
        options = {"ttl": ttl, "dedup_id": dedup_id}
        if self.fifo:
            options["group"] = group
        elif level:
            options["priority"] = level
        if self.bound is None:
            options["delay"] = delay  # whether those that are due find room is another question
        self.mortal |= ttl is not None
        options = {name: value for name, value in options.items() if value is not None}
        value = self.new_value()
        theirs = {("level" if name == "priority" else name): given for name, given in options.items()}
        became = self.model.send(value, **theirs)
        queue = self.pick(who).queue
        if became == "full":
            with pytest.raises(seglog.QueueFull):
                queue.send(value, **options)
            return
        position = queue.send(value, **options)
        if became == "duplicate":
            assert position == self.positions.get(dedup_id, position), "the first one's place is told"
        elif became == "sent":
            if not options.get("delay"):
                assert position.partition == self.model.messages[-1].level
            if dedup_id is not None:
                self.positions.pop(dedup_id, None)
                if not options.get("delay"):  # a delayed one moves
                    self.positions[dedup_id] = position

    @property
    def positions(self):
        return self.__dict__.setdefault("_positions", {})

    @precondition(lambda self: self.bound is None)
    @rule(who=which, count=st.integers(0, 12), level=st.integers(0, 2), delay=delays)
    def send_many(self, who, count, level, delay):
        values = [self.new_value() for _ in range(count)]
        options = {"group": b"a"} if self.fifo else {"priority": level}
        self.pick(who).queue.send_many(values, delay=delay, **options)
        for value in values:
            self.model.send(value, delay=delay, **({"group": b"a"} if self.fifo else {"level": level}))

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
        for message, sent in zip(got, expected):
            assert [death["reason"] for death in message.deaths] == list(dict.fromkeys(reversed(sent.reasons)))
        self.held += [Held(handle, message, each) for message, each in zip(got, expected)]

    @rule(who=which, most=st.integers(1, 10))
    def peek(self, who, most):
        """Nothing is leased by it, and nothing can be done to what was looked at."""
        seen = self.pick(who).queue.peek(most)
        expected = self.model.in_order()[:most]
        if self.fifo:  # all of a group are shown, of which one comes at a time
            seen, expected = seen[:1] if expected else [], expected[:1]
        assert [message.value for message in seen] == [each.value for each in expected]
        for message in seen[:1]:
            with pytest.raises(seglog.LeaseLost):
                message.ack()

    # ---- settling

    def good_ones(self):
        return [held for held in self.held if held.good]

    def choose(self, who):
        good = self.good_ones()
        return good[who % len(good)]

    @precondition(lambda self: self.good_ones())
    @rule(who=which)
    def ack(self, who):
        held = self.choose(who)
        held.message.ack()
        self.model.ack(held.sent)

    @precondition(lambda self: self.good_ones())
    @rule(who=which, delay=st.sampled_from([None, None, 0, 3, 10]))
    def nack(self, who, delay):
        held = self.choose(who)
        held.message.nack(delay, error="it failed")
        self.model.nack(held.sent, delay or 0)

    @precondition(lambda self: self.good_ones())
    @rule(who=which)
    def release(self, who):
        held = self.choose(who)
        held.message.release()
        self.model.release(held.sent)

    @precondition(lambda self: self.good_ones())
    @rule(who=which, reason=st.sampled_from(["rejected", "no such customer"]))
    def reject(self, who, reason):
        held = self.choose(who)
        held.message.reject(reason)
        self.model.reject(held.sent, reason)

    @precondition(lambda self: self.good_ones())
    @rule(who=which, seconds=st.sampled_from([0, 5, 25, 500]))
    def extend(self, who, seconds):
        held = self.choose(who)
        held.message.extend(seconds)
        self.model.extend(held.sent, seconds)
        if seconds == 0:
            self.upkeep()

    @precondition(lambda self: self.good_ones())
    @rule(who=which, verb=st.sampled_from(["ack", "nack", "release", "reject", "extend"]))
    def settle_all_of_one(self, who, verb):
        """The batch forms."""
        handle = self.choose(who).handle
        mine = [held for held in self.good_ones() if held.handle is handle]
        more = {"reject": ("bad",), "extend": (15,)}.get(verb, ())
        getattr(handle.queue, verb)([held.message for held in mine], *more)
        for held in sorted(mine, key=lambda held: held.sent.number):
            getattr(self.model, verb)(held.sent, *more)

    @precondition(lambda self: self.good_ones() and any(not held.good for held in self.held))
    @rule(who=which)
    def settle_many_with_a_stale_one(self, who):
        """All or nothing."""
        handle = self.choose(who).handle
        stale = [held for held in self.held if not held.good and held.handle is handle]
        mine = [held for held in self.good_ones() if held.handle is handle]
        if stale:
            with pytest.raises(seglog.LeaseLost):
                handle.queue.ack([held.message for held in [*mine, stale[who % len(stale)]]])

    @precondition(lambda self: any(not held.good for held in self.held))
    @rule(who=which, verb=st.sampled_from(["ack", "nack", "release", "reject", "extend"]))
    def settle_a_stale_one(self, who, verb):
        stale = [held for held in self.held if not held.good]
        held = stale[who % len(stale)]
        if held.handle in self.handles:
            with pytest.raises(seglog.LeaseLost):
                getattr(held.message, verb)(*((5,) if verb == "extend" else ()))

    # ---- transactions

    @precondition(lambda self: self.bound is None)
    @rule(who=which, most=st.integers(1, 4), commit=st.booleans(), sends=st.integers(0, 2))
    def transact(self, who, most, commit, sends):
        """Receive, ack and send in one; or none of it."""
        handle = self.pick(who)
        tx = handle.store.transaction()
        before = len(self.held)
        self.take(handle, handle.queue.receive(most, 0, tx=tx), most)
        mine = self.held[before:]
        values = [self.new_value() for _ in range(sends)]
        group = {"group": b"a"} if self.fifo else {}
        for value in values:
            assert handle.queue.send(value, tx=tx, **group) is None
        if not commit:
            tx.abort()
            for held in mine:
                self.model.release(held.sent)
            return
        for held in mine:
            held.message.ack(tx=tx)
        tx.commit()
        for held in mine:
            self.model.ack(held.sent)
        for value in values:
            self.model.send(value, **group)

    @precondition(lambda self: self.good_ones())
    @rule(who=which)
    def ack_in_a_transaction_that_is_given_up(self, who):
        """It is as if nobody had said anything."""
        held = self.choose(who)
        tx = held.handle.store.transaction()
        held.message.ack(tx=tx)
        tx.abort()

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
        self.upkeep(who)

    @precondition(lambda self: len(self.handles) < HANDLES_MAX)
    @rule()
    def open_another(self):
        self.handles.append(Handle(self))

    @precondition(lambda self: len(self.handles) > 1)
    @rule(who=which)
    def close_one(self, who):
        handle = self.handles.pop(who % len(self.handles))
        handle.store.close()
        self.left(handle)

    def left(self, *handles):
        """What they had comes back, as soon as somebody looked whether they live."""
        for handle in handles:
            self.model.leave(handle)
        self.held = [held for held in self.held if held.handle not in handles]
        expected = self.model.statistics()["in_flight"]
        end = time.monotonic() + 5
        while True:
            self.upkeep()
            if self.handles[0].queue.statistics().in_flight == expected:
                return
            assert time.monotonic() < end, "messages of a handle that was closed do not come back"
            time.sleep(0.002)

    @rule(rebooted=st.booleans())
    def reopen(self, rebooted):
        """All close; one comes again, and finds the files, or the files that are left after the machine was restarted."""
        gone = list(self.handles)
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

    @rule(who=which)
    def purge(self, who):
        if self.number % 7 == 0:  # not too often: it ends what is interesting
            self.upkeep()
            assert self.pick(who).queue.purge() == self.model.purge()

    @precondition(lambda self: not self.mortal and self.bound is None)
    @rule(who=which)
    def redrive(self, who):
        self.upkeep()
        dead = self.model.those(DEAD)
        count = self.pick(who).store.queue("q.dead").redrive() if dead else 0
        order = {value: place for place, value in enumerate(self.dead_values())}
        assert not order, "some of the dead stayed"
        assert count == self.model.redrive() == len(dead)

    def dead_values(self):
        store = self.handles[0].store
        return [message.value for message in store.queue("q.dead").browse()] if "q.dead" in store.queues() else []

    # ---- what must hold

    @invariant()
    def the_counts_are_those_of_the_model(self):
        if not self.handles:
            return
        if self.mortal:
            self.upkeep()  # a message may expire in the hand that gives it back
        found = self.handles[0].queue.statistics()
        names = self.model.statistics()
        told = {name: getattr(found, name) for name in names}
        told["ready"] += found.blocked
        told["dead_lettered"] += found.dead  # about to be
        assert told == names

    def teardown(self):
        try:
            if self.handles:
                self.drain()
        finally:
            for handle in self.handles:
                handle.store.close()
            shutil.rmtree(self.folder)

    def drain(self):
        """Everything that is left comes, in the model's order; the dead are among the dead; nothing else is anywhere."""
        for held in self.good_ones():
            held.message.ack()
            self.model.ack(held.sent)
        for _ in range(1000):
            self.clock.advance(11)
            self.upkeep()
            handle = self.handles[0]
            self.take(handle, handle.queue.receive(7, 0), 7)
            for held in self.good_ones():
                held.message.ack()
                self.model.ack(held.sent)
            if not self.model.those(READY) + self.model.those(DELAYED) + self.model.those(LEASED):
                break
        assert handle.queue.receive(100, 0) == []
        assert list(handle.queue.browse()) == []
        assert sorted(self.dead_values()) == sorted(each.value for each in self.model.those(DEAD))
        assert {each.state for each in self.model.messages} <= {ACKED, DEAD, DROPPED, EXPIRED, PURGED}
        self.the_counts_are_those_of_the_model()
        assert not self.model.those(DELAYED)


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


for machine in (QueueMachine, FifoMachine):
    machine.TestCase.settings = settings(
        max_examples=2000 if LONG else 60,
        stateful_step_count=80 if LONG else 40,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )

limit = pytest.mark.timeout(7200 if LONG else 120)
test_a_queue_does_what_the_model_does = limit(QueueMachine.TestCase)
test_a_fifo_queue_does_what_the_model_does = limit(FifoMachine.TestCase)


# ---- the model is one ------------------------------------------------------------------------------------------------


@pytest.fixture
def model():
    return QueueModel(now=START, priorities=3, max_attempts=2)


def values(got):
    return [each.value for each in got]


def test_in_the_model_a_level_goes_before_a_place_and_what_came_back_keeps_its_place(model):
    for value, level in ((b"1", 0), (b"2", 0), (b"3", 2), (b"4", 9)):
        model.send(value, level=level)
    first = model.receive(1, "a")
    assert values(first) == [b"3"]
    model.release(first[0])
    assert values(model.receive(9, "a")) == [b"3", b"4", b"1", b"2"]
    assert first[0].attempts == 1 and first[0].deliveries == 2


def test_in_the_model_what_was_delayed_comes_in_the_order_in_which_it_is_due(model):
    model.send(b"late", delay=9)
    model.send(b"soon", delay=5)
    model.send(b"now")
    assert values(model.receive(9, "a")) == [b"now"]
    model.tick(START + 9_000_000)
    assert values(model.receive(9, "a")) == [b"soon", b"late"]


def test_in_the_model_the_last_attempt_is_the_last(model):
    model.send(b"1")
    model.nack(model.receive(1, "a")[0])
    model.leave("a")
    (again,) = model.receive(1, "a")
    model.leave("a")
    assert again.state == DEAD and again.reasons == ["delivery_limit"] and model.receive(1, "a") == []
    assert model.redrive() == 1 and values(model.receive(1, "a")) == [b"1"]


def test_in_the_model_a_group_waits_for_its_own():
    model = QueueModel(now=START, fifo=True)
    for value, group in ((b"1", b"a"), (b"2", b"a"), (b"3", b"b"), (b"4", b"a")):
        model.send(value, group=group)
    first = model.receive(9, "x")
    assert values(first) == [b"1", b"3"]
    assert model.receive(9, "y") == []
    model.nack(first[0], delay=5)
    assert model.receive(9, "y") == []
    model.tick(START + 5_000_000)
    assert values(model.receive(9, "y")) == [b"1"]
    model.ack(first[0])
    assert values(model.receive(9, "y")) == [b"2"]
