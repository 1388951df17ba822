# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Groups: which messages of a FIFO or fair queue wait for others of their group, or for its turn.

A table in a file that all processes map, transient: it is made anew from the log and the slots whenever those are counted again. A group is there
while one of its messages is neither settled nor beyond the cursor. Messages that wait form a list through their slots, in the order of their
offsets; one that was settled meanwhile (expired, say) stays in it until it is met.

Two groups whose names have the same XXH3-64 are one: they wait for each other a little too often.

It leaves to `delivery` when a message waits and when it goes; the queue's lock protects everything here.
"""
import os

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from seglog.engine cimport platform
from seglog.engine.layout cimport CHUNK_SLOTS, MessageSlot
from seglog.engine.mapping cimport map_fd
from seglog.engine.segment cimport open_file
from seglog.engine.slots cimport WAITING, Chunk, Level, state_of

from seglog.engine.errors import os_error


cdef int64_t size_of(int64_t capacity) noexcept:
    return sizeof(GroupsHeader) + (capacity + 1) * <int64_t>sizeof(GroupEntry) + capacity * 2 * 4


cdef class Groups:
    """The table of one queue. `capacity` is a power of two, and doubles when it is full."""

    def __cinit__(self, str folder):
        self.folder = folder

    def path_of(self, number):
        return os.path.join(self.folder, f"groups-{number}")

    cdef int open(self, int64_t number) except -1:
        """Under the lock: the table of this number, which another process made."""
        cdef int fd
        if self.h != NULL and self.h.number == number:
            return 0
        fd = open_file(self.path_of(number), os.O_RDWR)
        try:
            self.mapping = map_fd(fd, os.fstat(fd).st_size, True)
        finally:
            os.close(fd)
        return self.lay_out()

    cdef int lay_out(self) except -1:
        self.h = <GroupsHeader *>self.mapping.data
        self.entries = <GroupEntry *>(self.mapping.data + sizeof(GroupsHeader))
        self.buckets = <uint32_t *>(self.mapping.data + sizeof(GroupsHeader) + (self.h.capacity + 1) * <int64_t>sizeof(GroupEntry))
        return 0

    cdef int make(self, int64_t number, int64_t capacity) except -1:
        """Under the lock: an empty table. Raises StoreFull."""
        cdef str path = self.path_of(number)
        cdef int64_t size = size_of(capacity)
        cdef int fd = open_file(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), rc
        try:
            rc = platform.pwrite_all(fd, bytes(size), size, 0)
            if rc:
                raise os_error(rc, "cannot make", path)
            self.mapping = map_fd(fd, size, True)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
        (<GroupsHeader *>self.mapping.data).number = number
        (<GroupsHeader *>self.mapping.data).capacity = capacity
        for name in os.listdir(self.folder):
            if name.startswith("groups-") and name != os.path.basename(path):
                os.unlink(os.path.join(self.folder, name))
        return self.lay_out()

    cdef int grow(self, int64_t *number) except -1:
        """Under the lock: a table twice as large, with the same entries under the same numbers."""
        cdef Mapping old = self.mapping
        cdef GroupsHeader *was = self.h
        cdef int64_t g
        cdef uint64_t bucket
        self.make(number[0] + 1, was.capacity * 2)
        self.h.used, self.h.free, self.h.turn = was.used, was.free, was.turn
        memcpy(self.entries, <char *>was + sizeof(GroupsHeader), (was.used + 1) * <int64_t>sizeof(GroupEntry))
        # None is free: the table was full.
        for g in range(1, self.h.used + 1):
            bucket = self.entries[g].hash & <uint64_t>(2 * self.h.capacity - 1)
            self.entries[g].chain = self.buckets[bucket]
            self.buckets[bucket] = <uint32_t>g
        number[0] += 1
        return 0

    cdef uint32_t find(self, uint64_t hash, int64_t *number) except 0:
        """The group's entry, made when there is none."""
        cdef uint32_t g = self.buckets[hash & <uint64_t>(2 * self.h.capacity - 1)]
        cdef uint64_t bucket
        while g:
            if self.entries[g].hash == hash:
                return g
            g = self.entries[g].chain
        if self.h.free == 0 and self.h.used == self.h.capacity:
            self.grow(number)
        if self.h.free:
            g = self.h.free
            self.h.free = self.entries[g].chain
        else:
            self.h.used += 1
            g = <uint32_t>self.h.used
        memset(&self.entries[g], 0, sizeof(GroupEntry))
        self.entries[g].hash, self.entries[g].first, self.entries[g].last = hash, -1, -1
        bucket = hash & <uint64_t>(2 * self.h.capacity - 1)
        self.entries[g].chain = self.buckets[bucket]
        self.buckets[bucket] = g
        return g

    cdef void forget(self, uint32_t g) noexcept:
        """The group has nothing any more."""
        cdef uint32_t *at = &self.buckets[self.entries[g].hash & <uint64_t>(2 * self.h.capacity - 1)]
        while at[0] and at[0] != g:
            at = &self.entries[at[0]].chain
        if at[0] == g:
            at[0] = self.entries[g].chain
            self.entries[g].chain = self.h.free
            self.h.free = g

    cdef int append(self, Level level, uint32_t g, int64_t offset, bint ring) except -1:
        """The message, which is WAITING, is the last one of its group that waits."""
        cdef GroupEntry *e = &self.entries[g]
        cdef Chunk c
        if e.first < 0:
            e.first = offset
            if ring:
                self.into_ring(g)
        else:
            c = level.chunk(e.last // CHUNK_SLOTS, NULL)
            c.slots[e.last % CHUNK_SLOTS].first = offset
        e.last = offset
        return 0

    cdef int64_t pop(self, Level level, uint32_t g) except -2:
        """The first message of the group that still waits; it is in the list no more. -1 when there is none."""
        cdef GroupEntry *e = &self.entries[g]
        cdef Chunk c
        cdef MessageSlot *s
        cdef int64_t offset
        while e.first >= 0:
            offset = e.first
            c = level.chunk(offset // CHUNK_SLOTS, NULL)
            if c is None:
                e.first = e.last = -1
                break
            s = &c.slots[offset % CHUNK_SLOTS]
            e.first = s.first if offset != e.last else -1
            if e.first < 0:
                e.last = -1
            if state_of(s.word) == WAITING:
                s.first = 0
                return offset
        return -1

    cdef void into_ring(self, uint32_t g) noexcept:
        """Last in turn: before the one whose turn is next."""
        cdef GroupEntry *e = &self.entries[g]
        cdef uint32_t turn = self.h.turn
        if turn == 0:
            e.before = e.after = g
            self.h.turn = g
            return
        # Behind the one whose turn it was last comes the next; the new one goes before that last one's place is reached again.
        e.after = turn
        e.before = self.entries[turn].before
        self.entries[e.before].after = g
        self.entries[turn].before = g

    cdef void out_of_ring(self, uint32_t g) noexcept:
        cdef GroupEntry *e = &self.entries[g]
        if e.after == 0:
            return
        if e.after == g:
            self.h.turn = 0
        else:
            self.entries[e.before].after = e.after
            self.entries[e.after].before = e.before
            if self.h.turn == g:
                self.h.turn = e.before
        e.before = e.after = 0
