# segment: one file of frames.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from seglog.engine.layout cimport FrameHeader, Mark, SegmentHeader
from seglog.engine.mapping cimport Mapping


cdef class Segment:
    cdef readonly str path
    cdef SegmentHeader header       # a copy
    cdef readonly int64_t base_offset
    cdef readonly int64_t size      # of the file and of the map: less than the capacity when it was cut short
    cdef uint64_t inode             # of the file: compaction puts another one under its name
    cdef uint64_t salt
    cdef Mapping mapping
    cdef char *data                 # of the map
    cdef int fd                     # kept when opened for writing; -1 otherwise
    cdef bint by_pwrite             # no real blocks behind the map: never store through it

    cdef bint read_mark(self, Mark *mark) noexcept nogil
    cdef int write_mark(self, Mark *mark) noexcept nogil
    cdef int sync(self) noexcept nogil
    cdef int64_t next_frame(self, int64_t position, int64_t stop, int64_t offset_min, int64_t offset_max) noexcept nogil


cdef class Survivors:               # every sound frame of a damaged segment, by offset
    cdef int64_t *rows              # pairs: offset, position
    cdef int64_t count, room
    cdef readonly int64_t stop      # frames from this offset on were not looked at

    cdef int add(self, int64_t offset, int64_t position) except -1
    cdef int64_t find(self, int64_t offset_min, int64_t offset_max, int64_t *position) noexcept nogil


cdef class Scanner:                 # frames of a file, by pread
    cdef readonly str path
    cdef int fd
    cdef uint64_t salt
    cdef int64_t size
    cdef int64_t base_offset
    cdef Survivors survivors        # once damage was met
    cdef char *buffer
    cdef int64_t buffered, held, room
    cdef readonly int64_t position  # of the next frame
    cdef readonly int64_t offset    # that it should start with
    cdef readonly int64_t max_timestamp
    cdef readonly int64_t records
    cdef uint32_t epoch
    cdef int failed                 # -errno when some bytes could not be read: no proof that they are not there
    cdef readonly int flags         # of the last frame

    cdef const char *need(self, int64_t position, int64_t size) except? NULL
    cdef int step(self) except? -99
    cdef int64_t resync(self, int64_t position, int64_t offset_min) except -2
    cdef bint blank(self, int64_t position) except -1


cdef void first_page(char *page, SegmentHeader *header, const Mark *mark) noexcept nogil
cdef Segment create_segment(
    str directory, SegmentHeader *header, const Mark *mark, bint by_pwrite, bint sync
)
cdef Segment open_segment(str path, bint writable, bint by_pwrite)
cdef Survivors find_survivors(Segment segment, int64_t stop)
cdef bint is_segment_name(str name)
cdef list list_bases(str path)
cdef int open_file(str path, int flags) except -1
cdef list superseded_bases(str path, list bases)
cdef int remove_segment(str directory, int64_t base) except -1
