"""Conditional sends: of any number who expect the same one succeeds, and what was sent before is known again."""

import multiprocessing
import threading

import pytest

import seglog
from seglog.conditions import DEDUP_AT, DEDUP_ID

spawn = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def clock():
    return seglog.ManualClock(1_700_000_000_000_000)


@pytest.fixture
def store(path, clock):
    with seglog.open(path, clock=clock) as store:
        yield store


def values(topic):
    return [record.value for record in topic.read()]


# ---- expected_offset --------------------------------------------------------------------------------


def test_the_offset_must_be_the_next(store):
    topic = store.topic("t", partitions=2)
    assert topic.send(b"a", partition=1, expected_offset=0) == (1, 0)
    with pytest.raises(seglog.VersionConflict, match="Nothing was written") as told:
        topic.send(b"b", partition=1, expected_offset=0)
    assert (told.value.expected, told.value.actual, told.value.partition) == (0, 1, 1)
    assert topic.send(b"b", partition=1, expected_offset=1) == (1, 1)
    assert topic.send_many([b"c", b"d"], partition=1, expected_offset=2) == [seglog.Span(1, 2, 4)]
    with pytest.raises(seglog.VersionConflict):
        topic.send_many([b"e"] * 5000, partition=1, expected_offset=3)
    assert values(topic) == [b"a", b"b", b"c", b"d"]
    topic.send(b"k", key=b"k", expected_offset=0, partition=0)
    with pytest.raises(seglog.ConfigError, match="say which"):
        topic.send(b"x", expected_offset=0)
    for wrong in (-1, "1", 1.5, 1 << 70):
        with pytest.raises((seglog.SeglogError, TypeError)):
            topic.send(b"x", partition=0, expected_offset=wrong)
    with pytest.raises(seglog.PartitionNotFound):
        topic.send(b"x", partition=2, expected_offset=0)
    assert len(values(topic)) == 5


def test_in_a_transaction_it_is_looked_at_when_that_commits(store):
    a, b = store.topic("a"), store.topic("b")
    with store.transaction() as tx:
        assert a.send(b"1", expected_offset=0, tx=tx) is None
        b.send(b"1", tx=tx)
        assert a.send_many([b"2"], expected_offset=1, tx=tx) == []  # that is the offset it gets
    tx = store.transaction()
    a.send(b"3", expected_offset=2, tx=tx)
    b.send(b"3", tx=tx)
    a.send(b"quicker")
    with pytest.raises(seglog.VersionConflict):
        tx.commit()
    assert values(a) == [b"1", b"2", b"quicker"] and values(b) == [b"1"]


def test_a_send_that_raises_adds_nothing_to_its_transaction(store):
    topic = store.topic("t")
    with store.transaction() as tx:
        for wrong in ({"expected_version": 5}, {"expected_offset": "x"}, {"expected_offset": -3}, {"dedup_id": b"1"}):
            with pytest.raises((seglog.SeglogError, TypeError)):
                topic.send(b"x", tx=tx, **wrong)
        for wrong in ({"expected_version": "7"}, {"expected_version": -2}, {"expected_version": True}):
            with pytest.raises((seglog.SeglogError, TypeError)):
                topic.send(b"x", key=b"k", tx=tx, **wrong)
            with pytest.raises((seglog.SeglogError, TypeError)):
                topic.send_many([b"x"], keys=[b"k"], tx=tx, **wrong)
        assert len(tx) == 0
        topic.send(b"first", tx=tx)
        topic.send(b"second", tx=tx, expected_offset=1)
        topic.send_many([b"third", b"fourth"], tx=tx, expected_offset=2)
    assert values(topic) == [b"first", b"second", b"third", b"fourth"]


def test_a_condition_without_records_is_asked_too(store):
    topic = store.topic("t")
    with pytest.raises(seglog.VersionConflict):
        topic.send_many([], expected_offset=77)
    assert topic.send_many([], expected_offset=0) == []
    tx = store.transaction()
    tx.commit()
    with pytest.raises(seglog.ClosedError):
        tx.require(lambda: None)


def test_the_partitioner_decides_for_conditional_sends_too(path):
    with seglog.open(path) as store:
        store.topic("t", partitions=4, partitioner=lambda key, n: 3)
    for function, error in ((None, seglog.ConfigError), (lambda key, n: -1, seglog.PartitionNotFound), (lambda key, n: 2, None)):
        with seglog.open(path) as store, store.producer("p") as producer:
            topic = store.topic("t", partitioner=function)
            for how in ({"expected_version": -1}, {"expected_offset": 0}, {"dedup_id": b"1"}):
                if error is None:
                    key = str(how).encode()  # of its own, as none of the conditions would hold else
                    how = {"dedup_id": key} if "expected_offset" in how else how
                    assert topic.send(b"x", key=key, **how).partition == 2
                    continue
                with pytest.raises(error):
                    topic.send(b"x", key=b"k", **how)
                with pytest.raises(error):
                    producer.send(topic, b"x", key=b"k", sequence=1)
            assert {record.partition for record in topic.read()} <= {2}


# ---- expected_version -------------------------------------------------------------------------------


def test_the_version_of_a_key_is_the_offset_of_its_last_record(store):
    topic = store.topic("accounts", partitions=3)
    first = topic.send(b"opened", key=b"7", expected_version=-1)
    topic.send(b"other", key=b"8", partition=first.partition)
    assert topic.version(b"7") == first.offset and topic.version(b"no") == -1
    second = topic.send(b"+1", key=b"7", expected_version=first.offset)
    assert second.partition == first.partition
    for wrong in (-1, first.offset):
        with pytest.raises(seglog.VersionConflict, match="somebody was quicker") as told:
            topic.send(b"-1", key=b"7", expected_version=wrong)
        assert (told.value.key, told.value.expected, told.value.actual) == (b"7", wrong, second.offset)
    spans = topic.send_many([b"a", b"b"], keys=[b"7"] * 2, expected_version=second.offset)
    assert topic.version(b"7") == spans[-1].stop - 1
    topic.send(None, key=b"7", expected_version=topic.version(b"7"))  # a tombstone is a record
    assert topic.version(b"7") == spans[-1].stop
    with pytest.raises(seglog.ConfigError, match="key"):
        topic.send(b"x", partition=0, expected_version=-1)
    with pytest.raises(seglog.ConfigError, match="one key"):
        topic.send_many([b"x", b"y"], keys=[b"1", b"2"], expected_version=-1)
    with pytest.raises(TypeError, match="encode"):
        topic.send(b"x", key="7", expected_version=-1)


def test_the_version_survives_compaction_and_other_handles(path):
    with seglog.open(path) as store:
        topic = store.topic("t", compact=True)
        for n in range(10):
            topic.send(b"%d" % n, key=b"k", expected_version=n - 1)
        topic.compact()
    with seglog.open(path) as store:
        topic = store.topic("t", compact=True)
        with pytest.raises(seglog.VersionConflict):
            topic.send(b"x", key=b"k", expected_version=8)
        assert topic.send(b"x", key=b"k", expected_version=9).offset == 10


def race(path, number, rounds, barrier, told):
    """Everybody adds to one key, and reads again when somebody was quicker."""
    with seglog.open(path, fsync="never") as store:
        topic = store.topic("t", partitions=2)
        barrier.wait()
        conflicts = 0
        for n in range(rounds):
            while True:
                last = topic.latest(b"key")
                total = 0 if last is None else int(last.value)
                try:
                    topic.send(b"%d" % (total + 1), key=b"key", expected_version=-1 if last is None else last.offset)
                    break
                except seglog.VersionConflict:
                    conflicts += 1
            topic.send(b"noise", key=b"%d" % n)
        told.put((number, conflicts))


def test_eight_processes_that_expect_versions_lose_no_update(path):
    with seglog.open(path) as store:
        store.topic("t", partitions=2)
    barrier, told = spawn.Barrier(8), spawn.Queue()
    children = [spawn.Process(target=race, args=(path, n, 40, barrier, told)) for n in range(8)]
    for child in children:
        child.start()
    conflicts = sum(told.get(timeout=100)[1] for _ in children)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    with seglog.open(path) as store:
        topic = store.topic("t")
        totals = [int(record.value) for record in topic.read() if record.key == b"key"]
        assert totals == list(range(1, 8 * 40 + 1))
        assert conflicts > 0, "nobody ever was quicker: no race"


# ---- dedup_id ---------------------------------------------------------------------------------------


def test_a_repeat_returns_the_position_of_the_first(store, path, clock):
    topic = store.topic("t", partitions=4)
    first = topic.send(b"one", dedup_id=b"order-1", headers={"trace": b"7"})
    assert topic.send(b"one, again", dedup_id=b"order-1") == first
    assert topic.send(b"two", dedup_id=bytearray(b"order-2")) != first
    assert topic[first].headers == {"trace": b"7", DEDUP_ID: b"order-1"}
    keyed = topic.send(b"three", key=b"k", dedup_id=b"order-3")
    assert topic.send(b"three", key=b"k", dedup_id=b"order-3") == keyed
    assert sorted(values(topic)) == [b"one", b"three", b"two"]
    with seglog.open(path, clock=clock) as other:  # what others sent, and what was sent before we came
        assert other.topic("t").send(b"one", dedup_id=b"order-1") == first
        fourth = other.topic("t").send(b"four", dedup_id=b"order-4")
    assert topic.send(b"four", dedup_id=b"order-4") == fourth
    with pytest.raises(seglog.ConfigError, match="exclude each other"), store.transaction() as tx:
        topic.send(b"x", dedup_id=b"5", tx=tx)
    with pytest.raises(seglog.ConfigError, match="is compacted"):
        store.topic("latest", compact=True).send(b"x", key=b"k", dedup_id=b"5")
    for wrong in ("5", 5):
        with pytest.raises(TypeError):
            topic.send(b"x", dedup_id=wrong)
    assert len(values(topic)) == 4


def test_the_window_ends_by_time_and_by_count(store, clock):
    topic = store.topic("t", dedup_window=10, dedup_records=50)
    first = topic.send(b"x", dedup_id=b"a")
    clock.advance(9.9)
    assert topic.send(b"x", dedup_id=b"a") == first
    clock.advance(0.2)
    second = topic.send(b"x", dedup_id=b"a")
    assert second.offset == 1
    topic.send_many([b"y"] * 49)
    assert topic.send(b"x", dedup_id=b"a") == second
    topic.send(b"y")
    third = topic.send(b"x", dedup_id=b"a")
    assert third.offset == 52
    for _ in range(3):  # by the time it was sent, whatever the record says of when it happened
        clock.advance(4)
        assert topic.send(b"x", dedup_id=b"old", timestamp=5).offset == 53
    assert int.from_bytes(topic[0, 53].headers[DEDUP_AT], "little") > 1_700_000_000_000_000
    clock.advance(4)
    assert topic.send(b"x", dedup_id=b"old", timestamp=5).offset == 54


def same_ids(path, barrier, told):
    with seglog.open(path, fsync="never") as store:
        topic = store.topic("t")
        barrier.wait()
        told.put([topic.send(b"x", dedup_id=b"%d" % n) for n in range(200)])


def test_eight_processes_with_the_same_ids_write_each_once(path):
    with seglog.open(path) as store:
        store.topic("t", partitions=3)
    barrier, told = spawn.Barrier(8), spawn.Queue()
    children = [spawn.Process(target=same_ids, args=(path, barrier, told)) for _ in range(8)]
    for child in children:
        child.start()
    places = [told.get(timeout=100) for _ in children]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert all(one == places[0] for one in places)
    with seglog.open(path) as store:
        ids = [record.headers[DEDUP_ID] for record in store.topic("t").read()]
        assert sorted(ids) == sorted(b"%d" % n for n in range(200))


def test_threads_share_a_topic_s_memory_of_ids_and_keys(store):
    topic, errors = store.topic("t"), []
    count = 100

    def work(number):
        try:
            for n in range(count):
                topic.send(b"x", dedup_id=b"%d" % n)
                while True:
                    try:
                        topic.send(b"y", key=b"k", expected_version=topic.version(b"k"))
                        break
                    except seglog.VersionConflict:
                        pass
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert values(topic).count(b"x") == count and values(topic).count(b"y") == 4 * count
