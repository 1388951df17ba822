# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True, nonecheck=True
"""Message: a record that was received from a queue, with what is to be done about it.

The verbs are its queue's (`delivery`, and the layer above); this is the receipt: which delivery it was. What the queue itself wrote into the
headers is told apart from what the sender did.
"""
import json

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from seglog.engine.frame cimport Entry
from seglog.engine.record cimport Record

from seglog.engine.errors import LeaseLost


cdef const char *attribute(const Entry *e, const char *name, int size, int64_t *value_size) noexcept:
    """The value of a header; NULL when the record has none of this name."""
    cdef int64_t at = 0
    cdef uint16_t name_size
    cdef uint32_t found
    while at + 6 <= e.header_size:
        memcpy(&name_size, e.headers + at, 2)
        memcpy(&found, e.headers + at + 2, 4)
        at += 6
        if at + name_size > e.header_size:
            return NULL
        if found == 0xFFFFFFFF:
            found = 0
        if name_size == size and memcmp(e.headers + at, name, size) == 0:
            if at + name_size + found > e.header_size:
                return NULL
            value_size[0] = found
            return e.headers + at + name_size
        at += name_size + found
    return NULL


cdef int64_t number_attribute(const Entry *e, const char *name, int size, int64_t default) noexcept:
    cdef int64_t found_size = 0, number
    cdef const char *found = NULL
    if e.header_size:
        found = attribute(e, name, size, &found_size)
    if found == NULL or found_size != 8:
        return default
    memcpy(&number, found, 8)
    return number


cdef bint is_own(str name) noexcept:
    return name.startswith("seglog-") or name == "dedup-id" or name == "dedup-at"


cdef class Message(Record):
    """A message that was received: a record, with what is to be done about it.

    `value`, `key` and `headers` are the sender's. `ack`, `nack`, `release`, `reject` and `extend` raise LeaseLost when it is no longer
    this delivery's to say: the lease ended, or the message was settled.
    """

    @property
    def headers(self):
        """The sender's headers, as a new dict of str to bytes."""
        cdef dict all = Record.headers.__get__(self)
        return {name: value for name, value in all.items() if not is_own(name)} if all else all

    @property
    def attributes(self):
        """What the queue itself wrote into the headers."""
        return {name: value for name, value in Record.headers.__get__(self).items() if is_own(name)}

    cdef void show(self, const Entry *e, object batch, int64_t level) noexcept:
        """Be about this record, which lies in `batch`."""
        self.owner = batch
        self.value_data, self.value_size = e.value, e.value_size
        self.key_data, self.key_size = e.key, e.key_size
        self.header_data, self.header_size = e.headers, e.header_size
        self.timestamp, self.offset, self.partition = e.timestamp, e.offset, level

    cdef bytes own(self, const char *name, int size):
        """A header of the queue's own; None when there is none."""
        cdef Entry e
        cdef int64_t found_size = 0
        cdef const char *found
        e.headers, e.header_size = self.header_data, self.header_size
        found = attribute(&e, name, size, &found_size)
        return None if found == NULL else PyBytes_FromStringAndSize(found, found_size)

    @property
    def sent_at(self):
        """When it was sent, in µs since the epoch; also when it was moved since."""
        cdef bytes sent = self.own(b"seglog-sent", 11)
        return self.timestamp if sent is None else int.from_bytes(sent, "little", signed=True)

    @property
    def group(self):
        """The group it was sent with, as bytes; None for none."""
        return self.own(b"seglog-group", 12)

    @property
    def dedup_id(self):
        """The dedup_id it was sent with, as bytes; None for none."""
        cdef bytes found = self.own(b"dedup-id", 8)
        return self.own(b"seglog-dedup", 12) if found is None else found

    @property
    def id(self):
        """What it is called for its whole life, also among the dead letters and back: a str."""
        cdef bytes found = self.own(b"seglog-id", 9)
        return f"{self.home.name}-{self.partition}-{self.offset}" if found is None else found.decode()

    @property
    def deaths(self):
        """Why it is a dead letter: a list of dicts, the newest first, each with queue, reason, count, time (µs), attempts, and error."""
        cdef bytes found = self.own(b"x-death", 7)
        return [] if found is None else json.loads(found)

    @property
    def sequence(self):
        """Its number in its queue and priority: its offset."""
        return self.offset

    @property
    def priority(self):
        """The level it was sent with."""
        return self.partition

    @property
    def queue(self):
        """The queue it was received from."""
        return self.home

    def ack(self, tx=None):
        """It is done, and never comes again. With `tx`, when that commits. About 100 ns; with fsync="always" an fdatasync."""
        self.home.settle_one(self, tx)

    def nack(self, delay=None, error=None):
        """It failed: it comes again, after `delay` seconds (default: the queue's backoff), or goes to the dead letters after `max_attempts`;
        with `error`, a str, as its last error."""
        self.home._nack([self], delay, error)

    def release(self):
        """Give it back as if it had not been received: no attempt is counted."""
        self.home._release([self])

    def reject(self, reason="rejected", tx=None):
        """It will never succeed: to the dead letters now, for this reason (a str)."""
        self.home._reject([self], reason, tx)

    def extend(self, seconds):
        """The lease ends `seconds` from now; at most the queue's `max_lease` after it was received."""
        self.home._extend([self], seconds)

    def __repr__(self):
        value = self.value
        shown = repr(value) if value is None or len(value) <= 40 else f"{value[:32]!r}... ({len(value):,} bytes)"
        return f"<Message {self.partition}:{self.offset} attempt {self.attempts} value={shown}>"


cdef object lost(Message m):
    return LeaseLost(
        f"message {m.partition}:{m.offset} is no longer this delivery's ({m.deliveries}): its lease ended, it was settled, or it was only looked at. "
        "Nothing was changed: whoever received it last says what becomes of it.", offset=m.offset, priority=m.partition, deliveries=m.deliveries)


cdef class Home:
    """What messages come from, and go back to: a queue."""

    cdef int settle_one(self, Message m, object tx) except -1:
        raise NotImplementedError
