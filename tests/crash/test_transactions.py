"""A committer is killed between any two stores of a commit: what it did is there as a whole or not at all, in every partition.

The victim runs on the debug build, whose failpoints kill it; this process, on the build under test, had the store open before, without upkeep,
and only reads: it must see the whole of what was decided within a second. Then others commit; then the machine is rebooted, twice.
`SEGLOG_LONG=1` kills a thousand times rather than once at each point.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

import seglog

from .test_failpoints import BUILD, ENGINE, environment  # noqa: F401

LONG = bool(os.environ.get("SEGLOG_LONG"))
SOURCES = ("transactions.pyx", "places.pyx", "tail.pyx", "segment.pyx")
PREFIXES = ("decide.", "prepare.", "publish.", "transactions.", "place.", "roll.", "create.", "repair.")

pytestmark = [
    pytest.mark.skipif(not ENGINE.is_dir(), reason="reads the sources"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forgets a boot as Linux knows it"),
    pytest.mark.timeout(3600 if LONG else 300),
]


def points():
    found = set()
    for source in SOURCES:
        found |= set(re.findall(r'failpoint\("([^"]+)"\)', (ENGINE / source).read_text(encoding="utf-8")))
    return sorted(point for point in found if point.startswith(PREFIXES))


POINTS = points() if ENGINE.is_dir() else []

OURS = 1_000_000  # numbers from here on are sent by the judge, without a commit

VICTIM = """
import os, random, sys, seglog
path, fsync, seed, first = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
rng = random.Random(seed)
store = seglog.open(path, fsync=fsync, upkeep=False, segment_bytes=1 << 16)
a, b = store.topic("a", partitions=2), store.topic("b")
consumer = store.topic("in").consumer("group")
for n in range(first, first + 60):
    value = b"%d." % n + b"x" * rng.choice([0, 10, 3000, 40_000])
    if n % 3 == 0:
        a.send(b"plain", partition=0)
    with store.transaction() as tx:
        a.send(value, partition=0, tx=tx)
        b.send_many([value] * (1 + n % 2), tx=tx)
        a.send(value, partition=1, tx=tx)
        consumer.commit({0: n + 1}, tx=tx)
    os.write(1, b"%d\\n" % n)
    if n % 5 == 0:
        consumer.commit({0: n + 1})
    if n % 7 == 0:
        store.sync()
os.write(1, b"end\\n")
os._exit(0)
"""


def numbers(topic, partition=None):
    return [int(value.partition(b".")[0]) for value in seen(topic, partition) if value != b"plain"]


def seen(topic, partition):
    return [record.value for record in topic.read(partition=partition)]


def whole(store):
    """What each partition has, by number; the three must agree. And where the group is: behind the last of them."""
    a, b = store.topic("a"), store.topic("b")
    (place,) = store.group("group").describe().places
    return [numbers(a, 0), numbers(a, 1), list(dict.fromkeys(numbers(b, 0)))], place.committed or 0


def judged(store, acknowledged, within=1.0):
    deadline = time.monotonic() + within
    while True:
        (first, second, third), committed = whole(store)
        if first == second == third and committed == max([n + 1 for n in first if n < OURS], default=0):
            break
        assert time.monotonic() < deadline, (first[-3:], second[-3:], third[-3:], committed)
        time.sleep(0.01)
    assert len(set(first)) == len(first), "one came twice"
    assert set(acknowledged) <= set(first), sorted(set(acknowledged) - set(first))
    assert len(set(first) - set(acknowledged)) <= 1, "more than the one that was under way"
    doubled = numbers(store.topic("b"), 0)
    assert all(doubled.count(n) == 1 + n % 2 for n in set(doubled))
    return first


def killed(environment, path, point, arrival, fsync, seed, first):  # noqa: F811
    run = subprocess.run(
        [sys.executable, "-c", VICTIM, str(path), fsync, str(seed), str(first)],
        env=environment | {"SEGLOG_FAIL": f"{point}:{arrival}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode in (0, -9), run.stderr
    return [int(line) for line in run.stdout.split() if line != "end"], run.returncode == -9


# In the short form each point has one of the three; together they see all.
LEVELS = ["never", "interval", "always"]
CASES = [(p, f) for i, p in enumerate(POINTS) for j, f in enumerate(LEVELS) if LONG or (i + j) % 3 == 0]


@pytest.mark.parametrize(("point", "fsync"), CASES)
def test_killed_there_it_is_there_as_a_whole_or_not_at_all(environment, path, rng, point, fsync):  # noqa: F811
    with seglog.open(path, upkeep=False, segment_bytes=1 << 16) as store:
        store.topic("a", partitions=2)
        store.topic("b")
        store.topic("in").send_many([b""] * 4000)
        store.topic("in").consumer("group").close()
        acknowledged, dead = [], 0
        for play in range(1000 // len(POINTS) if LONG else 2):
            arrival = 1 if play == 0 else rng.randint(1, 40)
            more, died = killed(environment, path, point, arrival, fsync, rng.getrandbits(32), 100 * play)
            acknowledged += more
            dead += died
            there = judged(store, acknowledged)
            acknowledged = there  # the one under way, if it is there, stays
            with store.transaction() as tx:  # and it goes on
                for topic, partition in (("a", 0), ("b", 0), ("a", 1)):
                    number = OURS + 2 * play
                    store.topic(topic).send(b"%d." % number, partition=partition, tx=tx)
            acknowledged.append(OURS + 2 * play)
            assert judged(store, acknowledged) == acknowledged
        if not point.startswith(("repair.", "create.")):
            assert dead, f"nobody comes by {point}"
    for _ in range(2):
        for shm in path.rglob("shm"):
            shm.unlink()
        (path / "txn" / "settled").unlink(missing_ok=True)
        with seglog.open(path) as store:
            assert judged(store, acknowledged) == acknowledged
            assert store.verify() == []


def test_the_judge_sees_a_commit_in_parts(path):
    with seglog.open(path) as store:
        a, b = store.topic("a", partitions=2), store.topic("b")
        for topic, partition in ((a, 0), (a, 1), (b, 0)):
            topic.send(b"2.", partition=partition)
        store.topic("in").send_many([b""] * 9)
        with store.topic("in").consumer("group") as consumer:
            for committed in (2, 4):
                consumer.commit({0: committed})
                with pytest.raises(AssertionError):
                    judged(store, [2], within=0.05)
            consumer.commit({0: 3})
        assert judged(store, [2]) == [2]
        a.send(b"4.", partition=1)
        with pytest.raises(AssertionError):
            judged(store, [2, 4], within=0.05)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def rng():
    return random.Random(os.environ.get("SEGLOG_SEED"))


STOPPED = """
import os, sys, seglog
store = seglog.open(sys.argv[1], fsync="interval", upkeep=False)
out = store.topic("out", partitions=2)
consumer = store.topic("in").consumer("group")
batch = consumer.receive(max_records=5, timeout=0)
try:
    with store.transaction() as tx:
        for partition in range(2):
            out.send(b"made", partition=partition, tx=tx)
        consumer.commit(batch, tx=tx)
    print("committed")
except seglog.Fenced:
    print("fenced")
os._exit(0)
"""


def stopped_at(environment, path, point):  # noqa: F811
    victim = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(path)],
        env=environment | {"SEGLOG_FAIL": f"{point}:1:stop"},
        stdout=subprocess.PIPE,
        text=True,
    )
    _, status = os.waitpid(victim.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    return victim


def went_on(victim):
    os.kill(victim.pid, signal.SIGCONT)
    return victim.communicate(timeout=60)[0].strip()


@pytest.mark.parametrize("point", ["decide.locked", "decide.announced", "decide.prepared"])
def test_one_that_was_put_out_while_it_stood_still_before_deciding_decides_no_more(environment, path, point):  # noqa: F811
    with seglog.open(path, upkeep=False) as store:
        store.topic("in").send_many([b"x"] * 9)
        victim = stopped_at(environment, path, point)
        try:
            group = store.group("group")
            group.evict(group.describe().members[0].name)
            with store.topic("in").consumer("group") as consumer:
                assert consumer.receive(max_records=2, timeout=2).first_offset == 0
                consumer.commit()
                assert went_on(victim) == "fenced"
                assert consumer.committed() == 2
                assert [list(store.topic("out").read(partition=p)) for p in range(2)] == [[], []]
                consumer.commit({0: 3})
            assert store.topic("in").consumer("group").committed() == 3
        finally:
            victim.kill()


@pytest.mark.parametrize("point", ["decide.decided", "place.kept"])
def test_one_that_was_put_out_while_it_decides_has_decided(environment, path, point):  # noqa: F811
    with seglog.open(path, upkeep=False, lock_timeout=0.5) as store:
        store.topic("in").send_many([b"x"] * 9)
        victim = stopped_at(environment, path, point)
        try:
            group = store.group("group")
            group.evict(group.describe().members[0].name)
            with pytest.raises(seglog.LockTimeout):  # it holds the lock, and may have decided
                store.topic("in").consumer("group").receive(timeout=1)
            assert went_on(victim) == "committed"
            with store.topic("in").consumer("group") as consumer:
                assert consumer.receive(timeout=2).first_offset == 5
            assert len(list(store.topic("out").read())) == 2
        finally:
            victim.kill()


def test_one_that_was_put_out_and_fails_leaves_alone_what_its_successor_decided(environment, path):  # noqa: F811
    """The successor is killed between its decision and the slot: what it announced is all that is left of its commit."""
    with seglog.open(path, upkeep=False) as store:
        source, out = store.topic("in"), store.topic("out", partitions=2)
        source.send_many([b"x"] * 9)
        late = source.consumer("group")
        batch = late.receive(max_records=3, timeout=0)
        tx = store.transaction()
        out.send(b"late", partition=0, tx=tx)
        out.send(b"late", partition=1, tx=tx)
        late.commit(batch, tx=tx)
        group = store.group("group")
        group.evict(late.member)
        killed = subprocess.run(
            [sys.executable, "-c", STOPPED, str(path)], env=environment | {"SEGLOG_FAIL": "decide.decided:1"}, timeout=60
        )
        assert killed.returncode == -signal.SIGKILL
        with pytest.raises(seglog.Fenced):
            tx.commit()
        with pytest.raises(seglog.Fenced):
            late.commit(batch)
        with source.consumer("group") as consumer:
            assert consumer.receive(timeout=2).first_offset == 5
        assert [record.value for record in out.read()] == [b"made", b"made"]
        late.close()
