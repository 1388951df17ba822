"""What the topology says of a topic becomes paths and numbers: a record that no store would have written is told, not followed."""

import json

import pytest

import seglog
from seglog.engine.log import Log

SOUND = {"id": "0123456789abcdef", "config": {"partitions": 1}}


@pytest.fixture
def path(tmp_path):
    with seglog.open(tmp_path / "data") as store:
        store.topic("orders").send(b"one")
    return tmp_path / "data"


def say(path, key, value):
    with Log(path / "meta", fsync="always") as log:
        log.append(value, key)


@pytest.mark.parametrize(
    "thing",
    [[], "x", 5, {}, {"id": "0"}, {"config": {}}, SOUND | {"id": 7}, SOUND | {"id": "xyz"}, SOUND | {"id": "-1"}]
    + [SOUND | {"id": "f" * 17}, SOUND | {"config": []}, SOUND | {"config": None}],
    ids=repr,
)
def test_an_entry_that_says_no_topic_is_told(path, thing):
    say(path, b"topic/other", json.dumps(thing).encode())
    with pytest.raises(seglog.CorruptStore, match="no topology record"):
        seglog.open(path)


@pytest.mark.parametrize("name", ["", "..", "../../elsewhere", "/tmp/x", "a/b", ".hidden", "a\0b"])
def test_a_name_that_would_lead_elsewhere_is_told_and_nothing_is_removed(path, tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"mine")
    say(path, b"topic/" + name.encode(), json.dumps(SOUND).encode())
    say(path, b"topic/" + name.encode(), None)
    with pytest.raises(seglog.CorruptStore, match="no topology record"):
        seglog.open(path)
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"mine"


def test_a_record_nested_without_end_is_told(path):
    say(path, b"topic/other", b"[" * 100_000)
    with pytest.raises(seglog.CorruptStore, match="no topology record"):
        seglog.open(path)
