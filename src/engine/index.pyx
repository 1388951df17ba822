# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Index: a sparse list of frames of one segment: offset, position, and the highest timestamp before.

    header 64 bytes | entries of 16 bytes: offset_delta uint32, position uint32, max_timestamp int64

One entry per 4 KiB of frames, in a file beside the segment. It promises speed and nothing else: never synced, always
rebuildable, never evidence about the log. Who follows an entry checks the frame it leads to, and rebuilds the index when
there is none. An unsealed index is believed only under the boot that wrote it, a sealed one by its hash.

Shared fields: entries are written under the partition's lock, before `count` is; readers see whole entries.
"""
import os

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from seglog.engine cimport platform
from seglog.engine.checksum cimport xxh3_64, xxh3_64_seed
from seglog.engine.frame cimport FRAME_OK, frame_check
from seglog.engine.layout cimport (
    INDEX_EVERY, INDEX_HEADER, INDEX_MAGIC, INDEX_SEALED, INDEX_VERSION, LOWEST, SEGMENT_HEADER, FrameHeader, IndexEntry, IndexHeader, frame_length, next_offset_of,
)
from seglog.engine.mapping cimport Mapping, map_fd
from seglog.engine.segment cimport Segment

_BINARY = getattr(os, "O_BINARY", 0)


cdef str index_path(Segment segment):
    return segment.path[:-4] + ".idx"


cdef class Index:
    """The index of one segment; made by the functions below."""

    def __cinit__(self):
        self.memory = NULL

    def __dealloc__(self):
        PyMem_RawFree(self.memory)

    cdef void add(self, int64_t offset_delta, int64_t position, int64_t max_timestamp) noexcept nogil:
        cdef uint32_t n = self.header.count
        if n >= self.room:
            return                  # sparser than planned, not wrong
        self.entries[n].offset_delta = <uint32_t>offset_delta
        self.entries[n].position = <uint32_t>position
        self.entries[n].max_timestamp = max_timestamp
        platform.store_u32(&self.header.count, n + 1)

    cdef int64_t before_offset(self, int64_t offset_delta) noexcept nogil:
        """The last entry whose offset is not above it; -1 when there is none."""
        cdef int64_t low = 0, high = min(<int64_t>platform.load_u32(&self.header.count), self.room), middle
        while low < high:
            middle = (low + high) >> 1
            if self.entries[middle].offset_delta <= offset_delta:
                low = middle + 1
            else:
                high = middle
        return low - 1

    cdef int64_t before_time(self, int64_t timestamp) noexcept nogil:
        """The last entry before which every timestamp is below it; -1 when there is none."""
        cdef int64_t low = 0, high = min(<int64_t>platform.load_u32(&self.header.count), self.room), middle
        while low < high:
            middle = (low + high) >> 1
            if self.entries[middle].max_timestamp < timestamp:
                low = middle + 1
            else:
                high = middle
        return low - 1

    cdef uint64_t hash(self) noexcept nogil:
        return xxh3_64_seed(self.entries, self.header.count * sizeof(IndexEntry), xxh3_64(&self.header.max_timestamp, 16))

    cdef void seal(self, int64_t max_timestamp, int64_t end_offset) noexcept nogil:
        self.header.max_timestamp = max_timestamp
        self.header.end_offset = end_offset
        self.header.hash = self.hash()
        platform.store_u32(&self.header.flags, INDEX_SEALED)


cdef int64_t room_for(Segment segment) noexcept:
    # A frame gets an entry when 4 KiB or more lie between it and the last one.
    return segment.header.capacity // INDEX_EVERY + 2


cdef void attach(Index index, char *data, int64_t size) noexcept:
    index.header = <IndexHeader *>data
    index.entries = <IndexEntry *>(data + INDEX_HEADER)
    index.room = (size - INDEX_HEADER) // <int64_t>sizeof(IndexEntry)


cdef Index private_index(Segment segment):
    cdef Index index = Index.__new__(Index)
    cdef int64_t size = INDEX_HEADER + room_for(segment) * sizeof(IndexEntry)
    index.memory = <char *>PyMem_RawCalloc(1, size)
    if index.memory == NULL:
        raise MemoryError()
    attach(index, index.memory, size)
    index.header.magic, index.header.version, index.header.salt = INDEX_MAGIC, INDEX_VERSION, segment.salt
    return index


cdef Index create_index(Segment segment, uint64_t boot):
    """An empty index for a new segment, in a file; in private memory where a file cannot be allocated."""
    cdef Index index = Index.__new__(Index)
    cdef int64_t size = INDEX_HEADER + room_for(segment) * sizeof(IndexEntry)
    cdef str path = index_path(segment)
    try:
        # A new file rather than the old one emptied: somebody may have that mapped.
        if os.path.exists(path):
            os.unlink(path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    except OSError:
        return private_index(segment)
    try:
        if platform.allocate(fd, size) != 0:
            os.unlink(path)
            return private_index(segment)
        index.mapping = map_fd(fd, size, True)
    except OSError:
        return private_index(segment)       # what stands there has no magic: nobody believes it
    finally:
        os.close(fd)
    attach(index, index.mapping.data, size)
    index.header.version, index.header.salt, index.header.boot = INDEX_VERSION, segment.salt, boot
    index.header.magic = INDEX_MAGIC
    return index


cdef Index open_index(Segment segment, uint64_t boot, int64_t end_offset):
    """The index beside a segment, writable; None when it is missing, another's, or not to be believed."""
    cdef Index index = Index.__new__(Index)
    cdef int64_t size
    try:
        fd = os.open(index_path(segment), os.O_RDWR | _BINARY)
    except OSError:
        return None
    try:
        size = os.fstat(fd).st_size
        if size < INDEX_HEADER:
            return None
        index.mapping = map_fd(fd, size, True)
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)
    attach(index, index.mapping.data, size)
    if index.header.magic != INDEX_MAGIC or index.header.version != INDEX_VERSION or index.header.salt != segment.salt \
            or index.header.count > index.room:
        return None
    if index.header.flags & INDEX_SEALED:
        # One that was sealed before the segment grew is whole, and wrong.
        if index.header.end_offset != end_offset or index.header.hash != index.hash():
            return None
    elif index.header.boot != boot:
        return None
    return index


cdef Index build_index(Segment segment, int64_t end_position, int64_t end_offset, bint keep):
    """Walk the headers of a segment up to its end and index them; a hole left by damage is stepped over.

    `keep`: the segment is complete, so write the index beside it (temporary name, rename) for the next one who asks.
    """
    cdef Index index = private_index(segment)
    cdef int64_t position = SEGMENT_HEADER, last = -INDEX_EVERY, expected = segment.base_offset
    cdef int64_t highest = LOWEST
    cdef const FrameHeader *h
    with nogil:
        while position < end_position and expected < end_offset:
            if frame_check(segment.data + position, segment.size - position, segment.salt) != FRAME_OK:
                position = segment.next_frame(position, segment.size, expected, end_offset)
                if position < 0:
                    break
                continue
            h = <const FrameHeader *>(segment.data + position)
            if h.base_offset >= end_offset:
                break
            if position - last >= INDEX_EVERY:
                index.add(h.base_offset - segment.base_offset, position, highest)
                last = position
            if h.max_timestamp > highest:
                highest = h.max_timestamp
            expected = next_offset_of(h)
            position += frame_length(h)
        if keep:
            index.seal(highest, end_offset)
    if keep:
        path = index_path(segment)
        try:
            with open(path + ".tmp", "wb") as file:
                file.write(index.memory[:INDEX_HEADER + <int64_t>index.header.count * <int64_t>sizeof(IndexEntry)])
            os.replace(path + ".tmp", path)
        except OSError:
            pass                    # a read-only or full disk: the one in memory serves
    return index
