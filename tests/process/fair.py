"""A clock for limits: it counts a moment only as long as this process was let run in it.

`began = fair(); ...; assert fair() - began < 1.0` holds others to a second, and not the machine: when a busy one lets nobody run
for a while, that while counts as one tick.
"""

import os
import threading
import time

TICK = 0.002
MOST = 0.01  # of one tick: whoever slept longer was kept from running

_counted, _of = 0.0, 0


def fair() -> float:
    """Seconds, from somewhere; steps of a few milliseconds."""
    global _of
    if _of != os.getpid():  # the first time, or a forked child: threads do not come along
        _of = os.getpid()
        threading.Thread(target=_count, daemon=True, name="fair").start()
    return _counted


def _count() -> None:
    global _counted
    before = time.monotonic()
    while True:
        time.sleep(TICK)
        now = time.monotonic()
        _counted += min(now - before, MOST)
        before = now
