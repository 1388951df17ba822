"""Handlers: acked when they return, tried again when they raise, given back when there is no time to finish."""

import asyncio
import logging
import os
import signal
import threading
import time

import pytest

import seglog
from seglog import feeds

IDLE = 0.15  # seconds without a message, after which a run ends


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL, "seglog.workers")


@pytest.fixture
def jobs(store):
    return store.queue("jobs", backoff=0.01, max_attempts=3)


def until(true, seconds=5.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


# ---- a message's life --------------------------------------------------------------------------------------------------


def test_a_message_is_acked_when_its_handler_returned(store, jobs):
    seen = []

    @store.handler("jobs")
    def work(message):
        seen.append((message.value, jobs.statistics().in_flight))

    jobs.send_many([b"one", b"two"])
    assert store.run(timeout=IDLE) == seglog.WorkerStatistics(done=2)
    assert seen == [(b"one", 1), (b"two", 1)]
    assert (jobs.statistics().depth, jobs.statistics().acked) == (0, 2)


def test_it_fails_twice_then_succeeds_with_a_pause_in_between(store):
    jobs = store.queue("jobs", backoff=seglog.Backoff("linear", first=0.1, jitter=0.0))
    seen = []

    @store.handler(jobs)
    def work(message):
        seen.append((message.attempts, time.monotonic()))
        if message.attempts < 3:
            raise ValueError("not yet")

    jobs.send(b"one")
    assert store.run(timeout=0.4) == seglog.WorkerStatistics(done=1, failed=2)
    (first, at), (second, later), (third, at_last) = seen
    assert [first, second, third] == [1, 2, 3]
    assert later - at >= 0.1
    assert at_last - later >= 0.2


def test_what_fails_for_ever_is_a_dead_letter_with_its_last_error(store, jobs):
    @store.handler(jobs)
    def work(message):
        raise ValueError(f"attempt {message.attempts}")

    jobs.send(b"bad")
    assert store.run(timeout=IDLE).failed == 3
    (dead,) = store.queue("jobs.dead").receive(timeout=1)
    assert dead.value == b"bad"
    assert dead.deaths[0]["reason"] == "delivery_limit"
    assert dead.deaths[0]["error"] == "ValueError: attempt 3"


def test_a_queue_without_a_backoff_is_not_hammered(store):
    jobs, seen = store.queue("jobs"), []

    @store.handler(jobs)
    def work(message):
        seen.append(message.attempts)
        raise ValueError("no")

    jobs.send(b"bad")
    store.run(timeout=0.3)
    assert seen == [1]
    assert jobs.statistics().delayed == 1


def test_reject_is_a_dead_letter_at_once_with_the_reason(store, jobs):
    @store.handler(jobs)
    def work(message):
        raise seglog.Reject("no picture")

    jobs.send(b"text")
    assert store.run(timeout=IDLE) == seglog.WorkerStatistics(rejected=1)
    (dead,) = store.queue("jobs.dead").receive(timeout=1)
    assert (dead.deaths[0]["error"], dead.deaths[0]["attempts"]) == ("no picture", 1)


def test_retry_comes_again_when_it_says(store):
    jobs, seen = store.queue("jobs"), []

    @store.handler(jobs)
    def work(message):
        seen.append(time.monotonic())
        if len(seen) == 1:
            raise seglog.Retry(0.2)

    jobs.send(b"one")
    assert store.run(timeout=0.4) == seglog.WorkerStatistics(done=1, failed=1)
    assert 0.2 <= seen[1] - seen[0] < 0.4


def test_whatever_a_handler_raises_the_worker_lives_on(store, jobs):
    @store.handler(jobs)
    def work(message):
        if message.value == b"bad":
            raise SystemExit(1)

    jobs.send_many([b"bad", b"good"])
    assert store.run(timeout=IDLE) == seglog.WorkerStatistics(done=1, failed=3)


def test_an_error_is_logged_with_its_traceback(store, jobs, caplog):
    caplog.set_level(logging.WARNING, "seglog.workers")

    @store.handler(jobs)
    def work(message):
        raise ValueError("no such file")

    jobs.send(b"bad")
    store.run(timeout=IDLE)
    assert "jobs: attempt 1 failed" in caplog.text
    assert "ValueError: no such file" in caplog.text


# ---- how many at once ----------------------------------------------------------------------------------------------------


def test_so_many_are_in_work_at_once_and_no_more_are_taken(store, jobs):
    together = threading.Barrier(4)
    leased = []

    @store.handler(jobs, concurrency=4)
    def work(message):
        together.wait(5)
        leased.append(jobs.statistics().in_flight)
        together.wait(5)

    jobs.send_many([b"job"] * 12)
    assert store.run(timeout=IDLE).done == 12
    assert set(leased) == {4}


def test_prefetch_takes_more_at_once_and_gives_back_what_was_not_begun(store, jobs):
    leased, began, go = [], threading.Event(), threading.Event()

    @store.handler(jobs, prefetch=5)
    def work(message):
        leased.append(jobs.statistics().in_flight)
        began.set()
        go.wait(5)

    jobs.send_many([b"job"] * 8)
    with store.workers():
        began.wait(5)
        threading.Timer(0.2, go.set).start()
    assert leased == [5]
    assert jobs.statistics().ready == 7
    assert {message.attempts for message in jobs.receive(max_messages=10, timeout=1)} == {1}


def test_workers_replaces_the_concurrency_of_each(store, jobs):
    together = threading.Barrier(3)

    @store.handler(jobs)
    def work(message):
        together.wait(5)

    jobs.send_many([b"job"] * 3)
    assert store.run(workers=3, timeout=IDLE).done == 3


def test_async_handlers_share_one_loop(store, jobs):
    loops, together = set(), []

    @store.handler(jobs, concurrency=3)
    async def work(message):
        loops.add(asyncio.get_running_loop())
        together.append(message)
        while len(together) < 3:
            await asyncio.sleep(0.001)

    jobs.send_many([b"job"] * 3)
    assert store.run(timeout=IDLE).done == 3
    assert len(loops) == 1


def test_an_async_handler_that_raises_is_tried_again(store, jobs):
    @store.handler(jobs)
    async def work(message):
        await asyncio.sleep(0)
        if message.attempts == 1:
            raise ValueError("not yet")

    jobs.send(b"one")
    assert store.run(timeout=IDLE) == seglog.WorkerStatistics(done=1, failed=1)


def test_a_handler_may_be_an_object_that_is_called(store, jobs):
    class Work:
        async def __call__(self, message):
            await asyncio.sleep(0)

    store.handler(jobs)(Work())
    jobs.send(b"one")
    assert store.run(timeout=IDLE).done == 1


@pytest.mark.parametrize("source", ["queue", "topic"])
def test_a_rate_limit_holds_for_all_workers_of_a_handler(store, source):
    seen = []
    if source == "queue":
        there, how = store.queue("jobs"), {}
    else:
        there, how = store.topic("jobs", partitions=1), {"group": "g"}

    @store.handler(there, rate_limit=seglog.RateLimit(200, burst=1), concurrency=3, **how)
    def work(message):
        seen.append(time.monotonic())

    there.send_many([b"job"] * 100)
    store.run(timeout=IDLE)
    assert len(seen) == 100
    assert 100 / (seen[-1] - seen[0]) < 200 * 1.05


# ---- leases ---------------------------------------------------------------------------------------------------------------


def test_a_lease_is_extended_while_its_handler_runs(store):
    jobs, seen = store.queue("jobs", lease=0.3), []

    @store.handler(jobs, concurrency=2)
    def work(message):
        seen.append(message.attempts)
        time.sleep(1.0)

    jobs.send(b"long")
    assert store.run(timeout=IDLE) == seglog.WorkerStatistics(done=1)
    assert seen == [1]


def test_but_not_beyond_max_lease_for_then_it_hangs(store):
    jobs, seen = store.queue("jobs", lease=0.2, max_lease=0.5), []
    hang = threading.Event()

    @store.handler(jobs, concurrency=2)
    def work(message):
        seen.append((message.attempts, time.monotonic()))
        if message.attempts == 1:
            hang.wait(5)
        else:
            hang.set()

    jobs.send(b"long")
    assert store.run(timeout=IDLE) == seglog.WorkerStatistics(done=1, lost=1)
    assert [attempt for attempt, _ in seen] == [1, 2]
    assert 0.4 < seen[1][1] - seen[0][1] < 1.5
    assert jobs.statistics().depth == 0


# ---- stopping -------------------------------------------------------------------------------------------------------------


def test_what_is_in_work_is_finished_and_nothing_new_begun(store, jobs):
    began, seen = threading.Event(), []

    @store.handler(jobs)
    def work(message):
        began.set()
        time.sleep(0.3)
        seen.append(message.value)

    jobs.send_many([b"one", b"two"])
    with store.workers() as workers:
        began.wait(5)
    assert seen == [b"one"]
    assert workers.statistics() == seglog.WorkerStatistics(done=1)
    assert jobs.statistics().ready == 1


def test_what_is_not_finished_in_its_grace_is_given_back_and_no_attempt_spent(store, jobs):
    began, go = threading.Event(), threading.Event()

    @store.handler(jobs)
    def work(message):
        began.set()
        go.wait(10)

    jobs.send(b"long")
    at = time.monotonic()
    with store.workers(grace=0.2) as workers:
        began.wait(5)
    assert 0.2 <= time.monotonic() - at < 2
    assert workers.statistics() == seglog.WorkerStatistics(released=1, working=1)
    (message,) = jobs.receive(timeout=0)
    assert message.attempts == 1
    go.set()  # the thread comes back, finds that it lost its lease, and says nothing
    until(lambda: workers.statistics().working == 0)
    message.ack()
    assert workers.statistics() == seglog.WorkerStatistics(released=1)


def test_an_async_handler_is_cancelled_at_the_end_of_its_grace(store, jobs):
    began, cancelled = threading.Event(), threading.Event()

    @store.handler(jobs)
    async def work(message):
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    jobs.send(b"long")
    with store.workers(grace=0.1) as workers:
        began.wait(5)
    assert cancelled.wait(5)
    assert workers.statistics().released == 1
    (message,) = jobs.receive(timeout=0)
    assert message.attempts == 1


@pytest.mark.skipif(os.name == "nt", reason="no signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_run_and_what_is_in_work_is_finished(store, jobs, number):
    before = signal.getsignal(number)

    @store.handler(jobs)
    def work(message):
        os.kill(os.getpid(), number)
        time.sleep(0.3)

    jobs.send_many([b"one", b"two"])
    assert store.run() == seglog.WorkerStatistics(done=1)
    assert signal.getsignal(number) is before


@pytest.mark.skipif(os.name == "nt", reason="no signals")
def test_a_second_signal_ends_the_grace(store, jobs):
    go = threading.Event()

    @store.handler(jobs)
    def work(message):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        go.wait(10)

    jobs.send(b"long")
    began = time.monotonic()
    assert store.run().released == 1
    assert time.monotonic() - began < 3
    go.set()


def test_closing_the_store_stops_its_workers(path):
    store = seglog.open(path)
    began, seen = threading.Event(), []

    @store.handler("jobs")
    def work(message):
        began.set()
        time.sleep(0.2)
        seen.append(message.value)

    store.queue("jobs").send(b"one")
    running = threading.Thread(target=store.run)
    running.start()
    began.wait(5)
    store.close()
    running.join(5)
    assert not running.is_alive()
    assert seen == [b"one"]


def test_an_error_of_the_store_ends_the_run_and_is_raised(store, jobs, monkeypatch):
    def receive(self, *arguments, **how):
        raise seglog.StoreIOError("the disk is gone")

    @store.handler(jobs)
    def work(message): ...

    monkeypatch.setattr(seglog.Queue, "receive", receive)
    with pytest.raises(seglog.StoreIOError, match="the disk is gone"):
        store.run()


# ---- transactions and dedup -------------------------------------------------------------------------------------------------


def test_what_is_sent_with_tx_is_there_if_and_only_if_the_message_is_acked(store, jobs):
    done = store.topic("done")

    @store.handler(jobs)
    def work(message, tx):
        done.send(message.value, tx=tx)
        if message.value == b"bad":
            raise ValueError("no")

    jobs.send_many([b"one", b"bad", b"two"])
    assert store.run(timeout=IDLE) == seglog.WorkerStatistics(done=2, failed=3)
    assert [record.value for record in done.read()] == [b"one", b"two"]
    assert jobs.statistics().depth == 0


def test_an_async_handler_has_a_tx_too(store, jobs):
    done = store.topic("done")

    @store.handler(jobs)
    async def work(message, tx):
        done.send(message.value, tx=tx)
        await asyncio.sleep(0)

    jobs.send(b"one")
    assert store.run(timeout=IDLE).done == 1
    assert [record.value for record in done.read()] == [b"one"]


def test_what_is_sent_by_one_who_lost_the_lease_is_given_up(store):
    jobs, done = store.queue("jobs", lease=0.2, max_lease=0.3), store.topic("done")
    hang = threading.Event()

    @store.handler(jobs, concurrency=2)
    def work(message, tx):
        done.send(b"%d" % message.attempts, tx=tx)
        if message.attempts == 1:
            hang.wait(5)
        else:
            hang.set()

    jobs.send(b"long")
    assert store.run(timeout=IDLE) == seglog.WorkerStatistics(done=1, lost=1)
    assert [record.value for record in done.read()] == [b"2"]


def test_an_id_that_was_done_is_not_done_again(path):
    seen = []
    for round_ in range(2):  # also after a restart
        with seglog.open(path) as store:
            jobs = store.queue("jobs")
            store.handler(jobs, dedup=lambda message: message.key)(lambda message: seen.append(message.value))
            jobs.send(b"pay 7", key=b"invoice-7")
            jobs.send(b"pay 8", key=b"invoice-8")
            counts = store.run(timeout=IDLE)
            assert (counts.done, counts.repeated) == ((2, 0) if round_ == 0 else (0, 2))
            assert jobs.statistics().depth == 0
    assert sorted(seen) == [b"pay 7", b"pay 8"]


def test_of_two_that_do_the_same_id_at_once_one_counts(store, jobs):
    done, together = store.topic("done"), threading.Barrier(2)

    @store.handler(jobs, concurrency=2, dedup=lambda message: message.key)
    def work(message, tx):
        done.send(message.value, tx=tx)
        together.wait(5)

    jobs.send_many([b"pay", b"pay"], keys=[b"invoice-7"] * 2)
    assert store.run(timeout=IDLE) == seglog.WorkerStatistics(done=1, repeated=1)
    assert [record.value for record in done.read()] == [b"pay"]
    assert jobs.statistics().depth == 0


def test_a_handler_that_fails_leaves_no_mark(store, jobs):
    seen = []

    @store.handler(jobs, dedup="message_id")
    def work(message):
        seen.append(message.attempts)
        if message.attempts == 1:
            raise ValueError("not yet")

    jobs.send(b"one")
    assert store.run(timeout=IDLE) == seglog.WorkerStatistics(done=1, failed=1)
    assert seen == [1, 2]


def test_a_handlers_own_version_conflict_is_a_failure_and_no_repetition(store, jobs):
    accounts = store.topic("accounts")
    accounts.send(b"opened", key=b"7")

    @store.handler(jobs, dedup="message_id")
    def work(message, tx):
        accounts.send(b"opened", key=b"7", expected_version=-1, tx=tx)

    jobs.send(b"one")
    assert store.run(timeout=IDLE) == seglog.WorkerStatistics(failed=3)


def test_a_record_is_not_committed_when_what_was_sent_with_it_is_given_up(store):
    orders, accounts = store.topic("orders"), store.topic("accounts")
    accounts.send(b"opened", key=b"7")

    @store.handler(orders, group="billing")
    def work(record, tx):
        accounts.send(b"opened", key=b"7", expected_version=-1, tx=tx)

    orders.send(b"one")
    assert store.run(timeout=IDLE).failed == 1
    assert store.group("billing").lag() == 1


def test_a_queue_that_is_made_anew_has_no_marks_of_the_old_one(store):
    seen = []

    @store.handler("jobs", dedup="message_id")
    def work(message):
        seen.append(message.id)

    for _ in range(2):
        store.queue("jobs").send(b"one")
        assert store.run(timeout=IDLE).done == 1
        store.delete_queue("jobs")
    assert seen[0] == seen[1]


def test_dedup_that_returns_no_bytes_is_a_failure_that_says_so(store, jobs, caplog):
    caplog.set_level(logging.WARNING, "seglog.workers")
    store.handler(jobs, dedup=lambda message: "text")(lambda message: None)
    jobs.send(b"one")
    assert store.run(timeout=IDLE).failed == 3
    assert "dedup returned str, not bytes" in caplog.text


# ---- topics ----------------------------------------------------------------------------------------------------------------


def test_a_topics_records_come_in_order_and_are_committed(store):
    orders, seen = store.topic("orders"), []

    @store.handler("orders", group="billing")
    def work(record):
        seen.append(record.value)

    orders.send_many([b"one", b"two", b"three"])
    assert store.run(timeout=IDLE) == seglog.WorkerStatistics(done=3)
    assert seen == [b"one", b"two", b"three"]
    assert store.group("billing").lag() == 0


def test_a_record_that_fails_holds_its_partition_and_no_other(store, monkeypatch):
    monkeypatch.setattr(feeds, "USUAL", seglog.Backoff(first=0.1, jitter=0.0))
    orders, seen, times = store.topic("orders", partitions=2), [], []

    @store.handler(orders, group="billing")
    def work(record):
        seen.append((record.partition, record.value))
        times.append(time.monotonic())
        if record.value == b"bad" and seen.count((0, b"bad")) < 3:
            raise ValueError("not yet")

    orders.send_many([b"bad", b"behind"], partition=0)
    orders.send_many([b"other"] * 3, partition=1)
    assert store.run(timeout=0.5) == seglog.WorkerStatistics(done=5, failed=2)
    assert [value for partition, value in seen if partition == 0] == [b"bad", b"bad", b"bad", b"behind"]
    first, second, third = [at for at, (_, value) in zip(times, seen) if value == b"bad"]
    assert second - first >= 0.1
    assert third - second >= 0.2
    assert max(at for at, (_, value) in zip(times, seen) if value == b"other") < second
    assert store.group("billing").lag() == 0


def test_a_record_that_is_rejected_is_passed_over(store):
    orders, seen = store.topic("orders"), []

    @store.handler(orders, group="billing")
    def work(record):
        seen.append(record.value)
        if record.value == b"bad":
            raise seglog.Reject("never")

    orders.send_many([b"bad", b"good", b"bad"])
    assert store.run(timeout=IDLE) == seglog.WorkerStatistics(done=1, rejected=2)
    assert seen == [b"bad", b"good", b"bad"]
    assert store.group("billing").lag() == 0


def test_what_was_not_finished_comes_again_to_the_next_member(store):
    orders, seen = store.topic("orders"), []

    @store.handler(orders, group="billing")
    def work(record):
        seen.append(record.value)
        if len(seen) == 1:
            raise seglog.Retry(60)

    orders.send_many([b"one", b"two"])
    store.run(timeout=IDLE)
    store.run(timeout=IDLE)
    assert seen == [b"one", b"one", b"two"]


def test_members_of_a_handler_share_the_partitions(store):
    orders, together = store.topic("orders", partitions=2), threading.Barrier(2)

    @store.handler(orders, group="billing", concurrency=2)
    def work(record):
        together.wait(5)

    for partition in (0, 1):
        orders.send(b"one", partition=partition)
    assert store.run(timeout=IDLE).done == 2


def test_records_with_tx_and_dedup_are_done_once(store):
    orders, done = store.topic("orders"), store.topic("done")

    @store.handler(orders, group="billing", dedup=lambda record: record.key)
    def work(record, tx):
        done.send(record.value, tx=tx)

    orders.send_many([b"1", b"2", b"1 again"], keys=[b"a", b"b", b"a"])
    assert store.run(timeout=IDLE) == seglog.WorkerStatistics(done=2, repeated=1)
    assert [record.value for record in done.read()] == [b"1", b"2"]
    assert store.group("billing").lag() == 0


# ---- agreements ------------------------------------------------------------------------------------------------------------


def test_a_decorated_function_stays_what_it_was(store):
    @store.handler("jobs")
    def work(message):
        return message + 1

    assert work(1) == 2
    assert repr(store.handlers[0]).endswith("work of jobs, 1 at once>")


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"prefetch": 0}, "prefetch"),
        ({"rate_limit": -1}, "per_second"),
        ({"dedup": "id"}, "dedup"),
        ({"group": ""}, "group"),
    ],
)
def test_an_agreement_that_cannot_be_kept_is_refused(store, how, word):
    with pytest.raises(seglog.SeglogError, match=word):
        store.handler("jobs", **how)(print)


def test_a_topic_needs_a_group_and_a_queue_has_none(store):
    with pytest.raises(seglog.ConfigError, match="say group="):
        store.handler(store.topic("orders"))(lambda record: None)
    with pytest.raises(seglog.ConfigError, match="is for topics"):
        store.handler(store.queue("jobs"), group="g")(lambda message: None)
    with pytest.raises(TypeError, match="a handler is a function"):
        store.handler("jobs")("work")


def test_two_handlers_of_one_queue_are_refused(store):
    store.handler("jobs")(lambda message: None)
    with pytest.raises(seglog.ConfigError, match="jobs has a handler already"):
        store.handler(store.queue("jobs"))(lambda message: None)


def test_a_run_without_handlers_is_refused(store):
    with pytest.raises(seglog.ConfigError, match="no handler"):
        store.run()
