"""The power cut proof, from the command line: `python -m tests.crash.power.run --images 100000 --seed 1`.

Workers, each a process of its own under the shim, run workloads and judge images of them; this one watches that they neither die nor
stand still. Image n of a seed is always the same (unless its workload has threads or processes): `--only n` runs it alone, and keeps it.
"""

from __future__ import annotations

import argparse
import atexit
import faulthandler
import functools
import gc
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
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..scratch import memory

HERE = Path(__file__).resolve().parent
PER_WORKLOAD = 20
AGAIN = 0.2  # of the images are cut again while they recover
SILENCE = 120.0  # seconds without a word from a worker


def why_not() -> str | None:
    """Why the shim cannot be had here; None when it can."""
    if sys.platform != "linux":
        return "the shim that knows what is on disk is an LD_PRELOAD library for Linux"
    if not compiler():
        return "no C compiler (cc, gcc or clang) to build the shim with"
    return None


def compiler() -> str | None:
    return next((found for name in (os.environ.get("CC", "cc").split()[0], "cc", "gcc", "clang") if (found := shutil.which(name))), None)


@functools.cache
def build_shim() -> Path:
    """The library, in a folder that goes with this process."""
    folder = tempfile.TemporaryDirectory(prefix="seglog-shim-")
    atexit.register(folder.cleanup)
    library = Path(folder.name) / "shim.so"
    subprocess.run(
        [str(compiler()), "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(HERE / "shim.c"), "-ldl", "-lpthread"], check=True
    )
    return library


def preloaded(library: Path) -> dict[str, str]:
    """The environment of a process under the shim."""
    paths = [str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    before = os.environ.get("LD_PRELOAD")
    return os.environ | {
        "LD_PRELOAD": f"{library} {before}" if before else str(library),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }


# ---- in a worker ------------------------------------------------------------------------------------------------


KINDS = ("log", "log", "log", "queues", "store")


def kind_of(workload: int, only: str | None) -> tuple[Any, Any, Any]:
    """The workload, its judge and its model: of five one is a store with topics, one with queues, the others are bare logs."""
    from .judge import Judge, Model
    from .queues import QueueJudge, QueueModel, QueueWorkload
    from .stores import StoreJudge, StoreModel, StoreWorkload
    from .workload import Workload

    kinds = {"log": (Workload, Judge, Model), "queues": (QueueWorkload, QueueJudge, QueueModel), "store": (StoreWorkload, StoreJudge, StoreModel)}
    return kinds[only or KINDS[workload % len(KINDS)]]


class Worker:
    """Judges images, one after the other, in a process under the shim."""

    def __init__(
        self, seed: str, keep: str, place: str, breaks: str | None = None, fsync: str | None = None, kind: str | None = None, kill_at: int = -1
    ) -> None:
        from . import broken
        from .history import Shim

        self.seed, self.keep, self.kill_at = seed, keep, kill_at
        self.shim = Shim()
        self.breaks = broken.find(breaks)
        self.fsync = fsync or self.breaks.fsync
        self.kind = kind or self.breaks.kind
        self.boot = 0
        self.counts: Counter[str] = Counter()
        self.place = tempfile.mkdtemp(dir=place)
        self.disk = os.path.join(self.place, "disk")  # one path for all: losses name it
        self.tell: Callable[[Any], None] = lambda message: None

    def reboot(self) -> None:
        self.boot += 1
        self.shim.boot(f"{self.seed}-{self.boot}")

    def workload(self, number: int) -> tuple[Any, str]:
        """Run workload `number`; its history, and what it was."""
        rng = random.Random(f"{self.seed}:{number}")
        os.urandom = lambda n: rng.randbytes(n)  # salts and ids repeat with the seed
        root = self.disk
        os.mkdir(root)
        self.reboot()
        work = kind_of(number, self.kind)[0](os.path.join(root, "log"), rng, self.shim, self.breaks.opener, self.fsync)
        self.shim.begin(root, self.breaks.shim)
        try:
            work.run()
        finally:
            history = self.shim.end()
            shutil.rmtree(root)
        return history, str(work)

    def run(self, first: int, stop: int) -> None:
        """Images first .. stop-1."""
        at = -1
        for number in range(first, stop):
            self.tell(number)
            if number == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                if number // PER_WORKLOAD != at:
                    at = number // PER_WORKLOAD
                    self.counts["workloads"] += 1
                    history, what = self.workload(at)
            except Exception:
                at = -1
                self.tell({"failure": {"image": number, "wrong": [traceback.format_exc()], "notes": ["in the workload"]}})
                continue
            rng = random.Random(f"{self.seed}:{number}:image")
            os.urandom = rng.randbytes
            self._image(number, history, what, rng)

    def _image(self, number: int, history: Any, what: str, rng: random.Random) -> None:
        from .images import Image

        _, judges, models = kind_of(number // PER_WORKLOAD, self.kind)
        model = models(self.breaks.judged_as)
        cut, generation, after = history, 0, 0
        trail = [f"image {number} of seed {self.seed}: {what}"]
        while True:
            moment = cut.moment(rng, after)
            state = rng.getstate()
            image = Image(cut, moment, rng)
            place = self.disk
            model = model.hear_all(cut.said, moment)
            image.write(place)
            again = rng.random() < AGAIN and generation < 2
            trail += [f"generation {generation}:", *image.notes]
            judge = judges(os.path.join(place, "log"), model, rng, self.reboot, self.breaks.opener)
            wrong, following = self._judge(judge, place, generation, again)
            self.counts["images"] += 1
            self.counts["again"] += generation > 0
            self.counts["changed"] += image.old_pages + image.old_names > 0
            self.counts[image.taste.model] += 1
            if wrong:
                kept = os.path.join(self.keep, f"image-{number}.{generation}")
                shutil.rmtree(kept, ignore_errors=True)
                shutil.rmtree(kept + ".after", ignore_errors=True)
                shutil.move(place, kept + ".after")
                rng.setstate(state)
                Image(cut, moment, rng).write(kept)
                failure = {"image": number, "generation": generation, "wrong": wrong[:20], "notes": trail[:60], "kept": kept}
                self.tell({"failure": failure})
                Path(kept + ".txt").write_text("\n".join([*trail, *wrong, "", *(f"{at} {words}" for at, words in cut.said if at <= moment)]))
                return
            shutil.rmtree(place, ignore_errors=True)
            if following is None:
                return
            cut, generation = following, generation + 1
            # Mostly inside recovery, which is what this is for.
            opened = [at for at, words in cut.said if "opened" in words[:3]]
            if opened and rng.random() < 0.7:
                cut.last = opened[0]

    def _judge(self, judge: Any, place: str, generation: int, again: bool) -> tuple[list[str], Any]:
        self.breaks.prepare(judge)
        following = None
        if again:
            self.shim.begin(place, self.breaks.shim)
            judge.also, judge.fail = self.shim.say, self.shim.fail
        try:
            wrong = judge.judge(16 + generation)
        except Exception:
            wrong = [traceback.format_exc()]
        finally:
            if again:
                following = self.shim.end()
        self.counts["records found"] += judge.found
        self.counts["records lost"] += judge.lost
        self.counts["images with losses"] += judge.lost > 0
        self.counts["losses told"] += judge.losses
        return wrong, following


def work(arguments: list[str]) -> None:
    """A worker's life: ranges of images come on stdin, what was found goes to stdout."""
    faulthandler.enable()
    say = os.dup(1)
    os.dup2(2, 1)
    worker = Worker(**json.loads(arguments[0]))
    worker.tell = lambda message: write_all(say, (json.dumps(message) + "\n").encode())
    gc.collect()
    gc.freeze()  # what is there now stays; looking for garbage is then cheap
    worker.tell({"counts": {}})
    try:
        for line in sys.stdin:
            worker.run(*map(int, line.split()))
            worker.tell({"counts": worker.counts})
            worker.counts.clear()
    finally:
        shutil.rmtree(worker.place, ignore_errors=True)


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


# ---- in the one that watches --------------------------------------------------------------------------------------


class Result:
    """What all workers found."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []
        self.seconds = 0.0

    def __str__(self) -> str:
        c = self.counts
        return (
            f"{c['images']:,} images of {c['workloads']:,} workloads in {self.seconds:.0f} s: {c['again']:,} cut again in recovery, "
            f"{c['ordered']:,} ordered, {c['bare']:,} bare; {c['changed']:,} with something old; {c['records found']:,} records found; "
            f"{c['records lost']:,} unsynced ones lost, in {c['images with losses']:,} images; {len(self.failures):,} failures"
        )

    def says(self, what: str) -> bool:
        """Whether some failure says that."""
        return any(what in text for failure in self.failures for text in failure["wrong"])

    def explain(self, most: int = 3) -> str:
        texts = []
        for failure in self.failures[:most]:
            texts.append("\n".join([*failure["notes"][:40], *failure["wrong"][:8], f"kept: {failure.get('kept')}"]))
        return "\n\n".join(texts)


class Crew:
    """Worker processes, fed with ranges of images."""

    def __init__(self, library: Path, options: dict[str, Any], count: int) -> None:
        self.library, self.options, self.count = library, options, count

    def start(self) -> subprocess.Popen[bytes]:
        code = "import sys; from crash.power.run import work; work(sys.argv[1:])"
        return subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(self.options)],
            env=preloaded(self.library),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, images: int, first: int, progress: bool, enough: int, until: str) -> Result:
        """Judge images first .. first+images-1; stops early after `enough` failures, or one that says `until`."""
        result, began = Result(), time.monotonic()
        step = PER_WORKLOAD * max(1, min(10, images // PER_WORKLOAD // self.count // 4))
        ranges = [(at, min(at + step, first + images)) for at in range(first, first + images, step)]
        ranges.reverse()
        alive: dict[int, list[Any]] = {}  # descriptor -> [process, last image, range, last word, bytes half read]

        def hire() -> None:
            process = self.start()
            assert process.stdout
            os.set_blocking(process.stdout.fileno(), False)
            alive[process.stdout.fileno()] = [process, None, None, time.monotonic(), b""]

        def died(fd: int, how: str) -> None:
            process, at, range_, _, _ = alive.pop(fd)
            process.kill()
            process.wait()
            process.stdout.close()
            if range_ is not None and how:
                result.failures.append({"image": at, "wrong": [f"the worker {how} (status {process.returncode})"], "notes": []})
                if at is not None and at + 1 < range_[1]:
                    ranges.append((at + 1, range_[1]))

        def feed(worker: list[Any]) -> None:
            worker[2] = None
            if ranges and len(result.failures) < enough:
                worker[2] = ranges.pop()
                worker[0].stdin.write(f"{worker[2][0]} {worker[2][1]}\n".encode())
                worker[0].stdin.flush()
            else:
                worker[0].stdin.close()

        said = began
        while True:
            while len(alive) < self.count and ranges and len(result.failures) < enough:
                hire()
            if not alive:
                break
            for fd in select.select(list(alive), [], [], 1.0)[0]:
                worker = alive[fd]
                data = os.read(fd, 1 << 20)
                worker[3] = time.monotonic()
                if not data:
                    died(fd, "died")
                    continue
                *lines, worker[4] = (worker[4] + data).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    if isinstance(message, int):
                        worker[1] = message
                        continue
                    if "failure" in message:
                        result.failures.append(message["failure"])
                    else:
                        result.counts.update(message["counts"])
                        feed(worker)
            if len(result.failures) >= enough or (until and result.says(until)):
                break
            for fd in [fd for fd, worker in alive.items() if time.monotonic() - worker[3] > SILENCE]:
                died(fd, f"said nothing for {SILENCE:g} s")
            if progress and time.monotonic() - said > 10:
                said = time.monotonic()
                result.seconds = said - began
                print(result, flush=True)
        for fd in list(alive):
            died(fd, "")
        result.seconds = time.monotonic() - began
        return result


def judge_images(
    images: int,
    seed: str,
    *,
    keep: str,
    first: int = 0,
    jobs: int | None = None,
    progress: bool = False,
    enough: int = 10,
    until: str = "",
    **options: Any,
) -> Result:
    """Judge so many images of this seed; the failing ones are kept in `keep`."""
    os.makedirs(keep, exist_ok=True)
    # Images live in memory: there they are written and synced fast, and the shim knows what a disk would have.
    with tempfile.TemporaryDirectory(prefix="seglog-power-", dir=memory(), ignore_cleanup_errors=True) as place:
        options |= {"seed": seed, "keep": os.path.abspath(keep), "place": place}
        crew = Crew(build_shim(), options, jobs or min(os.cpu_count() or 1, max(1, images // PER_WORKLOAD)))
        return crew.run(images, first, progress, enough, until)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.power.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000, help="how many (100,000)")
    parser.add_argument("--seed", default=None, help="what they are made from (random)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--only", type=int, help="just this one, and keep it")
    parser.add_argument("--jobs", type=int, help="worker processes (one per processor)")
    parser.add_argument("--keep", default="power-failures", help="where failing images go (power-failures)")
    parser.add_argument("--fsync", choices=["never", "interval", "always"], help="only this level")
    parser.add_argument("--kind", choices=sorted(set(KINDS)), help="only these workloads")
    parser.add_argument("--breaks", help="break something on purpose; see broken.py")
    arguments = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"not here: {reason}")
        return 0
    seed = arguments.seed or os.urandom(4).hex()
    print(f"seed {seed}", flush=True)
    options: dict[str, Any] = {"fsync": arguments.fsync, "kind": arguments.kind, "breaks": arguments.breaks}
    if arguments.only is not None:
        result = judge_images(1, seed, keep=arguments.keep, first=arguments.only, jobs=1, **options)
    else:
        result = judge_images(arguments.images, seed, keep=arguments.keep, first=arguments.first, jobs=arguments.jobs, progress=True, **options)
    print(result)
    if result.failures:
        print(result.explain(), f"\nrepeat one: python -m tests.crash.power.run --seed {seed} --only {result.failures[0]['image']}", sep="\n")
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
