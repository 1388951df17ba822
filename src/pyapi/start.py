"""Start: where reading begins or ends: an offset, a time, "earliest" or "latest"; made into an offset of one log."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, SupportsIndex, TypeAlias

from seglog.clock import micros
from seglog.engine.log import Log
from seglog.errors import ConfigError, OffsetOutOfRange

__all__ = ["Start", "end_of", "natural", "one_offset", "one_offset_needs_one_partition", "start_of", "start_of_last", "whole"]

Start: TypeAlias = "SupportsIndex | datetime | Literal['earliest', 'latest']"

MEANINGS = 'an offset, an aware datetime, "earliest" or "latest"'


def start_of(where: Start, log: Log, what: str = "start") -> int:
    """The offset at which reading begins. A time means the first record at or after it; O(log segments).

    Raises OffsetOutOfRange for an offset that was trimmed away or is not there yet; the next one to come is allowed.
    """
    if isinstance(where, str):
        if where == "earliest":
            return log.first_offset
        if where == "latest":
            return log.next_offset
        raise ConfigError(f"{what} is {where!r}; it must be {MEANINGS}", setting=what, value=where)
    if isinstance(where, datetime):
        return log.offset_for_time(micros(where, what))
    offset = one_offset(where, what)
    first, after = log.first_offset, log.next_offset
    if not first <= offset <= after:
        raise OffsetOutOfRange(
            f"offset {offset:,} is not in partition {log.partition}, which has {first:,} .. {after - 1:,}: "
            + ('it was trimmed away; "earliest" begins with what is left.' if offset < first else "it is yet to come."),
            offset=offset,
            first=first,
            next=after,
            partition=log.partition,
        )
    return offset


def end_of(where: Start | None, log: Log) -> int:
    """The offset before which reading ends: `where`, or what there is now, whichever comes first."""
    after = log.next_offset
    if where is None or where == "latest":
        return after
    if isinstance(where, str | datetime):
        return start_of(where, log, "stop")
    return min(one_offset(where, "stop"), after)


def start_of_last(count: int, log: Log, stop: int) -> int:
    """Where the last `count` records before `stop` begin; the first offset when there are fewer.

    Offsets have gaps where a crash took records or reserved offsets, so counting back is not enough: whatever a step
    back did not find is looked for before the gap it ended in. O(count) without gaps, and a bisection for each gap.
    """
    first, begin = log.first_offset, stop
    while count > 0 and (stop := end_of_records(log, first, begin)) > first:
        begin = max(first, stop - count)
        count -= sum(len(batch) for batch in log.batches(begin, stop))
    return begin


def end_of_records(log: Log, first: int, stop: int) -> int:
    """The offset after the last record before `stop`; `first` when there is none."""
    if stop <= first or log.read(stop - 1, 1, stop=stop) is not None:
        return stop
    low, high = first, stop - 1  # is there a record at or after it? yes at low (if at all), no at high
    if log.read(low, 1, stop=stop) is None:
        return first
    while high - low > 1:
        middle = (low + high) // 2
        if log.read(middle, 1, stop=stop) is None:
            high = middle
        else:
            low = middle
    return high


def one_offset(value: object, what: str) -> int:
    """`value` as an offset. Raises TypeError for what is none, ConfigError (a ValueError) for a negative one."""
    offset = whole(value, what, MEANINGS)
    if offset < 0:
        raise ConfigError(
            f"{what} is {offset:,}; offsets are not negative. For the last records say last({-offset}).",
            setting=what,
            value=offset,
        )
    return offset


def natural(value: object, what: str, least: int = 0) -> int:
    """`value` as a count, or a number of something. Raises TypeError, or ConfigError when it is less than `least`, or too large for
    any file."""
    number = whole(value, what, f"an int of {least} or more")
    if number < least:
        raise ConfigError(f"{what} is {number:,}; it must be at least {least}", setting=what, value=number)
    if number >= 1 << 62:
        raise ConfigError(f"{what} is {number:,}; it must be below 2^62", setting=what, value=number)
    return number


def whole(value: object, what: str, allowed: str) -> int:
    """`value` as an int. Raises TypeError for what is none, and for a bool."""
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"{what} must be {allowed}, not {type(value).__name__}: {value!r}")


def one_offset_needs_one_partition(where: object, what: str, logs: Sequence[Log]) -> None:
    """An offset means something in one partition only: refuse it for several."""
    if len(logs) > 1 and where is not None and not isinstance(where, str | datetime):
        offset = one_offset(where, what)
        raise ConfigError(
            f"{what} is offset {offset:,}, but the topic has {len(logs)} partitions, each with offsets of its own: "
            f'say which with partition=, or use {what}=datetime, "earliest" or "latest".',
            setting=what,
            value=where,
        )
