"""Committed positions: two slots in turn, so that whatever is torn, the last commit or the one before is read."""

import struct
import tempfile
from typing import NamedTuple

import pytest
import xxhash

import seglog
from seglog.engine.liveness import Liveness
from seglog.engine.log import Log
from seglog.positions import COUNT, PAIR, SECTOR, SLOT_BYTES, Commit, Positions, put

TOPIC = 0x1122334455667788


@pytest.fixture
def file(tmp_path):
    return tmp_path / "groups" / "billing" / "orders.positions"


class Opened:
    """The positions of a group, and a place in each partition; `commit` is that of the partition's owner."""

    def __init__(self, file, partitions=2, topic_id=TOPIC):
        self.held = Positions(str(file), topic_id=topic_id, partitions=partitions)
        self.liveness = Liveness(tempfile.mkdtemp(dir=file.parents[2]))
        self.now = 0
        self.logs = [
            Log(
                f"{self.liveness.path}/{partition}",
                partition=partition,
                topic="orders",
                liveness=self.liveness,
                fsync="never",
                clock=lambda: self.now,
            )
            for partition in range(self.held.partitions)
        ]
        self.places = [self.held.place(log) for log in self.logs]
        for place in self.places:
            place.log.append_many([b""] * 100)

    def commit(self, partition, offset, timestamp=0):
        self.now = timestamp
        place = self.places[partition]
        if place.owner == 0:
            place.take(self.liveness.word << 32 | 1)
        place.commit(offset)

    def committed(self, partition):
        mark = self.places[partition].committed()
        return None if mark is None else Mark(*mark)

    def __getattr__(self, name):
        return getattr(self.held, name)

    def close(self):
        for place in self.places:
            place.release()
        self.held.close()


class Mark(NamedTuple):
    offset: int
    epoch: int
    generation: int
    timestamp: int


opened = Opened


def slot_at(partition: int, slot: int) -> int:
    return PAIR * (1 + partition) + SECTOR * slot


def test_nothing_is_committed_at_first(file):
    positions = opened(file)
    assert [positions.committed(p) for p in range(2)] == [None, None]
    positions.close()


def test_a_commit_is_read_back_with_all_it_says(file):
    positions = opened(file)
    positions.commit(1, 40, timestamp=99)
    positions.commit(1, 41, timestamp=100)
    assert positions.committed(0) is None
    positions.close()
    positions = opened(file)
    last = positions.committed(1)
    assert (last.offset, last.epoch, last.timestamp) == (41, 1, 100)
    positions.close()


def test_commits_may_go_back(file):
    positions = opened(file)
    for offset in [5, 9, 2]:
        positions.commit(0, offset)
    assert positions.committed(0).offset == 2
    positions.close()


def test_the_bytes_are_what_the_format_says(file):
    """Read by the page alone: no constant of ours."""
    positions = opened(file, partitions=3)
    positions.commit(2, 7, timestamp=11)
    positions.commit(2, 8, timestamp=12)
    positions.close()
    data = file.read_bytes()
    assert len(data) == 1024 * 4
    best = None
    for sector in (3072, 3584):
        slot = data[sector : sector + 64]
        owner = 16 if sector == 3072 else 0  # transient: who may commit
        assert data[sector + 64 + owner : sector + 512] == bytes(448 - owner)
        magic, partition, offset, sequence, epoch, generation, topic, timestamp, reserved, hash_ = struct.unpack(
            "<4sIqQIIQqQQ", slot
        )
        assert (magic, partition, generation, topic, reserved) == (b"SLCP", 2, 0, TOPIC, 0)
        assert hash_ == xxhash.xxh3_64_intdigest(slot[:56])
        best = max(best or (0,), (sequence, offset, epoch, timestamp))
    assert best == (3, 8, 1, 12)
    assert struct.unpack_from("<4sIq", data, 0) == (b"SLCP", 0xFFFFFFFF, 3)


def test_every_torn_slot_falls_back_to_the_commit_before(file):
    positions = opened(file, partitions=1)
    for offset in [10, 20, 30]:
        positions.commit(0, offset)
    positions.close()
    data = file.read_bytes()
    a, b = (data[slot_at(0, n) : slot_at(0, n) + SLOT_BYTES] for n in (0, 1))
    newest = max((a, b), key=lambda slot: struct.unpack_from("<Q", slot, 16))
    at = data.index(newest)
    for cut in range(SLOT_BYTES):
        torn = bytearray(data)
        torn[at + cut] ^= 0x40
        file.write_bytes(torn)
        positions = opened(file, partitions=1)
        assert positions.committed(0).offset == 20
        positions.commit(0, 40)
        assert positions.committed(0).offset == 40
        positions.close()


def test_the_first_commit_is_safe_from_a_torn_slot_too(file):
    positions = opened(file, partitions=1)
    positions.commit(0, 10)
    positions.close()
    data = file.read_bytes()
    for slot in (0, 1):
        torn = bytearray(data)
        torn[slot_at(0, slot) + 9] ^= 1
        file.write_bytes(torn)
        positions = opened(file, partitions=1)
        assert positions.committed(0).offset == 10
        positions.close()


def test_two_damaged_slots_are_told_and_nothing_is_guessed(file):
    positions = opened(file)
    positions.commit(1, 10)
    positions.close()
    data = bytearray(file.read_bytes())
    for slot in (0, 1):
        data[slot_at(1, slot) + 9] ^= 1
    file.write_bytes(data)
    positions = opened(file)
    with pytest.raises(seglog.CorruptStore, match="both slots for partition 1 of orders are damaged"):
        positions.committed(1)
    assert positions.committed(0) is None
    positions.close()


def test_slots_that_were_swapped_between_partitions_are_not_believed(file):
    positions = opened(file)
    positions.commit(0, 10)
    positions.commit(1, 99)
    positions.close()
    data = file.read_bytes()
    file.write_bytes(data[:PAIR] + data[2 * PAIR :] + data[PAIR : 2 * PAIR])
    positions = opened(file)
    with pytest.raises(seglog.CorruptStore):
        positions.committed(0)
    positions.close()


@pytest.mark.parametrize("count", [0, -1, -(2**40), -(2**63), 3, 4097, 2**40, 2**62, 2**63 - 1])
def test_a_count_that_the_file_cannot_hold_is_damage_also_under_a_right_hash(file, count):
    opened(file).close()
    data = bytearray(file.read_bytes())
    for sequence in (1, 2):
        put(data, COUNT, Commit(count, sequence, 0, 0, 0), TOPIC)
    file.write_bytes(data)
    with pytest.raises(seglog.CorruptStore):
        opened(file)


@pytest.mark.parametrize(("offset", "sequence"), [(-1, 4), (5, 0), (5, 2**63), (5, 2**64 - 2)])
def test_what_no_commit_says_is_no_commit_also_under_a_right_hash(file, offset, sequence):
    opened(file).close()
    data = bytearray(file.read_bytes())
    put(data, 0, Commit(7, 3, 1, 0, 0), TOPIC)
    put(data, 0, Commit(offset, sequence, 1, 0, 0), TOPIC)
    file.write_bytes(data)
    positions = opened(file)
    assert positions.committed(0).offset == 7
    positions.commit(0, 8)
    assert positions.committed(0).offset == 8
    positions.close()


def test_every_truncation_is_told_or_harmless(file):
    positions = opened(file)
    positions.commit(0, 10)
    positions.commit(1, 20)
    positions.close()
    data = file.read_bytes()
    for size in range(0, len(data), 64):
        file.write_bytes(data[:size])
        with pytest.raises(seglog.CorruptStore, match="delete that file"):
            opened(file)
        assert file.read_bytes() == data[:size]


def test_growing_keeps_what_is_committed(file):
    positions = opened(file, partitions=1)
    positions.commit(0, 10)
    positions.grow(3)
    positions.close()
    positions = opened(file, partitions=3)
    positions.commit(2, 30)
    positions.close()
    positions = opened(file, partitions=3)
    assert positions.committed(0).offset == 10
    assert positions.committed(1) is None
    assert positions.committed(2).offset == 30
    positions.close()


def test_a_growth_that_a_crash_interrupted_is_done_again(file):
    positions = opened(file, partitions=1)
    positions.commit(0, 10)
    positions.close()
    file.write_bytes(file.read_bytes() + bytes(700))
    positions = opened(file, partitions=3)
    assert positions.committed(0).offset == 10
    assert [positions.committed(p) for p in (1, 2)] == [None, None]
    positions.close()


def test_another_topic_of_the_same_name_begins_anew(file):
    positions = opened(file)
    positions.commit(0, 10)
    positions.close()
    positions = opened(file, topic_id=TOPIC + 1)
    assert positions.committed(0) is None
    positions.close()


def test_a_commit_by_anybody_but_the_owner_is_fenced(file):
    first, second = opened(file, partitions=1), opened(file, partitions=1)
    place, other = first.places[0], second.places[0]
    with pytest.raises(seglog.Fenced):
        place.commit(1)
    place.take(7)
    place.commit(10)
    assert other.owner == 7
    other.take(8)
    with pytest.raises(seglog.Fenced, match="belongs to another member"):
        place.commit(11)
    place.release()  # is not its own any more
    assert other.owner == 8 and other.committed()[0] == 10
    other.commit(12)
    other.expel()
    with pytest.raises(seglog.Fenced):
        other.commit(13)
    first.close()
    second.close()


def test_an_owner_of_another_boot_or_in_a_copied_file_is_nobody(file, tmp_path):
    positions = opened(file, partitions=1)
    positions.commit(0, 10)
    copy = tmp_path / "groups" / "billing" / "copy.positions"
    copy.write_bytes(file.read_bytes())
    copied = opened(copy, partitions=1)
    assert positions.places[0].owner != 0 and copied.places[0].owner == 0
    assert copied.committed(0).offset == 10
    copied.close()
    positions.close()


def test_a_commit_of_what_is_not_there_is_refused(file):
    positions = opened(file)
    positions.commit(0, 100)
    for offset in (101, -1, 1 << 62):
        with pytest.raises(seglog.OffsetOutOfRange, match="Nothing was committed"):
            positions.commit(0, offset)
    assert positions.committed(0).offset == 100
    positions.close()
    with pytest.raises(seglog.ClosedError):
        positions.places[0].take(1)
        positions.places[0].commit(5)


def test_a_failed_sync_is_final(file, monkeypatch):
    from seglog import positions as module

    def broken(fd):
        raise OSError(5, "Input/output error")

    positions = opened(file)
    positions.commit(0, 10)
    monkeypatch.setattr(module, "sync_data", broken)
    with pytest.raises(seglog.StoreIOError, match="sync the committed positions"):
        positions.sync()
    monkeypatch.undo()
    for ask in (positions.sync, lambda: positions.commit(0, 11)):
        with pytest.raises(seglog.StoreIOError, match="failed before"):
            ask()
    positions.close()
    positions = opened(file)
    positions.places[0].take(1)
    assert positions.dirty  # what the kernel may wrongly call clean is written again
    positions.sync()
    positions.close()


def test_a_member_of_a_process_slot_that_was_used_for_long(file):
    """Its word has its highest bit set: 32,768 processes had the slot before."""
    positions = opened(file, partitions=1)
    member = 0x8086_0001 << 32 | 5
    positions.places[0].take(member)
    assert positions.places[0].owner == member
    positions.places[0].commit(5)
    positions.places[0].release()
    assert positions.places[0].owner == 0
    positions.close()
