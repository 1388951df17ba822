"""The bench measures what it says: contestants do all their records, figures judge the right way, memory is no disk."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"

# Memory, shares of a core, and forks of a process with other libraries' threads, which may hold the lock of its allocator.
native = pytest.mark.skipif(os.environ.get("SEGLOG_BUILD") in ("asan", "tsan"), reason="a sanitizer has memory of its own")

pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="bench/ is not part of an installed package")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> object:
    """`bench("machine")` is bench/machine.py."""
    monkeypatch.syspath_prepend(str(BENCH))

    def module(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield module
    for name in ("machine", "contestants", "memory", "growth", "opening", "sharing", "compacting", "queues", "noop", "locks"):
        sys.modules.pop(name, None)


def test_a_figure_passes_on_the_right_side_of_its_bound(bench):
    Figure = bench("machine").Figure
    assert Figure("", 2.0, "x", at_least=2.0).passed is True
    assert Figure("", 1.9, "x", at_least=2.0).passed is False
    assert Figure("", 6.1, "x", at_most=6.0).passed is False
    assert Figure("", 0.0, "x", at_most=6.0).passed is True
    assert Figure("", 1.0, "x").passed is None


def test_a_table_shows_the_target_and_the_verdict(bench):
    machine = bench("machine")
    text = machine.table(
        "speed", [machine.Figure("send", 1.234, "x", at_least=1.5), machine.Figure("open", 1234.5, "ms")]
    )
    assert "1.23 x" in text
    assert ">= 1.5" in text
    assert "FAIL" in text
    assert "1,234 ms" in text


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a file system that is in memory")
def test_a_directory_in_memory_is_refused(bench):
    machine = bench("machine")
    if machine.file_system("/dev/shm") not in machine.IN_MEMORY:
        pytest.skip("/dev/shm is something else here")
    with pytest.raises(SystemExit, match="which is memory"), machine.scratch("/dev/shm"):
        pass


def test_contestants_take_turns_and_the_first_round_does_not_count(bench, tmp_path):
    order = []

    def contestant(name):
        from contextlib import contextmanager

        @contextmanager
        def run(place):
            assert os.listdir(place) == []
            yield lambda: order.append(name) or 10

        return run

    laps = bench("machine").in_turns(
        {"a": contestant("a"), "b": contestant("b")}, 10, rounds=2, directory=str(tmp_path), say=lambda line: None
    )
    assert order == ["a", "b"] * 3
    assert [len(each.laps) for each in laps.values()] == [2, 2]
    assert os.listdir(tmp_path) == []


def test_who_does_less_than_the_others_is_caught(bench, tmp_path):
    from contextlib import contextmanager

    @contextmanager
    def lazy(place):
        yield lambda: 9

    with pytest.raises(AssertionError, match="did 9 of 10"):
        bench("machine").in_turns({"lazy": lazy}, 10, rounds=1, directory=str(tmp_path), say=lambda line: None)


@pytest.mark.parametrize(
    "name",
    [
        "python_writes",
        "python_reads",
        "memcpy_into_new_pages",
        "seglog_sends",
        "seglog_send_many",
        "seglog_reads",
        "seglog_counts",
    ],
)
def test_each_contestant_does_every_record(bench, name, tmp_path):
    if name == "memcpy_into_new_pages" and not hasattr(os, "posix_fallocate"):
        pytest.skip("needs posix_fallocate")
    contestants = bench("contestants")
    load = contestants.Load(100, 2)
    with getattr(contestants, name)(load)(str(tmp_path)) as work:
        assert work() in (2000, 2001)  # a topic begins with one record


@pytest.mark.skipif(not shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]), reason="needs a C compiler")
def test_the_method_that_does_nothing_takes_what_send_takes(bench, tmp_path):
    contestants = bench("contestants")
    noop = contestants.built("noop").Noop()
    assert noop.send(b"value", b"key", {}, timestamp=1, partition=0) is None
    with contestants.noop_send(contestants.Load(100, 1))(str(tmp_path)) as work:
        assert work() == 10_000


@native
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells anonymous memory")
def test_a_program_that_hoards_is_seen(bench, tmp_path):
    memory = bench("memory")
    records = memory.fill(str(tmp_path / "large"), 64 * memory.MIB)
    before, frugal, said = memory.peak_of("read", str(tmp_path / "large"), "lists")
    assert int(said) == records
    _, hoarding, _ = memory.peak_of("read", str(tmp_path / "large"), "hoard")
    assert frugal - before < 16 * memory.MIB
    assert hoarding - before > 60 * memory.MIB


@native
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and waits on futexes")
def test_sharing_measures_processes_that_do_something_and_a_log_that_was_cut(bench, tmp_path):
    sharing = bench("sharing")
    path = str(tmp_path / "two")
    with sharing.seglog.open(path, fsync="never") as store:
        store.topic("shared").send(b"the first")
    rate, share = sharing.rates(path, sharing.send_some, 2, 0.05, fsync="never")
    with sharing.seglog.open(path) as store:
        sent = store.topic("shared").next_offset() - 1
    assert sent == pytest.approx(rate * 0.05)
    assert sent >= 400
    assert 0 < share < 1.5
    assert len(sharing.hand_to_hand(path, 20)) == 20
    size = 3_000_000
    assert sharing.cut(str(tmp_path / "cut"), size, 0.0) == size
    assert sharing.cut(str(tmp_path / "marked"), size, 0.6) == 1_000_000
    for name in ("cut", "marked"):
        with sharing.Log(str(tmp_path / name)) as log:
            assert log.epoch == 2
            assert log.verify() == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and waits on futexes")
@pytest.mark.skipif(not shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]), reason="needs a C compiler")
def test_the_lock_is_taken_and_given_back(bench, tmp_path):
    sharing = bench("sharing")
    with sharing.Log(str(tmp_path / "log")) as log:
        assert sharing.built("locks").take_and_give(log, 1000) > 0
        assert log.append(b"x") == 0
    assert all(took > 0 for took in sharing.bare_round_trips(20))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux for the memory of a process")
@native
def test_compacting_is_measured_on_what_is_dead_and_its_memory_seen(bench, tmp_path):
    compacting = bench("compacting")
    (figure,), raw = compacting.compare(compacting.KINDS[2], 0.01, 2, tmp_path)
    assert figure.value > 0 and "90% dead" in figure.note
    assert [outcome["passes"] for outcome in raw["outcomes"]] == [1, 1]
    (figure,), said = compacting.bounded(20_000, tmp_path)
    assert said["removed"] == 2_000
    assert os.listdir(tmp_path) == []
    for memory in ("1", "64"):
        compacting.fill(tmp_path / memory, compacting.np.arange(600_000), 0)
    few, many = [compacting.compacted(tmp_path / memory, int(memory) << 20) for memory in ("1", "64")]
    assert few.passes > many.passes == 1
    assert many.grown - few.grown > 15 << 20  # a map of so many keys is seen


def peers_of_the_queue():
    """By name; those that are not installed are skipped, by name too."""
    names = {"RocksQ": "rocksq", "LMDBQueue": "equeue", "Huey": "huey", "LiteQueue": "litequeue"}
    names |= {"PersistQueueAck": "persistqueue", "PersistQueueFile": "persistqueue", "Seglog": "seglog"}
    for name, module in names.items():
        missing = pytest.mark.skipif(not importlib.util.find_spec(module), reason=f"{module} is not installed")
        yield pytest.param(name, id=name, marks=missing)


@pytest.mark.parametrize("name", list(peers_of_the_queue()))
def test_each_queue_gives_back_what_it_was_given(bench, name, tmp_path):
    queues = bench("queues")
    load = bench("contestants").Load(100, 1)
    kind = getattr(queues, name)
    for number, work in enumerate([queues.one_by_one, queues.in_batches][: 1 + hasattr(kind, "many")]):
        place = tmp_path / str(number)
        place.mkdir()
        kind.records = 1_000
        with queues.contestant(kind, load, work)(str(place)) as work:
            assert work() == (10_000 if number else 1_000)


@native
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and looks into /proc")
def test_the_bench_of_queues_counts_what_was_done(bench, tmp_path):
    queues = bench("queues")
    path = str(tmp_path / "workers")
    with queues.seglog.open(path, fsync="never") as store:
        queues.fill(store.queue("shared"), 200_000)
    rate, share = queues.rates(path, queues.drain, 2, 0.05)
    with queues.seglog.open(path) as store:
        done = store.queue("shared").statistics().acked
        assert store.queue("shared").purge() == 200_000 - done
    assert done == pytest.approx(rate * 0.05)
    assert done >= 200 and 0 < share < 1.5
    assert len(queues.hand_to_hand(path, 20)) == 20
    assert 0 <= queues.wait_idly(path, 2, 0.1) < 1


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux for the memory of a process")
def test_delayed_messages_are_there_after_the_boot_was_forgotten(bench, tmp_path):
    queues = bench("queues")
    path = str(tmp_path / "delays")
    _, peak, said = queues.memory.peak_of("send", path, "500", program=queues.__file__)
    assert (int(said), peak > 0) == (500, True)
    assert any(name == "shm" for _, _, names in os.walk(path) for name in names)
    queues.forget_the_boot(path)
    assert not any(name == "shm" for _, _, names in os.walk(path) for name in names)
    assert float(queues.memory.peak_of("reopen", path, "500", program=queues.__file__)[2]) > 0
