"""The ticker: work at every interval, whatever the work raises, until it is stopped or nobody is there any more."""

import threading
import time

from seglog.ticker import ERRORS_KEPT, Ticker


class Worker:
    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.ticks = threading.Semaphore(0)

    def work(self) -> None:
        self.ticks.release()
        if self.errors:
            raise self.errors.pop(0)

    def worked(self, times: int) -> bool:
        return all(self.ticks.acquire(timeout=10) for _ in range(times))


def test_the_work_is_done_again_and_again_until_it_is_stopped():
    worker = Worker()
    ticker = Ticker(0.001, worker.work)
    assert worker.worked(5)
    assert ticker.running
    ticker.stop()
    assert not ticker.running
    while worker.ticks.acquire(blocking=False):
        pass
    time.sleep(0.01)
    assert not worker.ticks.acquire(blocking=False)


def test_an_error_ends_nothing_and_is_kept_once():
    worker = Worker(ValueError("one"), ValueError("one"), OSError("two"))
    ticker = Ticker(0.001, worker.work)
    assert worker.worked(5)
    ticker.stop()
    assert list(ticker.errors) == ["ValueError: one", "OSError: two"]


def test_only_the_latest_errors_are_kept():
    worker = Worker(*(ValueError(str(n)) for n in range(2 * ERRORS_KEPT)))
    ticker = Ticker(0.0001, worker.work)
    assert worker.worked(2 * ERRORS_KEPT + 1)
    ticker.stop()
    assert list(ticker.errors) == [f"ValueError: {n}" for n in range(ERRORS_KEPT, 2 * ERRORS_KEPT)]


def test_work_whose_owner_is_gone_is_not_done():
    worker = Worker()
    ticker = Ticker(0.001, worker.work)
    assert worker.worked(1)
    del worker
    ticker._thread.join(10)
    assert not ticker.running
