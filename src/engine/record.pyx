# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Record: one message with its key, headers, timestamp and place; and Position, the place alone.

A record read from a log is lazy: it points into the map and makes an object of a part when that part is asked for.
It keeps the map alive. Nothing here changes after it was made, so threads may share it.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.float cimport PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #define SEGLOG_NULL_SIZE 0xFFFFFFFFu
    """
    const uint32_t NULL_SIZE "SEGLOG_NULL_SIZE"

import datetime as _datetime
from collections.abc import Mapping as _Mapping
from operator import index as _index
from typing import NamedTuple

_EPOCH = _datetime.datetime(1970, 1, 1, tzinfo=_datetime.timezone.utc)


class Span(NamedTuple):
    """A run of offsets that one append took: records `start .. stop-1` of `partition`."""

    partition: int
    start: int
    stop: int


@cython.final
@cython.freelist(64)
cdef class Position:
    """Where a record is: `(partition, offset)`. Compares, hashes, unpacks and indexes like that tuple.

    >>> Position(2, 40) < Position(2, 41), tuple(Position(2, 40))
    (True, (2, 40))
    """

    __match_args__ = ("partition", "offset")

    def __init__(self, int64_t partition, int64_t offset):
        self.partition = partition
        self.offset = offset

    def __iter__(self):
        return iter((self.partition, self.offset))

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return (self.partition, self.offset)[index]

    def __hash__(self):
        return hash((self.partition, self.offset))

    def __richcmp__(self, other, int op):
        cdef tuple mine = (self.partition, self.offset)
        if isinstance(other, Position):
            other = (<Position>other).partition, (<Position>other).offset
        elif not isinstance(other, tuple):
            return NotImplemented
        if op == 0:
            return mine < other
        if op == 1:
            return mine <= other
        if op == 2:
            return mine == other
        if op == 3:
            return mine != other
        if op == 4:
            return mine > other
        return mine >= other

    def __reduce__(self):
        return Position, (self.partition, self.offset)

    def __repr__(self):
        return f"Position(partition={self.partition}, offset={self.offset})"


cdef Position new_position(int64_t partition, int64_t offset):
    cdef Position p = Position.__new__(Position)
    p.partition = partition
    p.offset = offset
    return p


cdef int64_t to_offset(object number) except? -1:
    """An offset from any integer, never from a float. What 63 bits cannot hold becomes the nearest that they can."""
    cdef int over = 0
    cdef long long n
    if PyLong_CheckExact(number):
        n = PyLong_AsLongLongAndOverflow(number, &over)
        return max(n, -0x7FFFFFFFFFFFFFFF) if over == 0 else over * 0x7FFFFFFFFFFFFFFF
    number = _index(number)
    return max(min(number, 0x7FFFFFFFFFFFFFFF), -0x7FFFFFFFFFFFFFFF)


cdef int64_t timeout_us(object seconds) except? -2:
    """A timeout in µs from seconds; -1 for None, which is for ever."""
    cdef double s
    if seconds is None:
        return -1
    if not PyFloat_CheckExact(seconds) and not PyLong_CheckExact(seconds) and isinstance(seconds, _datetime.timedelta):
        seconds = seconds.total_seconds()
    s = seconds
    if s != s:
        raise ValueError("a timeout is a number of seconds, not nan")
    return <int64_t>(min(max(s, 0.0), 1e9) * 1e6)


cdef int64_t to_us(object when) except? -1:
    """µs since the epoch from an int (µs already) or an aware datetime. Exact: no float comes near it."""
    if isinstance(when, int) and not isinstance(when, bool):
        if not -0x7FFFFFFFFFFFFFFF <= when <= 0x7FFFFFFFFFFFFFFF:
            raise ValueError(f"the timestamp {when} does not fit into 64 bits; timestamps are µs since the epoch")
        return when
    if isinstance(when, _datetime.datetime):
        if when.tzinfo is None:
            raise ValueError(f"{when!r} has no time zone: attach one, for instance .replace(tzinfo=timezone.utc) or .astimezone()")
        delta = when - _EPOCH
        return (delta.days * 86400 + delta.seconds) * 1000000 + delta.microseconds
    if hasattr(when, "__index__") and not isinstance(when, bool):
        return when.__index__()
    raise TypeError(f"a timestamp is an int (µs since the epoch) or an aware datetime, not {type(when).__name__}")


cpdef bytes pack_headers(object headers):
    """Headers as bytes: per header `uint16 name size, uint32 value size (2^32-1: null), name, value`.

    `headers` maps str to bytes-like or None. Raises TypeError for other types, ValueError for a name over 65,535 bytes.
    """
    if not isinstance(headers, _Mapping):
        raise TypeError(f"headers must be a mapping of str to bytes, not {type(headers).__name__}")
    cdef list parts = []
    cdef bytes name, value
    cdef uint16_t name_size
    cdef uint32_t value_size
    for key, item in headers.items():
        if not isinstance(key, str):
            raise TypeError(f"header names are str, not {type(key).__name__}: {key!r}")
        name = key.encode()
        if len(name) > 0xFFFF:
            raise ValueError(f"a header name has {len(name):,} bytes; 65,535 are the most")
        name_size = <uint16_t>len(name)
        parts.append(PyBytes_FromStringAndSize(<char *>&name_size, 2))
        if item is None:
            value, value_size = b"", NULL_SIZE
        else:
            if isinstance(item, str):
                raise TypeError(f"the value of header {key!r} is a str; encode it first, for instance value.encode()")
            value = bytes(memoryview(item)) if type(item) is not bytes else item
            if len(value) > 0x7FFFFFFF:
                raise ValueError(f"header {key!r} has {len(value):,} bytes; 2,147,483,647 are the most")
            value_size = <uint32_t>len(value)
        parts.append(PyBytes_FromStringAndSize(<char *>&value_size, 4))
        parts.append(name)
        parts.append(value)
    return b"".join(parts)


cdef int check_headers(const char *data, int64_t size) noexcept nogil:
    """0 when `data` is a whole number of whole headers."""
    cdef int64_t at = 0
    cdef uint16_t name_size
    cdef uint32_t value_size
    while at < size:
        if size - at < 6:
            return -1
        memcpy(&name_size, data + at, 2)
        memcpy(&value_size, data + at + 2, 4)
        at += 6 + name_size
        if value_size != NULL_SIZE:
            at += value_size
    return 0 if at == size else -1


cdef dict unpack_headers(const char *data, int64_t size):
    cdef dict headers = {}
    cdef int64_t at = 0
    cdef uint16_t name_size
    cdef uint32_t value_size
    if check_headers(data, size) != 0:
        raise ValueError("the record's headers are malformed")
    while at < size:
        memcpy(&name_size, data + at, 2)
        memcpy(&value_size, data + at + 2, 4)
        at += 6
        name = (data + at)[:name_size].decode("utf-8", "surrogateescape")
        at += name_size
        if value_size == NULL_SIZE:
            headers[name] = None
        else:
            headers[name] = PyBytes_FromStringAndSize(data + at, value_size)
            at += value_size
    return headers


cdef object as_bytes(object item, str what):
    if item is None or type(item) is bytes:
        return item
    if isinstance(item, str):
        raise TypeError(f"a {what} is bytes, not str; encode it first, for instance {what}.encode()")
    return bytes(memoryview(item))


@cython.freelist(256)
cdef class Record:
    """One record: `value`, `key`, `headers`, `timestamp` (µs since the epoch), `offset`, `partition`.

    Lazy: `value`, `key` and `headers` make their object each time they are asked for (about 30 ns for short bytes);
    keep it if you need it often. A null value (a tombstone) and a missing key are None.

    >>> r = Record(b"v", b"k", {"h": b"1"}, timestamp=0, offset=7)
    >>> r.value, r.key, r.headers, r.offset, r.time.year
    (b'v', b'k', {'h': b'1'}, 7, 1970)
    """

    __match_args__ = ("value", "key", "headers", "timestamp", "offset", "partition")

    def __init__(self, value, key=None, headers=None, int64_t timestamp=0, int64_t offset=-1, int64_t partition=0):
        cdef bytes packed = pack_headers(headers) if headers else b""
        value, key = as_bytes(value, "value"), as_bytes(key, "key")
        self.owner = (value, key, packed)
        self.value_size = self.key_size = -1
        if value is not None:
            self.value_data, self.value_size = PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)
        if key is not None:
            self.key_data, self.key_size = PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)
        self.header_data, self.header_size = PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed)
        self.timestamp, self.offset, self.partition = timestamp, offset, partition

    @property
    def value(self):
        """The value as bytes; None for a tombstone. Copies it."""
        return PyBytes_FromStringAndSize(self.value_data, self.value_size) if self.value_size >= 0 else None

    @property
    def key(self):
        """The key as bytes, or None. Copies it."""
        return PyBytes_FromStringAndSize(self.key_data, self.key_size) if self.key_size >= 0 else None

    @property
    def headers(self):
        """The headers as a new dict of str to bytes (or None)."""
        return unpack_headers(self.header_data, self.header_size)

    @property
    def time(self):
        """The timestamp as an aware datetime in UTC. Raises OverflowError outside the years 1 to 9999."""
        return _EPOCH + _datetime.timedelta(microseconds=self.timestamp)

    @property
    def topic(self):
        """The name of the topic it was read from; None for a record that was made by hand."""
        return getattr(self.owner, "topic", None)

    @property
    def position(self):
        """`Position(partition, offset)`."""
        return new_position(self.partition, self.offset)

    cdef tuple _tuple(self):
        return self.value, self.key, self.headers, self.timestamp, self.offset, self.partition

    def __eq__(self, other):
        return self._tuple() == (<Record>other)._tuple() if isinstance(other, Record) else NotImplemented

    def __hash__(self):
        return hash((self.partition, self.offset, self.timestamp, self.value))

    def __reduce__(self):
        return Record, self._tuple()

    def __repr__(self):
        value = self.value
        shown = repr(value) if value is None or len(value) <= 40 else f"{value[:32]!r}... ({len(value):,} bytes)"
        key = "" if self.key_size < 0 else f" key={self.key!r}"
        return f"<Record {self.partition}:{self.offset}{key} value={shown}>"
