# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Foreign: Arrow arrays that another library made, taken over through the Arrow C data and stream interfaces.

It promises that nothing is copied and no library is needed; that what it points at lives as long as it does; and that every offset was
looked at before it is followed, as far as the interface lets one: only views come with the sizes of their buffers. It leaves to
`source` how the items become records.

Shared fields: none is written after an object was made.
"""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memset, strcmp, strlen

import os

_FORMATS = {
    b"b": "bool", b"c": "int8", b"C": "uint8", b"s": "int16", b"S": "uint16", b"i": "int32", b"I": "uint32", b"l": "int64", b"L": "uint64",
    b"e": "float16", b"f": "float32", b"g": "float64", b"+s": "struct", b"+l": "list", b"+L": "large_list", b"+m": "map",
}


cdef str said(const ArrowSchema *s):
    """A type in words, as far as it has any."""
    cdef bytes format = s.format
    return _FORMATS.get(format, f"Arrow's {format.decode(errors='replace')!r}")


cdef class Schema:
    """A type, owned."""

    def __cinit__(self):
        memset(&self.schema, 0, sizeof(ArrowSchema))

    def __dealloc__(self):
        if self.schema.release != NULL:
            self.schema.release(&self.schema)


cdef class Chunk:
    """One array, or one batch of a table, owned; its columns are `Strings`."""

    def __cinit__(self):
        memset(&self.array, 0, sizeof(ArrowArray))

    def __dealloc__(self):
        if self.array.release != NULL:
            self.array.release(&self.array)

    cdef bint is_table(self) noexcept:
        return strcmp(self.type.schema.format, b"+s") == 0

    cdef Strings strings(self, str what):
        """The array itself, as a column."""
        cdef Strings column = Strings.__new__(Strings)
        if self.is_table():
            raise TypeError(f"a column of {what}s is needed, not a table; name one of it, for instance table[{what!r}]")
        column.owner = self
        column.check(&self.type.schema, &self.array, what)
        return column

    cdef Strings column(self, str name, str what):
        """The column of that name; None when the table has none."""
        cdef ArrowSchema *s = &self.type.schema
        cdef ArrowArray *a = &self.array
        cdef int64_t i
        cdef Strings column
        if a.n_children != s.n_children:
            raise ValueError(f"an Arrow table with {a.n_children} columns says that it has {s.n_children}. Nothing of it was written.")
        if a.offset or a.null_count > 0:
            raise TypeError("a struct array that is sliced, or has nulls, is no table: name its columns, or make a RecordBatch of it")
        for i in range(s.n_children):
            if s.children[i].name != NULL and (<bytes>s.children[i].name) == name.encode():
                column = Strings.__new__(Strings)
                column.owner = self
                column.check(s.children[i], a.children[i], what)
                if column.count < a.length:
                    raise ValueError(f"column {name} has {column.count:,} items, its table {a.length:,}")
                column.count = a.length
                return column
        return None

    cdef Strings times_in(self, str name):
        cdef Strings column = self.column(name, "timestamp")
        if column is not None and column.form != OF_INT64:
            raise TypeError(f"column {name} is no int64 and no Arrow timestamp")
        return column

    def names(self):
        """Of the table's columns."""
        cdef int64_t i
        return [self.type.schema.children[i].name.decode(errors="replace") if self.type.schema.children[i].name != NULL else ""
                for i in range(self.type.schema.n_children)]


cdef class Strings:
    """A column of byte strings in place: `get` is C. Of int64 and timestamps: `micros`."""

    cdef int check(self, const ArrowSchema *s, const ArrowArray *a, str what) except -1:
        """Find the buffers, and look at every offset. TypeError for a type that is no byte string, ValueError for bytes that lie outside."""
        cdef const char *f = s.format
        cdef int64_t i, at, before, last, needed, variadic = 0
        cdef const int64_t *sizes
        cdef const int32_t *view
        cdef bint good = True
        self.count = a.length
        at = a.offset
        if a.length < 0 or a.offset < 0:
            raise ValueError(f"an Arrow array of {a.length:,} {what}s from {a.offset:,} on cannot be")
        if a.dictionary != NULL or s.dictionary != NULL:
            raise TypeError(f"the {what}s are dictionary-encoded: cast them to binary first")
        if strcmp(f, b"n") == 0:
            self.form = OF_NULLS
            return 0
        if strcmp(f, b"z") == 0 or strcmp(f, b"u") == 0:
            self.form, needed = OF_OFFSETS32, 3
        elif strcmp(f, b"Z") == 0 or strcmp(f, b"U") == 0:
            self.form, needed = OF_OFFSETS64, 3
        elif f[0] == c"w" and f[1] == c":":
            self.form, needed, self.width = OF_WIDTH, 2, int((<bytes>f)[2:])
        elif strcmp(f, b"vz") == 0 or strcmp(f, b"vu") == 0:
            self.form, needed = OF_VIEWS, 3
        elif what == "timestamp" and (strcmp(f, b"l") == 0 or (f[0] == c"t" and f[1] == c"s" and f[2] in (c"s", c"m", c"u", c"n"))):
            self.form, needed = OF_INT64, 2
            self.times, self.over = 1, 1
            if f[0] == c"t":
                self.times = 1000000 if f[2] == c"s" else 1000 if f[2] == c"m" else 1
                self.over = 1000 if f[2] == c"n" else 1
        elif what == "timestamp":
            raise TypeError(f"timestamps are int64 (µs since the epoch) or an Arrow timestamp, not {said(s)}")
        else:
            raise TypeError(f"{what}s are binary, string or fixed_size_binary, not {said(s)}: cast them first")
        if a.n_buffers < needed:
            raise ValueError(f"an Arrow array of {said(s)} with {a.n_buffers} buffers: {needed} are needed")
        if a.null_count != 0 and a.buffers[0] != NULL:
            self.valid, self.first = <const uint8_t *>a.buffers[0], at
        if a.length == 0:
            return 0
        if a.buffers[1] == NULL and not (self.form == OF_WIDTH and self.width == 0):
            raise ValueError(f"an Arrow array of {a.length:,} {what}s without its buffer")
        if self.form == OF_WIDTH:
            if self.width < 0:
                raise ValueError(f"a width of {self.width} cannot be")
            self.data = <const char *>a.buffers[1] + at * self.width if a.buffers[1] != NULL else <const char *>b""
        elif self.form == OF_INT64:
            self.offsets64 = <const int64_t *>a.buffers[1] + at
        elif self.form == OF_VIEWS:
            variadic = a.n_buffers - 3
            self.views = <const char *>a.buffers[1] + 16 * at
            self.buffers = <const char **>(a.buffers + 2)
            sizes = <const int64_t *>a.buffers[a.n_buffers - 1]
            for i in range(a.length):
                view = <const int32_t *>(self.views + 16 * i)
                if self.valid != NULL and not (self.valid[(at + i) >> 3] >> ((at + i) & 7)) & 1:
                    continue
                if view[0] < 0 or (view[0] > 12 and (not 0 <= view[2] < variadic or view[3] < 0 or <int64_t>view[3] + view[0] > sizes[view[2]])):
                    raise ValueError(f"{what} {i:,} of an Arrow array lies outside its buffers. Nothing of it was written.")
        else:
            self.data = <const char *>a.buffers[2] if a.buffers[2] != NULL else <const char *>b""
            if self.form == OF_OFFSETS32:
                self.offsets32 = <const int32_t *>a.buffers[1] + at
                before = self.offsets32[0]
                good = before >= 0
                for i in range(1, a.length + 1):
                    last = self.offsets32[i]
                    good = good and last >= before
                    before = last
            else:
                self.offsets64 = <const int64_t *>a.buffers[1] + at
                before = self.offsets64[0]
                good = before >= 0
                for i in range(1, a.length + 1):
                    last = self.offsets64[i]
                    good = good and last >= before
                    before = last
            if not good:
                raise ValueError(f"the offsets of an Arrow array of {what}s go down. Nothing of it was written.")
            if before > 0 and a.buffers[2] == NULL:
                raise ValueError(f"an Arrow array of {what}s without its data")
        return 0

    cdef int64_t micros(self, int64_t i) except? -1:
        """Item i of an int64 or timestamp column in µs."""
        cdef int64_t given
        if self.valid != NULL and not (self.valid[(self.first + i) >> 3] >> ((self.first + i) & 7)) & 1:
            raise ValueError(f"timestamp {i:,} is null. Nothing of this array was written.")
        given = self.offsets64[i]
        if self.over > 1:
            return given // self.over if given >= 0 else -((-given + self.over - 1) // self.over)
        if self.times > 1 and not -(0x7FFFFFFFFFFFFFFF // self.times) <= given <= 0x7FFFFFFFFFFFFFFF // self.times:
            raise ValueError(f"timestamp {i:,} does not fit into 64 bits of µs")
        return given * self.times


cdef class Chunks:
    """The chunks of a stream, one after the other."""

    def __cinit__(self):
        memset(&self.stream, 0, sizeof(ArrowArrayStream))

    def __dealloc__(self):
        if self.stream.release != NULL:
            self.stream.release(&self.stream)

    def __iter__(self):
        return self

    def __next__(self):
        cdef Chunk chunk = self.following()
        if chunk is None:
            raise StopIteration
        return chunk

    cdef Chunk following(self):
        """The next one; None at the end. OSError with the stream's own words when it fails."""
        cdef Chunk chunk = Chunk.__new__(Chunk)
        cdef Schema schema
        cdef int rc
        if self.type is None:
            schema = Schema.__new__(Schema)
            with nogil:
                rc = self.stream.get_schema(&self.stream, &schema.schema)
            if rc:
                self.failed(rc)
            self.type = schema
        with nogil:
            rc = self.stream.get_next(&self.stream, &chunk.array)
        if rc:
            self.failed(rc)
        chunk.type = self.type
        return chunk if chunk.array.release != NULL else None

    def failed(self, rc):
        cdef const char *text = self.stream.get_last_error(&self.stream)
        words = (<bytes>text).decode(errors="replace") if text != NULL else os.strerror(rc)
        raise OSError(rc, f"the Arrow stream failed: {words}")


cdef bint is_foreign(object values) except -1:
    return hasattr(values, "__arrow_c_array__") or hasattr(values, "__arrow_c_stream__")


cdef object chunks_of(object values):
    """An iterator over the chunks of what has `__arrow_c_array__` or `__arrow_c_stream__`."""
    cdef Chunk chunk
    cdef Chunks chunks
    cdef Schema schema
    cdef ArrowSchema *s
    cdef ArrowArray *a
    cdef ArrowArrayStream *stream
    if hasattr(values, "__arrow_c_array__"):
        its_schema, its_array = values.__arrow_c_array__()
        s = <ArrowSchema *>PyCapsule_GetPointer(its_schema, b"arrow_schema")
        a = <ArrowArray *>PyCapsule_GetPointer(its_array, b"arrow_array")
        if s.release == NULL or a.release == NULL:
            raise ValueError("the Arrow array was released already")
        schema, chunk = Schema.__new__(Schema), Chunk.__new__(Chunk)
        schema.schema, s.release = s[0], NULL
        chunk.array, a.release = a[0], NULL
        chunk.type = schema
        return iter((chunk,))
    capsule = values.__arrow_c_stream__()
    stream = <ArrowArrayStream *>PyCapsule_GetPointer(capsule, b"arrow_array_stream")
    if stream.release == NULL:
        raise ValueError("the Arrow stream was read already")
    chunks = Chunks.__new__(Chunks)
    chunks.stream, stream.release = stream[0], NULL
    return chunks
