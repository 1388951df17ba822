"""The doctor tells each kind of damage exactly and nothing else, changes nothing unless asked, and leaves a store that reads.

One small store is made once, and damaged in copies: as it lies there after its processes closed it or were killed (the shared
words are believed), and as the next boot would find it (they are not).
"""

import hashlib
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import xxhash

import seglog
from crash.scratch import folder
from seglog import doctor
from seglog.doctor.store import StoreExamination
from seglog.engine.losses import read_quarantine
from seglog.engine.segment import Scanner, describe_segment, segment_at

MAKE = """
import os, sys, seglog
store = seglog.open(sys.argv[1], fsync="interval", upkeep=False)
orders = store.topic("orders", partitions=2, segment_bytes=1 << 16)
i = 0
while len([n for n in os.listdir(sys.argv[1] + "/topics/orders/0") if n.endswith(".log")]) < 4:
    orders.send(b"%06d" % i + b"x" * 2900, partition=0)
    i += 1
for j in range(20):
    orders.send(b"%06d" % (i + j) + b"x" * 100, partition=0)
for j in range(10):
    orders.send(b"one %d" % j, partition=1, key=b"k")
squeezed = store.topic("squeezed", codec="lz4")
squeezed.send_many([b"%d" % i * 200 for i in range(50)])
with orders.consumer("billing") as consumer:
    for _ in range(3):
        consumer.receive(max_records=5, timeout=0)
        consumer.commit()
store.sync()
if sys.argv[2] == "closed":
    store.close()
else:
    store.sync()
    for j in range(3):
        orders.send(b"tail %d" % j + b"x" * 500, partition=1)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def memory():
    with folder("doctor") as path:
        yield path


def made(memory, end):
    path = memory / end
    if not path.exists():
        subprocess.run([sys.executable, "-c", MAKE, str(path), end], check=True)
    return path


def renumber(path):
    """Write each file's own device and inode into its shared words, as if it had been made in this place."""
    for file in path.rglob("shm"):
        status = file.stat()
        with open(file, "r+b") as f:
            f.seek(24)
            f.write(struct.pack("<QQ", status.st_dev, status.st_ino))


class Sample:
    """A copy of the store to damage, with everything that is in it."""

    def __init__(self, path, same_boot):
        self.path, self.same_boot = path, same_boot
        self.log = path / "topics/orders/0"
        self.meta = path / "meta"
        self.files = sorted(self.log.glob("*.log"))
        self.bases = [int(file.name[:20]) for file in self.files]
        self.positions = path / "groups/billing/orders.positions"

    def frames(self, file):
        """(position, offset, end position, next offset) of each frame."""
        scan, out = Scanner(segment_at(str(file)), 4096, int(file.name[:20])), []
        while True:
            at = scan.position, scan.offset
            if scan.check() is not None:
                return out
            out.append((*at, scan.position, scan.offset))

    def flip(self, file, position, bit=1):
        with open(file, "r+b") as f:
            f.seek(position)
            byte = f.read(1)[0]
            f.seek(position)
            f.write(bytes([byte ^ bit]))

    def write(self, file, position, data):
        with open(file, "r+b") as f:
            f.seek(position)
            f.write(data)

    def hashes(self):
        return {
            str(file.relative_to(self.path)): hashlib.sha256(file.read_bytes()).hexdigest()
            + str(file.stat().st_mtime_ns)
            if file.is_file()
            else "folder"
            for file in sorted(self.path.rglob("*"))
        }

    def told(self, report):
        """What matters of each finding but notes: kind, severity, file, offsets."""
        return sorted(
            (f.kind, f.severity, os.path.relpath(f.path, self.path), f.start, f.stop)
            for f in report.findings
            if f.severity != "note"
        )


def records(path):
    """Everything that an ordinary open reads, by topic and place: it raises at damage."""
    found = {}
    with seglog.open(path, recover="raise", upkeep=False) as store:
        for name in store.topics():
            for record in store.topic(name).read():
                found[name, record.partition, record.offset] = record.value
    return found


@pytest.fixture(scope="module")
def whole(memory):
    """(name of the end) -> every record."""
    out = {}
    for end in ("closed", "killed"):
        copy = memory / f"{end}-read"
        shutil.copytree(made(memory, end), copy)
        renumber(copy)
        out[end] = records(copy)
    return out


@pytest.fixture(params=["same boot", "next boot"])
def sample(request, memory, whole):
    path = Path(tempfile.mkdtemp(dir=memory)) / "data"
    shutil.copytree(made(memory, "closed"), path)
    if request.param == "same boot":
        renumber(path)
    else:
        for name in ("shm", "lock"):
            for file in path.rglob(name):
                file.unlink()
    yield Sample(path, request.param == "same boot")
    shutil.rmtree(path)


def check(sample, whole, expected, lost=frozenset(), *, lost_of=("orders", 0), after=()):
    """The doctor's promises, for damage that was done already: `expected` is all that is told."""
    before = sample.hashes()
    report = doctor.examine(sample.path)
    assert sample.told(report) == sorted(expected)
    assert sample.hashes() == before, "examine changed something"
    json.dumps(report.to_json())
    damaged = any(severity == "damage" for _, severity, *_ in expected)
    assert report.sound is not damaged
    healed = doctor.repair(sample.path)
    assert healed.failures == ()
    assert sample.told(healed) == sorted(after)
    assert healed.sound
    if expected:
        assert healed.changes
        assert healed.mended
    found = records(sample.path)
    missing = {place for place in whole if place not in found}
    assert missing == {(*lost_of, offset) for offset in lost}
    assert all(whole[place] == value for place, value in found.items()), "a wrong record"
    again = doctor.examine(sample.path)
    assert sample.told(again) == sorted(after)
    with seglog.open(sample.path, upkeep=False) as store:
        new = store.topic(lost_of[0]).send(b"new", partition=lost_of[1])
        assert new.offset > max(o for name, p, o in whole if (name, p) == lost_of)
        assert store.topic(lost_of[0])[new].value == b"new"
    return report, healed


# ---- nothing wrong ----------------------------------------------------------------------------------


def test_a_sound_store_is_told_to_be_sound_and_every_record_is_proved(sample, whole):
    report, healed = check(sample, whole["closed"], [])
    assert (report.findings, healed.changes) == ((), ())
    told = {p.name: p.told for p in report.partitions}
    count = sum(place[:2] == ("orders", 0) for place in whole["closed"])
    assert told["orders/0"] == f"records 0..{count - 1} verified"
    assert told["squeezed/0"] == "records 0..49 verified"
    assert sum(p.records for p in report.partitions if p.name != "meta") == len(whole["closed"])


def test_a_killed_store_is_sound_too(memory, whole):
    for boot in ("same", "next"):
        path = Path(tempfile.mkdtemp(dir=memory)) / "data"
        shutil.copytree(made(memory, "killed"), path)
        if boot == "same":
            renumber(path)
        sample = Sample(path, boot == "same")
        check(sample, whole["killed"], [])


def test_an_empty_store_and_one_without_topics_are_sound(tmp_path):
    seglog.open(tmp_path / "data").close()
    assert doctor.examine(tmp_path / "data").findings == ()
    with pytest.raises(seglog.NotAStore):
        doctor.examine(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    for verb in (doctor.examine, doctor.repair):
        with pytest.raises(seglog.NotAStore):
            verb(tmp_path / "other")
    assert sorted(os.listdir(tmp_path / "other")) == ["file"]


# ---- frames -----------------------------------------------------------------------------------------

FRAME = "topics/orders/0/{}"


@pytest.mark.parametrize("where", ["header", "body"])
@pytest.mark.parametrize("segment", [0, 2, 3])
def test_a_flipped_bit_costs_its_frame_and_is_told_to_the_byte(sample, whole, where, segment):
    file = sample.files[segment]
    frame = sample.frames(file)[2]
    sample.flip(file, frame[0] + (20 if where == "header" else 70))
    told = [("corrupt", "damage", FRAME.format(file.name), frame[1], frame[3])]
    report, healed = check(sample, whole["closed"], told, range(frame[1], frame[3]))
    (finding,) = report.damage
    assert (finding.position, finding.position + finding.size) == (frame[0], frame[2])
    (log,) = [p for p in report.partitions if p.name == "orders/0"]
    end = log.next_offset - 1
    assert log.told == f"records 0..{frame[1] - 1} and {frame[1] + 1}..{end} verified; {frame[1]} lost"
    assert read_quarantine(str(sample.log), sample.bases[segment]) == [(frame[1], frame[3])]
    (log,) = [p for p in healed.partitions if p.name == "orders/0"]
    assert log.set_aside == ((frame[1], frame[3]),)


def test_a_read_passes_over_what_was_set_aside_and_says_so(sample, whole):
    frame = sample.frames(sample.files[0])[2]
    sample.flip(sample.files[0], frame[0] + 70)
    doctor.repair(sample.path)
    with seglog.open(sample.path, upkeep=False) as store:
        orders = store.topic("orders")
        assert len([r for r in orders.read() if r.partition == 0 and r.offset == frame[1]]) == 0
        assert [loss.start for loss in orders.logs[0].losses if loss.kind == "corrupt"] == [frame[1]]


def test_verify_tells_what_the_doctor_tells_and_nothing_that_was_set_aside(sample, whole):
    frame = sample.frames(sample.files[0])[2]
    sample.flip(sample.files[0], frame[0] + 70)
    sample.write(sample.files[1], 8192, bytes(8192))
    sample.flip(sample.files[2], 16)
    sample.flip(sample.files[2], 2048 + 16)
    report = doctor.examine(sample.path)
    with seglog.open(sample.path, upkeep=False) as store:
        assert store.verify() == list(report.losses)
    assert len(report.losses) > 3
    assert [(loss.start, loss.stop) for loss in report.losses] == [(f.start, f.stop) for f in report.damage]
    doctor.repair(sample.path)
    with seglog.open(sample.path, upkeep=False) as store:
        assert store.verify() == []


def test_what_a_recovery_found_lost_is_told_until_a_repair_was_told_of_it(sample, whole, tmp_path):
    shutil.copytree(sample.path, tmp_path / "data")
    sample = Sample(tmp_path / "data", False)
    sample.files[-1].unlink()
    with seglog.open(sample.path, upkeep=False) as store:
        new = store.topic("orders").send(b"new", partition=0)  # recovers: the log goes on far behind
        assert new.offset > 1 << 40
    shutil.copytree(sample.path, tmp_path / "copy")
    copy = Sample(tmp_path / "copy", False)
    before = sample.hashes()
    report = doctor.examine(copy.path)
    (note,) = (f for f in report.findings if f.kind == "missing")
    assert (note.severity, note.path, note.start, note.stop) == ("note", str(copy.files[2]), sample.bases[3], -1)
    assert doctor.repair(copy.path).findings == ()
    assert read_quarantine(str(copy.log), copy.bases[2])
    assert sample.hashes() == before, "the loss was written down in the copy, not in the original"
    assert doctor.repair(copy.path).changes == ()


def test_a_zeroed_block_costs_the_frames_in_it(sample, whole):
    file = sample.files[1]
    frames = sample.frames(file)
    at = (frames[3][0] + 4095) // 4096 * 4096
    hit = [f for f in frames if f[0] < at + 4096 and f[2] > at]
    sample.write(file, at, bytes(4096))
    report = doctor.examine(sample.path)
    lost = {offset for f in hit for offset in range(f[1], f[3])}
    assert {o for f in report.damage for o in range(f.start, f.stop)} == lost
    told = sample.told(report)
    check(sample, whole["closed"], told, lost)


def test_a_frame_that_a_write_went_astray_to_is_found_where_it_is(sample, whole):
    file = sample.files[1]
    frames = sample.frames(file)
    data = file.read_bytes()
    one, two = frames[2], frames[5]
    assert one[2] - one[0] == two[2] - two[0]
    swapped = bytearray(data)
    swapped[one[0] : one[2]], swapped[two[0] : two[2]] = data[two[0] : two[2]], data[one[0] : one[2]]
    file.write_bytes(swapped)
    report = doctor.examine(sample.path)
    assert all(f.severity == "harmless" and f.kind == "misplaced" for f in report.findings)
    assert report.sound
    assert records(sample.path) == whole["closed"]


# ---- the first page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [16, 2048 + 30])
@pytest.mark.parametrize("segment", [0, 3])
def test_one_damaged_copy_of_a_header_is_harmless_and_mended(sample, whole, at, segment):
    file = sample.files[segment]
    sample.flip(file, at)
    check(sample, whole["closed"], [("header", "harmless", FRAME.format(file.name), -1, -1)])
    assert describe_segment(str(file))["copies"] == (True, True)


def test_both_copies_of_a_header_cost_the_segment(sample, whole):
    file = sample.files[1]
    sample.flip(file, 16)
    sample.flip(file, 2048 + 16)
    before = file.read_bytes()
    lost = range(sample.bases[1], sample.bases[2])
    check(sample, whole["closed"], [("corrupt", "damage", FRAME.format(file.name), lost.start, lost.stop)], lost)
    assert file.read_bytes() == before


def test_both_copies_of_the_last_header_cost_the_segment_and_no_offset_comes_twice(sample, whole):
    file = sample.files[-1]
    sample.flip(file, 16)
    sample.flip(file, 2048 + 16)
    end = max(o for name, p, o in whole["closed"] if (name, p) == ("orders", 0)) + 1
    stop = end if sample.same_boot else -1
    lost = range(sample.bases[-1], end)
    expected = [("corrupt", "damage", FRAME.format(file.name), lost.start, stop)]
    check(sample, whole["closed"], expected, lost)


@pytest.mark.parametrize("segment", [0, 3])
@pytest.mark.parametrize("slot", [520, 1032])
def test_one_damaged_slot_of_a_mark_is_harmless_and_mended(sample, whole, segment, slot):
    file = sample.files[segment]
    sample.flip(file, slot)
    check(sample, whole["closed"], [("mark", "harmless", FRAME.format(file.name), -1, -1)])


@pytest.mark.parametrize("segment", [0, 3])
def test_both_slots_of_a_mark_cost_no_record(sample, whole, segment):
    file = sample.files[segment]
    sample.write(file, 512, bytes(64))
    sample.flip(file, 1030)
    severity = "damage" if segment == 3 else "harmless"
    check(sample, whole["closed"], [("mark", severity, FRAME.format(file.name), -1, -1)])


# ---- files -------------------------------------------------------------------------------------------


def test_a_missing_segment_between_others_is_told_with_its_offsets(sample, whole):
    lost = range(sample.bases[1], sample.bases[2])
    sample.files[1].unlink()
    (sample.log / (sample.files[1].name[:20] + ".idx")).unlink()
    check(
        sample,
        whole["closed"],
        [("missing", "damage", FRAME.format(sample.files[0].name), lost.start, lost.stop)],
        lost,
    )


def test_missing_first_segments_are_told_and_the_log_begins_behind_them(sample, whole):
    for file in sample.files[:2]:
        file.unlink()
        file.with_suffix(".idx").unlink()
    lost = range(sample.bases[2])
    check(sample, whole["closed"], [("missing", "damage", "topics/orders/0", 0, lost.stop)], lost)
    with seglog.open(sample.path, upkeep=False) as store:
        assert store.topic("orders").first_offset(0) == lost.stop


def test_a_missing_last_segment_is_told_and_no_offset_comes_twice(sample, whole):
    sample.files[-1].unlink()
    sample.files[-1].with_suffix(".idx").unlink()
    end = max(o for name, p, o in whole["closed"] if (name, p) == ("orders", 0)) + 1
    lost = range(sample.bases[-1], end)
    stop = end if sample.same_boot else -1
    check(sample, whole["closed"], [("missing", "damage", FRAME.format(sample.files[-2].name), lost.start, stop)], lost)


def test_a_missing_index_is_no_finding(sample, whole):
    for file in sample.log.glob("*.idx"):
        file.unlink()
    check(sample, whole["closed"], [])


def test_exchanged_segments_are_put_back_and_nothing_is_lost(sample, whole):
    one, two = sample.files[1], sample.files[2]
    swap(one, two)
    expected = [
        ("misplaced", "damage", FRAME.format(one.name), sample.bases[2], sample.bases[3]),
        ("misplaced", "damage", FRAME.format(two.name), sample.bases[1], sample.bases[2]),
    ]
    check(sample, whole["closed"], expected)


def test_the_last_segment_exchanged_with_the_first_is_put_back_too(sample, whole):
    one, two = sample.files[0], sample.files[-1]
    swap(one, two)
    end = max(o for name, p, o in whole["closed"] if (name, p) == ("orders", 0)) + 1
    expected = [
        ("misplaced", "damage", FRAME.format(one.name), sample.bases[-1], end if sample.same_boot else -1),
        ("misplaced", "damage", FRAME.format(two.name), 0, sample.bases[1]),
    ]
    check(sample, whole["closed"], expected)


def swap(one, two):
    away = one.with_suffix(".away")
    one.rename(away)
    two.rename(one)
    away.rename(two)


def test_a_duplicate_is_none_of_the_log_and_is_set_aside(sample, whole):
    name = f"{sample.bases[1] + 1:020}.log"
    shutil.copy(sample.files[1], sample.log / name)
    check(sample, whole["closed"], [("misplaced", "harmless", FRAME.format(name), -1, -1)])
    assert (sample.log / (name + ".misplaced")).exists()


def test_a_duplicate_over_another_segment_costs_that_one(sample, whole):
    shutil.copy(sample.files[2], sample.files[1])
    lost = range(sample.bases[1], sample.bases[2])
    expected = [
        ("misplaced", "harmless", FRAME.format(sample.files[1].name), -1, -1),
        ("missing", "damage", FRAME.format(sample.files[0].name), lost.start, lost.stop),
    ]
    check(sample, whole["closed"], expected, lost)


def test_a_segment_of_another_partition_is_none_of_the_log(sample, whole):
    other = next((sample.path / "topics/orders/1").glob("*.log"))
    shutil.copy(other, sample.files[0])
    lost = range(sample.bases[1])
    expected = [
        ("misplaced", "harmless", FRAME.format(sample.files[0].name), -1, -1),
        ("missing", "damage", "topics/orders/0", 0, lost.stop),
    ]
    check(sample, whole["closed"], expected, lost)


def test_a_segment_cut_short_behind_its_records_loses_none(sample, whole):
    file = sample.files[1]
    os.truncate(file, sample.frames(file)[-1][2])
    check(sample, whole["closed"], [("missing", "harmless", FRAME.format(file.name), -1, -1)])


@pytest.mark.parametrize("segment", [1, 3])
def test_a_segment_cut_short_loses_what_is_behind_the_cut(sample, whole, segment):
    file = sample.files[segment]
    frames = sample.frames(file)
    os.truncate(file, frames[5][0] + 40)
    lost = range(frames[5][1], frames[-1][3])
    check(sample, whole["closed"], [("missing", "damage", FRAME.format(file.name), lost.start, lost.stop)], lost)


def test_a_segment_cut_to_nothing_is_lost(sample, whole):
    file = sample.files[1]
    os.truncate(file, 0)
    lost = range(sample.bases[1], sample.bases[2])
    check(sample, whole["closed"], [("corrupt", "damage", FRAME.format(file.name), lost.start, lost.stop)], lost)


# ---- tails -------------------------------------------------------------------------------------------


def torn(memory, change):
    path = Path(tempfile.mkdtemp(dir=memory)) / "data"
    shutil.copytree(made(memory, "killed"), path)
    sample = Sample(path, False)
    (file,) = (path / "topics/orders/1").glob("*.log")
    frames = sample.frames(file)
    change(sample, file, frames)
    return sample, file, frames


def test_a_torn_tail_is_harmless_and_its_bytes_are_kept(memory, whole):
    sample, file, frames = torn(memory, lambda s, f, frames: s.flip(f, frames[-1][0] + 100))
    tail = file.read_bytes()[frames[-1][0] : frames[-1][2]]
    end = frames[-1][1]
    report, _ = check(
        sample,
        whole["killed"],
        [("torn", "harmless", f"topics/orders/1/{file.name}", end, -1)],
        [end],
        lost_of=("orders", 1),
    )
    assert report.sound
    (kept,) = file.parent.glob("*.torn")
    assert kept.read_bytes().ljust(len(tail), b"\0") == tail


def test_sound_frames_behind_a_torn_one_are_mentioned_and_kept_too(memory, whole):
    sample, file, frames = torn(memory, lambda s, f, frames: s.flip(f, frames[-2][0] + 100))
    lost = [frames[-2][1], frames[-1][1]]
    report, _ = check(
        sample,
        whole["killed"],
        [("torn", "harmless", f"topics/orders/1/{file.name}", lost[0], -1)],
        lost,
        lost_of=("orders", 1),
    )
    assert "sound frames follow" in report.findings[0].meaning


def test_blank_space_behind_the_tail_is_no_finding(memory, whole):
    sample, _, frames = torn(memory, lambda s, f, frames: s.write(f, frames[-1][0], bytes(4096)))
    check(sample, whole["killed"], [], [frames[-1][1]], lost_of=("orders", 1))


# ---- what is derived ---------------------------------------------------------------------------------


@pytest.mark.parametrize("segment", [0, 3])
@pytest.mark.parametrize("at", [3, 17, 33, 64 + 20])
def test_a_wrong_index_is_harmless_and_removed(sample, whole, segment, at):
    index = sample.files[segment].with_suffix(".idx")
    if segment == 3:
        # As one that is being written has it: no seal, no hash.
        head = bytearray(index.read_bytes())
        boot = xxhash.xxh3_64_intdigest(Path("/proc/sys/kernel/random/boot_id").read_text().strip().encode())
        head[12:16], head[24:32] = bytes(4), struct.pack("<Q", boot)
        index.write_bytes(head)
        if at == 33:
            pytest.skip("fewer entries are legal")
    sample.flip(index, at, 2)
    check(sample, whole["closed"], [("derived", "harmless", FRAME.format(index.name), -1, -1)])


def test_an_index_cut_short_or_of_another_segment_is_removed(sample, whole):
    one, two, three = (file.with_suffix(".idx") for file in sample.files[:3])
    os.truncate(one, 70)
    shutil.copy(three, two)
    expected = [("derived", "harmless", FRAME.format(file.name), -1, -1) for file in (one, two)]
    check(sample, whole["closed"], expected)


# ---- SEGLOG, meta, topics ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flipped", "emptied", "removed"])
def test_an_identity_is_written_anew_when_the_rest_proves_a_store(sample, whole, how):
    file = sample.path / "SEGLOG"
    if how == "flipped":
        sample.flip(file, 20)
    elif how == "emptied":
        file.write_bytes(b"")
    else:
        file.unlink()
    before = file.read_bytes() if file.exists() else None
    kind = "missing" if how == "removed" else "corrupt"
    check(sample, whole["closed"], [(kind, "damage", "SEGLOG", -1, -1)])
    if before is not None:
        assert (sample.path / "SEGLOG.damaged").read_bytes() == before


def test_an_identity_without_a_store_is_not_made_up(tmp_path):
    (tmp_path / "SEGLOG").write_bytes(b"what is this")
    report = doctor.repair(tmp_path)
    assert [f.kind for f in report.damage] == ["corrupt"]
    assert report.changes == ()
    assert os.listdir(tmp_path) == ["SEGLOG"]


def test_a_newer_store_is_refused(sample):
    facts = {"created": 5, "format": 2, "uuid": "u"}
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    line = f'{text[:-1]},"hash":"{xxhash.xxh3_64_hexdigest(text.encode())}"}}\n'
    (sample.path / "SEGLOG").write_text(line)
    with pytest.raises(seglog.UnsupportedFormat):
        doctor.repair(sample.path)


def test_a_lost_topic_record_leaves_the_records_to_be_taken_over(sample, whole):
    (file,) = sample.meta.glob("*.log")
    frames = sample.frames(file)
    sample.flip(file, frames[1][0] + 100)
    before = sample.hashes()
    report = doctor.examine(sample.path)
    assert sample.told(report) == [("corrupt", "damage", f"meta/{file.name}", 1, 2)]
    assert any(f.kind == "unknown" and f.path.endswith("squeezed") for f in report.findings)
    assert sample.hashes() == before
    healed = doctor.repair(sample.path)
    assert healed.sound
    with seglog.open(sample.path) as store:
        assert store.topics() == ["orders"]
        assert len(list(store.topic("squeezed", codec="lz4").read())) == 50


def test_a_topic_that_may_have_been_made_anew_keeps_its_files_until_they_are_moved(tmp_path):
    """Deleted and made anew, and the second making is damaged: what can be read says that it was deleted."""
    path = tmp_path / "data"
    with seglog.open(path) as store:
        store.topic("t").send(b"old")
        store.delete_topic("t")
        store.topic("t").send(b"new")
        store.topic("other").send(b"one")
    sample = Sample(path, True)
    (file,) = sample.meta.glob("*.log")
    sample.flip(file, sample.frames(file)[2][0] + 100)
    told = [("corrupt", "damage", f"meta/{file.name}", 2, 3), ("corrupt", "damage", "topics/t", -1, -1)]
    assert sample.told(doctor.examine(path)) == told
    healed = doctor.repair(path)
    assert sample.told(healed) == told[1:]
    assert "elsewhere" in healed.damage[0].meaning
    (log,) = [log for log in healed.partitions if log.name == "t/0"]
    assert log.told == "records 0 verified"
    files = {file.name: file.read_bytes() for file in (path / "topics/t/0").glob("*.log")}
    with seglog.open(path) as store:
        assert store.topics() == ["other"]
        assert len(list(store.topic("other").read())) == 1
        with pytest.raises(seglog.CorruptStore, match="elsewhere"):
            store.topic("t")
    assert {file.name: file.read_bytes() for file in (path / "topics/t/0").glob("*.log")} == files
    (path / "topics/t").rename(tmp_path / "kept")
    assert doctor.repair(path).sound
    with seglog.open(path) as store:
        store.topic("t").send(b"again")
    assert doctor.examine(path).sound


def test_another_logs_file_in_place_of_meta_is_told(sample):
    (file,) = sample.meta.glob("*.log")
    for other in ("orders/1", "squeezed/0"):
        (log,) = (sample.path / "topics" / other).glob("*.log")
        shutil.copy(log, file)
        report = doctor.examine(sample.path)
        assert not report.sound
        if not sample.same_boot:  # else its shared words say that this is not its file
            assert ("corrupt", "damage", "meta", 0, 1) in sample.told(report)


def test_a_first_segment_exchanged_with_another_partitions_is_not_taken_for_its_own(sample, whole):
    """Of two files with two identities it is the last one that an opener believes: what it does not read is not read here."""
    for file in sample.files[1:-1]:
        file.unlink()
    other = next((sample.path / "topics/squeezed/0").glob("*.log"))
    data = other.read_bytes()
    other.write_bytes(sample.files[0].read_bytes())
    sample.files[0].write_bytes(data)
    report = doctor.examine(sample.path)
    if not sample.same_boot:  # else its shared words say whose file is whose
        assert ("misplaced", "damage", "topics/squeezed/0", -1, -1) in sample.told(report), "the two have one identity"
    (log,) = [log for log in report.partitions if log.name == "orders/0"]
    assert log.verified == ((sample.bases[-1], log.next_offset),)


def test_a_missing_meta_is_told_and_left_to_a_backup(sample):
    shutil.rmtree(sample.meta)
    report = doctor.examine(sample.path)
    assert ("missing", "damage", "meta", -1, -1) in sample.told(report)
    assert not doctor.repair(sample.path).sound


@pytest.mark.parametrize("what", ["topics/orders/1", "topics/squeezed"])
def test_a_missing_partition_is_begun_anew_far_above(sample, whole, what):
    shutil.rmtree(sample.path / what)
    name, partition = ("orders", 1) if "orders" in what else ("squeezed", 0)
    lost = [o for n, p, o in whole["closed"] if (n, p) == (name, partition)]
    path = f"topics/{name}/{partition}"
    check(sample, whole["closed"], [("missing", "damage", path, 0, -1)], lost, lost_of=(name, partition))


def test_a_partition_that_is_begun_anew_twice_gives_no_offset_twice(path):
    before = -1
    for _ in range(3):
        with seglog.open(path) as store:
            topic = store.topic("t")
            where = topic.send(b"x")
            assert where.offset > before
            before = where.offset
            with topic.consumer("g") as consumer:
                consumer.seek("latest")
                consumer.commit()
        shutil.rmtree(path / "topics/t/0")
        assert doctor.repair(path).sound


def test_an_emptied_partition_is_begun_anew_too(sample, whole):
    for file in (sample.path / "topics/orders/1").glob("*0.*"):
        file.unlink()
    lost = [o for n, p, o in whole["closed"] if (n, p) == ("orders", 1)]
    stop = len(lost) if sample.same_boot else -1
    check(sample, whole["closed"], [("missing", "damage", "topics/orders/1", 0, stop)], lost, lost_of=("orders", 1))


# ---- groups ------------------------------------------------------------------------------------------


def committed(sample):
    with seglog.open(sample.path, upkeep=False) as store, store.topic("orders").consumer("billing") as consumer:
        return [r.offset for r in [consumer.receive(timeout=0)[0]]]


@pytest.mark.parametrize("at", [8, 512 + 8, 1024 + 8, 1024 + 512 + 8])
def test_a_damaged_slot_of_a_place_is_harmless_and_mended(sample, whole, at):
    sample.flip(sample.positions, at)
    check(sample, whole["closed"], [("positions", "harmless", "groups/billing/orders.positions", -1, -1)])
    committed(sample)


def test_a_place_whose_both_slots_are_damaged_is_lost_and_the_group_begins_again(sample, whole):
    sample.flip(sample.positions, 1024 + 8)
    sample.flip(sample.positions, 1024 + 512 + 8)
    before = sample.positions.read_bytes()
    check(sample, whole["closed"], [("positions", "damage", "groups/billing/orders.positions", -1, -1)])
    assert sample.positions.with_name("orders.positions.damaged").read_bytes() == before
    committed(sample)


def test_a_lost_count_is_made_anew_and_no_place_is_lost(sample, whole, memory):
    other = Path(tempfile.mkdtemp(dir=memory)) / "data"
    shutil.copytree(made(memory, "closed"), other)
    before = committed(Sample(other, False))
    sample.flip(sample.positions, 8)
    sample.flip(sample.positions, 512 + 8)
    check(sample, whole["closed"], [("positions", "damage", "groups/billing/orders.positions", -1, -1)])
    assert committed(sample) == before


@pytest.mark.parametrize("size", [0, 700, 1500, 2048])
def test_a_positions_file_that_was_cut_is_made_whole(sample, whole, size):
    os.truncate(sample.positions, size)
    kinds = [("missing", "damage", "groups/billing/orders.positions", -1, -1)]
    check(sample, whole["closed"], kinds)
    committed(sample)


# ---- what is not ours --------------------------------------------------------------------------------


def test_other_peoples_files_are_listed_and_left(sample, whole):
    for name in (
        "notes.txt",
        "topics/README",
        "topics/orders/0/core",
        "groups/x",
        "topics/orders/0/99999999999999999999.log",
    ):
        (sample.path / name).write_text("mine")
    report, healed = check(sample, whole["closed"], [])
    for told in (report, healed):
        assert {os.path.relpath(f.path, sample.path) for f in told.findings if f.kind == "unknown"} == {
            "notes.txt",
            "topics/README",
            "topics/orders/0/core",
            "groups/x",
            "topics/orders/0/99999999999999999999.log",
        }
    assert (sample.path / "notes.txt").read_text() == "mine"


def test_a_foreign_file_under_a_segments_name_inside_a_segment_is_set_aside(sample, whole):
    name = f"{sample.bases[1] + 1:020}.log"
    (sample.log / name).write_bytes(b"mine" * 5000)
    check(sample, whole["closed"], [("misplaced", "harmless", FRAME.format(name), -1, -1)])
    assert (sample.log / (name + ".misplaced")).read_bytes() == b"mine" * 5000


def test_files_that_were_never_finished_are_notes_and_removed(sample, whole):
    names = ["SEGLOG.17.tmp", "topics/orders/0/00000000000000000999.log.tmp", "groups/billing/orders.positions.9.tmp"]
    for name in names:
        (sample.path / name).write_bytes(b"x")
    report = doctor.examine(sample.path)
    assert sorted(os.path.relpath(f.path, sample.path) for f in report.findings) == sorted(names)
    assert all(f.severity == "note" for f in report.findings)
    assert doctor.repair(sample.path).findings == ()
    assert not any((sample.path / name).exists() for name in names)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_does_not_hold_the_doctor_up(sample):
    name = sample.log / f"{sample.bases[1] + 1:020}.log"
    os.mkfifo(name)
    os.mkfifo(sample.path / "groups/billing/squeezed.positions")
    report = doctor.examine(sample.path)
    assert [f.kind for f in report.unexamined].count("unreadable") == 2
    assert not report.sound


# ---- permission, read-only ---------------------------------------------------------------------------


def as_nobody(work):
    """Do it in a process whom permissions stop; what it says, or the name of its error."""
    out, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            try:
                said = work()
            except BaseException as error:
                said = type(error).__name__
            os.write(end, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.close(end)
    with os.fdopen(out) as answer:
        said = json.load(answer)
    os.waitpid(pid, 0)
    return said


def reachable(path):
    """Let a stranger get at it."""
    while path != path.parent:
        if path.stat().st_uid == os.getuid() and not path.stat().st_mode & stat.S_IXOTH:
            path.chmod(path.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
        path = path.parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_what_may_not_be_read_is_a_finding_and_the_rest_is_examined(sample):
    reachable(sample.path)
    frame = sample.frames(sample.files[2])[2]
    sample.flip(sample.files[2], frame[0] + 70)
    sample.files[1].chmod(0)
    (sample.path / "topics/squeezed/0").chmod(0)
    told = as_nobody(lambda: [(f.kind, f.severity, f.path) for f in doctor.examine(sample.path).findings])
    (sample.path / "topics/squeezed/0").chmod(0o755)
    assert {tuple(finding) for finding in told} == {
        ("unreadable", "unexamined", str(sample.files[1])),
        ("unreadable", "unexamined", str(sample.path / "topics/squeezed/0")),
        ("corrupt", "damage", str(sample.files[2])),
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_store_that_cannot_be_written_is_examined_and_repair_says_why_not(sample):
    reachable(sample.path)
    sample.flip(sample.files[0], 20)
    for path in [sample.path, *sample.path.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    told = as_nobody(lambda: [(f.kind, f.severity, f.path) for f in doctor.examine(sample.path).findings])
    assert told == [["header", "harmless", str(sample.files[0])]]
    assert as_nobody(lambda: doctor.repair(sample.path).changes) == "ReadOnlyStore"
    for path in [sample.path, *sample.path.rglob("*")]:
        path.chmod(0o755)


# ---- while others are at work ------------------------------------------------------------------------


def test_examining_while_a_writer_writes_finds_nothing_and_disturbs_nobody(path, child):
    code = (
        "import threading\n"
        "t = store.topic('t', segment_bytes=1 << 16)\n"
        "t.send(b'x')\n"
        "def write():\n"
        "    i = 0\n"
        "    while True:\n"
        "        t.send_many([b'%d' % i * 50] * 20)\n"
        "        i += 1\n"
        "        if i % 500 == 0:\n"
        "            t.trim(0, t.next_offset(0) - 5000)\n"
        "threading.Thread(target=write, daemon=True).start()\n"
    )
    with child(code):
        before = grown = 0
        began = time.monotonic()
        while (since := time.monotonic() - began) < 1.5 or (grown <= 3 and since < 30):
            report = doctor.examine(path)
            assert [f for f in report.findings if f.severity != "note"] == []
            (log,) = [p for p in report.partitions if p.name == "t/0"]
            assert log.in_use
            assert log.verified == ((log.verified[0][0], log.next_offset),)
            grown += log.next_offset > before
            before = log.next_offset
        assert grown > 3


def test_a_topic_that_is_deleted_under_our_eyes_is_no_damage(path, monkeypatch):
    examine_topic = StoreExamination.topic

    def too_late(self, name, *rest):
        if name == "t" and "t" in store.topics():
            store.delete_topic("t")
        examine_topic(self, name, *rest)

    monkeypatch.setattr(StoreExamination, "topic", too_late)
    with seglog.open(path) as store:
        for name in ("stays", "t"):
            store.topic(name, partitions=2).send(b"x", partition=0)
        report = doctor.examine(path)
        assert report.findings == ()
        assert [log.name for log in report.partitions] == ["meta", "stays/0", "stays/1"]


def test_repair_is_refused_while_another_process_has_the_store_open(path, child):
    with child("t = store.topic('t')\nfor i in range(9): t.send(b'%d' % i * 50)\n"):
        sample = Sample(path, True)
        (file,) = (path / "topics/t/0").glob("*.log")
        sample.flip(file, sample.frames(file)[3][0] + 70)
        before = sample.hashes()
        with pytest.raises(seglog.DirectoryInUse, match=r"process \d+ has"):
            doctor.repair(path)
        assert {k: v for k, v in sample.hashes().items() if k not in ("shm", "lock")} == {
            k: v for k, v in before.items() if k not in ("shm", "lock")
        }
        assert len(doctor.examine(path).damage) == 1
    assert doctor.repair(path).sound


def test_derived_files_are_mended_while_another_process_has_the_store_open(path, child):
    code = (
        "t = store.topic('t', segment_bytes=1 << 16)\nfor i in range(200): t.send(b'%d' % i * 300)\n"
        "print(t.next_offset(0), flush=True)\n"
    )
    with child(code):
        index = sorted((path / "topics/t/0").glob("*.idx"))[0]
        Sample(path, True).flip(index, 70)
        report = doctor.repair(path)
        assert [f.kind for f in report.mended] == ["derived"]
        assert not index.exists()
        with seglog.open(path, upkeep=False) as store:
            assert len(list(store.topic("t").read())) == 200


def test_this_process_too_must_have_closed_it(path):
    with seglog.open(path) as store:
        store.topic("t").send(b"x")
        (path / "SEGLOG").write_bytes(b"")
        with pytest.raises(seglog.DirectoryInUse, match="this very process"):
            doctor.repair(path)
    assert doctor.repair(path).sound


# ---- several at once -----------------------------------------------------------------------------------


def test_much_damage_at_once_is_all_told_and_all_repaired(sample, whole):
    one, two, three = (
        sample.frames(sample.files[0])[4],
        sample.frames(sample.files[2])[1],
        sample.frames(sample.files[3])[6],
    )
    sample.flip(sample.files[0], one[0] + 80)
    sample.flip(sample.files[0], 16)
    sample.flip(sample.files[2], two[0] + 8)
    sample.flip(sample.files[3], three[0] + 80)
    sample.flip(sample.path / "SEGLOG", 20)
    sample.flip(sample.positions, 1024 + 8)
    name = FRAME.format(sample.files[0].name)
    expected = [
        ("corrupt", "damage", "SEGLOG", -1, -1),
        ("header", "harmless", name, -1, -1),
        ("corrupt", "damage", name, one[1], one[3]),
        ("corrupt", "damage", FRAME.format(sample.files[2].name), two[1], two[3]),
        ("corrupt", "damage", FRAME.format(sample.files[3].name), three[1], three[3]),
        ("positions", "harmless", "groups/billing/orders.positions", -1, -1),
    ]
    check(sample, whole["closed"], expected, {one[1], two[1], three[1]})


def test_any_flipped_bit_is_told_or_means_nothing(sample, whole, rng):
    """Whatever is hit: told exactly where it is damage, and repaired so that everything else reads."""
    files = [
        f
        for f in sample.path.rglob("*")
        if f.is_file() and f.suffix in (".log", ".positions") and f.parent != sample.meta
    ]
    template = sample.path.with_name("template")
    shutil.copytree(sample.path, template)
    for _ in range(12):
        file = rng.choice(files)
        size = min(file.stat().st_size, 20_000)
        at = rng.randrange(size)
        sample.flip(file, at, 1 << rng.randrange(8))
        report = doctor.examine(sample.path)
        lost = {
            (p.name.split("/")[0], int(p.name.split("/")[1]), offset)
            for p in report.partitions
            if p.name != "meta"
            for start, stop in p.lost
            for offset in range(start, stop)
        }
        healed = doctor.repair(sample.path)
        assert healed.sound, (file, at)
        found = records(sample.path)
        assert {place for place in whole["closed"] if place not in found} == lost, (file, at)
        shutil.rmtree(sample.path)
        shutil.copytree(template, sample.path)
        if sample.same_boot:
            renumber(sample.path)


# ---- speed ---------------------------------------------------------------------------------------------


def test_examining_takes_no_python_for_a_frame(memory):
    """A ratio, so that a busy machine does not matter: the whole examination against hashing the same bytes."""
    path = memory / "speed"
    with seglog.open(path, fsync="never", upkeep=False) as store:
        topic = store.topic("t")
        for _ in range(40):
            topic.send_many([b"x" * 100] * 10_000)
    size = doctor.size_of(path)
    blocks = [file.read_bytes() for file in (path / "topics/t/0").glob("*.log")]

    def cpu(work):
        began = time.process_time()
        work()
        return time.process_time() - began

    hashing = min(cpu(lambda: [xxhash.xxh3_64_intdigest(block) for block in blocks]) for _ in range(3))
    examining = min(cpu(lambda: doctor.examine(path)) for _ in range(3))
    assert size > 40 << 20
    assert examining < 12 * hashing + 0.05
