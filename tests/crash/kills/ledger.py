"""Ledger: what children did to a log, noted where it survives their death, and what must therefore be found in it.

A *journal* is a mapped file of one child. A row is stored first and counted last, so whatever moment SIGKILL takes, the rows
that are counted are whole; and it costs no system call, so a child spends its time in the log and not in telling of it.

A writer notes what it is about to append (*intended*), and what the log then said (*acknowledged*, with the offset). Each
value says who wrote it, as which of its records, and carries a hash of itself. So a reader can tell

    lost         acknowledged, and not there
    moved        acknowledged at one offset, found at another
    duplicated   there twice
    reordered    two records of one writer, the later one first
    invented     never intended by anybody, or not what its writer wrote
    hole         offsets missing between two records of one boot
    untrimmed    below what a trim that returned had let go of

An intended record that was not acknowledged may be there or not: its append never returned.
"""

from __future__ import annotations

import itertools
import mmap
import os
import random
import struct
from collections.abc import Iterable
from typing import NamedTuple

import xxhash

INTENDED, ACKNOWLEDGED, TRIMMING, TRIMMED, SYNCED, CLOSED, OPENED, READ, REFUSED = range(1, 10)

HEAD = 8  # words before the first row
ROW = 4  # words of a row: kind and three numbers
IDENT = struct.Struct("<IQ")
FILLER = random.Random(0).randbytes(1 << 17)


class Journal:
    """The journal of one child. `note` is for the child; `rows` for whoever asks, also after its death."""

    def __init__(self, path: str | os.PathLike[str], rows: int = 50_000) -> None:
        self.path = os.fspath(path)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            size = max(os.fstat(fd).st_size, 8 * (HEAD + ROW * rows))
            os.ftruncate(fd, size)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("q")  # native words: a store of one is one store
        self.room = (size // 8 - HEAD) // ROW

    @property
    def count(self) -> int:
        return self._words[0]

    @property
    def full(self) -> bool:
        return self.count >= self.room - 1000

    def note(self, kind: int, a: int = 0, b: int = 0, c: int = 0) -> None:
        words, count = self._words, self._words[0]
        at = HEAD + ROW * count
        words[at], words[at + 1], words[at + 2], words[at + 3] = kind, a, b, c
        words[0] = count + 1

    def rows(self, start: int = 0) -> list[tuple[int, int, int, int]]:
        stop = self.count
        words = self._words[HEAD + ROW * start : HEAD + ROW * stop].tolist()
        return list(zip(words[0::4], words[1::4], words[2::4], words[3::4], strict=True))

    def close(self) -> None:
        self._words.release()
        self._map.close()


# ---- values ---------------------------------------------------------------------------------------------------------


def value_of(writer: int, number: int, size: int) -> bytes:
    """The value of that record of that writer: at least 20 bytes, of which the first 8 are the hash of the others."""
    at = number * 7919 % 65_536
    body = IDENT.pack(writer, number) + FILLER[at : at + max(size - 20, 0)]
    return xxhash.xxh3_64_digest(body) + body


def key_of(writer: int, number: int) -> bytes | None:
    """Every third record has a key, which belongs to its value."""
    return b"%d/%d" % (writer, number) if number % 3 == 0 else None


class Wrong(AssertionError):
    """The log broke a promise; `kind` is a word of the table above."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


class Seen(NamedTuple):
    """A record as it was read: who wrote it, as which of its own."""

    offset: int
    writer: int
    number: int


def seen(offset: int, value: bytes | None, key: bytes | None) -> Seen:
    if value is None or len(value) < 20 or xxhash.xxh3_64_digest(value[8:]) != value[:8]:
        raise Wrong("invented", f"offset {offset:,} holds {value[:32] if value else value!r}, which nobody wrote")
    writer, number = IDENT.unpack_from(value, 8)
    if key != key_of(writer, number):
        raise Wrong(
            "invented", f"offset {offset:,}: the key {key!r} does not belong to record {number} of writer {writer}"
        )
    return Seen(offset, writer, number)


class Look(NamedTuple):
    """All that one reader saw of a log."""

    first: int
    next: int
    epoch: int
    losses: tuple[str, ...]
    findings: tuple[str, ...]  # of verify()
    records: list[Seen]


def look(log, *, verify: bool = True) -> Look:
    """Read all of `log`, which nobody else may be changing."""
    first, following = log.first_offset, log.next_offset
    return Look(
        first,
        following,
        log.epoch,
        tuple(loss.kind for loss in log.losses),
        tuple(map(repr, log.verify())) if verify else (),
        [seen(record.offset, record.value, record.key) for record in log.records(first, following)],
    )


# ---- judging --------------------------------------------------------------------------------------------------------


class Ledger:
    """What all journals say together."""

    def __init__(self) -> None:
        self.intended: dict[int, int] = {}  # writer: how many
        self.acknowledged: dict[int, tuple[int, int]] = {}  # offset: writer, number
        self.trimming = self.trimmed = 0
        self.highest = 0  # no next offset was ever below this

    def take(self, writer: int, rows: Iterable[tuple[int, int, int, int]]) -> None:
        for kind, a, b, c in rows:
            if kind == INTENDED:  # numbers a .. a + b - 1
                self.intended[writer] = max(self.intended.get(writer, 0), a + b)
            elif kind == ACKNOWLEDGED:  # numbers a .. a + b - 1 got the offsets from c on
                for i in range(b):
                    if c + i in self.acknowledged:
                        raise Wrong("duplicated", f"offset {c + i:,} was given to writer {writer} and to another")
                    self.acknowledged[c + i] = (writer, a + i)
                self.highest = max(self.highest, c + b)
            elif kind == TRIMMING:
                self.trimming = max(self.trimming, a)
            elif kind == TRIMMED:
                self.trimmed = max(self.trimmed, a)
                self.trimming = max(self.trimming, a)

    def check(self, log: Look, *, contiguous: bool) -> None:
        """Raises Wrong unless `log` is what these journals allow. `contiguous`: no recovery ever skipped offsets."""
        if not self.trimmed <= log.first:
            raise Wrong(
                "untrimmed", f"the first offset is {log.first:,}, after a trim to {self.trimmed:,} had returned"
            )
        if log.first > max(self.trimming, 0) and contiguous:
            raise Wrong("lost", f"the first offset is {log.first:,}; nobody trimmed beyond {self.trimming:,}")
        if log.next < self.highest:
            raise Wrong("lost", f"the next offset is {log.next:,}, and {self.highest - 1:,} was acknowledged")
        if log.findings:
            raise Wrong("damage", f"verify says {log.findings[:3]}")
        offsets = [record.offset for record in log.records]
        if any(b <= a for a, b in itertools.pairwise(offsets)):
            raise Wrong("reordered", "offsets do not rise")
        if contiguous and offsets != list(range(log.first, log.next)):
            raise Wrong("hole", f"{len(offsets):,} records from {log.first:,} to {log.next:,}, in one boot")
        self.check_records(log.records)
        there = set(offsets)
        missing = [o for o in self.acknowledged if o >= log.first and o not in there]
        if missing:
            writer, number = self.acknowledged[missing[0]]
            raise Wrong(
                "lost",
                f"{len(missing)} records, the first at offset {min(missing):,} (record {number} of writer {writer})",
            )

    def check_records(self, records: list[Seen]) -> None:
        """What holds for any run of records that was read in order, whole or not."""
        last: dict[int, int] = {}
        places: dict[tuple[int, int], int] = {}
        for offset, writer, number in records:
            if number >= self.intended.get(writer, 0):
                raise Wrong("invented", f"offset {offset:,}: writer {writer} never wrote its record {number}")
            if (writer, number) in places:
                raise Wrong(
                    "duplicated",
                    f"record {number} of writer {writer} at {places[writer, number]:,} and at {offset:,}",
                )
            if number < last.get(writer, -1):
                raise Wrong("reordered", f"offset {offset:,}: writer {writer} wrote {number} before {last[writer]}")
            known = self.acknowledged.get(offset)
            if known is not None and known != (writer, number):
                raise Wrong(
                    "moved", f"offset {offset:,} holds record {number} of writer {writer}; acknowledged was {known}"
                )
            places[writer, number] = offset
            last[writer] = number


class Writer:
    """Appends values that say who wrote them, and notes each step. The broken ones, in tests, are made from this."""

    def __init__(self, writer: int, journal: Journal, number: int = 0) -> None:
        self.writer, self.journal, self.number = writer, journal, number

    def take(self, count: int) -> int:
        number, self.number = self.number, self.number + count
        self.journal.note(INTENDED, number, count)
        return number

    def one(self, log, size: int) -> int:
        number = self.take(1)
        offset = log.append(value_of(self.writer, number, size), key_of(self.writer, number))
        self.journal.note(ACKNOWLEDGED, number, 1, offset)
        return offset

    def many(self, log, sizes: list[int]) -> None:
        number = self.take(len(sizes))
        values = [value_of(self.writer, number + i, size) for i, size in enumerate(sizes)]
        keys = [key_of(self.writer, number + i) for i in range(len(sizes))]
        for span in log.append_many(values, keys):
            self.journal.note(ACKNOWLEDGED, number, span.stop - span.start, span.start)
            number += span.stop - span.start

    def trim(self, log, before: int) -> None:
        self.journal.note(TRIMMING, before)
        log.trim(before)
        self.journal.note(TRIMMED, before)


class Eager(Writer):
    """Broken on purpose: says that a record was appended before it was. What is judged with it must fail."""

    def one(self, log, size: int) -> int:
        number = self.take(1)
        self.journal.note(ACKNOWLEDGED, number, 1, log.next_offset)
        return log.append(value_of(self.writer, number, size), key_of(self.writer, number))


class Forgetful(Writer):
    """Broken on purpose: after an error, or a death, begins to count anew, so that two records are the same one."""

    def __init__(self, writer: int, journal: Journal, number: int = 0) -> None:
        super().__init__(1, journal, 0)


WRITERS = {"sound": Writer, "eager": Eager, "forgetful": Forgetful}
