"""A full disk is `StoreFull`: nothing before it is harmed, nothing is half written, and appends work again once there is room.

On a small file system in memory, which only root can make; a limit on file sizes would not be the same thing.
"""

import contextlib
import errno
import functools
import os
import signal
import subprocess
import sys

import pytest

from seglog.engine.errors import SeglogError, StoreFull
from seglog.engine.log import Log

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system of a few MiB, so needs root on Linux"
)

MIB = 1 << 20
SMALL = 65_536


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request, tmp_path):
    """A file system of 4 MiB (tmpfs) or 8 MiB (ext4 in a file, whose journal takes the rest)."""
    where = tmp_path / "disk"
    where.mkdir()
    if request.param == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(where)]
    else:
        image = tmp_path / "image"
        with open(image, "wb") as f:
            f.truncate(8 * MIB)
        made = subprocess.run(
            ["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", str(image)], capture_output=True, text=True
        )
        if made.returncode:
            pytest.skip(f"cannot make an ext4: {made.stderr.strip()}")
        mount = ["mount", "-o", "loop", str(image), str(where)]
    run = subprocess.run(mount, capture_output=True, text=True)
    if run.returncode:
        pytest.skip(f"cannot mount: {run.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


@pytest.fixture(params=["map", "pwrite"])
def opened(request, disk):
    return functools.partial(Log, disk / "log", write=request.param, segment_bytes=SMALL * 4, segment_bytes_min=SMALL)


def fill(disk, leave=0):
    """Takes all the room there is but for `leave` bytes."""
    fd = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 16, 4096, 512):
            try:
                while True:
                    os.write(fd, b"x" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        os.fsync(fd)
        if leave:
            os.ftruncate(fd, os.fstat(fd).st_size - leave)
            os.fsync(fd)
    finally:
        os.close(fd)


def empty(disk):
    (disk / "filler").unlink()


def append_until_full(log, rng, model, size=1000):
    for _ in range(100_000):
        value = rng.randbytes(size)
        try:
            log.append(value)
        except StoreFull as error:
            assert error.errno == errno.ENOSPC
            assert "appends work again once there is room" in str(error)
            return
        model.append(value)
    pytest.fail("a disk of a few MiB took 100,000 records")


def values(log):
    return [record.value for record in log.records()]


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
def test_a_full_disk_harms_nothing_and_appends_work_again_once_there_is_room(opened, disk, rng, fsync):
    model = []
    log = opened(fsync=fsync)
    fill(disk, leave=SMALL * 6)
    for _ in range(3):
        append_until_full(log, rng, model)
        assert model
        assert (log.next_offset, values(log), log.verify()) == (len(model), model, [])
        with pytest.raises(StoreFull):
            log.append_many([bytes(1000)] * 500)
        model += [record.value for record in log.records(len(model))]  # the frames of that call that did fit
        assert log.trim(0) == 0
        empty(disk)
        for _ in range(20):
            model.append(rng.randbytes(5000))
            assert log.append(model[-1]) == len(model) - 1
        fill(disk, leave=SMALL)
    empty(disk)
    assert values(log) == model
    log.close()
    with opened(fsync=fsync) as log:
        assert (values(log), log.epoch, log.losses) == (model, 1, ())


def test_an_append_many_says_how_many_records_were_taken_before_the_disk_was_full(opened, disk, rng):
    with opened(batch_bytes=4096) as log:
        log.append(b"first")
        fill(disk, leave=SMALL * 2)
        sent = [rng.randbytes(1000) for _ in range(3000)]
        with pytest.raises(StoreFull) as caught:
            log.append_many(sent)
        assert caught.value.accepted == log.next_offset - 1
        assert values(log) == [b"first", *sent[: caught.value.accepted]]
        empty(disk)
        log.append_many(sent[caught.value.accepted :])
        assert values(log) == [b"first", *sent]


def test_a_small_record_may_still_fit_when_a_large_one_does_not(opened, disk, rng):
    with opened() as log:
        log.append(b"first")
        log.sync()
        fill(disk)
        for _ in range(3):
            with pytest.raises(StoreFull):
                log.append(rng.randbytes(200_000))
            with contextlib.suppress(StoreFull):  # by pwrite a page must still be found
                log.append(b"small")
        empty(disk)
        log.append(b"last")
        assert values(log)[0] == b"first"
        assert values(log)[-1] == b"last"
        assert log.verify() == []


def test_reading_trimming_and_syncing_work_on_a_full_disk(opened, disk, rng):
    model = []
    with opened(segment_bytes=SMALL) as log:
        fill(disk, leave=SMALL * 8)
        append_until_full(log, rng, model)
        assert log.sync() == len(model)
        for index in (disk / "log").glob("*.idx"):
            index.unlink()
        fill(disk)
        assert values(log) == model
        assert log.offset_for_time(0) == 0
        assert log.trim(len(model) - 5) == len(model) - 5
        assert values(log) == model[-5:]
        value = rng.randbytes(1000)
        log.append(value)  # trimming made room
        assert values(log) == [*model[-5:], value]


@pytest.mark.parametrize("leave", [0, 4096, 8192, 16_384, 24_576, 28_672, 40_960, 65_536])
def test_a_log_can_be_opened_on_a_full_disk_or_says_that_it_cannot(opened, disk, leave):
    """In a process of its own: a store into a page that cannot be had would be SIGBUS."""
    fill(disk, leave=leave)
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            with opened() as log:
                log.append(b"x" * 100)
            status = 0
        except StoreFull:
            status = 1
        except SeglogError:
            status = 2
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert not os.WIFSIGNALED(status), signal.Signals(os.WTERMSIG(status)).name
    assert os.WEXITSTATUS(status) in (0, 1)
    empty(disk)
    with opened() as log:
        assert values(log) in ([], [b"x" * 100])
        log.append(b"y")


@pytest.mark.parametrize("end", ["closed", "killed", "rebooted"])
def test_a_log_that_exists_opens_on_a_full_disk_or_says_that_it_cannot_and_loses_nothing(opened, disk, rng, end):
    model = [rng.randbytes(1000) for _ in range(300)]
    log = opened()
    log.append_many(model)
    log.sync()
    if end == "closed":
        log.close()
    del log
    if end == "rebooted":
        for name in ("shm", "tail.shm"):
            (disk / "log" / name).unlink()
    fill(disk)
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            log = opened()
            status = 3
            if values(log) == model:
                status = 0
            log.append(bytes(300_000))
        except StoreFull:
            status = status if status != 9 else 1
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert not os.WIFSIGNALED(status), signal.Signals(os.WTERMSIG(status)).name
    assert os.WEXITSTATUS(status) in ((0,) if end != "rebooted" else (0, 1))
    empty(disk)
    with opened() as log:
        assert values(log) == model
        assert log.verify() == []
        log.append(b"next")
    for name in ("shm", "tail.shm"):
        (disk / "log" / name).unlink()
    with opened() as log:
        assert values(log) == [*model, b"next"]


def test_a_process_killed_on_a_full_disk_leaves_a_sound_log(opened, disk, rng):
    fill(disk, leave=SMALL * 8)
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            log = opened(fsync="never")
            while True:
                try:
                    log.append(b"%08d" % log.next_offset + bytes(1000))
                except StoreFull:
                    os.write(tell, b"!")
        finally:
            os._exit(1)
    for _ in range(20):
        assert os.read(told, 1) == b"!"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    empty(disk)
    with opened() as log:
        assert [int(value[:8]) for value in values(log)] == list(range(log.next_offset))
        assert log.next_offset > 50
        assert log.append(b"next") == log.next_offset - 1
        assert log.verify() == []
