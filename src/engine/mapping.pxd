# mapping: a file's bytes in memory, kept there for as long as anybody looks at them.
from cpython.buffer cimport Py_buffer
from libc.stdint cimport int64_t


cdef class Mapping:
    cdef object mmap                # the stdlib's: it owns the pages and never unmaps under a reader
    cdef Py_buffer pin              # held for life, so that mmap.close() cannot happen
    cdef char *data
    cdef readonly int64_t size
    cdef readonly bint writable

    cdef view(self, int64_t start, int64_t stop)


cdef Mapping map_fd(int fd, int64_t size, bint writable)
