# shared: the words that every process with this partition open looks at.
from libc.stdint cimport int64_t, uint32_t

from seglog.engine cimport platform
from seglog.engine.layout cimport SharedWords
from seglog.engine.liveness cimport Liveness
from seglog.engine.mapping cimport Mapping


cdef class Shared:
    cdef readonly str path
    cdef Mapping mapping
    cdef SharedWords *words
    cdef readonly Liveness liveness
    cdef int64_t lock_timeout_us
    cdef bint shut                  # its log was closed: nobody need wait any longer
    cdef uint32_t *also             # the bell of a queue, which it belongs to; NULL: of the store
    cdef object keeps               # what `also` lies in

    cdef int lock_slowly(self) except -1
    cdef int wait_for(self, int64_t offset, bint durable, int64_t timeout_us) except -1

    # 1: taken; 2: taken from a dead holder, whose half-done work needs repair
    cdef inline int lock(self) except -1:
        # A word of 0 is a forked child that could not take a slot: it must not look like its parent, or like nobody.
        if self.liveness.word and platform.cas_u32(&self.words.lock, 0, self.liveness.word):
            return 1
        return self.lock_slowly()

    # The exchange is a full fence: what was published before it is visible before anybody looks at the flags.
    cdef inline void unlock(self) noexcept nogil:
        platform.exchange_u32(&self.words.lock, 0)
        if platform.load_u32(&self.words.lock_wanted):
            platform.store_u32(&self.words.lock_wanted, 0)
            platform.wake_u32(&self.words.lock, 1)

    # Call after a full fence (unlock is one). Costs a load when nobody waits.
    cdef inline void ring(self) noexcept nogil:
        if platform.load_u32(&self.words.bell_waiting):
            platform.store_u32(&self.words.bell_waiting, 0)
            platform.add_u32(&self.words.bell, 1)
            platform.wake_u32(&self.words.bell, 0x7FFFFFFF)
        if self.also != NULL:
            if platform.load_u32(&self.also[1]):            # somebody waits for a message
                platform.store_u32(&self.also[1], 0)
                platform.add_u32(&self.also[0], 1)
                platform.wake_u32(&self.also[0], 0x7FFFFFFF)
        elif platform.load_u32(&self.liveness.bell[1]):     # somebody waits for any partition of the store
            platform.store_u32(&self.liveness.bell[1], 0)
            platform.add_u32(&self.liveness.bell[0], 1)
            platform.wake_u32(&self.liveness.bell[0], 0x7FFFFFFF)
