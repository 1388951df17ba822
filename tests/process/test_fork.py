"""A handle that is carried across fork works on both sides, or says what to do; it never corrupts anything."""

import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

import seglog
from crash.kills.children import Child
from process.fair import fair
from process.workers import (
    LOCK,
    SMALL,
    Words,
    ledger_of,
    look_at,
    open_and_write,
    opened,
    write,
)
from seglog.engine.liveness import Liveness

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

COUNT = 300


def journals(memory, count):
    return [(number, str(memory / f"journal-{number}")) for number in range(1, count + 1)]


def test_both_sides_of_a_fork_go_on_with_the_handle(memory):
    path, told = str(memory / "log"), journals(memory, 4)
    log = opened(path)
    write(log, *told[0], COUNT)

    def child():
        def grandchild():
            write(log, *told[3], COUNT)
            return log.liveness.slot

        below = Child(grandchild)
        write(log, *told[2], COUNT)
        return log.liveness.slot, below.answer(), log.read(0).next_offset

    forked = Child(child)
    write(log, *told[1], COUNT)
    slot, slot_below, _ = forked.answer()
    assert len({log.liveness.slot, slot, slot_below}) == 3
    ledger_of(told).check(look_at(path), contiguous=True)


def test_forks_in_the_middle_of_what_other_threads_do(memory, rng):
    """Whatever the threads of the parent are at (in the lock, in a roll, in a sync), the child can go on at once."""
    path, told = str(memory / "log"), journals(memory, 4)
    log = opened(path, fsync="always")
    stop, offsets = threading.Event(), []

    def append_and_read():
        offset = log.append(b"from a child")
        try:
            assert log.record(offset).value == b"from a child"
        except seglog.OffsetOutOfRange:  # this child was kept from running, and the parent's threads trimmed beyond it
            assert offset < log.first_offset
        log.sync()
        return offset

    def busy(number, journal):
        count = 0
        while not stop.is_set():
            count += 20
            write(log, number, f"{journal}-{count}", 20, seed=count)
            if number == 4:
                log.trim(max(log.first_offset, log.next_offset - 3000))

    threads = [threading.Thread(target=busy, args=journal) for journal in told]
    for thread in threads:
        thread.start()
    try:
        for _i in range(40):
            time.sleep(rng.random() * 0.003)
            child = Child(append_and_read)
            offsets += [child.answer()]
            child.stop()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert offsets == sorted(set(offsets))
    assert len(offsets) == 40
    for record in log.records():
        assert (record.value == b"from a child") == (record.offset in offsets)
    assert log.verify() == []


def test_what_was_read_before_a_fork_stays_readable_after_it(memory):
    log = opened(str(memory / "log"))
    log.append_many([b"%d" % i for i in range(1000)])
    batch = log.read(0)
    child = Child(lambda: batch.values.tolist())
    log.close()
    assert child.answer() == batch.values.tolist() == [b"%d" % i for i in range(1000)]


def test_a_closed_handle_is_closed_on_the_other_side_too_and_a_close_there_is_no_close_here(memory):
    log, other = opened(str(memory / "log")), opened(str(memory / "log"))
    other.close()

    def child():
        log.append(b"child")
        log.close()
        with pytest.raises(seglog.ClosedError):
            other.append(b"?")

    Child(child).answer()
    log.append(b"parent")
    assert [record.value for record in log.records()] == [b"child", b"parent"]


# -- stores, and servers that fork ------------------------------------------------------------------------------------


def serve(store, worker, count):
    """A worker of a pre-forking server: goes on with what the master opened."""
    topic = store.topic("orders")
    for i in range(count):
        topic.send(b"%d/%d" % (worker, i), b"%d" % worker)
    return os.getpid()


def test_a_master_opens_and_forked_workers_serve_also_when_the_master_is_killed(memory):
    """As gunicorn does with preload: parent opens, children use; then the parent goes, and a worker forks a new one."""
    path = str(memory / "store")

    read_end, write_end = os.pipe()

    def run_master():
        store = seglog.open(path, fsync_interval=0.01)
        store.topic("orders", partitions=4).send(b"from the master")
        for worker in range(4):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    serve(store, worker, 100)
                    while not os.path.exists(memory / "master-is-dead"):
                        time.sleep(0.001)
                    serve(store, worker, 200)
                    if worker == 0:
                        newer = os.fork()
                        if newer == 0:
                            serve(store, 4, 100)
                            store.close()
                            os._exit(0)
                        os.waitpid(newer, 0)
                    store.close()
                    code = 0
                finally:
                    os.write(write_end, b"%d" % code)
                    os._exit(code)
        time.sleep(60)

    master_process = Child(run_master)
    with seglog.open(path) as store:
        topic = store.topic("orders", partitions=4)
        deadline = time.monotonic() + 20
        while sum(topic.next_offset(p) for p in range(4)) < 401 and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(master_process.pid, signal.SIGKILL)
        assert master_process.wait() == -signal.SIGKILL
        (memory / "master-is-dead").touch()
        os.close(write_end)
        codes = b""
        while more := os.read(read_end, 10):
            codes += more
        os.close(read_end)
        assert codes == b"0000", "a worker failed"
        told = [record.value for record in topic.read()]
        for worker in range(4):
            mine = [value for value in told if value.startswith(b"%d/" % worker)]
            assert mine == [b"%d/%d" % (worker, i) for i in [*range(100), *range(200)]]
        assert sum(value.startswith(b"4/") for value in told) == 100
        assert len(told) == 1 + 4 * 300 + 100
        assert store.verify() == []


def test_a_forked_child_has_upkeep_of_its_own(memory):
    """With fsync="interval" what it sends becomes durable by itself, though its parent's thread did not come along."""
    path = str(memory / "store")

    def parent():
        store = seglog.open(path, fsync_interval=0.01)
        topic = store.topic("orders")
        if os.fork():
            os.kill(os.getpid(), signal.SIGSTOP)  # it cannot be the one that syncs
        offset = topic.send(b"x").offset
        os.write(tell, b"%d" % topic.logs[0].wait(offset, 5.0, durable=True))
        os._exit(0)

    told, tell = os.pipe()
    with Child(parent):
        assert os.read(told, 1) == b"1"


def test_a_consumer_is_its_parents_and_says_so(memory):
    with seglog.open(str(memory / "store")) as store:
        topic = store.topic("orders")
        topic.send_many([b"1", b"2"])
        consumer = topic.consumer("group")
        assert consumer.receive(max_records=1).values.tolist() == [b"1"]

        def child():
            with pytest.raises(seglog.ForkedHandle) as raised:
                consumer.commit()
                consumer.receive()
            with topic.consumer("group") as own:  # another member; the parent lives, and has the partition
                assert own.assignment == {} and own.receive(timeout=0) is None
            return str(raised.value)

        said = Child(child).answer()
        assert "Open one of its own" in said
        consumer.commit()
        assert consumer.receive().values.tolist() == [b"2"]


# -- a parent that dies, a child that cannot have what it needs ---------------------------------------------------------


@pytest.mark.parametrize("child_first", [True, False])
def test_the_lock_of_a_dead_parent_is_taken_though_its_child_lives(memory, child_first):
    path = str(memory / "log")
    other = opened(path)
    go, tell_to_go = os.pipe()
    told, tell = os.pipe()

    def parent():
        log = opened(path)
        if os.fork() == 0:
            os.read(go, 1)
            began = fair()
            log.append(b"child")
            os.write(tell, b"%d" % ((fair() - began) * 1e6))
            time.sleep(60)
        Words(path)[LOCK] = log.liveness.word
        os.kill(os.getpid(), signal.SIGKILL)

    with Child(parent) as dead:
        assert dead.wait() == -signal.SIGKILL
        if child_first:
            os.write(tell_to_go, b"!")
            assert int(os.read(told, 20)) < 1_000_000
        began = fair()
        other.append(b"other")
        assert fair() - began < 1.0
        if not child_first:
            os.write(tell_to_go, b"!")
            assert int(os.read(told, 20)) < 1_000_000
        assert sorted(record.value for record in other.records()) == [b"child", b"other"]


def test_a_program_that_a_dead_parent_started_keeps_nothing_of_it_alive(memory):
    """Descriptors are closed on exec: `sleep` does not count as the holder of its dead parent's lock."""
    path = str(memory / "log")
    other = opened(path)

    def parent():
        log = opened(path)
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        Words(path)[LOCK] = log.liveness.word
        (memory / "pid").write_text(str(sleeper.pid))
        os.kill(os.getpid(), signal.SIGKILL)

    assert Child(parent).wait() == -signal.SIGKILL
    pid = int((memory / "pid").read_text())
    try:
        began = fair()
        other.append(b"x")
        assert fair() - began < 1.0
    finally:
        os.kill(pid, signal.SIGKILL)


def refused_or_apart(log):
    """What a child of `log` does when it could not take a slot: go on with one of its own, or say why not."""
    try:
        log.append(b"child")
    except seglog.SeglogError as error:
        return "refused", str(error), log.liveness.word
    return "works", "", log.liveness.word


def test_a_child_without_descriptors_never_passes_for_its_parent(memory):
    path = str(memory / "log")
    log = opened(path)
    log.append(b"parent")
    parents = log.liveness.word

    def starved():
        """Forks with no descriptor to spare, so that the hook in the child cannot open what it needs."""
        few, many = resource.getrlimit(resource.RLIMIT_NOFILE)
        told, tell = os.pipe()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, many))
        if os.fork() == 0:
            first = refused_or_apart(log)
            resource.setrlimit(resource.RLIMIT_NOFILE, (few, many))
            os.write(tell, pickle.dumps((first, refused_or_apart(log))))
            os._exit(0)
        return log.liveness.word, *pickle.loads(os.read(told, 4096))

    word, (how, said, _), (later, _, words) = Child(starved).answer()
    assert (how, later) == ("refused", "works"), said
    assert len(said) > 20
    assert len({word, words, parents}) == 3
    log.append(b"parent again")
    assert [record.value for record in log.records()] == [b"parent", b"child", b"parent again"]


def test_a_store_without_a_place_refuses_every_verb_in_the_child_and_can_be_closed_there(memory):
    store = seglog.open(str(memory / "store"))
    other = seglog.open(str(memory / "other"))
    topic, theirs = store.topic("orders"), other.topic("orders")
    topic.send(b"parent")
    shutil.move(store.path, store.path + "-away")  # no lock file to take a byte of, and no way to make one
    verbs = {
        "send": lambda: topic.send(b"child"),
        "send_many": lambda: topic.send_many([b"child"]),
        "sync": lambda: topic.send(b"child") and topic.sync(),
        "consumer": lambda: topic.consumer("group"),
        "topic": lambda: store.topic("more"),
        "topics": lambda: store.topics(),
        "delete_topic": lambda: store.delete_topic("orders"),
        "upkeep": lambda: store.upkeep(),
        "statistics": lambda: store.statistics(),
        "verify": lambda: store.verify(),
        "listen": lambda: store.liveness.listen(),
    }

    def child():
        said = {}
        for name, verb in verbs.items():
            with pytest.raises(seglog.ForkedHandle) as raised:
                verb()
            said[name] = str(raised.value)
        theirs.send(b"child")
        os.rename(store.path + "-away", store.path)
        topic.send(b"child, once it can")
        shutil.move(store.path, store.path + "-away")
        return said

    def closes():
        store.close()
        other.close()
        assert store.closed

    said = Child(child).answer()
    assert all("cannot take a place" in text and "Nothing was" in text for text in said.values()), said
    Child(closes).answer()
    os.rename(store.path + "-away", store.path)
    topic.send(b"parent again")
    assert [record.value for record in topic.read()] == [b"parent", b"child, once it can", b"parent again"]
    assert [record.value for record in theirs.read()] == [b"child"]
    store.close()
    other.close()


def test_a_fork_while_a_thread_opens_a_store_takes_nothing_of_it_along(memory):
    """Else the child, which knows nothing of it, would keep a place alive that its parent gave back."""
    path = str(memory / "log")
    os.mkdir(path)
    watcher, stop = Liveness(path), threading.Event()

    def open_and_close():
        while not stop.is_set():
            Liveness(path).close()

    threads = [threading.Thread(target=open_and_close) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        children = [Child(time.sleep, 60) for _ in range(60)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    mine, deadline = [], time.monotonic() + 10  # a child that takes a place has it locked before it signs
    while mine != [watcher.slot] and time.monotonic() < deadline:
        mine = [slot for slot, pid in watcher.owners() if pid == os.getpid()]
    assert mine == [watcher.slot]
    for child in children:
        child.stop()


def test_one_store_that_is_gone_does_not_spoil_a_fork_for_the_others(memory):
    """Its slot cannot be taken in the child: there is no directory. All others have theirs."""
    gone = [opened(str(memory / f"gone-{i}")) for i in range(5)]
    logs = [opened(str(memory / f"log-{i}")) for i in range(5)]
    for log in gone:
        shutil.rmtree(log.path)

    def child():
        return [(log.append(b"child"), log.liveness.word, log.liveness.slot) for log in logs]

    for (_, word, slot), log in zip(Child(child).answer(), logs, strict=True):
        assert word != log.liveness.word
        assert slot != log.liveness.slot


def test_when_all_slots_are_taken_a_fork_is_told_so_and_the_parent_goes_on(memory):
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("needs 4,096 descriptors")
    path = str(memory / "log")
    log = opened(path)
    log.append(b"parent")

    def crowd():
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        held = []
        try:
            while len(held) < 1100:
                held.append(Liveness(path))
        except seglog.SeglogError as error:
            os.write(tell, b"%d\n" % len(held))
            assert "1,024" in str(error)
        time.sleep(60)

    told, tell = os.pipe()
    crowded = Child(crowd)
    assert int(os.read(told, 10)) == 1022  # one is ours, one our child took for the log it was born with
    how, said, _ = Child(refused_or_apart, log).answer()
    assert how == "refused"
    assert "slot" in said
    log.append(b"parent again")
    crowded.stop()
    assert Child(refused_or_apart, log).answer()[0] == "works"
    assert [record.value for record in log.records()] == [b"parent", b"parent again", b"child"]


def test_a_thousand_forks_leave_nothing_behind(memory):
    path = str(memory / "log")
    log = opened(path)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(100):
        child = Child(lambda: log.append(b"x"))
        child.answer()
        child.stop()
    assert log.next_offset == 100
    assert log.liveness.owners() == [(log.liveness.slot, os.getpid())]
    if before:
        assert len(os.listdir("/proc/self/fd")) == before
    assert os.path.getsize(os.path.join(path, "00000000000000000000.log")) == SMALL
    open_and_write(path, 1, str(memory / "journal"), 10)
