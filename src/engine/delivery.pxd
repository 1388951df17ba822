# delivery: a queue's messages are handed out, and settled.
from libc.stdint cimport int64_t, uint64_t

from seglog.engine.batch cimport Batch
from seglog.engine.frame cimport Entry
from seglog.engine.leases cimport Leases
from seglog.engine.message cimport Message
from seglog.engine.slots cimport Chunk, Level


cdef class Delivery(Leases):
    cdef bint has_chores(self) noexcept
    cdef int scan(self, Level level, int64_t wall) except -1
    cdef Message seen(self, Level level, Batch batch, uint64_t word, int state)
    cdef Message next_in_turn(self, Level level, int64_t mono, int64_t wall)
    cdef bint is_active(self) except -1
    cdef bint something(self) noexcept
    cdef bint nothing_left(self, Level level) noexcept
    cdef Message lease(self, Level level, Chunk c, int64_t i, const Entry *e, object batch, int64_t mono, int64_t wall)
    cdef int64_t lease_ahead(self, Level level, int64_t n, int64_t mono, int64_t wall) except -1
    cdef int hand_out(self, Level level, int64_t first, int64_t n, list got, int64_t mono, int64_t wall) except -1
    cdef bint expired(self, const Entry *e, int64_t wall) noexcept
    cdef Message take(self, Level level, int64_t mono, int64_t wall)
    cdef Level pick(self)
    cdef list claim(self, int64_t n)
    cdef int settle_one(self, Message m, object tx) except -1
    cdef Chunk chunk_of(self, Message m, int64_t *i)
    cdef int settle_leased(self, list messages, set chunks) except -1
    cdef Chunk find(self, Message m, int64_t *i)
    cdef int wait(self, int64_t deadline) except -1
