"""Columns are views of the file: read-only, not copied, and good for as long as anybody holds them, whatever happens to it."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seglog
from seglog.engine.batch import Frames

TICK = np.dtype([("at", "<i8"), ("price", "<f4"), ("lot", "<u2", (3,)), ("side", "S1")])


def ticks(n, first=0):
    made = np.zeros(n, TICK)
    made["at"] = np.arange(first, first + n)
    made["price"] = made["at"] / 2
    made["lot"] = made["at"][:, None] + np.arange(3)
    made["side"] = b"b"
    return made


@pytest.fixture
def topic(store) -> seglog.Topic:
    return store.topic("ticks", dtype=TICK, segment_bytes=65_536)


def everything(topic):
    return np.concatenate([batch.values for batch in topic.batches()])


def is_view(array):
    """Whether its memory is somebody else's: a batch's, that is a file's."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return isinstance(array.base, Frames) or (isinstance(array.base, memoryview) and isinstance(array.base.obj, Frames))


def test_values_that_nobody_checks_are_not_told_when_they_rot_but_frames_are(store):
    topic = store.topic("numbers", dtype="<i8")
    topic.send_many(np.arange(1000, 2000))
    topic.send_many(np.arange(5000, 6000))
    (path,) = (Path(store.path) / "topics" / "numbers").rglob("*.log")
    with open(path, "r+b") as file:
        file.seek(path.read_bytes().index((1500).to_bytes(8, "little")))
        file.write((7).to_bytes(8, "little"))
    with pytest.raises(seglog.CorruptBatch, match="its body"):
        list(topic.batches())
    first, second = topic.batches(check_hashes=False)
    assert first.values[500] == 7
    assert (second.values == np.arange(5000, 6000)).all()
    with open(path, "r+b") as file:
        file.seek(4096 + 16)  # what the first frame says of how many records it has
        file.write((1001).to_bytes(4, "little"))
    with pytest.raises(seglog.CorruptBatch, match="its header"):
        list(topic.batches(check_hashes=False))


# ---- topics with a dtype ----------------------------------------------------------------------------


def test_a_topic_with_a_dtype_gives_arrays_of_it_that_are_views(topic):
    for first in range(0, 3000, 1000):
        topic.send_many(ticks(1000, first))
    batches = list(topic.batches())
    assert [len(batch) for batch in batches] == [1000] * 3
    for batch in batches:
        assert (batch.values.dtype, batch.values.shape, batch.values.flags.writeable) == (TICK, (1000,), False)
        assert is_view(batch.values)
        assert batch.values is batch.values
        with pytest.raises(ValueError, match="read-only"):
            batch.values["price"][0] = 1
    assert (everything(topic) == ticks(3000)).all()
    assert topic.dtype == TICK
    part = topic.read_batch(offset=1500, max_records=7)
    assert (part.values == ticks(7, 1500)).all()
    assert is_view(part.values)
    assert part.raw.tolist() == [tick.tobytes() for tick in ticks(7, 1500)]


def test_records_that_were_sent_one_by_one_are_one_view_too(topic):
    for tick in ticks(100):
        topic.send(tick)
    (batch,) = topic.batches()
    assert (batch.values == ticks(100)).all()
    assert is_view(batch.values)
    for start in (0, 1, 98, 99):
        part = topic.read_batch(offset=start)
        assert (part.values == ticks(100)[start:]).all()


def test_records_with_keys_of_several_sizes_are_put_together_once(topic):
    for number, tick in enumerate(ticks(100)):
        topic.send(tick, key=b"k" * (number % 20))
    (batch,) = topic.batches()
    assert (batch.values == ticks(100)).all()
    assert not is_view(batch.values)
    assert not batch.values.flags.writeable
    assert batch.values is batch.values
    assert batch.keys.tolist() == [b"k" * (number % 20) for number in range(100)]


@pytest.mark.parametrize(
    "dtype", ["<i8", ">i4", "<f2", "S5", "?", "V7", "<M8[us]", "<U2", "c16", [("n", [("x", "f4"), ("y", ">f8")])],
              np.dtype([("a", "i1"), ("b", "f8")], align=True)], ids=str,
)  # fmt: skip
def test_a_dtype_is_written_down_and_found_again_by_whoever_opens_the_topic(path, dtype):
    dtype = np.dtype(dtype)
    values = np.frombuffer(bytes(range(200))[: dtype.itemsize * 5], dtype)
    with seglog.open(path) as store:
        topic = store.topic("typed", dtype=dtype)
        topic.send_many(values.view("V8") if dtype.kind == "U" else values.reshape(-1, 1) if dtype.itemsize == 1 else values)
        assert topic.config.dtype in str(store.topic("typed", dtype=dtype).config)
        with pytest.raises(seglog.TopicMismatch):
            store.topic("typed", dtype="<u8")
    with seglog.open(path) as store:
        topic = store.topic("typed")
        assert topic.dtype == dtype
        (batch,) = topic.batches()
        assert (batch.values.dtype, batch.values.tobytes()) == (dtype, values.tobytes())
        assert seglog.TopicConfig.from_json(topic.config.to_json()) == topic.config


@pytest.mark.parametrize("dtype", ["O", "S0", "V0", [("a", "O")], "nonsense", "[1]", "[", 7.5, ("f4", 3), "T", []], ids=str)
def test_what_no_record_can_be_is_no_dtype(store, dtype):
    with pytest.raises(seglog.ConfigError) as caught:
        store.topic("typed", dtype=dtype)
    assert caught.value.setting == "dtype"
    assert store.topics() == []


def test_a_record_larger_than_allowed_is_no_dtype_either(store):
    with pytest.raises(seglog.ConfigError, match="record_bytes_max"):
        store.topic("typed", dtype="S101", record_bytes_max=100)


def test_a_value_of_another_size_is_refused_however_it_is_sent(store):
    topic = store.topic("numbers", dtype="<f8")
    good = bytes(8)
    for wrong in (b"1234567", b"123456789", b"", None):
        with pytest.raises(ValueError, match="dtype"):
            topic.send(wrong)
        with pytest.raises(ValueError, match="dtype"):
            topic.send(wrong, key=b"k", headers={"h": b"1"})
        with pytest.raises(ValueError, match="record 1"):
            topic.send_many([good, wrong])
        with pytest.raises(ValueError, match="dtype"), store.transaction() as tx:
            topic.send(good, tx=tx)
            topic.send(wrong, tx=tx)
        with pytest.raises(ValueError, match="dtype"), store.transaction() as tx:
            topic.send_many([good, wrong], tx=tx)
    with pytest.raises(ValueError, match="dtype"):
        topic.send_many(np.zeros((3, 7), "u1"))
    with pytest.raises(ValueError, match="multiple"):
        topic.claim(12)
    with pytest.raises(ValueError, match="multiple"):
        topic.claim(0)
    assert topic.next_offset() == 0


def test_numbers_of_another_kind_are_refused_and_bytes_of_the_right_width_are_not(store):
    topic = store.topic("numbers", dtype="<f8")
    with pytest.raises(TypeError, match="int64"):
        topic.send_many(np.arange(3))
    with pytest.raises(TypeError, match=">f8"), store.transaction() as tx:
        topic.send_many(np.zeros(3, ">f8"), tx=tx)
    assert topic.next_offset() == 0
    topic.send_many(np.array([1.5, 2.5]))
    topic.send_many(np.array([3.5]).view("u1").reshape(1, 8))
    topic.send_many(np.array([4.5]).view("V8"))
    topic.send(np.float64(5.5))
    topic.send_many([np.float64(6.5).tobytes()])
    topic.send_many(np.zeros((0, 8), "u1"))
    assert everything(topic).tolist() == [1.5, 2.5, 3.5, 4.5, 5.5, 6.5]


def test_a_claim_on_it_is_an_array_of_records(topic):
    claim = topic.claim(10 * TICK.itemsize)
    with claim as array:
        array[:] = ticks(10)
    array[:] = 0
    assert (everything(topic) == ticks(10)).all()
    assert claim.position == (0, 0)
    with pytest.raises(ValueError, match="10 records"):
        topic.claim(10 * TICK.itemsize, b"key")
    with topic.claim(TICK.itemsize, b"key") as array:
        array[:] = ticks(1, 10)
    assert (everything(topic) == ticks(11)).all()


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_arrays_come_back_as_arrays(store, codec):
    topic = store.topic("squeezed", dtype=TICK, codec=codec)
    topic.send_many(ticks(1000), keys=[b"key"] * 1000)
    topic.send_many(ticks(10, 1000))
    assert (everything(topic) == ticks(1010)).all()
    assert (topic.read_batch(offset=500, max_records=5).values == ticks(5, 500)).all()
    assert not topic.read_batch(offset=500).values.flags.writeable


def test_a_record_that_is_not_of_the_dtype_is_told_and_its_bytes_can_be_had(store):
    """Only a writer that does not know of the dtype could have written it: nothing crashes."""
    from seglog.engine.log import Log

    plain = store.topic("numbers", dtype="<f8")
    foreign = Log(plain.logs[0].path, liveness=plain.logs[0].liveness, topic="numbers")
    for values in ([b"1234567", b"12"], [b"1234567"], [None], [bytes(8), None]):
        start = foreign.next_offset
        foreign.append_many(values)
        batch = plain.read_batch(offset=start)
        with pytest.raises(ValueError, match="dtype"):
            batch.values  # noqa: B018
        assert batch.raw.tolist() == values
        assert [record.value for record in batch] == values
    foreign.append(bytes(8))
    assert plain.read_batch(offset=foreign.next_offset - 1).values.tolist() == [0.0]
    foreign.close()


def test_a_table_and_the_last_record_of_a_key_are_bytes_as_ever(store):
    topic = store.topic("prices", dtype="<f8")
    topic.send(np.float64(1.5), key=b"tea")
    topic.send(np.float64(2.5), key=b"tea")
    with topic.table() as table:
        assert dict(table) == {b"tea": np.float64(2.5).tobytes()}
    assert topic.latest(b"tea").value == np.float64(2.5).tobytes()


def test_the_values_of_a_batch_may_be_sent_on_with_their_times(store, topic):
    topic.send_many(ticks(500), timestamps=np.arange(500))
    topic.send_many(ticks(500, 500))
    other = store.topic("other", dtype=TICK)
    for batch in topic.batches():
        other.send_many(batch.values, timestamps=batch.timestamps)
    assert (everything(other) == ticks(1000)).all()
    assert [r.timestamp for r in other.read()] == [r.timestamp for r in topic.read()]


# ---- offsets and times ------------------------------------------------------------------------------


def test_timestamps_are_a_view_where_the_file_has_them(topic):
    times = np.arange(1000) * 7 - 50
    topic.send_many(ticks(1000), timestamps=times)
    topic.send_many(ticks(5))
    batch = topic.read_batch(offset=0)
    assert is_view(batch.timestamps)
    assert (batch.timestamps == times).all()
    part = topic.read_batch(offset=900, max_records=50)
    assert (part.timestamps == times[900:950]).all()
    assert (part.offsets == np.arange(900, 950)).all()
    same = topic.read_batch(offset=1000)
    assert len(set(same.timestamps.tolist())) == 1
    for array in (batch.timestamps, same.timestamps, batch.offsets):
        assert (array.dtype, array.flags.writeable, array.flags.c_contiguous) == (np.int64, False, True)
    assert batch.offsets is batch.offsets
    assert batch.timestamps is batch.timestamps


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="looks there")
def test_the_map_goes_with_the_last_view_and_does_not_wait_for_the_garbage(path):
    gc.disable()
    try:
        with seglog.open(path) as store:
            topic = store.topic("ticks", dtype=TICK)
            topic.send_many(ticks(1000), timestamps=range(1000))
            topic.send_many(ticks(1000))
            batches = list(topic.batches())
        del topic, store
        gc.collect()
        for batch in batches:
            last = batch.values, batch.timestamps, batch.offsets, batch.raw.data
        del batches, batch
        assert Path("/proc/self/maps").read_text().count(str(path)) == 1
        del last
        assert Path("/proc/self/maps").read_text().count(str(path)) == 0
    finally:
        gc.enable()


# ---- lifetime ---------------------------------------------------------------------------------------


def held(topic):
    """Views of everything, and what they say now, copied."""
    views = []
    for batch in topic.batches():
        values = batch.values
        if not isinstance(values, np.ndarray):
            views += [values.data, values.starts, values.ends]
        else:
            views += [values]
        views += [batch.offsets, batch.timestamps, batch.keys.data]
    return [(view, view.copy()) for view in views]


def same(views):
    gc.collect()
    return all(view.tobytes() == copy.tobytes() for view, copy in views)


@pytest.fixture(params=["<i8", None], ids=["dtype", "bytes"])
def keyed(request, store):
    topic = store.topic("keyed", dtype=request.param, compact=True, segment_bytes=65_536, tombstone_grace=0.001)
    for first in range(0, 20_000, 500):
        topic.send_many(np.arange(first, first + 500), keys=[b"%d" % (n % 7) for n in range(500)], timestamps=np.arange(500))
    return topic


def test_views_outlive_a_trim_and_retention(keyed):
    views = held(keyed)
    keyed.trim(before=19_999)
    assert keyed.first_offset() == 19_999
    assert same(views)


def test_views_outlive_compaction(keyed):
    views = held(keyed)
    assert keyed.compact().records_removed > 10_000
    assert same(views)


def test_views_outlive_the_store_and_its_files(store, keyed):
    views = held(keyed)
    store.delete_topic("keyed")
    store.close()
    assert same(views)


def test_views_outlive_the_retention_that_upkeep_does(path):
    clock = seglog.ManualClock(1_000_000_000)
    with seglog.open(path, clock=clock, upkeep=False) as store:
        topic = store.topic("short", dtype="<i8", retention=10, segment_bytes=65_536)
        for first in range(0, 20_000, 1000):
            topic.send_many(np.arange(first, first + 1000), keys=[b"k"] * 1000)
        views = held(topic)
        clock.advance(100)
        topic.send(np.int64(1), key=b"k")
        store.upkeep()
        assert topic.first_offset() > 10_000
        assert same(views)


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
def test_views_are_good_in_a_forked_child(path):
    program = f"""
import os, numpy as np, seglog
store = seglog.open({str(path)!r})
topic = store.topic("numbers", dtype="<i8")
topic.send_many(np.arange(1000))
view = topic.read_batch(offset=0).values
pid = os.fork()
if pid == 0:
    topic.send_many(np.arange(1000, 2000))
    ok = (view == np.arange(1000)).all() and (topic.read_batch(offset=1000).values == np.arange(1000, 2000)).all()
    os._exit(0 if ok else 7)
assert os.waitpid(pid, 0)[1] == 0
assert (view == np.arange(1000)).all() and topic.next_offset() == 2000
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sends=st.lists(st.tuples(st.integers(0, 60), st.booleans(), st.booleans(), st.booleans()), max_size=8),
    start=st.integers(0, 100),
    most=st.integers(1, 100),
)
def test_arrays_out_are_the_arrays_that_went_in(store, sends, start, most):
    topic = store.topic("numbers", dtype="<i8")
    first = topic.next_offset()
    expected, times = [], []
    for n, one_by_one, keys, timestamps in sends:
        numbers = np.arange(first + len(expected), first + len(expected) + n)
        stamps = numbers * 3 if timestamps else np.full(n, 5)
        for part, stamp in zip(np.split(numbers, n), np.split(stamps, n)) if one_by_one and n else [(numbers, stamps)]:
            topic.send_many(part, keys=[b"k" * (x % 3) for x in part.tolist()] if keys else None, timestamps=stamp)
        expected += numbers.tolist()
        times += stamps.tolist()
    start = min(start, len(expected))
    found, found_times, found_offsets = [], [], []
    for batch in topic.batches(first + start, max_records=most):
        assert len(batch) <= most
        found += batch.values.tolist()
        found_times += batch.timestamps.tolist()
        found_offsets += batch.offsets.tolist()
    assert found == expected[start:] == found_offsets
    assert found_times == times[start:]
