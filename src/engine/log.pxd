# log: one partition, an append-only run of records in ordered segments.
from libc.stdint cimport int32_t, int64_t

from seglog.engine.batch cimport Batch
from seglog.engine.frame cimport Scratch
from seglog.engine.index cimport Index
from seglog.engine.layout cimport FrameHeader
from seglog.engine.segment cimport Segment
from seglog.engine.source cimport Packed
from seglog.engine.tail cimport Tail


cdef void build_one(
    FrameHeader *h, char *body, const char *value, int64_t size, const char *key, int64_t key_size, const char *headers, int64_t header_size,
) noexcept nogil


cdef class Log(Tail):
    cdef int64_t batch_bytes, record_bytes_max
    cdef object dtype               # of its values, where they have one; then `width` is their size, else -1
    cdef int64_t width
    cdef bint skip_corrupt
    cdef int codec
    cdef object squeeze
    cdef dict expand
    cdef Scratch spare              # for building frames
    # for reading
    cdef list bases
    cdef int64_t bases_version
    cdef dict open_segments, indexes, survivors
    cdef dict newest                # base of a segment: the highest timestamp in it, once it was looked at; of these bases
    cdef int64_t checked            # the frame whose body was hashed last: its position, xor its segment's salt

    cdef int64_t append_record(self, object value, object key, object headers, object timestamp) except -1
    cdef int check_dtype(self, Packed values) except -1
    cdef list append_packed(
        self, Packed values, Packed keys, Packed headers, const int64_t *timestamps, const int32_t *select, int64_t n)
    cdef list current_bases(self)
    cdef bint replaced(self, Segment segment) except -1
    cdef Segment segment(self, int64_t base)
    cdef int64_t end_of(self, list bases, Py_ssize_t i) except? -1
    cdef Index index_of(self, Segment segment, int64_t end_offset)
    cdef int locate(self, Segment segment, int64_t end, int64_t offset, int64_t *position, int64_t *expected) except -1
    cdef int64_t corrupt(
        self, Segment segment, int64_t position, int64_t expected, int64_t end, int64_t *resume) except? -1
    cdef int64_t first_at(
        self, Segment segment, int64_t position, int64_t expected, int64_t first, int64_t end, int64_t wanted) except? -2
    cdef bytes expand_blobs(self, const FrameHeader *h, Segment segment, int64_t position)
    cdef bint sealed_beyond(self, int64_t base, int64_t offset) except -1
    cdef bint set_aside(self, int64_t base, int64_t start, int64_t stop) except -1
    cdef int note(self, object loss) except -1
    cdef list verify_segment(self, list bases, Py_ssize_t n, int64_t limit)
    cdef Batch following(self, Batch before, int64_t stop, int64_t max_records)
    cdef Batch collect(self, int64_t offset, int64_t stop, int64_t max_records, int64_t max_bytes, bint check_hashes=*)
