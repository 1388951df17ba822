# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True, nonecheck=True
"""Batch: a run of consecutive records of one partition, in place.

It points at frames in a segment's map, whose hashes were checked when it was made, and keeps the map alive: arrays
and records taken from it stay valid for as long as anybody holds them, also after the segment was deleted or the log closed.
A run of plain frames of one segment is one batch, however many appends made it; a compressed frame is a batch by itself.

Nothing is made before it is asked for: `len` costs nothing, `offsets` and `timestamps` one pass in C at most, `values.tolist()`
one object per record. Shared fields: the cached arrays, written once with equal content; a race makes one of them garbage.
"""
cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

import numpy as np

from seglog.engine.frame cimport Columns, Entry, columns_entry, columns_parse
from seglog.engine.layout cimport HAS_HEADERS, HAS_KEYS, FrameHeader, frame_length
from seglog.engine.record cimport Record
from seglog.engine.source cimport Packed, packed

_INT64 = np.dtype("<i8")


cdef object new_array(int64_t n, object dtype, char **data):
    """A fresh array and where its bytes are; the buffer is let go at once, the array's memory does not move."""
    cdef object array = np.empty(n, dtype)
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_WRITABLE)
    data[0] = <char *>view.buf
    PyBuffer_Release(&view)
    return array


cdef object frozen(object array):
    array.flags.writeable = False
    return array


@cython.final
cdef class Frames:
    """The bytes of a batch's frames, as a read-only buffer; they hold the map.

    Arrays are views of this and not of the batch, which remembers them: no circle, so the map goes with the last array, and not some time
    later with the garbage.
    """

    def __init__(self):
        raise TypeError("frames are parts of batches")

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.mapping.data + self.start, self.end - self.start, True, flags)


@cython.final
cdef class Batch:
    """Consecutive records of one partition, over the map. Made by reads.

    `len(batch)`, iteration and indexing give records; `values`, `keys`, `offsets`, `timestamps` give columns, read-only. Whatever is
    taken from it stays valid for as long as it is held: after trim, retention, compaction, deletion and close too.
    """

    def __init__(self):
        raise TypeError("batches are made by reading a log")

    cdef int columns(self, int64_t position, Columns *c) noexcept nogil:
        """The columns of the frame at `position`. Cannot fail: the frame was checked when the batch was made."""
        cdef const FrameHeader *h = <const FrameHeader *>(self.mapping.data + position)
        return columns_parse(h, self.blobs, self.blob_size, c)

    def __len__(self):
        return self.count

    def __bool__(self):
        return self.count > 0

    def __iter__(self):
        cdef Walk walk = Walk.__new__(Walk)
        walk.batch = self
        walk.position = self.start
        walk.left = self.count
        walk.c.count = walk.i = 0
        return walk

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.count))]
        cdef int64_t wanted = index, at = self.start, first = self.skip, here
        cdef const FrameHeader *h
        cdef Columns c
        cdef Entry e
        if wanted < 0:
            wanted += self.count
        if not 0 <= wanted < self.count:
            raise IndexError(f"record {index} of a batch of {self.count:,}")
        while True:
            h = <const FrameHeader *>(self.mapping.data + at)
            here = h.count - first
            if wanted < here:
                break
            wanted -= here
            first = 0
            at += frame_length(h)
        if self.columns(at, &c):
            raise RuntimeError("a checked frame changed under its reader")
        columns_entry(&c, <uint32_t>(first + wanted), &e)
        return self.make(&e)

    cdef Record make(self, const Entry *e):
        cdef Record r = Record.__new__(Record)
        r.owner = self
        r.value_data, r.value_size = e.value, e.value_size
        r.key_data, r.key_size = e.key, e.key_size
        r.header_data, r.header_size = e.headers, e.header_size
        r.timestamp, r.offset, r.partition = e.timestamp, e.offset, self.partition
        return r

    cdef Frames frames(self):
        if self._frames is None:
            self._frames = Frames.__new__(Frames)
            self._frames.mapping, self._frames.start, self._frames.end = self.mapping, self.start, self.end
        return self._frames

    @property
    def values(self):
        """The values: a `Column`; of a topic with a dtype an array of that dtype, of shape (n,), over the map. *O(1)*.

        Such an array is not copied where its items lie evenly: in a frame of one `send_many`, which then is a batch of its own, or in
        frames of one `send` each that have keys and headers of one size. Else one pass puts them together, once.
        """
        if self.dtype is None:
            return column(self, VALUES)
        if self._values is None:
            self._values = self._array()
        return self._values

    @property
    def raw(self):
        """The values as a `Column` of bytes, whatever the topic's dtype. *O(1)*."""
        return column(self, VALUES)

    cdef _array(self):
        cdef int64_t width = self.dtype.itemsize, at = self.start, n, step = 0, first, last = 0
        cdef const char *origin = self.mapping.data + self.start
        cdef bint even = True, sound = True
        cdef char *data
        cdef Columns c
        if self.columns(at, &c) or c.value_offsets != NULL or c.stride != width:
            sound = False
        elif self.expanded is not None:
            return np.frombuffer(self.expanded, self.dtype, self.count, c.values - self.blobs + self.skip * width)
        elif self.several or self.count == 1:
            return np.frombuffer(self.frames(), self.dtype, self.count, c.values - origin + self.skip * width)
        first = last = c.values - origin
        for n in range(1, self.count if sound else 0):
            at += frame_length(<const FrameHeader *>(self.mapping.data + at))
            if self.columns(at, &c) or c.value_offsets != NULL or c.stride != width:
                sound = False
                break
            if n == 1:
                step = c.values - origin - last
            even = even and c.values - origin - last == step
            last = c.values - origin
        if not sound:
            raise ValueError(f"{self!r} has values that are not of the topic's dtype, {self.dtype}; `raw` has their bytes")
        if even:
            return np.ndarray((self.count,), self.dtype, self.frames(), first, (step,))
        array = new_array(self.count, self.dtype, &data)
        at = self.start
        for n in range(self.count):
            self.columns(at, &c)
            memcpy(data + n * width, c.values, width)
            at += frame_length(<const FrameHeader *>(self.mapping.data + at))
        return frozen(array)

    @property
    def keys(self):
        """The keys, as a `Column`; None when no record of the batch has a key. *O(frames)*."""
        return column(self, KEYS) if self.any_frame(HAS_KEYS) else None

    @property
    def headers(self):
        """The headers of each record, as a list of dicts; None when no record of the batch has any. *O(frames)*, then a dict each."""
        return [record.headers for record in self] if self.any_frame(HAS_HEADERS) else None

    cdef bint any_frame(self, int flag):
        cdef int64_t at = self.start
        cdef const FrameHeader *h
        while at < self.end:
            h = <const FrameHeader *>(self.mapping.data + at)
            if h.flags & flag:
                return True
            at += frame_length(h)
        return False

    @property
    def offsets(self):
        """int64[n]: each record's offset. One pass in C, the first time."""
        if self._offsets is None:
            self._offsets = self._numbers(0)
        return self._offsets

    @property
    def timestamps(self):
        """int64[n]: each record's timestamp in µs since the epoch. A view where a frame has them, else one pass in C, the first time."""
        cdef Columns c
        if self._timestamps is None:
            if self.columns(self.start, &c) == 0 and c.timestamps != NULL and c.count - self.skip >= self.count:
                self._timestamps = np.frombuffer(
                    self.frames(), _INT64, self.count, <const char *>(c.timestamps + self.skip) - (self.mapping.data + self.start))
            else:
                self._timestamps = self._numbers(1)
        return self._timestamps

    cdef _numbers(self, int which):
        cdef char *data
        cdef object array = new_array(self.count, _INT64, &data)
        cdef int64_t *out = <int64_t *>data
        cdef int64_t at = self.start, n = 0, j, here, number
        cdef uint32_t i = self.skip
        cdef Columns c
        cdef bint sound = True
        with nogil:
            while n < self.count:
                if self.columns(at, &c):
                    sound = False
                    break
                # Straight loops, for the compiler to vectorise.
                here = min(c.count - i, self.count - n)
                if which == 0 and c.deltas == NULL:
                    number = c.base_offset + i
                    for j in range(here):
                        out[n + j] = number + j
                elif which == 0:
                    for j in range(here):
                        out[n + j] = c.base_offset + c.deltas[i + j]
                elif c.timestamps != NULL:
                    memcpy(out + n, c.timestamps + i, 8 * here)
                else:
                    for j in range(here):
                        out[n + j] = c.base_timestamp
                n += here
                i = 0
                at += frame_length(<const FrameHeader *>(self.mapping.data + at))
        if not sound:
            raise RuntimeError("a checked frame changed under its reader")
        return frozen(array)

    @property
    def nbytes(self):
        """Bytes of the frames that this batch looks at, as they are on disk."""
        return self.end - self.start

    def __repr__(self):
        return f"<Batch {self.partition}:{self.first_offset}..{self.next_offset - 1}, {self.count:,} records>"


@cython.final
cdef class Walk:
    """The iterator over a batch's records."""

    def __iter__(self):
        return self

    def __length_hint__(self):
        return self.left

    cdef int advance(self, Entry *e) except -1:
        """1 and the next record, or 0 at the end."""
        if self.left <= 0:
            return 0
        if self.i >= self.c.count:
            self.i = self.batch.skip if self.position == self.batch.start else 0
            if self.batch.columns(self.position, &self.c):
                raise RuntimeError("a checked frame changed under its reader")
            self.position += frame_length(<const FrameHeader *>(self.batch.mapping.data + self.position))
        columns_entry(&self.c, self.i, e)
        self.i += 1
        self.left -= 1
        return 1

    def __next__(self):
        cdef Entry e
        if not self.advance(&e):
            raise StopIteration
        return self.batch.make(&e)


cdef Column column(Batch batch, Part part):
    cdef Column c = Column.__new__(Column)
    c.batch = batch
    c.part = part
    return c


@cython.final
cdef class Column:
    """The values, or the keys, of a batch in place: item i is bytes `data[starts[i]:ends[i]]`.

    `len`, `[i]` and iteration give bytes, or None for a null; `tolist()` all of them at once (about 30 ns each);
    `data` (uint8), `starts`, `ends` (int64[n]) and `valid` (bool[n], or None when there is no null) are read-only arrays.
    A column may be given to `send_many`, which copies it without making an object per record.
    """

    def __init__(self):
        raise TypeError("columns are parts of batches")

    def __len__(self):
        return self.batch.count

    def tolist(self):
        """A list of bytes (None for nulls). One object per record."""
        cdef Batch b = self.batch
        cdef list out = PyList_New(b.count)
        cdef int64_t n = 0, size, at = b.start
        cdef uint32_t i = b.skip
        cdef Columns c
        cdef const char *blob
        cdef const int32_t *offsets
        cdef const uint8_t *valid
        cdef object item
        while n < b.count:
            if b.columns(at, &c):
                raise RuntimeError("a checked frame changed under its reader")
            if self.part == VALUES:
                blob, offsets, valid = c.values, c.value_offsets, c.value_valid
            else:
                blob, offsets, valid = c.keys, c.key_offsets, c.key_valid
            while i < c.count and n < b.count:
                if (valid != NULL and not (valid[i >> 3] >> (i & 7)) & 1) or (self.part == KEYS and offsets == NULL):
                    item = None
                elif offsets != NULL:
                    item = PyBytes_FromStringAndSize(blob + offsets[i], offsets[i + 1] - offsets[i])
                else:
                    item = PyBytes_FromStringAndSize(blob + i * c.stride, c.stride)
                Py_INCREF(item)
                PyList_SET_ITEM(out, n, item)
                n += 1
                i += 1
            i = 0
            at += frame_length(<const FrameHeader *>(b.mapping.data + at))
        return out

    cdef int locate(self) except -1:
        """Find where every item lies: one pass in C, done at most once."""
        if self._starts is not None:
            return 0
        cdef Batch b = self.batch
        cdef char *data
        cdef object starts = new_array(b.count, _INT64, &data)
        cdef int64_t *first = <int64_t *>data
        cdef object ends = new_array(b.count, _INT64, &data)
        cdef int64_t *last = <int64_t *>data
        cdef object valid = new_array(b.count, np.bool_, &data)
        cdef uint8_t *is_valid = <uint8_t *>data
        cdef const char *origin = PyBytes_AS_STRING(b.expanded) if b.expanded is not None else b.mapping.data + b.start
        cdef int64_t n = 0, at = b.start
        cdef uint32_t i = b.skip
        cdef Columns c
        cdef Entry e
        cdef bint nulls = False, sound = True
        cdef bint of_values = self.part == VALUES
        with nogil:
            while n < b.count:
                if b.columns(at, &c):
                    sound = False
                    break
                while i < c.count and n < b.count:
                    columns_entry(&c, i, &e)
                    if not of_values:
                        e.value, e.value_size = e.key, e.key_size
                    is_valid[n] = e.value_size >= 0
                    if e.value_size < 0:
                        nulls = True
                        first[n] = last[n] = 0
                    else:
                        first[n] = e.value - origin
                        last[n] = first[n] + e.value_size
                    n += 1
                    i += 1
                i = 0
                at += frame_length(<const FrameHeader *>(b.mapping.data + at))
        if not sound:
            raise RuntimeError("a checked frame changed under its reader")
        self._valid = frozen(valid) if nulls else None
        self._ends = frozen(ends)
        self._starts = frozen(starts)
        return 0

    @property
    def starts(self):
        """int64[n]: where each item begins in `data`."""
        self.locate()
        return self._starts

    @property
    def ends(self):
        """int64[n]: where each item ends in `data`."""
        self.locate()
        return self._ends

    @property
    def valid(self):
        """bool[n], False where the item is null; None when none is."""
        self.locate()
        return self._valid

    @property
    def data(self):
        """uint8: the bytes that the batch lies in, read-only, not copied. Headers and columns lie between the items."""
        return np.frombuffer(self.batch.frames() if self.batch.expanded is None else self.batch.expanded, np.uint8)

    def __seglog_packed__(self):
        if self.valid is not None:
            return packed(self.tolist(), "value")
        return Packed(self.data, self.starts, self.ends)

    def __getitem__(self, index):
        cdef Record r
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.batch.count))]
        r = self.batch[index]
        return r.value if self.part == VALUES else r.key

    def __iter__(self):
        return iter(self.tolist())

    def __eq__(self, other):
        if isinstance(other, Column):
            return self.tolist() == (<Column>other).tolist()
        return self.tolist() == other if isinstance(other, list) else NotImplemented

    __hash__ = None

    def __repr__(self):
        return f"<Column of {self.batch.count:,} {'values' if self.part == VALUES else 'keys'}>"

