# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Places: how far a group has come in one partition: a pair of slots in a mapped file, and the member that may move it.

    pair, 1024 bytes    +0  slot A    +64  owner    +512  slot B

A commit writes the slot that is not the last one: 64 bytes with a hash, so that whatever dies in the middle leaves the commit before. It costs
no system call and takes no lock, since one member owns a place at a time: the owner stands in the file, a commit by anybody else raises Fenced,
and only the group's lock (the caller's business) lets the owner change.

It promises that a commit is seen by every process when it returns and survives the death of its own, and that an owner of another boot, or
of a copied file, is nobody. Shared fields: a Place is used by one thread at a time; `dirty` is lowered by the thread that syncs, before it
does.
"""
import os

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from seglog.engine cimport platform
from seglog.engine.batch cimport Batch
from seglog.engine.checksum cimport xxh3_64
from seglog.engine.layout cimport PLACE_MAGIC, PLACE_OWNER, PLACE_PAIR, PLACE_SECTOR, PlaceOwner, PlaceSlot
from seglog.engine.liveness cimport boot_hash
from seglog.engine.log cimport Log
from seglog.engine.mapping cimport Mapping
from seglog.engine.record cimport to_offset

from seglog.engine.errors import CorruptStore, Fenced, ForkedHandle, OffsetOutOfRange


def home_of(int fd) -> int:
    """What makes an owner that is written in this file believable: this boot, this very file."""
    cdef uint64_t words[3]
    status = os.fstat(fd)
    words[0], words[1], words[2] = boot_hash(), status.st_dev, status.st_ino
    return xxh3_64(<const char *>words, sizeof(words))


cdef class Place:
    """The place of a group in partition `log.partition`; `mapping` is its positions file, `home` is `home_of` it.

    `at` is where `next` reads on; `committed` what the file says. Made by the face, once for each partition that a member owns.
    """

    def __init__(self, Log log not None, Mapping mapping not None, uint64_t topic, uint64_t home):
        cdef int64_t start = PLACE_PAIR * (log.partition + 1)
        if start + PLACE_PAIR > mapping.size or not mapping.writable:
            raise ValueError(f"partition {log.partition} has no pair in a mapping of {mapping.size:,} bytes")
        self.log, self.mapping, self.topic, self.home = log, mapping, topic, home
        self.pair = mapping.data + start
        self.cell = <PlaceOwner *>(self.pair + PLACE_OWNER)

    # ---- slots -------------------------------------------------------------------------------------------------

    cdef bint best(self, void *found) except -1:
        """The valid slot with the higher sequence, copied before it is looked at: a commit may be under way."""
        cdef PlaceSlot slot
        cdef PlaceSlot *out = <PlaceSlot *>found
        cdef int i, damaged = 0
        cdef bint got = False
        for i in range(2):
            memcpy(&slot, self.pair + i * PLACE_SECTOR, sizeof(slot))
            if slot.magic == PLACE_MAGIC and slot.partition == <uint32_t>self.log.partition and slot.topic == self.topic \
                    and slot.offset >= 0 and slot.sequence and not slot.sequence >> 62 and slot.hash == xxh3_64(<const char *>&slot, sizeof(slot) - 8):
                if not got or slot.sequence > out.sequence:
                    out[0] = slot
                got = True
            elif slot.magic or slot.sequence or slot.hash or slot.topic:
                damaged += 1
        if not got and damaged == 2:
            raise CorruptStore(
                f"both slots for partition {self.log.partition} of {self.log.topic} are damaged: the place of this group there is lost. The "
                "records themselves are not touched. Reset the group (`seglog group reset`), or delete its .positions file: it begins again "
                "where start= says, and records it had done then come a second time.", partition=self.log.partition)
        return got

    cdef int write(self, int64_t offset, uint32_t generation) except -1:
        cdef PlaceSlot slot
        cdef uint64_t last = self.sequence
        memset(&slot, 0, sizeof(slot))
        slot.magic, slot.partition, slot.offset = PLACE_MAGIC, <uint32_t>self.log.partition, offset
        slot.epoch, slot.generation, slot.topic = self.log.w.epoch, generation, self.topic
        slot.timestamp = self.log.now()
        while True:
            self.sequence += 1
            slot.sequence = self.sequence
            slot.hash = xxh3_64(<const char *>&slot, sizeof(slot) - 8)
            memcpy(self.pair + (self.sequence & 1) * PLACE_SECTOR, &slot, sizeof(slot))
            if last or self.sequence == 2:      # the first one goes to both: a damaged slot then always has a good neighbour
                break
        self.dirty = True
        if offset == self.at:
            self.moved = False
        return 0

    def committed(self):
        """`(offset, epoch, generation, timestamp in µs)` of the last commit; None when there is none. Raises CorruptStore."""
        cdef PlaceSlot slot
        if not self.best(&slot):
            return None
        return slot.offset, slot.epoch, slot.generation, slot.timestamp

    # ---- owning ------------------------------------------------------------------------------------------------

    @property
    def owner(self):
        """The member that the file names, as its number; 0 for nobody."""
        cdef int64_t member = platform.load_i64(&self.cell.member)
        return member if self.cell.home == self.home and <uint32_t>member else 0

    def take(self, int64_t member):
        """Under the group's lock: `member` (a liveness word << 32 | a number) may commit here, and nobody else."""
        cdef PlaceSlot slot
        self.sequence = slot.sequence if self.best(&slot) else 0
        self.member = member
        self.slot = self.log.shared.liveness.word
        platform.store_i64(&self.cell.member, member)
        self.cell.home = self.home
        # Another process's last sync may have failed, after which the kernel calls pages clean that are not on disk: store all again.
        memcpy(&slot, self.pair, sizeof(slot))
        memcpy(self.pair, &slot, sizeof(slot))
        memcpy(&slot, self.pair + PLACE_SECTOR, sizeof(slot))
        memcpy(self.pair + PLACE_SECTOR, &slot, sizeof(slot))
        self.dirty = True

    def release(self):
        """Let the next one have it; nothing when it is another's already."""
        # A forked child carries a copy; the place is its parent's.
        if self.member and self.owner == self.member and self.log.shared.liveness.word == self.slot:
            # One that was evicted in this very moment must not take it from its new owner. Numbers are of one member only, and the
            # low half is the first one: the files are little-endian.
            platform.cas_u32(<uint32_t *>&self.cell.member, <uint32_t>self.member, 0)
        self.member = 0

    def expel(self):
        """Under the group's lock: whoever owns it, owns it no more; its commits raise Fenced from now on."""
        platform.store_i64(&self.cell.member, 0)

    cdef int check_owner(self) except -1:
        if self.refusal is not None:
            raise self.refusal
        if self.member and self.log.shared.liveness.word != self.slot:
            raise ForkedHandle(
                "this consumer was carried across a fork, and its partitions belong to the parent. Open one of its own in the child. Nothing was "
                "committed.", path=self.log.path)
        if self.member == 0 or self.cell.home != self.home or platform.load_i64(&self.cell.member) != self.member:
            raise Fenced(
                f"partition {self.log.partition} of {self.log.topic} belongs to another member of the group now, or to none. Nothing was committed: "
                "the records since the last commit go to its new owner.", topic=self.log.topic, partition=self.log.partition, member=self.member)
        return 0

    # ---- moving ------------------------------------------------------------------------------------------------

    def check(self, offset):
        """Raise what `commit` would, and store nothing."""
        cdef int64_t wanted = to_offset(offset)
        self.check_owner()
        if wanted < 0 or wanted > platform.load_i64(&self.log.w.next_offset):
            raise OffsetOutOfRange(
                f"cannot commit offset {wanted:,} of partition {self.log.partition}: the next record there will be {self.log.next_offset:,}. "
                "Nothing was committed.", offset=wanted, first=self.log.first_offset, next=self.log.next_offset, partition=self.log.partition)

    def commit(self, int64_t offset, uint64_t generation=0):
        """The next record to be received is `offset`. Raises Fenced, OffsetOutOfRange. About 50 ns: a hash and a store of 64 bytes."""
        if self.refusal is not None or self.log.shared.liveness.word != self.slot or self.member == 0 or self.cell.home != self.home \
                or platform.load_i64(&self.cell.member) != self.member or self.log.shut \
                or offset < 0 or offset > platform.load_i64(&self.log.w.next_offset):
            self.check(offset)      # says what it is
            self.log.check_state()
        self.write(offset, <uint32_t>generation)

    def put(self, int64_t offset, uint64_t generation=0):
        """Under the group's lock, while nobody owns the place: set it, as a reset does, or a new group's beginning; also where
        both slots are damaged."""
        cdef PlaceSlot slot
        try:
            self.sequence = slot.sequence if self.best(&slot) else 0
        except CorruptStore:
            self.sequence = 0
        self.write(offset, <uint32_t>generation)

    def next(self, int64_t max_records):
        """The batch at `at`, which moves behind it; None when there is nothing. Raises OffsetOutOfRange where it was trimmed away."""
        cdef Batch batch
        cdef int64_t limit
        if self.log.shut:
            self.log.check_state()
        limit = platform.load_i64(&self.log.w.durable_offset if self.durable else &self.log.w.next_offset)
        if self.at >= limit:
            return None
        if self.at < platform.load_i64(&self.log.w.first_offset):
            self.log._out_of_range(self.at)
        batch = self.log.collect(self.at, limit, max_records, 1048576)
        self.moved = True
        self.at = limit if batch is None else batch.next_offset      # None: offsets that no record has
        return batch

    def __repr__(self):
        return f"<Place {self.log.topic}[{self.log.partition}] at {self.at:,}>"


def first_ready(list places not None, Py_ssize_t turn) -> int:
    """The index of the first place from `turn` on, around the end, that has something to hand out; -1 when none has. A load each."""
    cdef Py_ssize_t n = len(places), i
    cdef Place place
    for i in range(n):
        place = <Place?>places[(turn + i) % n]
        if not place.paused and place.at < platform.load_i64(&place.log.w.durable_offset if place.durable else &place.log.w.next_offset):
            return (turn + i) % n
    return -1
