"""Any piece of memory may be refused: MemoryError or the work, nothing acknowledged is lost, no lock is kept, and afterwards all goes on.

The n-th piece that the engine asks for, or Python while it serves a verb, is refused, for each of the verbs that a program
says, alone with a store of its own. `faults/hunger.py` says which, and what is held against what. Here every piece of the
engine's and a sample of Python's; SEGLOG_LONG=1 refuses every one:

    make io SEED=1             PYTHONPATH=tests python -m crash.faults.run --memory --seed 1
"""

import os

import pytest

from crash.faults import run
from crash.faults.hunger import BREAKS

LONG = bool(os.environ.get("SEGLOG_LONG"))
pytestmark = [
    pytest.mark.skipif(bool(run.why_not()), reason=f"no memory is refused here: {run.why_not()}"),
    pytest.mark.timeout(3600 if LONG else 300),
]


def test_whichever_piece_of_memory_is_refused_nothing_is_lost_and_all_goes_on(rng):
    seed = f"{rng.getrandbits(32):x}"
    result = run.play(seed, None if LONG else 16, jobs=os.cpu_count() or 1, progress=LONG, hungry=True)
    print(result)
    assert result.failures == [], f"seed {seed}: {result}\n{result.explain()}"
    assert result.fired > result.cases / 3
    assert result.kinds["engine"] > 50 and result.kinds["python"] > 50


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_on_purpose_is_caught(name):
    verb, *_, says = BREAKS[name]
    cases = [(verb, "interval", "map", "python", "ENOMEM", False, n) for n in range(1, 40)]
    result = run.play("", None, jobs=1, broken=name, only=cases, enough=1)
    assert any(says in text for _, wrong, _ in result.failures for text in wrong), f"{result}\n{result.explain()}"
