"""Lines about losses: one that cannot be read, or says what no loss is, is passed over, and never the others with it."""

import json

import pytest

from seglog.engine.losses import Loss, read_losses, read_quarantine, standing, write_losses, write_quarantine

SOUND = Loss("torn", "p", 4096, 3, 9, 5, "n")._asdict()
ODD = [None, "3", 1.5, True, [], {}]


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"5", b"null", b"{}", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b'{"start":1e999,"stop":1}']
    + [json.dumps(SOUND | {name: odd}).encode() for name in ("position", "start", "stop", "size") for odd in ODD]
    + [json.dumps(SOUND | {name: odd}).encode() for name in ("kind", "path", "note") for odd in (None, 3, [], {})],
)
def test_a_line_that_is_no_loss_is_passed_over(tmp_path, line):
    sound = json.dumps(SOUND).encode()
    for name in ("losses", "00000000000000000007.bad"):
        (tmp_path / name).write_bytes(b"\n".join([sound, line, sound, b""]))
    assert read_losses(str(tmp_path)) == (Loss(**SOUND | {"path": str(tmp_path)}),) * 2
    assert (3, 9) in read_quarantine(str(tmp_path), 7)


def test_a_loss_is_told_of_where_its_directory_is_now(tmp_path):
    there = "/elsewhere/orders/0/00000000000000000007.log"
    write_losses(str(tmp_path), [Loss(**SOUND | {"path": there})], 0)
    (loss,) = read_losses(str(tmp_path))
    assert loss.path == str(tmp_path / "00000000000000000007.log")


def test_a_loss_stands_until_all_of_it_is_set_aside(tmp_path):
    path = str(tmp_path / "00000000000000000007.log")
    loss = Loss(**SOUND | {"path": path, "start": 10, "stop": 30})
    unknown = loss._replace(stop=-1)
    first = Loss("missing", str(tmp_path), 0, 0, 7, 0, "the first segment files are gone")
    assert standing([loss, unknown, first]) == [loss, unknown, first]
    write_quarantine(str(tmp_path), 7, [loss._replace(stop=20)], 0)
    assert standing([loss, unknown, first]) == [loss, first]
    write_quarantine(str(tmp_path), 7, [loss._replace(start=20), first], 0)
    assert standing([loss, unknown, first]) == []
