"""`seglog topic export` and `seglog sql`."""

import json

import pytest

pytest.importorskip("pyarrow")
duckdb = pytest.importorskip("duckdb")


@pytest.fixture
def flights(cli):
    lines = [json.dumps({"carrier": carrier, "delay": delay}) for carrier, delay in (("UA", 5), ("AA", None), ("UA", 7))]
    cli.ok("topic create flights -p 2")
    cli.ok("topic send flights", stdin="\n".join(lines).encode() + b"\n")
    return cli


def test_sql_counts_records_of_a_topic(flights):
    assert flights.ok("sql", "select count(*) from flights").rows == [["3"]]


def test_sql_has_columns_of_json_values(flights):
    query = "select carrier, count(*), avg(delay) from flights group by 1 order by 1"
    columns = "flights: carrier string, delay int64"
    assert flights.ok("sql", query, "--columns", columns).rows == [["AA", "1", ""], ["UA", "2", "6.0"]]
    (document,) = flights.ok("sql", query + " limit 1", "--columns", columns, "--json").json
    assert document["carrier"] == "AA"


def test_sql_joins_topics_and_takes_names_that_are_quoted(flights):
    flights.ok("topic create air-lines")
    flights.ok("topic send air-lines", stdin=b'{"carrier":"UA","name":"United"}\n')
    query = 'select name, sum(delay) from flights join "air-lines" using (carrier) group by 1'
    columns = ["--columns", "flights: carrier string, delay int64", "--columns", "air-lines: carrier string, name string"]
    assert flights.ok("sql", query, *columns).rows == [["United", "12"]]


def test_sql_shows_bytes_as_text(flights):
    assert flights.ok("sql", "select min(value) from flights").rows == [['{"carrier": "AA", "delay": null}']]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sql", "select nonsense"], "nonsense"),
        (["sql", "select * from nowhere"], "nowhere"),
        (["sql", "select 1 from flights", "--columns", "carrier string"], "whose"),
        (["sql", "select 1 from flights", "--columns", "flights: carrier"], "names and types"),
        (["sql", "select 1 from flights", "--columns", "flights: carrier number"], "number"),
        (["sql", "select 1 from flights", "--columns", "trains: carrier string"], "trains"),
        (["sql", "select count(delay) from flights", "--columns", "flights: delay string"], "which is no string"),
    ],
)
def test_what_cannot_be_asked_is_refused(flights, words, said):
    answer = flights(*words)
    assert answer.code == 2
    assert said in answer.err


def test_export_writes_a_parquet_file(flights, tmp_path):
    file = tmp_path / "flights.parquet"
    flights.ok("topic export", "flights", "--parquet", str(file), "--columns", "carrier string")
    assert duckdb.sql(f"select carrier from '{file}' order by 1").fetchall() == [("AA",), ("UA",), ("UA",)]
    flights.ok("topic export", "flights", "--parquet", str(file), "-p", "0")
    assert duckdb.sql(f"select count(*) from '{file}'").fetchall() in ([(0,)], [(3,)])


@pytest.mark.parametrize("module", ["pyarrow", "duckdb"])
def test_what_is_not_installed_is_named(flights, tmp_path, monkeypatch, module):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    words = ["sql", "select 1"] if module == "duckdb" else ["topic export", "flights", "--parquet", str(tmp_path / "x")]
    answer = flights(*words)
    assert answer.code == 2
    assert "pip install 'seglog[arrow]'" in answer.err
