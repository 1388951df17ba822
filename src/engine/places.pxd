# places: how far a group has come in one partition, and which of its members may say so.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from seglog.engine.layout cimport PlaceOwner
from seglog.engine.log cimport Log
from seglog.engine.mapping cimport Mapping


cdef class Place:
    cdef readonly Log log
    cdef Mapping mapping
    cdef char *pair
    cdef PlaceOwner *cell
    cdef uint64_t topic, home
    cdef uint64_t sequence          # of the last commit; only its owner writes
    cdef int64_t member             # who this handle commits for
    cdef int64_t slot               # of the process, when it took the place
    cdef public int64_t at          # the offset of the next record to be received
    cdef public bint moved          # `at` is not what was committed last
    cdef public bint paused
    cdef public bint dirty          # committed, and not synced since
    cdef public bint durable        # hand out only what survives a power cut
    cdef public object refusal      # an error to raise instead of a commit

    cdef bint best(self, void *slot) except -1
    cdef int write(self, int64_t offset, uint32_t generation) except -1
    cdef int check_owner(self) except -1
