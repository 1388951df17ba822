"""An empty segment is replaced by one that a large first frame fits in; nobody may go on reading the old file."""

import pytest

from seglog.engine.log import Log

SMALL = {"segment_bytes": 65_536, "segment_bytes_min": 65_536}


@pytest.mark.parametrize("read_first", [False, True])
def test_a_handle_that_read_an_empty_segment_reads_the_one_that_replaced_it(tmp_path, read_first):
    with Log(tmp_path, **SMALL) as log:
        log.append(b"first")
    for name in ("shm", "tail.shm"):  # another boot, unclean: an empty segment far behind
        (tmp_path / name).unlink(missing_ok=True)
    data = bytearray((tmp_path / f"{0:020d}.log").read_bytes())
    data[512:1536] = bytes(1024)  # no mark: not closed cleanly
    (tmp_path / f"{0:020d}.log").write_bytes(data)
    with Log(tmp_path, **SMALL) as writer, Log(tmp_path, **SMALL) as reader:
        base = writer.next_offset
        assert base > 1
        if read_first:  # both have the empty segment mapped now
            for log in (writer, reader):
                assert [record.value for record in log.records()] == [b"first"]
                log.offset_for_time(2**62)
        values = [bytes([n]) * 100_000 for n in range(3)]
        writer.append_many(values)  # the first replaces it, the others roll behind it
        for log in (writer, reader):
            assert [record.value for record in log.records()] == [b"first", *values]
            assert log.verify() == []
