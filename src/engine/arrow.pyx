# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Arrow: records lent to other libraries, through the Arrow C stream interface and with no library of its own.

    partition int32 | offset int64 | timestamp timestamp[us, UTC] | key binary | value binary_view, or columns

A record batch is a batch of the log: the values are views into the file's map, wherever its frames lie, so none is copied but those
of 12 bytes or fewer, which the format keeps in the view itself. Times and, where a batch is one frame, keys are the file's own columns. Keys of
several frames are put together, because few libraries compare binary views; a compressed frame is expanded first.

It promises that what was lent stays where it is until its borrower lets go, whatever becomes of log, store and file: each batch and each
of its columns holds a `Loan`, which holds the map. A borrower may let go on any thread, without the GIL: only the last one takes it.

Shared fields: a loan's count, atomic. A stream belongs to one borrower, as the interface says.
"""
import errno

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strlen

import numpy as np

from seglog.engine cimport platform
from seglog.engine.arrowabi cimport NULLABLE, ArrowArray, ArrowArrayStream, ArrowSchema
from seglog.engine.batch cimport Batch, Walk, new_array
from seglog.engine.frame cimport Columns, Entry
from seglog.engine.layout cimport FrameHeader
from seglog.engine.log cimport Log
from seglog.engine.snapshot cimport Snapshot, snapshot_of

cdef enum:
    RECORDS = 65536                 # of a record batch at most
    BYTES = 8388608                 # of the frames it is made of
    INLINE = 12                     # bytes that a view holds itself

cdef extern from "Python.h" nogil:
    int Py_IsInitialized() noexcept

cdef extern from * nogil:
    """
    #if defined(_MSC_VER)
    #include <intrin.h>
    #define seglog_refs_add(p, n) (_InterlockedExchangeAdd64((volatile long long *)(p), (n)) + (n))
    #else
    #define seglog_refs_add(p, n) __atomic_add_fetch((p), (n), __ATOMIC_ACQ_REL)
    #endif
    """
    int64_t refs_add "seglog_refs_add"(int64_t *p, int64_t n) noexcept

_INT32, _INT64, _BYTE = np.dtype("<i4"), np.dtype("<i8"), np.dtype("u1")


# ---- letting go ----------------------------------------------------------------------------------------------------


cdef void let_go(void *owner) noexcept with gil:
    Py_DECREF(<object>owner)


cdef void drop(Loan *loan) noexcept nogil:
    if refs_add(&loan.refs, -1) == 0:
        if Py_IsInitialized():      # else the process ends, and its memory with it
            let_go(loan.owner)
        free(loan)


cdef void release_array(ArrowArray *a) noexcept nogil:
    """For a batch and for a column. A borrower may have moved a column elsewhere, and let go of it there."""
    cdef int64_t i
    for i in range(a.n_children):
        if a.children[i] != NULL:
            if a.children[i].release != NULL:
                a.children[i].release(a.children[i])
            free(a.children[i])
    free(a.children)
    free(a.buffers)
    if a.private_data != NULL:
        drop(<Loan *>a.private_data)
    a.release = NULL


cdef void release_schema(ArrowSchema *s) noexcept nogil:
    cdef int64_t i
    for i in range(s.n_children):
        if s.children[i] != NULL:
            if s.children[i].release != NULL:
                s.children[i].release(s.children[i])
            free(s.children[i])
    free(s.children)
    free(s.private_data)            # format and name
    s.release = NULL


cdef void release_stream(ArrowArrayStream *stream) noexcept nogil:
    if stream.private_data != NULL and Py_IsInitialized():
        let_go(stream.private_data)
    stream.private_data = NULL
    stream.release = NULL


cdef void unused(object capsule) noexcept:
    """A capsule that nobody took the stream out of."""
    cdef ArrowArrayStream *stream = <ArrowArrayStream *>PyCapsule_GetPointer(capsule, b"arrow_array_stream")
    if stream.release != NULL:
        stream.release(stream)
    free(stream)


# ---- filling structs -----------------------------------------------------------------------------------------------


cdef int name_schema(ArrowSchema *s, bytes name, bytes format, bint nullable, int64_t children) except -1:
    cdef char *words = <char *>calloc(1, len(name) + len(format) + 2)
    memset(s, 0, sizeof(ArrowSchema))
    if words == NULL:
        raise MemoryError()
    memcpy(words, <const char *>format, len(format))
    memcpy(words + len(format) + 1, <const char *>name, len(name))
    s.private_data, s.format, s.name = words, words, words + len(format) + 1
    s.flags = NULLABLE if nullable else 0
    s.release = release_schema
    if children:
        s.children = <ArrowSchema **>calloc(children, sizeof(void *))
        if s.children == NULL:
            raise MemoryError()
        s.n_children = children
    return 0


cdef int fill_array(ArrowArray *a, int64_t length, int64_t nulls, int64_t buffers, int64_t children, Loan *loan) except -1:
    memset(a, 0, sizeof(ArrowArray))
    a.buffers = <const void **>calloc(max(buffers, 1), sizeof(void *))
    a.children = <ArrowArray **>calloc(max(children, 1), sizeof(void *))
    a.release = release_array       # from here on it can be let go
    if a.buffers == NULL or a.children == NULL:
        raise MemoryError()
    a.length, a.null_count, a.n_buffers, a.n_children = length, nulls, buffers, children
    refs_add(&loan.refs, 1)
    a.private_data = loan
    return 0


cdef ArrowArray *add_child(ArrowArray *a, int64_t i) except NULL:
    a.children[i] = <ArrowArray *>calloc(1, sizeof(ArrowArray))
    if a.children[i] == NULL:
        raise MemoryError()
    return a.children[i]


cdef const void *pointer(object buffer) except? NULL:
    """Where the bytes of an array or of bytes are; NULL for None. They do not move."""
    cdef Py_buffer view
    cdef const void *at
    if buffer is None:
        return NULL
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    at = view.buf
    PyBuffer_Release(&view)
    return at


# ---- the columns of a record itself --------------------------------------------------------------------------------


cdef int give_keys(Batch batch, ArrowArray *a, Loan *loan) except -1:
    """Binary: the frame's own columns where there is one frame, else put together."""
    cdef list owner = <list>loan.owner
    cdef int64_t n = batch.count, used = 0, total = 0, nulls = 0, i
    cdef Columns c
    cdef Walk walk
    cdef Entry e
    cdef char *data
    cdef char *blob
    cdef int32_t *offsets
    cdef uint8_t *valid
    if batch.columns(batch.start, &c) == 0 and c.count - batch.skip >= n and c.key_offsets != NULL:
        fill_array(a, n, 0 if c.key_valid == NULL else -1, 3, 0, loan)
        a.offset = batch.skip
        a.buffers[0], a.buffers[1], a.buffers[2] = c.key_valid, c.key_offsets, c.keys
        return 0
    walk = iter(batch)
    for i in range(n):
        walk.advance(&e)
        total += max(e.key_size, <int64_t>0)
        nulls += e.key_size < 0
    owner.append(new_array(n + 1, _INT32, &data))
    offsets = <int32_t *>data
    owner.append(new_array((n + 7) >> 3, _BYTE, &data))
    valid = <uint8_t *>data
    memset(valid, 0, (n + 7) >> 3)
    owner.append(new_array(max(total, <int64_t>1), _BYTE, &blob))
    offsets[0] = 0
    walk = iter(batch)
    for i in range(n):
        walk.advance(&e)
        if e.key_size >= 0:
            valid[i >> 3] |= <uint8_t>(1 << (i & 7))
            if e.key_size > 0:
                memcpy(blob + used, e.key, e.key_size)
                used += e.key_size
        offsets[i + 1] = <int32_t>used
    fill_array(a, n, nulls, 3, 0, loan)
    a.buffers[0], a.buffers[1], a.buffers[2] = valid if nulls else NULL, offsets, blob
    return 0


cdef int give_values(Batch batch, ArrowArray *a, Loan *loan) except -1:
    """Binary views into the batch's bytes, or into those that a compressed frame expanded to."""
    cdef list owner = <list>loan.owner
    cdef int64_t n = batch.count, nulls = 0, i, size
    cdef Walk walk = iter(batch)
    cdef Entry e
    cdef char *data
    cdef int32_t *views
    cdef uint8_t *valid
    cdef int64_t *sizes
    cdef const char *origin = batch.blobs if batch.expanded is not None else batch.mapping.data + batch.start
    owner.append(new_array(2 * n, _INT64, &data))
    views = <int32_t *>data
    owner.append(new_array((n + 7) >> 3, _BYTE, &data))
    valid = <uint8_t *>data
    owner.append(new_array(1, _INT64, &data))
    sizes = <int64_t *>data
    sizes[0] = batch.blob_size if batch.expanded is not None else batch.end - batch.start
    memset(views, 0, 16 * n)
    memset(valid, 0, (n + 7) >> 3)
    for i in range(n):
        walk.advance(&e)
        size = e.value_size
        if size < 0:
            nulls += 1
            continue
        valid[i >> 3] |= <uint8_t>(1 << (i & 7))
        views[4 * i] = <int32_t>size
        if size <= INLINE:
            if size > 0:
                memcpy(views + 4 * i + 1, e.value, size)
        else:
            memcpy(views + 4 * i + 1, e.value, 4)
            views[4 * i + 3] = <int32_t>(e.value - origin)
    fill_array(a, n, nulls, 4, 0, loan)
    a.buffers[0], a.buffers[1], a.buffers[2], a.buffers[3] = valid if nulls else NULL, views, origin, sizes
    return 0


cdef int give_made(tuple made, int64_t n, ArrowArray *a, Loan *loan) except -1:
    """A column that a shape made: how many nulls, and its buffers."""
    cdef Py_ssize_t i
    fill_array(a, n, made[0], len(made) - 1, 0, loan)
    for i in range(1, len(made)):
        (<list>loan.owner).append(made[i])
        a.buffers[i - 1] = pointer(made[i])
    return 0


# ---- the stream ----------------------------------------------------------------------------------------------------


cdef int stream_schema(ArrowArrayStream *stream, ArrowSchema *out) noexcept with gil:
    cdef Stream self = <Stream>stream.private_data
    memset(out, 0, sizeof(ArrowSchema))
    try:
        self.table.give_schema(<size_t>out)
    except BaseException as error:
        if out.release != NULL:
            out.release(out)
        self.fail(error)
        return self.code
    return 0


cdef int stream_next(ArrowArrayStream *stream, ArrowArray *out) noexcept with gil:
    cdef Stream self = <Stream>stream.private_data
    memset(out, 0, sizeof(ArrowArray))
    if self.code == 0:
        try:
            self.give_next(out)
        except BaseException as error:
            if out.release != NULL:
                out.release(out)
            self.fail(error)
    return self.code


cdef const char *stream_error(ArrowArrayStream *stream) noexcept with gil:
    cdef Stream self = <Stream>stream.private_data
    return NULL if self.error is None else <const char *>self.error


cdef class Stream:
    """One reading of a table, from its start to its end; what the callbacks work on."""

    def fail(self, error):
        """For good: a stream that failed does not go on."""
        self.code = errno.ENOMEM if isinstance(error, MemoryError) else (error.errno if isinstance(error, OSError) else 0) or errno.EIO
        self.error = f"{type(error).__name__}: {error}".encode("utf-8", "replace").replace(b"\0", b" ")

    cdef int give_next(self, ArrowArray *out) except -1:
        """The next record batch; a released array at the end."""
        cdef Snapshot part
        cdef Batch batch
        while self.part < len(self.table.parts):
            part = <Snapshot>self.table.parts[self.part]
            batch = part.next_batch(max(self.offset, part.start), RECORDS, BYTES)
            if batch is not None:
                self.give(batch, out)
                self.offset = batch.next_offset
                return 0
            self.part += 1
            self.offset = 0
        return 0

    cdef int give(self, Batch batch, ArrowArray *out) except -1:
        cdef int64_t n = batch.count, i = 0
        cdef list owner = [batch, batch.expanded], made
        cdef Loan *loan = <Loan *>calloc(1, sizeof(Loan))
        cdef ArrowArray *column
        cdef char *data
        if loan == NULL:
            raise MemoryError()
        loan.refs, loan.owner = 1, <void *>owner
        Py_INCREF(owner)
        try:
            fill_array(out, n, 0, 1, len(self.table.fields), loan)
            made = [] if self.table.shape is None else self.table.shape.columns(batch)
            for name, _, _ in self.table.fields[:len(self.table.fields) - (len(made) or 1)]:
                column = add_child(out, i)
                i += 1
                if name == "key":
                    give_keys(batch, column, loan)
                    continue
                if name == "partition":
                    numbers = np.full(n, batch.partition, _INT32)
                else:
                    numbers = batch.offsets if name == "offset" else batch.timestamps
                give_made((0, None, numbers), n, column, loan)
            if self.table.shape is None:
                give_values(batch, add_child(out, i), loan)
            for one in made:
                give_made(one, n, add_child(out, i), loan)
                i += 1
        finally:
            drop(loan)
        return 0


cdef class ArrowTable:
    """Records as one Arrow table, as they were when it was made: whoever asks `__arrow_c_stream__` reads them from the start.

    Made by `Topic.arrow`. Nothing is read before it is asked for. Any number may read it at once, each a stream of its own; none of them
    sees what was sent since, or misses what was trimmed, compacted, deleted or closed since.
    """

    def __init__(self, ranges, shape=None, bint numbered=False):
        """`ranges`: of each log the first offset and the one behind the last. `shape`: what makes columns of values (see `fields`)."""
        cdef Log log
        self.parts = tuple([snapshot_of(log, start, stop) for log, start, stop in ranges])
        self.shape = shape
        own = [("value", "vz", True)] if shape is None else list(shape.fields)
        taken = {name for name, _, _ in own}
        self.fields = [
            field for field in (("partition", "i", False), ("offset", "l", False), ("timestamp", "tsu:UTC", False), ("key", "z", True))
            if field[0] not in taken and (numbered or field[0] != "partition")
        ] + own

    def give_schema(self, size_t to):
        """Fill the struct at this address."""
        cdef ArrowSchema *out = <ArrowSchema *>to
        cdef int64_t i
        name_schema(out, b"", b"+s", False, len(self.fields))
        for i, (name, format, nullable) in enumerate(self.fields):
            out.children[i] = <ArrowSchema *>calloc(1, sizeof(ArrowSchema))
            if out.children[i] == NULL:
                raise MemoryError()
            name_schema(out.children[i], name.encode(), format.encode(), nullable, 0)

    def __arrow_c_stream__(self, requested_schema=None):
        """A new stream, in a PyCapsule, as the Arrow PyCapsule interface says. Its types are what they are: a request is not granted."""
        cdef Stream stream = Stream.__new__(Stream)
        cdef ArrowArrayStream *out = <ArrowArrayStream *>calloc(1, sizeof(ArrowArrayStream))
        if out == NULL:
            raise MemoryError()
        stream.table = self
        Py_INCREF(stream)
        out.private_data = <void *>stream
        out.get_schema, out.get_next, out.get_last_error, out.release = stream_schema, stream_next, stream_error, release_stream
        return PyCapsule_New(out, b"arrow_array_stream", unused)

    def __repr__(self):
        cdef Snapshot part
        where = ", ".join(f"{part.partition}:{part.start:,}..{part.stop:,}" for part in self.parts)
        return f"<ArrowTable {where}: {', '.join(name for name, _, _ in self.fields)}>"
