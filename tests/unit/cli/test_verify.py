"""`seglog verify`: damage is found, said in offsets and bytes, and is exit code 2."""

import shutil

import seglog


def damage(path, old: bytes) -> int:
    """Flip a bit of the first occurrence of `old`; where it is."""
    data = bytearray(path.read_bytes())
    at = data.index(old)
    data[at] ^= 1
    path.write_bytes(data)
    return at


def test_a_sound_store_is_0_and_says_nothing_to_a_pipe(cli):
    cli.ok("topic send t", stdin=b"one\ntwo\n")
    assert cli.ok("verify").out == b""
    assert cli.ok("verify", cli.data).out == b""
    told = cli.ok("verify --json").json
    assert (told["topics"], told["records"], told["damaged"], told["findings"]) == (1, 2, False, [])


def test_damage_is_2_and_is_said_in_offsets_and_bytes(cli):
    with seglog.open(cli.data) as store:
        topic = store.topic("t")
        for i in range(9):
            topic.send(b"value %d" % i)
    (log,) = cli.data.glob("topics/t/0/*.log")
    at = damage(log, b"value 4")
    result = cli("verify")
    assert result.code == 2
    ((kind, path, position, size, first, after, note),) = result.rows
    assert (kind, path, first, after) == ("corrupt", str(log), "4", "5")
    assert int(position) < at < int(position) + int(size)
    assert note
    told = cli("verify --json")
    assert told.code == 2
    assert told.json["damaged"] is True
    (finding,) = told.json["findings"]
    assert (finding["kind"], finding["start"], finding["stop"]) == ("corrupt", 4, 5)


def test_damage_in_the_topology_is_found_too_and_the_rest_is_still_read(cli):
    cli.ok("topic create first")
    cli.ok("topic create second")
    (log,) = cli.data.glob("meta/*.log")
    damage(log, b"topic/first")
    result = cli("verify")
    assert result.code == 2
    assert any("meta" in row[1] for row in result.rows)


def test_a_partition_that_is_missing_is_told_and_the_rest_is_still_read(cli):
    cli.ok("topic send first", stdin=b"one\n")
    cli.ok("topic send second", stdin=b"value 1\n")
    shutil.rmtree(cli.data / "topics/first/0")
    (log,) = cli.data.glob("topics/second/0/*.log")
    damage(log, b"value 1")
    result = cli("verify")
    assert result.code == 2
    assert sorted((row[0], row[1]) for row in result.rows) == [
        ("corrupt", str(log)),
        ("missing", str(cli.data / "topics/first/0")),
    ]


def test_what_a_repair_set_aside_is_not_told_again(cli):
    cli.ok("topic send t", stdin=b"".join(b"value %d\n" % i for i in range(9)))
    cli.ok("topic send u", stdin=b"one\n")
    (log,) = cli.data.glob("topics/t/0/*.log")
    damage(log, b"value 4")
    shutil.rmtree(cli.data / "topics/u/0")
    assert cli("verify").code == 2
    cli.ok("doctor --repair")
    assert cli.ok("verify").out == b""
