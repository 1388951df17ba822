# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True, nonecheck=True
"""Delivery: who has which message of a queue. Claims, acks, leases, returns; under one lock that all processes share.

A message is handed out at most once at a time: its slot's word says LEASED, and to which process, before `receive` returns it; so
attempts survive whoever dies with it. A receipt is the number of the delivery: an ack of an older one raises LeaseLost.

What comes back, and when: what a dead process had, as soon as somebody looks (20 times a second while anybody receives), on the kernel's
word; what a live one holds longer than its lease; what was nacked or released, at once or when it is due.

Acks in transactions are records of the log `settled`, there or not as the transaction is. They are taken in before anything else is done
under the lock. Whoever takes a lease back holds that log's lock meanwhile, and the commit looks under it whether the leases still hold: so a
message is either settled or comes back, never both. After a power cut, words that such a record wrote are asked of the log again.

Order: the queue's lock first, then that of a log. The times of leases are monotonic, those of delays and expiry are the store's clock.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

import json
import os

from seglog.engine cimport platform
from seglog.engine.batch cimport Batch
from seglog.engine.checksum cimport xxh3_64
from seglog.engine.frame cimport Entry
from seglog.engine.groups cimport GroupEntry, Groups
from seglog.engine.layout cimport (
    BLOCK_SLOTS, CHUNK_BLOCKS, CHUNK_SLOTS, QUEUE_BYTES, QUEUE_LEVELS, QUEUE_MAGIC, QUEUE_OWNERS, QUEUE_VERSION, SHARED_BYTES, SHARED_MAGIC, SHARED_READY,
    SHARED_VERSION, SLOTS, Block, LevelWords, MessageSlot, OwnerWords, QueueWords, SharedWords,
)
from seglog.engine.liveness cimport Liveness, boot_hash
from seglog.engine.log cimport Log
from seglog.engine.mapping cimport map_fd
from seglog.engine.record cimport Record, new_position, timeout_us, to_offset
from seglog.engine.shared cimport Shared
from seglog.engine.slots cimport (
    DECIDED, DELAYED, DOOMED, LEASED, READY, SETTLED, UNTOUCHED, WAITING, Chunk, Level, attempts_of, block_min, deliveries_of, owner_of, reason_of,
    state_of,
)
from seglog.engine.transactions cimport Transaction

from seglog.engine.errors import ClosedError, ConfigError, ForkedHandle, LeaseLost, os_error
from seglog.engine.liveness import file_lock
from seglog.engine.record import pack_headers

cdef int64_t NEVER = 0x7FFFFFFFFFFFFFFF
cdef enum:
    SLICE_US = 50000                # the longest nap: signals and deaths are noticed that soon
    PROBE_US = 25000                # between two looks at the owners' lives
    DELAYED_AT_ONCE = 1000          # delayed messages that are taken in under one hold of the lock
    LOOK_AT_ONCE = 5000             # messages of a queue with groups that are looked through under one hold of the lock
    MOVED = 4                       # why a message was settled, behind the reasons below

REASONS = ("", "delivery_limit", "expired", "maxlen")
cdef enum:
    DELIVERY_LIMIT = 1
    EXPIRED = 2
    MAXLEN = 3

PREFIX = "seglog-"
cdef int64_t _handles = 0


cdef const char *attribute(const Entry *e, const char *name, int size, int64_t *value_size) noexcept:
    """The value of a header; NULL when the record has none of this name."""
    cdef int64_t at = 0
    cdef uint16_t name_size
    cdef uint32_t found
    while at + 6 <= e.header_size:
        memcpy(&name_size, e.headers + at, 2)
        memcpy(&found, e.headers + at + 2, 4)
        at += 6
        if at + name_size > e.header_size:
            return NULL
        if found == 0xFFFFFFFF:
            found = 0
        if name_size == size and memcmp(e.headers + at, name, size) == 0:
            if at + name_size + found > e.header_size:
                return NULL
            value_size[0] = found
            return e.headers + at + name_size
        at += name_size + found
    return NULL


cdef int64_t number_attribute(const Entry *e, const char *name, int size, int64_t default) noexcept:
    cdef int64_t found_size = 0, number
    cdef const char *found = NULL
    if e.header_size:
        found = attribute(e, name, size, &found_size)
    if found == NULL or found_size != 8:
        return default
    memcpy(&number, found, 8)
    return number


cdef bint is_own(str name) noexcept:
    return name.startswith("seglog-") or name == "dedup-id" or name == "dedup-at"


cdef class Message(Record):
    """A message that was received: a record, with what is to be done about it.

    `value`, `key` and `headers` are the sender's. `ack`, `nack`, `release`, `reject` and `extend` raise LeaseLost when it is no longer
    this delivery's to say: the lease ended, or the message was settled.
    """

    @property
    def headers(self):
        """The sender's headers, as a new dict of str to bytes."""
        cdef dict all = Record.headers.__get__(self)
        return {name: value for name, value in all.items() if not is_own(name)} if all else all

    @property
    def attributes(self):
        """What the queue itself wrote into the headers."""
        return {name: value for name, value in Record.headers.__get__(self).items() if is_own(name)}

    cdef bytes own(self, const char *name, int size):
        """A header of the queue's own; None when there is none."""
        cdef Entry e
        cdef int64_t found_size = 0
        cdef const char *found
        e.headers, e.header_size = self.header_data, self.header_size
        found = attribute(&e, name, size, &found_size)
        return None if found == NULL else PyBytes_FromStringAndSize(found, found_size)

    @property
    def sent_at(self):
        """When it was sent, in µs since the epoch; also when it was moved since."""
        cdef bytes sent = self.own(b"seglog-sent", 11)
        return self.timestamp if sent is None else int.from_bytes(sent, "little", signed=True)

    @property
    def group(self):
        """The group it was sent with, as bytes; None for none."""
        return self.own(b"seglog-group", 12)

    @property
    def dedup_id(self):
        """The dedup_id it was sent with, as bytes; None for none."""
        cdef bytes found = self.own(b"dedup-id", 8)
        return self.own(b"seglog-dedup", 12) if found is None else found

    @property
    def id(self):
        """What it is called for its whole life, also among the dead letters and back: a str."""
        cdef bytes found = self.own(b"seglog-id", 9)
        return f"{self.home.name}-{self.partition}-{self.offset}" if found is None else found.decode()

    @property
    def deaths(self):
        """Why it is a dead letter: a list of dicts, the newest first, each with queue, reason, count, time (µs), attempts, and error."""
        cdef bytes found = self.own(b"x-death", 7)
        return [] if found is None else json.loads(found)

    @property
    def sequence(self):
        """Its number in its queue and priority: its offset."""
        return self.offset

    @property
    def priority(self):
        """The level it was sent with."""
        return self.partition

    @property
    def queue(self):
        """The queue it was received from."""
        return self.home

    def ack(self, tx=None):
        """It is done, and never comes again. With `tx`, when that commits. About 100 ns; with fsync="always" an fdatasync."""
        self.home._settle_one(self, tx)

    def nack(self, delay=None, error=None):
        """It failed: it comes again, after `delay` seconds (default: the queue's backoff), or goes to the dead letters after `max_attempts`;
        with `error`, a str, as its last error."""
        self.home._nack([self], delay, error)

    def release(self):
        """Give it back as if it had not been received: no attempt is counted."""
        self.home._release([self])

    def reject(self, reason="rejected", tx=None):
        """It will never succeed: to the dead letters now, for this reason (a str)."""
        self.home._reject([self], reason, tx)

    def extend(self, seconds):
        """The lease ends `seconds` from now; at most the queue's `max_lease` after it was received."""
        self.home._extend([self], seconds)

    def __repr__(self):
        value = self.value
        shown = repr(value) if value is None or len(value) <= 40 else f"{value[:32]!r}... ({len(value):,} bytes)"
        return f"<Message {self.partition}:{self.offset} attempt {self.attempts} value={shown}>"


cdef class Delivery:
    """The engine of a queue over its logs; `seglog.queue.Queue` is made on top of it."""

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
                for i, log in enumerate(logs):
                    level = Level(log, i, folder)
                    level.w = <LevelWords *>(self.mapping.data + QUEUE_LEVELS) + i
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

    # ---- the lock ----------------------------------------------------------------------------------------------

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
            for level in self.levels:
                level.look(self.q.chunks)
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
            for level in self.levels[:self.priorities]:
                self.review(level)
        if self.grouping:
            self.regroup()
        if self.by_bytes:
            self._count_bytes()
        if anew:
            self.q.settle_seen = self.settled.first_offset
            self.take_in_settled()
            self.q.acked = self.q.expired = self.q.dropped = self.q.dead = 0
        platform.store_u32(&self.q.rebuilding, 0)
        return 0

    cdef int review(self, Level level) except -1:
        """Under the lock, in a new boot: of what was out then, what was tried often enough is doomed; what is ready expires when it is to."""
        cdef Chunk c
        cdef int64_t i, until
        cdef uint64_t word
        for number in list(level.numbers):
            c = level.chunk(number, NULL)
            if c is None or c.h.n[READY] == 0:
                continue
            for i in range(c.h.allocated):
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

    # ---- what was settled by transactions ----------------------------------------------------------------------

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
        if self.by_bytes and was <= READY:
            self.q.bytes_out += self.size_at(level, offset)
        level.change(c, i, state, attempts_of(word), deliveries_of(word), 0, reason, 0)
        if c.slots[i].group and was != WAITING:
            g, c.slots[i].group = c.slots[i].group, 0
            self.let_next(level, g)
        if level.index < self.priorities:
            if reason == 0:
                self.q.acked += 1
            elif reason == EXPIRED:
                self.q.expired += 1
            elif reason == MAXLEN:
                self.q.dropped += 1
            elif reason == DELIVERY_LIMIT:
                self.q.dead += 1
        return 0

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

    # ---- what comes back ---------------------------------------------------------------------------------------

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
            if self.by_bytes:
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
        cdef int64_t number, i, j
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
                                if self.by_bytes:
                                    self.q.bytes_out -= self.size_at(level, number * CHUNK_SLOTS + i)
                                level.change(
                                    c, i, READY, attempts_of(word), deliveries_of(word), 0, 0,
                                    self.ends_at(level, number * CHUNK_SLOTS + i))
                            elif state == READY or state == WAITING or state == UNTOUCHED:
                                self.expire(level, c, i)
                        b.due_min = block_min(b, &c.slots[j * BLOCK_SLOTS], False)
                    c.h.due_min = min(c.h.due_min, b.due_min)
            level.w.due_min = min(level.w.due_min, c.h.due_min)
        return 0

    cdef int64_t ends_at(self, Level level, int64_t offset) except -1:
        """When the message at `offset` expires; 0 when it does not, or lies among the delayed ones."""
        cdef int64_t until = 0
        if level.index < self.priorities and offset >= level.log.w.first_offset \
                and level.back.seek(offset, platform.load_i64(&level.log.w.next_offset)) and level.back.e.offset == offset:
            if self.ttl_us >= 0:
                until = level.back.e.timestamp + self.ttl_us
            if level.back.e.header_size:
                until = number_attribute(&level.back.e, b"seglog-expires", 14, until)
        return max(until, 0)

    cdef int expire(self, Level level, Chunk c, int64_t i) except -1:
        cdef uint64_t word = c.slots[i].word
        if self.keeps_expired:
            if state_of(word) == UNTOUCHED and c.h.number * CHUNK_SLOTS + i >= level.w.cursor:
                level.w.ahead += 1
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
        cdef Level level
        cdef Level delayed = <Level>self.levels[self.priorities]
        if platform.monotonic_us() - self.q.probed >= PROBE_US:
            self.probe()
        if platform.load_i64(&delayed.log.w.next_offset) > delayed.w.cursor:
            self.take_in_delayed(wall)
        for level in self.levels:
            if mono >= level.w.lease_min:
                self.sweep_leases(level, mono, -1)
            if wall >= level.w.due_min:
                self.sweep_dues(level, wall)
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

    # ---- handing out -------------------------------------------------------------------------------------------

    cdef bint is_active(self) except -1:
        """Under the lock: whether this handle is the one that receives; it becomes so when nobody is."""
        cdef int64_t me = <int64_t>self.shared.liveness.my_word() << 32 | (self.number & 0x7FFFFFFF)
        if self.q.active == 0:
            platform.store_i64(&self.q.active, me)
        return self.q.active == me

    cdef bint expired(self, const Entry *e, int64_t wall) noexcept:
        cdef int64_t until = NEVER
        if self.ttl_us >= 0:
            until = e.timestamp + self.ttl_us
        if e.header_size:
            until = number_attribute(e, b"seglog-expires", 14, until)
        return until <= wall

    cdef Message lease(self, Level level, Chunk c, int64_t i, const Entry *e, object batch, int64_t mono, int64_t wall):
        """Under the lock: it is this process's from here on. The word is stored before anybody gets to see the message."""
        cdef uint64_t word = c.slots[i].word
        cdef uint32_t mine = self.shared.liveness.word
        cdef int slot = <int>(mine & 0xFFFF) - 1
        cdef Message m = Message.__new__(Message)
        if deliveries_of(word) == 0:
            c.slots[i].first = wall
        m.attempts, m.deliveries = attempts_of(word) + 1, deliveries_of(word) + 1
        level.change(c, i, LEASED, m.attempts, m.deliveries, slot, 0, mono + self.lease_us)
        platform.failpoint("queue.leased")
        self.owners[slot].leased += 1
        if self.by_bytes:
            self.q.bytes_out += max(e.value_size, 0)
        m.owner = batch
        m.value_data, m.value_size = e.value, e.value_size
        m.key_data, m.key_size = e.key, e.key_size
        m.header_data, m.header_size = e.headers, e.header_size
        m.timestamp, m.offset, m.partition = e.timestamp, e.offset, level.index
        m.home, m.state, m.leased_at, m.first_received_at = self, LEASED, mono, c.slots[i].first
        return m

    cdef Message take(self, Level level, int64_t mono, int64_t wall):
        """Under the lock: the next message of a level, or None."""
        cdef LevelWords *w = level.w
        cdef uint32_t g
        cdef int looked = 0
        cdef int64_t offset, i, stop
        cdef Chunk c
        cdef Message m
        while w.n[READY]:
            offset = level.lowest(READY, w.ready_from)
            if offset < 0:
                w.ready_from = 0
                offset = level.lowest(READY, 0)
                if offset < 0:
                    break
            c, i = level.chunk(offset // CHUNK_SLOTS, NULL), offset % CHUNK_SLOTS
            stop = platform.load_i64(&level.log.w.next_offset)
            if offset < level.log.w.first_offset or not level.back.seek(offset, stop) or level.back.e.offset != offset:
                level.change(c, i, SETTLED, 0, 0, 0, MOVED, 0)      # a state without a message
                continue
            if level.index < self.priorities and self.expired(&level.back.e, wall):
                self.expire(level, c, i)
                continue
            w.ready_from = offset + 1
            return self.lease(level, c, i, &level.back.e, level.back.batch, mono, wall)
        if self.grouping == 2:
            m = self.next_in_turn(level, mono, wall)
            if m is not None:
                return m
        if level.index == self.priorities:
            return None                     # of the delayed ones, what is not due yet stays
        stop = platform.load_i64(&level.log.w.next_offset)
        if w.cursor < level.log.w.first_offset:
            w.cursor = level.log.w.first_offset
        while w.cursor < stop:
            offset = w.cursor
            if not level.front.seek(offset, stop):
                w.gap, w.cursor = max(w.gap - (stop - offset), 0), stop
                return None
            if level.front.e.offset > offset:
                w.gap = max(w.gap - (level.front.e.offset - offset), 0)
                offset = w.cursor = level.front.e.offset
            i = offset & (CHUNK_SLOTS - 1)
            c = level.near
            if c is None or c.h.number != offset // CHUNK_SLOTS:
                c = level.chunk(offset // CHUNK_SLOTS, &self.q.chunks)
            if i >= c.h.allocated:
                c.grow(i)
            if c.slots[i].word:
                w.ahead = max(w.ahead - 1, 0)
                w.cursor = offset + 1
                continue
            if (self.ttl_us >= 0 or level.front.e.header_size) and self.expired(&level.front.e, wall):
                self.expire(level, c, i)
                w.ahead = max(w.ahead - 1, 0)
                w.cursor = offset + 1
                continue
            if self.grouping:
                if w.n[WAITING] >= self.lookahead or looked >= LOOK_AT_ONCE:
                    break
                looked += 1
                g = self.groups.find(self.group_of(&level.front.e), &self.q.groups)
                if self.grouping == 2 or self.groups.entries[g].active or self.groups.entries[g].first >= 0:
                    level.change(c, i, WAITING, 0, 0, 0, 0, number_attribute(&level.front.e, b"seglog-expires", 14, 0))
                    self.groups.append(level, g, offset, self.grouping == 2)
                    w.cursor = offset + 1
                    continue
                self.groups.entries[g].active = 1
                c.slots[i].group = g
            m = self.lease(level, c, i, &level.front.e, level.front.batch, mono, wall)
            w.cursor = offset + 1
            return m
        return self.next_in_turn(level, mono, wall) if self.grouping == 2 else None

    # ---- groups ------------------------------------------------------------------------------------------------

    cdef uint64_t group_of(self, const Entry *e) noexcept:
        cdef int64_t size = 0
        cdef const char *name = attribute(e, b"seglog-group", 12, &size) if e.header_size else NULL
        if name == NULL:
            return 0
        return xxh3_64(name, size) | 1

    cdef Message next_in_turn(self, Level level, int64_t mono, int64_t wall):
        """Under the lock, in a fair queue: the first message of the group whose turn it is. None while the scan is not far enough, or nobody waits."""
        cdef uint32_t g
        cdef int64_t offset, i
        cdef Chunk c
        if level.w.cursor < platform.load_i64(&level.log.w.next_offset) and level.w.n[WAITING] < min(self.lookahead, <int64_t>LOOK_AT_ONCE):
            return None
        while self.groups.h.turn:
            g = self.groups.entries[self.groups.h.turn].after
            self.groups.h.turn = g
            offset = self.groups.pop(level, g)
            if self.groups.entries[g].first < 0:
                self.groups.out_of_ring(g)
                self.groups.forget(g)
            if offset < 0:
                continue
            c, i = level.chunk(offset // CHUNK_SLOTS, NULL), offset % CHUNK_SLOTS
            if not level.back.seek(offset, platform.load_i64(&level.log.w.next_offset)) or level.back.e.offset != offset:
                level.change(c, i, SETTLED, 0, 0, 0, MOVED, 0)
                continue
            if self.expired(&level.back.e, wall):
                self.expire(level, c, i)
                continue
            return self.lease(level, c, i, &level.back.e, level.back.batch, mono, wall)
        return None

    cdef int let_next(self, Level level, uint32_t g) except -1:
        """Under the lock, in a FIFO queue: a message of the group was settled; the next one may go."""
        cdef int64_t offset, i
        cdef Chunk c
        cdef GroupEntry *e = &self.groups.entries[g]
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

    cdef bint nothing_left(self, Level level) noexcept:
        if level.w.n[READY] or (self.grouping == 2 and level.w.n[WAITING]):
            return False
        return platform.load_i64(&level.log.w.next_offset) <= level.w.cursor or (self.grouping and level.w.n[WAITING] >= self.lookahead)

    cdef Level pick(self):
        """Weighted: the level whose turn it is, of those with something; smooth weighted round robin, a level's weight is its number + 1."""
        cdef Level level, best = None
        cdef int64_t total = 0
        cdef int p
        for p in range(self.priorities):
            level = <Level>self.levels[p]
            if not self.nothing_left(level):
                level.w.credit += p + 1
                total += p + 1
                if best is None or level.w.credit >= best.w.credit:
                    best = level
        if best is not None:
            best.w.credit -= total
        return best

    cdef list claim(self, int64_t n):
        """Up to n messages, leased to this process."""
        cdef Level level
        cdef Batch ahead = None, before = None
        cdef int64_t mono, wall, offset, stop
        cdef Message m
        cdef list got = []
        cdef bint chores
        cdef int p
        if self.shut:
            self.check()
        if self.priorities == 1:
            # What is to be checked and decoded is so before the lock is taken, as a rule.
            level = <Level>self.levels[0]
            offset, stop = platform.load_i64(&level.w.cursor), platform.load_i64(&level.log.w.next_offset)
            before = level.front.batch
            if offset < stop and before is not None and offset == before.next_offset and level.w.n[READY] == 0 \
                    and offset >= level.log.w.first_offset:
                ahead = level.log.following(before, stop, 4096)
        wall = self.first.now()
        mono = wall if self.virtual else platform.monotonic_us()
        self.lock()
        try:
            self.sweep(mono, wall)
            chores = self.has_chores()
        except BaseException:
            self.unlock(False)
            raise
        if chores:
            # What is due goes where it is to be received from first.
            self.unlock(False)
            self._do_chores()
            self.lock()
        try:
            if ahead is not None and level.front.batch is before:
                level.front.begin(ahead)
            if self.become_owner() and (not self.single or self.is_active()):
                if self.weighted:
                    while len(got) < n:
                        level = self.pick()
                        if level is None:
                            break
                        m = self.take(level, mono, wall)
                        if m is not None:
                            got.append(m)
                else:
                    for p in range(self.priorities - 1, -1, -1):
                        level = <Level>self.levels[p]
                        while len(got) < n:
                            m = self.take(level, mono, wall)
                            if m is None:
                                break
                            got.append(m)
        except BaseException:
            if not got:
                raise                       # else what was taken is handed out, and the next call tells
        finally:
            chores = self.has_chores()
            self.unlock(False)
            if self.q.space_waiting and got:
                self.ring(True)
        if chores:
            self._do_chores()
        return got

    cdef bint has_chores(self) noexcept:
        """Whether there is something to be moved: to the dead letters, or from the delayed ones."""
        cdef Level level
        if (<Level>self.levels[self.priorities]).w.n[READY]:
            return True
        for level in self.levels:
            if level.w.n[DOOMED]:
                return True
        return False

    def _do_chores(self):
        """What the layer above moves."""

    cdef bint something(self) noexcept:
        """Whether a look under the lock may find anything."""
        cdef Level level
        cdef int p
        for p in range(self.priorities):
            if not self.nothing_left(<Level>self.levels[p]):
                return True
        level = <Level>self.levels[self.priorities]
        return platform.load_i64(&level.log.w.next_offset) > level.w.cursor or level.w.n[READY] > 0

    cdef int wait(self, int64_t deadline) except -1:
        """Sleep until the bell rings, something is due, or 50 ms are over; 0 when it is past `deadline` (monotonic; negative: never)."""
        cdef SharedWords *w = self.shared.words
        cdef Level level
        cdef uint32_t heard
        cdef int64_t left = SLICE_US, now = platform.monotonic_us()
        if deadline >= 0:
            left = min(left, deadline - now)
            if left <= 0:
                return 0
        if not self.virtual:
            for level in self.levels:
                left = min(left, min(level.w.due_min - platform.now_us(), level.w.lease_min - now))
            left = max(left, 100)
        platform.store_u32(&w.bell_waiting, 1)
        heard = platform.load_u32(&w.bell)
        platform.fence()
        if not self.something() or (self.single and self.q.active and self.q.active >> 32 != self.shared.liveness.word):
            with nogil:
                platform.wait_u32(&w.bell, heard, left)
        elif self.single:
            with nogil:
                platform.wait_u32(&w.bell, heard, 10000)
        PyErr_CheckSignals()
        self.check()
        return 1

    # ---- for who waits for several things at once ---------------------------------------------------------------

    def listen(self):
        """Say that this process is about to wait for a message; a ticket for `hear`. Ask `ready` between the two."""
        self.check()
        platform.store_u32(&self.shared.words.bell_waiting, 1)
        platform.fence()
        return platform.load_u32(&self.shared.words.bell)

    def hear(self, uint32_t ticket, double timeout):
        """Sleep until the bell rang since `listen`, or something is due; at most `timeout` seconds and 50 ms. Without the GIL."""
        cdef Level level
        cdef int64_t left = min(<int64_t>(min(max(timeout, 0.0), 1.0) * 1e6), <int64_t>SLICE_US)
        self.check()
        if not self.virtual:
            for level in self.levels:
                left = min(left, min(level.w.due_min - platform.now_us(), level.w.lease_min - platform.monotonic_us()))
            left = max(left, 100)
        with nogil:
            platform.wait_u32(&self.shared.words.bell, ticket, left)
        PyErr_CheckSignals()

    def ready(self):
        """Whether a receive may find something, or is to look who died. Without the lock; raises ClosedError."""
        cdef Level level
        cdef bint leased = False, late = platform.monotonic_us() - self.q.probed >= SLICE_US
        cdef int64_t wall, mono
        self.check()
        if self.single and self.q.active and self.q.active >> 32 != self.shared.liveness.word:
            return late
        if self.something():
            return True
        wall, mono = self.first.now(), self.mono()
        for level in self.levels:
            if wall >= level.w.due_min or mono >= level.w.lease_min:
                return True
            leased = leased or level.w.n[LEASED] > 0
        return leased and late

    @cython.binding(False)
    def send(
        self, value, key=None, headers=None, *, priority=None, delay=None, deliver_at=None, ttl=None, dedup_id=None, group=None, tx=None, timeout=None,
    ):
        """Add a message; where it is, as a `Position`: its level, and its number there.

        `value` is bytes-like, `key` bytes-like, `headers` a mapping of str to bytes. `priority` 0 to the queue's `priorities` - 1, higher first.
        `delay` in seconds, or `deliver_at` (aware datetime, or µs since the epoch): not before. `ttl` in seconds: not after; the queue's own, if that is
        shorter. `dedup_id`, bytes: sent twice within `dedup_window` it is there once, and the first one's position is returned. `group`, bytes: for
        FIFO and fair queues. `timeout`: how long to wait for room, where overflow is "block". With `tx` it is there when that commits, and
        None is returned. Every process sees it when this returns; what survives a power cut is the store's `fsync`.

        Raises QueueFull, TypeError, ConfigError, RecordTooLarge, StoreFull, LockTimeout, ClosedError; after any of them nothing was sent. Cost:
        about 150 ns and a copy; with options some microseconds.
        """
        if not self.plain or tx is not None or headers is not None or priority is not None or delay is not None or deliver_at is not None \
                or ttl is not None or dedup_id is not None or group is not None or timeout is not None:
            return self._send_with(value, key, headers, priority, delay, deliver_at, ttl, dedup_id, group, tx, timeout)
        if self.shut:
            self.check()
        return new_position(0, self.first.append_record(value, key, None, None))

    @cython.binding(False)
    def receive(self, max_messages=1, timeout=None, *, tx=None):
        """Up to `max_messages` messages, leased to this process; an empty list when none came for `timeout` seconds.

        None waits for ever, 0 only looks. Highest priority first, then what came back, then what was sent first. Each is to be acked, nacked,
        released or rejected within the queue's `lease`, or extended; else it comes again. With `tx`, those that were not settled when that is given up are
        released. Raises what reading a log raises; Ctrl-C works. Cost: about half a microsecond a message.
        """
        cdef int64_t n = to_offset(max_messages), limit = timeout_us(timeout), deadline = -1, cursor
        cdef Level level
        cdef list got
        if n < 1:
            raise ValueError(f"max_messages is {n}; it is at least 1")
        got = self.claim(n)
        if self.grouping and not got:
            # One hold of the lock looks through some thousands only: on, until it is no further.
            level = <Level>self.levels[0]
            cursor = -1
            while not got and level.w.cursor != cursor and not self.nothing_left(level):
                cursor = level.w.cursor
                got = self.claim(n)
        if not got and limit != 0:
            deadline = limit if limit < 0 else platform.monotonic_us() + limit
            while not got and self.wait(deadline):
                got = self.claim(n)
        if tx is not None and got:
            self._bind(tx, got)
        return got

    # ---- settling ----------------------------------------------------------------------------------------------

    cdef Chunk find(self, Message m, int64_t *i) except *:
        """Under the lock: the chunk and slot of a message that is still what it was. Raises LeaseLost."""
        cdef Chunk c
        cdef Level level
        cdef uint64_t word
        if m.home is not self:
            raise ValueError("a message is settled by the queue it was received from. Nothing was settled.")
        level = <Level>self.levels[m.partition]
        c = level.near
        if c is None or c.h.number != m.offset // CHUNK_SLOTS:
            c = level.chunk(m.offset // CHUNK_SLOTS, NULL)
        if c is not None:
            i[0] = m.offset % CHUNK_SLOTS
            word = c.slots[i[0]].word
            if state_of(word) == m.state and deliveries_of(word) == m.deliveries & 0xFFFF and m.leased_at:
                return c
        raise lost(m)

    def _settle_one(self, Message m not None, tx):
        cdef Chunk c
        cdef int64_t i = 0
        if tx is not None:
            self._add_settled(tx, [m], 0)
            return
        self.lock()
        try:
            c = self.find(m, &i)
            self.settle(<Level>self.levels[m.partition], c, i, SETTLED, 0)
        finally:
            self.unlock(self.freed)
        if self.first.fsync == 2:
            c.sync(self.shared.liveness)

    def ack(self, list messages not None, tx=None):
        """All of them are done. One hold of the lock; after LeaseLost none of them was acked. With `tx`, when that commits."""
        cdef Message m
        cdef Chunk c
        cdef int64_t i = 0
        cdef set chunks = set()
        if tx is not None:
            if messages:
                self._add_settled(tx, messages, 0)
            return
        self.lock()
        try:
            for m in messages:
                self.find(m, &i)
            for m in messages:
                c = self.find(m, &i)
                self.settle(<Level>self.levels[m.partition], c, i, SETTLED, 0)
                if self.first.fsync == 2:
                    chunks.add(c)
        finally:
            self.unlock(self.freed)
        for c in chunks:
            c.sync(self.shared.liveness)

    def _give_back(self, list messages not None, list dues, bint counts):
        """They come again: at once, or when they are due (µs since the epoch; 0: at once). `counts`: as an attempt."""
        cdef Level level
        cdef Message m
        cdef Chunk c
        cdef int64_t i = 0, due
        cdef int attempts, k
        cdef uint64_t word
        self.lock()
        try:
            for m in messages:
                self.find(m, &i)
            for k in range(len(messages)):
                m = <Message>messages[k]
                c = self.find(m, &i)
                word = c.slots[i].word
                attempts = attempts_of(word) if counts else max(attempts_of(word) - 1, 0)
                due = dues[k] if dues is not None else 0
                self.owners[owner_of(word)].leased -= 1
                if self.by_bytes and due == 0:
                    self.q.bytes_out -= max(m.value_size, 0)
                level = <Level>self.levels[m.partition]
                level.change(c, i, DELAYED if due else READY, attempts, m.deliveries, 0, 0, due or self.ends_at(level, m.offset))
        finally:
            self.unlock(True)

    def _extend(self, list messages not None, seconds):
        """The leases end `seconds` from now."""
        cdef Message m
        cdef Chunk c
        cdef int64_t i = 0, until, longer = timeout_us(seconds), now = self.mono()
        cdef Level level
        cdef uint64_t word
        if longer < 0:
            raise TypeError("a lease ends: extend takes a number of seconds")
        self.lock()
        try:
            for m in messages:
                self.find(m, &i)
            for m in messages:
                c = self.find(m, &i)
                level = <Level>self.levels[m.partition]
                word = c.slots[i].word
                until = min(now + longer, m.leased_at + self.max_lease_us)
                level.change(c, i, LEASED, attempts_of(word), deliveries_of(word), owner_of(word), 0, until)
        finally:
            self.unlock(False)

    # ---- for the layer above -----------------------------------------------------------------------------------

    def _take(self, int level, int64_t n):
        """Up to n messages of this level, leased; of the delayed ones those that are due."""
        cdef list got = []
        cdef Message m
        cdef int64_t wall = self.first.now(), mono = self.mono()
        self.lock()
        try:
            while self.become_owner() and len(got) < n:
                m = self.take(<Level>self.levels[level], mono, wall)
                if m is None:
                    break
                got.append(m)
        finally:
            self.unlock(False)
        return got

    def _take_in_all(self):
        """All messages that were sent with a delay so far have a slot, and what is due of them is ready."""
        cdef Level level = <Level>self.levels[self.priorities]
        cdef int64_t wall = self.first.now()
        while True:
            self.lock()
            try:
                self.take_in_delayed(wall)
                if wall >= level.w.due_min:
                    self.sweep_dues(level, wall)
                if level.w.cursor >= platform.load_i64(&level.log.w.next_offset):
                    return
            finally:
                self.unlock(False)

    def _in_state(self, int level, int state, int64_t n, int64_t start=0):
        """Up to n messages of a level in a state, lowest first, from `start` on; looked at, not leased."""
        cdef Level its = <Level>self.levels[level]
        cdef list found = [], got = []
        cdef int64_t offset = start, stop
        cdef Chunk c
        cdef Message m
        cdef uint64_t word
        cdef Batch batch
        self.lock()
        try:
            while len(found) < n:
                offset = its.lowest(state, offset)
                if offset < 0:
                    break
                c = its.chunk(offset // CHUNK_SLOTS, NULL)
                found.append((offset, c.slots[offset % CHUNK_SLOTS].word, c.slots[offset % CHUNK_SLOTS].first))
                offset += 1
            stop = platform.load_i64(&its.log.w.next_offset)
        finally:
            self.unlock(False)
        for offset, word, first in found:
            if offset < its.log.first_offset:
                continue
            batch = its.log.collect(offset, stop, 1, 1048576)
            if batch is not None and batch.first_offset == offset:
                m = self.seen(its, batch, word, state)
                m.first_received_at = first
                got.append(m)
        return got

    cdef Message seen(self, Level level, Batch batch, uint64_t word, int state):
        cdef Record r = batch[0]
        cdef Message m = Message.__new__(Message)
        m.owner = r.owner
        m.value_data, m.value_size, m.key_data, m.key_size = r.value_data, r.value_size, r.key_data, r.key_size
        m.header_data, m.header_size = r.header_data, r.header_size
        m.timestamp, m.offset, m.partition = r.timestamp, r.offset, level.index
        m.home, m.state, m.attempts, m.deliveries, m.reason = self, state, attempts_of(word), deliveries_of(word), reason_of(word)
        return m

    def _untouched(self, int level, int64_t n, int64_t start=-1):
        """Up to n messages of a level that were never handed out, from the cursor, or `start`, on; looked at, not leased."""
        cdef Level its = <Level>self.levels[level]
        cdef int64_t at, stop = platform.load_i64(&its.log.w.next_offset)
        cdef list got = []
        cdef Batch batch
        cdef Chunk c
        at = max(platform.load_i64(&its.w.cursor), start, its.log.first_offset)
        while at < stop and len(got) < n:
            batch = its.log.collect(at, stop, 1, 1048576)
            if batch is None:
                break
            at = batch.first_offset
            c = its.chunks.get(at // CHUNK_SLOTS)
            if c is None or c.slots[at % CHUNK_SLOTS].word == 0:
                got.append(self.seen(its, batch, 0, UNTOUCHED))
            at += 1
        return got

    def _sweep(self):
        """What is to be done by time, as `receive` does it; whether there is something for the layer above to move."""
        cdef int64_t wall = self.first.now(), mono = self.mono()
        cdef Level level
        self.lock()
        try:
            self.probe()
            self.sweep(mono, wall)
            for level in self.levels[:self.priorities]:
                self.scan(level, wall)
        finally:
            self.unlock(True)
        return self.has_chores()

    cdef int scan(self, Level level, int64_t wall) except -1:
        """Under the lock: expired messages at the cursor go, and those that will expire by a time of their own get a slot that says when."""
        cdef LevelWords *w = level.w
        cdef int64_t stop = platform.load_i64(&level.log.w.next_offset), at, i, until
        cdef Chunk c
        cdef Entry *e
        if w.cursor < level.log.w.first_offset:
            w.cursor = level.log.w.first_offset
        if self.ttl_us >= 0:
            while w.cursor < stop and level.front.seek(w.cursor, stop):
                e = &level.front.e
                if e.offset > w.cursor:
                    w.gap = max(w.gap - (e.offset - w.cursor), 0)
                    w.cursor = e.offset
                c = level.chunk(w.cursor // CHUNK_SLOTS, &self.q.chunks)
                i = w.cursor % CHUNK_SLOTS
                c.grow(i)
                if c.slots[i].word == 0:
                    if not self.expired(e, wall):
                        break
                    self.expire(level, c, i)
                w.ahead = max(w.ahead - 1, 0)
                w.cursor += 1
        at = max(w.scanned, w.cursor)
        if at >= stop:
            return 0
        for batch in level.log.batches(at, stop):
            if (<Batch>batch).headers is None:
                continue
            for record in batch:
                until = NEVER
                value = record.headers.get("seglog-expires")
                if value is not None and len(value) == 8:
                    until = int.from_bytes(value, "little", signed=True)
                    c = level.chunk(record.offset // CHUNK_SLOTS, &self.q.chunks)
                    i = record.offset % CHUNK_SLOTS
                    c.grow(i)
                    if c.slots[i].word == 0:
                        if until <= wall:
                            self.expire(level, c, i)
                        else:
                            c.slots[i].when = until
                            c.blocks[i // BLOCK_SLOTS].due_min = min(c.blocks[i // BLOCK_SLOTS].due_min, until)
                            c.h.due_min = min(c.h.due_min, until)
                            w.due_min = min(w.due_min, until)
        w.scanned = stop
        return 0

    def _counts(self):
        """Under the lock, at one moment: counts by state, of each level, and the queue's own counters."""
        cdef Level level
        cdef list rows = []
        self.lock()
        try:
            for level in self.levels:
                rows.append({
                    "untouched": level.untouched(), "ready": level.w.n[READY], "leased": level.w.n[LEASED], "delayed": level.w.n[DELAYED],
                    "doomed": level.w.n[DOOMED], "waiting": level.w.n[WAITING], "cursor": level.w.cursor,
                    "fair": self.grouping == 2})
            said = {"acked": self.q.acked, "expired": self.q.expired, "dropped": self.q.dropped, "dead": self.q.dead, "damaged": self.q.damaged,
                    "consumers": sum([1 for i in range(SLOTS) if self.owners[i].word and self.shared.liveness.is_alive(self.owners[i].word)])}
        finally:
            self.unlock(False)
        return rows, said

    def _note_dedup(self, int64_t now):
        """Somebody sends with a dedup_id: what was settled is to be known for a while."""
        platform.store_i64(&self.q.dedup, now)

    def _last_dedup(self):
        """When somebody did last, in µs since the epoch; 0: nobody."""
        return platform.load_i64(&self.q.dedup)

    def _revive(self, int level, int64_t start, int64_t stop):
        """Acked messages of a level, from offset `start` up to `stop`, are ready again; how many."""
        cdef Level its = <Level>self.levels[level]
        cdef Chunk c
        cdef int64_t i, n = 0, offset
        cdef uint64_t word
        self.lock()
        try:
            for number in list(its.numbers):
                c = its.chunk(number, NULL)
                if c is None or c.h.n[SETTLED] + c.h.n[DECIDED] == 0:
                    continue
                for i in range(c.h.allocated):
                    offset = number * CHUNK_SLOTS + i
                    word = c.slots[i].word
                    if start <= offset < stop and offset >= its.log.w.first_offset and state_of(word) == SETTLED and reason_of(word) == 0 \
                            and deliveries_of(word):
                        c.slots[i].first = 0
                        its.change(c, i, READY, 0, 0, 0, 0, 0)
                        if self.by_bytes:
                            self.q.bytes_out -= self.size_at(its, offset)
                        n += 1
        finally:
            self.unlock(True)
        return n

    def _length_check(self):
        self.check()

    def _length(self):
        """How many are ready, about to be, or delayed; without the lock: exact while senders are kept out and nobody receives."""
        cdef Level level
        cdef int64_t n = 0
        for level in self.levels[:self.priorities]:
            n += level.untouched() + level.w.n[READY] + level.w.n[WAITING]
        return n

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
                for value in batch.values:
                    n += 0 if value is None else len(value)
        self.q.bytes_in, self.q.bytes_out = n, 0

    def _ready_bytes(self):
        """The bytes of what is ready; see `_length`."""
        return self.q.bytes_in - self.q.bytes_out

    def _add_bytes(self, int64_t size):
        """Under the lock that all senders of a queue with a bound pass through."""
        self.q.bytes_in += size

    def _recount_bytes(self):
        """After a send that failed, or before one is refused. Holds the queue's lock, and the senders' out, meanwhile."""
        self.lock()
        try:
            self.settled.lock()
            try:
                self._count_bytes()
            finally:
                self.settled.shared.unlock()
        finally:
            self.unlock(False)

    def _count_dropped(self, int64_t n):
        self.lock()
        self.q.dropped += n
        self.unlock(False)

    def claim_for(self, n):
        """Up to n messages, leased; `receive` without waiting."""
        return self.claim(to_offset(n))

    def _drop_oldest(self, int64_t n, bint dead):
        """The n that would come next, of the lowest level that has some, go: to the dead letters, or for good. How many went."""
        cdef Level level
        cdef Chunk c
        cdef int64_t i, offset, stop
        cdef int64_t gone = 0
        self.lock()
        try:
            for level in self.levels[:self.priorities]:
                while gone < n:
                    stop = platform.load_i64(&level.log.w.next_offset)
                    if level.w.n[READY]:
                        offset = level.lowest(READY, 0)
                    else:
                        if level.w.cursor < level.log.w.first_offset:
                            level.w.cursor = level.log.w.first_offset
                        if level.w.cursor >= stop or not level.front.seek(level.w.cursor, stop):
                            break
                        offset = level.front.e.offset
                        level.w.gap = max(level.w.gap - (offset - level.w.cursor), 0)
                        level.w.cursor = offset
                    c = level.chunk(offset // CHUNK_SLOTS, &self.q.chunks)
                    i = offset % CHUNK_SLOTS
                    c.grow(i)
                    if state_of(c.slots[i].word) > READY:
                        level.w.cursor = offset + 1
                        level.w.ahead = max(level.w.ahead - 1, 0)
                        continue
                    if dead:
                        if c.slots[i].word == 0:
                            level.w.ahead += 1
                        if self.by_bytes:
                            self.q.bytes_out += self.size_at(level, offset)
                        level.change(c, i, DOOMED, attempts_of(c.slots[i].word), deliveries_of(c.slots[i].word), 0, MAXLEN, 0)
                    else:
                        self.settle(level, c, i, SETTLED, MAXLEN)
                    if offset == level.w.cursor:
                        level.w.cursor = offset + 1
                        level.w.ahead = max(level.w.ahead - 1, 0)
                    gone += 1
        finally:
            self.unlock(False)
        return gone

    def _purge(self):
        """Everything that is not settled goes, whoever has it; what is sent after this was called stays. How many went."""
        cdef Level level
        cdef Chunk c
        cdef int64_t n = 0, i, stop
        self.lock()
        try:
            self.settled.lock()
            try:
                self.take_in_settled()
                for level in self.levels:
                    stop = platform.load_i64(&level.log.w.next_offset)
                    n += level.untouched()
                    for number in level.numbers:
                        c = level.chunk(number, NULL)
                        if c is not None:
                            for i in range(c.h.allocated):
                                if UNTOUCHED < state_of(c.slots[i].word) < SETTLED:
                                    self.settle(level, c, i, SETTLED, MOVED)
                                    n += 1
                    level.w.cursor, level.w.gap, level.w.ahead, level.w.scanned = stop, 0, 0, stop
                    platform.failpoint("queue.purging")
                    level.log.trim(stop)
            finally:
                self.settled.shared.unlock()
        finally:
            self.unlock(False)
        self.ring(True)
        return n

    def _sync(self):
        """What was settled before this was called survives a power cut when it returns."""
        cdef Level level
        cdef Chunk c
        for level in self.levels:
            for c in list(level.chunks.values()):
                if c.dirty:
                    c.sync(self.shared.liveness)

    def _wait_for_space(self, int64_t deadline):
        """Sleep until somebody received something, at most 50 ms; False when it is past `deadline` (monotonic µs; negative: never)."""
        cdef uint32_t heard
        cdef int64_t left = SLICE_US
        if deadline >= 0:
            left = min(left, deadline - platform.monotonic_us())
            if left <= 0:
                return False
        platform.store_u32(&self.q.space_waiting, 1)
        heard = platform.load_u32(&self.q.space_bell)
        platform.fence()
        if self._length() > 0:
            with nogil:
                platform.wait_u32(&self.q.space_bell, heard, min(left, 5000))
        PyErr_CheckSignals()
        self.check()
        return True

    def _detach(self):
        """Let go of being the active consumer, and of the files. Messages that are still out come back as those of any process do."""
        cdef int64_t me
        if self.shut:
            return
        me = <int64_t>self.shared.liveness.word << 32 | (self.number & 0x7FFFFFFF)
        if self.q.active == me:
            platform.store_i64(&self.q.active, 0)
            self.ring(False)
        self.shut = True


cdef object lost(Message m):
    return LeaseLost(
        f"message {m.partition}:{m.offset} is no longer this delivery's ({m.deliveries}): its lease ended, it was settled, or it was only looked at. "
        "Nothing was changed: whoever received it last says what becomes of it.", offset=m.offset, priority=m.partition, deliveries=m.deliveries)
