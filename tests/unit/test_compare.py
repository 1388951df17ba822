"""The comparison: each peer gives back what it took, one that loses gets no figure, and what seglog loses is told first."""

import importlib
import importlib.util
import json
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"

pytestmark = [
    pytest.mark.skipif(not BENCH.is_dir(), reason="bench/ is not part of an installed package"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a lap is a process of its own, and forks"),
]


@pytest.fixture
def bench(monkeypatch):
    """`bench("compare.laps")` is bench/compare/laps.py."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.setitem(sys.modules, "compare.chart", None)  # as where matplotlib is not installed
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.startswith(("compare", "machine", "queues", "checking", "contestants", "memory", "sharing")):
            del sys.modules[name]


@pytest.fixture
def turns(bench, tmp_path):
    return bench("compare.laps").Turns(str(tmp_path), {}, 0.002, lambda line: None)


LOGS = ["ours:Seglog", "files:FlushedFile", "embedded:SQLite", "embedded:LMDB", "embedded:RocksDB", "embedded:MmapQ"]


@pytest.mark.parametrize("name", LOGS)
def test_each_log_gives_back_what_it_was_given(bench, turns, name):
    module, _, kind = name.partition(":")
    kind = getattr(bench(f"compare.{module}"), kind)
    if why := kind.missing():
        pytest.skip(why)
    workloads = bench("compare.workloads")
    for work in (partial(workloads.produce, 100), partial(workloads.produce_batch, 100, 100)):
        assert turns.lap(kind, work, 1000).wall > 0
    for one_by_one in (True, False):
        assert turns.lap(kind, partial(workloads.consume, one_by_one, 100), 2000).cpu > 0
    assert os.listdir(turns.directory) == []


def test_two_workers_get_each_message_once_and_a_record_goes_from_one_process_to_another(bench, turns):
    ours, workloads = bench("compare.ours"), bench("compare.workloads")
    assert turns.lap(ours.SeglogQueue, partial(workloads.work, 2, 1, 100), 2000).cpu > 0
    lap = turns.lap(ours.Seglog, partial(workloads.latency, 100), 200)
    assert 0 < lap.p50 <= lap.p99 < 5


def test_who_loses_a_record_who_dies_and_who_fails_has_no_figure(bench, turns):
    ours, workloads = bench("compare.ours"), bench("compare.workloads")

    class Forgets(ours.Seglog):
        name = "forgets"

        def batches(self, count):
            for values in super().batches(count):
                yield values[1:]

    class Swaps(ours.Seglog):
        name = "swaps"

        def batches(self, count):
            for values in super().batches(count):
                yield values[::-1]

    class Dies(ours.Seglog):
        name = "dies"

        def batches(self, count):
            os._exit(3)

    class Fails(ours.Seglog):
        name = "fails"

        def batches(self, count):
            raise OSError("no")

    kinds = [ours.Seglog, Forgets, Swaps, Dies, Fails]
    laps, failed = turns.run(kinds, partial(workloads.consume, False, 100), rounds=1, least=1000, most=1000)
    assert list(laps) == ["seglog"]
    assert "gave back 999 of 1,000" in failed["forgets"]
    assert "not in this order" in failed["swaps"]
    assert "its process died" in failed["dies"]
    assert "OSError: no (test_compare.py:" in failed["fails"]


def test_what_is_not_installed_is_named(bench):
    peer, server = bench("compare.peer"), bench("compare.server")

    class Nowhere(server.Server):
        program, package = "no-such-server", "no-such-package"

    class Absent(peer.Log):
        module, package = "no_such_module", "no-such"

    class Served(peer.Log):
        module, server = "os", Nowhere

    assert Absent.missing() == "no-such is not installed"
    assert "apt-get install no-such-package" in Served.missing()


def told(title, **peers):
    about = dict.fromkeys(("cpu", "cores", "memory", "file system", "kernel", "python", "date", "commit"), "x")
    lap = {"cpu": 1e-6, "server": 0.0, "p50": 0.0, "p99": 0.0}
    return {
        "title": title, "unit": "us", "size": 100, "rounds": 5, "about": about, "failed": {"leaky": "gave back 9 of 10 records"},
        "missing": {"absent": "absent is not installed"}, "outside": [],
        "peers": {name: {"settings": "s", "version": "v", "laps": [lap | {"wall": wall}] * 5} for name, wall in peers.items()},
    }


def test_the_page_shows_first_what_seglog_loses_and_names_who_is_missing(bench, tmp_path):
    report = bench("compare.report")
    said = report.write(
        {"produce": told("won", seglog=1e-6, other=3e-6), "consume": told("lost", seglog=2e-6, other=1e-6),
         "queue-1": told("not by enough", seglog=1e-6, other=3e-6)}, tmp_path,
    )
    assert [line.split(":")[0] for line in said] == ["lost", "not by enough", "won"]
    page = (tmp_path / "README.md").read_text()
    assert "lost: other takes 0.50 of what seglog takes" in page
    assert page.index("## Lost") < page.index("## Not by enough") < page.index("## Won")
    assert "gave no figure: gave back 9 of 10 records" in page and "not installed: absent" in page
    assert "3.00 x the fastest other, other (wanted 10: MISSED)" in page
    assert "3.00 x the fastest other, other (wanted 1: met)" in page


def test_the_whole_run_writes_its_figures_and_keeps_those_of_others(bench, tmp_path):
    main, out = bench("compare.__main__").main, tmp_path / "out"
    out.mkdir()
    (out / "results-100.json").write_text(json.dumps({"queue-1": told("kept", seglog=1e-6)}))
    with suppress(SystemExit):  # the directory is in memory
        main(["--only", "produce", "--peers", "seglog", "--seconds", "0.001", "--dir", str(tmp_path), "--out", str(out)])
        both = json.loads((out / "results-100.json").read_text())
        assert list(both) == ["queue-1", "produce"]
        assert len(both["produce"]["peers"]["seglog"]["laps"]) == 7
        assert "## Kept" in (out / "README.md").read_text()


def spin(times):
    def work():
        sum(i * i for i in range(times))

    return work


def test_what_became_a_quarter_slower_is_seen_and_what_did_not_is_not(bench, tmp_path):
    checking = bench("checking")
    fixed, path = spin(20_000), tmp_path / "baseline.json"
    first = checking.Baseline(path, renew=True)
    assert first.judge("spin", lambda: checking.ratio(spin(20_000), fixed, 5)) is None
    first.save("this one")
    checking.PATIENCE = 0.0
    then = checking.Baseline(path)
    assert then.judge("spin", lambda: checking.ratio(spin(20_000), fixed, 5)) is None
    assert "times what it took" in then.judge("spin", lambda: checking.ratio(spin(26_000), fixed, 5))
    assert "has no baseline" in then.judge("new", lambda: 1.0)
