# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Segment: one file of frames, allocated before it is mapped.

    0      header                        one page
    512    durable mark, slot A
    1024   durable mark, slot B
    2048   the header again
    4096   frames, each from a multiple of 8, up to `capacity`

It promises: its blocks exist before anything is stored through the map, so a full disk is an error when the segment is
made and never a signal later; it appears under its name only when its header is on disk; it is never renamed or
truncated afterwards. Where a file system cannot allocate, the file is sparse and written by pwrite. It leaves to `log` who
may write where, and what a mark means for recovery.

Shared fields: none changes after it was made. The bytes belong to whoever holds the partition's lock; the mark slots to
whoever holds the sync lock, or the partition's while it rolls.
"""
import contextlib
import errno
import os
import stat

from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

from seglog.engine cimport platform
from seglog.engine.checksum cimport xxh3_64, xxh3_64_seed
from seglog.engine.frame cimport (
    FRAME_BODY_BAD, FRAME_COLUMNS_BAD, FRAME_HEADER_BAD, FRAME_OK, FRAME_SHORT, FRAME_UNKNOWN, Columns, body_check, why,
    columns_parse, frame_check,
)
from seglog.engine.layout cimport (
    CODEC_NONE, FRAME_HEADER, FRAME_MAGIC, LOWEST, MARK_A, MARK_B, MARK_CLEAN, MARK_MERGED, MARK_SEALED, MARK_UNSYNCED, SEGMENT_COPY, SEGMENT_HEADER, SEGMENT_MAGIC, SEGMENT_VERSION,
    SEGMENT_SPARSE, FrameHeader, Mark, SegmentHeader, frame_length, next_offset_of,
)
from seglog.engine.mapping cimport map_fd

from seglog.engine.errors import CorruptSegment, SeglogError, UnsupportedFormat, os_error

cdef enum:
    HEADER_HASHED = sizeof(SegmentHeader) - 8
    MARK_HASHED = sizeof(Mark) - 8

cdef int64_t SEGMENT_BYTES_LIMIT = <int64_t>1 << 32     # an index holds positions in 32 bits

_BINARY = getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


def segment_name(int64_t base_offset) -> str:
    """The file name of the segment that starts with this offset: 20 digits, so that names sort like offsets."""
    return f"{base_offset:020d}.log"


cdef int remove_segment(str directory, int64_t base) except -1:
    """Unlink a segment and its index; whoever has them mapped keeps them."""
    for suffix in (".log", ".idx", ".bad"):
        path = os.path.join(directory, segment_name(base)[:-4] + suffix)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise os_error(-error.errno, "cannot delete", path) from error
    return 0


cdef bint is_segment_name(str name):
    # Larger numbers than an offset can be are some other program's.
    return len(name) == 24 and name.endswith(".log") and name.isascii() and name[:20].isdigit() and name < "09"


cdef list list_bases(str path):
    """The base offsets of the segment files in a directory, in order. Other files are not ours to judge."""
    cdef list bases = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if is_segment_name(entry.name) and is_file(entry):
                    bases.append(int(entry.name[:20]))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise os_error(-error.errno, "cannot list", path) from error
    bases.sort()
    return bases


cdef list superseded_bases(str path, list bases):
    """Those of `bases` whose records a compaction wrote into the segment before: they lie below its sealed end.

    Opens every segment. A process that was killed in a compaction, or a power cut, leaves such files.
    """
    cdef list found = []
    cdef Segment segment, merged = None
    cdef Mark mark
    cdef int64_t end = -1
    for base in bases:
        try:
            segment = open_segment(os.path.join(path, segment_name(base)), False, False)
        except (CorruptSegment, FileNotFoundError):
            continue
        if merged is not None and base < end and segment.header.partition_id == merged.header.partition_id:
            found.append(base)
        elif segment.read_mark(&mark) and mark.flags & MARK_MERGED and mark.flags & MARK_SEALED:
            merged, end = segment, mark.end_offset
    return found


cdef bint is_file(object entry) except -1:
    """Whether a name stands for a file: a link may; one that leads to itself, or nowhere, does not."""
    try:
        return entry.is_file()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


cdef int open_file(str path, int flags) except -1:
    """Open what stands under a segment's name, if it is a file: a pipe would make its opener wait, a device might do anything.

    Raises CorruptSegment when it is something else, FileNotFoundError when nothing is there.
    """
    cdef int fd
    try:
        fd = os.open(path, flags | _BINARY | _NO_WAIT)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise not_a_file(path) from error
        raise os_error(-error.errno, "cannot open", path) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise not_a_file(path)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            raise os_error(-error.errno, "cannot look at", path) from error
        raise
    return fd


cdef object not_a_file(str path):
    return CorruptSegment(
        f"{path} is a pipe, a device, a directory or a link to itself: not the file that was there, so none of its records can "
        "be read. Nothing was deleted; put the file back, if you have it.", path=path, offset=-1, resume_offset=-1,
    )


def sync_directory(str path):
    """Make the names in a directory durable. Where a directory cannot be opened (Windows), the system sees to it."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except FileNotFoundError:
        raise
    except OSError as error:
        if os.name == "nt" and isinstance(error, PermissionError):
            return
        raise os_error(-error.errno, "cannot sync the directory", path) from error
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):    # file systems without it, for instance some FUSE ones
            raise os_error(-error.errno, "cannot sync the directory", path) from error
    finally:
        os.close(fd)


cdef class Segment:
    """One file of frames; made by `create_segment` and `open_segment`."""

    def __cinit__(self):
        self.fd = -1
        self.data = NULL

    def __dealloc__(self):
        if self.fd >= 0:
            os.close(self.fd)

    cdef bint read_mark(self, Mark *mark) noexcept nogil:
        """The newer valid slot. False (and zeros) when there is none: nothing here was ever synced on purpose."""
        cdef const Mark *a = <const Mark *>(self.data + MARK_A)
        cdef const Mark *b = <const Mark *>(self.data + MARK_B)
        cdef Mark one, two
        cdef bint first, second
        memset(mark, 0, sizeof(Mark))
        if self.size < SEGMENT_HEADER:
            return False
        # Copies: another process may be writing the older slot at this moment. Its hash then fails, or it is whole.
        memcpy(&one, a, sizeof(Mark))
        memcpy(&two, b, sizeof(Mark))
        first = one.sequence != 0 and one.hash == xxh3_64_seed(&one, MARK_HASHED, self.salt)
        second = two.sequence != 0 and two.hash == xxh3_64_seed(&two, MARK_HASHED, self.salt)
        if first and (not second or one.sequence > two.sequence):
            mark[0] = one
        elif second:
            mark[0] = two
        else:
            return False
        return True

    cdef int write_mark(self, Mark *mark) noexcept nogil:
        """Write over the older slot. It is durable after the next sync. 0 or -errno."""
        cdef Mark now
        self.read_mark(&now)
        mark.sequence = now.sequence + 1
        mark.hash = xxh3_64_seed(mark, MARK_HASHED, self.salt)
        return platform.pwrite_all(
            self.fd, <const char *>mark, sizeof(Mark), MARK_A if mark.sequence & 1 else MARK_B)

    cdef int sync(self) noexcept nogil:
        """All bytes written so far are on disk when this returns 0; otherwise -errno."""
        cdef int rc = platform.flush_view(self.data, self.size) if not self.by_pwrite else 0
        return rc if rc else platform.datasync(self.fd)

    cdef int64_t next_frame(self, int64_t position, int64_t stop, int64_t offset_min, int64_t offset_max) noexcept nogil:
        """The first place after `position` where a sound header stands whose offset lies in the range; -1 if none does.

        Sound: the salted hash fits, so it is a frame of this segment and not bytes that look like one.
        """
        cdef const FrameHeader *h
        position += 8
        while position + FRAME_HEADER <= stop:
            h = <const FrameHeader *>(self.data + position)
            if h.magic == FRAME_MAGIC and frame_check(self.data + position, stop - position, self.salt) == FRAME_OK \
                    and offset_min <= h.base_offset < offset_max:
                return position
            position += 8
        return -1

    def __repr__(self):
        return f"<Segment {os.path.basename(self.path)} of {self.size:,} bytes>"


cdef void seal_header(SegmentHeader *header) noexcept nogil:
    header.magic = SEGMENT_MAGIC
    header.version = SEGMENT_VERSION
    header.header_length = SEGMENT_HEADER
    header.header_hash = xxh3_64(header, HEADER_HASHED)


cdef void first_page(char *page, SegmentHeader *header, const Mark *mark) noexcept nogil:
    """The first 4096 bytes of a new segment: the header, but for its magic, version and hash filled by the caller, twice, and its
    first mark."""
    cdef Mark first = mark[0]
    seal_header(header)
    memset(page, 0, SEGMENT_HEADER)
    memcpy(page, header, sizeof(SegmentHeader))
    memcpy(page + SEGMENT_COPY, header, sizeof(SegmentHeader))
    first.sequence = 1
    first.hash = xxh3_64_seed(&first, MARK_HASHED, header.salt)
    memcpy(page + MARK_A, &first, sizeof(Mark))


cdef Segment create_segment(str directory, SegmentHeader *header, const Mark *mark, bint by_pwrite, bint sync):
    """Make a segment: temporary name, allocate, header, sync, rename, sync the directory. Opened for writing.

    The caller fills the header but for magic, version and hash; A crash before the rename leaves a file
    that the next opener removes; one after it leaves an empty segment.
    """
    cdef str name = os.path.join(directory, segment_name(header.base_offset))
    cdef str temporary = name + ".tmp"
    cdef char page[4096]
    cdef int rc
    cdef int64_t capacity = header.capacity
    cdef bint named = False, alone = not os.path.exists(name)
    cdef int fd
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
    except OSError as error:
        raise os_error(-error.errno, "cannot make", temporary) from error
    try:
        if not by_pwrite:
            with nogil:
                rc = platform.allocate(fd, capacity)
            if rc == -errno.EOPNOTSUPP:
                by_pwrite = True
            elif rc:
                raise os_error(rc, f"cannot allocate {capacity:,} bytes for", temporary)
        if by_pwrite:
            os.ftruncate(fd, capacity)
            header.flags |= SEGMENT_SPARSE
        header.salt = <uint64_t>int.from_bytes(os.urandom(8), "little")
        first_page(page, header, mark)
        with nogil:
            rc = platform.pwrite_all(fd, page, SEGMENT_HEADER, 0)
            if rc == 0 and sync:
                rc = platform.datasync(fd)
        if rc:
            raise os_error(rc, "cannot write", temporary)
        platform.failpoint("create.written")
        os.close(fd)
        fd = -1
        os.replace(temporary, name)
        named = True
        platform.failpoint("create.named")
        if sync:
            sync_directory(directory)
        return open_segment(name, True, by_pwrite)
    except BaseException as error:
        if fd >= 0:
            os.close(fd)
        # Also under its name, on disk: a segment that nobody switches to must not be found by the next recovery. Unless it
        # took the place of an empty one: then it is as good as that.
        with contextlib.suppress(OSError):
            os.unlink(name if named and alone else temporary)
        if named and alone:
            with contextlib.suppress(OSError):
                sync_directory(directory)
        if isinstance(error, OSError) and not isinstance(error, SeglogError):
            raise os_error(-error.errno, "cannot make", name) from error
        raise


cdef bint header_sound(const SegmentHeader *header) noexcept nogil:
    return header.magic == SEGMENT_MAGIC and header.header_hash == xxh3_64(header, HEADER_HASHED)


cdef Segment open_segment(str path, bint writable, bint by_pwrite):
    """Open and map a segment that exists. Raises CorruptSegment when both copies of its header are damaged."""
    cdef Segment s = Segment.__new__(Segment)
    cdef char page[4096]
    cdef SegmentHeader *header
    cdef int64_t got
    cdef int fd = open_file(path, os.O_RDWR if writable else os.O_RDONLY)
    try:
        memset(page, 0, sizeof(page))
        with nogil:
            got = platform.pread_all(fd, page, SEGMENT_HEADER, 0)
        if got < 0:
            raise os_error(<int>got, "cannot read", path)
        header = <SegmentHeader *>page
        if not header_sound(header):
            header = <SegmentHeader *>(page + SEGMENT_COPY)
        if not header_sound(header):
            raise CorruptSegment(
                f"{path}: both copies of the header are damaged, so none of its records can be proved. Nothing was "
                "deleted; `seglog doctor` shows what that costs and can set it aside.", path=path, offset=-1, resume_offset=-1,
            )
        if header.version > SEGMENT_VERSION or header.flags & ~<uint32_t>SEGMENT_SPARSE:
            raise UnsupportedFormat(
                f"{path} has segment version {header.version} (flags {header.flags}); this seglog reads up to "
                f"{SEGMENT_VERSION}. Nothing was changed; use a newer seglog.",
                path=path, found=header.version, supported=SEGMENT_VERSION,
            )
        s.path = path
        s.header = header[0]
        s.base_offset = header.base_offset
        s.salt = header.salt
        # Touching a page behind the end of the file would be a signal: map what is there, and no more.
        try:
            status = os.fstat(fd)
            s.size, s.inode = min(<int64_t>status.st_size, header.capacity), <uint64_t>status.st_ino
        except OSError as error:
            raise os_error(-error.errno, "cannot look at", path) from error
        s.by_pwrite = by_pwrite or header.flags & SEGMENT_SPARSE
        if os.path.basename(path) != segment_name(header.base_offset):
            raise CorruptSegment(
                f"{path} says that it starts with offset {header.base_offset:,}: it is another segment's file under this name. "
                "Nothing was deleted.", path=path, offset=-1, resume_offset=-1, misplaced=True,
            )
        if not SEGMENT_HEADER <= header.capacity <= SEGMENT_BYTES_LIMIT:
            raise CorruptSegment(
                f"{path} says that it has {header.capacity:,} bytes, which no segment has.",
                path=path, offset=header.base_offset, resume_offset=-1,
            )
        if s.size < SEGMENT_HEADER:
            raise CorruptSegment(
                f"{path} was cut to {s.size:,} bytes, less than its header.",
                path=path, offset=header.base_offset, resume_offset=-1,
            )
        try:
            s.mapping = map_fd(fd, s.size, writable and not by_pwrite)
        except OSError as error:
            raise os_error(-error.errno, "cannot map", path) from error
        s.data = s.mapping.data
        if writable:
            s.fd = fd
            fd = -1
    finally:
        if fd >= 0:
            os.close(fd)
    return s


cdef int by_offset(const void *a, const void *b) noexcept nogil:
    cdef const int64_t *x = <const int64_t *>a
    cdef const int64_t *y = <const int64_t *>b
    if x[0] != y[0]:
        return -1 if x[0] < y[0] else 1
    return -1 if x[1] < y[1] else x[1] > y[1]


cdef class Survivors:
    """Every sound frame of a segment, wherever it stands, by offset: where reading goes on after damage.

    Frames are told from bytes that look like them by the salted hash, so one that a misplaced write moved is found too.
    Memory: 16 bytes a frame. Cost: one pass over the segment.
    """

    def __cinit__(self):
        self.rows = NULL

    def __dealloc__(self):
        PyMem_RawFree(self.rows)

    cdef int add(self, int64_t offset, int64_t position) except -1:
        cdef int64_t *grown
        if self.count == self.room:
            self.room = max(<int64_t>1024, 2 * self.room)
            grown = <int64_t *>PyMem_RawRealloc(self.rows, 16 * self.room)
            if grown == NULL:
                raise MemoryError()
            self.rows = grown
        self.rows[2 * self.count], self.rows[2 * self.count + 1] = offset, position
        self.count += 1
        return 0

    cdef int64_t find(self, int64_t offset_min, int64_t offset_max, int64_t *position) noexcept nogil:
        """The lowest offset in the range at which a sound frame starts, and where that is; -1 for none."""
        cdef int64_t low = 0, high = self.count, middle
        while low < high:
            middle = (low + high) >> 1
            if self.rows[2 * middle] < offset_min:
                low = middle + 1
            else:
                high = middle
        if low == self.count or self.rows[2 * low] >= offset_max:
            return -1
        position[0] = self.rows[2 * low + 1]
        return self.rows[2 * low]


cdef Survivors find_survivors(Segment segment, int64_t stop):
    cdef Survivors s = Survivors.__new__(Survivors)
    cdef int64_t position = SEGMENT_HEADER
    cdef const FrameHeader *h
    s.stop = stop
    while position + FRAME_HEADER <= segment.size:
        h = <const FrameHeader *>(segment.data + position)
        if h.magic == FRAME_MAGIC and frame_check(segment.data + position, segment.size - position, segment.salt) == FRAME_OK \
                and segment.base_offset <= h.base_offset < stop:
            s.add(h.base_offset, position)
        # Not by the frame's length: what it covers may have been written over.
        position += 8
    if s.count:                     # without any, there are no rows: NULL is not for qsort
        with nogil:
            qsort(s.rows, s.count, 16, &by_offset)
    return s


def describe_segment(path):
    """What the first page of a segment file says, as a dict, read-only: for the doctor.

    `copies`: whether each copy of the header is sound; `header`: its fields, None when neither is; `marks`: for each slot its
    fields, None when it is blank, "damaged" when its hash is wrong; `size` of the file.
    """
    cdef char page[4096]
    cdef const SegmentHeader *header
    cdef const SegmentHeader *copy
    cdef const Mark *mark
    cdef int64_t got
    cdef int at
    cdef int fd = open_file(os.fspath(path), os.O_RDONLY)
    try:
        memset(page, 0, sizeof(page))
        with nogil:
            got = platform.pread_all(fd, page, SEGMENT_HEADER, 0)
        if got < 0:
            raise os_error(<int>got, "cannot read", path)
        size = os.fstat(fd).st_size
    finally:
        os.close(fd)
    header = <const SegmentHeader *>page
    copy = <const SegmentHeader *>(page + SEGMENT_COPY)
    copies = (bool(header_sound(header)), bool(header_sound(copy)))
    if not copies[0]:
        header = copy
    if not any(copies):
        return {"size": size, "copies": copies, "header": None, "marks": (None, None)}
    marks = []
    for at in (MARK_A, MARK_B):
        mark = <const Mark *>(page + at)
        if page[at:at + sizeof(Mark)] == bytes(sizeof(Mark)):
            marks.append(None)
        elif mark.sequence == 0 or mark.hash != xxh3_64_seed(mark, MARK_HASHED, header.salt):
            marks.append("damaged")
        else:
            marks.append({
                "sequence": mark.sequence, "durable_position": mark.durable_position, "durable_offset": mark.durable_offset,
                "start_offset": mark.start_offset, "end_position": mark.end_position, "end_offset": mark.end_offset,
                "sealed": bool(mark.flags & MARK_SEALED), "clean": bool(mark.flags & MARK_CLEAN),
                "unsynced": bool(mark.flags & MARK_UNSYNCED), "merged": bool(mark.flags & MARK_MERGED), "epoch": mark.epoch,
            })
    return {
        "size": size, "copies": copies, "marks": tuple(marks),
        "header": {
            "version": header.version, "base_offset": header.base_offset, "capacity": header.capacity,
            "reserved_offset": header.reserved_offset, "created": header.created, "epoch": header.epoch,
            "partition_id": header.partition_id, "previous_end": header.previous_end, "start_offset": header.start_offset,
        },
    }


def mend_header(path):
    """Write the sound copy of a segment's header over the damaged one, and sync. False when there was nothing to mend, or no
    sound copy to mend it with."""
    cdef char block[512]
    cdef int rc
    copies = describe_segment(path)["copies"]
    if copies[0] == copies[1]:
        return False
    cdef int fd = open_file(os.fspath(path), os.O_RDWR)
    try:
        rc = 0 if platform.pread_all(fd, block, 512, 0 if copies[0] else SEGMENT_COPY) == 512 else -errno.EIO
        if rc == 0:
            rc = platform.pwrite_all(fd, block, 512, SEGMENT_COPY if copies[0] else 0)
        if rc == 0:
            rc = platform.datasync(fd)
        if rc:
            raise os_error(rc, "cannot mend the header of", path)
    finally:
        os.close(fd)
    return True


def segment_at(path):
    """A segment mapped for reading, for a `Scanner`. Raises CorruptSegment when neither copy of its header is sound."""
    return open_segment(path, False, False)


cdef class Scanner:
    """The frames of a segment's file one after the other, read by pread: bad media is an error here and not a signal.

    `step` checks everything about the frame at `position`: header, body, columns, and that its offset is the one
    expected. Memory: 1 MiB, or the largest frame.
    """

    def __cinit__(self):
        self.buffer = NULL
        self.fd = -1

    def __init__(self, Segment segment, int64_t position, int64_t offset):
        self.path = segment.path
        self.salt = segment.salt
        self.size = segment.size
        self.base_offset = segment.base_offset
        self.position, self.offset = position, offset
        self.epoch = 0
        self.max_timestamp = LOWEST
        self.fd = open_file(segment.path, os.O_RDONLY)

    def __dealloc__(self):
        PyMem_RawFree(self.buffer)
        if self.fd >= 0:
            os.close(self.fd)

    def check(self):
        """What is wrong with the frame at `position`, as the end of a sentence; None when nothing is, and on to the next."""
        cdef int code = self.step()
        return None if code == FRAME_OK else why(code)

    def run(self, int64_t stop):
        """`check` in C, frame after frame, up to offset `stop`: what is wrong with the first one that is not sound, or None.

        Raises UnsupportedFormat at a frame of a newer kind, which is no damage. Ctrl-C works.
        """
        cdef int code = FRAME_OK
        cdef int64_t heard = self.position
        while code == FRAME_OK and self.offset < stop:
            code = self.step()
            if self.position - heard >= 1 << 24:
                heard = self.position
                PyErr_CheckSignals()
        if code == FRAME_UNKNOWN:
            raise UnsupportedFormat(
                f"{self.path} holds a frame at {self.position:,} of a kind that this version does not know. Nothing was "
                "changed; use a newer seglog.", path=self.path, found=-1, supported=1)
        return None if code == FRAME_OK else why(code)

    def resume(self, int64_t stop):
        """Behind damage: go on where a reader does (docs/format.md, section 5), among the frames of offsets below `stop`, and
        say whether that is anywhere. Offsets from the old `offset` up to the new one are lost.

        The first call of a segment reads all of it, and keeps 16 bytes a frame.
        """
        cdef const char *at = self.need(self.position, FRAME_HEADER)
        cdef const FrameHeader *h = <const FrameHeader *>at
        cdef int64_t found = -1, position = SEGMENT_HEADER - 8, offset
        cdef Survivors s = self.survivors
        if at != NULL and frame_check(at, self.size - self.position, self.salt) == FRAME_OK and h.base_offset == self.offset \
                and next_offset_of(h) <= stop:
            self.offset = next_offset_of(h)         # only the body is bad: the header still says how far it goes
            self.position += frame_length(h)
            return True
        if s is None:
            s = self.survivors = Survivors.__new__(Survivors)
            while True:
                PyErr_CheckSignals()
                position = self.resync(position, self.base_offset)
                if position < 0:
                    break
                s.add((<const FrameHeader *>self.need(position, FRAME_HEADER)).base_offset, position)
            if s.count:
                qsort(s.rows, s.count, 16, &by_offset)
        offset = s.find(self.offset, stop, &found)
        if offset == self.offset and found == self.position:
            offset = s.find(self.offset + 1, stop, &found)
        if offset < 0:
            return False
        self.offset, self.position = offset, found
        return True

    def skip(self):
        """Go on at the next sound frame behind `position`, wherever it is; False when there is none."""
        cdef int64_t found = self.resync(self.position, self.offset + 1)
        if found < 0:
            return False
        self.offset = (<const FrameHeader *>self.need(found, FRAME_HEADER)).base_offset
        self.position = found
        return True

    def rest_is_blank(self):
        """Whether nothing but zeros follows `position`."""
        return bool(self.blank(self.position))

    cdef const char *need(self, int64_t position, int64_t size) except? NULL:
        """The bytes there, or NULL (no exception) when the file ends before, or cannot be read."""
        cdef int64_t got, want
        cdef char *grown
        if position >= self.buffered and position + size <= self.buffered + self.held:
            return self.buffer + (position - self.buffered)
        if position < 0 or position + size > self.size:
            return NULL
        want = max(size, min(<int64_t>1 << 20, self.size - position))
        if want > self.room:
            grown = <char *>PyMem_RawRealloc(self.buffer, want)
            if grown == NULL:
                raise MemoryError()
            self.buffer, self.room = grown, want
        with nogil:
            got = platform.pread_all(self.fd, self.buffer, want, position)
        if got < size and want > size:
            # One bad sector must not take its neighbours along: ask for just these bytes.
            with nogil:
                got = platform.pread_all(self.fd, self.buffer, size, position)
        if got < 0:
            self.failed = <int>got
        self.buffered, self.held = position, max(got, 0)
        return self.buffer if got >= size else NULL

    cdef int step(self) except? -99:
        """FRAME_OK and go on to the next frame, or what is wrong with this one (and stay)."""
        cdef const char *at = self.need(self.position, FRAME_HEADER)
        cdef const FrameHeader *h
        cdef Columns c
        cdef int code
        cdef int64_t length
        if at == NULL:
            return FRAME_SHORT
        code = frame_check(at, self.size - self.position, self.salt)
        if code != FRAME_OK:
            return code
        length = frame_length(<const FrameHeader *>at)
        at = self.need(self.position, length)
        if at == NULL:
            return FRAME_SHORT
        h = <const FrameHeader *>at
        if length < 8192:           # letting go of the GIL takes longer than the hash
            code = body_check(h)
        else:
            with nogil:
                code = body_check(h)
        if code == FRAME_OK and h.codec == CODEC_NONE:
            code = columns_parse(h, NULL, 0, &c)
        if code != FRAME_OK:
            return code
        if h.base_offset != self.offset:
            return FRAME_HEADER_BAD
        self.position += length
        self.offset = next_offset_of(h)
        self.flags = h.flags
        self.records += h.count
        if h.max_timestamp > self.max_timestamp:
            self.max_timestamp = h.max_timestamp
        if h.epoch > self.epoch:
            self.epoch = h.epoch
        return FRAME_OK

    cdef int64_t resync(self, int64_t position, int64_t offset_min) except -2:
        """The next place after `position` with a sound header of an offset >= `offset_min`, or -1."""
        cdef const char *at
        cdef const FrameHeader *h
        position += 8
        while position + FRAME_HEADER <= self.size:
            at = self.need(position, FRAME_HEADER)
            if at == NULL:
                position = (position + 4096) & ~<int64_t>4095      # a page that cannot be read
                continue
            h = <const FrameHeader *>at
            if h.magic == FRAME_MAGIC and frame_check(at, self.size - position, self.salt) == FRAME_OK \
                    and h.base_offset >= offset_min:
                return position
            position += 8
        return -1

    cdef bint blank(self, int64_t position) except -1:
        """Whether nothing but zeros follows."""
        cdef const char *at
        cdef int64_t size, i
        while position < self.size:
            size = min(<int64_t>65536, self.size - position)
            at = self.need(position, size)
            if at == NULL:
                return False
            for i in range(size):
                if at[i] != 0:
                    return False
            position += size
        return True
