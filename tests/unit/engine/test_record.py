"""A record is what was given: value, key, headers, timestamp and place; a position is the place alone, and a tuple to everyone."""

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType

import pytest

from seglog.engine.log import Log
from seglog.engine.record import Position, Record, Span

# -- Position ------------------------------------------------------------------------------------------------------


def test_a_position_unpacks_indexes_and_has_the_length_of_its_tuple():
    position = Position(2, 40)
    partition, offset = position
    assert (partition, offset) == (2, 40)
    assert (position[0], position[1], position[-1], len(position), position[:]) == (2, 40, 40, 2, (2, 40))
    with pytest.raises(IndexError):
        position[2]


def test_positions_order_by_partition_then_offset_as_tuples_do():
    ordered = [(0, 5), (0, 6), (1, -1), (1, 0), (2, 2**62)]
    for i, a in enumerate(ordered):
        for j, b in enumerate(ordered):
            for left, right in ((Position(*a), Position(*b)), (Position(*a), b), (a, Position(*b))):
                assert (left < right, left <= right, left == right) == (i < j, i <= j, i == j)
                assert (left > right, left >= right, left != right) == (i > j, i >= j, i != j)


def test_a_position_finds_what_was_stored_under_its_tuple():
    assert {(3, 9): "here"}[Position(3, 9)] == "here"
    assert {Position(3, 9)} == {(3, 9)}


@pytest.mark.parametrize("other", [None, 7, "12", [1, 2]])
def test_a_position_is_no_other_thing(other):
    assert Position(1, 2) != other
    with pytest.raises(TypeError):
        _ = Position(1, 2) < other


def test_a_position_survives_pickle_and_copy_and_cannot_change():
    position = Position(7, 2**62)
    assert pickle.loads(pickle.dumps(position)) == copy.copy(position) == copy.deepcopy(position) == position
    with pytest.raises(AttributeError):
        position.offset = 1


def test_a_position_can_be_matched():
    match Position(1, 4):
        case Position(1, offset):
            assert offset == 4
        case _:
            pytest.fail("no match")


@pytest.mark.parametrize("arguments", [(), (1,), ("a", 1), (None, 1), (1, 2, 3)])
def test_a_position_is_made_of_two_integers(arguments):
    with pytest.raises(TypeError):
        Position(*arguments)


def test_a_span_says_partition_start_and_stop():
    assert Span(1, 10, 12) == (1, 10, 12)
    assert (Span(1, 10, 12).partition, Span(1, 10, 12).start, Span(1, 10, 12).stop) == (1, 10, 12)


# -- Record --------------------------------------------------------------------------------------------------------

SHAPES = [
    {"value": b"v"},
    {"value": b""},
    {"value": None},
    {"value": b"v", "key": b"k"},
    {"value": b"v", "key": b""},
    {"value": None, "key": b"k"},
    {"value": None, "key": b""},
    {"value": b"v", "headers": {"a": b"1"}},
    {"value": b"", "headers": {"": b""}},
    {"value": None, "headers": {"a": None}},
    {"value": b"v", "key": b"k", "headers": {"a": b"1", "b": b"", "c": None, "é✓": b"\x00\xff"}},
    {"value": b"v" * 100_000, "key": b"k" * 5000, "headers": {"n" * 65_535: b"h" * 70_000}},
    {"value": b"v", "timestamp": 0},
    {"value": b"v", "timestamp": -(2**62)},
    {"value": b"v", "timestamp": 2**62},
]


@pytest.mark.parametrize("shape", SHAPES, ids=range(len(SHAPES)))
def test_a_record_gives_back_what_it_was_made_of(shape):
    record = Record(**shape, offset=9, partition=3)
    assert record.value == shape["value"]
    assert record.key == shape.get("key")
    assert record.headers == shape.get("headers", {})
    assert record.timestamp == shape.get("timestamp", 0)
    assert (record.offset, record.partition, record.position) == (9, 3, (3, 9))


@pytest.mark.parametrize("shape", SHAPES, ids=range(len(SHAPES)))
def test_a_record_read_from_a_log_equals_the_one_made_by_hand(tmp_path, shape):
    with Log(tmp_path, partition=3) as log:
        log.append(b"before")
        log.append(shape["value"], shape.get("key"), shape.get("headers"), shape.get("timestamp", 0))
        read = log.record(1)
    made = Record(**shape, offset=1, partition=3)
    assert read == made
    assert hash(read) == hash(made)
    assert pickle.loads(pickle.dumps(read)) == made
    assert (type(read.value), type(read.key)) == (type(made.value), type(made.key))


@pytest.mark.parametrize(
    "change",
    [{"value": b"w"}, {"value": None}, {"key": b"l"}, {"key": None}, {"headers": {"a": b"2"}}, {"headers": {"a": None}},
     {"timestamp": 6}, {"offset": 8}, {"partition": 1}],
)  # fmt: skip
def test_records_that_differ_in_anything_are_not_equal(change):
    base = {"value": b"v", "key": b"k", "headers": {"a": b"1"}, "timestamp": 5, "offset": 7, "partition": 0}
    assert Record(**base) == Record(**base)
    assert Record(**base) != Record(**base | change)
    assert Record(**base) != (b"v", b"k", {"a": b"1"}, 5, 7, 0)


def test_an_empty_value_is_not_a_tombstone_and_an_empty_key_is_not_none():
    assert (Record(b"").value, Record(None).value) == (b"", None)
    assert (Record(b"", b"").key, Record(b"", None).key) == (b"", None)
    assert Record(b"") != Record(None)


def test_headers_keep_their_order_and_are_a_new_dict_each_time():
    record = Record(b"v", headers={"z": b"1", "a": b"2", "m": None})
    assert list(record.headers) == ["z", "a", "m"]
    record.headers["z"] = b"changed"
    assert record.headers == {"z": b"1", "a": b"2", "m": None}


def test_headers_may_be_any_mapping_of_any_bytes_like():
    headers = MappingProxyType({"a": bytearray(b"1"), "b": memoryview(b"xyz")[1:], "c": memoryview(b"abcdef")[::2]})
    assert Record(b"v", headers=headers).headers == {"a": b"1", "b": b"yz", "c": b"ace"}


def test_bytes_like_values_and_keys_come_back_as_bytes():
    record = Record(bytearray(b"value"), memoryview(b"a key")[2:])
    assert (record.value, record.key) == (b"value", b"key")


def test_the_time_of_a_record_is_aware_exact_and_in_utc():
    assert Record(b"", timestamp=1_700_000_000_123_456).time == datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)
    assert Record(b"", timestamp=-1).time == datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)
    for timestamp in (2**62, -(2**62)):
        with pytest.raises(OverflowError):
            _ = Record(b"", timestamp=timestamp).time


def test_a_datetime_given_to_a_log_comes_back_to_the_microsecond(tmp_path):
    zone = timezone(timedelta(hours=5, minutes=45))
    times = [
        datetime(1, 1, 2, tzinfo=zone),
        datetime(1969, 12, 31, 23, 59, 59, 999999, zone),
        datetime(2262, 4, 12, 1, 2, 3, 1, zone),
        datetime(9999, 12, 30, 23, 59, 59, 999999, zone),
    ]
    with Log(tmp_path) as log:
        for when in times:
            log.append(b"", timestamp=when)
        log.append_many([b""] * 4, timestamps=times)
        assert [record.time for record in log.records()] == times * 2


def test_a_long_value_is_shortened_in_the_repr_and_the_place_is_in_it():
    shown = repr(Record(b"x" * 1000, b"key", offset=5, partition=2))
    assert "2:5" in shown
    assert "1,000 bytes" in shown
    assert "b'key'" in shown
    assert len(shown) < 120
    assert "None" in repr(Record(None))


def test_nothing_about_a_record_can_be_set():
    record = Record(b"v")
    for name in ("value", "key", "headers", "timestamp", "offset", "partition", "time", "position", "new"):
        with pytest.raises(AttributeError):
            setattr(record, name, None)


def test_records_can_be_matched():
    match Record(b"v", b"k", offset=3):
        case Record(b"v", key):
            assert key == b"k"
        case _:
            pytest.fail("no match")


@pytest.mark.parametrize(
    "arguments",
    [("text",), (7,), (b"v", "text"), (b"v", 7), (b"v", None, "text"), (b"v", None, [("a", b"1")]), (b"v", None, {b"a": b"1"}),
     (b"v", None, {"a": "text"}), (b"v", None, {"a": 1}), (b"v", None, {1: b"1"})],
)  # fmt: skip
def test_what_is_not_bytes_is_a_type_error(arguments):
    with pytest.raises(TypeError):
        Record(*arguments)


def test_text_says_how_to_encode_it():
    for arguments in (("text",), (b"v", "text"), (b"v", None, {"a": "text"})):
        with pytest.raises(TypeError, match="encode"):
            Record(*arguments)


def test_a_header_name_of_65535_bytes_is_the_longest():
    assert Record(b"v", headers={"n" * 65_535: b"1"}).headers == {"n" * 65_535: b"1"}
    with pytest.raises(ValueError, match="65,536"):
        Record(b"v", headers={"n" * 65_536: b"1"})
    with pytest.raises(ValueError, match="65,536"):
        Record(b"v", headers={"é" * 32_768: b"1"})
