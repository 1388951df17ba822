"""The doctor and queues: damage to what a queue knows of its messages is told or harmless; no message is lost, none invented."""

import os
import random
import shutil
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import seglog
from crash.scratch import folder
from seglog import doctor
from seglog.doctor.chunk import BLOCK, FIRST, SIZE, SLOT_BYTES, SLOTS, TABLE, Chunk, checks, ready_word

SENT, ACKED = 300, 200  # so that there are acked, returned and untouched ones
FILES = "topics/~jobs/queue"


@pytest.fixture(scope="module")
def memory():
    with folder("doctor") as path:
        yield path


@pytest.fixture(scope="module")
def made(memory):
    """200 of 300 messages are settled, 20 came back, the others were never handed out; 3 are delayed."""
    path = memory / "made"
    with seglog.open(path, upkeep=False) as store:
        jobs = store.queue("jobs", max_attempts=0)
        jobs.send_many([b"%d" % n for n in range(SENT)])
        got = jobs.receive(ACKED + 20, timeout=0)
        jobs.ack(got[:ACKED])
        jobs.release(got[ACKED:])
        jobs.send_many([b"late %d" % n for n in range(3)], delay=3600)
        jobs.upkeep()
        store.sync()
    return path


def copied(made, memory, same_boot):
    path = Path(tempfile.mkdtemp(dir=memory)) / "data"
    # Sparse, as it was: a chunk is 2 MB of holes.
    shutil.copytree(made, path, copy_function=copy_sparse)
    for file in [*path.rglob("shm"), *path.rglob("tail.shm")]:
        if same_boot:
            status = file.stat()
            with open(file, "r+b") as f:
                f.seek(24)
                f.write(struct.pack("<QQ", status.st_dev, status.st_ino))
        else:
            file.unlink()
    return path


def copy_sparse(source, target):
    with open(source, "rb") as old, open(target, "wb") as new:
        while page := old.read(4096):
            if page.count(0) == len(page):
                new.seek(len(page), os.SEEK_CUR)
            else:
                new.write(page)
        new.truncate(old.tell())
    return target


@pytest.fixture(params=["same boot", "next boot"])
def path(request, made, memory):
    path = copied(made, memory, request.param == "same boot")
    yield path
    shutil.rmtree(path.parent)


def flip(file, position, bit):
    with open(file, "r+b") as f:
        f.seek(position)
        byte = f.read(1)[0]
        f.seek(position)
        f.write(bytes([byte ^ 1 << bit]))


def told(report):
    return [(f.kind, f.severity, os.path.basename(f.path)) for f in report.findings if f.severity != "note"]


def received(path):
    """Everything that comes, also after two hours and new messages; values."""
    clock = seglog.ManualClock(time.time_ns() // 1000)
    with seglog.open(path, upkeep=False, clock=clock) as store:
        jobs = store.queue("jobs")
        jobs.send_many([b"new %d" % n for n in range(50)])
        found = []
        for _ in range(2):
            while some := jobs.receive(1000, timeout=0):
                jobs.ack(some)
                found += [message.value for message in some]
            clock.advance(7200)
        return found


OPEN = {b"%d" % n for n in range(ACKED, SENT)} | {b"late %d" % n for n in range(3)} | {b"new %d" % n for n in range(50)}
ALL = OPEN | {b"%d" % n for n in range(ACKED)}


def nothing_lost_or_invented(found):
    assert len(found) == len(set(found)), "a message came twice"
    assert set(found) >= OPEN, f"lost {sorted(OPEN - set(found))[:5]}"
    assert set(found) <= ALL, f"invented {sorted(set(found) - ALL)[:5]}"


# ---- nothing wrong ----------------------------------------------------------------------------------


def test_a_sound_queue_is_told_to_be_sound(path):
    report = doctor.examine(path)
    assert (report.findings, report.sound) == ((), True)
    names = [partition.name for partition in report.partitions]
    assert "queue jobs/0" in names and not any("~" in name for name in names)
    assert doctor.repair(path).changes == ()
    found = received(path)
    nothing_lost_or_invented(found)
    assert set(found) == OPEN


@pytest.mark.parametrize("settings", [{"fifo": True}, {"fair": True}, {"ttl": 3600}, {"priorities": 3}, {"max_length": 900}])
def test_queues_of_each_kind_at_work_are_sound(tmp_path, settings):
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        q = store.queue("jobs", **settings)
        for n in range(200):
            q.send(b"%d" % n, group=b"%d" % (n % 7), ttl=[None, 100, 1e6][n % 3], delay=[None, 50][n % 11 == 0])
        got = q.receive(20, timeout=0)
        for n, message in enumerate(got):
            [message.ack, message.nack, message.release, lambda m=message: m.nack(delay=60), lambda: None][n % 5]()
        with store.transaction() as tx:
            q.ack(q.receive(2, timeout=0), tx)
        store.upkeep()
        report = doctor.examine(tmp_path / "data")
        assert (told(report), report.sound) == ([], True)
    assert told(doctor.examine(tmp_path / "data")) == []
    for file in [*tmp_path.rglob("shm"), *tmp_path.rglob("tail.shm")]:
        file.unlink()
    assert told(doctor.examine(tmp_path / "data")) == []


def test_the_check_is_that_of_the_engine(made):
    data = (made / FILES / "0-0").read_bytes()
    slots = np.frombuffer(data, "<u8", SLOTS * 4, FIRST)[::4]
    touched = np.flatnonzero(slots)
    assert len(touched) == ACKED + 20
    words = slots[touched]
    assert (words >> np.uint64(48) == checks(words & np.uint64((1 << 48) - 1), touched)).all()
    assert ready_word(7) & 7 == 1


# ---- damage -----------------------------------------------------------------------------------------


def mended(path, expected):
    """Repair, whose report must be sound, leaves a queue that gives everything; what comes, and the report."""
    report = doctor.examine(path)
    assert told(report) == expected
    assert report.sound is not any(severity == "damage" for _, severity, _ in expected)
    assert report.losses == (), "no record is lost by it"
    assert all("queue jobs" in finding.meaning for finding in report.findings)
    healed = doctor.repair(path)
    assert (healed.failures, told(healed), healed.sound) == ((), [], True)
    assert doctor.repair(path).changes == ()
    found = received(path)
    nothing_lost_or_invented(found)
    return found, healed


def test_a_word_that_rotted_costs_one_second_delivery(path):
    flip(path / FILES / "0-0", FIRST + 7 * SLOT_BYTES + 2, 5)
    before = (path / FILES / "0-0").read_bytes()
    found, _ = mended(path, [("corrupt", "damage", "0-0")])
    assert set(found) == OPEN | {b"7"}
    assert (path / FILES / "0-0.bad").read_bytes() == before, "what it was is not kept"


def test_a_header_that_rotted_has_everything_come_again(path):
    flip(path / FILES / "0-0", 20, 3)
    found, _ = mended(path, [("corrupt", "damage", "0-0")])
    assert set(found) == ALL
    assert (path / FILES / "0-0.bad").exists()


def test_a_chunk_of_another_place_is_told(path):
    shutil.copy(path / FILES / "1-0", path / FILES / "0-0")
    _, healed = mended(path, [("corrupt", "damage", "0-0")])
    assert "chunk 0 of priority 1" in healed.mended[0].meaning


def test_a_moment_that_rotted_drops_no_message(path):
    flip(path / FILES / "0-0", FIRST + (ACKED + 3) * SLOT_BYTES + 8 + 5, 0)  # it came back; now it "expired" in 1970
    flip(path / FILES / "0-0", FIRST + (SENT - 1) * SLOT_BYTES + 8 + 5, 0)  # nobody has had it
    found, _ = mended(path, [("corrupt", "damage", "0-0")])
    assert set(found) == OPEN


def test_a_delay_that_rotted_is_that_of_the_message_again(path):
    flip(path / FILES / "1-0", FIRST + SLOT_BYTES + 8 + 7, 6)  # due in 146,000 years
    found, _ = mended(path, [("corrupt", "damage", "1-0")])
    assert set(found) == OPEN


def test_counts_of_this_boot_are_compared_with_the_words(made, memory):
    path = copied(made, memory, same_boot=True)
    flip(path / FILES / "0-0", TABLE + (ACKED // BLOCK) * 32 + 16 + 1, 3)
    found, _ = mended(path, [("derived", "damage", "0-0")])
    assert set(found) == OPEN
    path = copied(made, memory, same_boot=False)
    flip(path / FILES / "0-0", TABLE + (ACKED // BLOCK) * 32 + 16 + 1, 3)
    assert told(doctor.examine(path)) == [], "the next boot makes them anew"


def test_bits_flipped_in_every_512_bytes_of_a_chunk_lose_no_message(made, memory):
    """Told, and then repaired; or not told, and then harmless. All regions that hold something, and some of the empty ones."""
    seed = int(os.environ.get("SEGLOG_SEED") or random.randrange(1 << 32))
    print(f"seed {seed:#x}")
    chance = random.Random(seed)
    full = range((FIRST + SENT * SLOT_BYTES) // 512 + 2)
    some = [0, *(TABLE // 512 + n for n in range(2)), *range(FIRST // 512, full.stop), *chance.sample(range(SIZE // 512), 24)]
    regions = range(SIZE // 512) if os.environ.get("SEGLOG_LONG") else some
    harmless = 0
    for number, region in enumerate(regions):
        path = copied(made, memory, same_boot=bool(number & 1))
        place = region * 512 + chance.randrange(512), chance.randrange(8)
        flip(path / FILES / "0-0", *place)
        before = (path / FILES / "0-0").read_bytes()
        try:
            report = doctor.examine(path)
            if told(report):
                healed = doctor.repair(path)
                assert (healed.failures, told(healed)) == ((), [])
            else:
                harmless += 1
                assert (path / FILES / "0-0").read_bytes() == before, "examine changed something"
            nothing_lost_or_invented(received(path))
        except AssertionError as error:
            raise AssertionError(f"seed {seed:#x}, byte {place[0]:,}, bit {place[1]}, {number & 1}: {error}") from error
        finally:
            shutil.rmtree(path.parent)
    assert harmless


def test_a_bit_of_any_word_is_noticed(made):
    """All 48 bits that mean something, and the 16 of the check."""
    data = bytearray((made / FILES / "0-0").read_bytes())
    partition_id = struct.unpack_from("<Q", data, 24)[0]
    assert len(Chunk(bytes(data), 0, 0, partition_id).damaged) == 0
    for slot in (0, 1, ACKED, SENT, SLOTS - 1):
        for bit in range(64):
            at = FIRST + slot * SLOT_BYTES + bit // 8
            data[at] ^= 1 << bit % 8
            assert Chunk(bytes(data), 0, 0, partition_id).damaged.tolist() == [slot]
            data[at] ^= 1 << bit % 8


@pytest.mark.parametrize("size", [0, 31, 100, TABLE, FIRST + 100, SIZE - 1, SIZE + 1])
def test_a_chunk_of_another_size_loses_no_message(path, size):
    os.truncate(path / FILES / "0-0", size)
    report = doctor.examine(path)
    if told(report):
        assert doctor.repair(path).sound
    nothing_lost_or_invented(received(path))


def test_what_cannot_be_read_is_told_and_ends_nothing(path):
    os.unlink(path / FILES / "0-0")
    os.mkdir(path / FILES / "0-0")
    report = doctor.examine(path)
    assert told(report) == [("unreadable", "unexamined", "0-0")]
    assert doctor.repair(path).failures == ()


def test_what_lies_beside_the_states_is_named(path):
    folder = path / FILES
    for name in ("0-1.new", "0-3.bad", "0-3.2.bad", "groups-7", "9-0", "notes.txt", "0-5.done"):
        (folder / name).write_bytes(b"")
    os.unlink(folder / "0-5.done")
    report = doctor.examine(path)
    assert report.sound
    assert {(os.path.basename(f.path), f.kind) for f in report.findings} == {
        ("0-1.new", "leftover"), ("0-3.bad", "kept"), ("0-3.2.bad", "kept"), ("9-0", "unknown"), ("notes.txt", "unknown"),
    }  # fmt: skip
    before = sorted(os.listdir(folder))
    doctor.repair(path)
    assert sorted(os.listdir(folder)) == before, "repair took something away"


def test_states_that_a_power_cut_put_back_have_only_their_messages_come_again(made, memory):
    path = copied(made, memory, same_boot=False)
    with open(path / FILES / "0-0", "r+b") as f:
        f.seek(FIRST + 16 * SLOT_BYTES)
        f.write(bytes(16 * SLOT_BYTES))  # a sector
    found = received(path)
    nothing_lost_or_invented(found)
    assert set(found) == OPEN | {b"%d" % n for n in range(16, 32)}


def test_states_that_are_said_to_be_all_settled_count_no_more(path):
    """What a kill between the note that a chunk is done and its removal leaves."""
    (path / FILES / "0-0.done").write_bytes(b"")
    flip(path / FILES / "0-0", FIRST + 7 * SLOT_BYTES + 2, 5)
    assert told(doctor.examine(path)) == []


# ---- meta and topics --------------------------------------------------------------------------------


def test_a_topic_of_a_queue_that_meta_does_not_know_is_a_note(tmp_path):
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        store.queue("jobs").send(b"x")
        store.topology.remove("queue", "jobs")
    (finding,) = doctor.examine(tmp_path / "data").findings
    assert (finding.kind, finding.severity) == ("leftover", "note") and "queue jobs" in finding.meaning


def test_a_queue_without_its_topic_is_damage(tmp_path):
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        store.queue("jobs").send(b"x")
        store.delete_topic("~jobs")
    report = doctor.examine(tmp_path / "data")
    (finding,) = report.damage
    assert finding.kind == "missing" and "queue jobs" in finding.meaning
    assert doctor.repair(tmp_path / "data").changes == ()


def test_files_of_a_queue_that_meta_does_not_name_are_named(made, memory):
    path = copied(made, memory, same_boot=False)
    with seglog.open(memory / "other", upkeep=False) as store:
        store.topic("t")
    shutil.copytree(path / "topics" / "~jobs", memory / "other" / "topics" / "~jobs")
    findings = doctor.examine(memory / "other").findings
    assert [f.meaning for f in findings if "queue jobs" in f.meaning]
    assert all(f.severity == "note" for f in findings)
