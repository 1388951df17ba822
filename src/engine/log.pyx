# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Log: one partition, an append-only run of records in ordered segments, in one directory.

It promises: offsets rise by one per record as written and never come back; what an append returned is seen by every
process from that moment and survives the death of any of them; what a sync covered survives a power cut; damage is
told, and costs at most the frame it hits. It leaves to others what the records mean, and how long they are kept.

Life of an append: hash and copy nothing but what must be hashed (no lock) -> lock -> stamp offset, epoch and salted header hash
-> store header and body behind the tail -> **publish by one release store of `next_offset`** -> unlock -> ring -> with
`always`, wait for a sync that covers it. Whatever lies beyond the watermark was never written, so a writer that dies leaves
nothing to undo.

Life of a read: take the watermark once -> find the segment by bisection, the frame by the index -> check each frame's hashes ->
hand out a batch over the map. No lock.

Shared fields of one Log among threads: the fields of the active segment change only under the partition's lock, which
excludes threads as it does processes; the dicts and lists for reading are replaced or added to, never changed in place.
"""
import bisect
import errno
import json
import os
from collections.abc import Callable
from typing import NamedTuple

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_ND, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.errno cimport EIO
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from seglog.engine cimport platform
from seglog.engine.batch cimport Batch
from seglog.engine.checksum cimport xxh3_64, xxh3_64_seed
from seglog.engine.frame cimport (
    FRAME_BODY_BAD, FRAME_COLUMNS_BAD, FRAME_HEADER_BAD, FRAME_MAGIC_BAD, FRAME_OK, FRAME_SHORT, FRAME_UNKNOWN, Columns, Packed,
    Scratch, body_check, columns_end, columns_parse, compress, encode, frame_check, packed,
)
from seglog.engine.index cimport Index, build_index, create_index, open_index
from seglog.engine.layout cimport (
    LOWEST,
    ATTENTION_CLEAN, ATTENTION_DELETED, ATTENTION_FAILED, CODEC_NONE, FIXED_STRIDE, FRAME_BYTES_MAX, FRAME_HASHED,
    FRAME_HEADER, FRAME_MAGIC, HAS_HEADERS, HAS_KEYS, HAS_NULLS, HAS_TIMESTAMPS, INDEX_EVERY, INDEX_SEALED, MARK_CLEAN,
    MARK_SEALED, MARK_UNSYNCED, SEGMENT_BYTES_MAX, SEGMENT_HEADER, SHARED_BYTES, SHARED_DELETED, SHARED_FAILED, SHARED_MAGIC, SHARED_READY, SHARED_VERSION,
    FrameHeader, Mark, SegmentHeader, SharedWords, align8, frame_length, next_offset_of,
)
from seglog.engine.liveness cimport Liveness, boot_hash
from seglog.engine.mapping cimport Mapping, map_fd
from seglog.engine.record cimport Record, pack_headers, to_us
from seglog.engine.segment cimport Scanner, Segment, create_segment, open_segment
from seglog.engine.shared cimport Shared

from seglog.engine import codecs
from seglog.engine.errors import (
    ClosedError, ConfigError, CorruptBatch, CorruptSegment, LockTimeout, OffsetOutOfRange, PartitionFailed, RecordTooLarge,
    SeglogError, TopicNotFound, UnsupportedFormat, os_error,
)
from seglog.engine.liveness import file_lock
from seglog.engine.record import Span
from seglog.engine.segment import segment_name, sync_directory

cdef enum:
    # From this frame size on, pwrite beats stores into pages that are new to this process: a store takes a fault per
    # page, pwrite does not. Measured in bench/test_engine.py.
    LARGE = 32768
    POPULATE_MIN = 65536
    POPULATE_MAX = 2097152
    OPEN_SEGMENTS = 64              # sealed ones kept mapped for reading
    STACK_BODY = 2048

# When nobody can say how many offsets were given out, go on this far behind: 8 million such accidents fit into 63 bits.
cdef int64_t UNKNOWN_OFFSETS = <int64_t>1 << 40


_WHY = {
    FRAME_SHORT: "it is cut short",
    FRAME_MAGIC_BAD: "no frame begins there",
    FRAME_HEADER_BAD: "its header does not have the hash it should",
    FRAME_BODY_BAD: "its body does not have the hash it should",
    FRAME_COLUMNS_BAD: "its columns leave the frame",
    FRAME_UNKNOWN: "it is of a kind that this version does not know",
}


class Loss(NamedTuple):
    """What recovery or verification found missing or damaged: offsets `start .. stop-1` (`stop` is -1 when unknown).

    `kind` is "torn" (an unsynced tail that a crash cut), "corrupt" (bytes that changed) or "missing" (a file that is gone).
    """

    kind: str
    path: str
    position: int
    start: int
    stop: int
    size: int
    note: str


cdef bint is_segment_name(str name):
    return len(name) == 24 and name.endswith(".log") and name[:20].isdigit() and name.isascii()


cdef list list_bases(str path):
    """The base offsets of the segment files in a directory, in order. Other files are not ours to judge."""
    return sorted([int(name[:20]) for name in os.listdir(path) if is_segment_name(name)])


cdef int rewrite(int fd, int64_t start, int64_t stop) except? -99:
    """Read [start, stop) and write it back, so that every page is dirty again. 0 or -errno."""
    cdef char *block = <char *>PyMem_RawMalloc(1 << 20)
    cdef int64_t size
    cdef int rc = 0
    if block == NULL:
        raise MemoryError()
    with nogil:
        while start < stop and rc == 0:
            size = min(<int64_t>1 << 20, stop - start)
            if platform.pread_all(fd, block, size, start) != size:
                rc = -EIO
            else:
                rc = platform.pwrite_all(fd, block, size, start)
            start += size
    PyMem_RawFree(block)
    return rc


cdef int rewrite_file(str path) except -1:
    cdef int rc, fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        rc = rewrite(fd, 0, os.fstat(fd).st_size)
        if rc == 0:
            with nogil:
                rc = platform.datasync(fd)
        if rc:
            raise os_error(rc, "cannot write again", path)
    finally:
        os.close(fd)
    return 0


cdef int remove_segment(str directory, int64_t base) except -1:
    """Unlink a segment and its index; whoever has them mapped keeps them."""
    for suffix in (".log", ".idx"):
        try:
            os.unlink(os.path.join(directory, segment_name(base)[:-4] + suffix))
        except FileNotFoundError:
            pass
    return 0


def read_losses(path):
    """What recoveries of the partition in `path` found lost, oldest first: the lines of its `losses` file."""
    try:
        with open(os.path.join(path, "losses"), "rb") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return ()
    losses = []
    for line in lines:
        try:
            entry = json.loads(line)
            losses.append(Loss(*(entry[name] for name in Loss._fields)))
        except (ValueError, KeyError, TypeError):
            continue                # a line that a crash cut: the next recovery finds the same again
    return tuple(losses)


def write_losses(path, losses, now):
    """Remember losses beside the data, before anything else makes them hard to see."""
    if not losses:
        return
    name = os.path.join(path, "losses")
    with open(name, "ab") as file:
        for loss in losses:
            file.write(json.dumps({"time": now, **loss._asdict()}).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


cdef class Log:
    """One partition in the directory `path`, shared with every process that opens it.

    Sizes are in bytes, `segment_age` and `lock_timeout` in seconds, `clock` returns µs since the epoch. Opening costs a few system
    calls after a clean close or a killed process, whatever the size; a scan from the durable mark after a power cut.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as d, Log(d) as log:
    ...     _ = log.append(b"one"), log.append_many([b"two", b"three"])
    ...     log.read(0).values.tolist(), log.next_offset
    ([b'one', b'two', b'three'], 3)
    """

    def __cinit__(self):
        self.w = NULL
        self.shut = True            # until it is open

    def __init__(
        self,
        path,
        *,
        bint create=True,
        int64_t partition=0,
        int64_t segment_bytes=67108864,
        int64_t segment_bytes_min=1048576,
        double segment_age=0.0,
        str fsync="interval",
        str write="auto",
        str codec="none",
        int64_t batch_bytes=262144,
        int64_t record_bytes_max=67108864,
        str recover="raise",
        clock=None,
        Liveness liveness=None,
        double lock_timeout=30.0,
    ):
        if self.shared is not None:
            raise ValueError("a log is opened once")
        for name, given, allowed in (
            ("fsync", fsync, ("never", "interval", "always")), ("write", write, ("auto", "map", "pwrite")),
            ("recover", recover, ("raise", "skip")), ("codec", codec, tuple(codecs.NAMES)),
        ):
            if given not in allowed:
                raise ConfigError(f"{name} is one of {', '.join(allowed)}, not {given!r}", setting=name, value=given)
        for name, number, low, high in (
            ("segment_bytes", segment_bytes, 65536, SEGMENT_BYTES_MAX), ("segment_bytes_min", segment_bytes_min, 65536, SEGMENT_BYTES_MAX),
            ("batch_bytes", batch_bytes, 1024, FRAME_BYTES_MAX // 2), ("record_bytes_max", record_bytes_max, 1, FRAME_BYTES_MAX // 2),
        ):
            if not low <= number <= high:
                raise ConfigError(f"{name} is {number:,}; it must be from {low:,} to {high:,}", setting=name, value=number)
        if not 0 <= segment_age < 1e9 or not 0 < lock_timeout < 1e9:
            raise ConfigError("segment_age and lock_timeout are seconds, not negative, below 1e9", setting="segment_age")
        self.path = os.fspath(path)
        self.partition = partition
        self.segment_bytes = segment_bytes
        self.segment_bytes_min = min(segment_bytes_min, segment_bytes)
        self.segment_age_us = <int64_t>(segment_age * 1e6)
        self.batch_bytes, self.record_bytes_max = batch_bytes, record_bytes_max
        self.fsync = FSYNC_NEVER if fsync == "never" else FSYNC_ALWAYS if fsync == "always" else FSYNC_INTERVAL
        self.by_pwrite = write == "pwrite"
        self.skip_corrupt = recover == "skip"
        self.codec = codecs.NAMES[codec]
        self.squeeze = codecs.load(codec)[0] if self.codec else None
        self.expand = {}
        self.clock = clock
        self.losses = ()
        self.bases, self.bases_version, self.open_segments, self.indexes = [], -1, {}, {}
        self.base = -1
        self.spare = Scratch.__new__(Scratch)
        self._open(create, liveness, lock_timeout)

    # ---- opening -----------------------------------------------------------------------------------------------

    def _open(self, create, Liveness liveness, double lock_timeout):
        cdef Shared shared = Shared.__new__(Shared)
        cdef SharedWords *w
        cdef Mapping mapping
        cdef bint ours, known
        if create and not os.path.isdir(self.path):
            try:
                os.makedirs(self.path, exist_ok=True)
                sync_directory(os.path.dirname(os.path.abspath(self.path)))
            except OSError as error:
                raise os_error(-error.errno, "cannot make the directory", self.path) from error
        elif not os.path.isdir(self.path):
            raise FileNotFoundError(errno.ENOENT, "there is no partition directory", self.path)
        if liveness is None:
            liveness = Liveness(self.path)
        self.boot = boot_hash()
        name = os.path.join(self.path, "shm" if liveness.path != self.path else "tail.shm")
        try:
            fd = os.open(name, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise os_error(-error.errno, "cannot open", name) from error
        try:
            with file_lock(fd, name, lock_timeout):
                status = os.fstat(fd)
                if status.st_size < SHARED_BYTES:
                    # Real zeros: a hole could fail at a store, by a signal, when the disk is full.
                    rc = platform.pwrite_all(fd, b"\0" * 4096, SHARED_BYTES, 0)
                    if rc:
                        raise os_error(rc, "cannot make", name)
                mapping = map_fd(fd, SHARED_BYTES, True)
                shared.path, shared.mapping, shared.liveness = self.path, mapping, liveness
                shared.words = w = <SharedWords *>mapping.data
                shared.lock_timeout_us = <int64_t>(lock_timeout * 1e6)
                self.shared, self.w = shared, w
                # `known`: words of this boot, so what they say happened. `ours`: of this very file, not of a copy.
                known = w.magic == SHARED_MAGIC and w.version == SHARED_VERSION and w.boot == self.boot
                ours = known and w.device == <uint64_t>status.st_dev and w.inode == <uint64_t>status.st_ino
                if not (
                    ours and w.state == SHARED_READY
                    and os.path.exists(os.path.join(self.path, segment_name(w.active_base)))
                ):
                    if ours:
                        # Others may have these words mapped (a failed sync): not while they are in the middle of an append.
                        shared.lock()
                    try:
                        self._recover(status, known, ours)
                    finally:
                        if w.lock == liveness.word:
                            shared.unlock()
                else:
                    self.losses = read_losses(self.path)
                self.incarnation = w.incarnation
                self.shut = False
        except OSError as error:
            if isinstance(error, SeglogError):
                raise
            raise os_error(-error.errno, "cannot open", error.filename or self.path) from error
        finally:
            os.close(fd)

    def _recover(self, status, bint known, bint ours):
        """Make the shared words from the files. Alone: the caller holds the lock of the shm file, and any live handle of old."""
        cdef SharedWords *w = self.w
        cdef Segment last = None, fresh
        cdef Scanner scan
        cdef Mark mark
        cdef SegmentHeader header
        cdef int64_t position = SEGMENT_HEADER, end = 0, next_base = 0, start = 0, torn, found
        cdef int64_t rewrite_from = w.durable_base if ours and w.state == SHARED_FAILED else -1
        cdef int code = FRAME_OK
        cdef uint32_t epoch = 1, incarnation = w.incarnation + 1
        cdef bint clean = False, marked = False, blank, empty = False
        cdef list losses = [], bases
        cdef uint64_t identity = <uint64_t>int.from_bytes(os.urandom(8), "little")
        if known:
            next_base = max(w.next_offset, 0)   # given out in this boot, whatever became of the files
        w.state = 0
        platform.or_u32(&w.attention, ATTENTION_FAILED)
        for name in os.listdir(self.path):
            if name.endswith(".log.tmp") or name.endswith(".idx.tmp"):
                os.unlink(os.path.join(self.path, name))
        platform.failpoint("recover.begin")
        # The process before may have died between a rename and its sync.
        sync_directory(self.path)
        bases = list_bases(self.path)
        memset(&mark, 0, sizeof(Mark))
        while bases:
            path = os.path.join(self.path, segment_name(bases[-1]))
            try:
                last = open_segment(path, True, self.by_pwrite)
                break
            except CorruptSegment as error:
                losses.append(Loss("corrupt", path, 0, bases[-1], -1, os.path.getsize(path), str(error)))
                # How many offsets it gave out is in there, unreadable; this many it did not.
                next_base = max(next_base, bases[-1] + UNKNOWN_OFFSETS)
                bases.pop()
        if last is not None:
            identity = last.header.partition_id
            marked = last.read_mark(&mark)
            start = max(last.header.start_offset, mark.start_offset)
            epoch = max(last.header.epoch, mark.epoch)
            marked = marked and not mark.flags & MARK_UNSYNCED
            if marked:
                position, end = mark.durable_position, mark.durable_offset
            else:
                end = last.base_offset
            scan = Scanner(last, position, end)
            while True:
                PyErr_CheckSignals()
                code = scan.step()
                if code == FRAME_OK:
                    continue
                if code == FRAME_UNKNOWN:
                    raise UnsupportedFormat(
                        f"{last.path} holds a frame at {scan.position:,} of a kind that this version does not know. "
                        "Nothing was changed; use a newer seglog.", path=last.path, found=-1, supported=1,
                    )
                if marked:
                    break           # above a durable mark: a torn tail, whatever lies behind it
                # Never synced on purpose: no promise was made, so keep whatever the disk kept.
                found = scan.resync(scan.position, scan.offset + 1)
                if found < 0:
                    break
                following = (<const FrameHeader *>scan.need(found, FRAME_HEADER)).base_offset
                losses.append(Loss("torn", last.path, scan.position, scan.offset, following, found - scan.position, _WHY[code]))
                scan.offset, scan.position = following, found
            epoch = max(epoch, scan.epoch)
            blank = scan.blank(scan.position)
            clean = (
                marked and mark.flags & MARK_CLEAN and scan.position == position and blank
                and next_base <= scan.offset and last.size == last.header.capacity
            )
            position, end = scan.position, scan.offset
            if mark.flags & MARK_SEALED and mark.end_offset == end:
                # A successor was durable before this mark was written: it is gone.
                losses.append(Loss("missing", last.path, position, end, -1, 0, "the segment files after this one are gone"))
                next_base = max(next_base, end + UNKNOWN_OFFSETS)
                clean = False
            if not clean:
                torn = 0 if blank else last.size - position
                if torn:
                    losses.append(Loss("torn", last.path, position, end, -1, torn, _WHY[code]))
                if last.size < last.header.capacity:
                    losses.append(Loss("missing", last.path, last.size, end, -1, last.header.capacity - last.size,
                                       "the file was cut short"))
                platform.failpoint("recover.scanned")
                self._settle(last, &mark, marked, position, end, epoch)
                platform.failpoint("recover.settled")
                next_base = max(next_base, end, last.header.reserved_offset)
                epoch += 1
        if rewrite_from >= 0 or (known and not ours):
            # After a failed sync the cache may hold what the disk does not; and nobody ever synced a copy.
            for base in bases:
                if base >= rewrite_from:
                    rewrite_file(os.path.join(self.path, segment_name(base)))
        losses.extend(self._missing_segments(bases, start))
        if bases and start < bases[0] and last is not None and not mark.flags & MARK_UNSYNCED:
            losses.append(Loss("missing", self.path, 0, start, bases[0], 0, "the first segment files are gone"))
        if clean:
            fresh = last
        else:
            memset(&header, 0, sizeof(header))
            header.base_offset = next_base
            header.capacity = self.segment_bytes_min
            header.reserved_offset = next_base + header.capacity // 8
            header.created = self.now()
            header.epoch = epoch
            header.partition_id = identity
            empty = last is not None and end == last.base_offset and next_base > end
            # An empty segment goes, and its successor says in its place where the one before ended.
            header.previous_end = next_base if last is None else last.header.previous_end if empty else end
            header.start_offset = start
            memset(&mark, 0, sizeof(mark))
            mark.durable_position = SEGMENT_HEADER
            mark.durable_offset = next_base
            mark.start_offset = start
            mark.flags = MARK_CLEAN
            mark.epoch = epoch
            fresh = create_segment(self.path, &header, &mark, self.by_pwrite, True)
            platform.failpoint("recover.made")
            if empty:
                remove_segment(self.path, last.base_offset)
                bases.pop()
            elif last is not None:
                # The successor is durable: now the old one may say that it is complete.
                last.read_mark(&mark)
                mark.flags |= MARK_SEALED
                mark.end_position, mark.end_offset = position, end
                last.write_mark(&mark)
            position, end = SEGMENT_HEADER, next_base
            bases.append(next_base)
        write_losses(self.path, losses, self.now())
        platform.failpoint("recover.words")
        if not ours:
            memset(w, 0, SHARED_BYTES)
            platform.or_u32(&w.attention, ATTENTION_FAILED)
        w.incarnation = incarnation
        w.version = SHARED_VERSION
        w.boot, w.device, w.inode, w.partition_id = self.boot, status.st_dev, status.st_ino, identity
        w.tail_position = w.durable_position = position
        w.active_base = w.durable_base = fresh.base_offset
        w.active_salt = fresh.salt
        w.max_timestamp = LOWEST
        w.indexed_position = -INDEX_EVERY
        w.epoch = epoch
        w.first_offset = max(start, bases[0])
        w.segments += 1
        platform.store_i64(&w.durable_offset, end)
        platform.store_i64(&w.next_offset, end)
        if clean:
            self._resume_index(fresh, position, end)
        else:
            create_index(fresh, self.boot)
        platform.failpoint("recover.filled")
        w.magic = SHARED_MAGIC
        platform.exchange_u32(&w.attention, ATTENTION_CLEAN)
        platform.store_u32(&w.state, SHARED_READY)
        self.losses = read_losses(self.path)

    cdef _settle(
        self, Segment last, Mark *mark, bint marked, int64_t position, int64_t end, uint32_t epoch,
    ):
        """Make what survived durable, and what did not survive gone: old bytes must not come back behind new ones."""
        cdef int rc
        # After a failed sync the cache may hold pages, marked clean, that the disk never saw: write them again.
        rc = rewrite(last.fd, mark.durable_position if marked else SEGMENT_HEADER, position)
        if rc == 0:
            with nogil:
                rc = platform.zero(last.fd, position, last.size)
                if rc == 0:
                    rc = last.sync()
        platform.failpoint("settle.zeroed")
        if rc == 0:
            mark.durable_position, mark.durable_offset = position, end
            mark.flags = 0
            mark.epoch = epoch
            rc = last.write_mark(mark)
            if rc == 0:
                with nogil:
                    rc = last.sync()
        if rc:
            raise os_error(rc, "cannot repair the tail of", last.path)

    def _missing_segments(self, list bases, int64_t start):
        """Losses for files that are gone: each segment says where the one before it ended."""
        cdef list losses = []
        cdef Segment segment, previous = None
        cdef Mark mark
        for base in bases:
            path = os.path.join(self.path, segment_name(base))
            try:
                segment = open_segment(path, False, False)
            except FileNotFoundError:
                continue
            except CorruptSegment as error:
                losses.append(Loss("corrupt", path, 0, base, -1, os.path.getsize(path), str(error)))
                previous = None
                continue
            if previous is not None and previous.read_mark(&mark) and mark.flags & MARK_SEALED \
                    and mark.end_offset < segment.header.previous_end and segment.header.previous_end > start:
                losses.append(Loss("missing", previous.path, mark.end_position, max(start, mark.end_offset),
                                   segment.header.previous_end, 0, "segment files between this one and the next are gone"))
            previous = segment
        return losses

    def _resume_index(self, Segment segment, int64_t position, int64_t end):
        """After a clean close: go on with the index that is there, or with a new one of the same content."""
        cdef Index index = open_index(segment, self.boot), built
        cdef SharedWords *w = self.w
        cdef const FrameHeader *h
        cdef int64_t at = SEGMENT_HEADER
        if index is None or not index.header.flags & INDEX_SEALED or index.room < index.header.count + 1:
            built = build_index(segment, position, end, False)
            index = create_index(segment, self.boot)
            index.header.count = built.header.count
            memcpy(index.entries, built.entries, built.header.count * 16)
        index.header.flags = 0
        index.header.boot = self.boot
        # Timestamps behind the last entry are found again by walking the few frames there.
        if index.header.count:
            at = index.entries[index.header.count - 1].position
            w.indexed_position = at
            w.max_timestamp = index.entries[index.header.count - 1].max_timestamp
        while at < position and frame_check(segment.data + at, segment.size - at, segment.salt) == FRAME_OK:
            h = <const FrameHeader *>(segment.data + at)
            w.max_timestamp = max(w.max_timestamp, h.max_timestamp)
            at += frame_length(h)

    # ---- the shared state --------------------------------------------------------------------------------------

    cdef int64_t now(self) except? -1:
        if self.clock is None:
            return platform.now_us()
        return self.clock()

    cdef int check_state(self) except -1:
        if self.shut:
            raise ClosedError(f"the log in {self.path} was closed before this call; nothing was read or written")
        if self.w.incarnation != self.incarnation or self.w.attention & (ATTENTION_FAILED | ATTENTION_DELETED):
            if self.w.attention & ATTENTION_DELETED:
                raise TopicNotFound(f"the partition in {self.path} was deleted", path=self.path, name=self.path)
            raise PartitionFailed(
                f"a sync of {self.path} failed, so records above offset {self.w.durable_offset:,} may not be on disk. No "
                "further append is taken. Close the store in every process and open it again: that verifies and repairs.",
                path=self.path, durable_offset=self.w.durable_offset,
            )
        return 0

    cdef int fail(self, int code, str path) except -1:
        """A sync failed: final, for every process, until the partition is reopened."""
        platform.or_u32(&self.w.attention, ATTENTION_FAILED)
        platform.exchange_u32(&self.w.state, SHARED_FAILED)
        self.w.bell_waiting = 1
        self.shared.ring()
        platform.add_u32(&self.w.sync_bell, 1)
        platform.wake_u32(&self.w.sync_bell, 0x7FFFFFFF)
        raise PartitionFailed(
            f"syncing {path} failed: {os.strerror(-code)}. Records above offset {self.w.durable_offset:,} may not be on disk. "
            "No further append is taken. Close the store in every process and open it again: that verifies and repairs.",
            errno=-code, path=path, durable_offset=self.w.durable_offset,
        )

    cdef int lock(self) except -1:
        """Take the partition's lock; behind a holder that died, find the tail again first."""
        cdef Shared shared = self.shared
        if self.shut:
            self.check_state()
        if shared.lock() == 2:
            try:
                self.repair()
            except BaseException:
                shared.unlock()
                raise
        return 0

    cdef int repair(self) except -1:
        """Under the lock, after a holder died: the watermark is the truth, find its position again.

        The dead may have published and not moved `tail_position`, or switched to a new segment and not said so, or made one and
        not switched to it: that one is empty, and the next roll removes it.
        """
        cdef SharedWords *w = self.w
        cdef int64_t position = SEGMENT_HEADER, offset, found, highest = LOWEST
        cdef const FrameHeader *h
        cdef Segment segment = open_segment(os.path.join(self.path, segment_name(w.active_base)), True, self.by_pwrite)
        w.active_salt = segment.salt
        offset = segment.base_offset
        with nogil:
            while offset < w.next_offset:
                if frame_check(segment.data + position, segment.size - position, segment.salt) != FRAME_OK:
                    # Damage that nobody has read yet: step over it, it is told when it is read.
                    found = segment.next_frame(position, segment.size, offset + 1, w.next_offset)
                    if found < 0:
                        break
                    position = found
                h = <const FrameHeader *>(segment.data + position)
                offset = next_offset_of(h)
                highest = max(highest, h.max_timestamp)
                position += frame_length(h)
        if offset != w.next_offset:
            platform.or_u32(&w.attention, ATTENTION_FAILED)
            platform.exchange_u32(&w.state, SHARED_FAILED)
            raise PartitionFailed(
                f"{segment.path}: a writer died, and the frames up to offset {w.next_offset:,} cannot be found again: the walk ends at "
                f"position {position:,}, offset {offset:,}. No further append is taken. Close the store in every process and open "
                "it again: that verifies and repairs.", path=segment.path, durable_offset=w.durable_offset,
            )
        w.tail_position = position
        platform.failpoint("repair.walked")
        w.max_timestamp = highest
        w.indexed_position = -INDEX_EVERY
        platform.store_i64(&w.segments, w.segments + 1)
        self.base, self.salt = -1, 0    # look again: at the segment, and at its index
        return 0

    cdef int adopt(self, Segment segment, Index index) except -1:
        """Under the lock: from now on this is the segment that this handle writes."""
        # Entries will follow: a seal that a close left is no longer true.
        index.header.flags = 0
        index.header.boot = self.boot
        self.active, self.index = segment, index
        self.data, self.base, self.salt = segment.data, segment.base_offset, segment.salt
        self.capacity, self.reserved_offset = segment.size, segment.header.reserved_offset
        self.stores = not segment.by_pwrite
        self.populated = 0
        return 0

    cdef int open_active(self) except -1:
        """Under the lock: another process rolled, or this handle has not written yet."""
        cdef SharedWords *w = self.w
        cdef Segment segment = open_segment(os.path.join(self.path, segment_name(w.active_base)), True, self.by_pwrite)
        cdef Index index = open_index(segment, self.boot), built
        if index is None:
            index = create_index(segment, self.boot)
            w.indexed_position = -INDEX_EVERY
            if w.tail_position > SEGMENT_HEADER:
                built = build_index(segment, w.tail_position, w.next_offset, False)
                index.header.count = built.header.count
                memcpy(index.entries, built.entries, index.header.count * 16)
        return self.adopt(segment, index)

    cdef int make_room(self, int64_t size, int64_t count) except -1:
        """Under the lock, when `place` would not: see why, and make it so that it will."""
        cdef SharedWords *w = self.w
        cdef Mark mark
        cdef int64_t window, start
        cdef int rc
        self.check_state()
        if w.active_salt != self.salt or w.active_base != self.base:
            self.open_active()
        if w.attention & ATTENTION_CLEAN:
            # The mark says that nothing lies behind it. Take that back, on disk, before it becomes untrue.
            self.active.read_mark(&mark)
            mark.flags &= ~<uint32_t>MARK_CLEAN
            mark.epoch = w.epoch
            if self.fsync == FSYNC_NEVER and mark.durable_position == SEGMENT_HEADER:
                mark.flags |= MARK_UNSYNCED
            rc = self.active.write_mark(&mark)
            if rc == 0:
                with nogil:
                    rc = self.active.sync()
            if rc:
                self.fail(rc, self.active.path)
            self.index.header.flags = 0
            self.index.header.boot = self.boot
            platform.failpoint("clean.cleared")
            platform.and_u32(&w.attention, ~<uint32_t>ATTENTION_CLEAN)
        if w.tail_position + size > self.capacity or w.next_offset + count > self.reserved_offset:
            self.roll(size, count)
        if self.stores and size < LARGE and w.tail_position + size > self.populated:
            # Store only into pages that are there: the kernel reports here what would be a signal at a store.
            start = w.tail_position & ~<int64_t>4095
            window = min(max(w.tail_position, <int64_t>POPULATE_MIN), <int64_t>POPULATE_MAX)
            if self.fsync == FSYNC_ALWAYS:
                window = POPULATE_MIN
            window = min(max(window, size + 4096), self.capacity - start)
            with nogil:
                rc = platform.populate(self.data + start, window)
            if rc:
                raise os_error(rc, "cannot make room in", self.active.path)
            self.populated = start + window
        return 0

    cdef int sync_older(self, int64_t base) except -1:
        """Put the segments before `base` on disk that are not known to be (fsync="never" left them), oldest first."""
        cdef int rc, fd
        cdef SharedWords *w = self.w
        if w.durable_base >= base:
            return 0
        for older in list_bases(self.path):
            if not w.durable_base <= older < base:
                continue
            path = os.path.join(self.path, segment_name(older))
            try:
                fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
            except FileNotFoundError:
                continue            # trimmed meanwhile
            try:
                with nogil:
                    rc = platform.datasync(fd)
            finally:
                os.close(fd)
            if rc:
                self.fail(rc, path)
        return 0

    cdef int roll(self, int64_t size, int64_t count) except -1:
        """Under the lock: go on in a new segment. The old one is whole on disk first, unless fsync is `never`."""
        cdef SharedWords *w = self.w
        cdef Segment old = self.active, fresh
        cdef Index old_index = self.index, index
        cdef SegmentHeader header
        cdef Mark mark
        cdef int64_t tail = w.tail_position, highest = w.max_timestamp
        cdef int rc
        cdef bint synced = self.fsync != FSYNC_NEVER, empty = w.next_offset == old.base_offset
        if synced:
            self.sync_older(old.base_offset)
            with nogil:
                rc = old.sync()
            if rc:
                self.fail(rc, old.path)
        # A roll that failed, or a writer that died in one, may have left an empty segment behind.
        for stray in list_bases(self.path):
            if stray > w.active_base:
                remove_segment(self.path, stray)
        memset(&header, 0, sizeof(header))
        header.base_offset = w.next_offset
        # A segment that never held a record is replaced, for instance by one that a large first frame fits in.
        header.previous_end = old.header.previous_end if empty else w.next_offset
        header.capacity = min(max(old.header.capacity * 2, self.segment_bytes_min), self.segment_bytes)
        header.capacity = (max(header.capacity, SEGMENT_HEADER + size) + 4095) & ~<int64_t>4095
        header.reserved_offset = header.base_offset + max(header.capacity // 8, count)
        header.created = self.now()
        header.epoch = w.epoch
        header.partition_id = w.partition_id
        header.start_offset = w.first_offset
        memset(&mark, 0, sizeof(mark))
        mark.durable_position = SEGMENT_HEADER
        mark.durable_offset = header.base_offset
        mark.start_offset = w.first_offset
        mark.epoch = w.epoch
        mark.flags = 0 if synced else MARK_UNSYNCED
        platform.failpoint("roll.synced")
        fresh = create_segment(self.path, &header, &mark, self.by_pwrite, True)
        platform.failpoint("roll.made")
        index = create_index(fresh, self.boot)
        w.tail_position = SEGMENT_HEADER
        w.max_timestamp = LOWEST
        w.indexed_position = -INDEX_EVERY
        platform.failpoint("roll.switching")
        w.active_salt = fresh.salt
        platform.store_i64(&w.active_base, header.base_offset)
        platform.failpoint("roll.switched")
        if synced:
            w.durable_position, w.durable_base = SEGMENT_HEADER, header.base_offset
            platform.store_i64(&w.durable_offset, header.base_offset)
        platform.store_i64(&w.segments, w.segments + 1)
        self.adopt(fresh, index)
        if empty:
            return 0
        # The successor is durable and in use: now the old one may say that it is complete, and give back what it did not need.
        platform.failpoint("roll.sealing")
        old.read_mark(&mark)
        mark.flags |= MARK_SEALED
        mark.end_position, mark.end_offset = tail, header.base_offset
        mark.start_offset, mark.epoch = w.first_offset, w.epoch
        if synced:
            mark.flags &= ~<uint32_t>MARK_UNSYNCED
            mark.durable_position, mark.durable_offset = tail, header.base_offset
        old.write_mark(&mark)
        old_index.seal(highest)
        if not old.by_pwrite:
            platform.punch(old.fd, tail, old.size)
        platform.failpoint("roll.sealed")
        return 0

    # ---- appending ---------------------------------------------------------------------------------------------

    cdef int64_t place(self, FrameHeader *h, const char *body) noexcept nogil:
        """Under the lock: stamp, store, publish. The base offset given, or -1 when `make_room` must look first, or a -errno - 1."""
        cdef SharedWords *w = self.w
        cdef int64_t position = w.tail_position, offset = w.next_offset, size = frame_length(h)
        cdef char *at
        cdef int rc
        if w.attention or w.active_salt != self.salt or position + size > self.capacity \
                or offset + h.count > self.reserved_offset:
            return -1
        h.base_offset = offset
        h.epoch = w.epoch
        h.header_hash = xxh3_64_seed(h, FRAME_HASHED, self.salt)
        if size >= LARGE or not self.stores:
            rc = self.write_large(h, body, position)
            if rc:
                return rc - 1
        else:
            if position + size > self.populated:
                return -1
            at = self.data + position
            memcpy(at, h, FRAME_HEADER)
            platform.failpoint("place.header")
            memcpy(at + FRAME_HEADER, body, h.body_length)
            # The padding may hold bytes of a writer that died here.
            memset(at + FRAME_HEADER + h.body_length, 0, size - FRAME_HEADER - h.body_length)
        platform.failpoint("place.stored")
        if position - w.indexed_position >= INDEX_EVERY:
            if self.index is not None:
                self.index.add(offset - self.base, position, w.max_timestamp)
            w.indexed_position = position
        if h.max_timestamp > w.max_timestamp:
            w.max_timestamp = h.max_timestamp
        platform.failpoint("place.indexed")
        platform.store_i64(&w.next_offset, offset + h.count)
        platform.failpoint("place.published")
        # A writer that dies between these two stores leaves the second to its successor: see repair.
        w.tail_position = position + size
        platform.failpoint("place.moved")
        return offset

    cdef int write_large(self, FrameHeader *h, const char *body, int64_t position) noexcept nogil:
        """By pwrite: no page faults. Header and body are neighbours when the frame was built in one piece."""
        cdef char zeros[8]
        cdef int64_t padding = frame_length(h) - FRAME_HEADER - h.body_length
        cdef int rc
        if body == <const char *>h + FRAME_HEADER:
            return platform.pwrite_all(self.active.fd, <const char *>h, frame_length(h), position)
        rc = platform.pwrite_all(self.active.fd, <const char *>h, FRAME_HEADER, position)
        if rc == 0:
            rc = platform.pwrite_all(self.active.fd, body, h.body_length, position + FRAME_HEADER)
        if rc == 0 and padding:
            memset(zeros, 0, 8)
            rc = platform.pwrite_all(self.active.fd, zeros, padding, position + FRAME_HEADER + h.body_length)
        return rc

    cdef int64_t commit(self, FrameHeader *h, const char *body) except -1:
        """Append one frame whose body is hashed already. Returns its base offset."""
        cdef Shared shared = self.shared
        cdef int64_t offset
        self.lock()
        offset = self.place(h, body)
        if offset < 0:
            try:
                while offset == -1:
                    self.make_room(frame_length(h), h.count)
                    if frame_length(h) >= LARGE or not self.stores:
                        with nogil:
                            offset = self.place(h, body)
                    else:
                        offset = self.place(h, body)
                if offset < 0:
                    raise os_error(<int>(offset + 1), "cannot write to", self.active.path)
            except BaseException:
                shared.unlock()
                raise
        shared.unlock()
        shared.ring()
        if self.fsync == FSYNC_ALWAYS:
            self.sync_to(offset + h.count)
        return offset

    cdef int64_t append_record(self, object value, object key, object headers, object timestamp) except -1:
        """One record, the fast way: no scratch memory when it has neither key nor headers."""
        cdef FrameHeader h
        cdef bytes held, key_held, header_held
        cdef const char *data = NULL
        cdef int64_t size = -1, key_size = -1, header_size = 0, at = 0
        cdef int32_t *offsets
        cdef char *body
        cdef char small[STACK_BODY]
        if self.shut:
            self.check_state()
        memset(&h, 0, FRAME_HEADER)
        h.base_timestamp = h.max_timestamp = self.now() if timestamp is None else to_us(timestamp)
        if type(value) is bytes:
            held = <bytes>value
        elif value is None:
            held = None
        else:
            held = one_bytes(value, "value")
        if held is not None:
            data, size = PyBytes_AS_STRING(held), PyBytes_GET_SIZE(held)
        key_held = None if key is None else key if type(key) is bytes else one_bytes(key, "key")
        header_held = pack_headers(headers) if headers is not None else None
        if key_held is not None:
            key_size = PyBytes_GET_SIZE(key_held)
        if header_held is not None:
            header_size = PyBytes_GET_SIZE(header_held)
        at = max(size, 0) + max(key_size, 0) + header_size
        if at > self.record_bytes_max:
            raise RecordTooLarge(
                f"the record has {at:,} bytes; the limit is {self.record_bytes_max:,} (record_bytes_max). Nothing was written.",
                size=at, limit=self.record_bytes_max, index=0,
            )
        h.magic = FRAME_MAGIC
        h.count = h.span = 1
        if self.codec and at >= 128:
            return self.append_packed(
                packed([value], "value"), None if key is None else packed([key], "key"),
                None if header_held is None else packed([header_held], "header"), &h.base_timestamp, NULL, 1)[0].start
        if key_size < 0 and header_size == 0 and size >= 0:
            h.flags = FIXED_STRIDE
            h.body_length = <uint32_t>size
            h.body_hash = xxh3_64(data, size)
            return self.commit(&h, data)
        at += 64
        body = small
        if at > STACK_BODY:
            body = <char *>PyMem_RawMalloc(at)
            if body == NULL:
                raise MemoryError()
        try:
            at = 0
            if key_size >= 0:
                h.flags |= HAS_KEYS
                offsets = <int32_t *>(body + at)
                offsets[0], offsets[1] = 0, <int32_t>key_size
                at += 8
            if header_size:
                h.flags |= HAS_HEADERS
                offsets = <int32_t *>(body + at)
                offsets[0], offsets[1] = 0, <int32_t>header_size
                at += 8
            if size >= 0:
                h.flags |= FIXED_STRIDE
            else:
                h.flags |= HAS_NULLS
                memset(body + at, 0, 16)        # offsets 0, 0 and a bitmap that says: no value
                at += 16
            if key_size >= 0:
                memcpy(body + at, PyBytes_AS_STRING(key_held), key_size)
                memset(body + at + key_size, 0, align8(key_size) - key_size)
                at += align8(key_size)
            if header_size:
                memcpy(body + at, PyBytes_AS_STRING(header_held), header_size)
                memset(body + at + header_size, 0, align8(header_size) - header_size)
                at += align8(header_size)
            if size > 0:
                memcpy(body + at, data, size)
                at += size
            h.body_length = <uint32_t>at
            h.body_hash = xxh3_64(body, at)
            return self.commit(&h, body)
        finally:
            if body != small:
                PyMem_RawFree(body)

    cdef list append_packed(
        self, Packed values, Packed keys, Packed headers, const int64_t *timestamps, const int32_t *select, int64_t n,
    ):
        """Items 0 .. n-1 (of `select`, when given) in as many frames as they need. Each frame is visible as a whole."""
        cdef Scratch scratch = self.spare
        cdef int64_t at = 0, took, offset, now = self.now() if timestamps == NULL else 0
        cdef list spans = []
        cdef object error
        # Another thread may be using the spare one: its appends let go of the GIL.
        self.spare = None
        if scratch is None:
            scratch = Scratch.__new__(Scratch)
        try:
            while at < n:
                took = encode(
                    scratch, values, keys, headers, timestamps, now, select, at, n, self.batch_bytes, self.record_bytes_max)
                if self.codec:
                    compress(scratch, self.codec, self.squeeze)
                offset = self.commit(<FrameHeader *>scratch.data, scratch.data + FRAME_HEADER)
                if spans and spans[-1].stop == offset:
                    spans[-1] = Span(self.partition, spans[-1].start, offset + took)
                else:
                    spans.append(Span(self.partition, offset, offset + took))
                at += took
        except Exception as error:
            error.accepted = at
            raise
        finally:
            self.spare = scratch
        return spans

    def append(self, value, key=None, headers=None, timestamp=None):
        """Append one record; its offset.

        `value` is bytes-like or None (a tombstone), `key` bytes-like or None, `headers` a mapping of str to bytes, `timestamp` µs
        since the epoch or an aware datetime (default: now). Raises TypeError, RecordTooLarge, StoreFull,
        PartitionFailed, LockTimeout, ClosedError. Cost: about 100 ns; with fsync "always" one fdatasync, shared with all who wait.
        """
        return self.append_record(value, key, headers, timestamp)

    def append_many(self, values, keys=None, headers=None, timestamps=None):
        """Append many records; the runs of offsets they took, as a list of Span.

        `values` and `keys`: a list of bytes-like (None: null), a `Packed`, a `Column`, or an array whose rows are records.
        `headers`: a list of mappings (or None). `timestamps`: µs, an int64 array or a list. All have the same length. They go out in
        frames of up to `batch_bytes`; each is visible as a whole. Raises as `append`; an error's `accepted` says
        how many records were appended before it.
        """
        if self.shut:
            self.check_state()
        cdef Packed v = packed(values, "value")
        cdef Packed k = None if keys is None else packed(keys, "key")
        cdef Packed h = None if headers is None else pack_header_list(headers)
        cdef Times t = None if timestamps is None else Times(timestamps)
        same_length(v.count, k, h, t)
        return self.append_packed(v, k, h, <const int64_t *>NULL if t is None else t.data, NULL, v.count)

    # ---- durability --------------------------------------------------------------------------------------------

    cdef int sync_to(self, int64_t target) except -1:
        """Everything below `target` is on disk when this returns. One sync serves all who wait, in any process."""
        cdef Shared shared = self.shared
        cdef SharedWords *w = shared.words
        cdef uint32_t me = shared.liveness.word, holder, heard
        cdef Liveness liveness = shared.liveness
        while platform.load_i64(&w.durable_offset) < target:
            self.check_state()
            holder = platform.load_u32(&w.sync_lock)
            if (holder == 0 or not liveness.is_alive(holder)) and platform.cas_u32(&w.sync_lock, holder, me):
                try:
                    if platform.load_i64(&w.durable_offset) < target:
                        self.sync_now(holder != 0)
                finally:
                    platform.exchange_u32(&w.sync_lock, 0)
                    if w.sync_waiting:
                        w.sync_waiting = 0
                        platform.add_u32(&w.sync_bell, 1)
                        platform.wake_u32(&w.sync_bell, 0x7FFFFFFF)
                continue
            with nogil:
                platform.store_u32(&w.sync_waiting, 1)
                heard = platform.load_u32(&w.sync_bell)
                platform.fence()
                if platform.load_i64(&w.durable_offset) < target and platform.load_u32(&w.sync_lock) != 0:
                    platform.wait_u32(&w.sync_bell, heard, 20000)
            PyErr_CheckSignals()
        return 0

    cdef int sync_now(self, bint after_death) except -1:
        """Holding the sync lock: put on disk what is published now. `after_death`: its last holder died in here."""
        cdef SharedWords *w = self.w
        cdef Shared shared = self.shared
        cdef Segment segment
        cdef Mark mark
        cdef int64_t offset, position, base
        cdef int rc = 0
        self.lock()
        try:
            self.check_state()
            if w.active_salt != self.salt or w.active_base != self.base:
                self.open_active()
            offset, position, base, segment = w.next_offset, w.tail_position, w.active_base, self.active
            if w.durable_offset >= offset:
                return 0            # a roll was faster
            if after_death:
                # Its sync may have failed, and taken the kernel's only report of that with it.
                rc = rewrite(segment.fd, w.durable_position if w.durable_base == base else SEGMENT_HEADER, position)
            segment.read_mark(&mark)
            if w.durable_base == base:
                mark.durable_position, mark.durable_offset = w.durable_position, w.durable_offset
            else:
                mark.durable_position, mark.durable_offset = SEGMENT_HEADER, base
            mark.flags = 0 if w.durable_base == base else MARK_UNSYNCED
            mark.start_offset, mark.epoch = w.first_offset, w.epoch
            # The mark lags by one sync and rides along with this one; what it says was already true before.
            if rc == 0:
                rc = segment.write_mark(&mark)
        finally:
            shared.unlock()
        platform.failpoint("sync.begin")
        if rc == 0:
            # Oldest first: a mark in a segment says that everything before it is whole.
            self.sync_older(base)
            with nogil:
                rc = segment.sync()
        if rc:
            self.fail(rc, segment.path)
        platform.failpoint("sync.done")
        self.lock()
        if offset > w.durable_offset and not w.attention & ATTENTION_FAILED:
            w.durable_position, w.durable_base = position, base
            platform.store_i64(&w.durable_offset, offset)
        shared.unlock()
        shared.ring()
        return 0

    def sync(self):
        """Everything appended before the call is on disk when this returns; the offset up to which that holds.

        One fdatasync, shared with all who wait. Raises PartitionFailed when the disk says no: nothing is durable beyond
        `durable_offset` then, and no append is taken until the partition was reopened and repaired.
        """
        if self.shut:
            self.check_state()
        self.sync_to(platform.load_i64(&self.w.next_offset))
        return platform.load_i64(&self.w.durable_offset)

    def upkeep(self):
        """What must be done from time to time: sync what is not durable (fsync "interval"), roll a segment over its age."""
        if self.shut:
            self.check_state()
        cdef SharedWords *w = self.w
        if self.fsync == FSYNC_INTERVAL and platform.load_i64(&w.durable_offset) < platform.load_i64(&w.next_offset):
            self.sync_to(platform.load_i64(&w.next_offset))
        if self.segment_age_us and w.next_offset > w.active_base:
            self.lock()
            try:
                self.check_state()
                if w.active_salt != self.salt:
                    self.open_active()
                if w.next_offset > w.active_base and self.now() - self.active.header.created >= self.segment_age_us:
                    self.roll(0, 0)
            finally:
                self.shared.unlock()

    # ---- finding -----------------------------------------------------------------------------------------------

    cdef list current_bases(self):
        """The base offsets of the segments, in order; listed again when the shared counter says that they changed."""
        cdef int64_t version = platform.load_i64(&self.w.segments), active
        if version != self.bases_version:
            active = platform.load_i64(&self.w.active_base)
            # A segment made but not switched to yet is nobody's business; one that was replaced is another file now.
            self.bases = [b for b in list_bases(self.path) if b <= active]
            self.open_segments.pop(active, None)
            self.indexes.pop(active, None)
            self.bases_version = version
        return self.bases

    cdef Segment segment(self, int64_t base):
        """A segment mapped for reading. Raises FileNotFoundError when it was trimmed away meanwhile."""
        cdef Segment s = self.active
        if s is not None and s.base_offset == base and s.salt == self.w.active_salt:
            return s                # its pages are in memory already
        s = self.open_segments.get(base)
        if s is None:
            s = open_segment(os.path.join(self.path, segment_name(base)), False, False)
            if s.header.partition_id != self.w.partition_id:
                raise CorruptSegment(
                    f"{s.path} belongs to another partition. Nothing was deleted.", path=s.path, offset=base, resume_offset=-1,
                    misplaced=True)
            if len(self.open_segments) >= OPEN_SEGMENTS:
                # The oldest mapping goes first; views that were handed out keep theirs.
                for old in list(self.open_segments)[:OPEN_SEGMENTS // 4]:
                    self.open_segments.pop(old, None)
                    self.indexes.pop(old, None)
            self.open_segments[base] = s
        return s

    cdef int64_t end_of(self, list bases, Py_ssize_t i) except? -1:
        """The offset at which segment i ends: the next one says so, or its own seal; the last one ends at the watermark."""
        cdef Segment following
        cdef Mark mark
        if i + 1 >= len(bases):
            return platform.load_i64(&self.w.next_offset)
        try:
            following = self.segment(bases[i + 1])
            return following.header.previous_end
        except CorruptSegment:
            following = self.segment(bases[i])
            if following.read_mark(&mark) and mark.flags & MARK_SEALED:
                return mark.end_offset
            return bases[i + 1]

    cdef Index index_of(self, Segment segment, int64_t end_offset):
        cdef Index index = self.index
        if index is not None and index.header.salt == segment.salt:
            return index            # the one being written
        index = self.indexes.get(segment.base_offset)
        if index is None:
            index = open_index(segment, self.boot)
            if index is None:
                index = build_index(segment, segment.size, end_offset, segment.base_offset != self.w.active_base)
            self.indexes[segment.base_offset] = index
        return index

    cdef int locate(self, Segment segment, int64_t end, int64_t offset, int64_t *position, int64_t *expected) except -1:
        """Where to start walking for `offset`: a frame at or before it."""
        cdef Index index = self.index_of(segment, end)
        cdef int64_t i, attempt
        for attempt in range(2):
            i = index.before_offset(offset - segment.base_offset)
            if i < 0:
                break
            position[0] = index.entries[i].position
            expected[0] = segment.base_offset + index.entries[i].offset_delta
            if position[0] & 7 == 0 and SEGMENT_HEADER <= position[0] < segment.size and frame_check(
                segment.data + position[0], segment.size - position[0], segment.salt
            ) == FRAME_OK and (<const FrameHeader *>(segment.data + position[0])).base_offset == expected[0]:
                return 0
            # Either the index lies or the frame is damaged: a walk from the segment's start finds out which.
            index = build_index(segment, segment.size, end, segment.base_offset != self.w.active_base)
            self.indexes[segment.base_offset] = index
        position[0], expected[0] = SEGMENT_HEADER, segment.base_offset
        return 0

    cdef int64_t corrupt(
        self, Segment segment, int64_t position, int64_t expected, int64_t end, int64_t *resume,
    ) except? -1:
        """No sound frame where one must be: the position of the next sound one, its offset in `resume`; -1 and `end` for none."""
        cdef int64_t found
        cdef const FrameHeader *h
        if position + FRAME_HEADER <= segment.size \
                and frame_check(segment.data + position, segment.size - position, segment.salt) == FRAME_OK:
            h = <const FrameHeader *>(segment.data + position)
            if h.base_offset == expected and next_offset_of(h) <= end:
                resume[0] = next_offset_of(h)        # only the body is bad: the header still says how far it goes
                return position + frame_length(h)
        with nogil:
            found = segment.next_frame(position, segment.size, expected + 1, end)
        resume[0] = end if found < 0 else (<const FrameHeader *>(segment.data + found)).base_offset
        return found

    cdef bytes expand_blobs(self, const FrameHeader *h, Segment segment, int64_t position):
        """The blobs of a compressed frame; None when they do not expand to what they should."""
        cdef int64_t blob = columns_end(h), raw
        cdef const char *body = <const char *>h + FRAME_HEADER
        cdef bytes out
        if blob + 8 > h.body_length:
            return None
        memcpy(&raw, body + blob, 8)
        if not 0 <= raw <= FRAME_BYTES_MAX:
            return None
        if h.codec not in self.expand:
            self.expand[h.codec] = codecs.load([n for n, c in codecs.NAMES.items() if c == h.codec][0])[1]
        try:
            out = self.expand[h.codec](PyBytes_FromStringAndSize(body + blob + 8, h.body_length - blob - 8), raw)
        except MemoryError:
            raise
        except Exception:
            return None
        return out if PyBytes_GET_SIZE(out) == raw else None

    cdef Batch collect(self, int64_t offset, int64_t stop, int64_t max_records, int64_t max_bytes):
        """The batch that starts with the first record at or after `offset` and below `stop`; None when there is none."""
        cdef list bases
        cdef Segment segment
        cdef Py_ssize_t i
        cdef int64_t end, position, expected, count = 0, first, resume, next_position, next_offset, limit
        cdef const FrameHeader *h
        cdef Columns c
        cdef Batch batch = None
        cdef bytes expanded
        cdef int code, tries = 0
        cdef uint32_t skip
        while offset < stop:
            bases = self.current_bases()
            i = bisect.bisect_right(bases, offset) - 1
            if i < 0:
                if not self.skip_corrupt and bases[0] > offset:
                    raise CorruptSegment(
                        f"{self.path}: the first segment files are gone, and with them offsets {offset:,} to {bases[0] - 1:,}. Reading "
                        f"goes on from {bases[0]:,}.", path=self.path, offset=offset, resume_offset=bases[0])
                i = 0
                offset = max(offset, bases[0])
            try:
                segment = self.segment(bases[i])
                # The last of them was the last when `stop` was read, or later: what is below `stop` lies in it. A fresh
                # watermark would not do, for it may already count records of a segment that `bases` does not know.
                end = self.end_of(bases, i) if i + 1 < len(bases) else stop
            except FileNotFoundError:
                # Trimmed between the listing and the opening, or gone.
                self.bases_version = -1
                tries += 1
                if offset < platform.load_i64(&self.w.first_offset):
                    self._out_of_range(offset)
                if tries < 100:
                    continue
                raise CorruptSegment(
                    f"{self.path}: the segment file {segment_name(bases[i])} cannot be opened, and comes back in every listing.",
                    path=os.path.join(self.path, segment_name(bases[i])), offset=offset, resume_offset=-1) from None
            except CorruptSegment as error:
                if getattr(error, "misplaced", False) and i > 0:
                    # A file under a name that is not its own is not part of the log. What lies there is the business of the
                    # segment before: its records, or a hole that is told there.
                    self.bases = [b for b in bases if b != bases[i]]
                    continue
                resume = bases[i + 1] if i + 1 < len(bases) else stop
                if not self.skip_corrupt:
                    raise CorruptSegment(
                        f"{error} Reading goes on from offset {resume:,}.", path=error.path, offset=offset, resume_offset=resume,
                    ) from None
                offset = resume
                continue
            if offset >= end:
                # Behind the end of this segment and before the next one: offsets that were reserved, and never given out.
                if i + 1 >= len(bases):
                    return None
                offset = bases[i + 1]
                continue
            self.locate(segment, end, offset, &position, &expected)
            limit = min(end, stop)
            while expected < limit:
                code = frame_check(segment.data + position, segment.size - position, segment.salt)
                h = <const FrameHeader *>(segment.data + position)
                if code == FRAME_OK and h.base_offset != expected:
                    code = FRAME_HEADER_BAD
                if code == FRAME_OK:
                    next_offset = next_offset_of(h)
                    next_position = position + frame_length(h)
                    if next_offset <= offset:           # before what was asked: its body does not matter
                        position, expected = next_position, next_offset
                        continue
                    if count and (h.codec != CODEC_NONE or next_position - batch.start > max_bytes):
                        return batch
                    code = body_check(h)
                    expanded = None
                    if code == FRAME_OK and h.codec != CODEC_NONE:
                        expanded = self.expand_blobs(h, segment, position)
                        if expanded is None:
                            code = FRAME_BODY_BAD
                    if code == FRAME_OK:
                        code = columns_parse(
                            h, PyBytes_AS_STRING(expanded) if expanded is not None else NULL,
                            PyBytes_GET_SIZE(expanded) if expanded is not None else 0, &c)
                if code != FRAME_OK:
                    if count:
                        return batch                    # the next read begins here, and tells
                    if code == FRAME_UNKNOWN:
                        raise UnsupportedFormat(
                            f"{segment.path} holds a frame at {position:,} of a kind that this version does not know. Nothing "
                            "was changed; use a newer seglog.", path=segment.path, found=-1, supported=1)
                    next_position = self.corrupt(segment, position, expected, end, &resume)
                    if resume <= offset:                # the damage lies wholly before what was asked
                        position, expected = next_position, resume
                        continue
                    if not self.skip_corrupt:
                        raise CorruptBatch(
                            f"the batch at position {position:,} of {segment.path} cannot be read: {_WHY[code]}. Offsets "
                            f"{max(expected, 0):,} to {resume - 1:,} are affected; everything before and after is readable. Reading "
                            f"goes on from {resume:,}; `seglog doctor` explains it.",
                            path=segment.path, position=position, offset=max(offset, expected), resume_offset=resume,
                            first_lost=expected)
                    if next_position < 0:
                        expected = resume
                        break
                    position, expected = next_position, resume
                    offset = max(offset, resume)
                    continue
                # A sound frame with something to offer.
                skip = 0
                if h.base_offset < offset:
                    if c.deltas == NULL:
                        skip = <uint32_t>(offset - h.base_offset)
                    else:
                        while c.base_offset + c.deltas[skip] < offset:
                            skip += 1
                if count == 0:
                    batch = Batch.__new__(Batch)
                    batch.mapping, batch.expanded = segment.mapping, expanded
                    if expanded is not None:
                        batch.blobs, batch.blob_size = PyBytes_AS_STRING(expanded), PyBytes_GET_SIZE(expanded)
                    batch.start = position
                    batch.skip = skip
                    batch.partition = self.partition
                    batch.epoch = h.epoch
                    batch.first_offset = h.base_offset + (c.deltas[skip] if c.deltas != NULL else skip)
                first = h.count - skip
                if next_offset > limit or first > max_records - count:
                    # The batch ends inside this frame.
                    first = 0
                    while skip + first < h.count and first < max_records - count and \
                            h.base_offset + (c.deltas[skip + first] if c.deltas != NULL else skip + first) < limit:
                        first += 1
                    if first == 0:          # what is left of it lies at `stop` or behind
                        return batch if count else None
                    next_offset = h.base_offset + (c.deltas[skip + first - 1] if c.deltas != NULL else skip + first - 1) + 1
                count += first
                batch.count = count
                batch.end = next_position
                batch.next_offset = next_offset
                if count >= max_records or next_offset < h.base_offset + h.count or h.codec != CODEC_NONE:
                    return batch
                position, expected = next_position, next_offset
            if count:
                return batch
            offset = max(offset, expected)
        return None

    def _out_of_range(self, int64_t offset):
        first, following = self.first_offset, self.next_offset
        raise OffsetOutOfRange(
            f"offset {offset:,} is not in {self.path}: the first is {first:,}, the next to be written {following:,}",
            offset=offset, first=first, next=following, partition=self.partition,
        )

    # ---- reading -----------------------------------------------------------------------------------------------

    def read(self, int64_t offset, int64_t max_records=10000, int64_t max_bytes=1048576, *, bint durable=False, int64_t stop=-1):
        """The batch that starts with the first record at or after `offset`; None when nothing is there (yet).

        `max_bytes` counts frames; the first frame is given whole, whatever its size. `durable`: only what survives a power cut.
        `stop`: the first offset not wanted. Raises OffsetOutOfRange outside `first_offset .. next_offset`, CorruptBatch (with
        `resume_offset`) at damage unless the log was opened with recover="skip". *O(log segments)*, then the bytes once through
        the hash.
        """
        if self.shut:
            self.check_state()
        cdef int64_t limit = platform.load_i64(&self.w.next_offset)
        if offset < platform.load_i64(&self.w.first_offset) or offset > limit:
            self._out_of_range(offset)
        if max_records < 1 or max_bytes < 1:
            raise ValueError(f"max_records and max_bytes are at least 1, not {max_records} and {max_bytes}")
        if durable:
            limit = min(limit, platform.load_i64(&self.w.durable_offset))
        if stop >= 0:
            limit = min(limit, stop)
        return self.collect(offset, limit, max_records, max_bytes)

    def record(self, int64_t offset):
        """The record at `offset`. Raises OffsetOutOfRange when there is none. Checks the hash of the frame it lies in."""
        cdef Batch batch = self.read(offset, 1)
        if batch is None or batch.first_offset != offset:
            self._out_of_range(offset)
        return batch[0]

    def batches(self, int64_t start=-1, int64_t stop=-1, int64_t max_records=10000, int64_t max_bytes=1048576, *, bint durable=False):
        """Batches from `start` (default: the first record) up to `stop`, or up to what is there when the iteration gets there."""
        if self.shut:
            self.check_state()
        if start < 0:
            start = self.first_offset
        cdef Batch batch
        while stop < 0 or start < stop:
            batch = self.read(start, max_records, max_bytes, durable=durable, stop=stop)
            if batch is None:
                return
            yield batch
            start = batch.next_offset

    def records(self, int64_t start=-1, int64_t stop=-1):
        """The records of `batches(start, stop)`, one by one."""
        for batch in self.batches(start, stop):
            yield from batch

    def wait(self, int64_t offset, timeout=None, *, bint durable=False):
        """True once a record at `offset` exists (or is durable), False after `timeout` seconds (None: never gives up).

        Sleeps in the kernel, without the GIL, woken by the writer; Ctrl-C works.
        """
        if self.shut:
            self.check_state()
        cdef Shared shared = self.shared
        return bool(shared.wait_for(offset, durable, -1 if timeout is None else max(0, <int64_t>(<double>timeout * 1e6))))

    def offset_for_time(self, timestamp):
        """The offset of the first record whose timestamp is `timestamp` (µs, or an aware datetime) or later; `next_offset` when none is.

        Timestamps need not rise: the first in offset order counts. *O(segments)* for the first call, then *O(log)*.
        """
        if self.shut:
            self.check_state()
        cdef int64_t wanted = to_us(timestamp), i, position, expected, end, first = self.first_offset
        cdef list bases = self.current_bases()
        cdef Segment segment
        cdef Index index
        cdef Batch batch
        for n in range(len(bases)):
            end = self.end_of(bases, n)
            if end <= first:
                continue
            try:
                segment = self.segment(bases[n])
            except (FileNotFoundError, CorruptSegment):
                continue
            index = self.index_of(segment, end)
            if index.header.flags & INDEX_SEALED and index.header.max_timestamp < wanted:
                continue
            i = index.before_time(wanted)
            expected = segment.base_offset + (index.entries[i].offset_delta if i >= 0 else 0)
            expected = max(expected, first)
            while expected < end:
                batch = self.collect(expected, end, 10000, 1 << 20)
                if batch is None:
                    break
                times = batch.timestamps
                hits = (times >= wanted).nonzero()[0]
                if len(hits):
                    return int(batch.offsets[hits[0]])
                expected = batch.next_offset
        return self.next_offset

    # ---- trimming, closing, telling ----------------------------------------------------------------------------

    def trim(self, int64_t before):
        """Forget the records below `before`; the new first offset. Whole segments below it are deleted.

        Readers in the middle of a segment keep what they hold. Raises OffsetOutOfRange above `next_offset`.
        """
        cdef SharedWords *w
        cdef Mark mark
        cdef int rc
        self.lock()
        w = self.w
        try:
            self.check_state()
            if before > w.next_offset or before < 0:
                self._out_of_range(before)
            if before <= w.first_offset:
                return w.first_offset
            if w.active_salt != self.salt or w.active_base != self.base:
                self.open_active()
            platform.failpoint("trim.begin")
            platform.store_i64(&w.first_offset, before)
            if not self.active.read_mark(&mark):
                mark.durable_position, mark.durable_offset, mark.flags = SEGMENT_HEADER, self.base, MARK_UNSYNCED
            mark.start_offset, mark.epoch = before, w.epoch
            rc = self.active.write_mark(&mark)
            if rc == 0 and self.fsync != FSYNC_NEVER:
                with nogil:
                    rc = self.active.sync()
            if rc:
                self.fail(rc, self.active.path)
            platform.failpoint("trim.marked")
            bases = [b for b in list_bases(self.path) if b <= w.active_base]
            for i, base in enumerate(bases[:-1]):
                if bases[i + 1] > before:
                    break
                remove_segment(self.path, base)
                platform.failpoint("trim.removed")
                self.open_segments.pop(base, None)
                self.indexes.pop(base, None)
            platform.store_i64(&w.segments, w.segments + 1)
            return before
        finally:
            self.shared.unlock()

    def verify(self):
        """Check every hash of every frame; the losses found. Reads by pread, changes nothing, goes on after each finding."""
        if self.shut:
            self.check_state()
        cdef list losses = [], bases
        cdef Segment segment
        cdef Scanner scan
        cdef int code
        cdef int64_t end, found, following
        self.bases_version = -1
        bases = self.current_bases()
        for n in range(len(bases)):
            path = os.path.join(self.path, segment_name(bases[n]))
            try:
                end = self.end_of(bases, n)
                segment = open_segment(path, False, False)
            except FileNotFoundError:
                continue
            except CorruptSegment as error:
                losses.append(Loss("corrupt", path, 0, bases[n], bases[n + 1] if n + 1 < len(bases) else -1,
                                   os.path.getsize(path), str(error)))
                continue
            scan = Scanner(segment, SEGMENT_HEADER, segment.base_offset)
            while scan.offset < end:
                PyErr_CheckSignals()
                code = scan.step()
                if code == FRAME_OK:
                    continue
                found = scan.resync(scan.position, scan.offset + 1)
                following = end
                if found >= 0:
                    following = (<const FrameHeader *>scan.need(found, FRAME_HEADER)).base_offset
                    if following >= end:
                        found, following = -1, end
                losses.append(Loss("corrupt", path, scan.position, scan.offset, following,
                                   (found if found >= 0 else segment.size) - scan.position, _WHY[code]))
                if found < 0:
                    break
                scan.position, scan.offset = found, following
        losses.extend(self._missing_segments(bases, self.first_offset))
        if bases and bases[0] > self.first_offset:
            losses.append(Loss("missing", self.path, 0, self.first_offset, bases[0], 0, "the first segment files are gone"))
        return losses

    def statistics(self):
        """Numbers about the partition, as a dict: offsets, segments, bytes on disk (allocated blocks), epoch."""
        if self.shut:
            self.check_state()
        size = disk = 0
        bases = self.current_bases()
        for base in bases:
            try:
                status = os.stat(os.path.join(self.path, segment_name(base)))
            except FileNotFoundError:
                continue
            size += status.st_size
            disk += getattr(status, "st_blocks", -(-status.st_size // 512)) * 512
        return {
            "first_offset": self.first_offset, "next_offset": self.next_offset, "durable_offset": self.durable_offset,
            "segments": len(bases), "size_bytes": size, "disk_bytes": disk,
            "tail_position": self.w.tail_position, "active_base": self.w.active_base,
            "epoch": self.w.epoch,
        }

    @property
    def first_offset(self):
        """The offset of the first record kept; `next_offset` when there is none."""
        if self.shut:
            self.check_state()
        return platform.load_i64(&self.w.first_offset)

    @property
    def next_offset(self):
        """The offset that the next record will get, unless a crash makes it skip ahead. One load."""
        if self.shut:
            self.check_state()
        return platform.load_i64(&self.w.next_offset)

    @property
    def durable_offset(self):
        """Records below this survive a power cut."""
        if self.shut:
            self.check_state()
        return platform.load_i64(&self.w.durable_offset)

    @property
    def dirty(self):
        """Whether something was appended that is not durable yet."""
        return self.next_offset > self.durable_offset

    @property
    def epoch(self):
        """Rises by one at each recovery that may have lost something."""
        if self.shut:
            self.check_state()
        return self.w.epoch

    @property
    def closed(self):
        return self.shut

    def close(self):
        """Sync (unless fsync is "never"), write the clean mark, let go. Views that were handed out stay valid. Twice is fine."""
        cdef Shared shared = self.shared
        cdef SharedWords *w = self.w
        cdef Mark mark
        cdef int rc
        if self.shut:
            return
        try:
            if w.incarnation == self.incarnation and not w.attention & (ATTENTION_FAILED | ATTENTION_DELETED):
                if self.fsync != FSYNC_NEVER:
                    self.sync_to(platform.load_i64(&w.next_offset))
            # Also with `never`: no other thread is in the middle of an append when the maps go.
            self.lock()
            try:
                if w.incarnation == self.incarnation and not w.attention & (ATTENTION_FAILED | ATTENTION_DELETED):
                    # Who comes next and appends takes the mark back first; so it is true whoever else is still here.
                    if self.fsync != FSYNC_NEVER and not w.attention and w.active_salt == self.salt \
                            and w.durable_offset == w.next_offset:
                        # Attention first: whoever appends after this process died half way here looks at the mark.
                        platform.or_u32(&w.attention, ATTENTION_CLEAN)
                        platform.failpoint("close.raised")
                        self.active.read_mark(&mark)
                        mark.durable_position, mark.durable_offset = w.tail_position, w.next_offset
                        mark.start_offset, mark.epoch = w.first_offset, w.epoch
                        mark.flags = MARK_CLEAN
                        rc = self.active.write_mark(&mark)
                        if rc == 0:
                            with nogil:
                                rc = self.active.sync()
                        if rc:
                            self.fail(rc, self.active.path)
                        platform.failpoint("close.marked")
                        self.index.seal(w.max_timestamp)
            finally:
                self.shut = shared.shut = True
                self.base, self.salt = -1, 0
                shared.unlock()
        except (LockTimeout, ClosedError):
            pass                    # stopped in another process: it keeps the mark from being true, no more
        finally:
            self.shut = shared.shut = True
            self.active = self.index = None
            self.open_segments, self.indexes = {}, {}
            self.base, self.salt = -1, 0

    def delete(self):
        """Mark the partition deleted for every process that has it open, and remove its files. Views stay valid."""
        cdef Shared shared = self.shared
        self.lock()
        try:
            self.w.attention |= ATTENTION_DELETED
            platform.store_u32(&self.w.state, SHARED_DELETED)
        finally:
            shared.unlock()
        self.w.bell_waiting = 1
        shared.ring()
        self.close()
        for name in os.listdir(self.path):
            if is_segment_name(name) or name.endswith((".idx", ".tmp")) or name in ("shm", "tail.shm"):
                os.unlink(os.path.join(self.path, name))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __repr__(self):
        if self.shut:
            return f"<Log {self.path}, closed>"
        return f"<Log {self.path} {self.first_offset:,}..{self.next_offset:,}>"


# ---- arguments -------------------------------------------------------------------------------------------------


cdef bytes one_bytes(object item, str what):
    if isinstance(item, str):
        raise TypeError(f"a {what} is bytes, not str; encode it first, for instance {what}.encode()")
    if not PyObject_CheckBuffer(item):
        raise TypeError(f"a {what} is a bytes-like object or None, not {type(item).__name__}")
    return bytes(memoryview(item))


cdef class Times:
    """Timestamps of many records as int64 µs: an int64 array is pinned, anything else is converted one by one."""

    def __cinit__(self):
        self.owned = NULL
        self.pinned = False

    def __init__(self, timestamps):
        cdef int64_t i
        if not isinstance(timestamps, (list, tuple)) and PyObject_CheckBuffer(timestamps):
            PyObject_GetBuffer(timestamps, &self.view, PyBUF_FORMAT | PyBUF_ND | PyBUF_C_CONTIGUOUS)
            self.pinned = True
            if self.view.format == NULL or self.view.itemsize != 8 or self.view.ndim != 1 \
                    or self.view.format[0] not in (c"l", c"q") or self.view.format[1]:
                raise TypeError("an array of timestamps is int64, one-dimensional, in µs since the epoch")
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

    def __dealloc__(self):
        if self.pinned:
            PyBuffer_Release(&self.view)
        PyMem_RawFree(self.owned)


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
