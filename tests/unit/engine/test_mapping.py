"""A mapping is a file's bytes in memory: never more of them than there are, for as long as anybody looks, and not copied."""

import gc
import os
import subprocess
import sys
import textwrap

import pytest

from seglog.engine.mapping import Mapping


@pytest.fixture
def file(tmp_path):
    with open(tmp_path / "file", "w+b", buffering=0) as file:
        file.write(bytes(range(256)) * 32)
        yield file


def test_a_mapping_reads_any_run_of_its_bytes(file):
    mapping = Mapping(file.fileno(), 8192)
    assert (mapping.size, len(mapping), mapping.writable) == (8192, 8192, False)
    assert bytes(mapping.read(0, 8192)) == bytes(range(256)) * 32
    assert bytes(mapping.read(255, 258)) == b"\xff\x00\x01"
    assert bytes(mapping.read(8192, 8192)) == b""


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 8193), (8193, 8193), (2**40, 2**41), (-(2**62), 0)])
def test_a_read_outside_it_is_an_index_error(file, start, stop):
    with pytest.raises(IndexError):
        Mapping(file.fileno(), 8192).read(start, stop)


def test_a_file_that_is_shorter_is_refused_before_it_is_touched(file):
    for size in (8193, 1 << 20, 1 << 40):
        with pytest.raises(ValueError, match="size|length"):
            Mapping(file.fileno(), size)


def test_part_of_a_file_can_be_mapped(file):
    mapping = Mapping(file.fileno(), 100)
    with pytest.raises(IndexError):
        mapping.read(0, 101)


def test_nothing_handed_out_can_be_written_to(file):
    for writable in (False, True):
        view = Mapping(file.fileno(), 8192, writable).read(0, 10)
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 1


def test_a_mapping_shows_what_others_write(file):
    view = Mapping(file.fileno(), 8192).read(0, 10)
    os.pwrite(file.fileno(), b"changed", 0)
    assert bytes(view[:7]) == b"changed"


def test_a_view_outlives_mapping_file_and_name(file, tmp_path):
    view = Mapping(file.fileno(), 8192, True).read(4, 8)
    file.close()
    (tmp_path / "file").unlink()
    gc.collect()
    assert bytes(view) == b"\x04\x05\x06\x07"


def test_a_mapping_is_made_once_and_names_itself(file):
    mapping = Mapping(file.fileno(), 8192)
    with pytest.raises(ValueError, match="once"):
        mapping.__init__(file.fileno(), 8192)
    assert "8,192" in repr(mapping)


@pytest.mark.parametrize("arguments", [(), (0,), ("file", 10), (9999, 10), (None, 10)])
def test_a_mapping_needs_an_open_file(arguments):
    with pytest.raises((TypeError, OSError, ValueError)):
        Mapping(*arguments)


# -- memory --------------------------------------------------------------------------------------------------------

MIB = 1 << 20
LOOKS_AT_MEMORY = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc/self/status")
NOT_SANITIZED = pytest.mark.skipif(
    os.environ.get("SEGLOG_BUILD") in ("asan", "tsan"), reason="a sanitizer has memory of its own"
)
MEASURE = textwrap.dedent("""
    import sys
    import numpy as np
    from seglog.engine.log import Log

    def anonymous():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) << 10

    path, size = sys.argv[1], int(sys.argv[2])
    log = Log(path, fsync="never")
    block = np.frombuffer(np.random.default_rng(7).bytes(1 << 20), "u1").reshape(-1, 1024)
    log.append_many(block)
    before = anonymous()
    for _ in range((size >> 20) - 1):
        log.append_many(block)
    written = anonymous() - before
    total, most = 0, 0
    before = anonymous()
    for batch in log.batches():
        total += len(batch)
        batch.values.starts, batch.timestamps
        most = max(most, anonymous() - before)
    for record in log.records(total - 1000):
        record.value
    print(total, written, most)
""")


@LOOKS_AT_MEMORY
@NOT_SANITIZED
def test_reading_and_writing_a_large_log_takes_no_memory_of_its_own(tmp_path):
    """300 MB by default, 5 GB with SEGLOG_LONG=1: pages of the file come and go, the process's own stay few."""
    size = 5120 * MIB if os.environ.get("SEGLOG_LONG") else 300 * MIB
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "log"), str(size)], capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr
    records, written, read = map(int, run.stdout.split())
    assert records == size >> 10
    assert written < 16 * MIB
    assert read < 16 * MIB


ONE_CALL = textwrap.dedent("""
    import sys
    import numpy as np
    from seglog.engine.source import Packed
    from seglog.engine.log import Log
    import resource

    def anonymous():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) << 10

    data = bytes(100) * 1_000_000
    source = Packed(data, np.arange(1_000_001) * 100)
    log = Log(sys.argv[1], fsync="never")
    log.append_many(source)
    print(anonymous())
""")


@LOOKS_AT_MEMORY
@NOT_SANITIZED
def test_a_million_records_in_one_call_are_not_copied_as_a_whole(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", ONE_CALL, str(tmp_path / "log")], capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < (100 + 8 + 60) * MIB  # the payload and its offsets, once; the interpreter and numpy
