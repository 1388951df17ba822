"""Corpus: small sound directories, one for each kind of thing that a decoder must know."""

from __future__ import annotations

import os
import random
import shutil
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import seglog
from format import reader
from seglog.engine.log import Log

NOW = 1_700_000_000_000_000
SMALL = 65_536
TRANSIENT = ("shm", "tail.shm", "lock")


def fill(log: Log, rng: random.Random) -> None:
    """Frames of every kind, few of each."""
    log.append(rng.randbytes(rng.randrange(200)), rng.choice([None, b"", b"key"]), rng.choice([None, {"h": b"1"}]))
    log.append(None, b"gone")
    log.append_many([b"text " * rng.randrange(60) for _ in range(rng.randrange(1, 12))])
    log.append_many([b"same" * 8] * 5, [b"%d" % i for i in range(5)], timestamps=[NOW - i for i in range(5)])
    log.append_many(
        [rng.choice([None, b"", b"value" * 30]) for _ in range(9)],
        [rng.choice([None, b"", b"k" * 9]) for _ in range(9)],
        [rng.choice([None, {}, {"ä→": None, "": b"", "x": b"y" * 9}]) for _ in range(9)],
        [rng.randrange(-(2**63), 2**63) for _ in range(9)],
    )
    log.append_many(np.arange(30, dtype="i8"))


def make_log(path: Path, rng: random.Random, *, close: bool, trim: bool = False, **settings: Any) -> None:
    """Three segments, each with little in it: they are rolled for their age."""
    now = NOW

    def clock() -> int:
        return now

    path.mkdir()
    log = Log(path, segment_bytes=SMALL, segment_bytes_min=SMALL, clock=clock, segment_age=1.0, **settings)
    for i in range(3):
        fill(log, rng)
        if i < 2:
            now += 2_000_000
            log.upkeep()
    if trim:
        log.trim(7)
    if settings.get("fsync") != "never" and rng.random() < 0.5:
        log.sync()
    fill(log, rng)
    if close:
        log.close()


def forged(salt: int, base_offset: int, body: bytes, **fields: int) -> bytes:
    """A frame with right hashes."""
    header = {"magic": reader.FRAME_MAGIC, "body_length": len(body), "base_offset": base_offset, "count": 1}
    header |= {"flags": reader.FIXED_STRIDE, "codec": 0, "reserved": 0, "base_timestamp": NOW, "max_timestamp": NOW}
    header |= {"epoch": 1, "span": 1, "body_hash": reader.hash64(body), "header_hash": 0} | fields
    raw = reader.FRAME.struct.pack(*(header[name] for name in reader.Frame._fields))
    return raw[:56] + struct.pack("<Q", reader.hash64(raw[:56], salt)) + body + b"\0" * (-len(body) % 8)


def add_gaps(path: Path) -> None:
    """Frames with gaps in their offsets, which a reader must know and no writer makes yet."""
    log = reader.Log(path)
    last, at, offset = log.last, log.end_position, log.end
    with open(last.path, "r+b") as file:
        for deltas, span in (((0, 4, 8), 9), ((2, 3), 4), ((5,), 6)):
            body = struct.pack(f"<{len(deltas)}i", *deltas)
            body += b"\0" * (-len(body) % 8) + b"ab" * len(deltas)
            flags = reader.HAS_DELTAS | reader.FIXED_STRIDE
            frame = forged(last.salt, offset, body, count=len(deltas), span=span, flags=flags)
            file.seek(at)
            file.write(frame)
            at, offset = at + len(frame), offset + span


def make_store(path: Path, rng: random.Random) -> None:
    with seglog.open(path, segment_bytes=SMALL) as store:
        orders = store.topic("orders", partitions=2)
        for i in range(50):
            orders.send(b"%d" % i, b"%d" % (i % 7))
        store.topic("other", codec="none").send(b"x")
        store.topic("gone")
        store.delete_topic("gone")
        for group in ("billing", "late"):
            with orders.consumer(group) as consumer:
                for _ in range(rng.randrange(1, 5)):
                    consumer.receive(max_records=3, timeout=0)
                    consumer.commit()


def make(folder: Path, seed: int) -> dict[str, Path]:
    """All of it, by name; as a reboot leaves it. The same for the same seed, but for what is random in a file (salts)."""
    rng = random.Random(seed)
    logs: dict[str, dict[str, Any]] = {
        "open": {"close": False},
        "closed": {"close": True},
        "never": {"close": False, "fsync": "never"},
        "trimmed": {"close": True, "trim": True},
        "gaps": {"close": False},
    }
    for codec, module in (("zstd", "zstandard"), ("lz4", "lz4")):
        if find_spec(module):
            logs[codec] = {"close": False, "codec": codec}
    made = {}
    for name, settings in logs.items():
        made[name] = folder / name
        make_log(made[name], rng, **settings)
        for transient in TRANSIENT:
            (made[name] / transient).unlink(missing_ok=True)
        if name == "gaps":
            add_gaps(made[name])
    made["store"] = folder / "store"
    make_store(made["store"], rng)
    for directory, _, files in os.walk(made["store"]):
        for name in set(files) & set(TRANSIENT):
            os.unlink(os.path.join(directory, name))
    return made


def copied(path: Path, to: Path) -> Path:
    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(path, to)
    return to
