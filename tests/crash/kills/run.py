"""Thousands of kills: `python -m tests.crash.kills.run --kills 10000 --seed S`, on the debug build.

In each round a few processes share one log, each in a role: writer, roller, taker of the lock, reader, and one that opens and
closes. They are killed at random moments and at random failpoints, one by one, and replaced; after each death a bystander
must be able to append (within a few seconds: the others are at work, and a machine has few cores). Then all of them go, the
log is judged in the same boot, the machine reboots (perhaps with a torn end), and recoverers are killed while they recover,
until one may live. Judged, appended to, rebooted, judged again.

Exit status 1 and the directory left behind when a promise was broken.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from seglog.engine.errors import OffsetOutOfRange

from ..scratch import memory
from .children import Child, Died, stop_all
from .ledger import WRITERS, Wrong, seen
from .scenes import FSYNC, WRITE, Player, Stage, append, failpoints, has_failpoints, opened, play

Part = tuple[str, int, str, str, str]  # path, number, journal, fsync, write


# ---- roles: each goes on until it is killed ---------------------------------------------------------------------------


def writer(*part: object) -> None:
    """Small and not so small, alone and many at once, now and then a sync."""
    *rest, seed = part
    player, rng = Player(*rest), random.Random(seed)  # type: ignore[arg-type]
    while not player.journal.full:
        action = rng.random()
        if action < 0.5:
            player.append([rng.choice([20, 60, 200, 1500])])
        elif action < 0.9:
            player.writer.many(player.log, [rng.choice([20, 60, 200, 1500]) for _ in range(rng.randrange(1, 30))])
        elif action < 0.97:
            player.sync()
        else:
            player.log.upkeep()


def roller(*part: object) -> None:
    """Large records, so that a segment is full after a few of them; and trims, which delete it."""
    *rest, seed = part
    player, rng = Player(*rest), random.Random(seed)  # type: ignore[arg-type]
    while not player.journal.full:
        player.append([rng.choice([9000, 20_000, 33_000, 50_000])])
        if rng.random() < 0.1 or player.log.statistics()["segments"] > 20:
            first, following = player.log.first_offset, player.log.next_offset
            player.writer.trim(player.log, rng.randrange(first, following + 1))


def taker(*part: object) -> None:
    """Takes the lock as often as it can: the smallest records, and trims that trim next to nothing."""
    *rest, seed = part
    player, rng = Player(*rest), random.Random(seed)  # type: ignore[arg-type]
    while not player.journal.full:
        for _ in range(20):
            player.append([20])
        if rng.random() < 0.2:
            player.writer.trim(player.log, player.log.first_offset + 1)
        player.log.sync()


def visitor(*part: object) -> None:
    """Opens, appends once or never, closes, comes again."""
    *rest, seed = part
    player, rng = Player(*rest), random.Random(seed)  # type: ignore[arg-type]
    while not player.journal.full:
        player.append([20] * rng.randrange(3))
        player.close()
        player.open()


def reader(path: str, number: int, journal: str, fsync: str, write: str, seed: int) -> None:
    """Reads what comes, and dies of anything that it should not see."""
    log = opened(path, fsync, write)
    at, last = log.first_offset, {}  # type: ignore[var-annotated]
    while True:
        log.wait(at, 0.05)
        try:
            batch = log.read(at)
        except OffsetOutOfRange:
            if at >= log.first_offset:
                raise
            at = log.first_offset  # trimmed under the reader
            continue
        for record in batch or ():
            if record.offset != at:
                raise Wrong("hole", f"offset {record.offset:,} follows {at - 1:,}")
            _, who, which = seen(record.offset, record.value, record.key)
            if which <= last.get(who, -1):
                raise Wrong("reordered", f"offset {at:,}: writer {who} wrote {which} before {last[who]}")
            last[who] = which
            at += 1


# Failpoints that a role comes by soon; one that stands nowhere here is tried in all roles.
COMES_BY = {
    "writer": ("place", "sync", "roll", "create", "repair"),
    "roller": ("place", "roll", "create", "trim", "repair"),
    "taker": ("place", "sync", "trim.begin", "trim.marked", "repair"),
    "visitor": ("place", "close", "clean", "sync", "repair"),
}
SOMEWHERE = tuple({prefix for prefixes in COMES_BY.values() for prefix in prefixes} | {"recover", "settle", "trim"})

CROWDED = 5.0  # seconds for an append beside others that never rest
ROLES = {"writer": writer, "roller": roller, "taker": taker, "visitor": visitor, "reader": reader}


def act(*part: object) -> None:
    *rest, role, seed = part
    ROLES[role](*rest, seed)  # type: ignore[index, operator]
    while True:  # its journal is full
        signal.pause()


# ---- one round --------------------------------------------------------------------------------------------------------


class Round:
    """`kills` deaths of processes that share one log, then a reboot and deaths of recoverers."""

    def __init__(self, folder: Path, seed: str, points: list[str]) -> None:
        self.rng = random.Random(seed)
        self.points = points
        self.stage = Stage(folder, self.rng, self.rng.choice(FSYNC), self.rng.choice(WRITE))
        self.killed: collections.Counter[str] = collections.Counter()

    def enter(self) -> tuple[str, Child, bool]:
        """A new process in some role; whether a failpoint waits for it."""
        role = self.rng.choice(["writer", "writer", "roller", "roller", "taker", "visitor", "reader"])
        armed = bool(self.points) and role != "reader" and self.rng.random() < 0.7
        environment = {}
        if armed:
            near = [p for p in self.points if p.startswith(COMES_BY[role]) or not p.startswith(SOMEWHERE)]
            environment["SEGLOG_FAIL"] = f"{self.rng.choice(near)}:{self.rng.choice([1, 1, 1, 2, 3, 5, 20])}"
        return role, self.stage.child(act, role, self.rng.getrandbits(32), **environment), armed

    def end(self, role: str, child: Child, armed: bool) -> None:
        """Let it die at its failpoint, or kill it. Raises when it failed by itself."""
        deadline = time.monotonic() + self.rng.choice([0.001, 0.01, 0.03]) * (1 + 3 * armed)
        while child.status is None and time.monotonic() < deadline:
            time.sleep(0.0005)
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                child.status = os.waitstatus_to_exitcode(status)
        by_itself = child.status == -signal.SIGKILL
        child.kill()
        if child.wait() != -signal.SIGKILL:
            child.answer(1.0)
            raise Died(f"the {role} came to an end by itself")
        child.stop()
        self.killed["at a failpoint" if by_itself else f"{role} at some moment"] += 1

    def play(self, kills: int) -> None:
        stage, rng = self.stage, self.rng
        bystander = stage.servant()
        bystander.ask(append, [20])
        cast = [self.enter() for _ in range(3)]
        for i in range(kills):
            role, child, armed = cast.pop(rng.randrange(len(cast)))
            self.end(role, child, armed)
            began = time.monotonic()
            try:
                bystander.ask(append, [rng.choice([20, 500])], timeout=CROWDED)
            except Died as error:
                raise Wrong("stands still", f"after the death of a {role}: {error}") from error
            stage.slowest = max(stage.slowest, time.monotonic() - began)
            if i + 3 < kills:
                cast.append(self.enter())
            if not cast:
                break
        stage.goes_on(bystander)
        stage.goes_on(stage.newcomer())
        for _ in range(2):
            if rng.random() < 0.3:
                bystander.ask(close_and_open)
            stage.power_cut("kill")
            for _ in range(rng.randrange(1, 4)):
                fail = {}
                if self.points:
                    point = rng.choice([p for p in self.points if p.startswith(("recover", "settle", "create"))])
                    fail["SEGLOG_FAIL"] = f"{point}:1"
                child = stage.child(play, rng.getrandbits(32), 1, **fail)
                stage.recoveries += 1
                if not self.points:
                    time.sleep(rng.random() * 0.01)
                    child.kill()
                if stage.dies(child):
                    self.killed["recoverer"] += 1
            survivor = stage.newcomer()
            stage.goes_on(survivor)
            bystander = survivor
        stage.all_leave()


def close_and_open(player: Player) -> None:
    player.close()
    player.open()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=10_000)
    options.add_argument("--seed", type=lambda text: int(text, 0), default=secrets.randbits(32))
    options.add_argument("--round", type=int, default=0, help="begin with this round of the seed")
    options.add_argument("--without-failpoints", action="store_true", help="random moments only; any build will do")
    options.add_argument(
        "--writer", choices=list(WRITERS), default="sound", help="a broken one, to see that it is caught"
    )
    given = options.parse_args()
    os.environ["SEGLOG_TEST_WRITER"] = given.writer
    folder = Path(tempfile.mkdtemp(prefix="seglog-kills-", dir=memory()))
    points: list[str] = []
    if not given.without_failpoints:
        points = failpoints()
        if not has_failpoints(folder / "try"):
            print("this engine has no failpoints: make build/debug/.built, and PYTHONPATH=build/debug/package")
            return 2
    killed: collections.Counter[str] = collections.Counter()
    slowest, number, began, told = 0.0, given.round, time.monotonic(), time.monotonic()
    print(f"seed {given.seed:#x}", flush=True)

    def tell() -> None:
        total, seconds = killed.total(), time.monotonic() - began
        kinds = ", ".join(f"{n:,} {what}" for what, n in killed.most_common())
        print(
            f"{total:,} killed in {number - given.round:,} rounds and {seconds:.0f} s ({kinds}); "
            f"others stood still for {slowest * 1000:.0f} ms at most",
            flush=True,
        )

    while killed.total() < given.kills:
        round = Round(folder / f"round-{number}", f"{given.seed}:{number}", points)
        try:
            round.play(8)
        except AssertionError as error:
            settings = f"fsync {round.stage.fsync}, write {round.stage.write}"
            print(f"BROKEN in round {number} of seed {given.seed:#x} ({settings}): {error}")
            print(f"left as it is: {round.stage.path}", flush=True)
            stop_all()
            killed += round.killed
            tell()
            return 1
        finally:
            stop_all()
        killed += round.killed
        slowest = max(slowest, round.stage.slowest)
        shutil.rmtree(round.stage.path)
        number += 1
        if time.monotonic() - told > 30:
            told = time.monotonic()
            tell()
    shutil.rmtree(folder)
    tell()
    return 0


if __name__ == "__main__":
    sys.exit(main())
