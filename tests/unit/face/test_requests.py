"""Requests: each reply to the one who asked, errors too; who gave up is not worked for."""

import asyncio
import concurrent.futures
import os
import random
import signal
import threading
import time

import pytest

import seglog
import seglog.aio
from seglog import requests


def until(true, seconds=5.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def upper(store):
    """A replier that is at work."""

    @store.replier("upper", concurrency=4)
    def upper(message):
        if message.value == b"bad":
            raise LookupError("no such word")
        return message.value.upper()

    with store.workers():
        yield store


def test_a_request_has_its_reply(upper):
    assert upper.request("upper", b"word") == b"WORD"
    assert upper.request("upper", b"") == b""
    assert upper.requests("upper").statistics() == seglog.RequestStatistics(0, 2, 2, 0, 0, 0)
    until(lambda: upper.queue("upper").statistics().depth == 0)
    assert upper.topics() == []  # how it works is nobody's business


def test_the_replier_sees_the_headers_and_the_key(store):
    @store.replier("echo")
    def echo(message):
        return b"%s %s" % (message.key, message.headers["traceparent"])

    with store.workers():
        assert store.request("echo", b"", b"key", headers={"traceparent": b"00-1"}, timeout=5) == b"key 00-1"


def test_what_the_replier_raises_reaches_the_caller(upper):
    with pytest.raises(seglog.ReplyError, match="upper raised LookupError: no such word") as caught:
        upper.request("upper", b"bad", timeout=5)
    error = caught.value
    assert (error.queue, error.type, error.text) == ("upper", "LookupError", "no such word")
    assert "Traceback" in error.traceback
    assert 'raise LookupError("no such word")' in error.traceback
    assert upper.queue("upper").statistics().dead_lettered == 0
    assert upper.requests("upper").statistics().failed == 1
    assert upper.request("upper", b"good", timeout=5) == b"GOOD"


def test_an_error_of_ones_own_and_one_whose_text_cannot_be_made(store):
    class OutOfTables(Exception):
        pass

    class Shy(Exception):
        def __str__(self):
            raise RuntimeError("no")

    @store.replier("raise")
    def raises(message):
        raise OutOfTables("none left") if message.value == b"1" else Shy

    with store.workers():
        with pytest.raises(seglog.ReplyError) as caught:
            store.request("raise", b"1", timeout=5)
        assert caught.value.type.endswith("OutOfTables")
        with pytest.raises(seglog.ReplyError, match="could not be made"):
            store.request("raise", b"2", timeout=5)


def test_a_reply_that_is_no_bytes_is_an_error_of_the_replier(store):
    store.replier("none")(lambda message: None)
    with store.workers():
        with pytest.raises(seglog.ReplyError, match="a replier returns bytes, not NoneType"):
            store.request("none", b"", timeout=5)


def test_a_thousand_at_once_whose_replies_come_in_random_order(store):
    pending, lock = [], threading.Lock()

    @store.replier("square", concurrency=100)
    async def square(message):
        await asyncio.sleep(random.random() / 20)
        with lock:
            pending.append(int(message.value))
        return b"%d" % int(message.value) ** 2

    with store.workers():
        ask = store.requests("square")
        futures = {n: ask.submit(b"%d" % n, timeout=30) for n in range(1000)}
        assert {n: int(future.result()) for n, future in futures.items()} == {n: n * n for n in range(1000)}
    assert sorted(pending) == list(range(1000))
    assert pending != sorted(pending)
    assert ask.statistics() == seglog.RequestStatistics(0, 1000, 1000, 0, 0, 0)


def test_threads_ask_at_once_and_each_has_its_own(upper):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        words = [b"word %d" % n for n in range(200)]
        assert list(pool.map(lambda word: upper.request("upper", word, timeout=20), words)) == [
            word.upper() for word in words
        ]


def test_coroutines_ask_at_once(path):
    async def main():
        async with await seglog.aio.open(path) as store:
            store.sync_store.replier("upper", concurrency=2)(lambda message: message.value.upper())
            with store.sync_store.workers():
                return await asyncio.gather(*[store.request("upper", b"w%d" % n, timeout=10) for n in range(20)])

    assert asyncio.run(main()) == [b"W%d" % n for n in range(20)]


# ---- time ----------------------------------------------------------------------------------------------------------------


def test_without_a_reply_in_time_it_raises_and_the_request_expires(store):
    seen = []
    ask = store.requests("late")
    began = time.monotonic()
    with pytest.raises(seglog.RequestTimeout, match=r"no reply from late within 0\.2 s") as caught:
        store.request("late", b"one", timeout=0.2)
    assert 0.2 <= time.monotonic() - began < 0.5
    assert isinstance(caught.value, seglog.Timeout)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.queue, caught.value.timeout) == ("late", 0.2)
    store.replier("late")(lambda message: seen.append(message.value) or b"")
    store.run(timeout=0.2)
    assert seen == []  # nobody works for who gave up
    assert ask.statistics() == seglog.RequestStatistics(0, 1, 0, 0, 1, 0)
    assert store.queue("late").statistics().depth == 0


def test_a_future_fails_in_time_too(store):
    began = time.monotonic()
    future = store.requests("late").submit(b"one", timeout=0.2)
    with pytest.raises(seglog.RequestTimeout):
        future.result(5)
    assert 0.2 <= time.monotonic() - began < 0.6


def test_a_late_reply_is_counted_and_dropped(store):
    go = threading.Event()

    @store.replier("slow", concurrency=2)
    def slow(message):
        if message.value == b"first":
            go.wait(5)
        return message.value

    ask = store.requests("slow")
    with store.workers():
        with pytest.raises(seglog.RequestTimeout):
            ask.request(b"first", timeout=0.1)
        go.set()
        until(lambda: ask.statistics().late == 1)
        assert ask.request(b"second", timeout=5) == b"second"
    assert ask.statistics() == seglog.RequestStatistics(0, 2, 1, 0, 1, 1)


def test_a_future_that_was_cancelled_hurts_nobody(upper):
    ask = upper.requests("upper")
    futures = [ask.submit(b"word", timeout=5) for _ in range(20)]
    for future in futures[::2]:
        future.cancel()
    assert all(future.result() == b"WORD" for future in futures if not future.cancelled())
    assert upper.request("upper", b"next", timeout=5) == b"NEXT"


@pytest.mark.skipif(os.name == "nt", reason="no signals")
def test_ctrl_c_ends_the_waiting(store):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        store.request("nobody", b"", timeout=30)
    assert time.monotonic() - began < 2
    assert store.requests("nobody").statistics().outstanding == 0


def test_closing_the_store_ends_the_waiting(path):
    store = seglog.open(path)
    future = store.requests("nobody").submit(b"", timeout=30)
    store.close()
    with pytest.raises(seglog.ClosedError, match="before the reply came"):
        future.result(1)


def test_no_timeout_is_refused(store):
    with pytest.raises(seglog.ConfigError, match="timeout is 0"):
        store.request("upper", b"", timeout=0)
    assert store.queue("upper").statistics().depth == 0


def test_a_request_that_could_not_be_sent_is_not_outstanding(store):
    store.queue("full", max_length=1, overflow="reject").send(b"")
    with pytest.raises(seglog.QueueFull):
        store.request("full", b"")
    assert store.requests("full").statistics() == seglog.RequestStatistics(0, 0, 0, 0, 0, 0)


# ---- the other side --------------------------------------------------------------------------------------------------------


def test_retry_in_a_replier_asks_again_within_the_timeout(store):
    @store.replier("flaky")
    def flaky(message):
        if message.attempts < 3:
            raise seglog.Retry(0.01)
        return b"%d" % message.attempts

    with store.workers():
        assert store.request("flaky", b"", timeout=5) == b"3"


def test_a_plain_message_in_a_repliers_queue_is_handled_and_its_reply_dropped(store):
    seen = []
    store.replier("upper")(lambda message: seen.append(message.value) or b"")
    store.queue("upper").send(b"word")
    assert store.run(timeout=0.15).done == 1
    assert seen == [b"word"]
    assert store.requests("upper").statistics().late == 0


def test_a_plain_message_whose_replier_raises_is_tried_again(store):
    jobs, seen = store.queue("upper", backoff=0.01, max_attempts=2), []

    @store.replier("upper")
    def upper(message):
        seen.append(message.attempts)
        raise ValueError("no")

    jobs.send(b"word")
    store.run(timeout=0.2)
    assert seen == [1, 2]


def test_the_reply_and_the_ack_are_one(store, monkeypatch):
    """A replier whose ack does not go through has not replied either."""
    jobs = store.queue("upper", lease=0.2, max_lease=0.3)
    hang = threading.Event()

    @store.replier("upper", concurrency=2)
    def upper(message):
        if message.attempts == 1:
            hang.wait(5)
            return b"first"
        return b"second"

    with store.workers():
        ask = store.requests("upper")
        assert ask.request(b"", timeout=10) == b"second"
        hang.set()
        until(lambda: jobs.statistics().depth == 0)
        time.sleep(0.2)
    assert ask.statistics().late == 0


def test_what_others_are_told_is_passed_over(path, store, child):
    """Replies to another process stand in the same topic."""
    store.replier("upper")(lambda message: message.value.upper())
    code = "ask = store.requests('upper')\nprint(sorted(ask.submit(b'c%d' % n, timeout=20).result().decode() for n in range(20)))"
    with store.workers():
        mine = [store.requests("upper").submit(b"p%d" % n, timeout=20) for n in range(20)]
        with child(code) as other:
            assert other.said == [str(sorted(f"C{n}" for n in range(20)))]
        assert [future.result() for future in mine] == [b"P%d" % n for n in range(20)]
    assert store.requests("upper").statistics() == seglog.RequestStatistics(0, 20, 20, 0, 0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_an_inbox_of_its_own(store):
    store.replier("upper", concurrency=2)(lambda message: message.value.upper())
    ask = store.requests("upper")
    with store.workers():
        assert ask.request(b"parent", timeout=5) == b"PARENT"
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            try:
                os._exit(0 if ask.request(b"child", timeout=10) == b"CHILD" else 1)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        assert ask.request(b"parent", timeout=5) == b"PARENT"


def test_replies_do_not_fill_the_disk(store, monkeypatch):
    monkeypatch.setattr(requests, "KEPT_BYTES", 200_000)
    store.replier("big")(lambda message: b"x" * 100_000)
    with store.workers():
        for _ in range(30):
            store.request("big", b"", timeout=5)
    topic = requests.replies_of(store)
    assert topic.config.retention_bytes == 200_000
    topic.logs[0].close_segment()
    topic.send(b"")
    store.upkeep()
    assert topic.first_offset() > 0
