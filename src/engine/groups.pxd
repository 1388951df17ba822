# groups: the lists of a queue's messages that wait for others of their group, or for their group's turn.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from seglog.engine.mapping cimport Mapping
from seglog.engine.slots cimport Level


cdef struct GroupsHeader:
    int64_t number                  # of this table; the queue's words say which one counts
    int64_t capacity
    int64_t used                    # entries that were ever taken, the free ones among them
    uint32_t free                   # the first free one; 0: none
    uint32_t turn                   # fair: the one whose turn it was last; 0: nobody waits
    int64_t _pad[4]


cdef struct GroupEntry:             # numbered from 1
    uint64_t hash
    int64_t first                   # offset of the first that waits; -1: none. The others follow in their slots (`first`)
    int64_t last
    uint32_t active                 # how many are out, ready, delayed or doomed
    uint32_t chain                  # the next one of its bucket, or that is free
    uint32_t before                 # fair: the ring of those that have something waiting
    uint32_t after


cdef class Groups:
    cdef str folder
    cdef Mapping mapping
    cdef GroupsHeader *h
    cdef GroupEntry *entries        # [0] is nobody
    cdef uint32_t *buckets

    cdef int open(self, int64_t number) except -1
    cdef int lay_out(self) except -1
    cdef int grow(self, int64_t *number) except -1
    cdef int make(self, int64_t number, int64_t capacity) except -1
    cdef uint32_t find(self, uint64_t hash, int64_t *number) except 0
    cdef void forget(self, uint32_t g) noexcept
    cdef int append(self, Level level, uint32_t g, int64_t offset, bint ring) except -1
    cdef int64_t pop(self, Level level, uint32_t g) except -2
    cdef void into_ring(self, uint32_t g) noexcept
    cdef void out_of_ring(self, uint32_t g) noexcept
