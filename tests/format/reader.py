"""A second reader of the format, written from docs/format.md and nothing else. Read it beside that page.

It takes no shared memory, no lock and no index, so it may read a copy, a backup, or what a power cut left:

    log = Log("data/topics/orders/0")
    for record in log.records(): ...
    log.unsound                       # what the bytes do not keep of what they promised

Names are those of the page; `§5` is its section 5. Slow on purpose: a whole segment is read into memory.
"""

import json
import re
import struct
from collections import namedtuple
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from itertools import accumulate, pairwise
from pathlib import Path
from typing import ClassVar, NamedTuple

from xxhash import xxh3_64_intdigest

SEGMENT_MAGIC = 0x31474553474F4C53
FRAME_MAGIC = 0x01424C53
INDEX_MAGIC = 0x31584449474F4C53
POSITIONS_MAGIC = 0x50434C53
VERSION = FORMAT = 1

FIRST_FRAME = 4096
HEADER_COPIES = 0, 2048
MARK_SLOTS = 512, 1024
SPARSE = 1  # segment header
SEALED, CLEAN, UNSYNCED, COMPACTED, MERGED = 1, 2, 4, 8, 16  # mark; SEALED of an index too
HAS_TIMESTAMPS, HAS_DELTAS, HAS_KEYS, HAS_KEY_NULLS, HAS_HEADERS, FIXED_STRIDE, HAS_NULLS = 1, 2, 4, 8, 16, 32, 64
FRAME_FLAGS = 255
NONE, ZSTD, LZ4 = 0, 1, 2
RAW_SIZE_MAX = 1 << 30
NULL = 0xFFFFFFFF
SEGMENT_NAME = re.compile(r"0[0-8][0-9]{18}\.log")


class Refused(Exception):
    """A newer format (§12): not damage."""


def hash64(data: bytes, seed: int = 0) -> int:
    return xxh3_64_intdigest(data, seed)


def align8(n: int) -> int:
    return (n + 7) & -8


# ---- the structures, field by field --------------------------------------------------------------


class Structure:
    """Fields, as the tables of the page list them: type and name, in order, without gaps."""

    CODES: ClassVar = {"u8": "B", "u16": "H", "u32": "I", "i32": "i", "u64": "Q", "i64": "q"}

    def __init__(self, name: str, fields: str) -> None:
        pairs = [field.split() for field in fields.replace("\n", ",").split(",") if field.strip()]
        self.types, names = zip(*pairs)
        self.tuple = namedtuple(name, names)  # type: ignore[misc]
        self.struct = struct.Struct("<" + "".join(self.CODES[kind] for kind in self.types))

    def fields(self) -> list[tuple[int, str, str]]:
        ats = accumulate((struct.calcsize(self.CODES[kind]) for kind in self.types), initial=0)
        return list(zip(ats, self.types, self.tuple._fields))

    def at(self, data: bytes, position: int = 0):
        return self.tuple._make(self.struct.unpack_from(data, position))


HEADER = Structure(
    "Header",
    """u64 magic, u32 version, u32 header_length, i64 base_offset, u64 salt, i64 capacity, i64 reserved_offset
    i64 created, u32 epoch, u32 flags, u64 partition_id, i64 previous_end, i64 start_offset, u64 header_hash""",
)
MARK = Structure(
    "Mark",
    """u64 sequence, i64 durable_position, i64 durable_offset, i64 start_offset, i64 end_position, i64 end_offset
    u32 flags, u32 epoch, u64 hash""",
)
FRAME = Structure(
    "Frame",
    """u32 magic, u32 body_length, i64 base_offset, u32 count, u16 flags, u8 codec, u8 reserved, i64 base_timestamp
    i64 max_timestamp, u32 epoch, u32 span, u64 body_hash, u64 header_hash""",
)
INDEX = Structure(
    "Index",
    """u64 magic, u32 version, u32 flags, u64 salt, u64 boot, u32 count, u32 reserved, u64 hash, i64 max_timestamp
    i64 end_offset""",
)
ENTRY = Structure("Entry", "u32 offset_delta, u32 position, i64 max_timestamp")
SLOT = Structure(
    "Slot",
    """u32 magic, u32 partition, i64 offset, u64 sequence, u32 epoch, u32 generation, u64 topic, i64 timestamp
    u64 file, u64 hash""",
)
Header, Mark, Index, Entry, Slot = HEADER.tuple, MARK.tuple, INDEX.tuple, ENTRY.tuple, SLOT.tuple


class Frame(FRAME.tuple):
    """The header of a frame."""

    __slots__ = ()

    @property
    def frame_length(self) -> int:
        return 64 + align8(self.body_length)

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.span

    def columns(self) -> tuple[dict[str, int], int]:
        """Where each column begins in the body, and where the last one ends."""
        n, at, begins = self.count, 0, {}
        offsets, bitmap = align8(4 * (n + 1)), align8((n + 7) // 8)
        for name, present, size in (
            ("timestamps", self.flags & HAS_TIMESTAMPS, 8 * n),
            ("deltas", self.flags & HAS_DELTAS, align8(4 * n)),
            ("key_offsets", self.flags & HAS_KEYS, offsets),
            ("key_valid", self.flags & HAS_KEY_NULLS, bitmap),
            ("header_offsets", self.flags & HAS_HEADERS, offsets),
            ("value_offsets", not self.flags & FIXED_STRIDE, offsets),
            ("value_valid", self.flags & HAS_NULLS, bitmap),
        ):
            if present:
                begins[name] = at
                at += size
        return begins, at


class Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]] | None  # None: malformed


class Unsound(NamedTuple):
    """Bytes that are not what they should be. Offsets `start .. stop - 1` are lost with them; `stop` -1: not known."""

    kind: str  # "header", "mark", "frame", "segment", "misplaced", "missing", "torn"
    name: str
    position: int
    start: int = 0
    stop: int = 0


# ---- the body of a frame (§4) --------------------------------------------------------------------


def decompressed(codec: int, data: bytes, raw_size: int) -> bytes:
    if codec == ZSTD:
        import zstandard

        return zstandard.ZstdDecompressor().decompress(data, max_output_size=raw_size, allow_extra_data=False)
    import lz4.block

    return lz4.block.decompress(data, uncompressed_size=raw_size)


def codec_errors() -> tuple[type[Exception], ...]:
    errors: list[type[Exception]] = [ValueError]
    for name, error in ("zstandard", "ZstdError"), ("lz4.block", "LZ4BlockError"):
        with suppress(ImportError):
            errors.append(getattr(import_module(name), error))
    return tuple(errors)


def packed_headers(data: bytes) -> list[tuple[str, bytes | None]] | None:
    """The headers of one record; None when they do not fill their range exactly."""
    headers, at = [], 0
    while at < len(data):
        if at + 6 > len(data):
            return None
        name_size, value_size = struct.unpack_from("<HI", data, at)
        name_at = at + 6
        at = value_at = name_at + name_size
        if value_size != NULL:
            at += value_size
        if at > len(data):
            return None
        value = None if value_size == NULL else data[value_at:at]
        headers.append((data[name_at:value_at].decode("utf-8", "surrogateescape"), value))
    return headers


def decode(frame: Frame, body: bytes) -> list[Record] | None:
    """The records of a frame whose header and hashes are right; None when rule 9 or 10 says no."""
    n, flags = frame.count, frame.flags
    begins, end = frame.columns()

    def ints(name: str, count: int, kind: str = "i") -> tuple[int, ...]:
        return struct.unpack_from(f"<{count}{kind}", body, begins[name])

    def bits(name: str, present: int) -> list[bool]:
        return [not present or bool(body[begins[name] + i // 8] >> i % 8 & 1) for i in range(n)]

    blobs = body[end:]
    if frame.codec != NONE:
        if len(blobs) < 8:
            return None
        (raw_size,) = struct.unpack_from("<q", blobs)
        if not 0 <= raw_size <= RAW_SIZE_MAX:
            return None
        try:
            blobs = decompressed(frame.codec, blobs[8:], raw_size)
        except codec_errors():
            return None
        if len(blobs) != raw_size:
            return None

    if flags & HAS_KEY_NULLS and not flags & HAS_KEYS:
        return None
    deltas: tuple[int, ...] = tuple(range(n))
    if flags & HAS_DELTAS:
        deltas = ints("deltas", n)
        if deltas[0] < 0 or deltas[-1] >= frame.span or any(b <= a for a, b in pairwise(deltas)):
            return None

    def ranges(offsets: tuple[int, ...]) -> list[tuple[int, int]] | None:
        pairs = list(pairwise(offsets))
        return None if offsets[0] != 0 or any(a > b for a, b in pairs) else pairs

    key_ranges = ranges(ints("key_offsets", n + 1) if flags & HAS_KEYS else (0,) * (n + 1))
    header_ranges = ranges(ints("header_offsets", n + 1) if flags & HAS_HEADERS else (0,) * (n + 1))
    if key_ranges is None or header_ranges is None or key_ranges[-1][1] > len(blobs):
        return None
    keys, rest = blobs, blobs[align8(key_ranges[-1][1]) :]  # beyond the end: nothing remains
    if header_ranges[-1][1] > len(rest):
        return None
    headers, values = rest, rest[align8(header_ranges[-1][1]) :]
    if flags & FIXED_STRIDE:
        stride, remainder = divmod(len(values), n)
        if remainder:
            return None
        value_ranges: list[tuple[int, int]] | None = [(i * stride, (i + 1) * stride) for i in range(n)]
    else:
        value_ranges = ranges(ints("value_offsets", n + 1))
    if value_ranges is None or value_ranges[-1][1] != len(values):
        return None

    timestamps = ints("timestamps", n, "q") if flags & HAS_TIMESTAMPS else (frame.base_timestamp,) * n
    has_key = bits("key_valid", flags & HAS_KEY_NULLS) if flags & HAS_KEYS else [False] * n
    has_value = bits("value_valid", flags & HAS_NULLS)
    return [
        Record(
            frame.base_offset + deltas[i],
            timestamps[i],
            keys[slice(*key_ranges[i])] if has_key[i] else None,
            values[slice(*value_ranges[i])] if has_value[i] else None,
            packed_headers(headers[slice(*header_ranges[i])]),
        )
        for i in range(n)
    ]


# ---- a segment (§3) ------------------------------------------------------------------------------


class Segment:
    """One file. `valid` is §3's; nothing but `valid`, `base`, `header` and `data` may be used when it is not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.base = int(path.name[:20])
        self.data = path.read_bytes()
        self.header = next(filter(None, map(self.header_copy, HEADER_COPIES)), None)
        if self.header is not None and (self.header.version > VERSION or self.header.flags & ~SPARSE):
            raise Refused(f"{path.name}: segment version {self.header.version}, flags {self.header.flags}")
        self.valid = self.header is not None and len(self.data) >= FIRST_FRAME and self.header.base_offset == self.base
        if self.header is not None:
            self.salt = self.header.salt
            self.S = min(len(self.data), self.header.capacity)

    def header_copy(self, at: int) -> Header | None:
        if len(self.data) < at + 96:
            return None
        header = HEADER.at(self.data, at)
        sound = header.magic == SEGMENT_MAGIC and header.header_hash == hash64(self.data[at : at + 88])
        return header if sound else None

    def slot(self, at: int) -> Mark | None:
        mark = MARK.at(self.data, at)
        return mark if mark.sequence and mark.hash == hash64(self.data[at : at + 56], self.salt) else None

    @cached_property
    def mark(self) -> Mark | None:
        return max(filter(None, map(self.slot, MARK_SLOTS)), default=None)  # the sequence comes first

    @property
    def promised(self) -> bool:
        return self.mark is not None and not self.mark.flags & UNSYNCED

    def frame_header(self, p: int) -> Frame | None:
        """Rules 1 to 4."""
        if p < FIRST_FRAME or p % 8 or p + 64 > self.S:
            return None
        frame = Frame._make(FRAME.at(self.data, p))
        if frame.magic != FRAME_MAGIC or 64 + align8(frame.body_length) > self.S - p:
            return None
        return frame if frame.header_hash == hash64(self.data[p : p + 56], self.salt) else None

    def is_unknown(self, p: int) -> bool:
        """Rule 5."""
        frame = self.frame_header(p)
        return frame is not None and (frame.flags > FRAME_FLAGS or frame.codec > LZ4)

    def sound_header(self, p: int) -> Frame | None:
        """Rules 1 to 6."""
        frame = self.frame_header(p)
        if frame is None or self.is_unknown(p):
            return None
        sound = (
            1 <= frame.count <= frame.span
            and bool(frame.flags & HAS_DELTAS) == (frame.count != frame.span)
            and frame.base_offset >= 0
            and frame.columns()[1] <= frame.body_length
        )
        return frame if sound else None

    def sound_headers(self) -> Iterator[tuple[int, Frame]]:
        """Every one there is, whether or not a walk gets to it."""
        magic, p = struct.pack("<I", FRAME_MAGIC), FIRST_FRAME - 1
        while (p := self.data.find(magic, p + 1)) >= 0:
            if frame := self.sound_header(p):
                yield p, frame

    def body(self, p: int, frame: Frame) -> bytes:
        return self.data[p + 64 : p + 64 + frame.body_length]

    def valid_frame(self, p: int, e: int, only_end: bool = False) -> tuple[Frame, list[Record]] | None:
        """Rules 1 to 10; rules 1 to 8 for a frame with a codec when only the end is looked for."""
        if self.is_unknown(p):
            raise Refused(f"{self.path.name} at {p}: an unknown kind of frame")
        frame = self.sound_header(p)
        if frame is None or frame.body_hash != hash64(self.body(p, frame)) or frame.base_offset != e:
            return None
        if only_end and frame.codec != NONE:
            return frame, []
        records = decode(frame, self.body(p, frame))
        return None if records is None else (frame, records)

    def end_of_last(self) -> tuple[int, int]:
        """§6, steps 3 to 6: position and offset of the end."""
        p, e = FIRST_FRAME, self.base
        if self.promised:
            p, e = self.mark.durable_position, self.mark.durable_offset
        while True:
            while valid := self.valid_frame(p, e, only_end=True):
                p, e = p + valid[0].frame_length, valid[0].next_offset
            if self.promised:
                return p, e
            found = next(((q, f.base_offset) for q, f in self.sound_headers() if q > p and f.base_offset > e), None)
            if found is None:
                return p, e
            p, e = found

    def frames(self, end: int, unsound: list[Unsound]) -> Iterator[tuple[int, Frame, list[Record]]]:
        """The valid frames from 4096 to offset `end`, stepping over damage (§5)."""
        p, e = FIRST_FRAME, self.base
        while e < end:
            if valid := self.valid_frame(p, e):
                yield p, *valid
                p, e = p + valid[0].frame_length, valid[0].next_offset
                continue
            there = self.sound_header(p)
            if there and there.base_offset == e and there.next_offset <= end:  # 1: only the body is bad
                q, after = p + there.frame_length, there.next_offset
            else:  # 2
                others = sorted((f.base_offset, q) for q, f in self.sound_headers() if e <= f.base_offset < end)
                if others and others[0] == (e, p):
                    others = [other for other in others if other[0] > e]
                after, q = others[0] if others else (end, p)  # 3
            if after > e:
                unsound.append(Unsound("frame", self.path.name, p, e, after))
            p, e = q, after


# ---- a partition (§5, §6) ------------------------------------------------------------------------


def without_superseded(files: list[Segment]) -> list[Segment]:
    """§5: those whose records are not in a segment before, where a compaction put them."""
    kept, merged = [], None
    for segment in files:
        ours = segment.valid and merged and segment.header.partition_id == merged.header.partition_id
        if ours and segment.base < merged.mark.end_offset:
            continue
        kept.append(segment)
        if segment.valid and segment.mark and segment.mark.flags & SEALED and segment.mark.flags & MERGED:
            merged = segment
    return kept


class Log:
    """A partition directory, read once, when this is made."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.unsound: list[Unsound] = []
        names = sorted(p for p in self.directory.iterdir() if SEGMENT_NAME.fullmatch(p.name))
        files = without_superseded([Segment(path) for path in names])
        last = max((i for i, segment in enumerate(files) if segment.valid), default=-1)
        self.above = files[last + 1 :]  # lost whole
        self.unsound += [Unsound("segment", s.path.name, 0, s.base, -1) for s in self.above]
        self.segments = [s for i, s in enumerate(files[: last + 1]) if not self.is_misplaced(i, s, files[last])]
        self.listed = len(self.unsound)
        self.last = self.segments[-1] if self.segments else None
        self.end_position = self.end = self.first_offset = 0
        if self.last:
            self.cut_short = self.last.header.capacity > self.last.S
            self.end_position, self.end = self.last.end_of_last()
            # What follows is no part of the log, whatever it looks like.
            self.last.S = min(self.last.S, self.end_position)
            self.first_offset = max(self.segments[0].base, self.last.header.start_offset)
            if self.last.mark:
                self.first_offset = max(self.first_offset, self.last.mark.start_offset)

    def is_misplaced(self, i: int, segment: Segment, last: Segment) -> bool:
        header = segment.header
        if header is None or (header.base_offset == segment.base and header.partition_id == last.header.partition_id):
            return False
        self.unsound.append(Unsound("misplaced", segment.path.name, 0))
        segment.valid = False
        return i > 0  # the first one stays, as one that is not valid

    def end_of(self, i: int) -> int:
        segment, after = self.segments[i], self.segments[i + 1 : i + 2]
        if not after:
            return self.end
        if after[0].valid:
            return after[0].header.previous_end
        if segment.valid and segment.mark and segment.mark.flags & SEALED:
            return segment.mark.end_offset
        return after[0].base

    def frames(self) -> Iterator[tuple[Segment, int, Frame, list[Record]]]:
        """All valid frames, with trimmed records in them and those beyond the segment's end."""
        for i, segment in enumerate(self.segments):
            if segment.valid:
                for p, frame, records in segment.frames(self.end_of(i), self.unsound):
                    yield segment, p, frame, records

    def records(self) -> list[Record]:
        """Every record that is there; also fills `unsound`."""
        self.check()
        ends = {id(segment): self.end_of(i) for i, segment in enumerate(self.segments)}
        return [
            record
            for segment, _, _, records in self.frames()
            for record in records
            if self.first_offset <= record.offset < ends[id(segment)]
        ]

    def check(self) -> None:
        """Everything but the frames."""
        del self.unsound[self.listed :]
        note = self.unsound.append
        for i, segment in enumerate(self.segments):
            name, after = segment.path.name, self.segments[i + 1 : i + 2]
            if not segment.valid:
                note(Unsound("segment", name, 0, segment.base, after[0].base))
                continue
            for at in HEADER_COPIES:
                if not segment.header_copy(at):
                    note(Unsound("header", name, at))
            for at in MARK_SLOTS:
                if not segment.slot(at) and any(segment.data[at : at + 64]):
                    note(Unsound("mark", name, at))
            if after and after[0].valid and segment.mark and segment.mark.flags & SEALED:
                end, previous_end = segment.mark.end_offset, after[0].header.previous_end
                if end < previous_end > self.first_offset:
                    note(Unsound("missing", name, segment.mark.end_position, end, previous_end))
        if self.last:
            name, mark, first = self.last.path.name, self.last.mark, self.segments[0].base
            if mark and mark.flags & SEALED:
                note(Unsound("missing", name, self.end_position, mark.end_offset, -1))
            if mark and not mark.flags & UNSYNCED and mark.start_offset < first:
                note(Unsound("missing", name, 0, mark.start_offset, first))
            if self.cut_short:
                note(Unsound("missing", name, len(self.last.data), self.end, -1))
            if self.last.data[self.end_position :].strip(b"\0"):
                note(Unsound("torn", name, self.end_position, self.end, -1))


# ---- an index (§7) -------------------------------------------------------------------------------


def boot_hash() -> int:
    """Of this boot of Linux (§8)."""
    return hash64(Path("/proc/sys/kernel/random/boot_id").read_bytes().strip())


def read_index(segment: Segment, end: int) -> tuple[Index, list[Entry]] | None:
    """The index of `segment`, which ends at offset `end`; None when there is none, or none to believe."""
    path = segment.path.with_suffix(".idx")
    data = path.read_bytes() if path.exists() else b""
    if len(data) < 64:
        return None
    index = INDEX.at(data)
    entries = data[64 : 64 + 16 * index.count]
    if (index.magic, index.version, index.salt) != (INDEX_MAGIC, VERSION, segment.salt):
        return None
    if len(entries) < 16 * index.count:
        return None
    if index.flags & SEALED:
        if index.hash != hash64(entries, hash64(data[48:64])) or index.end_offset != end:
            return None
    elif index.boot != boot_hash():
        return None
    return index, [ENTRY.at(entries, at) for at in range(0, len(entries), 16)]


def entry_is_believed(segment: Segment, entry: Entry) -> bool:
    frame = segment.sound_header(entry.position)
    return frame is not None and frame.base_offset == segment.base + entry.offset_delta


# ---- a store (§10) -------------------------------------------------------------------------------


def read_identity(path: Path) -> dict[str, object] | None:
    """What SEGLOG says; None when it is damaged."""
    try:
        identity = json.loads(path.read_bytes())
        claimed = identity.pop("hash")
    except (ValueError, AttributeError, TypeError, KeyError):
        return None
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    if claimed != f"{hash64(text.encode()):016x}":
        return None
    if identity.get("format") != FORMAT:
        raise Refused(f"store format {identity.get('format')}")
    return identity


def read_positions(path: Path, topic: int) -> dict[int, Slot]:
    """partition -> the slot that holds, for those that committed; NULL -> the count. ValueError: both slots damaged."""
    data, held = path.read_bytes(), {}

    def pair(at: int, partition: int) -> Slot | None:
        raw = [data[begin : begin + 64] for begin in (at, at + 512)]
        slots = [SLOT.at(slot) for slot in raw if len(slot) == 64]
        wanted = (POSITIONS_MAGIC, partition, topic)
        valid = [
            slot
            for slot, bytes_ in zip(slots, raw)
            if (slot.magic, slot.partition, slot.topic) == wanted and slot.hash == hash64(bytes_[:56])
        ]
        if not valid and all(map(any, raw)):
            raise ValueError(f"{path}: both slots at {at} are damaged, or another topic's")
        return max(valid, key=lambda slot: slot.sequence, default=None)

    count = pair(0, NULL)
    if count is None:
        return {}
    if len(data) < 1024 * (1 + count.offset):
        raise ValueError(f"{path}: too short for {count.offset} partitions")
    found = {NULL: count} | {i: pair(1024 * (i + 1), i) for i in range(count.offset)}
    held.update((partition, slot) for partition, slot in found.items() if slot)
    return held


class Store:
    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.identity = read_identity(self.directory / "SEGLOG")
        self.meta = Log(self.directory / "meta")
        changes = {record.key: record.value for record in self.meta.records()}  # the last record of a key holds
        self.topics: dict[str, dict] = {
            key.decode().removeprefix("topic/"): json.loads(value)
            for key, value in changes.items()
            if value is not None and key.startswith(b"topic/")
        }

    def partitions(self, topic: str) -> list[Log]:
        count = self.topics[topic]["config"]["partitions"]
        return [Log(self.directory / "topics" / topic / str(i)) for i in range(count)]

    def positions(self, group: str, topic: str) -> dict[int, Slot]:
        path = self.directory / "groups" / group / f"{topic}.positions"
        return read_positions(path, int(self.topics[topic]["id"], 16))
