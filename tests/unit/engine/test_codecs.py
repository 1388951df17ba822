"""A codec squeezes the blobs of a frame and changes nothing else: the same records come back, whoever reads them."""

import builtins
import functools
import subprocess
import sys
import threading

import numpy as np
import pytest

from seglog.engine import codecs
from seglog.engine.errors import CodecMissing, ConfigError
from seglog.engine.log import Log

CODECS = {"zstd": "zstandard", "lz4": "lz4"}  # and the package that each needs
SMALL = 65_536


@pytest.fixture(params=CODECS)
def codec(request):
    pytest.importorskip(CODECS[request.param])
    return request.param


@pytest.fixture(params=["map", "pwrite"])
def opened(request, tmp_path):
    return functools.partial(Log, tmp_path / "log", write=request.param, segment_bytes=SMALL, fsync="never")


def text(rng, n):
    """Bytes that a codec can do something with."""
    return b" ".join(rng.choice([b"alpha", b"beta", b"gamma", b"delta"]) for _ in range(n // 5 + 1))[:n]


def contents(log, start=-1):
    return [(r.value, r.key, r.headers, r.timestamp, r.offset) for r in log.records(start)]


def without(monkeypatch, package):
    """As if the package were not installed."""
    real = builtins.__import__

    def import_(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_)


# -- the same records ----------------------------------------------------------------------------------------------


def test_every_shape_of_record_comes_back(opened, codec, rng):
    model = []
    with opened(codec=codec) as log:
        for i in range(60):
            n = rng.randrange(1, 40)
            values = [rng.choice([None, b"", text(rng, rng.randrange(300)), rng.randbytes(20)]) for _ in range(n)]
            keys = [rng.choice([None, b"", text(rng, 30)]) for _ in range(n)] if i % 2 else None
            headers = [{"h": text(rng, 50)} if rng.random() < 0.5 else None for _ in range(n)] if i % 3 else None
            times = [rng.randrange(10**6) for _ in range(n)]
            if n == 1:
                log.append(values[0], keys and keys[0], headers and headers[0], times[0])
            else:
                log.append_many(values, keys, headers, times)
            model += zip(values, keys or [None] * n, [h or {} for h in headers or [None] * n], times)
        expected = [(*record, offset) for offset, record in enumerate(model)]
        assert contents(log) == expected
        for offset in range(len(model)):
            record = log.record(offset)
            assert (record.value, record.key, record.headers, record.timestamp, record.offset) == expected[offset]
        assert log.verify() == []
    with opened() as log:  # who reads need not say the codec
        assert contents(log) == expected
        assert log.verify() == []


def test_what_can_be_squeezed_takes_less_room(tmp_path, codec, rng):
    values = [text(rng, 1000) for _ in range(500)]
    sizes = {}
    for name in ("none", codec):
        with Log(tmp_path / name, codec=name) as log:
            log.append_many(values)
            sizes[name] = log.statistics()["tail_position"]
            assert log.read(0).values.tolist() == values[: len(log.read(0))]
    assert sizes[codec] < sizes["none"] / 2


def test_what_cannot_be_squeezed_is_stored_as_it_is(tmp_path, codec, rng):
    values = [rng.randbytes(1000) for _ in range(100)]
    for name in ("none", codec):
        with Log(tmp_path / name, codec=name) as log:
            log.append_many(values)
            log.append(values[0])
            log.append(b"x" * 100)
            assert log.statistics()["tail_position"] < 110_000
            assert [r.value for r in log.records()] == [*values, values[0], b"x" * 100]


def test_arrays_and_fixed_widths_come_back(opened, codec):
    rows = np.zeros((3000, 40), "u1")
    rows[:, 0] = np.arange(3000) % 256
    with opened(codec=codec) as log:
        log.append_many(rows)
        read = [value for batch in log.batches() for value in batch.values.tolist()]
    assert read == [row.tobytes() for row in rows]


def test_a_squeezed_frame_is_a_batch_of_its_own_with_columns_as_any_other(opened, codec, rng):
    frames = [[text(rng, 100) for _ in range(10)] for _ in range(5)]
    with opened(codec=codec) as log:
        for frame in frames:
            log.append_many(frame, [b"key" * 20] * 10, timestamps=range(10))
        batches = list(log.batches())
        assert [len(batch) for batch in batches] == [10] * 5
        for batch, frame in zip(batches, frames):
            assert batch.values.tolist() == frame
            assert batch.keys.tolist() == [b"key" * 20] * 10
            assert batch.timestamps.tolist() == list(range(10))
            column = batch.values
            assert [bytes(column.data[a:b]) for a, b in zip(column.starts, column.ends)] == frame
        assert log.read(13, 4).values.tolist() == frames[1][3:7]
        start = log.next_offset
        log.append_many(batches[2].values, batches[2].keys)
        assert [r.value for r in log.records(start)] == frames[2]


def test_what_was_read_stays_valid_after_the_log_is_gone(opened, codec, rng):
    values = [text(rng, 500) for _ in range(20)]
    log = opened(codec=codec)
    log.append_many(values)
    batch = log.read(0)
    record, data, starts, ends = batch[7], batch.values.data, batch.values.starts, batch.values.ends
    log.delete()
    del log, batch
    assert record.value == values[7]
    assert bytes(data[starts[3] : ends[3]]) == values[3]


def test_codecs_may_change_from_one_opening_to_the_next(opened, rng):
    for package in CODECS.values():
        pytest.importorskip(package)
    model = []
    for name in ("none", "zstd", "lz4") * 3:
        with opened(codec=name) as log:
            values = [text(rng, 400) for _ in range(30)]
            log.append_many(values)
            log.append(values[0])
            model += [*values, values[0]]
            assert [r.value for r in log.records()] == model


def test_threads_squeeze_and_expand_at_once(opened, codec, rng):
    chunks = [[text(rng, 500) for _ in range(50)] for _ in range(4)]

    def work(chunk):
        for _ in range(20):
            (span, *_) = log.append_many(chunk)
            read.append([r.value for r in log.records(span.start, span.start + 50)] == chunk)

    read = []
    with opened(codec=codec) as log:
        threads = [threading.Thread(target=work, args=(chunk,)) for chunk in chunks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log.next_offset == 4000
        assert log.verify() == []
    assert read == [True] * 80


# -- a package that is missing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODECS)
def test_opening_without_the_package_names_the_extra_and_makes_nothing(tmp_path, monkeypatch, name):
    without(monkeypatch, CODECS[name])
    with pytest.raises(CodecMissing) as caught:
        Log(tmp_path / "log", codec=name)
    assert caught.value.extra == name
    assert f"pip install 'seglog[{name}]'" in str(caught.value)
    assert isinstance(caught.value, ImportError)
    assert not (tmp_path / "log").exists()


def test_reading_without_the_package_names_the_extra_and_the_data_is_intact(opened, codec, rng, monkeypatch):
    values = [text(rng, 400) for _ in range(30)]
    with opened(codec=codec) as log:
        log.append(b"plain")
        log.append_many(values)
    with monkeypatch.context() as patch, opened() as log:
        without(patch, CODECS[codec])
        assert log.record(0).value == b"plain"
        for read in (lambda: log.read(1), lambda: log.record(5), lambda: list(log.records(1))):
            with pytest.raises(CodecMissing) as caught:
                read()
            assert caught.value.extra == codec
        log.append(b"still writes")
    with opened() as log:
        assert [r.value for r in log.records()] == [b"plain", *values, b"still writes"]


def test_a_recovery_needs_no_package(opened, codec, rng, tmp_path, monkeypatch):
    values = [text(rng, 400) for _ in range(30)]
    with opened(codec=codec) as log:
        log.append_many(values)
    for name in ("shm", "tail.shm"):
        (tmp_path / "log" / name).unlink()
    with monkeypatch.context() as patch:
        without(patch, CODECS[codec])
        with opened() as log:
            assert log.next_offset >= 30
            assert log.verify() == []
    with opened() as log:
        assert [r.value for r in log.records()] == values


def test_a_time_is_found_without_the_package(opened, codec, rng, monkeypatch):
    """Only the blobs are squeezed: offsets, times and lengths stay readable."""
    with opened(codec=codec) as log:
        for i in range(50):
            log.append_many([text(rng, 400) for _ in range(10)], timestamps=range(i * 10, i * 10 + 10))
        with monkeypatch.context() as patch:
            without(patch, CODECS[codec])
            reader = opened()
            assert [reader.offset_for_time(t) for t in (0, 123, 499, 500)] == [0, 123, 499, 500]


def test_the_engine_is_imported_without_any_codec():
    program = """
import builtins, sys
real = builtins.__import__
def import_(name, *args, **kwargs):
    if name.split(".")[0] in ("zstandard", "lz4"):
        raise ModuleNotFoundError(name)
    return real(name, *args, **kwargs)
builtins.__import__ = import_
import seglog.engine.log
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("name", ["gzip", "", "ZSTD", "none"])
def test_a_codec_that_does_not_exist_is_told_with_those_that_do(name):
    with pytest.raises(ConfigError, match="none, zstd, lz4"):
        codecs.load(name)


def test_a_codec_gives_back_what_it_was_given(codec, rng):
    squeeze, expand = codecs.load(codec)
    for raw in (b"", b"x", text(rng, 100_000), rng.randbytes(100_000), bytes(1 << 20)):
        assert expand(squeeze(raw), len(raw)) == raw


@pytest.mark.parametrize("bad", ["more", "cut", "size"])
def test_a_blob_is_one_zstd_frame_that_says_its_size_or_damage(bad):
    squeeze, expand = codecs.load("zstd")
    raw = b"text " * 1000
    small = squeeze(raw)
    assert expand(small, len(raw)) == raw
    with pytest.raises(Exception, match=r"."):
        if bad == "more":
            expand(small + b"\0" * 8, len(raw))
        elif bad == "cut":
            expand(small[:-1], len(raw))
        else:
            expand(squeeze(bytes(1 << 24)), len(raw))
