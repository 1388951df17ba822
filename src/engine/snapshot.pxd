# snapshot: what a log held at one moment, for as long as somebody reads it.
from libc.stdint cimport int64_t

from seglog.engine.batch cimport Batch
from seglog.engine.log cimport Log


cdef class Snapshot(Log):
    cdef readonly int64_t start     # offsets
    cdef readonly int64_t stop
    cdef dict broken                # base -> what opening that segment raised
    cdef dict places                # offset -> where the batch before it lies: the frame that begins with it is not far

    cdef Batch next_batch(self, int64_t offset, int64_t max_records, int64_t max_bytes)


cdef Snapshot snapshot_of(Log log, int64_t start, int64_t stop)
