"""Killed at every step of a compaction, and the power cut there: every live record is there, and the next one ends the work.

The steps are the failpoints of the debug build that the sources name `compact.` (and recovery's `recover.superseded`). The long form:

    PYTHONPATH=build/debug/package .venv/bin/python -m tests.crash.kills.compacting --plays 100
"""

import os
import random
import subprocess
import sys

import pytest

import seglog
from crash.kills.compacting import points
from crash.kills.scenes import ENGINE
from crash.test_failpoints import environment, finish, pytestmark, start
from seglog import doctor

__all__ = ["environment", "pytestmark"]

POINTS = points() if ENGINE.is_dir() else []


@pytest.fixture(scope="module")
def said(environment):
    seed = random.Random(os.environ.get("SEGLOG_SEED")).getrandbits(32)
    return finish(start(environment, "compacting", "--seed", seed))


def test_there_are_steps():
    assert {"compact.written", "compact.named", "compact.removed", "recover.superseded"} <= set(POINTS)


@pytest.mark.parametrize("point", POINTS)
def test_killed_there_no_live_record_is_lost_and_the_next_compaction_ends_the_work(said, point):
    lines = [line for line in said.splitlines() if line.startswith(f"{point} ")]
    assert lines and "BROKEN" not in lines[0], said


COMMITTER = """
import sys, seglog
store = seglog.open(sys.argv[1], upkeep=False)
stock, log = store.topic("stock"), store.topic("log")
with store.transaction() as tx:
    stock.send(b"new", key=b"k", tx=tx)
    log.send(b"new", tx=tx)
"""


@pytest.mark.parametrize(("point", "happened"), [("decide.prepared", False), ("decide.decided", True), ("publish.moved", True)])
def test_whoever_compacts_after_a_committer_was_killed_finds_the_whole_of_it_or_nothing(environment, tmp_path, point, happened):
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        stock, log = store.topic("stock", compact=True), store.topic("log")
        stock.send(b"old", key=b"k")
        command = [sys.executable, "-c", COMMITTER, str(tmp_path / "data")]
        dead = subprocess.run(command, env=environment | {"SEGLOG_FAIL": f"{point}:1"}, capture_output=True, text=True)
        assert dead.returncode == -9, dead.stderr
        assert stock.compact().records_removed == happened
        assert [record.value for record in stock.read()] == [b"new" if happened else b"old"]
        assert [record.value for record in log.read()] == [b"new"] * happened
        assert store.verify() == []


SQUASHER = """
import sys, seglog
store = seglog.open(sys.argv[1], upkeep=False, segment_bytes=65536)
stock = store.topic("stock", compact=True)
stock.send_many([b"%d" % n * 100 for n in range(4000)], keys=[b"%d" % (n % 300) for n in range(4000)])
store.sync()
stock.compact()
"""


def serious(report):
    """But for an index of the file that had the name before: whoever needs one makes it."""
    return [finding for finding in report.findings if finding.severity not in ("note", "harmless")]


@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("compact.") and point != "compact.superseded"])
def test_the_doctor_finds_nothing_to_repair_where_a_compaction_was_killed(environment, tmp_path, point):
    path = tmp_path / "data"
    command = [sys.executable, "-c", SQUASHER, str(path)]
    dead = subprocess.run(command, env=environment | {"SEGLOG_FAIL": f"{point}:1"}, capture_output=True, text=True)
    assert dead.returncode == -9, dead.stderr
    for boot in range(2):
        report = doctor.examine(path)
        assert serious(report) == [], f"boot {boot}"
        assert all(log.lost == log.set_aside == () for log in report.partitions)
        for shm in path.rglob("shm"):
            shm.unlink()
    with seglog.open(path, upkeep=False) as store:
        stock = store.topic("stock")
        last = {b"%d" % (n % 300): b"%d" % n * 100 for n in range(4000)}
        assert {record.key: record.value for record in stock.read()} == last
        assert store.verify() == []
        stock.compact()
        assert len(list(stock.read())) == 300
    assert serious(doctor.examine(path)) == []
