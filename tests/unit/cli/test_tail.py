"""`seglog tail`, and `topic read --follow`: the last records, and those to come from any process."""

import json

import pytest

import seglog


def test_the_last_ten_are_printed(cli):
    cli.ok("topic send t", stdin=b"".join(b"%d\n" % i for i in range(100)))
    assert cli.ok("tail t").text.split() == [str(i) for i in range(90, 100)]
    assert cli.ok("tail t -n 2").text.split() == ["98", "99"]
    assert cli.ok("tail t -n 0").out == b""
    assert [record["value"] for record in cli.ok("tail t -n 1 --json").jsons] == ["99"]
    assert cli.ok("tail t -n 1 --format", "%o:%s;").text == "99:99;"


@pytest.mark.parametrize("partitions", [1, 3])
def test_following_prints_what_another_process_sends(cli, partitions):
    cli.ok(f"topic create t -p {partitions}")
    cli.ok("topic send t", stdin=b"before\n")
    process = cli.start("tail -f t --json")
    try:
        assert json.loads(process.stdout.readline())["value"] == "before"
        for i in range(4):
            cli.ok(f"topic send t -p {i % partitions}", stdin=b"news %d\n" % i)
            assert json.loads(process.stdout.readline())["value"] == f"news {i}"
    finally:
        process.kill()
        process.communicate()


def test_following_reads_partitions_that_are_added(cli):
    cli.ok("topic send t", stdin=b"before\n")
    process = cli.start("tail -f t")
    try:
        assert process.stdout.readline() == b"before\n"
        with seglog.open(cli.data) as store:
            topic = store.topic("t")
            topic.add_partitions(2)
            topic.send(b"elsewhere", partition=1)
            assert process.stdout.readline() == b"elsewhere\n"
    finally:
        process.kill()
        process.communicate()


def test_following_ends_when_the_topic_is_deleted(cli):
    cli.ok("topic send t", stdin=b"before\n")
    process = cli.start("tail -f t")
    assert process.stdout.readline() == b"before\n"
    cli.ok("topic rm t -y")
    _, err = process.communicate(timeout=30)
    assert err.startswith(b"seglog: ")
    assert process.returncode == 2


def test_reading_with_follow_and_a_count_waits_for_so_many(cli):
    cli.ok("topic send t", stdin=b"one\n")
    process = cli.start("topic read t --follow -c 3")
    assert process.stdout.readline() == b"one\n"
    cli.ok("topic send t", stdin=b"two\nthree\nfour\n")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, b"two\nthree\n", b"")


def test_follow_and_until_exclude_each_other(cli):
    cli.ok("topic send t", stdin=b"one\n")
    assert cli("topic read t --follow -u 1").code == 2
