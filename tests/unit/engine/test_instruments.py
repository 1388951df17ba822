"""The doctor's instruments say what is in a file and what of it is proved."""

import os

import pytest

from seglog.engine.errors import CorruptBatch
from seglog.engine.instruments import batch_at, describe_words, index_fault, write_mark
from seglog.engine.log import Log
from seglog.engine.segment import Scanner, describe_segment, segment_at


@pytest.fixture
def log(tmp_path):
    with Log(str(tmp_path / "log"), segment_bytes=1 << 16, segment_bytes_min=1 << 16) as log:
        for i in range(60):
            log.append(b"%d" % i * 1000, b"k")
        yield log


def files(log):
    return sorted(os.path.join(log.path, name) for name in os.listdir(log.path) if name.endswith(".log"))


def test_words_are_those_of_the_living(log, tmp_path):
    words = describe_words(log.path)
    assert (words["ready"], words["failed"], words["next_offset"]) == (True, False, 60)
    assert words["partition_id"] == describe_segment(files(log)[0])["header"]["partition_id"]
    with open(os.path.join(log.path, "tail.shm"), "rb") as file:
        (tmp_path / "shm").write_bytes(file.read())
    assert describe_words(str(tmp_path)) is None, "a copy is another file"
    assert describe_words(str(tmp_path / "nothing")) is None


def test_a_batch_is_the_frame_that_stands_there_and_nothing_else(log):
    segment = segment_at(files(log)[0])
    scan = Scanner(segment, 4096, 0)
    while scan.offset < 5:
        at = scan.position
        assert scan.check() is None
        (record,) = batch_at(segment, at)
        assert (record.offset, record.key, record.value) == (scan.offset - 1, b"k", b"%d" % record.offset * 1000)
    for position in (-8, 0, 4100, at + 8, segment.size, segment.size - 8, 1 << 62):
        with pytest.raises(CorruptBatch):
            batch_at(segment, position)


def test_an_index_has_no_fault_and_each_flipped_bit_of_it_is_one_or_means_nothing(log):
    first, second = files(log)[:2]
    segment = segment_at(first)
    end = segment_at(second).base_offset
    assert index_fault(segment, end, [end]) is None
    assert index_fault(segment, end, [end + 1]) == "an index of this segment when it ended elsewhere"
    path = first[:-4] + ".idx"
    with open(path, "rb") as file:
        data = file.read()
    used = 64 + 16 * int.from_bytes(data[32:36], "little")
    for at in range(used):
        with open(path, "wb") as file:
            file.write(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        # Not covered by anything: the boot of a sealed index, flags and padding that nobody reads.
        assert index_fault(segment, end, [end]) or 12 <= at < 16 or 24 <= at < 32 or 36 <= at < 40, at
    os.unlink(path)
    assert index_fault(segment, end, [end]) is None


def test_a_mark_is_written_over_the_older_slot(tmp_path):
    with Log(str(tmp_path / "log")) as log:
        log.append(b"x")
        path = files(log)[0]
    before = [mark for mark in describe_segment(path)["marks"] if mark]
    last = max(before, key=lambda mark: mark["sequence"])
    write_mark(path, last | {"start_offset": 1, "clean": False})
    after = describe_segment(path)["marks"]
    assert last in after
    assert last | {"start_offset": 1, "clean": False, "sequence": last["sequence"] + 1} in after
