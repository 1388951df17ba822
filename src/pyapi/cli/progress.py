"""Progress: a bar on stderr for what takes more than a second, when a person can see it; else nothing."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Progress"]

AFTER = 1.0  # seconds: what is faster needs no bar


class Progress:
    """A bar called `what`, of `total` bytes or records (None: who knows), with their count if `unit` says what they are.
    Use it in a `with`.

    Nothing is shown, and rich not even imported, before `AFTER`. The race: a number that is advanced while the bar
    is being made is in the bar a moment later.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        unit: Literal["bytes", "records"] | None = None,
        show: bool = True,
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.bar: Bar | None = None
        self.lock = threading.Lock()
        self.timer = threading.Timer(AFTER, self.start) if show and sys.stderr.isatty() else None
        if self.timer:
            self.timer.daemon = True

    def advance(self, by: int) -> None:
        self.done += by
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done)

    def start(self) -> None:
        from rich import progress
        from rich.console import Console

        columns: list[progress.ProgressColumn] = [progress.TextColumn("{task.description}"), progress.BarColumn()]
        if self.unit == "bytes":
            columns += [progress.DownloadColumn()]
        elif self.unit:
            columns += [progress.TextColumn("{task.completed:,} " + self.unit)]
        with self.lock:
            if self.timer is None:  # finished in the meantime
                return
            bar = progress.Progress(
                *columns, progress.TimeElapsedColumn(), console=Console(stderr=True), transient=True
            )
            bar.add_task(self.what, total=self.total, completed=self.done)
            bar.start()
            self.bar = bar

    def __enter__(self) -> Self:
        if self.timer:
            self.timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self.lock:
            if self.timer:
                self.timer.cancel()
            self.timer = None
            if self.bar is not None:
                self.bar.stop()
