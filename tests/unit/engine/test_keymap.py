"""The map of keys: it says when it is full, and forgets nothing before."""

import pytest

from seglog.engine.keymap import Keymap


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_it_remembers_the_last_offsets_of_every_key_until_it_is_full(rng, keep):
    keymap = Keymap(100_000, keep=keep)
    seen: dict[bytes, list[int]] = {}
    for offset in range(20_000):
        key = b"%d" % rng.randrange(5000)
        if not keymap.learn(key, offset):
            assert key not in seen
            break
        seen.setdefault(key, []).append(offset)
    assert len(keymap) == len(seen) == keymap.limit
    for key, offsets in seen.items():
        assert keymap.last(key) == offsets[-1]
        for offset in offsets:
            assert keymap.is_superseded(key, offset) == (offset not in offsets[-keep:])
    assert keymap.last(b"never") is None
    assert not keymap.is_superseded(b"never", 0)


@pytest.mark.parametrize("memory", [1 << 14, 1 << 18, 1_000_000, 1 << 20])
def test_it_takes_no_more_memory_than_it_was_given_also_while_it_grows(memory):
    keymap, largest = Keymap(memory), 0
    for n in range(memory):
        before = keymap.memory
        if not keymap.learn(b"%d" % n, n):
            break
        largest = max(largest, keymap.memory + (before if before != keymap.memory else 0))
    assert largest <= memory
    assert len(keymap) == keymap.limit >= memory // 40 - 2
    assert all(keymap.last(b"%d" % n) == n for n in range(len(keymap)))


def test_a_tombstone_ends_what_is_before_it_however_many_are_kept():
    keymap = Keymap(1 << 16, keep=3)
    for offset, tombstone in enumerate([False, True, False]):
        assert keymap.learn(b"k", offset, tombstone)
    assert [keymap.is_superseded(b"k", offset) for offset in range(3)] == [True, False, False]


def test_an_empty_key_is_a_key():
    keymap = Keymap(1 << 16)
    assert keymap.learn(b"", 7)
    assert keymap.last(b"") == 7


def test_nothing_is_kept_of_nothing():
    with pytest.raises(ValueError, match="at least the last"):
        Keymap(1 << 16, keep=0)
