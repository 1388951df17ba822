# index: where in a segment to start looking for an offset or a time.
from libc.stdint cimport int64_t, uint64_t

from seglog.engine.layout cimport IndexEntry, IndexHeader
from seglog.engine.mapping cimport Mapping
from seglog.engine.segment cimport Segment


cdef class Index:
    cdef Mapping mapping            # of the file; None for an index in private memory
    cdef char *memory               # private
    cdef IndexHeader *header
    cdef IndexEntry *entries
    cdef int64_t room               # entries that fit

    cdef void add(self, int64_t offset_delta, int64_t position, int64_t max_timestamp) noexcept nogil
    cdef int64_t before_offset(self, int64_t offset_delta) noexcept nogil
    cdef int64_t before_time(self, int64_t timestamp) noexcept nogil
    cdef void seal(self, int64_t max_timestamp, int64_t end_offset) noexcept nogil
    cdef uint64_t hash(self) noexcept nogil


cdef Index create_index(Segment segment, uint64_t boot)
cdef Index open_index(Segment segment, uint64_t boot, int64_t end_offset)
cdef Index build_index(Segment segment, int64_t end_position, int64_t end_offset, bint keep)
