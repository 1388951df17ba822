"""Groups of several members: one reader per partition, the dead replaced, the slow left alone, and nothing lost in between."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import seglog


@pytest.fixture
def topic(store) -> seglog.Topic:
    topic = store.topic("orders", partitions=4)
    for n in range(40):
        topic.send(b"%d" % n, partition=n % 4)
    return topic


def settle(*consumers, seconds=5.0):
    """Let each take part until nobody waits: they give up and take what the others decided."""
    end = time.monotonic() + seconds
    while True:
        for consumer in consumers:
            consumer.receive(timeout=0)
            consumer.seek("earliest")
        got = [where for c in consumers for t, ps in c.assignment.items() for where in ((t, p) for p in ps)]
        if (
            len(got)
            == len(set(got))
            == sum(len(c._counts and list(range(c._counts[t]))) for c in consumers[:1] for t in c.topics)
        ):
            return
        assert time.monotonic() < end, got
        time.sleep(0.002)


def shares(*consumers):
    return [len(ps) for c in consumers for ps in [c.assignment.get("orders", ())]]


# ---- sharing --------------------------------------------------------------------------------------


def test_members_share_the_partitions_and_see_each_record_once(topic):
    with topic.consumer("billing") as one, topic.consumer("billing") as two:
        settle(one, two)
        assert shares(one, two) == [2, 2]
        seen = [record.value for c in (one, two) for record in c.records(timeout=0)]
        assert sorted(seen, key=int) == [b"%d" % n for n in range(40)]


def test_only_the_partitions_that_must_move_stop(topic):
    with topic.consumer("billing") as one, topic.consumer("billing") as two:
        settle(one, two)
        before = [one.assignment["orders"], two.assignment["orders"]]
        with topic.consumer("billing") as three:
            settle(one, two, three)
            after = [one.assignment["orders"], two.assignment["orders"]]
            assert all(set(now) <= set(was) for now, was in zip(after, before, strict=True))
            assert sorted(shares(one, two, three)) == [1, 1, 2]


def test_a_member_beyond_the_partitions_is_idle_and_steps_in(store):
    topic = store.topic("orders")
    topic.send(b"one")
    one, two = topic.consumer("billing"), topic.consumer("billing")
    assert two.receive(timeout=0) is None and two.assignment == {}
    assert one.receive(timeout=0).values.tolist() == [b"one"]
    one.commit()
    one.close()
    topic.send(b"two")
    assert two.receive(timeout=1).values.tolist() == [b"two"]
    two.close()


def test_groups_are_independent(topic):
    with topic.consumer("a") as a, topic.consumer("b") as b:
        assert shares(a, b) == [4, 4]
        assert sum(len(batch) for batch in a.batches(timeout=0)) == 40
        a.commit()
        assert b.lag() == 40 and b.committed(0) is None


def test_a_group_reads_several_topics_and_members_need_not_read_the_same(store, topic):
    store.topic("refunds", partitions=2).send(b"back", partition=1)
    with store.consumer("billing", ["orders", "refunds"]) as both, store.consumer("billing", ["orders"]) as one:
        settle(both, one)
        assert both.assignment["refunds"] == (0, 1) and "refunds" not in one.assignment
        assert sum(map(len, both.assignment.values())) == 3 and shares(one) == [3]
        both.seek("earliest")
        values = [record.value for record in both.records(timeout=0) if record.topic == "refunds"]
        assert values == [b"back"]
        both.commit({("refunds", 1): 1})
        assert both.committed(1, topic="refunds") == 1
        with pytest.raises(seglog.ConfigError, match="topic="):
            both.position(0)


@pytest.mark.parametrize("assignor", ["range", "roundrobin", "sticky"])
def test_every_assignor_shares(topic, assignor):
    with topic.consumer("billing", assignor=assignor) as one, topic.consumer("billing", assignor=assignor) as two:
        settle(one, two)
        assert shares(one, two) == [2, 2]
        with pytest.raises(seglog.ConfigError, match="assigns partitions by"):
            topic.consumer("billing", assignor="range" if assignor != "range" else "sticky")


def test_an_assignor_may_be_a_callable(topic):
    def first_takes_all(members, partitions):
        return {next(iter(members)): {t: range(n) for t, n in partitions.items()}}

    with topic.consumer("billing", assignor=first_takes_all) as one:
        with topic.consumer("billing", assignor=first_takes_all) as two:
            assert shares(one, two) == [4, 0]
        one.receive(timeout=0)

    def wrong(members, partitions):
        return {}

    with pytest.raises(seglog.ConfigError, match="leaves orders"):
        topic.consumer("other", assignor=wrong)
    with topic.consumer("other") as fine:
        assert shares(fine) == [4]


# ---- coming and going -----------------------------------------------------------------------------


def test_what_moves_goes_on_at_the_last_commit(topic):
    one = topic.consumer("billing", commit="after")
    assert len(one.receive(max_records=5, timeout=0)) == 5
    seen = []
    with topic.consumer("billing") as two:
        while shares(one, two) != [2, 2]:
            for consumer in (one, two):
                batch = consumer.receive(timeout=0)
                if batch is not None:
                    seen += [(r.partition, r.offset) for r in batch]
                    consumer.commit()
        for consumer in (one, two):
            seen += [(r.partition, r.offset) for r in consumer.records(timeout=0)]
        assert len(seen) == len(set(seen)) == 35
    one.close()


def test_callbacks_say_what_comes_and_goes(topic):
    said = []
    calls = {
        "on_assign": lambda consumer, what: said.append(("+", consumer, what)),
        "on_revoke": lambda consumer, what: said.append(("-", consumer, what)),
    }
    with topic.consumer("billing", **calls) as one:
        assert said == [("+", one, {"orders": (0, 1, 2, 3)})]
        with topic.consumer("billing", **calls) as two:
            settle(one, two)
            assert [(sign, who) for sign, who, _ in said[1:]] == [("-", one), ("+", two)]
            assert said[1][2] == said[2][2]
        assert said[3][:2] == ("-", two)
        settle(one)
        assert said[4][:2] == ("+", one)


def test_a_revoke_that_raises_still_lets_go(topic):
    def fails(consumer, what):
        raise ZeroDivisionError

    one = topic.consumer("billing", on_revoke=fails)
    with topic.consumer("billing") as two:
        with pytest.raises(ZeroDivisionError):
            one.receive(timeout=1)
        settle(one, two)
        assert shares(one, two) == [2, 2]
        with pytest.raises(ZeroDivisionError):
            one.close()
        settle(two)


def test_an_instance_comes_back_to_its_partitions(topic):
    one, two = topic.consumer("billing", instance="one"), topic.consumer("billing", instance="two")
    settle(one, two)
    was = one.assignment
    with pytest.raises(seglog.GroupInUse, match="one of group billing is alive"):
        topic.consumer("billing", instance="one")
    one.close()
    settle(two)
    assert shares(two) == [4]
    one = topic.consumer("billing", instance="one")
    settle(one, two)
    assert one.assignment == was
    one.close()
    two.close()


def test_partitions_wait_for_an_instance_as_long_as_it_says(topic):
    one = topic.consumer("billing", instance="one", rejoin_within=0.4)
    two = topic.consumer("billing", instance="two")
    settle(one, two)
    was = one.assignment
    one.close()
    two.receive(timeout=0)
    assert shares(two) == [2]
    one = topic.consumer("billing", instance="one", rejoin_within=0.2)
    assert one.assignment == was
    one.close()
    began = time.monotonic()
    while shares(two) != [4]:
        two.receive(timeout=0.01)
        two.seek("latest")
        assert time.monotonic() < began + 5
    assert time.monotonic() - began > 0.15
    two.close()


MEMBER = """
import sys, time, seglog
store = seglog.open(sys.argv[1])
consumer = store.topic("orders").consumer("billing")
print("ready", flush=True)
while True:
    batch = consumer.receive(timeout=60)
    consumer.commit()
    if sys.argv[2:]:
        print("holds", sum(map(len, consumer.assignment.values())), flush=True)
        time.sleep(600)
"""


def member(path, *args):
    process = subprocess.Popen([sys.executable, "-c", MEMBER, str(path), *args], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def received(consumer, until, seconds=10.0):
    began = time.monotonic()
    while not until():
        consumer.receive(timeout=0.02)
        assert time.monotonic() < began + seconds
    return time.monotonic() - began


def test_a_killed_member_is_replaced_within_100_ms(store, topic, path):
    took = []
    for _ in range(5):
        with topic.consumer("billing") as here:
            other = member(path)
            received(here, lambda: shares(here) == [2])
            received(here, lambda: len(store.group("billing").describe().members[1].partitions) == 2)
            other.kill()
            took.append(received(here, lambda: shares(here) == [4]))
            other.wait()
            other.stdout.close()
    assert sorted(took)[2] < 0.2, took  # 100 ms where nothing else runs


def test_a_slow_member_keeps_what_it_has_and_gets_nothing_new(store, topic, path):
    with topic.consumer("billing") as here:
        slow = member(path, "slow")
        received(here, lambda: shares(here) == [2])
        assert slow.stdout.readline().startswith("holds")  # now it sleeps over its first record, for ten minutes
        third = member(path)
        group = store.group("billing")
        theirs = group.describe().members[1].partitions
        assert len(theirs) in (1, 2)
        received(here, lambda: sum(len(m.partitions) for m in group.describe().members) == 4)
        third.kill()
        third.wait()
        # Some of what the third had may be meant for the slow one, which does not come for it.
        received(here, lambda: shares(here) == [4 - len(theirs)])
        for _ in range(10):
            here.receive(timeout=0.02)
        os.kill(slow.pid, signal.SIGSTOP)
        for _ in range(10):
            here.receive(timeout=0.02)
        stopped = group.describe().members[1]
        assert (stopped.partitions, stopped.state) == (theirs, "stopped")
        assert any("stopped" in line for line in group.explain())
        group.evict(stopped.name)
        received(here, lambda: shares(here) == [4])
        slow.kill()
        slow.wait()
        slow.stdout.close()
        third.stdout.close()


def test_the_commit_of_an_evicted_member_is_fenced(store, topic):
    one = topic.consumer("billing")
    batch = one.receive(timeout=0)
    store.group("billing").evict(one.member)
    for late in (lambda: one.commit(batch), lambda: one.commit(batch[0]), one.commit):
        with pytest.raises(seglog.Fenced):
            late()
    with pytest.raises(seglog.Fenced, match="no member of group billing any more"):
        one.receive(timeout=0)
    one.close()
    with topic.consumer("billing") as two:
        assert two.committed(batch.partition) is None
        assert two.receive(timeout=0) is not None


def test_a_commit_for_a_partition_of_another_member_is_refused(topic):
    with topic.consumer("billing") as one, topic.consumer("billing") as two:
        settle(one, two)
        theirs = two.assignment["orders"][0]
        with pytest.raises(seglog.Fenced, match="not assigned to this member"):
            one.commit({theirs: 1})
        with pytest.raises(seglog.Fenced):
            one.seek(theirs, 0)
        assert one.committed(theirs) is None


def test_threads_are_members_too(topic):
    seen, lock = [], threading.Lock()

    def work():
        with topic.consumer("billing", commit="after") as consumer:
            for batch in consumer.batches(timeout=0.5):
                with lock:
                    seen.extend((r.partition, r.offset) for r in batch)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for n in range(200):
        topic.send(b"more", partition=n % 4)
    for thread in threads:
        thread.join()
    assert sorted(set(seen)) == [(p, o) for p in range(4) for o in range(60)]
    assert len(seen) == 240


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_neither_reads_on_nor_takes_its_parents_place(topic):
    one = topic.consumer("billing")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            try:
                one.receive(timeout=0)
            except seglog.ForkedHandle:
                one.close()
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert shares(one) == [4]
    one.receive(timeout=0)
    one.commit()
    one.close()


# ---- lost records ---------------------------------------------------------------------------------


def test_records_that_were_trimmed_away_are_told_or_passed_over_as_asked(topic):
    with topic.consumer("billing"):
        pass
    topic.trim(5, partition=0)
    for reset, first in (("earliest", 5), ("latest", 10)):
        with topic.consumer("g" + reset, reset=reset) as consumer:
            consumer._places["orders", 0].at = 0
            batches = {batch.partition: batch.first_offset for batch in consumer.batches(timeout=0)}
            assert batches.get(0, 10) == first


def lose_the_tail(path, topic_name, partition, keep):
    """As a power cut leaves it: nothing behind `keep` records was on the disk."""
    script = f"""
import os, sys, seglog
store = seglog.open({str(path)!r}, fsync="never")
topic = store.topic({topic_name!r})
for n in range({keep}):
    topic.send(b"kept", partition={partition})
store.sync()
for n in range(20):
    topic.send(b"lost", partition={partition})
consumer = topic.consumer("billing")
while consumer.receive(timeout=0):
    pass
consumer.commit()
consumer.sync()
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    folder = path / "topics" / topic_name / str(partition)
    (folder / "shm").unlink()
    segment = sorted(folder.glob("*.log"))[-1]
    data = bytearray(segment.read_bytes())
    at = data.index(b"lost")
    data[at - 64 :] = bytes(len(data) - at + 64)
    segment.write_bytes(data)


@pytest.mark.parametrize("reset", ["raise", "earliest", "latest"])
def test_records_that_a_power_cut_took_after_they_were_done_are_told(path, reset):
    with seglog.open(path) as store:
        store.topic("orders")
    lose_the_tail(path, "orders", 0, keep=3)
    with seglog.open(path) as store:
        topic = store.topic("orders")
        topic.send(b"new")
        with topic.consumer("billing", reset=reset) as consumer:
            if reset == "raise":
                for _ in range(2):
                    with pytest.raises(seglog.LogTruncated, match="20 that it had done are gone") as caught:
                        consumer.receive(timeout=0)
                assert (caught.value.offset, caught.value.end) == (23, 3)
                consumer.seek(0, caught.value.end)
            received = [record.value for record in consumer.records(timeout=0)]
            assert received == ([] if reset == "latest" else [b"new"])


# ---- operators ------------------------------------------------------------------------------------


def test_a_group_is_described(store, topic):
    with topic.consumer("billing") as consumer:
        batch = consumer.receive(max_records=4, timeout=0)
        consumer.commit()
        it = store.group("billing").describe()
        assert [m.name for m in it.members] == [consumer.member] and it.members[0].state == "alive"
        place = it.places[batch.partition]
        assert (place.committed, place.lag, place.owner) == (4, 6, consumer.member)
        assert it.lag == 36 == store.group("billing").lag() and it.lag_seconds > 0
        assert abs(consumer.lag_seconds() - it.lag_seconds) < 5
    assert store.groups() == ["billing"]
    assert any("no live member" in line for line in store.group("billing").explain())
    with pytest.raises(seglog.GroupNotFound):
        store.group("other")


def test_explain_names_the_idle_and_the_waiting(store, topic):
    consumers = [topic.consumer("billing") for _ in range(2)]
    assert any("waits for orders" in line for line in store.group("billing").explain())
    settle(*consumers)
    consumers += [topic.consumer("billing") for _ in range(3)]
    settle(*consumers)
    assert sum("is idle" in line for line in store.group("billing").explain()) == 1
    for consumer in consumers:
        consumer.close()


def test_a_reset_moves_a_group_that_nobody_reads_for(store, topic):
    with topic.consumer("billing") as consumer:
        for _ in consumer.batches(timeout=0):
            consumer.commit()
        with pytest.raises(seglog.GroupInUse, match="live members"):
            store.group("billing").reset("earliest")
    group = store.group("billing")
    assert group.reset(shift_by=-3, dry_run=True) == {("orders", p): (10, 7) for p in range(4)}
    assert group.lag() == 0
    group.reset(shift_by=-3)
    assert group.lag() == 12
    assert group.reset(2, partition=1) == {("orders", 1): (7, 2)}
    assert group.reset(shift_by=100)["orders", 0] == (7, 10)
    group.reset("earliest", topic="orders")
    with topic.consumer("billing") as consumer:
        assert sum(len(batch) for batch in consumer.batches(timeout=0)) == 40
    with pytest.raises(seglog.ConfigError):
        group.reset(2)
    with pytest.raises(seglog.ConfigError):
        group.reset()
    with pytest.raises(seglog.OffsetOutOfRange):
        group.reset(99, partition=0)
    with pytest.raises(seglog.PartitionNotFound):
        group.reset("earliest", partition=9)


def test_a_group_is_forgotten(store, topic):
    with topic.consumer("billing") as consumer:
        consumer.receive(timeout=0)
        consumer.commit()
        with pytest.raises(seglog.GroupInUse):
            store.group("billing").delete()
    store.group("billing").delete()
    assert store.groups() == []
    with topic.consumer("billing") as consumer:
        assert consumer.committed(0) is None


def test_the_membership_of_another_boot_is_nobodys(path, topic):
    consumer = topic.consumer("billing")
    words = path / "groups" / "billing" / "members"
    data = bytearray(words.read_bytes())
    data[0] ^= 1
    words.write_bytes(data)
    with topic.consumer("billing") as other:
        assert [m.name for m in topic._home.group("billing").describe().members] == [other.member]
        assert shares(other) == [4]
    consumer.close()


def test_bad_settings_are_refused_and_leave_no_member(store, topic):
    for wrong in (
        {"commit": "sometimes"},
        {"reset": "maybe"},
        {"assignor": "best"},
        {"isolation": "perfect"},
        {"on_assign": 5},
        {"rejoin_within": -1},
        {"instance": "../x"},
        {"start": 3},
    ):
        with pytest.raises(seglog.SeglogError):
            topic.consumer("billing", **wrong)
    with pytest.raises(seglog.TopicNotFound):
        store.consumer("billing", ["nothing"])
    with pytest.raises(seglog.ConfigError):
        store.consumer("billing", [])
    with topic.consumer("billing") as consumer:
        assert shares(consumer) == [4]
        assert len(store.group("billing").describe().members) == 1


# ---- what callbacks, errors and threads may do ------------------------------------------------------


def test_partitions_are_read_only_once_on_assign_has_returned(topic):
    said, fails = [], [True]

    def load(consumer, what):
        said.append(what)
        if fails.pop():
            raise ZeroDivisionError

    two = topic.consumer("billing")
    with topic.consumer("billing", on_assign=load) as one:
        end = time.monotonic() + 5
        with pytest.raises(ZeroDivisionError):
            while time.monotonic() < end:
                two.receive(timeout=0)
                one.receive(timeout=0)
        fails.append(False)
        assert one.ready() in (True, False) and one._order == []
        while not one._order:
            two.receive(timeout=0)
            batch = one.receive(timeout=0.01)
            assert time.monotonic() < end
        assert said[-1] == said[-2] and one.assignment == said[-1]
        assert batch is None or batch.partition in said[-1]["orders"]
    two.close()


def test_a_revoke_that_raises_does_not_swallow_the_assign_that_comes_with_it(store, topic):
    said = []

    def fails(consumer, what):
        raise ZeroDivisionError

    store.topic("refunds")
    one = store.consumer(
        "billing", ["orders", "refunds"], on_revoke=fails, on_assign=lambda c, what: said.append(what), assignor="range"
    )
    with one._membership.change() as state:
        state.target = {where: n for where, n in state.target.items() if where[0] != "orders"}
    with pytest.raises(ZeroDivisionError):
        one.receive(timeout=0)
    with one._membership.change() as state:
        state.target = {("orders", p): one._membership.number for p in range(4)}
    with pytest.raises(ZeroDivisionError):
        one.receive(timeout=0)
    assert said[1:] == [{"orders": (0, 1, 2, 3)}]
    with pytest.raises(ZeroDivisionError):
        one.close()


def test_a_failing_on_assign_at_the_opening_leaves_no_member(store, topic):
    def fails(consumer, what):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        topic.consumer("billing", on_assign=fails, on_revoke=fails)
    assert store.group("billing").describe().members == ()


def test_callbacks_may_use_the_consumer(topic):
    said = []

    def assign(consumer, what):
        for partition in what["orders"]:
            consumer.seek(partition, 5)
        said.append(consumer.position(what["orders"][0]))

    def revoke(consumer, what):
        consumer.seek("earliest")
        consumer.commit({what["orders"][0]: 3})
        consumer.close()

    with topic.consumer("billing", on_assign=assign, on_revoke=revoke) as one:
        assert said == [5]
        with topic.consumer("billing"):
            with pytest.raises(seglog.ClosedError):
                for _ in range(3):
                    one.receive(timeout=0)
    with topic.consumer("billing") as two:
        assert 3 in [two.committed(partition) for partition in range(4)]


def test_on_revoke_may_commit_while_the_store_is_closed(path):
    store = seglog.open(path)
    store.topic("orders").send(b"one")
    consumer = store.topic("orders").consumer("billing", on_revoke=lambda consumer, what: consumer.commit())
    assert consumer.receive(timeout=0) is not None
    store.close()
    with seglog.open(path) as store, store.topic("orders").consumer("billing") as consumer:
        assert consumer.committed() == 1


def test_a_seek_gives_nothing_up_that_is_being_worked_on(topic):
    with topic.consumer("billing", commit="after") as one:
        batch = one.receive(timeout=0)
        with topic.consumer("billing"):
            one.seek(batch.partition, 3)
            assert len(one.assignment["orders"]) == 4
            assert one.committed(batch.partition) is None


def test_commits_are_taken_while_partitions_are_added(store, topic):
    with topic.consumer("billing", commit="after") as one:
        batch = one.receive(timeout=0)
        topic.add_partitions(6)
        one.commit(batch)
        assert one.committed(batch.partition) == 10
        one.receive(timeout=0)
        topic.add_partitions(7)
        assert one.receive(timeout=0) is not None


def test_a_new_topic_of_an_old_group_begins_where_start_says(store, topic):
    refunds = store.topic("refunds")
    refunds.send(b"old")
    with topic.consumer("billing"), store.consumer("billing", ["orders", "refunds"], start="latest") as both:
        refunds.send(b"new")
        end = time.monotonic() + 5
        while (batch := both.receive(timeout=0.01)) is None or batch.topic != "refunds":
            assert time.monotonic() < end
        assert batch.values.tolist() == [b"new"]


def test_a_consumer_that_cannot_join_leaves_no_beginning(topic):
    def wrong(members, partitions):
        return {}

    with pytest.raises(seglog.ConfigError):
        topic.consumer("billing", start="latest", assignor=wrong)
    with topic.consumer("billing") as one:
        assert one.lag() == 40


def test_a_topic_made_anew_with_fewer_partitions_is_not_dealt_out_as_the_old_one(path, store, topic):
    slow = seglog.open(path)
    theirs = slow.topic("orders").consumer("billing")  # and hears of nothing
    store.delete_topic("orders")
    again = store.topic("orders", partitions=1)
    again.send(b"new")
    with again.consumer("billing") as one:
        received(one, lambda: one.assignment == {"orders": (0,)})
        with pytest.raises(seglog.TopicNotFound):
            theirs.receive(timeout=0)
    slow.close()


def test_a_damaged_place_is_told_again_and_keeps_no_other_from_being_read(path, store, topic):
    gone = topic.consumer("billing")
    for _ in gone.batches(timeout=0):
        gone.commit()
        gone.commit()
    with topic.consumer("billing") as two:
        with open(path / "groups" / "billing" / "orders.positions", "r+b") as file:
            for at in (1024 * 2, 1024 * 2 + 512):
                file.seek(at)
                file.write(b"\xff" * 8)
        gone.close()
        for n in range(4):
            topic.send(b"more", partition=n)
        told, read = 0, set()
        end = time.monotonic() + 5
        while told < 2 or read != {0, 2, 3}:
            try:
                batch = two.receive(timeout=0.01)
            except seglog.CorruptStore:
                told += 1
            else:
                read |= {batch.partition} if batch is not None else set()
            assert time.monotonic() < end, (told, read)
    store.group("billing").reset("latest", partition=1)
    with topic.consumer("billing") as three:
        assert three.committed(1) == 11


@pytest.mark.parametrize(
    "assignor",
    [
        "range",
        "roundrobin",
        lambda members, partitions: {
            name: {t: [p for p in range(n) if p % len(members) == i] for t, n in partitions.items()}
            for i, name in enumerate(members)
        },
    ],
)
def test_every_assignor_goes_past_a_member_that_does_not_come(store, topic, assignor):
    with topic.consumer("billing", assignor=assignor) as one, topic.consumer("billing", assignor=assignor) as slow:
        settle(one, slow)
        was = slow.assignment
        with topic.consumer("billing", assignor=assignor) as three:
            settle(one, slow, three)
            was = slow.assignment
        # What the third had may be meant for the slow one, which is at work.
        received(one, lambda: shares(one) == [4 - len(was["orders"])])
        generation = one._membership.generation
        for _ in range(10):
            one.receive(timeout=0.05)
        assert one._membership.generation == generation
        received(one, lambda: slow.receive(timeout=0) is None and shares(one, slow) == [2, 2])


def test_a_member_that_waits_for_a_slow_one_neither_burns_a_core_nor_takes_the_lock(topic):
    with topic.consumer("billing") as slow, topic.consumer("billing") as waits:
        began = time.process_time()
        generation = waits._membership.generation
        assert waits.receive(timeout=1.0) is None
        assert time.process_time() - began < 0.5
        assert waits._membership.generation == generation
        thread = threading.Timer(0.2, lambda: slow.receive(timeout=0))
        thread.start()
        assert waits.receive(timeout=5) is not None
        thread.join()


def test_a_store_closed_in_another_thread_ends_a_receive_that_waits(path):
    store = seglog.open(path)
    consumer = store.topic("orders").consumer("billing")
    ended = []

    def wait():
        try:
            consumer.receive(timeout=30)
        except seglog.SeglogError as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    store.close()
    thread.join(10)
    assert [type(error) for error in ended] == [seglog.ClosedError]


def test_looking_at_a_topic_that_is_not_there_makes_none(store, topic):
    with topic.consumer("billing"):
        pass
    with pytest.raises(seglog.TopicNotFound):
        store.group("billing").reset("earliest", topic="ordres")
    assert store.topics() == ["orders"]


def test_thousands_of_partitions_are_shared_in_good_time(store):
    topic = store.topic("wide", partitions=1000)
    began = time.process_time()
    members = [topic.consumer("billing") for _ in range(4)]
    for _ in range(3):
        for member in members:
            member.receive(timeout=0)
    assert [len(member.assignment["wide"]) for member in members] == [250] * 4
    assert time.process_time() - began < 10
    began = time.process_time()
    for _ in range(100):
        members[0].receive(timeout=0)
    assert time.process_time() - began < 1
    for member in members:
        member.close()


def test_an_awaited_consumer_shares_too(tmp_path):
    import asyncio

    import seglog.aio

    async def work(topic, seen):
        async with topic.consumer("billing", commit="after") as consumer:
            async for batch in consumer.batches(timeout=0.5):
                seen += [(record.partition, record.offset) for record in batch]

    async def main():
        async with await seglog.aio.open(tmp_path / "a") as store:
            topic = await store.topic("orders", partitions=4)
            seen = []
            workers = [asyncio.create_task(work(topic, seen)) for _ in range(3)]
            for n in range(200):
                await topic.send(b"%d" % n, partition=n % 4)
                await asyncio.sleep(0)
            await asyncio.gather(*workers)
            return seen

    seen = asyncio.run(main())
    assert sorted(seen) == [(p, o) for p in range(4) for o in range(50)]
