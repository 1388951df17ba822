"""Commits in transactions: what was read, what was made of it, and that it was done: all there or none."""

import shutil
import subprocess
import sys
import textwrap
import threading

import pytest

import seglog
from seglog import positions as positions_module
from seglog import transactions
from seglog.engine.transactions import moves_decision, read_decision


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture(params=["never", "interval", "always"])
def store(path, request):
    with seglog.open(path, fsync=request.param, upkeep=False) as store:
        yield store


def values(topic):
    return [record.value for record in topic.read()]


def slots(path, topic, partition=0, group="billing"):
    """The offset in the slots that survive a boot, as an independent reader sees it."""
    data = (path / "groups" / group / f"{topic.name}.positions").read_bytes()
    commit, damaged = positions_module.pair_of(data, partition, int(topic.topic_id, 16))
    assert damaged == []
    return None if commit is None else commit.offset


def test_a_commit_happens_with_its_transaction(path, store):
    orders, out = store.topic("orders", partitions=2), store.topic("out")
    orders.send_many([b"%d" % n for n in range(10)], partition=0)
    orders.send_many([b"%d" % n for n in range(10)], partition=1)
    with orders.consumer("billing") as consumer:
        for _ in range(2):
            batch = consumer.receive(max_records=4, timeout=0)
            with store.transaction() as tx:
                out.send_many(batch.values, tx=tx)
                consumer.commit(batch, tx=tx)
                assert consumer.committed(batch.partition) is None
            assert consumer.committed(batch.partition) == 4
            assert store.group("billing").lag("orders") == 20 - len(out.last(100))
        assert [p.committed for p in store.group("billing").describe().places] == [4, 4]
        record = consumer.receive(max_records=2, timeout=0)[0]
        with store.transaction() as tx:
            out.send(record.value, tx=tx)
            consumer.commit(record, tx=tx)
        consumer.commit({1 - record.partition: 10})
        consumer.sync()
        assert {slots(path, orders, p) for p in (0, 1)} == {5, 10}
    with orders.consumer("billing") as consumer:
        assert sorted(consumer.committed(p) for p in (0, 1)) == [5, 10]
    assert len(out.last(100)) == 9


def test_a_transaction_of_commits_alone(store):
    orders = store.topic("orders", partitions=3)
    for p in range(3):
        orders.send_many([b"x"] * 5, partition=p)
    with orders.consumer("billing") as consumer:
        list(consumer.records(timeout=0))
        with store.transaction() as tx:
            consumer.commit(tx=tx)
        assert [consumer.committed(p) for p in range(3)] == [5, 5, 5]
        with store.transaction() as tx:
            consumer.commit(tx=tx)  # nothing more was handed out
        consumer.seek("earliest")
        with store.transaction() as tx:
            consumer.commit({0: 1}, tx=tx)
            consumer.commit({0: 2, 1: 3}, tx=tx)  # the last word counts
        assert [consumer.committed(p) for p in range(3)] == [2, 3, 5]


def test_given_up_it_never_was(store):
    orders, out = store.topic("orders"), store.topic("out")
    orders.send_many([b"1", b"2"])
    with orders.consumer("billing") as consumer:
        batch = consumer.receive(timeout=0)
        with pytest.raises(ZeroDivisionError), store.transaction() as tx:
            out.send(b"made", tx=tx)
            consumer.commit(batch, tx=tx)
            raise ZeroDivisionError
        assert consumer.committed() is None and values(out) == []
        with pytest.raises(seglog.ClosedError, match="Nothing was committed"):
            consumer.commit(batch, tx=tx)
        with pytest.raises(seglog.OffsetOutOfRange), store.transaction() as tx:
            consumer.commit({0: 3}, tx=tx)
        consumer.commit(batch)
        assert consumer.committed() == 2


def test_a_member_that_was_put_out_commits_neither(store):
    orders, out = store.topic("orders"), store.topic("out")
    orders.send_many([b"1", b"2"])
    late = orders.consumer("billing")
    batch = late.receive(timeout=0)
    tx = store.transaction()
    out.send(b"made", tx=tx)
    out.send(b"made", tx=tx)
    late.commit(batch, tx=tx)
    store.group("billing").evict(late.member)
    with orders.consumer("billing") as consumer:
        assert consumer.receive(timeout=1).values.tolist() == [b"1", b"2"]
        with pytest.raises(seglog.Fenced, match="Nothing was committed"):
            tx.commit()
        assert values(out) == [] and consumer.committed() is None
        assert out.send(b"next").offset == 0  # what was prepared is written over
        with store.transaction() as tx:
            out.send(b"mine", tx=tx)
            consumer.commit(tx=tx)
        assert consumer.committed() == 2
    late.close()


def test_what_it_takes(store, tmp_path):
    orders = store.topic("orders")
    orders.send(b"1")
    for mode in ("after", "before"):
        with orders.consumer(mode, commit=mode) as consumer:
            batch = consumer.receive(timeout=0)
            with pytest.raises(seglog.ConfigError, match='commit="manual"'), store.transaction() as tx:
                consumer.commit(batch, tx=tx)
    with seglog.open(tmp_path / "other") as other, orders.consumer("billing") as consumer:
        batch = consumer.receive(timeout=0)
        with pytest.raises(ValueError, match="another store"), other.transaction() as tx:
            consumer.commit(batch, tx=tx)
        with pytest.raises((TypeError, AttributeError)):
            consumer.commit(batch, tx=5)


def test_a_condition_is_asked_under_the_locks_and_may_give_it_up(store):
    a, b = store.topic("a"), store.topic("b")
    seen = []

    def condition():
        seen.append((len(a.last(9)), a.next_offset(0)))
        if len(seen) == 2:
            raise LookupError("no")

    for n in range(3):
        tx = store.transaction()
        a.send(b"%d" % n, tx=tx)
        if n:
            b.send(b"%d" % n, tx=tx)
        tx.require(condition)
        if n == 1:
            with pytest.raises(LookupError):
                tx.commit()
        else:
            tx.commit()
    assert seen == [(0, 0), (1, 1), (1, 1)]
    assert values(a) == [b"0", b"2"] and values(b) == [b"2"]


# ---- on the disk ------------------------------------------------------------------------------------


def test_a_commit_is_not_on_the_disk_before_its_transaction(path):
    with seglog.open(path, fsync="interval", upkeep=False) as store:
        orders, out = store.topic("orders"), store.topic("out")
        orders.send_many([b"x"] * 20)
        with orders.consumer("billing") as consumer:
            consumer.commit({0: 1})
            store.sync()
            for stop in (2, 3, 4):
                with store.transaction() as tx:
                    out.send(b"x", tx=tx)
                    consumer.commit({0: stop}, tx=tx)
            assert (consumer.committed(), slots(path, orders)) == (4, 1)
            consumer.commit({0: 5})  # it says that the transactions are done, too
            assert (consumer.committed(), slots(path, orders)) == (5, 1)
            other = store.topic("orders").consumer("audit")
            other.close()
            store.sync()
            assert (consumer.committed(), slots(path, orders)) == (5, 5)
            consumer.commit({0: 6})
            assert slots(path, orders) == 6
            with store.transaction() as tx:
                consumer.commit({0: 7}, tx=tx)
            assert slots(path, orders) == 6
            store.upkeep()
            assert slots(path, orders) == 7
            with store.transaction() as tx:
                consumer.commit({0: 8}, tx=tx)
        assert slots(path, orders) == 8  # leaving writes it


def test_who_gives_a_partition_up_writes_what_waits_for_the_disk(path):
    with seglog.open(path, fsync="interval", upkeep=False) as store:
        orders = store.topic("orders", partitions=2)
        for p in (0, 1):
            orders.send_many([b"x"] * 5, partition=p)
        with orders.consumer("billing") as first:
            with store.transaction() as tx:
                first.commit({0: 3, 1: 4}, tx=tx)
            thread = threading.Thread(target=lambda: [first.receive(timeout=0.05) for _ in range(20)])
            thread.start()
            with orders.consumer("billing") as second:
                for _ in range(20):
                    second.receive(timeout=0.05)
                thread.join()
                ((gone,),) = second.assignment.values()
                assert slots(path, orders, gone) == {0: 3, 1: 4}[gone] == second.committed(gone)


SCRIPT = """
import os, seglog
store = seglog.open({path!r}, fsync={fsync!r}, upkeep=False)
orders, out = store.topic("orders"), store.topic("out")
orders.send_many([b"%d" % n for n in range(50)])
consumer = orders.consumer("billing")
def step(stop, sent=True):
    with store.transaction() as tx:
        out.send(b"made-%d" % stop, tx=tx)
        out.send(b"made-%d" % stop, tx=tx)
        consumer.commit({{0: stop}}, tx=tx)
"""


def crashed(path, text, fsync="interval"):
    script = SCRIPT.format(path=str(path), fsync=fsync) + textwrap.dedent(text) + "\nos._exit(0)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def rebooted(path):
    """A copy: nothing of what was for one boot is believed there."""
    copy = path.with_name(path.name + "+")
    shutil.copytree(path, copy)
    return copy


def where(path):
    with seglog.open(path) as store, store.topic("orders").consumer("billing") as consumer:
        return consumer.committed(), [int(value[5:]) for value in values(store.topic("out"))[::2]]


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
def test_after_a_kill_all_of_it_is_there_and_after_a_boot_too(path, fsync):
    crashed(path, "step(1); store.sync(); step(2); step(3)", fsync)
    copy = rebooted(path)
    assert where(path) == (3, [1, 2, 3])
    assert where(copy) == (3, [1, 2, 3])
    assert where(rebooted(copy)) == (3, [1, 2, 3])


def test_one_who_promises_nothing_waits_for_the_transaction_of_one_who_did(path):
    """A commit with fsync="never" says that the transaction before it is done: it must not be on the disk before that."""
    crashed(path, "step(1); store.sync(); step(2)")
    with seglog.open(path, fsync="never", upkeep=False) as store:
        orders = store.topic("orders")
        with orders.consumer("billing") as consumer:
            consumer.commit({0: 3})
            assert (consumer.committed(), slots(path, orders)) == (3, 1)
            store.sync()
            assert (consumer.committed(), slots(path, orders)) == (3, 3)


def test_a_group_that_moved_on_since_is_not_moved_back(path):
    crashed(path, "step(1); step(2); store.sync(); consumer.commit({0: 9}); consumer.commit({0: 5}); store.sync()")
    assert where(rebooted(path))[0] == 5
    assert where(path)[0] == 5


def test_a_transaction_that_does_not_hold_moves_nobody_and_nor_do_those_behind_it(path):
    crashed(path, "step(1); store.sync(); step(2); step(3)")
    copy = rebooted(path)
    segment = next((copy / "topics" / "out" / "0").glob("*.log"))
    data = bytearray(segment.read_bytes())
    at = data.index(b"made-2")
    data[at - 64 : at + 6] = bytes(70)  # as if it had not come to the disk
    segment.write_bytes(data)
    assert where(copy) == (1, [1])
    assert where(path) == (3, [1, 2, 3])


def test_commits_of_decisions_that_hang_on_one_that_fell():
    def decision(parts, *moves):
        slot = positions_module.SLOT
        made = []
        for path, sequence in moves:
            body = slot.pack(positions_module.MAGIC, 0, sequence, sequence, 0, 0, 1, 0, 0)
            made.append((7, body + bytes(8), path))
        return transactions.Decision(parts, made)

    lost = (1, 5, 9, "gone")
    found = {
        0: decision([], ("p", 1)),
        1: decision([lost], ("p", 2)),
        2: decision([], ("q", 4)),
        3: decision([], ("p", 3), ("q", 5)),
        4: decision([], ("q", 6)),
        5: decision([], ("r", 9)),
    }

    def survey(path):
        return {"partition_id": 1, "durable": 0, "end": 7, "frames": [(5, 7)]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transactions, "survey", survey)
        assert transactions.judge("x", found) == [1, 3, 4]


def test_a_group_made_anew_under_an_old_name_inherits_nothing(path):
    crashed(path, "step(1); step(2); store.sync()")
    with seglog.open(path) as store:
        store.group("billing").delete()
        orders = store.topic("orders")
        with orders.consumer("billing") as consumer:
            assert consumer.committed() is None
    assert where(rebooted(path)) == (None, [1, 2])


def test_letting_go_of_decisions_keeps_where_groups_are(path, monkeypatch):
    monkeypatch.setattr(transactions, "KEPT_BYTES", 1)
    monkeypatch.setattr(transactions, "MOVES_MAX", 2)
    with seglog.open(path, fsync="interval", upkeep=False) as store:
        orders, out = store.topic("orders", partitions=3), store.topic("out")
        for p in range(3):
            orders.send_many([b"x"] * 5000, partition=p)
        consumer = orders.consumer("billing")
        for n in range(3000):
            with store.transaction() as tx:
                out.send(b"x", tx=tx)
                consumer.commit({n % 3: n // 3 + 1}, tx=tx)
        log = store._transactions.log
        store._trim_decisions()
        assert log.first_offset >= 1000
        assert sum(len(read_decision(record.value)[1]) for record in log.records(3000)) == 3
        copy = rebooted(path)
        consumer.close()
    with seglog.open(copy) as store, store.topic("orders").consumer("billing") as consumer:
        assert [consumer.committed(p) for p in range(3)] == [1000, 1000, 1000]


def test_the_places_of_groups_that_are_gone_are_let_go_of_and_an_idle_log_rests(path, monkeypatch):
    monkeypatch.setattr(transactions, "KEPT_BYTES", 1)
    with seglog.open(path, upkeep=False) as store:
        orders, out = store.topic("orders"), store.topic("out")
        orders.send_many([b"x"] * 100)
        for group in ("stays", "goes"):
            with orders.consumer(group) as consumer:
                for stop in range(1, 101):
                    with store.transaction() as tx:
                        out.send_many([b"x"] * 3, tx=tx)
                        out.send_many([b"x"] * 3, tx=tx)
                        consumer.commit({0: stop}, tx=tx)
        store.group("goes").delete()
        log = store._transactions.log
        log.close_segment()
        end = log.next_offset
        store._trim_decisions()
        assert [read_decision(record.value)[1][0][2] for record in log.records(end)] == ["groups/stays/orders.positions"]
        said = log.next_offset
        for _ in range(5):
            store._trim_decisions()
        assert log.next_offset == said


def test_moves_are_read_as_they_were_written():
    moves = [(1 << 63, b"s" * 64, "groups/a/b.positions"), (5, bytes(64), "")]
    assert read_decision(moves_decision(moves)) == ([], moves, [])
    for wrong in (moves_decision(moves)[:-1], moves_decision(moves) + b"x", b"\1\0\0\0\0\0\0\0\xff\xff\xff\xff\0\0\0\0"):
        with pytest.raises(seglog.CorruptStore, match="no decision"):
            read_decision(wrong)


def test_a_dead_member_s_decision_is_seen_before_and_after_somebody_takes_its_place(path):
    """It died between deciding and moving: whoever looks asks the transaction log."""
    crashed(path, "step(1); step(2)")
    with seglog.open(path, upkeep=False) as store:
        orders = store.topic("orders")
        file = path / "groups" / "billing" / "orders.positions"
        pair = positions_module.PAIR
        with open(file, "r+b") as handle:  # as it was a moment before: commit 2 is announced, and in no slot
            data = bytearray(handle.read())
            newest = max((data[pair + at : pair + at + 64] for at in (128, 192)), key=lambda s: s[16])
            assert newest[8] == 2
            sequence = newest[16]
            at = pair + 128 + 64 * (sequence & 1)
            data[at : at + 64] = bytes(64)
            data[pair + 80] = sequence
            handle.seek(0)
            handle.write(data)
        assert [p.committed for p in store.group("billing").describe().places] == [2]
        with orders.consumer("billing") as consumer:
            assert consumer.committed() == 2 and file.read_bytes()[pair + 80] == 0
        with open(file, "r+b") as handle:  # and one that was announced, and never decided
            data = bytearray(handle.read())
            data[pair + 80] = 77
            handle.seek(0)
            handle.write(data)
        assert [p.committed for p in store.group("billing").describe().places] == [2]
        with orders.consumer("billing") as consumer:
            assert consumer.committed() == 2 and file.read_bytes()[pair + 80] == 0
            with store.transaction() as tx:
                consumer.commit({0: 3}, tx=tx)
            assert consumer.committed() == 3


def test_a_group_whose_words_a_power_cut_left_as_garbage_commits_in_transactions(path, store):
    """They are void then, and the count of generations goes on from whatever they say. Seen in an image of a power cut."""
    orders, out = store.topic("orders"), store.topic("out")
    orders.send(b"1")
    orders.consumer("billing").close()
    (path / "groups" / "billing" / "members").write_bytes(b"\x5a" * 16)
    with orders.consumer("billing") as consumer:
        batch = consumer.receive(timeout=0)
        with store.transaction() as tx:
            out.send_many(batch.values, tx=tx)
            consumer.commit(batch, tx=tx)
        assert consumer.committed(0) == 1
    assert values(out) == [b"1"]
