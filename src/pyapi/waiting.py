"""Waiting: until one of several logs has a record at its offset.

One log has a bell and is waited for with it. Several have one each, and a thread can hear only one at a time: so it listens to
them in turn, in short slices, and looks at all of them between two. The race: another log is appended to meanwhile. It
is then seen one slice later, at most `SLICE_MAX` seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from seglog.engine.log import Log

__all__ = ["wait_for_any"]

SLICE_MIN, SLICE_MAX = 0.001, 0.02  # seconds; from the first to the second while nothing happens: 50 looks a second
LOOK_UP = 0.25  # seconds; how often a wait for one log asks whether there is reason to give up, or another log


def wait_for_any(
    logs: Sequence[Log],
    offsets: Sequence[int],
    timeout: float | None,
    changed: Callable[[], bool],
) -> bool:
    """True once a log has a record at or after its offset, or `changed()` says so; False after `timeout` seconds.

    None waits for ever. The GIL is released and Ctrl-C works. `changed` may raise, to end the waiting.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    turn, slice_ = 0, SLICE_MIN
    while True:
        if any(log.next_offset > offset for log, offset in zip(logs, offsets, strict=True)):
            return True
        if changed():
            return True
        nap = LOOK_UP if len(logs) == 1 else slice_
        if deadline is not None:
            nap = min(nap, deadline - time.monotonic())
            if nap <= 0:
                return False
        began = time.monotonic()
        if logs:
            turn = (turn + 1) % len(logs)
            if logs[turn].wait(offsets[turn], nap):
                return True
        # A log that failed or was deleted gives up at once, and so does nobody's log: sleep what is left.
        time.sleep(max(0.0, began + min(nap, SLICE_MAX) - time.monotonic()))
        slice_ = min(slice_ * 2, SLICE_MAX)
