"""What the engine writes, a reader that was made from docs/format.md alone reads back, record for record.

`reader.py` never saw the engine. Where both agree on bytes that both may judge, the page is complete; so the damaged
and the forged logs of the last part compare what the two make of them.
"""

import itertools
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from format import reader
from seglog.engine.errors import UnsupportedFormat
from seglog.engine.log import Log

NOW = 1_700_000_000_000_000
SMALL = 65_536
FIRST = f"{0:020}.log"
TRIALS = int(os.environ.get("SEGLOG_TRIALS") or 20)  # of damage; more find more
SHARED = ("shm", "lock", "tail.shm")


def codec(name):
    module = {"zstd": "zstandard", "lz4": "lz4.block"}.get(name)
    return pytest.param(name, marks=[] if module is None or has(module) else pytest.mark.skip(reason=f"no {module}"))


def has(module):
    try:
        __import__(module)
    except ImportError:
        return False
    return True


CODECS = [codec(name) for name in ("none", "zstd", "lz4")]
WRITES = "map", "pwrite"
FSYNCS = "never", "interval", "always"


class Writer:
    """An engine's log that keeps what it was given; the clock stands still unless it is moved."""

    def __init__(self, path, **settings):
        self.path, self.sent, self.now = path, [], NOW
        self.log = Log(path, segment_bytes=SMALL, segment_bytes_min=SMALL, clock=lambda: self.now, **settings)

    def send(self, value, key=None, headers=None, timestamp=None):
        self.now += 1
        offset = self.log.append(value, key, headers, timestamp)
        self.keep([offset], [value], [key], [headers], [timestamp])
        return offset

    def send_many(self, values, keys=None, headers=None, timestamps=None):
        self.now += 1
        spans = self.log.append_many(values, keys, headers, timestamps)
        offsets = [offset for span in spans for offset in range(span.start, span.stop)]
        nothing = [None] * len(offsets)
        self.keep(
            offsets, rows(values), keys or nothing, headers or nothing, nothing if timestamps is None else timestamps
        )

    def keep(self, *columns):
        for offset, value, key, headers, timestamp in zip(*columns, strict=True):
            at = self.now if timestamp is None else int(timestamp)
            self.sent.append(reader.Record(offset, at, key, value, list((headers or {}).items())))


def rows(values):
    return [row.tobytes() for row in values] if isinstance(values, np.ndarray) else values


def read(path):
    """The reader's records, and what it found unsound."""
    log = reader.Log(path)
    return log.records(), log.unsound


def by_engine(log):
    """The same from the engine."""
    return [
        reader.Record(r.offset, r.timestamp, r.key, r.value, list(r.headers.items()))
        for batch in log.batches()
        for r in batch
    ]


def copy(path, to, keep=()):
    """What a reboot, or another machine, would see: no shared memory."""
    shutil.copytree(path, to, ignore=shutil.ignore_patterns(*set(SHARED) - set(keep)))
    return to


def fill(writer, rng, segments=4):
    """Every kind of frame, over some segments."""
    now = NOW
    while True:
        writer.send(rng.randbytes(rng.randrange(300)), rng.choice([None, b"", b"key"]), rng.choice([None, {"h": b"1"}]))
        writer.send(None, b"gone")
        writer.send(b"")
        writer.send_many([b"text " * rng.randrange(200) for _ in range(rng.randrange(1, 40))])
        writer.send_many(
            [b"same" * 8] * 20, keys=[b"%d" % i for i in range(20)], timestamps=[now - i for i in range(20)]
        )
        writer.send_many(
            [rng.choice([None, b"", b"value" * 9]) for _ in range(17)],
            keys=[rng.choice([None, b"", b"k" * 9]) for _ in range(17)],
            headers=[rng.choice([None, {}, {"ä→": None, "": b"", "x": b"y" * 9}]) for _ in range(17)],
            timestamps=np.array([rng.randrange(-(2**63), 2**63) for _ in range(17)], dtype="i8"),
        )
        writer.send_many(np.arange(30, dtype="i8"))
        if writer.log.statistics()["segments"] >= segments:
            return


@pytest.fixture
def writers():
    """Makes writers, and closes them."""
    made = []

    def make(path, **settings):
        made.append(Writer(path, **settings))
        return made[-1]

    yield make
    for writer in made:
        writer.log.close()


# ---- every kind of frame -------------------------------------------------------------------------

KINDS = {
    "one": lambda w: w.send(b"hello"),
    "one of everything": lambda w: w.send(b"v", b"k", {"h": b"x", "n": None, "ü☃": b"\0"}, -5),
    "empty": lambda w: w.send(b"", b"", {}),
    "empty name": lambda w: w.send(b"v", None, {"": b"x"}),
    "tombstone": lambda w: w.send(None, b"k"),
    "nothing at all": lambda w: w.send(None),
    "key without padding behind it": lambda w: w.send(b"", b"k"),
    "many": lambda w: w.send_many([b"a", b"bc", b""]),
    "fixed stride": lambda w: w.send_many([b"abc"] * 9),
    "all empty": lambda w: w.send_many([b""] * 9),
    "all null": lambda w: w.send_many([None] * 9),
    "some null": lambda w: w.send_many([None, b"", b"x"] * 30),
    "same length but for nulls": lambda w: w.send_many([None, b"xy"] * 30),
    "keys": lambda w: w.send_many([b"v"] * 3, [b"k", b"", b"kk"]),
    "some keys": lambda w: w.send_many([b"v"] * 65, [b"k", None, b"", None, b"kkk"] * 13),
    "no keys after all": lambda w: w.send_many([b"v"] * 3, [None] * 3),
    "some headers": lambda w: w.send_many([b"v"] * 3, None, [None, {"a": b"1", "b": None}, {}]),
    "timestamps": lambda w: w.send_many([b"v"] * 4, timestamps=[5, 1 - 2**63, 2**63 - 1, 0]),
    "timestamps of an array": lambda w: w.send_many([b"v"] * 4, timestamps=np.arange(4)),
    "equal timestamps": lambda w: w.send_many([b"v"] * 4, timestamps=[7] * 4),
    "rows of integers": lambda w: w.send_many(np.arange(100, dtype="<i4")),
    "rows of bytes": lambda w: w.send_many(np.arange(60, dtype="u1").reshape(20, 3)),
    "several frames": lambda w: w.send_many([b"x" * n for n in range(900)]),
    "more than a segment": lambda w: w.send(b"x" * 200_000),
}


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_frame(tmp_path, writers, kind, name):
    writer = writers(tmp_path / "log", codec=name)
    writer.send(b"before")
    KINDS[kind](writer)
    writer.send(b"after")
    assert read(writer.path) == (writer.sent, [])


def test_codecs_are_used(tmp_path, writers):
    for name, number in ("none", 0), ("zstd", 1), ("lz4", 2):
        if name == "none" or has({"zstd": "zstandard", "lz4": "lz4.block"}[name]):
            writer = writers(tmp_path / name, codec=name)
            writer.send_many([b"text" * 50] * 20, [b"key"] * 20, [{"h": b"x" * 40}] * 20)
            ((_, _, frame, _),) = reader.Log(writer.path).frames()
            assert frame.codec == number


record = st.tuples(
    st.none() | st.binary(max_size=300),
    st.none() | st.binary(max_size=20),
    st.none() | st.dictionaries(st.text(max_size=8), st.none() | st.binary(max_size=20), max_size=3),
    st.integers(1 - 2**63, 2**63 - 1),
)


@settings(max_examples=40)
@given(
    st.lists(st.lists(record, min_size=1, max_size=12), max_size=8),
    st.sampled_from([p.values[0] for p in CODECS if not p.marks]),
)
def test_any_records(groups, name):
    with tempfile.TemporaryDirectory() as path:
        writer = Writer(path, codec=name)
        for group in groups:
            if len(group) == 1:
                writer.send(*group[0])
            else:
                writer.send_many(*map(list, zip(*group)))
        try:
            assert read(path) == (writer.sent, [])
        finally:
            writer.log.close()
        assert read(path) == (writer.sent, [])


# ---- every state that a log can be in ------------------------------------------------------------


EVERY_WAY = [(write, fsync, "none") for write in WRITES for fsync in FSYNCS]
EVERY_WAY += [
    ("map", "interval", "zstd"),
    ("pwrite", "always", "zstd"),
    ("pwrite", "interval", "lz4"),
    ("map", "never", "lz4"),
]


@pytest.mark.parametrize(("write", "fsync", "name"), EVERY_WAY)
def test_live_closed_copied_and_recovered(tmp_path, writers, rng, write, fsync, name):
    pytest.importorskip({"zstd": "zstandard", "lz4": "lz4.block"}.get(name, "json"))
    writer = writers(tmp_path / "log", write=write, fsync=fsync, codec=name)
    fill(writer, rng)
    assert by_engine(writer.log) == writer.sent
    assert read(writer.path) == (writer.sent, [])

    # A copy made while it is open is what a power cut leaves, had everything been written.
    other = copy(writer.path, tmp_path / "copy")
    assert read(other) == (writer.sent, [])
    recovered = Writer(other, write=write, fsync=fsync, codec=name)
    assert by_engine(recovered.log) == writer.sent
    recovered.send(b"behind the gap")
    assert recovered.sent[0].offset > writer.sent[-1].offset + 1 and recovered.log.epoch == 2
    records, unsound = read(other)
    assert records == writer.sent + recovered.sent == by_engine(recovered.log)
    assert unsound == []
    recovered.log.close()

    writer.log.close()
    assert read(writer.path) == (writer.sent, [])
    mark = reader.Log(writer.path).last.mark
    assert bool(mark.flags & reader.CLEAN) == (fsync != "never")
    assert bool(mark.flags & reader.UNSYNCED) == (fsync == "never")

    again = Writer(copy(writer.path, tmp_path / "clean"), write=write, fsync=fsync, codec=name)
    again.send(b"one more")
    assert (again.sent[0].offset == len(writer.sent)) == (fsync != "never")
    assert read(again.path) == (writer.sent + again.sent, [])
    again.log.close()


def test_trimmed(tmp_path, writers, rng):
    writer = writers(tmp_path / "log")
    fill(writer, rng)
    for before in 3, len(writer.sent) // 2, len(writer.sent) - 3, len(writer.sent):
        assert writer.log.trim(before) == before
        writer.log.sync()
        assert reader.Log(writer.path).first_offset == before
        assert read(writer.path) == (writer.sent[before:], [])
    writer.send(b"more")
    writer.log.close()
    assert read(writer.path) == (writer.sent[-1:], [])


def test_an_empty_log(tmp_path, writers):
    (tmp_path / "nothing").mkdir()
    assert read(tmp_path / "nothing") == ([], [])
    writer = writers(tmp_path / "log")
    assert read(writer.path) == ([], [])
    writer.log.close()
    assert read(writer.path) == ([], [])
    Log(copy(writer.path, tmp_path / "copy")).close()
    assert read(tmp_path / "copy") == ([], [])


def test_empty_segments_are_replaced(tmp_path):
    """Recovery after recovery, without a record between: the end stays, offsets go up."""
    writer, kept = Writer(tmp_path / "0"), []
    for i in range(5):
        writer.send(b"%d" % i)
        kept += writer.sent
        path = writer.path
        for n in range(3):
            path = copy(path, tmp_path / f"{i}.{n}")
            log = Log(path, segment_bytes=SMALL, segment_bytes_min=SMALL)
            log.append(b"lost") if n == 1 else None
            if n == 1:  # and torn
                last = reader.Log(path).last
                frame_at = reader.Log(path).end_position - 72
                flip(last.path, frame_at + 8, 0)
            copy(path, tmp_path / f"{i}.{n}.torn")
            log.close()
            path = tmp_path / f"{i}.{n}.torn"
            assert read(path)[0] == kept
        writer.log.close()
        writer = Writer(copy(path, tmp_path / f"{i + 1}"))
        assert by_engine(writer.log) == kept
    writer.log.close()


CHILD = """
import os, sys
from seglog.engine.log import Log
path, write, fsync, how = sys.argv[1:]
log = Log(path, write=write, fsync=fsync, segment_bytes=65536, segment_bytes_min=65536, clock=lambda: 7)
value = lambda offset: b"%d " % offset * (offset % 50)
for n in range(2000) if how == "exit" else iter(int, 1):
    offset = log.next_offset
    if n % 3:
        assert log.append(value(offset), key=b"k" if offset % 2 else None) == offset
        offset += 1
    else:
        log.append_many([value(offset + i) for i in range(5)], keys=[b"k" if (offset + i) % 2 else None for i in range(5)])
        offset += 5
    if n % 400 == 100:
        log.sync()
    os.write(1, b"%20d" % offset)
os._exit(0)
"""


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(("how", "fsync"), [("exit", "never"), ("kill", "never"), ("kill", "interval")])
def test_killed(tmp_path, rng, write, how, fsync):
    path = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", CHILD, path, write, fsync, how], stdout=subprocess.PIPE) as child:
        told = child.stdout.read(20 * rng.randrange(1, 4000))
        if how == "kill":
            child.send_signal(signal.SIGKILL)
        told += child.stdout.read()
        acknowledged = int(told[-20:])
    assert child.returncode == (0 if how == "exit" else -signal.SIGKILL)

    def written(n):
        return [reader.Record(i, 7, b"k" if i % 2 else None, b"%d " % i * (i % 50), []) for i in range(n)]

    records, _ = read(path)  # perhaps one frame, of 5 at most, whose append did not return
    assert acknowledged <= len(records) <= acknowledged + 5 and records == written(len(records))
    if how == "exit":
        assert len(records) == acknowledged and reader.Log(path).unsound == []

    rebooted = copy(path, tmp_path / "rebooted")
    with Log(path) as log:  # the words live on
        published = by_engine(log)
        assert acknowledged <= len(published) and published == written(len(published))
        assert len(records) - 5 <= len(published) <= len(records)
        assert read(path)[0][: len(published)] == published
    with Log(rebooted) as log:
        assert by_engine(log) == records
    assert read(rebooted) == (records, [])


def garbage(kind, segment, end, rng):
    """Something behind the end that is no frame of this log."""
    first = reader.FIRST_FRAME
    frame = segment.sound_header(first)
    whole = segment.data[first : first + frame.frame_length]
    return {
        "noise": rng.randbytes(3000),
        "one bit": b"\0" * 100 + b"\1",
        "an old frame": whole,
        "half a frame": whole[: rng.randrange(1, len(whole))],
        "the magic": struct.pack("<I", reader.FRAME_MAGIC) * 100,
        "a bad body": forged(segment.salt, end, b"value")[:-8] + b"VALUE\0\0\0",
        "a hole and a frame": b"\0" * 64 + forged(segment.salt, end + 1, b"value"),
        "another log's frame": forged(segment.salt ^ 1, end, b"value"),
        "noise up to the end of the file": rng.randbytes(SMALL),
    }[kind]


TORN = "noise", "one bit", "an old frame", "half a frame", "the magic", "a bad body", "another log's frame"
TORN += "a hole and a frame", "noise up to the end of the file"


@pytest.mark.parametrize("fsync", FSYNCS)
@pytest.mark.parametrize("kind", TORN)
def test_torn_tails(tmp_path, writers, rng, kind, fsync):
    writer = writers(tmp_path / "log", fsync=fsync)
    fill(writer, rng, segments=2)
    kept = list(writer.sent)
    path = copy(writer.path, tmp_path / "copy")
    log = reader.Log(path)
    room = len(log.last.data) - log.end_position
    bytes_ = garbage(kind, log.last, log.end, rng)[:room]
    with log.last.path.open("r+b") as file:
        file.seek(log.end_position)
        file.write(bytes_)

    records, unsound = read(path)
    stepped_over = kind == "a hole and a frame" and fsync == "never"  # nothing was promised: all that is there is kept
    if stepped_over:
        kept.append(reader.Record(log.end + 1, NOW, None, b"value", []))
        assert [(u.kind, u.start, u.stop) for u in unsound] == [("frame", log.end, log.end + 1)]
    else:
        assert unsound == [reader.Unsound("torn", log.last.path.name, log.end_position, log.end, -1)]
    assert records == kept

    with Log(path, fsync=fsync, segment_bytes=SMALL, segment_bytes_min=SMALL, recover="skip") as recovered:
        assert by_engine(recovered) == kept
        assert recovered.epoch == 2
        recovered.append(b"x")
        kept.append(by_engine(recovered)[-1])
    records, unsound = read(path)
    assert records == kept
    assert [u.kind for u in unsound] == ["frame"] * stepped_over  # zeroed


# ---- damage: both judge the same bytes -----------------------------------------------------------


def flip(path, position, bit):
    with open(path, "r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def sound_headers(path):
    segment = reader.Segment(path)
    return list(segment.sound_headers()) if segment.valid else []


def agree(path, where, rng=random):
    """Reader and engine say the same about `path`; what the reader says."""
    first = reader.Log(path)
    records = first.records()
    with Log(path, segment_bytes=SMALL, segment_bytes_min=SMALL, recover="skip") as log:
        assert by_engine(log) == records, where
        assert log.first_offset == first.first_offset or not records, where
        for record in rng.sample(records, min(10, len(records))):  # by way of the index
            assert log.record(record.offset).value == record.value
        for u in first.unsound:
            if u.kind == "frame":
                assert not any(u.start <= r.offset < u.stop for r in records)
        told = {(loss.start, loss.stop) for loss in (*log.verify(), *log.losses)}
        missed = {(u.start, u.stop) for u in first.unsound if u.kind in ("frame", "missing") and u.stop > u.start}
        for edge in {offset for start, stop in missed for offset in (start, stop - 1)}:
            assert any(start <= edge and (edge < stop or stop == -1) for start, stop in told), (where, missed, told)
    assert reader.Log(path).records() == records, where
    return records, first.unsound


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A log of several segments, one of them begun by a recovery; open, then cut. Made once for each fsync."""
    made = {}
    for fsync in ("interval", "never"):
        path, rng, kept = tmp_path_factory.mktemp(fsync) / "log", random.Random(3), []
        for i in range(2):
            writer = Writer(path, fsync=fsync)
            fill(writer, rng, segments=3 + 3 * i)
            kept += writer.sent
            writer.send_many([b"last %d" % i] * 10)
            kept += writer.sent[-10:]
            path = copy(path, tmp_path_factory.mktemp(fsync) / "log")
            writer.log.close()
        assert read(path) == (kept, [])
        made[fsync] = path, kept
    return made


@pytest.mark.parametrize("fsync", ["interval", "never"])
def test_one_bit_anywhere(tmp_path, sealed, rng, fsync):
    path, kept = sealed[fsync]
    for n in range(TRIALS):
        other = copy(path, tmp_path / str(n))
        segment = rng.choice(reader.Log(other).segments)
        frames = [(p, p + f.frame_length) for p, f in segment.sound_headers()]
        a, b = rng.choice(frames)
        position = rng.choice(
            [rng.randrange(a, a + 64), rng.randrange(a, b), rng.randrange(4096), rng.randrange(SMALL)]
        )
        flip(segment.path, position, rng.randrange(8))
        records, unsound = agree(other, (segment.path.name, position), rng)
        if not unsound:  # padding, or bytes that mean nothing
            assert records == kept, (segment.path.name, position)
        shutil.rmtree(other)


@pytest.mark.parametrize("fsync", ["interval", "never"])
def test_stretches_of_damage(tmp_path, sealed, rng, fsync):
    """Zeroed pages, swapped frames, frames written twice, cut files, lost files, files under another's name."""
    path, _ = sealed[fsync]
    for n in range(TRIALS):
        other = copy(path, tmp_path / str(n))
        files = [segment.path for segment in reader.Log(other).segments]
        done = []
        for _ in range(rng.randrange(1, 4)):
            victim = rng.choice(files)
            what = rng.choice(["zero", "zero", "noise", "move", "cut", "lose", "misplace", "headers", "marks"])
            done.append((what, victim.name))
            if not victim.exists():
                continue
            data = bytearray(victim.read_bytes())
            a = rng.randrange(4096, SMALL, 512 if what != "move" else 8)
            size = rng.choice([8, 512, 4096, 20_000])
            if what == "zero":
                data[a : a + size] = bytes(len(data[a : a + size]))
            elif what == "noise":
                data[a : a + size] = rng.randbytes(len(data[a : a + size]))
            elif what == "move" and (frames := sound_headers(victim)):
                p, frame = rng.choice(frames)
                b = min(a, max(4096, len(data) - frame.frame_length))
                data[b : b + frame.frame_length] = data[p : p + frame.frame_length]
            elif what == "cut":
                del data[rng.choice([a, a, 4096, 100, 0]) :]
            elif what == "headers":
                for at in rng.choice([[0], [2048], [0, 2048]]):
                    data[at + 16 : at + 17] = b"\xff"
            elif what == "marks":
                for at in rng.choice([[512], [1024], [512, 1024]]):
                    data[at + 16 : at + 17] = b"\xfe"
            victim.write_bytes(data)
            if what == "lose":
                victim.unlink()
            elif what == "misplace":
                rng.choice(files).write_bytes(data)
        agree(other, done, rng)
        shutil.rmtree(other)


def test_nothing_behind_the_end_is_read(tmp_path, writers):
    """Not promised: a late frame, moved into the body of an early one, ends the log there. What lay between is no part of
    it, though it is sound, and though a walk over the bad body would get to it: recovery zeroes it."""
    writer = writers(tmp_path / "log", fsync="never")
    for value in b"one", b"x" * 1000, b"two", b"three", b"four":
        writer.send(value)
    path = copy(writer.path, tmp_path / "copy")
    (file,) = path.glob("*.log")
    data = bytearray(file.read_bytes())
    _, (p, _), _, (q, three), _ = reader.Segment(file).sound_headers()
    data[p + 512 : p + 512 + three.frame_length] = data[q : q + three.frame_length]
    file.write_bytes(data)
    records, unsound = agree(path, "moved")
    assert [r.value for r in records] == [b"one", b"three"]
    assert [(u.kind, u.start) for u in unsound] == [("torn", 4), ("frame", 1)]


def rewrite_header(path, **fields):
    """Both copies, with a right hash."""
    data = bytearray(path.read_bytes())
    header = reader.HEADER.at(data)._replace(**fields)
    raw = reader.HEADER.struct.pack(*header)[:88]
    for at in reader.HEADER_COPIES:
        data[at : at + 96] = raw + struct.pack("<Q", reader.hash64(raw))
    path.write_bytes(data)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_frame_across_the_end_of_its_segment(tmp_path, writers, damaged):
    """Its records below the end are there; with a bad body only offsets below the end are lost."""
    writer = writers(tmp_path / "log")
    while writer.log.statistics()["segments"] < 2:
        writer.send_many([b"x" * 500] * 10)
    path = copy(writer.path, tmp_path / "copy")
    first, second = reader.Log(path).segments
    end = second.base - 5
    rewrite_header(second.path, previous_end=end)
    (p, last) = list(first.sound_headers())[-1]
    if damaged:
        flip(first.path, p + 1000, 0)
    records, unsound = agree(path, "across")
    assert [r.offset for r in records if r.offset < second.base] == list(range(last.base_offset if damaged else end))
    assert [u for u in unsound if u.kind == "frame"] == [
        reader.Unsound("frame", FIRST, p, last.base_offset, end)
    ] * damaged


@pytest.mark.parametrize("frames", [0, 3])
def test_bytes_behind_the_capacity_do_not_count(tmp_path, writers, frames):
    writer = writers(tmp_path / "log")
    for _ in range(10):
        writer.send(b"x" * 500)
    path = copy(writer.path, tmp_path / "copy")
    segment = reader.Log(path).last
    frame_length = next(segment.sound_headers())[1].frame_length
    rewrite_header(segment.path, capacity=reader.FIRST_FRAME + frames * frame_length)
    assert agree(path, "capacity")[0] == writer.sent[:frames]


def test_a_lost_segment_that_a_recovery_began(tmp_path, sealed):
    """The one before it says by itself where it ended; the offsets that were skipped are lost with the one after."""
    path = copy(sealed["interval"][0], tmp_path / "copy")
    segments = reader.Log(path).segments
    i = next(i for i, s in enumerate(segments) if s.header.previous_end < s.base)
    for at in reader.HEADER_COPIES:
        flip(segments[i].path, at + 20, 0)
    _, unsound = agree(path, "lost")
    assert unsound == [reader.Unsound("segment", segments[i].path.name, 0, segments[i].base, segments[i + 1].base)]


@pytest.mark.parametrize(
    "name", ["09223372036854775807.log", "10000000000000000000.log", "0.log", "٠" * 20 + ".log", FIRST + ".tmp"]
)
def test_other_files_are_ignored(tmp_path, writers, name):
    writer = writers(tmp_path / "log")
    writer.send(b"x")
    path = copy(writer.path, tmp_path / "copy")
    (path / name).write_bytes(b"junk")
    assert agree(path, name) == (writer.sent, [])


# ---- frames that this version's writer never makes, and a reader must know -----------------------


def forged(salt, base_offset, body, count=1, flags=reader.FIXED_STRIDE, codec=0, span=None, **fields):
    """A frame with right hashes."""
    header = {
        "magic": reader.FRAME_MAGIC,
        "body_length": len(body),
        "base_offset": base_offset,
        "count": count,
        "flags": flags,
    }
    header |= {
        "codec": codec,
        "reserved": 0,
        "base_timestamp": NOW,
        "max_timestamp": NOW,
        "epoch": 1,
        "span": span or count,
    }
    header |= {"body_hash": reader.hash64(body), "header_hash": 0} | fields
    raw = reader.FRAME.struct.pack(*(header[name] for name in reader.Frame._fields))
    return raw[:56] + struct.pack("<Q", reader.hash64(raw[:56], salt)) + body + b"\0" * (-len(body) % 8)


def i32(*numbers):
    return struct.pack(f"<{len(numbers)}i", *numbers) + b"\0" * (4 * len(numbers) % 8)


def bits(*ones):
    return struct.pack("<Q", sum(1 << i for i in ones))


def packed(*pairs):
    return b"".join(struct.pack("<HI", len(n), 0xFFFFFFFF if v is None else len(v)) + n + (v or b"") for n, v in pairs)


D, K, KN, H, F, N = 2, 4, 8, 16, 32, 64
GOOD = packed((b"a", b"1"))
FORGED = {
    "deltas": ({"count": 3, "span": 9, "flags": D | F}, i32(0, 4, 8) + b"aabbcc"),
    "zstd": ({"count": 1, "codec": 1}, struct.pack("<q", 7) + bytes.fromhex("28b52ffd2007390000") + b"seven 7"),
    "lz4": ({"count": 1, "codec": 2}, struct.pack("<q", 7) + b"\x70seven 7"),
    "deltas that begin late": ({"count": 2, "span": 9, "flags": D | F}, i32(3, 8) + b"aabb"),
    "stride and nulls": ({"count": 3, "flags": F | N}, bits(0, 2) + b"aabbcc"),
    "nulls with bytes": ({"count": 3, "flags": N}, i32(0, 2, 4, 6) + bits(0) + b"aabbcc"),
    "no null after all": ({"count": 3, "flags": F | N}, bits(0, 1, 2) + b"aabbcc"),
    "bits beyond the records": ({"count": 3, "flags": F | N}, b"\xff" * 8 + b"aabbcc"),
    "every record has a key": ({"count": 2, "flags": K | F | KN}, i32(0, 1, 2) + bits(0, 1) + b"kl".ljust(8) + b"aabb"),
    "null key with bytes": ({"count": 2, "flags": K | F | KN}, i32(0, 1, 2) + bits(1) + b"kl".ljust(8) + b"aabb"),
    "keys without all of their padding": ({"count": 1, "flags": K | F}, i32(0, 3) + b"key"),
    "headers without any padding": ({"count": 1, "flags": H | F}, i32(0, len(GOOD)) + GOOD),
    "a header twice": ({"count": 1, "flags": H | F}, i32(0, 2 * len(GOOD)) + GOOD * 2),
    "span of 2^31": ({"count": 1, "span": 2**31, "flags": D | F}, i32(2**31 - 1) + b"a"),
    "span of 2^32 - 1": ({"count": 1, "span": 2**32 - 1, "flags": D | F}, i32(2**31 - 1) + b"a"),
    "deltas short of the span": ({"count": 2, "span": 9, "flags": D | F}, i32(0, 7) + b"aabb"),
    "no columns": ({"count": 1}, b""),
    "header cut short": ({"count": 1, "flags": H | F}, i32(0, 7) + GOOD),
    "header too long": ({"count": 1, "flags": H | F}, i32(0, 9) + (GOOD + b"?").ljust(16)),
    "name is not UTF-8": ({"count": 1, "flags": H | F}, i32(0, 7) + packed((b"\xff", b""))),
    "lz4 with more behind it": ({"count": 1, "codec": 2}, struct.pack("<q", 7) + b"\x70seven 7??"),
    "delta twice": ({"count": 3, "span": 9, "flags": D | F}, i32(0, 0, 8) + b"aabbcc"),
    "deltas below": ({"count": 2, "span": 9, "flags": D | F}, i32(-1, 8) + b"aabb"),
    "deltas not asked for": ({"count": 2, "span": 2, "flags": D | F}, i32(0, 1) + b"aabb"),
    "span without deltas": ({"count": 2, "span": 3}, b"aabb"),
    "no records": ({"count": 0, "span": 1}, b"aabb"),
    "nulls of keys without keys": ({"count": 1, "flags": KN | F}, bits(0) + b"aabb"),
    "no stride": ({"count": 3}, b"aabb"),
    "offsets that fall": ({"count": 3, "flags": 0}, i32(0, 4, 2, 6) + b"aabbcc"),
    "offsets that do not begin with 0": ({"count": 1, "flags": 0}, i32(1, 6) + b"aabbcc"),
    "offsets short of the blob": ({"count": 1, "flags": 0}, i32(0, 5) + b"aabbcc"),
    "offsets beyond the blob": ({"count": 1, "flags": 0}, i32(0, 7) + b"aabbcc"),
    "keys beyond the blob": ({"count": 1, "flags": K | F}, i32(0, 7) + b"aabbcc"),
    "headers beyond the blob": ({"count": 1, "flags": K | H | F}, i32(0, 1) + i32(0, 7) + b"k".ljust(8) + b"aabbcc"),
    "columns beyond the body": ({"count": 9, "flags": 0}, i32(0, 1, 2)),
    "a codec without room": ({"count": 1, "codec": 1}, b"1234567"),
    "raw size too big": ({"count": 1, "codec": 1}, struct.pack("<q", 2**30 + 1) + b"1234567"),
    "raw size negative": ({"count": 1, "codec": 2}, struct.pack("<q", -1) + b"1234567"),
    "compressed nonsense": ({"count": 1, "codec": 1}, struct.pack("<q", 100) + b"1234567"),
    "lz4 nonsense": ({"count": 1, "codec": 2}, struct.pack("<q", 100) + b"\xff234567"),
    "another base offset": ({"base_offset": 99}, b"aabb"),
    "a wrong body hash": ({"body_hash": 1}, b"aabb"),
}


FIRST_DELTA = {"deltas that begin late": 3, "span of 2^31": 2**31 - 1, "span of 2^32 - 1": 2**31 - 1}


def forge(writer, name, to, behind=True):
    """A copy of a log with a frame more, and one behind it."""
    log = reader.Log(writer.path)
    fields, body = FORGED[name] if isinstance(name, str) else name
    frame = forged(log.last.salt, **({"base_offset": log.end, "body": body} | fields))
    if behind:
        frame += forged(log.last.salt, log.end + fields.get("span", max(1, fields.get("count", 1))), b"behind")
    path = copy(writer.path, to)
    with (path / log.last.path.name).open("r+b") as file:
        file.seek(log.end_position)
        file.write(frame)
    return path


@pytest.mark.parametrize("fsync", ["interval", "never"])
@pytest.mark.parametrize("name", FORGED)
def test_forged_frames(tmp_path, writers, name, fsync):
    writer = writers(tmp_path / "log", fsync=fsync)
    writer.send_many([b"honest"] * 3)
    path = forge(writer, name, tmp_path / "copy")
    records = reader.Log(path).records()
    with Log(path, fsync=fsync, segment_bytes=SMALL, segment_bytes_min=SMALL, recover="skip") as log:
        seen = []
        for batch in log.batches():
            for r in batch:
                try:
                    headers = [*r.headers.items()]
                except Exception:  # malformed: these headers and nothing else are lost
                    headers = None
                seen.append(reader.Record(r.offset, r.timestamp, r.key, r.value, headers))
    ours = [r._replace(headers=r.headers and list(dict(r.headers).items())) for r in records]
    assert seen == ours
    sound = list(FORGED).index(name) <= list(FORGED).index("name is not UTF-8")
    assert any(r.offset == 3 + FIRST_DELTA.get(name, 0) for r in seen) == sound
    assert reader.Log(path).records() == records


@pytest.mark.parametrize("fields", [{"flags": 256 | F}, {"codec": 3}], ids=str)
@pytest.mark.parametrize("fsync", ["interval", "never"])
def test_unknown_frames_are_refused(tmp_path, writers, fields, fsync):
    writer = writers(tmp_path / "log", fsync=fsync)
    writer.send(b"x")
    path = forge(writer, (fields, b"aabb"), tmp_path / "copy")
    before = {p.name: p.read_bytes() for p in path.glob("*.log")}
    with pytest.raises(reader.Refused):
        reader.Log(path)
    with pytest.raises(UnsupportedFormat):
        Log(path, fsync=fsync)
    assert before == {p.name: p.read_bytes() for p in path.glob("*.log")}


@pytest.mark.parametrize(("at", "value"), [(8, 2), (60, 2)], ids=["version", "flags"])
def test_newer_segments_are_refused(tmp_path, writers, at, value):
    writer = writers(tmp_path / "log")
    writer.send(b"x")
    path = copy(writer.path, tmp_path / "copy")
    (file,) = path.glob("*.log")
    data = bytearray(file.read_bytes())
    for position in reader.HEADER_COPIES:
        struct.pack_into("<I", data, position + at, value)
        struct.pack_into("<Q", data, position + 88, reader.hash64(bytes(data[position : position + 88])))
    file.write_bytes(data)
    with pytest.raises(reader.Refused):
        reader.Log(path)
    with pytest.raises(UnsupportedFormat):
        Log(path)
    assert file.read_bytes() == data


# ---- the index -----------------------------------------------------------------------------------


def check_index(log, i, segment, whole=True):
    index, entries = reader.read_index(segment, log.end_of(i))
    frames = list(segment.frames(log.end_of(i), []))
    assert all(reader.entry_is_believed(segment, entry) for entry in entries)
    highest = dict(
        zip(
            (p for p, _, _ in frames),
            itertools.accumulate((f.max_timestamp for _, f, _ in frames), max, initial=-(2**63)),
        )
    )
    assert [entry.max_timestamp for entry in entries] == [highest[entry.position] for entry in entries]
    if whole:  # one for the first, and one whenever 4096 bytes went by
        wanted, last = [], 0
        for p, frame, _ in frames:
            if p >= last + 4096:
                wanted.append((frame.base_offset - segment.base, p))
                last = p
        assert [entry[:2] for entry in entries] == wanted
    return index, frames


@pytest.mark.parametrize("write", WRITES)
def test_index(tmp_path, writers, rng, write):
    writer = writers(tmp_path / "log", write=write)
    fill(writer, rng, segments=5)
    log = reader.Log(writer.path)
    for i, segment in enumerate(log.segments):
        index, frames = check_index(log, i, segment)
        assert bool(index.flags & reader.SEALED) == (segment is not log.last)
        if index.flags & reader.SEALED:
            assert index.max_timestamp == max(frame.max_timestamp for _, frame, _ in frames)
            assert index.end_offset == log.end_of(i)
    assert len(log.segments) > 4 and all(segment.path.with_suffix(".idx").exists() for segment in log.segments)


def test_index_after_a_recovery(tmp_path, writers, rng):
    writer = writers(tmp_path / "log")
    fill(writer, rng, segments=3)
    path = copy(writer.path, tmp_path / "copy")
    for file in path.glob("*.idx"):
        file.unlink()
    with Log(path) as log:
        assert [log.record(r.offset).value for r in writer.sent] == [r.value for r in writer.sent]
    log, found = reader.Log(path), 0
    for i, segment in enumerate(log.segments):
        if reader.read_index(segment, log.end_of(i)):
            check_index(log, i, segment)
            found += 1
    assert found >= 1


# ---- the checks themselves -----------------------------------------------------------------------


def test_a_flipped_bit_is_seen(tmp_path, writers, rng):
    """No byte that a hash covers may change unseen."""
    writer = writers(tmp_path / "log")
    fill(writer, rng, segments=2)
    writer.log.close()
    log = reader.Log(writer.path)
    first, (p, frame) = log.segments[0], next(log.segments[0].sound_headers())
    covered = [
        *range(96),
        *range(512, 576),
        *range(1024, 1088),
        *range(2048, 2144),
        *range(p, p + 64 + frame.body_length),
    ]
    for position in rng.sample(covered, 60):
        flip(first.path, position, bit := rng.randrange(8))
        records, unsound = read(writer.path)
        assert unsound, position
        assert (records == writer.sent) == (position < 4096), position
        flip(first.path, position, bit)
    assert read(writer.path) == (writer.sent, [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FRAME_MAGIC", 0x02424C53),
        ("SEGMENT_MAGIC", 0x32474553474F4C53),
        ("FIRST_FRAME", 4104),
        ("HAS_KEYS", 8),
        ("HAS_NULLS", 2),
        ("FIXED_STRIDE", 128),
        ("NULL", 0),
        ("align8", lambda n: n),
        ("hash64", lambda data, seed=0: 0),
    ],
)
def test_a_reader_with_a_wrong_constant_fails(tmp_path, writers, rng, monkeypatch, name, value):
    writer = writers(tmp_path / "log")
    fill(writer, rng, segments=2)
    monkeypatch.setattr(reader, name, value)
    try:
        outcome = read(writer.path)
    except Exception:
        return
    assert outcome != (writer.sent, [])


def test_os_has_the_files_as_the_page_says(tmp_path, writers):
    writer = writers(tmp_path / "log")
    writer.send(b"x")
    assert sorted(os.listdir(writer.path)) == sorted(["00000000000000000000.log", "00000000000000000000.idx", *SHARED])
