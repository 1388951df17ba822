# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Shared: the words of one partition that all its processes share: lock, tail, durability, bell.

The file `shm` is one page, transient and native: rebuilt by the first opener after a boot, never trusted under another
boot id, in another file (a copied directory), or in another version.

It promises: at most one holder of the lock; a dead holder is displaced at once, a live one never; whoever waits for the bell
hears of an append made after it began to wait, within 50 ms even if a ringer died half way.

Waiting flags, not counts: a sleeper raises `..._waiting` before each nap of at most 50 ms, a ringer lowers it and wakes all. A
killed sleeper therefore costs one useless wake, not one per append for ever. The race: a sleeper raises the flag after the ringer
looked. It then finds the new watermark before it sleeps, because the append was published before the ringer looked.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t

from seglog.engine cimport platform
from seglog.engine.layout cimport SHARED_FAILED

from seglog.engine.errors import LockTimeout

cdef enum:
    # In pauses, of 10 to 50 ns each: longer than a hold for a batch, and than being woken takes.
    SPINS = 2000
    # Between two looks. A look takes the lock's cache line from its holder, and a lock that changes hands takes the tail's and the
    # last frame's too, which costs more than an append. So the first look comes late, and the next ones later: meanwhile
    # the other appends several times, at the speed of one that is alone.
    LOOK_FIRST = 8
    LOOK_LAST = 200
    SLICE_US = 50000                # the longest nap: signals and deaths are noticed that soon


cdef class Shared:
    """One partition's shared words; made by `Log`."""

    cdef int lock_slowly(self) except -1:
        """Spin, then sleep in slices, probing the holder. Releases the GIL while it sleeps."""
        cdef SharedWords *w = self.words
        cdef uint32_t me = self.liveness.my_word(), holder
        cdef int i, got = 0, spun = 0, pauses = LOOK_FIRST
        cdef int64_t deadline, nap = 500
        cdef Liveness liveness = self.liveness
        while spun < SPINS:
            for i in range(pauses):
                platform.cpu_pause()
            spun += pauses
            pauses = min(2 * pauses, <int>LOOK_LAST)
            holder = platform.load_u32(&w.lock)
            if holder == 0 and platform.cas_u32(&w.lock, 0, me):
                return 1
            if holder == me and not platform.FREE_THREADED:
                break               # another thread of ours, which needs the GIL to go on
        deadline = platform.monotonic_us() + self.lock_timeout_us
        while True:
            with nogil:
                holder = platform.load_u32(&w.lock)
                if holder == 0:
                    if platform.cas_u32(&w.lock, 0, me):
                        got = 1
                elif not liveness.is_alive(holder):
                    # Only one of several displacers wins this exchange; the dead cannot come back.
                    if platform.cas_u32(&w.lock, holder, me):
                        got = 2
                else:
                    platform.store_u32(&w.lock_wanted, 1)
                    platform.fence()
                    platform.wait_u32(&w.lock, holder, nap)
                    # At once, and not only when the GIL was had again: whoever unlocked may have it, and lock anew.
                    if platform.load_u32(&w.lock) == 0 and platform.cas_u32(&w.lock, 0, me):
                        got = 1
            if got:
                # Others may sleep whose wish the last unlock took down: ask for a wake on their behalf.
                platform.store_u32(&w.lock_wanted, 1)
                return got
            nap = min(nap * 2, SLICE_US)
            PyErr_CheckSignals()
            if platform.monotonic_us() > deadline:
                raise LockTimeout(
                    f"{self.path} stayed locked for {self.lock_timeout_us / 1e6:g} s by process "
                    f"{liveness.pid_of(holder)}, which is alive (stopped, or being debugged?). Nothing was written; "
                    "let it go on, or end it, and repeat the call.",
                    path=self.path, pid=liveness.pid_of(holder), slot=<int>(holder & 0xFFFF) - 1,
                )

    cdef int wait_for(self, int64_t offset, bint durable, int64_t timeout_us) except -1:
        """2 when whoever holds the lock died in the middle of a transaction. 1 once the watermark (or the durable one) is beyond `offset`; 0 after `timeout_us` (negative: for ever)."""
        cdef SharedWords *w = self.words
        cdef int64_t *word = &w.durable_offset if durable else &w.next_offset
        cdef uint32_t heard
        cdef int64_t deadline = platform.monotonic_us() + timeout_us, left = SLICE_US
        while True:
            if platform.load_i64(word) > offset:
                return 1
            if self.shut or platform.load_u32(&w.state) >= SHARED_FAILED:
                return 0            # nothing more will come; the caller's next read says why
            if timeout_us >= 0:
                left = min(deadline - platform.monotonic_us(), SLICE_US)
                if left <= 0:
                    return 0
            with nogil:
                platform.store_u32(&w.bell_waiting, 1)
                heard = platform.load_u32(&w.bell)
                platform.fence()
                if platform.load_i64(word) <= offset:
                    platform.wait_u32(&w.bell, heard, left)
            PyErr_CheckSignals()
            if platform.load_u32(&w.pending):
                heard = platform.load_u32(&w.lock)
                if heard and not self.liveness.is_alive(heard):
                    return 2
