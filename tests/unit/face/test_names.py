"""Names of topics and groups: what is allowed, and that everything else is refused with a reason, leaving nothing behind."""

import os

import pytest

import seglog
from seglog.names import check_name

BAD = {
    "": "it is empty",
    ".": "begins with a dot",
    "..": "begins with a dot",
    ".hidden": "begins with a dot",
    "a/b": "'/' at index 1",
    "../up": "begins with a dot",
    "a\\b": r"'\\\\' at index 1",
    "a\0b": r"'\\x00' at index 1",
    "a b": "' ' at index 1",
    "a\n": r"'\\n' at index 1",
    "grün": "'ü' at index 2",
    "x" * 300: "it has 300 characters",
    "x" * 201: "it has 201 characters",
}


@pytest.mark.parametrize("name", ["a", "A-Z_0.9", "-", "_", "9", "a..b", "x" * 200])
def test_letters_digits_dots_underscores_and_dashes_make_a_name(name):
    assert check_name(name) == name


@pytest.mark.parametrize(("name", "reason"), BAD.items(), ids=[repr(name)[:12] for name in BAD])
def test_a_bad_name_is_refused_with_its_reason(store, name, reason):
    before = sorted(os.listdir(store.path))
    with pytest.raises(seglog.InvalidName, match=reason) as caught:
        store.topic(name)
    assert caught.value.name == name
    assert isinstance(caught.value, ValueError)
    assert store.topics() == []
    assert sorted(os.listdir(store.path)) == before


@pytest.mark.parametrize("name", [None, 7, b"orders", ["orders"]])
def test_a_name_is_a_str(store, name):
    with pytest.raises(TypeError, match="is a str, not"):
        store.topic(name)


def test_a_group_is_named_like_a_topic(store):
    with pytest.raises(seglog.InvalidName, match="name of a group"):
        store.topic("orders").consumer("a/b")


def test_the_longest_name_works_for_topics_and_groups(store):
    topic = store.topic("t" * 200)
    topic.send(b"one")
    with topic.consumer("g" * 200) as consumer:
        assert [record.value for record in consumer.records(timeout=0)] == [b"one"]
