"""Merge: several partitions' records in order of time, a batch of each at a time.

The order is that of `Topic.read`: of the records that come next in each partition the one with the lowest timestamp, and of
several the one of the lowest partition. Inside a partition offsets decide, whatever the timestamps say; so a
record counts as being as late as the latest before it, and sorting by that, stably, is the merge.

    partition 0   1  5  3  9          as late as   1  5  5  9
    partition 1   2  4  8                          2  4  8        ->  1 2 4 5 3 8 9
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from seglog import Batch

__all__ = ["merged"]


class Source:
    """One partition: what was rendered of it and not handed out yet."""

    def __init__(self, batches: Iterator[Batch], render: Callable[[Batch], list[bytes]]) -> None:
        self.batches, self.render = batches, render
        self.pieces: list[bytes] = []
        self.times: npt.NDArray[np.int64] = np.empty(0, np.int64)  # as late as the latest before it
        self.latest = np.iinfo(np.int64).min
        self.at = 0

    def fill(self) -> bool:
        """Have something to hand out; False at the end."""
        while self.at == len(self.pieces):
            batch = next(self.batches, None)
            if batch is None:
                return False
            self.pieces, self.at = self.render(batch), 0
            self.times = np.maximum(np.maximum.accumulate(batch.timestamps), self.latest)
            if self.pieces:
                self.latest = self.times[-1]
        return True

    def take(self, time: int, including: bool) -> tuple[list[bytes], npt.NDArray[np.int64]]:
        """Everything before `time`, or up to it."""
        first = self.at
        self.at = first + int(np.searchsorted(self.times[first:], time, "right" if including else "left"))
        return self.pieces[first : self.at], self.times[first : self.at]


def merged(streams: Sequence[Iterator[Batch]], render: Callable[[Batch], list[bytes]]) -> Iterator[list[bytes]]:
    """What `render` makes of each record, in order of time; lists of some at a time. One batch of each in memory."""
    sources = [Source(stream, render) for stream in streams]
    while sources := [source for source in sources if source.fill()]:
        # What the source that ends first in time may still bring comes after all that is up to there.
        last = min(range(len(sources)), key=lambda i: (sources[i].latest, i))
        time = sources[last].latest
        taken = [source.take(time, i <= last) for i, source in enumerate(sources)]
        pieces = [piece for some, _ in taken for piece in some]
        if sum(bool(some) for some, _ in taken) > 1:
            order = np.argsort(np.concatenate([times for _, times in taken]), kind="stable")
            pieces = [pieces[i] for i in order.tolist()]
        yield pieces
