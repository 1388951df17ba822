"""Nothing grows that should not: see `stress/soak.py`; `make test` has six seconds of it, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SECONDS = 600 if os.environ.get("SEGLOG_LONG") else 6

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc/self"),
    pytest.mark.skipif(
        os.environ.get("SEGLOG_BUILD") in ("asan", "tsan"), reason="a sanitizer keeps memory of its own"
    ),
    pytest.mark.timeout(SECONDS + 300),
]


def soak(*arguments):
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(TESTS)]))
    return subprocess.run(
        [sys.executable, "-m", "stress.soak", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=SECONDS + 200,
    )


def test_descriptors_maps_threads_and_memory_stay_flat(rng):
    run = soak("--seconds", SECONDS, "--seed", rng.getrandbits(32))
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(("life", "what"), [("leaky", "descriptors grew"), ("hoarder", "memory grew")])
def test_a_life_that_keeps_what_it_should_let_go_is_caught(life, what):
    run = soak("--seconds", 1, "--rounds", 40, "--seed", 1, "--life", life)
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"BROKEN: {what}" in run.stdout
