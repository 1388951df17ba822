# cython: language_level=3, boundscheck=False, wraparound=False
"""Locks: a partition's lock taken and given back as an append does it, and two processes that wake each other by bare futexes.

Built into build/bench at run time by `sharing`; no part of the package.
"""
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from seglog.engine cimport platform
from seglog.engine.checksum cimport xxh3_64
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


def bare_appends(char[::1] area, bytes frame, int64_t begin, int64_t end):
    """How many frames this process hashed, and copied into `area` under a lock that is one word of it: no more is an append.

    Its pages are mapped first. `area`: the lock at 0, the position at 128, frames from 4096 on, round and round; from `begin` to `end`, in
    ns of the monotonic clock.
    """
    cdef uint32_t *lock = <uint32_t *>&area[0]
    cdef int64_t *position = <int64_t *>&area[128]
    cdef int64_t size = len(frame), room = area.shape[0] - size, count = 0, at, i
    cdef const char *data = frame
    cdef int pauses
    for i in range(0, area.shape[0], 4096):
        platform.or_u32(<uint32_t *>&area[i], 0)
    with nogil:
        while now() < begin:
            platform.cpu_pause()
        while now() < end:
            for i in range(20):
                xxh3_64(data, size)
                pauses = 8
                while not platform.cas_u32(lock, 0, 1):
                    for _ in range(pauses):
                        platform.cpu_pause()
                    pauses = min(2 * pauses, 64)
                at = position[0] if position[0] else 4096
                memcpy(&area[at], data, size)
                at += size
                position[0] = at if at < room else 4096
                platform.exchange_u32(lock, 0)
            count += 20
    return count
