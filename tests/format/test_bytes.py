"""The page, byte for byte: its example is decoded, and written again by the engine; its tables are the reader's.

Everything here is parsed out of docs/format.md, so the page cannot say one thing and the files another.
"""

import itertools
import json
import random
import re
import shutil
import struct
import tarfile
from pathlib import Path

import pytest

import seglog
from format import reader
from seglog.engine.log import Log

PAGE_PATH = Path(__file__).parents[2] / "docs" / "format.md"
PAGE = PAGE_PATH.read_text(encoding="utf-8")
V1 = Path(__file__).parent / "v1" / "v1.tar.gz"
NOW = 1_700_000_000_000_000
SMALL = 65_536
FIRST = f"{0:020}.log"


# ---- the example ---------------------------------------------------------------------------------


def example():
    """The file of the example, as bytes."""
    data, lines = bytearray(SMALL), 0
    for at, words in re.findall(r"^([0-9a-f]{4}): ((?:[0-9a-f]{4} )*[0-9a-f]{4})(?=  |$)", PAGE, re.M):
        raw = bytes.fromhex(words)
        data[int(at, 16) : int(at, 16) + len(raw)] = raw
        lines += 1
    assert lines == len(re.findall(r"^[0-9a-f]{4}:", PAGE, re.M)) - 2  # the header again, and the tail
    assert "0800: .. 085f                                   the header again, the same 96 bytes" in PAGE
    data[2048 : 2048 + 96] = data[:96]
    return bytes(data)


def example_records():
    """What the page says is in it: offset, key, headers, value."""
    said = PAGE[PAGE.index("The records, as offset, key, headers, value:") :]
    found = re.findall(r'(\d+), (none|"\w*"), (\{[^}]*\}), (null|"\w*")', said[: said.index("\n\n")])
    assert len(found) == 4

    def text(word):
        return None if word in ("none", "null") else word.strip('"').encode()

    def pairs(words):
        return [(n, None if v == "null" else v.encode()) for n, v in re.findall(r'(\w+): "?(\w+)', words)]

    return [(int(offset), text(key), pairs(headers), text(value)) for offset, key, headers, value in found]


def test_the_example_is_what_the_page_says(tmp_path):
    (tmp_path / FIRST).write_bytes(example())
    log = reader.Log(tmp_path)
    records = log.records()
    assert [(r.offset, r.key, r.headers, r.value) for r in records] == example_records()
    assert [r.timestamp for r in records] == [NOW, NOW + 1, NOW + 2, NOW + 3]
    # It says SEALED, and nothing comes after it: that much the page leaves out, and no more.
    assert log.unsound == [reader.Unsound("missing", FIRST, 0x1100, 4, -1)]
    assert (log.end, log.end_position) == (4, 0x1100)
    a, b = (log.last.slot(at) for at in reader.MARK_SLOTS)
    assert (a.sequence, b.sequence, b.flags) == (3, 4, reader.SEALED)
    assert log.last.mark == b


def test_the_engine_writes_the_example(tmp_path):
    now = NOW
    with Log(tmp_path, segment_bytes=SMALL, segment_bytes_min=SMALL, segment_age=1.0, clock=lambda: now) as log:
        log.append(b"hello")
        log.sync()
        log.append_many(
            [b"one", None, b"three"],
            keys=[b"k", None, b""],
            headers=[{"h": b"x", "n": None}, None, {}],
            timestamps=[NOW + 1, NOW + 2, NOW + 3],
        )
        log.sync()
        now += 10_000_000
        log.upkeep()  # rolls
    written, told = (tmp_path / FIRST).read_bytes(), example()
    assert set(fields(told)) == set(fields(written))
    for name, value in fields(told).items():
        # The salt and the id are random, and what depends on them is.
        if name[1] not in ("salt", "partition_id", "header_hash") and name[:2] != ("mark", "hash"):
            assert fields(written)[name] == value, name
    assert reader.read_index(reader.Segment(tmp_path / FIRST), 4)

    # With the page's salt and id the files are the same: all hashes follow.
    salt, partition_id = (reader.HEADER.at(told)._asdict()[name] for name in ("salt", "partition_id"))
    again = bytearray(written)
    for at in reader.HEADER_COPIES:
        struct.pack_into("<Q", again, at + 24, salt)
        struct.pack_into("<Q", again, at + 64, partition_id)
        struct.pack_into("<Q", again, at + 88, reader.hash64(bytes(again[at : at + 88])))
    for at in reader.MARK_SLOTS:
        struct.pack_into("<Q", again, at + 56, reader.hash64(bytes(again[at : at + 56]), salt))
    for at in 0x1000, 0x1048:
        struct.pack_into("<Q", again, at + 56, reader.hash64(bytes(again[at : at + 56]), salt))
    assert again == told


def fields(data):
    """Every field of the example's file, and every byte of its bodies."""
    found = {}
    for structure, name, places in (
        (reader.HEADER, "header", reader.HEADER_COPIES),
        (reader.MARK, "mark", reader.MARK_SLOTS),
        (reader.FRAME, "frame", (0x1000, 0x1048)),
    ):
        for at in places:
            found |= {(name, field, at): value for field, value in structure.at(data, at)._asdict().items()}
    found[("body", "", 0x1040)] = data[0x1040:0x1048]
    found[("body", "", 0x1088)] = data[0x1088:0x1100]
    found[("rest", "", 0x1100)] = data[0x1100:].strip(b"\0")
    return found


FLIPS = 0x0, 0x18, 0x238, 0x40A, 0x434, 0x858, 0x1000, 0x1041, 0x10A4, 0x10B0, 0x10D0, 0x10EE, 0x10F8


@pytest.mark.parametrize("position", FLIPS)
def test_another_byte_in_the_example_would_be_seen(tmp_path, position):
    data = bytearray(example())
    data[position] ^= 1
    (tmp_path / FIRST).write_bytes(data)
    log = reader.Log(tmp_path)
    records, kinds = log.records(), {u.kind for u in log.unsound}
    if position < 0x1000:  # the other copy, or slot, serves
        assert ("header" if position in (0x0, 0x18, 0x858) else "mark") in kinds and len(records) == 4
    else:
        assert "frame" in kinds and len(records) < 4


# ---- the tables ----------------------------------------------------------------------------------


def tables():
    """heading -> rows of each table that begins with `| at | type |`, as (at, type, name)."""
    found, heading = {}, ""
    for line in PAGE.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| at | type |"):
            heading += "+" * (heading in found)
            found[heading] = []
        elif line.startswith("| ") and found.get(heading) is not None:
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if re.fullmatch(r"\d+(, \d+)*", cells[0]):
                found[heading].append((cells[0], cells[1], cells[2], cells[-1]))
    return found


@pytest.mark.parametrize(
    ("heading", "structure", "size"),
    [
        ("Header, 96 bytes, at 0 and again at 2048", reader.HEADER, 96),
        ("Durable mark, 64 bytes, slots at 512 and 1024", reader.MARK, 64),
        ("Frame header, 64 bytes", reader.FRAME, 64),
        ("7. Index", reader.INDEX, 64),
        ("7. Index+", reader.ENTRY, 16),
        ("groups/`<group>`/`<topic>`.positions", reader.SLOT, 64),
    ],
)
def test_the_tables_are_the_readers(heading, structure, size):
    assert [(int(at), kind, name) for at, kind, name, _ in tables()[heading]] == structure.fields()
    assert structure.struct.size == size
    assert all(at % struct.calcsize(structure.CODES[kind]) == 0 for at, kind, _ in structure.fields())  # aligned


def test_the_magics_are_the_bytes_that_the_page_says():
    magics = re.findall(r"`?(0x[0-9A-F]{8,16})`?,? (?:the bytes `(\w+)`( and 1)?|\"(\w+)\")", PAGE)
    read = {}
    for number, name, one, other in magics:
        raw = bytes.fromhex(number[2:])[::-1]
        assert raw == (name or other).encode() + b"\1" * bool(one)
        read[name or other] = int(number, 16)
    assert set(read) == {"SLOGSEG1", "SLB", "SLOGIDX1", "SLOGSHM1", "SLCP"} | set(
        re.findall(r'"(SLOGSLT1)"', PAGE)
    ) & set(read)
    assert read["SLOGSEG1"] == reader.SEGMENT_MAGIC
    assert read["SLB"] == reader.FRAME_MAGIC
    assert read["SLOGIDX1"] == reader.INDEX_MAGIC
    assert read["SLCP"] == reader.POSITIONS_MAGIC


def test_the_flags_are_the_pages():
    found = re.findall(r"^\| ([A-Z_]+)(?: \*\*not\*\* set)? \| (\d+) \|", PAGE, re.M)
    assert [value for _, value in found] == ["1", "2", "4", "8", "16", "32", "64"]
    assert all(getattr(reader, name) == int(value) for name, value in found)
    assert "bit 0 (1): SEALED; bit 1 (2): CLEAN; bit 2 (4): UNSYNCED" in PAGE
    assert (reader.SEALED, reader.CLEAN, reader.UNSYNCED, reader.SPARSE) == (1, 2, 4, 1)
    assert "0 none, 1 zstd, 2 lz4" in PAGE


def test_the_shared_words_are_where_the_page_says(tmp_path):
    """Not for a reader of the format; for one of the page."""
    with Log(tmp_path, segment_bytes=SMALL, segment_bytes_min=SMALL) as log:
        for i in range(3000):
            log.append(b"x" * 50, timestamp=i)
        log.sync()
        log.append(b"last", timestamp=7)
        log.trim(1000)
        data, file = (tmp_path / "tail.shm").read_bytes(), (tmp_path / "tail.shm").stat()
        codes = reader.Structure.CODES
        words = {
            name: struct.unpack_from("<" + codes[kind], data, int(at))[0]
            for at, kind, name, _ in tables()["The words of a partition: `shm` (or `tail.shm`), 4096 bytes"]
            if "," not in at
        }
        segments = reader.Log(tmp_path)
        index, entries = reader.read_index(segments.last, segments.end)
    assert len(data) == 4096
    assert words["magic"] == int.from_bytes(b"SLOGSHM1", "little") and words["version"] == 2 and words["state"] == 1
    assert words["boot"] == index.boot == reader.boot_hash()
    assert (words["device"], words["inode"]) == (file.st_dev, file.st_ino)
    assert words["partition_id"] == segments.last.header.partition_id
    assert words["lock"] == words["sync_lock"] == 0
    assert (words["next_offset"], words["tail_position"]) == (3001, segments.end_position)
    assert (words["active_base"], words["active_salt"]) == (segments.last.base, segments.last.salt)
    assert (words["max_timestamp"], words["epoch"], words["first_offset"]) == (2999, 1, 1000)
    assert words["indexed_position"] == entries[-1].position
    assert (words["durable_offset"], words["durable_base"]) == (3000, segments.last.base)
    durable = next(p for p, frame in segments.last.sound_headers() if frame.base_offset == 3000)
    assert words["durable_position"] == durable


def test_limits_of_a_new_segment(tmp_path):
    """Section 6: how a segment is made."""
    with Log(tmp_path, segment_bytes=1 << 20, segment_bytes_min=SMALL) as log:
        for _ in range(200):
            log.append(b"x" * 20_000)
        log.append(b"x" * 3_000_000)
        log.append_many([b""] * 200_000, keys=None)
        log.append(b"y" * 1_050_000)
    segments = reader.Log(tmp_path).segments
    for before, after in itertools.pairwise(segments):
        p, frame = next(after.sound_headers())
        need = -(-(4096 + frame.frame_length) // 4096) * 4096
        twice = min(max(2 * before.header.capacity, SMALL), 1 << 20)
        assert after.header.capacity == max(twice, need) == len(after.data)
        assert after.header.reserved_offset == after.base + max(after.header.capacity // 8, frame.span)
        assert p == reader.FIRST_FRAME


# ---- a store: SEGLOG, meta, positions ------------------------------------------------------------


def test_the_example_of_seglog(tmp_path):
    (line,) = re.findall(r'^\{"created".*"hash":"[0-9a-f]+"\}$', PAGE, re.M)
    (tmp_path / "SEGLOG").write_text(line + "\n")
    identity = reader.read_identity(tmp_path / "SEGLOG")
    assert identity is not None and identity["format"] == 1
    (tmp_path / "SEGLOG").write_text(line.replace("1795", "1796"))
    assert reader.read_identity(tmp_path / "SEGLOG") is None
    identity["format"] = 2
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    (tmp_path / "SEGLOG").write_text(json.dumps(identity | {"hash": f"{reader.hash64(text.encode()):016x}"}))
    with pytest.raises(reader.Refused):
        reader.read_identity(tmp_path / "SEGLOG")


def test_a_store(tmp_path):
    with seglog.open(tmp_path / "store") as store:
        orders = store.topic("orders", partitions=3, segment_bytes=SMALL)
        store.topic("other")
        store.topic("gone").send(b"x")
        store.delete_topic("gone")
        sent = [orders.send(b"%d" % i, key=b"key %d" % i).partition for i in range(200)]
        with orders.consumer("billing") as consumer:
            consumer.commit({0: 3})
            consumer.commit({0: 5, 2: 7})
            files = reader.Store(tmp_path / "store")  # while it is open
            assert {p: slot.offset for p, slot in files.positions("billing", "orders").items()} == {
                0: 5,
                2: 7,
                reader.NULL: 3,
            }
        orders.add_partitions(4)
    files = reader.Store(tmp_path / "store")
    assert files.identity is not None and files.meta.unsound == []
    assert set(files.topics) == {"orders", "other"}
    assert files.topics["orders"]["config"]["partitions"] == 4
    assert re.fullmatch("[0-9a-f]{16}", files.topics["orders"]["id"])
    assert files.meta.segments[0].header.capacity == SMALL
    assert sent == [reader.hash64(b"key %d" % i) % 3 for i in range(200)]
    found = [log.records() for log in files.partitions("orders")]
    assert [len(records) for records in found] == [sent.count(p) for p in range(4)]
    assert all(reader.hash64(r.key) % 3 == p for p, records in enumerate(found) for r in records)

    path = tmp_path / "store" / "groups" / "billing" / "orders.positions"
    whole, topic = path.read_bytes(), int(files.topics["orders"]["id"], 16)
    held = reader.read_positions(path, topic)
    assert len(whole) >= 1024 * (1 + held[reader.NULL].offset)
    at = 1024 + 512 * (held[0].sequence % 2)  # even ones go to A
    assert reader.SLOT.at(whole, at) == held[0]
    path.write_bytes(whole[:at] + b"?" + whole[at + 1 :])
    assert reader.read_positions(path, topic)[0].sequence == held[0].sequence - 1  # the commit before
    path.write_bytes(whole[:1024] + b"?" + whole[1025:1536] + b"?" + whole[1537:])
    with pytest.raises(ValueError, match="both"):
        reader.read_positions(path, topic)
    with pytest.raises(ValueError, match="another topic"):
        reader.read_positions(path, topic ^ 1)


# ---- the kept directory --------------------------------------------------------------------------


@pytest.fixture
def v1(tmp_path):
    with tarfile.open(V1) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "store", json.loads((tmp_path / "expected.json").read_bytes())


def text(data):
    return None if data is None else data.decode("latin-1")


def by_reader(path, name):
    logs = reader.Store(path).partitions(name)
    return [
        {
            "records": [
                [r.offset, r.timestamp, text(r.key), text(r.value), [[n, text(v)] for n, v in r.headers]]
                for r in log.records()
            ],
            "first_offset": log.first_offset,
            "unsound": log.unsound,
        }
        for log in logs
    ]


def test_v1_is_small_and_whole(v1):
    path, expected = v1
    assert V1.stat().st_size < 200_000
    segments = [reader.Log(path / "topics" / "orders" / str(p)).segments for p in (0, 1)]
    assert min(map(len, segments)) >= 2
    assert [s.header.epoch for s in segments[1]][-1] == 2 and segments[1][-1].header.previous_end < segments[1][-1].base
    assert expected["orders"][1]["first_offset"] > 0
    assert sum(len(p["records"]) for topic in expected.values() for p in topic) > 1000


def need(name):
    pytest.importorskip({"zstd": "zstandard", "lz4": "lz4.block"}.get(name, "json"))


@pytest.mark.parametrize("name", ["orders", "zstd", "lz4", "empty"])
def test_v1_by_the_reader(v1, name):
    need(name)
    path, expected = v1
    assert by_reader(path, name) == [partition | {"unsound": []} for partition in expected[name]]
    for log in reader.Store(path).partitions(name):
        for i, segment in enumerate(log.segments[:-1]):
            _, entries = reader.read_index(segment, log.end_of(i))
            assert entries and all(reader.entry_is_believed(segment, entry) for entry in entries)


@pytest.mark.parametrize("name", ["orders", "zstd", "lz4", "empty"])
def test_v1_by_the_engine(v1, name):
    need(name)
    path, expected = v1
    with seglog.open(path, create=False) as store:
        assert set(store.topics()) == set(expected)
        topic = store.topic(name)
        found = [
            {
                "first_offset": topic.first_offset(p),
                "records": [
                    [r.offset, r.timestamp, text(r.key), text(r.value), [[n, text(v)] for n, v in r.headers.items()]]
                    for r in topic.read(partition=p)
                ],
            }
            for p in range(topic.partitions)
        ]
        assert found == expected[name]
        # ... and goes on where it ended.
        where = topic.send(b"today", partition=0)
        assert where.offset == (expected[name][0]["records"] or [[-1]])[-1][0] + 1
        if name == "orders":
            with topic.consumer("billing") as consumer:
                positions = {p: slot.offset for p, slot in reader.Store(path).positions("billing", "orders").items()}
                assert (
                    sum(consumer.committed(p) or 0 for p in range(2)) == positions.get(0, 0) + positions.get(1, 0) > 0
                )
    assert by_reader(path, name)[0]["records"][:-1] == expected[name][0]["records"]


def test_v1_with_a_flipped_bit_is_not_v1(v1, rng: random.Random):
    path, expected = v1
    for _ in range(10):
        other = shutil.copytree(path, path.with_name("copy"), dirs_exist_ok=True)
        segment = rng.choice(reader.Log(other / "topics" / "orders" / "0").segments)
        p, frame = rng.choice(list(segment.sound_headers()))
        data = bytearray(segment.data)
        data[rng.randrange(p, p + 64 + frame.body_length)] ^= 1 << rng.randrange(8)
        segment.path.write_bytes(data)
        found = by_reader(other, "orders")[0]
        assert found["unsound"] and found["records"] != expected["orders"][0]["records"]
