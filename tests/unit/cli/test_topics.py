"""`seglog topic ls`, `create`, `describe`, `rm`."""

import pytest

import seglog


def test_ls_says_names_and_numbers_separated_by_tabs(cli):
    cli.ok("topic create b -p 2")
    cli.ok("topic create a")
    cli.ok("topic send a", stdin=b"1\n2\n3\n")
    rows = cli.ok("topic ls").rows
    assert [row[:3] for row in rows] == [["a", "1", "3"], ["b", "2", "0"]]
    assert all(int(row[3]) > 0 for row in rows)


def test_ls_as_json(cli):
    cli.ok("topic create a -p 3")
    (topic,) = cli.ok("topic ls --json").json
    assert (topic["topic"], topic["partitions"], topic["records"]) == ("a", 3, 0)
    assert topic["disk_bytes"] > 0


def test_create_sets_what_it_is_told(cli):
    cli.ok("topic create t -p 3 --partitioner murmur2 --segment-bytes 1MiB --segment-age 60 --record-bytes-max 64k")
    with seglog.open(cli.data) as store:
        config = store.topic("t").config
    assert config == seglog.TopicConfig(
        partitions=3, partitioner="murmur2", segment_bytes=1 << 20, segment_age=60.0, record_bytes_max=64_000
    )


def test_create_refuses_what_exists_unless_told_otherwise(cli):
    cli.ok("topic create t -p 2")
    assert cli("topic create t -p 2").code == 2
    cli.ok("topic create t -p 2 --if-not-exists")
    assert cli("topic create t -p 3 --if-not-exists").code == 2


@pytest.mark.parametrize("words", ["--segment-bytes 1", "--segment-bytes lots", "-p 0", "-p 5000", "--codec gzip"])
def test_create_refuses_settings_that_cannot_work(cli, words):
    assert cli(f"topic create t {words}").code == 2
    assert cli("topic describe t").code == 2


def test_describe_says_where_each_partition_is(cli):
    cli.ok("topic create t -p 2")
    cli.ok("topic send t -p 1", stdin=b"1\n2\n3\n")
    rows = cli.ok("topic describe t").rows
    assert ["setting", "partitions", "2"] in rows
    assert [row[:5] for row in rows if row[0] == "partition"] == [
        ["partition", "0", "0", "0", "0"],
        ["partition", "1", "0", "3", "3"],
    ]


def test_describe_as_json(cli):
    cli.ok("topic create t -p 2")
    cli.ok("topic send t -p 1", stdin=b"1\n2\n3\n")
    told = cli.ok("topic describe t --json").json
    assert (told["topic"], told["records"], told["settings"]["codec"]) == ("t", 3, "none")
    second = told["partitions"][1]
    assert (second["first_offset"], second["next_offset"], second["durable_offset"]) == (0, 3, 3)
    assert second["disk_bytes"] > 0
    assert second["losses"] == []


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"yes\n", 0), (b"n\n", 1), (b"\n", 1), (b"", 1)])
def test_rm_asks(cli, answer, code):
    cli.ok("topic send t", stdin=b"1\n2\n")
    result = cli("topic rm t", stdin=answer)
    assert "2 records" in result.err
    assert result.code == code
    assert bool(cli.ok("topic ls").rows) == (code != 0)


def test_rm_with_yes_does_not_ask(cli):
    cli.ok("topic send t", stdin=b"1\n")
    assert cli.ok("topic rm t --yes").err == ""
    assert cli.ok("topic ls").out == b""
    assert cli("topic rm t --yes").code == 2
