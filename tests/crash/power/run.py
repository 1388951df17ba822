"""The power cut proof, from the command line: `python -m tests.crash.power.run --images 100000 --seed 1`.

Workers, each a process of its own under the shim, run workloads and judge images of them; this one watches that they neither die nor
stand still. Image n of a seed is always the same (unless its workload has threads or processes): `--only n` runs it alone, and keeps it.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

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


def build_shim(to: Path) -> Path:
    library = to / "shim.so"
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


class Worker:
    """Judges images, one after the other, in a process under the shim."""

    def __init__(self, seed: str, keep: str, breaks: str | None = None, fsync: str | None = None, judged_as: str | None = None) -> None:
        from . import broken
        from .history import Shim

        self.seed, self.keep, self.fsync, self.judged_as = seed, keep, fsync, judged_as
        self.shim = Shim()
        self.breaks = broken.find(breaks)
        self.boot = 0
        self.counts: Counter[str] = Counter()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.place = tempfile.mkdtemp(prefix="seglog-power-", dir=memory)
        self.disk = os.path.join(self.place, "disk")  # one path for all: losses name it
        self.failures: list[dict[str, Any]] = []

    def reboot(self) -> None:
        self.boot += 1
        self.shim.boot(f"{self.seed}-{self.boot}")

    def workload(self, number: int) -> tuple[Any, str]:
        """Run workload `number`; its history, and what it was."""
        from .workload import Workload

        rng = random.Random(f"{self.seed}:{number}")
        os.urandom = lambda n: rng.randbytes(n)  # salts and ids repeat with the seed
        root = self.disk
        os.mkdir(root)
        self.reboot()
        work = Workload(os.path.join(root, "log"), rng, self.shim.say, self.breaks.opener, self.fsync)
        self.shim.begin(root, self.breaks.options)
        try:
            work.run()
        finally:
            history = self.shim.end()
            shutil.rmtree(root)
        return history, str(work)

    def run(self, first: int, stop: int, tell: Any, only: bool = False) -> None:
        """Images first .. stop-1."""
        at = -1
        for number in range(first, stop):
            tell(number)
            try:
                if number // PER_WORKLOAD != at:
                    at = number // PER_WORKLOAD
                    self.counts["workloads"] += 1
                    history, what = self.workload(at)
            except Exception:
                at = -1
                self.failures.append({"image": number, "wrong": [traceback.format_exc()], "notes": ["in the workload"]})
                continue
            rng = random.Random(f"{self.seed}:{number}:image")
            os.urandom = rng.randbytes
            self._image(number, history, what, rng, only)

    def _image(self, number: int, history: Any, what: str, rng: random.Random, only: bool) -> None:
        from .images import Image
        from .judge import Model

        model = Model(self.judged_as)
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
            wrong, following = self._judge(place, model, rng, generation, again)
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
                self.failures.append({"image": number, "generation": generation, "wrong": wrong, "notes": trail, "kept": kept})
                Path(kept + ".txt").write_text("\n".join([*trail, *wrong, "", *(f"{at} {words}" for at, words in cut.said if at <= moment)]))
                return
            shutil.rmtree(place, ignore_errors=True)
            if following is None:
                return
            cut, generation = following, generation + 1
            # Mostly inside recovery, which is what this is for.
            opened = [at for at, words in cut.said if words[0] == "opened"]
            if opened and rng.random() < 0.7:
                cut.last = opened[0]

    def _judge(self, place: str, model: Any, rng: random.Random, generation: int, again: bool) -> tuple[list[str], Any]:
        from .judge import Judge

        judge = Judge(os.path.join(place, "log"), model, rng, self.reboot, self.breaks.opener)
        self.breaks.prepare(judge)
        following = None
        if again:
            self.shim.begin(place, self.breaks.options)
            judge.also = self.shim.say
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
    say, stdout = os.dup(1), sys.stdout
    os.dup2(2, 1)
    options = json.loads(arguments[0])
    only = options.pop("only", False)

    def tell(message: Any) -> None:
        os.write(say, (json.dumps(message) + "\n").encode())

    worker = Worker(**options)
    tell("ready")
    try:
        for line in sys.stdin:
            first, stop = map(int, line.split())
            worker.run(first, stop, tell, only)
            tell({"done": [first, stop], "counts": worker.counts, "failures": worker.failures})
            worker.counts.clear()
            worker.failures.clear()
    finally:
        shutil.rmtree(worker.place, ignore_errors=True)
        del stdout


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

    def run(self, images: int, first: int = 0, progress: bool = False, enough: int = 10) -> Result:
        """Judge images first .. first+images-1; stops early after `enough` failures."""
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
            if range_ is not None:
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
                    if isinstance(message, dict):
                        result.counts.update(message["counts"])
                        result.failures += message["failures"]
                    feed(worker)
            for fd in [fd for fd, worker in alive.items() if time.monotonic() - worker[3] > SILENCE]:
                died(fd, f"said nothing for {SILENCE:g} s")
            if progress and time.monotonic() - said > 10:
                said = time.monotonic()
                result.seconds = said - began
                print(result, flush=True)
        result.seconds = time.monotonic() - began
        return result


def judge_images(images: int, seed: str, *, keep: str, first: int = 0, jobs: int | None = None, progress: bool = False, enough: int = 10, **options: Any) -> Result:
    """Judge so many images of this seed; the failing ones are kept in `keep`."""
    os.makedirs(keep, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="seglog-shim-") as folder:
        library = build_shim(Path(folder))
        crew = Crew(library, {"seed": seed, "keep": keep, **options}, jobs or min(os.cpu_count() or 1, max(1, images // PER_WORKLOAD)))
        return crew.run(images, first, progress, enough)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.power.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000, help="how many (100,000)")
    parser.add_argument("--seed", default=None, help="what they are made from (random)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--only", type=int, help="just this one, and keep it")
    parser.add_argument("--jobs", type=int, help="worker processes (one per processor)")
    parser.add_argument("--keep", default="power-failures", help="where failing images go (power-failures)")
    parser.add_argument("--fsync", choices=["never", "interval", "always"], help="only this level")
    parser.add_argument("--breaks", help="break something on purpose; see broken.py")
    arguments = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"not here: {reason}")
        return 0
    seed = arguments.seed or os.urandom(4).hex()
    print(f"seed {seed}", flush=True)
    options: dict[str, Any] = {"fsync": arguments.fsync, "breaks": arguments.breaks}
    if arguments.only is not None:
        result = judge_images(1, seed, keep=arguments.keep, first=arguments.only, jobs=1, only=True, **options)
    else:
        result = judge_images(arguments.images, seed, keep=arguments.keep, first=arguments.first, jobs=arguments.jobs, progress=True, **options)
    print(result)
    if result.failures:
        print(result.explain(), f"\nrepeat one: python -m tests.crash.power.run --seed {seed} --only {result.failures[0]['image']}", sep="\n")
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
