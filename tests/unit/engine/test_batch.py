"""A batch is a run of records in place: arrays and records taken from it cost no copy of the log and stay valid for ever."""

import gc
import itertools
import operator
import sys

import numpy as np
import pytest

from seglog.engine.batch import Batch, Column
from seglog.engine.log import Log


@pytest.fixture(params=["map", "pwrite"])
def log(request, tmp_path):
    with Log(tmp_path, write=request.param, segment_bytes=65_536, fsync="never", partition=3) as log:
        yield log


def fill(log, rng, frames=12):
    """Frames of every kind, of 1 to 9 records each; the records as (value, key, headers, timestamp)."""
    model = []
    for i in range(frames):
        n = rng.randrange(1, 10)
        values = [
            rng.choice([None, b"", rng.randbytes(rng.randrange(30))]) if i % 3 else bytes([i] * 6) for _ in range(n)
        ]
        keys = [rng.choice([None, b"", rng.randbytes(4)]) for _ in range(n)] if i % 2 else None
        headers = [{"h": bytes([j])} for j in range(n)] if i % 4 == 1 else None
        timestamps = [rng.randrange(1000) for _ in range(n)] if i % 5 else [i] * n
        if n == 1:
            log.append(values[0], keys and keys[0], headers and headers[0], timestamps[0])
        else:
            log.append_many(values, keys, headers, timestamps)
        model += zip(values, keys or [None] * n, headers or [{}] * n, timestamps)
    return model


def contents(records):
    return [(r.value, r.key, r.headers, r.timestamp) for r in records]


# -- records -------------------------------------------------------------------------------------------------------


def test_a_batch_runs_over_as_many_frames_as_fit(log, rng):
    model = fill(log, rng)
    batch = log.read(0)
    assert len(batch) == len(model)
    assert contents(batch) == model
    assert [r.offset for r in batch] == list(range(len(model)))
    assert {r.partition for r in batch} == {batch.partition} == {3}
    assert (batch.first_offset, batch.next_offset, batch.epoch) == (0, len(model), log.epoch)


def test_a_batch_may_begin_and_end_anywhere_inside_frames(log, rng):
    model = fill(log, rng)
    for start, stop in itertools.combinations(range(len(model) + 1), 2):
        for batch in (log.read(start, stop - start), log.read(start, stop=stop)):
            assert (batch.first_offset, batch.next_offset, len(batch)) == (start, stop, stop - start)
            assert batch.values.tolist() == [m[0] for m in model[start:stop]]
            assert batch.timestamps.tolist() == [m[3] for m in model[start:stop]]
            assert batch.offsets.tolist() == list(range(start, stop))
            assert batch[0].offset == start
            assert batch[-1].offset == stop - 1
            keys = [m[1] for m in model[start:stop]]
            assert (batch.keys.tolist() if batch.keys is not None else [None] * len(keys)) == keys


def test_a_batch_is_indexed_and_sliced_as_a_list_is(log, rng):
    model = fill(log, rng)
    batch = log.read(2)
    whole = list(batch)
    assert contents(whole) == model[2:]
    n = len(whole)
    for i in range(-n, n):
        assert batch[i] == whole[i]
    for i in (n, -n - 1, 2**40, -(2**40)):
        with pytest.raises(IndexError):
            batch[i]
    for a, b, step in itertools.product((None, 0, 3, -2, 99, -99), (None, 1, 5, -3, 99, -99), (None, 1, 2, -1)):
        assert batch[a:b:step] == whole[a:b:step]
    for wrong in ("a", None, (1, 2)):
        with pytest.raises(TypeError):
            batch[wrong]


def test_two_iterations_do_not_disturb_each_other(log, rng):
    fill(log, rng)
    batch = log.read(0)
    one, two = iter(batch), iter(batch)
    assert [next(one), next(one)] == [next(two), next(two)]
    assert operator.length_hint(one) == len(batch) - 2
    assert list(one) == list(two) == list(batch)[2:]
    assert list(one) == []


def test_a_batch_does_not_grow_when_the_log_does(log):
    log.append_many([b"a", b"b"])
    batch = log.read(0)
    iterator = iter(batch)
    log.append_many([b"c"])
    assert [r.value for r in iterator] == [b"a", b"b"]
    assert len(batch) == 2
    assert batch.offsets.tolist() == [0, 1]


def test_max_bytes_bounds_a_batch_but_the_first_frame_comes_whole(log):
    for i in range(20):
        log.append_many([bytes([i]) * 100] * 10)
    assert len(log.read(0, max_bytes=1)) == 10
    sizes = [len(batch) for batch in log.batches(max_bytes=2500)]
    assert sizes == [20] * 10
    for batch in log.batches(max_bytes=2500):
        assert batch.nbytes <= 2500


def test_batches_are_only_made_by_reading():
    for cls in (Batch, Column):
        with pytest.raises(TypeError, match="batches"):
            cls()


def test_a_repr_tells_where_one_is(log):
    log.append_many([b"a"] * 5, [b"k"] * 5)
    batch = log.read(1)
    assert "3:1..4" in repr(batch)
    assert "4 values" in repr(batch.values)
    assert "4 keys" in repr(batch.keys)


# -- columns -------------------------------------------------------------------------------------------------------


def test_offsets_and_timestamps_are_read_only_int64(log, rng):
    fill(log, rng)
    batch = log.read(0)
    for array in (batch.offsets, batch.timestamps, batch.values.starts, batch.values.ends):
        assert (array.dtype, array.shape) == (np.dtype(np.int64), (len(batch),))
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_data_starts_and_ends_say_where_each_value_and_key_lies(log, rng):
    model = fill(log, rng)
    batch = log.read(3, len(model) - 5)
    for column, wanted in ((batch.values, [m[0] for m in model[3:-2]]), (batch.keys, [m[1] for m in model[3:-2]])):
        data, starts, ends = column.data, column.starts, column.ends
        assert data.dtype == np.uint8
        valid = column.valid if column.valid is not None else [True] * len(batch)
        assert [bytes(data[a:b]) if v else None for a, b, v in zip(starts, ends, valid)] == wanted
        assert (starts <= ends).all()
        assert ends.max() <= len(data)


def test_valid_is_none_when_nothing_is_null_and_an_array_of_bools_otherwise(log):
    log.append_many([b"a", b"b"], [b"k", b""])
    log.append_many([b"c", None], [None, b"k"])
    assert log.read(0, 2).values.valid is None
    assert log.read(0, 2).keys.valid is None
    values, keys = log.read(0).values, log.read(0).keys
    assert values.valid.dtype == np.bool_
    assert values.valid.tolist() == [True, True, True, False]
    assert keys.valid.tolist() == [True, True, False, True]


def test_a_column_is_indexed_sliced_compared_and_iterated_as_a_list_is(log, rng):
    model = fill(log, rng)
    batch = log.read(0)
    values = [m[0] for m in model]
    assert batch.values == values
    assert batch.values == log.read(0).values
    assert batch.values != values[:-1]
    assert batch.values != log.read(1).values
    assert batch.values != 7
    assert list(batch.values) == values
    assert len(batch.values) == len(values)
    for i in range(-len(values), len(values)):
        assert batch.values[i] == values[i]
    assert batch.values[2:9:3] == values[2:9:3]
    assert batch.keys[2:9:3] == [m[1] for m in model[2:9:3]]
    with pytest.raises(IndexError):
        batch.values[len(values)]
    with pytest.raises(TypeError):
        hash(batch.values)


def test_keys_are_none_only_when_no_record_of_the_batch_has_one(log):
    log.append_many([b"a", b"b"])
    log.append_many([b"c"], [b"k"])
    log.append_many([b"d"])
    assert log.read(0, 2).keys is None
    assert log.read(0, max_bytes=1).keys is None
    assert log.read(0).keys.tolist() == [None, None, b"k", None]
    assert log.read(3).keys is None


def test_a_columns_data_is_the_log_itself_and_not_a_copy(log):
    log.append_many([b"x" * 1000] * 10)
    one, two = log.read(0).values.data, log.read(0).values.data
    assert np.shares_memory(one, two)
    with pytest.raises(ValueError, match="read-only"):
        one[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        one.flags.writeable = True


# -- how long they live --------------------------------------------------------------------------------------------


def keep(log):
    batch = log.read(0)
    return batch, batch[5], batch.values, batch.values.data, iter(batch)


def check(kept, values):
    batch, record, column, data, iterator = kept
    assert batch.values.tolist() == values
    assert [r.value for r in batch] == [r.value for r in iterator] == values
    assert (record.value, record.offset) == (values[5], 5)
    assert column[-1] == values[-1]
    assert bytes(data[column.starts[7] : column.ends[7]]) == values[7]
    assert batch.timestamps.tolist() == [9] * len(values)


@pytest.mark.parametrize("end", ["trim", "close", "delete", "unlink", "forget", "recover"])
def test_what_was_read_stays_valid(tmp_path, rng, end):
    values = [rng.randbytes(200) for _ in range(100)]
    log = Log(tmp_path, segment_bytes=65_536)
    log.append_many(values, timestamps=[9] * 100)
    kept = keep(log)
    first_file = tmp_path / f"{0:020}.log"
    for _ in range(40):
        log.append(rng.randbytes(4000))
    if end == "trim":
        log.trim(log.next_offset)
        assert not first_file.exists()
    elif end == "close":
        log.close()
    elif end == "delete":
        log.delete()
        assert not first_file.exists()
    elif end == "unlink":
        first_file.unlink()
    elif end == "recover":
        log.close()
        for name in ("shm", "tail.shm"):
            (tmp_path / name).unlink()
        Log(tmp_path, segment_bytes=65_536).append_many([b"new"] * 1000)
    del log
    gc.collect()
    check(kept, values)


def test_a_record_alone_keeps_its_bytes(tmp_path):
    with Log(tmp_path) as log:
        log.append_many([b"x" * 10, b"y" * 10], [b"k", b"l"], [{"h": b"1"}, None])
        record = next(log.records())
        log.delete()
    del log
    gc.collect()
    assert (record.value, record.key, record.headers) == (b"x" * 10, b"k", {"h": b"1"})


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc/self/maps")
def test_a_segment_is_unmapped_when_the_last_view_of_it_goes(tmp_path):
    """No cycle and no cache holds it."""

    def mapped():
        with open("/proc/self/maps") as maps:
            return str(tmp_path) in maps.read()

    log = Log(tmp_path)
    log.append_many([b"x" * 100] * 100)
    data = log.read(0).values.data
    log.close()
    del log
    assert mapped()
    del data
    gc.collect()
    assert not mapped()
