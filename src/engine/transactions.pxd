# transactions: several partitions' frames, all there or none.
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from seglog.engine.decisions cimport Decisions
from seglog.engine.frame cimport Scratch
from seglog.engine.layout cimport FrameHeader, PlaceSlot
from seglog.engine.log cimport Log
from seglog.engine.source cimport Packed, Times


cdef struct PartEntry:              # of a decision: the offsets of one partition
    uint64_t partition_id
    int64_t start
    int64_t stop
    uint32_t path_size              # of the partition's directory, below the store's; the paths follow the entries
    uint32_t reserved


cdef struct MoveEntry:              # of a decision: a group's place in one partition
    PlaceSlot slot                  # as it stands in the positions file
    uint64_t file                   # the number of that file
    uint32_t path_size              # of its path, below the store's directory
    uint32_t reserved


cdef class Transactions(Decisions):
    cdef readonly str root          # the store's directory; paths are told relative to it
    cdef readonly Log log           # None until it is wanted
    cdef object opener              # opens the log, makes it when told to; None as long as there is none
    cdef dict known                 # partition_id -> [(start, stop)] that hold; after a power cut
    cdef list spare                 # parts to use again
    cdef object guard               # one thread opens the log

    cdef Log ready(self, bint create)
    cdef dict parts_of(self, Log log, int64_t start, int64_t stop)
    cdef int append(self, Part part, list conditions) except -1
    cdef int decide(self, list parts, dict moves, list conditions) except -1
    cdef int renounce(self, Log log, list places) except -1
    cdef Part new_part(self, Log log)
    cdef int put_back(self, list parts) except -1


cdef class Part:                    # what a transaction has for one partition
    cdef Log log
    cdef Scratch frames
    cdef int64_t size, count, frame_count, highest, start
    cdef bint held                  # locked, also when there is nothing to write

    cdef int add(self, object value, object key, object headers, object timestamp) except -1
    cdef int add_some(
        self, Packed values, Packed keys, Packed headers, const int64_t *timestamps, const int32_t *select, int64_t n) except -1
    cdef int added(self, const FrameHeader *h) except -1


cdef class Transaction:
    cdef Transactions home
    cdef list parts
    cdef dict by_log                # once there are many
    cdef dict moves                 # place -> (offset, generation)
    cdef list conditions            # to be called under the locks
    cdef list undo                  # to be called when it does not happen
    cdef list went                  # after the commit: (log, start, count)
    cdef readonly bint open

    cdef Part part(self, Log log)
    cdef int undone(self) except -1
    cdef int add_some(
        self, Log log, Packed values, Packed keys, Packed headers, Times timestamps, const int32_t *select, int64_t n) except -1
