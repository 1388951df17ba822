"""Record: one message with its key, headers, timestamp and place; and what else reading and sending give back.

All of it is the engine's own, so nothing is wrapped on the way out: a `Record` is lazy and points into the map, a
`Batch` is a run of them as columns, a `Position` is where one record is, a `Span` where many went, and a `Loss` is
what recovery or verification found damaged.

>>> import seglog
>>> seglog.Position(partition=0, offset=7) == (0, 7)
True
"""

from __future__ import annotations

from seglog.engine.batch import Batch, Column
from seglog.engine.losses import Loss
from seglog.engine.record import Position, Record, Span
from seglog.engine.source import Packed

__all__ = ["Batch", "Column", "Loss", "Packed", "Position", "Record", "Span"]
