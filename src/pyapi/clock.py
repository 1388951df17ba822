"""Clock: a callable that says what time it is, in µs since the epoch; and how people's times become numbers.

A *timestamp* says when. Inside it is an int of µs since 1970-01-01 UTC; outside it is that int or an aware
`datetime`. A naive `datetime` is refused: it means another moment on every machine.
A *duration* says how long: seconds as a number, or a `timedelta`.

Each store has one clock, and tests may bring their own:

>>> import datetime, seglog
>>> clock = seglog.ManualClock(datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC))
>>> with seglog.open("data", clock=clock) as store:
...     events = store.topic("events")
...     _ = events.send(b"first")
...     clock.advance(60)
...     _ = events.send(b"a minute later")
...     [str(record.time) for record in events.read()]
['2030-01-01 00:00:00+00:00', '2030-01-01 00:01:00+00:00']
"""

from __future__ import annotations

import math
import operator
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol, SupportsIndex

from seglog.errors import ConfigError

__all__ = ["Clock", "ManualClock", "micros", "moment", "seconds", "system_clock"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """Anything that returns µs since the epoch when called. It may be called from several threads."""

    def __call__(self) -> int: ...


def system_clock() -> int:
    """The operating system's clock, in µs since the epoch.

    >>> system_clock() > 1_700_000_000_000_000
    True
    """
    return time.time_ns() // 1000


class ManualClock:
    """A clock that stands still until it is told to move: time for tests.

    `start` is an aware datetime or µs since the epoch. Cost of a call: one Python frame. Threads may share it.

    >>> clock = ManualClock(1_000_000)
    >>> clock.advance(0.5); clock()
    1500000
    >>> clock
    <ManualClock at 1970-01-01 00:00:01.500000+00:00>
    """

    def __init__(self, start: datetime | SupportsIndex = 1_700_000_000_000_000) -> None:
        self._now = micros(start, "start")

    def __call__(self) -> int:
        return self._now

    def advance(self, by: float | timedelta) -> None:
        """Move on by seconds or a timedelta; a negative one moves back, as real clocks do at times."""
        self._now += round((by.total_seconds() if isinstance(by, timedelta) else by) * 1_000_000)

    def set(self, when: datetime | SupportsIndex) -> None:
        """Be at `when`: an aware datetime, or µs since the epoch."""
        self._now = micros(when)

    def __repr__(self) -> str:
        return f"<ManualClock at {moment(self._now)}>"


def micros(when: datetime | SupportsIndex, what: str = "the time") -> int:
    """`when` as µs since the epoch. Raises ConfigError for a naive datetime and TypeError for what is no time.

    >>> micros(datetime(1970, 1, 2, tzinfo=UTC)), micros(5)
    (86400000000, 5)
    >>> micros(datetime(2030, 1, 1), "start")
    Traceback (most recent call last):
    seglog.engine.errors.ConfigError: start is a naive datetime: it means another moment on every machine. ...
    """
    if isinstance(when, datetime):
        if when.utcoffset() is None:
            raise ConfigError(
                f"{what} is a naive datetime: it means another moment on every machine. Attach its zone, "
                "for instance when.replace(tzinfo=datetime.UTC), or when.astimezone() if it is local time.",
                setting=what,
                value=when,
            )
        return (when - EPOCH) // MICROSECOND
    if not isinstance(when, bool):
        try:
            return operator.index(when)
        except TypeError:
            pass
    raise TypeError(
        f"{what} must be an aware datetime or an int of µs since the epoch, not {type(when).__name__}: {when!r}"
    )


def moment(at_us: int) -> datetime:
    """µs since the epoch as an aware datetime in UTC.

    >>> moment(0)
    datetime.datetime(1970, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)
    """
    return EPOCH + timedelta(microseconds=at_us)


def seconds(duration: float | timedelta, what: str = "the duration") -> float:
    """`duration` as seconds. Raises TypeError for what is none, ConfigError for a negative one or NaN.

    >>> seconds(timedelta(minutes=2)), seconds(3)
    (120.0, 3.0)
    """
    if isinstance(duration, timedelta):
        number = duration.total_seconds()
    elif isinstance(duration, bool) or not hasattr(duration, "__float__"):
        raise TypeError(f"{what} must be seconds or a timedelta, not {type(duration).__name__}: {duration!r}")
    else:
        number = float(duration)
    if math.isnan(number) or number < 0:
        raise ConfigError(f"{what} is {number:g} seconds; it cannot be negative or NaN", setting=what, value=duration)
    return number
