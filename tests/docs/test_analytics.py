"""The live analytics of docs/guide/arrays.md: the guide's own program, on flights of the test's own, and on the real ones."""

import csv
import re
from pathlib import Path

import pytest

from seglog.cli import flights

pytest.importorskip("duckdb")
pytest.importorskip("polars")

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "arrays.md"

pytestmark = pytest.mark.skipif(not GUIDE.exists(), reason="an installed wheel is tested without its docs")


def program() -> str:
    section = GUIDE.read_text(encoding="utf-8").partition("## Live analytics")[2]
    return re.search(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[1]


@pytest.fixture
def few_flights(tmp_path):
    path = tmp_path / "flights.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["carrier", "tailnum", "time_hour", "dep_delay"])
        for i in range(20_000):
            delay = "NA" if i % 40 == 0 else i % 60 - 5
            writer.writerow([("UA", "B6", "EV", "DL")[i * i % 7 % 4], f"N{i % 90}", "2013-01-01T10:00:00Z", delay])
    return path


def test_polars_and_duckdb_agree_with_the_csv_while_a_writer_appends(few_flights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(flights, "cached", lambda: few_flights)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    exec(program(), names)
    assert names["counts"].total() == 20_000
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.skipif(not (flights.cache_folder() / flights.ARCHIVE).exists(), reason="the flights are not in the cache")
def test_the_same_on_the_real_flights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    exec(program(), names)
    assert {carrier: names["counts"][carrier] for carrier in flights.KNOWN} == flights.KNOWN
    assert names["answers"] > 2
