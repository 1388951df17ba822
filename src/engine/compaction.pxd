# compaction: of each key only the last records, in fewer and fuller segments.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from seglog.engine.frame cimport Entry
from seglog.engine.keymap cimport Keymap
from seglog.engine.log cimport Log
from seglog.engine.pieces cimport Feed, Piece, Writer


cdef enum:
    AHEAD = 16                      # records whose keys are hashed before the first of them is looked up


cdef class Pass:                    # one way through the log, with what one keymap holds
    cdef Log log
    cdef Keymap keymap
    cdef object stop
    cdef int64_t begin, seen        # keys of the offsets `begin .. seen-1` are in the map
    cdef int64_t first              # below are trimmed
    cdef int64_t now, grace
    cdef bint blocked               # something was left alone that may hold what a tombstone hides
    cdef bint drop_tombstones       # in the segment at hand
    cdef int doing
    cdef Writer writer
    cdef uint32_t i                 # the record of the frame at hand
    cdef bint within                # the frame at hand is not done with
    # before it: records that came alone in their frames
    cdef Entry alone[AHEAD]
    cdef uint64_t hashes[2 * AHEAD]
    cdef uint32_t epochs[AHEAD]
    cdef int count, done            # of them there are, and were seen to
    cdef int then                   # what is to be said when all were
    cdef int64_t removed, kept      # since they were last set to 0
    cdef dict said

    cdef bint dead(self, const Entry *e, const uint64_t *hashes) noexcept nogil
    cdef int frame(self, Feed feed) noexcept nogil
    cdef int record(self, const Entry *e, const uint64_t *hashes, uint32_t epoch, int codec) noexcept nogil
    cdef int singles(self, Feed feed) noexcept nogil
    cdef int go_on(self, Feed feed) noexcept nogil
    cdef int frames(self, Feed feed) noexcept nogil
    cdef int go_through(self, Piece piece) except? -100
    cdef int halt(self) except -1
    cdef int settle_on(self, Piece piece) except -1
    cdef int learn(self, list pieces) except -1
    cdef int rewrite(self, list pieces) except -1
    cdef Py_ssize_t run(self, list pieces, Py_ssize_t i) except -1
    cdef int finish(self, list run) except -1
    cdef int replace(self, list run, uint64_t inode) except -1
    cdef int mark_clean(self, Piece piece) except -1


cdef class Sieve(Pass):             # keeps what a map of bits says
    cdef bytes held
    cdef const unsigned char *bits
    cdef int64_t origin, size       # of the first bit; in bytes
