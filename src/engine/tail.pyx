# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Tail: the end of a partition where records are appended: its lock, its active segment, its durability.

Life of an append: hash and lay out what must be hashed (no lock) -> lock -> stamp offset, epoch and salted header hash ->
store header and body behind the tail -> **publish by one release store of `next_offset`** -> unlock -> ring -> with `always`, wait for a
sync that covers it. Whatever lies beyond the watermark was never written, so a writer that dies leaves nothing to undo.

It promises: what `commit` returned is seen by every process and survives the death of any of them; what a sync covered survives a power cut; a sync
that failed is final. It leaves to `log` how records become frames, and how they are found again.

Shared fields of one handle among threads: those of the active segment change only under the partition's lock, which excludes threads as it does
processes.
"""
import contextlib
import errno
import os
import stat

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from seglog.engine cimport platform
from seglog.engine.checksum cimport xxh3_64_seed
from seglog.engine.index cimport Index, build_index, create_index, open_index
from seglog.engine.frame cimport FRAME_OK, frame_check
from seglog.engine.layout cimport (
    ATTENTION_CLEAN, ATTENTION_DELETED, ATTENTION_FAILED, ATTENTION_REPAIR, FRAME_HASHED, FRAME_HEADER, INDEX_EVERY, IN_TRANSACTION, LOWEST, MARK_CLEAN,
    MARK_SEALED, MARK_UNSYNCED, SEGMENT_HEADER, SHARED_BYTES, SHARED_DELETED, SHARED_FAILED, SHARED_MAGIC, SHARED_READY, SHARED_VERSION,
    FrameHeader, Mark, SegmentHeader, SharedWords, frame_length, next_offset_of,
)
from seglog.engine.liveness cimport Liveness, boot_hash
from seglog.engine.mapping cimport Mapping, map_fd
from seglog.engine.record cimport to_offset
from seglog.engine.recovery cimport recover, rewrite
from seglog.engine.segment cimport Segment, create_segment, is_segment_name, list_bases, open_file, open_segment, remove_segment
from seglog.engine.shared cimport Shared

from seglog.engine.errors import (
    ClosedError, CorruptSegment, LockTimeout, OffsetOutOfRange, PartitionFailed, SeglogError, StoreFull, TopicNotFound, os_error,
)
from seglog.engine.liveness import file_lock
from seglog.engine.losses import read_losses
from seglog.engine.segment import segment_name, sync_directory

cdef enum:
    # From this frame size on, pwrite beats stores into pages that are new to this process: a store takes a fault per
    # page, pwrite does not. `bench/ratios.py` shows both sides.
    LARGE = 32768
    SMALL_ONES = 8                  # in a row, before pages are populated for more of them
    POPULATE_MIN = 65536
    POPULATE_MAX = 2097152
    MARK_EVERY = 262144
    ZEROS_MIN = 16384
    ZEROS = 262144

# Pages that were written with zeros cost a store 1.1 us each, pages faulted in 1.4, and the first fault of a segment
# reads ahead for 2-4 ms. But the page cache keeps what one write brought in together, and a sync writes it together:
# only for fsync="never".
cdef char[ZEROS] _zeros
memset(_zeros, 0, ZEROS)


cdef bint is_directory(str path) except -1:
    """Whether a directory is there; an error when that cannot be found out."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise os_error(-error.errno, "cannot look at", path) from error


cdef int make_directories(str path, bint all) except -1:
    """Make a directory and those above it, each name durable; `all`: also the names above that are there already, since whoever made
    them may have died before that. Those above a partition of a store are the store's business."""
    above = os.path.dirname(path)
    if above == path or os.path.ismount(path):
        return 0
    there = is_directory(path)
    if all or not is_directory(above):
        make_directories(above, all)
    if not there:
        try:
            os.mkdir(path)
        except FileExistsError:
            if not is_directory(path):
                raise
    try:
        sync_directory(above)
    except OSError as error:
        if not there or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise                   # else it is somebody else's directory, and so is the name
    return 0


cdef class Tail:
    """The writing end of one partition; `Log` is made on top of it."""

    def __cinit__(self):
        self.w = NULL
        self.shut = True            # until it is open
        self.base = -1

    # ---- opening -----------------------------------------------------------------------------------------------

    def _open(self, create, Liveness liveness, double lock_timeout):
        cdef Shared shared = Shared.__new__(Shared)
        cdef SharedWords *w
        cdef Mapping mapping
        cdef bint ours, known, alone = liveness is None, there = is_directory(self.path)
        if create and not there:
            try:
                make_directories(os.path.abspath(self.path), alone)
            except OSError as error:
                if isinstance(error, SeglogError):
                    raise
                raise os_error(-error.errno, "cannot make the directory", self.path) from error
        elif not there:
            raise FileNotFoundError(errno.ENOENT, "there is no partition directory", self.path)
        if liveness is None:
            liveness = self.own_liveness = Liveness(self.path)
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
                if not (ours and w.state == SHARED_READY and self.opens(w.active_base)):
                    if ours and shared.lock() == 2:
                        # Others may have these words mapped (a failed sync): not while they are in the middle of an append.
                        platform.or_u32(&w.attention, ATTENTION_REPAIR)
                    try:
                        # Between the two looks somebody may have rolled, and trimmed what was active: not while this one has the lock.
                        if not (ours and w.state == SHARED_READY and self.opens(w.active_base)):
                            if there and create and not list_bases(self.path):
                                make_directories(os.path.abspath(self.path), alone)     # who made it may have died before its sync
                            recover(
                                w, self.path, status, known, ours, self.boot, self.now(), self.segment_bytes_min, self.by_pwrite,
                                self.fsync != FSYNC_NEVER, self.decisions)
                    finally:
                        if w.lock == liveness.word:
                            shared.unlock()
                self.losses = read_losses(self.path)
                self.incarnation = w.incarnation
                self.shut = False
        except OSError as error:
            if isinstance(error, SeglogError):
                raise
            raise os_error(-error.errno, "cannot open", error.filename or self.path) from error
        finally:
            os.close(fd)

    cdef bint opens(self, int64_t base) except -1:
        """Whether the segment that the words call active is there and sound; otherwise they are of no use."""
        try:
            open_segment(os.path.join(self.path, segment_name(base)), False, False)
        except (CorruptSegment, FileNotFoundError):
            return False
        return True

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
        platform.store_u32(&self.w.bell_waiting, 1)
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
        if shared.lock() == 2 or platform.load_u32(&self.w.attention) & ATTENTION_REPAIR:
            # Said first: if this ends half way, for instance for want of a descriptor, the next one repairs.
            platform.or_u32(&self.w.attention, ATTENTION_REPAIR)
            if self.w.incarnation != self.incarnation or self.w.attention & (ATTENTION_FAILED | ATTENTION_DELETED):
                return 0            # it may have died in a recovery, whose new segment is no stray: the next opening sees to it
            try:
                self.repair()
            except BaseException:
                shared.unlock()
                raise
            platform.and_u32(&self.w.attention, ~<uint32_t>ATTENTION_REPAIR)
        return 0

    cdef int repair(self) except -1:
        """Under the lock, after a holder died: the watermark is the truth, find its position again.

        The dead may have published and not moved `tail_position`, or switched to a new segment and not said so, or made one and
        not switched to it: that one is empty, and the next roll removes it.
        """
        cdef SharedWords *w = self.w
        cdef int64_t position = SEGMENT_HEADER, offset, found, highest = LOWEST, decision
        cdef int code
        cdef const FrameHeader *h
        cdef Segment segment = open_segment(os.path.join(self.path, segment_name(w.active_base)), True, self.by_pwrite)
        w.active_salt = segment.salt
        offset = segment.base_offset
        if w.pending:
            # The dead had stored a transaction's frames. Published is what was decided, and nothing else.
            decision = 0 if self.decisions is None else self.decisions.decided(w.partition_id, w.next_offset, w.pending_from)
            if decision:
                self.publish(decision)
            platform.store_u32(&w.pending, 0)
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
        # A segment that was made and not switched to must not be found by the next recovery.
        self.remove_strays()
        if self.fsync != FSYNC_NEVER:
            # The dead may have been in a sync that failed, and have taken the kernel's only report of it along.
            code = rewrite(segment.fd, w.durable_position if w.durable_base == segment.base_offset else SEGMENT_HEADER, position)
            if code:
                self.fail(code, segment.path)
        w.tail_position = position
        platform.failpoint("repair.walked")
        w.max_timestamp = highest
        w.indexed_position = -INDEX_EVERY
        w.zeroed = 0
        platform.store_i64(&w.segments, w.segments + 1)
        self.base, self.salt = -1, 0    # look again: at the segment, and at its index
        return 0

    cdef int remove_strays(self) except -1:
        """Under the lock: segments above the active one hold nothing; a roll that failed, or died, left them."""
        cdef bint found = False
        for base in list_bases(self.path):
            if base > self.w.active_base:
                remove_segment(self.path, base)
                found = True
        if found:
            sync_directory(self.path)
        return 0

    cdef int adopt(self, Segment segment, Index index) except -1:
        """Under the lock: from now on this is the segment that this handle writes."""
        # Entries will follow: a seal that a close left is no longer true.
        index.header.flags = 0
        index.header.boot = self.boot
        self.active, self.index = segment, index
        self.data, self.base, self.salt = segment.data, segment.base_offset, segment.salt
        self.capacity, self.reserved_offset = segment.size, segment.header.reserved_offset
        self.ahead = not segment.by_pwrite
        # What is stored through the map is written out with all of the folio it lies in, which a sync for each append waits for.
        self.stores = self.ahead and self.fsync != FSYNC_ALWAYS
        self.populated = 0
        self.small_ones = SMALL_ONES
        return 0

    cdef int open_active(self) except -1:
        """Under the lock: another process rolled, or this handle has not written yet."""
        cdef SharedWords *w = self.w
        cdef Segment segment = open_segment(os.path.join(self.path, segment_name(w.active_base)), True, self.by_pwrite)
        cdef Index index = open_index(segment, self.boot, w.next_offset), built
        w.active_salt = segment.salt
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
        cdef int64_t window, start, known
        cdef int rc = 0
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
        if not SEGMENT_HEADER <= w.tail_position <= self.capacity:
            self.repair()           # somebody else wrote over the words
            self.open_active()
        if w.tail_position + size > self.capacity or w.next_offset + count > self.reserved_offset:
            self.roll(size, count)
        if self.ahead and size < LARGE and w.tail_position + size > self.populated:
            # Store only into pages that are there: the kernel reports here what would be a signal at a store.
            if self.fsync != FSYNC_INTERVAL:
                # Once for all processes: who finds zeros ahead of the tail has only to map them, folios at a time. And with "always" a
                # sync that writes over blocks that were written before has no journal to wait for: it takes half the time. `zeroed`
                # is a hint: where it says too much, populating faults in the rest.
                start = known = max(w.zeroed, w.tail_position)
                if start < w.tail_position + size:
                    # Windows grow with the segment: what a small topic never uses should not be written out for it.
                    window = ZEROS_MIN
                    while window < ZEROS and window < w.tail_position:
                        window *= 2
                    window -= start & (window - 1)
                    if start + window < w.tail_position + size:
                        window += ZEROS - window
                    window = min(window, self.capacity - start)
                    with nogil:
                        rc = platform.pwrite_all(self.active.fd, _zeros, window, start)
                    if rc:
                        raise os_error(rc, "cannot make room in", self.active.path)
                    w.zeroed = start + window
                if self.stores and known > w.tail_position and known > self.populated:
                    # Another handle's zeros. Ours of a moment ago are in the cache, and the first store maps them for less.
                    start = w.tail_position & ~<int64_t>4095
                    known = min(known, self.capacity)
                    with nogil:
                        rc = platform.populate(self.data + start, known - start)
                start, window = 0, min(w.zeroed, self.capacity)
            else:
                start = w.tail_position & ~<int64_t>4095
                window = min(max(w.tail_position, <int64_t>POPULATE_MIN), <int64_t>POPULATE_MAX)
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
                fd = open_file(path, os.O_RDWR)
            except FileNotFoundError:
                continue            # trimmed meanwhile
            try:
                with nogil:
                    rc = platform.datasync(fd)
            finally:
                os.close(fd)
            if rc:
                self.fail(rc, path)
        # And the names: such a roll does not sync the directory, not for `base` either.
        return self.sync_names()

    cdef int sync_names(self) except -1:
        """Make the names of the segments durable; when that fails, nothing is."""
        try:
            sync_directory(self.path)
        except OSError as error:
            self.fail(-(error.errno or errno.EIO), self.path)
        return 0

    cdef int roll(self, int64_t size, int64_t count) except -1:
        """Under the lock: go on in a new segment. The old one is whole on disk first, unless fsync is `never`."""
        cdef SharedWords *w = self.w
        cdef Segment old = self.active, fresh
        cdef Index old_index = self.index, index
        cdef SegmentHeader header
        cdef Mark mark, before
        cdef int64_t tail = w.tail_position, highest = w.max_timestamp
        cdef int rc
        cdef bint synced = self.fsync != FSYNC_NEVER, empty = w.next_offset == old.base_offset
        if synced:
            self.make_complete()
            self.sync_older(old.base_offset)
            with nogil:
                rc = old.sync()
            if rc:
                self.fail(rc, old.path)
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
        # With `never` the name may be lost as well: an old segment marked UNSYNCED tells recovery to go on far behind.
        named = synced or empty or not old.read_mark(&before) or not before.flags & MARK_UNSYNCED
        try:
            try:
                fresh = create_segment(self.path, &header, &mark, self.by_pwrite, named)
            except StoreFull:
                # There may be room for a small one.
                header.capacity = (max(self.segment_bytes_min, SEGMENT_HEADER + size) + 4095) & ~<int64_t>4095
                header.reserved_offset = header.base_offset + max(header.capacity // 8, count)
                fresh = create_segment(self.path, &header, &mark, self.by_pwrite, named)
            platform.failpoint("roll.made")
            index = create_index(fresh, self.boot)
        except BaseException:
            if empty:
                w.active_salt = self.salt = 0   # whichever of the two stands there now: every handle looks
            else:
                with contextlib.suppress(OSError):
                    remove_segment(self.path, header.base_offset)
                    sync_directory(self.path)
            raise
        w.tail_position = w.zeroed = SEGMENT_HEADER
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
        self.populated = SEGMENT_HEADER         # the header was written a moment ago
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
        old_index.seal(highest, header.base_offset)
        if not old.by_pwrite:
            platform.punch(old.fd, tail, old.size)
        platform.failpoint("roll.sealed")
        return 0

    # ---- committing -------------------------------------------------------------------------------------------

    cdef int64_t place(self, FrameHeader *h, const char *body) noexcept nogil:
        """Under the lock: stamp, store, publish. The base offset given, or -1 when `make_room` must look first, or a -errno - 1."""
        cdef SharedWords *w = self.w
        cdef int64_t position = w.tail_position, offset = w.next_offset, size = frame_length(h)
        cdef char *at
        cdef int rc
        if platform.load_u32(&w.attention) or w.active_salt != self.salt or position + size > self.capacity \
                or position < SEGMENT_HEADER or offset + h.count > self.reserved_offset:
            return -1
        h.base_offset = offset
        h.epoch = w.epoch
        h.header_hash = xxh3_64_seed(h, FRAME_HASHED, self.salt)
        if size >= LARGE or not self.stores:
            if self.ahead and size < LARGE and position + size > self.populated:
                return -1
            rc = self.write_large(h, body, position)
            if rc:
                return rc - 1
            self.small_ones = 0
        elif position + size > self.populated and self.small_ones < SMALL_ONES:
            # Behind a large frame, which left no populated pages: another one may follow, and write over what a window cost.
            rc = self.write_large(h, body, position)
            if rc:
                return rc - 1
            self.small_ones = self.small_ones + 1
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

    cdef int prepare(self, char *frames, int64_t size, int64_t count, int64_t highest, int64_t since) except -1:
        """Under the lock: stamp a transaction's frames, `size` bytes one after the other, and store them beyond the watermark.

        Nobody sees them before `publish`, and after `withdraw` they never were. `since`: the next decision is at or after it.
        """
        cdef SharedWords *w = self.w
        cdef FrameHeader *h
        cdef int64_t at = 0, offset
        cdef int rc
        while platform.load_u32(&w.attention) or w.active_salt != self.salt or not SEGMENT_HEADER <= w.tail_position <= self.capacity \
                or w.tail_position + size > self.capacity or w.next_offset + count > self.reserved_offset \
                or (self.ahead and size < LARGE and w.tail_position + size > self.populated):
            self.make_room(size, count)
        offset = w.next_offset
        while at < size:
            h = <FrameHeader *>(frames + at)
            h.flags |= IN_TRANSACTION
            h.base_offset, h.epoch = offset, w.epoch
            h.header_hash = xxh3_64_seed(h, FRAME_HASHED, self.salt)
            offset += h.span
            at += frame_length(h)
        if size >= LARGE or not self.stores:
            with nogil:
                rc = platform.pwrite_all(self.active.fd, frames, size, w.tail_position)
            if rc:
                raise os_error(rc, "cannot write to", self.active.path)
            self.small_ones = 0
        else:
            memcpy(self.data + w.tail_position, frames, size)
        platform.failpoint("prepare.stored")
        w.pending_next, w.pending_position, w.pending_timestamp, w.pending_from = offset, w.tail_position + size, highest, since
        platform.store_u32(&w.pending, 1)
        platform.failpoint("prepare.said")
        return 0

    cdef void withdraw(self) noexcept:
        """Under the lock: the frames that were prepared are not to be."""
        platform.store_u32(&self.w.pending, 0)

    cdef void publish(self, int64_t decision) noexcept:
        """Under the lock: the frames that were prepared are there. `decision`: behind the record that says so."""
        cdef SharedWords *w = self.w
        cdef int64_t position = w.tail_position
        if self.base == w.active_base and self.index is not None and position - w.indexed_position >= INDEX_EVERY:
            self.index.add(w.next_offset - self.base, position, w.max_timestamp)
            w.indexed_position = position
        w.max_timestamp = max(w.max_timestamp, w.pending_timestamp)
        w.decided = max(w.decided, decision)
        platform.store_i64(&w.next_offset, w.pending_next)
        platform.failpoint("publish.published")
        w.tail_position = w.pending_position
        platform.store_u32(&w.pending, 0)
        platform.failpoint("publish.moved")

    cdef int make_complete(self) except -1:
        """Before anything is called durable: so must be the other parts of the transactions that it is part of."""
        if self.w.decided and self.decisions is not None:
            self.decisions.make_durable(self.w.decided)
        return 0

    def finish(self):
        """Publish what a process decided and did not live to publish. A load, unless there is such a thing."""
        cdef uint32_t holder
        if self.shut:
            self.check_state()
        if platform.load_u32(&self.w.pending):
            holder = platform.load_u32(&self.w.lock)
            if holder and not self.shared.liveness.is_alive(holder):
                self.lock()         # which repairs
                self.shared.unlock()
                self.shared.ring()

    def checkpoint(self):
        """Write down, durably, how much is durable: recovery begins there. One fdatasync."""
        cdef Mark mark
        cdef int rc
        cdef SharedWords *w = self.w
        self.sync()
        self.lock()
        try:
            self.check_state()
            if w.active_salt != self.salt or w.active_base != self.base:
                self.open_active()
            if w.durable_base != w.active_base or not self.active.read_mark(&mark):
                return
            mark.durable_position, mark.durable_offset = w.durable_position, w.durable_offset
            rc = self.active.write_mark(&mark)
            if rc == 0:
                with nogil:
                    rc = self.active.sync()
            if rc:
                self.fail(rc, self.active.path)
        finally:
            self.shared.unlock()

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
                offset = self.put(h, body, offset)
            except BaseException:
                shared.unlock()
                raise
        shared.unlock()
        shared.ring()
        if self.fsync == FSYNC_ALWAYS:
            self.sync_to(offset + h.count)
        return offset

    cdef int64_t put(self, FrameHeader *h, const char *body, int64_t offset) except -1:
        """Under the lock, and `place` said `offset`: the base offset given, with room made for the frame when that is what it takes."""
        while offset == -1:
            self.make_room(frame_length(h), h.count)
            if frame_length(h) >= LARGE or not self.stores:
                with nogil:
                    offset = self.place(h, body)
            else:
                offset = self.place(h, body)
        if offset < 0:
            raise os_error(<int>(offset + 1), "cannot write to", self.active.path)
        return offset

    # ---- durability --------------------------------------------------------------------------------------------

    cdef int sync_to(self, int64_t target) except -1:
        """Everything below `target` is on disk when this returns. One sync serves all who wait, in any process."""
        cdef Shared shared = self.shared
        cdef SharedWords *w = shared.words
        cdef uint32_t me = shared.liveness.my_word(), holder, heard, seen = 0
        cdef Liveness liveness = shared.liveness
        cdef int64_t deadline = 0, durable = -1
        while platform.load_i64(&w.durable_offset) < target:
            self.check_state()
            holder = platform.load_u32(&w.sync_lock)
            if (holder == 0 or not liveness.is_alive(holder)) and platform.cas_u32(&w.sync_lock, holder, me):
                try:
                    if platform.load_i64(&w.durable_offset) < target:
                        self.sync_now(holder != 0)
                finally:
                    platform.exchange_u32(&w.sync_lock, 0)
                    if platform.load_u32(&w.sync_waiting):
                        platform.store_u32(&w.sync_waiting, 0)
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
            if holder != seen or w.durable_offset != durable:
                seen, durable = holder, w.durable_offset
                deadline = platform.monotonic_us() + shared.lock_timeout_us
            elif platform.monotonic_us() > deadline:
                raise LockTimeout(
                    f"{self.path}: process {liveness.pid_of(holder)}, which is alive (stopped, or its disk is slow?), has been syncing for "
                    f"{shared.lock_timeout_us / 1e6:g} s. What was appended is there and visible, and not known to be on disk; call "
                    "sync() again.", path=self.path, pid=liveness.pid_of(holder), slot=<int>(holder & 0xFFFF) - 1,
                )
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
            # The mark lags and rides along with this sync; what it says was already true before. It costs the disk a second place to
            # write to, a fifth of a small sync: so with "always" it is written anew each MARK_EVERY bytes.
            if rc == 0 and not (
                    segment.read_mark(&mark) and self.fsync == FSYNC_ALWAYS and w.durable_base == base and mark.flags == 0
                    and mark.start_offset == w.first_offset and mark.epoch == w.epoch
                    and 0 <= w.durable_position - mark.durable_position < MARK_EVERY):
                if w.durable_base == base:
                    mark.durable_position, mark.durable_offset = w.durable_position, w.durable_offset
                else:
                    mark.durable_position, mark.durable_offset = SEGMENT_HEADER, base
                mark.flags = 0 if w.durable_base == base else MARK_UNSYNCED
                mark.start_offset, mark.epoch = w.first_offset, w.epoch
                rc = segment.write_mark(&mark)
        finally:
            shared.unlock()
        platform.failpoint("sync.begin")
        if rc == 0:
            self.make_complete()
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
        self.finish()
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

    def close_segment(self):
        """Go on in a new segment, unless the one being written holds no record: what is in it can be compacted or trimmed then."""
        cdef SharedWords *w
        self.lock()
        w = self.w
        try:
            self.check_state()
            if w.next_offset > w.active_base:
                if w.active_salt != self.salt or w.active_base != self.base:
                    self.open_active()
                self.roll(0, 0)
        finally:
            self.shared.unlock()

    # ---- trimming, closing, telling ---------------------------------------------------------------------------

    def trim(self, before):
        """Forget the records below `before`; the new first offset. Whole segments below it are deleted.

        Readers in the middle of a segment keep what they hold. Raises OffsetOutOfRange above `next_offset`.
        """
        cdef SharedWords *w
        cdef Mark mark
        cdef int rc
        cdef int64_t start = to_offset(before)
        self.lock()
        w = self.w
        try:
            self.check_state()
            if start > w.next_offset or start < 0:
                self._out_of_range(before)
            if start <= w.first_offset:
                return w.first_offset
            if w.active_salt != self.salt or w.active_base != self.base:
                self.open_active()
            platform.failpoint("trim.begin")
            platform.store_i64(&w.first_offset, start)
            if not self.active.read_mark(&mark):
                mark.durable_position, mark.durable_offset, mark.flags = SEGMENT_HEADER, self.base, MARK_UNSYNCED
            mark.start_offset, mark.epoch = start, w.epoch
            rc = self.active.write_mark(&mark)
            if rc == 0 and self.fsync != FSYNC_NEVER:
                with nogil:
                    rc = self.active.sync()
            if rc:
                self.fail(rc, self.active.path)
            platform.failpoint("trim.marked")
            if w.durable_base != w.active_base:
                # Rolled without a sync: before the older files go, the ones that stay must be there by name and by header.
                with nogil:
                    rc = self.active.sync()
                if rc:
                    self.fail(rc, self.active.path)
                self.sync_names()
            bases = [b for b in list_bases(self.path) if b <= w.active_base]
            for i, base in enumerate(bases[:-1]):
                if bases[i + 1] > start:
                    break
                remove_segment(self.path, base)
                platform.failpoint("trim.removed")
            platform.store_i64(&w.segments, w.segments + 1)
            return start
        finally:
            self.shared.unlock()

    def close(self):
        """Sync (unless fsync is "never"), write the clean mark, let go. Views that were handed out stay valid. Twice is fine."""
        cdef Shared shared = self.shared
        cdef SharedWords *w = self.w
        cdef Mark mark
        cdef int rc
        cdef int64_t target
        if self.shut:
            return
        target = platform.load_i64(&w.next_offset)
        try:
            if w.incarnation == self.incarnation and not w.attention & (ATTENTION_FAILED | ATTENTION_DELETED):
                if self.fsync != FSYNC_NEVER:
                    self.sync_to(target)
            # Also with `never`: no other thread is in the middle of an append when the maps go.
            self.lock()
            try:
                if w.incarnation == self.incarnation and not w.attention & (ATTENTION_FAILED | ATTENTION_DELETED):
                    # Who comes next and appends takes the mark back first; so it is true whoever else is still here.
                    if self.fsync != FSYNC_NEVER and not w.attention and w.durable_offset == w.next_offset:
                        if w.active_salt != self.salt or w.active_base != self.base:
                            self.open_active()
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
                        self.index.seal(w.max_timestamp, w.next_offset)
            finally:
                self.shut = shared.shut = True
                self.base, self.salt = -1, 0
                shared.unlock()
        except (LockTimeout, ClosedError):
            # A holder stopped in another process keeps the mark from being written, which costs a scan; it must not
            # keep quiet that something is not on disk.
            if self.fsync != FSYNC_NEVER and platform.load_i64(&w.durable_offset) < target:
                raise
        finally:
            self.shut = shared.shut = True
            self.active = self.index = None
            if self.own_liveness is not None:
                self.own_liveness.close()
            self.base, self.salt = -1, 0

    def delete(self):
        """Mark the partition deleted for every process that has it open, and remove its files. Views stay valid."""
        cdef Shared shared = self.shared
        self.lock()
        try:
            platform.or_u32(&self.w.attention, ATTENTION_DELETED)
            platform.store_u32(&self.w.state, SHARED_DELETED)
        finally:
            shared.unlock()
        platform.store_u32(&self.w.bell_waiting, 1)
        shared.ring()
        self.close()
        for name in os.listdir(self.path):
            if is_segment_name(name) or name.endswith((".idx", ".tmp", ".bad")) or name in ("shm", "tail.shm", "losses", "compact.lock"):
                os.unlink(os.path.join(self.path, name))

    def _out_of_range(self, offset):
        first, following = self.first_offset, self.next_offset
        raise OffsetOutOfRange(
            f"offset {offset:,} is not in {self.path}: the first is {first:,}, the next to be written {following:,}",
            offset=offset, first=first, next=following, partition=self.partition,
        )

    @property
    def liveness(self):
        """The `Liveness` that this handle's locks are taken in the name of; its bell rings for every partition of the store."""
        if self.shut:
            self.check_state()
        return self.shared.liveness

    @property
    def first_offset(self):
        """The offset of the first record kept; `next_offset` when there is none."""
        if self.shut:
            self.check_state()
        return platform.load_i64(&self.w.first_offset)

    @property
    def next_offset(self):
        """The offset that the next record will get, unless a crash makes it skip ahead. Two loads."""
        if self.shut:
            self.check_state()
        if platform.load_u32(&self.w.pending):
            self.finish()           # what was decided is there, though its committer did not live to say so
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
