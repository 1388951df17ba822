"""Positions: how far a group has come in each partition of a topic; the file `groups/<group>/<topic>.positions`.

    0       512     1024    1536    2048                      two slots per pair, each in a sector of its own:
    +-------+-------+-------+-------+-------+-------+---      a torn write costs one of them
    | A     | B     | A     | B     | A     | B     |  ..
    +-------+-------+-------+-------+-------+-------+---
    |<- the count ->|<-partition 0->|<-partition 1->|

    one slot, 64 bytes, little-endian; the rest of its sector is zero
    +0  magic       u32   "SLCP"
    +4  partition   u32   the number of the partition; 0xFFFFFFFF in the first pair
    +8  offset      i64   of the next record to be received; in the first pair, how many partitions follow
    +16 sequence    u64   1, 2, 3 ...: the higher of two valid slots counts
    +24 epoch       u32   the partition's epoch at that moment
    +28 generation  u32   of the group; 0 while groups have one member
    +32 topic       u64   the topic's id, so that a topic made anew under an old name does not inherit a place in it
    +40 timestamp   i64   when, µs since the epoch
    +48 reserved    u64   0
    +56 hash        u64   XXH3-64 of the 56 bytes before

A slot is valid if and only if its magic, partition, topic and hash are right. Commits go to the two slots in turn; the first one to
both, so that from then on a damaged slot always has a good neighbour: what is read is the last commit or the one before.

It promises that a commit survives the death of the process when it returns, and a power cut after `sync()`. Two valid
slots that never were are "nothing committed yet"; two damaged ones raise CorruptStore, and nobody guesses.
It leaves to others who may commit (`claim` allows one at a time) and what an offset means.

The file is written with zeros before it is mapped, so that a store into the map needs no new block. A reader in another process
may look in the middle of a store: the hash of that slot is then wrong, and it reads the commit before.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import threading
import weakref
from typing import NamedTuple

import xxhash

from seglog.config import PARTITIONS_MAX
from seglog.errors import ClosedError, CorruptStore, ForkedHandle, GroupInUse, StoreIOError
from seglog.files import O_BINARY, make_directory, sync_data, told, try_lock, unlock, write_whole

__all__ = ["Commit", "Positions"]

SECTOR = 512
PAIR = 2 * SECTOR
SLOT = struct.Struct("<IIqQIIQqQ")  # all but the hash
HASH = struct.Struct("<Q")
SLOT_BYTES = SLOT.size + HASH.size
MAGIC = int.from_bytes(b"SLCP", "little")
COUNT = 0xFFFFFFFF  # the "partition" of the first pair
SEQUENCE_MAX = 1 << 62  # nobody counts that far, and what is there must leave room for the next

assert SLOT_BYTES == 64

_held: weakref.WeakSet[Positions] = weakref.WeakSet()


class Commit(NamedTuple):
    """What one slot says."""

    offset: int
    sequence: int
    epoch: int
    generation: int
    timestamp: int


class Positions:
    """The committed positions of one group in one topic, mapped.

    Cost: a commit is two hashes at most and a store of 64 bytes, no system call; `sync` is one fdatasync.

    >>> positions = Positions("billing.positions", topic_id=7, partitions=2)
    >>> positions.committed(1) is None
    True
    >>> positions.commit(1, offset=40, epoch=1, timestamp=0)
    >>> positions.committed(1).offset
    40
    >>> positions.close()
    """

    def __init__(self, path: str, *, topic_id: int, partitions: int) -> None:
        self.path = path
        self.topic_id = topic_id
        self.partitions = 0
        self.dirty = False
        self._claimed = self._forked = self._failed = False
        self._fd = -1
        self._map: mmap.mmap | None = None
        self._lock = threading.Lock()  # the background thread syncs; nobody closes or remaps under it
        with told(path, "open the committed positions"):
            self._open(partitions)
        _held.add(self)

    # ---- open -------------------------------------------------------------------------------------

    def _open(self, partitions: int) -> None:
        try:
            self._fd = os.open(self.path, os.O_RDWR | O_BINARY)
        except FileNotFoundError:  # nothing less: a file that cannot be looked at holds commits
            self._make(partitions)
            self._fd = os.open(self.path, os.O_RDWR | O_BINARY)
        try:
            if os.fstat(self._fd).st_size >= PAIR and self._is_anothers():
                os.close(self._fd)
                self._make(partitions)
                self._fd = os.open(self.path, os.O_RDWR | O_BINARY)
            self._map_all()
            self.grow(partitions)
        except BaseException:
            self._release()
            raise

    def _make(self, partitions: int) -> None:
        """A whole new file, under its name in one step."""
        make_directory(os.path.dirname(self.path) or ".")
        data = bytearray(PAIR * (1 + partitions))
        for sequence in (1, 2):
            put(data, COUNT, Commit(partitions, sequence, 0, 0, 0), self.topic_id)
        write_whole(self.path, bytes(data))

    def _is_anothers(self) -> bool:
        """Whether the file belongs to a topic that was deleted and whose name now means another one."""
        topics = owners(os.read(self._fd, PAIR))
        return bool(topics) and self.topic_id not in topics

    def _map_all(self) -> None:
        size = os.fstat(self._fd).st_size
        if size < PAIR:
            raise self._damage(f"has {size:,} bytes, less than its first pair of slots")
        self._map = mmap.mmap(self._fd, size)
        count = self._read(COUNT)
        if count is None:
            raise self._damage("does not say how many partitions it has")
        if count.offset >= size // PAIR:
            raise self._damage(f"has {size:,} bytes, and says that they are {count.offset:,} partitions")
        self.partitions = count.offset

    def grow(self, partitions: int) -> None:
        """Make room for more partitions; what is committed stays. Zeros first, then the count: a crash between leaves
        a file that is longer than it says, which harms nobody."""
        if partitions <= self.partitions:
            return
        with told(self.path, "add partitions to the committed positions"):
            old = PAIR * (1 + self.partitions)
            os.lseek(self._fd, old, os.SEEK_SET)
            zeros = memoryview(bytes(PAIR * (1 + partitions) - old))
            while zeros:
                zeros = zeros[os.write(self._fd, zeros) :]
            os.fsync(self._fd)
            with self._lock:
                self._mapped.close()
                self._map = mmap.mmap(self._fd, PAIR * (1 + partitions))
            self._write(COUNT, partitions, 0, 0)
            self.sync()
        self.partitions = partitions

    # ---- read and commit ----------------------------------------------------------------------------

    def committed(self, partition: int) -> Commit | None:
        """The last commit for `partition`; None when there is none yet. Raises CorruptStore when both slots are damaged."""
        return self._read(partition)

    def commit(self, partition: int, offset: int, epoch: int, timestamp: int) -> None:
        """The next record to be received is `offset`. It is for the caller to know that nobody else commits."""
        self._write(partition, offset, epoch, timestamp)

    def sync(self) -> None:
        """Returns when every commit before it survives a power cut. One fdatasync.

        A sync that fails is final: the kernel may call the same pages clean the next time, so nothing is promised any
        more until the file is opened anew.
        """
        with self._lock:
            mapped = self._mapped
            # Lowered first: a commit that comes in between raises it again, and is synced once more.
            self.dirty = False
            try:
                with told(self.path, "sync the committed positions"):
                    if sys.platform != "linux":
                        mapped.flush()
                    sync_data(self._fd)
            except BaseException:
                self._failed = True
                raise

    # ---- one at a time ----------------------------------------------------------------------------

    def claim(self, group: str, topic: str) -> None:
        """Be the one that commits, until `close` or the end of the process. Raises GroupInUse when another is."""
        with told(self.path, "claim the group"):
            alone = try_lock(self._fd)
        if not alone:
            raise GroupInUse(
                f"group {group} already has a live consumer of topic {topic}, in this process or another, and for "
                "now a group has one. Close that one, wait for it to end, or use another group, which gets its own "
                "copy of every record. Nothing was read or committed.",
                group=group,
                topic=topic,
                path=self.path,
            )
        self._claimed = True
        # Another process's last sync may have failed, after which the kernel calls pages clean that are not on the
        # disk: store every byte as it is, so that our next sync writes them all.
        self._mapped[:] = self._mapped[:]
        self.dirty = True

    def close(self) -> None:
        """Let go of the file. Commits that were not synced are in the kernel's hands, as after `fsync="never"`."""
        _held.discard(self)
        with self._lock:
            if self._fd >= 0 and self._claimed:
                unlock(self._fd)
            self._release()

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def _release(self) -> None:
        mapped, self._map = self._map, None
        if mapped is not None:
            mapped.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self._claimed = False

    # ---- slots ------------------------------------------------------------------------------------

    @property
    def _mapped(self) -> mmap.mmap:
        if self._forked:
            raise ForkedHandle(
                "this consumer was carried across a fork, and its place belongs to the parent. Open one of its own in "
                "the child. Nothing was committed.",
                path=self.path,
            )
        if self._failed:
            raise StoreIOError(
                f"a sync of {self.path} failed before, so commits may not be on the disk. Close the consumer and "
                "open it again; it starts from what can be read.",
                path=self.path,
            )
        if self._map is None:
            raise ClosedError(f"the committed positions {self.path} are closed; nothing was committed", path=self.path)
        return self._map

    def _read(self, partition: int) -> Commit | None:
        best, damaged = pair_of(self._mapped, partition, self.topic_id)
        if best is None and len(damaged) == 2:
            what = "its count of partitions" if partition == COUNT else f"partition {partition}"
            raise self._damage(f"has two damaged slots for {what}")
        return best

    def _write(self, partition: int, offset: int, epoch: int, timestamp: int) -> None:
        mapped = self._mapped
        last = self._read(partition)
        sequence = 1 if last is None else last.sequence + 1
        for number in (sequence,) if last is not None else (1, 2):
            put(mapped, partition, Commit(offset, number, epoch, 0, timestamp), self.topic_id)
        self.dirty = True

    def _damage(self, what: str) -> CorruptStore:
        return CorruptStore(
            f"{self.path} {what}: the place of this group in this topic is lost. The records themselves are not "
            "touched. `seglog doctor --repair` mends what can be; or delete that file, and the group starts again where "
            "its start= says; records it had done then come a second time.",
            path=self.path,
        )

    def __repr__(self) -> str:
        return f"<Positions {self.path}, {self.partitions} partitions{', closed' if self.closed else ''}>"


def put(data: mmap.mmap | bytearray, partition: int, commit: Commit, topic_id: int) -> None:
    """Into the slot that its sequence says: even ones go to the first of the pair, odd ones to the second."""
    offset, sequence, epoch, generation, timestamp = commit
    body = SLOT.pack(MAGIC, partition, offset, sequence, epoch, generation, topic_id, timestamp, 0)
    at = PAIR * ((partition + 1) & COUNT) + SECTOR * (sequence & 1)
    data[at : at + SLOT_BYTES] = body + HASH.pack(xxhash.xxh3_64_intdigest(body))


def pair_of(data: mmap.mmap | bytes | bytearray, partition: int, topic_id: int) -> tuple[Commit | None, list[int]]:
    """The commit that holds, and the positions of damaged slots: none where nothing was ever written."""
    pair = PAIR * ((partition + 1) & COUNT)
    best: Commit | None = None
    damaged = []
    for at in (pair, pair + SECTOR):
        slot = data[at : at + SLOT_BYTES]
        if intact(slot):
            _, number, offset, sequence, epoch, generation, topic, timestamp, _ = SLOT.unpack_from(slot)
            sound = 0 < offset <= PARTITIONS_MAX if partition == COUNT else offset >= 0
            if number != partition or topic != topic_id or not sound or not 0 < sequence < SEQUENCE_MAX:
                damaged.append(at)
            elif best is None or sequence > best.sequence:
                best = Commit(offset, sequence, epoch, generation, timestamp)
        elif any(slot):
            damaged.append(at)
    return best, damaged


def owners(data: bytes) -> set[int]:
    """The ids of the topics that the first pair of slots names."""
    slots = [data[at : at + SLOT_BYTES] for at in (0, SECTOR)]
    return {SLOT.unpack_from(slot)[6] for slot in slots if intact(slot)}


def intact(slot: bytes | bytearray) -> bool:
    """Whether these 64 bytes are some slot that was once written whole."""
    if len(slot) < SLOT_BYTES or not slot.startswith(b"SLCP"):
        return False
    (expected,) = HASH.unpack_from(slot, SLOT.size)
    return bool(xxhash.xxh3_64_intdigest(slot[: SLOT.size]) == expected)


def _after_fork_in_child() -> None:
    # A child that keeps a copy of the descriptor would keep the claim alive after its parent's death. It has no
    # claim of its own: the consumer it inherited is not usable there.
    for positions in list(_held):
        positions._forked = True
        positions._lock = threading.Lock()  # the parent's may have been held by a thread that is not here
        positions._release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
