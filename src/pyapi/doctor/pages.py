"""Pages: what the first page of a segment file says, and which names in a directory are whose."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from seglog.engine.segment import describe_segment, segment_at
from seglog.errors import CorruptSegment, SeglogError, UnsupportedFormat

__all__ = ["Sheet", "bases_in", "newest", "page_of", "reason", "segment_files"]

HEADER = 4096  # of a segment: where its first frame begins
COPY = 2048  # where its header stands again
MARKS = (512, 1024)  # where its durable mark stands
MARK_BYTES = 64

SEGMENT_FILE = re.compile(r"0[0-8]\d{18}\.log")
KNOWN_HERE = re.compile(r"SEGLOG|create\.lock|lock(\.\d+)?|shm|meta|topics|groups|producers|txn")
KNOWN_IN_GROUP = re.compile(r"lock|members(-\d+)?|epoch")
KNOWN_IN_LOG = re.compile(
    r"shm|tail\.shm|compact\.lock|lock(\.\d+)?|settled|judge\.lock|losses|\d{20}\.(idx|bad)|" + SEGMENT_FILE.pattern
)
KEPT = (".damaged", ".misplaced", ".torn")  # what an earlier repair took out of the way
KEPT_SEGMENT = re.compile(SEGMENT_FILE.pattern + r"(\.\d+)?\.misplaced")
UNFINISHED = re.compile(
    r"(members-\d+|SEGLOG\.\d+|\d{20}\.(log|idx)|.+\.positions(\.\d+)?(\.damaged)?\.\d+|\d{20}\.\d+\.torn\.\d+)\.tmp"
)


@dataclass(slots=True)
class Sheet:
    """What the first page of one segment file says."""

    base: int  # by its name
    path: str
    state: str = "sound"  # or corrupt, misplaced, unreadable, newer
    why: str = ""
    size: int = 0
    header: dict[str, Any] = field(default_factory=dict)
    copies: tuple[bool, bool] = (True, True)
    marks: tuple[Any, Any] = (None, None)

    @property
    def mark(self) -> dict[str, Any] | None:
        return newest(self.marks)

    @property
    def sealed_end(self) -> int | None:
        """The offset at which it ended when it was sealed."""
        mark = self.mark
        return int(mark["end_offset"]) if mark and mark["sealed"] else None

    @property
    def merged_end(self) -> int:
        """The offset up to which a compaction put records into it: files that begin below hold nothing that counts."""
        mark = self.mark
        return int(mark["end_offset"]) if mark and mark["sealed"] and mark["merged"] else 0

    @property
    def damaged_slots(self) -> list[int]:
        """Which slots are damaged: also one that is blank, although the other one was not the first to be written."""
        last = self.mark
        if last is None:
            return [0, 1]
        return [i for i, mark in enumerate(self.marks) if mark == "damaged" or (mark is None and last["sequence"] != 1)]


def page_of(path: str, base: int) -> Sheet | None:
    """The first page of the segment file `path`, judged; None when it is gone, or a directory."""
    sheet = Sheet(base, path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return None
        if not stat.S_ISREG(mode):
            sheet.state, sheet.why = "unreadable", "it is no file"
            return sheet
        page = describe_segment(path)
        sheet.size, sheet.copies, sheet.marks = page["size"], page["copies"], page["marks"]
        if page["header"] is None:
            small = f"it has only {sheet.size:,} bytes"
            sheet.state = "corrupt"
            sheet.why = small if sheet.size < HEADER else "both copies of its header are damaged"
            return sheet
        sheet.header = page["header"]
        says = sheet.header["base_offset"]
        if says != base or path.endswith(".misplaced"):
            sheet.state, sheet.why = "misplaced", f"it says that it begins at offset {says:,}"
            return sheet
        segment_at(path)
    except FileNotFoundError:
        return None
    except UnsupportedFormat as error:
        sheet.state, sheet.why = "newer", str(error)
    except CorruptSegment:
        sheet.state, sheet.why = "corrupt", f"it was cut to {sheet.size:,} bytes, less than its header"
    except (OSError, SeglogError) as error:
        sheet.state, sheet.why = "unreadable", reason(error)
    return sheet


def newest(marks: Iterable[Any]) -> dict[str, Any] | None:
    """The slot that holds."""
    sound = [mark for mark in marks if isinstance(mark, dict)]
    return max(sound, key=lambda mark: mark["sequence"], default=None)


def segment_files(folder: str) -> dict[str, int]:
    """The inode of each segment file in a folder. Another one under a name is another file: a compaction put it there."""
    found: dict[str, int] = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if SEGMENT_FILE.fullmatch(entry.name):
                with suppress(OSError):
                    found[entry.name] = entry.inode()
    return found


def bases_in(path: str) -> list[int]:
    """The base offsets of the segment files in a folder; none when it cannot be listed."""
    try:
        return sorted(int(name[:20]) for name in os.listdir(path) if SEGMENT_FILE.fullmatch(name))
    except OSError:
        return []


def reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def readable(path: str) -> bool:
    """Whether it is a file that may be read: opening a pipe would wait for ever."""
    return os.path.isfile(path) and os.access(path, os.R_OK)
