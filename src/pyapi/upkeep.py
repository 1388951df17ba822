"""Upkeep: what a topic no longer needs to keep: records over its limits, and values that later ones of their key replaced.

It promises to take whole segments, the oldest first, and never one that a group still needs (`keep_for_groups`) unless the
partition is over its hard cap; to say so before it comes to that; and to compact when it is worth it. Readers are not
disturbed by either. It leaves the moving to the engine, and to the store when it is called.

Several processes may do this to one topic at once. Trimming twice to the same place does nothing the second time; compacting
is done by the first that comes, and the others go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from seglog.clock import Clock
from seglog.config import TopicConfig
from seglog.engine.compaction import compact, dirtiness
from seglog.engine.log import Log
from seglog.files import O_BINARY, read_whole, sync_data, told
from seglog.positions import pair_of
from seglog.topic import Topic

__all__ = ["CompactionReport", "compact_now", "passed", "tidy", "worth_compacting"]

WARN_AT = 0.8  # of retention_max_bytes: there is time to do something about a group that stands still
LOOK_AGAIN = 60_000_000  # µs; what was found about a partition whose segments are the same still holds that long


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What `Topic.compact` did, over the partitions it was asked for."""

    records_removed: int
    segments_before: int  # that were rewritten; those in which nothing had died were left as they are
    segments_after: int
    bytes_before: int
    bytes_after: int
    passes: int  # more than one a partition where not all its keys fit into `compact_memory`
    finished: bool  # False: it was interrupted, by a trim or the closing of the store; what was done is done
    busy: tuple[int, ...] = ()  # partitions that another process or thread is compacting at the moment


def tidy(topic: Topic, path: str, clock: Clock, stop: Callable[[], bool]) -> Iterator[str]:
    """Do what is due in every partition; the warnings. `path` is the store's."""
    config = topic.config
    for log in topic.select(None):
        if stop():
            return
        if config.bounded:
            yield from trim_old(topic, log, path, clock())
        if config.compact and worth_compacting(topic, log, clock()):
            compact(log, stop=stop, **settings(config))


# ---- retention ------------------------------------------------------------------------------------


def trim_old(topic: Topic, log: Log, path: str, now: int) -> Iterator[str]:
    """Let go of the oldest segments that are over a limit, and of no group's that is to be waited for."""
    config = topic.config
    *sealed, active = log.segments()
    if not sealed:
        return
    places = {group: os.path.join(path, "groups", group, topic.name + ".positions") for group in config.keep_for_groups}
    waited_for = {group: passed(place, log, int(topic.topic_id, 16)) for group, place in places.items()}
    needed = min(waited_for.values(), default=log.next_offset)
    following = [base for base, _, _ in sealed[1:]] + [active[0]]
    left = sum(disk for _, _, disk in sealed) + log.statistics()["tail_position"]
    before = first = log.first_offset
    for (base, _, disk), end in zip(sealed, following, strict=True):
        capped = config.retention_max_bytes is not None and left > config.retention_max_bytes
        due = over(config, log, base, end, left - disk, now) or (bool(waited_for) and not config.limited)
        if not capped and not (due and end <= needed):
            break
        if capped and end > needed:
            yield from warn(topic, log, waited_for, end, f"were deleted unread, up to offset {end:,}: over {{cap}}")
        left -= disk
        before = end
    if before > first:
        for place in places.values():
            write_down(place)
        log.trim(before)
    cap = config.retention_max_bytes
    oldest = next((end for end in following if end > before), None)
    if cap is not None and oldest is not None and left > WARN_AT * cap and needed < oldest:
        yield from warn(topic, log, waited_for, oldest, "will be deleted unread when the partition exceeds {cap}")


def over(config: TopicConfig, log: Log, base: int, end: int, left: int, now: int) -> bool:
    """Whether a limit lets go of the segment `base .. end - 1`, without which `left` bytes remain."""
    if config.retention_records is not None and log.next_offset - end >= config.retention_records:
        return True
    if config.retention_bytes is not None and left >= config.retention_bytes:
        return True
    if config.retention is None:
        return False
    newest = log.newest_timestamp(base)
    return newest is not None and newest < now - round(config.retention * 1e6)


def warn(topic: Topic, log: Log, waited_for: dict[str, int], end: int, what: str) -> Iterator[str]:
    cap = f"{topic.config.retention_max_bytes:,} bytes (retention_max_bytes)"
    for group, offset in waited_for.items():
        if offset < end:
            yield (
                f"group {group} has read {topic.name}/{log.partition} up to offset {offset:,}; records behind that "
                + what.format(cap=cap)
            )


def passed(path: str, log: Log, topic_id: int) -> int:
    """The offset up to which a group has committed; what it never committed, or cannot be read, it has not passed."""
    with suppress(OSError):
        commit, _ = pair_of(read_whole(path), log.partition, topic_id)
        if commit is not None:
            return commit.offset
    return 0


def write_down(path: str) -> None:
    """What a group was found to have passed is on disk before the records go: a power cut must not bring back a commit that needs
    them."""
    with told(path, "put the commits of a group on disk"), suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDWR | O_BINARY)
        try:
            sync_data(fd)
        finally:
            os.close(fd)


# ---- compaction -----------------------------------------------------------------------------------


def worth_compacting(topic: Topic, log: Log, now: int) -> bool:
    """Whether enough is new in the closed segments, or some of it old enough."""
    config = topic.config
    bases = tuple(base for base, _, _ in log.segments())
    if len(bases) < 2:
        return False
    seen = topic.looked_at.get(log.partition)
    if seen is None or seen[0] != bases or not 0 <= now - seen[1] < LOOK_AGAIN:
        seen = topic.looked_at[log.partition] = (bases, now, dirtiness(log, round(config.compact_min_lag * 1e6)))
    clean, dirty, oldest = seen[2]
    if not dirty:
        return False
    due = dirty >= config.compact_dirty_ratio * (clean + dirty)
    if config.compact_max_lag is not None and oldest is not None:
        due |= now - oldest >= round(config.compact_max_lag * 1e6)
    if due:
        del topic.looked_at[log.partition]  # its marks will change, and perhaps not its names
    return due


def settings(config: TopicConfig) -> dict[str, Any]:
    return {
        "keep": config.compact_keep,
        "memory": config.compact_memory,
        "min_lag_us": round(config.compact_min_lag * 1e6),
        "grace_us": round(config.tombstone_grace * 1e6),
    }


def compact_now(topic: Topic, logs: Sequence[Log]) -> CompactionReport:
    """Whatever it is worth."""
    fields = ("records_removed", "segments_before", "segments_after", "bytes_before", "bytes_after", "passes")
    sums, busy, finished = dict.fromkeys(fields, 0), [], True
    for log in logs:
        log.close_segment()
        said = compact(log, **settings(topic.config))
        topic.looked_at.pop(log.partition, None)
        if said is None:
            busy.append(log.partition)
            continue
        for field in fields:
            sums[field] += said[field]
        finished &= bool(said["finished"])
    return CompactionReport(**sums, finished=finished, busy=tuple(busy))
