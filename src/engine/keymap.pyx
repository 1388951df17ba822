# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Keymap: the last offsets at which each key was seen, in memory of a stated size; what a compaction remembers of a log.

    slot  | hash u64 | hash u64 | offset i64 x keep, rising, -1 for none | with keep > 1: offset of its last tombstone |

Open addressing, linear probing, at most three quarters full. A key is its 128-bit hash, two XXH3-64 of seeds of this map's own: two
of a billion keys are taken for one with a chance of 1 in 10^20, and nobody can choose keys that collide.
24 bytes a slot, three quarters of them full, and room for a smaller one while it grows: 40 bytes of the budget a key.

It promises to say when it is full, and to forget nothing before. Shared fields: none; a map belongs to one pass.
"""
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from seglog.engine.checksum cimport xxh3_64_seed

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define seglog_prefetch(p) __builtin_prefetch(p)
    #else
    #define seglog_prefetch(p) ((void)(p))
    #endif
    """
    void prefetch "seglog_prefetch"(const void *p) noexcept nogil

cdef int64_t SLOTS_MIN = 64
cdef int64_t SLOTS_MAX = <int64_t>1 << 32      # the place of a key is computed with 32 bits


cdef class Keymap:
    """The last `keep` offsets of each key, in at most `memory` bytes; it begins small, and grows as keys come.

    >>> m = Keymap(memory=1 << 20)
    >>> m.learn(b"k", 3), m.learn(b"k", 7), len(m)
    (True, True, 1)
    >>> m.last(b"k"), m.last(b"other")
    (7, None)
    """

    def __cinit__(self):
        self.slots = NULL

    def __init__(self, int64_t memory, int keep=1):
        if self.slots != NULL:
            raise ValueError("a keymap is made once")
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least the last one is kept")
        self.keep = keep
        self.width = 3 if keep == 1 else 3 + keep
        # While it grows there are two of them. So the largest takes four fifths, the one before a quarter of that.
        self.room_max = min(max(memory * 4 // 5 // (8 * self.width), SLOTS_MIN), SLOTS_MAX)
        self.room = self.room_max
        while self.room > 4096:
            self.room //= 4
        self.slots = <int64_t *>PyMem_RawCalloc(self.room, self.width * 8)
        if self.slots == NULL:
            raise MemoryError(f"no memory for a map of {self.memory:,} bytes")
        seeds = os.urandom(16)
        memcpy(self.seeds, PyBytes_AS_STRING(seeds), 16)

    def __dealloc__(self):
        PyMem_RawFree(self.slots)

    def __len__(self):
        return self.count

    @property
    def memory(self):
        """Bytes that it takes now."""
        return self.room * self.width * 8

    @property
    def limit(self):
        """How many keys it can hold."""
        return self.room_max - self.room_max // 4

    cdef void hash(self, const char *key, int64_t size, uint64_t *hashes) noexcept nogil:
        """The two halves of a key's hash; its slot is on its way into the cache when this returns."""
        hashes[0] = xxh3_64_seed(key, size, self.seeds[0])
        hashes[1] = xxh3_64_seed(key, size, self.seeds[1]) | 1          # never 0: that is an empty slot
        prefetch(self.slots + place(hashes[0], self.room) * self.width)

    cdef int64_t *slot_of(self, const uint64_t *hashes) noexcept nogil:
        """The slot of a key, or the empty one that it would take."""
        cdef int64_t i = place(hashes[0], self.room)
        cdef int64_t *slot
        while True:
            slot = self.slots + i * self.width
            if slot[1] == 0 or (slot[0] == <int64_t>hashes[0] and slot[1] == <int64_t>hashes[1]):
                return slot
            i += 1
            if i == self.room:
                i = 0

    cdef int64_t *find(self, const uint64_t *hashes) noexcept nogil:
        """The offsets of a key, or NULL."""
        cdef int64_t *slot = self.slot_of(hashes)
        return slot + 2 if slot[1] else NULL

    cdef int64_t *put(self, const uint64_t *hashes) noexcept nogil:
        """The offsets of a key, which has a slot from now on; NULL when there is none left."""
        cdef int64_t *slot = self.slot_of(hashes)
        cdef int k
        if slot[1] == 0:
            if self.count >= self.room - self.room // 4:
                if not self.grow():
                    return NULL
                slot = self.slot_of(hashes)
            self.count = self.count + 1
            slot[0], slot[1] = <int64_t>hashes[0], <int64_t>hashes[1]
            for k in range(2, self.width):
                slot[k] = -1
        return slot + 2

    cdef bint grow(self) noexcept nogil:
        """Four times the slots, or all there may be; False when there are, or no memory is to be had."""
        cdef int64_t *old = self.slots
        cdef int64_t *grown
        cdef int64_t before = self.room, i, room = min(self.room_max, 4 * self.room)
        if before == self.room_max:
            return False
        if 5 * room > 2 * self.room_max:        # the sizes below the largest were rounded down
            room = self.room_max
        grown = <int64_t *>PyMem_RawCalloc(room, self.width * 8)
        if grown == NULL:
            return False
        self.slots, self.room = grown, room
        for i in range(before):
            if old[i * self.width + 1]:
                memcpy(self.slot_of(<uint64_t *>(old + i * self.width)), old + i * self.width, self.width * 8)
        PyMem_RawFree(old)
        return True

    cdef void learn_at(self, int64_t *found, int64_t offset, bint tombstone) noexcept nogil:
        """The key was seen at an offset above all before."""
        cdef int k
        for k in range(self.keep - 1):
            found[k] = found[k + 1]
        found[self.keep - 1] = offset
        if tombstone and self.keep > 1:
            found[self.keep] = offset

    cdef void recall_at(self, int64_t *found, int64_t offset, bint tombstone, int64_t boundary) noexcept nogil:
        """The key was also seen here, below `boundary`, while what is known of it lies above; calls rise among themselves."""
        cdef int k, older = 0
        while older < self.keep and found[older] < boundary:
            older += 1
        for k in range(older - 1):
            found[k] = found[k + 1]
        if older:
            found[older - 1] = offset
        if tombstone and self.keep > 1 and found[self.keep] < offset:
            found[self.keep] = offset

    cdef bint superseded(self, const uint64_t *hashes, int64_t offset) noexcept nogil:
        """Whether `keep` later records of this key, or a later tombstone of it, are known."""
        cdef const int64_t *found = self.find(hashes)
        return found != NULL and (offset < found[0] or (self.keep > 1 and offset < found[self.keep]))

    def learn(self, bytes key not None, int64_t offset, bint tombstone=False):
        """`key` was seen at `offset`, which is above all before. False, and nothing is remembered, when there is no room for it."""
        cdef uint64_t hashes[2]
        cdef int64_t *found
        self.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), hashes)
        found = self.put(hashes)
        if found == NULL:
            return False
        self.learn_at(found, offset, tombstone)
        return True

    def last(self, bytes key not None):
        """The last offset of `key`; None when it was not seen."""
        cdef uint64_t hashes[2]
        cdef const int64_t *found
        self.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), hashes)
        found = self.find(hashes)
        return None if found == NULL else found[self.keep - 1]

    def is_superseded(self, bytes key not None, int64_t offset):
        """Whether what `key` had at `offset` is no longer among what is kept of it."""
        cdef uint64_t hashes[2]
        self.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), hashes)
        return bool(self.superseded(hashes, offset))


cdef inline int64_t place(uint64_t hash, int64_t room) noexcept nogil:
    return <int64_t>(((hash >> 32) * <uint64_t>room) >> 32)
