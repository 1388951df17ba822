# source: what callers may give as many values, keys, headers and timestamps, seen as bytes in C.
from cpython.buffer cimport Py_buffer
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t

from seglog.engine.foreign cimport Strings


cdef enum:
    FROM_LIST, FROM_OFFSETS32, FROM_OFFSETS64, FROM_SPANS, FROM_STRIDE, FROM_STRINGS, FROM_PLACES


cdef class Packed:                  # many byte strings, wherever they are: the source of an encode
    cdef int kind
    cdef readonly int64_t count
    cdef PyObject **items
    cdef const char *data
    cdef const int32_t *offsets32
    cdef const int64_t *starts
    cdef const int64_t *ends
    cdef int64_t stride             # the length of every item, where that is known to be one; else -1
    cdef Strings strings            # an Arrow column with nulls or views
    cdef const char **places        # of each item, where they lie in several Arrow chunks; NULL: null
    cdef int64_t *sizes
    cdef object owner
    cdef object array               # the numpy array that it is made of, for who wants to know what its items mean
    cdef Py_buffer pins[3]
    cdef int pinned

    cdef const char *pin(self, object buffer, str formats, int64_t *size) except NULL

    # The bytes of item i; *size is -1 for a null.
    cdef inline const char *get(self, int64_t i, int64_t *size) noexcept nogil:
        cdef PyObject *item
        if self.kind == FROM_LIST:
            item = self.items[i]
            if <void *>item == <void *>none_object():
                size[0] = -1
                return NULL
            size[0] = bytes_size(item)
            return bytes_data(item)
        if self.kind == FROM_STRIDE:
            size[0] = self.stride
            return self.data + i * self.stride
        if self.kind == FROM_OFFSETS32:
            size[0] = self.offsets32[i + 1] - self.offsets32[i]
            return self.data + self.offsets32[i]
        if self.kind == FROM_OFFSETS64:
            size[0] = self.starts[i + 1] - self.starts[i]
            return self.data + self.starts[i]
        if self.kind == FROM_SPANS:
            size[0] = self.ends[i] - self.starts[i]
            return self.data + self.starts[i]
        if self.kind == FROM_STRINGS:
            return self.strings.get(i, size)
        size[0] = self.sizes[i]
        return self.places[i]


cdef extern from *:
    """
    static inline Py_ssize_t seglog_bytes_size(PyObject *o) { return Py_SIZE(o); }
    static inline const char *seglog_bytes_data(PyObject *o) { return ((PyBytesObject *)o)->ob_sval; }
    static inline PyObject *seglog_none(void) { return Py_None; }
    static inline int seglog_bytes_exact(PyObject *o) { return PyBytes_CheckExact(o); }
    static inline PyObject **seglog_list_items(PyObject *o) { return ((PyListObject *)o)->ob_item; }
    """
    Py_ssize_t bytes_size "seglog_bytes_size"(PyObject *o) noexcept nogil
    const char *bytes_data "seglog_bytes_data"(PyObject *o) noexcept nogil
    PyObject *none_object "seglog_none"() noexcept nogil
    bint bytes_exact "seglog_bytes_exact"(PyObject *o) noexcept nogil
    PyObject **list_items "seglog_list_items"(object o) noexcept


cdef Packed packed(object values, str what)
cdef Packed packed_strings(Strings strings)


cdef class Times:                   # int64 timestamps, pinned or made
    cdef const int64_t *data
    cdef int64_t count
    cdef int64_t *owned
    cdef Py_buffer view
    cdef bint pinned

    cdef int add(self, Strings column) except -1


cdef Times times_of(Strings column)


cdef bytes one_bytes(object item, str what)
cdef Packed pack_header_list(object headers)
cdef int same_length(int64_t n, Packed keys, Packed headers, Times times) except -1
