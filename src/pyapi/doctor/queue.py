"""Queue: one look at a queue: whether meta and its topic agree that it is there, and what its states say (doctor/chunk.py).

What it costs when a state cannot be read is a second delivery, never a message: so nothing here is a loss of records. Words have a
check; a moment (`when`) is compared with what the message itself says, which is in the log; counts are compared with the words, but
only where they are of this boot, since the next one makes them anew.

The race: somebody may work on the queue meanwhile. What is found is looked at again, and told when it is still so.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from seglog.clock import system_clock
from seglog.config import SECONDS_MAX
from seglog.doctor import mends
from seglog.doctor.chunk import DELAYED, FIRST, SIZE, SLOT_BYTES, SLOTS, Chunk, Numbers, ready_word
from seglog.doctor.mends import FIRST as EARLY
from seglog.doctor.report import Finding
from seglog.doctor.segment import NAP
from seglog.doctor.things import say
from seglog.engine.instruments import describe_words
from seglog.errors import SeglogError
from seglog.queueconfig import QueueConfig

if TYPE_CHECKING:
    from seglog.doctor.log import LogExamination
    from seglog.doctor.store import StoreExamination
    from seglog.record import Record

__all__ = ["FOLDER", "QueueExamination", "called", "is_queue"]

FOLDER = "queue"
INTERNAL, OURS = "~", "~seglog."  # topics of queues, and those that other parts of seglog keep for themselves
NAME = re.compile(r"(\d+)-(\d+)(\.done|\.new|(?:\.\d+)?\.bad)?")
TRANSIENT = re.compile(r"shm|groups-\d+")
ALLOCATED = 40  # where a chunk's header says how many slots have blocks
EXPIRES, DUE = "seglog-expires", "seglog-due"
Look = tuple[list[Finding], "list[tuple[int, bytes]] | None"]  # what is wrong, and what to write; None: set it aside


def is_queue(topic: str) -> bool:
    return topic.startswith(INTERNAL) and not topic.startswith(OURS)


def called(topic: str) -> str:
    """What people know it as.

    >>> called("orders"), called("~jobs"), called("~seglog.replies")
    ('topic orders', 'queue jobs', 'the internal topic ~seglog.replies')
    """
    if is_queue(topic):
        return f"queue {topic.removeprefix(INTERNAL)}"
    return f"the internal topic {topic}" if topic.startswith(INTERNAL) else f"topic {topic}"


class QueueExamination:
    """One look at the folder `queue/` of the topic `topic`. `logs`: of its partitions, examined. `entry`: what meta says."""

    def __init__(
        self, store: StoreExamination, topic: str, path: str, logs: list[LogExamination], entry: Mapping[str, Any]
    ) -> None:
        self.store, self.topic, self.path = store, called(topic), os.path.join(path, FOLDER)
        self.levels = logs[:-1]  # the last one is that of acks in transactions
        self.entry = entry

    def run(self) -> None:
        try:
            self.config = QueueConfig.from_json(self.entry["config"], self.topic)
        except (SeglogError, KeyError, TypeError, ValueError) as error:
            self.store.find("queue settings", self.path, topic=self.topic, why=error)
            return
        names = self.store.names(self.path) or ()
        done = {name.removesuffix(".done") for name in names if name.endswith(".done")}
        for name in names:
            path = os.path.join(self.path, name)
            found = NAME.fullmatch(name)
            if found is None or int(found[1]) >= len(self.levels):
                if not TRANSIENT.fullmatch(name):
                    self.store.stranger(path)
            elif found[3] is None:
                if name not in done:  # else it does not count any more
                    self.chunk(path, int(found[1]), int(found[2]))
            elif found[3] != ".done":
                self.store.find("new chunk" if found[3] == ".new" else "bad chunk", path, topic=self.topic)

    def chunk(self, path: str, level: int, number: int) -> None:
        found, patches = self.look(path, level, number)
        if found:  # somebody may be in the middle of it
            time.sleep(NAP)
            again, patches = self.look(path, level, number)
            found = [finding for finding in again if finding in found]
        self.store.findings += found
        if found and patches is None:
            what = "set the states in it aside"
            self.store.mend(EARLY, path, what, partial(mends.set_chunk_aside, path))
        elif found and patches is not None:
            what = "mended the states in it, which the next opening counts anew" if patches else "has it counted anew"
            self.store.mend(EARLY, path, what, partial(mends.mend_chunk, path, tuple(patches)))

    def look(self, path: str, level: int, number: int) -> Look:
        """What is wrong with a chunk now."""
        data = self.store.content(path)
        log = self.levels[level]
        if data is None or not log.files:  # gone since it was listed, or told already
            return [], []
        chunk = Chunk(data, level, number, log.identity)
        about: dict[str, Any] = {"topic": self.topic}
        span = {"first": number * SLOTS, "last": (number + 1) * SLOTS - 1}
        if chunk.fault:
            return [say("chunk", path, size=min(len(data), SIZE), why=chunk.fault, **span, **about)], None
        found, patches = [], []
        end = self.end_of(log)
        if len(chunk.damaged):
            found.append(say("words", path, **self.place(chunk, chunk.damaged), **about))
            patches += [self.ready(chunk, i, end) for i in chunk.damaged.tolist()]
        wrong, right = self.times(chunk, level, end)
        if len(wrong):
            found.append(say("times", path, **self.place(chunk, wrong), **about))
            patches += right
        if self.is_believed() and not (chunk.room and (patches or chunk.counted)):
            found.append(say("counts", path, size=FIRST, **about))
            if not chunk.room:
                patches.append((ALLOCATED, bytes(8)))  # what there is is allocated again
        return found, patches

    def place(self, chunk: Chunk, slots: Numbers) -> dict[str, int]:
        first, last = int(slots[0]), int(slots[-1])
        return {
            "position": FIRST + first * SLOT_BYTES,
            "size": (last - first + 1) * SLOT_BYTES,
            "count": len(slots),
            "first": int(chunk.offsets[first]),
            "last": int(chunk.offsets[last]),
        }

    def ready(self, chunk: Chunk, i: int, end: int) -> tuple[int, bytes]:
        """What to write over a slot whose word is damaged. One behind the log's end is of a message that never was."""
        offset = int(chunk.offsets[i])
        word = ready_word(offset) if offset < end else 0
        return FIRST + i * SLOT_BYTES, word.to_bytes(8, "little") + bytes(SLOT_BYTES - 8)

    def end_of(self, log: LogExamination) -> int:
        """Where the log ends by now; asked after the states were read, so that none of them is of what comes later."""
        said = describe_words(log.path)
        return max(log.next, said["next_offset"] if said else 0)

    def is_believed(self) -> bool:
        """Whether the next opener takes what was counted for true, and nobody is at it."""
        said = describe_words(self.path)
        return said is not None and bool(said["ready"]) and not said["locked"]

    # ---- moments ------------------------------------------------------------------------------------

    def times(self, chunk: Chunk, level: int, end: int) -> tuple[Numbers, list[tuple[int, bytes]]]:
        """Slots whose moment is not what their message says, and what to write there."""
        slots = chunk.timed
        if not len(slots):
            return slots, []
        when = chunk.slots["when"]
        horizon = system_clock() + round(SECONDS_MAX * 1e6)
        records = {record.offset: record for record in self.levels[level].records_at(chunk.offsets[slots])}
        wrong, patches = [], []
        for i in slots.tolist():
            offset, moment = int(chunk.offsets[i]), int(when[i])
            record = records.get(offset)
            if record is None:
                # Nothing is there that could expire; but behind the end something may come to be.
                right = [] if offset >= end else [moment]
            elif chunk.state[i] == DELAYED and level < self.config.priorities:
                right = [moment] if 0 < moment <= horizon else []  # the word of a nack: nobody else knows it
            else:
                right = self.moments(record, level)
            if moment not in right:
                wrong.append(i)
                instead = right[0] if right and chunk.state[i] == DELAYED else 0
                patches.append((FIRST + i * SLOT_BYTES + 8, instead.to_bytes(8, "little", signed=True)))
        return np.array(wrong, np.int64), patches

    def moments(self, record: Record, level: int) -> list[int]:
        """When it is due, if it is one of the delayed ones; else when it expires: by its own word, or by the queue's."""
        own = record.headers.get(DUE if level == self.config.priorities else EXPIRES)
        found = [] if own is None or len(own) != 8 else [int.from_bytes(own, "little", signed=True)]
        if level < self.config.priorities and self.config.ttl is not None:
            found.append(record.timestamp + round(self.config.ttl * 1e6))
        return found
