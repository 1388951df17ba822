"""What every scenario needs: a place for its store, and an end to the processes that it began."""

import pytest

from crash.kills.children import stop_all


@pytest.fixture(autouse=True)
def _nobody_stays():
    yield
    stop_all()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "data")
