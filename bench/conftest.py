"""What the benchmarks share: a store on a real disk, and the machine's name in every report.

pytest's own tmp_path may lie in memory; these files go under the current directory, or `--bench-dir`, and are removed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import seglog

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside this file, as `python bench/ratios.py` finds them

from checking import Baseline, Checker
from machine import cpu_model, describe, one_core, scratch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench-dir", default=None, help="where the benchmarks' files go: a real disk (default: here)")
    parser.addoption("--check", choices=("check", "renew"), default=None, help="hold the ratios against bench/baseline.json")


baselines = pytest.StashKey[Baseline]()


def pytest_configure(config: pytest.Config) -> None:
    if how := config.getoption("--check"):
        config.stash[baselines] = Baseline(renew=how == "renew")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if baseline := session.config.stash.get(baselines, None):
        baseline.save(cpu_model())


def pytest_report_header(config: pytest.Config) -> list[str]:
    found = describe(config.getoption("--bench-dir") or ".")
    lines = [f"{key}: {value}" for key, value in found.items()] + ["fsync: never, unless a test says otherwise"]
    baseline = config.stash.get(baselines, None)
    if baseline and not baseline.renew and baseline.cpu != cpu_model():
        lines.append(f"the baseline is of another processor, {baseline.cpu}: its ratios may differ, make bench-baseline renews it")
    return lines


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["seglog"] = describe(config.getoption("--bench-dir") or ".")


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty directory on the disk."""
    with scratch(request.config.getoption("--bench-dir")) as directory:
        yield directory


@pytest.fixture
def store(disk: str) -> Iterator[seglog.Store]:
    with seglog.open(f"{disk}/data", fsync="never") as opened:
        yield opened


@pytest.fixture
def benchmark(benchmark: Any, request: pytest.FixtureRequest, disk: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """pytest-benchmark's; with --check its calls measure a ratio, and know what it was."""
    if (baseline := request.config.stash.get(baselines, None)) is None:
        yield benchmark
        return
    if "sync" in request.node.name:
        pytest.skip("measures the disk")
    os.mkdir(f"{disk}/reference")
    checker = Checker(request.node.name, baseline, f"{disk}/reference")
    monkeypatch.setattr(type(benchmark), "__call__", lambda self, work: checker.pedantic(work))
    monkeypatch.setattr(type(benchmark), "pedantic", lambda self, work, **how: checker.pedantic(work, **how))
    with one_core():
        yield benchmark


@pytest.fixture(params=[100, 1024], ids=["100B", "1KiB"])
def size(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def per_record(benchmark: Any) -> Callable[..., Any]:
    """`per_record(work, records)`: benchmark `work`, and say in the report how many records one call of it handles."""

    def measure(work: Callable[[], object], records: int, rounds: int = 30) -> Any:
        benchmark.extra_info["records"] = records
        result = benchmark.pedantic(work, rounds=rounds, warmup_rounds=2)
        if benchmark.stats:
            benchmark.extra_info["ns_per_record"] = round(benchmark.stats.stats.median / records * 1e9, 1)
        return result

    return measure
