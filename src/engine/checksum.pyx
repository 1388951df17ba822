# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=False, wraparound=False
"""A checksum is XXH3-64 of some bytes: the number that says whether they are still the ones that were written.

It promises the same number as every other implementation of XXH3, on every host. It finds rot and torn writes; it is no
defence against someone who forges them. The algorithm is Yann Collet's, published in doc/xxhash_spec.md of
github.com/Cyan4973/xxHash; `xxh3.h` is our writing of it. The engine cimports the C functions from `checksum.pxd`; this
module is their face for Python.

Free threading: the module holds no state. The bytes are the caller's: a buffer that another thread writes to
meanwhile gives the hash of neither version, and no crash, since it is pinned.
"""

from cpython.buffer cimport Py_buffer, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsUnsignedLongLong

# Where letting other threads run begins to pay: 1 MiB takes 25 us and more, giving the GIL away and back 0.1 us.
cdef size_t NOGIL_SIZE_MIN = 1 << 20


cdef inline uint64_t hash_at(const void *at, size_t size, uint64_t seed, int path) noexcept:
    cdef uint64_t value
    if size <= NOGIL_SIZE_MIN:
        return xxh3_64_path(at, size, seed, path)
    with nogil:
        value = xxh3_64_path(at, size, seed, path)
    return value


cdef uint64_t hash_object(object data, object seed_object, int path) except? 0:
    cdef uint64_t seed = PyLong_AsUnsignedLongLong(seed_object)  # a uint64_t argument would make 1 of 1.5
    cdef Py_buffer view
    cdef uint64_t value
    if PyBytes_CheckExact(data):
        return hash_at(PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data), seed, path)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    value = hash_at(view.buf, <size_t>view.len, seed, path)
    PyBuffer_Release(&view)
    return value


def xxh3(data, /, seed=0):
    """The XXH3-64 of `data`, as an int below 2**64.

    `data` is anything that exposes contiguous bytes: bytes, bytearray, mmap, memoryview, a C-contiguous array.
    It is read where it lies, never copied. `seed` (0 .. 2**64 - 1) gives an unrelated hash for each value.

    O(size): 100 bytes in about 50 ns, most of it the call; long inputs at the speed of memory. Above 1 MiB other
    threads run meanwhile.

    Raises TypeError for something without bytes (a str, too) and for a seed that is no int, BufferError or ValueError
    (its owner chooses) for memory that is not contiguous, and OverflowError for a seed out of range.

    >>> hex(xxh3(b"seglog"))
    '0xd462b8433499fe2b'
    >>> xxh3(b"seglog") == xxh3(memoryview(b"a seglog")[2:]) != xxh3(b"seglog", seed=1)
    True
    """
    return hash_object(data, seed, XXH3_BEST)


def xxh3_path(data, seed, str path not None):
    """The same number by one given path, one of `paths()`: for tests, which compare them.

    O(size). Raises as `xxh3` does, and ValueError for a path that this host cannot run.

    >>> {xxh3_path(bytes(1000), 7, path) for path in paths()} == {xxh3(bytes(1000), 7)}
    True
    """
    cdef int number
    for number in range(XXH3_PATHS):
        if xxh3_64_name(number) is not NULL and xxh3_64_name(number).decode() == path:
            return hash_object(data, seed, number)
    raise ValueError(f"no path {path!r} on this host: it has {', '.join(paths())}")


def paths():
    """The names of the paths this host can run, narrowest first; `xxh3` takes the last. O(1).

    >>> paths()[0]
    'portable'
    """
    cdef int path
    return tuple([xxh3_64_name(path).decode() for path in range(XXH3_PATHS) if xxh3_64_name(path) is not NULL])
