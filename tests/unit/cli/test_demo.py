"""`seglog demo`: the same on a small CSV of the test's own; and that it fails when a count is wrong."""

import csv
import hashlib
import os
import zipfile
from collections import Counter

import pytest

import seglog
from seglog.cli import demo, flights

COLUMNS = ["year", "month", "day", "carrier", "flight", "tailnum", "origin", "dest", "minute", "time_hour"]
CARRIERS = ["UA", "B6", "EV", "DL"]


@pytest.fixture
def flights_csv(tmp_path):
    """2,500 flights of four carriers, in an order other than time's, some without a tail number."""
    path = tmp_path / "flights.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for i in range(2_500):
            month, day, hour = 1 + i * 7 % 12, 1 + i % 28, i % 24
            writer.writerow(
                {
                    "year": 2013,
                    "month": month,
                    "day": day,
                    "carrier": CARRIERS[i * i % 7 % 4],
                    "flight": i,
                    "tailnum": "NA" if i % 50 == 0 else f"N{i % 90}",
                    "origin": "JFK",
                    "dest": "MIA",
                    "minute": i % 60,
                    "time_hour": f"2013-{month:02}-{day:02}T{hour:02}:00:00Z",
                }
            )
    return path


def test_it_counts_what_the_csv_has_and_says_so(cli, flights_csv):
    result = cli.ok("demo --rows 2000 --csv", flights_csv)
    with flights_csv.open() as file:
        expected = Counter(row["carrier"] for row, _ in zip(csv.DictReader(file), range(2_000), strict=False))
    for carrier, count in expected.items():
        assert [carrier, str(count), str(count), str(count), "yes"] in result.rows
    assert "All 2,000 flights" in result.text


def test_json_tells_the_same(cli, flights_csv):
    told = cli.ok("demo --json --csv", flights_csv).json
    assert told["events"] == told["records"] == sum(told["carriers"].values()) == 2_500
    assert sum(told["partitions"]) == 2_500
    assert all(told["partitions"])
    assert told["wrong"] == []
    assert told["disk_bytes_per_event"] >= told["log_bytes_per_event"] > told["value_bytes_per_event"] > 100


def test_a_zip_of_the_csv_is_read_too(cli, flights_csv, tmp_path):
    path = tmp_path / "flights.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.write(flights_csv, "flights.csv")
    assert cli.ok("demo --json --csv", path).json["events"] == 2_500


def test_the_store_stays_with_data_and_holds_the_events_in_order_of_time(cli, flights_csv):
    cli.ok("demo --csv", flights_csv, "--data", cli.data)
    records = cli.ok("topic read flights --json").jsons
    assert len(records) == 2_500
    assert [r["timestamp"] for r in records] == sorted(r["timestamp"] for r in records)
    assert '"carrier":' in records[0]["value"]
    keys = {}
    for record in records:
        keys.setdefault(record["key"], set()).add(record["partition"])
    assert all(len(places) == 1 for key, places in keys.items() if key is not None)


def test_a_second_demo_in_the_same_store_is_refused(cli, flights_csv):
    cli.ok("demo --csv", flights_csv, "--data", cli.data)
    result = cli("demo --csv", flights_csv, "--data", cli.data)
    assert result.code == 2
    assert "topic rm" in result.err
    assert len(cli.ok("topic read flights").out.splitlines()) == 2_500


def test_a_temporary_store_goes_and_with_keep_it_stays(cli, flights_csv, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    cli.ok("demo --csv", flights_csv)
    assert os.listdir(tmp_path / "tmp") == []
    cli.ok("demo --keep --csv", flights_csv)
    (kept,) = os.listdir(tmp_path / "tmp")
    with seglog.open(tmp_path / "tmp" / kept / "data", create=False) as store:
        assert store.topics() == ["flights"]


def test_a_count_that_differs_from_the_csv_fails_the_demo(cli, flights_csv, monkeypatch):
    count = flights.counted
    monkeypatch.setattr(flights, "counted", lambda path, limit: count(path, limit) + Counter(UA=1))
    result = cli("demo --csv", flights_csv)
    assert result.code == 1
    assert "WRONG: a consumer counted for UA" in result.text
    assert "WRONG: the replay counted for UA" in result.text
    assert ["UA", "NO"] in [[row[0], row[-1]] for row in result.rows]


def test_an_event_that_is_lost_fails_the_demo(cli, flights_csv, monkeypatch):
    send_many = seglog.Topic.send_many

    def careless(topic, values, keys, *, timestamps):
        return send_many(topic, values[1:], keys[1:], timestamps=timestamps[1:])

    monkeypatch.setattr(seglog.Topic, "send_many", careless)
    assert cli("demo --json --csv", flights_csv).code == 1


def test_an_event_that_is_received_twice_fails_the_demo(cli, flights_csv, monkeypatch):
    monkeypatch.setattr(seglog.Consumer, "commit", lambda consumer, what: None)
    result = cli("demo --json --csv", flights_csv)
    assert result.code == 1
    assert any("a second consumer of the group finds 2,500" in fault for fault in result.json["wrong"])


def test_a_csv_of_something_else_is_said(cli, tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    result = cli("demo --csv", tmp_path / "other.csv")
    assert result.code == 1
    assert "carrier" in result.err


def test_offline_it_says_what_to_do(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    result = cli("demo")
    assert result.code == 1
    assert result.err.count("\n") == 1
    for words in ("--csv", "pip download", "offline"):
        assert words in result.err
    assert os.listdir(tmp_path / "cache" / "seglog") == []


def test_what_is_in_the_cache_is_used_only_if_its_hash_is_right(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "seglog" / flights.ARCHIVE
    path.parent.mkdir()
    path.write_bytes(b"the archive")
    fetched = []
    monkeypatch.setattr(flights, "fetch", fetched.append)
    monkeypatch.setattr(flights, "SHA256", hashlib.sha256(b"the archive").hexdigest())
    assert (flights.cached(), fetched) == (path, [])
    path.write_bytes(b"something else")
    assert (flights.cached(), fetched) == (path, [path])


def test_the_published_counts_are_checked_when_all_flights_are_there(monkeypatch, flights_csv, tmp_path):
    monkeypatch.setattr(demo, "ALL", 2_500)
    run = demo.Run(flights_csv, None, tmp_path / "data", print)
    run.read_csv()
    assert len(run.wrong) == len(flights.KNOWN)
