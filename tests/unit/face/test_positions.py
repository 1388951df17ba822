"""Committed positions: two slots in turn, so that whatever is torn, the last commit or the one before is read."""

import os
import struct
import subprocess
import sys

import pytest
import xxhash

import seglog
from seglog.positions import COUNT, PAIR, SECTOR, SLOT_BYTES, Commit, Positions, put

TOPIC = 0x1122334455667788


@pytest.fixture
def file(tmp_path):
    return tmp_path / "groups" / "billing" / "orders.positions"


def opened(file, partitions=2, topic_id=TOPIC) -> Positions:
    return Positions(str(file), topic_id=topic_id, partitions=partitions)


def slot_at(partition: int, slot: int) -> int:
    return PAIR * (1 + partition) + SECTOR * slot


def test_nothing_is_committed_at_first(file):
    positions = opened(file)
    assert [positions.committed(p) for p in range(2)] == [None, None]
    positions.close()


def test_a_commit_is_read_back_with_all_it_says(file):
    positions = opened(file)
    positions.commit(1, 40, epoch=3, timestamp=99)
    positions.commit(1, 41, epoch=4, timestamp=100)
    assert positions.committed(0) is None
    positions.close()
    positions = opened(file)
    last = positions.committed(1)
    assert (last.offset, last.epoch, last.timestamp) == (41, 4, 100)
    positions.close()


def test_commits_may_go_back(file):
    positions = opened(file)
    for offset in [5, 9, 2]:
        positions.commit(0, offset, 1, 0)
    assert positions.committed(0).offset == 2
    positions.close()


def test_the_bytes_are_what_the_format_says(file):
    """Read by the page alone: no constant of ours."""
    positions = opened(file, partitions=3)
    positions.commit(2, 7, epoch=5, timestamp=11)
    positions.commit(2, 8, epoch=6, timestamp=12)
    positions.close()
    data = file.read_bytes()
    assert len(data) == 1024 * 4
    best = None
    for sector in (3072, 3584):
        slot = data[sector : sector + 64]
        assert data[sector + 64 : sector + 512] == bytes(448)
        magic, partition, offset, sequence, epoch, generation, topic, timestamp, reserved, hash_ = struct.unpack(
            "<4sIqQIIQqQQ", slot
        )
        assert (magic, partition, generation, topic, reserved) == (b"SLCP", 2, 0, TOPIC, 0)
        assert hash_ == xxhash.xxh3_64_intdigest(slot[:56])
        best = max(best or (0,), (sequence, offset, epoch, timestamp))
    assert best == (3, 8, 6, 12)
    assert struct.unpack_from("<4sIq", data, 0) == (b"SLCP", 0xFFFFFFFF, 3)


def test_every_torn_slot_falls_back_to_the_commit_before(file):
    positions = opened(file, partitions=1)
    for offset in [10, 20, 30]:
        positions.commit(0, offset, 1, 0)
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
        positions.commit(0, 40, 1, 0)
        assert positions.committed(0).offset == 40
        positions.close()


def test_the_first_commit_is_safe_from_a_torn_slot_too(file):
    positions = opened(file, partitions=1)
    positions.commit(0, 10, 1, 0)
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
    positions.commit(1, 10, 1, 0)
    positions.close()
    data = bytearray(file.read_bytes())
    for slot in (0, 1):
        data[slot_at(1, slot) + 9] ^= 1
    file.write_bytes(data)
    positions = opened(file)
    with pytest.raises(seglog.CorruptStore, match="two damaged slots for partition 1"):
        positions.committed(1)
    assert positions.committed(0) is None
    positions.close()


def test_slots_that_were_swapped_between_partitions_are_not_believed(file):
    positions = opened(file)
    positions.commit(0, 10, 1, 0)
    positions.commit(1, 99, 1, 0)
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
    positions.commit(0, 8, 1, 0)
    assert positions.committed(0).offset == 8
    positions.close()


def test_every_truncation_is_told_or_harmless(file):
    positions = opened(file)
    positions.commit(0, 10, 1, 0)
    positions.commit(1, 20, 1, 0)
    positions.close()
    data = file.read_bytes()
    for size in range(0, len(data), 64):
        file.write_bytes(data[:size])
        with pytest.raises(seglog.CorruptStore, match="delete that file"):
            opened(file)
        assert file.read_bytes() == data[:size]


def test_growing_keeps_what_is_committed(file):
    positions = opened(file, partitions=1)
    positions.commit(0, 10, 1, 0)
    positions.grow(3)
    positions.commit(2, 30, 1, 0)
    positions.close()
    positions = opened(file, partitions=3)
    assert positions.committed(0).offset == 10
    assert positions.committed(1) is None
    assert positions.committed(2).offset == 30
    positions.close()


def test_a_growth_that_a_crash_interrupted_is_done_again(file):
    positions = opened(file, partitions=1)
    positions.commit(0, 10, 1, 0)
    positions.close()
    file.write_bytes(file.read_bytes() + bytes(700))
    positions = opened(file, partitions=3)
    assert positions.committed(0).offset == 10
    assert [positions.committed(p) for p in (1, 2)] == [None, None]
    positions.close()


def test_another_topic_of_the_same_name_begins_anew(file):
    positions = opened(file)
    positions.commit(0, 10, 1, 0)
    positions.close()
    positions = opened(file, topic_id=TOPIC + 1)
    assert positions.committed(0) is None
    positions.close()


def test_a_commit_is_seen_by_another_process_at_once_and_survives_kill(file):
    code = f"""
import os, signal
from seglog.positions import Positions
positions = Positions({str(file)!r}, topic_id={TOPIC}, partitions=2)
positions.commit(1, 77, 1, 0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    positions = opened(file)
    subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert positions.committed(1).offset == 77
    positions.close()


def test_a_claim_is_freed_by_close(file):
    first, second = opened(file), opened(file)
    first.claim("billing", "orders")
    with pytest.raises(seglog.GroupInUse):
        second.claim("billing", "orders")
    first.close()
    second.claim("billing", "orders")
    second.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_neither_commits_nor_keeps_the_claim(file):
    positions = opened(file)
    positions.claim("billing", "orders")
    positions.commit(0, 10, 1, 0)
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(go[1])  # so that the parent's end, if it comes first, ends the read below
            try:
                positions.commit(0, 99, 1, 0)
            except seglog.ForkedHandle:
                code = 0
            os.write(ready[1], b"!")
            os.read(go[0], 1)
        finally:
            os._exit(code)
    try:
        os.read(ready[0], 1)
        positions._release()  # without an unlock, as a kill would; the child is still there
        heir = opened(file)
        heir.claim("billing", "orders")
        assert heir.committed(0).offset == 10
        heir.close()
    finally:
        os.write(go[1], b"!")
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for end in (*ready, *go):
            os.close(end)
    assert code == 0


def test_a_failed_sync_is_final(file, monkeypatch):
    from seglog import positions as module

    def broken(fd):
        raise OSError(5, "Input/output error")

    positions = opened(file)
    positions.commit(0, 10, 1, 0)
    monkeypatch.setattr(module, "sync_data", broken)
    with pytest.raises(seglog.StoreIOError, match="sync the committed positions"):
        positions.sync()
    monkeypatch.undo()
    for ask in (positions.sync, lambda: positions.commit(0, 11, 1, 0)):
        with pytest.raises(seglog.StoreIOError, match="failed before"):
            ask()
    positions.close()
    positions = opened(file)
    positions.claim("billing", "orders")
    assert positions.dirty  # what the kernel may wrongly call clean is written again
    positions.sync()
    positions.close()
