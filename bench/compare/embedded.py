"""Embedded: stores that live in the program, used as a log: a number that rises for a key, and the record for a value."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from operator import itemgetter

from compare.files import LOOK
from compare.peer import Log, Place


class Keyed(Log):
    """Keys that rise, and a reader in another process that looks again and again."""

    tails = f"looks every {LOOK * 1e6:.0f} us"
    next = 0

    def key(self) -> bytes:
        self.next += 1
        return self.next.to_bytes(8, "big")

    def after(self, key: int) -> list[bytes]:
        """The records behind the first `key` ones."""
        raise NotImplementedError

    def tail(self) -> Iterator[bytes]:
        seen = 0
        yield b""
        while True:
            if values := self.after(seen):
                seen += len(values)
                yield from values
            else:
                time.sleep(LOOK)


class SQLite(Keyed):
    name, module = "sqlite3", "sqlite3"
    given = "WAL, synchronous=OFF; a transaction per call"
    synced = "WAL, synchronous=FULL"

    def __init__(self, place: Place) -> None:
        self.db = sqlite3.connect(place.path + "/sqlite", isolation_level=None, timeout=30)
        self.db.execute("pragma journal_mode=wal")
        self.db.execute(f"pragma synchronous={'full' if place.synced else 'off'}")
        self.db.execute("create table if not exists log (position integer primary key, value blob)")
        self.close = self.db.close  # type: ignore[method-assign]

    def append(self, value: bytes) -> None:
        self.db.execute("insert into log (value) values (?)", (value,))

    def append_many(self, values: list[bytes]) -> None:
        self.db.execute("begin")
        self.db.executemany("insert into log (value) values (?)", ((value,) for value in values))
        self.db.execute("commit")

    def each(self, count: int) -> Iterator[bytes]:
        return map(itemgetter(0), self.db.execute("select value from log order by position"))

    def batches(self, count: int) -> Iterator[list[bytes]]:
        rows = self.db.execute("select value from log order by position")
        while some := rows.fetchmany(1000):
            yield [value for (value,) in some]

    def after(self, key: int) -> list[bytes]:
        return [value for (value,) in self.db.execute("select value from log where position > ? order by position", (key,))]


class LMDB(Keyed):
    name, module = "lmdb", "lmdb"
    given = "sync=False, writemap, append=True; a transaction per call"
    synced = "sync=True"

    def __init__(self, place: Place) -> None:
        import lmdb

        how = {"sync": True} if place.synced else {"sync": False, "writemap": True}
        self.env = lmdb.open(place.path + "/lmdb", map_size=1 << 32, **how)
        self.close = self.env.close  # type: ignore[method-assign]

    def append(self, value: bytes) -> None:
        with self.env.begin(write=True) as txn:
            txn.put(self.key(), value, append=True)

    def append_many(self, values: list[bytes]) -> None:
        with self.env.begin(write=True) as txn:
            txn.cursor().putmulti([(self.key(), value) for value in values], append=True)

    def each(self, count: int) -> Iterator[bytes]:
        with self.env.begin() as txn:
            yield from txn.cursor().iternext(keys=False, values=True)

    def batches(self, count: int) -> Iterator[list[bytes]]:
        with self.env.begin() as txn:
            yield list(txn.cursor().iternext(keys=False, values=True))

    def after(self, key: int) -> list[bytes]:
        with self.env.begin() as txn:
            cursor = txn.cursor()
            if cursor.set_range((key + 1).to_bytes(8, "big")):
                return list(cursor.iternext(keys=False, values=True))
        return []


class RocksDB(Keyed):
    name, module = "rocksdict", "rocksdict"
    given = "WAL, sync=False; a write batch per list"
    synced = "WAL, sync=True"
    tails = None  # one process at a time

    def __init__(self, place: Place) -> None:
        import rocksdict

        self.db = rocksdict.Rdict(place.path + "/rocks", rocksdict.Options(raw_mode=True))
        self.batch = rocksdict.WriteBatch
        options = rocksdict.WriteOptions()
        options.sync = place.synced
        self.db.set_write_options(options)
        self.close = self.db.close  # type: ignore[method-assign]

    def append(self, value: bytes) -> None:
        self.db[self.key()] = value

    def append_many(self, values: list[bytes]) -> None:
        batch = self.batch(raw_mode=True)
        for value in values:
            batch.put(self.key(), value)
        self.db.write(batch)

    def each(self, count: int) -> Iterator[bytes]:
        return iter(self.db.values())

    def batches(self, count: int) -> Iterator[list[bytes]]:
        yield list(self.db.values())


class MmapQ(Log):
    """Its two kinds of files: single messages, and batches that are committed together. Nothing in it syncs."""

    name, module = "mmapq", "mmapq"
    given = "an append for one, a BatchWriter for a list; nothing in it syncs"
    tails = "polls in a loop: takes a whole core"

    def __init__(self, place: Place) -> None:
        import mmapq

        self.advance, self.advanced = mmapq.NextMove.ADVANCE, mmapq.PollResult.ADVANCED
        self.single = mmapq.IndexedQueue.create(place.path, "single")
        self.batch = mmapq.IndexedBatchQueue.create(place.path, "batch")
        self.append_many_to, self.append_to = self.batch.create_appender(), self.single.create_appender()
        self.append = self.append_to.append  # type: ignore[method-assign]

    def append_many(self, values: list[bytes]) -> None:
        with self.append_many_to.start_batch() as batch:
            add = batch.append
            for value in values:
                add(value)
            batch.commit()

    def batches(self, count: int) -> Iterator[list[bytes]]:
        got: list[list[bytes]] = []

        def take(index: int, values: list[bytes]) -> int:
            got.append(values)
            return self.advance

        some = False
        with self.batch.create_poller() as poller:
            while poller.poll(take) == self.advanced:
                some = True
                yield got.pop()
        if not some:  # they were appended one by one
            with self.single.create_reader() as reader:
                yield [value for index in range(count) if (value := reader.read(index)) is not None]

    def tail(self) -> Iterator[bytes]:
        got: list[bytes] = []

        def take(index: int, appender: int, data: bytes) -> int:
            got.append(data)
            return self.advance

        with self.single.create_poller() as poller:
            yield b""
            while True:
                if poller.poll(take) == self.advanced:
                    yield got.pop()

    def close(self) -> None:
        for each in (self.append_to, self.append_many_to, self.single, self.batch):
            each.close()
