"""Waiting: until one of several logs has a record at its offset.

One log has a bell of its own and is waited for with that. Several logs of one store are waited for with the store's bell, which
every append to any of its partitions rings while somebody listens. Either way the thread sleeps in the kernel, without the
GIL, and an append wakes it; it looks up at least every 50 ms, so that Ctrl-C works.

The race: a log is appended to between the look and the sleep. `listen` comes before the look, so that append rings, and the
sleep ends at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from seglog.engine.log import Log

__all__ = ["any_ready", "wait_for_any"]

LOOK_UP = 0.25  # seconds; how often a wait for one log asks whether there is reason to give up, or another log


def any_ready(logs: Sequence[Log], offsets: Sequence[int]) -> bool:
    """Whether one of the logs has a record at or after its offset. One load per log."""
    return any(log.next_offset > offset for log, offset in zip(logs, offsets, strict=True))


def wait_for_any(
    logs: Sequence[Log],
    offsets: Sequence[int],
    timeout: float | None,
    changed: Callable[[], bool],
) -> bool:
    """True once a log has a record at or after its offset, or `changed()` says so; False after `timeout` seconds.

    None waits for ever. `changed` is asked at least four times a second, and may raise to end the waiting.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        ticket = logs[0].liveness.listen() if len(logs) > 1 else 0
        if any_ready(logs, offsets) or changed():
            return True
        nap = LOOK_UP if deadline is None else min(LOOK_UP, deadline - time.monotonic())
        if nap <= 0:
            return False
        if len(logs) > 1:
            logs[0].liveness.wait(ticket, nap)
            continue
        began = time.monotonic()
        if logs and logs[0].wait(offsets[0], nap):
            return True
        # A log that failed or was deleted gives up at once, and so does nobody's log: sleep what is left.
        time.sleep(max(0.0, began + min(nap, 0.02) - time.monotonic()))
