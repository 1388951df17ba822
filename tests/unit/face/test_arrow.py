"""A topic as an Arrow table: read by every library, fixed at one moment, lent and not copied, good for as long as it is held."""

import gc
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seglog

pa = pytest.importorskip("pyarrow")
pl = pytest.importorskip("polars")
duckdb = pytest.importorskip("duckdb")


def table(flow):
    """Read by pyarrow, and every buffer, offset and null count of it looked at."""
    made = pa.table(flow)
    made.validate(full=True)
    return made


def rows(flow):
    return [(row.get("key"), row["value"], row["offset"], row["timestamp"]) for row in table(flow).to_pylist()]


def records(topic):
    return [(r.key, r.value, r.offset, r.time) for r in topic.read()]


@pytest.fixture
def topic(store, rng) -> seglog.Topic:
    """Frames of every kind."""
    topic = store.topic("things", segment_bytes=65_536)
    for frame in range(60):
        n = rng.randrange(1, 200)
        values = [rng.choice([None, b"", rng.randbytes(rng.randrange(60))]) for _ in range(n)]
        if frame % 3 == 0:
            values = [rng.randbytes(20)] * n
        keys = [rng.choice([None, b"", b"key", rng.randbytes(20)]) for _ in range(n)] if frame % 4 else None
        topic.send_many(values, keys, timestamps=range(n) if frame % 5 else None)
        topic.send(b"alone %d" % frame, key=None if frame % 2 else b"k")
    return topic


# ---- what it says -----------------------------------------------------------------------------------


def test_the_columns_are_those_of_the_records(topic):
    made = table(topic.arrow())
    assert made.schema == pa.schema([
        pa.field("offset", pa.int64(), False), pa.field("timestamp", pa.timestamp("us", "UTC"), False),
        pa.field("key", pa.binary()), pa.field("value", pa.binary_view()),
    ])  # fmt: skip
    assert rows(topic.arrow()) == records(topic)


def test_any_range_can_be_asked_for(topic):
    everything, n = records(topic), topic.next_offset()
    for start, stop in ((0, n), (1, n - 1), (n // 3, n // 2), (n - 1, n), (n, n), (0, 1), (7, 7)):
        assert rows(topic.arrow(start, stop)) == everything[start:stop]
    assert rows(topic.arrow("latest")) == []
    before, durable = topic.logs[0].durable_offset, rows(topic.arrow(isolation="durable"))
    assert durable == everything[: len(durable)]
    assert before <= len(durable) <= topic.logs[0].durable_offset  # upkeep syncs beside us
    with pytest.raises(seglog.OffsetOutOfRange):
        topic.arrow(n + 1)


def test_partitions_are_numbered_and_come_one_after_the_other(store):
    topic = store.topic("spread", partitions=3)
    for number in range(30):
        topic.send(b"%d" % number, partition=number % 3)
    made = table(topic.arrow())
    assert made.schema.field(0) == pa.field("partition", pa.int32(), False)
    assert made["partition"].to_pylist() == [0] * 10 + [1] * 10 + [2] * 10
    assert made["offset"].to_pylist() == list(range(10)) * 3
    alone = table(topic.arrow(5, partition=1))
    assert (set(alone["partition"].to_pylist()), alone["offset"].to_pylist()) == ({1}, list(range(5, 10)))


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_batches_are_expanded(store, rng, codec):
    topic = store.topic("squeezed", codec=codec)
    for _ in range(5):
        topic.send_many([rng.choice([None, b"", b"x" * rng.randrange(50)]) for _ in range(300)], [b"key"] * 300)
    topic.send(b"short")
    assert rows(topic.arrow()) == records(topic)


def test_an_empty_topic_is_an_empty_table(store):
    topic = store.topic("empty")
    assert table(topic.arrow()).num_rows == 0
    assert table(topic.arrow()).schema.names == ["offset", "timestamp", "key", "value"]
    assert pl.DataFrame(topic.arrow()).height == 0
    flow = topic.arrow()
    assert pa.table(flow).num_rows == 0
    assert duckdb.sql("select count(*) from flow").fetchall() == [(0,)]


def test_transactions_that_were_given_up_are_not_in_it(store):
    topic = store.topic("things")
    topic.send(b"before")
    with pytest.raises(RuntimeError), store.transaction() as tx:
        topic.send_many([b"never"] * 10, tx=tx)
        raise RuntimeError
    with store.transaction() as tx:
        topic.send_many([b"committed"] * 2, tx=tx)
        assert table(topic.arrow()).num_rows == 1
    assert table(topic.arrow())["value"].to_pylist() == [b"before", b"committed", b"committed"]


def test_values_are_lent_and_not_copied(store):
    """A million bytes are read and pyarrow has allocated next to nothing; and each value is found in the file's map."""
    topic = store.topic("large")
    topic.send_many([bytes([n % 256]) * 10_000 for n in range(100)])
    before = pa.total_allocated_bytes()
    made = table(topic.arrow())
    assert pa.total_allocated_bytes() - before < 10_000
    for chunk in made["value"].chunks:
        views, data = chunk.buffers()[1], chunk.buffers()[2]
        assert data.size > 10_000
        assert bytes(data)[int(np.frombuffer(views, "i4")[3]) :][:10_000] == chunk[0].as_py()


def test_the_fields_of_a_dtype_are_columns(store):
    dtype = np.dtype([
        ("i", "i1"), ("u", ">u4"), ("h", "f2"), ("f", ">f8"), ("ok", "?"), ("at", "M8[ms]"), ("day", "M8[D]"), ("pico", "M8[ps]"),
        ("for", "m8[us]"), ("s", "S3"), ("v", "V5"), ("c", "c8"), ("inner", [("x", "f4")]), ("lot", "i4", (2,)), ("key", "i8"),
    ])  # fmt: skip
    values = np.zeros(20, dtype)
    for name in ("i", "u", "h", "f", "key"):
        values[name] = np.arange(20)
    values["ok"] = np.arange(20) % 3 == 0
    values["at"] = np.arange(20).astype("M8[ms]")
    values["at"][7] = "NaT"
    values["day"] = "2026-11-24"
    values["pico"] = np.datetime64(5000, "ps")
    values["for"] = np.arange(20)
    values["s"], values["lot"] = b"abc", [1, 2]
    topic = store.topic("typed", dtype=dtype)
    topic.send_many(values[:15])
    for value in values[15:]:
        topic.send(value)
    made = table(topic.arrow())
    types = {field.name: str(field.type) for field in made.schema}
    assert types == {
        "offset": "int64", "timestamp": "timestamp[us, tz=UTC]", "i": "int8", "u": "uint32", "h": "halffloat", "f": "double",
        "ok": "bool", "at": "timestamp[ms]", "day": "timestamp[s]", "pico": "timestamp[ns]", "for": "duration[us]", "key": "int64",
        "s": "fixed_size_binary[3]", "v": "fixed_size_binary[5]", "c": "fixed_size_binary[8]", "inner": "fixed_size_binary[4]",
        "lot": "fixed_size_binary[8]",
    }  # fmt: skip
    for name in ("i", "u", "h", "f", "ok", "key"):
        assert made[name].to_pylist() == values[name].tolist(), name
    times = [datetime.fromtimestamp(n / 1000, UTC).replace(tzinfo=None) for n in range(20)]
    assert made["at"].to_pylist() == [*times[:7], None, *times[8:]]
    assert set(made["day"].to_pylist()) == {datetime(2026, 11, 24)}
    assert made["pico"].cast(pa.int64()).to_pylist() == [5] * 20
    assert set(made["s"].to_pylist()) == {b"abc"}
    assert made["lot"].to_pylist() == [value.tobytes() for value in values["lot"]]


def test_numbers_of_a_plain_dtype_are_lent(store):
    topic = store.topic("numbers", dtype="<f8", batch_bytes=1 << 20)
    topic.send_many(np.arange(20_000.0))
    before = pa.total_allocated_bytes()
    made = table(topic.arrow())
    assert made["value"].type == pa.float64()
    assert made["value"].to_numpy().tolist() == list(range(20_000))
    assert pa.total_allocated_bytes() - before < 1000


# ---- who reads it -----------------------------------------------------------------------------------


def test_polars_reads_it_eagerly_and_lazily(topic):
    eager = pl.DataFrame(topic.arrow())
    assert eager["value"].to_list() == [value for _, value, _, _ in records(topic)]
    counted = pl.LazyFrame(topic.arrow()).group_by("key").agg(pl.len()).collect()
    keys = [key for key, *_ in records(topic)]
    assert dict(counted.iter_rows()) == {key: keys.count(key) for key in set(keys)}


def test_duckdb_reads_it_by_its_name_groups_it_and_joins_it_with_itself(topic):
    things, wanted = topic.arrow(), records(topic)
    assert duckdb.sql('select "key", "value", "offset" from things').fetchall() == [row[:3] for row in wanted]
    grouped = dict(duckdb.sql("select octet_length(value), count(*) from things group by 1").fetchall())
    sizes = [None if value is None else len(value) for _, value, _, _ in wanted]
    assert grouped == {size: sizes.count(size) for size in set(sizes)}
    joined = duckdb.sql('select count(*) from things a join things b on a."offset" = b."offset" + 1').fetchall()
    assert joined == [(len(wanted) - 1,)]
    del things


def test_what_one_library_reads_can_be_sent_again(store, topic):
    copies = [topic.arrow(), table(topic.arrow()), pl.DataFrame(topic.arrow()), duckdb.arrow(topic.arrow())]
    for number, copy in enumerate(copies):
        other = store.topic(f"copy-{number}")
        other.send_many(copy)
        assert [(r.key, r.value, r.timestamp) for r in other.read()] == [(r.key, r.value, r.timestamp) for r in topic.read()]


def test_no_library_is_needed_and_none_is_imported(path):
    program = f"""
import sys, seglog
with seglog.open({str(path)!r}) as store:
    topic = store.topic("things")
    topic.send_many([b"a", b"b"])
    other = store.topic("copy")
    other.send_many(topic.arrow())
    assert [r.value for r in other.read()] == [b"a", b"b"]
assert not {{"pyarrow", "polars", "duckdb", "pandas"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# ---- one moment -------------------------------------------------------------------------------------


def test_every_stream_gives_the_same_records_whatever_is_sent_meanwhile(topic):
    flow, before = topic.arrow(), topic.next_offset()
    stop = threading.Event()

    def write():
        while not stop.is_set():
            topic.send_many([b"later"] * 50)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            assert duckdb.sql('select count(*), max("offset") from flow').fetchall() == [(before, before - 1)]
            assert duckdb.sql('select count(*) from flow a join flow b using ("offset")').fetchall() == [(before,)]
            assert pl.DataFrame(flow).height == before
            later = topic.arrow()
            n = later.__repr__().split("..")[1].split(":")[0].replace(",", "")
            assert pa.table(later).num_rows == int(n) >= before
    finally:
        stop.set()
        writer.join()
    assert topic.next_offset() > before


def test_asking_again_costs_little_and_reads_nothing(topic):
    flow = topic.arrow()
    for _ in range(100):
        flow.__arrow_c_stream__()
        topic.arrow()
    assert sys.getrefcount(flow) == 2


# ---- lifetime ---------------------------------------------------------------------------------------


@pytest.fixture
def keyed(store):
    topic = store.topic("keyed", compact=True, segment_bytes=65_536, tombstone_grace=0.001)
    for first in range(0, 20_000, 500):
        topic.send_many([b"value number %d" % n for n in range(first, first + 500)], keys=[b"%d" % (n % 7) for n in range(500)])
    return topic


def trimmed(store, topic):
    topic.trim(before=19_990)


def compacted(store, topic):
    assert topic.compact().records_removed > 10_000


def deleted(store, topic):
    store.delete_topic("keyed")


def closed(store, topic):
    store.close()


def everything(store, topic):
    compacted(store, topic)
    trimmed(store, topic)
    deleted(store, topic)
    closed(store, topic)


@pytest.mark.parametrize("happens", [trimmed, compacted, deleted, closed, everything])
def test_tables_streams_and_what_was_read_outlive_what_happens_to_the_files(store, keyed, happens):
    flow, wanted = keyed.arrow(100), records(keyed)[100:]
    begun = pa.RecordBatchReader.from_stream(flow)
    first = begun.read_next_batch()
    whole = pa.table(flow)
    happens(store, keyed)
    gc.collect()
    assert rows(flow) == wanted
    assert rows(whole) == wanted
    rest = begun.read_all()
    assert first.num_rows + rest.num_rows == len(wanted)
    del flow, begun
    gc.collect()
    assert rows(whole) == wanted
    assert rows(pa.Table.from_batches([first, *rest.to_batches()])) == wanted


def test_a_column_outlives_its_batch_and_its_table(topic):
    wanted = [value for _, value, _, _ in records(topic)]
    flow = topic.arrow()
    column = pa.table(flow)["value"]
    series = pl.DataFrame(flow)["value"]
    piece = pa.RecordBatchReader.from_stream(flow).read_next_batch().column(3).slice(3, 5)
    del flow
    gc.collect()
    assert column.to_pylist() == wanted == series.to_list()
    assert piece.to_pylist() == wanted[3:8]


def maps(path):
    return Path("/proc/self/maps").read_text().count(str(path))


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="looks there")
def test_what_was_lent_is_let_go_with_its_borrower_on_whatever_thread(path):
    with seglog.open(path) as store:
        topic = store.topic("things", segment_bytes=65_536)
        for _ in range(40):
            topic.send_many([b"x" * 100] * 100)
        flow = topic.arrow()
    del topic, store
    gc.collect()
    assert maps(path) > 5
    made = [pa.table(flow)]
    capsule, half = flow.__arrow_c_stream__(), pa.RecordBatchReader.from_stream(flow)
    half.read_next_batch()
    assert sys.getrefcount(flow) == 4
    del capsule, half
    assert sys.getrefcount(flow) == 2
    del flow
    gc.collect()
    assert maps(path) > 5
    thread = threading.Thread(target=made.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert maps(path) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
def test_a_forked_child_reads_the_same_table(path):
    program = f"""
import os, pyarrow as pa, seglog
pa.set_cpu_count(1)
store = seglog.open({str(path)!r})
topic = store.topic("things")
topic.send_many([b"value number %d" % n for n in range(5000)], keys=[b"k"] * 5000)
flow = topic.arrow()
reader = pa.RecordBatchReader.from_stream(flow)
pid = os.fork()
if pid == 0:
    topic.send(b"from the child")
    ok = pa.table(flow).num_rows == reader.read_all().num_rows == 5000 and pa.table(topic.arrow()).num_rows == 5001
    os._exit(0 if ok else 7)
assert os.waitpid(pid, 0)[1] == 0
store.close()
assert pa.table(flow)["value"][4999].as_py() == b"value number 4999"
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)


# ---- damage -----------------------------------------------------------------------------------------


@pytest.fixture
def damaged(path):
    """400 records in frames of ten; the bytes of one frame in the middle are not what they were. Its path too."""
    with seglog.open(path, upkeep=False) as store:
        topic = store.topic("things")
        for frame in range(40):
            topic.send_many([b"value number %d" % (frame * 10 + n) for n in range(10)])
    file = path / "topics" / "things" / "0" / ("0" * 20 + ".log")
    with file.open("r+b") as raw:
        content = raw.read()
        raw.seek(content.index(b"value number 205"))
        raw.write(b"VALUE")
    return path


def test_a_damaged_frame_is_an_error_of_the_reader_in_our_words_and_what_is_before_it_is_given(damaged):
    with seglog.open(damaged) as store:
        flow = store.topic("things").arrow()
        with pytest.raises(OSError, match="CorruptBatch: the batch at position .* goes on from 210"):
            pa.table(flow)
        with pytest.raises(Exception, match="CorruptBatch"):
            pl.DataFrame(flow)
        with pytest.raises(duckdb.Error, match="CorruptBatch"):
            duckdb.sql("select count(*), min(value) from flow").fetchall()
        reader = pa.RecordBatchReader.from_stream(flow)
        assert reader.read_next_batch().num_rows == 200
        for _ in range(3):
            with pytest.raises(OSError, match="CorruptBatch"):
                reader.read_next_batch()
        with pytest.raises(OSError, match="CorruptBatch"):
            store.topic("copy").send_many(flow)
        assert store.topic("copy").next_offset() == 200
        assert table(store.topic("things").arrow(210)).num_rows == 190


def test_damage_is_told_in_the_same_words_when_the_files_are_gone(damaged):
    with seglog.open(damaged) as store:
        flow = store.topic("things").arrow()
        store.delete_topic("things")
    reader = pa.RecordBatchReader.from_stream(flow)
    assert reader.read_next_batch().num_rows == 200
    with pytest.raises(OSError, match="CorruptBatch.*goes on from 210"):
        reader.read_next_batch()


def test_with_skip_it_goes_on_behind_the_damage(damaged):
    with seglog.open(damaged, recover="skip") as store:
        offsets = table(store.topic("things").arrow())["offset"].to_pylist()
        assert offsets == [*range(200), *range(210, 400)]


def test_a_segment_that_cannot_be_read_is_told(path):
    with seglog.open(path, upkeep=False) as store:
        topic = store.topic("things", segment_bytes=65_536)
        while len(os.listdir(path / "topics" / "things" / "0")) < 9:
            topic.send_many([b"x" * 100] * 100)
        n = topic.next_offset()
    files = sorted((path / "topics" / "things" / "0").glob("*.log"))
    with files[1].open("r+b") as raw:
        raw.write(bytes(4096))
    lost = range(int(files[1].stem), int(files[2].stem))
    with seglog.open(path) as store:
        with pytest.raises(OSError, match="CorruptSegment"):
            pa.table(store.topic("things").arrow())
        assert table(store.topic("things").arrow(lost.stop)).num_rows == n - lost.stop
    with seglog.open(path, recover="skip") as store:
        assert table(store.topic("things").arrow()).num_rows == n - len(lost)


def test_a_closed_topic_gives_no_table(path):
    with seglog.open(path) as store:
        topic = store.topic("things")
    with pytest.raises(seglog.ClosedError):
        topic.arrow()


# ---- round trips ------------------------------------------------------------------------------------


maybe = st.one_of(st.none(), st.binary(max_size=20))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frames=st.lists(st.lists(st.tuples(maybe, maybe), max_size=30), max_size=6),
    codec=st.sampled_from(["none", "zstd"]),
    first=st.integers(0, 20),
)
def test_arrow_in_is_a_list_out_and_arrow_out(store, frames, codec, first):
    topic, again = store.topic(f"one-{codec}", codec=codec), store.topic(f"two-{codec}", codec=codec)
    before, copied = topic.next_offset(), again.next_offset()
    wanted = [pair for frame in frames for pair in frame]
    for frame in frames:
        keys, values = [key for key, _ in frame], [value for _, value in frame]
        topic.send_many(pa.table({"key": pa.array(keys, pa.binary()), "value": pa.array(values, pa.binary())}))
    start = before + min(first, len(wanted))
    assert [row[:2] for row in rows(topic.arrow(start))] == wanted[start - before :]
    assert [(r.key, r.value) for r in topic.read(before)] == wanted
    again.send_many(topic.arrow(before))
    assert [(r.key, r.value) for r in again.read(copied)] == wanted
    assert pl.DataFrame(topic.arrow(before))["value"].to_list() == [value for _, value in wanted]
