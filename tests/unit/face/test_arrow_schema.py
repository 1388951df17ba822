"""Columns out of values: JSON and msgpack become what the schema says, or an error that names the record; and Parquet files."""

import json
import math
import os
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import seglog

pa = pytest.importorskip("pyarrow")
pl = pytest.importorskip("polars")
duckdb = pytest.importorskip("duckdb")
msgpack = pytest.importorskip("msgpack")

ROWS = [
    {
        "i": 1, "f": 1.5, "ok": True, "s": "one", "b": "bytes", "at": "2026-01-01T00:00:00Z", "j": [1, {"a": None}],
        "more": [1, 2, {"i": 9}],
    },
    {"i": -(2**63), "f": 7, "ok": False, "s": "", "b": "", "at": 1_000_000, "j": "text"},
    {"i": 2**63 - 1, "f": -1e300, "s": "Grüße, \n\"quoted\" \\ \u2028 \U0001f600", "at": "2026-01-01T01:00:00+01:00", "j": 7},
    {"i": None, "f": None, "ok": None, "s": None, "b": None, "at": None, "j": None},
    {},
    {"other": {"i": 5, "s": "inner"}, "list": [[], {}, [[1.5e-3]], "]"]},
    None,
]  # fmt: skip
SCHEMA = {"i": "int64", "f": "float64", "ok": "bool", "s": "string", "b": "binary", "at": "timestamp", "j": "json"}
NEW_YEAR, SECOND = datetime(2026, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
COLUMNS = {
    "i": [1, -(2**63), 2**63 - 1, None, None, None, None],
    "f": [1.5, 7.0, -1e300, None, None, None, None],
    "ok": [True, False, None, None, None, None, None],
    "s": ["one", "", ROWS[2]["s"], None, None, None, None],
    "b": [b"bytes", b"", None, None, None, None, None],
    "at": [NEW_YEAR, SECOND, NEW_YEAR, None, None, None, None],
    "j": ['[1, {"a": null}]', '"text"', "7", None, None, None, None],
}


def dense(row):
    return json.dumps(row, separators=(",", ":"), ensure_ascii=False)


def airy(row):
    return " \n" + json.dumps(row, indent=3) + "\t\r\n"


def table(flow):
    made = pa.table(flow)
    made.validate(full=True)
    return made


@pytest.mark.parametrize("pack", [dense, airy, msgpack.packb], ids=["dense", "airy", "msgpack"])
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_values_become_the_columns_that_the_schema_says(store, pack, codec):
    topic = store.topic("things", codec=codec)
    packed = [None if row is None else pack(row) for row in ROWS]
    packed = [value.encode() if isinstance(value, str) else value for value in packed]
    topic.send_many(packed)
    for value in packed:
        topic.send(value, key=b"k")
    made = table(topic.arrow(schema=SCHEMA))
    assert made.schema.names == ["offset", "timestamp", "key", *SCHEMA]
    assert [str(made.schema.field(name).type) for name in SCHEMA] == [
        "int64", "double", "bool", "string", "binary", "timestamp[us, tz=UTC]", "string"]  # fmt: skip
    for name, column in COLUMNS.items():
        assert made[name].to_pylist() == column * 2, name
    assert made["offset"].to_pylist() == list(range(14))
    assert pl.DataFrame(topic.arrow(schema=SCHEMA))["s"].to_list() == COLUMNS["s"] * 2


def test_a_schema_may_be_python_types_or_arrows_own(store):
    topic = store.topic("things")
    topic.send_many([b'{"a":1,"b":2.5,"c":"x","d":true,"e":"2026-01-01"}'])
    python = {"a": int, "b": float, "c": str, "d": bool, "e": datetime}
    types = {"a": pa.int64(), "b": pa.float64(), "c": pa.string(), "d": pa.bool_(), "e": pa.timestamp("us", "UTC")}
    arrow = pa.schema(types)
    one, two = table(topic.arrow(schema=python)), table(topic.arrow(schema=arrow))
    assert one.equals(two)
    assert one.to_pylist()[0]["e"] == NEW_YEAR


def test_a_column_that_is_called_like_one_of_ours_takes_its_place(store):
    topic = store.topic("things", partitions=2)
    topic.send(b'{"timestamp":"mine","key":5}', key=b"k", partition=1)
    made = table(topic.arrow(schema={"timestamp": str, "key": int}))
    assert made.to_pylist() == [{"partition": 1, "offset": 0, "timestamp": "mine", "key": 5}]


@pytest.mark.parametrize(
    "schema", [{}, {"a": "int32"}, {"a": list}, {5: "int64"}, {"a": None}, pa.schema([("a", pa.int8())])], ids=str
)
def test_a_schema_of_other_types_is_refused(store, schema):
    with pytest.raises(seglog.ConfigError) as caught:
        store.topic("things").arrow(schema=schema)
    assert caught.value.setting == "schema"


def test_what_is_no_schema_is_a_type_error_and_a_dtype_needs_none(store):
    with pytest.raises(TypeError):
        store.topic("things").arrow(schema=7)
    with pytest.raises(seglog.ConfigError, match="dtype"):
        store.topic("typed", dtype="i8").arrow(schema={"a": "int64"})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b'{"i":"1"}', "has i = '1', which is no int64"),
        (b'{"i":1.0}', "has i = 1.0, which is no int64"),
        (b'{"i":true}', "has i = True, which is no int64"),
        (b'{"i":9223372036854775808}', "which is no int64"),
        (b'{"f":"1"}', "which is no float64"),
        (b'{"f":false}', "which is no float64"),
        (b'{"ok":1}', "which is no bool"),
        (b'{"s":1}', "which is no string"),
        (b'{"s":["a"]}', "which is no string"),
        (b'{"at":"noon"}', "which is no timestamp"),
        (b'{"at":1.5}', "which is no timestamp"),
        (b'{"at":"\xc3\xa4"}', "which is no timestamp"),
        (msgpack.packb({"s": b"bytes"}), "which is no string"),
        (msgpack.packb({"b": 1}), "which is no binary"),
        (b"", "neither a JSON object nor a msgpack map"),
        (b"   ", "neither"), (b"text", "neither"), (b"[1]", "neither"), (b"{", "neither"), (b'{"a":1}x', "neither"),
        (b'{"a":1,}', "neither"), (b'{"a" 1}', "neither"), (b'{"s":"\xff"}', "neither"), (b"\x81\xa1a", "neither"),
        (b"\xdf\xff\xff\xff\xff", "neither"),
    ],
)  # fmt: skip
def test_a_value_that_is_not_what_the_schema_says_is_an_error_that_names_it(store, value, words):
    topic = store.topic("things")
    topic.send_many([b'{"i":1}'] * 5)
    topic.send(value)
    with pytest.raises(OSError, match="offset 5 of partition 0") as caught:
        pa.table(topic.arrow(schema=SCHEMA))
    assert words in str(caught.value)
    assert table(topic.arrow(stop=5, schema=SCHEMA))["i"].to_pylist() == [1] * 5


# ---- beside the parser ------------------------------------------------------------------------------

names = st.sampled_from(["i", "f", "s", "ok", "j", "x", "", "\u00e4", 'quo"te', "ii"])
leaf = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
tree = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8)
WANTED = {"i": "int64", "f": "float64", "s": "string", "ok": "bool"}
SUIT = {
    "i": lambda v: type(v) is int and -(2**63) <= v < 2**63,
    "f": lambda v: type(v) in (int, float),
    "s": lambda v: type(v) is str,
    "ok": lambda v: type(v) is bool,
}


def expected(value):
    """What the parser makes of it; None when that is an error."""
    try:
        row = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if type(row) is not dict or any(row.get(name) is not None and not suits(row[name]) for name, suits in SUIT.items()):
        return None
    return {name: float(row[name]) if name == "f" and row.get(name) is not None else row.get(name) for name in WANTED}


def same(one, two):
    return one == two or (one is not None and two is not None and repr(one) == repr(two))  # NaN is NaN


def check(topic, value):
    wanted = expected(value)
    start = topic.send(value).offset
    if wanted is None:
        with pytest.raises(OSError, match=f"offset {start:,} of"):
            pa.table(topic.arrow(start, schema=WANTED))
    else:
        (row,) = table(topic.arrow(start, schema=WANTED)).select(list(WANTED)).to_pylist()
        surrogates = "".join(wanted["s"] or "").encode("utf-8", "replace").decode() if wanted["s"] is not None else None
        assert same(row, wanted | {"s": surrogates}), value


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.dictionaries(names, tree, max_size=6), ascii=st.booleans(), indent=st.sampled_from([None, 1]))
def test_json_is_read_as_the_parser_reads_it(store, row, ascii, indent):
    text = json.dumps(row, ensure_ascii=ascii, indent=indent, separators=(",", ":") if indent is None else None)
    check(store.topic("same"), text.encode("utf-8", "replace"))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    row=st.dictionaries(names, tree, min_size=1, max_size=4),
    at=st.integers(0, 200),
    new=st.binary(max_size=2) | st.sampled_from([b'"', b"\\", b"{", b"}", b",", b"]", b"0", b".", b"-", b"e", b"\\u00", b" "]),
    cut=st.integers(0, 3),
)
@example({"i": 1}, 6, b"0", 0)
@example({"i": 1}, 6, b"-", 0)
@example({"i": 1}, 6, b"+", 0)
@example({"f": 1}, 7, b".", 0)
@example({"f": 1}, 7, b"e", 0)
@example({"s": "a"}, 7, b"\\", 0)
@example({"s": "a"}, 7, b"\n", 0)
@example({"x": "a"}, 7, b"\\u00", 0)
def test_json_that_was_broken_is_an_error_where_the_parser_says_so(store, row, at, new, cut):
    whole = json.dumps(row).encode()
    at %= len(whole) + 1
    check(store.topic("broken"), whole[:at] + new + whole[at + cut :])


def test_nesting_without_end_is_an_error_and_no_crash(store):
    topic = store.topic("deep")
    opened, closed = b"[" * 100_000, b"]" * 100_000
    for value in (b'{"x":' + opened, b'{"x":' + opened + closed + b"}", b'{"x":' * 50_000 + b"1" + b"}" * 50_000):
        start = topic.send(value).offset
        try:
            assert pa.table(topic.arrow(start, schema={"i": "int64"}))["i"].to_pylist() == [None]
        except OSError as error:
            assert "neither" in str(error)
    start = topic.send(b'{"x":' + b"[" * 40 + b"]" * 40 + b',"i":5}').offset
    assert pa.table(topic.arrow(start, schema={"i": "int64"}))["i"].to_pylist() == [5]


def test_many_long_texts_fit_a_column(store):
    topic = store.topic("long")
    topic.send_many([json.dumps({"s": "x" * (n * 50)}).encode() for n in range(500)])
    assert [len(s) for s in table(topic.arrow(schema={"s": str}))["s"].to_pylist()] == [n * 50 for n in range(500)]


def test_numbers_without_bounds(store):
    topic = store.topic("numbers")
    topic.send_many([b'{"f":NaN}', b'{"f":-Infinity}', b'{"f":1e999}', b'{"f":0.1}', b'{"f":12345678901234567890}'])
    found = table(topic.arrow(schema={"f": float}))["f"].to_pylist()
    assert math.isnan(found[0])
    assert found[1:] == [-math.inf, math.inf, 0.1, 12345678901234567890.0]


# ---- Parquet ----------------------------------------------------------------------------------------


def test_a_parquet_file_has_what_the_table_has(store, tmp_path):
    import pyarrow.parquet as pq

    topic = store.topic("things", partitions=2)
    topic.send_many([json.dumps({"n": n}).encode() for n in range(1000)], keys=[b"%d" % (n % 9) for n in range(1000)])
    file = tmp_path / "things.parquet"
    assert topic.to_parquet(file) == 1000
    assert pq.read_table(file).equals(pa.table(topic.arrow()))
    assert topic.to_parquet(file, schema={"n": int}) == 1000
    assert sorted(pq.read_table(file)["n"].to_pylist()) == list(range(1000))
    assert topic.to_parquet(file, 0, 10, partition=1) == 10
    assert set(pq.read_table(file)["partition"].to_pylist()) == {1}
    assert os.listdir(tmp_path) == ["things.parquet"] or set(os.listdir(tmp_path)) == {"things.parquet", "data"}
    assert duckdb.sql(f"select count(*) from '{file}'").fetchall() == [(10,)]


def test_a_parquet_file_that_cannot_be_whole_is_not_there(store, tmp_path):
    topic = store.topic("things")
    topic.send_many([b'{"n":1}', b"nonsense"])
    file = tmp_path / "out" / "things.parquet"
    file.parent.mkdir()
    file.write_bytes(b"what was there before")
    with pytest.raises(OSError, match="offset 1"):
        topic.to_parquet(file, schema={"n": int})
    assert file.read_bytes() == b"what was there before"
    assert os.listdir(file.parent) == ["things.parquet"]


def test_without_pyarrow_it_says_what_to_install(store, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(seglog.ExtraMissing, match=r"seglog\[arrow\]") as caught:
        store.topic("things").to_parquet(tmp_path / "x.parquet")
    assert caught.value.extra == "arrow"
    assert isinstance(caught.value, ImportError)


def test_without_msgpack_it_says_what_to_install(store, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "msgpack", None)
    topic = store.topic("things")
    topic.send(msgpack.packb({"a": 1}))
    with pytest.raises(OSError, match=r"seglog\[arrow\]"):
        pa.table(topic.arrow(schema={"a": "int64"}))
