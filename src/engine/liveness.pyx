# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Liveness: this process's mark of being alive in one store.

    lock   one byte per slot, locked for the life of an open file description
    shm    a header page, then one row per slot: generation, pid

It promises that `alive(word)` is the kernel's word: true while the process that wrote `word` into a lock exists, also
when it is stopped or slow; false from the moment it is gone, however it went. Never pids, which come back: a slot
that found a new owner has a new generation. It leaves to others what to do about the dead.

A forked child shares its parent's open file descriptions and would keep the parent alive; so the child closes its copies, of every
store, and takes slots of its own (`os.register_at_fork`). Where it gets none (no descriptor left, all slots taken, the directory gone)
its `word` is 0: whatever needs a place tries once more, and raises ForkedHandle with the reason. No fork happens between the opening of
such a description and its being known here (`_births`), or the child would hold it without knowing.

Shared fields: `word`, `life` and `probe` change only in the constructor, in `close`, and in a forked child before it has other threads.
"""
import errno
import os
import sys
import threading
import time
import weakref

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from cpython.exc cimport PyErr_CheckSignals
from libc.stdio cimport snprintf

from seglog.engine cimport platform
from seglog.engine.checksum cimport xxh3_64
from seglog.engine.layout cimport SHARED_VERSION, SLOT_HEADER, SLOTS, SLOTS_MAGIC
from seglog.engine.mapping cimport Mapping, map_fd

from seglog.engine.errors import ClosedError, DirectoryInUse, ForkedHandle, SeglogError, StoreIOError, os_error

if sys.platform != "win32":
    import fcntl

cdef enum:
    BELL = 512                      # in the header page, on lines of its own

_SHM_BYTES = SLOT_HEADER + SLOTS * sizeof(Slot)
_living = weakref.WeakSet()
_births = threading.RLock()         # also held by a thread that forks, while it does


def boot_id() -> str:
    """What this boot of this kernel calls itself. Shared memory of another boot is worthless."""
    if sys.platform == "linux":
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    import ctypes

    if sys.platform == "darwin":
        libc = ctypes.CDLL(None)
        size = ctypes.c_size_t(64)
        text = ctypes.create_string_buffer(64)
        if libc.sysctlbyname(b"kern.bootsessionuuid", text, ctypes.byref(size), None, 0) == 0:
            return text.value.decode()
        raise OSError("sysctl kern.bootsessionuuid failed")
    if sys.platform == "win32":
        # SystemTimeOfDayInformation: BootTime moves with the clock, less BootTimeBias it does not.
        words = (ctypes.c_uint64 * 6)()
        if ctypes.windll.ntdll.NtQuerySystemInformation(3, words, ctypes.sizeof(words), None) == 0:
            return str(words[0] - words[4])
        raise OSError("NtQuerySystemInformation failed")
    raise OSError(f"no boot id on {sys.platform}")


cdef object boot_hash():
    cdef bytes text = boot_id().encode()
    return xxh3_64(<const char *>text, len(text))


def is_network(path) -> bool:
    """Whether `path` lies on a network file system, whose pages are not shared between machines. One system call."""
    cdef bytes name = os.fsencode(path)
    return platform.is_network(name) == 1


class file_lock:
    """An exclusive lock on an open file, for the short moments in which shared memory is made. Waits up to `timeout` s."""

    def __init__(self, fd: int, path: str, timeout: float = 30.0):
        self.fd, self.path, self.timeout = fd, path, timeout

    def __enter__(self):
        cdef object deadline = time.monotonic() + self.timeout
        nap = 0.0005
        while True:
            rc = platform.lock_file(self.fd)
            if rc == 0:
                return self
            if rc != -errno.EAGAIN:
                raise StoreIOError(f"cannot lock {self.path}: {os.strerror(-rc)}", errno=-rc, path=self.path)
            if time.monotonic() > deadline:
                raise DirectoryInUse(
                    f"{self.path} stayed locked for {self.timeout:g} s by a process that is opening it", path=self.path
                )
            time.sleep(nap)
            nap = min(nap * 2, 0.02)

    def __exit__(self, *exc):
        if sys.platform != "win32":
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        else:
            import msvcrt

            os.lseek(self.fd, 0, os.SEEK_SET)
            msvcrt.locking(self.fd, msvcrt.LK_UNLCK, 1)


cdef class Liveness:
    """A slot in the store at `path`, held until `close()` or the end of the process.

    Cost: a few system calls to make, one to ask about another. Raises ReadOnlyStore when the directory cannot be
    written, DirectoryInUse when all 1,024 slots are taken.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as d:
    ...     one, two = Liveness(d), Liveness(d)
    ...     was = two.alive(one.word)
    ...     one_word = one.word; one.close()
    ...     was, two.alive(one_word)
    (True, False)
    """

    def __cinit__(self):
        self.life = self.probe = -1
        self.word = 0

    def __init__(self, path):
        if self.life >= 0:
            raise ValueError("a liveness is made once")
        self.path = os.fspath(path)
        self.directory = os.fsencode(self.path)
        self.directory_text = self.directory
        self.by_byte = platform.has_byte_locks()
        try:
            self._open_slots()
            self._take_slot()
        except OSError as error:
            if isinstance(error, SeglogError):
                raise
            raise os_error(-error.errno, "cannot open", error.filename or self.path) from error

    def _open_slots(self):
        cdef int rc
        cdef bytes zeros
        shm = os.path.join(self.path, "shm")
        fd = os.open(shm, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        cdef Mapping mapping
        cdef uint64_t *head
        cdef uint64_t boot = boot_hash()
        try:
            with file_lock(fd, shm):
                status = os.fstat(fd)
                if status.st_size < _SHM_BYTES:
                    # Real zeros: a hole could fail at a store, by a signal, when the disk is full.
                    zeros = b"\0" * _SHM_BYTES
                    rc = platform.pwrite_all(fd, zeros, _SHM_BYTES, 0)
                    if rc:
                        raise os_error(rc, "cannot make", shm)
                mapping = map_fd(fd, _SHM_BYTES, True)
                head = <uint64_t *>mapping.data
                known = head[0] == SLOTS_MAGIC and head[1] == SHARED_VERSION and head[2] == boot \
                    and head[3] == <uint64_t>status.st_dev and head[4] == <uint64_t>status.st_ino
                if known and head[5] != <uint64_t>self.by_byte:
                    # The others lock another way, and would each take the other for dead.
                    self.slots = <Slot *>(mapping.data + SLOT_HEADER)
                    self.refuse_other_kind()
                    known = False
                if not known:
                    # Another boot's, another directory's (a copy), or new: nobody alive can be in it.
                    head[0] = 0
                    for i in range(SLOT_HEADER // 8, _SHM_BYTES // 8):
                        head[i] = 0
                    head[1] = SHARED_VERSION
                    head[2] = boot
                    head[3] = status.st_dev
                    head[4] = status.st_ino
                    head[5] = self.by_byte
                    head[0] = SLOTS_MAGIC
        finally:
            os.close(fd)
        self.mapping = mapping
        self.slots = <Slot *>(mapping.data + SLOT_HEADER)
        self.bell = <uint32_t *>(mapping.data + BELL)

    cdef int refuse_other_kind(self) except -1:
        """Raise DirectoryInUse when a process is alive here by the kind of lock that this one does not use."""
        cdef int i, fd, alive = 0
        cdef bytes name
        for i in range(SLOTS):
            if not self.slots[i].generation:
                continue
            if self.by_byte:
                name = os.fsencode(os.path.join(self.path, f"lock.{i}"))
                alive = platform.file_locked(name)
            else:
                fd = os.open(os.path.join(self.path, "lock"), os.O_RDWR | os.O_CREAT, 0o666)
                alive = platform.byte_locked(fd, i)
                os.close(fd)
            if alive > 0:
                raise DirectoryInUse(
                    f"process {self.slots[i].pid} has {self.path} open and shows that it is alive by "
                    f"{'whole files' if self.by_byte else 'bytes'}, this one by {'bytes' if self.by_byte else 'whole files'}: neither would see the "
                    "other. Set SEGLOG_PORTABLE in both, or in neither.", path=self.path, pid=self.slots[i].pid,
                )
        return 0

    def _take_slot(self):
        """Lock a byte that nobody has, and sign its row. Whatever goes wrong, nothing stays open."""
        with _births:
            if self.life >= 0:
                return              # another thread of this child was faster
            try:
                self._lock_one()
            except BaseException:
                self._let_go()
                raise
            _living.add(self)

    def _lock_one(self):
        cdef int i, rc, fd
        flags = os.O_RDWR | os.O_CREAT
        name = os.path.join(self.path, "lock")
        if self.by_byte:
            self.life = os.open(name, flags, 0o666)
            self.probe = os.open(name, flags, 0o666)
        for i in range(SLOTS):
            if self.by_byte:
                rc = platform.lock_byte(self.life, i)
            else:
                fd = os.open(f"{name}.{i}", flags, 0o666)
                rc = platform.lock_file(fd)
                if rc == 0:
                    self.life = fd
                else:
                    os.close(fd)
            if rc == 0:
                # The row is ours alone while the lock is.
                self.slots[i].generation = (self.slots[i].generation + 1) & 0xFFFF
                if self.slots[i].generation == 0:
                    self.slots[i].generation = 1
                self.slots[i].pid = platform.process_id()
                self.word = (self.slots[i].generation << 16) | <uint32_t>(i + 1)
                return
            if rc != -errno.EAGAIN:
                raise StoreIOError(
                    f"cannot lock a byte of {name}: {os.strerror(-rc)}; a file system without locks cannot be shared",
                    errno=-rc, path=name,
                )
        raise DirectoryInUse(f"all {SLOTS:,} process slots of {self.path} are taken", path=self.path)

    cdef int _let_go(self) except -1:
        """Close what says that this process is alive. Whoever looks sees that at once."""
        cdef int life = self.life, probe = self.probe
        self.life = self.probe = -1
        if life >= 0:
            os.close(life)
        if probe >= 0:
            os.close(probe)
        return 0

    @property
    def slot(self):
        """The number of this process's byte and row."""
        return (self.word & 0xFFFF) - 1

    cdef uint32_t my_word(self) except 0:
        """`word`; in a forked child that could not take a slot at once, the one it takes now, or the reason why not."""
        if self.word == 0:
            self.check_open()
        return self.word

    cdef int check_open(self) except -1:
        """Raise unless this process has a slot; a forked child that has none yet tries to take one."""
        if self.mapping is None or self.closed:
            raise ClosedError("this liveness was closed")
        if self.word:
            return 0
        try:
            self._take_slot()
        except OSError as error:
            raise ForkedHandle(
                f"process {os.getpid()} was forked from one that has {self.path} open, and cannot take a place of its own there: {error}. "
                "Nothing was read or written here, and the parent goes on. Mend that and repeat the call, or open the store anew in this "
                "process.", path=self.path, errno=error.errno,
            ) from error
        return 0

    cdef int is_alive(self, uint32_t word) noexcept nogil:
        cdef int slot = <int>(word & 0xFFFF) - 1
        cdef int rc
        cdef char name[4200]
        if word == self.word:
            return 1
        if slot < 0 or slot >= SLOTS:
            return 0                # no process of ours wrote that
        if (self.slots[slot].generation & 0xFFFF) != (word >> 16):
            return 0                # the slot has found a new owner since
        if self.by_byte:
            # Two handles of one process hold different bytes through different descriptions, so this
            # sees them too; only our own description is invisible here, and that is `self.word`.
            rc = platform.byte_locked(self.probe, slot)
        else:
            snprintf(name, sizeof(name), "%s/lock.%d", self.directory_text, slot)
            rc = platform.file_locked(name)
        return rc != 0              # when the kernel cannot tell, nobody is displaced

    cdef int64_t pid_of(self, uint32_t word) noexcept nogil:
        cdef int slot = <int>(word & 0xFFFF) - 1
        return self.slots[slot].pid if 0 <= slot < SLOTS else 0

    def check(self):
        """Raise ClosedError, or ForkedHandle, unless this process has a slot; a forked child that has none yet tries to take one."""
        self.check_open()

    def alive(self, uint32_t word) -> bool:
        """Whether the process that wrote `word` into a lock still exists. One system call."""
        self.check_open()
        return bool(self.is_alive(word))

    def ring(self):
        """Wake every process that listens: something changed that is not an append."""
        self.check_open()
        if platform.load_u32(&self.bell[1]):
            platform.store_u32(&self.bell[1], 0)
            platform.add_u32(&self.bell[0], 1)
            platform.wake_u32(&self.bell[0], 0x7FFFFFFF)

    def owners(self):
        """(slot, pid) of every process slot that is alive now. Cost: one system call per slot ever used."""
        self.check_open()
        return [
            (i, self.slots[i].pid)
            for i in range(SLOTS)
            if self.slots[i].generation and self.is_alive((self.slots[i].generation << 16) | <uint32_t>(i + 1))
        ]

    def listen(self):
        """Say that this process is about to wait for an append anywhere in the store; a ticket for `wait`.

        Look at whatever you wait for between the two: an append that you did not see then makes `wait` return at once.
        """
        self.check_open()
        platform.store_u32(&self.bell[1], 1)
        platform.fence()
        return platform.load_u32(&self.bell[0])

    def wait(self, uint32_t ticket, double timeout):
        """Sleep until some partition of the store was appended to since `listen`, at most `timeout` seconds and 50 ms.

        Returns whether the bell rang. Without the GIL; Ctrl-C works.
        """
        self.check_open()
        cdef uint32_t *bell = self.bell
        cdef int64_t us = <int64_t>(min(max(timeout, 0.0), 0.05) * 1e6)
        with nogil:
            platform.wait_u32(bell, ticket, us)
        PyErr_CheckSignals()
        return platform.load_u32(&bell[0]) != ticket

    def close(self):
        """Give the slot back. Locks that this handle still held would count as a dead process's."""
        with _births:
            _living.discard(self)
            self.closed = True
            self._let_go()

    def __dealloc__(self):
        # A handle that was dropped without close: the descriptors must not outlive it.
        if self.life >= 0:
            os.close(self.life)
        if self.probe >= 0:
            os.close(self.probe)

    def _after_fork(self):
        """In the child: let go of the parent's byte and take one of our own. Raises OSError when there is none to be had."""
        if self.life < 0:
            return
        self._let_go()
        self.word = 0               # never the parent's: see my_word, should the next line fail
        self._take_slot()

    def __repr__(self):
        if self.life >= 0:
            return f"<Liveness slot {self.slot} of {self.path}>"
        return f"<Liveness of {self.path}, {'closed' if self.closed or self.word else 'forked, without a slot'}>"


def _after_fork_in_child():
    # One store that has no place for this process is no reason to pass for the parent in the next.
    try:
        for living in list(_living):
            try:
                living._after_fork()
            except OSError:
                pass                # told by whatever needs the slot first
    finally:
        _births.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_births.acquire, after_in_parent=_births.release, after_in_child=_after_fork_in_child)
