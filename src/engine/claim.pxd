# claim: memory that a record is written in before it is sent.
from libc.stdint cimport int64_t

from seglog.engine.layout cimport FrameHeader
from seglog.engine.partitions cimport Partitions


cdef class Claim:
    cdef Partitions home
    cdef object key, headers, timestamp, partition, tx, dtype
    cdef char *memory               # a whole frame: header, columns, key and headers, then the caller's bytes
    cdef int64_t at, size           # the caller's bytes
    cdef int64_t count              # records
    cdef int64_t views              # of the caller's bytes, that are alive
    cdef object view
    cdef int state
    cdef readonly object position

    cdef int publish(self) except -1
