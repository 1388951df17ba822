# batch: a run of records of one partition, where they lie in the map.
from libc.stdint cimport int64_t, uint32_t

from seglog.engine.frame cimport Columns, Entry
from seglog.engine.layout cimport FrameHeader
from seglog.engine.mapping cimport Mapping
from seglog.engine.record cimport Record


cdef enum Part:
    VALUES, KEYS


cdef class Frames:                  # the bytes of a batch: what its arrays are views of
    cdef Mapping mapping
    cdef int64_t start, end


cdef class Batch:
    cdef Mapping mapping
    cdef bytes expanded             # a compressed frame's blobs; such a frame is a batch of its own
    cdef const char *blobs          # of `expanded`
    cdef int64_t blob_size
    cdef int64_t start              # bytes of the segment: the first frame
    cdef int64_t end                # behind the last frame
    cdef uint32_t skip              # records of the first frame that are not part of this batch
    cdef int64_t count
    cdef readonly int64_t first_offset
    cdef readonly int64_t next_offset
    cdef readonly int64_t partition
    cdef readonly str topic
    cdef readonly uint32_t epoch
    cdef object dtype               # of its values, where the topic has one
    cdef bint several               # with a dtype: one frame of several records, so they lie together; else frames of one record each
    cdef object _values, _offsets, _timestamps
    cdef Frames _frames
    cdef object segment             # whose frames they are: for who reads on behind them

    cdef int columns(self, int64_t position, Columns *c) noexcept nogil
    cdef Record make(self, const Entry *e)
    cdef Frames frames(self)
    cdef _array(self)
    cdef _numbers(self, int which)
    cdef bint any_frame(self, int flag)


cdef object new_array(int64_t n, object dtype, char **data)


cdef class Column:
    cdef Batch batch
    cdef Part part
    cdef object _starts
    cdef object _ends
    cdef object _valid

    cdef int locate(self) except -1


cdef class Walk:                    # one record after the other
    cdef Batch batch
    cdef Columns c
    cdef int64_t position           # of the frame after this one
    cdef uint32_t i
    cdef int64_t left

    cdef int advance(self, Entry *e) except -1
