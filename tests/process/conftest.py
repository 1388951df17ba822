"""A place in memory for what these tests write, and no child left behind."""

import os
import tempfile
from pathlib import Path

import pytest

from crash.kills.children import stop_all


@pytest.fixture
def memory(tmp_path):
    """Where a slow disk does not count."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="seglog-process-") as path:
        yield Path(path)


@pytest.fixture(autouse=True)
def _nobody_stays():
    yield
    stop_all()
