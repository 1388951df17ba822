# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Decisions: what one partition must ask about transactions, without knowing what they are.

A frame of a transaction is there when its transaction was decided. The partition knows its frames, the transaction log the
decisions; this is the seam between them, so that the one is built without the other. This class says no to everything.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef class Decisions:
    """No transaction was ever decided."""

    cdef int64_t decided(self, uint64_t partition_id, int64_t start, int64_t since) except -1:
        """Behind the decision about the frames at offset `start`, looked for from `since` on; 0 when there is none."""
        return 0

    cdef bint holds(self, uint64_t partition_id, int64_t start, int64_t stop) except -1:
        """After a power cut: whether offsets `start .. stop - 1` belong to a transaction that is there with all its parts."""
        return False

    cdef int make_durable(self, int64_t decision) except -1:
        """Every transaction with a decision below this is on disk, in all its partitions, when this returns."""
        return 0

    cdef int64_t durable(self) noexcept:
        """Behind the last decision that is on disk with all its parts."""
        return 0

    cdef object commit_of(self, uint64_t file, uint32_t partition, uint64_t sequence, int64_t since):
        """(slot, behind its decision): the commit with this sequence in a positions file, if it was decided; looked for from `since` on."""
        return None

    cdef int barrier(self) except -1:
        """Who was about to decide has done it, or will see what was stored before this call."""
        return 0
