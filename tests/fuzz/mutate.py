"""Mutate: a sound directory becomes one that some decoder should not take for sound, or that it must take as it is.

`raw` mutations leave the hashes as they were: whatever is then read must be what was written. The others *reseal*: they put right
hashes over wrong content, so that the parser behind the hash is reached; then it must agree with the second reader.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import xxhash

from format import reader

INTERESTING = [
    0,
    1,
    2,
    3,
    7,
    8,
    63,
    64,
    65,
    255,
    4095,
    4096,
    4097,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
]
INTERESTING += [-1, -2, -8, -4096, -(2**31), -(2**63)]


def write_at(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def scramble(data: bytes, rng: random.Random, least: int = 1) -> bytes:
    """A few bytes, words or stretches of `data` changed; the length stays."""
    if not data:
        return data
    out = bytearray(data)
    for _ in range(rng.choice([least, least, 1, 2, 4])):
        at, how = rng.randrange(len(out)), rng.random()
        if how < 0.35:
            out[at] ^= 1 << rng.randrange(8)
        elif how < 0.5:
            out[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif how < 0.8:
            size = rng.choice([2, 4, 4, 8])
            at -= at % size
            word = (rng.choice(INTERESTING) + rng.choice([0, 0, 1, -1])) % (1 << 8 * size)
            out[at : at + size] = word.to_bytes(size, "little")[: len(out) - at]
        elif how < 0.9:
            size = min(rng.choice([8, 64, 200]), len(out) - at)
            out[at : at + size] = rng.randbytes(size) if rng.random() < 0.5 else bytes(size)
        else:
            size = min(rng.choice([8, 64, 200]), len(out) - at)
            begin = rng.randrange(len(out) - size + 1)
            out[at : at + size] = out[begin : begin + size]
    return bytes(out)


def set_fields(
    structure: reader.Structure, data: bytes, rng: random.Random, names: list[str], changed: list[str] | None = None
) -> bytes:
    """Some named fields of a structure get values that matter; or values beside what they had."""
    values = structure.at(data)._asdict()
    codes = dict(zip(structure.tuple._fields, structure.types))
    for name in rng.sample(names, rng.choice([1, 1, 1, 2, 3])):
        bits, old = int(codes[name][1:]), values[name]
        number = rng.choice([rng.choice(INTERESTING), old + rng.choice([-8, -1, 1, 8]), old ^ 1 << rng.randrange(bits)])
        number %= 1 << bits
        values[name] = number - (1 << bits) if codes[name][0] == "i" and number >> (bits - 1) else number
        if changed is not None:
            changed.append(name)
    return structure.struct.pack(*values.values())


def segments(path: Path, rng: random.Random) -> tuple[Path, bytes, reader.Segment]:
    """One of the segments, the last one more often."""
    files = sorted(path.glob("*.log"))
    chosen = rng.choice([*files, files[-1]])
    segment = reader.Segment(chosen)
    return chosen, segment.data, segment


# ---- resealed ----------------------------------------------------------------------------------------------------------


def frame(path: Path, rng: random.Random) -> str:
    """A header field, or the body, of one frame; both hashes right again (or one of them, or none)."""
    file, data, segment = segments(path, rng)
    places = list(segment.sound_headers())
    if not places:
        return "no frame"
    at, head = rng.choice(places)
    body = data[at + 64 : at + 64 + head.body_length]
    raw = data[at : at + 64]
    what, changed = rng.choice(["header", "columns", "body", "both"]), []  # type: ignore[var-annotated]
    if what in ("header", "both"):
        raw = set_fields(reader.FRAME, raw, rng, [*reader.Frame._fields[1:-2]], changed)
    if what == "columns":
        end = head.columns()[1]
        body = scramble(body[:end], rng) + body[end:] if end else scramble(body, rng)
    if what in ("body", "both"):
        body = scramble(body, rng)
    length = struct.unpack_from("<I", raw, 4)[0]
    body = (
        (body + data[at + 64 + len(body) : at + 64 + max(length, len(body))])[: max(length, 0)]
        if length < len(data)
        else body
    )
    if rng.random() < 0.95:
        raw = raw[:48] + struct.pack("<Q", reader.hash64(body)) + raw[56:]
    if rng.random() < 0.95:
        raw = raw[:56] + struct.pack("<Q", reader.hash64(raw[:56], segment.salt))
    write_at(file, at, raw + body)
    return f"frame at {at} of {file.name}: {what} {' '.join(changed)}"


def header(path: Path, rng: random.Random) -> str:
    """A field of a segment's header; one copy or both."""
    file, data, _ = segments(path, rng)
    names = [
        "version",
        "header_length",
        "base_offset",
        "salt",
        "capacity",
        "reserved_offset",
        "created",
        "epoch",
        "flags",
    ]
    names += ["partition_id", "previous_end", "start_offset"]
    raw = set_fields(reader.HEADER, data[:96], rng, names)
    raw = raw[:88] + struct.pack("<Q", reader.hash64(raw[:88]))
    for at in rng.choice([(0,), (2048,), (0, 2048)]):
        write_at(file, at, raw)
    return f"header of {file.name}"


def mark(path: Path, rng: random.Random) -> str:
    """A field of a durable mark."""
    file, data, segment = segments(path, rng)
    if not segment.valid:
        return "no segment"
    names = [
        "sequence",
        "durable_position",
        "durable_offset",
        "start_offset",
        "end_position",
        "end_offset",
        "flags",
        "epoch",
    ]
    for at in rng.choice([(512,), (1024,), (512, 1024)]):
        raw = set_fields(reader.MARK, data[at : at + 64], rng, names)
        write_at(file, at, raw[:56] + struct.pack("<Q", reader.hash64(raw[:56], segment.salt)))
    return f"mark of {file.name}"


def index(path: Path, rng: random.Random) -> str:
    """Entries and header of an index, sealed."""
    file = rng.choice(sorted(p for p in path.glob("*.idx") if p.is_file()) or [path / "none"])
    data = file.read_bytes() if file.exists() else b""
    if len(data) < 64:
        return "no index"
    raw, entries = data[:64], data[64:]
    count = reader.INDEX.at(raw).count
    if rng.random() < 0.7:
        entries = scramble(entries[: 16 * max(count, 1)], rng) + entries[16 * max(count, 1) :]
    if rng.random() < 0.5:
        raw = set_fields(
            reader.INDEX, raw, rng, ["version", "flags", "salt", "boot", "count", "max_timestamp", "end_offset"]
        )
    fields = reader.INDEX.at(raw)
    if rng.random() < 0.8:
        fields = fields._replace(flags=1)
    if rng.random() < 0.3:
        fields = fields._replace(boot=reader.boot_hash(), flags=0)
    sealed = entries[: 16 * fields.count] if fields.count < 1 << 20 else b""
    seed = reader.hash64(struct.pack("<qq", fields.max_timestamp, fields.end_offset))
    fields = fields._replace(hash=reader.hash64(sealed, seed))
    file.write_bytes(reader.INDEX.struct.pack(*fields) + entries)
    return f"index {file.name}"


def lines(path: Path, rng: random.Random) -> str:
    """The files of lines beside the segments: what was lost, what was set aside."""
    name = rng.choice(["losses", *(f"{file.stem}.bad" for file in path.glob("*.log"))])
    whole = {"time": 1, "kind": "corrupt", "path": "p", "position": 4096, "start": 3, "stop": 9, "size": 5, "note": "n"}
    for _ in range(rng.randrange(3)):
        odd = rng.choice([-1, 2**70, None, "3", [], {}, 1.5, True, "\ud800"])
        whole[rng.choice(list(whole))] = odd  # type: ignore[assignment]
    line = json.dumps(whole).encode()
    if rng.random() < 0.5:
        line = scramble(line, rng)
    (path / name).write_bytes(
        line + b"\n" + rng.choice([b"", b"\n", line, b"{", b"[" * 100_000, b"\xff\xfe", bytes(30)])
    )
    return f"lines of {name}"


def identity(path: Path, rng: random.Random) -> str:
    """SEGLOG: other facts with a right hash."""
    facts = reader.read_identity(path / "SEGLOG")
    if facts is None:
        return "no SEGLOG"
    for _ in range(rng.randrange(1, 3)):
        if facts and rng.random() < 0.3:
            facts.pop(rng.choice(list(facts)))
        else:
            facts[rng.choice(["format", "uuid", "created", "new"])] = rng.choice(
                [None, -1, 1, 2, 2**80, "x", [], {}, 1.0, True]
            )
    if rng.random() < 0.1:
        facts = rng.choice([[], "x", 5, None])  # type: ignore[assignment]
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    if isinstance(facts, dict):
        facts["hash"] = xxhash.xxh3_64_hexdigest(text.encode())
    line = json.dumps(facts).encode()
    (path / "SEGLOG").write_bytes(line if rng.random() < 0.8 else scramble(line, rng))
    return "SEGLOG"


def positions(path: Path, rng: random.Random) -> str:
    """A slot of a file of positions."""
    file = rng.choice(sorted(path.glob("groups/*/*.positions")))
    data = file.read_bytes()
    if rng.random() < 0.1:
        file.write_bytes(data[: rng.randrange(len(data) + 1)])
        return f"{file.name}, cut short"
    for _ in range(rng.choice([1, 1, 2, 6])):
        at = 512 * rng.randrange(max(len(data) // 512, 1))
        raw = set_fields(reader.SLOT, data[at : at + 64], rng, list(reader.Slot._fields[:-1]))
        if rng.random() < 0.9:
            raw = raw[:56] + struct.pack("<Q", reader.hash64(raw[:56]))
        write_at(file, at, raw)
    return f"{file.name} of {file.parent.name}"


def meta(path: Path, rng: random.Random) -> str:
    """What a topology record says, with right hashes."""
    file = sorted((path / "meta").glob("*.log"))[-1]
    segment = reader.Segment(file)
    at, head = rng.choice(list(segment.sound_headers()))
    body = segment.body(at, head)
    if rng.random() < 0.5:
        old, new = rng.choice(
            [
                (b'"partitions":2', b'"partitions":9'),
                (b'"partitions":2', b'"partitions":x'),
                (b'"codec":"none"', b'"codec":"lzma"'),
                (b'"codec":"none"', b'"codec":  null'),
                (b'"id":"', b'"iD":"'),
                (b'"config":{', b'"config":['),
                (b'"created":', b'"crEated":'),
                (b"topic/or", b"topic/.."),
                (b"topic/", b"tOpic/"),
                (b'"batch_bytes":262144', b'"batch_bytes":-62144'),
                (b'"segment_bytes":65536', b'"segment_bytes":99999'),
                (b"xxh3", b"none"),
            ]
        )
        body = body.replace(old, new)
    else:
        body = scramble(body, rng)
    raw = segment.data[at : at + 48] + struct.pack("<Q", reader.hash64(body))
    write_at(file, at, raw + struct.pack("<Q", reader.hash64(raw, segment.salt)) + body)
    return f"meta record at {at}"


# ---- not resealed -------------------------------------------------------------------------------------------------------


def raw(path: Path, rng: random.Random) -> str:
    """Bytes of any file."""
    file = rng.choice(sorted(p for p in path.rglob("*") if p.is_file() and p.name != "create.lock"))
    data = file.read_bytes()
    if rng.random() < 0.1 or not data:
        cut = rng.choice([0, 1, 63, 64, 4095, 4096, rng.randrange(len(data) + 1)])
        file.write_bytes(data[:cut] if rng.random() < 0.7 else data + rng.randbytes(cut))
        return f"{file.name} has another size"
    used = len(data.rstrip(b"\0"))
    begin = rng.choice([0, 512, 1024, 2048, 4096, rng.randrange(used + 1)])
    begin = min(begin, used - 1) if used else 0
    size = min(rng.choice([64, 96, 200, 4096]), len(data) - begin)
    write_at(file, begin, scramble(data[begin : begin + size], rng))
    return f"bytes of {file.name}"


def blocks(path: Path, rng: random.Random) -> str:
    """Whole blocks exchanged, doubled, emptied; of one segment, or of two."""
    files = sorted(p for p in path.rglob("*.log") if p.is_file())
    a, b = rng.choice(files), rng.choice(files)
    size = rng.choice([512, 4096])
    one, two = (rng.randrange(16) * size for _ in range(2))
    first, second = a.read_bytes()[one : one + size], b.read_bytes()[two : two + size]
    write_at(a, one, rng.choice([second, bytes(size), b"\xff" * size]))
    if rng.random() < 0.5:
        write_at(b, two, first)
    return f"blocks of {a.name} and {b.name}"


def names(path: Path, rng: random.Random) -> str:
    """A file gone, doubled, exchanged, under a name that is not its own."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in (".log", ".idx"))
    file, other = rng.choice(files), rng.choice(files)
    how = rng.randrange(5)
    if how == 0:
        file.unlink()
    elif how == 1 and file != other:
        text = file.read_bytes()
        file.write_bytes(other.read_bytes())
        other.write_bytes(text)
    elif how == 2:
        odd = rng.choice([1, 5, 99, 10**12, 2**63 - 1, 2**62])
        (file.parent / f"{odd:020}{file.suffix}").write_bytes(file.read_bytes())
    elif how == 3:
        (
            file.parent / rng.choice([f"{7:020}.log.tmp", "x.idx.tmp", "z.log", f"{5:020}.LOG", f"{'9' * 20}.log"])
        ).write_bytes(b"?")
    else:
        text = file.read_bytes()
        file.unlink()
        file.mkdir() if file.suffix == ".idx" and rng.random() < 0.5 else file.write_bytes(text[: rng.randrange(5000)])
    return f"names: {file.name}, {other.name}, way {how}"


Mutation = Callable[[Path, random.Random], str]
RESEALED: dict[str, Mutation] = {"frame": frame, "header": header, "mark": mark, "index": index, "lines": lines}
RAW: dict[str, Mutation] = {"raw": raw, "blocks": blocks, "names": names}
OF_STORES: dict[str, Mutation] = {
    "identity": identity,
    "positions": positions,
    "meta": meta,
    "raw": raw,
    "names": names,
}
