"""The topic as a table, and the last record of a key."""

import os
import threading
import time

import pytest

import seglog

KIB64 = 65_536


@pytest.fixture
def store(tmp_path):
    with seglog.open(tmp_path / "data", upkeep=False, segment_bytes=KIB64) as store:
        yield store


def test_a_table_is_a_mapping_of_the_last_values(store):
    stock = store.topic("stock", partitions=3)
    stock.send_many([b"1", b"2", None, b"3", b"4"], keys=[b"a", b"b", b"b", b"a", None])
    with stock.table() as table:
        assert dict(table) == {b"a": b"3"}
        assert (b"a" in table, b"b" in table, table.get(b"b"), len(table)) == (True, False, None, 1)
        with pytest.raises(KeyError):
            table[b"b"]
        with pytest.raises(TypeError):
            table[b"a"] = b"5"


def test_it_follows_what_any_process_sends_and_partitions_that_are_added(store, tmp_path):
    stock = store.topic("stock")
    with stock.table() as table, seglog.open(tmp_path / "data", upkeep=False) as other:
        assert len(table) == 0
        other.topic("stock").send(b"1", key=b"a")
        assert table[b"a"] == b"1"
        other.topic("stock").add_partitions(4)
        for n in range(20):
            other.topic("stock").send(b"%d" % n, key=b"k%d" % n)
        assert len(table) == 21
        other.topic("stock").send(None, key=b"k7")
        assert b"k7" not in table


def test_it_is_the_same_before_and_after_a_compaction(store):
    stock = store.topic("stock", compact=True, tombstone_grace=0)
    with stock.table() as table:
        for n in range(3000):
            stock.send(None if n % 7 == 0 else b"x" * 50, key=b"%d" % (n % 300))
            if n % 1000 == 500:
                stock.compact()
        before = dict(table)
        stock.compact()
        assert dict(table) == before
        with stock.table() as again:
            assert dict(again) == before


def test_wait_for_returns_when_the_table_has_it(store):
    stock = store.topic("stock", partitions=2)
    with stock.table() as table:
        where = stock.send(b"1", key=b"a")
        assert table.wait_for(where, timeout=5)
        assert not table.wait_for((where.partition, where.offset + 1), timeout=0.05)
        assert not table.wait_for((7, 0), timeout=0.05)
        later = threading.Timer(0.1, lambda: stock.send(b"2", key=b"a"))
        later.start()
        began = time.monotonic()
        assert table.wait_for((where.partition, where.offset + 1), timeout=10)
        assert time.monotonic() - began < 5
        assert table[b"a"] == b"2"
        later.join()


def test_wait_for_does_not_wait_for_a_record_that_was_compacted_away(store):
    stock = store.topic("stock", compact=True)
    places = [stock.send(b"%d" % n, key=b"k") for n in range(10)]
    stock.compact()
    with stock.table() as table:
        assert all(table.wait_for(place, timeout=1) for place in places)


def test_a_closed_table_says_so(store):
    stock = store.topic("stock")
    table = stock.table()
    table.close()
    table.close()
    for ask in (lambda: table[b"k"], lambda: len(table), lambda: list(table), table.refresh, lambda: b"k" in table):
        with pytest.raises(seglog.ClosedError):
            ask()
    with pytest.raises(seglog.ClosedError):
        table.wait_for((0, 0), timeout=1)
    assert "closed" in repr(table)


def test_it_says_what_it_is(store):
    with store.topic("stock").table() as table:
        assert repr(table) == "<Table of stock, 0 keys>"


def test_a_table_over_a_trim_keeps_what_it_has(store):
    stock = store.topic("stock")
    stock.send(b"1", key=b"a")
    with stock.table() as table:
        stock.send(b"2", key=b"b")
        stock.trim(before=2)
        stock.send(b"3", key=b"c")
        assert dict(table) == {b"a": b"1", b"c": b"3"}


def test_threads_may_share_it(store):
    stock = store.topic("stock")
    with stock.table() as table:
        def look():
            for _ in range(300):
                assert set(table) <= {b"a", b"b"}

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for n in range(2000):
            stock.send(b"%d" % n, key=b"ab"[n % 2 : n % 2 + 1])
        for thread in threads:
            thread.join()
        assert dict(table) == {b"a": b"1998", b"b": b"1999"}


# -- the last record of a key -----------------------------------------------------------------------------------------


def test_latest_is_the_last_record_with_the_key(store):
    stock = store.topic("stock", partitions=2)
    assert stock.latest(b"a") is None
    stock.send(b"1", key=b"a", headers={"h": b"1"})
    stock.send(b"2", key=b"b")
    assert stock.latest(b"a").headers == {"h": b"1"}
    stock.send(b"3", key=b"a")
    assert stock.latest(b"a").value == b"3"
    stock.send(None, key=b"a")
    assert stock.latest(b"a").value is None
    assert stock.latest(b"") is None


@pytest.mark.parametrize("compacted", [False, True])
def test_latest_over_many_segments_trims_and_compactions(store, rng, compacted):
    stock = store.topic("stock", compact=compacted, tombstone_grace=0)
    last = {}
    for _ in range(8):
        for _ in range(400):
            key, value = b"%d" % rng.randrange(300), rng.choice([None, b"x" * 300, b"y"])
            last[key] = stock.send(value, key=key), value
        if compacted and rng.random() < 0.7:
            stock.compact()
        elif rng.random() < 0.3:
            stock.trim(max(0, stock.next_offset() - 600))
        for key in rng.sample(sorted(last), 40):
            found = stock.latest(key)
            where, value = last[key]
            if found is None:
                assert where.offset < stock.first_offset() or (compacted and value is None)
            else:
                assert (found.position, found.value) == (where, value)


def test_latest_finds_what_lies_in_another_partition(store):
    stock = store.topic("stock", partitions=4)
    for partition in range(4):
        stock.send(b"%d" % partition, key=b"only in %d" % partition, partition=partition)
    for partition in range(4):
        assert stock.latest(b"only in %d" % partition).value == b"%d" % partition
    custom = store.topic("custom", partitions=2, partitioner=lambda key, n: key[0] % n)
    custom.send(b"v", key=b"k")
    assert custom.latest(b"k").value == b"v"


def test_what_it_remembers_is_bounded(store, monkeypatch):
    monkeypatch.setattr("seglog.table.FINDER_BYTES", 1 << 20)
    stock = store.topic("stock")
    for base in range(0, 120_000, 1000):
        stock.send_many([b"v"] * 1000, keys=[b"%d" % n for n in range(base, base + 1000)])
    for n in (0, 119_999, 50_000, 7):
        assert stock.latest(b"%d" % n).offset == n
    assert stock.latest(b"none") is None
    maps = stock._finder._maps
    assert sum(keymap.memory for _, _, keymap in maps.values()) <= 1 << 20 or len(maps) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_another_process_finds_it_too(store, tmp_path):
    stock = store.topic("stock")
    stock.send(b"1", key=b"a")
    assert stock.latest(b"a").value == b"1"
    with seglog.open(tmp_path / "data", upkeep=False) as other:
        other.topic("stock").send(b"2", key=b"a")
    assert stock.latest(b"a").value == b"2"
