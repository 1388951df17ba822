"""What every test can rely on: a seed that is printed, a build that is the one asked for, and no green after a crash.

**Seeds.** `rng` is a `random.Random` of its own for each test, made from the run's seed and the test's name, so a test
repeats alone as it ran among others: `SEGLOG_SEED=0x1f make test ARGS="-k that_test"`.

**Crashes.** A segfault takes pytest along, and a later run of something else would look green. So a run notes the test
it is at, and takes the note away at its end. Whoever finds the note of a run that died can only go green by
running that very test.

**Ctrl-C.** A shell starts what it puts into the background with SIGINT ignored, and children inherit that: taken back here, for the
tests that interrupt one.
"""

import importlib.util
import os
import random
import secrets
import signal
from pathlib import Path

import hypothesis
import pytest

SEED = int(os.environ.get("SEGLOG_SEED") or hex(secrets.randbits(32)), 0)
PROFILE = os.environ.get("SEGLOG_BUILD") or "release"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("seglog", deadline=None, print_blob=True)
hypothesis.settings.load_profile("seglog")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(f"{SEED}:{request.node.nodeid}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed and "rng" in getattr(item, "fixturenames", ()):
        report.sections.append(("seed", f"SEGLOG_SEED={SEED:#x} repeats this"))


def engine_path() -> str:
    """Where the engine would be imported from; nothing is imported yet."""
    try:
        spec = importlib.util.find_spec("seglog.engine.checksum")
    except ImportError:
        spec = None
    return str(spec.origin) if spec else "nowhere"


def pytest_report_header(config: pytest.Config) -> str:
    return f"seglog: seed {SEED:#x}, {PROFILE} engine at {os.path.dirname(engine_path())}"


def pytest_sessionstart(session: pytest.Session) -> None:
    if PROFILE != "release" and Path("build", PROFILE, "package").resolve() not in Path(engine_path()).parents:
        pytest.exit(f"SEGLOG_BUILD={PROFILE}, but the engine is {engine_path()}; say `make {PROFILE}`", 4)


class Notes:
    """One file per running pytest, under .pytest_cache: the test it is at."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.died: dict[Path, str] = {
            note: note.read_text(encoding="utf-8")
            for note in folder.glob("at-*")
            if not is_running(int(note.name[3:]))
        }
        self.passed: set[str] = set()
        self.pid = os.getpid()
        self.path = folder / f"at-{self.pid}"

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.path.write_text(nodeid, encoding="utf-8")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if os.getpid() != self.pid:  # a forked child that fell out of its test
            return
        self.path.unlink(missing_ok=True)
        for note, nodeid in list(self.died.items()):
            if nodeid in self.passed:
                del self.died[note]
                note.unlink(missing_ok=True)
        if self.died and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        for note, nodeid in self.died.items():
            terminalreporter.section("an earlier run died", red=True)
            terminalreporter.line(f"It was at {nodeid}, which did not pass in this run: this run is not green.")
            terminalreporter.line(f"If that test is no more: rm {os.path.relpath(note)}")


def is_running(pid: int) -> bool:
    if os.name == "nt":  # os.kill(pid, 0) would end it
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def pytest_configure(config: pytest.Config) -> None:
    if getattr(config, "cache", None) is not None and not config.option.collectonly:
        config.pluginmanager.register(Notes(config.cache.mkdir("seglog")), "seglog-notes")
