"""Transactions of which compaction or a trim took parts, or which it wrote anew: all or nothing still, also in a power cut."""

import subprocess
import sys
import threading
import time

import pytest

import seglog
from seglog import doctor
from seglog.engine.compaction import compact

KIB64 = 65_536


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data"


def values(topic):
    return [record.value for record in topic.read()]


def cut_after(path, program, fsync="interval"):
    """The program ran on a store with `stock`, which is compacted, and `log`, which is not. The power went, and took nothing."""
    script = f"""
import os, seglog
store = seglog.open({str(path)!r}, fsync={fsync!r}, upkeep=False, segment_bytes={KIB64})
stock, log = store.topic("stock", compact=True), store.topic("log")
def both(value, key):
    with store.transaction() as tx:
        stock.send(value, key=key, tx=tx); log.send(value, tx=tx)
{program}
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    for shm in path.rglob("shm"):
        shm.unlink()
    (path / "txn" / "settled").unlink(missing_ok=True)


def lose(path, topic, what):
    """As if the frame with this value had not come to the disk."""
    (segment,) = [file for file in (path / "topics" / topic / "0").glob("*.log") if what in file.read_bytes()]
    data = bytearray(segment.read_bytes())
    end = data.index(what) + len(what)
    start = data.rindex(b"SLB\x01", 0, end)
    data[start:end] = bytes(end - start)
    segment.write_bytes(data)


def opened(path):
    return seglog.open(path, upkeep=False)


def told(path):
    return [finding for finding in doctor.examine(path).findings if finding.severity != "note"]


COMPACTED = """
both(b"first", b"a")
both(b"second", b"b")
both(b"third", b"a")
stock.compact()
"""


def test_a_part_that_was_compacted_away_does_not_take_the_others_along(path):
    cut_after(path, COMPACTED + "both(b'fourth', b'b')")
    assert told(path) == []
    for _ in range(2):
        with opened(path) as store:
            assert values(store.topic("stock")) == [b"second", b"third", b"fourth"]
            assert values(store.topic("log")) == [b"first", b"second", b"third", b"fourth"]
            assert store.verify() == []
    assert told(path) == []


@pytest.mark.parametrize("topic", ["stock", "log"])
def test_one_that_falls_takes_nothing_along_that_compaction_wrote(path, topic):
    cut_after(path, COMPACTED + "both(b'fourth', b'a')\nboth(b'fifth', b'b')")
    lose(path, topic, b"fourth")
    found = told(path)
    assert all(topic in finding.path and finding.kind == "torn" for finding in found)
    with opened(path) as store:
        assert values(store.topic("stock")) == [b"second", b"third"]
        assert values(store.topic("log")) == [b"first", b"second", b"third"]
        assert store.topic("stock").latest(b"a").value == b"third"
        store.topic("stock").compact()
        assert values(store.topic("stock")) == [b"second", b"third"]
    assert told(path) == []


def test_compaction_leaves_alone_what_a_transaction_that_may_fall_has_replaced(path):
    """Its part lies in the segment being written, which no compaction looks at."""
    cut_after(path, COMPACTED + "both(b'fourth', b'a')\nfrom seglog.engine.compaction import compact\ncompact(stock.logs[0])")
    lose(path, "log", b"fourth")
    with opened(path) as store:
        assert values(store.topic("stock")) == [b"second", b"third"]


def test_a_part_that_was_trimmed_does_not_take_the_others_along(path):
    cut_after(path, COMPACTED + "stock.trim(before=3)\nboth(b'fourth', b'a')\nlog.trim(before=1)")
    assert told(path) == []
    with opened(path) as store:
        assert values(store.topic("stock")) == [b"fourth"]
        assert [value for value in values(store.topic("log")) if value != b"first"] == [b"second", b"third", b"fourth"]


@pytest.mark.parametrize("marks", ["sound", "damaged"])
def test_when_the_segment_being_written_is_lost_what_was_compacted_needs_no_decision(path, marks):
    """The last segment that is left is one that compaction wrote; what says how much of it is durable may be damaged, too."""
    cut_after(path, COMPACTED)
    *_, last, newest = sorted((path / "topics" / "stock" / "0").glob("*.log"))
    newest.unlink()
    if marks == "damaged":
        page = bytearray(last.read_bytes())
        page[512:576] = page[1024:1088] = bytes(64)
        last.write_bytes(page)
    for decision in (path / "txn").glob("*.log"):
        decision.unlink()  # and all that was decided
    with opened(path) as store:
        assert values(store.topic("stock")) == [b"second", b"third"]


def test_what_is_rewritten_is_on_disk_before_whatever_fsync_says(path):
    with seglog.open(path, upkeep=False, fsync="never", segment_bytes=KIB64) as store:
        stock, log = store.topic("stock", compact=True), store.topic("log")
        stock.send(b"1", key=b"k")
        store.sync()  # this much was promised, and what replaces it must not promise less
        with store.transaction() as tx:
            stock.send(b"2", key=b"k", tx=tx)
            log.send(b"2", tx=tx)
        stock.logs[0].close_segment()
        assert stock.logs[0].durable_offset == 1
        assert compact(stock.logs[0])["records_removed"] == 1
        assert stock.logs[0].durable_offset == 2
        decisions = store._transactions.log
        assert decisions.durable_offset == decisions.next_offset == 1


def test_so_is_what_another_pass_finds_that_was_sent_meanwhile(path):
    with seglog.open(path, upkeep=False, fsync="never", segment_bytes=KIB64) as store:
        stock = store.topic("stock", compact=True)
        log = stock.logs[0]
        stock.send_many([b"1"] * 200, keys=[b"%d" % n for n in range(200)])
        log.close_segment()
        sent = []

        def meanwhile():
            if not sent:
                sent.append(stock.send(b"2", key=b"0"))
                log.close_segment()
            return False

        said = compact(log, memory=1536, stop=meanwhile)
        assert said["passes"] > 2 and said["records_removed"] == 1
        assert log.durable_offset > sent[0].offset


@pytest.fixture
def eager():
    """Threads that want the interpreter get it: a lock is held over many waits for it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    yield
    sys.setswitchinterval(before)


def test_threads_that_transact_while_it_is_compacted_are_seen_whole(path, eager):
    with opened(path) as store:
        stock, log = store.topic("stock", compact=True, partitions=2), store.topic("log")
        over, wrong = threading.Event(), []

        def transact(who):
            n = 0
            while not over.is_set():
                value = b"%d.%d" % (who, n)
                with store.transaction() as tx:
                    stock.send(value, key=b"%d" % who, partition=0, tx=tx)
                    stock.send(value, key=b"%d" % who, partition=1, tx=tx)
                    log.send(value, tx=tx)
                n += 1

        def look():
            while not over.is_set():
                # The last of each key in one partition, and then in the other: what is read later is not older.
                before = [newest(stock, 0, who) for who in (0, 1)]
                after = [newest(stock, 1, who) for who in (0, 1)]
                if any(b < a for a, b in zip(before, after, strict=True)):
                    wrong.append((before, after))

        threads = [threading.Thread(target=transact, args=(who,)) for who in (0, 1)] + [threading.Thread(target=look)]
        for thread in threads:
            thread.start()
        began, times = time.monotonic(), 0
        while times < 3 or time.monotonic() < began + 1:
            stock.compact()
            times += 1
        over.set()
        for thread in threads:
            thread.join()
        stock.compact()
        assert not wrong
        last = {value.split(b".")[0]: value for value in values(log)}
        for partition in (0, 1):
            assert {r.key: r.value for r in stock.read(partition=partition)} == last
        assert store.verify() == []


def newest(stock, partition, who):
    found = [int(r.value.split(b".")[1]) for r in stock.read(partition=partition) if r.key == b"%d" % who]
    assert found == sorted(found)
    return found[-1] if found else -1
