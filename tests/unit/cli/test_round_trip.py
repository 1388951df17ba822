"""Lines of a file into a topic and back out again are the same bytes, whatever the bytes are."""

import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import seglog
from seglog.cli import lines

anything = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([b"\n", b"\r\n", b"\0", b"a:b", b":", b"\xff\xfe", b"text", b"x" * 300])).map(b"".join),
)


@pytest.mark.parametrize("partitions", [1, 2, 4])
@settings(deadline=None, max_examples=12)
@given(data=anything, more=anything)
@example(data=b"", more=b"")
@example(data=b"\n", more=b"no end")
@example(data=b"no end", more=b"\n\n")
def test_two_sends_come_back_as_the_bytes_they_read(fresh, partitions, data, more):
    with fresh() as cli:
        cli.ok(f"topic create logs -p {partitions}")
        cli.ok("topic send logs", stdin=data)
        cli.ok("topic send logs", stdin=more)
        assert cli.ok("topic read logs").out == data + more


@settings(deadline=None, max_examples=12)
@given(data=anything)
def test_keys_come_back_in_front_of_their_values(fresh, data):
    with fresh() as cli:
        cli.ok("topic send logs -K :", stdin=data)
        assert cli.ok("topic read logs -K :").out == data
        with seglog.open(cli.data) as store:
            records = [(record.key, record.value) for record in store.topic("logs").read()]
        found = data.split(b"\n")
        found = found[:-1] if found[-1] == b"" else found
        assert records == [tuple(line.split(b":", 1)) if b":" in line else (None, line) for line in found]


@settings(deadline=None, max_examples=8)
@given(data=anything)
def test_another_delimiter_does_the_same(fresh, data):
    with fresh() as cli:
        cli.ok("topic send logs -D", r"\0", stdin=data)
        assert cli.ok("topic read logs -D", r"\x00").out == data


@settings(deadline=None, max_examples=8)
@given(data=anything)
def test_a_topic_sent_as_json_to_another_is_the_same_topic(fresh, data):
    with fresh() as cli:
        cli.ok("topic send logs -K : -H", "from=here", stdin=data)
        told = cli.ok("topic read logs --json").out
        cli.ok("topic send copy --json", stdin=told)
        assert cli.ok("topic read copy --json").out == told.replace(b'"topic":"logs"', b'"topic":"copy"')
        assert cli.ok("topic read copy -K :").out == data


def test_a_value_is_its_line_and_nothing_else(cli):
    cli.ok("topic send logs", stdin=b"GET /a\n\nGET /b")
    with seglog.open(cli.data) as store:
        records = [(record.value, record.headers) for record in store.topic("logs").read()]
    assert records == [(b"GET /a", {}), (b"", {}), (b"GET /b", {"seglog.unterminated": b""})]


def test_lines_longer_than_a_block_come_back(cli, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 64)
    data = b"short\n" + b"x" * 1_000 + b"\n" + b"y" * 64 + b"\n" + b"z" * 200
    cli.ok("topic send logs", stdin=data)
    assert cli.ok("topic read logs").out == data


def test_a_line_over_the_topics_maximum_is_refused_and_those_before_it_are_there(cli):
    cli.ok("topic create logs --record-bytes-max 1KiB")
    result = cli("topic send logs", stdin=b"fine\n" + b"x" * 2_000_000)
    assert result.code == 2
    assert result.err.startswith("seglog: ")
    assert cli.ok("topic read logs").out == b"fine\n"


def test_files_come_back_as_cat_would_print_them(cli, tmp_path):
    parts = [b"one\ntwo", b"", b"three\n", b"\nfour"]
    files = [tmp_path / f"part-{i}" for i in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        file.write_bytes(part)
    cli.ok("topic send logs", *files)
    assert cli.ok("topic read logs").out == b"".join(parts)


def test_keyless_lines_of_one_send_stay_together_and_the_next_send_goes_where_there_is_room(cli):
    cli.ok("topic create logs -p 3")
    for _ in range(3):
        cli.ok("topic send logs", stdin=b"a\nb\nc\n")
    rows = cli.ok("topic read logs -f", r"%p %s\n").text
    assert rows == "0 a\n0 b\n0 c\n1 a\n1 b\n1 c\n2 a\n2 b\n2 c\n"


def test_with_keys_the_lines_of_each_key_stay_in_order_over_partitions(cli):
    cli.ok("topic create logs -p 4")
    sent = [f"{i % 7}:{i}" for i in range(500)] + ["no key", "none here"]
    cli.ok("topic send logs -K :", stdin="\n".join(sent).encode())
    got = cli.ok("topic read logs -K :").text.split("\n")
    # "none here" had no newline, and prints none wherever it comes.
    assert sorted("".join(got)) == sorted("".join(sent))
    for key in range(7):
        mine = [line for line in got if line.startswith(f"{key}:")]
        assert mine == [line for line in sent if line.startswith(f"{key}:")]


def test_a_key_separator_may_be_longer_than_a_byte(cli):
    cli.ok("topic send logs -K", " => ", stdin=b"a => b => c\nd =>\n")
    assert cli.ok("topic read logs -f", r"[%k][%s]\n").text == "[a][b => c]\n[][d =>]\n"


def test_pipes_and_redirections_of_a_shell(cli, tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(b"".join(b"%d \xff\0 line\r\n" % i for i in range(50_000)) + b"end")
    with source.open("rb") as stdin:
        assert cli.start("topic send logs", stdin=stdin).wait() == 0
    with copy.open("wb") as stdout:
        assert cli.start("topic read logs", stdout=stdout).wait() == 0
    assert copy.read_bytes() == source.read_bytes()

    reader = cli.start("topic read logs")
    writer = cli.start("topic send second", stdin=reader.stdout)
    reader.stdout.close()
    assert writer.wait() == 0
    assert reader.wait() == 0
    reader.stderr.close()
    assert cli.ok("topic read second").out == source.read_bytes()


def test_a_line_is_there_as_soon_as_its_newline_was_written(cli):
    sender = cli.start("topic send logs", stdin=subprocess.PIPE)
    sender.stdin.write(b"first\nsecond, without its end")
    sender.stdin.flush()
    with seglog.open(cli.data) as store:
        while "logs" not in store.topics():
            pass
        topic = store.topic("logs")
        assert topic.wait(0, timeout=30)
        assert [record.value for record in topic.read()] == [b"first"]
    sender.communicate(b"\n", timeout=30)
    assert cli.ok("topic read logs").out == b"first\nsecond, without its end\n"
