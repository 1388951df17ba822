"""Places: what a positions file should say: how far a group has come in each partition of a topic (positions.py)."""

from __future__ import annotations

from typing import Any

from seglog.doctor.report import Finding
from seglog.doctor.things import say
from seglog.positions import COUNT, PAIR, SLOT_BYTES, Commit, new_number, number_of, owners, pair_of, put

__all__ = ["Places"]


class Places:
    """A judge of one positions file: `look` gives the findings, and the bytes as they should be (None: another topic's)."""

    def __init__(self, path: str, group: str, topic: str, topic_id: int, partitions: int) -> None:
        self.path = path
        self.about: dict[str, Any] = {"group": group, "topic": topic}
        self.topic_id, self.partitions = topic_id, partitions

    def look(self, data: bytes) -> tuple[list[Finding], bytes | None]:
        named = owners(data)
        if named and self.topic_id not in named:
            return [say("old place", self.path, **self.about)], None
        good, _ = pair_of(data, COUNT, self.topic_id)
        room = max(0, len(data) // PAIR - 1)
        count = good.offset if good else max(1, min(self.partitions, room))
        size = PAIR * (1 + count)
        mended = bytearray(data.ljust(size, b"\0"))
        found: list[Finding] = []
        if len(data) < size:
            known = count if good else self.partitions
            words = self.about | {"have": len(data), "lost": known - room, "count": known}
            found.append(say("place cut", self.path, position=len(data), size=size - len(data), **words))
        for partition in (COUNT, *range(count)):
            finding = self.one(mended, partition, count)
            # What the cut went through is told as the cut.
            if finding is not None and finding.position + finding.size <= len(data):
                found.append(finding)
        return found, bytes(mended)

    def one(self, mended: bytearray, partition: int, count: int) -> Finding | None:
        """Judge a pair of slots, and mend it."""
        at = PAIR * ((partition + 1) & COUNT)
        good, damaged = pair_of(mended, partition, self.topic_id)
        what = "how many partitions it has" if partition == COUNT else f"partition {partition}"
        about = self.about | {"what": what}
        if good is None and partition == COUNT:
            number = new_number()
            for sequence in (1, 2):
                put(mended, COUNT, Commit(count, sequence, 0, 0, 0), self.topic_id, number)
            return say("count", self.path, position=at, size=PAIR, count=count, **about)
        if not damaged:
            return None
        if good is not None:
            number = number_of(bytes(mended), self.topic_id) if partition == COUNT else 0
            put(mended, partition, good._replace(sequence=good.sequence + 1), self.topic_id, number)
            return say("place slot", self.path, position=damaged[0], size=SLOT_BYTES, **about)
        mended[at : at + PAIR] = bytes(PAIR)
        if len(damaged) == 1:
            return say("first place", self.path, position=damaged[0], size=SLOT_BYTES, **about)
        return say("place", self.path, position=at, size=PAIR, **about)
