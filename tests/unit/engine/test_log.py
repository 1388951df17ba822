"""A log is an append-only run of records: offsets rise by one, what an append returned is there for everyone, and stays."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest

from seglog.engine.errors import (
    ClosedError,
    ConfigError,
    LockTimeout,
    OffsetOutOfRange,
    StoreIOError,
    TopicNotFound,
)
from seglog.engine.liveness import Liveness
from seglog.engine.log import Log
from seglog.engine.record import Span

SMALL = 65_536
linux = pytest.mark.skipif(sys.platform != "linux", reason="signals, fork or /proc as on Linux")


@pytest.fixture(params=["map", "pwrite"])
def write(request):
    return request.param


@pytest.fixture
def opened(tmp_path, write):
    """Log(path, ...) with this way of writing, on one directory, with small segments."""
    return functools.partial(Log, tmp_path / "log", write=write, segment_bytes=SMALL)


@pytest.fixture
def log(opened):
    with opened(fsync="never") as log:
        yield log


def values(log, start=-1, stop=-1):
    return [record.value for record in log.records(start, stop)]


# -- appending and reading -----------------------------------------------------------------------------------------


def test_an_empty_log_has_nothing_to_read_and_says_so_quietly(log):
    assert (log.first_offset, log.next_offset, log.durable_offset) == (0, 0, 0)
    assert log.read(0) is None
    assert list(log.batches()) == list(log.records()) == []
    assert log.append_many([]) == []
    assert not log.dirty


def test_offsets_rise_by_one_per_record_whoever_appends_and_however(log):
    assert log.append(b"0") == 0
    assert log.append_many([b"1", b"2"]) == [Span(0, 1, 3)]
    assert log.append(None) == 3
    assert log.append_many([b"4"]) == [(0, 4, 5)]
    assert [r.offset for r in log.records()] == [0, 1, 2, 3, 4]
    assert log.next_offset == 5


def test_what_was_appended_is_read_back_over_many_segments(log, rng):
    model = []
    for _ in range(400):
        size = rng.choice([0, 1, 100, 1000, 5000])
        if rng.random() < 0.7:
            model.append(rng.randbytes(size))
            assert log.append(model[-1]) == len(model) - 1
        else:
            chunk = [rng.randbytes(size) for _ in range(rng.randrange(20))]
            model += chunk
            assert sum(span.stop - span.start for span in log.append_many(chunk)) == len(chunk)
    assert log.statistics()["segments"] > 5
    assert values(log) == model
    for _ in range(200):
        offset = rng.randrange(len(model))
        assert log.record(offset).value == model[offset]
        stop = rng.randrange(offset, len(model) + 1)
        assert values(log, offset, stop) == model[offset:stop]
        batch = log.read(offset, max_records=rng.randrange(1, 50))
        assert batch.values.tolist() == model[offset : offset + len(batch)]
    assert log.verify() == []


def test_the_spans_of_a_large_append_many_join_where_nobody_wrote_between(log):
    assert log.append_many([bytes(1000)] * 1000) == [(0, 0, 1000)]
    assert log.statistics()["segments"] > 2


def test_records_carry_the_partition_and_the_time_of_the_clock(tmp_path):
    ticks = iter(range(100, 1000, 100))
    with Log(tmp_path, partition=7, clock=lambda: next(ticks)) as log:
        before = log.append(b"a")
        log.append_many([b"b", b"c"])
        log.append(b"d", timestamp=5)
        records = list(log.records())
    assert {record.partition for record in records} == {7}
    assert records[before].timestamp < records[1].timestamp == records[2].timestamp
    assert records[3].timestamp == 5


def test_without_a_clock_a_record_has_the_time_of_day(log):
    before = datetime.now(UTC)
    log.append(b"a")
    log.append_many([b"b"])
    after = datetime.now(UTC)
    assert all(before <= r.time <= after for r in log.records())


def test_reading_at_the_end_gives_none_and_behind_it_an_error_with_the_ends(log):
    log.append_many([b"a", b"b", b"c"])
    log.trim(1)
    assert log.read(3) is None
    for offset in (0, 4, -1, 2**62, -(2**62)):
        for read in (log.read, log.record, lambda at: list(log.batches(at))):
            if offset < 0 and read not in (log.read, log.record):
                continue  # batches(-1) means from the first record on
            with pytest.raises(OffsetOutOfRange) as caught:
                read(offset)
            assert (caught.value.offset, caught.value.first, caught.value.next) == (offset, 1, 3)
            assert isinstance(caught.value, IndexError)
    with pytest.raises(OffsetOutOfRange):
        log.record(3)


def test_a_read_stops_where_it_is_told_to(log):
    log.append_many([bytes([i]) for i in range(10)])
    log.append_many([bytes([i]) for i in range(10, 20)])
    assert [len(b) for b in log.batches(3, 15)] == [12]
    assert [len(b) for b in log.batches(3, 15, max_records=5)] == [5, 5, 2]
    assert log.read(3, stop=3) is None
    assert log.read(3, stop=2) is None
    assert log.read(5, stop=99).next_offset == 20
    assert list(log.batches(20)) == list(log.batches(0, 0)) == []


def test_batches_are_read_when_they_are_asked_for_and_see_what_came_meanwhile(log):
    log.append_many([b"a"] * 10)
    batches = log.batches(max_records=5)
    assert len(next(batches)) == 5
    log.append_many([b"b"] * 3)
    assert sum(map(len, batches)) == 8


def test_at_least_one_record_and_one_byte_must_be_asked_for(log):
    log.append(b"a")
    for arguments in ((0, 0), (0, -1), (0, 1, 0), (0, 1, -5)):
        with pytest.raises(ValueError, match="at least 1"):
            log.read(*arguments)


def test_huge_limits_are_no_limits(log):
    log.append_many([b"x" * 100] * 1000)
    most = 2**63 - 1
    assert sum(len(b) for b in log.batches(0, most, most, most)) == 1000
    assert log.read(0, most, most, stop=most).first_offset == 0


# -- trimming ------------------------------------------------------------------------------------------------------


def test_trim_forgets_what_lies_before_and_deletes_whole_segments(log, tmp_path):
    log.append_many([b"%06d" % i + bytes(994) for i in range(400)])
    files = len(list((tmp_path / "log").glob("*.log")))
    assert log.trim(0) == 0
    for before in (1, 150, 151, 399, 400):
        assert log.trim(before) == log.first_offset == before
        assert log.trim(before - 1) == before  # never back
        assert [int(v[:6]) for v in values(log)] == list(range(before, 400))
        if before < 400:
            assert int(log.record(before).value[:6]) == before
    left = len(list((tmp_path / "log").glob("*.log")))
    assert left == 1 < files
    assert len(list((tmp_path / "log").glob("*.idx"))) == 1
    assert log.append(b"next") == 400
    assert values(log) == [b"next"]


def test_trim_outside_the_log_is_refused(log):
    log.append_many([b"a", b"b"])
    for before in (3, -1, 2**62, -(2**62)):
        with pytest.raises(OffsetOutOfRange) as caught:
            log.trim(before)
        assert (caught.value.offset, caught.value.first, caught.value.next) == (before, 0, 2)
    assert values(log) == [b"a", b"b"]


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
def test_trim_is_remembered_after_a_close(opened, fsync):
    with opened(fsync=fsync) as log:
        log.append_many([bytes(500)] * 300)
        log.trim(177)
    with opened(fsync=fsync) as log:
        assert (log.first_offset, log.next_offset) == (177, 300)
        with pytest.raises(OffsetOutOfRange):
            log.read(176)


def test_a_reader_that_is_overtaken_by_trim_is_told_where_the_log_begins_now(log):
    log.append_many([bytes(1000)] * 300)
    batches = log.batches(max_records=10)
    next(batches)
    log.trim(200)
    with pytest.raises(OffsetOutOfRange) as caught:
        next(batches)
    assert (caught.value.offset, caught.value.first) == (10, 200)


# -- several handles -----------------------------------------------------------------------------------------------


def test_two_handles_share_one_log(opened):
    with opened() as one, opened() as two:
        for i in range(200):
            assert (one if i % 2 else two).append(b"%d" % i + bytes(900)) == i
            assert (two if i % 2 else one).record(i).value[:3].rstrip(b"\0") == b"%d" % i
        one.trim(150)
        assert two.first_offset == 150
        assert two.sync() == one.durable_offset == 200
        assert values(one) == values(two)
        one.close()
        assert two.append(b"still") == 200


@linux
def test_two_handles_in_turns_map_the_pages_that_either_of_them_prepared(tmp_path):
    """Each has a mapping of its own; what one wrote ahead of the tail is the other's too, at two faults for one and not ten."""

    resource = pytest.importorskip("resource")

    def faults(*logs):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        for i in range(20_000):
            logs[i % len(logs)].append(value)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

    value, settings = bytes(300), {"fsync": "never", "segment_bytes_min": 1 << 24, "segment_bytes": 1 << 24}
    with Log(tmp_path / "alone", **settings) as alone:
        mine = faults(alone)
    with Log(tmp_path / "both", **settings) as one, Log(tmp_path / "both", **settings) as two:
        assert faults(one, two) <= 4 * mine + 100
        assert values(one) == values(two) == [value] * 20_000


def test_large_and_small_frames_of_two_handles_in_turns_all_stand(opened):
    """Zeros written ahead of the tail, by one handle, stay clear of what the other wrote meanwhile."""
    sizes = [100, 40_000, 8, 300, 100_000, 33_000, 5_000, 100, 100, 20_000] * 60
    sent = [bytes([i % 251]) * size for i, size in enumerate(sizes)]
    with opened(fsync="never", segment_bytes=1 << 22) as one, opened(fsync="never", segment_bytes=1 << 22) as two:
        for i, value in enumerate(sent):
            (one, two, two)[i % 3].append(value)
        assert values(one) == values(two) == sent


def test_a_handle_reads_on_over_segments_that_another_made_and_trimmed(opened):
    with opened(fsync="never") as writer, opened(fsync="never") as reader:
        at = 0
        for _ in range(6):
            writer.append_many([bytes(1000)] * 150)
            for batch in reader.batches(at):
                at = batch.next_offset
            assert at == writer.next_offset
            writer.trim(at - 5)
            assert [r.offset for r in reader.records()] == list(range(at - 5, at))


def test_a_reader_follows_when_an_empty_segment_makes_way_for_a_larger_one(opened, tmp_path):
    """After a recovery the newest segment is empty; a first frame that does not fit replaces it, under the same name."""
    opened().append(b"first")
    for name in ("shm", "tail.shm"):
        (tmp_path / "log" / name).unlink()
    with opened() as writer, opened() as reader:
        assert values(reader) == [b"first"]  # has looked at the empty segment
        large = bytes(SMALL + 1000)
        writer.append(large)
        assert values(reader) == [b"first", large]
    for name in ("shm", "tail.shm"):
        (tmp_path / "log" / name).unlink()
    opened().append(b"next")
    for name in ("shm", "tail.shm"):
        (tmp_path / "log" / name).unlink()
    with opened() as writer, opened() as reader:
        assert values(reader) == [b"first", large, b"next"]
        writer.append(large)
        writer.append(large)  # and on to another segment before the reader looks again
        assert values(reader) == [b"first", large, b"next", large, large]


def test_threads_append_to_one_handle_without_a_gap_and_each_keeps_its_order(log):
    def work(name):
        for i in range(300):
            if i % 3:
                offsets[name].append(log.append(b"%d:%d:" % (name, i) + bytes(i)))
            else:
                offsets[name].append(log.append_many([b"%d:%d:" % (name, i)])[0].start)

    offsets = {name: [] for name in range(4)}
    threads = [threading.Thread(target=work, args=(name,)) for name in offsets]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    read = [value.split(b":") for value in values(log)]
    assert sorted(offset for given in offsets.values() for offset in given) == list(range(1200))
    for given in offsets.values():
        assert given == sorted(given)
        assert [int(read[offset][1]) for offset in given] == list(range(300))
    assert log.verify() == []


@pytest.mark.parametrize("fsync", ["interval", "always"])
def test_threads_append_sync_read_and_trim_at_once(opened, fsync, rng):
    stop, failures = threading.Event(), []

    def guard(work):
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            failures.append(error)

    def read():
        try:
            for batch in log.batches(log.first_offset):
                assert batch.offsets.tolist() == list(range(batch.first_offset, batch.next_offset))
                assert batch.values.tolist() == [b"%d" % (o % 10) * 300 for o in batch.offsets.tolist()]
        except OffsetOutOfRange:  # trimmed away under the reader
            pass

    def append():
        with appending:
            log.append_many([b"%d" % (o % 10) * 300 for o in range(log.next_offset, log.next_offset + 20)])

    appending = threading.Lock()
    with opened(fsync=fsync) as log:
        jobs = [
            append,
            append,
            log.sync,
            read,
            lambda: log.trim(max(log.first_offset, log.next_offset - 500)),
            log.upkeep,
        ]
        threads = [threading.Thread(target=guard, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        time.sleep(1)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert failures == []
        assert log.verify() == []
        assert log.sync() == log.next_offset > 100


# -- processes -----------------------------------------------------------------------------------------------------


def child(work):
    """Runs `work()` in a forked process; its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def status_of(pid):
    return os.waitpid(pid, 0)[1]


@linux
def test_processes_append_to_one_log_without_a_gap(opened):
    def work(name):
        with opened() as log:
            for i in range(400):
                log.append(b"%d:%d:" % (name, i) + bytes(i))

    pids = [child(functools.partial(work, name)) for name in range(3)]
    assert [status_of(pid) for pid in pids] == [0, 0, 0]
    with opened() as log:
        assert log.next_offset == 1200
        read = [value.split(b":") for value in values(log)]
        for name in range(3):
            assert [int(i) for n, i, _ in read if int(n) == name] == list(range(400))
        assert log.verify() == []
        assert log.losses == ()


@linux
def test_a_forked_child_may_go_on_with_the_log_it_inherited(log):
    log.append(b"parent")
    assert status_of(child(lambda: [log.append(b"child"), log.append_many([b"child"] * 99)])) == 0
    log.append(b"parent")
    assert values(log) == [b"parent"] + [b"child"] * 100 + [b"parent"]


@linux
def test_what_another_process_appends_is_seen_when_its_append_returns(log, opened):
    ready, done = os.pipe()

    def work():
        with opened(fsync="never") as other:
            for i in range(200):
                os.write(done, b"%06d" % other.append(b"x" * i * 7))

    pid = child(work)
    os.close(done)
    while said := os.read(ready, 6):
        assert len(log.record(int(said)).value) == int(said) * 7
    os.close(ready)
    assert status_of(pid) == 0


def blocked_while_rolling(opened, path):
    """A child that has taken the partition's lock and sits in its clock with it. (pid, how many records there are)"""
    told, tell = os.pipe()

    def work():
        state = {"armed": False}

        def clock():
            if state["armed"]:
                os.write(tell, b"!")
                time.sleep(60)
            return 0

        other = opened(clock=clock)
        other.append(b"a")
        state["armed"] = True
        other.append(bytes(SMALL - 4096 - 64), timestamp=0)  # does not fit: a new segment, whose time the clock gives

    pid = child(work)
    os.close(tell)
    assert os.read(told, 1) == b"!"
    os.close(told)
    return pid


@linux
def test_a_live_holder_of_the_lock_is_never_displaced_and_named_when_time_runs_out(opened, tmp_path):
    pid = blocked_while_rolling(opened, tmp_path / "log")
    try:
        for stop in (False, True):  # waiting, then stopped by a signal: both are alive
            if stop:
                os.kill(pid, signal.SIGSTOP)
            log = opened(lock_timeout=0.2)
            before = time.monotonic()
            with pytest.raises(LockTimeout) as caught:
                log.append(b"b")
            assert 0.1 < time.monotonic() - before < 2
            assert (caught.value.pid, isinstance(caught.value, TimeoutError)) == (pid, True)
            assert caught.value.slot >= 0
            assert values(log) == [b"a"]  # reading takes no lock
            with pytest.raises(LockTimeout):
                log.trim(1)
            with pytest.raises(LockTimeout):  # the record is not on disk, and a close that said nothing would say it is
                log.close()
            assert log.closed
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@linux
def test_a_killed_holder_of_the_lock_is_displaced_at_once(opened, tmp_path):
    pid = blocked_while_rolling(opened, tmp_path / "log")
    with opened() as log:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        before = time.monotonic()
        assert log.append(b"b") == 1
        assert time.monotonic() - before < 1
        assert values(log) == [b"a", b"b"]
        log.append_many([bytes(1000)] * 200)
        assert log.verify() == []


# -- waiting -------------------------------------------------------------------------------------------------------


def test_waiting_for_what_is_there_returns_at_once_and_for_what_is_not_after_its_timeout(log):
    log.append(b"a")
    assert log.wait(0) is True
    assert log.wait(0, 0) is True
    before = time.monotonic()
    assert log.wait(1, 0.15) is False
    assert 0.1 < time.monotonic() - before < 2
    assert log.wait(1, 0) is False
    assert log.wait(1, -5) is False


def test_a_waiter_is_woken_by_the_append(log, opened):
    woken = []

    def wait():
        with opened(fsync="never") as reader:
            ready.set()
            woken.append((reader.wait(0, 30), time.monotonic()))

    ready = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    time.sleep(0.1)
    before = time.monotonic()
    log.append(b"a")
    thread.join()
    assert woken[0][0] is True
    assert woken[0][1] - before < 1


def test_a_waiter_for_durability_is_woken_by_the_sync(opened):
    with opened() as log:
        log.append(b"a")
        assert log.wait(0, 0.05, durable=True) is False
        threading.Timer(0.1, log.sync).start()
        assert log.wait(0, 30, durable=True) is True


@linux
def test_a_waiter_can_be_interrupted(tmp_path):
    program = f"""
import sys
from seglog.engine.log import Log
log = Log({str(tmp_path)!r})
print("waiting", flush=True)
try:
    log.wait(0)
except KeyboardInterrupt:
    print("interrupted")
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[0] == "interrupted\n"


def test_a_deleted_log_wakes_its_waiters(opened):
    with opened() as log:
        reader = opened()
        threading.Timer(0.1, log.delete).start()
        before = time.monotonic()
        assert reader.wait(0, 30) is False
        assert time.monotonic() - before < 5


# -- durability ----------------------------------------------------------------------------------------------------


def test_durable_says_what_was_synced_and_reads_can_stop_there(opened):
    with opened(fsync="interval") as log:
        log.append_many([b"a", b"b"])
        assert (log.durable_offset, log.dirty) == (0, True)
        assert log.read(0, durable=True) is None
        assert log.sync() == log.durable_offset == 2
        assert not log.dirty
        log.append(b"c")
        assert log.dirty
        assert log.read(0, durable=True).values.tolist() == [b"a", b"b"]
        assert [len(b) for b in log.batches(durable=True)] == [2]
        assert log.sync() == 3


def test_always_means_durable_when_the_append_returns(opened):
    with opened(fsync="always") as log:
        log.append(b"a")
        assert log.durable_offset == 1
        log.append_many([bytes(1000)] * 200)
        assert log.durable_offset == 201


def test_interval_syncs_when_upkeep_comes_by_and_never_only_when_asked(tmp_path):
    with Log(tmp_path / "interval", fsync="interval") as log:
        log.append(b"a")
        log.upkeep()
        assert log.durable_offset == 1
    with Log(tmp_path / "never", fsync="never") as log:
        log.append(b"a")
        log.upkeep()
        assert log.durable_offset == 0
        assert log.sync() == 1


def test_a_sync_covers_the_segments_before(opened):
    for fsync in ("never", "interval"):
        with opened(fsync=fsync) as log:
            log.append_many([bytes(1000)] * 200)
            assert log.sync() == log.durable_offset == log.next_offset


# -- opening and closing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
@pytest.mark.parametrize("end", ["closed", "dropped"])
def test_a_log_goes_on_where_it_stopped(opened, rng, fsync, end):
    model = []
    for _ in range(6):
        log = opened(fsync=fsync)
        assert (log.next_offset, log.epoch, log.losses) == (len(model), 1, ())
        assert values(log) == model
        chunk = [rng.randbytes(rng.randrange(2000)) for _ in range(40)]
        log.append_many(chunk[:20])
        for value in chunk[20:]:
            log.append(value)
        model += chunk
        if end == "closed":
            log.close()
        del log


def test_settings_may_differ_from_one_opening_to_the_next(tmp_path, rng):
    model = []
    for write in ("map", "pwrite") * 3:
        for fsync in ("never", "always", "interval"):
            with Log(
                tmp_path, write=write, fsync=fsync, segment_bytes=rng.choice([SMALL, 2 * SMALL]), batch_bytes=2048
            ) as log:
                chunk = [rng.randbytes(rng.choice([10, 3000, 40_000])) for _ in range(10)]
                log.append_many(chunk)
                model += chunk
                assert values(log) == model
    with Log(tmp_path) as log:
        assert log.verify() == []
        assert log.epoch == 1


@linux
@pytest.mark.parametrize("end", ["closed", "dropped"])
def test_opening_reads_next_to_nothing_whatever_the_size(opened, tmp_path, end):
    def bytes_read():
        with open("/proc/self/io") as io:
            return int(io.readline().split()[1])

    costs = []
    for n in (20, 20_000):
        log = Log(tmp_path / f"{n}", segment_bytes=1 << 20)
        log.append_many([bytes(1000)] * n)
        if end == "closed":
            log.close()
        del log
        before = bytes_read()
        log = Log(tmp_path / f"{n}", segment_bytes=1 << 20)
        assert log.next_offset == n
        assert log.append(b"") == n
        costs.append(bytes_read() - before)
        log.close()
    assert costs[1] < costs[0] + 20_000


def test_a_closed_log_refuses_every_verb_and_closing_twice_is_fine(log):
    log.append_many([b"a", b"b"])
    batches = log.batches(max_records=1)
    next(batches)
    log.close()
    log.close()
    assert log.closed
    verbs = [
        lambda: log.append(b"x"),
        lambda: log.append_many([b"x"]),
        lambda: log.append_many([]),
        lambda: log.read(0),
        lambda: log.record(0),
        lambda: next(log.batches()),
        lambda: next(log.records()),
        lambda: next(batches),
        lambda: log.wait(0),
        lambda: log.offset_for_time(0),
        lambda: log.trim(0),
        log.sync,
        log.upkeep,
        log.verify,
        log.statistics,
        log.delete,
        lambda: log.first_offset,
        lambda: log.next_offset,
        lambda: log.durable_offset,
        lambda: log.dirty,
        lambda: log.epoch,
    ]
    for verb in verbs:
        with pytest.raises(ClosedError):
            verb()
    assert "closed" in repr(log)
    assert isinstance(ClosedError(), ValueError)


def test_with_closes_also_when_the_body_fails(opened):
    with pytest.raises(ZeroDivisionError), opened() as log:
        log.append(b"a")
        _ = 1 / 0
    assert log.closed
    with opened() as log:
        assert values(log) == [b"a"]


def test_a_log_is_opened_once(log):
    with pytest.raises(ValueError, match="once"):
        log.__init__(log.path)
    assert not log.closed


def test_a_log_left_open_at_exit_ends_quietly_and_keeps_its_records(tmp_path):
    program = (
        f"from seglog.engine.log import Log; log = Log({str(tmp_path)!r}); log.append(b'a'); b = log.read(0); r = b[0]"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    with Log(tmp_path) as log:
        assert values(log) == [b"a"]


def test_a_log_that_must_exist_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        Log(tmp_path / "missing", create=False)
    assert not (tmp_path / "missing").exists()
    Log(tmp_path / "there").close()
    Log(tmp_path / "there", create=False).close()


def test_a_log_may_be_anywhere_a_path_leads(tmp_path):
    for path in (tmp_path / "a" / "b" / "c", str(tmp_path / "é ✓"), tmp_path / ("n" * 200)):
        with Log(path) as log:
            log.append(b"a")
            assert log.path == os.fspath(path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreIOError):
        Log(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_logs_of_one_store_may_share_one_liveness(tmp_path):
    living = Liveness(str(tmp_path))
    logs = [Log(tmp_path / str(i), liveness=living, partition=i) for i in range(5)]
    for log in logs:
        log.append(b"%d" % log.partition)
        assert sorted(p.name for p in (tmp_path / str(log.partition)).iterdir() if "0000" not in p.name) == ["shm"]
    assert [values(log) for log in logs] == [[b"%d" % i] for i in range(5)]
    for log in logs:
        log.close()
    living.close()


# -- deleting, telling ---------------------------------------------------------------------------------------------


def test_delete_removes_every_file_and_tells_every_handle(opened, tmp_path):
    log, other = opened(), opened()
    log.append_many([bytes(1000)] * 200)
    (tmp_path / "log" / "mine.txt").write_text("not yours")
    batch = other.read(0)
    log.delete()
    assert log.closed
    left = sorted(p.name for p in (tmp_path / "log").iterdir())
    assert [name for name in left if name.endswith((".log", ".idx", ".tmp"))] == []
    assert "mine.txt" in left
    for verb in (lambda: other.append(b"x"), other.sync, lambda: other.trim(0)):
        with pytest.raises(TopicNotFound):
            verb()
    other.close()
    assert batch.values.tolist()[0] == bytes(1000)
    with opened() as again:
        assert (again.first_offset, again.next_offset) == (0, 0)
        assert again.append(b"new") == 0


def test_statistics_are_numbers_about_what_is_there(log, tmp_path):
    log.append_many([bytes(1000)] * 100)
    log.trim(10)
    told = log.statistics()
    assert (told["first_offset"], told["next_offset"], told["epoch"]) == (10, 100, 1)
    files = list((tmp_path / "log").glob("*.log"))
    assert told["segments"] == len(files)
    assert told["size_bytes"] == sum(p.stat().st_size for p in files)
    assert told["disk_bytes"] > 0
    assert all(type(value) is int for value in told.values())


def test_a_repr_tells_where_the_log_is_and_what_it_holds(log):
    log.append_many([b""] * 12_345)
    log.trim(1_000)
    assert log.path in repr(log)
    assert "1,000..12,345" in repr(log)


def test_verify_finds_nothing_in_a_sound_log_and_changes_nothing(log, tmp_path):
    log.append_many([bytes(1000)] * 200)
    log.trim(150)
    before = {p.name: p.read_bytes() for p in (tmp_path / "log").iterdir()}
    assert log.verify() == []
    assert {p.name: p.read_bytes() for p in (tmp_path / "log").iterdir()} == before


def test_verify_tells_nothing_beside_a_writer_that_begins_new_segments(log):
    with Log(log.path, segment_bytes=65_536, segment_bytes_min=65_536) as other:
        done = threading.Event()

        def write():
            for _ in range(1500):
                other.append(bytes(8000))
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        rounds = 0
        while not done.is_set():
            assert log.verify() == []
            rounds += 1
        writer.join()
    assert rounds


@pytest.mark.parametrize(
    "setting",
    [{"fsync": "sometimes"}, {"write": "mmap"}, {"recover": "ignore"}, {"codec": "gzip"}, {"segment_bytes": 65_535},
     {"segment_bytes": 2**31}, {"segment_bytes": -1}, {"segment_bytes_min": 0}, {"batch_bytes": 1023}, {"batch_bytes": 2**40},
     {"record_bytes_max": 0}, {"record_bytes_max": 2**40}, {"segment_age": -1.0}, {"segment_age": float("nan")},
     {"segment_age": float("inf")}, {"lock_timeout": 0.0}, {"lock_timeout": float("nan")}],
    ids=str,
)  # fmt: skip
def test_a_setting_that_cannot_work_is_refused_before_anything_is_made(tmp_path, setting):
    with pytest.raises(ConfigError) as caught:
        Log(tmp_path / "log", **setting)
    assert next(iter(setting)) in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    "setting", [{"segment_bytes": "big"}, {"path_": 1}, {"liveness": "yes"}, {"lock_timeout": "1"}]
)
def test_a_setting_of_another_type_is_a_type_error(tmp_path, setting):
    with pytest.raises(TypeError):
        Log(tmp_path / "log", **setting)
