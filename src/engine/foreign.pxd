# foreign: Arrow arrays that another library made, held for as long as somebody reads them.
from libc.stdint cimport int32_t, int64_t, uint8_t

from seglog.engine.arrowabi cimport ArrowArray, ArrowArrayStream, ArrowSchema


cdef enum Form:                     # how the items of a column lie
    NO_FORM, OF_NULLS, OF_OFFSETS32, OF_OFFSETS64, OF_WIDTH, OF_VIEWS, OF_INT64


cdef class Schema:
    cdef ArrowSchema schema


cdef class Chunk:                   # one array, or one batch of a table
    cdef Schema type
    cdef ArrowArray array

    cdef bint is_table(self) noexcept
    cdef Strings strings(self, str what)
    cdef Strings column(self, str name, str what)
    cdef Strings times_in(self, str name)


cdef class Strings:                 # a column of byte strings, or of int64
    cdef Chunk owner
    cdef Form form
    cdef readonly int64_t count
    cdef const uint8_t *valid       # NULL: no nulls
    cdef int64_t first              # where in the bitmap it begins
    cdef const char *data
    cdef const int32_t *offsets32   # the three below are advanced to the first item
    cdef const int64_t *offsets64
    cdef const char *views
    cdef const char **buffers       # that views point into
    cdef int64_t width
    cdef int64_t times, over        # OF_INT64: an item times this, over that, is in µs

    cdef int check(self, const ArrowSchema *s, const ArrowArray *a, str what) except -1
    cdef int64_t micros(self, int64_t i) except? -1
    cdef inline const char *get(self, int64_t i, int64_t *size) noexcept nogil:
        cdef const int32_t *view
        if self.form == OF_NULLS or (self.valid != NULL and not (self.valid[(self.first + i) >> 3] >> ((self.first + i) & 7)) & 1):
            size[0] = -1
            return NULL
        if self.form == OF_OFFSETS32:
            size[0] = self.offsets32[i + 1] - self.offsets32[i]
            return self.data + self.offsets32[i]
        if self.form == OF_OFFSETS64:
            size[0] = self.offsets64[i + 1] - self.offsets64[i]
            return self.data + self.offsets64[i]
        if self.form == OF_WIDTH:
            size[0] = self.width
            return self.data + i * self.width
        view = <const int32_t *>(self.views + 16 * i)
        size[0] = view[0]
        return <const char *>(view + 1) if view[0] <= 12 else self.buffers[view[2]] + view[3]


cdef class Chunks:                  # a stream of them
    cdef ArrowArrayStream stream
    cdef Schema type

    cdef Chunk following(self)


cdef bint is_foreign(object values) except -1
cdef object chunks_of(object values)
