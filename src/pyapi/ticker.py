"""Ticker: one background thread that does a piece of work at every interval, until it is stopped.

It promises that an error in the work ends nothing: it is kept in `errors` and the next tick comes; that it keeps nobody
alive (the work belongs to an object that may be dropped without being closed); and that a forked child has its own.
What the work is, is not its business.

>>> class Counter:
...     count = 0
...     def work(self): self.count += 1
>>> counter = Counter()
>>> ticker = Ticker(0.001, counter.work)
>>> while counter.count < 3: time.sleep(0.001)
>>> ticker.stop(); ticker
<Ticker every 0.001 s, stopped>
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

__all__ = ["Ticker"]

ERRORS_KEPT = 16

_running: weakref.WeakSet[Ticker] = weakref.WeakSet()


class Ticker:
    """Calls `work`, a bound method that is held weakly, every `interval` seconds."""

    def __init__(self, interval: float, work: Callable[[], None]) -> None:
        self.interval = interval
        self.errors: deque[str] = deque(maxlen=ERRORS_KEPT)
        self._work = weakref.WeakMethod(work)
        self._start()
        _running.add(self)

    def note(self, error: BaseException) -> None:
        """Keep what went wrong, once as long as it stays the same."""
        text = f"{type(error).__name__}: {error}"
        if text not in self.errors:
            self.errors.append(text)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Returns when the thread has ended; a tick that is under way is finished."""
        _running.discard(self)
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _start(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=tick,
            args=(self._stopped, self.interval, self._work, weakref.ref(self)),
            name="seglog-upkeep",
            daemon=True,  # an interpreter that ends does not wait for a tick: nothing that was sent needs it
        )
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Ticker every {self.interval:g} s, {'running' if self.running else 'stopped'}>"


def tick(
    stopped: threading.Event,
    interval: float,
    work: weakref.WeakMethod[Callable[[], None]],
    ticker: weakref.ref[Ticker],
) -> None:
    # The thread holds its owner only during a tick: an owner that was dropped is noticed at the next one.
    due = time.monotonic() + interval
    while not stopped.wait(max(0.0, due - time.monotonic())):
        method = work()
        if method is None:
            return
        try:
            method()
        except Exception as error:
            owner = ticker()
            if owner is not None:
                owner.note(error)
            del owner
        del method
        # From the end of the tick, if that was long: a disk that cannot keep up is not asked faster.
        due = max(due + interval, time.monotonic())


def _after_fork_in_child() -> None:
    # Threads do not cross a fork. The parent's event may be locked for ever: a new one is made with the thread.
    for ticker in list(_running):
        try:
            ticker._start()
        except RuntimeError as error:  # no thread to be had: it goes without and says so, the others have theirs
            ticker.note(error)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
