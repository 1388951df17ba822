# slots: the delivery state of one level's messages, in chunks that all processes map.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from seglog.engine.batch cimport Batch, Walk
from seglog.engine.frame cimport Entry
from seglog.engine.layout cimport Block, ChunkHeader, LevelWords, MessageSlot
from seglog.engine.liveness cimport Liveness
from seglog.engine.log cimport Log
from seglog.engine.mapping cimport Mapping


cdef enum:                          # what a reader takes in at a time
    AHEAD = 4096                    # records
    AHEAD_BYTES = 1048576


cdef enum:                          # states
    UNTOUCHED = 0                   # never handed out
    READY = 1                       # to be handed out (again)
    LEASED = 2                      # somebody has it
    DELAYED = 3                     # READY when it is due
    DOOMED = 4                      # to be moved to the dead letters
    WAITING = 5                     # READY when the one before it in its group is settled
    SETTLED = 6
    DECIDED = 7                     # settled by a transaction: SETTLED once that is on the disk


cdef inline int state_of(uint64_t word) noexcept nogil:
    return word & 7


cdef inline int attempts_of(uint64_t word) noexcept nogil:
    return (word >> 3) & 0x1FFF


cdef inline int deliveries_of(uint64_t word) noexcept nogil:
    return (word >> 16) & 0xFFFF


cdef inline int owner_of(uint64_t word) noexcept nogil:
    return (word >> 32) & 0x3FF


cdef inline int reason_of(uint64_t word) noexcept nogil:
    return (word >> 42) & 0x3F


cdef inline uint64_t check_of(uint64_t low, int64_t offset) noexcept nogil:
    return ((low ^ (<uint64_t>offset * <uint64_t>0x9E3779B97F4A7C15)) * <uint64_t>0xD6E8FEB86659FD93) >> 48


cdef inline uint64_t word_of(int state, int attempts, int deliveries, int owner, int reason, int64_t offset) noexcept nogil:
    cdef uint64_t low = <uint64_t>state | <uint64_t>min(attempts, 0x1FFF) << 3 | <uint64_t>(deliveries & 0xFFFF) << 16 \
        | <uint64_t>owner << 32 | <uint64_t>reason << 42
    return low | check_of(low, offset) << 48


cdef int64_t block_min(Block *b, MessageSlot *slots, bint leases) noexcept nogil


cdef class Chunk:
    cdef readonly str path
    cdef Mapping mapping
    cdef ChunkHeader *h
    cdef Block *blocks
    cdef MessageSlot *slots
    cdef bint dirty                 # this process stored since its last sync

    cdef int grow(self, int64_t i) except -1
    cdef int sync(self, Liveness liveness) except -1
    cdef int sync_now(self) except -1


cdef class Reader:                  # a place in a log, going forward
    cdef Log log
    cdef Batch batch
    cdef Walk walk
    cdef Entry e                    # the current record, when `batch` is one
    cdef bint plain                 # no record of `batch` has headers, and no offset is without one

    cdef int begin(self, Batch batch) except -1
    cdef int seek(self, int64_t offset, int64_t stop) except -1


cdef class Level:
    cdef readonly Log log
    cdef readonly int index
    cdef LevelWords *w
    cdef str folder
    cdef dict chunks                # number -> Chunk
    cdef list numbers               # of those there are, sorted
    cdef set done                   # chunks that are all settled: an empty file says so
    cdef dict sifted, sifted_live   # segments that were written anew: base -> end, and -> what of it lived
    cdef int64_t seen               # which list of chunks that is
    cdef Chunk near                 # the last one used
    cdef Reader front, back         # at the cursor, and anywhere

    cdef int look(self, int64_t version) except -1
    cdef Chunk chunk(self, int64_t number, int64_t *version)
    cdef void change(self, Chunk c, int64_t i, int state, int attempts, int deliveries, int owner, int reason, int64_t when) noexcept
    cdef int64_t lease_untouched(self, Chunk c, int64_t i, int64_t n, int owner, int64_t when, int64_t wall) noexcept
    cdef void count_settled(self, Chunk c, int64_t block, int64_t n) noexcept
    cdef int64_t lowest(self, int state, int64_t start) except -2
    cdef int64_t untouched(self) noexcept
    cdef Chunk opened(self, int64_t number)
    cdef Chunk made(self, int64_t number)
    cdef int give_back_all(self, Chunk c, int64_t *damaged) except -1
    cdef int64_t forget_from(self, Chunk c, int64_t end) except -1
    cdef int64_t last_touched(self, Chunk c) except -2
    cdef int touch(self, int64_t start, int64_t stop) except -1
    cdef int recount(self, bint anew, int64_t *damaged) except -1
