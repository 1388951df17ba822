"""A segment is one file of frames, whole before it is seen: allocated, then named, never truncated or renamed afterwards."""

import contextlib
import errno
import os
import struct
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from seglog.engine.errors import ReadOnlyStore, StoreFull, StoreIOError
from seglog.engine.log import Log
from seglog.engine.segment import Scanner, Segment, os_error, segment_name, sync_directory

SMALL = 65_536


@pytest.fixture(params=["map", "pwrite"])
def write(request):
    return request.param


def segments(path):
    """(base offset, size in bytes) of each segment file, in order."""
    return sorted((int(p.name[:20]), p.stat().st_size) for p in path.glob("*.log"))


# -- names and errors ----------------------------------------------------------------------------------------------


def test_names_sort_as_offsets_do():
    bases = [0, 1, 9, 10, 99_999, 2**31, 2**62]
    assert sorted(map(segment_name, reversed(bases))) == list(map(segment_name, bases))
    assert segment_name(0) == "00000000000000000000.log"


@pytest.mark.parametrize(
    ("code", "cls", "number"),
    [
        (errno.ENOSPC, StoreFull, errno.ENOSPC),
        (errno.EDQUOT, StoreFull, errno.ENOSPC),
        (errno.EACCES, ReadOnlyStore, None),
        (errno.EPERM, ReadOnlyStore, None),
        (errno.EROFS, ReadOnlyStore, None),
        (errno.EIO, StoreIOError, errno.EIO),
        (errno.EMFILE, StoreIOError, errno.EMFILE),
    ],
)
def test_an_error_of_the_system_becomes_one_of_the_tree(code, cls, number):
    error = os_error(-code, "cannot write", "/a/path")
    assert type(error) is cls
    assert isinstance(error, OSError)
    assert "cannot write /a/path" in str(error)
    assert error.path == "/a/path"
    if number is not None:
        assert error.errno == number


def test_a_directory_can_be_synced_and_a_missing_one_is_told(tmp_path):
    sync_directory(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        sync_directory(str(tmp_path / "missing"))


def test_segments_and_scanners_do_not_work_by_themselves():
    assert "Segment" in Segment.__name__
    with pytest.raises((TypeError, AttributeError)):
        Scanner(Segment(), 4096, 0)


# -- the file ------------------------------------------------------------------------------------------------------


def test_segments_start_small_and_double_up_to_their_limit(tmp_path, write):
    with Log(tmp_path, write=write, segment_bytes_min=SMALL, segment_bytes=4 * SMALL, fsync="never") as log:
        while log.statistics()["segments"] < 6:
            log.append(bytes(1000))
        sizes = [size for _, size in segments(tmp_path)]
    assert sizes == [SMALL, 2 * SMALL, 4 * SMALL, 4 * SMALL, 4 * SMALL, 4 * SMALL]


def test_each_segment_begins_at_the_offset_in_its_name(tmp_path, write):
    with Log(tmp_path, write=write, segment_bytes=SMALL, fsync="never") as log:
        for i in range(3000):
            log.append(b"%06d" % i + bytes(60))
        bases = [base for base, _ in segments(tmp_path)]
        assert len(bases) > 3
        for base in bases:
            assert log.record(base).value[:6] == b"%06d" % base


@pytest.mark.skipif(not hasattr(os.stat_result, "st_blocks"), reason="no st_blocks here")
def test_a_mapped_segment_has_its_blocks_before_the_first_record_and_a_written_one_does_not(tmp_path):
    with Log(tmp_path / "map", write="map", segment_bytes=1 << 20), Log(tmp_path / "pwrite", write="pwrite"):
        assert (tmp_path / "map" / segment_name(0)).stat().st_blocks * 512 >= 1 << 20
        assert (tmp_path / "pwrite" / segment_name(0)).stat().st_blocks * 512 < 1 << 16


@pytest.mark.skipif(sys.platform != "linux", reason="holes are punched on Linux")
def test_a_segment_that_is_complete_gives_its_unused_tail_back(tmp_path):
    with Log(tmp_path, write="map", segment_bytes=1 << 20) as log:
        log.append(b"x" * 100)
        log.append(b"y" * (1 << 20))  # does not fit: the first segment ends here
        first = tmp_path / segment_name(0)
        assert first.stat().st_size == 1 << 20
        assert first.stat().st_blocks * 512 <= 8192
        assert log.record(0).value == b"x" * 100
        assert log.statistics()["disk_bytes"] < log.statistics()["size_bytes"]


def test_a_record_larger_than_a_segment_gets_one_of_its_own(tmp_path, write, rng):
    values = [b"before", rng.randbytes(200_000), b"after", rng.randbytes(70_000)]
    with Log(tmp_path, write=write, segment_bytes=SMALL, fsync="never") as log:
        for value in values:
            log.append(value)
        assert [r.value for r in log.records()] == values
        assert max(size for _, size in segments(tmp_path)) > 200_000
    with Log(tmp_path, write=write, segment_bytes=SMALL) as log:
        assert [r.value for r in log.records()] == values


def test_a_frame_may_fill_a_segment_to_its_last_byte(tmp_path, write):
    room = SMALL - 4096
    for spare in (0, 8, 64):
        path = tmp_path / str(spare)
        with Log(path, write=write, segment_bytes=SMALL, fsync="never") as log:
            log.append(b"x" * (room - 64 - spare))
            log.append(b"next")
            assert [base for base, _ in segments(path)] == [0, 1]
            assert [len(r.value) for r in log.records()] == [room - 64 - spare, 4]
            assert log.verify() == []


def test_tiny_records_do_not_outrun_the_offsets_that_a_segment_reserves(tmp_path, write):
    """A segment reserves capacity / 8 offsets, so that an offset that was lost is not given out again."""
    with Log(tmp_path, write=write, segment_bytes=SMALL, batch_bytes=1 << 20, fsync="never") as log:
        log.append_many([b""] * 20_000)
        log.append_many([b""] * 20_000)
        assert sum(len(b) for b in log.batches()) == 40_000
        for path in sorted(tmp_path.glob("*.log")):
            header = path.read_bytes()[:96]
            base, _, _, reserved = struct.unpack_from("<qQqq", header, 16)
            following = [other for other, _ in segments(tmp_path) if other > base]
            assert (following[0] if following else log.next_offset) <= reserved


def test_no_temporary_file_is_left(tmp_path, write):
    with Log(tmp_path, write=write, segment_bytes=SMALL, fsync="never") as log:
        for _ in range(200):
            log.append(bytes(2000))
        list(log.records())
        log.offset_for_time(0)
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def test_the_header_stands_twice_and_says_what_the_file_is(tmp_path, write):
    with Log(tmp_path, write=write, segment_bytes=SMALL):
        page = (tmp_path / segment_name(0)).read_bytes()[:4096]
    assert page[:8] == b"SLOGSEG1"
    assert page[:96] == page[2048 : 2048 + 96]
    version, length, base, _, capacity = struct.unpack_from("<IIqQq", page, 8)
    assert (version, length, base, capacity) == (1, 4096, 0, SMALL)


def test_every_segment_has_a_salt_of_its_own_and_all_have_one_partition_id(tmp_path, write):
    with Log(tmp_path, write=write, segment_bytes=SMALL, fsync="never") as log:
        for _ in range(200):
            log.append(bytes(2000))
    pages = [path.read_bytes()[:96] for path in tmp_path.glob("*.log")]
    assert len({page[24:32] for page in pages}) == len(pages) > 3
    assert len({page[64:72] for page in pages}) == 1


# -- age -----------------------------------------------------------------------------------------------------------


def test_a_segment_is_rolled_by_age_when_upkeep_comes_by(tmp_path, write):
    now = [1_000_000]
    with Log(tmp_path, write=write, segment_age=60.0, clock=lambda: now[0]) as log:
        log.append(b"a")
        now[0] += 59_999_999
        log.upkeep()
        assert log.statistics()["segments"] == 1
        now[0] += 1
        log.upkeep()
        assert log.statistics()["segments"] == 2
        now[0] += 60_000_000
        log.upkeep()
        assert log.statistics()["segments"] == 2  # an empty one is never rolled
        log.append(b"b")
        log.upkeep()
        assert log.statistics()["segments"] == 3
        assert [(r.offset, r.value) for r in log.records()] == [(0, b"a"), (1, b"b")]
        log.append(b"c")
        assert log.record(2).value == b"c"


def test_without_an_age_upkeep_rolls_nothing(tmp_path):
    with Log(tmp_path, clock=lambda: int(datetime.now(UTC).timestamp())) as log:
        log.append(b"a")
        log.upkeep()
        assert log.statistics()["segments"] == 1


# -- file systems --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(kind, path, *options):
    path.mkdir()
    run = subprocess.run(["mount", "-t", kind, *options, "none", str(path)], capture_output=True, text=True)
    if run.returncode:
        pytest.skip(f"cannot mount {kind}: {run.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a ramfs, so needs root on Linux")
@pytest.mark.parametrize("mode", ["auto", "map", "pwrite"])
def test_where_nothing_can_be_allocated_a_log_writes_by_pwrite_of_its_own_accord(tmp_path, mode, rng):
    """ramfs has no fallocate."""
    values = [rng.randbytes(rng.randrange(3000)) for _ in range(200)]
    with mounted("ramfs", tmp_path / "ram") as path:
        with pytest.raises(OSError, match="not supported"), open(path / "probe", "wb") as probe:
            fallocate(probe.fileno())
        with Log(path / "log", write=mode, segment_bytes=SMALL) as log:
            for value in values[:100]:
                log.append(value)
            log.append_many(values[100:])
            log.sync()
            assert [r.value for r in log.records()] == values
        with Log(path / "log", write=mode, segment_bytes=SMALL) as log:
            assert [r.value for r in log.records()] == values
            assert log.verify() == []


def fallocate(fd):
    """The system call itself; the one in libc writes zeros where there is none."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(4096)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.mark.parametrize("portable", ["", "1"])
def test_the_portable_fallbacks_give_the_same_log(tmp_path, portable, write):
    """SEGLOG_PORTABLE=1 does without holes, populate, futexes and byte locks."""
    program = """
import sys
from seglog.engine.log import Log
with Log(sys.argv[1], write=sys.argv[2], segment_bytes=65536) as log:
    for i in range(300):
        log.append(b"%d" % i + bytes(i * 10))
    log.append_many([b"x" * 10] * 1000)
    log.trim(50)
with Log(sys.argv[1], write=sys.argv[2], segment_bytes=65536) as log:
    assert log.wait(0) and not log.wait(log.next_offset, 0.01)
    assert [r.value for r in log.records()] == [b"%d" % i + bytes(i * 10) for i in range(50, 300)] + [b"x" * 10] * 1000
    assert log.verify() == []
"""
    environment = os.environ | {"SEGLOG_PORTABLE": portable}
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "log"), write], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
