"""`seglog group ls`, `describe`, `lag`, `explain`, `reset`, `evict`, `rm`; and `seglog -d DIR` before a command."""

from datetime import UTC, datetime

import pytest

import seglog

OLD = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(cli):
    """Two partitions of five records; the group billing has done three of the first."""
    with seglog.open(cli.data) as store:
        orders = store.topic("orders", partitions=2)
        for n in range(10):
            orders.send(b"%d" % n, partition=n % 2, timestamp=OLD if n < 6 else None)
        with orders.consumer("billing") as consumer:
            consumer.commit({0: 3})
        yield store


def committed(store):
    return [place.committed for place in store.group("billing").describe().places]


def test_ls_says_who_is_there_and_how_far_behind(cli, store):
    with store.topic("orders").consumer("audit"):
        rows = cli.ok("group ls").rows
        assert [row[:4] for row in rows] == [["audit", "1", "2", "10"], ["billing", "0", "2", "7"]]
        assert all(float(row[4]) >= 0 for row in rows)
        first = cli.ok("group ls --json").json[0]
        assert (first["group"], first["members"], first["partitions"], first["lag"]) == ("audit", 1, 2, 10)


def test_ls_of_a_store_without_groups_is_empty(cli):
    cli.ok("topic create orders")
    assert cli.ok("group ls").out == b""
    assert cli.ok("group ls --json").json == []


def test_describe_says_who_reads_what_and_where_each_place_is(cli, store):
    with store.topic("orders").consumer("billing") as consumer:
        rows = cli.ok("group describe billing").rows
        assert rows[0][:2] == ["member", consumer.member] and rows[0][3:] == ["alive", "orders[0], orders[1]"]
        assert [row[:7] for row in rows[1:]] == [
            ["place", "orders", "0", "3", "0", "5", "2"],
            ["place", "orders", "1", "", "0", "5", "5"],
        ]
        assert all(row[8] == consumer.member for row in rows[1:])


def test_describe_as_json(cli, store):
    told = cli.ok("group describe billing --json").json
    assert (told["name"], told["members"], told["lag"]) == ("billing", [], 7)
    place = told["places"][0]
    assert (place["committed"], place["next_offset"], place["lag"], place["owner"]) == (3, 5, 2, None)
    assert place["committed_at"] > 0


def test_lag_counts_records_and_seconds(cli, store):
    store.topic("refunds").send(b"back")
    with store.consumer("billing", ["refunds"]):
        pass
    (row,) = cli.ok("group lag billing").rows
    assert row[0] == "8"
    assert cli.ok("group lag billing --json -t refunds").json["lag"] == 1
    told = cli.ok("group lag billing --json -t orders").json
    assert (told["group"], told["lag"]) == ("billing", 7) and told["lag_seconds"] >= 0


def test_explain_says_why_it_lags_and_nothing_when_it_does_not(cli, store):
    assert "no live member" in cli.ok("group explain billing").text
    assert any("no live member" in line for line in cli.ok("group explain billing --json").json)
    cli.ok("group reset billing --to-latest")
    assert cli.ok("group explain billing").out == b""


@pytest.mark.parametrize(
    ("words", "after"),
    [
        ("--to-earliest", [0, 0]),
        ("--to-latest", [5, 5]),
        ("--shift-by=-1", [2, 0]),
        ("--shift-by 1 -p 0", [4, None]),
        ("--to-offset 2 -p 1", [3, 2]),
        ("--to-datetime 2021-01-01T00:00:00Z -t orders", [3, 3]),
    ],
)
def test_reset_moves_a_group_and_says_from_where_to_where(cli, store, words, after):
    before = committed(store)
    tried = cli.ok(f"group reset billing {words} --dry-run")
    assert committed(store) == before
    moved = cli.ok(f"group reset billing {words}")
    assert moved.rows == tried.rows
    assert committed(store) == after
    assert [row[3] for row in moved.rows] == [str(after[int(row[1])]) for row in moved.rows]


def test_reset_as_json(cli, store):
    told = cli.ok("group reset billing --to-latest -p 0 --json").json
    assert told == [{"topic": "orders", "partition": 0, "before": 3, "after": 5}]


@pytest.mark.parametrize(
    "words",
    [
        "reset billing",
        "reset billing --to-earliest --to-latest",
        "reset billing --to-offset 99 -p 0",
        "reset billing --to-offset 1",
        "reset billing --to-datetime yesterdayish",
        "reset billing --to-earliest -p 9",
        "reset billing --to-earliest -t ordres",
        "reset nobody --to-earliest",
        "reset ../x --to-earliest",
        "describe nobody",
        "lag nobody",
        "explain nobody",
        "evict billing nobody",
        "rm nobody --yes",
        "rm",
        "vanish billing",
    ],
)
def test_what_is_wrong_or_not_there_is_2_and_changes_nothing(cli, store, words):
    before = committed(store)
    result = cli(f"group {words}")
    assert (result.code, result.out) == (2, b"")
    assert result.err
    assert committed(store) == before
    assert store.topics() == ["orders"] and store.groups() == ["billing"]


def test_a_group_with_a_live_member_is_neither_reset_nor_forgotten(cli, store):
    with store.topic("orders").consumer("billing") as consumer:
        for words in ("reset billing --to-earliest", "rm billing --yes"):
            result = cli(f"group {words}")
            assert result.code == 2 and consumer.member in result.err
        assert consumer.committed(0) == 3


def test_evict_puts_a_member_out(cli, store):
    with store.topic("orders").consumer("billing") as consumer:
        cli.ok(f"group evict billing {consumer.member}")
        with pytest.raises(seglog.Fenced):
            consumer.receive(timeout=0)
    assert cli.ok("group describe billing --json").json["members"] == []


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"yes\n", 0), (b"n\n", 1), (b"\n", 1), (b"", 1)])
def test_rm_asks(cli, store, answer, code):
    result = cli("group rm billing", stdin=answer)
    assert result.code == code and "billing and its places in orders" in result.err
    assert store.groups() == ([] if code == 0 else ["billing"])


def test_rm_with_yes_does_not_ask(cli, store):
    result = cli.ok("group rm billing --yes")
    assert (result.out, result.err, store.groups()) == (b"", "", [])


def test_the_store_may_be_named_before_the_command(cli, tmp_path, monkeypatch):
    other = tmp_path / "other"
    with monkeypatch.context() as patch:
        patch.delenv("SEGLOG_DATA", raising=False)
        cli.ok(f"-d {other} topic create there")
    cli.ok("topic create here")
    assert [row[0] for row in cli.ok(f"-d {other} topic ls").rows] == ["there"]
    assert [row[0] for row in cli.ok(f"-d {tmp_path / 'data'} topic ls -d {other}").rows] == ["there"]
    assert [row[0] for row in cli.ok("topic ls").rows] == ["here"]
    assert cli(f"-d {tmp_path / 'nowhere'} topic ls").code == 2
