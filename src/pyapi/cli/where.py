"""Where: what -o and --until say, and the offsets that it means.

    beginning | end     the first record there is; the next one to come
    N                   the record at offset N, of one partition
    -N                  the last N records, of all that are read together
    @TIME               the first record of each partition at or after a moment

TIME is ISO 8601 (`2013-07-04`, `2013-07-04T12:00`, `2013-07-04T12:00:00Z`, `...+02:00`), local time where it names no zone, or a
number since 1970: seconds up to 11 digits, milliseconds up to 14, else microseconds; `s`, `ms` or `us` behind it
says it outright.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import seglog
from seglog.cli.exits import Refused
from seglog.clock import micros

__all__ = ["Where", "parse_where", "starts_of", "stops_of"]

UNITS_US = {"s": 1_000_000, "ms": 1_000, "us": 1, "µs": 1}
WORDS: dict[str, Literal["beginning", "end"]] = {
    "beginning": "beginning",
    "earliest": "beginning",
    "end": "end",
    "latest": "end",
}


class Where(NamedTuple):
    kind: Literal["beginning", "end", "offset", "last", "time"]
    number: int = 0  # the offset, the count, or µs since the epoch


def parse_where(text: str) -> Where:
    """What `text` says. Raises Refused.

    >>> parse_where("-5"), parse_where("@1372910400"), parse_where("@2013-07-04T04:00:00Z").number
    (Where(kind='last', number=5), Where(kind='time', number=1372910400000000), 1372910400000000)
    """
    if text in WORDS:
        return Where(WORDS[text])
    if re.fullmatch(r"[0-9]+", text):
        return Where("offset", int(text))
    if re.fullmatch(r"-[0-9]+", text):
        return Where("last", int(text[1:]))
    if text.startswith("@"):
        return Where("time", parse_time(text[1:]))
    raise Refused(f"{text!r} is no place to read from: say beginning, end, an offset N, -N for the last N, or @TIME")


def parse_time(text: str) -> int:
    """µs since the epoch."""
    number = re.fullmatch(r"([0-9]+)(s|ms|us|µs)?", text)
    if number:
        digits, unit = number.groups()
        unit = unit or ("s" if len(digits) <= 11 else "ms" if len(digits) <= 14 else "us")
        return int(digits) * UNITS_US[unit]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(
            f"{text!r} is no time: say it as in 2013-07-04, 2013-07-04T12:00:00Z, or as a number since 1970 such as "
            "1372910400, 1372910400s, 1372910400000ms"
        ) from None
    return micros(when if when.tzinfo else when.astimezone())


def starts_of(where: Where, topic: seglog.Topic, partitions: Sequence[int]) -> list[int]:
    """The offset to begin with, of each partition."""
    if where.kind == "beginning":
        return [topic.first_offset(partition) for partition in partitions]
    if where.kind == "time":
        return [topic.offset_for_time(where.number, partition) for partition in partitions]
    if where.kind == "offset":
        only_one(where, topic, partitions)
        return [where.number]
    starts = {partition: topic.next_offset(partition) for partition in partitions}
    if where.kind == "last":
        one = partitions[0] if len(partitions) == 1 else None
        for record in topic.last(where.number, partition=one):
            starts[record.partition] = min(starts[record.partition], record.offset)
    return list(starts.values())


def stops_of(until: Where | None, topic: seglog.Topic, partitions: Sequence[int]) -> list[int]:
    """The offset to end before, of each partition: `until`, or what there is now."""
    ends = [topic.next_offset(partition) for partition in partitions]
    if until is None or until.kind == "end":
        return ends
    if until.kind == "time":
        return [topic.offset_for_time(until.number, partition) for partition in partitions]
    if until.kind == "offset":
        only_one(until, topic, partitions)
        return [min(until.number, ends[0])]
    raise Refused("--until takes an offset, @TIME or end")


def only_one(where: Where, topic: seglog.Topic, partitions: Sequence[int]) -> None:
    if len(partitions) > 1:
        raise Refused(
            f"offset {where.number:,} is a place in one partition, and {topic.name} has {len(partitions)}: say which with "
            "-p, or use beginning, end, -N or @TIME"
        )
