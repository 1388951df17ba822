# frame: one batch as bytes. Encode it, check it, find its columns.
from cpython.buffer cimport Py_buffer
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from seglog.engine.layout cimport FrameHeader


cdef enum:
    FRAME_OK = 0
    FRAME_SHORT = -1                # not even a header, or it says more than there is room for
    FRAME_MAGIC_BAD = -2
    FRAME_HEADER_BAD = -3
    FRAME_BODY_BAD = -4
    FRAME_COLUMNS_BAD = -5
    FRAME_UNKNOWN = -6              # sound, but of a kind this version does not know


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


cdef int frame_check(const char *at, int64_t room, uint64_t salt) noexcept nogil
cdef int body_check(const FrameHeader *h) noexcept nogil
cdef int columns_parse(const FrameHeader *h, const char *blobs, int64_t blob_size, Columns *c) noexcept nogil
cdef int64_t columns_end(const FrameHeader *h) noexcept nogil
cdef void columns_entry(const Columns *c, uint32_t i, Entry *e) noexcept nogil

cdef enum:
    FROM_LIST, FROM_OFFSETS32, FROM_OFFSETS64, FROM_SPANS, FROM_STRIDE


cdef class Packed:                  # many byte strings, wherever they are: the source of an encode
    cdef int kind
    cdef readonly int64_t count
    cdef PyObject **items
    cdef const char *data
    cdef const int32_t *offsets32
    cdef const int64_t *starts
    cdef const int64_t *ends
    cdef int64_t stride
    cdef object owner
    cdef Py_buffer pins[3]
    cdef int pinned

    cdef const char *pin(self, object buffer, str formats, int64_t *size) except NULL

    # The bytes of item i; *size is -1 for a null.
    cdef inline const char *get(self, int64_t i, int64_t *size) noexcept nogil:
        cdef PyObject *item
        if self.kind == FROM_LIST:
            item = self.items[i]
            if <void *>item == <void *>none_object():
                size[0] = -1
                return NULL
            size[0] = bytes_size(item)
            return bytes_data(item)
        if self.kind == FROM_STRIDE:
            size[0] = self.stride
            return self.data + i * self.stride
        if self.kind == FROM_OFFSETS32:
            size[0] = self.offsets32[i + 1] - self.offsets32[i]
            return self.data + self.offsets32[i]
        if self.kind == FROM_OFFSETS64:
            size[0] = self.starts[i + 1] - self.starts[i]
            return self.data + self.starts[i]
        size[0] = self.ends[i] - self.starts[i]
        return self.data + self.starts[i]


cdef extern from *:
    """
    static inline Py_ssize_t seglog_bytes_size(PyObject *o) { return Py_SIZE(o); }
    static inline const char *seglog_bytes_data(PyObject *o) { return ((PyBytesObject *)o)->ob_sval; }
    static inline PyObject *seglog_none(void) { return Py_None; }
    """
    Py_ssize_t bytes_size "seglog_bytes_size"(PyObject *o) noexcept nogil
    const char *bytes_data "seglog_bytes_data"(PyObject *o) noexcept nogil
    PyObject *none_object "seglog_none"() noexcept nogil


cdef Packed packed(object values, str what)


cdef class Scratch:                 # memory that frames are built in; grows, is kept
    cdef char *data
    cdef int64_t size
    cdef int reserve(self, int64_t size) except -1


cdef int64_t encode(
    Scratch scratch, Packed values, Packed keys, Packed headers, const int64_t *timestamps, int64_t now,
    const int32_t *select, int64_t start, int64_t stop, int64_t bytes_max, int64_t record_max,
) except -1
cdef int compress(Scratch scratch, int codec, object squeeze) except -1
