# log: one partition, an append-only run of records in ordered segments.
from cpython.buffer cimport Py_buffer
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from seglog.engine.batch cimport Batch
from seglog.engine.frame cimport Packed, Scratch
from seglog.engine.index cimport Index
from seglog.engine.layout cimport FrameHeader, Mark, SharedWords
from seglog.engine.segment cimport Segment
from seglog.engine.shared cimport Shared


cdef enum Fsync:
    FSYNC_NEVER, FSYNC_INTERVAL, FSYNC_ALWAYS


cdef class Times:                   # int64 timestamps, pinned or made
    cdef const int64_t *data
    cdef int64_t count
    cdef int64_t *owned
    cdef Py_buffer view
    cdef bint pinned


cdef class Log:
    # what it is
    cdef readonly str path
    cdef readonly int64_t partition
    cdef readonly tuple losses
    # how it behaves
    cdef int64_t segment_bytes, segment_bytes_min, segment_age_us, batch_bytes, record_bytes_max
    cdef Fsync fsync
    cdef bint by_pwrite, skip_corrupt
    cdef int codec
    cdef object squeeze, expand, clock
    # what all processes share
    cdef Shared shared
    cdef SharedWords *w             # of `shared`, which keeps them mapped also after close
    cdef bint shut
    cdef uint32_t incarnation
    cdef uint64_t boot
    # the segment being written: changed only under the partition's lock
    cdef Segment active
    cdef Index index
    cdef char *data
    cdef int64_t base, capacity, reserved_offset, populated
    cdef uint64_t salt
    cdef bint stores                # through the map; False: by pwrite
    # for reading
    cdef list bases
    cdef int64_t bases_version
    cdef dict open_segments, indexes
    cdef Scratch spare

    cdef _settle(
        self, Segment last, Mark *mark, bint marked, int64_t position, int64_t end, uint32_t epoch)
    cdef int64_t now(self) except? -1
    cdef int64_t append_record(self, object value, object key, object headers, object timestamp) except -1
    cdef list append_packed(
        self, Packed values, Packed keys, Packed headers, const int64_t *timestamps, const int32_t *select, int64_t n)
    cdef int64_t commit(self, FrameHeader *h, const char *body) except -1
    cdef int64_t place(self, FrameHeader *h, const char *body) noexcept nogil
    cdef int write_large(self, FrameHeader *h, const char *body, int64_t position) noexcept nogil
    cdef int make_room(self, int64_t size, int64_t count) except -1
    cdef int lock(self) except -1
    cdef int repair(self) except -1
    cdef int open_active(self) except -1
    cdef int adopt(self, Segment segment, Index index) except -1
    cdef int roll(self, int64_t size, int64_t count) except -1
    cdef int fail(self, int code, str path) except -1
    cdef int check_state(self) except -1
    cdef int sync_to(self, int64_t target) except -1
    cdef int sync_now(self, bint after_death) except -1
    cdef int sync_older(self, int64_t base) except -1
    cdef Segment segment(self, int64_t base)
    cdef Index index_of(self, Segment segment, int64_t end_offset)
    cdef list current_bases(self)
    cdef int64_t end_of(self, list bases, Py_ssize_t i) except? -1
    cdef Batch collect(self, int64_t offset, int64_t stop, int64_t max_records, int64_t max_bytes)
    cdef int locate(self, Segment segment, int64_t end, int64_t offset, int64_t *position, int64_t *expected) except -1
    cdef int64_t corrupt(
        self, Segment segment, int64_t position, int64_t expected, int64_t end, int64_t *resume) except? -1
    cdef bytes expand_blobs(self, const FrameHeader *h, Segment segment, int64_t position)


cdef Packed pack_header_list(object headers)
cdef int same_length(int64_t n, Packed keys, Packed headers, Times times) except -1
