"""Queues: what becomes of a message, in one process and in several."""

import itertools
import os
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest

import seglog
from seglog import doctor


@pytest.fixture
def store(tmp_path):
    with seglog.open(tmp_path / "data", fsync="never", upkeep=False) as store:
        yield store


def run(store, code, *arguments, wait=True):
    """A process of its own with `store` and `q` (the queue "jobs")."""
    head = "import os, sys, time, seglog\nstore = seglog.open(sys.argv[1], fsync='never', upkeep=False)\nq = store.queue('jobs')\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + code, store.path, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    if not wait:
        return process
    said, _ = process.communicate(timeout=60)
    return said


def values(messages):
    return [message.value for message in messages]


def test_each_verb_does_what_it_says(store):
    q = store.queue("jobs")
    q.send_many([b"ack", b"nack", b"release", b"reject", b"extend"])
    for message in q.receive(10, 0):
        assert (message.attempts, message.deliveries) == (1, 1)
        verb = message.value.decode()
        getattr(message, verb)(*{"reject": ("why",), "extend": (60,)}.get(verb, ()))
    now = q.statistics()
    assert (now.ready, now.in_flight, now.acked, now.dead_lettered) == (2, 1, 1, 1)
    assert [(m.value, m.attempts, m.deliveries) for m in q.receive(10, 0)] == [(b"nack", 2, 2), (b"release", 1, 2)]
    (dead,) = store.queue("jobs.dead").receive(10, 0)
    (death,) = dead.deaths
    assert (death["queue"], death["reason"], death["error"], death["count"]) == ("jobs", "rejected", "why", 1)
    assert dead.headers["x-first-death-reason"] == b"rejected"


def test_what_comes_back_keeps_its_place_and_its_parts(store):
    q = store.queue("jobs")
    q.send(b"first", key=b"k", headers={"h": b"1"}, group=b"g")
    q.send(b"second")
    (message,) = q.receive(1, 0)
    assert (message.key, message.headers, message.group, message.id) == (b"k", {"h": b"1"}, b"g", "jobs-0-0")
    message.nack()
    again = q.receive(10, 0)
    assert values(again) == [b"first", b"second"]
    assert again[0].first_received_at == message.first_received_at
    assert again[0].first_received_at >= again[0].sent_at


def test_a_stale_receipt_is_refused_by_every_verb(store):
    q = store.queue("jobs", lease=0.05, max_attempts=0)
    q.send(b"x")
    (old,) = q.receive(1, 0)
    (new,) = q.receive(1, 5)
    for verb in (old.ack, old.nack, old.release, old.reject, lambda: old.extend(1)):
        with pytest.raises(seglog.LeaseLost):
            verb()
    with pytest.raises(seglog.LeaseLost), store.transaction() as tx:
        old.ack(tx=tx)
    with pytest.raises(seglog.LeaseLost):
        q.ack([old])
    new.extend(60)
    new.ack()
    with pytest.raises(seglog.LeaseLost):
        new.ack()
    with pytest.raises(seglog.LeaseLost):
        q.send(b"y")
        q.peek()[0].ack()
    assert values(q.receive(1, 0)) == [b"y"]


def test_an_extended_lease_holds_until_max_lease(store):
    clock = seglog.ManualClock()
    with seglog.open(store.path + "2", clock=clock, upkeep=False) as other:
        q = other.queue("jobs", lease=10, max_lease=25)
        q.send(b"x")
        (message,) = q.receive(1, 0)
        for _ in range(2):
            clock.advance(9)
            message.extend(10)
            assert q.receive(1, 0) == []
        clock.advance(8)
        (again,) = q.receive(1, 0)
        assert again.attempts == 2


def test_what_a_killed_process_held_comes_back_at_once(store):
    q = store.queue("jobs", lease=3600)
    q.send_many([b"%d" % n for n in range(5)])
    holder = run(store, "print(len(q.receive(3, 0)), flush=True); time.sleep(100)", wait=False)
    assert holder.stdout.readline() == "3\n"
    assert values(q.receive(10, 0)) == [b"3", b"4"]
    assert q.receive(1, 0.2) == []
    holder.kill()
    killed = time.monotonic()
    back = q.receive(10, 5)
    took = time.monotonic() - killed
    holder.wait()
    assert values(back) == [b"0", b"1", b"2"]
    assert {m.attempts for m in back} == {2}
    assert took < 1.0  # 100 ms is what is promised; this machine may be busy


def test_poison_that_kills_its_process_becomes_a_dead_letter(store):
    q = store.queue("jobs", lease=3600, max_attempts=3)
    q.send(b"poison")
    attempts = [run(store, "(m,) = q.receive(1, 5)\nprint(m.attempts, flush=True)\nos._exit(1)") for _ in range(3)]
    assert attempts == ["1\n", "2\n", "3\n"]
    assert q.receive(1, 0.2) == []
    (dead,) = store.queue("jobs.dead").receive(1, 0)
    assert (dead.value, dead.deaths[0]["reason"], dead.deaths[0]["attempts"]) == (b"poison", "delivery_limit", 3)


def test_an_ack_in_a_transaction_is_there_with_it_or_not_at_all(store):
    q, out = store.queue("jobs"), store.topic("out")
    q.send_many([b"1", b"2", b"3"])
    with store.transaction() as tx:
        (message,) = q.receive(1, 0, tx=tx)
        out.send(message.value, tx=tx)
        message.ack(tx=tx)
        assert q.statistics().in_flight == 1
    assert (q.statistics().depth, out.next_offset()) == (2, 1)
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        (message,) = q.receive(1, 0, tx=tx)
        out.send(message.value, tx=tx)
        message.ack(tx=tx)
        1 / 0  # noqa: B018
    assert (q.statistics().ready, out.next_offset()) == (2, 1)
    (message,) = q.receive(1, 0)
    assert (message.value, message.attempts, message.deliveries) == (b"2", 1, 2)
    with store.transaction() as tx:
        q.send(b"4", tx=tx)
        q.ack([message], tx=tx)
    assert values(q.receive(10, 0)) == [b"3", b"4"]


def test_a_message_is_acked_by_one_of_two_transactions(store):
    q = store.queue("jobs")
    q.send(b"x")
    (message,) = q.receive(1, 0)
    first, second = store.transaction(), store.transaction()
    message.ack(tx=first)
    message.ack(tx=second)
    first.commit()
    with pytest.raises(seglog.LeaseLost):
        second.commit()
    with pytest.raises(seglog.LeaseLost):
        message.ack()
    assert q.statistics().acked == 1


def test_acks_are_on_the_disk_when_they_return(tmp_path):
    """The file as the disk has it: written through a copy that is taken at the last sync."""
    with seglog.open(tmp_path / "data", fsync="always", upkeep=False) as store:
        q = store.queue("jobs")
        q.send_many([b"%d" % n for n in range(10)])
        q.ack(q.receive(4, 0))
        chunk = tmp_path / "data" / "topics" / "~jobs" / "queue" / "0-0"
        data = chunk.read_bytes()
        stored, synced = (int.from_bytes(data[at : at + 8], "little") for at in (SYNC_STORED, SYNC_STORED + 8))
        assert stored == synced >= 4
        q.receive(1, 0)
        data = chunk.read_bytes()
        assert int.from_bytes(data[SYNC_STORED : SYNC_STORED + 8], "little") == stored + 1
        assert int.from_bytes(data[SYNC_STORED + 8 : SYNC_STORED + 16], "little") == synced


SYNC_STORED = 40 + 24 + 32 + 8  # header, allocated and two times, counts, failed and the lock


def test_delays_are_kept_and_come_in_the_order_in_which_they_are_due(tmp_path):
    clock = seglog.ManualClock()
    with seglog.open(tmp_path / "data", clock=clock, upkeep=False) as store:
        q = store.queue("jobs")
        for wait in (30, 10, 20):
            q.send(b"%d" % wait, delay=wait)
        q.send(b"at", deliver_at=clock() + 15_000_000)
        q.send(b"now")
        assert q.statistics().delayed == 4
        assert values(q.receive(10, 0)) == [b"now"]
        clock.advance(21)
        assert values(q.receive(10, 0)) == [b"10", b"at", b"20"]
    with seglog.open(tmp_path / "data", clock=clock, upkeep=False) as store:
        q = store.queue("jobs")
        clock.advance(timedelta(days=2))
        last = q.receive(10, 0)
        assert b"30" in values(last)
        assert all(m.sent_at < clock() for m in last)


def test_a_nack_waits_as_it_says_or_as_the_queue_does(tmp_path):
    clock = seglog.ManualClock()
    with seglog.open(tmp_path / "data", clock=clock, upkeep=False) as store:
        q = store.queue("jobs", backoff=seglog.Backoff("linear", first=5, jitter=0), lease=1000)
        q.send(b"x")
        for attempt in (1, 2):
            (message,) = q.receive(1, 0)
            message.nack()
            clock.advance(5 * attempt - 1)
            assert q.receive(1, 0) == []
            clock.advance(1)
        (message,) = q.receive(1, 0)
        message.nack(delay=100)
        clock.advance(99)
        assert q.receive(1, 0) == []
        clock.advance(1)
        assert q.receive(1, 0)[0].attempts == 4


def test_the_higher_priority_comes_first_and_weights_give_the_lower_its_share(store):
    q = store.queue("jobs", priorities=3)
    q.send(b"low")
    q.send(b"high", priority=2)
    q.send(b"middle", priority=1)
    q.send(b"above", priority=99)
    assert values(q.receive(10, 0)) == [b"high", b"above", b"middle", b"low"]
    w = store.queue("weighted", priorities=2, weighted=True)
    for _ in range(30):
        w.send(b"l")
        w.send(b"h", priority=1)
    assert values(w.receive(30, 0)).count(b"l") == 10


def test_what_has_expired_is_neither_handed_out_nor_counted(tmp_path):
    clock = seglog.ManualClock()
    with seglog.open(tmp_path / "data", clock=clock, upkeep=False) as store:
        q = store.queue("jobs", ttl=100)
        q.send(b"own", ttl=10)
        q.send(b"longer", ttl=1000)
        q.send(b"queue's")
        q.send(b"late", delay=500, ttl=10)
        (held,) = q.receive(1, 0)
        clock.advance(11)
        assert q.statistics().ready == 2
        held.release()
        assert (q.statistics().ready, q.statistics().expired) == (2, 1)
        clock.advance(90)
        assert (q.statistics().ready, q.statistics().expired) == (0, 3)
        assert q.receive(10, 0) == []
        clock.advance(400)
        assert values(q.receive(10, 0)) == [b"late"]
        d = store.queue("told", ttl=1, dead_letter_expired=True)
        d.send(b"x")
        clock.advance(2)
        assert d.statistics().ready == 0
        assert store.queue("told.dead").peek()[0].deaths[0]["reason"] == "expired"


def test_of_a_group_one_message_is_out_at_a_time_in_order(store):
    q = store.queue("jobs", fifo=True, max_attempts=0)
    for n in range(4):
        for group in (b"a", b"b"):
            q.send(b"%s%d" % (group, n), group=group)
    seen = []
    while got := q.receive(10, 0):
        assert len({m.group for m in got}) == len(got)
        for message in got:
            if message.attempts == 1 and message.value[-1:] in b"13":
                message.nack()
            else:
                seen.append(message.value)
                message.ack()
    for group in (b"a", b"b"):
        assert [v for v in seen if v[:1] == group] == [b"%s%d" % (group, n) for n in range(4)]
    assert q.statistics().depth == 0


def test_a_stuck_group_does_not_stop_the_others(store):
    q = store.queue("jobs", fifo=True)
    q.send_many([b"stuck"] * 20_000, group=b"s")
    q.send(b"other", group=b"o")
    (stuck,) = q.receive(1, 0)
    assert values(q.receive(5, 2)) == [b"other"]
    assert q.statistics().blocked == 19_999
    stuck.ack()
    assert values(q.receive(5, 0)) == [b"stuck"]


def test_groups_are_found_again_by_the_next_boot(tmp_path):
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        q = store.queue("jobs", fifo=True)
        for n in range(3):
            q.send(b"a%d" % n, group=b"a")
            q.send(b"b%d" % n, group=b"b")
        q.receive(10, 0)[1].ack()
    for shm in (tmp_path / "data").rglob("shm"):
        shm.unlink()
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        q = store.queue("jobs")
        assert values(q.receive(10, 0)) == [b"a0", b"b1"]
        assert q.receive(10, 0) == []


def test_groups_take_turns_in_a_fair_queue(store):
    q = store.queue("jobs", fair=True)
    q.send_many([b"noisy"] * 1000, group=b"n")
    q.send_many([b"quiet"] * 3, group=b"q")
    assert values(q.receive(6, 0)).count(b"quiet") == 3
    assert q.statistics().ready == 997


@pytest.mark.parametrize("overflow", ["reject", "block", "drop_new", "drop_oldest", "dead_letter"])
def test_a_bound_does_what_it_says(store, overflow):
    q = store.queue("jobs", max_length=3, overflow=overflow)
    q.send_many([b"0", b"1", b"2"])
    if overflow in ("reject", "block"):
        with pytest.raises(seglog.QueueFull):
            q.send(b"3", timeout=0.01)
        kept = [b"0", b"1", b"2"]
    else:
        q.send(b"3")
        kept = [b"0", b"1", b"2"] if overflow == "drop_new" else [b"1", b"2", b"3"]
    assert q.statistics().ready == 3
    assert store.queue("jobs.dead").statistics().ready == (overflow == "dead_letter")
    assert values(q.receive(10, 0)) == kept
    with pytest.raises(seglog.QueueFull):
        q.send_many([b"x"] * 4)
    tx = store.transaction()
    for _ in range(3):
        q.send(b"t", tx=tx)
    if overflow == "drop_new":
        q.send(b"t", tx=tx)
    else:
        with pytest.raises(seglog.QueueFull):
            q.send(b"t", tx=tx)
    tx.commit()
    assert q.statistics().ready == 3


def test_a_bound_of_bytes_counts_what_is_ready(store):
    q = store.queue("jobs", max_bytes=100, overflow="reject")
    q.send(b"x" * 60)
    with pytest.raises(seglog.QueueFull):
        q.send(b"y" * 41)
    (message,) = q.receive(1, 0)
    q.send(b"y" * 60)
    message.nack()
    with pytest.raises(seglog.QueueFull):
        q.send(b"z")
    q.ack(q.receive(2, 0))
    q.send(b"z" * 100)


def test_a_blocked_sender_goes_on_when_another_process_receives(store):
    q = store.queue("jobs", max_length=2)
    q.send_many([b"1", b"2"])
    other = run(store, "time.sleep(0.3); q.ack(q.receive(1, 0)); print('acked')", wait=False)
    began = time.monotonic()
    q.send(b"3", timeout=20)
    assert time.monotonic() - began > 0.1
    assert other.communicate(timeout=20)[0] == "acked\n"


def test_eight_writers_do_not_exceed_a_bound(store):
    q = store.queue("jobs", max_length=200, overflow="reject")
    code = """
n = 0
for _ in range(200):
    try:
        q.send(b"x")
        n += 1
    except seglog.QueueFull:
        pass
print(n)
"""
    processes = [run(store, code, wait=False) for _ in range(4)]
    counts = []

    def send():
        n = 0
        for _ in range(200):
            try:
                q.send(b"x")
                n += 1
            except seglog.QueueFull:
                pass
        counts.append(n)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts += [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(counts) == 200 == q.statistics().ready


def test_an_id_that_is_known_is_not_sent_again(store):
    q = store.queue("jobs", priorities=2)
    where = q.send(b"x", dedup_id=b"1")
    q.receive(1, 0)[0].ack()
    assert q.send(b"x", dedup_id=b"1") == where
    assert q.send(b"x", dedup_id=b"1", priority=1) == where
    assert q.send(b"x", dedup_id=b"1", delay=5) == where
    assert q.statistics().depth == 0
    assert run(store, "print(q.send(b'x', dedup_id=b'1').offset)") == "0\n"


def test_one_consumer_is_active_and_the_next_follows_it(store):
    q = store.queue("jobs", single_active=True)
    q.send_many([b"1", b"2", b"3"])
    other = run(store, "print(q.receive(1, 5)[0].value, flush=True); time.sleep(100)", wait=False)
    assert other.stdout.readline() == "b'1'\n"
    assert q.receive(1, 0.2) == []
    other.kill()
    assert values(q.receive(3, 5)) in ([b"1", b"2", b"3"], [b"2", b"3"])
    other.wait()


def test_purge_deletes_what_there_is_and_nothing_else(store):
    q = store.queue("jobs")
    q.send_many([b"x"] * 100)
    held = q.receive(3, 0)
    held[0].nack(delay=50)
    q.send(b"later", delay=100)
    assert q.purge() == 101
    assert q.statistics().depth == 0
    with pytest.raises(seglog.LeaseLost):
        held[1].ack()
    q.send(b"new")
    assert values(q.receive(10, 0)) == [b"new"]


def test_dead_letters_go_back_where_they_came_from(store):
    q, dead = store.queue("jobs", priorities=2), store.queue("jobs.dead")
    for n in range(4):
        q.send(b"%d" % n, headers={"h": b"1"}, priority=1)
    ids = [message.id for message in q.peek(4)]
    q.reject(q.receive(4, 0), "bad")
    assert dead.redrive(filter=lambda m: m.value != b"2", max_messages=2) == 2
    assert dead.redrive() == 2
    back = q.receive(10, 0)
    assert sorted(values(back)) == [b"0", b"1", b"2", b"3"]
    assert {m.priority for m in back} == {1}
    assert sorted(m.id for m in back) == sorted(ids)
    back[0].reject("again")
    (twice,) = dead.peek()
    assert twice.deaths[0]["count"] == 2
    assert twice.headers["h"] == b"1"


def test_dead_letters_may_be_dropped_or_go_elsewhere(store):
    none = store.queue("none", dead_letter=False, max_attempts=1)
    none.send(b"x")
    none.receive(1, 0)[0].nack()
    assert (none.statistics().depth, none.statistics().dead_lettered) == (0, 1)
    assert store.queues() == ["none"]
    named = store.queue("named", dead_letter="morgue", max_attempts=1)
    named.send(b"x")
    named.receive(1, 0)[0].nack(error="boom")
    assert store.queue("morgue").peek()[0].deaths[0]["error"] == "boom"


def test_acked_messages_that_are_kept_come_again_when_asked(store):
    q = store.queue("jobs", keep_acked=1000)
    q.send_many([b"%d" % n for n in range(5)])
    q.ack(q.receive(5, 0))
    q.reclaim()
    assert q.replay() == 5
    assert [(m.value, m.attempts) for m in q.receive(10, 0)] == [(b"%d" % n, 1) for n in range(5)]
    with pytest.raises(seglog.ConfigError):
        store.queue("other").replay()


def test_space_is_given_back_behind_a_message_that_stays(store):
    q = store.queue("jobs", segment_bytes=1 << 18, lease=3600)
    for _ in range(100):
        q.send_many([b"x" * 100] * 1000)
    (held,) = q.receive(1, 0)
    while got := q.receive(1000, 0):
        q.ack(got)
    assert q.reclaim() > 8 << 20
    assert q.statistics().bytes < 2 << 20
    held.release()
    assert q.receive(1, 0)[0].value == b"x" * 100


def test_receive_waits_and_is_woken_by_another_process(store):
    q = store.queue("jobs")
    began = time.monotonic()
    assert q.receive(1, 0.1) == []
    assert 0.09 < time.monotonic() - began < 5
    sender = run(store, "time.sleep(0.2); q.send(b'%d' % time.monotonic_ns())", wait=False)
    (message,) = q.receive(1, 20)
    assert (time.monotonic_ns() - int(message.value)) / 1e9 < 0.5
    sender.wait()


def test_settings_are_written_down_and_bad_ones_refused(store):
    store.queue("jobs", lease=60, backoff=timedelta(seconds=2))
    assert store.queue("jobs").config.backoff.first == 2.0
    with pytest.raises(seglog.QueueMismatch) as error:
        store.queue("jobs", lease=61)
    assert error.value.differences == {"lease": (61.0, 60.0)}
    for bad in (
        {"lease": 0},
        {"max_attempts": -1},
        {"priorities": 0},
        {"overflow": "x"},
        {"fifo": True, "fair": True},
        {"ttl": float("nan")},
        {"fifo": True, "priorities": 2},
        {"dead_letter": "a/b"},
        {"backoff": "long"},
        {"max_length": 0},
        {"weighted": 1},
    ):
        with pytest.raises((seglog.SeglogError, TypeError)):
            store.queue("bad", **bad)
    assert store.queues() == ["jobs"]
    with pytest.raises(seglog.InvalidName):
        store.queue("~jobs")
    assert store.topics() == []


def test_bad_input_is_told_and_sends_nothing(store):
    q = store.queue("jobs")
    for bad in (
        {"value": "text"},
        {"value": 7},
        {"priority": -1},
        {"priority": 1.5},
        {"delay": -1},
        {"delay": "x"},
        {"ttl": float("nan")},
        {"delay": 1, "deliver_at": 5},
        {"headers": {"seglog-due": b""}},
        {"headers": {"dedup-id": b""}},
        {"headers": [1]},
        {"group": "text"},
        {"dedup_id": "text"},
        {"dedup_id": b"1", "tx": store.transaction()},
        {"key": "k"},
    ):
        with pytest.raises((TypeError, ValueError, seglog.SeglogError)):
            q.send(**{"value": b"x", **bad})
    for bad in (0, -1, "x", 1.5, None):
        with pytest.raises((TypeError, ValueError)):
            q.receive(bad, 0)
    assert q.statistics().depth == 0
    other = store.queue("other")
    other.send(b"x")
    with pytest.raises(ValueError, match="received from"):
        q.ack(other.receive(1, 0))


def test_a_queue_that_was_deleted_or_closed_says_so(store):
    q = store.queue("jobs")
    q.send(b"x")
    (message,) = q.receive(1, 0)
    store.delete_queue("jobs")
    assert store.queues() == []
    for call in (lambda: q.send(b"y"), lambda: q.receive(1, 0), message.ack, q.statistics, q.purge):
        with pytest.raises(seglog.SeglogError):
            call()
    with pytest.raises(seglog.QueueNotFound):
        store.delete_queue("jobs")
    assert store.queue("jobs").receive(1, 0) == []
    assert not os.path.exists(os.path.join(store.path, "topics", "~jobs", "queue", "0-0"))
    again = store.queue("jobs")
    store.close()
    with pytest.raises(seglog.ClosedError):
        again.receive(1, 0)


def test_a_handle_that_was_carried_across_a_fork_works_in_the_child(store):
    q = store.queue("jobs", lease=3600)
    q.send_many([b"%d" % n for n in range(4)])
    (mine,) = q.receive(1, 0)
    child = os.fork()
    if child == 0:
        try:
            got = q.receive(2, 0)
            got[0].ack()
            os._exit(0 if values(got) == [b"1", b"2"] else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    back = set()
    deadline = time.monotonic() + 10
    while back != {b"2", b"3"} and time.monotonic() < deadline:
        back |= set(values(q.receive(10, 0.1)))
    assert back == {b"2", b"3"}  # the child's as well: it is no more
    mine.ack()


def test_a_message_that_is_in_a_batch_twice_is_settled_once(store):
    q = store.queue("jobs")
    q.send_many([b"1", b"2"])
    one, two = q.receive(2, 0)
    q.ack([one, one])
    assert (q.statistics().acked, q.statistics().in_flight) == (1, 1)
    q.nack([two, two])
    assert (q.statistics().ready, q.statistics().in_flight) == (1, 0)
    assert [m.attempts for m in q.receive(2, 0)] == [2]


def test_a_state_behind_the_end_of_the_log_hides_no_later_message(tmp_path):
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        q = store.queue("jobs")
        q.send_many([b"%d" % n for n in range(4)])
        q.ack(q.receive(2, 0))
    for shm in (tmp_path / "data").rglob("shm"):
        shm.unlink()
    chunk = tmp_path / "data" / "topics" / "~jobs" / "queue" / "0-0"
    data = bytearray(chunk.read_bytes())
    data[36864 + 32 * 60_000] = 6
    chunk.write_bytes(data)
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        q = store.queue("jobs")
        assert q.statistics().damaged == 1
        q.send_many([b"%d" % n for n in range(4, 8)])
        assert values(q.receive(10, 0)) == [b"%d" % n for n in range(2, 8)]


@pytest.mark.parametrize("bit", range(16, 64, 3))
@pytest.mark.parametrize("what", ["waits", "returned", "delayed"])
def test_a_flipped_bit_in_a_time_takes_no_message(tmp_path, bit, what):
    clock = seglog.ManualClock()
    with seglog.open(tmp_path / "data", clock=clock, upkeep=False) as store:
        q = store.queue("jobs")
        q.send_many([b"0", b"1"])
        (message,) = q.receive(1, 0)
        message.nack(delay=60) if what == "delayed" else message.nack()
    for shm in (tmp_path / "data").rglob("shm"):
        shm.unlink()
    chunk = tmp_path / "data" / "topics" / "~jobs" / "queue" / "0-0"
    data = bytearray(chunk.read_bytes())
    data[36864 + 32 * (what == "waits") + 8 + bit // 8] ^= 1 << bit % 8
    chunk.write_bytes(data)
    with seglog.open(tmp_path / "data", clock=clock, upkeep=False) as store:
        q = store.queue("jobs")
        clock.advance(4 * 365 * 86400)
        store.upkeep()
        assert q.statistics().expired == 0
        assert sorted(values(q.receive(10, 0))) == [b"0", b"1"]


def test_states_are_those_of_the_last_boot_but_for_leases(tmp_path):
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        q = store.queue("jobs", lease=3600)
        q.send_many([b"%d" % n for n in range(6)])
        got = q.receive(4, 0)
        got[0].ack()
        got[1].nack(delay=3600)
        with store.transaction() as tx:
            got[2].ack(tx=tx)
    for shm in (tmp_path / "data").rglob("shm"):
        shm.unlink()
    (tmp_path / "data" / "txn" / "settled").unlink(missing_ok=True)
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        q = store.queue("jobs")
        now = q.statistics()
        assert (now.ready, now.delayed, now.in_flight) == (3, 1, 0)
        assert [(m.value, m.attempts) for m in q.receive(10, 0)] == [(b"3", 2), (b"4", 1), (b"5", 1)]


def test_a_chunk_that_is_damaged_costs_second_deliveries_and_no_message(tmp_path):
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        q = store.queue("jobs")
        q.send_many([b"%d" % n for n in range(6)])
        q.ack(q.receive(3, 0))
    for shm in (tmp_path / "data").rglob("shm"):
        shm.unlink()
    chunk = tmp_path / "data" / "topics" / "~jobs" / "queue" / "0-0"
    data = bytearray(chunk.read_bytes())
    data[36864 + 32 + 3] ^= 0x10  # the word of the second message
    chunk.write_bytes(data)
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        q = store.queue("jobs")
        assert q.statistics().damaged == 1
        assert values(q.receive(10, 0)) == [b"1", b"3", b"4", b"5"]
    for shm in (tmp_path / "data").rglob("shm"):
        shm.unlink()
    data[3] ^= 1  # the header
    chunk.write_bytes(data)
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        assert len(store.queue("jobs").receive(10, 0)) == 6
    assert chunk.with_name("0-0.bad").exists()


def test_messages_that_are_handed_out_in_runs_are_in_order_and_counted(tmp_path):
    """Over blocks, chunks, batches, headers, and what is ready again; by two handles in turn; counted as the doctor counts."""
    path = tmp_path / "data"
    with seglog.open(path, fsync="never", upkeep=False) as store, seglog.open(path, upkeep=False) as other:
        jobs = store.queue("jobs")
        values = [b"%d" % n for n in range(70_000)]
        jobs.send_many(values[:300])
        jobs.send(values[300], headers={"a": b"b"})
        with pytest.raises(ZeroDivisionError), store.transaction() as tx:
            jobs.send_many([b"never"] * 10, tx=tx)
            raise ZeroDivisionError
        for value in values[301:400]:
            jobs.send(value)
        jobs.send_many(values[400:])
        first = jobs.receive(200, timeout=0)
        released = first[:3] + first[100:103]
        jobs.release(released)
        jobs.ack([message for message in first if message not in released] * 2)
        expected = [message.value for message in released] + values[200:]
        found = []
        for n, handle in enumerate(itertools.cycle([jobs, other.queue("jobs")])):
            some = handle.receive(1 + 37 * n % 1000, timeout=0)
            if not some:
                break
            found += [message.value for message in some]
            assert {message.attempts for message in some} == {1}
            handle.ack(some[::-1])
        assert found == expected
        now = jobs.statistics()
        assert (now.ready, now.in_flight, now.acked) == (0, 0, 70_000)
        held = [jobs.send(b"later") and jobs.receive(timeout=0)[0] for _ in range(2)]
        assert doctor.examine(path).findings == ()
        assert [message.value for message in held] == [b"later"] * 2


def test_what_was_dropped_in_the_middle_of_a_run_is_not_handed_out(tmp_path):
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        jobs = store.queue("jobs", max_length=5, overflow="drop_oldest")
        jobs.send_many([b"0", b"1", b"2", b"3", b"4"])
        assert jobs.receive(1, timeout=0)[0].value == b"0"
        jobs.send_many([b"5", b"6", b"7"])
        assert [message.value for message in jobs.receive(30, timeout=0)] == [b"3", b"4", b"5", b"6", b"7"]


def test_when_it_was_first_received_stays(tmp_path):
    clock = seglog.ManualClock()
    with seglog.open(tmp_path / "data", upkeep=False, clock=clock) as store:
        jobs = store.queue("jobs")
        jobs.send_many([b"1", b"2", b"3"])
        (one,) = jobs.receive(1)
        two, three = jobs.receive(2)
        at = clock()
        jobs.release([one, two, three])
        clock.advance(5)
        assert [message.first_received_at for message in jobs.receive(3)] == [at] * 3


@pytest.mark.parametrize("whose", ["the queue's", "the message's"])
def test_what_expired_in_the_middle_of_a_run_is_not_handed_out(tmp_path, whose):
    clock = seglog.ManualClock()
    with seglog.open(tmp_path / "data", upkeep=False, clock=clock) as store:
        jobs = store.queue("jobs", dead_letter=False, **({"ttl": 10} if whose == "the queue's" else {}))
        jobs.send_many([b"1", b"2", b"3"], **({"ttl": 10} if whose == "the message's" else {}))
        jobs.send_many([b"4", b"5"])
        assert [message.value for message in jobs.receive(1)] == [b"1"]
        clock.advance(11)
        left = [message.value for message in jobs.receive(9, timeout=0)]
        assert left == ([] if whose == "the queue's" else [b"4", b"5"])


def test_messages_without_a_group_are_one_group_that_a_batch_of_acks_frees(tmp_path):
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        jobs = store.queue("jobs", fifo=True)
        jobs.send_many([b"1", b"2", b"3"])
        for value in (b"1", b"2", b"3"):
            messages = jobs.receive(9, timeout=0)
            assert [message.value for message in messages] == [value]
            jobs.ack(messages)


def test_what_seglog_keeps_beside_queues_is_no_queues_name(tmp_path):
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        for name in ("seglog.replies", "seglog.dedup.jobs"):
            with pytest.raises(seglog.InvalidName, match="keeps beside"):
                store.queue(name)
            with pytest.raises(seglog.InvalidName, match="keeps beside"):
                store.queue("jobs", dead_letter=name)
        assert store.queues() == []
        store.topic("seglog.replies")  # topics are apart


# ---- what the machine of `test_queue_machine.py` found -----------------------------------------------------------


@pytest.fixture
def clock():
    return seglog.ManualClock()


@pytest.fixture
def timed(tmp_path, clock):
    """A store whose time the test moves."""
    with seglog.open(tmp_path / "data", fsync="never", upkeep=False, clock=clock) as store:
        yield store


def restarted(store, clock):
    """The store as it is found after the machine was restarted."""
    store.close()
    for folder, _, names in os.walk(store.path):
        for name in {"shm", "tail.shm"} & set(names):
            os.unlink(os.path.join(folder, name))
    return seglog.open(store.path, fsync="never", upkeep=False, clock=clock)


def test_an_id_is_known_after_the_machine_was_restarted(timed, clock):
    where = timed.queue("jobs").send(b"1", dedup_id=b"x")
    with restarted(timed, clock) as store:
        q = store.queue("jobs")
        assert q.send(b"1", dedup_id=b"x") == where
        q.receive(1, 0)[0].ack()
        store.upkeep()  # gives back what it can
        with seglog.open(store.path, fsync="never", upkeep=False, clock=clock) as other:
            assert other.queue("jobs").send(b"1", dedup_id=b"x") == where


def test_what_is_named_twice_is_buried_once(store):
    q = store.queue("jobs", max_attempts=1)
    q.send_many([b"nack", b"reject"])
    nacked, rejected = q.receive(2, 0)
    q.nack([nacked, nacked])
    q.reject([rejected, rejected])
    assert values(store.queue("jobs.dead").browse()) == [b"nack", b"reject"]


def test_a_batch_with_a_stale_one_fails_none(store):
    q = store.queue("jobs", max_attempts=2)
    q.send(b"old")
    q.receive(1, 0)[0].nack()
    q.send(b"new")
    old, new = q.receive(2, 0)
    old.release()
    with pytest.raises(seglog.LeaseLost):
        q.nack([old, new])
    new.ack()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("overflow", ["drop_oldest", "dead_letter"])
def test_what_waits_for_its_group_makes_room_too(store, overflow):
    q = store.queue("jobs", fifo=True, max_length=2, overflow=overflow)
    q.send(b"out", group=b"g")
    q.receive(1, 0)
    q.send_many([b"1", b"2"], group=b"g")
    assert q.receive(1, 0) == []
    q.send(b"3", group=b"g")
    assert q.statistics().depth == 3
    assert sorted(values(q.browse())) == [b"2", b"3", b"out"]


def test_what_is_delayed_needs_no_room(timed, clock):
    q = timed.queue("jobs", max_length=1, overflow="drop_oldest")
    q.send(b"now")
    q.send(b"later", delay=5)
    assert values(q.peek(9)) == [b"now"]
    clock.advance(5)
    assert values(q.receive(9, 0)) == [b"now", b"later"]


def test_a_bound_of_bytes_is_exact_whatever_became_of_them(timed, clock):
    q = timed.queue("jobs", max_bytes=10, overflow="reject", max_attempts=1)

    def room():
        """How many bytes may still be sent: sent, and taken away."""
        for size in range(10, 0, -1):
            try:
                q.send(b"x" * size)
            except seglog.QueueFull:
                continue
            return size
        return 0

    q.send(b"12345", delay=5)
    assert room() == 10
    assert q.purge() == 2
    assert room() == 10
    q.receive(1, 0)[0].reject("no")
    clock.advance(5)
    assert timed.queue("jobs.dead").redrive() == 1
    with pytest.raises(seglog.QueueFull):
        q.send(b"y")
    q.receive(1, 0)[0].ack()
    q.send(b"12345", delay=5)
    clock.advance(5)
    timed.upkeep()
    assert room() == 5


def test_an_expired_message_gives_its_bytes_back(timed, clock):
    q = timed.queue("jobs", max_bytes=10, overflow="reject", fifo=True, ttl=30, dead_letter_expired=True)
    q.send(b"12345", group=b"g")
    q.receive(1, 0)
    q.send(b"1234567890", group=b"g")
    assert q.receive(1, 0) == []
    clock.advance(31)
    timed.upkeep()
    q.send(b"1234567890", group=b"g")
    with pytest.raises(seglog.QueueFull):
        q.send(b"1", group=b"g")


def test_what_waits_for_its_group_expires_there(timed, clock):
    q = timed.queue("jobs", fifo=True, ttl=40, lease=20, max_attempts=1, dead_letter_expired=True)
    q.send_many([b"1", b"2", b"3", b"4"], group=b"g")
    clock.advance(25)
    assert values(q.receive(1, 0)) == [b"1"]
    q.send(b"5", group=b"g")
    assert q.receive(1, 0) == []
    clock.advance(21)
    assert values(q.receive(9, 0)) == [b"5"]
    assert q.statistics().expired == 3


def test_what_expires_behind_others_is_not_counted(timed, clock):
    q = timed.queue("jobs", ttl=40)
    with timed.transaction() as tx:
        q.send(b"early", tx=tx)
        q.send_many([b"early too"], tx=tx)
        clock.advance(20)
        q.send(b"late")
    q.send(b"soon", delay=1)
    clock.advance(10)
    q.send(b"later")
    timed.upkeep()
    clock.advance(11)
    assert q.statistics().ready == 3
    clock.advance(20)
    assert q.statistics().ready == 1


def test_whoever_looks_sees_what_expired_in_another_process(timed, clock):
    q = timed.queue("jobs")
    with seglog.open(timed.path, fsync="never", upkeep=False, clock=clock) as other:
        theirs = other.queue("jobs")
        q.send(b"y")
        q.send(b"z", ttl=5)
        clock.advance(6)
        assert theirs.statistics().ready == 1
        assert values(q.peek(9)) == values(q.browse()) == [b"y"]


def test_what_comes_to_its_end_by_a_restart_is_counted_after_it(timed, clock):
    q = timed.queue("jobs", max_attempts=1, dead_letter=False)
    q.send(b"x")
    q.receive(1, 0)
    with restarted(timed, clock) as store:
        now = store.queue("jobs").statistics()
        assert (now.depth, now.dead_lettered) == (0, 1)


# ---- seen in images of power cuts --------------------------------------------------------------------------


def rebooted(path):
    for shm in path.rglob("shm"):
        shm.unlink()


def test_a_message_that_comes_back_far_behind_another_is_found(tmp_path):
    """Over more segments than two: it was taken for one without a record, and lost."""
    with seglog.open(tmp_path / "data", fsync="never", upkeep=False, segment_bytes=1 << 20) as store:
        q = store.queue("jobs")
        q.send_many([b"%09000d" % n for n in range(1000)])
        got = []
        while some := q.receive(1000, 0):
            got += some
        q.release([got[0], got[500], got[999]])
        assert values(q.receive(10, 0)) == [got[0].value, got[500].value, got[999].value]


def test_states_of_messages_that_a_power_cut_took_are_not_counted(tmp_path):
    partition = tmp_path / "data" / "topics" / "~jobs" / "0"
    with seglog.open(tmp_path / "data", fsync="never", upkeep=False) as store:
        q = store.queue("jobs")
        q.send_many([b"%d" % n for n in range(5)])
        q.release(q.receive(5, 0))
    with open(partition / f"{0:020}.log", "r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))
    rebooted(tmp_path / "data")
    with seglog.open(tmp_path / "data", fsync="never", upkeep=False) as store:
        q = store.queue("jobs")
        assert (q.statistics().depth, q.receive(10, 0)) == (0, [])
        q.send(b"next")
        assert q.statistics().depth == 1


def test_a_message_that_a_power_cut_took_though_its_ack_was_kept_is_not_counted(tmp_path):
    """Its ack is a record of another log."""
    partition = tmp_path / "data" / "topics" / "~jobs" / "0"
    with seglog.open(tmp_path / "data", fsync="never", upkeep=False) as store:
        q = store.queue("jobs")
        q.send(b"lost")
        with store.transaction() as tx:
            q.ack(q.receive(1, 0), tx=tx)
    with open(partition / f"{0:020}.log", "r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))
    rebooted(tmp_path / "data")
    with seglog.open(tmp_path / "data", fsync="never", upkeep=False) as store:
        q = store.queue("jobs")
        q.send_many([b"1", b"2"])
        assert q.statistics().depth == 2
        assert values(q.receive(10, 0)) == [b"1", b"2"]


def test_a_delayed_message_whose_state_was_lost_comes_no_sooner(tmp_path):
    clock = seglog.ManualClock()
    with seglog.open(tmp_path / "data", clock=clock, upkeep=False) as store:
        q = store.queue("jobs")
        q.send_many([b"0", b"1"], delay=60)
        assert q.receive(1, 0) == []
    rebooted(tmp_path / "data")
    with open(tmp_path / "data" / "topics" / "~jobs" / "queue" / "1-0", "r+b") as file:
        file.seek(36864)
        file.write(bytes(32))
    with seglog.open(tmp_path / "data", clock=clock, upkeep=False) as store:
        q = store.queue("jobs")
        assert q.receive(2, 0) == [] and q.statistics().delayed == 2
        clock.advance(61)
        assert values(q.receive(2, 0)) == [b"0", b"1"]


@pytest.mark.parametrize("how", ["close", "another process syncs"])
def test_what_another_acked_is_on_the_disk_too(tmp_path, how):
    chunk = tmp_path / "data" / "topics" / "~jobs" / "queue" / "0-0"
    with seglog.open(tmp_path / "data", fsync="interval", upkeep=False) as store:
        q = store.queue("jobs")
        q.send_many([b"0", b"1"])
        if how == "close":
            q.ack(q.receive(2, 0))
        else:
            run(store, "q.ack(q.receive(2, 0)); os._exit(0)")
            q.sync()
            stored, synced = (int.from_bytes(chunk.read_bytes()[at : at + 8], "little") for at in (SYNC_STORED, SYNC_STORED + 8))
            assert stored == synced > 0
    stored, synced = (int.from_bytes(chunk.read_bytes()[at : at + 8], "little") for at in (SYNC_STORED, SYNC_STORED + 8))
    assert stored == synced > 0


def test_a_receive_that_raises_has_handed_out_nothing(store):
    """What was leased for it comes at once, and no attempt is counted: here the transaction had ended."""
    q = store.queue("jobs")
    q.send_many([b"one", b"two", b"three"])
    with store.transaction() as tx:
        pass
    with pytest.raises(seglog.SeglogError):
        q.receive(2, 0, tx=tx)
    assert (q.statistics().ready, q.statistics().in_flight) == (3, 0)
    assert [(m.value, m.attempts) for m in q.receive(10, 0)] == [(b"one", 1), (b"two", 1), (b"three", 1)]
