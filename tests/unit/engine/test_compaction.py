"""Compaction of one log: what lives stays as it was, what is dead goes, and nothing that is in the way is harmed."""

import bisect
import os
import subprocess
import sys
import threading

import pytest

from seglog.engine import tail
from seglog.engine.compaction import compact, dirtiness
from seglog.engine.errors import ClosedError, CorruptBatch, OffsetOutOfRange
from seglog.engine.log import Log

SMALL = 65_536
FOREVER = 1 << 60


@pytest.fixture
def log(tmp_path):
    with opened(tmp_path / "log") as log:
        yield log


def opened(path, **settings):
    return Log(path, **{"segment_bytes": SMALL, "segment_bytes_min": SMALL, "batch_bytes": 4096} | settings)


def content(log):
    return [(r.offset, r.key, r.value, r.headers, r.timestamp) for r in log.records()]


def fill(log, keys=50, segments=5, size=200):
    n = 0
    while len(log.segments()) < segments:
        log.append(b"%d" % n * (size // 4), b"%d" % (n % keys))
        n += 1
    return content(log)


def last_of_each(rows, log):
    active = log.segments()[-1][0]
    last = {row[1]: row[0] for row in rows if row[0] < active}
    return [row for row in rows if row[0] >= active or row[1] is None or last[row[1]] == row[0]]


def test_of_each_key_the_last_record_stays_as_it_was(log):
    rows = fill(log)
    said = compact(log, grace_us=FOREVER)
    assert content(log) == last_of_each(rows, log)
    assert said["finished"]
    assert said["segments_after"] < said["segments_before"]
    assert said["records_removed"] == len(rows) - len(content(log))
    assert log.verify() == []
    assert (log.first_offset, log.next_offset) == (0, len(rows))


def test_every_way_of_reading_gives_the_same(log):
    rows = fill(log, keys=700)
    log.append_many([b"x"] * 900, keys=[b"%d" % (i % 350) for i in range(900)])
    rows = content(log)
    log.close_segment()
    compact(log)
    wanted = {row[0]: row for row in last_of_each(rows, log)}
    for size in (1, 2, 13, 10_000):
        for stop in (-1, log.next_offset - 400):
            seen, at = [], 0
            while (batch := log.read(at, size, stop=stop)) is not None:
                assert batch.offsets.tolist() == [record.offset for record in batch]
                assert batch.first_offset >= at
                seen += batch.offsets.tolist()
                at = batch.next_offset
            assert seen == [offset for offset in wanted if stop < 0 or offset < stop]
    for offset in range(log.next_offset):
        if offset in wanted:
            assert log.record(offset).value == wanted[offset][2]
        else:
            with pytest.raises(OffsetOutOfRange):
                log.record(offset)
            batch = log.read(offset, 1)
            assert batch.first_offset == min(other for other in wanted if other > offset)


def test_records_without_a_key_headers_and_epochs_stay(tmp_path):
    clock = iter(range(10**15, 10**16, 7))
    with opened(tmp_path / "log", clock=lambda: next(clock)) as log:
        for n in range(3000):
            log.append(b"%d" % n, None if n % 5 == 0 else b"k%d" % (n % 7), {"n": b"%d" % n, "none": None} if n % 3 else None)
        log.close_segment()
        rows = content(log)
        compact(log)
        assert content(log) == last_of_each(rows, log)
        assert sum(row[1] is None for row in content(log)) == 600


def test_a_tombstone_stays_for_its_grace_and_then_goes_with_what_it_hid(tmp_path):
    now = [10**15]
    with opened(tmp_path / "log", clock=lambda: now[0]) as log:
        log.append(b"v", b"deleted")
        log.append(None, b"deleted")
        log.append(b"w", b"other")
        log.close_segment()
        compact(log, grace_us=1000)
        assert [(r.key, r.value) for r in log.records()] == [(b"deleted", None), (b"other", b"w")]
        now[0] += 1000
        compact(log, grace_us=1000)
        assert [(r.key, r.value) for r in log.records()] == [(b"other", b"w")]


def test_the_last_record_stays_even_if_it_is_a_tombstone_whose_time_is_over(log):
    log.append(b"v", b"k")
    log.append(None, b"k")
    log.close_segment()
    compact(log)
    assert [(r.offset, r.value) for r in log.records()] == [(1, None)]


def test_a_tombstone_stays_while_a_damaged_segment_may_hold_what_it_hides(tmp_path):
    with opened(tmp_path / "log") as log:
        log.append(b"old", b"k")
        log.append(b"filler", b"other")
        log.close_segment()
        log.append(None, b"k")
        log.append(b"filler", b"another")
        log.close_segment()
        spoil(log, log.segments()[0][0])
        assert compact(log)["finished"]
        assert (2, b"k", None) in [(r.offset, r.key, r.value) for r in log.records(2)]


def test_a_tombstone_stays_while_dead_records_before_it_must_stay_for_want_of_a_living_one(log):
    for value in (b"1", b"2"):
        log.append(value, b"k")
    log.close_segment()  # nothing lives in here, and the next one cannot take its offsets over
    log.append(b"filler", b"other")
    log.close_segment()
    log.append(None, b"k")
    log.append(b"last", b"another")
    log.close_segment()
    spoil(log, log.segments()[1][0])
    assert compact(log)["finished"]
    assert [(r.offset, r.value) for r in log.records(0, 2)] == [(0, b"1"), (1, b"2")]
    assert [(r.offset, r.value) for r in log.records(3)] == [(3, None), (4, b"last")]


def test_a_tombstone_stays_while_dead_records_are_too_far_from_a_living_one_to_go(tmp_path):
    path = tmp_path / "log"
    with opened(path, fsync="never") as log:
        for value in (b"1", b"2"):
            log.append(value, b"k")
    for name in ("tail.shm", "shm", "lock"):
        (path / name).unlink(missing_ok=True)
    with opened(path) as log:  # recovery went on 2^40 offsets behind: no frame covers as many
        log.append(None, b"k")
        log.append(b"last", b"another")
        log.close_segment()
        rows = content(log)
        assert rows[2][0] > 1 << 31
        compact(log)
        assert content(log) == rows


def spoil(log, base, at=4096 + 64 + 10):
    with open(os.path.join(log.path, f"{base:020}.log"), "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def test_a_damaged_segment_is_left_as_it_is_and_told_as_before(log):
    rows = fill(log, keys=20)
    damaged = log.segments()[1][0]
    spoil(log, damaged)
    path = os.path.join(log.path, f"{damaged:020}.log")
    with open(path, "rb") as file:
        before = file.read()
    losses = log.verify()
    assert losses
    compact(log)
    with open(path, "rb") as file:
        after = file.read()
    assert before[4096:] == after[4096:]
    assert log.verify() == losses
    with pytest.raises(CorruptBatch):
        content(log)
    compact(log)  # and again
    last = {row[1]: row for row in rows if row[0] < log.segments()[-1][0]}
    seen = []
    at = 0
    while at < log.next_offset:
        try:
            batch = log.read(at, 1)
            seen.append(batch[0].offset)
            at = batch.next_offset
        except CorruptBatch as error:
            at = error.resume_offset
    assert {row[0] for row in last.values()} <= set(seen)


@pytest.mark.parametrize("memory", [1536, 10_000])
def test_more_keys_than_memory_take_more_passes_and_come_to_the_same(log, memory):
    rows = fill(log, keys=400, segments=6)
    said = compact(log, memory=memory)
    assert said["passes"] > 1
    assert content(log) == last_of_each(rows, log)


@pytest.mark.parametrize("keep", [2, 3])
@pytest.mark.parametrize("memory", [4000, 1 << 20])
def test_more_than_the_last_record_can_stay(log, rng, keep, memory):
    rows = []
    for _ in range(4):
        for _ in range(1200):
            key, value = b"%d" % rng.randrange(150), None if rng.random() < 0.1 else b"v" * 50
            log.append(value, key)
        log.close_segment()
        compact(log, keep=keep, memory=memory, grace_us=FOREVER)
    # The model: from the end, n of each key, and nothing before a tombstone.
    left: dict[bytes, int] = {}
    kept = []
    rows = content(log)
    for row in reversed(rows):
        assert left.get(row[1], keep) > 0, "more of a key than are to be kept, or one behind a tombstone"
        left[row[1]] = 0 if row[2] is None else left.get(row[1], keep) - 1
        kept.append(row)
    assert len(kept) == len(rows)
    assert any(n == 0 for n in left.values())


def test_what_is_younger_than_the_lag_stays_and_so_does_all_behind_it(tmp_path):
    now = [10**15]
    with opened(tmp_path / "log", clock=lambda: now[0]) as log:
        for _ in range(3):
            log.append_many([b"a", b"b"], keys=[b"k", b"k"])
            log.close_segment()
            now[0] += 10
        compact(log, min_lag_us=25)
        assert [r.offset for r in log.records()] == [1, 2, 3, 4, 5]
        now[0] += 10
        compact(log, min_lag_us=25)
        assert [r.offset for r in log.records()] == [3, 4, 5]


def test_nothing_to_do_writes_nothing(log):
    fill(log)
    compact(log)
    assert dirtiness(log)[1:] == (0, None)
    before = {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(log.path) if entry.name.endswith(".log")}
    assert compact(log)["segments_before"] == 0
    after = {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(log.path) if entry.name.endswith(".log")}
    assert before == after


def test_what_is_new_since_the_last_time_is_what_is_dirty(log):
    fill(log)
    assert dirtiness(log)[0] == 0
    compact(log)
    clean, dirty, _ = dirtiness(log)
    assert clean and not dirty
    log.append(b"v", b"k")
    log.close_segment()
    assert dirtiness(log)[1] > 0


def test_records_that_came_alone_or_together_in_segments_larger_than_what_is_read_at_once(tmp_path, rng):
    with opened(tmp_path / "log", segment_bytes=4 << 20, segment_bytes_min=4 << 20, batch_bytes=1 << 16) as log:
        for _ in range(9000):
            key, value = b"%d" % rng.randrange(500), rng.randbytes(rng.randrange(1500))
            if rng.random() < 0.01:
                log.append_many([value] * 3, keys=[key, b"together", None])
            else:
                log.append(value, key)
        log.close_segment()
        rows = content(log)
        assert len(log.segments()) > 2
        for memory in (4000, 1 << 20):
            compact(log, memory=memory)
            assert content(log) == last_of_each(rows, log)
        assert log.verify() == []


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_codec_is_kept(tmp_path, codec):
    with opened(tmp_path / "log", codec=codec) as log:
        for n in range(40):
            log.append_many([b"value %d" % i * 20 for i in range(100)], keys=[b"%d" % ((n + i) % 130) for i in range(100)])
        log.close_segment()
        rows = content(log)
        compact(log)
        assert content(log) == last_of_each(rows, log)
        assert log.segments()[0][1] < 30_000


def test_records_that_were_trimmed_go(log):
    rows = fill(log, keys=10_000)
    log.trim(100)
    compact(log)
    assert content(log) == rows[100:]


def test_views_and_batches_from_before_stay_valid(log):
    fill(log)
    batch = log.read(0, 100)
    data, values = batch.values.data, batch.values.tolist()
    copy = data.tobytes()
    compact(log)
    assert data.tobytes() == copy
    assert batch.values.tolist() == values
    assert len(log.read(0, 100)) < 100 or log.read(0, 100).values.tolist() != values


def test_a_reader_with_a_handle_of_its_own_reads_on(log):
    rows = fill(log)
    with opened(log.path) as other:
        half = list(other.records())[: len(rows) // 2]
        assert half
        compact(log)
        assert content(other) == last_of_each(rows, log)
        assert other.verify() == []


def test_only_one_compacts_at_a_time(log):
    fill(log, segments=12)
    inside, go_on = threading.Event(), threading.Event()

    def stop():
        inside.set()
        go_on.wait(10)
        return False

    thread = threading.Thread(target=compact, args=(log,), kwargs={"stop": stop})
    thread.start()
    try:
        assert inside.wait(10)
        assert compact(log) is None
    finally:
        go_on.set()
        thread.join()
    assert compact(log)["finished"]


def test_it_stops_when_it_is_told_to_and_leaves_everything_sound(log):
    rows = fill(log, segments=12)
    said = compact(log, stop=lambda: True)
    assert not said["finished"]
    assert content(log) == rows
    assert not [name for name in os.listdir(log.path) if name.endswith(".tmp")]


def test_a_trim_meanwhile_is_not_undone(log):
    fill(log, segments=8)
    last = log.segments()[-1][0]

    def stop():
        log.trim(last)
        return False

    said = compact(log, stop=stop)
    assert not said["finished"]
    assert log.first_offset == last
    assert [base for base, _, _ in log.segments()] == [last]
    assert compact(log)["finished"]


def test_a_trim_between_two_steps_takes_no_record_that_it_should_not(log, monkeypatch):
    for n in range(3):
        log.append_many([b"x"] * 55, keys=[b"same"] * 50 + [b"%d" % (5 * n + i) for i in range(5)])
        log.close_segment()
    rows, middle = content(log), 55 + 52
    sync = tail.sync_directory

    def trim_first(path):
        sync(path)
        if log.first_offset == 0:
            log.trim(middle)  # the new file has the name of the first, and the second is still there

    monkeypatch.setattr(tail, "sync_directory", trim_first)
    assert not compact(log)["finished"]
    assert content(log) == rows[middle:]
    compact(log)
    assert content(log) == [*rows[middle:110], *rows[159:]]
    assert log.verify() == []


def test_a_read_whose_records_go_in_the_middle_of_it_gives_those_that_came_after(log, monkeypatch):
    log.append_many([b"1", b"2"], keys=[b"k", b"k"])
    with opened(log.path) as other:
        find = bisect.bisect_right

        def meddle(bases, offset):
            monkeypatch.setattr(bisect, "bisect_right", find)
            other.append(b"3", b"k")
            other.close_segment()
            compact(other)
            return find(bases, offset)

        monkeypatch.setattr(bisect, "bisect_right", meddle)
        assert [record.value for record in log.read(0)] == [b"3"]


def test_timestamps_are_found_as_before(tmp_path):
    now = [10**15]

    def clock():
        now[0] += 1000
        return now[0]

    with opened(tmp_path / "log", clock=clock) as log:
        rows = fill(log, keys=300)
        compact(log)
        kept = content(log)
        for when in range(10**15, now[0] + 5000, 50_000):
            wanted = next((row[0] for row in kept if row[4] >= when), len(rows))
            assert log.offset_for_time(when) == wanted
        sealed = [base for base, _, _ in log.segments()][:-1]
        ends = [*sealed[1:], log.segments()[-1][0]]
        newest = [max(row[4] for row in kept if base <= row[0] < end) for base, end in zip(sealed, ends)]
        assert [log.newest_timestamp(base) for base in sealed] == newest


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux")
@pytest.mark.skipif(os.environ.get("SEGLOG_BUILD") in ("asan", "tsan"), reason="a sanitizer has memory of its own")
def test_memory_does_not_grow_with_the_number_of_keys(tmp_path):
    program = """if True:
        import sys
        from seglog.engine.compaction import compact
        from seglog.engine.log import Log
        def peak():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
        with Log(sys.argv[1], fsync="never", segment_bytes=1 << 20) as log:
            for base in range(0, int(sys.argv[2]), 1000):
                keys = [b"%d" % (n % (int(sys.argv[2]) * 9 // 10)) for n in range(base, base + 1000)]
                log.append_many([b""] * 1000, keys=keys)
            log.close_segment()
            before = peak()
            said = compact(log, memory=1 << 19)
            print(said["passes"], peak() - before)
    """
    took = {}
    for keys in (10_000, 150_000):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / f"{keys}"), str(keys)], capture_output=True, text=True, check=True
        )
        took[keys] = tuple(map(int, done.stdout.split()))
    assert took[150_000][0] > took[10_000][0] == 1
    assert took[150_000][1] < took[10_000][1] + 4096, "KiB more"


def test_space_is_returned(log):
    fill(log, keys=5, segments=20)
    before = log.statistics()["disk_bytes"]
    compact(log)
    assert log.statistics()["disk_bytes"] < before / 4


def test_a_handle_carried_over_its_close_is_told(tmp_path):
    log = opened(tmp_path / "log")
    log.close()
    with pytest.raises(ClosedError):
        compact(log)
    with pytest.raises(ClosedError):
        dirtiness(log)


def test_what_a_killed_one_left_is_removed_by_recovery_and_by_the_next_one(tmp_path):
    path = tmp_path / "log"
    with opened(path) as log:
        rows = fill(log)
        old = {name: (path / name).read_bytes() for name in os.listdir(path) if name.endswith(".log")}
        compact(log)
        kept = last_of_each(rows, log)
        gone = [name for name in old if not (path / name).exists()]
        assert gone
        for name in gone:
            (path / name).write_bytes(old[name])
        assert compact(log)["finished"]
        assert not any((path / name).exists() for name in gone)
        assert content(log) == kept
    for name in gone:
        (path / name).write_bytes(old[name])
    for name in ("tail.shm", "shm", "lock"):
        (path / name).unlink(missing_ok=True)
    with opened(path) as log:
        assert not any((path / name).exists() for name in gone)
        assert content(log) == kept
        assert log.losses == ()
        assert log.verify() == []
