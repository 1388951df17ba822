# partitions: the logs of a topic, addressed by number or by key.
from libc.stdint cimport int32_t, int64_t, uint32_t

from seglog.engine.source cimport Packed, Times


cdef enum Placing:
    BY_XXH3, BY_MURMUR2, BY_CALL


cdef class Partitions:
    cdef readonly tuple logs
    cdef Placing placing
    cdef object place_key           # a callable, with BY_CALL
    cdef int32_t n
    cdef uint32_t turn              # where the next keyless append goes

    cdef int64_t place(self, const char *key, int64_t size) except -1
    cdef int64_t choose(self, object key, object partition) except -1
    cdef list send_chunks(self, object values, object partition, object tx)
    cdef list send_packed(self, Packed v, Packed k, Packed h, Times t, object partition, object tx)
