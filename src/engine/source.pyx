# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True, nonecheck=True
"""Source: many byte strings, wherever the caller keeps them, seen as pointers and sizes.

A list of bytes, an array whose rows are records, a buffer with offsets, a column of a batch, an Arrow array of any library: all become a
`Packed`, whose `get` is C. It owns or pins what it points at for as long as it lives, and checks every bound once, when it is made.
"""
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_ND, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.list cimport PyList_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.stdint cimport int32_t, int64_t

import numpy as np

from seglog.engine.foreign cimport (
    OF_INT64, OF_OFFSETS32, OF_OFFSETS64, OF_WIDTH, Chunk, Strings, chunks_of, is_foreign,
)
from seglog.engine.record cimport pack_headers, to_us


cdef class Packed:
    """Many byte strings in one buffer: item i is `data[offsets[i]:offsets[i+1]]`.

    `Packed(data, offsets)` takes any C-contiguous buffer and an int32 or int64 array of n+1 offsets; with
    `ends`, item i is `data[offsets[i]:ends[i]]` and both are int64 of n. Nothing is copied: both are pinned for the life of
    this object, and must not change while an append reads them. Raises TypeError for other dtypes, ValueError for
    offsets that leave the buffer. Cost: one pass over the offsets.

    >>> import array
    >>> len(Packed(b"onetwothree", array.array("i", [0, 3, 6, 11])))
    3
    """

    def __cinit__(self):
        self.pinned = 0
        self.stride = -1

    def __init__(self, data, offsets, ends=None):
        cdef int64_t size, n, m, i, last
        if self.pinned:
            raise ValueError("a Packed is made once")
        self.data = self.pin(data, "", &size)
        cdef const char *at = self.pin(offsets, "il" "q", &n)
        cdef int64_t width = self.pins[1].itemsize
        n = n // width
        if ends is not None:
            if width != 8:
                raise TypeError("starts and ends are int64 arrays")
            self.starts = <const int64_t *>at
            self.ends = <const int64_t *>self.pin(ends, "lq", &m)
            if self.pins[2].itemsize != 8 or m // 8 != n:
                raise ValueError(f"there are {n:,} starts and {m // 8:,} ends")
            for i in range(n):
                if not 0 <= self.starts[i] <= self.ends[i] <= size:
                    raise ValueError(f"item {i:,} is {self.starts[i]:,}..{self.ends[i]:,} of a buffer of {size:,} bytes")
            self.kind, self.count = FROM_SPANS, n
            return
        if n < 1:
            raise ValueError("offsets has n+1 entries for n items, so at least one")
        if width == 4:
            self.offsets32, self.kind = <const int32_t *>at, FROM_OFFSETS32
        else:
            self.starts, self.kind = <const int64_t *>at, FROM_OFFSETS64
        last = 0
        for i in range(n):
            m = self.offsets32[i] if width == 4 else self.starts[i]
            if not last <= m <= size:
                raise ValueError(f"offset {i:,} is {m:,}, after {last:,}, in a buffer of {size:,} bytes")
            last = m
        self.count = n - 1

    def __dealloc__(self):
        cdef int i
        for i in range(self.pinned):
            PyBuffer_Release(&self.pins[i])
        PyMem_RawFree(self.places)
        PyMem_RawFree(self.sizes)

    def __len__(self):
        return self.count

    cdef const char *pin(self, object buffer, str formats, int64_t *size) except NULL:
        cdef Py_buffer *view = &self.pins[self.pinned]
        cdef const char *kind
        if isinstance(buffer, str) or not PyObject_CheckBuffer(buffer):
            raise TypeError(f"a bytes-like object or an array is needed, not {type(buffer).__name__}")
        PyObject_GetBuffer(buffer, view, PyBUF_FORMAT | PyBUF_ND | PyBUF_C_CONTIGUOUS)
        self.pinned += 1
        if formats:
            kind = view.format
            if kind != NULL and kind[0] in (c"<", c"=", c"@"):
                kind += 1
            if kind == NULL or chr(kind[0]) not in formats or kind[1] or view.itemsize not in (4, 8):
                raise TypeError(
                    f"int32 or int64 offsets are needed, not {view.format.decode() if view.format != NULL else 'bytes'}"
                )
        size[0] = view.len
        # An empty buffer may have no address; any address will do for no bytes.
        return <const char *>view.buf if view.buf != NULL else <const char *>""


cdef list as_bytes_list(list items, str what, int64_t *stride):
    """Make every item of a list exact bytes, or None; `stride` becomes their length when all have one, else -1."""
    cdef Py_ssize_t i, n = PyList_GET_SIZE(items)
    cdef PyObject **at = list_items(items)
    cdef object item
    cdef int64_t first = bytes_size(at[0]) if n and bytes_exact(at[0]) else -1
    for i in range(n):
        if bytes_exact(at[i]):
            if bytes_size(at[i]) != first:
                first = -1
            continue
        first = -1
        item = items[i]
        if item is None:
            continue
        if isinstance(item, str):
            raise TypeError(f"{what} {i} is a str; a {what} is bytes: encode it first, for instance {what}.encode()")
        if not PyObject_CheckBuffer(item):
            raise TypeError(f"{what} {i} is {type(item).__name__}; a {what} is a bytes-like object or None")
        items[i] = one_bytes(item, what)
    stride[0] = first
    return items


cdef bint of_objects(const char *format) noexcept:
    """Whether a buffer's format has Python objects among its items. The names of fields stand between colons."""
    cdef bint named = False
    while format != NULL and format[0]:
        if format[0] == c":":
            named = not named
        elif format[0] == c"O" and not named:
            return True
        format += 1
    return False


cdef Packed packed(object values, str what):
    """Any accepted shape of many values as a source: Packed, a Column, an array with rows, Arrow, or an iterable of bytes."""
    cdef Packed p
    cdef object span
    if type(values) is not list and type(values) is not tuple:
        if isinstance(values, Packed):
            return values
        if isinstance(values, (str, bytes, bytearray)):
            raise TypeError(f"many {what}s are needed, for instance a list of bytes, not one {type(values).__name__}")
        span = getattr(values, "__seglog_packed__", None)
        if span is not None:
            return span()
        if is_foreign(values):
            return packed_chunks(values, what)
        if isinstance(values, np.ndarray):
            return packed_array(values, what)
        if PyObject_CheckBuffer(values):
            p = packed_buffer(values, what)
            if p is not None:
                return p
            values = values.tolist()
    p = Packed.__new__(Packed)
    # A copy, of pointers only: another thread may change the caller's list while an append has let go of the GIL.
    p.owner = as_bytes_list(list(values), what, &p.stride)
    p.kind = FROM_LIST
    p.count = PyList_GET_SIZE(p.owner)
    p.items = list_items(p.owner)
    return p


cdef Packed packed_array(object array, str what):
    """A numpy array: each row is a record, as its bytes lie there. An array of objects is the list that it stands for."""
    cdef Packed p
    dtype = array.dtype
    if dtype.hasobject and dtype.fields is None and dtype.kind == "O" and array.ndim == 1:
        return packed(array.tolist(), what)
    if dtype.hasobject or dtype.kind in "UT":
        raise TypeError(f"an array of {dtype} has no bytes of its own to send: encode it first, or name its fields one by one")
    if not array.flags.c_contiguous:
        raise ValueError(f"the array of {what}s has gaps between its items, or another order: send np.ascontiguousarray(array)")
    raw = array
    if dtype.kind in "mM" or dtype.fields is not None:
        raw = array.view(f"V{dtype.itemsize}") if dtype.itemsize else array     # a buffer has no word for times
    p = packed_buffer(raw, what)
    p.array = array
    return p


cdef Packed packed_buffer(object buffer, str what):
    """Any other array: each row is a record. None for one of objects."""
    cdef Packed p = Packed.__new__(Packed)
    PyObject_GetBuffer(buffer, &p.pins[0], PyBUF_FORMAT | PyBUF_ND | PyBUF_C_CONTIGUOUS)
    p.pinned = 1
    if of_objects(p.pins[0].format):
        return None
    if p.pins[0].ndim == 0 or (p.pins[0].ndim == 1 and p.pins[0].itemsize == 1):
        raise TypeError(f"an array of {what}s has rows: two dimensions, or a structured or wide dtype")
    p.kind = FROM_STRIDE
    p.count = p.pins[0].shape[0]
    p.stride = p.pins[0].len // p.count if p.count else 0
    p.data = <const char *>p.pins[0].buf if p.pins[0].buf != NULL else <const char *>""
    return p


cdef Packed packed_strings(Strings strings):
    """A column of an Arrow array or table, in place."""
    cdef Packed p = Packed.__new__(Packed)
    p.owner = p.strings = strings
    p.count, p.data = strings.count, strings.data
    p.kind = FROM_STRINGS
    if strings.valid == NULL and strings.count:
        if strings.form == OF_WIDTH:
            p.kind, p.stride = FROM_STRIDE, strings.width
        elif strings.form == OF_OFFSETS32:
            p.kind, p.offsets32 = FROM_OFFSETS32, strings.offsets32
        elif strings.form == OF_OFFSETS64:
            p.kind, p.starts = FROM_OFFSETS64, strings.offsets64
    return p


cdef Packed packed_chunks(object values, str what):
    """An Arrow array, or all chunks of a stream as one."""
    cdef Chunk chunk
    cdef Strings strings
    cdef list found = []
    cdef int64_t n = 0, i, at = 0
    cdef Packed p
    for chunk in chunks_of(values):
        strings = chunk.strings(what)
        if strings.form == OF_INT64:
            raise TypeError(f"{what}s are binary, string or fixed_size_binary, not int64: cast them first")
        found.append(strings)
        n += strings.count
    if len(found) == 1:
        return packed_strings(found[0])
    p = Packed.__new__(Packed)
    p.owner, p.kind, p.count = found, FROM_PLACES, n
    p.places = <const char **>PyMem_RawMalloc(sizeof(void *) * n + 8)
    p.sizes = <int64_t *>PyMem_RawMalloc(8 * n + 8)
    if p.places == NULL or p.sizes == NULL:
        raise MemoryError()
    for strings in found:
        for i in range(strings.count):
            p.places[at] = strings.get(i, &p.sizes[at])
            at += 1
    return p


cdef bytes one_bytes(object item, str what):
    if isinstance(item, str):
        raise TypeError(f"a {what} is bytes, not str; encode it first, for instance {what}.encode()")
    if not PyObject_CheckBuffer(item):
        raise TypeError(f"a {what} is a bytes-like object or None, not {type(item).__name__}")
    if isinstance(item, np.generic) and not item.dtype.hasobject:
        return item.tobytes()       # a time is one that no buffer has a word for
    return bytes(memoryview(item))


cdef class Times:
    """Timestamps of many records as int64 µs: an int64 array is pinned, anything else is converted one by one."""

    def __cinit__(self):
        self.owned = NULL
        self.pinned = False

    def __init__(self, timestamps):
        cdef int64_t i
        cdef Chunk chunk
        if not isinstance(timestamps, (list, tuple)):
            if is_foreign(timestamps):
                for chunk in chunks_of(timestamps):
                    self.add(chunk.strings("timestamp"))
                return
            if isinstance(timestamps, np.ndarray) and timestamps.dtype.kind == "M":
                if np.isnat(timestamps).any():
                    raise ValueError("one of the timestamps is NaT, which is no time. Nothing was written.")
                timestamps = np.ascontiguousarray(timestamps, "M8[us]").view(np.int64)
            if PyObject_CheckBuffer(timestamps):
                PyObject_GetBuffer(timestamps, &self.view, PyBUF_FORMAT | PyBUF_ND | PyBUF_C_CONTIGUOUS)
                self.pinned = True
                if self.view.format == NULL or self.view.itemsize != 8 or self.view.ndim != 1 \
                        or self.view.format[0] not in (c"l", c"q") or self.view.format[1]:
                    raise TypeError("an array of timestamps is int64, one-dimensional, in µs since the epoch, or datetime64")
                self.data, self.count = <const int64_t *>self.view.buf, self.view.shape[0]
                return
        items = timestamps if isinstance(timestamps, (list, tuple)) else list(timestamps)
        self.count = len(items)
        self.owned = <int64_t *>PyMem_RawMalloc(8 * self.count + 8)
        if self.owned == NULL:
            raise MemoryError()
        for i in range(self.count):
            self.owned[i] = to_us(items[i])
        self.data = self.owned

    cdef int add(self, Strings column) except -1:
        """Those of an Arrow column, behind those that are there."""
        cdef int64_t i
        cdef int64_t *grown
        if column.form != OF_INT64:
            raise TypeError("timestamps are int64 (µs since the epoch) or an Arrow timestamp, not bytes")
        grown = <int64_t *>PyMem_RawRealloc(self.owned, 8 * (self.count + column.count) + 8)
        if grown == NULL:
            raise MemoryError()
        self.data = self.owned = grown
        for i in range(column.count):
            grown[self.count + i] = column.micros(i)
        self.count += column.count
        return 0

    def __dealloc__(self):
        if self.pinned:
            PyBuffer_Release(&self.view)
        PyMem_RawFree(self.owned)


cdef Times times_of(Strings column):
    """The timestamps of a table."""
    cdef Times times = Times.__new__(Times)
    times.add(column)
    return times


cdef Packed pack_header_list(object headers):
    if isinstance(headers, dict):
        raise TypeError("headers of many records are a list with one mapping (or None) each, not one mapping")
    return packed([None if not h else pack_headers(h) for h in headers], "header")


cdef int same_length(int64_t n, Packed keys, Packed headers, Times times) except -1:
    for name, count in (
        ("keys", n if keys is None else keys.count), ("headers", n if headers is None else headers.count),
        ("timestamps", n if times is None else times.count),
    ):
        if count != n:
            raise ValueError(f"there are {n:,} values and {count:,} {name}")
    return 0
