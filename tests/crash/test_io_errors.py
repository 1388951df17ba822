"""Any call to the system may fail: it is told by an error of the tree, nothing acknowledged is lost, and afterwards all goes on.

The n-th call of a kind (open, read, write, allocate, map, sync, rename, unlink, list, look, lock ...) fails, once or for good, with each error that it can
fail with: a bad disk, a full one, no descriptors, no memory, no permission, a file system that became read-only, half a write.
`faults/` has the parts. Here so many cases are tried as there is time for; SEGLOG_LONG=1 tries every n of every kind until a run is clean (hours):

    make io SEED=1             make io SEED=1 CASES=5000
"""

import os

import pytest

from crash.faults import run
from crash.faults.broken import BREAKS

LONG = bool(os.environ.get("SEGLOG_LONG"))
pytestmark = [
    pytest.mark.skipif(bool(run.why_not()), reason=f"no calls fail here: {run.why_not()}"),
    pytest.mark.timeout(24 * 3600 if LONG else 300),
]


def test_whichever_call_fails_it_is_told_nothing_is_lost_and_all_goes_on(rng):
    seed = f"{rng.getrandbits(32):x}"
    result = run.play(seed, None if LONG else 80, jobs=os.cpu_count() or 1, progress=LONG)
    print(result)
    assert result.failures == [], f"seed {seed}: {result}\n{result.explain()}"
    assert result.fired > result.cases / 3
    assert {"StoreIOError", "StoreFull", "ReadOnlyStore"} <= set(result.errors)


def test_what_once_went_wrong():
    """A group's words of which the disk took one half: the next who came mapped a file that was too short."""
    result = run.play("", None, jobs=1, only=[("store", "interval", "pwrite", "write", "HALF", True, n) for n in range(8, 16)])
    assert result.failures == [], result.explain()


def test_every_kind_of_call_is_really_made_to_fail():
    """By its first call in a life, for good: a kind that no scene calls would prove nothing."""
    result = run.play("", None, jobs=1, only=[
        ("store" if kind == "mkdir" else "log", "interval", "pwrite" if kind == "truncate" else "map", kind, errors[0], True, 1)
        for kind, errors in run.KINDS.items()
    ])  # fmt: skip
    assert result.failures == [], result.explain()
    assert {kind for kind in run.KINDS if not result.kinds[kind]} == run.UNUSED


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_on_purpose_is_caught(name):
    cases = [("log", "always", "pwrite", "write", "ENOSPC", True, n) for n in (10, 14, 20, 30)]
    result = run.play("", None, jobs=1, broken=name, only=cases, enough=1)
    assert any(BREAKS[name][1] in text for _, wrong, _ in result.failures for text in wrong), f"{result}\n{result.explain()}"
