"""Broken on purpose: logs, shims and recoveries that lose, so that one sees that the judge would notice.

Each is what `--breaks NAME` runs the proof with, and test_power_cut.py asks of each that it is caught.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from seglog.engine.log import Log


class Breaks:
    """Nothing is broken."""

    opener: Callable[..., Any] = Log
    options = 0  # of the shim

    def prepare(self, judge: Any) -> None:
        """Put something into the judge's way."""


KINDS: dict[str, type[Breaks]] = {}


def find(name: str | None) -> Breaks:
    return KINDS[name]() if name else Breaks()
