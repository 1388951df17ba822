# frame: one batch as bytes. Encode it, check it, find its columns.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from seglog.engine.layout cimport FrameHeader
from seglog.engine.source cimport Packed


cdef enum:
    FRAME_OK = 0
    FRAME_SHORT = -1                # not even a header, or it says more than there is room for
    FRAME_MAGIC_BAD = -2
    FRAME_HEADER_BAD = -3
    FRAME_BODY_BAD = -4
    FRAME_COLUMNS_BAD = -5
    FRAME_UNKNOWN = -6              # sound, but of a kind this version does not know
    FRAME_UNDECIDED = -7            # sound, of a transaction that is not there as a whole


cdef struct Columns:                # where the parts of one frame lie; every pointer is into bounds-checked memory
    const int64_t *timestamps       # NULL: all are base_timestamp
    const int32_t *deltas           # NULL: offsets have no gaps
    const int32_t *key_offsets      # NULL: no keys
    const uint8_t *key_valid        # NULL: every record has one
    const int32_t *header_offsets   # NULL: no headers
    const int32_t *value_offsets    # NULL: fixed stride
    const uint8_t *value_valid      # NULL: no nulls
    const char *keys
    const char *headers
    const char *values
    int64_t stride
    int64_t base_offset
    int64_t base_timestamp
    uint32_t count


cdef struct Entry:                  # one record
    const char *value
    int64_t value_size              # -1: null
    const char *key
    int64_t key_size                # -1: none
    const char *headers
    int64_t header_size
    int64_t timestamp
    int64_t offset


cdef str why(int code)
cdef int frame_check(const char *at, int64_t room, uint64_t salt) noexcept nogil
cdef int body_check(const FrameHeader *h) noexcept nogil
cdef int columns_parse(const FrameHeader *h, const char *blobs, int64_t blob_size, Columns *c) noexcept nogil
cdef int64_t columns_end(const FrameHeader *h) noexcept nogil
cdef void columns_entry(const Columns *c, uint32_t i, Entry *e) noexcept nogil

cdef class Scratch:                 # memory that frames are built in; grows, is kept
    cdef char *data
    cdef int64_t size
    cdef int64_t origin             # where the next frame is built
    cdef int reserve(self, int64_t size) except -1


cdef int64_t encode(
    Scratch scratch, Packed values, Packed keys, Packed headers, const int64_t *timestamps, int64_t now,
    const int32_t *select, int64_t start, int64_t stop, int64_t bytes_max, int64_t record_max, int64_t width,
) except -1
cdef int misfit(int64_t size, int64_t width, int64_t index) except -1
cdef void seal_body(FrameHeader *h, int64_t body_length) noexcept nogil
cdef int seal(Scratch scratch, int codec, object squeeze) except -1
