# message: a record that was received from a queue.
from libc.stdint cimport int64_t

from seglog.engine.frame cimport Entry
from seglog.engine.record cimport Record


cdef class Home


cdef class Message(Record):
    cdef Home home                  # the queue
    cdef readonly int attempts      # this one included; `release` takes one back
    cdef readonly int deliveries
    cdef readonly int64_t first_received_at     # us since the epoch
    cdef int64_t leased_at          # us, monotonic; 0: only looked at
    cdef int state                  # that its slot has to be in
    cdef readonly int reason        # why it is to be moved; 0

    cdef void show(self, const Entry *e, object batch, int64_t level) noexcept
    cdef bytes own(self, const char *name, int size)


cdef class Home:
    cdef int settle_one(self, Message m, object tx) except -1


cdef const char *attribute(const Entry *e, const char *name, int size, int64_t *value_size) noexcept
cdef int64_t number_attribute(const Entry *e, const char *name, int size, int64_t default) noexcept
cdef object lost(Message m)
