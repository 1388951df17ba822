"""`seglog queue ls`, `describe`, `send`, `peek`, `receive`, `purge`, `redrive`, `check`."""

import json
import subprocess

import pytest

import seglog


def values(cli, name, **settings):
    """Everything that can be received, settled."""
    with seglog.open(cli.data) as store:
        queue = store.queue(name, **settings)
        got = queue.receive(1000, timeout=0)
        queue.ack(got)
        return [message.value for message in got]


def made(cli, name, **settings):
    with seglog.open(cli.data) as store:
        store.queue(name, **settings)


@pytest.fixture
def buried(cli):
    """Three dead letters of jobs: one that failed too often, two that were rejected; and one message that waits."""
    with seglog.open(cli.data) as store:
        jobs = store.queue("jobs", max_attempts=1)
        jobs.send_many([b"a", b"b", b"c", b"d"])
        a, b, c = jobs.receive(3, timeout=0)
        a.nack(error="KeyError")
        b.reject("unreadable")
        c.reject("too large")
    return cli


# ---- sending ----------------------------------------------------------------------------------------


def test_each_line_is_a_message_and_comes_out_as_it_went_in(cli):
    lines = b"one\r\n\n\0three, and no newline"
    cli.ok("queue send jobs", stdin=lines)
    assert cli.ok("queue peek jobs -c 9").out == lines
    assert cli.ok("queue receive jobs -c 9").out == lines
    assert cli.ok("queue receive jobs").out == b""


def test_a_value_is_one_message(cli):
    cli.ok("queue send jobs", "resize cat.jpg")
    cli.ok("queue send jobs", "")
    assert values(cli, "jobs") == [b"resize cat.jpg", b""]


def test_options_of_a_message_are_its_own(cli):
    made(cli, "jobs", priorities=3)
    cli.ok("queue send jobs low")
    cli.ok("queue send jobs customer-42:paid -K : -p 2 -g eu -H by=card --ttl 1h --dedup-id 17")
    cli.ok("queue send jobs again --dedup-id 17")
    first, second = cli.ok("queue receive jobs -c 9 --json").jsons
    assert (first["value"], first["key"], first["priority"], first["group"]) == ("paid", "customer-42", 2, "eu")
    assert (first["headers"], first["dedup_id"], first["attempts"]) == ({"by": "card"}, "17", 1)
    assert second["value"] == "low"


def test_a_delay_is_kept(cli):
    cli.ok("queue send jobs later --delay 1h")
    assert cli.ok("queue receive jobs").out == b""
    assert cli.ok("queue describe jobs --json").json["delayed"] == 1
    cli.ok("queue send jobs", "--delay", "0.05", "soon")
    assert cli.ok("queue receive jobs -t 10").out == b"soon\n"


def test_what_has_expired_does_not_come(cli):
    cli.ok("queue send jobs --ttl 0 gone")
    cli.ok("queue send jobs here")
    assert cli.ok("queue receive jobs -c 9").out == b"here\n"


def test_keys_stand_before_a_separator(cli):
    cli.ok("queue send jobs -K :", stdin=b"a:1\nnone\nb:2\n")
    assert cli.ok("queue peek jobs -c 9 -K =").out == b"a=1\nnone\nb=2\n"


def test_json_goes_from_one_queue_to_another(cli):
    made(cli, "jobs", priorities=2)
    made(cli, "copy", priorities=2)
    odd = json.dumps({"value": {"base64": "AP8="}, "key": "k", "headers": {"h": "1"}, "priority": 1, "group": "g"})
    cli.ok("queue send jobs --json", stdin=b'{"value": "a"}\n\n' + odd.encode() + b"\n")
    copied = cli.ok("queue receive jobs -c 9 --json").out
    cli.ok("queue send copy --json", stdin=copied)
    with seglog.open(cli.data) as store:
        first, second = store.queue("copy").receive(9, timeout=0)
    assert (second.value, second.priority) == (b"a", 0)
    assert (first.value, first.key, first.headers, first.group) == (b"\0\xff", b"k", {"h": b"1"}, b"g")


def test_a_line_that_is_no_json_is_told_with_its_number(cli):
    result = cli("queue send jobs --json", stdin=b'{"value": "a"}\n{"value": "b", "priority": -1}\n')
    assert result.code == 2 and "line 2 " in result.err and "1 messages" in result.err
    assert values(cli, "jobs") == [b"a"]


def test_a_full_queue_is_1_and_what_was_sent_stays(cli):
    made(cli, "small", max_length=2, overflow="reject")
    result = cli("queue send small", stdin=b"1\n2\n3\n")
    assert result.code == 1 and "at most 2 messages" in result.err
    assert values(cli, "small") == [b"1", b"2"]
    made(cli, "waits", max_length=1)
    assert cli("queue send waits --timeout 0", stdin=b"1\n2\n").code == 1
    made(cli, "forgets", max_length=1, overflow="drop_new")
    cli.ok("queue send forgets", stdin=b"1\n2\n")
    assert values(cli, "forgets") == [b"1"]


# ---- receiving --------------------------------------------------------------------------------------


def test_what_was_printed_is_settled_and_no_more(cli):
    cli.ok("queue send jobs", stdin=b"1\n2\n3\n")
    assert cli.ok("queue receive jobs -c 2").out == b"1\n2\n"
    now = cli.ok("queue describe jobs --json").json
    assert (now["ready"], now["in_flight"], now["acked"]) == (1, 0, 2)


def test_without_ack_nothing_is_settled_and_no_attempt_counted(cli):
    cli.ok("queue send jobs", stdin=b"1\n2\n3\n")
    for _ in range(2):
        assert cli.ok("queue receive jobs -c 9 --no-ack").out == b"1\n2\n3\n"
    assert [message["attempts"] for message in cli.ok("queue receive jobs -c 9 --json").jsons] == [1, 1, 1]


def test_what_could_not_be_printed_comes_again(cli):
    """Acked before it was printed, it would be lost."""
    cli.ok("queue send jobs", stdin=b"x" * 99 + b"\n")
    with open("/dev/full", "wb") as full:
        process = cli.start("queue receive jobs", stdout=full)
        process.communicate(timeout=30)
    assert process.returncode == 1
    assert values(cli, "jobs") == [b"x" * 99]


def test_receive_waits_as_long_as_it_is_told(cli):
    made(cli, "jobs")
    process = cli.start("queue receive jobs -t 30", stdout=subprocess.PIPE)
    cli.ok("queue send jobs now")
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"now\n")


def test_peek_takes_nothing(cli):
    cli.ok("queue send jobs", stdin=b"1\n2\n")
    assert cli.ok("queue peek jobs").out == b"1\n"
    told = cli.ok("queue peek jobs -c 9 --json").jsons
    assert [(message["sequence"], message["value"], message["first_received_at"]) for message in told] == [
        (0, "1", None),
        (1, "2", None),
    ]
    assert cli.ok("queue describe jobs --json").json["in_flight"] == 0


# ---- looking ----------------------------------------------------------------------------------------


def test_ls_counts_by_state_and_says_what_is_dead(buried):
    rows = buried.ok("queue ls").rows
    assert [row[:6] for row in rows] == [["jobs", "1", "0", "0", "0", "3"], ["jobs.dead", "3", "0", "0", "0", "0"]]
    assert all(float(row[6]) >= 0 and int(row[7]) > 0 for row in rows)
    first = buried.ok("queue ls --json").json[0]
    assert (first["queue"], first["ready"], first["dead_letters"]) == ("jobs", 1, 3)


def test_describe_says_counts_and_settings(buried):
    rows = buried.ok("queue describe jobs").rows
    assert ["count", "ready", "1"] in rows and ["setting", "max_attempts", "1"] in rows
    told = buried.ok("queue describe jobs --json").json
    assert (told["queue"], told["dead_lettered"], told["settings"]["dead_letter"]) == ("jobs", 3, "jobs.dead")


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"yes\n", 0), (b"n\n", 1), (b"\n", 1), (b"", 1)])
def test_purge_asks(cli, answer, code):
    cli.ok("queue send jobs", stdin=b"1\n2\n")
    result = cli("queue purge jobs", stdin=answer)
    assert result.code == code and "2 messages of queue jobs" in result.err
    assert cli.ok("queue describe jobs --json").json["ready"] == (0 if code == 0 else 2)


def test_purge_with_yes_does_not_ask_and_says_how_many(cli):
    cli.ok("queue send jobs", stdin=b"1\n2\n")
    result = cli.ok("queue purge jobs --yes")
    assert (result.out, result.err) == (b"2\n", "")


# ---- dead letters -----------------------------------------------------------------------------------


def test_redrive_moves_dead_letters_back(buried):
    assert buried.ok("queue redrive jobs.dead --max 2").out == b"2\n"
    assert buried.ok("queue redrive jobs.dead --rate 100").out == b"1\n"
    assert sorted(values(buried, "jobs")) == [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize(
    ("reason", "moved"), [("rejected", [b"b", b"c"]), ("delivery_limit", [b"a"]), ("too large", [b"c"]), ("other", [])]
)
def test_redrive_chooses_by_reason(buried, reason, moved):
    made(buried, "again")
    assert buried.ok("queue redrive jobs.dead --to again --filter-reason", reason).out == b"%d\n" % len(moved)
    assert values(buried, "again") == moved
    assert buried.ok("queue describe jobs.dead --json").json["ready"] == 3 - len(moved)


def test_redrive_refuses_what_is_no_queue_of_dead_letters(buried):
    result = buried("queue redrive jobs")
    assert result.code == 2 and "jobs.dead" in result.err
    assert buried.ok("queue describe jobs --json").json["ready"] == 1


# ---- checking ---------------------------------------------------------------------------------------


def test_check_is_0_and_says_nothing_while_all_is_well(buried):
    for words in ("--max-dead 3", "--max-ready 1 --max-age 1h", "--max-dead 3 --max-ready 1 jobs"):
        assert buried.ok(f"queue check {words}").out == b""
    assert buried.ok("queue check --max-dead 3 --json").json == []


def test_check_is_2_with_a_line_for_each_finding(buried):
    cli = buried
    cli.ok("queue send mails", stdin=b"1\n2\n")
    result = cli("queue check --max-dead 2 --max-ready 1")
    assert (result.code, result.rows) == (2, [["jobs.dead", "dead", "3", "2"], ["mails", "ready", "2", "1"]])
    told = cli("queue check --max-dead 0 --json").json
    assert told == [{"queue": "jobs.dead", "what": "dead", "is": 3, "limit": 0}]
    (row,) = cli("queue check --max-age 0 mails").rows
    assert row[:2] == ["mails", "age"] and float(row[2]) >= 0


def test_check_of_some_queues_asks_their_dead_letters_and_no_others(buried):
    buried.ok("queue send mails x")
    assert buried("queue check --max-dead 0 jobs").code == 2
    assert buried("queue check --max-dead 0 jobs.dead").code == 2
    assert buried("queue check --max-dead 0 mails").code == 0
    assert buried("queue check --max-ready 0 jobs").rows == [["jobs", "ready", "1", "0"]]


def test_dead_letters_whose_queue_is_gone_still_count(buried):
    with seglog.open(buried.data) as store:
        store.delete_queue("jobs")
    assert buried("queue check --max-dead 0").code == 2


@pytest.mark.parametrize(
    "words",
    [
        "describe nobody",
        "peek nobody",
        "receive nobody",
        "purge nobody --yes",
        "redrive nobody",
        "redrive jobs.dead --to nobody",
        "redrive jobs.dead --to jobs.dead",
        "redrive jobs.dead --rate 0",
        "check --max-dead 0 nobody",
        "check",
        "check --max-dead -1",
        "receive jobs -c 0",
        "receive jobs -t soon",
        "receive jobs -K : --json",
        "send jobs --dedup-id 17",
        "send jobs value --json",
        "send jobs value --delay soon",
        "send a/b value",
        "send jobs value -H seglog-due=1",
        "peek",
        "vanish jobs",
    ],
)
def test_what_is_wrong_or_not_there_is_2_and_changes_nothing(buried, words):
    before = buried.ok("queue ls").rows
    result = buried(f"queue {words}")
    assert (result.code, result.out) == (2, b"")
    assert result.err
    assert [row[:6] for row in buried.ok("queue ls").rows] == [row[:6] for row in before]


def test_no_store_is_said_and_none_is_made_but_by_send(cli):
    for words in ("ls", "peek jobs", "receive jobs", "check --max-dead 0"):
        assert cli(f"queue {words}").code == 2
    assert not cli.data.exists()
    cli.ok("queue send jobs x")
    assert cli.ok("queue ls").rows[0][0] == "jobs"
