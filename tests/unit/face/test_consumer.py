"""The consumer: what was committed does not come again, what was not does, and the partitions take turns."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

import seglog

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def values(records) -> list[bytes | None]:
    return [record.value for record in records]


@pytest.fixture
def numbers(store) -> seglog.Topic:
    topic = store.topic("numbers")
    for n in range(10):
        topic.send(b"%d" % n, timestamp=NOON + timedelta(seconds=n))
    return topic


@pytest.fixture
def spread(store) -> seglog.Topic:
    topic = store.topic("spread", partitions=3)
    for n in range(9):
        topic.send(b"%d" % n, partition=n % 3, timestamp=NOON + timedelta(seconds=n))
    return topic


# ---- receiving ------------------------------------------------------------------------------------


def test_a_new_group_begins_where_it_says(numbers):
    for start, first in [("earliest", b"0"), (4, b"4"), (NOON + timedelta(seconds=6), b"6")]:
        with numbers.consumer(
            f"from-{start}".replace(":", "").replace(" ", "").replace("+", ""), start=start
        ) as consumer:
            assert next(consumer.records(timeout=0)).value == first
    with numbers.consumer("late", start="latest") as consumer:
        assert consumer.receive(timeout=0) is None
        numbers.send(b"new")
        assert consumer.receive(timeout=0).values.tolist() == [b"new"]


def test_what_was_committed_does_not_come_again(numbers):
    with numbers.consumer("billing") as consumer:
        assert consumer.receive(max_records=4, timeout=0).values.tolist() == [b"0", b"1", b"2", b"3"]
        consumer.commit()
        consumer.receive(max_records=4, timeout=0)
    with numbers.consumer("billing") as consumer:
        assert consumer.position() == 4
        assert values(consumer.records(timeout=0)) == [b"%d" % n for n in range(4, 10)]


def test_groups_do_not_disturb_each_other(numbers):
    with numbers.consumer("a") as a, numbers.consumer("b") as b:
        assert len(list(a.records(timeout=0))) == 10
        a.commit()
        assert b.committed() is None
        assert len(list(b.records(timeout=0))) == 10


def test_every_record_of_every_partition_comes_once_and_in_order(spread):
    with spread.consumer("billing") as consumer:
        seen = list(consumer.records(timeout=0))
    assert sorted(values(seen)) == [b"%d" % n for n in range(9)]
    for partition in range(3):
        assert [r.offset for r in seen if r.partition == partition] == [0, 1, 2]


def test_partitions_take_turns(store):
    topic = store.topic("busy", partitions=3)
    topic.send_many([b"x"] * 100, partition=0)
    topic.send_many([b"y"] * 5, partition=1)
    topic.send_many([b"z"] * 5, partition=2)
    with topic.consumer("billing") as consumer:
        turns = [consumer.receive(max_records=5, timeout=0).partition for _ in range(6)]
    assert turns == [0, 1, 2, 0, 0, 0]


def test_receive_waits_and_is_woken(store):
    topic = store.topic("orders", partitions=2)
    with topic.consumer("billing") as consumer:
        assert consumer.receive(timeout=0.01) is None
        timer = threading.Timer(0.05, topic.send, [b"one"], {"partition": 1})
        timer.start()
        assert consumer.receive(timeout=timedelta(seconds=10)).values.tolist() == [b"one"]
        timer.join()


def test_iteration_goes_on_for_ever(numbers):
    with numbers.consumer("billing") as consumer:
        seen = []
        for record in consumer:
            seen.append(record.value)
            if record.value == b"9":
                numbers.send(b"last")
            if record.value == b"last":
                break
        assert seen == [*(b"%d" % n for n in range(10)), b"last"]


def test_the_position_moves_record_by_record(numbers):
    with numbers.consumer("billing") as consumer:
        for record in consumer.records(timeout=0):
            if record.offset == 4:
                consumer.commit()
                break
        assert consumer.position() == 5
        assert consumer.committed() == 5
        assert consumer.receive(timeout=0).values.tolist() == [b"%d" % n for n in range(5, 10)]


def test_records_of_an_added_partition_come_from_its_beginning(store):
    topic = store.topic("orders")
    with topic.consumer("billing", start="latest") as consumer:
        topic.add_partitions(2)
        topic.send(b"one", partition=1)
        assert consumer.receive(timeout=1).values.tolist() == [b"one"]
        assert consumer.assignment == {"orders": (0, 1)}
        consumer.commit()
    topic.add_partitions(3)
    topic.send(b"two", partition=2)
    with topic.consumer("billing", start="latest") as consumer:
        assert values(consumer.records(timeout=0)) == [b"two"]


def test_a_waiting_consumer_notices_an_added_partition(store):
    topic = store.topic("orders")
    with topic.consumer("billing") as consumer:

        def grow():
            topic.add_partitions(2)
            topic.send(b"one", partition=1)

        timer = threading.Timer(0.05, grow)
        timer.start()
        assert consumer.receive(timeout=10).values.tolist() == [b"one"]
        timer.join()


def test_records_that_were_trimmed_away_are_told_not_skipped(numbers):
    with numbers.consumer("billing") as consumer:
        numbers.trim(3)
        with pytest.raises(seglog.OffsetOutOfRange, match="trimmed away: 3 are gone") as caught:
            consumer.receive(timeout=0)
        assert (caught.value.offset, caught.value.first) == (0, 3)
        consumer.seek(0, "earliest")
        assert consumer.receive(timeout=0).first_offset == 3


# ---- committing -----------------------------------------------------------------------------------


def test_a_record_a_batch_or_offsets_can_be_committed(spread):
    with spread.consumer("billing") as consumer:
        batch = consumer.receive(max_records=2, timeout=0)
        consumer.commit(batch[0])
        assert consumer.committed(0) == 1
        consumer.commit(batch)
        assert consumer.committed(0) == 2
        consumer.commit({1: 3, 2: 1})
        assert [consumer.committed(p) for p in range(3)] == [2, 3, 1]


def test_a_commit_of_what_is_not_there_is_refused_whole(spread):
    with spread.consumer("billing") as consumer:
        with pytest.raises(seglog.OffsetOutOfRange, match="Nothing was committed"):
            consumer.commit({0: 1, 1: 4})
        with pytest.raises(seglog.PartitionNotFound):
            consumer.commit({0: 1, 3: 1})
        with pytest.raises(seglog.ConfigError):
            consumer.commit({0: -1})
        with pytest.raises(TypeError, match="record, a batch or"):
            consumer.commit(5)
        with pytest.raises(TypeError):
            consumer.commit({"0": 1})
        assert consumer.committed(0) is None


def test_after_commits_what_was_handed_out_when_more_is_asked_for(numbers):
    with numbers.consumer("billing", commit="after") as consumer:
        consumer.receive(max_records=3, timeout=0)
        assert consumer.committed() is None
        consumer.receive(max_records=3, timeout=0)
        assert consumer.committed() == 3
    with numbers.consumer("billing") as consumer:
        assert consumer.position() == 6


def test_after_repeats_what_an_exception_interrupted(numbers):
    with pytest.raises(ZeroDivisionError), numbers.consumer("billing", commit="after") as consumer:
        consumer.receive(max_records=3, timeout=0)
        consumer.receive(max_records=3, timeout=0)
        raise ZeroDivisionError
    with numbers.consumer("billing") as consumer:
        assert consumer.position() == 3


def test_before_never_repeats(numbers):
    with pytest.raises(ZeroDivisionError), numbers.consumer("billing", commit="before") as consumer:
        consumer.receive(max_records=3, timeout=0)
        assert consumer.committed() == 3
        raise ZeroDivisionError
    with numbers.consumer("billing") as consumer:
        assert consumer.position() == 3


def test_an_unknown_commit_mode_is_refused_and_the_group_stays_free(numbers):
    with pytest.raises(seglog.ConfigError, match="commit is 'sometimes'"):
        numbers.consumer("billing", commit="sometimes")
    numbers.consumer("billing").close()


def test_a_commit_survives_kill(store, numbers, child):
    code = "c = store.topic('numbers').consumer('billing'); c.receive(max_records=7, timeout=0); c.commit()"
    with child(code) as other:
        other.kill()
    with numbers.consumer("billing") as consumer:
        assert consumer.position() == 7


def test_latest_is_kept_also_by_a_group_that_never_committed(numbers):
    numbers.consumer("billing", start="latest").close()
    numbers.send(b"while nobody listened")
    with numbers.consumer("billing", start="latest") as consumer:
        assert values(consumer.records(timeout=0)) == [b"while nobody listened"]


@pytest.mark.parametrize(("fsync", "expected"), [("always", 2), ("interval", 1), ("never", 0)])
def test_commits_reach_the_disk_as_fsync_says(path, monkeypatch, fsync, expected):
    from seglog import positions

    syncs = []
    with seglog.open(path, fsync=fsync, upkeep=False) as store:
        topic = store.topic("orders")
        topic.send(b"one")
        with topic.consumer("billing") as consumer:
            consumer.sync()
            monkeypatch.setattr(positions, "sync_data", syncs.append)
            consumer.receive(timeout=0)
            consumer.commit()
            assert len(syncs) == (1 if fsync == "always" else 0)
            consumer.commit({0: 0})
            store.upkeep()
            assert len(syncs) == expected


def test_the_stores_barrier_covers_commits(path, monkeypatch):
    from seglog import positions

    syncs = []
    with seglog.open(path, fsync="never", upkeep=False) as store:
        topic = store.topic("orders")
        topic.send(b"one")
        with topic.consumer("billing") as consumer:
            store.sync()
            monkeypatch.setattr(positions, "sync_data", syncs.append)
            store.sync()
            assert syncs == []
            consumer.commit({0: 1})
            store.sync()
            assert len(syncs) == 1


# ---- where ----------------------------------------------------------------------------------------


def test_seek_goes_anywhere(spread):
    with spread.consumer("billing") as consumer:
        consumer.seek(1, 2)
        assert [consumer.position(p) for p in range(3)] == [0, 2, 0]
        consumer.seek("latest")
        assert consumer.lag() == 0
        consumer.seek(2, "earliest")
        assert consumer.lag() == 3
        consumer.seek(NOON + timedelta(seconds=4))
        assert [consumer.position(p) for p in range(3)] == [2, 1, 1]
        consumer.seek(0, NOON)
        assert consumer.position(0) == 0
        consumer.commit()
        assert [consumer.committed(p) for p in range(3)] == [0, 1, 1]


def test_a_seek_to_nowhere_changes_nothing(spread):
    with spread.consumer("billing") as consumer:
        for where in [(0, 4), (0, -1), (3, 0), (5,), ("middle",), (0, "middle"), (0, 1.5)]:
            with pytest.raises((seglog.SeglogError, TypeError)):
                consumer.seek(*where)
        assert [consumer.position(p) for p in range(3)] == [0, 0, 0]


def test_a_seek_in_the_middle_of_a_loop_is_followed(numbers):
    with numbers.consumer("billing") as consumer:
        seen = []
        for record in consumer.records(timeout=0):
            seen.append(record.offset)
            if record.offset == 3 and len(seen) < 6:
                consumer.seek(0, 1)
        assert seen == [0, 1, 2, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_lag_counts_what_is_yet_to_be_received(spread):
    with spread.consumer("billing") as consumer:
        assert (consumer.lag(), consumer.lag(0)) == (9, 3)
        consumer.receive(max_records=2, timeout=0)
        assert (consumer.lag(), consumer.lag(0)) == (7, 1)
        spread.send(b"more", partition=0)
        assert (consumer.lag(), consumer.lag(0)) == (8, 2)
        spread.trim(3, partition=0)
        assert consumer.lag(0) == 1


def test_paused_partitions_hand_out_nothing_until_they_are_resumed(spread):
    with spread.consumer("billing") as consumer:
        consumer.pause([0, 2])
        assert {r.partition for r in consumer.records(timeout=0)} == {1}
        consumer.resume([2])
        assert {r.partition for r in consumer.records(timeout=0)} == {2}
        consumer.pause()
        assert consumer.receive(timeout=0.01) is None
        consumer.resume()
        assert {r.partition for r in consumer.records(timeout=0)} == {0}


# ---- one at a time --------------------------------------------------------------------------------


def test_a_closed_consumer_says_so(numbers, store):
    consumer = numbers.consumer("billing")
    consumer.close()
    consumer.close()
    assert consumer.closed
    assert repr(consumer) == "<Consumer of numbers for billing, closed>"
    for ask in (
        lambda: consumer.receive(timeout=0),
        consumer.commit,
        lambda: consumer.seek("latest"),
        consumer.committed,
    ):
        with pytest.raises(seglog.ClosedError):
            ask()
    assert store.topics() == ["numbers"]


def test_closing_the_store_frees_the_group(path):
    store = seglog.open(path)
    consumer = store.topic("orders").consumer("billing")
    store.close()
    assert consumer.closed
    with seglog.open(path) as store:
        store.topic("orders").consumer("billing").close()


def test_a_topic_made_anew_does_not_inherit_a_place(store):
    topic = store.topic("orders")
    topic.send_many([b"old"] * 5)
    consumer = topic.consumer("billing")
    consumer.receive(timeout=0)
    consumer.commit()
    store.delete_topic("orders")
    assert consumer.closed
    topic = store.topic("orders")
    topic.send(b"new")
    with topic.consumer("billing") as consumer:
        assert values(consumer.records(timeout=0)) == [b"new"]


def test_a_consumer_says_where_it_is(spread):
    with spread.consumer("billing") as consumer:
        consumer.seek(1, 3)
        assert repr(consumer) == "<Consumer of spread for billing, next {0: 0, 1: 3, 2: 0}>"


def test_a_commit_after_each_record_covers_each_record(tmp_path):
    with seglog.open(tmp_path / "data") as store:
        orders = store.topic("orders")
        orders.send_many([b"one", b"two", b"three"])
        with orders.consumer("billing") as consumer:
            seen = []
            for record in consumer.records(timeout=0):
                consumer.commit()
                seen.append(consumer.committed(record.partition))
        assert seen == [1, 2, 3]
        with orders.consumer("billing") as consumer:
            assert consumer.lag() == 0
