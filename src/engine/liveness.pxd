# liveness: how a process shows that it is alive, and how others see that it is not.
from libc.stdint cimport int64_t, uint16_t, uint32_t

from seglog.engine.mapping cimport Mapping


cdef struct Slot:                   # one row of the store's `shm`
    uint32_t generation             # counts the owners of this slot; 16 bits of it go into lock words
    uint32_t unused
    int64_t pid                     # for messages only: never evidence


cdef class Liveness:
    cdef readonly str path
    cdef readonly uint32_t word     # generation << 16 | slot + 1: what this process writes into a lock
    cdef int life                   # the description that holds this process's byte
    cdef int probe                  # another one: a description does not see its own locks
    cdef bint by_byte
    cdef Mapping mapping
    cdef Slot *slots
    cdef uint32_t *bell             # the store's bell, and whether somebody waits for it
    cdef bytes directory
    cdef const char *directory_text
    cdef bint closed
    cdef object __weakref__

    cdef int refuse_other_kind(self) except -1
    cdef int _let_go(self) except -1
    cdef int check_open(self) except -1
    cdef uint32_t my_word(self) except 0
    cdef int is_alive(self, uint32_t word) noexcept nogil
    cdef int64_t pid_of(self, uint32_t word) noexcept nogil


cdef object boot_hash()
