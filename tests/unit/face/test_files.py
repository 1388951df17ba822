"""Names: a directory is durable before anything in it is promised, whoever made it."""

import os
import sys

import pytest

import seglog
from seglog.engine.log import Log

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which directory was synced")


@pytest.fixture
def synced(monkeypatch):
    """The paths that were given to fsync."""
    paths, real = set(), os.fsync

    def fsync(fd):
        paths.add(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


@pytest.mark.parametrize("opened", [seglog.open, Log])
def test_names_that_a_process_made_and_died_before_it_synced_them_are_durable_when_the_next_one_has_opened(
    tmp_path, synced, opened
):
    """A power cut then took the whole store along, with all that was acknowledged since."""
    path = tmp_path / "a" / "b" / "store"
    path.mkdir(parents=True)
    opened(path).close()
    assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b"), str(path)} <= synced


def test_so_are_those_of_a_topic_and_of_a_group(tmp_path, synced):
    with seglog.open(tmp_path / "store") as store:
        topic, groups = tmp_path / "store" / "topics" / "orders", tmp_path / "store" / "groups"
        (topic / "0").mkdir(parents=True)
        (groups / "billing").mkdir(parents=True)
        synced.clear()
        orders = store.topic("orders")
        assert {str(store.path), str(topic.parent), str(topic), str(topic / "0")} <= synced
        synced.clear()
        orders.consumer("billing").close()
        assert {str(store.path), str(groups), str(groups / "billing")} <= synced


def test_a_store_that_is_there_costs_no_syncs_above_it(tmp_path, synced):
    seglog.open(tmp_path / "store").close()
    synced.clear()
    seglog.open(tmp_path / "store").close()
    assert str(tmp_path) not in synced
