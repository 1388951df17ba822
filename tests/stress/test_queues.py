"""A queue whose workers are killed: see `stress/queues.py`; here for some seconds."""

import os
import sys

import pytest

from stress.queues import ACKED, ACKING, RECEIVED, RELEASING, SENDING, SENT, Anomaly, Event, judge, queues

LONG = os.environ.get("SEGLOG_LONG", "0") not in ("", "0")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, stops and kills")
@pytest.mark.timeout(7200 if LONG else 120)
def test_every_message_comes_to_one_end_whoever_is_killed(tmp_path, rng, capsys):
    told = queues(tmp_path, 1000 if LONG else 30, rng.getrandbits(32))
    with capsys.disabled():
        print(f" [{told}]", end="")


GOOD = [
    *(Event(what, value) for value in (b"1", b"2", b"3", b"4") for what in (SENDING, SENT)),
    Event(SENDING, b"5"),
    Event(RECEIVED, b"1", 10, 1, 1), Event(RELEASING, b"1", 0, 1), Event(RECEIVED, b"1", 20, 2, 1), Event(ACKING, b"1"),
    Event(ACKED, b"1", 30),
    Event(RECEIVED, b"2", 10, 1, 1), Event(RECEIVED, b"2", 40, 3, 3),
    Event(RECEIVED, b"3", 10, 1, 1), Event(ACKING, b"3"),
]


def test_a_good_one_is_good():
    assert judge(GOOD, [b"4"], [b"2"])["again"] == 2
    assert judge(GOOD, [b"3", b"4", b"5"], [b"2"])["acked"] == 1


@pytest.mark.parametrize(
    ("name", "more", "left", "dead"),
    [
        ("lost", [], [b"4"], []),
        ("lost", [], [], [b"2"]),
        ("invented", [], [b"4", b"9"], [b"2"]),
        ("invented", [Event(RECEIVED, b"9", 1, 1, 1)], [b"4"], [b"2"]),
        ("came again", [], [b"4", b"1"], [b"2"]),
        ("came again", [Event(RECEIVED, b"1", 31, 3, 2)], [b"4"], [b"2"]),
        ("two ends", [], [b"4", b"2"], [b"2"]),
        ("two ends", [], [b"4"], [b"2", b"1"]),
        ("two hands", [Event(RECEIVED, b"2", 50, 3, 3)], [b"4"], [b"2"]),
        ("attempts fell", [Event(RECEIVED, b"2", 50, 4, 3)], [b"4"], [b"2"]),
        ("attempts fell", [Event(RECEIVED, b"2", 50, 4, 1)], [b"4"], [b"2"]),
        ("attempts fell", [Event(RECEIVED, b"2", 50, 4, 5)], [b"4"], [b"2"]),
        ("attempts fell", [Event(RECEIVED, b"4", 50, 1, 2)], [b"4"], [b"2"]),
    ],
)
def test_a_broken_one_is_caught_and_called_by_its_name(name, more, left, dead):
    with pytest.raises(Anomaly) as caught:
        judge(GOOD + more, left, dead)
    assert caught.value.name == name
