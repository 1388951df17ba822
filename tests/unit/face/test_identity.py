"""SEGLOG says who a store is, or is damaged: nothing else comes of reading it, whatever it holds."""

import json

import pytest

import seglog
from seglog.identity import FORMAT, Identity, digest

FACTS = {"format": FORMAT, "uuid": "u", "created": 5}


def line(facts):
    return json.dumps(facts | {"hash": digest(facts)}).encode()


def test_what_was_written_is_read():
    assert Identity.from_bytes(line(FACTS), "SEGLOG") == Identity("u", 5)
    assert Identity.from_bytes(line(FACTS | {"more": 1}), "SEGLOG") == Identity("u", 5)


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize("value", [None, "x", 1.0, True, [], {}, "nothing at all"])
def test_other_facts_under_a_right_hash_are_damage(name, value):
    facts = FACTS | {name: value}
    if value == "nothing at all":
        del facts[name]
    if name == "uuid" and value == "x":
        return
    with pytest.raises(seglog.CorruptStore):
        Identity.from_bytes(line(facts), "SEGLOG")


def test_a_newer_format_is_told_as_that_whatever_else_it_says():
    with pytest.raises(seglog.UnsupportedFormat) as raised:
        Identity.from_bytes(line({"format": FORMAT + 1, "name": "other"}), "SEGLOG")
    assert raised.value.found == FORMAT + 1


@pytest.mark.parametrize("bad", [b"", b"[]", b"5", b"null", b"{}", b"[" * 100_000, b"\xff", b'{"hash":{}}'])
def test_what_is_no_such_line_is_damage(bad):
    with pytest.raises(seglog.CorruptStore):
        Identity.from_bytes(bad, "SEGLOG")
