"""The real thing: file systems that are shut down under a program, by their own ioctl, as if the power had gone.

An ext4 or xfs in a file, loop-mounted; a workload on it in a process of its own; EXT4_IOC_SHUTDOWN (XFS_IOC_GOINGDOWN) with NOLOGFLUSH: from that
instant nothing reaches the disk, not even the journal. Unmount, mount, judge by what the program had said. Half of the time nobody judges, and
the next workload opens the log instead, so that recovery itself is cut.

Needs root. Runs under the shim, which only pretends the boots. `python -m tests.crash.power.real --rounds 100 ext4`
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..scratch import memory

if TYPE_CHECKING:
    from .broken import Breaks

SHUTDOWN = 0x8004587D  # _IOR('X', 125, u32), the same for both
NO_LOG_FLUSH = struct.pack("=I", 2)
SIZES = {"ext4": 64 << 20, "xfs": 320 << 20}  # bytes of the image, which is sparse


def why_not(kind: str) -> str | None:
    """Why a file system of this kind cannot be shut down here; None when it can."""
    from . import run

    reason = run.why_not()
    if reason:
        return reason
    if os.geteuid() != 0:
        return f"mounting an {kind} needs root"
    for tool in (f"mkfs.{kind}", "mount", "umount", "losetup"):
        if not find_tool(tool):
            return f"there is no {tool} here"
    try:
        with Disk(kind):
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        text = getattr(error, "stderr", b"") or b""
        return f"an {kind} in a file cannot be mounted and shut down here: {text.decode().strip() or error}"
    return None


def find_tool(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def command(*words: str) -> None:
    subprocess.run([str(find_tool(words[0])), *words[1:]], check=True, capture_output=True, timeout=60)


class Disk:
    """A file system in a file, mounted at `.path`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.folder = tempfile.mkdtemp(prefix="seglog-real-", dir=memory())
        self.image, self.path = os.path.join(self.folder, "image"), os.path.join(self.folder, "mounted")

    def __enter__(self) -> Disk:
        try:
            os.mkdir(self.path)
            with open(self.image, "wb") as file:
                file.truncate(SIZES[self.kind])
            command(f"mkfs.{self.kind}", "-q", "-F" if self.kind == "ext4" else "-f", self.image)
            self.mount()
        except BaseException:
            self.__exit__()
            raise
        return self

    def mount(self) -> None:
        command("mount", "-o", "loop", self.image, self.path)

    def shut_down(self) -> None:
        import fcntl

        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(fd)

    def unmount(self) -> None:
        """Unmount, and wait until nobody holds the device: else the next mount gets the same dead file system again."""
        last: Exception | None = None
        for _ in range(500):
            try:
                if os.path.realpath(self.path) in Path("/proc/self/mounts").read_text():
                    command("umount", self.path)
                if not subprocess.run(
                    [str(find_tool("losetup")), "-j", self.image], check=True, capture_output=True
                ).stdout.strip():
                    return
            except subprocess.CalledProcessError as error:
                last = error
            time.sleep(0.01)
        raise OSError(f"the {self.kind} at {self.path} cannot be unmounted: {last}")

    def __exit__(self, *exc: object) -> None:
        subprocess.run([str(find_tool("umount")), "-l", self.path], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


class Teller:
    """Says to a pipe; each note is one write that is not split."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def say(self, *words: Any) -> None:
        os.write(self.pipe, (json.dumps(words) + "\n").encode())

    def fail(self, n: int) -> None:
        pass

    def mortal(self, n: int) -> None:
        pass


def cut(disk: Disk, path: str, who: int, rng: random.Random, breaks: Breaks) -> list[tuple[int, list[Any]]]:
    """Run a workload, cut the power at some moment, and return what it had said: at 0 before the cut, at 1 while or after it.

    What comes after it proves nothing: an ext4 that is being shut down was seen to return 0 from an fdatasync that did nothing.
    """
    from .workload import Workload

    reader, pipe = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what it has to say about its dead disk
            while True:
                work = Workload(path, rng, Teller(pipe), breaks.opener, breaks.fsync)
                work.steps = 200
                for i, writer in enumerate(work.writers):
                    writer.who = who + i
                    who += 2
                work.run()
        finally:
            os._exit(1)
    os.close(pipe)
    heard = b""
    deadline = time.monotonic() + 20
    ready = False
    wait = rng.choice([0.0, 0.002, 0.02, 0.1, 0.3]) * rng.random()
    while time.monotonic() < deadline:
        if select.select([reader], [], [], max(0.0, min(deadline - time.monotonic(), 1.0)))[0]:
            data = os.read(reader, 1 << 16)
            if not data:
                break
            heard += data
            if not ready:
                ready, deadline = True, time.monotonic() + wait
    while select.select([reader], [], [], 0)[0] and (data := os.read(reader, 1 << 16)):
        heard += data
    disk.shut_down()
    before = heard.rfind(b"\n") + 1
    time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while data := os.read(reader, 1 << 16):
        heard += data
    os.close(reader)
    whole = heard[: heard.rfind(b"\n") + 1]
    said, at = [], 0
    for line in whole.splitlines(keepends=True):
        at += len(line)
        said.append((int(at > before), json.loads(line)))
    return said


def prove(kind: str, rounds: int, seed: str, broken: str = "") -> dict[str, Any]:
    """Cut the power of a file system so many times; what came of it."""
    from .broken import find
    from .history import Shim
    from .judge import Judge, Model

    breaks = find(broken)
    rng, shim = random.Random(f"{seed}:{kind}"), Shim()
    result: dict[str, Any] = {"cuts": 0, "judged": 0, "found": 0, "lost": 0, "images with losses": 0, "wrong": []}
    boots = 0

    def boot() -> None:
        nonlocal boots
        boots += 1
        shim.boot(f"{seed}-{boots}")

    with Disk(kind) as disk:
        model, generation, at, who = Model(), 0, 0, 1
        boot()
        for _ in range(rounds):
            path = os.path.join(disk.path, f"log{at}")
            said = cut(disk, path, who, random.Random(rng.random()), breaks)
            who += 1000
            disk.unmount()
            disk.mount()
            boot()
            result["cuts"] += 1
            # Later words say what was under way, and where it went if it went anywhere.
            for after, words in said:
                if not after or words[0] in ("write", "trim", "open"):
                    model.hear(*words)
            model.hear_all([said for said in said if said[0]], 0)
            if rng.random() < 0.5 and generation < 3:
                generation += 1
                model.rebooted()
                continue
            judge = Judge(path, model, rng, boot, breaks.opener)
            result["wrong"] += [f"round {result['cuts']}: {text}" for text in judge.judge(who)]
            result["judged"] += 1
            result["found"] += judge.found
            result["lost"] += judge.lost
            result["images with losses"] += judge.lost > 0
            who += 1000
            model, generation, at = Model(), 0, at + 1
            del judge
            gc.collect()
            shutil.rmtree(path)
            if result["wrong"]:
                break
    return result


def run_in_child(kind: str, rounds: int, seed: str, timeout: float, broken: str = "") -> dict[str, Any]:
    """`prove`, in a process under the shim."""
    from . import run

    code = "import sys, json; from crash.power.real import prove; a = sys.argv; print(json.dumps(prove(a[1], int(a[2]), a[3], a[4])))"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, kind, str(rounds), seed, broken],
        env=run.preloaded(run.build_shim()),
        stdout=subprocess.PIPE,
        timeout=timeout,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.power.real")
    parser.add_argument("kind", choices=sorted(SIZES))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", default=None)
    arguments = parser.parse_args()
    reason = why_not(arguments.kind)
    if reason:
        print(f"not here: {reason}")
        return 0
    seed = arguments.seed or os.urandom(4).hex()
    print(f"seed {seed}")
    began = time.monotonic()
    result = run_in_child(arguments.kind, arguments.rounds, seed, 36_000)
    result["wrong"] = result["wrong"][:10]
    print(f"{result} in {time.monotonic() - began:.0f} s")
    return 1 if result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
