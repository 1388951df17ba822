# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Snapshot: the records `start .. stop-1` of one log as they were at one moment.

It promises that these records can be read for as long as the snapshot lives, as often as one likes: after trim, retention, compaction,
deletion, close, and in a forked child. It is a log whose list of segments is fixed and whose segments are mapped already. It opens nothing,
writes nothing and asks the directory nothing, except what was set aside there when it meets damage. Cost: a map per segment to make,
a walk over headers now and then to read.

Shared fields: `places` and the dicts of `Log`, changed one entry at a time; a race costs a second walk.
"""
import bisect

from libc.stdint cimport int64_t

from seglog.engine cimport platform
from seglog.engine.batch cimport Batch
from seglog.engine.frame cimport FRAME_OK, frame_check
from seglog.engine.index cimport Index, build_index
from seglog.engine.layout cimport SEGMENT_HEADER, FrameHeader
from seglog.engine.log cimport Log
from seglog.engine.segment cimport Segment

from seglog.engine.errors import CorruptSegment


cdef class Snapshot(Log):
    """Made by `snapshot_of`; for `next_batch` only."""

    def __init__(self):
        raise TypeError("snapshots are taken of logs")

    cdef Batch next_batch(self, int64_t offset, int64_t max_records, int64_t max_bytes):
        """The batch that starts with the first record at or after `offset`; None at the end. Raises what a read would."""
        cdef Batch batch = self.collect(offset, self.stop, max_records, max_bytes)
        if batch is not None:
            self.places[batch.next_offset] = batch.start, batch.end
        return batch

    cdef list current_bases(self):
        return self.bases

    cdef bint replaced(self, Segment segment) except -1:
        return False

    cdef Segment segment(self, int64_t base):
        if base in self.broken:
            raise self.broken[base]
        return <Segment>self.open_segments[base]

    cdef Index index_of(self, Segment segment, int64_t end_offset):
        cdef Index index = self.indexes.get(segment.base_offset)
        if index is None:
            self.indexes[segment.base_offset] = index = build_index(segment, segment.size, end_offset, False)
        return index

    cdef int locate(self, Segment segment, int64_t end, int64_t offset, int64_t *position, int64_t *expected) except -1:
        position[0], expected[0] = SEGMENT_HEADER, segment.base_offset
        if offset <= segment.base_offset:
            return 0
        # Behind the batch before, or in its last frame. It may be another segment's, where offsets overlap: the hash tells.
        for at in reversed(self.places.get(offset, ())):
            if SEGMENT_HEADER <= at < segment.size and frame_check(segment.data + <int64_t>at, segment.size - at, segment.salt) == FRAME_OK \
                    and segment.base_offset <= (<const FrameHeader *>(segment.data + <int64_t>at)).base_offset <= offset:
                position[0], expected[0] = at, (<const FrameHeader *>(segment.data + <int64_t>at)).base_offset
                return 0
        return Log.locate(self, segment, end, offset, position, expected)


cdef Snapshot snapshot_of(Log log, int64_t start, int64_t stop):
    """What `log` has of the offsets `start .. stop-1`. What is trimmed while it is being taken is not in it. *O(segments)*."""
    cdef Snapshot s
    cdef Py_ssize_t i
    cdef list bases, wanted
    cdef dict mapped, broken
    cdef int tries = 0
    while True:
        if log.shut:
            log.check_state()
        start = max(start, platform.load_i64(&log.w.first_offset))
        bases = log.current_bases()
        i = max(bisect.bisect_right(bases, start) - 1, 0)
        wanted, mapped, broken = [], {}, {}
        try:
            for base in bases[i:] if start < stop else ():
                wanted.append(base)
                try:
                    mapped[base] = log.segment(base)
                except CorruptSegment as error:
                    broken[base] = error.with_traceback(None)
                if base >= stop:
                    break           # the one behind says where the last one ends
        except FileNotFoundError:
            log.bases_version = -1  # trimmed, or compacted, in between
            tries += 1
            if tries < 100:
                continue
            raise
        break
    s = Snapshot.__new__(Snapshot)
    s.path, s.partition, s.topic = log.path, log.partition, log.topic
    s.shared, s.w, s.boot = log.shared, log.w, log.boot
    s.skip_corrupt, s.dtype, s.width, s.losses = log.skip_corrupt, log.dtype, log.width, ()
    s.batch_bytes, s.record_bytes_max = log.batch_bytes, log.record_bytes_max
    s.start, s.stop, s.bases, s.open_segments, s.broken = start, stop, wanted, mapped, broken
    s.expand, s.indexes, s.survivors, s.places = {}, {}, {}, {}
    return s
