"""Partitions are several logs as one: a key has one place, the same in every process and in every run."""

import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest
import xxhash

from seglog.engine.errors import (
    ClosedError,
    ConfigError,
    OffsetOutOfRange,
    PartitionNotFound,
    RecordTooLarge,
)
from seglog.engine.log import Log
from seglog.engine.partitions import Partitions, murmur2, partition_for
from seglog.engine.record import Position, Record


@pytest.fixture(params=["map", "pwrite"])
def logs(request, tmp_path):
    logs = [
        Log(tmp_path / str(i), partition=i, write=request.param, segment_bytes=65_536, fsync="never") for i in range(4)
    ]
    yield logs
    for log in logs:
        log.close()


@pytest.fixture
def topic(logs):
    return Partitions(logs)


def values(log):
    return [record.value for record in log.records()]


# -- where a key goes ----------------------------------------------------------------------------------------------

# org.apache.kafka.common.utils.UtilsTest.testMurmur2, before toPositive
PUBLISHED = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", PUBLISHED)
def test_murmur2_gives_the_values_that_kafka_publishes(key):
    assert murmur2(key) == PUBLISHED[key] & 0x7FFFFFFF


def reference_murmur2(data):
    """Austin Appleby's MurmurHash2 as Kafka's Utils.murmur2 writes it, over Python's integers."""
    word = 0xFFFFFFFF
    m, h = 0x5BD1E995, 0x9747B28C ^ len(data)
    for i in range(0, len(data) - 3, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & word
        k = (k ^ k >> 24) * m & word
        h = (h * m & word) ^ k
    if rest := data[len(data) & ~3 :]:
        h = (h ^ int.from_bytes(rest, "little")) * m & word
    h = (h ^ h >> 13) * m & word
    return (h ^ h >> 15) & 0x7FFFFFFF


def test_murmur2_equals_its_definition_on_every_length(rng):
    for size in range(200):
        key = rng.randbytes(size)
        assert murmur2(key) == reference_murmur2(key), key


def test_a_key_goes_to_its_hash_modulo_the_partitions(rng):
    for _ in range(500):
        key, n = rng.randbytes(rng.randrange(40)), rng.randrange(1, 1000)
        assert partition_for(key, n) == partition_for(key, n, "xxh3") == xxhash.xxh3_64_intdigest(key) % n
        assert partition_for(key, n, "murmur2") == reference_murmur2(key) % n


def test_a_place_is_asked_for_with_a_known_partitioner_and_at_least_one_partition():
    for arguments in ((b"k", 0), (b"k", -1), (b"k", 4, "md5"), (b"k", 4, "")):
        with pytest.raises(ConfigError):
            partition_for(*arguments)
    for arguments in (("k", 4), (None, 4), (b"k", "4"), (b"k", 4, None)):
        with pytest.raises((TypeError, ConfigError)):
            partition_for(*arguments)
    for wrong in ("k", None, 7, bytearray(b"k")):
        with pytest.raises(TypeError):
            murmur2(wrong)


@pytest.mark.parametrize("partitioner", ["xxh3", "murmur2"])
def test_send_and_send_many_put_a_key_where_partition_for_says(logs, rng, partitioner):
    topic = Partitions(logs, partitioner)
    keys = [rng.randbytes(rng.randrange(12)) for _ in range(300)]
    for key in keys:
        assert topic.send(b"one", key).partition == partition_for(key, 4, partitioner)
    topic.send_many([b"many"] * 300, keys)
    for log in logs:
        mine = [key for key in keys if partition_for(key, 4, partitioner) == log.partition]
        assert [r.key for r in log.records()] == mine * 2
        assert log.next_offset > 0


def test_the_place_does_not_depend_on_the_process():
    program = (
        "from seglog.engine.partitions import partition_for; print([partition_for(b'%d' % i, 7) for i in range(50)])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str([partition_for(b"%d" % i, 7) for i in range(50)])


def test_a_callable_may_choose_and_sees_the_key_and_the_number_of_partitions(logs):
    seen = []

    def choose(key, n):
        seen.append((key, n))
        return key[0] % n

    topic = Partitions(logs, choose)
    assert topic.send(b"v", b"\x02").partition == 2
    assert topic.send(b"v", bytearray(b"\x03")).partition == 3
    topic.send_many([b"v"] * 3, [b"\x01", b"\x05", None])
    assert seen == [(b"\x02", 4), (b"\x03", 4), (b"\x01", 4), (b"\x05", 4)]
    assert [r.key for r in logs[1].records()][:2] == [b"\x01", b"\x05"]
    assert Partitions(logs[:1], choose).send(b"v", b"\x09") == (0, logs[0].next_offset - 1)
    assert seen[-1] == (b"\x09", 1)


def test_a_callable_that_chooses_badly_is_told_and_nothing_is_written(logs):
    for wrong, error in ((4, PartitionNotFound), (-1, PartitionNotFound), ("1", TypeError), (None, TypeError)):
        topic = Partitions(logs, lambda key, n, wrong=wrong: wrong)
        with pytest.raises(error):
            topic.send(b"v", b"k")
        with pytest.raises(error):
            topic.send_many([b"v"], [b"k"])
    with pytest.raises(ZeroDivisionError):
        Partitions(logs, lambda key, n: 1 // 0).send(b"v", b"k")
    assert sum(log.next_offset for log in logs) == 0


@pytest.mark.parametrize("partitioner", ["sha1", "", None, 7, b"xxh3"])
def test_a_partitioner_is_known_or_a_callable(logs, partitioner):
    with pytest.raises(ConfigError):
        Partitions(logs, partitioner)


# -- sending -------------------------------------------------------------------------------------------------------


def test_send_gives_the_position_at_which_the_record_then_is(topic):
    for i in range(100):
        position = topic.send(b"%d" % i, b"k%d" % (i % 9), {"h": b"%d" % i}, timestamp=i)
        assert type(position) is Position
        record = topic[position]
        assert record == topic[tuple(position)]
        assert record == Record(b"%d" % i, b"k%d" % (i % 9), {"h": b"%d" % i}, i, position.offset, position.partition)


def test_records_without_a_key_take_the_partitions_in_turn(topic, logs):
    assert sorted(topic.send(b"v").partition for _ in range(8)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sorted(span.partition for _ in range(4) for span in topic.send_many([b"v"] * 10)) == [0, 1, 2, 3]
    assert [log.next_offset for log in logs] == [12] * 4


def test_a_partition_named_overrides_key_and_turn(topic, logs):
    assert topic.send(b"v", b"any", partition=3) == (3, 0)
    assert topic.send(b"v", partition=0) == (0, 0)
    assert topic.send_many([b"a", b"b"], [b"x", b"y"], partition=2) == [(2, 0, 2)]
    assert [log.next_offset for log in logs] == [1, 0, 2, 1]


@pytest.mark.parametrize("partition", [4, -1, 2**40, -(2**62)])
def test_a_partition_that_does_not_exist_is_told_with_how_many_there_are(topic, logs, partition):
    for send in (
        lambda p: topic.send(b"v", partition=p),
        lambda p: topic.send_many([b"v"], partition=p),
        lambda p: topic[p, 0],
    ):
        with pytest.raises(PartitionNotFound) as caught:
            send(partition)
        assert (caught.value.partition, caught.value.partitions) == (partition, 4)
        assert isinstance(caught.value, IndexError)
    assert sum(log.next_offset for log in logs) == 0


def test_send_many_keeps_the_order_of_each_key(topic, logs, rng):
    keys = [rng.choice([None, b"a", b"b", b"c", b"d", b""]) for _ in range(5000)]
    sent = [b"%d" % i for i in range(5000)]
    headers = [{"i": value} if i % 3 else None for i, value in enumerate(sent)]
    spans = topic.send_many(sent, keys, headers, timestamps=range(5000))
    assert sum(span.stop - span.start for span in spans) == 5000
    records = [record for log in logs for record in log.records()]
    assert sorted(r.value for r in records) == sorted(sent)
    for record in records:
        i = int(record.value)
        assert (record.key, record.timestamp) == (keys[i], i)
        assert record.headers == ({"i": record.value} if i % 3 else {})
    for key in {k for k in keys if k is not None}:
        homes = {record.partition for record in records if record.key == key}
        assert len(homes) == 1
        order = [int(r.value) for r in logs[homes.pop()].records() if r.key == key]
        assert order == sorted(order)


def test_send_many_takes_columns_and_arrays(topic, logs):
    rows = np.arange(4000, dtype="u1").reshape(400, 10)
    topic.send_many(rows, keys=np.arange(400, dtype="<u4"))
    stored = {r.key: r.value for log in logs for r in log.records()}
    assert stored == {int.to_bytes(i, 4, "little"): rows[i].tobytes() for i in range(400)}
    batch = logs[2].read(0)
    count = logs[2].next_offset
    topic.send_many(batch.values, batch.keys)
    assert logs[2].next_offset == 2 * count
    assert values(logs[2])[:count] == values(logs[2])[count:]


def test_nothing_to_send_is_nothing_sent(topic, logs):
    assert topic.send_many([]) == []
    assert topic.send_many([], []) == []
    assert sum(log.next_offset for log in logs) == 0


def test_a_failure_says_how_many_records_of_that_partition_went_before(tmp_path):
    logs = [Log(tmp_path / str(i), partition=i, record_bytes_max=100, batch_bytes=1024) for i in range(2)]
    topic = Partitions(logs, lambda key, n: key[0])
    with pytest.raises(RecordTooLarge) as caught:
        topic.send_many([b"x" * 50] * 40 + [b"x" * 101], [b"\0"] * 20 + [b"\1"] * 21)
    assert (logs[0].next_offset, logs[1].next_offset) == (20, caught.value.accepted)


@pytest.mark.parametrize(
    "arguments", [("text",), (7,), (b"v", "text"), (b"v", 7), (b"v", b"k", "text"), (b"v", b"k", {"h": 5})]
)
def test_what_is_not_bytes_is_a_type_error_and_nothing_is_written(topic, logs, arguments):
    with pytest.raises(TypeError):
        topic.send(*arguments)
    with pytest.raises(TypeError):
        topic.send_many(*[[a] for a in arguments])
    assert sum(log.next_offset for log in logs) == 0


def test_threads_may_send_through_one_object(topic, logs):
    def work(name):
        for i in range(200):
            topic.send(b"%d:%d" % (name, i), b"%d" % name)
            topic.send(b"turn")
            topic.send_many([b"turn"] * 3)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [value for log in logs for value in values(log)]
    assert everything.count(b"turn") == 4 * 200 * 4
    for name in range(4):
        mine = [int(v.split(b":")[1]) for log in logs for v in values(log) if v.startswith(b"%d:" % name)]
        assert mine == list(range(200))


# -- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [7, "ab", (1,), (1, 2, 3), None, slice(0, 2), [1, 2]])
def test_a_record_is_asked_for_by_partition_and_offset(topic, where):
    with pytest.raises(TypeError):
        topic[where]


def test_a_record_that_is_not_there_is_told(topic):
    topic.send(b"v", partition=1)
    assert topic[1, 0].value == b"v"
    for where in ((1, 1), (0, 0), (1, -1)):
        with pytest.raises(OffsetOutOfRange) as caught:
            topic[where]
        assert caught.value.partition == where[0]


def test_merged_gives_the_records_of_all_partitions_in_the_order_of_time(topic, logs, rng):
    for i in range(2000):
        topic.send(b"%d" % i, timestamp=i // 3, partition=rng.randrange(4))
    starts, stops = [log.first_offset for log in logs], [log.next_offset for log in logs]
    merged = list(topic.merged(starts, stops))
    assert len(merged) == 2000
    assert [(r.timestamp, r.partition, r.offset) for r in merged] == sorted(
        (r.timestamp, r.partition, r.offset) for r in merged
    )
    part = [(r.partition, r.offset) for r in topic.merged([5, 0, 10, stops[3]], [10, 3, 10, stops[3]])]
    assert sorted(part) == [*((0, i) for i in range(5, 10)), *((1, i) for i in range(3))]


def test_merged_keeps_offset_order_inside_a_partition_whose_times_fall(topic, logs):
    for i in range(10):
        topic.send(b"", timestamp=100 - i, partition=0)
        topic.send(b"", timestamp=95, partition=1)
    merged = list(topic.merged([0] * 4, [log.next_offset for log in logs]))
    for partition in (0, 1):
        assert [r.offset for r in merged if r.partition == partition] == list(range(10))


def test_merged_is_lazy_and_wants_a_start_and_a_stop_for_each_partition(topic, logs):
    topic.send_many([b"v"] * 100, partition=1)
    merged = topic.merged([0] * 4, [log.next_offset for log in logs])
    assert next(merged).value == b"v"
    assert iter(merged) is merged
    for starts, stops in (([0], [1] * 4), ([0] * 4, [1] * 5), ([], [])):
        with pytest.raises(ValueError, match="4 partitions"):
            topic.merged(starts, stops)


# -- the logs beneath ----------------------------------------------------------------------------------------------


def test_more_partitions_can_be_attached(logs):
    topic = Partitions(logs[:2])
    homes = {topic.send(b"v").partition for _ in range(10)}
    topic._attach(logs)
    assert topic.logs == tuple(logs)
    more = {topic.send(b"v").partition for _ in range(10)}
    assert (homes, more) == ({0, 1}, {0, 1, 2, 3})


@pytest.mark.parametrize("keyed", [None, b"k"])
def test_without_logs_every_verb_says_closed(topic, logs, keyed):
    topic._attach([])
    for verb in (
        lambda: topic.send(b"v", keyed),
        lambda: topic.send_many([b"v"], None if keyed is None else [keyed]),
        lambda: topic.send(b"v", keyed, partition=0),
        lambda: topic[0, 0],
    ):
        with pytest.raises(ClosedError):
            verb()


def test_closed_logs_say_closed(topic, logs):
    topic.send(b"v", partition=1)
    for log in logs:
        log.close()
    for verb in (
        lambda: topic.send(b"v"),
        lambda: topic.send_many([b"v"]),
        lambda: topic[1, 0],
        lambda: list(topic.merged([0] * 4, [1] * 4)),
    ):
        with pytest.raises(ClosedError):
            verb()


@pytest.mark.parametrize("wrong", [None, 7, ["log"], [None]])
def test_only_logs_can_be_attached(logs, wrong):
    with pytest.raises(TypeError):
        Partitions(wrong)


def test_every_combination_of_arguments_finds_its_partition(logs):
    """Keys or none, a partition named or none, one log or several, each partitioner, one record or many."""
    for keyed, named, n, partitioner in itertools.product(
        (False, True), (False, True), (1, 4), ("xxh3", "murmur2", lambda k, n: 0)
    ):
        topic = Partitions(logs[:n], partitioner)
        options = {"partition": n - 1} if named else {}
        one = topic.send(b"one", b"key" if keyed else None, **options)
        (many,) = topic.send_many([b"many"] * 2, [b"key"] * 2 if keyed else None, **options)
        if named:
            assert one.partition == many.partition == n - 1
        elif keyed:
            assert one.partition == many.partition
        assert topic[one].value == b"one"
        assert topic[many.partition, many.stop - 1].value == b"many"
