"""Whoever waits is woken within milliseconds, can be interrupted, and burns next to nothing meanwhile."""

import asyncio
import contextlib
import os
import resource
import signal
import statistics
import sys
import threading
import time

import pytest

import seglog
from crash.kills.children import Child
from process.fair import fair
from process.workers import LOCK, SYNC_LOCK, Words, hold, opened
from seglog.engine.liveness import file_lock

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="forks, and looks at its own use of the processor"
)

PORTABLE = os.environ.get("SEGLOG_PORTABLE", "0") not in ("", "0")


# -- ways of waiting: each yields the value of what came ---------------------------------------------------------------


def by_log_wait(store):
    """The engine's own wait."""
    log, at = store.topic("one").logs[0], store.topic("one").next_offset()
    while True:
        log.wait(at)
        for record in log.records(at):
            yield record.value
            at = record.offset + 1


def by_durable_wait(store):
    """Until what comes is on disk."""
    log, at = store.topic("one").logs[0], store.topic("one").next_offset()
    while True:
        log.wait(at, durable=True)
        for record in log.records(at, log.durable_offset):
            yield record.value
            at = record.offset + 1


def by_tail(store):
    """Topic.tail, one partition."""
    for record in store.topic("one").tail():
        yield record.value


def by_tail_of_many(store):
    """Topic.tail, four partitions."""
    for record in store.topic("many").tail():
        yield record.value


def by_receive(store):
    """A consumer."""
    consumer = store.topic("one").consumer("group", start="latest")
    while True:
        yield from consumer.receive().values.tolist()


WAYS = [by_log_wait, by_durable_wait, by_tail, by_tail_of_many, by_receive]


@contextlib.contextmanager
def open_store(path, upkeep=True):
    with seglog.open(path, fsync_interval=0.005, upkeep=upkeep) as store:
        store.topic("one")
        store.topic("many", partitions=4)
        yield store


@pytest.fixture
def store(memory):
    with open_store(str(memory / "store")) as store:
        yield store


def ready(pipe):
    os.write(pipe, b"!")


@pytest.fixture
def quiet(memory):
    """A store in which nobody syncs by himself, and no thread runs."""
    with open_store(str(memory / "store"), upkeep=False) as store:
        yield store


# -- woken ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_reader_in_another_process_has_a_record_in_hand_within_milliseconds(store, way, capsys):
    told, tell = os.pipe()

    def reader():
        with open_store(store.path) as mine:
            waits = []
            values = way(mine)
            threading.Timer(0.1, ready, [tell]).start()
            for value in values:
                waits.append(time.monotonic() - float(value))
                if len(waits) == 60:
                    return waits
        return None

    with Child(reader) as child:
        os.read(told, 1)
        topic = store.topic("many" if way is by_tail_of_many else "one")
        for _ in range(60):
            topic.send(b"%r" % time.monotonic())
            time.sleep(0.003)
        waits = child.answer()
    typical = statistics.median(waits) * 1000
    with capsys.disabled():
        print(f" [{typical:.2f} ms, at most {max(waits) * 1000:.0f}]", end="")
    assert typical < (30 if way is by_durable_wait else 10) + bare() * 1000


def bare():
    """How late, typically, this machine lets go on who sleeps three milliseconds."""
    lates = []
    for _ in range(50):
        began = time.monotonic()
        time.sleep(0.003)
        lates.append(time.monotonic() - began - 0.003)
    return statistics.median(lates)


def test_threads_that_wait_are_woken_by_a_thread(store):
    topic = store.topic("one")
    came = [threading.Event() for _ in range(8)]

    def wait(event):
        if topic.wait(0):
            event.set()

    threads = [threading.Thread(target=wait, args=(event,)) for event in came]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert not any(event.is_set() for event in came)
    began = fair()
    topic.send(b"x")
    assert all(event.wait(20.0) for event in came)
    assert fair() - began < 1.0
    for thread in threads:
        thread.join()


def test_a_reader_that_was_killed_while_it_waited_leaves_nothing_to_pay(store):
    """Its raised flag costs the next append one useless wake; those who wait beside it are woken all the same."""

    def wait():
        with open_store(store.path) as mine:
            mine.topic("one").wait(10**6)

    topic = store.topic("one")
    for _ in range(3):
        child = Child(wait)
        time.sleep(0.1)
        child.stop()
    flag = os.path.join(topic.logs[0].path, "shm"), 516
    assert word_of(*flag) in (0, 1)
    topic.send(b"x")
    topic.send(b"y")
    assert word_of(*flag) == 0
    assert [record.value for record in topic.read()] == [b"x", b"y"]


def test_whoever_waits_is_let_go_when_the_store_is_closed_or_the_topic_deleted(store):
    def wait_for_ever(topic, ended):
        with pytest.raises((seglog.ClosedError, seglog.TopicNotFound)):
            for _ in topic.tail():
                pass
        ended.set()

    store.topic("doomed")
    with seglog.open(store.path) as other:
        for topic, end in (
            (store.topic("doomed"), lambda: other.delete_topic("doomed")),
            (other.topic("one"), other.close),
            (store.topic("many"), lambda: store.delete_topic("many")),
        ):
            ended = threading.Event()
            thread = threading.Thread(target=wait_for_ever, args=(topic, ended))
            thread.start()
            time.sleep(0.05)
            end()
            assert ended.wait(20.0), topic
            thread.join()


# -- interrupted ----------------------------------------------------------------------------------------------------------


def wait_in_append(store):
    store.topic("one").send(b"never")


def wait_in_sync(store):
    store.topic("one").sync()


def wait_to_open(store):
    seglog.open(store.path).topic("one")


def next_of(way):
    def wait(store):
        next(way(store))

    wait.__name__ = way.__name__
    return wait


@pytest.mark.parametrize(
    "wait", [*map(next_of, WAYS), wait_in_append, wait_in_sync, wait_to_open], ids=lambda wait: wait.__name__
)
def test_ctrl_c_ends_every_kind_of_waiting(quiet, wait):
    """At once, with KeyboardInterrupt, and nothing is left locked or half done."""
    store = quiet
    log = store.topic("one").logs[0]
    shared = os.path.join(log.path, "shm")
    told, tell = os.pipe()
    obstacle = contextlib.ExitStack()

    def work():
        with seglog.open(store.path, upkeep=False) as mine:
            mine.topic("one")
            if wait is wait_in_sync:
                mine.topic("one").send(b"not synced yet")
            ready(tell)
            os.read(go, 1)
            ready(tell)
            began = time.monotonic()
            try:
                wait(mine)
            except KeyboardInterrupt:
                said = "interrupted"
            else:
                said = f"ended after {time.monotonic() - began:.3f} s"
            finally:
                os.write(tell, b"?")
                os.read(go, 1)  # the obstacle is gone: closing needs the lock
        return said

    go, tell_to_go = os.pipe()
    child = Child(work)
    os.read(told, 1)
    if wait in (wait_in_append, wait_in_sync):
        word = LOCK if wait is wait_in_append else SYNC_LOCK
        holder = Child(hold_in_store, store.path, word)
        deadline = time.monotonic() + 10
        while not word_of(shared, word) and time.monotonic() < deadline:
            time.sleep(0.001)
        obstacle.callback(holder.stop)
    if wait is wait_to_open:
        fd = os.open(shared, os.O_RDWR)
        obstacle.callback(os.close, fd)
        obstacle.enter_context(file_lock(fd, shared))
    os.write(tell_to_go, b"!")
    os.read(told, 1)
    time.sleep(0.15)
    child.kill(signal.SIGINT)
    began = fair()
    assert os.read(told, 1) == b"?"
    took = fair() - began
    obstacle.close()
    os.write(tell_to_go, b"!")
    assert child.answer() == "interrupted"
    assert took < 0.5
    topic = store.topic("one")
    began = fair()
    topic.send(b"the store goes on")
    topic.sync()
    assert fair() - began < 1.0
    assert b"never" not in [record.value for record in topic.read()]
    assert store.verify() == []


def hold_in_store(path, word):
    """A process that keeps a lock of the store's topic until it is killed."""
    store = seglog.open(path, upkeep=False)
    log = store.topic("one").logs[0]
    with open(os.path.join(log.path, "shm"), "r+b") as file:
        file.seek(word)
        file.write(log.liveness.word.to_bytes(4, "little"))
        file.flush()
        time.sleep(3600)


def word_of(path, at):
    with open(path, "rb") as file:
        file.seek(at)
        return int.from_bytes(file.read(4), "little")


# -- not burning ------------------------------------------------------------------------------------------------------------


def by_aio(store):
    """Awaited: one thread listens for all."""
    import seglog.aio

    async def main():
        async with await seglog.aio.open(store.path) as mine:
            topic = await mine.topic("one")
            async for _ in topic.tail():
                pass

    asyncio.run(main())
    yield b""


def test_who_waits_burns_less_than_half_a_percent_of_a_core(quiet, capsys):
    """All kinds at once, each in a process of its own; no thread is made for it. The least of some looks: others who are busy make
    each wake dearer, and none cheaper."""

    def measured(way):
        waiting = way(seglog.open(quiet.path, upkeep=False))  # never closed: the lock may be held
        before = began = threads = 0.0
        shares = []

        def look(*_):
            nonlocal began, before, threads
            if began:
                shares.append((used() - before) / (time.monotonic() - began))
                threads = threading.active_count()
            if len(shares) == 3:
                raise TimeoutError
            before, began = used(), time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, 0.7)

        signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, 0.2)  # what comes before the waiting is not counted
        with pytest.raises(TimeoutError):
            next(waiting)
        return min(shares), threads

    kinds = [*WAYS, by_aio, wait_for_the_lock, by_sleeping]
    with contextlib.ExitStack() as stay:
        children = [stay.enter_context(Child(measured, way)) for way in kinds]
        told = {way.__name__: child.answer() for way, child in zip(kinds, children, strict=True)}
    with capsys.disabled():
        print(" [" + ", ".join(f"{name} {share:.2%}" for name, (share, _) in told.items()) + "]", end="")
    # The fallback looks a thousand times a second; an event loop has its own threads, and a look of its own.
    least, _ = told.pop("by_sleeping")
    for name, (share, threads) in told.items():
        assert share < (0.02 if PORTABLE else 0.01 if name == "by_aio" else 0.005) + least, name
        assert threads == 1 or name == "by_aio"


def by_sleeping(store):
    """What it costs here today to wake as often as those who wait do, and to do nothing."""
    while True:
        time.sleep(0.001 if PORTABLE else 0.05)
        yield from ()


def wait_for_the_lock(store):
    """Of a partition whose lock a live process holds."""
    log = store.topic("many").logs[3]
    with open(os.path.join(log.path, "shm"), "r+b") as file:
        if not word_of(file.name, LOCK):
            file.seek(LOCK)
            file.write(log.liveness.word.to_bytes(4, "little"))
    log.append(b"?")
    yield b""


def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# -- the check can fail -------------------------------------------------------------------------------------------------


def test_a_reader_that_looks_all_the_time_is_seen(store):
    def busy():
        before, began = used(), time.monotonic()
        topic = store.topic("one")
        while time.monotonic() - began < 0.3:
            if topic.next_offset() > 10:
                return 0
            time.sleep(0.0001)
        return (used() - before) / (time.monotonic() - began)

    assert Child(busy).answer() > 0.005


def test_a_holder_named_here_is_one_that_holds(memory):
    """`hold` is what these tests take for a lock holder: the engine agrees."""
    path = str(memory / "log")
    log = opened(path, lock_timeout=0.1)
    with Child(hold, path, "sleep") as holder:
        deadline = time.monotonic() + 10
        while not Words(path)[LOCK] and time.monotonic() < deadline:
            time.sleep(0.001)
        with pytest.raises(seglog.LockTimeout, match=str(holder.pid)):
            log.append(b"x")
