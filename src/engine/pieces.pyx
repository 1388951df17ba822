# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Pieces: the sealed segments of a compaction, as it reads them and as it writes them anew.

    Piece     a segment as it was found: its file, its offsets, whether it is sound
    Feed      its frames, one after the other, by pread; every hash and every bound is checked
    Writer    a new segment, frame by frame, under a temporary name; nothing knows of it until it is whole

Records keep their offsets, timestamps, headers, epoch and codec; what they lose is the company of those that are dead, and the flag
IN_TRANSACTION: what is here was decided, and is on disk. It leaves to compaction which records those are, and what becomes of the file.

Shared fields: none; each of these belongs to one pass.
"""
import contextlib
import os

from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from seglog.engine cimport platform
from seglog.engine.checksum cimport xxh3_64_seed
from seglog.engine.frame cimport (
    FRAME_HEADER_BAD, FRAME_OK, FRAME_SHORT, Columns, Entry, Scratch, body_check, columns_end, columns_parse, frame_check,
    seal,
)
from seglog.engine.layout cimport (
    CODEC_NONE, FIXED_STRIDE, FRAME_HASHED, FRAME_HEADER, FRAME_MAGIC, HAS_DELTAS, HAS_HEADERS, HAS_KEY_NULLS, HAS_KEYS, HAS_NULLS,
    HAS_TIMESTAMPS, SEGMENT_HEADER, FrameHeader, align8, frame_length, next_offset_of,
)

from seglog.engine import codecs
from seglog.engine.errors import os_error

cdef enum:
    KEYS = 0
    HEADERS = 1
    VALUES = 2
    HAS_KEY = 0
    HAS_VALUE = 1

_BINARY = getattr(os, "O_BINARY", 0)


class Halted(Exception):
    """Somebody wants the compaction to stop: what was replaced is, what was being written goes."""


cdef class Piece:
    """A sealed segment; made by `compaction`."""


cdef class Feed:
    """The frames of a segment; every hash and every bound is checked."""

    def __cinit__(self):
        self.buffer = NULL
        self.fd = -1

    def __init__(self, Piece piece):
        self.salt, self.end = piece.header.salt, piece.end
        self.position, self.offset = SEGMENT_HEADER, piece.base
        try:
            self.fd = os.open(piece.path, os.O_RDONLY | _BINARY)
            status = os.fstat(self.fd)
            self.size = min(<int64_t>status.st_size, piece.header.capacity)
        except FileNotFoundError:
            raise Halted from None              # trimmed meanwhile
        except OSError as error:
            raise os_error(-error.errno, "cannot read", piece.path) from error
        if <uint64_t>status.st_ino != piece.inode:
            raise Halted

    def __dealloc__(self):
        PyMem_RawFree(self.buffer)
        if self.fd >= 0:
            os.close(self.fd)

    cdef const char *need(self, int64_t position, int64_t size) noexcept nogil:
        """The bytes there, or NULL when the file ends before, cannot be read, or memory cannot be had."""
        cdef int64_t want, got
        cdef char *grown
        if position >= self.buffered and position + size <= self.buffered + self.held:
            return self.buffer + (position - self.buffered)
        if position + size > self.size:
            return NULL
        want = min(max(size, <int64_t>PAUSE_BYTES), self.size - position)
        if want > self.room:
            grown = <char *>PyMem_RawRealloc(self.buffer, want)
            if grown == NULL:
                return NULL
            self.buffer, self.room = grown, want
        got = platform.pread_all(self.fd, self.buffer, want, position)
        if got < size and want > size:
            got = platform.pread_all(self.fd, self.buffer, size, position)     # one bad sector must not take its neighbours along
        self.buffered, self.held = position, max(got, <int64_t>0)
        return self.buffer if got >= size else NULL

    cdef bint ahead(self) noexcept nogil:
        """Whether the next step leaves the buffer as it is, so that what points into it stays good. Believes the length that an
        unchecked header says; so does the step, to the same end."""
        cdef int64_t at = self.position - self.buffered
        if self.offset >= self.end or at < 0 or at + FRAME_HEADER > self.held:
            return False
        return at + frame_length(<const FrameHeader *>(self.buffer + at)) <= self.held

    cdef int step(self) noexcept nogil:
        """FRAME_OK: `h` and `c` are the next frame's; COMPRESSED: `h` is, and `c` waits for the blobs; AT_END; else what is wrong."""
        cdef const char *at
        cdef int code
        cdef int64_t length
        if self.offset >= self.end:
            return AT_END
        at = self.need(self.position, FRAME_HEADER)
        if at == NULL:
            return FRAME_SHORT
        code = frame_check(at, self.size - self.position, self.salt)
        if code != FRAME_OK:
            return code
        length = frame_length(<const FrameHeader *>at)
        at = self.need(self.position, length)
        if at == NULL:
            return FRAME_SHORT
        self.h = <const FrameHeader *>at
        code = body_check(self.h)
        if code != FRAME_OK:
            return code
        if self.h.base_offset != self.offset or next_offset_of(self.h) > self.end:
            return FRAME_HEADER_BAD
        self.position = self.position + length
        self.offset = next_offset_of(self.h)
        if self.h.codec != CODEC_NONE:
            return COMPRESSED
        return columns_parse(self.h, NULL, 0, &self.c)


cdef class Writer:
    """A new segment for a run that begins with `piece`; nothing knows of it until it is whole."""

    def __cinit__(self):
        self.fd = -1

    def __init__(self, Piece piece, int64_t limit, int64_t batch_bytes):
        self.path = piece.path + ".tmp"
        self.salt = <uint64_t>int.from_bytes(os.urandom(8), "little")
        self.position, self.next_base = SEGMENT_HEADER, piece.base
        self.limit, self.batch_bytes = limit, batch_bytes
        self.scratch = Scratch.__new__(Scratch)
        self.squeezers = {}
        self.empty()
        try:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
        except OSError as error:
            raise os_error(-error.errno, "cannot make", self.path) from error

    def __dealloc__(self):
        cdef int k
        PyMem_RawFree(self.offsets)
        PyMem_RawFree(self.timestamps)
        for k in range(3):
            PyMem_RawFree(self.ends[k])
            PyMem_RawFree(self.blobs[k])
        for k in range(2):
            PyMem_RawFree(self.valid[k])
        if self.fd >= 0:
            os.close(self.fd)

    def discard(self):
        """Nothing of it is wanted."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def empty(self):
        """No record is gathered."""
        self.n = 0
        self.used[KEYS] = self.used[HEADERS] = self.used[VALUES] = 0
        self.any_key = self.key_nulls = self.nulls = self.spread = False
        self.stride = -1

    cdef bint fits(self, const Entry *e, uint32_t epoch, int codec) noexcept nogil:
        """Whether the record may join those that are gathered."""
        if self.n == 0:
            self.epoch, self.codec = epoch, codec
            return True
        return epoch == self.epoch and codec == self.codec and self.used[KEYS] + self.used[HEADERS] + self.used[VALUES] \
            + max(e.key_size, <int64_t>0) + e.header_size + max(e.value_size, <int64_t>0) + 32 * (self.n + 1) <= self.batch_bytes

    cdef int add(self, const Entry *e) noexcept nogil:
        """Gather one more record; NO_MEMORY when it cannot be."""
        cdef int64_t sizes[3]
        cdef const char *items[3]
        cdef int64_t room
        cdef void *grown
        cdef int k
        if self.n == self.room:
            room = max(<int64_t>1024, 2 * self.room)
            grown = PyMem_RawRealloc(self.offsets, 8 * room)
            if grown == NULL:
                return NO_MEMORY
            self.offsets = <int64_t *>grown
            grown = PyMem_RawRealloc(self.timestamps, 8 * room)
            if grown == NULL:
                return NO_MEMORY
            self.timestamps = <int64_t *>grown
            for k in range(3):
                grown = PyMem_RawRealloc(self.ends[k], 4 * room)
                if grown == NULL:
                    return NO_MEMORY
                self.ends[k] = <int32_t *>grown
            for k in range(2):
                grown = PyMem_RawRealloc(self.valid[k], room)
                if grown == NULL:
                    return NO_MEMORY
                self.valid[k] = <uint8_t *>grown
            self.room = room
        items[KEYS], items[HEADERS], items[VALUES] = e.key, e.headers, e.value
        sizes[KEYS] = max(e.key_size, <int64_t>0)
        sizes[HEADERS] = e.header_size
        sizes[VALUES] = max(e.value_size, <int64_t>0)
        for k in range(3):
            if self.used[k] + sizes[k] > self.rooms[k]:
                room = max(self.batch_bytes, 2 * self.rooms[k], self.used[k] + sizes[k])
                grown = PyMem_RawRealloc(self.blobs[k], room)
                if grown == NULL:
                    return NO_MEMORY
                self.blobs[k], self.rooms[k] = <char *>grown, room
        for k in range(3):
            if sizes[k] > 0:
                platform.copy(self.blobs[k] + self.used[k], items[k], sizes[k])
                self.used[k] = self.used[k] + sizes[k]
            self.ends[k][self.n] = <int32_t>self.used[k]
        self.valid[HAS_KEY][self.n] = e.key_size >= 0
        self.valid[HAS_VALUE][self.n] = e.value_size >= 0
        if e.key_size >= 0:
            self.any_key = True
        else:
            self.key_nulls = True
        if e.value_size < 0:
            self.nulls = True
        self.offsets[self.n], self.timestamps[self.n] = e.offset, e.timestamp
        if self.n == 0:
            self.stride = sizes[VALUES]
        else:
            if sizes[VALUES] != self.stride:
                self.stride = -1
            if e.timestamp != self.timestamps[0]:
                self.spread = True
        self.n = self.n + 1
        return FRAME_OK

    cdef bint flush(self, int64_t until) except -1:
        """Write what is gathered as a frame that covers the offsets up to `until` (-1: up to its last record).

        True when it was written, or there was nothing; False when the segment would grow beyond its limit.
        """
        cdef int64_t n = self.n, i, at = 0, blob, highest, total, length
        cdef FrameHeader *h
        cdef char *body
        cdef int32_t *ends
        cdef uint8_t *bits
        cdef int k, rc, flags = 0
        cdef Scratch scratch = self.scratch
        if n == 0:
            return True
        if until < 0:
            until = self.offsets[n - 1] + 1
        total = FRAME_HEADER + 12 * n + 3 * align8(4 * (n + 1)) + 2 * align8((n + 7) >> 3) + align8(self.used[KEYS]) \
            + align8(self.used[HEADERS]) + self.used[VALUES] + 64
        scratch.reserve(total)
        with nogil:
            h = <FrameHeader *>scratch.data
            body = scratch.data + FRAME_HEADER
            memset(h, 0, FRAME_HEADER)
            h.magic = FRAME_MAGIC
            h.base_offset, h.count, h.span = self.next_base, <uint32_t>n, <uint32_t>(until - self.next_base)
            h.epoch = self.epoch
            h.base_timestamp = highest = self.timestamps[0]
            for i in range(1, n):
                if self.timestamps[i] > highest:
                    highest = self.timestamps[i]
            h.max_timestamp = highest
            if self.spread:
                flags |= HAS_TIMESTAMPS
            if h.count != h.span:
                flags |= HAS_DELTAS
            if self.any_key:
                flags |= HAS_KEYS
                if self.key_nulls:
                    flags |= HAS_KEY_NULLS
            if self.used[HEADERS]:
                flags |= HAS_HEADERS
            if self.nulls:
                flags |= HAS_NULLS
            elif self.stride >= 0:
                flags |= FIXED_STRIDE
            h.flags = flags
            blob = columns_end(h)
            memset(body, 0, blob)
            if flags & HAS_TIMESTAMPS:
                memcpy(body, self.timestamps, 8 * n)
                at = 8 * n
            if flags & HAS_DELTAS:
                ends = <int32_t *>(body + at)
                for i in range(n):
                    ends[i] = <int32_t>(self.offsets[i] - h.base_offset)
                at += align8(4 * n)
            # Offsets of the keys, which keys there are, offsets of the headers, of the values, which values there are.
            if flags & HAS_KEYS:
                memcpy(body + at + 4, self.ends[KEYS], 4 * n)
                at += align8(4 * (n + 1))
            if flags & HAS_KEY_NULLS:
                bits = <uint8_t *>(body + at)
                for i in range(n):
                    bits[i >> 3] |= <uint8_t>(self.valid[HAS_KEY][i] << (i & 7))
                at += align8((n + 7) >> 3)
            if flags & HAS_HEADERS:
                memcpy(body + at + 4, self.ends[HEADERS], 4 * n)
                at += align8(4 * (n + 1))
            if not flags & FIXED_STRIDE:
                memcpy(body + at + 4, self.ends[VALUES], 4 * n)
                at += align8(4 * (n + 1))
            if flags & HAS_NULLS:
                bits = <uint8_t *>(body + at)
                for i in range(n):
                    bits[i >> 3] |= <uint8_t>(self.valid[HAS_VALUE][i] << (i & 7))
                at += align8((n + 7) >> 3)
            for k in range(3):
                if self.used[k] == 0:
                    continue
                memcpy(body + at, self.blobs[k], self.used[k])
                if k == VALUES:
                    at += self.used[k]
                else:
                    memset(body + at + self.used[k], 0, align8(self.used[k]) - self.used[k])
                    at += align8(self.used[k])
            h.body_length = <uint32_t>at
        if self.codec != CODEC_NONE and self.codec not in self.squeezers:
            self.squeezers[self.codec] = codecs.load([name for name, c in codecs.NAMES.items() if c == self.codec][0])[0]
        seal(scratch, self.codec, self.squeezers.get(self.codec))
        length = frame_length(h)
        if self.bounded and self.position + length > self.limit:
            return False
        h.header_hash = xxh3_64_seed(h, FRAME_HASHED, self.salt)
        with nogil:
            rc = platform.pwrite_all(self.fd, scratch.data, length, self.position)
        if rc:
            raise os_error(rc, "cannot write to", self.path)
        platform.failpoint("compact.copying")
        self.position += length
        self.next_base = until
        self.empty()
        return True
