"""`seglog bench`: a measurement that says what it measured, and leaves nothing behind."""

import os


def test_the_report_names_its_conditions_and_compares_with_the_file(cli, tmp_path):
    told = cli.ok("bench -n 1000 --json", tmp_path).json
    assert {"machine", "file_system", "fsync", "value_bytes", "records"} <= set(told)
    results = {result["what"]: result for result in told["results"]}
    assert {"file.write", "send", "send_many", "read as lists of bytes", "read as batches"} <= set(results)
    assert results["file.write"]["ratio"] == 1
    assert all(result["records_per_second"] > 0 for result in told["results"])
    assert os.listdir(tmp_path) == []


def test_the_same_in_a_pipe(cli, tmp_path):
    rows = cli.ok("bench -n 1000 --size 10 --fsync interval", tmp_path).rows
    assert [len(row) for row in rows] == [5] * len(rows)


def test_a_directory_that_is_not_there_is_said(cli, tmp_path):
    assert cli("bench -n 1000", tmp_path / "missing").code == 1
