"""Be killed, and be stopped, at each failpoint, on the debug build:

    python -m tests.crash.kills.failpoints [points] --seed S --plays N

One line per failpoint; the exit status is 1 when a promise was broken. A fresh process, for a failpoint is armed
before the first one is passed.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from ..scratch import memory
from .children import stop_all
from .ledger import WRITERS
from .scenes import failpoints, has_failpoints, try_point


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("points", nargs="*", help="failpoints; all when none is named")
    options.add_argument("--seed", type=lambda text: int(text, 0), default=secrets.randbits(32))
    options.add_argument("--plays", type=int, default=2, help="deaths at each point")
    options.add_argument("--arrivals", type=int, default=3, help="die at an arrival up to this one")
    options.add_argument(
        "--writer", choices=list(WRITERS), default="sound", help="a broken one, to see that it is caught"
    )
    options.add_argument("--forget", action="store_true", help="remove the directory of a play that failed, too")
    options.add_argument("--mode", choices=["kill", "stop", "both"], default="both")
    given = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="seglog-failpoints-", dir=memory()))
    os.environ["SEGLOG_TEST_WRITER"] = given.writer
    print(f"seed {given.seed:#x}", flush=True)
    if not has_failpoints(folder / "try"):
        print("this engine has no failpoints: make build/debug/.built, and PYTHONPATH=build/debug/package")
        return 2
    broken = 0
    for point in given.points or failpoints():
        for mode in ("kill", "stop") if given.mode == "both" else (given.mode,):
            began = time.monotonic()
            plays = given.plays if mode == "kill" else 1
            try:
                kills, slowest = try_point(
                    point, folder / f"{point}-{mode}", given.seed, plays, arrivals=given.arrivals, mode=mode
                )
            except AssertionError as error:
                broken += 1
                print(f"{point:16} {mode}: BROKEN {error}", flush=True)
            else:
                print(
                    f"{point:16} {mode}: {kills} killed, others stood still for {slowest * 1000:.0f} ms at most; "
                    f"{time.monotonic() - began:.1f} s",
                    flush=True,
                )
            finally:
                stop_all()
    if not broken or given.forget:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
