"""Start: where reading begins or ends: an offset, a time, "earliest" or "latest"; made into an offset of one log."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, SupportsIndex, TypeAlias

from seglog.clock import micros
from seglog.engine.log import Log
from seglog.errors import ConfigError, OffsetOutOfRange

__all__ = ["Start", "end_of", "natural", "one_offset", "one_offset_needs_one_partition", "start_of"]

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
    """`value` as a count, or a number of something. Raises TypeError, or ConfigError when it is less than `least`."""
    number = whole(value, what, f"an int of {least} or more")
    if number < least:
        raise ConfigError(f"{what} is {number:,}; it must be at least {least}", setting=what, value=number)
    return number


def whole(value: object, what: str, allowed: str) -> int:
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
