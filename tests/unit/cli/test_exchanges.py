"""`seglog exchange ls`, `create`, `describe`, `bind`, `unbind`, `route`, `rm`."""

import pytest

import seglog


@pytest.fixture
def store(cli):
    with seglog.open(cli.data) as store:
        store.queue("mail")
        store.topic("audit")
        store.exchange("events", "topic", alternate="rest")
        yield store


def test_one_is_made_bound_described_and_deleted(cli, store):
    cli.ok("exchange create files --type headers")
    assert cli.ok("exchange ls").rows == [["events", "topic", "0", "rest"], ["files", "headers", "0", ""]]
    cli.ok("exchange bind events mail order.*.paid")
    cli.ok("exchange bind events topic:audit #")
    cli.ok("exchange bind events exchange:files x")
    cli.ok("exchange bind files audit -H format=pdf -H urgent --match any")
    assert cli.ok("exchange describe events").rows == [
        ["setting", "type", "topic"],
        ["setting", "alternate", "rest"],
        ["setting", "hash_header", ""],
        ["binding", "exchange", "files", "x", ""],
        ["binding", "queue", "mail", "order.*.paid", ""],
        ["binding", "topic", "audit", "#", ""],
    ]
    assert cli.ok("exchange describe files").rows[-1][-1] == "format=pdf, urgent, x-match=any"
    told = cli.ok("exchange describe files --json").json
    assert told["settings"]["type"] == "headers"
    assert told["bindings"] == [
        {
            "kind": "topic",
            "destination": "audit",
            "pattern": "",
            "arguments": {"format": "pdf", "urgent": None, "x-match": "any"},
        }
    ]
    assert [row["bindings"] for row in cli.ok("exchange ls --json").json] == [3, 1]
    cli.ok("exchange unbind events mail order.*.paid")
    assert cli("exchange unbind events mail order.*.paid").code == 2
    assert len(store.exchange("events").bindings()) == 2
    assert cli("exchange rm events", stdin=b"n\n").code == 1
    cli.ok("exchange rm events", stdin=b"y\n")
    cli.ok("exchange rm files --yes")
    assert cli.ok("exchange ls").out == b""


def test_route_says_where_it_would_go_and_sends_when_it_is_to(cli, store):
    cli.ok("exchange bind events mail order.#")
    cli.ok("exchange bind events audit #")
    assert cli.ok("exchange route events --dry-run order.1").rows == [["queue", "mail"], ["topic", "audit"]]
    assert cli.ok("exchange route events --dry-run order.1 --json").json[0] == {"to": "queue", "name": "mail"}
    assert store.topic("audit").next_offset() == 0
    assert cli.ok("exchange route events order.1", stdin=b"42").rows == [
        ["queue", "mail", "0", "0"],
        ["topic", "audit", "0", "0"],
    ]
    assert store.topic("audit")[0, 0].value == b"42"


def test_route_by_headers(cli, store):
    cli.ok("exchange create files --type headers")
    cli.ok("exchange bind files audit -H format=pdf")
    assert cli.ok("exchange route files --dry-run -H format=pdf").rows == [["topic", "audit"]]
    assert cli("exchange route files --dry-run -H format=png").code == 2
    assert cli("exchange route files --dry-run -H format").code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("exchange describe nothing", "there is no exchange nothing"),
        ("exchange route events --dry-run k", "would go nowhere"),
        ("exchange route events k", "no binding"),
        ("exchange bind events nobody k", "there is no queue, topic or exchange nobody"),
        ("exchange bind events topic:mail k", "there is no topic mail"),
        ("exchange bind events tropic:mail k", "is no destination"),
        ("exchange bind events mail k -H a=b", "does not look at headers"),
        ("exchange bind events mail k -H =b", "say NAME=VALUE"),
        ("exchange create events --type fanout", "exists with other settings"),
        ("exchange create a/b --type fanout", "cannot be the name"),
        ("exchange rm nothing --yes", "there is no exchange nothing"),
    ],
)
def test_what_cannot_be_is_refused(cli, store, words, said):
    result = cli(words)
    assert (result.code, said in result.err) == (2, True), result


def test_a_name_that_is_several_things_must_be_said(cli, store):
    store.topic("mail")
    assert "say which, as in queue:mail" in cli("exchange bind events mail k").err
    cli.ok("exchange bind events queue:mail k")
    assert store.exchange("events").route("k") == [seglog.Destination("queue", "mail")]
