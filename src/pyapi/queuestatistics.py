"""QueueStatistics: a queue's messages, counted by state; frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seglog.engine.log import Log

__all__ = ["QueueStatistics", "statistics_of"]


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """One queue, at the moment of asking. The states are exact; what happened is counted since the machine started."""

    name: str
    ready: int  # can be received now
    in_flight: int  # received, and not settled yet
    delayed: int  # not before some time
    blocked: int  # FIFO queues: behind others of their group
    dead: int  # to be moved to the dead letters; usually 0
    acked: int
    expired: int
    dropped: int  # for want of room
    dead_lettered: int
    consumers: int  # processes that received, and live
    oldest_age: float | None  # seconds since the oldest ready message was sent; None when there is none
    bytes: int  # on disk
    damaged: int = 0  # states that could not be read: those messages came again

    @property
    def depth(self) -> int:
        """All that is not settled."""
        return self.ready + self.in_flight + self.delayed + self.blocked + self.dead


def statistics_of(
    name: str,
    logs: Sequence[Log],
    rows: Sequence[Mapping[str, int]],
    said: Mapping[str, int],
    oldest: int | None,
    now: int,
) -> QueueStatistics:
    *levels, late = rows
    return QueueStatistics(
        name=name,
        ready=sum(row["untouched"] + row["ready"] + row["waiting"] * row["fair"] for row in levels),
        in_flight=sum(row["leased"] for row in levels),
        delayed=sum(row["delayed"] for row in levels)
        + late["untouched"]
        + late["ready"]
        + late["leased"]
        + late["delayed"],
        blocked=sum(row["waiting"] * (not row["fair"]) for row in levels),
        dead=sum(row["doomed"] for row in levels),
        acked=said["acked"],
        expired=said["expired"],
        dropped=said["dropped"],
        dead_lettered=said["dead"],
        consumers=said["consumers"],
        oldest_age=None if oldest is None else max(0.0, (now - oldest) / 1e6),
        bytes=sum(size for log in logs for _, _, size in log.segments()),
        damaged=said["damaged"],
    )
