"""`seglog topic compact`, `seglog upkeep`, and the settings they go by."""

import os
import signal
import subprocess
import sys
import time

import pytest

import seglog


def test_create_sets_retention_and_compaction(cli):
    cli.ok(
        "topic create t --retention 7d --retention-bytes 1GiB --retention-records 1000 --keep-for-group b --keep-for-group a "
        "--retention-max-bytes 2GiB --compact --compact-keep 2 --compact-min-lag 90 --compact-max-lag 1.5h --tombstone-grace 15m"
    )
    with seglog.open(cli.data) as store:
        config = store.topic("t").config
    assert config == seglog.TopicConfig(
        retention=7 * 86_400.0, retention_bytes=1 << 30, retention_records=1000, keep_for_groups=("a", "b"),
        retention_max_bytes=2 << 30, compact=True, compact_keep=2, compact_min_lag=90.0, compact_max_lag=5400.0,
        tombstone_grace=900.0,
    )  # fmt: skip
    cli.ok("topic describe t")
    cli.ok("topic describe t --json")


@pytest.mark.parametrize("words", ["--retention soon", "--retention 7y", "--retention-bytes -1", "--compact-keep 0"])
def test_create_refuses_what_cannot_be(cli, words):
    assert cli(f"topic create t --compact {words}").code == 2


def test_compact_says_what_it_did(cli):
    cli.ok("topic create prices --compact")
    cli.ok("topic send prices -K =", stdin=b"tea=1\nmilk=2\ntea=3\n")
    said = dict(cli.ok("topic compact prices").rows)
    assert (said["records_removed"], said["finished"]) == ("1", "True")
    assert cli.ok("topic read prices").out == b"2\n3\n"
    assert cli.ok("topic compact prices --json").json["records_removed"] == 0
    cli.ok("topic compact prices -p 0")


def test_compact_refuses_history_and_what_is_not_there(cli):
    cli.ok("topic create history")
    refused = cli("topic compact history")
    assert refused.code == 2
    assert "compact=True" in refused.err
    assert cli("topic compact nothing").code == 2
    assert cli("topic compact history -p 7").code == 2


def test_upkeep_once_does_what_is_due(cli):
    with seglog.open(cli.data, upkeep=False, segment_bytes=65536) as store:
        events = store.topic("events", retention_records=100)
        for _ in range(100):
            events.send_many([b"x" * 1000] * 10)
    cli.ok("upkeep --once")
    with seglog.open(cli.data, upkeep=False) as store:
        assert store.topic("events").first_offset() > 700
    assert cli("upkeep --once -d elsewhere").code == 2


def test_upkeep_tells_of_what_a_group_loses(cli):
    with seglog.open(cli.data, upkeep=False, segment_bytes=65536) as store:
        events = store.topic("events", keep_for_groups=("billing",), retention_max_bytes=300_000)
        for _ in range(100):
            events.send_many([b"x" * 1000] * 10)
    assert "billing" in cli.ok("upkeep --once").err


@pytest.mark.skipif(os.name == "nt", reason="has no SIGINT to send")
def test_upkeep_goes_on_until_it_is_interrupted(cli):
    with seglog.open(cli.data, upkeep=False, segment_bytes=65536) as store:
        events = store.topic("events", retention_records=100)
        process = subprocess.Popen([sys.executable, "-m", "seglog.cli", "upkeep", "-d", str(cli.data)])
        try:
            deadline = time.monotonic() + 60
            while events.first_offset() == 0 and time.monotonic() < deadline:
                events.send_many([b"x" * 1000] * 10)
                time.sleep(0.01)
            assert events.first_offset() > 0
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
