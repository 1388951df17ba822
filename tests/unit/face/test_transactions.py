"""Transactions: all of it is there or none, whoever looks, and whoever dies."""

import shutil
import subprocess
import sys
import threading
import time

import pytest

import seglog
from seglog import doctor, transactions
from seglog.engine.transactions import read_decision, survey, void_decision


@pytest.fixture
def topics(store):
    return store.topic("orders", partitions=2), store.topic("stock")


def values(topic, partition=None):
    return [record.value for record in topic.read(partition=partition)]


def test_nothing_is_there_before_the_end_and_everything_after(store, topics):
    orders, stock = topics
    with store.transaction() as tx:
        assert orders.send(b"one", partition=0, tx=tx) is None
        orders.send(b"two", key=b"k", headers={"h": b"1"}, timestamp=7, partition=1, tx=tx)
        assert stock.send_many([b"a", None, b"c"], keys=[b"1", b"2", b"3"], tx=tx) == []
        assert len(tx) == 5 and tx.open
        assert values(orders) == values(stock) == []
    assert not tx.open
    assert values(orders, 0) == [b"one"]
    record = orders[1, 0]
    assert (record.value, record.key, record.headers, record.timestamp) == (b"two", b"k", {"h": b"1"}, 7)
    assert values(stock) == [b"a", None, b"c"]
    assert sorted(tx.spans) == [("orders", (0, 0, 1)), ("orders", (1, 0, 1)), ("stock", (0, 0, 3))]


def test_an_exception_gives_everything_up(store, topics):
    orders, stock = topics
    stock.send(b"before")
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        orders.send(b"one", tx=tx)
        stock.send(b"two", tx=tx)
        raise ZeroDivisionError
    assert values(orders) == [] and values(stock) == [b"before"]
    assert stock.send(b"after").offset == 1
    with pytest.raises(seglog.ClosedError, match="is over"):
        orders.send(b"late", tx=tx)
    with pytest.raises(seglog.ClosedError):
        tx.commit()


def test_it_may_be_committed_or_given_up_by_hand(store, topics):
    tx = store.transaction()
    topics[1].send(b"one", tx=tx)
    tx.commit()
    tx = store.transaction()
    topics[1].send(b"two", tx=tx)
    tx.abort()
    store.transaction().commit()  # of nothing
    assert values(topics[1]) == [b"one"]


@pytest.mark.parametrize("codec", ["none", "zstd", "lz4"])
def test_large_ones_and_keys_over_many_partitions(store, codec):
    wide = store.topic("wide", partitions=13, codec=codec)
    many = [b"%05d" % n * 40 for n in range(5000)]
    with store.transaction() as tx:
        wide.send_many(many, keys=[value[:5] for value in many], tx=tx)
        for value in many[:100]:
            wide.send(value, key=value[:5], tx=tx)
    assert sorted(values(wide)) == sorted(many + many[:100])
    plain = store.topic("plain", partitions=13, codec=codec)
    plain.send_many(many, keys=[value[:5] for value in many])
    assert [wide.next_offset(p) >= plain.next_offset(p) for p in range(13)] == [True] * 13
    assert store.verify() == []


def test_it_rolls_where_it_must_and_holds_what_fits_a_segment(path):
    with seglog.open(path, segment_bytes=1 << 16) as store:
        topic = store.topic("orders")
        for n in range(50):
            topic.send(b"x" * 5000)
            with store.transaction() as tx:
                topic.send_many([b"%d" % n * 300] * 7, tx=tx)
        with store.transaction() as tx:
            topic.send_many([b"y" * 1000] * 300, tx=tx)  # larger than a segment is by default
        assert topic.next_offset() == 50 * 8 + 300
        assert topic.statistics().partitions[0].segments > 5
        assert store.verify() == []
    with seglog.open(path) as store:
        assert len(list(store.topic("orders").read())) == 700


def test_what_cannot_be_sent_is_refused_and_the_rest_stays_possible(store, topics, tmp_path):
    orders, stock = topics
    small = store.topic("small", record_bytes_max=100)
    with seglog.open(tmp_path / "other") as other:
        foreign = other.topic("orders")
        with store.transaction() as tx:
            stock.send(b"one", tx=tx)
            for wrong, error in (
                (lambda: orders.send("text", tx=tx), TypeError),
                (lambda: orders.send(b"x", key="text", tx=tx), TypeError),
                (lambda: orders.send(b"x", partition=9, tx=tx), seglog.PartitionNotFound),
                (lambda: small.send(b"x" * 101, tx=tx), seglog.RecordTooLarge),
                (lambda: foreign.send(b"x", tx=tx), ValueError),
                (lambda: orders.send(b"x", tx=5), TypeError),
            ):
                with pytest.raises(error):
                    wrong()
        assert values(stock) == [b"one"] and values(orders) == [] and values(foreign) == []
        tx = store.transaction()
        stock.send(b"two", tx=tx)
        with pytest.raises(seglog.RecordTooLarge):
            small.send_many([b"x", b"x" * 101], tx=tx)
        with pytest.raises(seglog.ClosedError):
            tx.commit()
    assert values(stock) == [b"one"]


def test_a_deleted_topic_or_a_closed_store_takes_all_of_it_along(path):
    store = seglog.open(path)
    orders, stock = store.topic("orders"), store.topic("stock")
    tx = store.transaction()
    orders.send(b"one", tx=tx)
    stock.send(b"two", tx=tx)
    store.delete_topic("orders")
    with pytest.raises(seglog.SeglogError):
        tx.commit()
    assert values(stock) == []
    tx = store.transaction()
    stock.send(b"two", tx=tx)
    store.close()
    with pytest.raises(seglog.ClosedError):
        tx.commit()
    with pytest.raises(seglog.ClosedError):
        store.transaction()
    with seglog.open(path) as store:
        assert values(store.topic("stock")) == []


def test_threads_that_lock_the_same_partitions_in_any_order_neither_hang_nor_mix(store):
    topics = [store.topic(name, partitions=2) for name in "abc"]

    def work(who):
        for n in range(150):
            with store.transaction() as tx:
                for i in range(6):
                    topic, partition = divmod((i * 5 + who) % 6, 2)
                    topics[topic].send(b"%d.%d" % (who, n), partition=partition, tx=tx)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    orders = [values(topic, p) for topic in topics for p in range(2)]
    assert all(order == orders[0] for order in orders)  # each was locked while all were: one order for all
    assert sorted(orders[0]) == sorted(b"%d.%d" % (who, n) for who in range(4) for n in range(150))


PROGRAM = """
import sys, seglog
with seglog.open(sys.argv[1]) as store:
    a, b = store.topic("a", partitions=2), store.topic("b")
    for n in range(300):
        with store.transaction() as tx:
            a.send(b"%s.%d" % (sys.argv[2].encode(), n), partition=n % 2, tx=tx)
            b.send(b"%s.%d" % (sys.argv[2].encode(), n), tx=tx)
"""


def test_processes_and_a_reader_that_looks_all_the_time(path):
    with seglog.open(path) as store:
        a, b = store.topic("a", partitions=2), store.topic("b")
        running = [subprocess.Popen([sys.executable, "-c", PROGRAM, str(path), str(who)]) for who in range(3)]
        while any(process.poll() is None for process in running):
            # What b has, a has: each part was published microseconds after the other, so look at b first, and wait a moment.
            seen = set(values(b))
            time.sleep(0.05)
            assert seen <= set(values(a))
        assert [process.wait() for process in running] == [0, 0, 0]
        assert sorted(values(a)) == sorted(values(b)) and len(values(b)) == 900


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
def test_what_was_synced_is_durable_with_all_its_parts(path, fsync):
    with seglog.open(path, fsync=fsync, upkeep=False) as store:
        a, b = store.topic("a"), store.topic("b")
        a.send(b"before")
        with store.transaction() as tx:
            a.send(b"one", tx=tx)
            b.send(b"one", tx=tx)
        durable = [t.logs[0].durable_offset for t in (a, b)]
        assert durable == ([2, 1] if fsync == "always" else [0, 0])
        store.sync()
        assert [t.logs[0].durable_offset for t in (a, b)] == [2, 1]
        assert [r.value for r in a.read(isolation="durable")] == [b"before", b"one"]


def test_decisions_are_let_go_when_they_are_many(path, monkeypatch):
    monkeypatch.setattr(transactions, "KEPT_BYTES", 1 << 16)
    with seglog.open(path, segment_bytes=1 << 16, upkeep=False) as store:
        a, b = store.topic("a"), store.topic("b")
        for n in range(2000):
            with store.transaction() as tx:
                a.send(b"%d" % n, tx=tx)
                b.send(b"%d" % n, tx=tx)
        log = store._transactions.attach()
        assert log.first_offset == 0
        store.upkeep()
        assert log.first_offset > 1000
    for name in ("a", "b"):
        (path / "topics" / name / "0" / "shm").unlink()
    with seglog.open(path) as store:
        assert values(store.topic("a")) == values(store.topic("b")) == [b"%d" % n for n in range(2000)]


# ---- after a power cut ----------------------------------------------------------------------------


def decided(*parts):
    return transactions.Decision(list(parts), [])


def test_the_judge_takes_back_what_is_not_whole_and_what_hangs_on_it(monkeypatch):
    disk = {
        "a": {"partition_id": 1, "durable": 10, "end": 20, "frames": [(12, 14), (14, 16), (18, 19)]},
        "b": {"partition_id": 2, "durable": 5, "end": 8, "frames": [(5, 6), (7, 8)]},
        "c": {"partition_id": 3, "durable": 0, "end": 3, "frames": [(1, 2)]},
    }
    monkeypatch.setattr(transactions, "survey", lambda path: disk[path.rpartition("/")[2]])
    fine = decided((1, 12, 14, "a"), (2, 5, 6, "b"))
    cut = decided((1, 14, 16, "a"), (2, 8, 9, "b"))  # b's part is not there
    behind = decided((1, 18, 19, "a"), (3, 1, 2, "c"))  # whole, but behind what falls in a
    assert transactions.judge("x", {0: fine, 1: cut, 2: behind}) == [1, 2]
    durable = decided((1, 8, 10, "a"), (2, 9, 10, "b"))  # a's part was called durable: it is not touched, and no cause for more
    assert transactions.judge("x", {0: fine, 3: durable}) == [3]
    assert transactions.judge("x", {}) == []
    disk["b"]["frames"] = [(5, 6), (6, 7)]  # one without a decision: b ends there
    assert transactions.judge("x", {0: fine, 4: decided((2, 7, 8, "b"), (3, 1, 2, "c"))}) == [4]


def test_decisions_are_read_as_they_were_written():
    assert read_decision(void_decision([3, 1 << 40])) == ([], [], [3, 1 << 40])
    for wrong in (b"", b"x", b"\1\0\0\0\5\0\0\0", void_decision([3])[:-1], b"\3" + bytes(15), b"\1\0\0\0\1\0\0\0" + b"\xff" * 40):
        with pytest.raises(seglog.CorruptStore, match="no decision"):
            read_decision(wrong)


def crashed(path, fsync="interval"):
    """A store whose transactions are decided and nothing of which was synced; its processes are gone."""
    script = f"""
import os, seglog
store = seglog.open({str(path)!r}, fsync={fsync!r}, upkeep=False)
a, b = store.topic("a"), store.topic("b")
a.send(b"a0"); b.send(b"b0")
with store.transaction() as tx:
    a.send(b"x", tx=tx); b.send(b"x", tx=tx)
a.send(b"a1"); b.send(b"b1")
with store.transaction() as tx:
    a.send(b"y", tx=tx); b.send(b"y", tx=tx)
a.send(b"a2"); b.send(b"b2")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    for shm in path.rglob("shm"):
        shm.unlink()
    (path / "txn" / "settled").unlink(missing_ok=True)


def lose(path, folder, what):
    """As if this frame had not come to the disk."""
    segment = next((path / folder).glob("*.log"))
    data = bytearray(segment.read_bytes())
    at = 4096
    while data[at + 64 : at + 64 + (size := int.from_bytes(data[at + 4 : at + 8], "little"))] != what:
        assert size, "no such frame"
        at += 64 + (size + 7) // 8 * 8
    data[at : at + 64 + size] = bytes(64 + size)
    segment.write_bytes(data)


def test_whole_ones_survive(path):
    crashed(path)
    with seglog.open(path) as store:
        assert values(store.topic("a")) == [b"a0", b"x", b"a1", b"y", b"a2"]
        assert values(store.topic("b")) == [b"b0", b"x", b"b1", b"y", b"b2"]


def test_a_topic_whose_deletion_the_power_cut_takes_no_other_along(path):
    """Some of its files are there still, and some are not: that is no part that is missing."""
    crashed(path)
    shutil.copytree(path / "topics", path.with_name("topics"))  # nothing of it was called durable
    with seglog.open(path) as store:
        assert values(store.topic("b")) == [b"b0", b"x", b"b1", b"y", b"b2"]
        store.delete_topic("a")
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    shutil.rmtree(copy / "topics")
    shutil.copytree(path.with_name("topics"), copy / "topics")
    lose(copy, "topics/a/0", b"y")
    with seglog.open(copy) as store:
        assert store.topics() == ["b"]
        assert values(store.topic("b")) == [b"b0", b"x", b"b1", b"y", b"b2"]


@pytest.mark.parametrize("opened", ["ab", "ba"])
@pytest.mark.parametrize(("gone", "left"), [("y", 3), ("b1", 3), ("x", 1), ("b0", 1)])
def test_a_part_that_did_not_come_to_the_disk_takes_the_other_along(path, gone, left, opened):
    crashed(path)
    lose(path, "topics/b/0", gone.encode())
    for _ in range(2):  # and again: the second opening finds it as the first left it
        with seglog.open(path) as store:
            seen = {name: values(store.topic(name)) for name in opened}
            a, b = [[v for v in seen[name] if v in (b"x", b"y")] for name in "ab"]
            assert a == b == [b"x", b"y"][: {3: 1, 1: 0}[left]]
            assert len(seen["a"]) == left
            with store.transaction() as tx:
                for name in "ab":
                    store.topic(name).send(b"z", tx=tx)
        with seglog.open(path) as store:
            assert values(store.topic("a"))[-1] == values(store.topic("b"))[-1] == b"z"
        return


def test_a_decision_that_did_not_come_to_the_disk_takes_all_parts_along(path):
    crashed(path)
    log = next((path / "txn").glob("*.log"))
    data = bytearray(log.read_bytes())
    second = data.index(b"topics/a/0", data.index(b"topics/a/0") + 10)
    data[second - 140 :] = bytes(len(data) - second + 140)
    log.write_bytes(data)
    with seglog.open(path) as store:
        assert values(store.topic("a")) == [b"a0", b"x", b"a1"]
        assert values(store.topic("b")) == [b"b0", b"x", b"b1"]


def test_what_was_judged_holds_for_a_partition_that_is_opened_two_boots_later(path):
    crashed(path)
    lose(path, "topics/b/0", b"y")
    with seglog.open(path) as store:
        assert values(store.topic("b")) == [b"b0", b"x", b"b1"]
        store.topic("b").send(b"later")
    for shm in path.rglob("shm"):
        shm.unlink()
    (path / "txn" / "settled").write_bytes(bytes(8))
    with seglog.open(path) as store:
        assert values(store.topic("a")) == [b"a0", b"x", b"a1"]


def test_survey_sees_what_recovery_will(path):
    crashed(path)
    folder = path / "topics" / "a" / "0"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    found = survey(str(folder))
    assert (found["durable"], found["end"], found["frames"]) == (0, 5, [(1, 2), (3, 4)])
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert survey(str(path)) is None


def test_a_damaged_decision_costs_its_transaction_and_not_the_store(path):
    crashed(path)
    log = next((path / "txn").glob("*.log"))
    data = bytearray(log.read_bytes())
    data[data.index(b"topics/a/0") - 20] ^= 1
    log.write_bytes(data)
    with seglog.open(path) as store:
        # Nothing was synced: both partitions end where the first transaction would begin, and say so.
        assert values(store.topic("a")) == [b"a0"] and values(store.topic("b")) == [b"b0"]
        assert any("transaction" in loss.note for loss in store.topic("a").logs[0].losses)


def test_a_sync_of_one_partition_makes_the_other_parts_durable_first(path, monkeypatch):
    with seglog.open(path, upkeep=False) as store:
        a, b = store.topic("a"), store.topic("b")
        with store.transaction() as tx:
            a.send(b"x", tx=tx)
            b.send(b"x", tx=tx)
        log = store._transactions.log
        assert log.durable_offset == 0
        a.sync()
        assert log.durable_offset == 1  # the decision, and before it the parts: the power cut images prove those


def test_the_doctor_knows_the_transaction_log_and_reveals_no_part_of_what_did_not_happen(path):
    crashed(path)
    lose(path, "topics/b/0", b"y")
    report = doctor.examine(path)
    assert "txn" in [log.name for log in report.partitions]
    assert not [finding for finding in report.findings if "txn" in finding.path and finding.severity != "note"]
    doctor.repair(path)
    with seglog.open(path) as store:
        assert values(store.topic("a")) == [b"a0", b"x", b"a1"] and values(store.topic("b")) == [b"b0", b"x", b"b1"]
    assert not [finding for finding in doctor.examine(path).findings if finding.kind == "unknown"]
