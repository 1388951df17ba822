"""Be killed at each failpoint of a compaction, on the debug build, and have the power cut there:

    python -m tests.crash.kills.compacting [points] --seed S --plays N

One line per failpoint; the exit status is 1 when a promise was broken. Held after each death, by processes that come then:

    the same boot     every live record is there, nothing that never was, no loss; appends go on; another compaction ends the work
    the power cut     the same, for names that were not on disk being the old or the new ones, each on its own; a second reader of
                      the format, which knows nothing of shared memory, says so too
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..scratch import memory
from .children import Child
from .scenes import ENGINE, SMALL

Row = tuple[int, bytes | None, bytes | None]  # offset, key, value

SETTINGS: dict[str, Any] = {"segment_bytes": SMALL, "segment_bytes_min": SMALL, "batch_bytes": 4096}
GRACE = 1 << 60  # µs: tombstones stay
AFTER = {"compact.superseded": "compact.durable:1", "recover.superseded": "compact.durable:1"}  # die there first


def points() -> list[str]:
    found: set[str] = set()
    for source in ENGINE.glob("*.pyx"):
        found |= set(re.findall(r'failpoint\("((?:compact\.|recover\.superseded)[^"]*)"\)', source.read_text("utf-8")))
    return sorted(found) if not AFTER.keys() - found else []


# ---- what the children do --------------------------------------------------------------------------------------------


def opened(path: str) -> Any:
    from seglog.engine.log import Log

    return Log(path, **SETTINGS)


def begin(path: str, seed: int) -> list[Row]:
    """A log of some segments, each key written often, some deleted, some records without a key."""
    rng, rows = random.Random(seed), []
    log = opened(path)
    keys, size = rng.choice([(5, 300), (60, 100), (1000, 400), (10**9, 300)])
    while len(log.segments()) < rng.choice([4, 7]):
        for _ in range(rng.randrange(1, 80)):
            key = None if rng.random() < 0.02 else b"%d" % rng.randrange(keys)
            value = None if key is not None and rng.random() < 0.1 else rng.randbytes(rng.randrange(size))
            rows.append((log.append(value, key), key, value))
    log.close()
    return rows


def squash(path: str, memory: int) -> Any:
    from seglog.engine.compaction import compact

    log = opened(path)
    said = compact(log, memory=memory, grace_us=GRACE)
    log.close()
    return said


def look(path: str) -> tuple[list[Row], list[Any], int]:
    """What there is, by reading on from each record's end; what is lost; where the segment being written begins."""
    log = opened(path)
    rows = [(record.offset, record.key, record.value) for record in log.records()]
    singly, at = [], log.first_offset
    while (batch := log.read(at, 7)) is not None:
        singly += [(record.offset, record.key, record.value) for record in batch]
        at = batch.next_offset
    assert singly == rows, "records one way and the other differ"
    found = rows, [*log.verify(), *log.losses], log.segments()[-1][0]
    log.close()
    return found


def read_independently(path: str) -> tuple[list[Row], list[Any]]:
    from tests.format.reader import Log

    log = Log(path)
    rows = [(record.offset, record.key, record.value) for record in log.records()]
    return rows, [one for one in log.unsound if one.kind != "torn"]


def append(path: str, seed: int) -> list[Row]:
    rng, log = random.Random(seed), opened(path)
    rows = []
    for _ in range(300):
        key, value = b"%d" % rng.randrange(5), rng.randbytes(rng.randrange(400))
        rows.append((log.append(value, key), key, value))
    log.close()
    return rows


# ---- what is held -----------------------------------------------------------------------------------------------------


def judge(saw: list[Row], rows: list[Row], active: int) -> None:
    """Everything that a compaction of what lies below `active` leaves is there, and nothing that never was."""
    once = set(rows)
    assert len(saw) == len(set(saw)), "a record is there twice"
    assert [row[0] for row in saw] == sorted(row[0] for row in saw), "records are out of order"
    assert set(saw) <= once, f"never written: {sorted(set(saw) - once)[:3]}"
    missing = living(rows, active) - set(saw)
    assert not missing, f"lost: {sorted(missing)[:3]}"


def living(rows: list[Row], active: int) -> set[Row]:
    last = {key: offset for offset, key, _ in rows if offset < active}
    return {row for row in rows if row[0] >= active or row[1] is None or last[row[1]] == row[0]}


def ask(work: Any, *arguments: Any) -> Any:
    with Child(work, *arguments) as child:
        return child.answer(60.0)


def dies(work: Any, *arguments: Any, fail: str) -> bool:
    with Child(work, *arguments, environment={"SEGLOG_FAIL": fail}) as child:
        return child.wait(60.0) == -signal.SIGKILL


def reboot(path: Path) -> None:
    for name in ("shm", "tail.shm", "lock"):
        (path / name).unlink(missing_ok=True)


def cuts(before: Path, after: Path, to: Path, rng: random.Random) -> list[Path]:
    """What a power cut may leave of the names: where the directory was not synced each is old or new, but no other goes before."""
    old = {file.name: file for file in before.glob("*.log")}
    new = {file.name: file for file in after.glob("*.log")}
    changed = [name for name in old if name in new and old[name].read_bytes()[:4096] != new[name].read_bytes()[:4096]]
    replaced = [name for name in changed if old[name].read_bytes()[16:32] != new[name].read_bytes()[16:32]]
    gone = [name for name in old if name not in new]
    images = []
    choices = [dict.fromkeys([*gone, *replaced], "new"), dict.fromkeys(gone, "old")]
    choices += [{name: rng.choice(["old", "new"]) for name in gone} for _ in range(3)]
    if not gone:  # the directory may not have been synced: each replacement on its own
        choices += [dict(zip(replaced, picks, strict=True)) for picks in itertools.islice(itertools.product(["old", "new"], repeat=len(replaced)), 4)]
    for number, choice in enumerate(choices):
        image = to / f"cut-{number}"
        shutil.copytree(after, image)
        for name, which in choice.items():
            (image / name).unlink(missing_ok=True)
            if which == "old" or name in new:
                shutil.copy(old[name] if which == "old" else new[name], image / name)
        reboot(image)
        images.append(image)
    return images


def play(folder: Path, point: str, rng: random.Random) -> bool:
    """Whether it came by the point."""
    path, seed = folder / "log", rng.getrandbits(32)
    memory = rng.choice([1536, 4000, 1 << 20])  # the smallest holds 48 keys: several passes
    rows = ask(begin, str(path), seed)
    shutil.copytree(path, folder / "before")
    first = AFTER.get(point)
    if first and not dies(squash, str(path), memory, fail=first):
        return False
    if point.startswith("recover."):
        reboot(path)
        if not dies(look, str(path), fail=f"{point}:1"):
            return False
    elif not dies(squash, str(path), memory, fail=f"{point}:{1 if first else rng.choice([1, 1, 2, 3])}"):
        return False
    _, _, active = ask(look, str(folder / "before"))
    # The power is cut there.
    for image in cuts(folder / "before", path, folder, rng):
        saw, unsound = ask(read_independently, str(image))
        judge(saw, rows, active)
        assert not unsound, f"the second reader says {unsound}"
        saw, losses, _ = ask(look, str(image))
        judge(saw, rows, active)
        assert not losses, f"after a power cut: {losses}"
        assert not list(image.glob("*.tmp")), "a temporary file is left"
    # Or only the process ended.
    saw, losses, _ = ask(look, str(path))
    judge(saw, rows, active)
    assert not losses, f"after a kill: {losses}"
    rows += ask(append, str(path), seed)
    saw, losses, active = ask(look, str(path))
    judge(saw, rows, active)
    said = ask(squash, str(path), memory)
    assert said and said["finished"], said
    saw, losses, _ = ask(look, str(path))
    assert set(saw) == living(rows, active), "another compaction did not end the work"
    assert not losses and not list(path.glob("*.tmp"))
    reboot(path)
    again, losses, _ = ask(look, str(path))
    assert again == saw and not losses
    return True


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("points", nargs="*")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--plays", type=int, default=1)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    broken = False
    for point in options.points or points():
        rng, died = random.Random(f"{options.seed} {point}"), 0
        for attempt in range(20 * options.plays):
            with tempfile.TemporaryDirectory(dir=memory()) as folder:
                try:
                    died += play(Path(folder), point, rng)
                except AssertionError as error:
                    print(f"{point} BROKEN in play {attempt}: {error}", flush=True)
                    broken = True
                    break
            if died >= options.plays:
                print(f"{point} died {died} times, in {attempt + 1} plays", flush=True)
                break
        else:
            print(f"{point} BROKEN: nobody comes by it", flush=True)
            broken = True
    return broken


if __name__ == "__main__":
    sys.exit(main())
