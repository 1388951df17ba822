"""Who holds the lock and is dead is displaced at once, on the kernel's word; who is slow or stopped never is, and is named."""

import os
import signal
import statistics
import sys
import threading
import time

import pytest

import seglog
from crash.kills.children import Child, Servant
from process.fair import fair
from process.workers import LOCK, SYNC_LOCK, Words, hold, opened

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="meddles with shared words")

PATIENCE = 0.25


def append(log, value):
    return log.append(value)


def sync(log):
    return log.sync()


def test_a_killed_holder_is_displaced_at_once(memory, capsys):
    path = str(memory / "log")
    log, waits = opened(path), []
    for i in range(30):
        with Child(hold, path, "die") as dead:
            assert dead.wait() == -signal.SIGKILL
        began, counted = time.monotonic(), fair()
        assert log.append(b"x") == i
        assert fair() - counted < 1.0
        waits.append(time.monotonic() - began)
    with capsys.disabled():
        print(f" [{statistics.median(waits) * 1000:.2f} ms, at most {max(waits) * 1000:.1f}]", end="")


def test_those_who_already_wait_go_on_when_the_holder_is_killed(memory):
    path = str(memory / "log")
    opened(path)
    for _ in range(5):
        holder = Child(hold, path, "sleep")
        words, deadline = Words(path), time.monotonic() + 10
        while words[LOCK] == 0 and time.monotonic() < deadline:
            time.sleep(0.001)
        waiting = [Servant(opened, path) for _ in range(3)]
        for servant in waiting:
            servant.tell(append, b"x")
        time.sleep(0.1)
        assert words[LOCK] != 0
        holder.kill()
        killed = fair()
        for servant in waiting:
            assert servant.reply()[0] == "ok"
        assert fair() - killed < 1.0
        for child in (holder, *waiting):
            child.stop()
    assert open_and_read_values(path) == [b"x"] * 15


def open_and_read_values(path):
    return [record.value for record in opened(path).records()]


@pytest.mark.parametrize("word", [LOCK, SYNC_LOCK])
@pytest.mark.parametrize("then", ["stop", "sleep"])
def test_a_holder_that_is_stopped_or_slow_is_not_displaced_but_named(memory, then, word):
    path = str(memory / "log")
    log = opened(path, fsync="always", lock_timeout=PATIENCE)
    log.append(b"before")
    holder = Child(hold, path, then, word)
    words, deadline = Words(path), time.monotonic() + 10
    while words[word] == 0 and time.monotonic() < deadline:
        time.sleep(0.001)
    held = words[word]
    other = Servant(opened, path)
    for _ in range(2):
        began, counted = time.monotonic(), fair()
        with pytest.raises(seglog.LockTimeout) as raised:
            log.append(b"while it was held")
        assert time.monotonic() - began >= PATIENCE
        assert fair() - counted < PATIENCE + 0.8
        assert raised.value.pid == holder.pid
        assert str(holder.pid) in str(raised.value)
        assert words[word] == held
    if word == LOCK:
        assert log.next_offset == 1  # nothing was written, and it says so
        assert "Nothing was written" in str(raised.value)
    else:
        assert log.next_offset == 3  # it was, and it says so
        assert "What was appended is there" in str(raised.value)
    assert [record.value for record in log.records(0, 1)] == [b"before"]  # readers need no lock
    if then == "sleep":
        holder.kill()
    else:
        holder.kill(signal.SIGCONT)
        assert holder.answer() is True  # it had its lock all the time
    log.append(b"after")
    assert other.ask(append, b"and another") == log.next_offset - 1
    assert log.sync() == log.next_offset


def test_a_word_that_no_process_of_ours_wrote_locks_nobody_out(memory):
    path = str(memory / "log")
    log, words = opened(path), Words(path)
    for i, word in enumerate((1, 0xFFFF, 0xFFFFFFFF, 1 << 16 | 1025, 7 << 16 | 2, 0xFFFF << 16 | 1)):
        if word == log.liveness.word:
            continue
        words[LOCK] = word
        log.append(b"%d" % i)
        words[SYNC_LOCK] = word
        log.sync()
    assert log.verify() == []


def test_many_waiters_of_one_dead_holder_displace_it_once(memory):
    """Eight processes and eight threads find it dead at once: one wins, all go on, no record is over another."""
    path = str(memory / "log")
    log = opened(path)
    for _ in range(5):
        holder = Child(hold, path, "sleep")
        words, deadline = Words(path), time.monotonic() + 10
        while words[LOCK] == 0 and time.monotonic() < deadline:
            time.sleep(0.001)
        servants = [Servant(opened, path) for _ in range(8)]
        for servant in servants:
            servant.tell(append, b"from a process")
        threads = [threading.Thread(target=log.append, args=(b"from a thread",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        holder.kill()
        for servant in servants:
            assert servant.reply(2.0)[0] == "ok"
        for thread in threads:
            thread.join(2.0)
            assert not thread.is_alive()
        for child in (holder, *servants):
            child.stop()
    assert sorted(open_and_read_values(path)) == [b"from a process"] * 40 + [b"from a thread"] * 40
    assert log.verify() == []


def test_the_heir_of_a_dead_ones_slot_is_told_apart_from_it(memory):
    """A dead one's slot finds new owners; its word, left in the lock, still means the dead one."""
    path = str(memory / "log")
    log = opened(path)
    with Child(hold, path, "die") as dead:
        dead.wait()
    words, deadline = Words(path), time.monotonic() + 10
    old = words[LOCK]
    with Child(hold, path, "sleep"):  # in the same slot, and it takes the lock word for its own
        while words[LOCK] == old and time.monotonic() < deadline:
            time.sleep(0.001)
        assert words[LOCK] & 0xFFFF == old & 0xFFFF
        assert log.liveness.alive(words[LOCK])
        assert not log.liveness.alive(old)
        words[LOCK] = old
        log.append(b"x")
    assert os.path.exists(path)


# -- the check can fail -------------------------------------------------------------------------------------------------


def test_a_lock_that_is_taken_from_the_living_is_seen(memory):
    """What a broken engine would do, done by hand: the holder then finds another in its place."""
    path = str(memory / "log")
    log = opened(path)
    holder = Child(hold, path, "stop")
    assert holder.wait_stopped()
    Words(path)[LOCK] = 0
    log.append(b"over it")
    Words(path)[LOCK] = log.liveness.word
    holder.kill(signal.SIGCONT)
    assert holder.answer() is False
    Words(path)[LOCK] = 0
