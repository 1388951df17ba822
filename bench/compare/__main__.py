"""The comparison: `make compare`, or `PYTHONPATH=bench python -m compare --only produce latency --peers lmdb seglog`.

Writes docs/benchmarks: the raw figures as JSON, a chart for each workload, and a page with all of them. A run of some workloads
renews those and keeps the others, each with the machine and the commit that it was measured on.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from compare import jobs
from compare.embedded import LMDB, MmapQ, RocksDB, SQLite
from compare.files import BufferedFile, FlushedFile, NewBlocks, RawDisk
from compare.kafka import KafkaLog, KafkaQueue
from compare.laps import Turns
from compare.nats_jetstream import NatsLog, NatsQueue
from compare.ours import Seglog, SeglogArrays, SeglogQueue, SeglogSpins
from compare.rabbitmq import RabbitLog, RabbitQueue
from compare.redis_streams import RedisLog, RedisQueue
from compare.report import write
from compare.server import Server
from compare.workloads import LOGS, QUEUES
from machine import describe, scratch

HERE = Path(__file__).parent
PEERS: list[type[Any]] = [
    Seglog, SeglogArrays, SeglogSpins, BufferedFile, FlushedFile, RawDisk, NewBlocks, SQLite, LMDB, RocksDB, MmapQ,
    RedisLog, NatsLog, RabbitLog, KafkaLog,
]
QUEUE_PEERS: list[type[Any]] = [SeglogQueue, *jobs.EMBEDDED, RedisQueue, NatsQueue, RabbitQueue, KafkaQueue]


def version(kind: type[Any], servers: dict[type[Server], Server]) -> str:
    if kind.module in ("os", "sqlite3"):
        return f"Python {platform.python_version()}" if kind.module == "os" else f"SQLite {sqlite3.sqlite_version}"
    package = kind.package or kind.module
    client = f"{package} {importlib.metadata.version(package)}"
    return f"{servers[kind.server].version()}, client {client}" if kind.server else client


def commit() -> str:
    asked = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or "unknown"


def chosen(names: list[str] | None, kinds: list[type[Any]]) -> list[type[Any]]:
    return [kind for kind in kinds if names is None or any(name.lower() in kind.name.lower() for name in names)]


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    keys = [workload.key for workload in LOGS + QUEUES]
    parser.add_argument("--only", nargs="*", choices=keys, metavar="WORKLOAD", default=keys, help=f"of {', '.join(keys)}")
    parser.add_argument("--peers", nargs="*", metavar="NAME", default=None, help="only those whose names hold one of these")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count, after one that does not (default 7, at least 5)")
    parser.add_argument("--seconds", type=float, default=0.25, help="about how long a lap is (default 0.25)")
    parser.add_argument("--size", type=int, default=100, help="bytes of a value (default 100)")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "docs" / "benchmarks", help="where the report goes")
    parser.add_argument("--dir", default=None, help="where scratch files go: a real disk (default: here)")
    args = parser.parse_args(argv)
    if args.rounds < 5:
        parser.error("a median of fewer than 5 is none")

    raw = args.out / f"results-{args.size}.json"
    report: dict[str, Any] = json.loads(raw.read_text()) if raw.exists() else {}
    with scratch(args.dir) as directory, ExitStack() as stay:
        about = describe(directory) | {"commit": commit(), "date": time.strftime("%Y-%m-%d", time.gmtime())}
        about["file system"] = about["file system"].split()[0]
        servers: dict[type[Server], Server] = {}
        missing: dict[str, str] = {}
        for kind in chosen(args.peers, PEERS + QUEUE_PEERS):
            if why := kind.missing():
                missing[kind.name] = why
                say(f"{kind.name} does not take part: {why}")
            elif kind.server and kind.server not in servers:
                say(f"starting {kind.name}")
                servers[kind.server] = server = kind.server(os.path.join(directory, kind.server.__name__))
                stay.callback(server.stop)
        turns = Turns(directory, servers, args.seconds, say)
        for workload in LOGS + QUEUES:
            if workload.key not in args.only:
                continue
            say(workload.title)
            kinds = chosen(args.peers, QUEUE_PEERS if workload.queue else PEERS)
            takes = [kind for kind in kinds if workload.takes(kind) and kind.name not in missing]
            laps, failed = turns.run(
                takes, workload.work(args.size), rounds=args.rounds, least=workload.least, most=workload.most, **workload.where
            )
            report[workload.key] = {
                "title": workload.title, "unit": workload.unit, "size": args.size, "rounds": args.rounds, "about": about,
                "peers": {
                    kind.name: {
                        "settings": workload.settings(kind), "version": version(kind, servers),
                        "laps": [lap._asdict() for lap in laps[kind.name]],
                    }
                    for kind in takes if kind.name in laps
                },
                "failed": failed,
                "missing": {kind.name: missing[kind.name] for kind in kinds if kind.name in missing and workload.takes(kind)},
                "outside": sorted(kind.name for kind in kinds if not workload.takes(kind) and kind.only is None),
            }
            args.out.mkdir(parents=True, exist_ok=True)
            raw.write_text(json.dumps(report, indent=1) + "\n")
    for line in write(report, args.out):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
