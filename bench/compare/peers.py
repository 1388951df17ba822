"""Peers: seglog beside other things that keep bytes on a disk for one program, without a server.

    python bench/compare/peers.py                         those that are installed; the others are named and skipped
    pip install lmdb diskcache persist-queue litequeue plyvel-ci rocksdict

None of them is the same kind of thing, and most do more than append: SQLite and its children can query and delete, the
key-value stores find any key. So this says what a program pays that needs only an ordered log of bytes, not who is better. Each
was given the fastest setting with which a record survives the death of its process once the call returned ("kill -9"), and
in the second table one with which it survives a power cut; what that was stands beside the figure. Readers get every value back
as bytes, in order. All run in turns, in one process, on one core; medians; the number of records is the same for all.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import seglog
from contestants import Load
from machine import Contestant, Figure, Laps, add_arguments, describe, in_turns, one_core, progress, scratch, table


class Peer:
    """How to append one value, or a list of them, and how to read everything back."""

    name = ""
    module = ""  # that must be installed
    given = ""  # settings, for the table

    def __init__(self, place: str, synced: bool) -> None:
        raise NotImplementedError

    def append(self, value: bytes) -> object:
        raise NotImplementedError

    def append_many(self, values: list[bytes]) -> object:
        raise NotImplementedError

    def read(self) -> int:
        raise NotImplementedError

    def close(self) -> None: ...


class Seglog(Peer):
    name, module = "seglog", "seglog"
    given = 'fsync="never" | fsync="always"'

    def __init__(self, place: str, synced: bool) -> None:
        self.store = seglog.open(place + "/seglog", fsync="always" if synced else "never")
        self.topic = self.store.topic("t")
        self.append, self.append_many, self.close = self.topic.send, self.topic.send_many, self.store.close  # type: ignore[method-assign]

    def read(self) -> int:
        return sum(len(batch.values.tolist()) for batch in self.topic.batches())


class File(Peer):
    """Python's file, flushed after each call: what a program does that writes its own log."""

    name, module = "a file, flushed", "sys"
    given = "write + flush | and fdatasync"

    def __init__(self, place: str, synced: bool) -> None:
        self.path, self.synced = place + "/file", synced
        self.file = open(self.path, "wb")  # noqa: SIM115
        self.close = self.file.close  # type: ignore[method-assign]

    def append(self, value: bytes) -> None:
        self.append_many([value])

    def append_many(self, values: list[bytes]) -> None:
        for value in values:
            self.file.write(len(value).to_bytes(4, "little"))
            self.file.write(value)
        self.file.flush()
        if self.synced:
            os.fdatasync(self.file.fileno())

    def read(self) -> int:
        values = []
        with open(self.path, "rb") as file:
            while prefix := file.read(4):
                values.append(file.read(int.from_bytes(prefix, "little")))
        return len(values)


class SQLite(Peer):
    name, module = "sqlite3", "sqlite3"
    given = "WAL, synchronous=OFF | synchronous=FULL; a transaction per call"

    def __init__(self, place: str, synced: bool) -> None:
        self.db = sqlite3.connect(place + "/sqlite", isolation_level=None)
        self.db.execute("pragma journal_mode=wal")
        self.db.execute(f"pragma synchronous={'full' if synced else 'off'}")
        self.db.execute("create table log (position integer primary key, value blob)")
        self.close = self.db.close  # type: ignore[method-assign]

    def append(self, value: bytes) -> None:
        self.db.execute("insert into log (value) values (?)", (value,))

    def append_many(self, values: list[bytes]) -> None:
        self.db.execute("begin")
        self.db.executemany("insert into log (value) values (?)", ((value,) for value in values))
        self.db.execute("commit")

    def read(self) -> int:
        return len([value for (value,) in self.db.execute("select value from log order by position")])


class LMDB(Peer):
    name, module = "lmdb", "lmdb"
    given = "sync=False | sync=True; a transaction per call, append=True"

    def __init__(self, place: str, synced: bool) -> None:
        import lmdb

        self.env = lmdb.open(place + "/lmdb", map_size=1 << 32, sync=synced)
        self.next = 0
        self.close = self.env.close  # type: ignore[method-assign]

    def append(self, value: bytes) -> None:
        self.append_many([value])

    def append_many(self, values: list[bytes]) -> None:
        with self.env.begin(write=True) as txn:
            for value in values:
                txn.put(self.next.to_bytes(8, "big"), value, append=True)
                self.next += 1

    def read(self) -> int:
        with self.env.begin() as txn:
            return len([value for _, value in txn.cursor()])


class LevelDB(Peer):
    name, module = "leveldb (plyvel)", "plyvel"
    given = "sync=False | sync=True; a write batch per list"

    def __init__(self, place: str, synced: bool) -> None:
        import plyvel

        self.db, self.next, self.synced = plyvel.DB(place + "/leveldb", create_if_missing=True), 0, synced
        self.close = self.db.close  # type: ignore[method-assign]

    def append(self, value: bytes) -> None:
        self.db.put(self.next.to_bytes(8, "big"), value, sync=self.synced)
        self.next += 1

    def append_many(self, values: list[bytes]) -> None:
        with self.db.write_batch(sync=self.synced) as batch:
            for value in values:
                batch.put(self.next.to_bytes(8, "big"), value)
                self.next += 1

    def read(self) -> int:
        return len([value for _, value in self.db])


class RocksDB(Peer):
    name, module = "rocksdb (rocksdict)", "rocksdict"
    given = "WAL, sync=False | sync=True; a write batch per list"

    def __init__(self, place: str, synced: bool) -> None:
        import rocksdict

        self.db = rocksdict.Rdict(place + "/rocks", rocksdict.Options(raw_mode=True))
        self.next, self.batch = 0, rocksdict.WriteBatch
        options = rocksdict.WriteOptions()
        options.sync = synced
        self.db.set_write_options(options)
        self.close = self.db.close  # type: ignore[method-assign]

    def append(self, value: bytes) -> None:
        self.db[self.next.to_bytes(8, "big")] = value
        self.next += 1

    def append_many(self, values: list[bytes]) -> None:
        batch = self.batch(raw_mode=True)
        for value in values:
            batch.put(self.next.to_bytes(8, "big"), value)
            self.next += 1
        self.db.write(batch)

    def read(self) -> int:
        return len(list(self.db.values()))


class DiskCache(Peer):
    name, module = "diskcache.Deque", "diskcache"
    given = "synchronous=OFF | synchronous=FULL; a transaction per call (on sqlite3)"

    def __init__(self, place: str, synced: bool) -> None:
        import diskcache

        settings = {"eviction_policy": "none", "size_limit": 1 << 40, "sqlite_synchronous": 2 if synced else 0}
        cache = diskcache.Cache(place + "/diskcache", **settings)
        self.deque = diskcache.Deque.fromcache(cache)
        self.append, self.close = self.deque.append, cache.close  # type: ignore[method-assign]

    def append_many(self, values: list[bytes]) -> None:
        with self.deque.transact():
            self.deque.extend(values)

    def read(self) -> int:
        return len(list(self.deque))


class LiteQueue(Peer):
    name, module = "litequeue", "litequeue"
    given = "synchronous=OFF | synchronous=FULL; a transaction per call (on sqlite3)"

    def __init__(self, place: str, synced: bool) -> None:
        import litequeue

        self.queue = litequeue.LiteQueue(place + "/litequeue")
        self.queue.conn.execute(f"pragma synchronous={'full' if synced else 'off'}")
        self.append, self.close = self.queue.put, self.queue.close  # type: ignore[method-assign]

    def append_many(self, values: list[bytes]) -> None:
        with self.queue.transaction():
            for value in values:
                self.queue.put(value)

    def read(self) -> int:
        return len([value for (value,) in self.queue.conn.execute("select data from Queue order by message_id")])


class PersistQueue(Peer):
    name, module = "persist-queue", "persistqueue"
    given = "SQLiteQueue, synchronous=OFF | synchronous=FULL; it has no call for a list (on sqlite3)"

    def __init__(self, place: str, synced: bool) -> None:
        import persistqueue

        self.queue = persistqueue.SQLiteQueue(place + "/persistqueue", auto_commit=True)
        self.queue._putter.execute(f"pragma synchronous={'full' if synced else 'off'}")
        self.append, self.close = self.queue.put, self.queue.close  # type: ignore[method-assign]

    def append_many(self, values: list[bytes]) -> None:
        for value in values:
            self.queue.put(value)

    def read(self) -> int:
        return len([row["data"] for row in self.queue.queue()])


PEERS = [Seglog, File, SQLite, LMDB, LevelDB, RocksDB, DiskCache, LiteQueue, PersistQueue]


# ---- the work -----------------------------------------------------------------------------------------------------


def one_by_one(peer: Peer, load: Load) -> int:
    append = peer.append
    for _ in range(load.blocks):
        for value in load.values:
            append(value)
    return load.records


def in_lists(peer: Peer, load: Load) -> int:
    append_many = peer.append_many
    for _ in range(load.blocks):
        append_many(load.values)
    return load.records


def fifty_synced(peer: Peer, load: Load) -> int:
    for value in load.values[:50]:
        peer.append(value)
    return 50


def contestant(kind: type[Peer], load: Load, what: str) -> Contestant:
    @contextmanager
    def run(place: str) -> Iterator[Callable[[], int]]:
        with closing(kind(place, synced=what == "synced")) as peer:
            peer.append(load.values[0])  # whatever the first one costs: making files is not the question
            if what == "read":
                in_lists(peer, load)
                yield peer.read
            else:
                yield partial({"one by one": one_by_one, "in lists": in_lists, "synced": fifty_synced}[what], peer, load)

    return run


def compared(title: str, laps: dict[str, Laps], unit: float, name: str) -> str:
    """Ordered by speed; the first column of notes says how many times what seglog takes."""
    ours = laps[Seglog.name].median()
    figures = [
        Figure(each.name, each.median() * unit, name, note=f"{each.median() / ours:6.3g} x seglog   {given(each.name)}")
        for each in sorted(laps.values(), key=lambda each: each.median())
    ]
    return table(title, figures)


def given(name: str) -> str:
    return next(peer.given for peer in PEERS if peer.name == name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000, help="per round (default 20,000)")
    parser.add_argument("--size", type=int, default=100, help="bytes per value (default 100)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, after an untimed one (default 5)")
    add_arguments(parser)
    args = parser.parse_args()
    load = Load(args.size, max(1, args.records // 1000))
    present = [peer for peer in PEERS if importlib.util.find_spec(peer.module)]
    report: dict[str, Any] = {}
    with scratch(args.dir) as directory, one_core():
        report["machine"] = {"command": shlex.join(["python", *sys.argv])} | describe(directory)
        print("\n".join(f"{key + ':':<15}{value}" for key, value in report["machine"].items()))
        for peer in PEERS:
            if peer not in present:
                print(f"{'skipped:':<15}{peer.name}, which is not installed")
        size = f"{args.size:,} B values"
        for what, title in {
            "one by one": f"{load.records:,} {size}, one call each; survives kill -9",
            "in lists": f"{load.records:,} {size}, 1,000 in a call; survives kill -9",
            "read": f"reading {load.records:,} {size} back as bytes",
            "synced": f"50 {size}, one call each; each on disk before the next: this is the disk's time",
        }.items():
            laps = in_turns(
                {peer.name: contestant(peer, load, what) for peer in present},
                50 if what == "synced" else load.records,
                rounds=args.rounds, directory=directory, say=progress,
            )
            unit, name = (1e6, "us") if what == "synced" else (1e9, "ns")
            print("\n" + compared(title, laps, unit, name), flush=True)
            report[what] = {each.name: {"seconds_per_record": each.median(), "given": given(each.name)} for each in laps.values()}
    if args.json:
        text = json.dumps(report, indent=1)
        print(text) if args.json == "-" else Path(args.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
