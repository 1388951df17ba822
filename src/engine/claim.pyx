# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Claim: memory to write a record in, which is sent when the block ends and never was when the block raises.

The memory is the frame that goes to the log, so what is written there is moved once, by the append itself. It is not the segment: a
writer who stands in the segment must hold the partition's lock for as long as he writes, and everybody else would wait for him. It costs
nothing to stay out: stores into a segment's new pages take a fault each, and run at the speed of a store into warm memory and a
`pwrite` of it together (`bench/ratios.py arrays` has both). And who keeps a view of a claim for longer than the block writes
into nobody's record.

Shared fields: none; a claim belongs to one thread.
"""
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from libc.stdint cimport int64_t
from libc.string cimport memset

import numpy as np

from seglog.engine.frame cimport seal_body
from seglog.engine.layout cimport FRAME_BYTES_MAX, FRAME_HEADER, FRAME_MAGIC, FrameHeader
from seglog.engine.log cimport Log, build_one
from seglog.engine.partitions cimport Partitions
from seglog.engine.record cimport new_position, pack_headers, to_offset, to_us
from seglog.engine.source cimport FROM_STRIDE, Packed, Times, one_bytes, pack_header_list, packed

from seglog.engine.errors import RecordTooLarge

cdef enum:
    FRESH, OPEN, OVER


cdef class Claim:
    """`with claim as view:` gives the memory; the record is there when the block ends, and not when it raises.

    `position` is where it went: None before, and with a transaction. Made by `Topic.claim`.
    """

    def __init__(self, Partitions home not None, n_bytes, key=None, headers=None, timestamp=None, partition=None, tx=None, dtype=None):
        cdef int64_t size = to_offset(n_bytes), width, limit
        cdef bytes key_held, header_held
        cdef FrameHeader *h
        cdef Log log
        if self.memory != NULL:
            raise ValueError("a claim is made once")
        if size < 0:
            raise ValueError(f"{size} bytes cannot be claimed")
        if partition is None or key is None:
            partition = home.choose(key, partition)
        log = <Log>home.logs[home.choose(None, partition)]
        key_held = None if key is None else one_bytes(key, "key")
        header_held = pack_headers(headers) if headers else b""
        self.count, limit = 1, log.record_bytes_max
        if dtype is not None:
            width = dtype.itemsize
            if size % width or not size:
                raise ValueError(f"the topic's records have {width:,} bytes: claim a multiple, not {size:,}")
            self.count, limit = size // width, FRAME_BYTES_MAX // 2
            if self.count > 1 and (key is not None or headers):
                raise ValueError(f"a key and headers are one record's; {size:,} bytes are {self.count:,} records")
        width = size + (0 if key_held is None else PyBytes_GET_SIZE(key_held)) + PyBytes_GET_SIZE(header_held)
        if width > limit:
            raise RecordTooLarge(
                f"the record has {width:,} bytes; the limit is {limit:,} (record_bytes_max). Nothing was written.", size=width, limit=limit,
                index=0)
        self.memory = <char *>PyMem_RawCalloc(1, FRAME_HEADER + width + 72)
        if self.memory == NULL:
            raise MemoryError(f"no memory to claim {size:,} bytes")
        self.home, self.key, self.headers, self.timestamp, self.partition, self.tx = home, key_held, headers, timestamp, partition, tx
        self.dtype = dtype
        h = <FrameHeader *>self.memory
        memset(h, 0, FRAME_HEADER)
        h.magic = FRAME_MAGIC
        h.count = h.span = <unsigned int>self.count
        build_one(
            h, self.memory + FRAME_HEADER, NULL, 0, NULL if key_held is None else PyBytes_AS_STRING(key_held),
            -1 if key_held is None else PyBytes_GET_SIZE(key_held), PyBytes_AS_STRING(header_held), PyBytes_GET_SIZE(header_held))
        self.at, self.size = FRAME_HEADER + h.body_length, size

    def __dealloc__(self):
        PyMem_RawFree(self.memory)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.memory + self.at, self.size, False, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.views -= 1

    def __enter__(self):
        if self.state != FRESH:
            raise ValueError("a claim is entered once; claim again for the next record")
        self.state = OPEN
        self.view = memoryview(self) if self.dtype is None else np.frombuffer(self, self.dtype)
        return self.view

    def __exit__(self, kind, error, traceback):
        view, self.view = self.view, None
        self.state = OVER
        if self.dtype is None:
            try:
                view.release()
            except BufferError:
                pass                # an array made of it lives on, in memory that is this claim's
        view = None
        if kind is None:
            self.publish()

    cdef int publish(self) except -1:
        cdef FrameHeader *h = <FrameHeader *>self.memory
        cdef Log log = <Log>self.home.logs[self.home.choose(None, self.partition)]
        cdef Packed values
        cdef int64_t offset
        if self.tx is None and self.views == 0 and log.codec == 0:
            if log.shut:
                log.check_state()
            h.base_timestamp = h.max_timestamp = log.now() if self.timestamp is None else to_us(self.timestamp)
            seal_body(h, self.at - FRAME_HEADER + self.size)
            offset = log.commit(h, self.memory + FRAME_HEADER)
        else:
            # Somebody may still write there: what is hashed must be what is stored, so it is copied once more.
            values = Packed.__new__(Packed)
            values.owner, values.kind, values.count = self, FROM_STRIDE, self.count
            values.data, values.stride = self.memory + self.at, self.size // self.count
            spans = self.home.send_packed(
                values, None if self.key is None else packed([self.key], "key"),
                None if not self.headers else pack_header_list([self.headers]),
                None if self.timestamp is None else Times([self.timestamp] * self.count), self.partition, self.tx)
            if self.tx is not None:
                return 0
            offset = spans[0].start
        self.position = new_position(log.partition, offset)
        return 0

    def __repr__(self):
        return f"<Claim of {self.size:,} bytes, {('not entered', 'open', 'over')[self.state]}>"
