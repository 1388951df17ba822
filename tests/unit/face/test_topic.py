"""The topic: what is sent is read, in order, from wherever one likes to begin."""

import shutil
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

import seglog

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def values(records) -> list[bytes | None]:
    return [record.value for record in records]


@pytest.fixture
def clock() -> seglog.ManualClock:
    return seglog.ManualClock(NOON)


@pytest.fixture
def store(path, clock):
    with seglog.open(path, clock=clock) as store:
        yield store


@pytest.fixture
def numbers(store, clock) -> seglog.Topic:
    """Ten records in one partition, a second apart."""
    topic = store.topic("numbers")
    for number in range(10):
        topic.send(b"%d" % number)
        clock.advance(1)
    return topic


@pytest.fixture
def spread(store, clock) -> seglog.Topic:
    """Nine records over three partitions in turn, a second apart."""
    topic = store.topic("spread", partitions=3)
    for number in range(9):
        topic.send(b"%d" % number, partition=number % 3)
        clock.advance(1)
    return topic


# ---- sending --------------------------------------------------------------------------------------


def test_a_send_returns_where_the_record_is(store):
    topic = store.topic("orders", partitions=2)
    where = topic.send(b"one", b"key", {"trace": b"7", "empty": b""}, timestamp=NOON, partition=1)
    assert where == seglog.Position(1, 0)
    record = topic[where]
    assert (record.value, record.key, record.headers) == (b"one", b"key", {"trace": b"7", "empty": b""})
    assert (record.time, record.offset, record.partition, record.position) == (NOON, 0, 1, where)


def test_the_hot_verbs_are_the_engines_own():
    from seglog.engine.partitions import Partitions

    for verb in ["send", "send_many", "__getitem__"]:
        assert verb not in vars(seglog.Topic)
        assert getattr(seglog.Topic, verb) is getattr(Partitions, verb)


@pytest.mark.parametrize("value", [b"", b"x", bytearray(b"x"), memoryview(b"xyz")[1:], None, b"\0" * 100_000])
def test_bytes_like_values_go_in_and_bytes_come_out(store, value):
    topic = store.topic("orders")
    where = topic.send(value, key=value)
    for record in (topic[where], next(topic.read())):
        assert record.value == value
        assert type(record.value) in (bytes, type(None))
        assert record.key == value


def test_the_same_key_goes_to_the_same_partition(store):
    topic = store.topic("orders", partitions=8)
    places = {topic.send(b"x", key=b"customer-42").partition for _ in range(20)}
    topic.send_many([b"x"] * 20, keys=[b"customer-42"] * 20)
    assert len(places) == 1
    assert {record.partition for record in topic.read()} == places


def test_records_without_a_key_use_every_partition(store):
    topic = store.topic("orders", partitions=4)
    for _ in range(400):
        topic.send(b"x")
    assert all(partition.records for partition in topic.statistics().partitions)


def test_send_many_returns_the_runs_of_offsets_it_took(store):
    topic = store.topic("orders", partitions=2)
    topic.send(b"first", partition=1)
    spans = topic.send_many([b"a", b"b", b"c"], partition=1)
    assert sum(span.stop - span.start for span in spans) == 3
    assert {span.partition for span in spans} == {1}
    assert [topic[1, offset].value for offset in range(1, 4)] == [b"a", b"b", b"c"]


def test_send_many_keeps_keys_headers_and_times_with_their_values(store):
    topic = store.topic("orders", partitions=3)
    n = 50
    topic.send_many(
        [b"v%d" % i for i in range(n)],
        keys=[b"k%d" % i for i in range(n)],
        headers=[{"n": b"%d" % i} for i in range(n)],
        timestamps=list(range(1000, 1000 + n)),
    )
    read = list(topic.read())
    assert [(r.value, r.key, r.headers, r.timestamp) for r in read] == [
        (b"v%d" % i, b"k%d" % i, {"n": b"%d" % i}, 1000 + i) for i in range(n)
    ]


@pytest.mark.parametrize("codec", ["none", "zstd", "lz4"])
def test_every_codec_gives_back_what_was_sent(store, codec):
    topic = store.topic("orders", codec=codec)
    sent = [b"record %d " % i * 20 for i in range(200)]
    topic.send_many(sent, keys=[b"key"] * 200)
    topic.send(b"single")
    assert values(topic.read()) == [*sent, b"single"]


def test_murmur2_places_keys_as_kafka_does(store):
    # From Kafka's own UtilsTest: murmur2 of these keys, made positive, modulo 100.
    hashes = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
    topic = store.topic("orders", partitions=100, partitioner="murmur2")
    for key, known in hashes.items():
        assert topic.send(b"x", key=key).partition == (known & 0x7FFFFFFF) % 100


def test_a_partitioner_of_ones_own_places_keys(store):
    topic = store.topic("orders", partitions=4, partitioner=lambda key, partitions: len(key) % partitions)
    assert [topic.send(b"x", key=b"k" * n).partition for n in range(1, 6)] == [1, 2, 3, 0, 1]
    assert topic.config.partitioner == "custom"


def test_a_partitioner_of_ones_own_must_be_passed_again(path):
    def place(key: bytes, partitions: int) -> int:
        return 2

    with seglog.open(path) as store:
        store.topic("orders", partitions=4, partitioner=place)
    with seglog.open(path) as store:
        topic = store.topic("orders")
        with pytest.raises(seglog.ConfigError, match="pass it"):
            topic.send(b"x", key=b"k")
        assert topic.statistics().records == 0
        assert topic.send(b"x", key=b"k", partition=1).partition == 1
        assert store.topic("orders", partitioner=place) is topic
        assert topic.send(b"x", key=b"k").partition == 2


def test_a_named_partitioner_is_not_replaced_by_a_callable(store):
    store.topic("orders", partitions=4)
    with pytest.raises(seglog.TopicMismatch, match="partitioner is 'xxh3', not 'custom'"):
        store.topic("orders", partitioner=lambda key, partitions: 0)


# ---- reading --------------------------------------------------------------------------------------


def test_one_partition_is_read_in_offset_order(numbers):
    assert [(r.offset, r.value) for r in numbers.read()] == [(n, b"%d" % n) for n in range(10)]


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, None, range(10)),
        (4, None, range(4, 10)),
        (4, 7, range(4, 7)),
        (4, 4, []),
        (7, 4, []),
        (10, None, []),
        (4, 100, range(4, 10)),
        ("earliest", 2, range(2)),
        ("latest", None, []),
        (8, "latest", range(8, 10)),
        (NOON, None, range(10)),
        (NOON + timedelta(seconds=3), None, range(3, 10)),
        (NOON + timedelta(seconds=2.5), None, range(3, 10)),
        (NOON - timedelta(days=1), NOON + timedelta(seconds=2), range(2)),
        (NOON + timedelta(days=1), None, []),
    ],
)
def test_reading_begins_and_ends_where_one_says(numbers, start, stop, expected):
    assert [int(value) for value in values(numbers.read(start, stop=stop))] == list(expected)
    batches = list(numbers.batches(start, stop=stop, max_records=3))
    assert [int(value) for batch in batches for value in batch.values.tolist()] == list(expected)
    assert all(0 < len(batch) <= 3 for batch in batches)


def test_several_partitions_are_merged_by_time(spread):
    assert values(spread.read()) == [b"%d" % n for n in range(9)]
    assert values(spread.read(NOON + timedelta(seconds=4))) == [b"%d" % n for n in range(4, 9)]
    assert values(spread.read(stop=NOON + timedelta(seconds=4))) == [b"%d" % n for n in range(4)]


def test_one_of_several_partitions_is_read_alone(spread):
    assert values(spread.read(partition=1)) == [b"1", b"4", b"7"]
    assert values(spread.read(1, partition=1)) == [b"4", b"7"]
    assert [batch.partition for batch in spread.batches(partition=2)] == [2]


def test_batches_of_several_partitions_hold_every_record_once(spread):
    batches = list(spread.batches())
    assert sorted(v for batch in batches for v in batch.values.tolist()) == [b"%d" % n for n in range(9)]
    assert [batch.partition for batch in batches] == sorted(batch.partition for batch in batches)


def test_a_read_ends_at_what_there_was_when_it_was_called(numbers):
    reading, bounded = numbers.read(8), numbers.read(8, stop=100)
    numbers.send(b"too late")
    assert values(reading) == values(bounded) == [b"8", b"9"]
    for record in numbers.read():  # ends, though it feeds itself
        numbers.send(record.value)
    assert numbers.next_offset() == 22


def test_an_offset_needs_its_partition(spread):
    for ask in (
        lambda: spread.read(3),
        lambda: spread.read(stop=3),
        lambda: spread.batches(3),
        lambda: spread.trim(3),
        lambda: spread.consumer("g", start=3),
    ):
        with pytest.raises(seglog.ConfigError, match="say which with partition="):
            ask()


def test_durable_reads_end_at_what_survives_a_power_cut(path):
    with seglog.open(path, fsync="never", upkeep=False) as store:
        topic = store.topic("orders")
        topic.send(b"synced")
        store.sync()
        topic.send(b"at risk")
        assert values(topic.read(isolation="durable")) == [b"synced"]
        assert [batch.values.tolist() for batch in topic.batches(isolation="durable")] == [[b"synced"]]
        assert values(topic.read()) == [b"synced", b"at risk"]
        with pytest.raises(seglog.ConfigError, match="isolation is 'firm'"):
            topic.read(isolation="firm")


def test_a_batch_is_columns(numbers):
    batch = numbers.read_batch(offset=2, max_records=3)
    assert len(batch) == 3
    assert batch.values.tolist() == [b"2", b"3", b"4"]
    assert batch.offsets.tolist() == [2, 3, 4]
    assert batch.timestamps.tolist() == [record.timestamp for record in numbers.read(2, stop=5)]
    assert (batch.first_offset, batch.next_offset, batch.partition) == (2, 5, 0)
    assert numbers.read_batch(offset=10) is None


@pytest.mark.parametrize(("n", "expected"), [(0, []), (1, [9]), (3, [7, 8, 9]), (100, range(10))])
def test_last_gives_the_newest_records_oldest_first(numbers, n, expected):
    assert [int(value) for value in values(numbers.last(n))] == list(expected)


@pytest.mark.parametrize("n", [0, 1, 4, 100])
def test_last_of_several_partitions_is_merged_by_time(spread, n):
    assert values(spread.last(n)) == [b"%d" % i for i in range(9)][max(0, 9 - n) : 9 if n else 0]
    assert values(spread.last(2, partition=0)) == [b"3", b"6"]


def test_last_finds_its_records_behind_offsets_that_a_crash_took(path):
    with seglog.open(path, fsync="never", upkeep=False) as store:
        store.topic("orders").send_many([b"%d" % n for n in range(10)])
        # A copy of files in use, on another device or after another boot, is what a power cut leaves.
        shutil.copytree(path, path.with_name("cut"))
    with seglog.open(path.with_name("cut")) as store:
        topic = store.topic("orders")
        assert topic.next_offset() > 100
        assert values(topic.last(3)) == [b"7", b"8", b"9"]
        topic.send(b"new")
        assert values(topic.last(3)) == [b"8", b"9", b"new"]
        assert values(topic.last(100)) == [*(b"%d" % n for n in range(10)), b"new"]
        topic.trim(topic.next_offset() - 1)
        assert values(topic.last(3)) == [b"new"]
        with topic.consumer("billing") as consumer:
            assert values(consumer.records(timeout=0)) == [b"new"]


def test_a_consumer_goes_on_behind_offsets_that_a_crash_took(path):
    with seglog.open(path, fsync="never", upkeep=False) as store:
        store.topic("orders").send_many([b"%d" % n for n in range(10)])
        shutil.copytree(path, path.with_name("cut"))
    with seglog.open(path.with_name("cut")) as store, store.topic("orders").consumer("billing") as consumer:
        assert len(values(consumer.records(timeout=0))) == 10
        assert consumer.receive(timeout=0.01) is None
        assert consumer.lag() == 0
        store.topic("orders").send(b"new")
        assert values(consumer.records(timeout=0)) == [b"new"]


def test_offsets_are_found_by_time(numbers):
    assert numbers.offset_for_time(NOON + timedelta(seconds=5)) == 5
    assert numbers.offset_for_time(0) == 0
    assert numbers.offset_for_time(NOON + timedelta(days=1)) == 10


def test_first_and_next_offset_of_each_partition(spread):
    spread.send(b"more", partition=2)
    assert [spread.next_offset(p) for p in range(3)] == [3, 3, 4]
    assert [spread.first_offset(p) for p in range(3)] == [0, 0, 0]


# ---- following ------------------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_tail_hands_out_what_comes_until_nothing_comes(store, partitions):
    topic = store.topic("orders", partitions=partitions)
    topic.send(b"before")
    following = topic.tail(timeout=0.5)

    def send():
        for n in range(20):
            topic.send(b"%d" % n)
            time.sleep(0.002)

    thread = threading.Thread(target=send)
    thread.start()
    seen = values(following)
    thread.join()
    assert sorted(seen, key=int) == [b"%d" % n for n in range(20)]


@pytest.mark.parametrize("partitions", [1, 3])
def test_what_comes_while_a_tail_is_being_read_is_not_missed(store, partitions):
    topic = store.topic("orders", partitions=partitions)
    following, seen = topic.tail(timeout=0.1), []
    topic.send(b"0")
    for record in following:
        seen.append(record.value)
        if len(seen) < 5:
            topic.send(b"%d" % len(seen))
    assert seen == [b"0", b"1", b"2", b"3", b"4"]


def test_a_tail_may_begin_anywhere(numbers):
    assert values(numbers.tail(7, timeout=0)) == [b"7", b"8", b"9"]
    assert values(numbers.tail("earliest", timeout=0)) == [b"%d" % n for n in range(10)]
    assert values(numbers.tail(NOON + timedelta(seconds=8), timeout=0)) == [b"8", b"9"]


def test_a_tail_hears_another_process(store, child):
    topic = store.topic("orders", partitions=2)
    following = topic.tail(timeout=20)
    with child("store.topic('orders').send(b'hello', partition=1)"):
        assert next(following).value == b"hello"


def test_a_tail_follows_into_partitions_that_are_added(store):
    topic = store.topic("orders")
    following = topic.tail(timeout=5)
    topic.add_partitions(2)
    topic.send(b"new", partition=1)
    assert next(following).value == b"new"


@pytest.mark.parametrize("partitions", [1, 3])
def test_waiting_does_not_burn_a_core(store, partitions):
    topic = store.topic("orders", partitions=partitions)
    before = time.process_time()
    assert list(topic.tail(timeout=0.5)) == []
    assert time.process_time() - before < 0.1


def test_waiting_for_an_offset(store):
    topic = store.topic("orders")
    assert topic.wait(0, timeout=0) is False
    timer = threading.Timer(0.05, topic.send, [b"one"])
    timer.start()
    assert topic.wait(0, timeout=10) is True
    timer.join()
    with pytest.raises(seglog.PartitionNotFound):
        topic.wait(0, partition=1, timeout=0)


# ---- less, and more -------------------------------------------------------------------------------


def test_trimmed_records_are_gone_and_the_others_keep_their_offsets(numbers, store, path):
    assert numbers.trim(before=4) == {0: 4}
    assert numbers.first_offset() == 4
    assert [(r.offset, r.value) for r in numbers.read()] == [(n, b"%d" % n) for n in range(4, 10)]
    with pytest.raises(seglog.OffsetOutOfRange) as caught:
        numbers[0, 3]
    assert (caught.value.offset, caught.value.first, caught.value.next) == (3, 4, 10)
    with pytest.raises(seglog.OffsetOutOfRange, match="trimmed away"):
        numbers.read(3)
    assert numbers.trim(before=2) == {0: 4}


def test_a_trim_survives_reopening(path):
    with seglog.open(path) as store:
        topic = store.topic("orders")
        topic.send_many([b"%d" % n for n in range(10)])
        topic.trim(7)
    with seglog.open(path) as store:
        assert values(store.topic("orders").read()) == [b"7", b"8", b"9"]


def test_a_time_trims_every_partition(spread):
    assert spread.trim(before=NOON + timedelta(seconds=4)) == {0: 2, 1: 1, 2: 1}
    assert values(spread.read()) == [b"%d" % n for n in range(4, 9)]
    assert spread.trim(before=NOON + timedelta(seconds=7), partition=0) == {0: 3}
    assert values(spread.read()) == [b"4", b"5", b"7", b"8"]


def test_a_topic_may_be_trimmed_empty_and_goes_on(numbers):
    numbers.trim("latest")
    assert list(numbers.read()) == []
    assert numbers.send(b"next") == (0, 10)
    assert values(numbers.last(5)) == [b"next"]


def test_a_trim_beyond_the_end_is_refused(numbers):
    with pytest.raises(seglog.OffsetOutOfRange):
        numbers.trim(11)
    assert numbers.first_offset() == 0


def test_adding_partitions_keeps_the_data(path):
    with seglog.open(path) as store:
        topic = store.topic("orders", partitions=2)
        topic.send_many([b"%d" % n for n in range(10)], partition=0)
        topic.add_partitions(4)
        assert topic.partitions == topic.config.partitions == 4
        topic.send(b"new", partition=3)
    with seglog.open(path) as store:
        topic = store.topic("orders", partitions=4)
        assert values(topic.read(partition=0)) == [b"%d" % n for n in range(10)]
        assert topic[3, 0].value == b"new"


def test_partitions_are_not_taken_away(store):
    topic = store.topic("orders", partitions=3)
    topic.add_partitions(3)
    with pytest.raises(seglog.ConfigError, match="cannot have fewer"):
        topic.add_partitions(2)
    assert topic.partitions == 3


# ---- telling --------------------------------------------------------------------------------------


def test_statistics_are_frozen_and_do_not_move(numbers):
    before = numbers.statistics()
    numbers.send(b"more")
    assert before.records == 10
    assert numbers.statistics().records == 11
    with pytest.raises(AttributeError):
        before.name = "x"


def test_a_topic_says_what_it_is(spread):
    assert repr(spread) == "<Topic spread, 3 partitions, 9 records>"
    assert spread.name == "spread"
