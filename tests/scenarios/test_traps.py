"""The fifteen traps of queues, a test each: what other systems fell into, and what happens here.

Each runs in seconds. In full size: `make traps`.
"""

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

import pytest

import seglog
from crash.kills.children import Child

LONG = os.environ.get("SEGLOG_LONG", "0") not in ("", "0")

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, kills, and looks into /proc"),
    pytest.mark.timeout(1800 if LONG else 60),
]


def size(short, long):
    return long if LONG else short


@pytest.fixture
def store(path):
    with seglog.open(path, fsync="never", upkeep=False) as store:
        yield store


def disk(path):
    return sum(
        os.stat(os.path.join(folder, name)).st_blocks * 512
        for folder, _, names in os.walk(path)
        for name in names
        if name.endswith(".log")
    )


def forget_the_boot(path):
    """What the machine's memory would have kept is gone: as after a restart of it."""
    for folder, _, names in os.walk(path):
        for name in {"shm", "tail.shm"} & set(names):
            os.unlink(os.path.join(folder, name))


def fill(queue, count, value=b"%d", **options):
    for at in range(0, count, 10_000):
        queue.send_many([value % i for i in range(at, min(count, at + 10_000))], **options)


def drain(queue):
    """Everything there is, acked; the values."""
    values = []
    while messages := queue.receive(1000, timeout=0):
        queue.ack(messages)
        values += [message.value for message in messages]
    return values


# ---- T1 -------------------------------------------------------------------------------------------------------------


def test_t1_one_unacked_message_does_not_pin_the_log(path):
    count = size(20_000, 1_000_000)
    with seglog.open(path, fsync="never", upkeep=False) as store:
        queue = store.queue("jobs", lease=3600, segment_bytes=1 << 18)
        fill(queue, count, b"%d" + b"." * 100)
        before = disk(path)
        (first,) = queue.receive(1, timeout=0)
        drain(queue)
        store.upkeep()
        assert disk(path) < 3 * (1 << 18) < before
    with seglog.open(path, fsync="never", upkeep=False) as store:
        queue = store.queue("jobs")
        (again,) = queue.receive(1, timeout=5)
        assert again.value == first.value and again.value[:2] == b"0."
        again.ack()
        assert queue.receive(9, timeout=0) == []


def ack_every_second(path, count, tell):
    queue = seglog.open(path, fsync="never", upkeep=False).queue("jobs", lease=3600)
    for _ in range(0, count, 1000):
        queue.ack(queue.receive(1000, timeout=0)[::2])
    os.write(tell, b"!")
    time.sleep(3600)


@pytest.mark.parametrize("rebooted", [False, True], ids=["process", "machine"])
def test_t1b_holes_between_acks_are_kept_however_many(path, rebooted):
    """Killed; and the machine restarted: half of them come again, the other half."""
    count = size(20_000, 2_000_000)
    with seglog.open(path, fsync="never") as store:
        fill(store.queue("jobs", lease=3600), count)
    told, tell = os.pipe()
    with Child(ack_every_second, path, count, tell) as child:
        os.read(told, 1)
        child.kill(signal.SIGKILL)
        child.wait()
    if rebooted:
        forget_the_boot(path)
    with seglog.open(path, fsync="never") as store:
        queue = store.queue("jobs")
        values = []
        while messages := queue.receive(1000, timeout=1):
            queue.ack(messages)
            values += [int(message.value) for message in messages]
    assert values == list(range(1, count, 2))


# ---- T2 -------------------------------------------------------------------------------------------------------------


def test_t2_delays_of_a_month_are_there_after_a_restart_and_fire_once(path):
    """In order of their moments, whatever the order in which they were sent."""
    count, clock = size(5_000, 1_000_000), seglog.ManualClock()
    how = {"fsync": "never", "upkeep": False, "clock": clock}
    start, month = clock(), 30 * 86400 * 1_000_000
    moments = [start + 1_000_000 + month * i // count for i in range(count)]
    with seglog.open(path, **how) as store:
        queue = store.queue("later")
        order = list(range(count))
        random.Random(1).shuffle(order)
        for i in order:
            queue.send(b"%d" % i, deliver_at=moments[i])
    forget_the_boot(path)
    began = time.monotonic()
    with seglog.open(path, **how) as store:
        queue = store.queue("later")
        assert queue.receive(1, timeout=0) == []
        assert time.monotonic() - began < 5.0
        fired = []
        for day in range(31):
            clock.set(start + (day + 1) * 86400 * 1_000_000)
            due = drain(queue)
            assert all(moments[int(value)] <= clock() for value in due)
            fired += due
            assert len(fired) == sum(moment <= clock() for moment in moments)
    assert fired == [b"%d" % i for i in range(count)]


def test_t2_a_receiver_that_waits_has_a_delayed_message_when_it_is_due(store):
    queue = store.queue("later")
    late = []
    for _ in range(5):
        due = time.time() + 0.1
        queue.send(b"x", deliver_at=int(due * 1e6))
        (message,) = queue.receive(timeout=5)
        late.append(time.time() - due)
        message.ack()
    assert min(late) > -0.001
    assert statistics.median(late) < 0.05


# ---- T3 -------------------------------------------------------------------------------------------------------------


def test_t3_a_high_priority_message_passes_all_low_ones_at_once(store):
    queue = store.queue("jobs", priorities=3)
    fill(queue, size(100_000, 1_000_000))
    took = []
    for i in range(20):
        queue.send(b"high %d" % i, priority=2)
        began = time.perf_counter()
        (message,) = queue.receive(1, timeout=0)
        took.append(time.perf_counter() - began)
        assert message.value == b"high %d" % i
        message.ack()
    assert statistics.median(took) < 0.001


# ---- T4 -------------------------------------------------------------------------------------------------------------


def test_t4_what_expired_behind_a_live_head_is_gone_and_not_counted(seglog_store, seglog_clock):
    queue = seglog_store.queue("jobs")
    queue.send(b"head")
    for i in range(100):
        queue.send(b"%d" % i, ttl=10 if i % 2 else 1000)
    seglog_clock.advance(11)
    assert queue.statistics().ready == 51 and queue.statistics().expired == 50
    assert drain(queue) == [b"head"] + [b"%d" % i for i in range(0, 100, 2)]


# ---- T5 -------------------------------------------------------------------------------------------------------------


def consume_badly(path, seed, tell):
    """Nack and release at random; tell the rest."""
    rng = random.Random(seed)
    with seglog.open(path, fsync="never") as store:
        queue = store.queue("orders")
        while messages := queue.receive(rng.choice([1, 3]), timeout=1.0):
            for message in messages:
                dice = rng.random()
                if dice < 0.2:
                    message.nack()
                elif dice < 0.3:
                    message.nack(delay=0.005)
                elif dice < 0.4:
                    message.release()
                else:
                    os.write(tell, message.value + b"\n")
                    message.ack()


def test_t5_failures_do_not_change_the_order_within_a_group(path):
    groups, each = 5, size(60, 2_000)
    with seglog.open(path, fsync="never") as store:
        queue = store.queue("orders", fifo=True, max_attempts=0)
        for i in range(groups * each):
            queue.send(b"%d %d" % (i % groups, i // groups), group=b"%d" % (i % groups))
    told, tell = os.pipe()
    children = [Child(consume_badly, path, seed, tell) for seed in range(3)]
    os.close(tell)
    data = b""
    while more := os.read(told, 65536):
        data += more
    for child in children:
        child.answer(600)
    by_group = {}
    for line in data.split(b"\n")[:-1]:
        group, number = line.split()
        by_group.setdefault(group, []).append(int(number))
    assert by_group == {b"%d" % group: list(range(each)) for group in range(groups)}


# ---- T6 -------------------------------------------------------------------------------------------------------------


def hold(path, tell):
    message = seglog.open(path, upkeep=False).queue("jobs").receive(1, timeout=5)
    os.write(tell, b"!")
    time.sleep(3600)
    return message


def test_t6_what_a_killed_process_held_comes_at_once_whatever_the_lease(path, store):
    queue = store.queue("jobs", lease=3600, max_attempts=0)
    queue.send(b"x")
    took = []
    for attempt in range(1, 8):
        told, tell = os.pipe()
        with Child(hold, path, tell) as child:
            os.read(told, 1)
            assert queue.receive(1, timeout=0) == []
            began = time.monotonic()
            child.kill(signal.SIGKILL)
            (message,) = queue.receive(1, timeout=10)
            took.append(time.monotonic() - began)
            assert message.attempts == 2 * attempt
            message.nack()
    assert statistics.median(took) < 0.1


def test_t6_a_forked_child_does_not_keep_its_dead_parent_alive(path, store):
    """flock is inherited by fork: what is alive is the process, not its descriptor."""

    def hold_and_fork(tell):
        kept = seglog.open(path, upkeep=False).queue("jobs").receive(1, timeout=5)
        if os.fork() == 0:
            os.write(tell, b"!")
            time.sleep(3600)
        time.sleep(3600)
        return kept

    queue = store.queue("jobs", lease=3600)
    queue.send(b"x")
    told, tell = os.pipe()
    with Child(hold_and_fork, tell) as child:
        os.read(told, 1)
        began = time.monotonic()
        child.kill(signal.SIGKILL)
        assert len(queue.receive(1, timeout=10)) == 1
        assert time.monotonic() - began < 1.0


def test_t6_a_long_task_that_is_extended_runs_once(store):
    queue = store.queue("jobs", lease=0.2)
    queue.send(b"long")
    (message,) = queue.receive(1, timeout=0)
    for _ in range(10):
        time.sleep(0.08)
        message.extend(0.2)
        assert queue.receive(1, timeout=0) == []
    message.ack()
    time.sleep(0.3)
    assert queue.receive(1, timeout=0) == []


# ---- T7 -------------------------------------------------------------------------------------------------------------


def die_of_it(path):
    seglog.open(path, fsync="never").queue("jobs").receive(1, timeout=10)
    os._exit(1)


def test_t7_a_message_that_kills_its_process_reaches_the_dead_letters(path, store):
    queue = store.queue("jobs", max_attempts=3, lease=3600)
    queue.send(b"poison")
    for _ in range(3):
        with Child(die_of_it, path) as child:
            assert child.wait() == 1
    assert queue.receive(1, timeout=0.3) == []
    (dead,) = store.queue("jobs.dead").receive(1, timeout=0)
    assert dead.value == b"poison"
    assert (dead.deaths[0]["reason"], dead.deaths[0]["attempts"]) == ("delivery_limit", 3)


def test_t7_also_when_the_machine_goes_down_with_it(path):
    for _ in range(3):
        with seglog.open(path, fsync="never", upkeep=False) as store:
            queue = store.queue("jobs", max_attempts=3)
            if not os.path.exists(path + ".sent"):
                queue.send(b"poison")
                open(path + ".sent", "w").close()
            assert len(queue.receive(1, timeout=1)) == 1
        forget_the_boot(path)
    with seglog.open(path, fsync="never", upkeep=False) as store:
        assert store.queue("jobs").receive(1, timeout=0.1) == []
        assert [message.value for message in store.queue("jobs.dead").receive(9, timeout=0)] == [b"poison"]


# ---- T8 -------------------------------------------------------------------------------------------------------------


def move_for_ever(path, seed):
    """Fail, delay, redrive: every kind of move."""
    rng = random.Random(seed)
    store = seglog.open(path, fsync="never")
    queue = store.queue("jobs")
    while True:
        for message in queue.receive(rng.choice([1, 5]), timeout=0.01):
            rng.choice([message.nack, message.reject, lambda m=message: m.nack(delay=0.002)])()
        if rng.random() < 0.3:
            store.queue("jobs.dead").redrive()


def test_t8_a_move_is_whole_or_did_not_happen_whenever_its_process_is_killed(path, rng):
    count = 40
    with seglog.open(path, fsync="never") as store:
        fill(store.queue("jobs", max_attempts=2, lease=3600), count)
        for i in range(count):
            store.queue("jobs").send(b"%d" % (count + i), delay=0.02 * rng.random())
    for _ in range(size(15, 500)):
        with Child(move_for_ever, path, rng.getrandbits(32)) as child:
            time.sleep(0.15 + 0.1 * rng.random())
            child.kill(signal.SIGKILL)
            child.wait()
    with seglog.open(path, fsync="never") as store:
        values = []
        for name in ("jobs", "jobs.dead"):
            queue = store.queue(name)
            while messages := queue.receive(100, timeout=0.3):
                queue.ack(messages)
                values += [int(message.value) for message in messages]
    assert sorted(values) == list(range(2 * count))


# ---- T9 -------------------------------------------------------------------------------------------------------------


def send_until_full(path, number, most):
    sent = 0
    with seglog.open(path, fsync="never", upkeep=False) as store:
        queue = store.queue("jobs")
        for i in range(most):
            try:
                queue.send(b"%d %d" % (number, i))
                sent += 1
            except seglog.QueueFull:
                pass
    return sent


def test_t9_eight_writers_never_exceed_the_bound(path, store):
    limit = size(200, 1000)
    queue = store.queue("jobs", max_length=limit, overflow="reject")
    children = [Child(send_until_full, path, number, limit) for number in range(8)]
    seen = 0
    while queue.statistics().ready < limit:
        seen = max(seen, queue.statistics().ready)
    sent = sum(child.answer(300) for child in children)
    assert seen <= limit and sent == limit == queue.statistics().ready
    assert len(set(drain(queue))) == limit


def test_t9_a_blocked_sender_goes_on_when_there_is_room(store):
    queue = store.queue("jobs", max_length=2)
    queue.send_many([b"1", b"2"])
    with pytest.raises(seglog.QueueFull):
        queue.send(b"3", timeout=0.05)
    thread = threading.Thread(target=queue.send, args=(b"3",))
    thread.start()
    time.sleep(0.05)
    assert queue.statistics().ready == 2
    queue.receive(1, timeout=0)[0].ack()
    thread.join(10)
    assert not thread.is_alive() and drain(queue) == [b"2", b"3"]


# ---- T10 ------------------------------------------------------------------------------------------------------------


def test_t10_a_stuck_group_does_not_stop_the_others(store):
    queue = store.queue("orders", fifo=True, lease=3600)
    fill(queue, size(20_000, 200_000), group=b"stuck")
    for i in range(50):
        queue.send(b"free %d" % i, group=b"%d" % (i % 5))
    (stuck,) = queue.receive(1, timeout=0)
    assert stuck.group == b"stuck"
    began = time.monotonic()
    assert drain(queue) == [b"free %d" % i for i in range(50)]
    assert time.monotonic() - began < size(2, 20)
    assert queue.statistics().blocked + queue.statistics().ready == size(20_000, 200_000) - 1
    stuck.ack()
    assert queue.receive(1, timeout=0)[0].value == b"1"


# ---- T11 ------------------------------------------------------------------------------------------------------------


def test_t11_the_disk_is_flat_under_a_steady_load(path):
    with seglog.open(path, fsync="never", upkeep=False) as store:
        queue = store.queue("jobs", segment_bytes=1 << 18)
        sizes = []
        for _ in range(size(20, 2000)):
            fill(queue, 10_000, b"%d" + b"." * 100)
            drain(queue)
            store.upkeep()
            sizes.append(disk(path))
    assert max(sizes[2:]) <= 4 << 20
    assert sizes[-1] <= max(sizes[:5])


# ---- T12 ------------------------------------------------------------------------------------------------------------


def test_t12_opening_does_not_cost_what_waits(path):
    """After a restart of the machine too."""
    count = size(300_000, 10_000_000)
    with seglog.open(path, fsync="never") as store:
        queue = store.queue("jobs")
        fill(queue, count)
        queue.ack(queue.receive(1000, timeout=0))
    for how in ("closed", "rebooted"):
        if how == "rebooted":
            forget_the_boot(path)
        began = time.monotonic()
        with seglog.open(path, fsync="never", upkeep=False) as store:
            (message,) = store.queue("jobs").receive(1, timeout=0)
            assert time.monotonic() - began < 1.0, how
            assert message.value == b"1000"
            message.release()


# ---- T13 ------------------------------------------------------------------------------------------------------------


def test_t13_waiting_neither_burns_nor_is_late(path, store):
    def wait(tell):
        with seglog.open(path, fsync="never", upkeep=False) as mine:
            queue = mine.queue("jobs")
            queue.receive(timeout=0.1)
            before = time.process_time()
            assert queue.receive(timeout=1.0) == []
            share = time.process_time() - before
            os.write(tell, b"!")
            late = []
            for _ in range(50):
                (message,) = queue.receive(timeout=10)
                late.append(time.monotonic() - float(message.value))
                message.ack()
            return share, late

    queue = store.queue("jobs")
    told, tell = os.pipe()
    with Child(wait, tell) as child:
        os.read(told, 1)
        for _ in range(50):
            time.sleep(0.005)
            queue.send(b"%r" % time.monotonic())
        share, late = child.answer()
    assert share < 0.02  # of a second; bench/queues.py has the promise
    assert statistics.median(late) < 0.01


# ---- T14 ------------------------------------------------------------------------------------------------------------


SHIFTED_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
long shifted_by = 0;
int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int rc = real(which, now);
    if (rc == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) now->tv_sec += shifted_by;
    return rc;
}
"""
SETS_ITS_CLOCK = """
import ctypes, sys, time, seglog
shift = ctypes.c_long.in_dll(ctypes.CDLL(None), "shifted_by")
before = time.time()
with seglog.open(sys.argv[1], fsync="never", upkeep=False) as store:
    queue = store.queue("jobs", lease=0.6)
    queue.send(b"x")
    began = time.monotonic()
    (message,) = queue.receive(timeout=0)
    for shift.value in (3600, -3600):
        assert abs(time.time() - before - shift.value) < 60, "the clock was not set"
        assert queue.receive(timeout=0) == [], "the lease ended with the clock"
        assert abs(queue.send(b"y") is not None and queue.peek(1)[0].sent_at / 1e6 - time.time()) < 60, "by another clock"
        queue.receive(timeout=0)[0].ack()
    (again,) = queue.receive(timeout=5)
    assert again.attempts == 2 and 0.55 < time.monotonic() - began < 4, time.monotonic() - began
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.skipif(os.environ.get("SEGLOG_BUILD") in ("asan", "tsan"), reason="preloads a library of its own")
def test_t14_a_clock_that_is_set_moves_no_lease(path, tmp_path):
    """Leases are monotonic: the clock on the wall goes an hour forward, and back; nobody loses his message, or keeps it."""
    source, library = tmp_path / "shifted.c", tmp_path / "shifted.so"
    source.write_text(SHIFTED_CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    ran = subprocess.run(
        [sys.executable, "-c", SETS_ITS_CLOCK, path],
        env=os.environ | {"LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


# ---- T15 ------------------------------------------------------------------------------------------------------------


def test_t15_what_is_given_back_unworked_costs_no_attempt(store):
    queue = store.queue("jobs", max_attempts=1)
    fill(queue, 100)
    for delivery in range(1, 6):
        messages = queue.receive(100, timeout=0)
        assert [message.attempts for message in messages] == [1] * 100
        assert [message.deliveries for message in messages] == [delivery] * 100
        queue.release(messages)
    assert queue.statistics().dead_lettered == 0
    queue.nack(queue.receive(100, timeout=0))
    assert queue.statistics().dead_lettered == 100


# ---- exactly once, when nobody dies -----------------------------------------------------------------------------------


def process_all(path, number, count, tell):
    """Send `count`, receive as many as there are; the values, as bytes on the pipe."""
    with seglog.open(path, fsync="never", upkeep=False) as store:
        queue, done = store.queue("jobs"), []
        for at in range(0, count, 100):
            queue.send_many([b"%d %d" % (number, i) for i in range(at, min(at + 100, count))])
            messages = queue.receive(100, timeout=0)
            queue.ack(messages)
            done += [(message.value, message.attempts) for message in messages]
        while messages := queue.receive(100, timeout=0.5):
            queue.ack(messages)
            done += [(message.value, message.attempts) for message in messages]
    return done


def test_eight_processes_handle_each_message_exactly_once(path):
    count = size(2_000, 100_000)
    with seglog.open(path, fsync="never") as store:
        store.queue("jobs", lease=3600)
    children = [Child(process_all, path, number, count, None) for number in range(8)]
    done = [each for child in children for each in child.answer(1200)]
    assert len(done) == 8 * count
    assert {attempts for _, attempts in done} == {1}
    assert {value for value, _ in done} == {b"%d %d" % (number, i) for number in range(8) for i in range(count)}
    shutil.rmtree(path)
