# tail: the end of a partition where records are appended.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from seglog.engine.decisions cimport Decisions
from seglog.engine.index cimport Index
from seglog.engine.layout cimport FrameHeader, SharedWords
from seglog.engine.liveness cimport Liveness
from seglog.engine.segment cimport Segment
from seglog.engine.shared cimport Shared


cdef enum Fsync:
    FSYNC_NEVER, FSYNC_INTERVAL, FSYNC_ALWAYS


cdef class Tail:
    # what it is
    cdef readonly str path
    cdef readonly int64_t partition
    cdef readonly str topic         # what its records are said to belong to; None outside a store
    cdef readonly tuple losses
    # how it behaves
    cdef int64_t segment_bytes, segment_bytes_min, segment_age_us
    cdef Fsync fsync
    cdef bint by_pwrite
    cdef object clock
    # what all processes share
    cdef Shared shared
    cdef bytes place_name           # below the store's directory, as decisions call it
    cdef Decisions decisions        # about transactions; None where there are none
    cdef Liveness own_liveness      # when the log made one for itself
    cdef SharedWords *w             # of `shared`, which keeps them mapped also after close
    cdef bint shut
    cdef uint32_t incarnation
    cdef uint64_t boot
    # the segment being written: changed only under the partition's lock
    cdef Segment active
    cdef Index index
    cdef char *data
    cdef int64_t base, capacity, reserved_offset, populated, small_ones
    cdef uint64_t salt
    cdef bint stores                # small frames through the map; False: by pwrite
    cdef bint ahead                 # small frames go where pages are there already: see make_room

    cdef bint opens(self, int64_t base) except -1
    cdef int64_t now(self) except? -1
    cdef int check_state(self) except -1
    cdef int fail(self, int code, str path) except -1
    cdef int lock(self) except -1
    cdef int repair(self) except -1
    cdef int remove_strays(self) except -1
    cdef int adopt(self, Segment segment, Index index) except -1
    cdef int open_active(self) except -1
    cdef int make_room(self, int64_t size, int64_t count) except -1
    cdef int roll(self, int64_t size, int64_t count) except -1
    cdef int prepare(self, char *frames, int64_t size, int64_t count, int64_t highest, int64_t since) except -1
    cdef void withdraw(self) noexcept
    cdef void publish(self, int64_t decision) noexcept
    cdef int make_complete(self) except -1
    cdef int64_t place(self, FrameHeader *h, const char *body) noexcept nogil
    cdef int write_large(self, FrameHeader *h, const char *body, int64_t position) noexcept nogil
    cdef int64_t commit(self, FrameHeader *h, const char *body) except -1
    cdef int64_t put(self, FrameHeader *h, const char *body, int64_t offset) except -1
    cdef int sync_to(self, int64_t target) except -1
    cdef int sync_now(self, bint after_death) except -1
    cdef int sync_older(self, int64_t base) except -1
    cdef int sync_names(self) except -1
