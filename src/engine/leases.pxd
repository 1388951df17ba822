# leases: who has which message of a queue, and how it comes back.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from seglog.engine.frame cimport Entry
from seglog.engine.groups cimport Groups
from seglog.engine.layout cimport LevelWords, OwnerWords, QueueWords
from seglog.engine.log cimport Log
from seglog.engine.mapping cimport Mapping
from seglog.engine.message cimport Home
from seglog.engine.shared cimport Shared
from seglog.engine.slots cimport Chunk, Level


cdef enum:                          # why a message was settled, besides that it was acked (0)
    DELIVERY_LIMIT = 1
    EXPIRED = 2
    MAXLEN = 3
    MOVED = 4


cdef class Leases(Home):
    cdef readonly bint shut
    cdef tuple levels               # of Level; the last one: delayed messages
    cdef int priorities
    cdef Log settled                # acks in transactions
    cdef Log first                  # the log of level 0
    cdef Shared shared
    cdef Mapping mapping
    cdef QueueWords *q
    cdef LevelWords *w              # of each level
    cdef OwnerWords *owners
    cdef int64_t lease_us, max_lease_us, ttl_us
    cdef int max_attempts
    cdef bint keeps_dead, keeps_expired, weighted, single, plain, virtual, by_bytes
    cdef bint freed                 # under the lock: a group's next message became ready
    cdef int grouping               # 1: FIFO, 2: fair
    cdef int64_t lookahead
    cdef int64_t seen_chunks        # which list of chunks all levels looked at last
    cdef int64_t named              # and which one has its names on the disk, with fsync="never"
    cdef Groups groups
    cdef int64_t number             # of this handle, among those of its process

    cdef int check(self) except -1
    cdef int lock(self) except -1
    cdef int unlock(self, bint news) except -1
    cdef int rebuild(self, bint anew) except -1
    cdef int review(self, Level level) except -1
    cdef int delay_again(self, Level level) except -1
    cdef int64_t size_at(self, Level level, int64_t offset) except -1
    cdef int64_t mono(self) except? -1
    cdef int become_owner(self) except -1
    cdef int take_in_settled(self) except -1
    cdef int give_back(self, Level level, Chunk c, int64_t i, int64_t when) except -1
    cdef int sweep(self, int64_t mono, int64_t wall) except -1
    cdef int sweep_dues(self, Level level, int64_t wall) except -1
    cdef int sweep_leases(self, Level level, int64_t mono, int owner) except -1
    cdef int probe(self) except -1
    cdef int take_in_delayed(self, int64_t wall) except -1
    cdef int64_t end_of_life(self, const Entry *e) noexcept
    cdef int64_t ends_at(self, Level level, int64_t offset) except -1
    cdef int expire(self, Level level, Chunk c, int64_t i) except -1
    cdef uint64_t group_of(self, const Entry *e) noexcept
    cdef int regroup(self) except -1
    cdef int let_next(self, Level level, uint32_t g) except -1
    cdef int clean_heads(self) except -1
    cdef int settle(self, Level level, Chunk c, int64_t i, int state, int reason) except -1
