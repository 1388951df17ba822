"""Statistics: what there is, counted; frozen, so that two of them can be compared later.

>>> import seglog
>>> with seglog.open("data") as store:
...     _ = store.topic("orders", partitions=2).send_many([b"a", b"b", b"c"])
...     now = store.statistics()
>>> now.topics["orders"].records, now.losses
(3, ())
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seglog.engine.log import Log
from seglog.record import Loss

__all__ = ["PartitionStatistics", "StoreStatistics", "TopicStatistics", "partition_statistics"]


@dataclass(frozen=True, slots=True)
class PartitionStatistics:
    """One partition, at the moment of asking."""

    partition: int
    first_offset: int  # of the oldest record that is kept
    next_offset: int  # that the next record will get
    durable_offset: int  # everything before it survives a power cut
    segments: int
    size_bytes: int  # of its segment files
    disk_bytes: int  # that they take on disk: less, where a full segment gave its tail back
    epoch: int  # grows with each recovery that cut something
    losses: tuple[Loss, ...] = ()  # what recovery found when this process opened it

    @property
    def records(self) -> int:
        """How many offsets are kept; as many records, as long as nothing was compacted or lost."""
        return self.next_offset - self.first_offset


@dataclass(frozen=True, slots=True)
class TopicStatistics:
    """One topic: its partitions, and their sums."""

    name: str
    partitions: tuple[PartitionStatistics, ...]

    @property
    def records(self) -> int:
        return sum(partition.records for partition in self.partitions)

    @property
    def size_bytes(self) -> int:
        return sum(partition.size_bytes for partition in self.partitions)

    @property
    def disk_bytes(self) -> int:
        return sum(partition.disk_bytes for partition in self.partitions)

    @property
    def losses(self) -> tuple[Loss, ...]:
        return tuple(loss for partition in self.partitions for loss in partition.losses)


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """The whole store."""

    path: str
    topics: Mapping[str, TopicStatistics]
    upkeep_errors: tuple[str, ...] = ()  # what the background thread met, the latest last
    warnings: tuple[str, ...] = ()  # what retention took, or will take, before a group has read it, the latest last

    @property
    def records(self) -> int:
        return sum(topic.records for topic in self.topics.values())

    @property
    def size_bytes(self) -> int:
        return sum(topic.size_bytes for topic in self.topics.values())

    @property
    def disk_bytes(self) -> int:
        return sum(topic.disk_bytes for topic in self.topics.values())

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What recovery found missing or damaged, over all topics. Empty is the usual answer."""
        return tuple(loss for topic in self.topics.values() for loss in topic.losses)


def partition_statistics(log: Log) -> PartitionStatistics:
    numbers = log.statistics()
    return PartitionStatistics(
        partition=log.partition,
        first_offset=numbers["first_offset"],
        next_offset=numbers["next_offset"],
        durable_offset=numbers["durable_offset"],
        segments=numbers["segments"],
        size_bytes=numbers["size_bytes"],
        disk_bytes=numbers["disk_bytes"],
        epoch=numbers["epoch"],
        losses=log.losses,
    )
