"""Scenes: what processes do to a log when one of them is killed at a failpoint, and what is held against the ledger afterwards.

A scene gets a `Stage` (a directory, settings, journals) and a failpoint; it returns whether the victim died there. What
follows each death is the same for all of them (`Stage.aftermath`):

    others go on within a second     appends and reads, by a process that had the log open, or by one that opens it now
    the same boot                    everything acknowledged is there, nothing else, offsets without a gap, epoch 1, no losses
    a reboot                         words of another boot, or none; every byte of the files kept; again, and offsets may jump
    once more                        appended to, rebooted, judged: that is when the dead come back
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seglog.engine.errors import SeglogError
from seglog.engine.log import Log

from .children import Child, Died, Servant
from .ledger import CLOSED, OPENED, SYNCED, WRITERS, Journal, Ledger, Look, Wrong, look

SMALL = 65_536
ENGINE = Path(__file__).parents[3] / "src" / "engine"
FSYNC = ("interval", "always", "never")
WRITE = ("map", "pwrite")
A_SECOND = 1.0
PATIENCE = 0.2  # lock_timeout of those who wait for a stopped process

# Words of tail.shm (docs/format.md, section 8).
STATE, BOOT, LOCK, TAIL_POSITION, ACTIVE_BASE, ATTENTION, SYNC_LOCK = 12, 16, 128, 264, 272, 308, 408


ELSEWHERE = (
    *("decide.", "prepare.", "publish.", "transactions.", "place.kept", "compact.", "recover.superseded"),
    *("queue.", "slot.", "chunk.", "reclaim."),
)


def failpoints() -> list[str]:
    """Every failpoint that the sources of the engine name, but for those of a commit, of a compaction and of a queue:
    crash/test_transactions.py, crash/test_compaction.py and crash/test_queue.py have them."""
    found: set[str] = set()
    for source in [*ENGINE.glob("*.pyx"), *ENGINE.glob("*.pxd")]:
        found |= set(re.findall(r'failpoint\("([^"]+)"\)', source.read_text(encoding="utf-8")))
    return sorted(point for point in found if not point.startswith(ELSEWHERE))


def opened(path: str, fsync: str = "interval", write: str = "map", **more: Any) -> Log:
    settings: dict[str, Any] = {"segment_bytes": SMALL, "segment_bytes_min": SMALL, "batch_bytes": 4096}
    return Log(path, fsync=fsync, write=write, **(settings | more))


class Player:
    """A process that has the log open and writes to it, one thing after another."""

    def __init__(self, path: str, number: int, journal: str, fsync: str, write: str, **more: Any) -> None:
        self.path, self.fsync, self.write, self.more = path, fsync, write, more
        self.journal = Journal(journal)
        self.writer = WRITERS[os.environ.get("SEGLOG_TEST_WRITER", "sound")](number, self.journal)
        self.open()

    def open(self) -> None:
        self.log = opened(self.path, self.fsync, self.write, **self.more)
        self.journal.note(OPENED, self.log.epoch)

    def append(self, sizes: list[int]) -> None:
        for size in sizes:
            self.writer.one(self.log, size)

    def sync(self) -> None:
        self.journal.note(SYNCED, self.log.sync())

    def close(self) -> None:
        self.log.close()
        self.journal.note(CLOSED)

    def look(self) -> Look:
        return look(self.log)

    def go_on(self, sizes: list[int]) -> Look:
        self.append(sizes)
        return look(self.log, verify=False)

    def everything(self, seed: int, rounds: int) -> None:
        """Appends of every kind, rolls, trims, syncs, closes: in this order what a first arrival needs, then at random."""
        rng = random.Random(seed)
        for _ in range(rounds):
            self.append([20, 300])
            self.sync()
            self.writer.many(self.log, [rng.choice([20, 100, 900]) for _ in range(30)])
            self.writer.trim(self.log, self.log.next_offset - 5)
            while self.log.statistics()["segments"] < 3:  # rolls
                self.append([rng.choice([2000, 9000, 33_000])])
            self.writer.trim(self.log, rng.randrange(self.log.first_offset, self.log.next_offset + 1))
            self.append([500] * rng.randrange(4))
            self.sync()
            if rng.random() < 0.5:
                self.log.upkeep()
            self.close()
            self.open()
        self.append([50])


# Verbs for a Servant that keeps a Player.


def append(player: Player, sizes: list[int]) -> None:
    player.append(sizes)


def go_on(player: Player, sizes: list[int]) -> Look:
    return player.go_on(sizes)


def look_around(player: Player) -> Look:
    return player.look()


def close(player: Player) -> None:
    player.close()


def sync(player: Player) -> None:
    player.sync()


def everything(player: Player, seed: int, rounds: int) -> None:
    player.everything(seed, rounds)


def play(path: str, number: int, journal: str, fsync: str, write: str, seed: int, rounds: int) -> None:
    """A whole life in one child: open, do everything."""
    Player(path, number, journal, fsync, write).everything(seed, rounds)


def begin(path: str, number: int, journal: str, fsync: str, write: str, sizes: list[int], at_end: str) -> None:
    """Open, append a little; then "close", or end as a killed process does."""
    player = Player(path, number, journal, fsync, write)
    player.append(sizes)
    if at_end == "sync":
        player.sync()
    if at_end == "close":
        player.close()
    else:
        os.kill(os.getpid(), signal.SIGKILL)


class Stage:
    """One directory, the children that play on it, and their journals."""

    def __init__(self, path: Path, rng: random.Random, fsync: str, write: str) -> None:
        self.path, self.rng, self.fsync, self.write = path, rng, fsync, write
        self.log = str(path / "log")
        self.journals: list[tuple[int, str]] = []
        self.actors: list[Child] = []
        self.recoveries = 0  # that were begun: the epoch may be that much higher, and offsets may jump
        self.kills = 0
        self.slowest = 0.0
        path.mkdir(parents=True)

    # ---- actors -----------------------------------------------------------------------------------------------

    def part(self) -> tuple[str, int, str, str, str]:
        """What the next actor is made with: path, number, journal, fsync, write."""
        number = len(self.journals) + 1
        journal = str(self.path / f"journal-{number}")
        self.journals.append((number, journal))
        return self.log, number, journal, self.fsync, self.write

    def servant(self, **environment: str) -> Servant:
        actor = Servant(Player, *self.part(), environment=environment)
        self.actors.append(actor)
        return actor

    def child(self, work: Callable[..., Any], *arguments: Any, **environment: str) -> Child:
        actor = Child(work, *self.part(), *arguments, environment=environment)
        self.actors.append(actor)
        return actor

    def dies(self, actor: Child) -> bool:
        """Whether it was killed; if it was not, whether it came to a good end."""
        how = actor.wait(30.0)
        if how == -signal.SIGKILL:
            self.kills += 1
            return True
        actor.answer(5.0)  # raises what it failed with
        return False

    def all_leave(self) -> None:
        for actor in self.actors:
            actor.stop()
        self.actors.clear()

    def sizes(self, count: int = 3) -> list[int]:
        return [self.rng.choice([20, 20, 100, 3000, 40_000]) for _ in range(count)]

    # ---- the machine ------------------------------------------------------------------------------------------

    def words(self) -> bytearray:
        return bytearray(Path(self.log, "tail.shm").read_bytes())

    def word(self, at: int, form: str = "<I") -> int:
        return int(struct.unpack_from(form, self.words(), at)[0])

    def poke(self, name: str, at: int, data: bytes) -> None:
        with open(os.path.join(self.log, name), "r+b") as file:
            file.seek(at)
            file.write(data)

    def reboot(self) -> None:
        """All processes end, and what only this boot knew is gone, or another boot's. The files keep every byte."""
        self.all_leave()
        if self.rng.random() < 0.5:
            for name in ("shm", "tail.shm", "lock"):
                Path(self.log, name).unlink(missing_ok=True)
        else:
            for name in ("shm", "tail.shm"):
                if os.path.exists(os.path.join(self.log, name)):
                    self.poke(name, BOOT, self.rng.randbytes(8))
        for index in Path(self.log).glob("*.idx"):
            head = index.read_bytes()[:32]
            if len(head) == 32 and self.rng.random() < 0.5 and head[24:32] != bytes(8):
                self.poke(index.name, 24, self.rng.randbytes(8))
        self.recoveries += 1

    def tear(self) -> None:
        """What a power cut leaves behind the end, beside zeros: half a frame. Everybody must have left."""
        if not Path(self.log, "tail.shm").exists():
            return
        position, base = self.word(TAIL_POSITION, "<q"), self.word(ACTIVE_BASE, "<q")
        segment = Path(self.log, f"{base:020}.log")
        data = segment.read_bytes()
        frame = (
            data[4096 : 4096 + self.rng.randrange(8, 200)] if data[4096:4100] != bytes(4) else b"SLB\x01" + bytes(90)
        )
        frame += self.rng.randbytes(self.rng.randrange(1, 300))
        if position >= 4096 and position + len(frame) < len(data):
            self.poke(segment.name, position, frame)

    def power_cut(self, at_end: str) -> None:
        """A reboot that may have torn what was being written."""
        self.all_leave()
        if at_end != "close" and self.rng.random() < 0.7:
            self.tear()
        self.reboot()

    # ---- judging ----------------------------------------------------------------------------------------------

    def ledger(self) -> Ledger:
        ledger = Ledger()
        for number, path in self.journals:
            if os.path.exists(path):
                journal = Journal(path)
                ledger.take(number, journal.rows())
                journal.close()
        return ledger

    def judge(self, saw: Look) -> None:
        self.ledger().check(saw, contiguous=self.recoveries == 0)
        if saw.epoch > 1 + self.recoveries:
            raise Wrong("epoch", f"epoch {saw.epoch} after {self.recoveries} recoveries at most")
        if self.recoveries == 0 and saw.losses:
            raise Wrong("losses", f"{saw.losses}, and the machine never went down")
        if not set(saw.losses) <= {"torn"}:
            raise Wrong("losses", f"{saw.losses}: only an end can be torn here")

    def goes_on(self, actor: Servant) -> None:
        """It appends and reads within a second, and what it reads is right."""
        try:
            saw = actor.ask(go_on, self.sizes(), timeout=A_SECOND)
        except Died as error:
            raise Wrong("stands still", str(error)) from error
        self.slowest = max(self.slowest, actor.took)
        self.judge(saw)

    def newcomer(self, within: float = A_SECOND) -> Servant:
        """Another process opens the log now, within a second, and sees what it must."""
        actor = self.servant()
        try:
            saw = actor.ask(look_around, timeout=within)
        except Died as error:
            raise Wrong("stands still", str(error)) from error
        self.slowest = max(self.slowest, actor.took)
        self.judge(saw)
        return actor

    def aftermath(self, other: Servant | None = None) -> None:
        if other is not None and self.rng.random() < 0.8:
            self.goes_on(other)
        self.goes_on(self.newcomer())
        if other is not None:
            self.goes_on(other)
        for _ in range(2):
            self.reboot()
            actor = self.newcomer()
            self.goes_on(actor)
            if self.rng.random() < 0.5:
                actor.ask(close)
        self.all_leave()


# ---- scenes ---------------------------------------------------------------------------------------------------------


def work(stage: Stage, fail: str) -> bool:
    """The victim does everything there is to do, beside a process that had the log open before."""
    other = stage.servant()
    other.ask(append, stage.sizes())
    if not stage.dies(stage.child(play, stage.rng.getrandbits(32), 3, SEGLOG_FAIL=fail)):
        return False
    stage.aftermath(other)
    return True


def fresh(stage: Stage, fail: str) -> bool:
    """The victim makes the log; others come when it is dead."""
    if not stage.dies(stage.child(play, stage.rng.getrandbits(32), 1, SEGLOG_FAIL=fail)):
        return False
    stage.recoveries += 1  # if it did not come to the end of making it
    stage.aftermath()
    return True


def repair(stage: Stage, fail: str) -> bool:
    """The victim finds a dead holder, and dies in putting its affairs in order."""
    other = stage.servant()
    other.ask(append, stage.sizes())
    first = stage.rng.choice(
        ["place.published:2", "place.stored:1", "roll.switching:1", "roll.switched:1", "roll.made:1"]
    )
    if not stage.dies(stage.child(play, stage.rng.getrandbits(32), 3, SEGLOG_FAIL=first)):
        return False
    if not stage.dies(stage.child(play, stage.rng.getrandbits(32), 1, SEGLOG_FAIL=fail)):
        return False
    stage.aftermath(other)
    return True


def recovery(stage: Stage, fail: str) -> bool:
    """The victim is the first after a reboot; so is the next, which dies in the same place; then one that may live."""
    at_end = stage.rng.choice(["kill", "sync", "close"])
    sizes = stage.sizes(stage.rng.choice([0, 1, 6]))
    stage.child(begin, sizes, at_end).wait()
    stage.power_cut(at_end)
    died = 0
    for _ in range(3):
        if not stage.dies(stage.child(play, stage.rng.getrandbits(32), 1, SEGLOG_FAIL=fail)):
            break
        died += 1
        if stage.rng.random() < 0.5:
            stage.reboot()
    stage.recoveries += died
    if died:
        stage.aftermath()
    return died > 0


def failed(stage: Stage, fail: str) -> bool:
    """A sync failed, so the partition must be opened anew; the victim does, and dies. One that had it open is told."""
    other = stage.servant()
    other.ask(append, stage.sizes(6))
    if stage.fsync != "never":
        other.ask(sync)
    stage.poke("tail.shm", STATE, struct.pack("<I", 2))
    stage.poke("tail.shm", ATTENTION, struct.pack("<I", 2))
    stage.recoveries += 1
    died = stage.dies(stage.child(play, stage.rng.getrandbits(32), 1, SEGLOG_FAIL=fail))
    stage.recoveries += 1
    kind, what = other.try_(append, [20], timeout=A_SECOND)
    if (kind, what and what[0]) != ("raised", "PartitionFailed"):
        raise Wrong("told", f"a handle from before the failed sync was not refused: {kind} {what}")
    if died:
        stage.aftermath()
    return died


SCENES: dict[str, Callable[[Stage, str], bool]] = {
    "work": work,
    "fresh": fresh,
    "repair": repair,
    "recovery": recovery,
    "failed": failed,
}


def order(point: str) -> list[str]:
    """The scenes, the likeliest to come by `point` first."""
    first = {"recover": "recovery", "settle": "recovery", "repair": "repair", "create": "fresh"}
    best = first.get(point.split(".")[0], "work")
    return [best, *(name for name in SCENES if name != best)]


# ---- stopped, not dead ----------------------------------------------------------------------------------------------


def stopped(stage: Stage, fail: str) -> bool:
    """The victim is stopped instead, for a while: nobody takes its place, nobody waits longer than told, nothing is lost."""
    other = stage.servant()
    other.ask(append, stage.sizes())
    if fail.startswith("repair."):
        stage.dies(stage.child(play, stage.rng.getrandbits(32), 1, SEGLOG_FAIL="place.published:1"))
    victim = stage.child(play, stage.rng.getrandbits(32), 2, SEGLOG_FAIL=fail + ":stop")
    if not victim.wait_stopped(30.0):
        victim.answer(5.0)
        return False
    locked, syncing = stage.word(LOCK), stage.word(SYNC_LOCK)
    path, number, journal, fsync, write = stage.part()
    waiter = Servant(Hurried, path, number, journal, fsync, write, PATIENCE)
    stage.actors.append(waiter)
    asked = waiter.try_(append, [20], timeout=PATIENCE + 5.0)
    must_wait(asked, waiter, victim, bool(locked or (syncing and fsync == "always")))
    asked = waiter.try_(sync, timeout=PATIENCE + 5.0)
    if asked[0] != "ok" or not locked:  # all may be durable already; then nobody needs a lock
        must_wait(asked, waiter, victim, bool(locked or syncing))
    if locked and stage.word(LOCK) != locked:
        raise Wrong("displaced", "the lock of a stopped process changed hands")
    victim.kill(signal.SIGCONT)
    victim.answer(30.0)
    stage.goes_on(other)
    stage.goes_on(waiter)
    stage.newcomer()
    stage.reboot()
    stage.newcomer()
    stage.all_leave()
    return True


def must_wait(asked: tuple[str, Any], waiter: Servant, victim: Child, held: bool) -> None:
    kind, what = asked
    if not held:
        if kind != "ok":
            raise Wrong("refused", f"though nobody held a lock: {what[2]}")
    elif kind != "raised" or what[0] != "LockTimeout":
        raise Wrong("displaced", f"beside a stopped holder: {kind} {what}")
    elif what[1].get("pid") != victim.pid:
        raise Wrong("unnamed", f"the holder is {victim.pid}; the error names {what[1]}")
    elif waiter.took > PATIENCE + A_SECOND:
        raise Wrong("late", f"the error came after {waiter.took:.1f} s, not {PATIENCE} s")


class Hurried(Player):
    """A player that does not wait long for a lock."""

    def __init__(self, path: str, number: int, journal: str, fsync: str, write: str, patience: float) -> None:
        super().__init__(path, number, journal, fsync, write, lock_timeout=patience)


def stopped_opener(stage: Stage, fail: str) -> bool:
    """The victim is stopped while it recovers: others that open wait as long as told; when it is killed they go on at once."""
    stage.child(begin, stage.sizes(4), "kill").wait()
    stage.power_cut("kill")
    victim = stage.child(play, stage.rng.getrandbits(32), 1, SEGLOG_FAIL=fail + ":stop")
    if not victim.wait_stopped(30.0):
        victim.answer(5.0)
        return False
    hurried = Child(try_to_open, stage.log, stage.fsync, stage.write, PATIENCE)
    stage.actors.append(hurried)
    what = hurried.answer(PATIENCE + 5.0)
    if what != "DirectoryInUse":
        raise Wrong("displaced", f"opened beside a stopped opener: {what}")
    patient = stage.servant()  # asks for the lock now
    time.sleep(0.05 * stage.rng.random())
    if stage.rng.random() < 0.5:
        victim.kill(signal.SIGKILL)
        stage.kills += 1
        stage.recoveries += 1
    else:
        victim.kill(signal.SIGCONT)
        victim.answer(30.0)
    saw = patient.ask(look_around, timeout=A_SECOND)
    stage.judge(saw)
    stage.aftermath(patient)
    return True


def try_to_open(path: str, fsync: str, write: str, patience: float) -> str:
    try:
        opened(path, fsync, write, lock_timeout=patience)
    except SeglogError as error:
        return type(error).__name__
    return "opened"


def has_failpoints(folder: Path) -> bool:
    """Whether this engine was built with them."""
    stage = Stage(folder, random.Random(0), "never", "map")
    child = stage.child(play, 0, 1, SEGLOG_FAIL="place.published:1")
    died = child.wait() == -signal.SIGKILL
    stage.all_leave()
    shutil.rmtree(folder)
    return died


# ---- one failpoint ---------------------------------------------------------------------------------------------------


def try_point(
    point: str,
    folder: Path,
    seed: int,
    wanted: int,
    *,
    arrivals: int = 1,
    mode: str = "kill",
    say: Callable[[str], None] = print,
) -> tuple[int, float]:
    """Be killed (or stopped) at `point` in `wanted` plays. How many kills, and how long others stood still at most.

    Raises Wrong for a broken promise, and when no scene comes by the point.
    """
    rng = random.Random(f"{seed}:{point}:{mode}")
    hits = kills = 0
    slowest = 0.0
    plays = 0
    if mode == "kill":
        names = order(point)
        tries = [(name, fsync, write) for name in names for fsync in FSYNC for write in WRITE]
        head = tries[:6]
        rng.shuffle(head)
        tries = head + tries[6:]
    else:
        scene = "stopped_opener" if point.startswith(("recover.", "settle.")) else "stopped"
        tries = [(scene, fsync, write) for fsync in FSYNC for write in WRITE]
        rng.shuffle(tries)
    while hits < wanted:
        before = hits
        for name, fsync, write in tries:
            if hits >= wanted:
                break
            scene = {**SCENES, "stopped": stopped, "stopped_opener": stopped_opener}[name]
            arrival = 1 if hits < 1 else rng.randint(1, arrivals)
            stage = Stage(folder / f"play-{plays}", random.Random(rng.getrandbits(64)), fsync, write)
            plays += 1
            try:
                hit = scene(stage, f"{point}:{arrival}")
            except BaseException:
                say(
                    f"  in scene {name}, SEGLOG_FAIL={point}:{arrival}, fsync {fsync}, write {write}, seed {seed:#x}: {stage.path}"
                )
                stage.all_leave()
                raise
            stage.all_leave()
            hits += hit
            kills += stage.kills
            slowest = max(slowest, stage.slowest)
            shutil.rmtree(stage.path)
        if hits == before:
            break
    if hits == 0:
        raise Wrong("unreached", f"no scene comes by the failpoint {point}: write one in {__file__}")
    return kills, slowest
