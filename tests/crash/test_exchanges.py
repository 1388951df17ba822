"""A publish to several destinations is killed between any two stores of its commit: it is in all of them or in none.

The victim runs on the debug build, whose failpoints kill it; this process had the store open before, and only reads.
"""

import subprocess
import sys
import time

import pytest

import seglog

from .test_failpoints import ENGINE, environment  # noqa: F401
from .test_transactions import points

pytestmark = [
    pytest.mark.skipif(not ENGINE.is_dir(), reason="reads the sources"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the failpoints are tried there"),
    pytest.mark.timeout(300),
]

POINTS = (
    [
        point
        for point in points()
        if point.startswith(("decide.", "prepare.", "publish.")) and point != "decide.announced"
    ]
    if ENGINE.is_dir()
    else []
)

VICTIM = """
import os, sys, seglog
store = seglog.open(sys.argv[1], fsync="never", upkeep=False)
events = store.exchange("events")
for n in range(int(sys.argv[2]), int(sys.argv[2]) + 10):
    events.send(b"%d" % n, routing_key="order.paid")
    os.write(1, b"%d\\n" % n)
os._exit(0)
"""


def seen(store):
    """The numbers that each destination has."""
    found = [[int(record.value) for record in store.topic(name).read()] for name in ("audit", "history")]
    return found + [sorted(int(message.value) for message in store.queue("mail").browse())]


def judged(store):
    """The same, once they agree: within a second, in which a worker looks for messages as workers do."""
    deadline = time.monotonic() + 1.0
    while (there := seen(store)) != [there[0]] * 3:
        assert time.monotonic() < deadline, there
        store.queue("mail").receive(max_messages=100, timeout=0)
        time.sleep(0.01)
    return there[0]


@pytest.mark.parametrize("point", POINTS)
def test_a_publish_that_is_killed_is_everywhere_or_nowhere(environment, tmp_path, point):  # noqa: F811
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        events = store.exchange("events", "topic")
        for to in (store.topic("audit"), store.topic("history"), store.queue("mail")):
            events.bind(to, "order.#")
        dead = 0
        for first in (0, 100):
            run = subprocess.run(
                [sys.executable, "-c", VICTIM, store.path, str(first)],
                env=environment | {"SEGLOG_FAIL": f"{point}:{1 if first == 0 else 4}"},
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert run.returncode in (0, -9), run.stderr
            dead += run.returncode == -9
            acknowledged = {int(line) for line in run.stdout.split()}
            there = judged(store)
            assert len(set(there)) == len(there)
            assert acknowledged <= set(there)
            assert len({n for n in there if n >= first} - acknowledged) <= 1  # the one that was under way
        assert len(events.send(b"9999", routing_key="order.paid")) == 3  # and it goes on
        assert [one[-1] for one in seen(store)] == [9999] * 3
        assert dead, f"nobody comes by {point}"


def test_a_publish_in_parts_would_be_seen(tmp_path):
    with seglog.open(tmp_path / "data") as store:
        store.queue("mail").send(b"1")
        store.topic("audit").send(b"1")
        with pytest.raises(AssertionError):
            judged(store)
        store.topic("history").send(b"1")
        assert judged(store) == [1]
