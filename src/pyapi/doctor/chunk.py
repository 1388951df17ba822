"""Chunk: one file of a queue's states, judged: its header, the check of each word, and what follows from the words.

    0       header    u64 "SLOGCHK1"  u32 version  u32 level  i64 number  u64 partition_id  u64 hash of these 32 bytes; then derived
    4,096   blocks    1,024 x 32: i64 lease_min  i64 due_min  u8 count by state [8]  u64 0          derived
    36,864  slots     65,536 x 32: u64 word  i64 when  i64 first  u32 group  u32 0

Only a word has a check (docs/format.md, section 10). What is derived is made anew in each boot: it
matters where this boot's is believed.
`when` is compared with the message by who knows the log (queue.py); here it is only told where one stands.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from seglog.engine.checksum import xxh3

__all__ = ["Chunk"]

MAGIC, VERSION = 0x314B4843474F4C53, 1
HEADER = struct.Struct("<QIIqQQqqq8I")
HASHED, TABLE, FIRST, SIZE = 32, 4096, 36_864, 2_134_016
SLOTS, BLOCKS, BLOCK, SLOT_BYTES, GROWS = 65_536, 1024, 64, 32, 4096
SLOT = np.dtype([("word", "<u8"), ("when", "<i8"), ("first", "<i8"), ("group", "<u4"), ("zero", "<u4")])
ROW = np.dtype([("lease_min", "<i8"), ("due_min", "<i8"), ("n", "u1", (8,)), ("zero", "<u8")])
UNTOUCHED, READY, LEASED, DELAYED, DOOMED, WAITING, SETTLED = range(7)
NEVER = np.iinfo(np.int64).max
LOW = np.uint64((1 << 48) - 1)

Numbers = npt.NDArray[np.int64]


def checks(low: npt.NDArray[np.uint64], offsets: Numbers) -> npt.NDArray[np.uint64]:
    """The 16 bits that words with these lower 48 bits have on top."""
    mixed = (low ^ offsets.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xD6E8FEB86659FD93)
    found: npt.NDArray[np.uint64] = mixed >> np.uint64(48)
    return found


def ready_word(offset: int) -> int:
    """A word that says: to be handed out, not tried yet."""
    low = np.array([READY], np.uint64)
    return READY | int(checks(low, np.array([offset], np.int64))[0]) << 48


class Chunk:
    """What the bytes of a chunk say. `fault`: why an opener would not take it, as the end of a sentence; then nothing else
    counts."""

    def __init__(self, data: bytes, level: int, number: int, partition_id: int) -> None:
        self.size = len(data)
        data = data[:SIZE].ljust(SIZE, b"\0")  # a power cut may leave it shorter; an opener makes it longer
        self.fault = ""
        magic, version, level_said, number_said, id_said, hash_said, self.allocated, *derived = HEADER.unpack_from(data)
        self.derived: list[int] = derived
        if self.size > SIZE:
            self.fault = f"it has {self.size:,} bytes, more than a chunk"
        elif magic != MAGIC or version != VERSION or hash_said != xxh3(data[:HASHED]):
            self.fault = "its header is not what was written"
        elif (level_said, number_said, id_said) != (level, number, partition_id):
            self.fault = f"it says that it is chunk {number_said} of priority {level_said}, or is of another queue"
        self.slots = np.frombuffer(data, SLOT, SLOTS, FIRST)
        self.rows = np.frombuffer(data, ROW, BLOCKS, TABLE)
        self.offsets: Numbers = np.arange(SLOTS, dtype=np.int64) + number * SLOTS
        word = self.slots["word"]
        self.state: npt.NDArray[np.uint8] = (word & np.uint64(7)).astype(np.uint8)
        wrong = (word >> np.uint64(48) != checks(word & LOW, self.offsets)) | (self.state == UNTOUCHED)
        self.damaged: Numbers = np.flatnonzero(wrong & (word != 0))

    @property
    def timed(self) -> Numbers:
        """Slots of messages that nobody has, with a moment at which they expire or are due."""
        waits = (self.state == UNTOUCHED) | (self.state == READY) | (self.state == DELAYED) | (self.state == WAITING)
        waits[self.damaged] = False
        return np.flatnonzero(waits & (self.slots["when"] != 0))

    @property
    def room(self) -> bool:
        """Whether what it says of the blocks that it has can be."""
        touched = np.flatnonzero(self.slots["word"])
        last = int(touched[-1]) if len(touched) else -1
        return bool(last < self.allocated <= SLOTS and self.allocated % GROWS == 0)

    @property
    def counted(self) -> bool:
        """Whether its counts, and the earliest times of blocks, are those of its words."""
        block = np.repeat(np.arange(BLOCKS), BLOCK)
        n = np.bincount(block * 8 + self.state, minlength=BLOCKS * 8).reshape(BLOCKS, 8)[:, 1:]
        lease_min, due_min, _, *total = self.derived  # nobody counts those that were never handed out
        when = self.slots["when"]
        leased = self.state == LEASED
        due = ~leased & (self.state < SETTLED) & (self.state != DOOMED)
        leases = earliest(when, leased)
        dues = earliest(when, due)
        return bool(
            (self.rows["n"][:, 1:] == n).all()
            and n.sum(axis=0).tolist() == total
            and (self.rows["lease_min"] <= leases).all()
            and (self.rows["due_min"] <= dues).all()
            and lease_min <= leases.min()
            and due_min <= dues.min()
        )


def earliest(when: npt.NDArray[np.int64], which: npt.NDArray[np.bool_]) -> Numbers:
    """Of each block, the first moment among those slots."""
    found: Numbers = np.where(which & (when != 0), when, NEVER).reshape(BLOCKS, BLOCK).min(axis=1)
    return found
