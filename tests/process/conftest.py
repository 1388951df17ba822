"""A place in memory for what these tests write, and no child left behind."""


import pytest

from crash.kills.children import stop_all
from crash.scratch import folder as in_memory


@pytest.fixture
def memory(tmp_path):
    """Where a slow disk does not count."""
    with in_memory("process", otherwise=tmp_path) as path:
        yield path


@pytest.fixture(autouse=True)
def _nobody_stays():
    yield
    stop_all()
