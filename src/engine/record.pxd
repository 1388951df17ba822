# record: what an append returns, and what a read hands out.
from libc.stdint cimport int64_t


cdef class Position:
    cdef readonly int64_t partition
    cdef readonly int64_t offset


cdef class Record:
    cdef object owner               # keeps the bytes below where they are
    cdef const char *value_data
    cdef const char *key_data
    cdef const char *header_data
    cdef int64_t value_size         # -1: null
    cdef int64_t key_size           # -1: no key
    cdef int64_t header_size
    cdef readonly int64_t timestamp
    cdef readonly int64_t offset
    cdef readonly int64_t partition

    cdef tuple _tuple(self)


cdef Position new_position(int64_t partition, int64_t offset)
cdef int64_t to_us(object when) except? -1
cdef int64_t to_offset(object number) except? -1
cdef int64_t timeout_us(object seconds) except? -2
cpdef bytes pack_headers(object headers)
cdef int check_headers(const char *data, int64_t size) noexcept nogil
