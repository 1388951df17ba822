# places: how far a group has come in one partition, and which of its members may say so.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from seglog.engine.layout cimport PlaceOwner, PlaceSlot
from seglog.engine.log cimport Log
from seglog.engine.mapping cimport Mapping


cdef class Place:
    cdef readonly Log log
    cdef Mapping mapping
    cdef char *pair
    cdef PlaceOwner *cell
    cdef uint64_t topic, home
    cdef readonly uint64_t file     # the number of the positions file: another one of that name is another group
    cdef uint64_t sequence          # of the last commit; only its owner writes
    cdef int64_t member             # who this handle commits for
    cdef int64_t slot               # of the process, when it took the place
    cdef public int64_t at          # the offset of the next record to be received
    cdef public bint moved          # `at` is not what was committed last
    cdef public bint paused
    cdef public bint dirty          # committed, and not synced since
    cdef public bint counts         # what it holds is a number of its user's, and no offset
    cdef public bint durable        # hand out only what survives a power cut
    cdef public object refusal      # an error to raise instead of a commit

    cdef readonly str path          # of the positions file
    cdef bytes name                 # the same, as decisions call it; None until one does
    cdef readonly bint young        # by its owner: newest commits go to a young slot
    cdef uint32_t busy              # 1: a thread is writing a slot

    cdef bint look(self, const char *where, int64_t stride, PlaceSlot *out, int *damaged) noexcept
    cdef bint best(self, void *slot) except -1
    cdef void fill(self, PlaceSlot *slot, int64_t offset, uint32_t generation, uint64_t sequence) noexcept
    cdef void store(self, PlaceSlot *slot, bint lonely) noexcept
    cdef void keep(self, PlaceSlot *slot) noexcept
    cdef int settle(self) except -1
    cdef int announce(self, int64_t offset, uint32_t generation, int64_t since, PlaceSlot *slot) except -1
    cdef void renounce(self) noexcept
    cdef void decided(self, PlaceSlot *slot, int64_t decision) noexcept
    cdef int write(self, int64_t offset, uint32_t generation) except -1
    cdef bint is_mine(self) noexcept
    cdef int check_owner(self) except -1
