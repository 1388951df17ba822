"""A frame holds any shape of records: what goes in as lists, arrays, `Packed` or columns comes back byte for byte.

Seen through a log, since nothing but a log makes frames; both ways of writing one, by `append` and by `append_many`.
"""

import array
import itertools
import mmap

import numpy as np
import pytest

from seglog.engine.errors import RecordTooLarge
from seglog.engine.log import Log
from seglog.engine.source import Packed

LARGE = 32_768  # from this frame size on the engine writes by pwrite, below it through the map


@pytest.fixture(params=["map", "pwrite"])
def log(request, tmp_path):
    with Log(tmp_path, write=request.param, segment_bytes=1 << 20, fsync="never") as log:
        yield log


def contents(log, start=-1):
    return [(r.value, r.key, r.headers, r.timestamp) for r in log.records(start)]


# -- every shape ---------------------------------------------------------------------------------------------------

COLUMNS = ("widths", "nulls", "keys", "key_nulls", "headers", "timestamps")


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 64, 65])
def test_every_combination_of_columns_comes_back(log, rng, n):
    """Bitmaps end at multiples of 8, offsets at multiples of two: all the ends, with all the columns before and after them."""
    for flags in itertools.product((False, True), repeat=len(COLUMNS)):
        has = dict(zip(COLUMNS, flags))
        values = [rng.randbytes(rng.randrange(20) if has["widths"] else 5) for _ in range(n)]
        if has["nulls"]:
            values = [None if rng.random() < 0.3 else value for value in values]
        keys = [rng.randbytes(rng.randrange(9)) for _ in range(n)] if has["keys"] else None
        if keys and has["key_nulls"]:
            keys = [None if rng.random() < 0.3 else key for key in keys]
        headers = [{f"h{i}": rng.randbytes(i)} if i % 3 else None for i in range(n)] if has["headers"] else None
        timestamps = [rng.randrange(-(2**62), 2**62) if has["timestamps"] else 77 for _ in range(n)]
        expected = list(zip(values, keys or [None] * n, [h or {} for h in headers or [None] * n], timestamps))

        (span,) = log.append_many(values, keys, headers, timestamps)
        batch = log.read(span.start)
        assert [(r.value, r.key, r.headers, r.timestamp) for r in batch] == expected, has
        assert batch.values.tolist() == values, has
        assert batch.timestamps.tolist() == timestamps, has
        if keys is None:
            assert batch.keys is None, has
        elif any(key is not None for key in keys):
            assert batch.keys.tolist() == keys, has

        start = log.next_offset
        for i in range(n):
            log.append(values[i], keys and keys[i], headers and headers[i], timestamps[i])
        assert contents(log, start) == expected, has


@pytest.mark.parametrize("around", [0, 8, 2048, 4096, LARGE, 65_536])
def test_values_of_every_length_around_a_boundary_come_back(log, rng, around):
    """Padding, the stack buffer, pages, and the crossing from stores to pwrite; alone and with keys."""
    data = rng.randbytes(around + 160)
    sizes = range(max(around - 140, 0), around + 140)
    for size in sizes:
        log.append(data[:size])
        log.append(data[:size], b"key")
        log.append(data[: size // 2], data[size // 2 : size], {"h": b""})
    expected = [
        shape
        for size in sizes
        for shape in (
            (data[:size], None, {}),
            (data[:size], b"key", {}),
            (data[: size // 2], data[size // 2 : size], {"h": b""}),
        )
    ]
    assert [(r.value, r.key, r.headers) for r in log.records()] == expected
    assert log.verify() == []


def test_frames_stored_and_frames_written_lie_side_by_side(log, rng):
    """Both sides of the crossing in turn: one by the map, one by pwrite, over the same pages."""
    values = [
        rng.randbytes(rng.choice([1, 100, LARGE - 72, LARGE - 64, LARGE - 63, LARGE, 50_000])) for _ in range(300)
    ]
    for value in values:
        log.append(value)
    assert [record.value for record in log.records()] == values
    assert log.verify() == []


def test_a_million_empty_values_cost_next_to_nothing(log):
    spans = log.append_many([b""] * 1_000_000)
    assert log.next_offset == 1_000_000
    assert (spans[0].start, spans[-1].stop) == (0, 1_000_000)
    assert sum(len(batch) for batch in log.batches(max_records=2**60, max_bytes=2**60)) == 1_000_000
    assert log.statistics()["tail_position"] < 100_000


def test_no_records_are_no_frame(log):
    for nothing in ([], (), np.zeros((0, 5), "u1"), Packed(b"", array.array("i", [0])), iter([])):
        assert log.append_many(nothing) == []
    assert log.next_offset == 0
    assert log.read(0) is None


def test_records_of_one_call_go_out_in_frames_of_batch_bytes(tmp_path):
    values = [b"x" * 100] * 1000
    with Log(tmp_path, batch_bytes=4096) as log:
        assert log.append_many(values) == [(0, 0, 1000)]
        compressed = [len(batch) for batch in log.batches(max_bytes=1)]  # one frame at a time
    assert sum(compressed) == 1000
    assert len(compressed) == 25
    assert max(compressed) * 100 <= 4096


def test_a_record_larger_than_batch_bytes_is_a_frame_of_its_own(tmp_path, rng):
    values = [b"a", rng.randbytes(5000), b"b", rng.randbytes(9000), rng.randbytes(1), b"c" * 1024]
    with Log(tmp_path, batch_bytes=1024) as log:
        log.append_many(values, timestamps=range(6))
        assert [record.value for record in log.records()] == values


def test_the_record_that_does_not_fit_leaves_no_trace_in_the_frame_before_it(tmp_path):
    """Columns are chosen while looking at one record more than fits: its key, null and time must not leak."""
    fill = [b"x" * 200] * 4
    for value, key, timestamp in (
        (None, b"k" * 900, 9),
        (b"y" * 900, None, 9),
        (b"y" * 900, b"key", 0),
        (None, b"", 9),
    ):
        path = tmp_path / f"{value}{key}{timestamp}"[-12:].replace("/", "")
        with Log(path, batch_bytes=1024) as log:
            log.append_many([*fill, value], [None] * 4 + [key], timestamps=[5] * 4 + [timestamp])
            records = [(r.value, r.key, r.timestamp) for r in log.records()]
            assert records == [(f, None, 5) for f in fill] + [(value, key, timestamp)]
            assert log.read(0, max_records=4).timestamps.tolist() == [5] * 4


# -- sources -------------------------------------------------------------------------------------------------------

ITEMS = [b"one", b"", b"two", b"three" * 50, b"\x00", b"4"]
BLOB = b"".join(ITEMS)
ENDS = list(itertools.accumulate(map(len, ITEMS)))
STARTS = [0, *ENDS[:-1]]


@pytest.mark.parametrize(
    "source",
    [
        ITEMS,
        tuple(ITEMS),
        lambda: iter(ITEMS),
        [bytearray(ITEMS[0]), *ITEMS[1:]],
        [memoryview(b"-" + item)[1:] for item in ITEMS],
        np.array(ITEMS, object),
        Packed(BLOB, array.array("i", [0, *ENDS])),
        Packed(BLOB, array.array("q", [0, *ENDS])),
        Packed(bytearray(BLOB), np.array([0, *ENDS], np.int32)),
        Packed(memoryview(BLOB), np.array([0, *ENDS], np.int64)),
        Packed(np.frombuffer(BLOB, "u1"), np.array(STARTS), np.array(ENDS)),
        Packed(b"junk" + BLOB, np.array([0, *ENDS]) + 4),
        Packed(array.array("B", BLOB), array.array("l", [0, *ENDS])),
    ],
    ids=["list", "tuple", "iterator", "bytearrays", "views", "objects", "int32", "int64", "np.int32", "np.int64", "spans",
         "not from 0", "array"],
)  # fmt: skip
def test_every_source_stores_the_same_records(log, source):
    assert log.append_many(source() if callable(source) else source) == [(0, 0, len(ITEMS))]
    assert log.read(0).values.tolist() == ITEMS


def test_values_keys_and_headers_may_come_from_different_sources(log):
    keys = Packed(b"abc", array.array("i", [0, 1, 1, 2, 2, 3, 3]))
    log.append_many(ITEMS, keys, [None, {}, {"h": b"1"}, None, {"i": None}, {}], np.arange(6))
    assert contents(log) == [
        (ITEMS[0], b"a", {}, 0),
        (ITEMS[1], b"", {}, 1),
        (ITEMS[2], b"b", {"h": b"1"}, 2),
        (ITEMS[3], b"", {}, 3),
        (ITEMS[4], b"c", {"i": None}, 4),
        (ITEMS[5], b"", {}, 5),
    ]


def test_spans_may_overlap_leave_gaps_and_go_backwards(log):
    starts, ends = np.array([3, 0, 0, 2, 6]), np.array([6, 6, 0, 4, 6])
    log.append_many(Packed(b"abcdef", starts, ends))
    assert log.read(0).values.tolist() == [b"def", b"abcdef", b"", b"cd", b""]


@pytest.mark.parametrize(
    "rows",
    [
        np.arange(40, dtype="u1").reshape(8, 5),
        np.arange(24.0),
        np.arange(24, dtype=">i4").reshape(2, 3, 4),
        np.array([(1, 2.5), (3, 4.5)], [("a", "i8"), ("b", "f4")]),
        np.array([b"abc", b"de\0", b""], "S3"),
        array.array("d", [1.5, 2.5]),
        memoryview(bytes(range(24))).cast("B", (4, 6)),
        np.zeros((3, 0), "u1"),
        np.zeros((2, 50_000), "u1"),
    ],
    ids=["2-D", "floats", "3-D", "structs", "S3", "array", "view", "empty rows", "wide rows"],
)
def test_each_row_of_an_array_is_a_record_of_its_bytes(log, rows):
    n = len(rows)
    width = memoryview(rows).nbytes // n
    raw = memoryview(rows).tobytes()
    assert log.append_many(rows)[0].start == 0
    assert log.read(0).values.tolist() == [raw[i * width : i * width + width] for i in range(n)]


def test_a_column_read_back_can_be_stored_again(log, rng):
    values = [rng.randbytes(rng.randrange(40)) for _ in range(500)]
    keys = [rng.choice([None, b"", b"k", rng.randbytes(5)]) for _ in range(500)]
    nulls = [None if i % 7 == 0 else value for i, value in enumerate(values)]
    log.append_many(values, keys)
    log.append_many(nulls)
    log.append_many(log.read(0, 500).values, log.read(0, 500).keys)
    log.append_many(log.read(500, 500).values)
    log.append_many(log.read(100, 7).values)
    records = list(log.records(1000))
    assert [r.value for r in records] == values + nulls + values[100:107]
    assert [r.key for r in records[:500]] == keys
    assert all(r.key is None for r in records[500:])


def test_a_packed_source_is_pinned_while_it_lives_and_then_let_go(log):
    data, offsets = bytearray(b"onetwo"), array.array("i", [0, 3, 6])
    source = Packed(data, offsets)
    for grow in (lambda: data.extend(b"x"), lambda: offsets.append(9)):
        with pytest.raises(BufferError):
            grow()
    log.append_many(source)
    del source
    data.extend(b"x")
    offsets.append(9)
    assert log.read(0).values.tolist() == [b"one", b"two"]


def test_an_array_of_values_is_let_go_after_the_call(log):
    values, times = bytearray(40), array.array("q", range(4))
    log.append_many(memoryview(values).cast("B", (4, 10)), timestamps=times)
    times.append(5)
    log.append(values)
    values.extend(b"x")


def test_a_mapped_file_can_be_a_source(log):
    with mmap.mmap(-1, 4096) as data:
        data[:6] = b"onetwo"
        source = Packed(data, array.array("i", [0, 3, 6]))
        log.append_many(source)
        with pytest.raises(BufferError):
            data.close()
        del source
    assert log.read(0).values.tolist() == [b"one", b"two"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("text", array.array("i", [0, 4])), TypeError),
        ((None, array.array("i", [0])), TypeError),
        ((b"abc", [0, 3]), TypeError),
        ((b"abc", None), TypeError),
        ((b"abc", b"\0\0\0\0"), TypeError),
        ((b"abc", array.array("f", [0, 3])), TypeError),
        ((b"abc", array.array("d", [0, 3])), TypeError),
        ((b"abc", array.array("h", [0, 3])), TypeError),
        ((b"abc", array.array("I", [0, 3])), TypeError),
        ((b"abc", np.array([0, 3], ">i4")), TypeError),
        ((b"abc", np.array([0, 3], np.uint64)), TypeError),
        ((b"abc", array.array("i", [])), ValueError),
        ((b"abc", array.array("i", [0, 4])), ValueError),
        ((b"abc", array.array("i", [-1, 3])), ValueError),
        ((b"abc", array.array("i", [2, 1])), ValueError),
        ((b"abc", array.array("q", [0, 2**40])), ValueError),
        ((b"abc", array.array("q", [0, -(2**63)])), ValueError),
        ((b"abc", array.array("q", [0]), array.array("q", [4])), ValueError),
        ((b"abc", array.array("q", [2]), array.array("q", [1])), ValueError),
        ((b"abc", array.array("q", [-1]), array.array("q", [1])), ValueError),
        ((b"abc", array.array("q", [0]), array.array("q", [1, 2])), ValueError),
        ((b"abc", array.array("i", [0]), array.array("i", [1])), TypeError),
        ((b"abc", array.array("q", [0]), array.array("i", [1])), (TypeError, ValueError)),
        ((b"abc", array.array("q", [0]), "ends"), TypeError),
        ((b"abc", np.arange(8)[::2]), (BufferError, ValueError)),
        ((np.zeros((4, 4), "u1")[:, 1], array.array("i", [0, 1])), (BufferError, ValueError)),
    ],
)
def test_a_packed_source_checks_every_offset_before_anything_is_read(arguments, error):
    with pytest.raises(error):
        Packed(*arguments)


def test_a_packed_source_is_made_once():
    source = Packed(b"abc", array.array("i", [0, 3]))
    with pytest.raises(ValueError, match="once"):
        source.__init__(b"abc", array.array("i", [0, 3]))
    assert len(source) == source.count == 1


@pytest.mark.parametrize(
    "values",
    ["text", b"bytes", bytearray(b"bytes"), 7, None, object(), ["text"], [b"ok", "text"], [b"ok", 7], np.array(5.0),
     np.arange(5, dtype="u1"), memoryview(b"abc"), np.array(["text"]).astype(object), [[b"nested"]]],
)  # fmt: skip
def test_what_is_no_run_of_byte_strings_is_a_type_error_and_nothing_is_written(log, values):
    with pytest.raises(TypeError):
        log.append_many(values)
    with pytest.raises(TypeError):
        log.append_many([b"value"], values if values is not None else 7)
    assert log.next_offset == 0


@pytest.mark.parametrize("rows", [np.zeros((4, 4), "u1")[:, ::2], np.zeros((4, 4))[:, 1], np.zeros((4, 4), order="F")])
def test_an_array_with_gaps_is_refused_and_nothing_is_written(log, rows):
    with pytest.raises((BufferError, ValueError)):
        log.append_many(rows)
    assert log.next_offset == 0


@pytest.mark.parametrize(
    "timestamps",
    ["text", b"12345678", 7, [1.5], ["1"], [None], np.array([1.0]), np.array([1], np.int32), np.array([1], np.uint64),
     np.array([1], ">i8"), np.array([[1]])],
)  # fmt: skip
def test_timestamps_are_int64_or_datetimes_and_nothing_else(log, timestamps):
    with pytest.raises((TypeError, ValueError)):
        log.append_many([b"value"], timestamps=timestamps)
    assert log.next_offset == 0


@pytest.mark.parametrize(
    "timestamps",
    [[5, 6], (5, 6), range(5, 7), lambda: iter([5, 6]), np.array([5, 6]), array.array("q", [5, 6]), [np.int64(5), np.int32(6)]],
)  # fmt: skip
def test_timestamps_come_in_many_shapes(log, timestamps):
    log.append_many([b"a", b"b"], timestamps=timestamps() if callable(timestamps) else timestamps)
    assert log.read(0).timestamps.tolist() == [5, 6]


def test_lists_of_different_lengths_are_refused_and_the_lengths_are_named(log):
    for arguments in (([b"a"] * 3, [b"k"] * 2), ([b"a"] * 3, None, [None] * 4), ([b"a"] * 3, None, None, [1])):
        with pytest.raises(ValueError, match="there are 3 values and"):
            log.append_many(*arguments)
    assert log.next_offset == 0


def test_the_list_given_is_not_changed_and_may_change_afterwards(log):
    values = [bytearray(b"one"), b"two", None, memoryview(b"three")]
    before = list(values)
    log.append_many(values)
    assert all(a is b for a, b in zip(values, before))
    values[0][:] = b"XXX"
    values.clear()
    assert log.read(0).values.tolist() == [b"one", b"two", None, b"three"]


def test_a_list_that_changes_during_the_call_costs_nothing_but_its_changes(tmp_path, rng):
    """The clock is the user's code; another thread would do the same between two frames."""
    values = [rng.randbytes(100) for _ in range(3000)]
    given = []

    def clock():
        given.clear()
        given.extend(bytes(100) for _ in range(10_000))
        return 0

    with Log(tmp_path, clock=clock, batch_bytes=1024, segment_bytes=65_536) as log:
        given[:] = [bytes(bytearray(value)) for value in values]
        log.append_many(given)
        stored = [record.value for record in log.records()]
    assert stored == values


def test_a_record_over_the_limit_is_refused_with_its_size_its_place_and_nothing_is_written(tmp_path):
    with Log(tmp_path, record_bytes_max=1000) as log:
        for arguments in (
            (b"x" * 1001,),
            (b"x" * 500, b"k" * 501),
            (b"x" * 500, None, {"h": b"y" * 501}),
            (None, b"k" * 1001),
        ):
            with pytest.raises(RecordTooLarge) as caught:
                log.append(*arguments)
            assert (caught.value.limit, caught.value.index) == (1000, 0)
            assert caught.value.size > 1000
        with pytest.raises(RecordTooLarge) as caught:
            log.append_many([b"fits", b"x" * 1001, b"fits"])
        assert (caught.value.size, caught.value.limit, caught.value.index, caught.value.accepted) == (1001, 1000, 1, 0)
        assert log.next_offset == 0
        log.append(b"x" * 1000)
        log.append(b"x" * 500, b"k" * 500)
        assert log.next_offset == 2


def test_an_error_in_the_middle_says_how_many_records_were_accepted(tmp_path):
    values = [b"x" * 100] * 100 + [b"y" * 2000]
    with Log(tmp_path, record_bytes_max=1000, batch_bytes=1024) as log:
        with pytest.raises(RecordTooLarge) as caught:
            log.append_many(values)
        assert caught.value.accepted == log.next_offset
        assert 0 < log.next_offset <= 100
        assert [r.value for r in log.records()] == values[: log.next_offset]
