"""A process may be killed at any moment: what was acknowledged is there, what is there is right, and everyone else goes on.

Children append, roll, trim, sync and close; a pipe tells the parent what was acknowledged; SIGKILL comes when it comes.
SEGLOG_LONG=1 kills a thousand times and more.
"""

import functools
import os
import random
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
import xxhash

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
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="seglog-kill-") as path:
        yield Path(path)


@pytest.mark.parametrize("write", ["map", "pwrite"])
def test_nothing_acknowledged_is_lost_and_nothing_is_wrong_when_a_process_is_killed(tmp_path, write, rng):
    for round in range(100 if LONG else 4):
        model, path = Model(), tmp_path / str(round)
        for _ in range(10 if LONG else 8):
            child = Child(path, write, rng.getrandbits(64))
            assert child.hears(30), "no start"
            child.listen(rng.choice([0.001, 0.02, 0.1, 0.3]) * rng.random())
            model.add(child.kill())
            assert model.hashes
            model.check(path, write)
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
        assert child.hears(2.0), "a writer stands still"
    for child in children:
        model.add(child.kill())
    model.check(path, write)


# -- killed at each place where something is half done -------------------------------------------------------------

SOURCES = Path(__file__).parents[2] / "src" / "engine"
POINTS = [
    "clean.cleared", "close.raised", "close.marked", "create.written", "create.named", "place.header",
    "place.stored", "place.indexed", "place.published", "place.moved", "recover.begin", "recover.scanned",
    "recover.settled", "recover.made", "recover.words", "recover.filled", "repair.walked", "roll.synced",
    "roll.made", "roll.switching", "roll.switched", "roll.sealing", "roll.sealed", "settle.zeroed",
    "sync.begin", "sync.done", "trim.begin", "trim.marked", "trim.removed",
]  # fmt: skip

WORK = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    from seglog.engine.log import Log
    path, write, fsync, said = sys.argv[1:]
    say = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log = Log(path, write=write, fsync=fsync, segment_bytes=65536)
    for round in range(3):
        for i in range(60):
            offset = log.append(b"%d" % i + bytes(2500))
            os.write(say, b"a%d\\n" % offset)
            if i % 20 == 7:
                log.sync()
                os.write(say, b"s%d\\n" % log.durable_offset)
            if i % 20 == 15:
                os.write(say, b"t%d\\n" % (offset // 2))
                log.trim(offset // 2)
        log.close()
        log = Log(path, write=write, fsync=fsync, segment_bytes=65536)
""")
has_failpoints = os.environ.get("SEGLOG_BUILD", "release") in ("debug", "asan", "trace")


@pytest.mark.skipif(not SOURCES.is_dir(), reason="reads the sources")
def test_every_failpoint_of_the_sources_is_tried_here():
    found = set()
    for source in SOURCES.glob("*.pyx"):
        found |= set(re.findall(r'failpoint\("([^"]+)"\)', source.read_text(encoding="utf-8")))
    assert found == set(POINTS)


@pytest.mark.skipif(not has_failpoints, reason="failpoints are in the debug build: make debug")
@pytest.mark.parametrize("fsync", ["interval", "never", "always"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_failpoint_nothing_acknowledged_is_lost(tmp_path, point, fsync, rng):
    """The survivor, another process that had the log open all along, goes on; and so does one after a reboot."""
    for write in ("map", "pwrite"):
        for n in (1, 2, 5):
            path, said = tmp_path / f"{write}{n}", tmp_path / f"{write}{n}.said"
            survivor = Log(path, write=write, fsync=fsync, segment_bytes=SMALL)
            if point.startswith(("recover.", "settle.", "repair.")):
                for i in range(30):
                    survivor.append(b"%d" % i + bytes(2500))
                survivor = None
                for name in ("shm", "tail.shm"):
                    (path / name).unlink()
            environment = os.environ | {"SEGLOG_FAIL": f"{point}:{n}"}
            run = subprocess.run(
                [sys.executable, "-c", WORK, str(path), write, fsync, str(said)],
                env=environment,
                capture_output=True,
                text=True,
            )
            assert run.returncode in (0, -signal.SIGKILL), run.stderr
            words = said.read_text().split() if said.exists() else []
            acknowledged = [int(word[1:]) for word in words if word[0] == "a"]
            trimmed = max((int(word[1:]) for word in words if word[0] == "t"), default=0)
            durable = max((int(word[1:]) for word in words if word[0] == "s"), default=0)
            if survivor is not None:
                check_after(survivor, acknowledged, trimmed)
                assert survivor.append(b"s" + bytes(2500)) >= max(acknowledged, default=-1) + 1
                survivor.sync()
            survivor = None
            with Log(path, write=write, fsync=fsync, segment_bytes=SMALL) as log:
                check_after(log, acknowledged, trimmed)
            for name in ("shm", "tail.shm"):
                (path / name).unlink()
            with Log(path, write=write, fsync=fsync, segment_bytes=SMALL) as log:
                check_after(log, [offset for offset in acknowledged if offset < durable or fsync != "never"], trimmed)
                assert log.append(b"new") > max(acknowledged, default=-1)
                assert log.verify() == []


def check_after(log, acknowledged, trimmed):
    offsets = [record.offset for record in log.records()]
    assert offsets == sorted(set(offsets))
    assert log.first_offset <= max(trimmed, offsets[0] if offsets else log.next_offset)
    assert [
        offset for offset in acknowledged if offset >= max(trimmed, log.first_offset) and offset not in set(offsets)
    ] == []
    assert all(len(record.value) > 2000 or record.value == b"new" for record in log.records())


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
