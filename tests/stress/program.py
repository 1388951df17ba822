"""A stress test as a program: its seed first, what it did last; exit status 1 and the folder left behind when something broke."""

from __future__ import annotations

import argparse
import collections
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from crash.scratch import memory


def program(name: str, words: str | None, play: Callable[[Path, int, int], str], measure: str, default: int) -> int:
    """`play(folder, so many, seed)`, of which `--measure` says how many; the exit status."""
    options = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(f"--{measure}", type=int, default=default)
    options.add_argument("--seed", type=lambda text: int(text, 0), default=secrets.randbits(32))
    given = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix=f"seglog-{name}-", dir=memory()))
    print(f"seed {given.seed:#x}", flush=True)
    try:
        print(play(folder, getattr(given, measure), given.seed))
    except AssertionError as error:
        print(f"BROKEN: {error}\n{' '.join(getattr(error, '__notes__', []))}")
        return 1
    shutil.rmtree(folder)
    return 0


Play = Callable[[Path, str, int], "collections.Counter[str]"]


def rounds(folder: Path, kills: int, seed: int, each: int, play: Play, stop: Callable[[], None]) -> str:
    """`play(folder, seed, kills)` in rounds of `each` kills, until there were so many; what was done, in words.

    `stop` ends what runs still."""
    total: collections.Counter[str] = collections.Counter()
    number = 0
    while total["kills"] < kills:
        try:
            total += play(folder / f"round-{number}", f"{seed}:{number}", min(each, kills - total["kills"]))
        except AssertionError as error:
            error.add_note(f"in round {number} of seed {seed:#x}, left in {folder}")
            raise
        finally:
            stop()
        shutil.rmtree(folder / f"round-{number}")
        number += 1
    return f"{number} rounds: " + ", ".join(f"{count:,} {what}" for what, count in sorted(total.items()))
