"""Bad input: a clear error of the tree, nothing lost, and the next good call works."""

import math
from datetime import timedelta

import pytest

import seglog


def values(records) -> list[bytes | None]:
    return [record.value for record in records]


@pytest.fixture
def topic(store) -> seglog.Topic:
    topic = store.topic("orders", record_bytes_max=1000)
    topic.send_many([b"one", b"two"])
    return topic


@pytest.fixture(autouse=True)
def nothing_is_lost(topic):
    """Whatever a test here does wrong: what was there stays, and sending goes on."""
    yield
    if topic.name in topic._home.topics() and not any(log.closed for log in topic.logs):
        assert values(topic.read())[:2] == [b"one", b"two"]
        where = topic.send(b"afterwards")
        assert topic[where].value == b"afterwards"


@pytest.mark.parametrize("what", ["value", "key", "values", "keys"])
def test_a_str_is_a_type_error_that_says_how_to_encode(topic, what):
    with pytest.raises(TypeError, match=r"encode"):
        {
            "value": lambda: topic.send("three"),
            "key": lambda: topic.send(b"three", key="k"),
            "values": lambda: topic.send_many([b"three", "four"]),
            "keys": lambda: topic.send_many([b"three", b"four"], keys=[b"k", "k"]),
        }[what]()
    assert topic.next_offset() == 2


@pytest.mark.parametrize("value", [3, 1.5, object(), ["x"], {"a": 1}])
def test_what_is_not_bytes_like_is_a_type_error(topic, value):
    with pytest.raises(TypeError):
        topic.send(value)
    with pytest.raises(TypeError):
        topic.send(b"three", key=value)
    with pytest.raises(TypeError):
        topic.send_many([b"three", value])
    assert topic.next_offset() == 2


@pytest.mark.parametrize("values", ["abc", b"abc", 7, None])
def test_send_many_takes_many(topic, values):
    with pytest.raises(TypeError):
        topic.send_many(values)
    assert topic.next_offset() == 2


def test_send_many_of_nothing_sends_nothing(topic):
    assert list(topic.send_many([])) == []
    assert topic.next_offset() == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"keys": [b"k"]},
        {"headers": [{}]},
        {"timestamps": [1]},
        {"keys": [b"k"] * 3},
    ],
)
def test_columns_of_different_lengths_are_refused(topic, wrong):
    with pytest.raises((ValueError, TypeError)):
        topic.send_many([b"three", b"four"], **wrong)
    assert topic.next_offset() == 2


@pytest.mark.parametrize("headers", [{"a": "str"}, {b"a": b"x"}, {1: b"x"}, [("a", b"x")], "a"])
def test_headers_map_str_to_bytes(topic, headers):
    with pytest.raises(TypeError):
        topic.send(b"three", headers=headers)
    assert topic.next_offset() == 2


@pytest.mark.parametrize("timestamp", ["now", 1.5, timedelta(1), True])
def test_a_timestamp_is_a_time(topic, timestamp):
    with pytest.raises((TypeError, ValueError)):
        topic.send(b"three", timestamp=timestamp)
    assert topic.next_offset() == 2


def test_a_record_over_the_limit_is_refused_with_the_numbers(topic):
    with pytest.raises(seglog.RecordTooLarge, match="1,001") as caught:
        topic.send(b"x" * 1001)
    assert (caught.value.size, caught.value.limit) == (1001, 1000)
    with pytest.raises(seglog.RecordTooLarge):
        topic.send_many([b"y" * 1001])
    assert topic.send(b"x" * 1000).offset == topic.next_offset() - 1


@pytest.mark.parametrize("partition", [1, 10**6, -1])
def test_a_partition_that_is_not_there_is_told(topic, partition):
    for ask in (
        lambda: topic.send(b"x", partition=partition),
        lambda: topic.send_many([b"x"], partition=partition),
        lambda: topic[partition, 0],
        lambda: topic.read(partition=partition),
        lambda: topic.read_batch(partition=partition, offset=0),
        lambda: topic.last(1, partition=partition),
        lambda: topic.first_offset(partition),
        lambda: topic.next_offset(partition),
        lambda: topic.trim(0, partition),
        lambda: topic.offset_for_time(0, partition),
        lambda: topic.tail(partition=partition),
    ):
        with pytest.raises((seglog.PartitionNotFound, seglog.ConfigError)):
            ask()
    assert topic.next_offset() == 2


@pytest.mark.parametrize("offset", [2, 3, 10**15])
def test_an_offset_out_of_range_says_what_there_is(topic, offset):
    with pytest.raises(seglog.OffsetOutOfRange) as caught:
        topic[0, offset]
    assert (caught.value.offset, caught.value.first, caught.value.next) == (offset, 0, 2)
    assert isinstance(caught.value, IndexError)
    if offset > 2:
        for ask in (lambda: topic.read(offset), lambda: topic.batches(offset), lambda: topic.read_batch(offset=offset)):
            with pytest.raises(seglog.OffsetOutOfRange) as caught:
                ask()
            assert (caught.value.offset, caught.value.first, caught.value.next) == (offset, 0, 2)


@pytest.mark.parametrize("offset", [-1, -(10**15)])
def test_a_negative_offset_is_refused_and_last_is_named(topic, offset):
    for ask in (lambda: topic.read(offset), lambda: topic.read(stop=offset), lambda: topic.read_batch(offset=offset)):
        with pytest.raises(ValueError, match=r"last\(") as caught:
            ask()
        assert isinstance(caught.value, seglog.SeglogError)
    with pytest.raises(seglog.SeglogError):
        topic[0, offset]


@pytest.mark.parametrize("start", [1.0, None, True, b"earliest", [0], object()])
def test_a_start_of_the_wrong_type_is_a_type_error(topic, start):
    with pytest.raises(TypeError, match="an offset, an aware datetime"):
        topic.read(start)


@pytest.mark.parametrize("start", ["beginning", "", "Earliest"])
def test_a_start_word_that_is_not_known_is_refused(topic, start):
    with pytest.raises(seglog.ConfigError, match='"earliest" or "latest"'):
        topic.read(start)
    with pytest.raises(seglog.ConfigError, match='"earliest" or "latest"'):
        topic.read(stop=start)


@pytest.mark.parametrize("n", [-1, 1.5, "1", None, True])
def test_last_and_batches_take_a_count(topic, n):
    with pytest.raises((TypeError, seglog.ConfigError)):
        topic.last(n)
    with pytest.raises((TypeError, seglog.ConfigError)):
        topic.batches(max_records=n)
    with pytest.raises(seglog.ConfigError):
        topic.read_batch(offset=0, max_records=0)


@pytest.mark.parametrize("where", [0, (0,), (0, 0, 0), "00", None, (0, "0"), slice(0, 1)])
def test_indexing_takes_a_partition_and_an_offset(topic, where):
    with pytest.raises((TypeError, ValueError)):
        topic[where]


@pytest.mark.parametrize("timeout", [-1, math.nan, "1"])
def test_a_timeout_is_a_duration(topic, timeout):
    for ask in (lambda: topic.tail(timeout=timeout), lambda: topic.wait(0, timeout=timeout)):
        with pytest.raises((TypeError, seglog.ConfigError)):
            ask()
    with topic.consumer("billing") as consumer, pytest.raises((TypeError, seglog.ConfigError)):
        consumer.receive(timeout=timeout)


@pytest.mark.parametrize("to", [0, -1, 1.5, "3", 10**6])
def test_partitions_are_added_by_a_sensible_number(topic, to):
    with pytest.raises((TypeError, seglog.ConfigError)):
        topic.add_partitions(to)
    assert topic.partitions == 1


def test_a_partitioner_that_answers_nonsense_writes_nothing(store):
    answers = iter([7, -1, "x", None])
    custom = store.topic("custom", partitions=2, partitioner=lambda key, partitions: next(answers))
    for _ in range(4):
        with pytest.raises((seglog.SeglogError, TypeError, ValueError)):
            custom.send(b"x", key=b"k")
    assert custom.statistics().records == 0


def test_a_partitioner_that_raises_writes_nothing(store):
    def broken(key: bytes, partitions: int) -> int:
        raise LookupError("no such customer")

    custom = store.topic("custom", partitions=2, partitioner=broken)
    with pytest.raises(LookupError, match="no such customer"):
        custom.send(b"x", key=b"k")
    with pytest.raises(LookupError, match="no such customer"):
        custom.send_many([b"x"], keys=[b"k"])
    assert custom.statistics().records == 0


@pytest.mark.parametrize("key", ["unknown", "tx"])
def test_an_argument_that_nobody_knows_is_a_type_error(topic, key):
    with pytest.raises(TypeError):
        topic.send(b"x", **{key: 1})
    with pytest.raises(TypeError):
        seglog.open("nowhere", **{key: 1})


def test_every_error_of_the_tree_is_at_hand_in_seglog():
    from seglog import errors

    for name in errors.__all__:
        assert issubclass(getattr(seglog, name), seglog.SeglogError)
        assert name in seglog.__all__


def test_errors_cross_process_borders():
    import pickle

    error = seglog.GroupInUse("text", group="g", topic="t", path="p")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.group) == (seglog.GroupInUse, "text", "g")
