r"""Lines: a stream of bytes as records, and nothing about it lost.

    GET /a\nGET /b\n\nGET /c          a record is a line without its newline: its text, as a program wants it

    record    "GET /a"  "GET /b"  ""  "GET /c"
    header       -         -       -   seglog.unterminated      the last line had no newline; reading adds none

Any bytes come back as they were, since a line may be anything but the delimiter: NULs, CRs, no UTF-8, nothing at all.
The positions of a block's lines are found by numpy, and the engine copies them from there: no Python work per line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["UNTERMINATED", "Block", "Stream", "blocks", "key_cuts"]

UNTERMINATED = "seglog.unterminated"  # the header of a last line that had no delimiter

BLOCK_BYTES = 1 << 20  # read at once: its positions and bytes stay in the second-level cache

Positions = npt.NDArray[np.int64]


class Stream(Protocol):
    def read1(self, size: int, /) -> bytes: ...


class Block(NamedTuple):
    """Some lines: line i is `data[starts[i]:ends[i]]`."""

    data: bytes
    starts: Positions
    ends: Positions
    terminated: bool  # False: one line, the last, without its delimiter


def blocks(stream: Stream, delimiter: bytes = b"\n", line_bytes_max: int = 1 << 26) -> Iterator[Block]:
    r"""The lines of `stream`, as many at a time as are there. A line that is longer than the maximum is handed
    out as soon as it is, and ends the iteration: the engine refuses it, before all memory is full of it.

    >>> import io
    >>> [(len(block.starts), block.terminated) for block in blocks(io.BytesIO(b"one\ntwo\nthree"))]
    [(2, True), (1, False)]
    """
    held: list[bytes] = []  # the beginning of a line whose end was not seen yet
    held_bytes = 0
    while held_bytes <= line_bytes_max and (chunk := stream.read1(BLOCK_BYTES)):
        ends = where(chunk, delimiter)
        if not len(ends):
            held.append(chunk)
            held_bytes += len(chunk)
            continue
        ends += held_bytes
        data = b"".join([*held, chunk]) if held else chunk
        starts = np.empty_like(ends)
        starts[0] = 0
        starts[1:] = ends[:-1] + 1
        yield Block(data, starts, ends, True)
        rest = data[int(ends[-1]) + 1 :]
        held, held_bytes = ([rest], len(rest)) if rest else ([], 0)
    if held:
        yield Block(b"".join(held), np.array([0]), np.array([held_bytes]), False)


def key_cuts(block: Block, separator: bytes) -> tuple[npt.NDArray[np.bool_], Positions]:
    """Which lines have `separator` in them, and where it is in each that has, the first time."""
    found = where(block.data, separator)
    if not len(found):
        return np.zeros(len(block.starts), np.bool_), found
    following = np.searchsorted(found, block.starts)
    first = found[np.minimum(following, len(found) - 1)]
    # A separator has no delimiter in it: one that begins in a line ends in it.
    keyed = (following < len(found)) & (first < block.ends)
    return keyed, first[keyed]


def where(data: bytes, sought: bytes) -> Positions:
    """All places of `sought` in `data`."""
    if len(sought) == 1:
        found = np.flatnonzero(np.frombuffer(data, np.uint8) == sought[0])
        return found.astype(np.int64, copy=False)
    return np.fromiter((match.start() for match in re.finditer(re.escape(sought), data)), np.int64)
