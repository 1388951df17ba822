"""Four producers and four consumers of one group, killed, stopped and restarted: see `stress/groups.py`; here for some seconds."""

import os
import sys

import pytest

from stress.groups import Anomaly, Event, groups, judge

LONG = os.environ.get("SEGLOG_LONG", "0") not in ("", "0")
SECONDS = 600.0 if LONG else 6.0
LOG = {0: ["a", "b", "c", "d"]}
GOOD = [
    Event(0.1, "p", "sent", 0, 0, 1, ("a",)),
    Event(0.2, "p", "sent", 0, 3, 4, ("d",)),
    Event(1.0, "one", "assign", 0, 0),
    Event(1.1, "one", "poll", 0, 0, 2, ("a", "b")),
    Event(1.2, "one", "intend", 0, 0, 2),
    Event(1.3, "one", "commit", 0, 0, 2),
    Event(1.4, "one", "poll", 0, 2, 3, ("c",)),
    Event(1.5, "one", "intend", 0, 0, 3),
    Event(2.0, "one", "death"),
    Event(2.1, "two", "assign", 0, 2),
    Event(2.2, "two", "poll", 0, 2, 4, ("c", "d")),
    Event(2.3, "two", "revoke", 0),
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, stops and kills")
@pytest.mark.timeout(7200)
def test_no_history_of_a_group_has_an_anomaly(tmp_path, rng, capsys):
    told = groups(tmp_path, SECONDS, rng.getrandbits(32))
    with capsys.disabled():
        print(f" [{told}]", end="")


def test_a_good_history_is_good():
    assert judge(GOOD, LOG)["poll"] == 3


def changed(number, **how):
    return [event._replace(**how) if i == number else event for i, event in enumerate(GOOD)]


@pytest.mark.parametrize(
    ("name", "events", "log"),
    [
        ("lost write", [*GOOD, Event(0.3, "p", "sent", 0, 4, 5, ("e",))], LOG),
        ("lost write", [event for event in GOOD if event.who != "two"], LOG),
        ("duplicate", GOOD, {0: ["a", "b", "c", "d", "a"]}),
        ("inconsistent offsets", changed(3, values=("a", "x")), LOG),
        ("skipped poll", changed(10, first=3, values=("d",)), LOG),
        ("skipped poll", changed(9, first=4), LOG),
        ("non-monotonic poll", changed(6, first=1, values=("b", "c")), LOG),
        ("lost commit", changed(9, first=0), LOG),
        ("two owners", changed(8, when=2.15), LOG),
        ("two owners", [*GOOD, Event(2.15, "one", "commit", 0, 0, 3)], LOG),
    ],
)
def test_a_broken_history_is_caught_and_called_by_its_name(name, events, log):
    with pytest.raises(Anomaly) as caught:
        judge(events, log)
    assert caught.value.name == name
