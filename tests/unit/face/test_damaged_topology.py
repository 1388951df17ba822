"""A damaged topology is no reason to remove anything: the last word that is left may not be the last that was said."""

import shutil

import pytest

import seglog
from seglog.engine.losses import Loss, write_quarantine


@pytest.fixture
def damaged(tmp_path):
    """A topic deleted and made anew, whose second making is damaged in meta."""
    path = tmp_path / "data"
    with seglog.open(path) as store:
        store.topic("orders").send(b"old")
        store.delete_topic("orders")
        store.topic("orders").send_many([b"one", b"two", b"three"])
    (log,) = (path / "meta").glob("*.log")
    data = bytearray(log.read_bytes())
    data[data.rfind(b'"partitions"') + 3] ^= 1
    log.write_bytes(data)
    return path


def records(path):
    return {file.relative_to(path): file.read_bytes() for file in (path / "topics").rglob("*.log")}


def test_an_open_that_skips_damage_removes_no_topic(damaged):
    before = records(damaged)
    assert before
    for _ in range(2):
        with seglog.open(damaged, recover="skip") as store:
            assert store.verify()
        assert records(damaged) == before


def test_a_topic_is_not_made_over_files_that_a_damaged_topology_cannot_explain(damaged):
    before = records(damaged)
    with seglog.open(damaged, recover="skip") as store, pytest.raises(seglog.CorruptStore, match="nothing was changed"):
        store.topic("orders")
    assert records(damaged) == before


def test_files_whose_topic_is_forgotten_are_taken_over_when_that_damage_was_set_aside_and_not_before(tmp_path):
    path = tmp_path / "data"
    with seglog.open(path) as store:
        store.topic("orders").send_many([b"one", b"two"])
        store.topic("other")
    (log,) = (path / "meta").glob("*.log")
    data = bytearray(log.read_bytes())
    data[data.find(b'"partitions"') + 3] ^= 1
    log.write_bytes(data)
    with seglog.open(path, recover="skip") as store, pytest.raises(seglog.CorruptStore, match="doctor"):
        store.topic("orders")
    write_quarantine(str(path / "meta"), 0, [Loss("corrupt", str(log), 4096, 0, 1, 0, "looked at")], 0)
    with seglog.open(path) as store:
        assert store.topics() == ["other"]
        assert [record.value for record in store.topic("orders").read()] == [b"one", b"two"]


def test_damage_before_a_deletion_casts_no_doubt_on_it(tmp_path):
    path = tmp_path / "data"
    with seglog.open(path) as store:
        store.topic("orders").send(b"old")
    shutil.copytree(path / "topics", tmp_path / "kept")
    with seglog.open(path) as store:
        store.delete_topic("orders")
    shutil.copytree(tmp_path / "kept", path / "topics", dirs_exist_ok=True)
    (log,) = (path / "meta").glob("*.log")
    data = bytearray(log.read_bytes())
    data[data.find(b'"partitions"') + 3] ^= 1
    log.write_bytes(data)
    with seglog.open(path, recover="skip"):
        assert not records(path)


def test_a_sound_topology_still_finishes_a_deletion_that_was_cut_short(tmp_path):
    path = tmp_path / "data"
    with seglog.open(path) as store:
        store.topic("orders").send(b"old")
    shutil.copytree(path / "topics", tmp_path / "kept")
    with seglog.open(path) as store:
        store.delete_topic("orders")
    shutil.rmtree(path / "topics")
    shutil.copytree(tmp_path / "kept", path / "topics")  # the deletion is written down, the files are still there
    assert records(path)
    with seglog.open(path):
        assert not records(path)
