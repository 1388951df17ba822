"""The judge is judged: each way in which a log can break its promise is seen, and nothing is seen where nothing is wrong."""

import pytest

from crash.kills.ledger import (
    ACKNOWLEDGED,
    INTENDED,
    TRIMMED,
    TRIMMING,
    Journal,
    Ledger,
    Look,
    Seen,
    Wrong,
    key_of,
    seen,
    value_of,
)


def ledger():
    """Two writers: 1 had three of its four records acknowledged, 2 was killed in its second append."""
    ledger = Ledger()
    ledger.take(1, [(INTENDED, 0, 2, 0), (ACKNOWLEDGED, 0, 2, 0), (INTENDED, 2, 2, 0), (ACKNOWLEDGED, 2, 1, 3)])
    ledger.take(2, [(INTENDED, 0, 1, 0), (ACKNOWLEDGED, 0, 1, 2), (INTENDED, 1, 1, 0)])
    return ledger


GOOD = [Seen(0, 1, 0), Seen(1, 1, 1), Seen(2, 2, 0), Seen(3, 1, 2), Seen(4, 2, 1)]


def saw(records, first=0, next=5, findings=()):
    return Look(first, next, 1, (), findings, records)


def test_what_was_acknowledged_is_right_with_or_without_what_was_not():
    ledger().check(saw(GOOD), contiguous=True)
    ledger().check(saw(GOOD[:4], next=4), contiguous=True)
    ledger().check(saw([*GOOD[:4], Seen(4, 1, 3), Seen(5, 2, 1)], next=6), contiguous=True)
    ledger().check(saw([*GOOD[:4], Seen(8192, 2, 1)], next=8193), contiguous=False)


@pytest.mark.parametrize(
    ("kind", "look"),
    [
        ("lost", saw(GOOD[:3], next=3)),
        ("hole", saw([*GOOD[:1], *GOOD[2:]])),
        ("moved", saw([GOOD[0], GOOD[1], Seen(2, 1, 2), Seen(3, 2, 0), GOOD[4]])),
        ("duplicated", saw([*GOOD, Seen(5, 2, 1)], next=6)),
        ("reordered", saw([*GOOD[:4], Seen(4, 1, 3), Seen(5, 2, 1)][:5] + [Seen(5, 2, 0)], next=6)),
        ("reordered", saw([GOOD[1], GOOD[0], *GOOD[2:]])),
        ("invented", saw([*GOOD[:4], Seen(4, 2, 2)])),
        ("invented", saw([*GOOD[:4], Seen(4, 3, 0)])),
        ("hole", saw([*GOOD[:4], Seen(8192, 2, 1)], next=8193)),
        ("lost", saw(GOOD[2:], first=2)),
        ("damage", saw(GOOD, findings=("a torn frame",))),
    ],
)
def test_each_kind_of_wrong_is_seen(kind, look):
    with pytest.raises(Wrong) as raised:
        ledger().check(look, contiguous=True)
    assert raised.value.kind == kind or (kind == "reordered" and raised.value.kind == "duplicated")


def test_without_a_boot_in_between_lost_is_seen_as_well():
    with pytest.raises(Wrong, match="lost: 1 records, the first at offset 2"):
        ledger().check(saw([GOOD[0], GOOD[1], GOOD[3], GOOD[4]]), contiguous=False)


def test_a_trim_that_returned_holds_and_one_that_did_not_may():
    trimmed = ledger()
    trimmed.take(1, [(TRIMMING, 1, 0, 0), (TRIMMED, 1, 0, 0), (TRIMMING, 3, 0, 0)])
    for first in (1, 2, 3):
        trimmed.check(saw(GOOD[first:], first=first), contiguous=True)
    for first, kind in ((0, "untrimmed"), (4, "lost")):
        with pytest.raises(Wrong, match=kind):
            trimmed.check(saw(GOOD[first:], first=first), contiguous=True)


def test_an_offset_given_to_two_is_seen():
    twice = ledger()
    with pytest.raises(Wrong, match="duplicated"):
        twice.take(3, [(INTENDED, 0, 1, 0), (ACKNOWLEDGED, 0, 1, 3)])


def test_a_value_knows_its_writer_and_a_changed_one_is_nobodys():
    value = value_of(7, 9, 300)
    assert seen(5, value, key_of(7, 9)) == (5, 7, 9)
    for wrong in (value[:-1], bytes([value[0] ^ 1]) + value[1:], value[:100] + b"?" + value[101:], b"", None):
        with pytest.raises(Wrong, match="invented"):
            seen(5, wrong, key_of(7, 9))
    with pytest.raises(Wrong, match="key"):
        seen(5, value, key_of(7, 6))


def test_a_journal_holds_whole_rows_for_whoever_opens_it_later(tmp_path):
    journal = Journal(tmp_path / "journal")
    for i in range(100):
        journal.note(INTENDED, i, -i, 1 << 60)
    assert Journal(tmp_path / "journal").rows() == [(INTENDED, i, -i, 1 << 60) for i in range(100)]
    assert Journal(tmp_path / "journal").rows(98) == [(INTENDED, 98, -98, 1 << 60), (INTENDED, 99, -99, 1 << 60)]
