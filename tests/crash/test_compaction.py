"""Killed at every step of a compaction, and the power cut there: every live record is there, and the next one ends the work.

The steps are the failpoints of the debug build that the sources name `compact.` (and recovery's `recover.superseded`). The long form:

    PYTHONPATH=build/debug/package .venv/bin/python -m tests.crash.kills.compacting --plays 100
"""

import os
import random

import pytest

from crash.kills.compacting import points
from crash.kills.scenes import ENGINE
from crash.test_failpoints import environment, finish, pytestmark, start

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
