"""The n-th call fails: `python -m tests.crash.faults.run --seed S`, every n of every kind; with `--cases 1000`, so many of them.

A case is a scene (scenes.py), how it writes and syncs, a kind of call, an error, whether it comes once or for good, and n. Workers, each a process under
the shim (shim.c), play case after case; this one watches that they neither die nor stand still. Every n is tried until a run comes
to its end without the fault. With `--memory` the scenes are single verbs (hunger.py), and what fails is a piece of memory.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import errno
import faulthandler
import functools
import gc
import itertools
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seglog.engine import log

from ..power.run import compiler, preloaded, why_not, write_all
from ..scratch import memory
from .hunger import FRUGAL, VERBS

HERE = Path(__file__).resolve().parent
SILENCE = 40.0  # seconds without a word from a worker
HALF = -1  # instead of an error: half of what was asked for

# The order is that of shim.c, where MEMORY follows.
KINDS = {
    "open": ["EIO", "EMFILE", "ENFILE", "ENOMEM", "EACCES", "EROFS", "ENOSPC"],
    "read": ["EIO", "HALF"],
    "write": ["EIO", "ENOSPC", "EROFS", "HALF"],
    "allocate": ["ENOSPC", "EIO", "EOPNOTSUPP"],
    "map": ["ENOMEM", "ENFILE", "EACCES"],
    "populate": ["ENOMEM", "EFAULT", "ENOSPC"],
    "truncate": ["EIO", "ENOSPC"],
    "fsync": ["EIO", "ENOSPC", "EROFS"],
    "rename": ["EIO", "ENOSPC", "EACCES", "EROFS"],
    "unlink": ["EIO", "EACCES", "EROFS"],
    "mkdir": ["ENOSPC", "EACCES", "EROFS", "EIO"],
    "list": ["EMFILE", "EIO", "EACCES", "ENOMEM"],
    "stat": ["EIO", "EACCES", "ENOMEM"],
    "lock": ["ENOLCK"],
    "msync": ["EIO"],
}
MEMORY = ("engine", "python")  # memory that they ask for, while a verb is hungry (hunger.py)
# Python's not for good: without any, CPython 3.11 enters an error's handler again and again, for want of the int that it needs to.
HUNGERS = [("engine", False), ("engine", True), ("python", False)]
ORDER = [*KINDS, *MEMORY]
UNUSED = {"msync"}  # not called here: files are synced, not views
SETTINGS = [(fsync, write) for fsync in ("never", "interval", "always") for write in ("map", "pwrite")]
Case = tuple[str, str, str, str, str, bool, int]  # scene, fsync, write, kind, error, forever, n


class Shim:
    def __init__(self) -> None:
        self.lib = ctypes.CDLL(None)
        try:
            self.lib.faults_arm  # noqa: B018
        except AttributeError:
            raise RuntimeError("not under the shim") from None

    def root(self, path: str) -> None:
        self.path = path
        self.lib.faults_root(path.encode())

    def arm(self, kind: str, n: int, error: str, forever: bool) -> None:
        self.lib.faults_arm(ORDER.index(kind), n, HALF if error == "HALF" else getattr(errno, error), forever)

    def window(self, open: bool) -> None:
        """Whether memory is refused."""
        self.lib.faults_window(open)

    def learn(self) -> None:
        """Where the code is that asks for memory, of what is loaded."""
        self.lib.faults_code(-1, None, None)
        for name, kind in ((os.path.dirname(log.__file__), "engine"), ("python", "python")):
            with open("/proc/self/maps") as maps:
                for line in maps:
                    area, rights, _, _, _, *path = line.split(None, 5)
                    if "x" in rights and path and (path[0].startswith(name + "/") or os.path.basename(path[0]).startswith((name, "lib" + name))):
                        self.lib.faults_code(ORDER.index(kind), *(ctypes.c_void_p(int(end, 16)) for end in area.split("-")))

    def calm(self) -> None:
        """No call fails from now on; the counts stay."""
        self.root("")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What this harness does to the files itself."""
        self.lib.faults_root(b"")
        yield
        self.root(self.path)

    def counts(self) -> dict[str, int]:
        return {kind: self.lib.faults_count(i) for i, kind in enumerate(ORDER)}

    def fired(self) -> int:
        return int(self.lib.faults_fired())


class Worker:
    def __init__(self, place: str, broken: str = "") -> None:
        from . import broken as breaks
        from . import hunger

        self.shim, self.place = Shim(), tempfile.mkdtemp(dir=place)
        self.scenes = breaks.scenes(broken) | hunger.scenes(broken)
        self.number = 0
        self.warm: set[str] = set()

    def play(self, case: Case) -> tuple[int, list[str], list[str], dict[str, int]]:
        """How often the fault came, what is wrong, what was told, and how many calls there were of each kind."""
        scene, fsync, write, kind, error, forever, n = case
        if scene in VERBS and scene not in self.warm:  # with all that it imports
            self.warm.add(scene)
            self.play((scene, fsync, write, kind, error, forever, 0))
            gc.freeze()
            self.shim.learn()
        self.number += 1
        path = os.path.join(self.place, str(self.number))
        play = self.scenes[scene](os.path.join(path, "it"), random.Random(0), fsync, write, self.shim)
        os.mkdir(path)
        play.tidy = kind != "python"  # CPython forgets to let go of a call's arguments when it has no memory for the call
        self.shim.arm(kind, n, error, forever)
        self.shim.root(path)
        try:
            play.play()
        finally:
            self.shim.calm()
        said = play.said
        fired, counts, wrong = self.shim.fired(), self.shim.counts(), play.wrong
        del play
        gc.collect()
        shutil.rmtree(path)
        return fired, wrong, said, counts


def work(arguments: list[str]) -> None:
    """A worker's life: cases come on stdin, one a line; what became of each goes to stdout."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    say = os.dup(1)
    os.dup2(2, 1)
    worker = Worker(*arguments)
    for line in sys.stdin:
        case = json.loads(line)
        try:
            answer: Any = worker.play(case)
        except Exception as error:
            import traceback

            answer = (1, [f"{error!r}\n{traceback.format_exc()}"], [], {})
        write_all(say, (json.dumps(answer) + "\n").encode())
    shutil.rmtree(worker.place, ignore_errors=True)


# ---- in the one that watches --------------------------------------------------------------------------------------


class Hand:
    """A worker, and what it is at."""

    def __init__(self, library: Path, place: str, broken: str) -> None:
        self.arguments = (library, place, broken)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        library, place, broken = self.arguments
        code = "import sys; from crash.faults.run import work; work(sys.argv[1:])"
        return subprocess.Popen(
            [sys.executable, "-c", code, place, broken], env=preloaded(library) | {"PYTHONMALLOC": "malloc"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def ask(self, case: Case) -> None:
        if self.process is None:
            self.process = self.start()
        self.case, self.since, self.heard = case, time.monotonic(), b""
        assert self.process.stdin
        self.process.stdin.write((json.dumps(case) + "\n").encode())
        self.process.stdin.flush()

    def answer(self) -> Any:
        """What came of it; None while nothing did."""
        assert self.process and self.process.stdout
        how = ""
        if select.select([self.process.stdout], [], [], 0)[0]:
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            self.heard += data
            if self.heard.endswith(b"\n"):
                return json.loads(self.heard)
            how = "" if data else "died"
        elif time.monotonic() - self.since > SILENCE:
            os.kill(self.process.pid, signal.SIGUSR1)  # where it is
            time.sleep(0.2)
            how = f"says nothing for {SILENCE:g} s"
        if not how:
            return None
        self.process.kill()
        status = self.process.wait()
        self.end()
        return [1, [f"the process {how} (status {status})"], [], {}]

    def end(self) -> None:
        if self.process is not None:
            self.process.stdin.close()  # type: ignore[union-attr]
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()  # type: ignore[union-attr]
            self.process = None


class Result:
    def __init__(self) -> None:
        self.cases = self.fired = 0
        self.failures: list[tuple[Case, list[str], list[str]]] = []
        self.errors: Counter[str] = Counter()  # in how many cases each was told
        self.kinds: Counter[str] = Counter()  # in how many cases a call of each kind failed
        self.seconds = 0.0

    def __str__(self) -> str:
        told = ", ".join(f"{n:,} {name}" for name, n in self.errors.most_common())
        return f"{self.cases:,} cases in {self.seconds:.0f} s, in {self.fired:,} of which something failed; told: {told}; {len(self.failures):,} wrong"

    def explain(self, most: int = 5) -> str:
        return "\n\n".join(
            "\n  ".join([f"{case}", *wrong[:4], *(f"({text})" for text in said[:4])]) for case, wrong, said in self.failures[:most]
        )


@functools.cache
def build() -> Path:
    """The library, in a folder that goes with this process."""
    folder = tempfile.TemporaryDirectory(prefix="seglog-faults-")
    atexit.register(folder.cleanup)
    library = Path(folder.name) / "shim.so"
    subprocess.run([str(compiler()), "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(HERE / "shim.c"), "-ldl"], check=True)
    return library


def streams(seed: str, cases: int | None, hungry: bool) -> Any:
    """Generators of cases: each is sent whether the last fault came, and how many calls of each kind there were."""
    rng, many = random.Random(seed), {}
    whole: list[Any] = []
    every: list[Any] = [
        (verb, *rng.choice(SETTINGS), kind, "ENOMEM", forever) for verb in VERBS for kind, forever in HUNGERS
    ] if hungry else [
        (scene, fsync, write, kind, error, forever)
        for scene, (fsync, write) in itertools.product(["log", "store"], SETTINGS)
        for kind, errors in KINDS.items()
        for error, forever in itertools.product(errors, (False, True))
    ]
    rng.shuffle(every)
    if cases is None:
        return [all_of(what) for what in every]
    if hungry:  # once each that the engine asks for, and each of verbs that need little; so many of the others
        few = [what for what in every if what[3:] == ("engine", "ENOMEM", False) or what[0] in FRUGAL]
        whole, every = [all_of(what) for what in few], [what for what in every if what not in few]
    per = -(-cases // len(every))
    return [*whole, *[some_of(what, per, random.Random(rng.random()), many) for what in every[:cases]]]


def all_of(what: Any) -> Any:
    for n in itertools.count(1):
        fired, _ = yield (*what, n)
        if not fired:
            return


def some_of(what: Any, count: int, rng: random.Random, many: dict[Any, dict[str, int]]) -> Any:
    """Any n, of so many as there are when nothing fails."""
    if what[:3] not in many:
        _, many[what[:3]] = yield (*what, 0)
    most = many[what[:3]].get(what[3], 0)
    for n in rng.sample(range(1, most + 1), min(count, most)):
        yield (*what, n)


def play(seed: str, cases: int | None, *, jobs: int, broken: str = "", enough: int = 20, progress: bool = False, only: list[Case] | None = None, hungry: bool = False) -> Result:
    """Play so many cases of this seed, all of them (None), or just these; of calls, or, `hungry`, of memory."""
    result, began = Result(), time.monotonic()
    said = began
    library = build()
    with tempfile.TemporaryDirectory(prefix="seglog-faults-", dir=memory(), ignore_cleanup_errors=True) as place:
        waiting = [just(only)] if only else streams(seed, cases, hungry)
        waiting.reverse()
        free = [Hand(library, place, broken) for _ in range(jobs)]
        busy: list[tuple[Hand, Any]] = []

        def next_case(hand: Hand, stream: Any, answer: Any) -> bool:
            try:
                case = next(stream) if answer is None else stream.send(answer)
            except StopIteration:
                return False
            hand.ask(case)
            busy.append((hand, stream))
            return True

        try:
            while busy or (waiting and len(result.failures) < enough):
                while free and waiting and len(result.failures) < enough:
                    if next_case(free[-1], waiting.pop(), None):
                        free.pop()
                if not busy:
                    continue
                select.select([hand.process.stdout for hand, _ in busy], [], [], 1.0)  # type: ignore[union-attr]
                for hand, stream in list(busy):
                    answer = hand.answer()
                    if answer is None:
                        continue
                    busy.remove((hand, stream))
                    fired, wrong, told, counts = answer
                    result.cases += 1
                    result.fired += fired > 0
                    result.kinds[hand.case[3]] += fired > 0
                    result.errors.update({text.split(": ")[1] for text in told})
                    if wrong:
                        result.failures.append((hand.case, wrong, told))
                    if len(result.failures) >= enough or not next_case(hand, stream, (fired, counts)):
                        free.append(hand)
                if progress and time.monotonic() - said > 10:
                    said = time.monotonic()
                    result.seconds = said - began
                    print(result, flush=True)
        finally:
            for hand in [*free, *(hand for hand, _ in busy)]:
                hand.end()
    result.seconds = time.monotonic() - began
    return result


def just(cases: list[Case]) -> Any:
    for case in cases:
        _ = yield case


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.faults.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", default=None, help="what is tried first, or at all (random)")
    parser.add_argument("--cases", type=int, default=None, help="so many, chosen by the seed, instead of all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes (one per processor)")
    parser.add_argument("--enough", type=int, default=20, help="stop after so many that are wrong")
    parser.add_argument("--broken", default="", help="break something on purpose; see broken.py")
    parser.add_argument("--memory", action="store_true", help="refuse memory, not calls; see hunger.py")
    parser.add_argument("--only", default=None, help="just this case, as it was printed")
    arguments = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"not here: {reason}")
        return 0
    seed = arguments.seed or os.urandom(4).hex()
    print(f"seed {seed}", flush=True)
    only = [json.loads(arguments.only)] if arguments.only else None
    result = play(seed, arguments.cases, jobs=arguments.jobs, broken=arguments.broken, enough=arguments.enough, progress=True, only=only, hungry=arguments.memory)
    print(result)
    if result.failures:
        print(result.explain(20))
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
