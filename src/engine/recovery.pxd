# recovery: from files to shared words.
from libc.stdint cimport int64_t, uint64_t

from seglog.engine.decisions cimport Decisions
from seglog.engine.layout cimport SharedWords


cdef tuple recover(
    SharedWords *w, str path, object status, bint known, bint ours, uint64_t boot, int64_t now, int64_t capacity, bint by_pwrite,
    bint promised, Decisions decisions,
)
cdef list missing_segments(str directory, list bases, int64_t start)
cdef int rewrite(int fd, int64_t start, int64_t stop) except? -99
