"""A worker is killed between any two stores of a queue: every message is in one place, and what was acked stays so.

The victim sends, receives, acks, nacks, rejects, moves on in transactions, gives space back, on the debug build, whose failpoints kill it; it
says each thing when it is done. This process, on the build under test, had the store open before: it receives what is left, and counts.
Then the machine is rebooted: what was settled stays so. `SEGLOG_LONG=1` kills a thousand times rather than twice at each point.
"""

import os
import random
import re
import subprocess
import sys
import time
from collections import Counter

import pytest

import seglog

from .test_failpoints import ENGINE, environment  # noqa: F401

LONG = bool(os.environ.get("SEGLOG_LONG"))
SOURCES = ("delivery.pyx", "leases.pyx", "slots.pyx", "reclaim.pyx", "transactions.pyx")
PREFIXES = ("queue.", "slot.", "chunk.", "reclaim.", "decide.")

pytestmark = [
    pytest.mark.skipif(not ENGINE.is_dir(), reason="reads the sources"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forgets a boot as Linux knows it"),
    pytest.mark.timeout(3600 if LONG else 300),
]


def points():
    found = set()
    for source in SOURCES:
        found |= set(re.findall(r'failpoint\("([^"]+)"\)', (ENGINE / source).read_text(encoding="utf-8")))
    return sorted(point for point in found if point.startswith(PREFIXES) and point not in UNMET)


# Not met by a queue that has no groups' commits, and purges nothing, or settles fewer than 65,536 messages.
UNMET = {"decide.announced", "queue.purging", "reclaim.done", "reclaim.unlinked"}
POINTS = points() if ENGINE.is_dir() else []

VICTIM = """
import os, random, sys, seglog
path, fsync, seed, first = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
rng = random.Random(seed)
store = seglog.open(path, fsync=fsync, upkeep=False)
jobs, out = store.queue("jobs"), store.queue("out")
def say(what, *ids): os.write(1, (what + " " + " ".join(map(str, ids)) + chr(10)).encode())
at = first
for play in range(40):
    ids = list(range(at, at + rng.choice([1, 30, 400])))
    at = ids[-1] + 1
    say("sending", *ids)
    jobs.send_many([b"%d." % n + b"x" * rng.choice([1, 300]) for n in ids])
    say("sent", *ids)
    if rng.random() < 0.2:
        say("sending", at)
        jobs.send(b"%d." % at, delay=0.001)
        say("sent", at)
        at += 1
    got = jobs.receive(rng.choice([1, 20, 350]), 0)
    what = rng.choice(["ack", "ack", "nack", "release", "move", "reject"])
    ids = [int(m.value.partition(b".")[0]) for m in got]
    if not got:
        continue
    if what == "ack":
        say("acking", *ids); jobs.ack(got); say("acked", *ids)
    elif what == "nack":
        jobs.nack(got[: len(got) // 2])
    elif what == "release":
        jobs.release(got)
    elif what == "reject":
        some = got[:5]
        say("rejecting", *ids[:5]); jobs.reject(some); say("rejected", *ids[:5])
    else:
        with store.transaction() as tx:
            for m in got[:20]:
                out.send(m.value, tx=tx)
            jobs.ack(got[:20], tx=tx)
        say("moved", *ids[:20])
    if rng.random() < 0.3:
        jobs.reclaim()
say("end")
os._exit(0)
"""


def number(message):
    return int(message.value.partition(b".")[0])


def drained(queue):
    """The numbers of all that is in it; it is empty afterwards."""
    found = []
    deadline = time.monotonic() + 20
    while True:
        got = queue.receive(1000, 0.05)
        found += [number(message) for message in got]
        queue.ack(got)
        if not got and queue.statistics().depth == 0:
            return found
        assert time.monotonic() < deadline, queue.statistics()


def judge(said, left, out, dead):
    """Each message that was sent is in one place; the ones that were in the air may be in either of two."""
    done = {
        what: {int(n) for line in said for word, *ns in [line.split()] if word == what for n in ns}
        for what in ("sending", "sent", "acking", "acked", "rejecting", "rejected", "moved")
    }
    places = Counter(left) + Counter(out) + Counter(dead)
    assert max(places.values(), default=1) == 1, f"more than once: {[n for n, k in places.items() if k > 1][:9]}"
    assert set(places) <= done["sending"], "invented"
    lost = done["sent"] - set(places) - done["acked"]
    in_the_air = done["acking"] - done["acked"]
    assert lost <= in_the_air, f"lost: {sorted(lost - in_the_air)[:9]}"
    assert not done["acked"] & set(places), "acked, and came again"
    assert done["moved"] <= set(out), "moved, and is not there"
    assert done["rejected"] <= set(dead), "rejected, and is no dead letter"
    return set(places), done["acked"]


LEVELS = ["never", "interval", "always"]
CASES = [(p, f) for i, p in enumerate(POINTS) for j, f in enumerate(LEVELS) if LONG or (i + j) % 3 == 0]


@pytest.mark.parametrize(("point", "fsync"), CASES)
def test_killed_there_each_message_is_in_one_place(environment, tmp_path, point, fsync):  # noqa: F811
    rng = random.Random(os.environ.get("SEGLOG_SEED"))
    path = tmp_path / "data"
    died = 0
    for play in range(1000 // len(POINTS) if LONG else 2):
        with seglog.open(path, upkeep=False) as store:
            jobs = store.queue("jobs", lease=3600, max_attempts=100, dedup_window=0.001, segment_bytes=1 << 16)
            out, dead = store.queue("out"), store.queue("jobs.dead")
            run = subprocess.run(
                [sys.executable, "-c", VICTIM, str(path), fsync, str(rng.getrandbits(32)), str(10_000_000 * play)],
                env=environment | {"SEGLOG_FAIL": f"{point}:{1 if play == 0 else rng.randint(1, 60)}"},
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert run.returncode in (0, -9), run.stderr
            died += run.returncode == -9
            if play % 2 == 0:
                judge(run.stdout.splitlines(), drained(jobs), drained(out), drained(dead))
        if play % 2:
            for shm in path.rglob("shm"):
                shm.unlink()
            (path / "txn" / "settled").unlink(missing_ok=True)
            with seglog.open(path, upkeep=False) as store:
                jobs, out, dead = store.queue("jobs"), store.queue("out"), store.queue("jobs.dead")
                judge(run.stdout.splitlines(), drained(jobs), drained(out), drained(dead))
    assert died, f"nobody comes by {point}"


MANY = """
import os, sys, seglog
store = seglog.open(sys.argv[1], fsync="never", upkeep=False)
jobs = store.queue("jobs", segment_bytes=1 << 20)
jobs.send_many([b"%d." % n for n in range(140_000)])
jobs.receive(1, 0)
while got := jobs.receive(5000, 0):
    jobs.ack(got)
jobs.send(b"140000.")
jobs.reclaim() if sys.argv[2] == "reclaim" else jobs.purge()
os._exit(0)
"""


@pytest.mark.parametrize("reboots", [False, True])
@pytest.mark.parametrize(
    ("point", "what", "left"),
    [
        ("reclaim.done", "reclaim", [0, 140_000]),
        ("reclaim.unlinked", "reclaim", [0, 140_000]),
        ("queue.purging", "purge", []),
    ],
)
def test_killed_while_it_gives_back_whole_chunks_or_purges(environment, tmp_path, point, what, left, reboots):  # noqa: F811
    path = tmp_path / "data"
    run = subprocess.run(
        [sys.executable, "-c", MANY, str(path), what],
        env=environment | {"SEGLOG_FAIL": f"{point}:1"},
        capture_output=True,
        timeout=120,
    )
    assert run.returncode == -9, run.stderr
    if reboots:
        for shm in path.rglob("shm"):
            shm.unlink()
    with seglog.open(path, upkeep=False) as store:
        jobs = store.queue("jobs")
        found = drained(jobs)
        assert found == left or (what == "purge" and set(found) <= {0, 140_000})
        jobs.reclaim()
        assert jobs.statistics().depth == 0
        assert jobs.statistics().bytes < 3 << 20


def test_the_judge_can_fail():
    said = ["sending 1 2 3", "sent 1 2 3", "acking 1", "acked 1", "moved 2"]
    judge(said, [3], [2], [])
    for left, out, dead in (([], [2], []), ([3, 1], [2], []), ([3, 2], [2], []), ([3], [], [2]), ([3, 9], [2], [])):
        with pytest.raises(AssertionError):
            judge(said, left, out, dead)
