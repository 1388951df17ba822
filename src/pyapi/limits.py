"""RateLimit: so many a second and no more, for whoever asks before he goes on.

A token bucket by the monotonic clock: tokens come at `per_second`, at most `burst` of them lie there. It promises that in any t
seconds at most `burst + t * per_second` are let through, and that those who ask without pause get `per_second` on average,
however coarsely the system sleeps: who asks for more than there is goes into debt and waits for it, each behind the one before;
and what was slept too long lies in the bucket for the next.

The bucket begins with one token, not full: a program that crashes and starts again in a circle would otherwise have a burst each
time. It counts for the threads of one process; three processes that share a budget of 300 take `RateLimit(100)` each.
"""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from seglog.clock import seconds
from seglog.errors import ConfigError
from seglog.start import natural

__all__ = ["RateLimit"]

CATCH_UP = 0.1  # seconds: what a process may have slept through and still make good, unless `burst` says otherwise


class RateLimit:
    """At most `per_second` on average; threads may share it.

    `burst` is how many may go at once after a pause, and so also how much of an oversleep is made good: a tenth of a second's
    worth unless given. Cost: under a microsecond when nothing has to be waited for. Raises ConfigError for a rate that is not
    above 0.

    >>> import seglog
    >>> limit = seglog.RateLimit(10_000)
    >>> with seglog.open("data") as store:
    ...     orders = store.topic("orders")
    ...     for n in range(3):
    ...         with limit:
    ...             _ = orders.send(b"%d" % n)
    ...     if limit.wait(100, timeout=5):
    ...         _ = orders.send_many([b"more"] * 100)
    ...     orders.next_offset()
    103
    """

    def __init__(self, per_second: float, burst: float | None = None) -> None:
        self.per_second = positive(per_second, "per_second", "a number of events a second above 0")
        self.burst = max(1.0, self.per_second * CATCH_UP)
        if burst is not None:
            self.burst = positive(burst, "burst", "a number of events of at least 1", least=1)
        self._lock = threading.Lock()
        self._tokens = 1.0  # below 0: what those that wait have taken already
        self._at = time.monotonic()  # when that was so
        self._pid = os.getpid()

    def take(self, n: int = 1) -> float:
        """Take `n` now, and say how many seconds to wait before going on: for who sleeps in his own way, as in
        `await asyncio.sleep(limit.take())`. What is taken is taken; `give_back` undoes it."""
        count = natural(n, "n", 1)
        with self._guard():
            self._fill()
            self._tokens -= count
            return max(0.0, -self._tokens / self.per_second)

    def give_back(self, n: int = 1) -> None:
        """What was taken is not used after all."""
        count = natural(n, "n", 1)
        with self._guard():
            self._fill()
            self._tokens = min(self.burst, self._tokens + count)

    def wait(self, n: int = 1, timeout: float | timedelta | None = None) -> bool:
        """Return when `n` may go: True; or at once False, with nothing taken, when that would be later than `timeout` seconds.

        `n` may be more than `burst`: they go at once, when the time for all of them has come. Ctrl-C ends the waiting, and gives
        back what was not used.
        """
        count = natural(n, "n", 1)
        limit = None if timeout is None else seconds(timeout, "timeout")
        with self._guard():
            self._fill()
            delay = max(0.0, (count - self._tokens) / self.per_second)
            if limit is not None and delay > limit:
                return False
            self._tokens -= count
        if delay > 0.0:
            try:
                time.sleep(delay)
            except BaseException:
                self.give_back(count)
                raise
        return True

    def _fill(self) -> None:
        now = time.monotonic()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_second)
        self._at = now

    def _guard(self) -> threading.Lock:
        if self._pid != os.getpid():  # a forked child: another thread of its parent may have held the lock
            self._pid, self._lock = os.getpid(), threading.Lock()
        return self._lock

    def __enter__(self) -> Self:
        self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __repr__(self) -> str:
        return f"<RateLimit {self.per_second:g}/s, bursts of {self.burst:g}>"


def positive(value: float, setting: str, what: str, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(
            f"{setting} is {value!r}; it must be {what}. Nothing was changed.", setting=setting, value=value
        )
    if not least <= value < float("inf") or value <= 0:
        raise ConfigError(
            f"{setting} is {value!r}; it must be {what}. Nothing was changed.", setting=setting, value=value
        )
    return float(value)
