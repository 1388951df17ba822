# arrow: records lent to other libraries as Arrow streams.
from libc.stdint cimport int32_t, int64_t, uint8_t

from seglog.engine.arrowabi cimport ArrowArray, ArrowSchema
from seglog.engine.batch cimport Batch


cdef struct Loan:                   # what one record batch is made of; the batch and each of its columns hold it
    int64_t refs
    void *owner                     # a list of whatever the buffers belong to


cdef class ArrowTable:
    cdef tuple parts                # snapshots
    cdef object shape               # how values become columns; None: as they are
    cdef list fields                # (name, format, nullable) of each column


cdef class Stream:                  # one reading of a table
    cdef ArrowTable table
    cdef Py_ssize_t part            # where it is
    cdef int64_t offset
    cdef bytes error                # what went wrong, for ever
    cdef int code

    cdef int give_next(self, ArrowArray *out) except -1
    cdef int give(self, Batch batch, ArrowArray *out) except -1
