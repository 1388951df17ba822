"""`seglog topic read`: from where, how many, and in which form."""

import base64

import pytest

import seglog

HOUR = 3_600_000_000
T0 = 1_372_910_400_000_000  # 2013-07-04T04:00:00Z


@pytest.fixture
def orders(cli):
    """One partition, five records, an hour apart."""
    with seglog.open(cli.data) as store:
        topic = store.topic("orders")
        for i in range(5):
            topic.send(b"value %d" % i, key=b"k%d" % i, timestamp=T0 + i * HOUR)
    return cli


@pytest.fixture
def spread(cli):
    """Three partitions, whose records take turns in time: 0 1 2 0 1 2 ..."""
    with seglog.open(cli.data) as store:
        topic = store.topic("spread", partitions=3)
        for i in range(9):
            topic.send(b"%d" % i, partition=i % 3, timestamp=T0 + i * HOUR)
    return cli


@pytest.mark.parametrize(
    ("offset", "found"),
    [
        ("beginning", "01234"),
        ("end", ""),
        ("0", "01234"),
        ("3", "34"),
        ("5", ""),
        ("-2", "34"),
        ("-99", "01234"),
        ("-0", ""),
        ("@2013-07-04T06:00:00Z", "234"),
        ("@2013-07-04T06:00:01Z", "34"),
        ("@1372917600", "234"),
        ("@1372917600000", "234"),
        ("@1372917600000000", "234"),
        ("@2030-01-01", ""),
        ("@0", "01234"),
    ],
)
def test_reading_begins_where_o_says(orders, offset, found):
    assert orders.ok("topic read orders -o", offset).out == b"".join(b"value %s\n" % c.encode() for c in found)


@pytest.mark.parametrize(
    ("until", "found"), [("end", "01234"), ("0", ""), ("3", "012"), ("99", "01234"), ("@2013-07-04T06:00:00Z", "01")]
)
def test_reading_ends_where_until_says(orders, until, found):
    assert orders.ok("topic read orders -f %s -u", until).text == "".join(f"value {c}" for c in found)


def test_a_day_is_read_with_both(orders):
    result = orders.ok("topic read orders -f %o -o", "@2013-07-04T05:00:00Z", "-u", "@2013-07-04T07:00:00Z")
    assert result.text == "12"


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6])
def test_c_stops_after_so_many(orders, spread, count):
    assert orders.ok(f"topic read orders -f %o -c {count}").text == "01234"[:count]
    assert spread.ok(f"topic read spread -f %s -c {count}").text == "012345678"[:count]


def test_several_partitions_come_in_order_of_time(spread):
    assert spread.ok("topic read spread -f %s").text == "012345678"
    assert spread.ok("topic read spread -f %s -o", "@2013-07-04T08:00:00Z").text == "45678"


def test_the_last_n_are_the_last_of_all_partitions(spread):
    assert spread.ok("topic read spread -f %s -o", "-4").text == "5678"
    assert spread.ok("topic read spread -f %s -p 1 -o", "-2").text == "47"


def test_p_reads_one_partition(spread):
    assert spread.ok("topic read spread -f %s -p 1").text == "147"
    assert spread.ok("topic read spread -f %s -p 1 -o 1").text == "47"


def test_an_offset_without_its_partition_is_refused(spread):
    for option in ("-o", "-u"):
        result = spread(f"topic read spread {option} 1")
        assert result.code == 2
        assert "-p" in result.err


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("%s|", "a,b|None|\\ %|"),
        ("%k|", "key|||"),
        ("%o %p,", "0 0,1 0,2 0,"),
        ("%t ", "t t t "),
        ("%T ", f"{T0 // 1000} {T0 // 1000 + 1} {T0 // 1000 + 2} "),
        ("%h|", "a=1,b=NULL|||"),
        ("%S %K,", "3 3,-1 0,3 -1,"),
        ("%%s ", "%s %s %s "),
        (r"\n\t\r\x41\\", "\n\t\rA\\" * 3),
        (r"%o\0", "0\x001\x002\x00"),
        (r"\x25s", "%s%s%s"),
        ("é%o", "é0é1é2"),
        ("", ""),
    ],
)
def test_a_format_has_kcats_tokens(cli, form, text):
    with seglog.open(cli.data) as store:
        topic = store.topic("t")
        topic.send(b"a,b", key=b"key", headers={"a": b"1", "b": None}, timestamp=T0)
        topic.send(None, key=b"", timestamp=T0 + 1_000)
        topic.send(b"\\ %", timestamp=T0 + 2_999)
    assert cli.ok("topic read t -f", form).text == text.replace("None", "")


@pytest.mark.parametrize("form", ["%q", "%", r"\q", r"\x4", "\\"])
def test_a_format_that_says_nothing_known_is_refused(orders, form):
    assert orders("topic read orders -f", form).code == 2


def test_json_tells_everything_about_a_record(cli):
    with seglog.open(cli.data) as store:
        topic = store.topic("t", partitions=2)
        topic.send('"é"\n'.encode(), key=b"k", headers={"h": b"v", "n": None, "b": b"\xff"}, timestamp=T0, partition=1)
        topic.send(b"\xff\x00", timestamp=T0 + 1, partition=1)
        topic.send(None, key=b"\xfe", timestamp=T0 + 2, partition=0)
    first, second, third = cli.ok("topic read t --json").jsons
    assert first == {
        "topic": "t",
        "partition": 1,
        "offset": 0,
        "timestamp": T0,
        "key": "k",
        "value": '"é"\n',
        "headers": {"h": "v", "n": None, "b": {"base64": "/w=="}},
    }
    assert base64.b64decode(second["value"]["base64"]) == b"\xff\x00"
    assert (second["key"], second["headers"]) == (None, {})
    assert (third["value"], third["key"]) == (None, {"base64": "/g=="})


def test_json_goes_in_as_it_comes_out(cli):
    cli.ok(
        "topic send t --json",
        stdin=b'{"value": "v", "key": "k", "headers": {"h": {"base64": "/w=="}}, "timestamp": 5, "offset": 77}\n\n'
        b'{"value": null}',
    )
    with seglog.open(cli.data) as store:
        first, second = store.topic("t").read()
    assert (first.value, first.key, first.headers, first.timestamp, first.offset) == (b"v", b"k", {"h": b"\xff"}, 5, 0)
    assert (second.value, second.key) == (None, None)
    assert second.timestamp > T0


@pytest.mark.parametrize(
    "line",
    [
        b"no json",
        b"[]",
        b'{"key": "k"}',
        b'{"value": 5}',
        b'{"value": {"a": 1}}',
        b'{"value": {"base64": "!"}}',
        b'{"value": "v", "headers": []}',
        b'{"value": "v", "timestamp": "now"}',
        b'{"value": "\\ud800"}',
        b"\xff",
    ],
)
def test_json_that_is_no_record_is_refused_with_its_line(cli, line):
    result = cli("topic send t --json", stdin=b'{"value": "fine"}\n' + line + b"\n")
    assert result.code == 2
    assert "line 2 " in result.err


def test_nulls_and_records_without_a_key_are_empty_in_lines(cli):
    with seglog.open(cli.data) as store:
        topic = store.topic("t")
        topic.send(None, key=b"k")
        topic.send(b"v")
        topic.send(b"v", key=b"")
    assert cli.ok("topic read t").out == b"\nv\nv\n"
    assert cli.ok("topic read t -K :").out == b"k:\nv\n:v\n"


def test_the_forms_exclude_each_other(orders):
    for words in ("-f %s --json", "-K : --json", "-f %s -K :"):
        assert orders(f"topic read orders {words}").code == 2


def test_e_is_accepted_and_is_what_happens_anyway(orders):
    assert orders.ok("topic read orders -e -o", "-1").out == b"value 4\n"


def test_records_before_and_after_damage_are_printed_up_to_it(orders):
    (log,) = orders.data.glob("topics/orders/0/*.log")
    data = bytearray(log.read_bytes())
    data[data.index(b"value 2")] ^= 1
    log.write_bytes(data)
    result = orders("topic read orders")
    assert result.code == 2
    assert "seglog: " in result.err
    assert orders.ok("topic read orders -o 3").out == b"value 3\nvalue 4\n"
