# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True, nonecheck=True
"""Delivery: a queue's messages are handed out, and settled.

A message is handed out at most once at a time: its slot's word says LEASED, and to which process, before `receive` returns it; so
attempts survive whoever dies with it. A receipt is the number of the delivery: an ack of an older one raises LeaseLost.

It leaves to `leases` what comes back by itself, and to the layer above what is moved between logs and queues.
"""
cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t

from seglog.engine cimport platform
from seglog.engine.batch cimport Batch
from seglog.engine.frame cimport Entry
from seglog.engine.layout cimport BLOCK_SLOTS, CHUNK_BLOCKS, CHUNK_SLOTS, SLOTS, LevelWords, SharedWords
from seglog.engine.leases cimport EXPIRED, MAXLEN, MOVED, Leases
from seglog.engine.message cimport Message, lost, number_attribute
from seglog.engine.record cimport Record, new_position, timeout_us, to_offset
from seglog.engine.slots cimport (
    AHEAD, AHEAD_BYTES, DECIDED, DELAYED, DOOMED, LEASED, READY, SETTLED, UNTOUCHED, WAITING, Chunk, Level, attempts_of, deliveries_of, owner_of, reason_of, state_of,
    word_of,
)

from seglog.engine.errors import SeglogError
from seglog.engine.segment import sync_directory

cdef int64_t NEVER = 0x7FFFFFFFFFFFFFFF
cdef enum:
    SLICE_US = 50000                # the longest nap: signals and deaths are noticed that soon
    LOOK_AT_ONCE = 5000             # messages of a queue with groups that are looked through under one hold of the lock

REASONS = ("", "delivery_limit", "expired", "maxlen")


cdef class Delivery(Leases):
    """The engine of a queue over its logs; `seglog.queue.Queue` is made on top of it."""

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
        if self.by_bytes and level.index < self.priorities:
            self.q.bytes_out += max(e.value_size, 0)
        m.show(e, batch, level.index)
        m.home, m.state, m.leased_at, m.first_received_at = self, LEASED, mono, c.slots[i].first
        return m

    cdef int64_t lease_ahead(self, Level level, int64_t n, int64_t mono, int64_t wall) except -1:
        """Under the lock: lease up to n messages at the cursor that need not be looked at first; how many. `hand_out` makes messages of them."""
        cdef LevelWords *w = level.w
        cdef int64_t i, stop = platform.load_i64(&level.log.w.next_offset)
        cdef int slot = <int>(self.shared.liveness.word & 0xFFFF) - 1
        cdef Batch batch = level.front.batch
        cdef Chunk c
        if w.n[READY] or self.grouping or self.by_bytes or self.ttl_us >= 0 or level.index == self.priorities or batch is None \
                or not level.front.plain or w.cursor < batch.first_offset or w.cursor < platform.load_i64(&level.log.w.first_offset):
            return 0
        stop = min(stop, batch.next_offset)
        if w.cursor >= stop:
            return 0
        c, i = level.chunk(w.cursor // CHUNK_SLOTS, &self.q.chunks), w.cursor % CHUNK_SLOTS
        if i >= c.h.allocated:
            c.grow(i)
        n = level.lease_untouched(c, i, min(n, stop - w.cursor), slot, mono + self.lease_us, wall)
        platform.failpoint("queue.leased")
        self.owners[slot].leased += n
        w.cursor += n
        return n

    cdef int hand_out(self, Level level, int64_t first, int64_t n, list got, int64_t mono, int64_t wall) except -1:
        """Messages of what `lease_ahead` leased, all or, after an error, none. Needs no lock but the GIL: nobody else reads these, and `seek`
        finds its place again."""
        cdef int64_t offset
        cdef Py_ssize_t before = len(got)
        cdef Message m
        try:
            for offset in range(first, first + n):
                m = Message.__new__(Message)
                m.attempts = m.deliveries = 1
                m.home, m.state, m.leased_at, m.first_received_at = self, LEASED, mono, wall
                if not level.front.seek(offset, platform.load_i64(&level.log.w.next_offset)):
                    break
                m.show(&level.front.e, level.front.batch, level.index)
                got.append(m)
        except BaseException:
            del got[before:]
            raise
        return 0

    cdef int unlease(self, Level level, int64_t offset, int64_t deliveries, int64_t size) except -1:
        """Under the lock: it comes again as if it had not been received, when it is still this delivery's. Needs no memory."""
        cdef Chunk c = level.chunk(offset // CHUNK_SLOTS, NULL)
        cdef int64_t i = offset % CHUNK_SLOTS, until = 0
        cdef uint64_t word = c.slots[i].word if c is not None else 0
        if state_of(word) == LEASED and deliveries_of(word) == deliveries & 0xFFFF:
            try:
                until = self.ends_at(level, offset)
            except BaseException:
                pass                        # it is looked at again before it is handed out
            if self.by_bytes and level.index < self.priorities:
                self.q.bytes_out -= max(size, 0)
            self.owners[owner_of(word)].leased -= 1
            level.change(c, i, READY, max(attempts_of(word) - 1, 0), deliveries_of(word), 0, 0, until)
        return 0

    cdef int hand_back(self, Level level, int64_t first, int64_t n, list got) except -1:
        """What was leased for one who gets an error instead: n messages of a level from `first` on, and these."""
        cdef int64_t offset
        cdef Message m
        self.lock()
        try:
            for offset in range(first, first + n):
                self.unlease(level, offset, 1, 0)
            for m in got:
                self.unlease(<Level>self.levels[m.partition], m.offset, m.deliveries, m.value_size)
        finally:
            self.unlock(True)

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
                    level.change(c, i, WAITING, 0, 0, 0, 0, self.end_of_life(&level.front.e))
                    self.groups.append(level, g, offset, self.grouping == 2)
                    w.cursor = offset + 1
                    continue
                self.groups.entries[g].active = 1
                c.slots[i].group = g
            m = self.lease(level, c, i, &level.front.e, level.front.batch, mono, wall)
            w.cursor = offset + 1
            return m
        return self.next_in_turn(level, mono, wall) if self.grouping == 2 else None

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
        cdef int64_t mono, wall, offset, stop, more, first = 0, count = 0
        cdef Message m = None
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
            if level.log.w.first_offset <= offset < stop and (before is None or offset >= before.next_offset) and level.w.n[READY] == 0:
                if before is not None and offset < before.next_offset + AHEAD:
                    ahead = level.log.following(before, stop, AHEAD)
                else:
                    ahead = level.log.collect(offset, stop, AHEAD, AHEAD_BYTES)
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
            if ahead is not None and level.front.batch is before and ahead.first_offset <= level.w.cursor < ahead.next_offset:
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
                            m = None
                else:
                    for p in range(self.priorities - 1, -1, -1):
                        level = <Level>self.levels[p]
                        while len(got) + count < n:
                            more = self.lease_ahead(level, n - len(got) - count, mono, wall)
                            if more:
                                first = first if count else level.w.cursor - more
                                count += more
                                continue
                            if count:
                                if self.priorities == 1 and self.nothing_left(level):
                                    break
                                self.hand_out(level, first, count, got, mono, wall)
                                count = 0
                            m = self.take(level, mono, wall)
                            if m is None:
                                break
                            got.append(m)
                            m = None
                        if count:
                            if platform.FREE_THREADED:
                                self.hand_out(level, first, count, got, mono, wall)
                                count = 0
                            break
        except BaseException:
            if m is not None:               # leased, and not in the list: there was no room for it
                self.unlease(<Level>self.levels[m.partition], m.offset, m.deliveries, m.value_size)
            if not got and not count:
                raise                       # else what was taken is handed out, and the next call tells
        finally:
            chores = self.has_chores()
            self.unlock(False)
            if self.q.space_waiting and (got or count):
                self.ring(True)
        try:
            if count:
                self.hand_out(level, first, count, got, mono, wall)
            if chores:
                self._do_chores()
        except BaseException:
            self.hand_back(level, first, count, got)
            raise
        return got

    cdef bint has_chores(self) noexcept:
        """Whether there is something to be moved: to the dead letters, or from the delayed ones."""
        cdef int i
        for i in range(self.priorities + 1):
            if self.w[i].n[DOOMED]:
                return True
        return self.w[self.priorities].n[READY] > 0

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
        cdef SharedWords *w
        self.check()
        w = self.shared.words
        if not self.virtual:
            for level in self.levels:
                left = min(left, min(level.w.due_min - platform.now_us(), level.w.lease_min - platform.monotonic_us()))
            left = max(left, 100)
        with nogil:
            platform.wait_u32(&w.bell, ticket, left)
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
            try:
                self._bind(tx, got)
            except BaseException:
                self.hand_back(None, 0, 0, got)
                raise
        return got

    # ---- settling ----------------------------------------------------------------------------------------------

    cdef Chunk chunk_of(self, Message m, int64_t *i):
        """Under the lock: the chunk and slot of a message; None when there is none any more."""
        i[0] = m.offset % CHUNK_SLOTS
        return (<Level>self.levels[m.partition]).chunk(m.offset // CHUNK_SLOTS, NULL)

    cdef Chunk find(self, Message m, int64_t *i):
        """Under the lock: the chunk and slot of a message that is still what it was. Raises LeaseLost."""
        cdef Level level
        cdef Chunk c
        cdef uint64_t word
        if m.home is not self:
            raise ValueError("a message is settled by the queue it was received from. Nothing was settled.")
        level = <Level>self.levels[m.partition]
        i[0], c = m.offset % CHUNK_SLOTS, level.near
        if c is None or c.h.number != m.offset // CHUNK_SLOTS:
            c = level.chunk(m.offset // CHUNK_SLOTS, NULL)
        if c is not None:
            word = c.slots[i[0]].word
            if state_of(word) == m.state and deliveries_of(word) == m.deliveries & 0xFFFF and m.leased_at:
                return c
        raise lost(m)

    cdef int settle_one(self, Message m, object tx) except -1:
        cdef Chunk c
        cdef int64_t i = 0
        if tx is not None:
            self._add_settled(tx, [m], 0)
            return 0
        self.lock()
        try:
            c = self.find(m, &i)
            self.settle(<Level>self.levels[m.partition], c, i, SETTLED, 0)
        finally:
            self.unlock(self.freed)
        if self.first.fsync == 2:
            c.sync(self.shared.liveness)
        return 0

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
            self.settle_leased(messages, chunks)
        finally:
            self.unlock(self.freed)
        if self.first.fsync == 2:
            for c in chunks:
                c.sync(self.shared.liveness)

    cdef int settle_leased(self, list messages, set chunks) except -1:
        """Under the lock: these, each of which was found, are acked; counted once for each run in a block. `chunks`: those that they are in."""
        cdef Message m
        cdef Level level = None
        cdef Chunk c = None
        cdef int64_t i, n = 0, block = -1
        cdef uint64_t word
        for m in messages:
            i = m.offset % CHUNK_SLOTS
            if c is None or block != m.offset // BLOCK_SLOTS or level.index != m.partition:
                if n:
                    level.count_settled(c, block % CHUNK_BLOCKS, n)
                    n = 0
                level, block = <Level>self.levels[m.partition], m.offset // BLOCK_SLOTS
                c = level.chunk(m.offset // CHUNK_SLOTS, NULL)
                chunks.add(c)
            word = c.slots[i].word
            if state_of(word) != LEASED:
                continue                # it is in the list twice
            if c.slots[i].group:
                self.settle(level, c, i, SETTLED, 0)
                continue
            c.slots[i].when = 0
            platform.store_i64(
                <int64_t *>&c.slots[i].word, <int64_t>word_of(SETTLED, attempts_of(word), deliveries_of(word), 0, 0, m.offset))
            platform.failpoint("slot.stored")
            self.owners[owner_of(word)].leased -= 1
            if level.index < self.priorities:
                self.owners[owner_of(word)].acked += 1
            n += 1
        if n:
            level.count_settled(c, block % CHUNK_BLOCKS, n)
        return 0

    def _give_back(self, list messages not None, list dues, bint counts):
        """They come again: at once, or when they are due (µs since the epoch; 0: at once). `counts`: as an attempt."""
        cdef Level level
        cdef Message m
        cdef Chunk c
        cdef int64_t i = 0, due, when
        cdef int attempts, k
        cdef uint64_t word
        self.lock()
        try:
            for m in messages:
                self.find(m, &i)
            for k in range(len(messages)):
                m = <Message>messages[k]
                c = self.chunk_of(m, &i)
                word = c.slots[i].word
                if state_of(word) != LEASED:
                    continue            # it is in the list twice
                attempts = attempts_of(word) if counts else max(attempts_of(word) - 1, 0)
                due = dues[k] if dues is not None else 0
                level = <Level>self.levels[m.partition]
                when = due or self.ends_at(level, m.offset)     # before anything is counted: it reads the log, which may fail
                self.owners[owner_of(word)].leased -= 1
                if self.by_bytes and due == 0 and level.index < self.priorities:
                    self.q.bytes_out -= max(m.value_size, 0)
                level.change(c, i, DELAYED if due else READY, attempts, m.deliveries, 0, 0, when)
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
        self.lock()                         # what others made there is seen from here on
        try:
            at = max(its.w.cursor, start, its.log.first_offset)
            for number in its.numbers:
                if number >= at // CHUNK_SLOTS:
                    its.chunk(number, NULL)
        finally:
            self.unlock(False)
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
            said = {"acked": sum([self.owners[i].acked for i in range(SLOTS)]), "expired": self.q.expired, "dropped": self.q.dropped, "dead": self.q.dead, "damaged": self.q.damaged,
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
        cdef int64_t i, offset, blocked, stop
        cdef int64_t gone = 0
        self.lock()
        try:
            for level in self.levels[:self.priorities]:
                while gone < n:
                    stop = platform.load_i64(&level.log.w.next_offset)
                    offset, blocked = level.lowest(READY, 0), level.lowest(WAITING, 0)
                    if blocked >= 0 and (offset < 0 or blocked < offset):
                        offset = blocked
                    if offset < 0:
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
                    if offset != blocked and state_of(c.slots[i].word) > READY:
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
                if self.by_bytes:
                    self._count_bytes()
            finally:
                self.settled.shared.unlock()
        finally:
            self.unlock(False)
        self.ring(True)
        return n

    def _sync(self):
        """What was settled before this was called, by whatever process, survives a power cut when it returns."""
        cdef Level level
        cdef Chunk c
        cdef list chunks = []
        cdef int64_t version
        self.lock()
        try:
            version = self.q.chunks
            for level in self.levels:
                for number in list(level.numbers):
                    c = level.chunk(number, NULL)
                    if c is not None and (c.dirty or platform.load_i64(&c.h.synced) < platform.load_i64(&c.h.stored)):
                        chunks.append(c)
        finally:
            self.unlock(False)
        for c in chunks:
            c.sync(self.shared.liveness)
        if self.first.fsync == 0 and version != self.named:
            sync_directory(self.shared.path)    # else each name is on the disk before it is used
            self.named = version

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
        if self.first.fsync != 0:
            try:
                self._sync()
            except (SeglogError, OSError):      # a queue that is gone, or a disk that fails: what was acked may come again
                pass
        me = <int64_t>self.shared.liveness.word << 32 | (self.number & 0x7FFFFFFF)
        if self.q.active == me:
            platform.store_i64(&self.q.active, 0)
            self.ring(False)
        self.shut = True
