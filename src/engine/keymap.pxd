# keymap: the last offsets per key, in memory of a stated size.
from libc.stdint cimport int64_t, uint64_t


cdef class Keymap:
    cdef int64_t *slots             # each: two halves of the key's hash, `keep` offsets, and with keep > 1 its last tombstone
    cdef readonly int64_t room      # slots
    cdef int64_t room_max           # that there may be
    cdef readonly int64_t count
    cdef readonly int keep
    cdef int width                  # of a slot, in words of 8 bytes
    cdef uint64_t seeds[2]

    cdef void hash(self, const char *key, int64_t size, uint64_t *hashes) noexcept nogil
    cdef int64_t *slot_of(self, const uint64_t *hashes) noexcept nogil
    cdef int64_t *find(self, const uint64_t *hashes) noexcept nogil
    cdef int64_t *put(self, const uint64_t *hashes) noexcept nogil
    cdef bint grow(self) noexcept nogil
    cdef void learn_at(self, int64_t *found, int64_t offset, bint tombstone) noexcept nogil
    cdef void recall_at(self, int64_t *found, int64_t offset, bint tombstone, int64_t boundary) noexcept nogil
    cdef bint superseded(self, const uint64_t *hashes, int64_t offset) noexcept nogil
