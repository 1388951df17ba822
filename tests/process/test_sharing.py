"""Any number of processes and threads write to and read from one log: one order for all, offsets without gaps, each record once."""

import multiprocessing
import pickle
import sys

import pytest

import seglog
from crash.kills.children import Child
from process.workers import (
    in_threads,
    ledger_of,
    look_at,
    open_and_read,
    open_and_write,
    open_and_write_in_threads,
    opened,
    read,
    send_some,
    write,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")

COUNT = 1500  # records of one writer
WRITERS = 8


def journals(memory):
    return [(number, str(memory / f"journal-{number}")) for number in range(1, WRITERS + 1)]


def start_writers(how, path, told, seed):
    """Children, and works for threads of this process."""
    if how == "processes":
        return [Child(open_and_write, path, number, journal, COUNT, seed) for number, journal in told], []
    if how == "threads, one handle":
        log = opened(path)
        return [], [(write, log, number, journal, COUNT, seed) for number, journal in told]
    if how == "threads, a handle each":
        return [], [(open_and_write, path, number, journal, COUNT, seed) for number, journal in told]
    log = opened(path)
    numbers, names = zip(*told[:3], strict=True)
    return [
        Child(open_and_write_in_threads, path, numbers, names, COUNT, seed),
        Child(open_and_write_in_threads, path, *zip(*told[3:5], strict=True), COUNT, seed, False),
        Child(open_and_write, path, *told[5], COUNT, seed),
    ], [(write, log, number, journal, COUNT, seed) for number, journal in told[6:]]


@pytest.mark.parametrize("how", ["processes", "threads, one handle", "threads, a handle each", "mixed"])
def test_eight_writers_and_four_readers_agree_on_every_record(memory, how, rng):
    path, told, total = str(memory / "log"), journals(memory), WRITERS * COUNT
    opened(path)
    readers = [Child(open_and_read, path, total) for _ in range(2)]
    children, works = start_writers(how, path, told, rng.getrandbits(32))
    seen_here = [[], []]
    log = opened(path)

    def read_here(seen, log):
        seen += read(log, total)

    in_threads([*works, (read_here, seen_here[0], log), (read_here, seen_here[1], log)])
    for child in children:
        child.answer(30)
    final = look_at(path)
    ledger_of(told).check(final, contiguous=True)
    assert (final.first, final.next, final.epoch) == (0, total, 1)
    for reader in [*(child.answer(30) for child in readers), *seen_here]:
        assert reader == final.records


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_processes_started_in_every_way_share_a_log(memory, method):
    path, told = str(memory / "log"), journals(memory)[:3]
    start = multiprocessing.get_context(method)
    with opened(path) as log:
        log.append(b"the parent was here first, and keeps it open")
        log.trim(1)
        processes = [start.Process(target=open_and_write, args=(path, *journal, COUNT)) for journal in told]
        for process in processes:
            process.start()
        for process in processes:
            process.join(30)
        assert [process.exitcode for process in processes] == [0] * 3
        assert log.next_offset == 1 + 3 * COUNT
    ledger_of(told).check(look_at(path)._replace(first=0), contiguous=False)


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_pool_of_workers_sends_to_one_topic(memory, method):
    path = str(memory / "store")
    with seglog.open(path) as store:
        topic = store.topic("orders", partitions=3)
        with multiprocessing.get_context(method).Pool(3) as pool:
            assert pool.starmap(send_some, [(path, n, 50) for n in range(6)]) == list(range(6))
        told = [record.value for record in topic.read()]
        assert sorted(told) == sorted(b"%d/%d" % (n, i) for n in range(6) for i in range(50))
        for n in range(6):  # one key, one partition: its order is the order of sending
            assert [v for v in told if v.startswith(b"%d/" % n)] == [b"%d/%d" % (n, i) for i in range(50)]


@pytest.mark.parametrize("what", ["log", "store", "topic", "consumer"])
def test_a_handle_that_is_sent_to_another_process_is_refused(memory, what):
    """It cannot be taken along by pickling; a process opens the directory itself."""
    with seglog.open(str(memory / "store")) as store:
        topic = store.topic("orders")
        handle = {"log": topic.logs[0], "store": store, "topic": topic, "consumer": topic.consumer("group")}[what]
        with pytest.raises((TypeError, seglog.SeglogError)):
            pickle.dumps(handle)


# -- the check can fail ---------------------------------------------------------------------------------------------------


def test_a_reader_that_misses_one_and_a_writer_that_repeats_one_are_seen(memory):
    path, told = str(memory / "log"), journals(memory)[:2]
    for number, journal in told:
        open_and_write(path, number, journal, 50)
    final = look_at(path)
    ledger_of(told).check(final, contiguous=True)
    with pytest.raises(AssertionError, match="hole"):
        ledger_of(told).check(final._replace(records=final.records[:30] + final.records[31:]), contiguous=True)
    repeated = final.records[20]._replace(offset=final.next)
    with pytest.raises(AssertionError, match="duplicated"):
        ledger_of(told).check(final._replace(records=[*final.records, repeated], next=final.next + 1), contiguous=True)
