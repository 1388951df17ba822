# cython: language_level=3, boundscheck=False, wraparound=False
"""Locks: a partition's lock taken and given back as an append does it, and two processes that wake each other by bare futexes.

Built into build/bench at run time by `sharing`; no part of the package.
"""
from libc.stdint cimport int64_t, uint32_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from seglog.engine cimport platform
from seglog.engine.log cimport Log
from seglog.engine.shared cimport Shared


cdef int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec * 1000000000 + t.tv_nsec


def take_and_give(Log log, int64_t times):
    """ns for so many times lock and unlock, and whoever waits looked for, as `Tail.commit` does."""
    cdef Shared shared = log.shared
    cdef int64_t i, began = now()
    for i in range(times):
        shared.lock()
        shared.unlock()
        shared.ring()
    return now() - began


def ping(uint32_t[::1] words, int64_t[::1] took, int64_t every):
    """Ring `words[0]` every so many ns, and wait for the answer in `words[16]`; the ns of each round trip."""
    cdef int64_t i, due = now(), began
    cdef uint32_t *mine = &words[0]
    cdef uint32_t *theirs = &words[16]
    with nogil:
        for i in range(took.shape[0]):
            due += every
            while now() < due:
                platform.cpu_pause()
            began = now()
            platform.store_u32(mine, <uint32_t>i + 1)
            platform.wake_u32(mine, 1)
            while platform.load_u32(theirs) != <uint32_t>i + 1:
                platform.wait_u32(theirs, <uint32_t>i, 1000000)
            took[i] = now() - began


def pong(uint32_t[::1] words, int64_t times):
    """The other side of `ping`."""
    cdef int64_t i
    cdef uint32_t *theirs = &words[0]
    cdef uint32_t *mine = &words[16]
    with nogil:
        for i in range(times):
            while platform.load_u32(theirs) != <uint32_t>i + 1:
                platform.wait_u32(theirs, <uint32_t>i, 1000000)
            platform.store_u32(mine, <uint32_t>i + 1)
            platform.wake_u32(mine, 1)
