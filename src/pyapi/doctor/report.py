"""Report: what an examination found, and what a repair did; in words for people, in numbers for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

from seglog.record import Loss

__all__ = ["SEVERITIES", "Finding", "Partition", "Range", "Report", "Severity", "spoken"]

Severity = Literal["damage", "unexamined", "harmless", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
Range: TypeAlias = tuple[int, int]  # offsets `start .. stop - 1`; `stop` -1: nobody knows how many


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be, or that one should know.

    `severity`: "damage" needs a repair or a backup; "unexamined" could not be looked at; "harmless" costs no record, and repair
    tidies it up; "note" is for information. `kind`: corrupt (bytes changed), missing, torn (an append that was not synced
    when the power went), misplaced (a file under a name that is not its own), derived, mark, header, positions, failed (a
    sync), leftover, unknown, unreadable, newer.
    """

    kind: str
    severity: Severity
    path: str
    meaning: str
    """What it means for the data."""
    repair: str = ""
    """What `repair` would do about it; empty: nothing."""
    position: int = 0
    size: int = 0
    """Bytes `position .. position + size - 1` of the file."""
    start: int = -1
    stop: int = -1
    """Offsets `start .. stop - 1` are affected; `start` -1: none, `stop` -1: nobody knows how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """What was read of one log: topics/orders/0 is "orders/0", and "meta" says what topics there are.

    >>> print(Partition(name="t/0", path="", verified=((0, 4117), (5120, 10000)), lost=((4117, 5120),)).told)
    records 0..4,116 and 5,120..9,999 verified; 4,117..5,119 lost
    """

    name: str
    path: str
    first_offset: int = 0
    next_offset: int = 0
    in_use: bool = False
    """Its shared words are of this boot: they said where it ends."""
    records: int = 0
    size: int = 0
    """Records and bytes that were compared with their hashes, and are right."""
    verified: tuple[Range, ...] = ()
    lost: tuple[Range, ...] = ()
    """Offsets that cannot be read."""
    set_aside: tuple[Range, ...] = ()
    """Those of them that reads pass over without an error, since a repair wrote them down."""
    history: tuple[Loss, ...] = ()
    """What earlier recoveries and repairs found lost."""

    @property
    def told(self) -> str:
        """In words: what is verified, and what is lost."""
        said = f"records {spoken(self.verified)} verified" if self.verified else "no record to verify"
        return f"{said}; {spoken(self.lost)} lost" if self.lost else said


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `examine` found, or `repair` left: `findings` are what is so now, `mended` what was so before."""

    path: str
    uuid: str | None
    findings: tuple[Finding, ...]
    partitions: tuple[Partition, ...]
    size: int
    """Bytes that were compared with their hashes, and are right."""
    seconds: float
    mended: tuple[Finding, ...] = ()
    changes: tuple[str, ...] = ()
    """What repair did."""
    failures: tuple[str, ...] = ()
    """What repair tried, and why it did not succeed."""

    @property
    def damage(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "damage")

    @property
    def unexamined(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "unexamined")

    @property
    def losses(self) -> tuple[Loss, ...]:
        """The damage to records, as `Store.verify` tells it."""
        return tuple(
            Loss(
                {"misplaced": "missing", "torn": "torn", "missing": "missing"}.get(finding.kind, "corrupt"),
                *(finding.path, finding.position, finding.start, finding.stop, finding.size, finding.meaning),
            )
            for finding in (*self.damage, *self.unexamined)
            if finding.start >= 0
        )

    @property
    def sound(self) -> bool:
        """Whether everything was looked at, and none of it is damage."""
        return not self.damage and not self.unexamined

    def to_json(self) -> dict[str, Any]:
        """As JSON would have it, with `sound`, and each partition in words too."""
        document = asdict(self) | {"sound": self.sound}
        for told_of, entry in zip(self.partitions, document["partitions"], strict=True):
            entry["told"] = told_of.told
            entry["history"] = [loss._asdict() for loss in told_of.history]
        return document


def spoken(ranges: Iterable[Range]) -> str:
    """
    >>> spoken([(0, 1), (5, 10), (4117, -1)])
    '0, 5..9 and 4,117 and up'
    """
    words = [
        f"{start:,} and up" if stop < 0 else f"{start:,}" if stop == start + 1 else f"{start:,}..{stop - 1:,}"
        for start, stop in ranges
    ]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
