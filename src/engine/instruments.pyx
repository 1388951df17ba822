# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Instruments: what the doctor looks at a partition through, beside `describe_segment` and `Scanner`.

They promise to change nothing, but for `write_mark`, and to believe nothing: each says what a file says, and what of that is
proved. What it means for the data is the doctor's to say.
"""
import os

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from seglog.engine cimport platform
from seglog.engine.batch cimport Batch
from seglog.engine.checksum cimport xxh3_64, xxh3_64_seed
from seglog.engine.frame cimport FRAME_OK, Columns, body_check, columns_parse, frame_check
from seglog.engine.layout cimport (
    CODEC_NONE, INDEX_HEADER, INDEX_MAGIC, INDEX_SEALED, INDEX_VERSION, MARK_CLEAN, MARK_SEALED, MARK_UNSYNCED, SEGMENT_HEADER,
    SHARED_FAILED, SHARED_MAGIC, SHARED_READY, SHARED_VERSION, FrameHeader, IndexEntry, IndexHeader, Mark, SharedWords, frame_length,
    next_offset_of,
)
from seglog.engine.liveness cimport boot_hash
from seglog.engine.segment cimport Scanner, Segment, open_segment

from seglog.engine.errors import CorruptBatch, os_error


def describe_words(path):
    """What the shared words of the partition in `path` say, as a dict. None when they are another boot's or another file's.

    `ready`: an opener would believe them; `failed`: a sync failed, and what they say is not to be relied on; `locked`: somebody is at it, or
    died at it. A queue's folder has such words too.
    """
    cdef SharedWords w
    cdef int64_t got
    cdef int fd
    cdef uint64_t boot = boot_hash()
    for name in ("shm", "tail.shm"):
        try:
            fd = os.open(os.path.join(path, name), os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError:
            continue
        try:
            got = platform.pread_all(fd, <char *>&w, sizeof(w), 0)
            status = os.fstat(fd)
        finally:
            os.close(fd)
        if got == sizeof(w) and w.magic == SHARED_MAGIC and w.version == SHARED_VERSION and w.boot == boot \
                and w.device == <uint64_t>status.st_dev and w.inode == <uint64_t>status.st_ino:
            return {
                "ready": w.state == SHARED_READY, "failed": w.state == SHARED_FAILED, "locked": w.lock != 0, "partition_id": w.partition_id,
                "first_offset": w.first_offset, "next_offset": w.next_offset, "active_base": w.active_base,
            }
    return None


def index_fault(Segment segment, int64_t end, sealed_ends):
    """What is wrong with the index beside `segment`, as the end of a sentence; None when nothing is, or there is none.

    `end`: the offset at which the segment ends; `sealed_ends`: where an index that is sealed may say that it does, empty: anywhere.
    One of another boot that is not sealed is what a crash leaves: nobody believes it, so nothing is wrong. Raises OSError.
    """
    cdef IndexHeader header
    cdef IndexEntry entry
    cdef int64_t n, offset
    cdef const char *at
    cdef Scanner scan
    cdef bytes data
    try:
        with open(segment.path[:-4] + ".idx", "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    if len(data) < INDEX_HEADER:
        return f"an index of {len(data):,} bytes, less than its header"
    memcpy(&header, <const char *>data, sizeof(header))
    if header.magic != INDEX_MAGIC or header.version != INDEX_VERSION:
        return "no index, or another version's"
    if header.salt != segment.salt:
        return "the index of another segment"
    if INDEX_HEADER + <int64_t>header.count * <int64_t>sizeof(IndexEntry) > len(data):
        return f"an index of {header.count:,} entries in {len(data):,} bytes"
    at = <const char *>data + INDEX_HEADER
    if header.flags & INDEX_SEALED:
        if header.hash != xxh3_64_seed(at, header.count * sizeof(IndexEntry), xxh3_64(&header.max_timestamp, 16)):
            return "an index that does not have the hash it should"
        return "an index of this segment when it ended elsewhere" if sealed_ends and header.end_offset not in sealed_ends else None
    if header.boot != <uint64_t>boot_hash():
        return None
    # No hash: does each entry say what is so?
    scan = Scanner(segment, SEGMENT_HEADER, segment.base_offset)
    for n in range(header.count):
        memcpy(&entry, at + n * <int64_t>sizeof(IndexEntry), sizeof(entry))
        offset = segment.base_offset + entry.offset_delta
        if offset >= end or scan.run(offset) is not None:
            return None             # behind the watermark, or behind damage
        if scan.offset != offset or scan.position != entry.position or scan.max_timestamp != entry.max_timestamp:
            return f"an index whose entry {n:,} is wrong"
    return None


def batch_at(Segment segment, int64_t position):
    """The records of the frame at `position`, as a `Batch`. Raises CorruptBatch when no sound frame without a codec stands there."""
    cdef Batch batch = Batch.__new__(Batch)
    cdef const FrameHeader *h
    cdef Columns c
    cdef int code = -1
    if SEGMENT_HEADER <= position < segment.size and position % 8 == 0:
        code = frame_check(segment.data + position, segment.size - position, segment.salt)
    if code == FRAME_OK:
        h = <const FrameHeader *>(segment.data + position)
        code = body_check(h)
        if code == FRAME_OK and h.codec != CODEC_NONE:
            code = -1
        if code == FRAME_OK:
            code = columns_parse(h, NULL, 0, &c)
    if code != FRAME_OK:
        raise CorruptBatch(
            f"{segment.path} has no frame at {position:,} that can be read here", path=segment.path, position=position, offset=-1,
            resume_offset=-1)
    batch.mapping = segment.mapping
    batch.start, batch.end = position, position + frame_length(h)
    batch.count, batch.epoch = h.count, h.epoch
    batch.first_offset, batch.next_offset = c.base_offset + (c.deltas[0] if c.deltas != NULL else 0), next_offset_of(h)
    return batch


def write_mark(path, mark):
    """Write a durable mark, named as `describe_segment` does, over the older slot of a segment; everything that was written to the
    file before is synced first, and the mark after. The caller is alone."""
    cdef Segment segment = open_segment(os.fspath(path), True, True)
    cdef Mark m
    cdef int rc
    memset(&m, 0, sizeof(m))
    m.durable_position, m.durable_offset, m.start_offset = mark["durable_position"], mark["durable_offset"], mark["start_offset"]
    m.end_position, m.end_offset, m.epoch = mark["end_position"], mark["end_offset"], mark["epoch"]
    m.flags = MARK_SEALED * bool(mark["sealed"]) | MARK_CLEAN * bool(mark["clean"]) | MARK_UNSYNCED * bool(mark["unsynced"])
    with nogil:
        rc = segment.sync()
        if rc == 0:
            rc = segment.write_mark(&m)
        if rc == 0:
            rc = segment.sync()
    if rc:
        raise os_error(rc, "cannot write the mark of", path)
