"""Eight writers and four readers, killed, stopped and restarted at random: see `stress/chaos.py`; here for six seconds."""

import os
import random
import sys

import pytest

from crash.kills.ledger import Wrong
from crash.scratch import folder as in_memory
from stress.chaos import Liar, Repeater, chaos

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, stops and kills"),
    pytest.mark.timeout(7200),
]

SECONDS = 600.0 if os.environ.get("SEGLOG_LONG") else 6.0


@pytest.fixture
def seed(rng):
    return rng.getrandbits(32)


@pytest.fixture
def folder(tmp_path):
    """In memory: where time is measured, a slow disk must not count."""
    with in_memory("chaos", otherwise=tmp_path) as path:
        yield path


def test_every_history_agrees_with_what_is_there(folder, seed, capsys):
    told = chaos(folder, SECONDS, seed)
    with capsys.disabled():
        print(f" [{told}]", end="")


@pytest.mark.parametrize(("writer", "wrong"), [(Liar, "lost"), (Repeater, "duplicated")])
def test_writers_that_lie_and_that_repeat_themselves_are_caught(folder, writer, wrong):
    with pytest.raises(Wrong, match=wrong):
        chaos(folder, 0.7, random.Random(0).getrandbits(32), writer)
