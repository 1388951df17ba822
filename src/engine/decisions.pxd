# decisions: what a partition asks about transactions; `transactions` answers.
from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef class Decisions:
    cdef int64_t decided(self, uint64_t partition_id, int64_t start, int64_t since) except -1
    cdef bint holds(self, uint64_t partition_id, int64_t start, int64_t stop) except -1
    cdef int make_durable(self, int64_t decision) except -1
    cdef int64_t durable(self) noexcept
    cdef object commit_of(self, uint64_t file, uint32_t partition, uint64_t sequence, int64_t since)
    cdef int barrier(self) except -1
