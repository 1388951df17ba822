"""What is sent as arrays arrives as records: numpy, a buffer with offsets, Arrow of any library; what is none, not at all."""

import array
import ctypes
import gc
import itertools
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seglog

pa = pytest.importorskip("pyarrow")
pl = pytest.importorskip("polars")


@pytest.fixture
def topic(store) -> seglog.Topic:
    return store.topic("things")


def values(topic, start="earliest"):
    return [record.value for record in topic.read(start)]


def pairs(topic):
    return [(record.key, record.value) for record in topic.read()]


# ---- numpy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype="u1").reshape(4, 3),
        np.array([1.5, 2.5]),
        np.array([1, 2], ">i4"),
        np.array([(1, 2.0), (3, 4.0)], [("Offset", "i4"), ("O", "f8")]),
        np.array(["2026-01-01", "2027-01-01"], "M8[us]"),
        np.array([(1, "2026-01-01")], [("n", "i4"), ("at", "M8[s]")]),
        np.array([b"ab", b"c"], "S2"),
        np.zeros((3, 0), "u1"),
        np.zeros((0, 7), "u1"),
        np.arange(24, dtype="i2").reshape(2, 3, 4),
    ],
    ids=str,
)
def test_each_row_of_an_array_is_a_record(topic, array):
    topic.send_many(array)
    assert values(topic) == [array[i : i + 1].tobytes() for i in range(len(array))]


def test_the_name_of_a_field_says_nothing_about_what_it_is(topic):
    class Place(ctypes.Structure):
        _fields_ = [("Origin", ctypes.c_int32), ("O", ctypes.c_int32)]

    topic.send_many((Place * 2)((1, 2), (3, 4)))
    assert values(topic) == [np.array(pair, "i4").tobytes() for pair in ((1, 2), (3, 4))]


def test_an_array_of_objects_counts_as_the_list_of_them(topic):
    topic.send_many(np.array([b"one", None, b"three"], object))
    assert values(topic) == [b"one", None, b"three"]


@pytest.mark.parametrize(
    ("array", "error", "words"),
    [
        (np.zeros((4, 6), "u1")[:, ::2], ValueError, "ascontiguousarray"),
        (np.zeros((4, 6), "u1").T, ValueError, "ascontiguousarray"),
        (np.arange(8)[::2], ValueError, "ascontiguousarray"),
        (np.array([(1, b"x")], [("a", "i4"), ("b", object)]), TypeError, "no bytes of its own"),
        (np.array(["text"]), TypeError, "no bytes of its own"),
        (np.array([["a", "b"]], object), TypeError, "no bytes of its own"),
        (np.arange(3, dtype="u1"), TypeError, "rows"),
        (np.array(3), TypeError, "rows"),
    ],
    ids=["strided", "transposed", "every second", "objects within", "text", "objects in rows", "bytes", "a scalar"],
)
def test_an_array_that_has_no_such_rows_is_refused_whole(topic, array, error, words):
    with pytest.raises(error, match=words):
        topic.send_many(array)
    assert topic.next_offset() == 0


def test_timestamps_may_be_datetime64_or_arrow_of_any_unit(topic):
    moment = np.array(["2026-01-01T00:00:01", "1969-12-31T23:59:58.5"], "M8[ms]")
    micros = [1767225601_000_000, -1_500_000]
    for times in (moment, moment.astype("M8[ns]"), pa.array(moment), pa.array(moment).cast(pa.timestamp("ns", "UTC")),
                  pa.chunked_array([pa.array(moment[:1]), pa.array(moment[1:])]), pl.Series(moment), pa.array(micros)):  # fmt: skip
        before = topic.next_offset()
        topic.send_many([b"a", b"b"], timestamps=times)
        assert [record.timestamp for record in topic.read(before)] == micros
    before = topic.next_offset()
    topic.send_many([b"a", b"b"], timestamps=pa.array([-1, -1001], pa.timestamp("ns")))
    assert [record.timestamp for record in topic.read(before)] == [-1, -2]  # never later than it was


@pytest.mark.parametrize(
    ("times", "error"),
    [
        (np.array(["NaT", "2026"], "M8[us]"), ValueError),
        (pa.array([1, None]), ValueError),
        (pa.array([1, 2**62], pa.timestamp("s")), ValueError),
        (pa.array([b"1", b"2"]), TypeError),
        (pa.array([1.0, 2.0]), TypeError),
        (pa.array([1, 2], pa.int32()), TypeError),
        (np.array([1.0, 2.0]), TypeError),
        (pa.array([1, 2, 3]), ValueError),
    ],
    ids=str,
)
def test_timestamps_that_are_none_are_refused(topic, times, error):
    with pytest.raises(error):
        topic.send_many([b"a", b"b"], timestamps=times)
    assert topic.next_offset() == 0


# ---- a buffer with offsets --------------------------------------------------------------------------


def test_a_buffer_with_offsets_is_sent_as_it_lies(topic):
    data = bytearray(b"..onetwothree..")
    for offsets in (np.array([2, 5, 8, 13], "i4"), np.array([2, 5, 8, 13], "i8"), array.array("i", [2, 5, 8, 13])):
        topic.send_many(seglog.Packed(data, offsets), keys=seglog.Packed(b"abbccc", np.array([0, 1, 3, 6])))
    topic.send_many(seglog.Packed(b"xyz", np.array([1, 0]), np.array([3, 0])))
    assert values(topic) == [b"one", b"two", b"three"] * 3 + [b"yz", b""]
    assert {record.key for record in topic.read(stop=9)} == {b"a", b"bb", b"ccc"}


def test_frames_of_a_buffer_with_offsets_end_where_they_are_full(store, rng):
    topic = store.topic("small", batch_bytes=4096)
    sizes = [rng.randrange(200) for _ in range(1000)]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    data = rng.randbytes(int(offsets[-1]))
    for kind in ("i4", "i8"):
        topic.send_many(seglog.Packed(data, offsets.astype(kind)))
    expected = [data[a:b] for a, b in itertools.pairwise(offsets)]
    assert values(topic) == expected * 2
    assert topic.statistics().partitions[0].next_offset == 2000


@pytest.mark.parametrize(
    ("offsets", "error"),
    [
        (np.array([0, 5, 3]), ValueError),
        (np.array([0, 7]), ValueError),
        (np.array([-1, 3]), ValueError),
        (np.array([], "i8"), ValueError),
        (np.array([0, 3], ">i8"), TypeError),
        (np.array([0, 3], "u4"), TypeError),
        (np.array([0.0, 3.0]), TypeError),
        (np.arange(8)[::2], ValueError),
        ([0, 3], TypeError),
    ],
    ids=str,
)
def test_offsets_that_leave_the_buffer_or_go_down_are_refused(offsets, error):
    with pytest.raises((error, BufferError)):
        seglog.Packed(b"sixsix", offsets)


# ---- Arrow ------------------------------------------------------------------------------------------

THINGS = [b"one", None, b"", b"a value of more than twelve bytes", b"\xc3\xa9"]
TEXTS = [None if thing is None else thing.decode() for thing in THINGS]


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.string(), pa.large_string(), pa.string_view()], ids=str
)
def test_an_arrow_array_of_any_kind_of_bytes_is_sent_nulls_and_slices_included(topic, kind):
    whole = pa.array(THINGS if "binary" in str(kind) else TEXTS, kind)
    topic.send_many(whole)
    topic.send_many(whole[2:])
    topic.send_many(whole[1:3])
    topic.send_many(pa.chunked_array([whole[:2], whole[2:2], whole[3:]]))
    topic.send_many(whole[:0])
    assert values(topic) == THINGS + THINGS[2:] + THINGS[1:3] + THINGS[:2] + THINGS[3:]


def test_fixed_size_and_null_arrays_are_sent_too(topic):
    fixed = pa.array([b"abcd", None, b"efgh"], pa.binary(4))
    topic.send_many(fixed)
    topic.send_many(fixed[2:])
    topic.send_many(pa.array([b"abcd", b"efgh"], pa.binary(4))[1:])
    topic.send_many(pa.nulls(2))
    assert values(topic) == [b"abcd", None, b"efgh", b"efgh", b"efgh", None, None]


def test_a_polars_series_is_sent(topic):
    topic.send_many(pl.Series(THINGS, dtype=pl.Binary), keys=pl.Series(["k"] * 5))
    topic.send_many(pl.concat([pl.Series(["a", "b"]), pl.Series([None, "c" * 20])], rechunk=False))
    assert values(topic) == [*THINGS, b"a", b"b", None, b"c" * 20]


def test_a_table_has_its_values_keys_and_timestamps_sent(store):
    topic = store.topic("spread", partitions=3)
    table = pa.table({
        "offset": [7, 8, 9], "key": pa.array(["a", "b", None]), "value": pa.array([b"1", b"2", b"3"], pa.binary_view()),
        "timestamp": pa.array([1, 2, 3], pa.timestamp("us", "UTC")),
    })  # fmt: skip
    for sent in (table, table.to_batches()[0], table.to_reader(), pl.from_arrow(table)):
        spans = topic.send_many(sent)
        found = sorted((topic[span.partition, offset] for span in spans for offset in range(span.start, span.stop)),
                       key=lambda record: record.timestamp)  # fmt: skip
        assert [(r.key, r.value, r.timestamp) for r in found] == [(b"a", b"1", 1), (b"b", b"2", 2), (None, b"3", 3)]
        assert found[0].partition == topic.partition_of(b"a")


def test_a_keyless_stream_goes_to_one_partition_like_a_list(store):
    topic = store.topic("spread", partitions=3)
    chunks = pa.chunked_array([[b"1"], [b"2"], [b"3"]])
    assert topic.send_many(chunks) == [seglog.Span(0, 0, 3)]
    assert topic.send_many(chunks) == [seglog.Span(1, 0, 3)]


def test_keys_of_other_chunks_than_the_values_belong_to_the_same_records(topic):
    topic.send_many(pa.chunked_array([[b"1"], [b"2", None, b"4"]]), keys=pa.chunked_array([["a", "b", None], ["d"]]))
    assert pairs(topic) == [(b"a", b"1"), (b"b", b"2"), (None, None), (b"d", b"4")]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (pa.array([1, 2]), "int64"),
        (pa.array([[b"a"]]), "list"),
        (pa.array(["a", "a"]).dictionary_encode(), "dictionary"),
        (pa.table({"price": [1.0]}), "column value"),
        (pa.table({"value": [b"a"], "price": [1.0]}), "column value"),
        (pa.table({"value": [1.0]}), "float64"),
        (pa.table({"value": [b"a"], "timestamp": ["noon"]}), "timestamp"),
        (pa.table({"value": [b"a"], "key": [7]}), "int64"),
        (pa.array([{"value": b"a"}, {"value": b"b"}])[1:], "sliced"),
        (pa.array([{"value": b"a"}, None]), "nulls"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_arrow_that_is_no_bytes_is_refused_in_a_sentence(topic, given, words):
    with pytest.raises(TypeError, match=words):
        topic.send_many(given)
    assert topic.next_offset() == 0


def test_a_table_is_no_column_of_keys_and_the_lengths_must_agree(topic):
    with pytest.raises(TypeError, match="not a table"):
        topic.send_many([b"a"], keys=pa.table({"key": [b"a"]}))
    with pytest.raises(ValueError, match="2 values and 1 keys"):
        topic.send_many(pa.array([b"a", b"b"]), keys=pa.array([b"a"]))
    assert topic.next_offset() == 0


class Handmade:
    """An Arrow array that no library would make: the two structs, filled by hand."""

    class Schema(ctypes.Structure):
        _fields_ = [(name, ctypes.c_char_p) for name in ("format", "name", "metadata")] + [
            (name, ctypes.c_void_p) for name in ("flags", "n_children", "children", "dictionary", "release", "private")
        ]  # fmt: skip

    class Array(ctypes.Structure):
        _fields_ = [(name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")] + [
            (name, ctypes.c_void_p) for name in ("buffers", "children", "dictionary", "release", "private")
        ]  # fmt: skip

    released = 0

    def __init__(self, format, length, *buffers, offset=0):
        self.raw = [None if one is None else ctypes.create_string_buffer(bytes(one), len(bytes(one)) + 1) for one in buffers]
        places = (ctypes.c_void_p * len(buffers))(*(one and ctypes.addressof(one) for one in self.raw))
        self.let_go = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.release)
        release = ctypes.cast(self.let_go, ctypes.c_void_p).value
        self.schema = self.Schema(format, b"", None, 2, 0, None, None, release)
        self.array = self.Array(length, 0, offset, len(buffers), 0, ctypes.addressof(places), None, None, release)
        self.places = places

    def release(self, struct):
        self.released += 1

    def __arrow_c_array__(self, requested=None):
        capsule = ctypes.pythonapi.PyCapsule_New
        capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return (
            capsule(ctypes.addressof(self.schema), b"arrow_schema", None),
            capsule(ctypes.addressof(self.array), b"arrow_array", None),
        )


def ints(*numbers, kind="i4"):
    return np.array(numbers, kind).tobytes()


def sizes(*numbers):
    return ints(*numbers, kind="i8")


def test_an_array_made_by_hand_is_sent_and_let_go(topic):
    for good, expected in (
        (Handmade(b"z", 2, None, ints(0, 3, 6), b"onetwo"), [b"one", b"two"]),
        (Handmade(b"z", 1, None, ints(0, 3, 6), b"onetwo", offset=1), [b"two"]),
        (Handmade(b"w:3", 1, None, b"onetwo", offset=1), [b"two"]),
        (Handmade(b"vz", 1, None, ints(3, 0, 0, 0), sizes()), [bytes(3)]),
        (Handmade(b"z", 0, None, None, None), []),
    ):
        before = topic.next_offset()
        topic.send_many(good)
        assert values(topic, before) == expected
        assert good.released == 2


@pytest.mark.parametrize(
    "broken",
    [
        Handmade(b"z", 2, None, ints(0, 5, 3), b"sixsix"),
        Handmade(b"z", 2, None, ints(-1, 5, 6), b"sixsix"),
        Handmade(b"Z", 2, None, sizes(3, 2, 6), b"sixsix"),
        Handmade(b"Z", 2, None, sizes(-3, 2, 6), b"sixsix"),
        Handmade(b"z", 2, None, ints(0, 3, 6), None),
        Handmade(b"z", 2, None, None, b"sixsix"),
        Handmade(b"z", 2, None, ints(0, 3, 6)),
        Handmade(b"z", -1, None, ints(0), b""),
        Handmade(b"z", 1, None, ints(0, 1), b"x", offset=-1),
        Handmade(b"w:4", 1, None, None),
        Handmade(b"w:-4", 1, None, b"abcd"),
        Handmade(b"vz", 1, None, ints(20, 0, 0, 0), b"s" * 19, sizes(19)),
        Handmade(b"vz", 1, None, ints(20, 0, 1, 0), b"s" * 20, sizes(20)),
        Handmade(b"vz", 1, None, ints(20, 0, -1, 0), b"s" * 20, sizes(20)),
        Handmade(b"vz", 1, None, ints(20, 0, 0, 1), b"s" * 20, sizes(20)),
        Handmade(b"vz", 1, None, ints(20, 0, 0, -1), b"s" * 20, sizes(20)),
        Handmade(b"vz", 1, None, ints(-1, 0, 0, 0), b"s" * 20, sizes(20)),
    ],
    ids=["down", "below 0", "large, down", "large, below 0", "no data", "no offsets", "too few buffers", "a negative length",
         "a negative offset", "no items", "a negative width", "a long view", "no such buffer", "a buffer below 0", "a view behind",
         "a view before", "a view of -1"],
)  # fmt: skip
def test_an_arrow_array_whose_offsets_lie_is_refused_and_let_go(topic, broken):
    with pytest.raises(ValueError):
        topic.send_many(broken)
    assert topic.next_offset() == 0
    assert broken.released == 2


def failing(chunks):
    """A stream that raises after so many chunks."""

    def batches():
        for number in range(chunks):
            yield pa.record_batch({"value": [b"%d" % number] * 3})
        raise RuntimeError("the source went away")

    return pa.RecordBatchReader.from_batches(pa.schema({"value": pa.binary()}), batches())


def test_a_stream_that_fails_midway_says_so_and_how_many_records_went_before(topic):
    with pytest.raises(OSError, match="the source went away") as caught:
        topic.send_many(failing(2))
    assert caught.value.accepted == 6
    assert values(topic) == [b"0"] * 3 + [b"1"] * 3


def test_in_a_transaction_a_stream_that_fails_leaves_nothing(store, topic):
    with pytest.raises(OSError, match="the source went away"), store.transaction() as tx:
        topic.send_many(failing(2), tx=tx)
    assert topic.next_offset() == 0
    with store.transaction() as tx:
        assert topic.send_many(pa.chunked_array([[b"1"], [b"2"]]), tx=tx) == []
    assert values(topic) == [b"1", b"2"]


def test_a_record_above_the_limit_is_refused_and_those_before_it_are_counted(store):
    topic = store.topic("small", record_bytes_max=100)
    stream = pa.chunked_array([[b"a"], [b"b", b"x" * 101]])
    with pytest.raises(seglog.RecordTooLarge) as caught:
        topic.send_many(stream)
    assert caught.value.accepted == 1
    for sent in (np.zeros((2, 101), "u1"), pa.array([b"x" * 101]), seglog.Packed(b"x" * 101, np.array([0, 101]))):
        with pytest.raises(seglog.RecordTooLarge):
            topic.send_many(sent)
    assert values(topic) == [b"a"]


def test_conditions_hold_for_a_whole_stream(topic):
    assert topic.send_many(pa.chunked_array([[b"1"], [b"2"]]), expected_offset=0) == [seglog.Span(0, 0, 2)]
    with pytest.raises(seglog.VersionConflict):
        topic.send_many(pa.chunked_array([[b"1"], [b"2"]]), expected_offset=0)
    assert topic.next_offset() == 2


def test_a_closed_topic_takes_no_array(path):
    with seglog.open(path) as store:
        topic = store.topic("things")
    for sent in (np.zeros((2, 2), "u1"), pa.array([b"a"]), pa.chunked_array([[b"a"]]), seglog.Packed(b"a", np.array([0, 1]))):
        with pytest.raises(seglog.ClosedError):
            topic.send_many(sent)


def test_an_arrow_array_is_let_go_after_the_send(topic):
    gc.collect()  # what other tests left
    before = pa.total_allocated_bytes()
    given = pa.array([b"x" * 100] * 1000)
    topic.send_many(given)
    topic.send_many(pa.chunked_array([given, given]))
    del given
    assert pa.total_allocated_bytes() <= before


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_arrays_are_compressed_where_the_topic_is(store, codec):
    topic = store.topic("squeezed", codec=codec)
    topic.send_many(np.zeros((1000, 100), "u1"))
    topic.send_many(pa.array([b"\0" * 100] * 1000))
    assert values(topic) == [bytes(100)] * 2000
    assert (sum(batch.nbytes for batch in topic.batches()) < 100_000) == (codec == "zstd")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    things=st.lists(st.one_of(st.none(), st.binary(max_size=30)), max_size=40),
    cut=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    batch_bytes=st.sampled_from([4096, 262_144]),
)
def test_a_list_a_buffer_an_array_and_arrow_of_every_kind_become_the_same_records(store, things, cut, batch_bytes):
    topic = store.topic(f"same-{batch_bytes}", batch_bytes=batch_bytes)
    at, to = sorted(min(c, len(things)) for c in cut)
    whole = [b"" if thing is None else thing for thing in things]
    offsets = np.cumsum([0, *map(len, whole)])
    shapes = [
        (things, things),
        (seglog.Packed(b"".join(whole), offsets.astype("i4")), whole),
        (seglog.Packed(b"".join(whole), offsets), whole),
        (np.frombuffer(b"".join(w.ljust(30) for w in whole), "u1").reshape(-1, 30), [w.ljust(30) for w in whole]),
    ]
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        array = pa.array(things, kind)
        shapes += [(array, things), (array[at:to], things[at:to])]
        shapes += [(pa.chunked_array([array[:at], array[at:]]), things), (pa.table({"value": array, "key": array}), things)]
    for sent, expected in shapes:
        before = topic.next_offset()
        topic.send_many(sent)
        assert values(topic, before) == expected, sent
        topic.send_many(expected, keys=sent if not isinstance(sent, pa.Table) else sent["value"])
        assert [record.key for record in topic.read(topic.next_offset() - len(expected))] == expected


# ---- claims -----------------------------------------------------------------------------------------


def test_a_claim_is_published_when_its_block_ends_and_not_before(topic):
    claim = topic.claim(1000, key=b"k", headers={"h": b"1"}, timestamp=7)
    with claim as view:
        assert (len(view), view.readonly, bytes(view)) == (1000, False, bytes(1000))
        view[:] = b"x" * 1000
        assert topic.next_offset() == 0
        assert claim.position is None
    record = topic[claim.position]
    assert (record.key, record.headers, record.timestamp, record.value) == (b"k", {"h": b"1"}, 7, b"x" * 1000)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, 40_000, 3_000_000])
def test_a_claim_may_be_of_any_size(topic, rng, size):
    content = rng.randbytes(size)
    for key in (None, b"", b"key"):
        claim = topic.claim(size, key)
        with claim as view:
            view[:] = content
        assert (topic[claim.position].key, topic[claim.position].value) == (key, content)


def test_a_claim_whose_block_raises_is_abandoned(topic):
    claim = topic.claim(10)
    with pytest.raises(RuntimeError, match="changed"), claim as view:
        view[:] = b"0123456789"
        raise RuntimeError("changed my mind")
    assert (topic.next_offset(), claim.position) == (0, None)
    with pytest.raises(ValueError, match="once"):
        claim.__enter__()


def test_a_view_that_outlives_its_claim_writes_into_nobodys_record(topic):
    claim = topic.claim(800)
    with claim as view:
        numbers = np.frombuffer(view, np.int64)
        numbers[:] = range(100)
    numbers[:] = -1
    with topic.claim(800) as view:
        view[:] = b"x" * 800
    assert values(topic) == [np.arange(100).tobytes(), b"x" * 800]
    assert set(numbers) == {-1}
    with pytest.raises(ValueError, match="released"), topic.claim(5) as view:
        view[:] = b"12345"
        view.release()
        view[0]


def test_others_send_while_a_claim_is_open(store, topic):
    with topic.claim(3) as view:
        topic.send(b"inside")
        thread = threading.Thread(target=topic.send, args=[b"beside"])
        thread.start()
        thread.join()
        with topic.claim(5) as inner:
            inner[:] = b"inner"
        view[:] = b"own"
    assert values(topic) == [b"inside", b"beside", b"inner", b"own"]


def test_a_claim_in_a_transaction_is_there_when_that_commits(store, topic):
    with store.transaction() as tx:
        claim = topic.claim(3, b"k", tx=tx)
        with claim as view:
            view[:] = b"yes"
        assert topic.next_offset() == 0
    assert pairs(topic) == [(b"k", b"yes")]


def test_a_claim_goes_where_its_key_belongs_and_is_compressed_like_a_send(store):
    topic = store.topic("spread", partitions=4, codec="zstd")
    claim = topic.claim(1000, b"k", {"h": b"1"})
    with claim as view:
        view[:] = b"x" * 1000
    assert claim.position.partition == topic.partition_of(b"k")
    assert topic[claim.position].value == b"x" * 1000
    assert topic[claim.position].headers == {"h": b"1"}
    turns = []
    for _ in range(4):
        claim = topic.claim(1)
        with claim:
            pass
        turns.append(claim.position.partition)
    assert sorted(turns) == [0, 1, 2, 3]


def test_what_cannot_be_claimed_is_refused_at_once(path):
    with seglog.open(path) as store:
        topic = store.topic("small", record_bytes_max=100)
        with pytest.raises(seglog.RecordTooLarge):
            topic.claim(101)
        with pytest.raises(seglog.RecordTooLarge):
            topic.claim(98, b"key")
        with pytest.raises(ValueError, match="-1"):
            topic.claim(-1)
        with pytest.raises(TypeError):
            topic.claim(1.5)
        with pytest.raises(TypeError):
            topic.claim(1, "key")
        with pytest.raises(seglog.PartitionNotFound):
            topic.claim(1, partition=1)
        claim = topic.claim(3)
        assert topic.next_offset() == 0
    with pytest.raises(seglog.ClosedError), claim as view:
        view[:] = b"abc"
    with pytest.raises(seglog.ClosedError):
        topic.claim(1)
