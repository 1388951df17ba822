"""RateLimit: so many a second, whoever asks and however coarsely the machine sleeps."""

import contextlib
import os
import signal
import threading
import time

import pytest

import seglog
from seglog import limits


class Time:
    """Of a machine that sleeps too long."""

    def __init__(self, oversleeps=0.0):
        self.now = 100.0
        self.oversleeps = oversleeps

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds + self.oversleeps


@pytest.fixture
def machine(monkeypatch):
    def made(oversleeps=0.0):
        time_ = Time(oversleeps)
        monkeypatch.setattr(limits, "time", time_)
        return time_

    return made


def let_through(limit, seconds, n=1):
    began = time.monotonic()
    count = 0
    while time.monotonic() < began + seconds:
        limit.wait(n)
        count += n
    return count / (time.monotonic() - began)


def test_five_thousand_a_second_are_five_thousand_within_two_percent():
    assert let_through(seglog.RateLimit(5000), 2.0) == pytest.approx(5000, rel=0.02)


def test_threads_share_one_limit():
    limit, counts, stop = seglog.RateLimit(2000), [], threading.Event()

    def work():
        count = 0
        while not stop.is_set():
            with limit:
                count += 1
        counts.append(count)

    threads = [threading.Thread(target=work) for _ in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    stop.set()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    assert sum(counts) / took == pytest.approx(2000, rel=0.03)
    assert min(counts) > 0.1 * sum(counts)


@pytest.mark.parametrize("oversleeps", [0.0, 0.001, 0.05, 0.099])
def test_what_was_slept_too_long_is_made_good(machine, oversleeps):
    clock = machine(oversleeps)
    limit = seglog.RateLimit(1000)
    began = clock.now
    for _ in range(10_000):
        limit.wait()
    assert 10_000 / (clock.now - began) == pytest.approx(1000, rel=0.02)


def test_after_a_pause_no_more_than_a_burst_goes_at_once(machine):
    clock = machine()
    limit = seglog.RateLimit(100, burst=5)
    clock.now += 3600
    before = clock.now
    for _ in range(5):
        limit.wait()
    assert clock.now == before
    limit.wait()
    assert clock.now == pytest.approx(before + 0.01)


def test_a_bucket_begins_with_one_token_so_that_restarts_are_no_way_around_it(machine):
    clock = machine()
    limit = seglog.RateLimit(10, burst=100)
    before = clock.now
    limit.wait()
    assert clock.now == before
    limit.wait(10)
    assert clock.now == pytest.approx(before + 1.0)


def test_more_than_a_burst_go_together_when_the_time_for_all_has_come(machine):
    clock = machine()
    limit = seglog.RateLimit(100, burst=1)
    before = clock.now
    limit.wait(51)
    assert clock.now == pytest.approx(before + 0.5)


def test_who_cannot_wait_so_long_is_told_at_once_and_takes_nothing(machine):
    clock = machine()
    limit = seglog.RateLimit(1)
    before = clock.now
    assert limit.wait(timeout=0)
    assert not limit.wait(timeout=0.9)
    assert clock.now == before
    assert limit.wait(timeout=1.0)
    assert clock.now == pytest.approx(before + 1.0)


def test_who_sleeps_in_his_own_way_is_told_how_long_and_may_give_back(machine):
    clock = machine()
    limit = seglog.RateLimit(10)
    assert limit.take() == 0.0
    assert limit.take() == pytest.approx(0.1)
    assert limit.take() == pytest.approx(0.2)
    limit.give_back(2)
    assert limit.take() == pytest.approx(0.1)
    clock.now += 0.1
    assert limit.take() == pytest.approx(0.1)


@pytest.mark.skipif(os.name == "nt", reason="no signals")
def test_ctrl_c_ends_the_waiting_and_gives_back():
    limit = seglog.RateLimit(0.1)
    limit.wait()
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        limit.wait()
    assert time.monotonic() - began < 2.0
    assert limit.take() == pytest.approx(10.0, abs=0.5)  # and not 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_goes_on_though_a_thread_of_its_parent_was_asking():
    limit = seglog.RateLimit(1000)
    with limit._lock:
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                signal.alarm(5)
                limit.wait()
                os._exit(0)
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), "5", True, None])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(seglog.ConfigError, match="per_second"):
        seglog.RateLimit(rate)


@pytest.mark.parametrize("burst", [0, 0.5, -1, "5"])
def test_a_burst_is_at_least_one(burst):
    with pytest.raises(seglog.ConfigError, match="burst"):
        seglog.RateLimit(5, burst=burst)


def test_it_says_what_it_is():
    assert repr(seglog.RateLimit(5000)) == "<RateLimit 5000/s, bursts of 500>"
