# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True, nonecheck=True
"""Leases: who has which message of a queue, and how it comes back; under one lock that all processes share.

What comes back, and when: what a dead process had, as soon as somebody looks, on the kernel's word; what a live one holds longer than its lease;
what was delayed, when it is due. What is tried often enough is doomed instead.

Acks in transactions are records of the log `settled`, there or not as the transaction is. They are taken in before anything else is done
under the lock. Whoever takes a lease back holds that log's lock meanwhile, and the commit looks under it whether the leases still hold: so a
message is either settled or comes back, never both. After a power cut, words that such a record wrote are asked of the log again.

Behind a holder of the lock who died, and in a new boot, everything is counted again from the words of `slots`.

Order: the queue's lock first, then that of a log. The times of leases are monotonic, those of delays and expiry are the store's clock.
"""
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from seglog.engine cimport platform
from seglog.engine.batch cimport Batch
from seglog.engine.checksum cimport xxh3_64
from seglog.engine.frame cimport Entry
from seglog.engine.groups cimport GroupEntry, Groups
from seglog.engine.layout cimport (
    BLOCK_SLOTS, CHUNK_BLOCKS, CHUNK_SLOTS, QUEUE_BYTES, QUEUE_LEVELS, QUEUE_MAGIC, QUEUE_OWNERS, QUEUE_VERSION, SHARED_BYTES, SHARED_MAGIC, SHARED_READY,
    SHARED_VERSION, SLOTS, Block, LevelWords, MessageSlot, OwnerWords, QueueWords, SharedWords,
)
from seglog.engine.liveness cimport boot_hash
from seglog.engine.log cimport Log
from seglog.engine.mapping cimport map_fd
from seglog.engine.message cimport Home, Message, attribute, lost, number_attribute
from seglog.engine.shared cimport Shared
from seglog.engine.slots cimport (
    DECIDED, DELAYED, DOOMED, LEASED, READY, SETTLED, UNTOUCHED, WAITING, Chunk, Level, attempts_of, block_min, deliveries_of, owner_of, reason_of,
    state_of,
)
from seglog.engine.transactions cimport Transaction

from seglog.engine.errors import ClosedError, os_error
from seglog.engine.liveness import file_lock

cdef int64_t NEVER = 0x7FFFFFFFFFFFFFFF
cdef int64_t DELAY_MAX_US = <int64_t>100_000_000 * 1_000_000 + 86_400_000_000      # a nack's longest delay, and a day
cdef enum:
    PROBE_US = 25000                # between two looks at the owners' lives
    DELAYED_AT_ONCE = 1000          # delayed messages that are taken in under one hold of the lock

cdef int64_t _handles = 0


cdef class Leases(Home):
    """The shared part of a queue; `Delivery` is made on top of it."""

    # ---- opening ----------------------------------------------------------------------------------------------------

    def __cinit__(self):
        self.shut = True

    def _attach(self, folder, logs, settled, queue_id, *, int64_t lease_us, int64_t max_lease_us, int64_t ttl_us, int max_attempts, bint keeps_dead,
                bint keeps_expired, bint weighted, bint single, bint plain, bint by_bytes, int grouping, int64_t lookahead, double lock_timeout):
        """`logs`: one per priority, then that of the delayed messages. `folder`: where their states are. Rebuilds, when nobody did in this boot."""
        global _handles
        cdef Shared shared = Shared.__new__(Shared)
        cdef SharedWords *w
        cdef QueueWords *q
        cdef Level level
        cdef Log log
        cdef int i, rc
        cdef bint ours
        cdef list levels = []
        _handles += 1
        self.number = _handles
        self.lease_us, self.max_lease_us, self.ttl_us, self.max_attempts = lease_us, max_lease_us, ttl_us, max_attempts
        self.keeps_dead, self.keeps_expired, self.weighted, self.single = keeps_dead, keeps_expired, weighted, single
        self.plain, self.by_bytes, self.grouping, self.lookahead = plain, by_bytes, grouping, lookahead
        self.seen_chunks = self.named = -1
        self.groups = Groups(folder) if grouping else None
        self.settled, self.first = settled, logs[0]
        self.priorities = <int>len(logs) - 1
        self.virtual = self.first.clock is not None
        name = os.path.join(folder, "shm")
        try:
            fd = os.open(name, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise os_error(-error.errno, "cannot open", name) from error
        try:
            with file_lock(fd, name, lock_timeout):
                status = os.fstat(fd)
                if status.st_size < QUEUE_BYTES:
                    rc = platform.pwrite_all(fd, bytes(QUEUE_BYTES), QUEUE_BYTES, 0)
                    if rc:
                        raise os_error(rc, "cannot make", name)
                self.mapping = map_fd(fd, QUEUE_BYTES, True)
                shared.path, shared.mapping, shared.liveness = folder, self.mapping, self.first.shared.liveness
                shared.words = w = <SharedWords *>self.mapping.data
                shared.lock_timeout_us = <int64_t>(lock_timeout * 1e6)
                self.shared = shared
                self.q = q = <QueueWords *>(self.mapping.data + SHARED_BYTES)
                self.owners = <OwnerWords *>(self.mapping.data + QUEUE_OWNERS)
                self.w = <LevelWords *>(self.mapping.data + QUEUE_LEVELS)
                for i, log in enumerate(logs):
                    level = Level(log, i, folder)
                    level.w = self.w + i
                    levels.append(level)
                    log.shared.also, log.shared.keeps = &w.bell, self.mapping
                self.levels = tuple(levels)
                ours = w.magic == SHARED_MAGIC and w.version == SHARED_VERSION and w.boot == boot_hash() and w.device == <uint64_t>status.st_dev \
                    and w.inode == <uint64_t>status.st_ino and q.magic == QUEUE_MAGIC and q.version == QUEUE_VERSION and q.queue_id == queue_id
                self.shut = False
                if not ours or w.state != SHARED_READY:
                    memset(self.mapping.data, 0, QUEUE_BYTES)
                    w.version, w.boot, w.device, w.inode = SHARED_VERSION, boot_hash(), status.st_dev, status.st_ino
                    q.version, q.queue_id, q.rebuilding = QUEUE_VERSION, queue_id, 1
                    q.magic, w.magic = QUEUE_MAGIC, SHARED_MAGIC
                    self.shared.lock()
                    try:
                        self.rebuild(True)
                        # In a new boot it is not known whether somebody sent with a dedup_id of late.
                        q.dedup = self.first.now() if self.first.next_offset else 0
                        w.state = SHARED_READY
                    finally:
                        self.shared.unlock()
        except BaseException:
            self.shut = True
            raise
        finally:
            os.close(fd)

    # ---- the lock ---------------------------------------------------------------------------------------------------

    cdef int check(self) except -1:
        if self.shut:
            raise ClosedError("the queue was closed, or deleted, before this call; nothing was received or settled")
        self.first.check_state()
        return 0

    cdef int lock(self) except -1:
        """Take the queue's lock; behind a holder that died, count everything again first."""
        cdef Level level
        if self.shut:
            self.check()
        if self.shared.lock() == 2:
            self.q.rebuilding = 1
        try:
            if self.q.rebuilding:
                self.rebuild(False)
            if self.q.chunks != self.seen_chunks:
                for level in self.levels:
                    level.look(self.q.chunks)
                self.seen_chunks = self.q.chunks
            if self.grouping:
                self.groups.open(self.q.groups)
            if platform.load_i64(&self.settled.w.next_offset) != self.q.settle_seen:
                self.take_in_settled()
        except BaseException:
            self.shared.unlock()
            raise
        return 0

    cdef int unlock(self, bint news) except -1:
        """`news`: somebody may have something to receive now."""
        self.freed = False
        self.shared.unlock()
        if news:
            self.ring(False)
        return 0

    def ring(self, bint space):
        """Wake those who wait: for a message, or for room."""
        cdef uint32_t *bell = &self.shared.words.bell
        platform.fence()
        if platform.load_u32(&bell[1]):
            platform.store_u32(&bell[1], 0)
            platform.add_u32(bell, 1)
            platform.wake_u32(bell, 0x7FFFFFFF)
        if space and platform.load_u32(&self.q.space_waiting):
            platform.store_u32(&self.q.space_waiting, 0)
            platform.add_u32(&self.q.space_bell, 1)
            platform.wake_u32(&self.q.space_bell, 0x7FFFFFFF)

    cdef int rebuild(self, bint anew) except -1:
        """Under the lock: everything that follows from the words. `anew`: in a new boot, or a copy of the directory."""
        cdef Level level
        cdef Chunk c
        cdef int64_t i, j
        self.q.chunks += 1
        for i in range(SLOTS):
            self.owners[i].leased = 0
        for level in self.levels:
            level.look(self.q.chunks)
            level.recount(anew, &self.q.damaged)
            level.seen = -1
            level.look(self.q.chunks)
            if level.w.n[LEASED]:
                for number in level.numbers:
                    c = level.chunk(number, NULL)
                    if c is not None and c.h.n[LEASED]:
                        for i in range(c.h.allocated):
                            if state_of(c.slots[i].word) == LEASED:
                                self.owners[owner_of(c.slots[i].word)].leased += 1
        self.q.chunks += 1
        if anew:
            self.q.settle_seen = self.settled.first_offset
            self.take_in_settled()
            self.q.expired = self.q.dropped = self.q.dead = 0
            for i in range(SLOTS):
                self.owners[i].acked = 0
            for level in self.levels[:self.priorities]:
                self.review(level)
            self.delay_again(<Level>self.levels[self.priorities])
        if self.grouping:
            self.regroup()
        if self.by_bytes:
            self._count_bytes()
        platform.store_u32(&self.q.rebuilding, 0)
        return 0

    cdef int review(self, Level level) except -1:
        """Under the lock, in a new boot: of what was out then, what was tried often enough is doomed; what is ready expires when it is to."""
        cdef Chunk c
        cdef int64_t i, until, wall = self.first.now()
        cdef uint64_t word
        for number in list(level.numbers):
            c = level.chunk(number, NULL)
            if c is None or c.h.n[READY] + c.h.n[DELAYED] == 0:
                continue
            for i in range(c.h.allocated):
                word = c.slots[i].word
                if state_of(word) == DELAYED and c.slots[i].when > wall + DELAY_MAX_US:
                    level.change(c, i, READY, attempts_of(word), deliveries_of(word), 0, 0, 0)      # damage: nack takes no such delay
                    self.q.damaged += 1
                    word = c.slots[i].word
                if state_of(word) != READY:
                    continue
                if self.max_attempts and attempts_of(word) >= self.max_attempts:
                    if self.keeps_dead:
                        level.change(c, i, DOOMED, attempts_of(word), deliveries_of(word), 0, DELIVERY_LIMIT, 0)
                    else:
                        self.settle(level, c, i, SETTLED, DELIVERY_LIMIT)
                elif c.slots[i].when == 0:
                    until = self.ends_at(level, number * CHUNK_SLOTS + i)
                    if until:
                        level.change(c, i, READY, attempts_of(word), deliveries_of(word), 0, 0, until)
        return 0

    cdef int delay_again(self, Level level) except -1:
        """Under the lock, in a new boot: of the delayed messages, those are not ready yet that are not due, though their words were lost."""
        cdef Chunk c
        cdef int64_t i, offset, due, wall = self.first.now(), stop = platform.load_i64(&level.log.w.next_offset)
        for number in list(level.numbers):
            c = level.chunk(number, NULL)
            if c is None or c.h.n[READY] == 0:
                continue
            for i in range(c.h.allocated):
                offset = number * CHUNK_SLOTS + i
                if state_of(c.slots[i].word) == READY and offset >= level.log.w.first_offset and level.back.seek(offset, stop) \
                        and level.back.e.offset == offset:
                    due = number_attribute(&level.back.e, b"seglog-due", 10, 1)
                    if due > wall:
                        level.change(c, i, DELAYED, 0, 0, 0, 0, due)
        return 0

    cdef int64_t mono(self) except? -1:
        return self.first.clock() if self.virtual else platform.monotonic_us()

    cdef int become_owner(self) except -1:
        """Under the lock: the row of this process; whoever had it before is dead, and what he held comes back first. 0: not now."""
        cdef uint32_t word = self.shared.liveness.my_word()
        cdef int slot = <int>(word & 0xFFFF) - 1
        cdef Level level
        if self.owners[slot].word != word:
            if self.owners[slot].leased:
                for level in self.levels:
                    self.sweep_leases(level, 0, slot)
                if self.owners[slot].leased:
                    return 0                # a transaction is being committed that may settle some of it: later
            self.owners[slot].word = word
        return 1

    # ---- what was settled -------------------------------------------------------------------------------------------

    cdef int settle(self, Level level, Chunk c, int64_t i, int state, int reason) except -1:
        """Under the lock: it never comes again; counted by the reason."""
        cdef uint64_t word = c.slots[i].word
        cdef int was = state_of(word)
        cdef int64_t offset = c.h.number * CHUNK_SLOTS + i
        cdef uint32_t g
        if was == LEASED:
            self.owners[owner_of(word)].leased -= 1
        elif was == UNTOUCHED and offset >= level.w.cursor:
            level.w.ahead += 1
        if self.by_bytes and level.index < self.priorities and (was <= READY or was == WAITING):
            self.q.bytes_out += self.size_at(level, offset)
        level.change(c, i, state, attempts_of(word), deliveries_of(word), 0, reason, 0)
        if c.slots[i].group and was != WAITING:
            g, c.slots[i].group = c.slots[i].group, 0
            self.let_next(level, g)
        if level.index < self.priorities:
            if reason == 0:
                self.owners[owner_of(word)].acked += 1
            elif reason == EXPIRED:
                self.q.expired += 1
            elif reason == MAXLEN:
                self.q.dropped += 1
            elif reason == DELIVERY_LIMIT:
                self.q.dead += 1
        return 0

    cdef int take_in_settled(self) except -1:
        """Under the lock: what transactions settled since the last look."""
        cdef int64_t stop = platform.load_i64(&self.settled.w.next_offset), offset, at, i
        cdef uint32_t head[2]
        cdef const char *data
        cdef bytes value
        cdef Level level
        cdef Chunk c
        for record in self.settled.records(max(self.q.settle_seen, self.settled.first_offset), stop):
            value = record.value or b""
            data = PyBytes_AS_STRING(value)
            for at in range(0, PyBytes_GET_SIZE(value) - 15, 16):
                memcpy(head, data + at, 8)
                memcpy(&offset, data + at + 8, 8)
                if head[0] >= <uint32_t>len(self.levels):
                    continue
                level = <Level>self.levels[head[0]]
                if offset < level.log.first_offset or offset >= platform.load_i64(&level.log.w.next_offset) or offset // CHUNK_SLOTS in level.done:
                    continue
                c, i = level.chunk(offset // CHUNK_SLOTS, &self.q.chunks), offset % CHUNK_SLOTS
                c.grow(i)
                if c.slots[i].word == 0 and not (
                        level.back.seek(offset, platform.load_i64(&level.log.w.next_offset)) and level.back.e.offset == offset):
                    continue                # a power cut took the message, and not that it was settled
                if state_of(c.slots[i].word) < SETTLED:
                    self.settle(level, c, i, DECIDED, <int>head[1])
                platform.failpoint("queue.decided")
        self.q.settle_seen = stop
        return 0

    def settlements_in(self, bytes value not None):
        """What transactions settled by this record of the log of such: `(level, offset)` of each."""
        cdef list found = []
        for at in range(0, len(value) - 15, 16):
            level, offset = int.from_bytes(value[at:at + 4], "little"), int.from_bytes(value[at + 8:at + 16], "little")
            if level < len(self.levels):
                found.append((level, offset))
        return found

    def _add_settled(self, Transaction tx not None, list messages not None, int reason):
        """`tx` settles them, if it commits: which looks, under the lock of the log of such records, whether they are still what they were."""
        cdef Message m
        cdef uint32_t head[2]
        cdef list parts = []
        for m in messages:
            head[0], head[1] = <uint32_t>m.partition, <uint32_t>reason
            if m.home is not self:
                raise ValueError("a message is settled by the queue it was received from. Nothing was settled.")
            parts.append(PyBytes_FromStringAndSize(<char *>head, 8))
            parts.append(PyBytes_FromStringAndSize(<char *>&m.offset, 8))
        tx.part(self.settled).add(b"".join(parts), None, None, None)
        tx.require(lambda: self._still(messages))

    def _still(self, list messages):
        """Under the lock of `settled`: raise LeaseLost when one of them is no longer what it was."""
        cdef Message m
        cdef int64_t offset, i, at
        cdef uint32_t head[2]
        cdef Level level
        cdef Chunk c
        cdef uint64_t word
        cdef bytes value
        cdef set new = set()
        if platform.load_i64(&self.settled.w.next_offset) != self.q.settle_seen:
            for record in self.settled.records(max(self.q.settle_seen, self.settled.first_offset)):
                value = record.value or b""
                for at in range(0, PyBytes_GET_SIZE(value) - 15, 16):
                    memcpy(head, PyBytes_AS_STRING(value) + at, 8)
                    memcpy(&offset, PyBytes_AS_STRING(value) + at + 8, 8)
                    new.add((head[0], offset))
        for m in messages:
            level = <Level>self.levels[m.partition]
            c = level.chunks.get(m.offset // CHUNK_SLOTS)
            i = m.offset % CHUNK_SLOTS
            if c is not None:
                word = <uint64_t>platform.load_i64(<int64_t *>&c.slots[i].word)
                if state_of(word) == m.state and deliveries_of(word) == m.deliveries & 0xFFFF and (m.partition, m.offset) not in new:
                    continue
            raise lost(m)

    # ---- what comes back --------------------------------------------------------------------------------------------

    cdef int give_back(self, Level level, Chunk c, int64_t i, int64_t when) except -1:
        """Under the lock: a lease is over without a word from its holder. The attempt counts."""
        cdef uint64_t word = c.slots[i].word
        cdef int attempts = attempts_of(word)
        self.owners[owner_of(word)].leased -= 1
        if self.max_attempts and attempts >= self.max_attempts and level.index < self.priorities:
            if self.keeps_dead:
                level.change(c, i, DOOMED, attempts, deliveries_of(word), 0, DELIVERY_LIMIT, 0)
            else:
                self.owners[owner_of(word)].leased += 1
                self.settle(level, c, i, SETTLED, DELIVERY_LIMIT)
        else:
            level.change(c, i, READY, attempts, deliveries_of(word), 0, 0, self.ends_at(level, c.h.number * CHUNK_SLOTS + i))
            if self.by_bytes and level.index < self.priorities:
                self.q.bytes_out -= self.size_at(level, c.h.number * CHUNK_SLOTS + i)
        return 0

    cdef int sweep_leases(self, Level level, int64_t mono, int owner) except -1:
        """Under the lock: end the leases that are over at `mono`; or, with an `owner`, all of his. Nothing while a transaction is being
        committed that may settle some."""
        cdef Chunk c
        cdef Block *b
        cdef int64_t number, i, j
        cdef uint64_t word
        if level.w.n[LEASED] == 0:
            level.w.lease_min = NEVER
            return 0
        if not platform.cas_u32(&self.settled.w.lock, 0, self.shared.liveness.my_word()):
            if self.shared.liveness.is_alive(platform.load_u32(&self.settled.w.lock)):
                return 0
            self.settled.lock()             # its holder died: what he decided is published by this
            self.settled.shared.unlock()
            return 0                        # and the next look takes it in
        try:
            self.take_in_settled()
            if owner < 0:
                level.w.lease_min = NEVER
            for number in level.numbers:
                c = level.chunk(number, NULL)
                if c is None or (owner < 0 and c.h.lease_min > mono) or c.h.n[LEASED] == 0:
                    if owner < 0 and c is not None and c.h.n[LEASED]:
                        level.w.lease_min = min(level.w.lease_min, c.h.lease_min)
                    continue
                if owner < 0:
                    c.h.lease_min = NEVER
                for j in range(CHUNK_BLOCKS):
                    b = &c.blocks[j]
                    if b.n[LEASED] == 0:
                        continue
                    if owner >= 0 or b.lease_min <= mono:
                        for i in range(j * BLOCK_SLOTS, (j + 1) * BLOCK_SLOTS):
                            word = c.slots[i].word
                            if state_of(word) == LEASED and (owner_of(word) == owner if owner >= 0 else c.slots[i].when <= mono):
                                self.give_back(level, c, i, 0)
                        b.lease_min = block_min(b, &c.slots[j * BLOCK_SLOTS], True)
                    if owner < 0:
                        c.h.lease_min = min(c.h.lease_min, b.lease_min)
                if owner < 0:
                    level.w.lease_min = min(level.w.lease_min, c.h.lease_min)
        finally:
            self.settled.shared.unlock()
        return 0

    cdef int sweep_dues(self, Level level, int64_t wall) except -1:
        """Under the lock: what is due is ready; what has expired goes."""
        cdef Chunk c
        cdef Block *b
        cdef int64_t number, i, j, due
        cdef int state
        cdef uint64_t word
        level.w.due_min = NEVER
        for number in level.numbers:
            c = level.chunk(number, NULL)
            if c is None:
                continue
            if c.h.due_min <= wall:
                c.h.due_min = NEVER
                for j in range((c.h.allocated + BLOCK_SLOTS - 1) // BLOCK_SLOTS):
                    b = &c.blocks[j]
                    if b.due_min <= wall:
                        for i in range(j * BLOCK_SLOTS, (j + 1) * BLOCK_SLOTS):
                            if c.slots[i].when == 0 or c.slots[i].when > wall:
                                continue
                            word = c.slots[i].word
                            state = state_of(word)
                            if state == DELAYED:
                                if self.by_bytes and level.index < self.priorities:
                                    self.q.bytes_out -= self.size_at(level, number * CHUNK_SLOTS + i)
                                level.change(
                                    c, i, READY, attempts_of(word), deliveries_of(word), 0, 0,
                                    self.ends_at(level, number * CHUNK_SLOTS + i))
                            elif state == READY or state == WAITING or (
                                    state == UNTOUCHED and number * CHUNK_SLOTS + i >= level.w.cursor):
                                # The slot's time has no check; the message says when it expires.
                                due = self.ends_at(level, number * CHUNK_SLOTS + i)
                                if 0 < due <= wall:
                                    self.expire(level, c, i)
                                else:
                                    c.slots[i].when = due
                        b.due_min = block_min(b, &c.slots[j * BLOCK_SLOTS], False)
                    c.h.due_min = min(c.h.due_min, b.due_min)
            level.w.due_min = min(level.w.due_min, c.h.due_min)
        return 0

    cdef int64_t ends_at(self, Level level, int64_t offset) except -1:
        """When the message at `offset` expires; 0 when it does not, or lies among the delayed ones."""
        if level.index < self.priorities and offset >= level.log.w.first_offset \
                and level.back.seek(offset, platform.load_i64(&level.log.w.next_offset)) and level.back.e.offset == offset:
            return self.end_of_life(&level.back.e)
        return 0

    cdef int64_t end_of_life(self, const Entry *e) noexcept:
        """When a message expires: as it says itself, or by the queue's ttl; 0 when it does not."""
        cdef int64_t until = e.timestamp + self.ttl_us if self.ttl_us >= 0 else 0
        return max(number_attribute(e, b"seglog-expires", 14, until) if e.header_size else until, 0)

    cdef int expire(self, Level level, Chunk c, int64_t i) except -1:
        cdef uint64_t word = c.slots[i].word
        if self.keeps_expired:
            if state_of(word) == UNTOUCHED and c.h.number * CHUNK_SLOTS + i >= level.w.cursor:
                level.w.ahead += 1
            if self.by_bytes:
                self.q.bytes_out += self.size_at(level, c.h.number * CHUNK_SLOTS + i)
            level.change(c, i, DOOMED, attempts_of(word), deliveries_of(word), 0, EXPIRED, 0)
            return 0
        return self.settle(level, c, i, SETTLED, EXPIRED)

    cdef int probe(self) except -1:
        """Under the lock: ask the kernel whether those live who hold messages."""
        cdef int slot
        cdef uint32_t word, mine = self.shared.liveness.my_word()
        cdef Level level
        cdef int64_t active = self.q.active
        self.q.probed = platform.monotonic_us()
        for level in self.levels:
            level.log.finish()              # what a process decided and did not live to publish
        self.settled.finish()
        if platform.load_i64(&self.settled.w.next_offset) != self.q.settle_seen:
            self.take_in_settled()
        for slot in range(SLOTS):
            word = self.owners[slot].word
            if self.owners[slot].leased > 0 and word != mine and not self.shared.liveness.is_alive(word):
                for level in self.levels:
                    self.sweep_leases(level, 0, slot)
        if active and <uint32_t>(active >> 32) != mine and not self.shared.liveness.is_alive(<uint32_t>(active >> 32)):
            platform.store_i64(&self.q.active, 0)
        return 0

    cdef int sweep(self, int64_t mono, int64_t wall) except -1:
        """Under the lock: all that is to be done by time. A few comparisons when there is nothing."""
        cdef int i
        if (platform.monotonic_us() if self.virtual else mono) - self.q.probed >= PROBE_US:
            self.probe()
        if platform.load_i64(&(<Level>self.levels[self.priorities]).log.w.next_offset) > self.w[self.priorities].cursor:
            self.take_in_delayed(wall)
        for i in range(self.priorities + 1):
            if mono >= self.w[i].lease_min:
                self.sweep_leases(<Level>self.levels[i], mono, -1)
            if wall >= self.w[i].due_min:
                self.sweep_dues(<Level>self.levels[i], wall)
        return 0

    cdef int take_in_delayed(self, int64_t wall) except -1:
        """Under the lock: messages that were sent with a delay get a slot that says when they are due."""
        cdef Level level = <Level>self.levels[self.priorities]
        cdef LevelWords *w = level.w
        cdef int64_t stop = platform.load_i64(&level.log.w.next_offset), i, due
        cdef int n = 0
        cdef Chunk c
        if w.cursor < level.log.first_offset:
            w.cursor = level.log.first_offset
        while w.cursor < stop and n < DELAYED_AT_ONCE:
            if not level.front.seek(w.cursor, stop):
                w.gap, w.cursor = 0, stop
                break
            if level.front.e.offset > w.cursor:
                w.gap = max(w.gap - (level.front.e.offset - w.cursor), 0)
                w.cursor = level.front.e.offset
            c = level.chunk(w.cursor // CHUNK_SLOTS, &self.q.chunks)
            i = w.cursor % CHUNK_SLOTS
            if i >= c.h.allocated:
                c.grow(i)
            if c.slots[i].word == 0:
                due = number_attribute(&level.front.e, b"seglog-due", 10, 1)
                level.change(c, i, READY if due <= wall else DELAYED, 0, 0, 0, 0, 0 if due <= wall else due)
            else:
                w.ahead = max(w.ahead - 1, 0)
            w.cursor += 1
            n += 1
        return 0

    # ---- groups -----------------------------------------------------------------------------------------------------

    cdef uint64_t group_of(self, const Entry *e) noexcept:
        cdef int64_t size = 0
        cdef const char *name = attribute(e, b"seglog-group", 12, &size) if e.header_size else NULL
        if name == NULL:
            return 0
        return xxh3_64(name, size) | 1

    cdef int let_next(self, Level level, uint32_t g) except -1:
        """Under the lock, in a FIFO queue: a message of the group was settled; the next one may go."""
        cdef int64_t offset, i
        cdef Chunk c
        cdef GroupEntry *e
        if self.groups is None or g > self.groups.h.used:
            return 0                        # a number that rotted
        e = &self.groups.entries[g]
        if e.active:
            e.active -= 1
        if e.active:
            return 0
        offset = self.groups.pop(level, g)
        if offset < 0:
            self.groups.forget(g)
            return 0
        e.active = 1
        c, i = level.chunk(offset // CHUNK_SLOTS, NULL), offset % CHUNK_SLOTS
        c.slots[i].group = g
        level.change(c, i, READY, 0, 0, 0, 0, c.slots[i].when)
        self.freed = True
        return 0

    cdef int regroup(self) except -1:
        """Under the lock: the table, and the lists, from the log and the slots."""
        cdef Level level = <Level>self.levels[0]
        cdef Chunk c
        cdef int64_t i, offset, stop = platform.load_i64(&level.log.w.next_offset)
        cdef int state
        cdef uint64_t word
        cdef uint32_t g
        self.groups.make(self.q.groups + 1, 1024)
        self.q.groups += 1
        for number in list(level.numbers):
            c = level.chunk(number, NULL)
            if c is None:
                continue
            for i in range(c.h.allocated):
                word = c.slots[i].word
                state = state_of(word)
                c.slots[i].group = 0
                offset = number * CHUNK_SLOTS + i
                if state == UNTOUCHED or state >= SETTLED or (self.grouping == 2 and state != WAITING):
                    continue
                if offset < level.log.w.first_offset or not level.back.seek(offset, stop) or level.back.e.offset != offset:
                    continue
                g = self.groups.find(self.group_of(&level.back.e), &self.q.groups)
                if state == WAITING:
                    c.slots[i].first = 0
                if self.grouping == 2 or ((state == READY or state == WAITING) and (
                        self.groups.entries[g].active or self.groups.entries[g].first >= 0)):
                    if state != WAITING:
                        c.slots[i].first = 0
                        level.change(c, i, WAITING, attempts_of(word), deliveries_of(word), 0, 0, c.slots[i].when)
                    self.groups.append(level, g, offset, self.grouping == 2)
                    continue
                if state == WAITING:
                    level.change(c, i, READY, attempts_of(word), deliveries_of(word), 0, 0, c.slots[i].when)
                self.groups.entries[g].active += 1
                c.slots[i].group = g
        return 0

    cdef int clean_heads(self) except -1:
        """Under the lock: no list of a group begins with a message that was settled meanwhile."""
        cdef Level level = <Level>self.levels[0]
        cdef GroupEntry *e
        cdef int64_t g
        cdef MessageSlot *s
        cdef Chunk c
        for g in range(1, self.groups.h.used + 1):
            e = &self.groups.entries[g]
            while e.first >= 0:
                c = level.chunk(e.first // CHUNK_SLOTS, NULL)
                if c is None:
                    break
                s = &c.slots[e.first % CHUNK_SLOTS]
                if state_of(s.word) == WAITING:
                    break
                if e.first == e.last:
                    break
                e.first = s.first
        return 0

    # ---- bytes ------------------------------------------------------------------------------------------------------

    cdef int64_t size_at(self, Level level, int64_t offset) except -1:
        """How many bytes the value at `offset` has; 0 when it cannot be said."""
        if offset >= level.log.w.first_offset and level.back.seek(offset, platform.load_i64(&level.log.w.next_offset)) \
                and level.back.e.offset == offset:
            return max(level.back.e.value_size, 0)
        return 0

    def _count_bytes(self):
        """Under the lock: the bytes that are ready, from the log and the slots."""
        cdef Level level
        cdef Chunk c
        cdef int64_t i, n = 0
        for level in self.levels[:self.priorities]:
            for number in list(level.numbers):
                c = level.chunk(number, NULL)
                if c is not None and (c.h.n[READY] or c.h.n[WAITING]):
                    for i in range(c.h.allocated):
                        if state_of(c.slots[i].word) == READY or state_of(c.slots[i].word) == WAITING:
                            n += self.size_at(level, number * CHUNK_SLOTS + i)
            for batch in level.log.batches(max(level.w.cursor, level.log.first_offset), level.log.next_offset):
                for offset, value in zip(batch.offsets.tolist(), batch.values):
                    c = level.chunk(offset // CHUNK_SLOTS, NULL)
                    if value is not None and (c is None or c.slots[offset % CHUNK_SLOTS].word == 0):
                        n += len(value)
        self.q.bytes_in, self.q.bytes_out = n, 0
