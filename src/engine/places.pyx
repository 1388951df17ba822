# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Places: how far a group has come in one partition: a pair of slots in a mapped file, and the member that may move it.

    pair, 1024 bytes    +0  slot A    +64  owner    +128  young A    +192  young B    +512  slot B

A commit writes the slot that is not the last one: 64 bytes with a hash, so that whatever dies in the middle leaves the commit before. It costs
no system call and takes no lock, since one member owns a place at a time: the owner stands in the file, a commit by anybody else raises Fenced,
and only the group's lock (the caller's business) lets the owner change.

A commit that belongs to a transaction must not be on the disk before the transaction is. So it goes to one of two young slots, which
another boot does not believe, and with it every later one until then; `flush` puts the last of them into slot A or B once the transaction is
on disk. What a power cut takes of the young is told by the decisions of the transactions that hold (`seglog.positions.restore`). With
fsync "never" nothing is promised of the disk, and all go to A and B.

    announce   `pending` says which commit may be about to happen; whoever looks now asks the transaction log
    decide     under the lock of the transaction log, and only while the owner is still the owner
    move       the slot; `pending` is 0 again

Who takes a place over writes itself down first, and then passes through that lock: the member before has decided by then, or never will.

It promises that a commit is seen by every process when it returns and survives the death of its own, and that an owner of another boot, or
of a copied file, is nobody. Shared fields: a Place is used by one thread at a time, but for `flush`, which the thread that syncs calls: `busy` keeps
the two from writing the same slot; `dirty` is lowered by the thread that syncs, before it does.
"""
import os

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from seglog.engine cimport platform
from seglog.engine.batch cimport Batch
from seglog.engine.checksum cimport xxh3_64
from seglog.engine.layout cimport PLACE_MAGIC, PLACE_OWNER, PLACE_PAIR, PLACE_SECTOR, PLACE_YOUNG, PlaceOwner, PlaceSlot
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
    """The place of a group in partition `log.partition`; `mapping` is its positions file, `home` is `home_of` it,
    `file` its number and `path` where it is.

    `at` is where `next` reads on; `committed` what the file says. Made by the face, once for each partition that a member owns.
    """

    def __init__(self, Log log not None, Mapping mapping not None, uint64_t topic, uint64_t home, uint64_t file=0, str path not None=""):
        cdef int64_t start = PLACE_PAIR * (log.partition + 1)
        if start + PLACE_PAIR > mapping.size or not mapping.writable:
            raise ValueError(f"partition {log.partition} has no pair in a mapping of {mapping.size:,} bytes")
        self.log, self.mapping, self.topic, self.home, self.file, self.path = log, mapping, topic, home, file, path
        self.pair = mapping.data + start
        self.cell = <PlaceOwner *>(self.pair + PLACE_OWNER)

    # ---- slots -------------------------------------------------------------------------------------------------

    cdef bint look(self, const char *where, int64_t stride, PlaceSlot *out, int *damaged) noexcept:
        """The valid one of two slots with the higher sequence, copied before it is looked at: a commit may be under way."""
        cdef PlaceSlot slot
        cdef int i
        cdef bint got = False
        damaged[0] = 0
        for i in range(2):
            memcpy(&slot, where + i * stride, sizeof(slot))
            if slot.magic == PLACE_MAGIC and slot.partition == <uint32_t>self.log.partition and slot.topic == self.topic \
                    and slot.offset >= 0 and slot.sequence and not slot.sequence >> 62 and slot.hash == xxh3_64(<const char *>&slot, sizeof(slot) - 8):
                if not got or slot.sequence > out.sequence:
                    out[0] = slot
                got = True
            elif slot.magic or slot.sequence or slot.hash or slot.topic:
                damaged[0] += 1
        return got

    cdef bint best(self, void *found) except -1:
        """The last commit that happened, wherever it stands."""
        cdef PlaceSlot slot
        cdef PlaceSlot *out = <PlaceSlot *>found
        cdef int damaged, ignored
        cdef uint64_t pending
        cdef bint got = self.look(self.pair, PLACE_SECTOR, out, &damaged)
        if self.cell.home == self.home:
            if self.look(self.pair + PLACE_YOUNG, sizeof(slot), &slot, &ignored) and not (got and slot.sequence < out.sequence):
                out[0] = slot
                got = True
            pending = <uint64_t>platform.load_i64(<int64_t *>&self.cell.pending)
            if pending and not (got and pending <= out.sequence):
                said = self.log.decisions.commit_of(self.file, <uint32_t>self.log.partition, pending, self.cell.pending_from)
                if said is not None:
                    memcpy(out, <const char *>said[0], sizeof(slot))
                    got = True
        if not got and damaged == 2:
            raise CorruptStore(
                f"both slots for partition {self.log.partition} of {self.log.topic} are damaged: the place of this group there is lost. The "
                "records themselves are not touched. Reset the group (`seglog group reset`), or delete its .positions file: it begins again "
                "where start= says, and records it had done then come a second time.", partition=self.log.partition)
        return got

    cdef void fill(self, PlaceSlot *slot, int64_t offset, uint32_t generation, uint64_t sequence) noexcept:
        memset(slot, 0, sizeof(slot[0]))
        slot.magic, slot.partition, slot.offset = PLACE_MAGIC, <uint32_t>self.log.partition, offset
        slot.epoch, slot.generation, slot.topic = self.log.w.epoch, generation, self.topic
        slot.timestamp = self.log.now()
        slot.sequence = sequence
        slot.hash = xxh3_64(<const char *>slot, sizeof(slot[0]) - 8)

    cdef void store(self, PlaceSlot *slot, bint lonely) noexcept:
        """Into A or B. `lonely`: it is the first, and goes to both; a damaged slot then always has a good neighbour."""
        cdef PlaceSlot other = slot[0]
        if lonely:
            other.sequence -= 1
            other.hash = xxh3_64(<const char *>&other, sizeof(other) - 8)
            memcpy(self.pair + (other.sequence & 1) * PLACE_SECTOR, &other, sizeof(other))
        memcpy(self.pair + (slot.sequence & 1) * PLACE_SECTOR, slot, sizeof(slot[0]))

    cdef void keep(self, PlaceSlot *slot) noexcept:
        """The newest commit: where it belongs now."""
        cdef bint lonely = self.sequence == 0
        self.sequence = slot.sequence
        if self.young:
            while not platform.cas_u32(&self.busy, 0, 1):
                pass                            # the thread that flushes is in the middle of 64 bytes
            self.young = self.log.decisions.durable() < self.cell.decision
            if self.young:
                memcpy(self.pair + PLACE_YOUNG + (slot.sequence & 1) * <int64_t>sizeof(slot[0]), slot, sizeof(slot[0]))
            else:
                self.store(slot, lonely)
            platform.store_u32(&self.busy, 0)
        else:
            self.store(slot, lonely)
        self.dirty = True
        if slot.offset == self.at:
            self.moved = False

    cdef int write(self, int64_t offset, uint32_t generation) except -1:
        cdef PlaceSlot slot
        self.fill(&slot, offset, generation, self.sequence + 1 if self.sequence else 2)
        self.keep(&slot)
        return 0

    def flush(self):
        """What stands in a young slot into A or B, once the transactions up to it are on disk. By its owner; nothing when there is nothing.

        It is not synced. Raises what syncing the transactions raises.
        """
        cdef PlaceSlot young, slot
        cdef int damaged
        cdef int64_t decision
        cdef bint got
        if not self.is_mine() or not self.look(self.pair + PLACE_YOUNG, sizeof(young), &young, &damaged):
            return
        decision = platform.load_i64(&self.cell.decision)       # it was stored before the slot was
        if self.look(self.pair, PLACE_SECTOR, &slot, &damaged) and slot.sequence >= young.sequence:
            return
        self.log.decisions.make_durable(decision)
        while not platform.cas_u32(&self.busy, 0, 1):
            pass
        got = self.look(self.pair, PLACE_SECTOR, &slot, &damaged)
        if not (got and slot.sequence >= young.sequence) and self.is_mine():    # evicted meanwhile, it is its successor's to write
            self.store(&young, not got)
        platform.store_u32(&self.busy, 0)

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
        return <uint64_t>member if self.cell.home == self.home and <uint32_t>member else 0

    cdef bint is_mine(self) noexcept:
        return self.member != 0 and self.cell.home == self.home and platform.load_i64(&self.cell.member) == self.member

    def take(self, uint64_t member):
        """Under the group's lock: `member` (a liveness word << 32 | a number) may commit here, and nobody else."""
        cdef PlaceSlot slot, other
        cdef int damaged
        self.best(&slot)                    # raises, before anything is changed, where both are damaged
        self.member = <int64_t>member
        self.slot = self.log.shared.liveness.word
        if self.cell.home != self.home:
            self.cell.home = 0              # nothing of another boot, or of the file that this is a copy of
            self.cell.pending = 0
            self.cell.decision = 0
            memset(self.pair + PLACE_YOUNG, 0, 2 * sizeof(slot))
        platform.store_i64(&self.cell.member, self.member)
        self.cell.home = self.home
        self.settle()
        self.sequence = slot.sequence if self.best(&slot) else 0
        self.young = self.look(self.pair + PLACE_YOUNG, sizeof(slot), &slot, &damaged) \
            and not (self.look(self.pair, PLACE_SECTOR, &other, &damaged) and other.sequence >= slot.sequence)
        # Another process's last sync may have failed, after which the kernel calls pages clean that are not on disk: store all again.
        memcpy(&slot, self.pair, sizeof(slot))
        memcpy(self.pair, &slot, sizeof(slot))
        memcpy(&slot, self.pair + PLACE_SECTOR, sizeof(slot))
        memcpy(self.pair + PLACE_SECTOR, &slot, sizeof(slot))
        self.dirty = True

    cdef int settle(self) except -1:
        """Under the group's lock, with the owner before written over: what he announced and did not say more of, he decided or never will."""
        cdef PlaceSlot slot
        platform.fence()
        if self.cell.home != self.home or self.cell.pending == 0:
            return 0
        self.log.decisions.barrier()
        if self.cell.pending:
            said = self.log.decisions.commit_of(self.file, <uint32_t>self.log.partition, self.cell.pending, self.cell.pending_from)
            if said is not None:
                memcpy(&slot, <const char *>said[0], sizeof(slot))
                self.sequence = slot.sequence - 1 if slot.sequence > 2 else 0
                self.decided(&slot, said[1])
            self.cell.pending = 0
        return 0

    def release(self):
        """Let the next one have it; nothing when it is another's already."""
        # A forked child carries a copy; the place is its parent's.
        if self.is_mine() and self.log.shared.liveness.word == self.slot:
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
        if wanted < 0 or (not self.counts and wanted > platform.load_i64(&self.log.w.next_offset)):
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
        self.settle()
        try:
            self.sequence = slot.sequence if self.best(&slot) else 0
        except CorruptStore:
            self.sequence = 0
        self.young = False                  # it is newer than they are, and waits for nothing
        self.write(offset, <uint32_t>generation)

    # ---- moving in a transaction -------------------------------------------------------------------------------

    cdef int announce(self, int64_t offset, uint32_t generation, int64_t since, PlaceSlot *slot) except -1:
        """A transaction is about to move the place to `offset`, by a decision at or behind `since`: `slot` is what it will say."""
        self.check_owner()
        self.fill(slot, offset, generation, self.sequence + 1 if self.sequence else 2)
        self.cell.pending_from = since
        platform.store_i64(<int64_t *>&self.cell.pending, <int64_t>slot.sequence)
        platform.fence()
        return 0

    cdef void renounce(self) noexcept:
        """Under the lock of the transaction log: it does not. Who has taken the place over meanwhile, or is about to, settles that himself."""
        if self.is_mine():
            platform.store_i64(<int64_t *>&self.cell.pending, 0)

    cdef void decided(self, PlaceSlot *slot, int64_t decision) noexcept:
        """Under the lock of the transaction log: it did; `decision` is behind the record that says so."""
        if self.log.fsync != 0:
            self.cell.decision = max(self.cell.decision, decision)
            self.young = True
        self.keep(slot)
        platform.failpoint("place.kept")
        platform.store_i64(<int64_t *>&self.cell.pending, 0)

    # ---- reading -----------------------------------------------------------------------------------------------

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
