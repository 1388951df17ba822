"""Ratios: seglog against what the machine does without it, taken in one run, with the targets beside them.

    python bench/ratios.py                     every part, in its short form: about 5 minutes
    python bench/ratios.py speed --rounds 15   one part, more carefully
    python bench/ratios.py --large             5 GiB read, 20 GiB written, 10 GiB opened: needs 30 GiB of disk and patience
    python bench/ratios.py --json bench.json

Nanoseconds differ from machine to machine and from minute to minute; a ratio of two things done in turns, on one core, differs
far less, and it is what the project promises. Everything runs with fsync="never" on a real file system: what is measured
is the program, not the disk. Exit code 1 when a target was missed.

On a machine that has other things to do, wall time holds their time too. `--clock cpu` judges by the processor time of the
thread that works; both are always in the JSON.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable

import arraying
import committing
import compacting
import contestants
import exchanging
import growth
import limits
import memory
import opening
import queues
import sharing
import transacting
from contestants import Load
from machine import Figure, Laps, add_arguments, describe, in_turns, one_core, progress, scratch, table

A, B, C = "a: Python file.write", "b: memcpy, new pages", "c: Cython no-op"
A_READ = "a: Python file.read"
SEND, SEND_MANY = "send", "send_many of 1,000"
LISTS, LISTS_ONE = "lists of bytes", "lists of bytes, sent one by one"
BATCHES, BATCHES_ONE = "batches", "batches, sent one by one"


def compare_speed(args: argparse.Namespace, directory: str) -> tuple[list[tuple[str, list[Figure]]], dict[str, object]]:
    parts, raw = [], {}
    for size, records in ((100, args.records), (1024, args.records // 5)):
        load = Load(size, max(1, records // contestants.BLOCK))
        with one_core():
            laps = in_turns(
                {
                    # Each beside the one it is compared with.
                    C: contestants.noop_send(load),
                    SEND: contestants.seglog_sends(load),
                    A: contestants.python_writes(load),
                    SEND_MANY: contestants.seglog_send_many(load),
                    B: contestants.memcpy_into_new_pages(load),
                    LISTS: contestants.seglog_reads(load),
                    A_READ: contestants.python_reads(load),
                    BATCHES: contestants.seglog_counts(load),
                    LISTS_ONE: contestants.seglog_reads(load, one_by_one=True),
                    BATCHES_ONE: contestants.seglog_counts(load, one_by_one=True),
                },
                load.records,
                rounds=args.rounds,
                directory=directory,
                say=progress,
            )
        what = f"{size:,} B values, keyless, {load.records:,} a round, {args.rounds} rounds, fsync never"
        parts.append((f"speed: {what}; medians of each round's ratio, {args.clock} time", ratios(laps, size, args.clock)))
        parts.append((f"the same in ns per record of {size:,} B", nanoseconds(laps, args.clock)))
        raw[str(size)] = {
            name: [{"wall_ns": lap.wall * 1e9, "cpu_ns": lap.cpu * 1e9} for lap in each.laps] for name, each in laps.items()
        }
    return parts, raw


def ratios(laps: dict[str, Laps], size: int, clock: str) -> list[Figure]:
    """Targets are for 100 B; at 1 KiB the same lines are for information."""
    other = "cpu" if clock == "wall" else "wall"

    def ratio(name: str, above: str, below: str, **wanted: float) -> Figure:
        top, bottom = laps[above], laps[below]
        return Figure(
            name, top.times(bottom, clock), "x", **(wanted if size == 100 else {}),
            note=f"{other} {top.times(bottom, other):.2f}",
        )

    return [
        ratio("send() is faster than Python's file.write (a)", A, SEND, at_least=1.5),
        ratio("send() costs no-op calls (c)", SEND, C, at_most=6),
        ratio("send_many() is faster than Python's file.write (a)", A, SEND_MANY, at_least=6),
        ratio("send_many() of memcpy into new pages (b)", B, SEND_MANY, at_least=0.6),
        ratio("reading lists of bytes is faster than Python (a)", A_READ, LISTS, at_least=2),
        ratio("... of records that were sent one by one", A_READ, LISTS_ONE),
        ratio("reading batches is faster than Python (a)", A_READ, BATCHES, at_least=20),
        ratio("... of records that were sent one by one", A_READ, BATCHES_ONE),
    ]


def nanoseconds(laps: dict[str, Laps], clock: str) -> list[Figure]:
    return [
        Figure(
            name, each.median(clock) * 1e9, "ns",
            note=f"spread {each.spread(clock):.0%}" + ("" if each.share() > 0.9 else f", had {each.share():.0%} of a core"),
        )
        for name, each in laps.items()
    ]


PARTS: dict[str, Callable[[argparse.Namespace, str], tuple[list[tuple[str, list[Figure]]], dict[str, object]]]] = {
    "speed": compare_speed,
    "limits": limits.measure,
    "memory": memory.measure,
    "growth": growth.measure,
    "open": opening.measure,
    "sharing": sharing.measure,
    "groups": committing.measure,
    "transactions": transacting.measure,
    "compaction": compacting.measure,
    "queues": queues.measure,
    "exchanges": exchanging.measure,
    "arrays": arraying.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=11, help="timed rounds, after an untimed one (default 11, at least 7)")
    parser.add_argument("--records", type=int, default=500_000, help="records of 100 B a round (default 500,000)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="which one judges (default wall)")
    parser.add_argument("--large", action="store_true", help="the sizes of the promises, where the disk allows")
    parser.add_argument("--size-gib", type=float, default=None, help="GiB of the topic that is read (5 with --large, else 1)")
    add_arguments(parser)
    args = parser.parse_args()
    if args.rounds < 7:
        parser.error("fewer than 7 rounds give no median worth the name")
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")

    out = sys.stderr if args.json == "-" else sys.stdout
    missed = 0
    with scratch(args.dir) as directory:
        head = {"command": shlex.join(["python", *sys.argv])} | describe(directory)
        print("\n".join(f"{key + ':':<15}{value}" for key, value in head.items()), file=out)
        report: dict[str, object] = {"machine": head, "settings": vars(args)}
        for name in args.parts or PARTS:
            tables, raw = PARTS[name](args, directory)
            for title, figures in tables:
                print("\n" + table(title, figures), file=out, flush=True)
                missed += sum(figure.passed is False for figure in figures)
            report[name] = {
                "tables": [{"title": title, "figures": [f.to_json() for f in figures]} for title, figures in tables],
                "raw": raw,
            }
    print(f"\n{missed} target{'s' * (missed != 1)} missed" if missed else "\nevery target met", file=out)
    if args.json == "-":
        json.dump(report, sys.stdout, indent=1)
        print()
    elif args.json:
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
