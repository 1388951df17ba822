"""Fixtures for pytest: a store that is gone after the test, and a clock that the test moves.

They are there when seglog is installed: nothing is to be imported, nothing to be put into a conftest.py.

    seglog_clock    a `ManualClock`: it stands still until it is told to move
    seglog_store    a `Store` in the test's `tmp_path`, by that clock, without a thread in the background: `upkeep()` does its work
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import seglog

__all__ = ["seglog_clock", "seglog_store"]


@pytest.fixture
def seglog_clock() -> seglog.ManualClock:
    """The time by which `seglog_store` lives: `advance(seconds)`, `set(when)`."""
    return seglog.ManualClock()


@pytest.fixture
def seglog_store(tmp_path: Path, seglog_clock: seglog.ManualClock) -> Iterator[seglog.Store]:
    """An open store in `tmp_path / "seglog"`. Its delays, leases, lives and retention end when `seglog_clock` says so."""
    with seglog.open(tmp_path / "seglog", clock=seglog_clock, fsync="never", upkeep=False) as store:
        yield store
