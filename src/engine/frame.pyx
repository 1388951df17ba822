# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Frame: one batch of records as bytes: a 64-byte header, then columns in Arrow's own layout.

    header | timestamps | deltas | key_offsets | key_valid | header_offsets | value_offsets | value_valid | blobs
    blobs  = keys | headers | values, each from a multiple of 8     (with a codec: int64 raw size, compressed blobs)

Every column starts at a multiple of 8; only those exist whose flag is set. The body's hash is taken before any lock;
base offset, epoch and the salted header hash are filled in under it (see `log`). This file encodes, checks and finds
columns. It trusts nothing it reads: each function below returns a code, and no pointer it hands out leaves the frame.
"""
from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from seglog.engine cimport platform
from seglog.engine.checksum cimport xxh3_64, xxh3_64_seed
from seglog.engine.layout cimport (
    CODEC_LZ4, CODEC_NONE, FIXED_STRIDE, FRAME_BYTES_MAX, FRAME_HASHED, FRAME_HEADER, FRAME_MAGIC, HAS_DELTAS,
    HAS_HEADERS, HAS_KEY_NULLS, HAS_KEYS, HAS_NULLS, HAS_TIMESTAMPS, KNOWN_FLAGS, FrameHeader, align8, frame_length,
)
from seglog.engine.source cimport FROM_LIST, FROM_OFFSETS32, FROM_OFFSETS64, FROM_STRIDE, Packed, bytes_data

from seglog.engine.errors import RecordTooLarge


_WHY = {
    FRAME_SHORT: "it is cut short",
    FRAME_MAGIC_BAD: "no frame begins there",
    FRAME_HEADER_BAD: "its header does not have the hash it should",
    FRAME_BODY_BAD: "its body does not have the hash it should",
    FRAME_COLUMNS_BAD: "its columns leave the frame",
    FRAME_UNDECIDED: "it belongs to a transaction that is not there as a whole",
    FRAME_UNKNOWN: "it is of a kind that this version does not know",
}


cdef str why(int code):
    """What a code of `frame_check`, `body_check` or `columns_parse` means, as the end of a sentence."""
    return _WHY[code]


# ---- checking ------------------------------------------------------------------------------------------------------


cdef int frame_check(const char *at, int64_t room, uint64_t salt) noexcept nogil:
    """FRAME_OK when a frame of this segment begins at `at` and ends within `room` bytes. The body is not looked at."""
    cdef const FrameHeader *h = <const FrameHeader *>at
    if room < FRAME_HEADER:
        return FRAME_SHORT
    if h.magic != FRAME_MAGIC:
        return FRAME_MAGIC_BAD
    # Bounds first, then the hash: a length that is nonsense must not lead anywhere.
    if frame_length(h) > room:
        return FRAME_SHORT
    if h.header_hash != xxh3_64_seed(at, FRAME_HASHED, salt):
        return FRAME_HEADER_BAD
    # From here on the header is what some seglog wrote, for this segment.
    if h.flags & ~KNOWN_FLAGS or h.codec > CODEC_LZ4:
        return FRAME_UNKNOWN
    if h.count == 0 or h.count > h.span or (h.count != h.span) != (h.flags & HAS_DELTAS != 0) \
            or h.base_offset < 0 or columns_end(h) > h.body_length:
        return FRAME_HEADER_BAD
    return FRAME_OK


cdef int body_check(const FrameHeader *h) noexcept nogil:
    """FRAME_OK when the body has the hash that the header says."""
    if xxh3_64(<const char *>h + FRAME_HEADER, h.body_length) != h.body_hash:
        return FRAME_BODY_BAD
    return FRAME_OK


cdef int64_t columns_end(const FrameHeader *h) noexcept nogil:
    """Where in the body the blobs begin."""
    cdef int64_t n = h.count, at = 0
    if h.flags & HAS_TIMESTAMPS:
        at += 8 * n
    if h.flags & HAS_DELTAS:
        at += align8(4 * n)
    if h.flags & HAS_KEYS:
        at += align8(4 * (n + 1))
    if h.flags & HAS_KEY_NULLS:
        at += align8((n + 7) >> 3)
    if h.flags & HAS_HEADERS:
        at += align8(4 * (n + 1))
    if not h.flags & FIXED_STRIDE:
        at += align8(4 * (n + 1))
    if h.flags & HAS_NULLS:
        at += align8((n + 7) >> 3)
    return at


cdef int offsets_check(const int32_t *offsets, int64_t n) noexcept nogil:
    """FRAME_OK when n+1 offsets start at 0 and never go down; the last one is then the blob's size."""
    cdef int64_t i
    cdef int32_t bad = offsets[0]
    for i in range(n):
        # A step down sets the sign, and so does an offset below 0, without which the difference could wrap around.
        # No branch, so the compiler vectorises.
        bad |= offsets[i + 1] | <int32_t>(<uint32_t>offsets[i + 1] - <uint32_t>offsets[i])
    return FRAME_COLUMNS_BAD if offsets[0] != 0 or bad < 0 else FRAME_OK


cdef int columns_parse(const FrameHeader *h, const char *blobs, int64_t blob_size, Columns *c) noexcept nogil:
    """Find the columns of a frame whose hashes are right. With a codec, `blobs` is the decompressed part.

    Even a right hash proves only that these bytes were written, not that whoever wrote them was sane: bounds and order
    are checked too.
    """
    cdef int64_t n = h.count, at = 0, rest, i
    cdef const char *body = <const char *>h + FRAME_HEADER
    cdef int64_t end = columns_end(h)
    cdef int32_t step
    if h.flags & HAS_KEY_NULLS and not h.flags & HAS_KEYS:
        return FRAME_COLUMNS_BAD
    c.timestamps = NULL
    c.deltas = c.key_offsets = c.header_offsets = c.value_offsets = NULL
    c.key_valid = c.value_valid = NULL
    c.count = h.count
    c.base_offset = h.base_offset
    c.base_timestamp = h.base_timestamp
    c.stride = 0
    if h.flags & HAS_TIMESTAMPS:
        c.timestamps = <const int64_t *>body
        at = 8 * n
    if h.flags & HAS_DELTAS:
        c.deltas = <const int32_t *>(body + at)
        at += align8(4 * n)
        step = c.deltas[0]
        if step < 0:
            return FRAME_COLUMNS_BAD
        for i in range(1, n):
            if c.deltas[i] <= step:
                return FRAME_COLUMNS_BAD
            step = c.deltas[i]
        if <uint32_t>step >= h.span:        # behind the last record the span may go on: those that were there are gone
            return FRAME_COLUMNS_BAD
    if h.flags & HAS_KEYS:
        c.key_offsets = <const int32_t *>(body + at)
        at += align8(4 * (n + 1))
    if h.flags & HAS_KEY_NULLS:
        c.key_valid = <const uint8_t *>(body + at)
        at += align8((n + 7) >> 3)
    if h.flags & HAS_HEADERS:
        c.header_offsets = <const int32_t *>(body + at)
        at += align8(4 * (n + 1))
    if not h.flags & FIXED_STRIDE:
        c.value_offsets = <const int32_t *>(body + at)
        at += align8(4 * (n + 1))
    if h.flags & HAS_NULLS:
        c.value_valid = <const uint8_t *>(body + at)
    if h.codec == CODEC_NONE:
        blobs = body + end
        blob_size = h.body_length - end
    rest = blob_size
    c.keys = c.headers = blobs
    if c.key_offsets != NULL:
        if offsets_check(c.key_offsets, n) or c.key_offsets[n] > rest:
            return FRAME_COLUMNS_BAD
        at = min(align8(c.key_offsets[n]), rest)
        blobs += at
        rest -= at
    if c.header_offsets != NULL:
        c.headers = blobs
        if offsets_check(c.header_offsets, n) or c.header_offsets[n] > rest:
            return FRAME_COLUMNS_BAD
        at = min(align8(c.header_offsets[n]), rest)
        blobs += at
        rest -= at
    c.values = blobs
    if c.value_offsets != NULL:
        if offsets_check(c.value_offsets, n) or c.value_offsets[n] != rest:
            return FRAME_COLUMNS_BAD
    else:
        if rest % n:
            return FRAME_COLUMNS_BAD
        c.stride = rest // n
    return FRAME_OK


cdef void columns_entry(const Columns *c, uint32_t i, Entry *e) noexcept nogil:
    """Record i of a parsed frame."""
    e.offset = c.base_offset + (c.deltas[i] if c.deltas != NULL else i)
    e.timestamp = c.timestamps[i] if c.timestamps != NULL else c.base_timestamp
    if c.value_offsets != NULL:
        e.value = c.values + c.value_offsets[i]
        e.value_size = c.value_offsets[i + 1] - c.value_offsets[i]
    else:
        e.value = c.values + i * c.stride
        e.value_size = c.stride
    if c.value_valid != NULL and not (c.value_valid[i >> 3] >> (i & 7)) & 1:
        e.value_size = -1
    if c.key_offsets != NULL and (c.key_valid == NULL or (c.key_valid[i >> 3] >> (i & 7)) & 1):
        e.key = c.keys + c.key_offsets[i]
        e.key_size = c.key_offsets[i + 1] - c.key_offsets[i]
    else:
        e.key = NULL
        e.key_size = -1
    if c.header_offsets != NULL:
        e.headers = c.headers + c.header_offsets[i]
        e.header_size = c.header_offsets[i + 1] - c.header_offsets[i]
    else:
        e.headers = NULL
        e.header_size = 0


# ---- encoding ------------------------------------------------------------------------------------------------------


cdef class Scratch:
    """Memory that frames are built in. It grows to the largest frame and is kept for the next."""

    def __cinit__(self):
        self.data = NULL
        self.size = self.origin = 0

    def __dealloc__(self):
        PyMem_RawFree(self.data)

    cdef int reserve(self, int64_t size) except -1:
        cdef char *data
        if size > self.size:
            size += size >> 3
            data = <char *>PyMem_RawRealloc(self.data, size)
            if data == NULL:
                raise MemoryError(f"no memory for a frame of {size:,} bytes")
            self.data, self.size = data, size
        return 0


cdef inline int64_t copy_blob(
    char *at, int32_t *offsets, uint8_t *valid, Packed source, const int32_t *select, int64_t start, int64_t n,
) noexcept nogil:
    """Lay n items out one after the other, with their offsets and validity. Returns the bytes used."""
    cdef int64_t i, size, used = 0
    cdef const char *data
    if offsets != NULL:
        offsets[0] = 0
    if select == NULL and (source.kind == FROM_OFFSETS32 or source.kind == FROM_OFFSETS64):
        # They lie together already, and none is null.
        data = source.get(start, &size)
        if source.kind == FROM_OFFSETS32:
            used = source.offsets32[start + n] - source.offsets32[start]
            for i in range(n if offsets != NULL else 0):
                offsets[i + 1] = source.offsets32[start + i + 1] - source.offsets32[start]
        else:
            used = source.starts[start + n] - source.starts[start]
            for i in range(n if offsets != NULL else 0):
                offsets[i + 1] = <int32_t>(source.starts[start + i + 1] - source.starts[start])
        memcpy(at, data, used)
        if valid != NULL:
            for i in range(n):
                valid[i >> 3] |= <uint8_t>(1 << (i & 7))
        return used
    for i in range(n):
        data = source.get(select[start + i] if select != NULL else start + i, &size)
        if size > 0:
            platform.copy(at + used, data, size)
            used += size
        if valid != NULL and size >= 0:
            valid[i >> 3] |= <uint8_t>(1 << (i & 7))
        if offsets != NULL:
            offsets[i + 1] = <int32_t>used
    return used


cdef int misfit(int64_t size, int64_t width, int64_t index) except -1:
    """A value that is not of its topic's dtype."""
    raise ValueError(
        f"record {index:,} of this call {'is null' if size < 0 else f'has {size:,} bytes'}; the topic has a dtype, and each of its values "
        f"{width:,} bytes. A record that does not fit is not written, nor what was to follow it.")


cdef int64_t encode(
    Scratch scratch, Packed values, Packed keys, Packed headers, const int64_t *timestamps, int64_t now,
    const int32_t *select, int64_t start, int64_t stop, int64_t bytes_max, int64_t record_max, int64_t width,
) except -1:
    """Build one frame from items `start .. stop-1` (of `select`, when given), as many as fit `bytes_max`, at least one.

    `width`: what each value must have; -1: anything goes. Returns how many. It is to be sealed; base_offset, epoch and header_hash come later.
    """
    cdef int64_t j, k, n = 0, size, first = -2, value_bytes = 0, key_bytes = 0, header_bytes = 0, total, at, blob
    cdef bint stride = True, nulls = False, key_nulls = False, any_key = False, spread = False
    cdef int64_t base = now, highest = now
    cdef FrameHeader *h
    cdef char *body
    cdef int flags = 0
    cdef int64_t one, key_size, header_size
    if width >= 0 and values.stride >= 0 and values.stride != width and start < stop:
        misfit(values.stride, width, start)
    if values.stride >= 0 and keys is None and headers is None and timestamps == NULL and values.stride <= record_max:
        # Values of one known length and nothing else: there is nothing to measure, and no column that would take room.
        n = min(stop - start, max(<int64_t>1, bytes_max // max(values.stride, <int64_t>8)))
        value_bytes = n * values.stride
        stop = start
    for j in range(start, stop):
        k = select[j] if select != NULL else j
        values.get(k, &size)
        if width >= 0 and size != width:
            misfit(size, width, j)
        one = 0
        if size < 0:
            nulls = True
            size = 0
            stride = False
        if first == -2:
            first = size
        elif size != first:
            stride = False
        key_size = header_size = 0
        if keys is not None:
            keys.get(k, &key_size)
            if key_size < 0:
                key_nulls = True
                key_size = 0
            else:
                any_key = True
        if headers is not None:
            headers.get(k, &header_size)
            if header_size < 0:
                header_size = 0
        one = size + key_size + header_size
        if one > record_max:
            raise RecordTooLarge(
                f"record {j:,} of this call has {one:,} bytes; the limit is {record_max:,} (record_bytes_max)",
                size=one, limit=record_max, index=j,
            )
        # 32 bytes a record is more than all columns together take.
        if n and value_bytes + key_bytes + header_bytes + one + 32 * (n + 1) > bytes_max:
            break
        if timestamps != NULL:
            if n == 0:
                base = highest = timestamps[k]
            elif timestamps[k] != base:
                spread = True
                if timestamps[k] > highest:
                    highest = timestamps[k]
        value_bytes += size
        key_bytes += key_size
        header_bytes += header_size
        n += 1

    if spread:
        flags |= HAS_TIMESTAMPS
    if any_key:
        flags |= HAS_KEYS
        # Flags were gathered over one record more than fits; a needless bitmap is valid, and rare.
        if key_nulls:
            flags |= HAS_KEY_NULLS
    if header_bytes:
        flags |= HAS_HEADERS
    if nulls:
        flags |= HAS_NULLS
    if stride:
        flags |= FIXED_STRIDE
    total = FRAME_HEADER + 8 * n + 3 * align8(4 * (n + 1)) + 2 * align8((n + 7) >> 3) \
        + align8(key_bytes) + align8(header_bytes) + value_bytes + 64
    if total > FRAME_BYTES_MAX:
        raise RecordTooLarge(
            f"a frame of {total:,} bytes is needed; {FRAME_BYTES_MAX:,} are the most", size=total, limit=FRAME_BYTES_MAX,
            index=start,
        )
    scratch.reserve(scratch.origin + total)
    h = <FrameHeader *>(scratch.data + scratch.origin)
    body = <char *>h + FRAME_HEADER
    memset(h, 0, FRAME_HEADER)
    h.magic = FRAME_MAGIC
    h.count = h.span = <uint32_t>n
    h.flags = flags
    h.codec = CODEC_NONE
    h.base_timestamp = base
    h.max_timestamp = highest
    blob = columns_end(h)
    memset(body, 0, blob)
    at = 0
    if flags & HAS_TIMESTAMPS:
        for j in range(n):
            (<int64_t *>body)[j] = timestamps[select[start + j] if select != NULL else start + j]
        at = 8 * n
    cdef int32_t *key_offsets = NULL
    cdef int32_t *header_offsets = NULL
    cdef int32_t *value_offsets = NULL
    cdef uint8_t *key_valid = NULL
    cdef uint8_t *value_valid = NULL
    if flags & HAS_KEYS:
        key_offsets = <int32_t *>(body + at)
        at += align8(4 * (n + 1))
    if flags & HAS_KEY_NULLS:
        key_valid = <uint8_t *>(body + at)
        at += align8((n + 7) >> 3)
    if flags & HAS_HEADERS:
        header_offsets = <int32_t *>(body + at)
        at += align8(4 * (n + 1))
    if not stride:
        value_offsets = <int32_t *>(body + at)
        at += align8(4 * (n + 1))
    if flags & HAS_NULLS:
        value_valid = <uint8_t *>(body + at)
        at += align8((n + 7) >> 3)
    if flags & HAS_KEYS:
        size = copy_blob(body + at, key_offsets, key_valid, keys, select, start, n)
        memset(body + at + size, 0, align8(size) - size)
        at += align8(size)
    if flags & HAS_HEADERS:
        size = copy_blob(body + at, header_offsets, NULL, headers, select, start, n)
        memset(body + at + size, 0, align8(size) - size)
        at += align8(size)
    if values.kind == FROM_STRIDE and select == NULL:
        memcpy(body + at, values.data + start * values.stride, n * values.stride)
        at += n * values.stride
    elif values.stride >= 0 and values.kind == FROM_LIST and select == NULL:
        for j in range(n):
            platform.copy(body + at, bytes_data(values.items[start + j]), values.stride)
            at += values.stride
    else:
        at += copy_blob(body + at, value_offsets, value_valid, values, select, start, n)
    h.body_length = <uint32_t>at
    return n


cdef void seal_body(FrameHeader *h, int64_t body_length) noexcept nogil:
    """The body is complete: its length, its hash, and zeros up to the next multiple of 8."""
    cdef char *body = <char *>h + FRAME_HEADER
    h.body_length = <uint32_t>body_length
    memset(body + body_length, 0, align8(body_length) - body_length)
    h.body_hash = xxh3_64(body, body_length)


cdef int seal(Scratch scratch, int codec, object squeeze) except -1:
    """The frame in `scratch` is complete: with a codec its blobs become `int64 raw size, squeeze(blobs)`, where that is smaller."""
    cdef FrameHeader *h = <FrameHeader *>(scratch.data + scratch.origin)
    cdef char *body = <char *>h + FRAME_HEADER
    cdef int64_t blob = columns_end(h), raw = h.body_length - blob
    cdef bytes small
    if codec != CODEC_NONE and raw >= 128:      # of less, a codec's own header would eat the gain
        small = squeeze(PyMemoryView_FromMemory(body + blob, raw, PyBUF_READ))
        if PyBytes_GET_SIZE(small) + 8 < raw:
            h.codec = codec
            memcpy(body + blob, &raw, 8)
            memcpy(body + blob + 8, PyBytes_AS_STRING(small), PyBytes_GET_SIZE(small))
            h.body_length = <uint32_t>(blob + 8 + PyBytes_GET_SIZE(small))
    seal_body(h, h.body_length)
    return 0
