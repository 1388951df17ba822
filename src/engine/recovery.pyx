# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Recovery: from the files of a partition to its shared words, after a boot, a failed sync, or in a copied directory.

It promises: what a sync covered is there; what was not is cut at the first unsound frame of the last segment (with `fsync="never"`, where
nothing was promised, whatever the disk kept is kept); no offset is ever given out twice; nothing but a torn tail is overwritten; what is missing is
told. It may be cut short at any point and run again: files are made before they are named, marks follow what they say.
"""
import os

from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.errno cimport EIO
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from seglog.engine cimport platform
from seglog.engine.decisions cimport Decisions
from seglog.engine.frame cimport FRAME_OK, FRAME_UNDECIDED, FRAME_UNKNOWN, frame_check, why
from seglog.engine.index cimport Index, build_index, create_index, open_index
from seglog.engine.layout cimport (
    ATTENTION_CLEAN, ATTENTION_FAILED, FRAME_HEADER, INDEX_EVERY, INDEX_SEALED, IN_TRANSACTION, LOWEST, MARK_CLEAN, MARK_SEALED, MARK_UNSYNCED,
    SEGMENT_HEADER, SHARED_BYTES, SHARED_FAILED, SHARED_MAGIC, SHARED_READY, SHARED_VERSION, FrameHeader, Mark, SegmentHeader,
    SharedWords, frame_length,
)
from seglog.engine.segment cimport Scanner, Segment, create_segment, list_bases, open_segment, remove_segment, superseded_bases

from seglog.engine.errors import CorruptSegment, UnsupportedFormat, os_error
from seglog.engine.losses import Loss, write_losses
from seglog.engine.segment import segment_name, sync_directory

# When nobody can say how many offsets were given out, go on this far behind: 8 million such accidents fit into 63 bits.
cdef int64_t UNKNOWN_OFFSETS = <int64_t>1 << 40


cdef tuple recover(
    SharedWords *w, str path, object status, bint known, bint ours, uint64_t boot, int64_t now, int64_t capacity, bint by_pwrite,
    bint promised, Decisions decisions,
):
    """Make the shared words from the files in `path`; the losses found. Alone: the caller holds the lock of the shm file.

    `decisions`: which frames of transactions hold; None: all that are there. `status` is that file's; `known`: its words are of this boot; `ours`: of this very file, not of a copy. `capacity` is the size of a
    new segment; `promised`: what is appended will be synced (fsync is not "never"). Each step may be the last one before the power goes: what follows finds the same, or better.
    """
    cdef Segment last = None, fresh
    cdef Scanner scan
    cdef Mark mark
    cdef SegmentHeader header
    cdef int64_t position = SEGMENT_HEADER, end = 0, next_base = 0, start = 0, torn, found, begun, begun_at
    cdef bint failed = ours and w.state == SHARED_FAILED
    cdef int64_t rewrite_from = w.durable_base if failed else -1
    cdef int code = FRAME_OK
    cdef uint32_t epoch = 1, incarnation = w.incarnation + 1
    cdef bint marked_clean = False, clean = False, marked = False, unsynced = False, blank, empty = False
    cdef list losses = [], bases
    cdef str file
    cdef uint64_t identity = <uint64_t>int.from_bytes(os.urandom(8), "little")
    if known:
        next_base = max(w.next_offset, 0)   # given out in this boot, whatever became of the files
    if not failed:
        w.state = 0                 # a failed sync stays known until its pages were written again
    platform.or_u32(&w.attention, ATTENTION_FAILED)
    for name in os.listdir(path):
        if name.endswith(".log.tmp") or name.endswith(".idx.tmp"):
            os.unlink(os.path.join(path, name))
    platform.failpoint("recover.begin")
    # The process before may have died between a rename and its sync.
    sync_directory(path)
    bases = list_bases(path)
    for base in superseded_bases(path, bases):
        # A compaction wrote their records into the segment before, which was on disk by its name before one of them went.
        remove_segment(path, base)
        bases.remove(base)
        platform.failpoint("recover.superseded")
    memset(&mark, 0, sizeof(Mark))
    while bases:
        file = os.path.join(path, segment_name(bases[-1]))
        try:
            last = open_segment(file, True, by_pwrite)
            if len(bases) > 1 and belongs_elsewhere(path, bases[-2], last):
                last = None
                raise CorruptSegment(f"{file} belongs to another partition. Nothing was deleted.", path=file)
            break
        except CorruptSegment as error:
            losses.append(Loss("corrupt", file, 0, bases[-1], -1, os.path.getsize(file), str(error)))
            # How many offsets it gave out is in there, unreadable; this many it did not.
            next_base = max(next_base, bases[-1] + UNKNOWN_OFFSETS)
            bases.pop()
    if last is not None:
        identity = last.header.partition_id
        marked = last.read_mark(&mark)
        start = max(last.header.start_offset, mark.start_offset)
        epoch = max(last.header.epoch, mark.epoch)
        unsynced = marked and mark.flags & MARK_UNSYNCED != 0
        marked = marked and not unsynced
        if marked:
            position, end = mark.durable_position, mark.durable_offset
        else:
            end = last.base_offset
        scan = Scanner(last, position, end)
        while True:
            PyErr_CheckSignals()
            begun, begun_at = scan.offset, scan.position
            code = scan.step()
            if code == FRAME_OK and scan.flags & IN_TRANSACTION and decisions is not None \
                    and not decisions.holds(identity, begun, scan.offset):
                code = FRAME_UNDECIDED
                scan.offset, scan.position = begun, begun_at
                if not marked:
                    # What follows it may be kept; it may not, so nobody must find it again.
                    erase(last, begun_at)
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
            losses.append(Loss("torn", last.path, scan.position, scan.offset, following, found - scan.position, why(code)))
            scan.offset, scan.position = following, found
        epoch = max(epoch, scan.epoch)
        blank = scan.blank(scan.position)
        if scan.failed:
            # What cannot be read now may be sound, and must not be taken for a torn tail.
            raise os_error(scan.failed, "cannot read", last.path)
        clean = (
            marked and not failed and mark.flags & MARK_CLEAN and scan.position == position and blank
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
                losses.append(Loss("torn", last.path, position, end, -1, torn, why(code)))
            if last.size < last.header.capacity:
                losses.append(Loss("missing", last.path, last.size, end, -1, last.header.capacity - last.size,
                                   "the file was cut short"))
            write_losses(path, losses, now)     # before anything makes them hard to see
            platform.failpoint("recover.scanned")
            settle(last, &mark, marked, position, end, epoch)
            platform.failpoint("recover.settled")
            next_base = max(next_base, end, last.header.reserved_offset)
            if unsynced:
                # With fsync="never" even the names of later segments may be lost, and with them what they gave out.
                next_base = max(next_base, end + UNKNOWN_OFFSETS)
            epoch += 1
    if rewrite_from >= 0 or (known and not ours):
        # After a failed sync the cache may hold what the disk does not; and nobody ever synced a copy.
        for base in bases:
            if base >= rewrite_from:
                rewrite_file(os.path.join(path, segment_name(base)))
    losses.extend(missing_segments(path, bases, start))
    if known and not bases and last is None and w.next_offset > max(w.first_offset, 0):
        losses.append(Loss("missing", path, 0, w.first_offset, w.next_offset, 0, "all segment files are gone"))
    if bases and last is not None and not unsynced and start < start_of(path, bases[0]):
        losses.append(Loss("missing", path, 0, start, bases[0], 0, "the first segment files are gone"))
    if clean:
        fresh = last
    else:
        memset(&header, 0, sizeof(header))
        header.base_offset = next_base
        header.capacity = capacity
        header.reserved_offset = next_base + header.capacity // 8
        header.created = now
        header.epoch = epoch
        header.partition_id = identity
        # The log goes on beginning where it did: a group that committed, before the power cut took the records, is not told of a trim.
        empty = last is not None and end == last.base_offset and next_base > end and len(bases) > 1
        # An empty segment goes, and its successor says in its place where the one before ended.
        header.previous_end = next_base if last is None else last.header.previous_end if empty else end
        header.start_offset = start
        memset(&mark, 0, sizeof(mark))
        mark.durable_position = SEGMENT_HEADER
        mark.durable_offset = next_base
        mark.start_offset = start
        # A new partition gets no clean mark: its first append would have to take that back, by a sync.
        marked_clean = last is not None or len(losses) > 0
        mark.flags = MARK_CLEAN if marked_clean else 0 if promised else MARK_UNSYNCED
        mark.epoch = epoch
        fresh = create_segment(path, &header, &mark, by_pwrite, True)
        platform.failpoint("recover.made")
        if empty:
            remove_segment(path, last.base_offset)
            bases.pop()
        elif last is not None:
            # The successor is durable: now the old one may say that it is complete.
            last.read_mark(&mark)
            mark.flags = MARK_SEALED
            mark.end_position, mark.end_offset = position, end
            last.write_mark(&mark)
            if end == last.base_offset and not last.by_pwrite:
                platform.punch(last.fd, position, last.size)
        position, end = SEGMENT_HEADER, next_base
        bases.append(next_base)
    write_losses(path, losses, now)
    platform.failpoint("recover.words")
    if not ours:
        memset(w, 0, SHARED_BYTES)
        platform.or_u32(&w.attention, ATTENTION_FAILED)
    w.incarnation = incarnation
    w.version = SHARED_VERSION
    w.boot, w.device, w.inode, w.partition_id = boot, status.st_dev, status.st_ino, identity
    w.tail_position = w.durable_position = position
    w.active_base = w.durable_base = fresh.base_offset
    w.active_salt = fresh.salt
    w.max_timestamp = LOWEST
    w.indexed_position = -INDEX_EVERY
    w.epoch = epoch
    w.pending = 0
    w.zeroed = 0
    w.first_offset = max(start, bases[0])
    w.segments += 1
    platform.store_i64(&w.durable_offset, end)
    platform.store_i64(&w.next_offset, end)
    if clean:
        resume_index(w, fresh, position, end, boot)
    else:
        create_index(fresh, boot)
    platform.failpoint("recover.filled")
    w.magic = SHARED_MAGIC
    platform.exchange_u32(&w.attention, ATTENTION_CLEAN if clean or marked_clean else 0)
    platform.store_u32(&w.state, SHARED_READY)
    return tuple(losses)


cdef int settle(
    Segment last, Mark *mark, bint marked, int64_t position, int64_t end, uint32_t epoch,
) except -1:
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
        # SEALED and UNSYNCED stay until the successor is durable: recovery may end here, and begin again.
        mark.flags &= ~<uint32_t>MARK_CLEAN
        mark.epoch = epoch
        rc = last.write_mark(mark)
        if rc == 0:
            with nogil:
                rc = last.sync()
    if rc:
        raise os_error(rc, "cannot repair the tail of", last.path)
    return 0


cdef int erase(Segment segment, int64_t position) except -1:
    """Let no frame begin there any more."""
    cdef char zeros[FRAME_HEADER]
    memset(zeros, 0, FRAME_HEADER)
    cdef int rc = platform.pwrite_all(segment.fd, zeros, FRAME_HEADER, position)
    if rc:
        raise os_error(rc, "cannot repair the tail of", segment.path)
    return 0


cdef bint belongs_elsewhere(str directory, int64_t base, Segment last) except -1:
    """Whether the segment before has another partition's id: the two cannot both be of this log, and it was here first."""
    cdef Segment before
    try:
        before = open_segment(os.path.join(directory, segment_name(base)), False, False)
    except (CorruptSegment, FileNotFoundError):
        return False
    return before.header.partition_id != last.header.partition_id


cdef int64_t start_of(str directory, int64_t base) except? -1:
    """Where the log must have started for the segment at `base` to be its first: one that replaced an empty one says so."""
    cdef Segment first
    try:
        first = open_segment(os.path.join(directory, segment_name(base)), False, False)
    except (CorruptSegment, FileNotFoundError):
        return base
    return min(base, first.header.previous_end)


cdef list missing_segments(str directory, list bases, int64_t start):
    """Losses for files that are gone: each segment says where the one before it ended."""
    cdef list losses = []
    cdef Segment segment, previous = None
    cdef Mark mark
    for base in bases:
        path = os.path.join(directory, segment_name(base))
        try:
            segment = open_segment(path, False, False)
        except FileNotFoundError:
            continue
        except CorruptSegment as error:
            losses.append(Loss("corrupt", path, 0, base, -1, os.path.getsize(path), str(error)))
            if previous is not None and previous.read_mark(&mark) and mark.flags & MARK_SEALED and mark.end_offset < base \
                    and base > start:
                losses.append(Loss("missing", previous.path, mark.end_position, max(start, mark.end_offset), base, 0,
                                   "segment files between this one and the next are gone"))
            previous = None
            continue
        if previous is not None and previous.read_mark(&mark) and mark.flags & MARK_SEALED \
                and mark.end_offset < segment.header.previous_end and segment.header.previous_end > start:
            losses.append(Loss("missing", previous.path, mark.end_position, max(start, mark.end_offset),
                               segment.header.previous_end, 0, "segment files between this one and the next are gone"))
        previous = segment
    return losses


cdef int resume_index(SharedWords *w, Segment segment, int64_t position, int64_t end, uint64_t boot) except -1:
    """After a clean close: go on with the index that is there, or with a new one of the same content."""
    cdef Index index = open_index(segment, boot, end), built
    cdef const FrameHeader *h
    cdef int64_t at = SEGMENT_HEADER
    if index is None or not index.header.flags & INDEX_SEALED or index.room < index.header.count + 1:
        built = build_index(segment, position, end, False)
        index = create_index(segment, boot)
        index.header.count = built.header.count
        memcpy(index.entries, built.entries, built.header.count * 16)
    index.header.flags = 0
    index.header.boot = boot
    # Timestamps behind the last entry are found again by walking the few frames there.
    if index.header.count:
        at = index.entries[index.header.count - 1].position
        w.indexed_position = at
        w.max_timestamp = index.entries[index.header.count - 1].max_timestamp
    while at < position and frame_check(segment.data + at, segment.size - at, segment.salt) == FRAME_OK:
        h = <const FrameHeader *>(segment.data + at)
        w.max_timestamp = max(w.max_timestamp, h.max_timestamp)
        at += frame_length(h)
    return 0


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
