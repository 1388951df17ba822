# pieces: the sealed segments of a compaction, read frame by frame and written anew.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from seglog.engine.frame cimport Columns, Entry, Scratch
from seglog.engine.layout cimport FrameHeader, SegmentHeader

cdef enum:                          # beside the codes of frames, which are 0 and below
    AT_END = 1                      # of the segment
    COMPRESSED = 2                  # the frame's blobs must be expanded first
    NO_MEMORY = 7
    PAUSE_BYTES = 1 << 20           # are read at once


cdef class Piece:                   # a sealed segment, as it was when the pass began
    cdef readonly str path
    cdef readonly int64_t base, end
    cdef readonly int64_t closed    # by then the last of its records had been appended, µs
    cdef SegmentHeader header
    cdef uint64_t inode             # 0: neither copy of its header is sound
    cdef readonly int64_t used      # bytes, header included
    cdef uint32_t flags             # of its mark
    cdef bint damaged


cdef class Feed:                    # its frames one after the other, by pread, checked
    cdef int fd
    cdef uint64_t salt
    cdef int64_t size, position, offset, end
    cdef char *buffer
    cdef int64_t buffered, held, room
    cdef const FrameHeader *h       # the frame that `step` came to
    cdef Columns c
    cdef bytes expanded             # its blobs, when it was compressed

    cdef const char *need(self, int64_t position, int64_t size) noexcept nogil
    cdef bint ahead(self) noexcept nogil
    cdef int step(self) noexcept nogil


cdef class Writer:                  # a new segment, under its temporary name
    cdef readonly str path
    cdef int fd
    cdef uint64_t salt
    cdef readonly int64_t position  # where the next frame goes
    cdef int64_t limit              # the segment must not grow beyond, once something of it is good
    cdef bint bounded
    cdef int64_t next_base          # the next frame covers offsets from here on
    # the frame being gathered: `n` records of one epoch and codec
    cdef int64_t n, room, batch_bytes
    cdef uint32_t epoch
    cdef int codec
    cdef int64_t *offsets
    cdef int64_t *timestamps
    cdef int32_t *ends[3]           # of keys, headers, values
    cdef uint8_t *valid[2]          # has a key, has a value: a byte each
    cdef char *blobs[3]
    cdef int64_t used[3]
    cdef int64_t rooms[3]
    cdef bint any_key, key_nulls, nulls, spread
    cdef int64_t stride             # of all values so far; -1 when they differ
    cdef Scratch scratch
    cdef dict squeezers

    cdef bint fits(self, const Entry *e, uint32_t epoch, int codec) noexcept nogil
    cdef int add(self, const Entry *e) noexcept nogil
    cdef bint flush(self, int64_t until) except -1
