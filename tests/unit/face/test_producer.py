"""Producers: what is sent again after a crash is there once, and the newest of an id is the one that sends."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

import seglog
from seglog import doctor


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture(params=["never", "interval", "always"])
def store(path, request):
    with seglog.open(path, fsync=request.param, upkeep=False) as store:
        yield store


def values(topic):
    return [record.value for record in topic.read()]


def test_a_number_that_was_sent_is_not_written_again(path, store):
    topic = store.topic("t", partitions=3)
    with store.producer("loader") as producer:
        assert producer.last_sequence(topic) is None
        for n in range(6):
            assert producer.send(topic, b"%d" % n, sequence=n) == (n % 3, n // 3)
        assert [producer.send(topic, b"again", sequence=n) for n in range(6)] == [None] * 6
        assert producer.send(topic, b"k", key=b"k", headers={"a": b"b"}, timestamp=5, sequence=10).offset == 2
        assert producer.send(topic, b"k", key=b"k", sequence=10) is None
        assert producer.last_sequence(topic) == 10
    with seglog.open(path) as other, other.producer("loader") as producer:
        topic = other.topic("t")
        assert producer.send(topic, b"again", sequence=5) is None
        assert producer.last_sequence(topic) == 10
        with other.producer("another") as second:
            assert second.send(topic, b"theirs", sequence=5) is not None
    assert sorted(values(store.topic("t"))) == sorted([b"0", b"1", b"2", b"3", b"4", b"5", b"k", b"theirs"])
    assert doctor.examine(path).sound


def test_many_at_once_in_any_cut(store):
    topic = store.topic("t", partitions=4)
    items = [b"%d" % n for n in range(1000)]
    keys = [b"key-%d" % (n % 17) for n in range(1000)]
    rng = random.Random(1)
    with store.producer("loader") as producer:
        for _ in range(20):
            start = rng.randrange(len(items))
            stop = min(start + rng.randrange(1, 300), len(items))
            first = (producer.last_sequence(topic) or -1) + 1
            start = min(start, first)
            spans = producer.send_many(topic, items[start:stop], keys[start:stop], first_sequence=start)
            assert sum(span.stop - span.start for span in spans) == max(0, stop - first)
        producer.send_many(topic, items, keys, first_sequence=0)
        assert producer.send_many(topic, items, keys, first_sequence=0) == []
        assert sorted(values(topic), key=int) == items
        for p in range(4):
            numbers = [int(record.value) for record in topic.read(partition=p)]
            assert numbers == sorted(numbers)
        with pytest.raises(ValueError, match="Nothing was written"):
            producer.send_many(topic, items, keys[:-1], first_sequence=2000)


def test_a_newer_one_fences_the_older(path, store):
    topic, fresh = store.topic("t"), store.topic("fresh")
    older = store.producer("loader")
    older.send(topic, b"1", sequence=1)
    with seglog.open(path) as other:
        newer = other.producer("loader")
        for wanted in (topic, fresh):  # also where the newer one has sent nothing yet
            with pytest.raises(seglog.Fenced, match="newer producer has the id loader") as told:
                older.send(wanted, b"2", sequence=2)
            assert told.value.producer == "loader"
        with pytest.raises(seglog.Fenced):
            older.send_many(topic, [b"2"], first_sequence=2)
        assert newer.send(other.topic("t"), b"1", sequence=1) is None
        assert newer.send(other.topic("t"), b"2", sequence=2).offset == 1
        with pytest.raises(seglog.Fenced):
            older.send(topic, b"3", sequence=3)
    older.close()
    older.close()
    with pytest.raises(seglog.ClosedError):
        older.send(topic, b"4", sequence=4)
    assert values(topic) == [b"1", b"2"] and values(fresh) == []


def test_in_a_larger_transaction(store):
    a, b = store.topic("a"), store.topic("b")
    with store.producer("loader") as producer:
        with store.transaction() as tx:
            assert producer.send(a, b"1", sequence=1, tx=tx) is None
            assert producer.send(a, b"again", sequence=1, tx=tx) is None
            assert producer.send_many(b, [b"1", b"2"], first_sequence=1, tx=tx) == []
        with pytest.raises(ZeroDivisionError), store.transaction() as tx:
            producer.send(a, b"2", sequence=2, tx=tx)
            raise ZeroDivisionError
        assert producer.last_sequence(a) == 1
        assert producer.send(a, b"2", sequence=2) == (0, 1)
    assert values(a) == values(b) == [b"1", b"2"]


def test_two_open_transactions_of_one_producer_do_not_write_a_number_twice(store):
    topic = store.topic("t")
    with store.producer("p") as producer:
        first, second = store.transaction(), store.transaction()
        producer.send(topic, b"0", sequence=0, tx=first)
        producer.send(topic, b"0", sequence=0, tx=second)
        producer.send(topic, b"1", sequence=1, tx=second)
        first.commit()
        with pytest.raises(seglog.VersionConflict, match="another transaction"):
            second.commit()
        late = store.transaction()
        producer.send(topic, b"1", sequence=1, tx=late)
        producer.send(topic, b"2", sequence=2)
        with pytest.raises(seglog.VersionConflict):
            late.commit()
        assert producer.last_sequence(topic) == 2
        assert producer.send(topic, b"2", sequence=2) is None
    assert values(topic) == [b"0", b"2"]


def test_a_fenced_one_leaves_nothing_in_a_transaction(store):
    topic, other = store.topic("t"), store.topic("other")
    older = store.producer("p")
    older.send(topic, b"0", sequence=0)
    newer = store.producer("p")
    tx = store.transaction()
    other.send(b"other", tx=tx)
    with pytest.raises(seglog.Fenced):
        older.send(topic, b"1", sequence=1, tx=tx)
    assert len(tx) <= 1
    if tx.open:
        tx.commit()
    assert values(topic) == [b"0"]
    newer.close()
    older.close()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors")
def test_it_leaves_no_descriptors_and_no_files_of_topics_that_are_gone(path, store):
    with store.producer("p") as producer:
        for n in range(20):
            topic = store.topic("t")
            producer.send(topic, b"0", sequence=n)
            store.delete_topic("t")
            if n == 5:
                before = len(os.listdir("/proc/self/fd"))
        assert len(os.listdir("/proc/self/fd")) <= before + 2
        assert not (path / "producers" / "p" / "t.positions").exists()


def test_bad_words_write_nothing(store):
    topic = store.topic("t")
    for name in ("../x", "", ".a"):
        with pytest.raises(seglog.InvalidName):
            store.producer(name)
    with store.producer("p") as producer:
        for wrong in (-1, "1", 1.5, None, 1 << 70):
            with pytest.raises((TypeError, seglog.SeglogError, ValueError)):
                producer.send(topic, b"x", sequence=wrong)
        with pytest.raises(TypeError):
            producer.send(topic, "text", sequence=1)
        assert producer.last_sequence(topic) is None and values(topic) == []


def test_a_topic_made_anew_begins_anew(store):
    topic = store.topic("t")
    with store.producer("p") as producer:
        producer.send(topic, b"1", sequence=5)
        store.delete_topic("t")
        topic = store.topic("t", partitions=2)
        assert producer.last_sequence(topic) is None
        assert producer.send(topic, b"1", sequence=5, partition=0) == (0, 0)
        topic.add_partitions(4)
        assert producer.send(topic, b"2", sequence=6, partition=3) == (3, 0)
    with store.producer("p") as producer:
        assert producer.last_sequence(topic) == 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_does_not_send_for_its_parent(store):
    topic = store.topic("t")
    with store.producer("p") as producer:
        producer.send(topic, b"1", sequence=1)
        pid = os.fork()
        if pid == 0:
            try:
                producer.send(topic, b"2", sequence=2)
            except seglog.ForkedHandle:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert producer.send(topic, b"2", sequence=2).offset == 1


LOADER = """
import os, sys, seglog
path, fsync = sys.argv[1:]
store = seglog.open(path, fsync=fsync, fsync_interval=0.01)
topic = store.topic("t", partitions=3)
producer = store.producer("loader")
first = (producer.last_sequence(topic) or -1) + 1
for n in range(max(0, first - 50), 15000):  # it is not sure where it was
    if n % 3:
        producer.send(topic, b"%d" % n, sequence=n)
    else:
        producer.send_many(topic, [b"%d" % i for i in range(n, n + 3)], first_sequence=n)
    if n == first:
        os.write(1, b"x")
os.write(1, b"e")
"""


@pytest.mark.parametrize("fsync", ["never", "interval"])
def test_killed_again_and_again_it_loads_everything_once(path, rng, fsync):
    kills, ended = 0, False
    while not ended:
        loader = subprocess.Popen([sys.executable, "-c", LOADER, str(path), fsync], stdout=subprocess.PIPE)
        assert loader.stdout.read(1) in (b"x", b"e")
        if kills < 15:
            time.sleep(rng.random() * 0.03)
            loader.send_signal(signal.SIGKILL)
        said = loader.communicate(timeout=60)[0]
        kills += loader.returncode == -signal.SIGKILL
        ended = b"e" in said or loader.returncode == 0
    assert kills > 3
    with seglog.open(path, upkeep=False) as store:
        topic = store.topic("t")
        assert sorted(map(int, values(topic))) == list(range(15000))
    copy = path.with_name("copy")
    shutil.copytree(path, copy)  # another boot's, as far as it can tell
    with seglog.open(copy) as store, store.producer("loader") as producer:
        topic = store.topic("t")
        assert producer.send(topic, b"again", sequence=14999) is None
        assert producer.last_sequence(topic) == 14999
