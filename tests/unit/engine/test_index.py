"""An index is speed and nothing else: whatever happens to it, reads and time lookups give the same answers."""

import os
import struct
from datetime import UTC, datetime, timedelta

import pytest

from seglog.engine.errors import OffsetOutOfRange
from seglog.engine.log import Log

SMALL = 65_536


@pytest.fixture(params=["map", "pwrite"])
def write(request):
    return request.param


def fill(log, rng, n=2500, times=None):
    """Records of a few dozen bytes whose times wander; the list of times."""
    times = times or [i * 10 + rng.randrange(-200, 200) for i in range(n)]
    at = 0
    while at < len(times):
        step = rng.choice([1, 1, 1, 20])
        chunk = times[at : at + step]
        log.append_many([b"%08d" % (at + i) + bytes(rng.randrange(60)) for i in range(len(chunk))], timestamps=chunk)
        at += len(chunk)
    return times


def first_at(times, wanted, start=0):
    return next((i for i in range(start, len(times)) if times[i] >= wanted), len(times))


def check(log, times, rng, lookups=60):
    n = len(times)

    def expected(wanted):
        found = first_at(times, wanted)
        return found if found < n else log.next_offset

    assert [int(v[:8]) for batch in log.batches() for v in batch.values.tolist()] == list(range(n))
    for _ in range(lookups):
        offset = rng.randrange(n)
        assert int(log.record(offset).value[:8]) == offset
        wanted = rng.choice(times) + rng.randrange(-3, 3)
        assert log.offset_for_time(wanted) == expected(wanted)
    for wanted in (min(times) - 1, min(times), max(times), max(times) + 1, -(2**62), 2**62):
        assert log.offset_for_time(wanted) == expected(wanted)


# -- time ----------------------------------------------------------------------------------------------------------


def test_the_offset_for_a_time_is_the_first_in_offset_order_that_is_not_before_it(tmp_path, write, rng):
    with Log(tmp_path, write=write, segment_bytes=SMALL, fsync="never") as log:
        times = fill(log, rng)
        assert log.statistics()["segments"] > 2
        check(log, times, rng, 300)
    with Log(tmp_path, write=write, segment_bytes=SMALL, fsync="never") as log:
        check(log, times, rng, 300)


@pytest.mark.parametrize(
    "shape",
    [lambda i, n, rng: 5, lambda i, n, rng: n - i, lambda i, n, rng: rng.randrange(-(2**62), 2**62),
     lambda i, n, rng: 0 if i % 700 else 99],
    ids=["all the same", "falling", "anything", "rare peaks"],
)  # fmt: skip
def test_times_may_come_in_any_order(tmp_path, write, rng, shape):
    with Log(tmp_path, write=write, segment_bytes=SMALL, fsync="never") as log:
        times = fill(log, rng, times=[shape(i, 2500, rng) for i in range(2500)])
        check(log, times, rng, 100)


def test_a_time_may_be_an_aware_datetime(tmp_path):
    start = datetime(2024, 1, 1, tzinfo=UTC)
    with Log(tmp_path) as log:
        for i in range(10):
            log.append(b"", timestamp=start + timedelta(hours=i))
        assert log.offset_for_time(start + timedelta(hours=3)) == 3
        assert log.offset_for_time(start + timedelta(hours=3, microseconds=1)) == 4
        assert log.offset_for_time(start + timedelta(days=9)) == 10
        with pytest.raises(ValueError, match="time zone"):
            log.offset_for_time(datetime(2024, 1, 1))
        for wrong in ("2024", 1.5, None, True):
            with pytest.raises(TypeError):
                log.offset_for_time(wrong)


def test_the_offset_for_a_time_in_an_empty_log_is_the_next_one(tmp_path):
    with Log(tmp_path) as log:
        assert log.offset_for_time(0) == 0
        log.append(b"", timestamp=5)
        log.trim(1)
        assert log.offset_for_time(0) == 1


def test_what_was_trimmed_is_not_found_by_its_time(tmp_path, write, rng):
    with Log(tmp_path, write=write, segment_bytes=SMALL, fsync="never") as log:
        times = fill(log, rng)
        for before in (1, 100, 1500, 2400, 2500):
            log.trim(before)
            for _ in range(40):
                wanted = rng.choice(times)
                assert log.offset_for_time(wanted) == first_at(times, wanted, before)


def test_the_open_segment_is_searched_too_and_while_it_grows(tmp_path, write):
    with Log(tmp_path, write=write, fsync="never") as log, Log(tmp_path, write=write, fsync="never") as other:
        for i in range(2000):
            log.append(bytes(50), timestamp=i * 2)
            if i % 97 == 0:
                for reader in (log, other):
                    assert reader.offset_for_time(i * 2) == i
                    assert reader.offset_for_time(i) == -(-i // 2)
                    assert reader.offset_for_time(i * 2 + 1) == i + 1


# -- damage --------------------------------------------------------------------------------------------------------


def reboot(path):
    for name in ("shm", "tail.shm"):
        (path / name).unlink()


@pytest.fixture(params=["closed", "killed", "rebooted"])
def filled(request, tmp_path, write, rng):
    """A log of several segments that nobody has open; its index files sealed, or one of them not."""
    log = Log(tmp_path, write=write, segment_bytes=SMALL)
    times = fill(log, rng)
    if request.param == "closed":
        log.close()
    del log
    if request.param == "rebooted":
        reboot(tmp_path)
    return tmp_path, times


def reopened(path, write):
    return Log(path, write=write, segment_bytes=SMALL)


def append_and_check(log, times, rng):
    """Reads first; then what is written later is found as well."""
    check(log, times, rng)
    more = [t + 100_000 for t in range(0, 6000, 3)]
    start = log.next_offset
    log.append_many([b"%08d" % (start + i) for i in range(len(more))], timestamps=more)
    for i in (0, 1, 777, 1999):
        assert log.offset_for_time(more[i]) == start + i
        assert int(log.record(start + i).value) == start + i


def test_deleted_indexes_are_made_again_silently(filled, write, rng):
    path, times = filled
    sealed = sorted(path.glob("*.idx"))[:-1]
    for index in path.glob("*.idx"):
        index.unlink()
    with reopened(path, write) as log:
        append_and_check(log, times, rng)
        assert log.losses == ()
    assert all(index.exists() for index in sealed)


def test_an_index_of_random_bytes_is_made_again_silently(filled, write, rng):
    path, times = filled
    for index in path.glob("*.idx"):
        index.write_bytes(rng.randbytes(index.stat().st_size))
    with reopened(path, write) as log:
        append_and_check(log, times, rng)


def test_an_index_cut_at_any_length_is_made_again_silently(filled, write, rng):
    path, times = filled
    whole = {index: index.read_bytes() for index in path.glob("*.idx")}
    for size in sorted({0, 1, 8, 63, 64, 65, 79, 80, *(rng.randrange(400) for _ in range(8))}):
        for index, data in whole.items():
            index.write_bytes(data[:size])
        with reopened(path, write) as log:
            check(log, times, rng, 10)


def test_the_index_of_another_segment_is_not_believed(filled, write, rng):
    path, times = filled
    indexes = sorted(path.glob("*.idx"))
    data = [index.read_bytes() for index in indexes]
    for index, other in zip(indexes, data[1:] + data[:1]):
        index.write_bytes(other)
    with reopened(path, write) as log:
        append_and_check(log, times, rng)


def test_something_else_in_the_place_of_an_index_is_left_alone(filled, write, rng):
    path, times = filled
    indexes = list(path.glob("*.idx"))
    for index in indexes:
        index.unlink()
        index.mkdir()
        (index / "mine").write_text("not yours")
    with reopened(path, write) as log:
        append_and_check(log, times, rng)
    assert {(index / "mine").read_text() for index in indexes} == {"not yours"}


def test_entries_that_point_astray_lead_nobody_astray(filled, write, rng):
    """An entry is where to begin looking; what stands there is checked. Sealed or not, whatever the entry says."""
    path, times = filled
    for index in path.glob("*.idx"):
        data = bytearray(index.read_bytes())
        for at in range(64, len(data) - 16, 16):
            if struct.unpack_from("<q", data, at + 8)[0] == 0 and data[at : at + 16] == bytes(16):
                break
            if rng.random() < 0.7:
                delta, position = struct.unpack_from("<II", data, at)
                kind = rng.randrange(4)
                delta = [delta, rng.randrange(600), 2**32 - 1, 0][kind]
                position = [rng.randrange(2**32), position, rng.randrange(SMALL), position ^ 8][kind]
                struct.pack_into("<II", data, at, delta, position)
        index.write_bytes(data)
    with reopened(path, write) as log:
        assert [int(v[:8]) for b in log.batches() for v in b.values.tolist()] == list(range(len(times)))
        for _ in range(100):
            offset = rng.randrange(len(times))
            assert int(log.record(offset).value[:8]) == offset


def test_any_flipped_bit_of_a_sealed_index_is_noticed_or_harmless(tmp_path, write, rng):
    """Each bit in the long form (SEGLOG_LONG=1), a sample in the short one."""
    with Log(tmp_path, write=write, segment_bytes=SMALL) as log:
        times = fill(log, rng, 1200)
    index = sorted(tmp_path.glob("*.idx"))[0]
    whole = index.read_bytes()
    used = len(whole.rstrip(b"\0")) + 4
    bits = list(range(used * 8))
    if not os.environ.get("SEGLOG_LONG"):
        bits = sorted({*rng.sample(bits, 150), *range(32 * 8, 48 * 8)})
    end = int(sorted(tmp_path.glob("*.log"))[1].name[:20])
    wanted = [rng.choice(times[:end]) for _ in range(5)]
    for bit in bits:
        data = bytearray(whole)
        data[bit >> 3] ^= 1 << (bit & 7)
        index.write_bytes(data)
        with Log(tmp_path, write=write, segment_bytes=SMALL, fsync="never") as log:
            for time in wanted:
                assert log.offset_for_time(time) == first_at(times, time), f"bit {bit}"
            assert int(log.record(end - 1).value[:8]) == end - 1, f"bit {bit}"


def test_a_lookup_far_out_is_told_with_the_ends(tmp_path, write, rng):
    with Log(tmp_path, write=write, segment_bytes=SMALL, fsync="never") as log:
        times = fill(log, rng)
        log.trim(700)
        for offset in (0, 699, len(times), 2**62, -1, -(2**62)):
            with pytest.raises(OffsetOutOfRange) as caught:
                log.record(offset)
            assert (caught.value.offset, caught.value.first, caught.value.next) == (offset, 700, len(times))


def test_finding_one_record_does_not_read_the_log(tmp_path, write):
    """The pages touched by a lookup in a log of 60 MB, counted by the kernel: a few, wherever it is."""
    resource = pytest.importorskip("resource")
    n, pages = 600_000, 60_000_000 // resource.getpagesize()
    with Log(tmp_path, write=write, fsync="never", batch_bytes=4096, segment_bytes_min=1 << 26) as log:
        log.append_many([bytes(100)] * n, timestamps=range(n))
    with Log(tmp_path, write=write, fsync="never") as log:
        log.record(0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for offset in (n - 1, n // 2, n // 3):
            assert log.record(offset).offset == offset
            assert log.offset_for_time(offset) == offset
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < pages // 20
