"""Broken on purpose: logs that do not tell, lose, or leave things behind, so that one sees that the scenes notice."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from seglog.engine.errors import SeglogError
from seglog.engine.log import Log

from .scenes import SCENES, LogScene, Scene


class Hushed(Log):
    """Says that it took what it did not."""

    def append(self, *arguments: Any, **more: Any) -> int:
        try:
            return int(super().append(*arguments, **more))
        except SeglogError:
            return int(self.next_offset)


class Bare(Log):
    """Raises the system's own error."""

    def append(self, *arguments: Any, **more: Any) -> int:
        try:
            return int(super().append(*arguments, **more))
        except SeglogError as error:
            raise OSError(5, str(error)) from error


class Leaking(Log):
    """Forgets a descriptor when something fails."""

    def append(self, *arguments: Any, **more: Any) -> int:
        try:
            return int(super().append(*arguments, **more))
        except SeglogError:
            with contextlib.suppress(OSError):
                os.open(os.path.join(self.path, "tail.shm"), os.O_RDONLY)
            raise


BREAKS: dict[str, tuple[type[Log], str]] = {
    "hushed": (Hushed, "given out twice"),
    "bare": (Bare, "raised OSError"),
    "leaking": (Leaking, "left open"),
}


def scenes(broken: str) -> dict[str, type[Scene]]:
    if broken not in BREAKS:
        return SCENES
    opener = BREAKS[broken][0]

    class Broken(LogScene):
        pass

    Broken.opener = staticmethod(opener)
    return {"log": Broken, "store": Broken}
