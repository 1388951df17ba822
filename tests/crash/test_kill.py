"""A process may be killed at any moment: what was acknowledged is there, what is there is right, and everyone else goes on.

Children append, roll, trim, sync and close; a pipe tells the parent what was acknowledged; SIGKILL comes when it comes.
SEGLOG_LONG=1 kills a thousand times and more.
"""

import functools
import os
import random
import select
import shutil
import signal
import struct
import sys
import time

import pytest
import xxhash

from crash.scratch import folder as in_memory
from seglog.engine.errors import OffsetOutOfRange
from seglog.engine.log import Log

LONG = bool(os.environ.get("SEGLOG_LONG"))
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
    pytest.mark.timeout(3600 if LONG else 120),
]

SMALL = 65_536
MESSAGE = struct.Struct("<cqQ")  # kind, offset, hash of the payload
APPENDED, TRIMMING, TRIMMED, CLOSED = b"a", b"t", b"T", b"c"


def payload(rng):
    """Bytes that say themselves whether they are what was written."""
    body = rng.randbytes(rng.choice([0, 10, 50, 50, 50, 300, 2000, 33_000]))
    return xxhash.xxh3_64_digest(body) + body


def is_sound(value):
    return xxhash.xxh3_64_digest(value[8:]) == value[:8]


def write_for_ever(path, write, seed, pipe):
    """What a child does until it is killed. Each acknowledgement is one atomic write to the pipe, after the call returned."""
    rng = random.Random(seed)

    def opened():
        return Log(
            path,
            write=write,
            segment_bytes=SMALL,
            batch_bytes=4096,
            fsync=rng.choice(["never", "interval", "interval", "always"]),
        )

    def say(*messages):
        data = b"".join(MESSAGE.pack(*message) for message in messages)
        for at in range(0, len(data), 100 * MESSAGE.size):  # at most PIPE_BUF at a time
            os.write(pipe, data[at : at + 100 * MESSAGE.size])

    log = opened()
    while True:
        action = rng.random()
        if action < 0.55:
            value = payload(rng)
            say((APPENDED, log.append(value), xxhash.xxh3_64_intdigest(value)))
        elif action < 0.85:
            values = [payload(rng) for _ in range(rng.randrange(1, 40))]
            offsets = [offset for span in log.append_many(values) for offset in range(span.start, span.stop)]
            say(*((APPENDED, offset, xxhash.xxh3_64_intdigest(value)) for offset, value in zip(offsets, values)))
        elif action < 0.9:
            before = rng.randrange(log.first_offset, log.next_offset + 1)
            say((TRIMMING, before, 0))
            if rng.random() < 0.5:
                log.trim(before)
                say((TRIMMED, before, 0))
        elif action < 0.95:
            log.sync()
        elif action < 0.98:
            log.upkeep()
        else:
            log.close()
            say((CLOSED, 0, 0))
            log = opened()


class Child:
    """A process that writes for ever, and what it has said so far."""

    def __init__(self, path, write, seed):
        self.out, pipe = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.out)
                write_for_ever(path, write, seed, pipe)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(pipe)
        self.heard = b""

    def listen(self, seconds):
        """Reads all that comes for so long, or until the end."""
        deadline = time.monotonic() + seconds
        while self.hears(max(deadline - time.monotonic(), 0)):
            if time.monotonic() >= deadline:
                break

    def hears(self, seconds):
        """Reads the next that comes, waiting for so long; whether anything did."""
        if not select.select([self.out], [], [], seconds)[0]:
            return False
        data = os.read(self.out, 1 << 16)
        self.heard += data
        return bool(data)

    def kill(self):
        """Its messages, all that were whole."""
        os.kill(self.pid, signal.SIGKILL)
        self.listen(60)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.out)
        assert os.WIFSIGNALED(status), "the child failed by itself; its traceback is above"
        whole = len(self.heard) // MESSAGE.size * MESSAGE.size
        return list(MESSAGE.iter_unpack(self.heard[:whole]))


def bytes_read():
    if sys.platform != "linux":
        return 0
    with open("/proc/self/io") as io:
        return int(io.readline().split()[1])


class Model:
    """What was acknowledged, by all children together."""

    def __init__(self):
        self.hashes, self.first, self.highest_trim = {}, 0, 0

    def add(self, messages):
        for kind, offset, value in messages:
            if kind == APPENDED:
                assert offset not in self.hashes, "an offset was given out twice"
                self.hashes[offset] = value
            elif kind == TRIMMED:
                self.first = max(self.first, offset)
            if kind in (TRIMMING, TRIMMED):
                self.highest_trim = max(self.highest_trim, offset)

    def check(self, path, write):
        """Opens the log, reads it all, and holds it against what was acknowledged."""
        before = bytes_read()
        with Log(path, write=write, segment_bytes=SMALL) as log:
            assert bytes_read() - before < 200_000, "opening read the log"
            assert (log.epoch, log.losses) == (1, ()), "a recovery, though the machine never went down"
            assert self.first <= log.first_offset <= self.highest_trim
            offsets, wrong = [], []
            for record in log.records():
                offsets.append(record.offset)
                value = record.value
                if not is_sound(value) or self.hashes.get(record.offset, hash_of(value)) != hash_of(value):
                    wrong.append(record.offset)
            assert wrong == [], "records that nobody wrote"
            assert offsets == list(range(log.first_offset, log.next_offset)), "a hole"
            lost = [offset for offset in self.hashes if offset >= max(log.first_offset, log.next_offset)]
            assert lost == [], "acknowledged, and gone"
            assert log.verify() == []
            self.first = log.first_offset
            new = log.append(b"12345678")
            assert new == log.next_offset - 1
            log.trim(log.next_offset)
            self.first = self.highest_trim = log.next_offset


def hash_of(value):
    return xxhash.xxh3_64_intdigest(value)


@pytest.fixture
def memory(tmp_path):
    """A place in memory: where time is measured, a slow disk must not count."""
    with in_memory("kill", otherwise=tmp_path) as path:
        yield path


@pytest.mark.parametrize("write", ["map", "pwrite"])
def test_nothing_acknowledged_is_lost_and_nothing_is_wrong_when_a_process_is_killed(tmp_path, write, rng):
    for round in range(100 if LONG else 4):
        model, path = Model(), tmp_path / str(round)
        for _ in range(10 if LONG else 8):
            child = Child(path, write, rng.getrandbits(64))
            assert child.hears(30), "no start"
            child.listen(rng.choice([0.001, 0.02, 0.1, 0.3]) * rng.random())
            model.add(child.kill())
            model.check(path, write)
        assert len(model.hashes) > 10, "they were all killed before they wrote"
        shutil.rmtree(path)


@pytest.mark.parametrize("write", ["map", "pwrite"])
def test_when_one_of_several_writers_is_killed_the_others_go_on_within_a_second(memory, write, rng):
    for round in range(200 if LONG else 6):
        model, path = Model(), memory / str(round)
        children = [Child(path, write, rng.getrandbits(64)) for _ in range(3)]
        for child in children:
            assert child.hears(30), "no start"
        while children:
            for child in children:
                child.listen(0.01 * rng.random())
            killed = children.pop(rng.randrange(len(children)))
            os.kill(killed.pid, signal.SIGKILL)
            for child in children:
                while child.hears(0):  # what it said before
                    pass
                assert child.hears(1.0), "a survivor stands still"
            model.add(killed.kill())
        model.check(path, write)
        shutil.rmtree(path)


@pytest.mark.parametrize("write", ["map", "pwrite"])
def test_a_reader_in_another_process_never_sees_anything_but_whole_sound_records(tmp_path, write, rng):
    for _ in range(50 if LONG else 3):
        child = Child(tmp_path, write, rng.getrandbits(64))
        assert child.hears(30), "no start"
        log = Log(tmp_path, write=write, segment_bytes=SMALL)
        at, deadline = log.first_offset, time.monotonic() + 0.15
        while time.monotonic() < deadline:
            child.listen(0.0001)
            try:
                batch = log.read(at)
            except OffsetOutOfRange:  # trimmed under the reader
                at = log.first_offset
                continue
            if batch is not None:
                assert [r.offset for r in batch] == list(range(at, batch.next_offset))
                assert all(is_sound(record.value) for record in batch)
                at = batch.next_offset
        child.kill()
        del log
        with Log(tmp_path) as log:
            log.trim(log.next_offset)


@pytest.mark.parametrize("write", ["map", "pwrite"])
@pytest.mark.parametrize("size", [100, 30_000, 60_000])
def test_a_reader_at_the_very_end_never_sees_a_record_that_is_half_stored(memory, write, size):
    """The watermark moves last. The writer is in the middle of a copy most of the time; the reader looks all the time."""

    def work():
        log = Log(memory, write=write, segment_bytes=1 << 26, fsync="never")
        values = [bytes([i]) * size for i in range(256)]
        while True:
            log.append(values[log.next_offset % 256])
            if log.next_offset % 1000 == 0:
                log.trim(log.next_offset - 500)

    with Log(memory, write=write, segment_bytes=1 << 26, fsync="never") as log:
        pid = in_child(work)
        try:
            assert log.wait(0, 30), "no start"
            seen, deadline = set(), time.monotonic() + (20 if LONG else 0.4)
            while time.monotonic() < deadline:
                for _ in range(100):
                    try:
                        record = log.record(log.next_offset - 1)
                    except OffsetOutOfRange:  # this process was not run for a while, and what it wanted was trimmed
                        continue
                    assert record.value == bytes([record.offset % 256]) * size
                    seen.add(record.offset)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert len(seen) > 3


def test_whoever_opens_while_others_roll_and_trim_recovers_nothing(memory):
    """The segment that was active a moment ago may be gone when it is looked at. That is no damage, and nobody has to start anew."""

    def work():
        log = Log(memory, segment_bytes=SMALL, fsync="never")
        while True:
            log.append(bytes(40_000))
            log.trim(log.next_offset)

    with Log(memory, segment_bytes=SMALL, fsync="never") as log:
        pid = in_child(work)
        try:
            assert log.wait(0, 30), "no start"
            deadline = time.monotonic() + (20 if LONG else 1.0)
            while time.monotonic() < deadline:
                Log(memory, segment_bytes=SMALL, fsync="never").close()
            assert log.epoch == 1
            log.append(b"still here")
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.mark.parametrize("write", ["map", "pwrite"])
def test_a_process_stopped_for_a_while_is_not_taken_for_dead(memory, write, rng):
    """The others wait for it if they must, and nothing of its is undone: no record is lost or wrong on either side."""
    model, path = Model(), memory / "log"
    children = [Child(path, write, rng.getrandbits(64)) for _ in range(2)]
    for child in children:
        assert child.hears(30), "no start"
    for _ in range(100 if LONG else 10):
        stopped = rng.choice(children)
        os.kill(stopped.pid, signal.SIGSTOP)
        for child in children:
            child.listen(0.03 * rng.random())
        os.kill(stopped.pid, signal.SIGCONT)
        for child in children:
            child.listen(0.01)
    for child in children:
        while child.hears(0):
            pass
        assert child.hears(30.0), "a writer stands still"
    for child in children:
        model.add(child.kill())
    model.check(path, write)


# -- what a killed process leaves behind ---------------------------------------------------------------------------


def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


@pytest.mark.parametrize("write", ["map", "pwrite"])
def test_a_thousand_dead_processes_take_no_slots_and_leave_no_files(tmp_path, write):
    def work():
        Log(tmp_path, write=write).append(b"x")
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(1100 if LONG else 60):
        os.waitpid(in_child(work), 0)
    with Log(tmp_path, write=write) as log:
        assert log.next_offset == (1100 if LONG else 60)
        assert len(list(tmp_path.iterdir())) == 5  # a segment, its index, lock, shm, tail.shm


@pytest.mark.parametrize("write", ["map", "pwrite"])
def test_a_segment_half_made_by_a_dead_process_is_in_nobodys_way(tmp_path, write):
    opened = functools.partial(Log, tmp_path, write=write, segment_bytes=SMALL)
    with opened() as log:
        log.append_many([bytes(1000)] * 50)
        (tmp_path / f"{50:020}.log.tmp").write_bytes(b"half a segment")
        (tmp_path / f"{50:020}.idx.tmp").write_bytes(b"half an index")
        log.append_many([bytes(1000)] * 50)
        assert len(list(log.records())) == 100
    for name in ("shm", "tail.shm"):
        (tmp_path / name).unlink()
    (tmp_path / f"{77:020}.log.tmp").write_bytes(b"half a segment")
    with opened() as log:
        assert len(list(log.records())) == 100
        assert list(tmp_path.glob("*.tmp")) == []
