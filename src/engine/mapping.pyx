# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Mapping: a file's bytes in memory.

It promises that the bytes stay mapped for as long as the mapping, or any view taken from it, is alive: the
stdlib's `mmap` owns the pages, this object pins its buffer, and every view holds this object's memory. A file that
is deleted meanwhile keeps its blocks until the last view is gone. It leaves to others what the bytes mean, and who
may store into them when.

Shared fields: none is written after the constructor, so threads may use one mapping freely.
"""
import mmap as _mmap
import sys

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t

# Since 3.13 a map need not keep a descriptor of its own; before, it does, and costs one per mapped file.
cdef dict _QUIET = {"trackfd": False} if sys.version_info >= (3, 13) and sys.platform != "win32" else {}


cdef class Mapping:
    """The first `size` bytes of an open file, shared with every process that maps it.

    `Mapping(fd, size, writable)` checks the file's size first: touching a page behind the end of a file would
    kill the process. Cost: two system calls. Raises OSError, or ValueError when the file is shorter than `size`.

    >>> import tempfile
    >>> with tempfile.TemporaryFile() as f:
    ...     _ = f.write(b"hello"); f.flush()
    ...     bytes(Mapping(f.fileno(), 5, False).read(1, 4))
    b'ell'
    """

    def __cinit__(self):
        self.data = NULL

    def __init__(self, int fd, int64_t size, bint writable=False):
        if self.data != NULL:
            raise ValueError("a mapping is made once")
        access = _mmap.ACCESS_WRITE if writable else _mmap.ACCESS_READ
        self.mmap = _mmap.mmap(fd, size, access=access, **_QUIET)
        PyObject_GetBuffer(self.mmap, &self.pin, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self.data = <char *>self.pin.buf
        self.size = size
        self.writable = writable

    def __dealloc__(self):
        if self.data != NULL:
            PyBuffer_Release(&self.pin)

    def __len__(self):
        return self.size

    def __repr__(self):
        return f"<Mapping of {self.size:,} bytes, {'shared for writing' if self.writable else 'read-only'}>"

    cdef view(self, int64_t start, int64_t stop):
        return memoryview(self.mmap)[start:stop].toreadonly()

    def flush(self):
        """Hand what was stored to the file, where the kernel does not do that by itself. One system call."""
        self.mmap.flush()

    def read(self, int64_t start, int64_t stop):
        """A read-only memoryview of bytes `start .. stop-1`; it keeps the map alive. Raises IndexError outside it."""
        if not 0 <= start <= stop <= self.size:
            raise IndexError(f"bytes {start}..{stop} are not inside a mapping of {self.size}")
        return self.view(start, stop)


cdef Mapping map_fd(int fd, int64_t size, bint writable):
    return Mapping(fd, size, writable)
