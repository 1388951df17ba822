"""Makes v1/v1.tar.gz: a store of format 1, and what must be read from it for ever.

    .venv/bin/python tests/format/make_v1.py

**Never run this again once format 1 is released**: the archive is then the promise that "directories written by a
released version are opened for ever", and a new one would only say that today's engine reads today's files. Until then
it may be made anew whenever the format moves. A later format gets a script and an archive of its own.

In it: `store/`, without what is transient but for the sealed indexes, and `expected.json`: topic -> for each partition
its first offset and its records, bytes as Latin-1. What changes from run to run is salts, ids and the uuid.
"""

import io
import json
import random
import shutil
import tarfile
import tempfile
from pathlib import Path

import seglog

ARCHIVE = Path(__file__).parent / "v1" / "v1.tar.gz"
NOW = 1_700_000_000_000_000
SMALL = 65_536


def text(data):
    return None if data is None else data.decode("latin-1")


def expected_record(r):
    headers = [[name, text(value)] for name, value in r.headers.items()]
    return [r.offset, r.timestamp, text(r.key), text(r.value), headers]


def fill(topic, rng, rounds):
    for i in range(rounds):
        topic.send(b"value %d" % i, key=b"key %d" % (i % 7), headers={"round": b"%d" % i, "null": None, "é☃": b""})
        topic.send(None, key=b"key %d" % (i % 5))
        topic.send(b"", key=b"")
        topic.send(b"\0\xff" * (i % 20), timestamp=NOW - i)
        topic.send_many([b"same length"] * 10, partition=i % topic.partitions)
        topic.send_many(
            [rng.choice([None, b"", b"abc " * rng.randrange(300)]) for _ in range(12)],
            keys=[rng.choice([None, b"", b"k%d" % i]) for i in range(12)],
            headers=[rng.choice([None, {}, {"n": b"1", "": None}]) for _ in range(12)],
            timestamps=[NOW + rng.randrange(-(10**6), 10**6) for _ in range(12)],
            partition=i % topic.partitions,
        )


def make(path):
    rng, ticks = random.Random(1), iter(range(10**9))

    def opened():
        return seglog.open(path, clock=lambda: NOW + 1000 * next(ticks), upkeep=False, fsync="interval")

    with opened() as store:
        orders = store.topic("orders", partitions=2, segment_bytes=SMALL)
        fill(orders, rng, 40)
        for codec in "zstd", "lz4":
            fill(store.topic(codec, codec=codec, segment_bytes=SMALL), rng, 12)
        store.topic("deleted").send(b"x")
        store.delete_topic("deleted")
        store.topic("empty", segment_bytes=SMALL)
        with orders.consumer("billing") as consumer:
            for _ in range(3):
                consumer.receive(10)
                consumer.commit()
        orders.sync()
    # Partition 1 loses its memory and its clean mark: its next opening begins a new epoch, and leaves a gap.
    for name in "shm", "lock":
        (path / name).unlink(missing_ok=True)
    with opened() as store:
        orders = store.topic("orders")
        orders.send(b"not clean", partition=1)
        orders.sync()
        shutil.copytree(path, path.with_name("cut"))
    shutil.rmtree(path)
    path.with_name("cut").rename(path)
    for shared in [*path.rglob("shm"), *path.rglob("lock")]:
        shared.unlink()
    with opened() as store:
        orders = store.topic("orders")
        fill(orders, rng, 8)
        orders.trim(before=orders.first_offset(1) + 100, partition=1)
        return {
            topic.name: [
                {
                    "first_offset": topic.first_offset(p),
                    "records": [expected_record(r) for r in topic.read(partition=p)],
                }
                for p in range(topic.partitions)
            ]
            for topic in map(store.topic, ("orders", "zstd", "lz4", "empty"))
        }


def keep(info):
    """Owner and times are of no use to anybody."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = NOW // 1_000_000
    return None if Path(info.name).name in ("shm", "lock", "create.lock") else info


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store"
        expected = json.dumps(make(path)).encode()
        ARCHIVE.parent.mkdir(exist_ok=True)
        with tarfile.open(ARCHIVE, "w:gz", compresslevel=9) as archive:
            archive.add(path, "store", filter=keep)
            info = tarfile.TarInfo("expected.json")
            info.size, info.mtime = len(expected), NOW // 1_000_000
            archive.addfile(info, io.BytesIO(expected))
    print(ARCHIVE, ARCHIVE.stat().st_size, "bytes")
