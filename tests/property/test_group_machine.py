"""A group against a small model: whoever joins, leaves, dies, stalls or is evicted, partitions have one owner, commits stay, and
every record is handed out, from where the group was.

The model knows where each partition is: at the commit, until a member has it; at the member's position from then on, until that
member gives it up, leaves, dies or is evicted. A record that comes twice without one of these, or is passed over, is not where
the model is. A member is a store of its own; it dies by losing its place among the living, as a killed process does.

The short form is part of `make test`. The long form: SEGLOG_LONG=1 make test ARGS=tests/property
"""

import os
import shutil
import tempfile
import time
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import seglog
from crash.scratch import memory

LONG = os.environ.get("SEGLOG_LONG", "0") not in ("", "0")
MEMBERS_MAX, PARTITIONS_MAX = 5, 6
which = st.integers(0, 10**6)  # to be taken modulo what there is


class Member:
    """A store and a consumer, and where the model thinks that it is."""

    def __init__(self, machine: "GroupMachine", instance: str | None) -> None:
        self.machine = machine
        self.at: dict[int, int] = {}
        self.moved: set[int] = set()
        self.store = seglog.open(machine.path, fsync="never", upkeep=False)
        try:
            self.consumer = self.store.topic("t").consumer(
                "g", assignor=machine.assignor, instance=instance, on_assign=self.assigned, on_revoke=self.revoked
            )
        except seglog.GroupInUse:
            self.store.close()
            raise
        self.instance = instance

    def assigned(self, consumer, what):
        for partition in what.get("t", ()):
            assert all(partition not in member.at for member in self.machine.members), "two owners"
            assert consumer.position(partition) == self.machine.committed.get(partition, 0), "not where the group was"
            self.at[partition] = consumer.position(partition)

    def revoked(self, consumer, what):
        for partition in what.get("t", ()) if self not in self.machine.gone else ():
            del self.at[partition]
            self.moved.discard(partition)


class GroupMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="seglog-group-", dir=memory())
        self.path = self.folder + "/data"
        self.members: list[Member] = []
        self.gone: list[Member] = []
        self.committed: dict[int, int] = {}
        self.records: list[list[bytes]] = []
        self.due: set[tuple[int, int]] = set()  # sent, and not handed out yet
        self.operator = None

    @initialize(partitions=st.integers(1, 4), assignor=st.sampled_from(["sticky", "sticky", "range", "roundrobin"]))
    def begin(self, partitions, assignor):
        self.assignor = assignor
        self.operator = seglog.open(self.path, fsync="never", upkeep=False)
        self.topic = self.operator.topic("t", partitions=partitions)
        self.records = [[] for _ in range(partitions)]
        self.members.append(Member(self, None))

    # ---- coming and going

    @precondition(lambda self: len(self.members) < MEMBERS_MAX)
    @rule(instance=st.sampled_from([None, None, "a", "b"]))
    def join(self, instance):
        alive = instance is not None and any(member.instance == instance for member in self.members)
        try:
            self.members.append(Member(self, instance))
        except seglog.GroupInUse:
            assert alive
        else:
            assert not alive

    @precondition(lambda self: self.members)
    @rule(who=which)
    def leave(self, who):
        member = self.members[who % len(self.members)]
        member.store.close()
        assert not member.at
        self.members.remove(member)

    @precondition(lambda self: self.members)
    @rule(who=which)
    def kill(self, who):
        member = self.members.pop(who % len(self.members))
        member.store._liveness.close()
        member.at.clear()
        self.gone.append(member)

    @precondition(lambda self: self.members)
    @rule(who=which)
    def evict(self, who):
        member = self.members.pop(who % len(self.members))
        batch = member.consumer.receive(1, timeout=0) if member.at else None
        self.hand_out(member, batch)
        name = member.consumer.member
        had = list(member.at)
        member.at.clear()
        self.operator.group("g").evict(name)
        for late in [member.consumer.receive] + [lambda p=p: member.consumer.commit({p: 0}) for p in had]:
            with pytest.raises(seglog.Fenced):
                late()
        self.gone.append(member)

    # ---- reading

    def look_at_once(self, member):
        """As if a twentieth of a second had gone by."""
        member.consumer._looked = 0.0

    @precondition(lambda self: self.members)
    @rule(who=which, most=st.sampled_from([1, 2, 100]), looks=st.booleans())
    def receive(self, who, most, looks):
        member = self.members[who % len(self.members)]
        if looks:
            self.look_at_once(member)
        self.hand_out(member, member.consumer.receive(most, timeout=0))

    def hand_out(self, member, batch):
        if batch is None:
            return
        partition, first, stop = batch.partition, batch.first_offset, batch.next_offset
        assert member.at[partition] == first, ("skipped" if first > member.at[partition] else "twice", partition)
        assert batch.values.tolist() == self.records[partition][first:stop]
        member.at[partition] = stop
        member.moved.add(partition)
        self.due -= {(partition, offset) for offset in range(first, stop)}

    @precondition(lambda self: self.members)
    @rule(who=which)
    def commit(self, who):
        member = self.members[who % len(self.members)]
        member.consumer.commit()
        for partition in member.moved:
            self.committed[partition] = member.at[partition]
        member.moved.clear()

    @precondition(lambda self: self.members)
    @rule(who=which, partition=which, offset=which)
    def commit_an_offset(self, who, partition, offset):
        member = self.members[who % len(self.members)]
        partition %= len(self.records)
        offset %= len(self.records[partition]) + 1
        if partition not in member.at:
            with pytest.raises(seglog.Fenced):
                member.consumer.commit({partition: offset})
            return
        member.consumer.commit({partition: offset})
        self.move(partition, offset)
        if offset == member.at[partition]:
            member.moved.discard(partition)

    @precondition(lambda self: any(member.at for member in self.members))
    @rule(who=which, partition=which, offset=which)
    def seek(self, who, partition, offset):
        members = [member for member in self.members if member.at]
        member = members[who % len(members)]
        partition = sorted(member.at)[partition % len(member.at)]
        offset %= len(self.records[partition]) + 1
        member.consumer.seek(partition, offset)
        member.at[partition] = offset
        member.moved.add(partition)
        self.pass_over(partition, offset)

    def move(self, partition, offset):
        self.committed[partition] = offset
        self.pass_over(partition, offset)

    def pass_over(self, partition, offset):
        """Somebody said so: what lies before need not come."""
        self.due -= {(partition, before) for before in range(offset)}

    # ---- others

    @rule(partition=which, count=st.integers(1, 5))
    def send(self, partition, count):
        partition %= len(self.records)
        for _ in range(count):
            offset = len(self.records[partition])
            value = b"%d of %d" % (offset, partition)
            self.topic.send(value, partition=partition)
            self.records[partition].append(value)
            self.due.add((partition, offset))

    @precondition(lambda self: len(self.records) < PARTITIONS_MAX)
    @rule()
    def add_a_partition(self):
        self.records.append([])
        self.topic.add_partitions(len(self.records))

    @rule(to=st.sampled_from(["earliest", "latest"]), partition=which)
    def reset(self, to, partition):
        partition %= len(self.records)
        if any(partition in member.at for member in self.members):
            with pytest.raises(seglog.GroupInUse):
                self.operator.group("g").reset(to, partition=partition)
            return
        self.operator.group("g").reset(to, partition=partition)
        self.move(partition, 0 if to == "earliest" else len(self.records[partition]))

    @precondition(lambda self: self.operator)
    @rule()
    def reopen(self):
        """Everybody closes, and one comes again."""
        for member in self.members:
            member.store.close()
        self.members.clear()
        self.operator.close()
        self.operator = seglog.open(self.path, fsync="never", upkeep=False)
        self.topic = self.operator.topic("t")
        self.members.append(Member(self, None))

    # ---- what must hold

    @invariant()
    def commits_are_what_was_committed(self):
        if self.operator is None:
            return
        places = self.operator.group("g").describe().places
        assert {place.partition: place.committed for place in places if place.committed is not None} == self.committed

    @invariant()
    def a_partition_has_one_owner(self):
        owned = [partition for member in self.members for partition in member.consumer.assignment.get("t", ())]
        assert len(owned) == len(set(owned))
        assert sorted(owned) == sorted(partition for member in self.members for partition in member.at)

    def teardown(self):
        try:
            if self.operator is not None:
                self.drain()
        finally:
            for member in self.members + self.gone:
                with suppress(seglog.SeglogError):
                    member.store.close()
            if self.operator is not None:
                self.operator.close()
            shutil.rmtree(self.folder)

    def drain(self):
        """In the end all partitions are read, and nothing is left that was never handed out."""
        if not self.members:
            self.members.append(Member(self, None))
        end = time.monotonic() + 20
        while True:
            for member in self.members:
                self.look_at_once(member)
                self.hand_out(member, member.consumer.receive(timeout=0.001))
            everything = sum(len(member.at) for member in self.members) == len(self.records)
            if everything and all(
                at == len(self.records[partition]) for member in self.members for partition, at in member.at.items()
            ):
                break
            assert time.monotonic() < end, "partitions that nobody reads"
        assert not self.due, "never handed out"


GroupMachine.TestCase.settings = settings(
    max_examples=2000 if LONG else 50,
    stateful_step_count=60 if LONG else 30,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
test_a_group_is_where_its_members_left_it = pytest.mark.timeout(3600 if LONG else 120)(GroupMachine.TestCase)
