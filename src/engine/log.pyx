# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Log: one partition, an append-only run of records in ordered segments, in one directory.

It promises: offsets rise by one per record as written and never come back; damage is told, and costs at most the frame it hits; what was
read stays valid for as long as anybody holds it. It leaves to `tail` how a frame is committed, and to others what the records mean and how long they are
kept.

Life of a read: take the watermark once -> find the segment by bisection, the frame by the index -> check each frame's hashes ->
hand out a batch over the map. No lock.

Shared fields of one Log among threads: the dicts and lists for reading are replaced, or changed one entry at a time; a race costs a second mapping.
"""
import bisect
import os

from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from seglog.engine cimport platform
from seglog.engine.batch cimport Batch
from seglog.engine.checksum cimport xxh3_64
from seglog.engine.decisions cimport Decisions
from seglog.engine.frame cimport (
    FRAME_BODY_BAD, FRAME_HEADER_BAD, FRAME_OK, FRAME_UNKNOWN, Columns, Scratch, body_check, columns_end, columns_parse, encode,
    frame_check, misfit, seal, why,
)
from seglog.engine.index cimport Index, build_index, open_index
from seglog.engine.layout cimport (
    CODEC_NONE, FIXED_STRIDE, FRAME_BYTES_MAX, FRAME_HEADER, FRAME_MAGIC, HAS_DELTAS, HAS_HEADERS, HAS_KEYS, HAS_NULLS, HAS_TIMESTAMPS, INDEX_SEALED, LOWEST, MARK_SEALED,
    SEGMENT_BYTES_MAX, SEGMENT_HEADER, FrameHeader, Mark, align8, frame_length, next_offset_of,
)
from seglog.engine.liveness cimport Liveness
from seglog.engine.record cimport Record, pack_headers, timeout_us, to_offset, to_us
from seglog.engine.recovery cimport missing_segments
from seglog.engine.segment cimport Scanner, Segment, Survivors, find_survivors, list_bases, open_segment
from seglog.engine.shared cimport Shared
from seglog.engine.source cimport Packed, Times, one_bytes, pack_header_list, packed, same_length
from seglog.engine.tail cimport FSYNC_ALWAYS, FSYNC_INTERVAL, FSYNC_NEVER, Tail

from seglog.engine import codecs
from seglog.engine.errors import ConfigError, CorruptBatch, CorruptSegment, RecordTooLarge, UnsupportedFormat, os_error
from seglog.engine.losses import Loss, read_quarantine
from seglog.engine.record import Span
from seglog.engine.segment import segment_name

cdef enum:
    OPEN_SEGMENTS = 64              # sealed ones kept mapped for reading
    STACK_BODY = 2048


cdef void build_one(
    FrameHeader *h, char *body, const char *value, int64_t size, const char *key, int64_t key_size, const char *headers, int64_t header_size,
) noexcept nogil:
    """The body of a frame of one record; sizes are -1 for no key and no value, 0 for no headers. At most 64 bytes more than all three."""
    cdef int64_t at = 0
    cdef int32_t *offsets
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
        memcpy(body + at, key, key_size)
        memset(body + at + key_size, 0, align8(key_size) - key_size)
        at += align8(key_size)
    if header_size:
        memcpy(body + at, headers, header_size)
        memset(body + at + header_size, 0, align8(header_size) - header_size)
        at += align8(header_size)
    if size > 0:
        memcpy(body + at, value, size)
        at += size
    h.body_length = <uint32_t>at
    h.body_hash = xxh3_64(body, at)


cdef uint32_t first_delta(const int32_t *deltas, uint32_t n, int64_t wanted) noexcept nogil:
    """The first of n rising deltas that is `wanted` or more; n when there is none."""
    cdef uint32_t low = 0, high = n, middle
    while low < high:
        middle = low + ((high - low) >> 1)
        if deltas[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


cdef class Log(Tail):
    """One partition in the directory `path`, shared with every process that opens it.

    Sizes are in bytes, `segment_age` and `lock_timeout` in seconds, `clock` returns µs since the epoch. Opening costs a few system
    calls after a clean close or a killed process, whatever the size; a scan from the durable mark after a power cut.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as d, Log(d) as log:
    ...     _ = log.append(b"one"), log.append_many([b"two", b"three"])
    ...     log.read(0).values.tolist(), log.next_offset
    ([b'one', b'two', b'three'], 3)
    """

    def __init__(
        self,
        path,
        *,
        bint create=True,
        int64_t partition=0,
        str topic=None,
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
        Decisions decisions=None,
        double lock_timeout=30.0,
        dtype=None,
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
        self.partition, self.topic = partition, topic
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
        self.clock, self.decisions = clock, decisions
        self.losses = ()
        self.dtype, self.width = dtype, -1 if dtype is None else dtype.itemsize
        self.bases, self.bases_version, self.open_segments, self.indexes, self.survivors, self.newest = [], -1, {}, {}, {}, {}
        self.spare = Scratch.__new__(Scratch)
        self._open(create, liveness, lock_timeout)

    # ---- appending ---------------------------------------------------------------------------------------------

    cdef int64_t append_record(self, object value, object key, object headers, object timestamp) except -1:
        """One record, the fast way: no scratch memory when it has neither key nor headers."""
        cdef FrameHeader h
        cdef bytes held, key_held, header_held
        cdef const char *data = NULL
        cdef int64_t size = -1, key_size = -1, header_size = 0, at = 0
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
        if self.width >= 0 and size != self.width:
            misfit(size, self.width, 0)
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
        body = small
        if at + 64 > STACK_BODY:
            body = <char *>PyMem_RawMalloc(at + 64)
            if body == NULL:
                raise MemoryError()
        try:
            build_one(
                &h, body, data, size, NULL if key_held is None else PyBytes_AS_STRING(key_held), key_size,
                NULL if header_held is None else PyBytes_AS_STRING(header_held), header_size)
            return self.commit(&h, body)
        finally:
            if body != small:
                PyMem_RawFree(body)

    cdef int check_dtype(self, Packed values) except -1:
        """Raise TypeError for an array of numbers that are not this log's; bytes of the right width are taken as they are."""
        if values.array is None or self.dtype is None:
            return 0
        given = values.array.dtype
        if given.kind in "SV" and given.fields is None or given.kind == "u" and given.itemsize == 1 or given == self.dtype:
            return 0
        raise TypeError(f"the topic's records are {self.dtype}; an array of {given} is not: convert it, or send its bytes. Nothing was written.")

    cdef list append_packed(
        self, Packed values, Packed keys, Packed headers, const int64_t *timestamps, const int32_t *select, int64_t n,
    ):
        """Items 0 .. n-1 (of `select`, when given) in as many frames as they need. Each frame is visible as a whole."""
        cdef Scratch scratch = self.spare
        cdef int64_t at = 0, took, offset, now = self.now() if timestamps == NULL else 0
        cdef list spans = []
        cdef object error
        self.check_dtype(values)
        # Another thread may be using the spare one: its appends let go of the GIL.
        self.spare = None
        if scratch is None:
            scratch = Scratch.__new__(Scratch)
        try:
            while at < n:
                took = encode(
                    scratch, values, keys, headers, timestamps, now, select, at, n, self.batch_bytes, self.record_bytes_max,
                    self.width)
                seal(scratch, self.codec, self.squeeze)
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

        `values` and `keys`: a list of bytes-like (None: null), a `Packed`, a `Column`, an array whose rows are records, or an Arrow array.
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

    # ---- finding -----------------------------------------------------------------------------------------------

    cdef list current_bases(self):
        """The base offsets of the segments, in order; listed again when the shared counter says that they changed."""
        cdef int64_t version = platform.load_i64(&self.w.segments), active
        cdef list bases
        if version == self.bases_version:
            return self.bases
        active = platform.load_i64(&self.w.active_base)
        # What was last when this was listed before may have been empty, and been replaced by another file of its name.
        last = self.bases[-1] if self.bases else 0
        # A segment made but not switched to yet is nobody's business.
        bases = [b for b in list_bases(self.path) if b <= active]
        for base in list(self.open_segments):
            # And so may one that was compacted.
            if base >= last or base not in bases or self.replaced(self.open_segments.get(base)):
                self.open_segments.pop(base, None)
                self.indexes.pop(base, None)
                self.survivors.pop(base, None)
        # Another thread may have listed meanwhile, and a newer version: its list must not give way to this one under its
        # number. So the two are put down together, at the end, with nothing between them that could let another thread in.
        self.bases, self.bases_version, self.newest = bases, version, {}
        return bases

    cdef bint replaced(self, Segment segment) except -1:
        """Whether the file of a segment that is mapped is gone, or another one has its name. The map keeps its inode from being
        used again."""
        try:
            return segment is None or <uint64_t>os.stat(segment.path).st_ino != segment.inode
        except OSError:
            return True

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
            if self.sealed_beyond(bases[i], -1):
                self.segment(bases[i]).read_mark(&mark)
                return mark.end_offset
            return bases[i + 1]

    cdef Index index_of(self, Segment segment, int64_t end_offset):
        cdef Index index = self.index
        if index is not None and index.header.salt == segment.salt:
            return index            # the one being written
        index = self.indexes.get(segment.base_offset)
        # Not of the file that stood under this name before, nor for an end that was another one's beginning.
        if index is None or index.header.salt != segment.salt or (
                index.header.flags & INDEX_SEALED and index.header.end_offset != end_offset):
            index = open_index(segment, self.boot, end_offset)
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
        cdef int64_t found = -1
        cdef const FrameHeader *h
        cdef Survivors survivors
        if position + FRAME_HEADER <= segment.size \
                and frame_check(segment.data + position, segment.size - position, segment.salt) == FRAME_OK:
            h = <const FrameHeader *>(segment.data + position)
            if h.base_offset == expected and next_offset_of(h) <= end:
                resume[0] = next_offset_of(h)        # only the body is bad: the header still says how far it goes
                return position + frame_length(h)
        survivors = self.survivors.get(segment.base_offset)
        if survivors is None or survivors.stop < end:
            self.survivors[segment.base_offset] = survivors = find_survivors(segment, end)
        resume[0] = survivors.find(expected, end, &found)
        if resume[0] == expected and found == position:     # this very one, whose body reaches behind the segment's end
            resume[0] = survivors.find(expected + 1, end, &found)
        if resume[0] < 0:
            resume[0] = end
            return -1
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
            out = self.expand[h.codec](PyMemoryView_FromMemory(<char *>body + blob + 8, h.body_length - blob - 8, PyBUF_READ), raw)
        except MemoryError:
            raise
        except Exception:
            return None
        return out if PyBytes_GET_SIZE(out) == raw else None

    cdef Batch collect(self, int64_t offset, int64_t stop, int64_t max_records, int64_t max_bytes, bint check_hashes=True):
        """The batch that starts with the first record at or after `offset` and below `stop`; None when there is none. Headers of frames are
        always checked, and that columns lie within them; the hashes of bodies where `check_hashes` says so."""
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
        cdef bint whole
        while offset < stop:
            bases = self.current_bases()
            i = bisect.bisect_right(bases, offset) - 1
            if i < 0:
                if offset < platform.load_i64(&self.w.first_offset):
                    self._out_of_range(offset)          # trimmed a moment ago
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
                    path=os.path.join(self.path, segment_name(bases[i])), offset=offset,
                    resume_offset=bases[i + 1] if i + 1 < len(bases) else stop) from None
            except CorruptSegment as error:
                if i > 0 and (getattr(error, "misplaced", False) or self.sealed_beyond(bases[i - 1], bases[i])):
                    # A file under a name that is not its own is not part of the log. What lies there is the business of the
                    # segment before: its records, or a hole that is told there.
                    self.bases = [b for b in bases if b != bases[i]]
                    continue
                resume = bases[i + 1] if i + 1 < len(bases) else stop
                if not self.set_aside(bases[i], offset, resume):
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
                    if count and (h.codec != CODEC_NONE or next_position - batch.start > max_bytes or (
                            self.width >= 0 and (h.count > 1 or batch.several))):
                        return batch                    # with a dtype, what stands in one frame is one array
                    # Small reads through a large frame come back to it: its hash was right a moment ago.
                    if check_hashes and self.checked != position ^ <int64_t>segment.salt:
                        code = body_check(h)
                        if code == FRAME_OK:
                            self.checked = position ^ <int64_t>segment.salt
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
                    if tries < 100 and self.replaced(segment):
                        # Another thread opened it a moment before compaction put another one in its place, and is late in saying so.
                        tries += 1
                        self.open_segments.pop(segment.base_offset, None)
                        self.bases_version, expected = -1, offset
                        break
                    next_position = self.corrupt(segment, position, expected, end, &resume)
                    if resume <= offset or resume == expected:
                        # The damage lies wholly before what was asked, or a misplaced write moved the frame.
                        position, expected = next_position, resume
                        continue
                    if not self.set_aside(segment.base_offset, expected, resume):
                        raise CorruptBatch(
                            f"the batch at position {position:,} of {segment.path} cannot be read: {why(code)}. Offsets "
                            f"{max(expected, 0):,} to {resume - 1:,} are affected; everything before and after is readable. Reading "
                            f"goes on from {resume:,}; `seglog doctor` shows it and can set it aside.",
                            path=segment.path, position=position, offset=max(offset, expected), resume_offset=resume,
                            first_lost=expected)
                    self.note(Loss(
                        "corrupt", segment.path, position, expected, resume,
                        (next_position if next_position > position else segment.size) - position, why(code)))
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
                        skip = first_delta(c.deltas, h.count, offset - h.base_offset)
                        if skip == h.count:             # nothing of it is left from there on
                            position, expected = next_position, next_offset
                            continue
                if count == 0:
                    batch = Batch.__new__(Batch)
                    batch.mapping, batch.expanded, batch.segment = segment.mapping, expanded, segment
                    if expanded is not None:
                        batch.blobs, batch.blob_size = PyBytes_AS_STRING(expanded), PyBytes_GET_SIZE(expanded)
                    batch.start = position
                    batch.skip = skip
                    batch.partition, batch.topic, batch.dtype = self.partition, self.topic, self.dtype
                    batch.epoch = h.epoch
                    batch.several = h.count > 1
                    batch.first_offset = h.base_offset + (c.deltas[skip] if c.deltas != NULL else skip)
                first = h.count - skip
                whole = next_offset <= limit and first <= max_records - count
                if not whole:
                    # The batch ends inside this frame.
                    first = 0
                    while skip + first < h.count and first < max_records - count and \
                            h.base_offset + (c.deltas[skip + first] if c.deltas != NULL else skip + first) < limit:
                        first += 1
                    if first == 0:          # what is left of it lies at the limit or behind
                        if count:
                            return batch
                        expected = limit        # the end of a segment whose records a compaction also wrote into this one, or `stop`
                        break
                    next_offset = h.base_offset + (c.deltas[skip + first - 1] if c.deltas != NULL else skip + first - 1) + 1
                count += first
                batch.count = count
                batch.end = next_position
                batch.next_offset = next_offset
                if count >= max_records or not whole or h.codec != CODEC_NONE:
                    return batch
                position, expected = next_position, next_offset
            if count:
                return batch
            offset = max(offset, expected)
        return None

    cdef Batch following(self, Batch before, int64_t stop, int64_t max_records):
        """The batch right behind one, up to `stop`, without looking for it: the frames go on where those end. Else as `collect`."""
        cdef Segment segment = <Segment>before.segment
        cdef int64_t position = before.end, expected = before.next_offset, count = 0
        cdef const FrameHeader *h = NULL
        cdef Columns c
        cdef Batch batch
        if before.expanded is None:
            while expected < stop and count < max_records:
                if frame_check(segment.data + position, segment.size - position, segment.salt) != FRAME_OK:
                    break
                h = <const FrameHeader *>(segment.data + position)
                if h.base_offset != expected or h.codec != CODEC_NONE or next_offset_of(h) > stop or body_check(h) != FRAME_OK \
                        or columns_parse(h, NULL, 0, &c) != FRAME_OK:
                    break
                count += h.count
                position += frame_length(h)
                expected = next_offset_of(h)
        if count == 0:
            return self.collect(before.next_offset, stop, max_records, 1048576)
        h = <const FrameHeader *>(segment.data + before.end)
        batch = Batch.__new__(Batch)
        batch.mapping, batch.segment = segment.mapping, segment
        batch.start, batch.end, batch.count = before.end, position, count
        batch.partition, batch.topic, batch.epoch, batch.dtype = self.partition, self.topic, h.epoch, self.dtype
        columns_parse(h, NULL, 0, &c)
        batch.first_offset = h.base_offset + (c.deltas[0] if c.deltas != NULL else 0)
        batch.next_offset = expected
        return batch

    cdef bint sealed_beyond(self, int64_t base, int64_t offset) except -1:
        """Whether the segment at `base` was sealed with an end behind `offset`: then no segment of the log starts there."""
        cdef Mark mark
        try:
            return self.segment(base).read_mark(&mark) and mark.flags & MARK_SEALED and mark.end_offset > offset
        except (CorruptSegment, FileNotFoundError):
            return False

    cdef bint set_aside(self, int64_t base, int64_t start, int64_t stop) except -1:
        """Whether a read passes over this damage: by recover="skip", or because the doctor was told to set it aside."""
        if self.skip_corrupt:
            return True
        return any(first <= start and stop <= last for first, last in read_quarantine(self.path, base))

    cdef int note(self, object loss) except -1:
        """Damage that a read passed over (recover="skip") is listed with what recovery found."""
        if loss not in self.losses:
            self.losses += (loss,)
        return 0

    # ---- reading -----------------------------------------------------------------------------------------------

    def read(self, offset, max_records=10000, max_bytes=1048576, *, bint durable=False, stop=-1, bint check_hashes=True):
        """The batch that starts with the first record at or after `offset`; None when nothing is there (yet).

        `max_bytes` counts frames; the first frame is given whole, whatever its size. `durable`: only what survives a power cut.
        `stop`: the first offset not wanted. `check_hashes`: False leaves values unread until somebody looks. Raises OffsetOutOfRange outside `first_offset .. next_offset`, CorruptBatch (with
        `resume_offset`) at damage unless the log was opened with recover="skip". *O(log segments)*, then the bytes once through
        the hash.
        """
        if self.shut:
            self.check_state()
        cdef int64_t limit = platform.load_i64(&self.w.next_offset), at = to_offset(offset), until = to_offset(stop), before
        cdef int64_t records = to_offset(max_records), size = to_offset(max_bytes)
        cdef Batch batch
        if at < platform.load_i64(&self.w.first_offset) or at > limit:
            self._out_of_range(offset)
        if records < 1 or size < 1:
            raise ValueError(f"max_records and max_bytes are at least 1, not {max_records} and {max_bytes}")
        if durable:
            limit = min(limit, platform.load_i64(&self.w.durable_offset))
        if until >= 0:
            limit = min(limit, until)
        if at == limit and platform.load_u32(&self.w.pending):
            self.finish()           # whoever comes next sees it
        batch = self.collect(at, limit, records, size, check_hashes)
        while batch is None and at < limit:
            # All of that was compacted away, for the sake of records that came after the look at the watermark.
            before = limit
            limit = platform.load_i64(&self.w.durable_offset if durable else &self.w.next_offset)
            if until >= 0:
                limit = min(limit, until)
            if limit <= before:
                break
            batch = self.collect(at, limit, records, size, check_hashes)
        return batch

    def record(self, offset):
        """The record at `offset`. Raises OffsetOutOfRange when there is none. Checks the hash of the frame it lies in."""
        cdef Batch batch = self.read(offset, 1)
        if batch is None or batch.first_offset != offset:
            self._out_of_range(offset)
        return batch[0]

    def batches(self, start=-1, stop=-1, max_records=10000, max_bytes=1048576, *, bint durable=False, bint check_hashes=True):
        """Batches from `start` (default: the first record) up to `stop`, or up to what is there when the iteration gets there."""
        if self.shut:
            self.check_state()
        if start < 0:
            start = self.first_offset
        cdef Batch batch
        while stop < 0 or start < stop:
            batch = self.read(start, max_records, max_bytes, durable=durable, stop=stop, check_hashes=check_hashes)
            if batch is None:
                return
            yield batch
            start = batch.next_offset

    def records(self, start=-1, stop=-1):
        """The records of `batches(start, stop)`, one by one."""
        for batch in self.batches(start, stop):
            yield from batch

    def wait(self, offset, timeout=None, *, bint durable=False):
        """True once a record at `offset` exists (or is durable), False after `timeout` seconds (None: never gives up).

        Sleeps in the kernel, without the GIL, woken by the writer; Ctrl-C works.
        """
        if self.shut:
            self.check_state()
        cdef Shared shared = self.shared
        cdef int64_t wanted = to_offset(offset), limit = timeout_us(timeout), deadline = platform.monotonic_us() + limit
        cdef int got = shared.wait_for(wanted, durable, limit)
        while got == 2:             # somebody died between deciding a transaction and publishing it
            self.finish()
            got = shared.wait_for(wanted, durable, limit if limit < 0 else max(deadline - platform.monotonic_us(), 0))
        return got == 1

    cdef int64_t first_at(
        self, Segment segment, int64_t position, int64_t expected, int64_t first, int64_t end, int64_t wanted,
    ) except? -2:
        """The first offset from `first` on, walking from `position`, whose timestamp is `wanted` or later; -1 for none.

        Times stand outside the compressed part, so no codec is needed; damage is stepped over, it is told when it is read.
        """
        cdef const FrameHeader *h
        cdef const int64_t *times
        cdef const int32_t *deltas
        cdef int64_t offset
        cdef uint32_t i
        while expected < end:
            h = <const FrameHeader *>(segment.data + position)
            if frame_check(segment.data + position, segment.size - position, segment.salt) != FRAME_OK or h.base_offset != expected \
                    or (h.max_timestamp >= wanted and next_offset_of(h) > first and body_check(h) != FRAME_OK):
                position = self.corrupt(segment, position, expected, end, &expected)
                if position < 0:
                    return -1
                continue
            if h.max_timestamp >= wanted and next_offset_of(h) > first:
                times = <const int64_t *>(<const char *>h + FRAME_HEADER) if h.flags & HAS_TIMESTAMPS else NULL
                deltas = NULL
                if h.flags & HAS_DELTAS:
                    deltas = <const int32_t *>(<const char *>h + FRAME_HEADER + (8 * <int64_t>h.count if times != NULL else 0))
                for i in range(h.count):
                    offset = h.base_offset + (deltas[i] if deltas != NULL else i)
                    if offset >= first and (times[i] if times != NULL else h.base_timestamp) >= wanted:
                        return offset
            expected = next_offset_of(h)
            position += frame_length(h)
        return -1

    def offset_for_time(self, timestamp):
        """The offset of the first record whose timestamp is `timestamp` (µs, or an aware datetime) or later; `next_offset` when none is.

        Timestamps need not rise: the first in offset order counts. *O(segments)* for the first call, then *O(log)*.
        """
        if self.shut:
            self.check_state()
        cdef int64_t wanted = to_us(timestamp), i, position, expected, end, found, first = self.first_offset
        cdef list bases = self.current_bases()
        cdef dict newest = self.newest          # goes with these bases
        cdef Segment segment
        cdef Index index
        for n in range(len(bases)):
            if newest.get(bases[n], wanted) < wanted:
                continue
            end = self.end_of(bases, n)
            if end <= first:
                continue
            try:
                segment = self.segment(bases[n])
            except (FileNotFoundError, CorruptSegment):
                continue
            index = self.index_of(segment, end)
            if index.header.flags & INDEX_SEALED:
                # More segments than are kept open would be opened anew by each call.
                newest[bases[n]] = index.header.max_timestamp
                if index.header.max_timestamp < wanted:
                    continue
            i = index.before_time(wanted)
            position = index.entries[i].position if i >= 0 else SEGMENT_HEADER
            expected = segment.base_offset + (index.entries[i].offset_delta if i >= 0 else 0)
            if first > expected:
                self.locate(segment, end, first, &position, &expected)
            found = self.first_at(segment, position, expected, first, end, wanted)
            if found >= 0:
                return found
        return self.next_offset

    def end_of_epoch(self, int64_t epoch):
        """Where the records of `epoch`, and of those before it, ended: what lay behind was lost, in a power cut, before the next one began.

        `next_offset` for the current epoch. *O(segments)*.
        """
        if self.shut:
            self.check_state()
        cdef Segment segment
        if epoch >= self.w.epoch:
            return self.next_offset
        for base in self.current_bases():
            try:
                segment = self.segment(base)
            except (CorruptSegment, FileNotFoundError):
                continue
            if segment.header.epoch > epoch:
                return segment.header.previous_end
        return self.next_offset

    # ---- telling ------------------------------------------------------------------------------------------------

    def verify(self):
        """Check every hash of every frame; the losses found. Reads by pread, changes nothing, goes on after each finding."""
        if self.shut:
            self.check_state()
        cdef list losses = [], bases, found
        # Taken before the list: what is below lies in segments that it names, or that replaced them.
        cdef int64_t limit = platform.load_i64(&self.w.next_offset), at = -1, version
        cdef int tries = 0
        self.bases_version = -1
        while True:
            bases = self.current_bases()
            n = bisect.bisect_right(bases, at)
            if n == len(bases) or (bases[n] >= limit and n > 0):
                break
            try:
                found = self.verify_segment(bases, n, limit)
            except FileNotFoundError:
                found = None
            if found is None and tries < 100:       # trimmed, or compacted, in the middle: look again
                tries += 1
                self.bases_version = -1
                continue
            losses.extend(found or ())
            at = bases[n]
        while True:
            version = platform.load_i64(&self.w.segments)
            found = missing_segments(self.path, bases, self.first_offset)
            if not found or version == platform.load_i64(&self.w.segments):
                break
            bases = self.current_bases()
        losses.extend(found)
        if bases and bases[0] > self.first_offset:
            losses.append(Loss("missing", self.path, 0, self.first_offset, bases[0], 0, "the first segment files are gone"))
        return losses

    cdef list verify_segment(self, list bases, Py_ssize_t n, int64_t limit):
        """What is lost in one segment; None when another file took its place meanwhile."""
        cdef list losses = []
        cdef Segment segment
        cdef Scanner scan
        cdef int code
        cdef int64_t end, found, following
        path = os.path.join(self.path, segment_name(bases[n]))
        try:
            end = self.end_of(bases, n) if n + 1 < len(bases) else limit
            segment = open_segment(path, False, False)
        except CorruptSegment as error:
            return [Loss("corrupt", path, 0, bases[n], bases[n + 1] if n + 1 < len(bases) else -1, os.path.getsize(path), str(error))]
        scan = Scanner(segment, SEGMENT_HEADER, segment.base_offset)
        while scan.offset < end:
            PyErr_CheckSignals()
            code = scan.step()
            if code == FRAME_OK:
                continue
            if self.replaced(segment):
                return None
            found = scan.resync(scan.position, scan.offset + 1)
            following = end
            if found >= 0:
                following = (<const FrameHeader *>scan.need(found, FRAME_HEADER)).base_offset
                if following >= end:
                    found, following = -1, end
            if following > self.first_offset:       # else a trimmed file whose unlink was not on disk
                losses.append(Loss("corrupt", path, scan.position, scan.offset, following,
                                   (found if found >= 0 else segment.size) - scan.position, why(code)))
            if found < 0:
                break
            scan.position, scan.offset = found, following
        return losses

    def segments(self):
        """The segment files, in order: (base offset, size, bytes on disk) of each; the last one is being written. A `stat` each."""
        if self.shut:
            self.check_state()
        cdef list found = []
        for base in self.current_bases():
            path = os.path.join(self.path, segment_name(base))
            try:
                status = os.stat(path)
            except FileNotFoundError:
                continue            # trimmed meanwhile
            except OSError as error:
                raise os_error(-error.errno, "cannot look at", path) from error
            found.append((base, status.st_size, getattr(status, "st_blocks", -(-status.st_size // 512)) * 512))
        return found

    def newest_timestamp(self, base):
        """The highest timestamp (µs) of the segment that begins with offset `base`; None when it cannot be told: it is being
        written, empty, damaged or gone. A look at its index."""
        if self.shut:
            self.check_state()
        cdef list bases = self.current_bases()
        cdef Index index
        if base not in bases or base >= self.w.active_base:
            return None
        n = bases.index(base)
        try:
            index = self.index_of(self.segment(base), self.end_of(bases, n))
        except (FileNotFoundError, CorruptSegment):
            return None
        if not index.header.flags & INDEX_SEALED or index.header.max_timestamp == LOWEST:
            return None
        return index.header.max_timestamp

    def statistics(self):
        """Numbers about the partition, as a dict: offsets, segments, bytes on disk (allocated blocks), epoch."""
        if self.shut:
            self.check_state()
        files = self.segments()
        return {
            "first_offset": self.first_offset, "next_offset": self.next_offset, "durable_offset": self.durable_offset,
            "segments": len(files), "size_bytes": sum(size for _, size, _ in files), "disk_bytes": sum(disk for _, _, disk in files),
            "tail_position": self.w.tail_position, "active_base": self.w.active_base,
            "epoch": self.w.epoch,
        }

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __repr__(self):
        if self.shut:
            return f"<Log {self.path}, closed>"
        return f"<Log {self.path} {self.first_offset:,}..{self.next_offset:,}>"
