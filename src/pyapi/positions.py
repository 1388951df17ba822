"""Positions: how far a group has come in each partition of a topic; the file `groups/<group>/<topic>.positions`.

    0       512     1024    1536    2048                      two slots per pair, each in a sector of its own:
    +-------+-------+-------+-------+-------+-------+---      a torn write costs one of them
    | A     | B     | A     | B     | A     | B     |  ..
    +-------+-------+-------+-------+-------+-------+---
    |<- the count ->|<-partition 0->|<-partition 1->|

    one slot, 64 bytes, little-endian; behind slot A stand the member that owns the place and two young slots, for this boot only
    +0  magic       u32   "SLCP"
    +4  partition   u32   the number of the partition; 0xFFFFFFFF in the first pair
    +8  offset      i64   of the next record to be received; in the first pair, how many partitions follow
    +16 sequence    u64   1, 2, 3 ...: the higher of two valid slots counts
    +24 epoch       u32   the partition's epoch at that moment
    +28 generation  u32   of the group's membership, at that moment
    +32 topic       u64   the topic's id, so that a topic made anew under an old name does not inherit a place in it
    +40 timestamp   i64   when, µs since the epoch
    +48 file        u64   in the first pair the file's own number, random; else 0
    +56 hash        u64   XXH3-64 of the 56 bytes before

A slot is valid if and only if its magic, partition, topic and hash are right. Commits go to the two slots in turn; the first one to
both, so that from then on a damaged slot always has a good neighbour: what is read is the last commit or the one before.

A commit of a transaction stands in a young slot until the transaction is on disk, and `sync` then puts it into A or B
(`engine.places`). What a power cut took from the young ones is in the decisions of the transactions that hold: `restore`
puts it back.

It promises that a commit survives the death of the process when it returns, and a power cut after `sync()`. Two valid
slots that never were are "nothing committed yet"; two damaged ones raise CorruptStore, and nobody guesses.
It leaves the slots themselves to the engine (`engine.places`), and to others who may commit and what an offset means.

The file is written with zeros before it is mapped, so that a store into the map needs no new block. A reader in another process
may look in the middle of a store: the hash of that slot is then wrong, and it reads the commit before.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
import sys
import threading
import weakref
from collections.abc import Mapping as Mappings
from typing import NamedTuple

import xxhash

from seglog.config import PARTITIONS_MAX
from seglog.engine.log import Log
from seglog.engine.mapping import Mapping
from seglog.engine.places import Place, home_of
from seglog.errors import ClosedError, CorruptStore, ForkedHandle, StoreIOError
from seglog.files import O_BINARY, make_directory, read_whole, sync_data, told, write_all, write_whole

__all__ = ["Commit", "Positions", "is_file", "move_of", "restore"]

SECTOR = 512
PAIR = 2 * SECTOR
SLOT = struct.Struct("<IIqQIIQqQ")  # all but the hash
FILE = 8  # its field `file`
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
    """The committed positions of one group in one topic, mapped; `place(log)` is that of a partition.

    Cost: opening takes some file operations; a commit no system call; `sync` is one fdatasync.
    """

    def __init__(self, path: str, *, topic_id: int, partitions: int) -> None:
        self.path = path
        self.topic_id = topic_id
        self.partitions = 0
        self._refusal: Exception | None = None
        self._fd = -1
        self._map: Mapping | None = None
        self._places: dict[Place, None] = {}
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
            self._home = home_of(self._fd)
            self._number = number_of(self._head(), self.topic_id)
            self.partitions = self._count().offset
            self._map = Mapping(self._fd, PAIR * (1 + self.partitions), True)
            self.grow(partitions)
        except BaseException:
            self._release()
            raise

    def _make(self, partitions: int) -> None:
        """A whole new file, under its name in one step."""
        make_directory(os.path.dirname(self.path) or ".")
        data = bytearray(PAIR * (1 + partitions))
        number = new_number()
        for sequence in (1, 2):
            put(data, COUNT, Commit(partitions, sequence, 0, 0, 0), self.topic_id, number)
        write_whole(self.path, bytes(data))

    def _head(self) -> bytes:
        """The first pair of slots."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        return os.read(self._fd, PAIR)

    def _is_anothers(self) -> bool:
        """Whether the file belongs to a topic that was deleted and whose name now means another one."""
        topics = owners(self._head())
        return bool(topics) and self.topic_id not in topics

    def _count(self) -> Commit:
        """How many partitions there are, as a commit says it."""
        size = os.fstat(self._fd).st_size
        if size < PAIR:
            raise self._damage(f"has {size:,} bytes, less than its first pair of slots")
        count, _ = pair_of(self._head(), COUNT, self.topic_id)
        if count is None:
            raise self._damage("does not say how many partitions it has")
        if count.offset >= size // PAIR:
            raise self._damage(f"has {size:,} bytes, and says that they are {count.offset:,} partitions")
        return count

    def grow(self, partitions: int) -> None:
        """Make room for more partitions; what is committed stays. Zeros first, then the count: a crash between leaves
        a file that is longer than it says, which harms nobody. Under the group's lock."""
        if partitions <= self.partitions:
            return
        with told(self.path, "add partitions to the committed positions"), self._lock:
            self._check()
            last = self._count()
            if last.offset < partitions:  # else another process was quicker
                self._write_at(PAIR * (1 + last.offset), bytes(PAIR * (partitions - last.offset)))
                os.fsync(self._fd)
                head = bytearray(PAIR)
                put(head, COUNT, Commit(partitions, last.sequence + 1, 0, 0, 0), self.topic_id, self._number)
                at = SECTOR * ((last.sequence + 1) & 1)
                self._write_at(at, bytes(head[at : at + SLOT_BYTES]))
                os.fsync(self._fd)
            self.partitions = max(partitions, last.offset)
            # Places that were handed out keep the map that they have: both are of the same pages.
            self._map = Mapping(self._fd, PAIR * (1 + self.partitions), True)

    def _write_at(self, position: int, data: bytes) -> None:
        os.lseek(self._fd, position, os.SEEK_SET)
        write_all(self._fd, data)

    # ---- read and commit ----------------------------------------------------------------------------

    def place(self, log: Log) -> Place:
        """The group's place in the partition of `log`; `take` it before committing."""
        self._check()
        assert self._map is not None
        place = Place(log, self._map, self.topic_id, self._home, self._number, self.path)
        with self._lock:
            self._places[place] = None
        return place

    def look(self, log: Log) -> Place | None:
        """The same, to look at and not to commit; None where the file has no room for that partition yet."""
        with self._lock:
            self._check()
            if log.partition >= self.partitions and (count := self._count().offset) > self.partitions:
                self.partitions = count  # another process made room
                self._map = Mapping(self._fd, PAIR * (1 + count), True)
            if log.partition >= self.partitions:
                return None
            assert self._map is not None
            return Place(log, self._map, self.topic_id, self._home, self._number, self.path)

    def forget(self, place: Place) -> None:
        """The place was given to another member; what was committed there is synced with the rest."""
        with self._lock:
            self._dirty_left = self._dirty_left or place.dirty
            self._places.pop(place, None)  # closing forgets all

    _dirty_left = False

    @property
    def dirty(self) -> bool:
        """Whether something was committed that is not on the disk yet."""
        with self._lock:
            return self._dirty_left or any(place.dirty for place in self._places)

    def sync(self) -> None:
        """Returns when every commit before it survives a power cut. One fdatasync, and those of the transactions that commits
        belong to.

        A sync that fails is final: the kernel may call the same pages clean the next time, so nothing is promised any
        more until the file is opened anew.
        """
        with self._lock:
            self._check()
            # Lowered first: a commit that comes in between raises it again, and is synced once more.
            self._dirty_left = False
            for place in self._places:
                place.dirty = False
            try:
                with told(self.path, "sync the committed positions"):
                    for place in self._places:
                        place.flush()
                    if sys.platform != "linux" and self._map is not None:
                        self._map.flush()
                    sync_data(self._fd)
            except BaseException:
                self._refuse(
                    StoreIOError(
                        f"a sync of {self.path} failed before, so commits may not be on the disk. Close the consumer and "
                        "open it again; it starts from what can be read.",
                        path=self.path,
                    )
                )
                raise

    def _refuse(self, error: Exception) -> None:
        self._refusal = error
        for place in self._places:
            place.refusal = error

    def _check(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    # ---- close ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the file. Commits that were not synced are in the kernel's hands, as after `fsync="never"`."""
        _held.discard(self)
        with self._lock:
            if self._fd >= 0:
                self._refuse(
                    ClosedError(f"the committed positions {self.path} are closed; nothing was committed", path=self.path)
                )
            self._release()

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def after_fork(self) -> None:
        """In the child: the places are the parent's."""
        self._lock = threading.Lock()  # the parent's may have been held by a thread that is not here
        self._refuse(
            ForkedHandle(
                "this consumer was carried across a fork, and its place belongs to the parent. Open one of its own in "
                "the child. Nothing was committed.",
                path=self.path,
            )
        )
        self._release()

    def _release(self) -> None:
        self._map = None
        self._places.clear()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _damage(self, what: str) -> CorruptStore:
        return CorruptStore(
            f"{self.path} {what}: the place of this group in this topic is lost. The records themselves are not "
            "touched. `seglog doctor --repair` mends what can be; or delete that file, and the group starts again where "
            "its start= says; records it had done then come a second time.",
            path=self.path,
        )

    def __repr__(self) -> str:
        return f"<Positions {self.path}, {self.partitions} partitions{', closed' if self.closed else ''}>"


def put(data: mmap.mmap | bytearray, partition: int, commit: Commit, topic_id: int, number: int = 0) -> None:
    """Into the slot that its sequence says: even ones go to the first of the pair, odd ones to the second."""
    offset, sequence, epoch, generation, timestamp = commit
    body = SLOT.pack(MAGIC, partition, offset, sequence, epoch, generation, topic_id, timestamp, number)
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


def new_number() -> int:
    """For a file that is made: what a decision says about another one of the same name is not about it."""
    return secrets.randbits(63) + 1


def number_of(data: bytes, topic_id: int) -> int:
    """The file's own number, from its first pair of slots; 0 when that is damaged."""
    found = 0
    for slot in (data[at : at + SLOT_BYTES] for at in (0, SECTOR)):
        if intact(slot) and SLOT.unpack_from(slot)[6] == topic_id:
            found = SLOT.unpack_from(slot)[FILE]
    return found


def is_file(path: str, number: int) -> bool:
    """Whether the file there is the one with this number; False when there is none, or nobody can tell."""
    try:
        head = read_whole(path)[:PAIR]
    except OSError:
        return False
    return any(number_of(head, topic) == number for topic in owners(head))


def move_of(slot: bytes) -> tuple[int, int]:
    """The partition and the sequence of a commit that a decision holds."""
    _, partition, _, sequence, *_ = SLOT.unpack_from(slot)
    return partition, sequence


def restore(path: str, number: int, slots: Mappings[int, bytes]) -> None:
    """In a new boot, before anybody opens the file: the commits of transactions that hold, by partition, where the file has
    only older ones. Nothing where it is another file by now, or damaged. On disk when it returns."""
    try:
        fd = os.open(path, os.O_RDWR | O_BINARY)
    except FileNotFoundError:
        return  # the group was deleted, with its places
    try:
        data, written = read_whole(path), False
        for partition, slot in slots.items():
            _, _, _, sequence, _, _, topic_id, _, _ = SLOT.unpack_from(slot)
            pair = PAIR * (1 + partition)
            if number_of(data, topic_id) != number or len(data) < pair + PAIR:
                continue
            found, _ = pair_of(data, partition, topic_id)
            if found is not None and found.sequence >= sequence:
                continue
            for at in (0, SECTOR) if found is None else (SECTOR * (sequence & 1),):
                os.lseek(fd, pair + at, os.SEEK_SET)
                write_all(fd, slot)
            written = True
        if written:
            os.fsync(fd)
    finally:
        os.close(fd)


def intact(slot: bytes | bytearray) -> bool:
    """Whether these 64 bytes are some slot that was once written whole."""
    if len(slot) < SLOT_BYTES or not slot.startswith(b"SLCP"):
        return False
    (expected,) = HASH.unpack_from(slot, SLOT.size)
    return bool(xxhash.xxh3_64_intdigest(slot[: SLOT.size]) == expected)


def _after_fork_in_child() -> None:
    for positions in list(_held):
        positions.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
