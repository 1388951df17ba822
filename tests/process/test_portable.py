"""Everything in this folder once more on the portable fallback: no futex, whole-file locks, no populated pages.

SEGLOG_PORTABLE=1 is read once by a process, so it takes another run of pytest. The short form leaves out what takes long and
does not wait, lock or look otherwise there; the long one, SEGLOG_LONG=1, leaves out nothing.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LEFT_OUT = "spawn or forkserver or mixed or slots or thousand or looks_all"
PORTABLE = os.environ.get("SEGLOG_PORTABLE", "0") not in ("", "0")

pytestmark = pytest.mark.skipif(PORTABLE or sys.platform == "win32", reason="this is that run, or the only one")


@pytest.mark.timeout(400)
def test_the_same_on_the_portable_fallback():
    chosen = [] if os.environ.get("SEGLOG_LONG") else ["-k", f"not ({LEFT_OUT})"]
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--no-header",
            "--color=no",
            *chosen,
            str(HERE),
        ],
        cwd=HERE.parents[1],
        env=os.environ | {"SEGLOG_PORTABLE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=360,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
