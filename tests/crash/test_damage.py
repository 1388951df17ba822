"""Damaged files: never a wrong record, a crash or a hang; what is lost was hit, it is told, and everything else can be read.

Each case damages a copy of a small log and looks at it in a child process, so that a segfault is a failure and not the end of the
suite. SEGLOG_LONG=1 tries every bit and every length; the short form takes a sample.
"""

import contextlib
import functools
import itertools
import json
import os
import random
import shutil
import signal
import struct
import tempfile
from pathlib import Path

import pytest
import xxhash

from crash.scratch import folder
from seglog.engine.errors import CorruptStore, OffsetOutOfRange, PartitionFailed, SeglogError, UnsupportedFormat
from seglog.engine.log import Log

LONG = bool(os.environ.get("SEGLOG_LONG"))
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
    pytest.mark.timeout(7200 if LONG else 120),
]

SMALL = 65_536
PAGE = 4096
HEADER = 64  # of a frame


# -- a log to damage -----------------------------------------------------------------------------------------------


class Whole:
    """A log of several segments, closed or killed, whose every frame is known."""

    def __init__(self, path, kind, end, seed=0):
        self.path, self.kind, self.end = path, kind, end
        rng = random.Random(seed)
        log = Log(path, segment_bytes=SMALL, codec="lz4" if kind == "small" else "none")
        self.frames = []  # (segment's base offset, position, end, first offset, next offset)
        self.records = {}
        while log.statistics()["segments"] < 3 or log.statistics()["tail_position"] < (
            6500 if kind == "small" else 40_000
        ):
            self.add(log, rng)
        log.sync()
        self.next = log.next_offset
        self.time = sorted(record[3] for record in self.records.values())[len(self.records) // 3]
        self.at_time = next(offset for offset, record in self.records.items() if record[3] >= self.time)
        if end == "closed":
            log.close()
        del log
        self.bases = sorted(int(name[:20]) for name in os.listdir(path) if name.endswith(".log"))
        self.files = [f"{base:020}.log" for base in self.bases]

    def add(self, log, rng):
        style = rng.randrange(5)
        n = 1 if style < 2 else rng.randrange(2, 12)
        if self.kind == "small":  # few frames, of every kind; a large one fills the segment up
            values = [rng.choice([None, b"", b"v" * rng.randrange(60), rng.randbytes(30)]) for _ in range(n)]
            used = log.statistics()["tail_position"]
            if 7500 < used < 20_000 and log.statistics()["segments"] < 3:
                n, values = 1, [rng.randbytes(SMALL - used - 4000)]
        else:
            values = [rng.randbytes(rng.choice([20, 60, 60, 150])) for _ in range(n)]
        keys = [rng.choice([None, b"k", b"key" * 5]) for _ in range(n)] if style in (1, 3) else None
        headers = [{"h": b"x" * i} for i in range(n)] if style == 3 else None
        times = [1000 * log.next_offset + rng.randrange(3000) for _ in range(n)]
        if n == 1:
            first = log.append(values[0], keys and keys[0], headers and headers[0], times[0])
        else:
            first = log.append_many(values, keys, headers, times)[0].start
        at = log.statistics()
        previous = self.frames[-1] if self.frames and self.frames[-1][0] == at["active_base"] else (0, 0, PAGE)
        self.frames.append((at["active_base"], previous[2], at["tail_position"], first, log.next_offset))
        for i in range(n):
            self.records[first + i] = (values[i], keys and keys[i], headers[i] if headers else {}, times[i])

    def hit(self, segment, *ranges):
        """The offsets of the frames of a segment that have a byte in one of the ranges of positions."""
        return {
            offset
            for base, start, end, first, following in self.frames
            if base == self.bases[segment] and any(start < b and a < end for a, b in ranges)
            for offset in range(first, following)
        }

    def of_segment(self, segment):
        return self.hit(segment, (0, 1 << 40))

    def copy(self, target, reboot):
        shutil.copytree(self.path, target)
        if reboot:
            for name in ("shm", "tail.shm"):
                (target / name).unlink()
        else:
            # The words that belong to the log's own file, with its own number: a copy would be taken for another log.
            for name in ("shm", "tail.shm"):
                renumber(target / name)
        return target


def renumber(file):
    """Writes the file's own device and inode into shared words, as if it had been written in this place."""
    status = file.stat()
    with open(file, "r+b") as f:
        head = f.read(48)
        # tail.shm: magic, version and state, boot, device, inode; shm: magic, version, boot, device, inode
        f.seek(24)
        assert head[:8] in (b"SLOGSHM1", b"SLOGSLT1")
        f.write(struct.pack("<QQ", status.st_dev, status.st_ino))


@pytest.fixture(scope="module")
def memory():
    with folder("damage") as path:
        yield path


@pytest.fixture(scope="module", params=["closed", "killed"])
def small(request, memory):
    return Whole(Path(tempfile.mkdtemp(dir=memory)) / "log", "small", request.param)


@pytest.fixture(scope="module", params=["closed", "killed"])
def large(request, memory):
    return Whole(Path(tempfile.mkdtemp(dir=memory)) / "log", "large", request.param)


# -- looking at a damaged one --------------------------------------------------------------------------------------


def fields(record):
    return record.value, record.key, record.headers, record.timestamp


def read_on(log):
    """Everything readable, and the ranges of offsets that a read told to be lost."""
    found, told, at = {}, [], log.first_offset
    while True:
        try:
            batch = log.read(at, max_records=7)
        except CorruptStore as error:
            if not error.resume_offset > at or "offset" not in error.fields:
                raise RuntimeError(f"no way forward from {at}: {error}") from error
            told.append(range(at, error.resume_offset))
            at = error.resume_offset
            continue
        if batch is None:
            return found, told
        found |= {record.offset: fields(record) for record in batch}
        at = batch.next_offset


def complaints(whole, path, hit, *, may_refuse=False, torn=False):
    """What is wrong with how a damaged log behaves; `hit`: the offsets that may be lost.

    `torn`: the damage may lie behind the durable mark, so that the tail from there on may be cut.
    """
    records = whole.records
    try:
        log = Log(path, segment_bytes=SMALL)
    except (CorruptStore, UnsupportedFormat) as error:
        if not may_refuse:
            yield f"opening raised {error!r}"
        return
    found, told = read_on(log)
    wrong = [offset for offset, record in found.items() if records.get(offset) != record]
    if wrong:
        yield f"wrong records: {wrong}"
    lost = [offset for offset in records if offset not in found]
    losses = [range(loss.start, loss.stop if loss.stop >= 0 else 1 << 62) for loss in log.losses]
    if any(loss.kind == "torn" for loss in log.losses) and torn:
        cut = min(loss.start for loss in log.losses if loss.kind == "torn")
        hit = hit | {offset for offset in records if offset >= cut}
    if too_many := [offset for offset in lost if offset not in hit]:
        yield f"lost, though not hit: {too_many} (told: {told}, losses: {log.losses})"
    if silent := [offset for offset in lost if not any(offset in r for r in told + losses)]:
        yield f"lost, and not told: {silent}"
    if lost and not log.verify() and not log.losses:
        yield f"lost, and verify says nothing: {lost}"
    for offset in random.Random(len(lost)).sample(sorted(records), 12):
        try:
            if fields(log.record(offset)) != records[offset]:
                yield f"record({offset}) is wrong"
            elif offset in lost:
                yield f"record({offset}) gives what a read from the start does not"
        except (CorruptStore, OffsetOutOfRange):
            if offset not in lost:
                yield f"record({offset}) cannot be read, though a read from the start gives it"
    with contextlib.suppress(CorruptStore):
        at = log.offset_for_time(whole.time)
        if not lost and at != whole.at_time:
            yield f"offset_for_time gives {at}"
    skipping = Log(path, segment_bytes=SMALL, recover="skip")
    if (skipped := {record.offset: fields(record) for record in skipping.records()}) != found:
        yield f"recover='skip' gives {sorted(set(found) ^ set(skipped))} differently"
    skipping.close()
    times = ["after an append", "after the next boot"] if LONG else ["after an append"]
    try:
        new = log.append(b"new")
    except (CorruptStore, PartitionFailed):  # told; and opening again repairs
        times = ["after opening again", "after the next boot"]
        log.close()
        log = Log(path, segment_bytes=SMALL)
        new = log.append(b"new")
    if new < whole.next:
        yield f"append gave {new}, which was given out before"
    if log.record(new).value != b"new":
        yield "an append after the damage does not come back"
    for when in times:
        again, _ = read_on(log)
        value, *_ = again.pop(new, (None,))
        # What a read found before that opening repaired anything may be of bytes that a file cut short no longer has.
        if value != b"new" or (changed := [o for o in set(found) ^ set(again) if o not in hit]):
            yield f"{when} the new record is {value}, and these changed: {changed}"
        if wrong := [offset for offset, record in again.items() if records.get(offset) != record]:
            yield f"{when}, wrong records: {wrong}"
        log.close()
        for name in ("shm", "tail.shm"):
            (path / name).unlink()
        log = Log(path, segment_bytes=SMALL)
    log.close()


def in_children(cases, look, limit=5):
    """What `look(case)` complains of, for every case, in forked children; a death and a hang are complaints as well."""
    cases, done, bad = list(cases), 0, []
    while done < len(cases):
        out, end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(out)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                for i in range(done, len(cases)):
                    signal.alarm(limit)
                    try:
                        said = list(look(cases[i]))
                    except BaseException as error:
                        import traceback

                        said = [f"{error!r}\n{traceback.format_exc()}"]
                    for at in [{"done": i, "bad": "; ".join(said)[:3000]}]:
                        os.write(end, (json.dumps(at) + "\n").encode())
            finally:
                os._exit(0)
        os.close(end)
        with os.fdopen(out) as lines:
            for line in lines:
                heard = json.loads(line)
                done = heard["done"] + 1
                if heard["bad"]:
                    bad.append(f"case {cases[heard['done']]}: {heard['bad']}")
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status):
            what = (
                "hangs"
                if os.WTERMSIG(status) == signal.SIGALRM
                else f"dies of {signal.Signals(os.WTERMSIG(status)).name}"
            )
            bad.append(f"case {cases[done]}: {what}")
            done += 1
        if len(bad) > 20:
            break
    return bad


def check(whole, memory, cases, damage, **options):
    """`damage(case, path)` does it, and gives the offsets hit. Each case with the same boot, and with the next."""

    def look(case):
        case, reboot = case
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            path = whole.copy(Path(folder) / "log", reboot)
            hit = damage(case, path)
            yield from complaints(whole, path, hit, torn=reboot and whole.end == "killed", **options)

    bad = in_children(itertools.product(cases, (False, True)), look)
    assert bad == [], f"{len(bad)} cases, the first of them: {bad[0]}"


def test_an_undamaged_copy_is_read_without_complaint(small, large, memory):
    for whole in (small, large):
        check(whole, memory, ["nothing"], lambda case, path: set())


def test_a_child_that_dies_or_hangs_is_noticed():
    def look(case):
        if case == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        while case == 3:
            pass
        return ["bad"] if case == 2 else []

    died, bad, hung = in_children(range(5), look, limit=1)
    assert ("SIGKILL" in died, "bad" in bad, "hangs" in hung) == (True, True, True)


# -- bits, bytes, blocks -------------------------------------------------------------------------------------------


def edit(path, name, change):
    """Rewrites a file as `change(bytearray)` leaves it."""
    data = bytearray((path / name).read_bytes())
    (path / name).write_bytes(change(data) or data)


def interesting(whole, segment):
    """The ranges of a segment's file in which something stands."""
    end = max(frame[2] for frame in whole.frames if frame[0] == whole.bases[segment])
    first_large = [f for f in whole.frames if f[0] == whole.bases[segment] and f[2] - f[1] > 20_000]
    stop = first_large[0][1] + 200 if first_large else end + 72
    return [range(112), range(512, 584), range(1024, 1096), range(2048, 2160), range(PAGE, stop)]


@pytest.mark.parametrize("segment", [0, 2])
def test_any_flipped_bit_costs_at_most_its_batch(small, memory, rng, segment):
    """Every bit that means something, in a segment that is complete and in the one being written."""
    bits = [byte * 8 + bit for part in interesting(small, segment) for byte in part for bit in range(8)]
    if not LONG:
        bits = sorted({*rng.sample(bits, 90), *rng.sample(bits[: 368 * 8], 30)})

    def damage(bit, path):
        edit(path, small.files[segment], lambda data: data.__setitem__(bit >> 3, data[bit >> 3] ^ 1 << (bit & 7)))
        return small.hit(segment, (bit >> 3, (bit >> 3) + 1))

    check(small, memory, bits, damage)


@pytest.mark.parametrize("segment", [0, 1, 2])
@pytest.mark.parametrize("fill", ["zeros", "ones", "random", "a page of another segment"])
def test_a_block_that_was_overwritten_costs_at_most_its_batches(large, memory, rng, segment, fill):
    blocks = range(1, SMALL // PAGE)
    if not LONG:
        blocks = rng.sample(blocks, 3)

    def damage(block, path):
        at = block * PAGE
        other = (path / large.files[(segment + 1) % 3]).read_bytes()[at : at + PAGE]
        page = {"zeros": bytes(PAGE), "ones": b"\xff" * PAGE, "random": random.Random(block).randbytes(PAGE)}.get(
            fill, other
        )
        edit(path, large.files[segment], lambda data: data.__setitem__(slice(at, at + PAGE), page))
        return large.hit(segment, (at, at + PAGE))

    check(large, memory, blocks, damage)


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_two_blocks_that_changed_places_cost_at_most_their_batches(large, memory, rng, segment):
    pairs = list(itertools.combinations(range(1, SMALL // PAGE), 2))
    if not LONG:
        pairs = rng.sample(pairs, 4)

    def damage(pair, path):
        a, b = (slice(block * PAGE, (block + 1) * PAGE) for block in pair)

        def swap(data):
            data[a], data[b] = data[b], data[a]

        edit(path, large.files[segment], swap)
        return large.hit(segment, (a.start, a.stop), (b.start, b.stop))

    check(large, memory, pairs, damage)


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_a_first_page_that_is_gone_costs_at_most_its_segment(large, memory, rng, segment):
    pages = {"zeros": bytes(PAGE), "ones": b"\xff" * PAGE, "random": rng.randbytes(PAGE)}

    def damage(fill, path):
        edit(path, large.files[segment], lambda data: data.__setitem__(slice(0, PAGE), pages[fill]))
        return large.of_segment(segment)

    check(large, memory, pages, damage)


@pytest.mark.parametrize("segment", [0, 2])
def test_one_copy_of_the_header_is_enough(large, memory, rng, segment):
    def damage(copy, path):
        edit(
            path,
            large.files[segment],
            lambda data: data.__setitem__(slice(copy, copy + 512), random.Random(1).randbytes(512)),
        )
        return set()

    check(large, memory, [0, 2048], damage)


@pytest.mark.parametrize("segment", [0, 2])
def test_a_file_cut_at_any_length_costs_at_most_what_was_cut_off(small, memory, rng, segment):
    end = interesting(small, segment)[-1].stop
    lengths = (
        list(range(end))
        if LONG
        else sorted({0, 1, 95, 96, 4095, 4096, 4097, 4159, 4160, *rng.sample(range(PAGE, end), 20)})
    )

    def damage(length, path):
        os.truncate(path / small.files[segment], length)
        return small.of_segment(segment) if length < PAGE else small.hit(segment, (length, 1 << 40))

    check(small, memory, lengths, damage)


def test_a_file_that_grew_is_as_good_as_before(small, memory, rng):
    def damage(case, path):
        segment, size = case
        with open(path / small.files[segment], "ab") as f:
            f.write(random.Random(1).randbytes(size))
        return set()

    check(small, memory, itertools.product(range(3), (1, 4096, 100_000)), damage)


def test_several_kinds_of_damage_at_once_cost_what_they_hit(large, memory, rng):
    def damage(seed, path):
        mine, hit = random.Random(seed), set()
        for _ in range(mine.randrange(2, 7)):
            segment, at, size = mine.randrange(3), mine.randrange(PAGE, SMALL), mine.choice([1, 8, 64, 500, 5000])
            size = min(size, SMALL - at)
            edit(path, large.files[segment], lambda data: data.__setitem__(slice(at, at + size), mine.randbytes(size)))  # noqa: B023
            hit |= large.hit(segment, (at, at + size))
        return hit

    check(large, memory, rng.sample(range(10**6), 400 if LONG else 16), damage)


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)], ids=str)
def test_segments_that_are_gone_cost_their_records_and_are_told(large, memory, which):
    def damage(case, path):
        for segment in which:
            (path / large.files[segment]).unlink()
        return set().union(*map(large.of_segment, which))

    check(large, memory, [f"without {which}"], damage)


def test_when_all_segments_are_gone_it_is_told_as_long_as_anyone_remembers(large, memory):
    """In the same boot the shared words do; after the next one this is an empty directory."""

    def look(case):
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            path = large.copy(Path(folder) / "log", False)
            for name in large.files:
                (path / name).unlink()
            with Log(path, segment_bytes=SMALL) as log:
                if not any(loss.start <= 0 and loss.stop >= large.next for loss in log.losses):
                    yield f"not told: {log.losses}"
                if log.append(b"new") < large.next:
                    yield "an offset came back"

    assert in_children(["all"], look) == []


@pytest.mark.parametrize("kind", ["deleted", "random", "zeros", "another's", "astray"])
def test_indexes_may_be_anything(large, memory, rng, kind):
    def damage(case, path):
        mine = random.Random(case)
        files = sorted(path.glob("*.idx"))
        for index, other in zip(files, files[1:] + files[:1]):
            data = bytearray(index.read_bytes())
            if kind == "deleted":
                index.unlink()
            elif kind == "random":
                index.write_bytes(mine.randbytes(len(data)))
            elif kind == "zeros":
                index.write_bytes(bytes(len(data)))
            elif kind == "another's":
                shutil.copy(other, index.with_suffix(".mixed"))
            else:
                for at in range(64, len(data) - 15, 16):
                    if any(data[at : at + 16]) and mine.random() < 0.8:
                        struct.pack_into(
                            "<II", data, at, mine.randrange(2**10), mine.randrange(2 ** mine.choice([8, 16, 32]))
                        )
                index.write_bytes(data)
        for mixed in path.glob("*.mixed"):
            mixed.replace(mixed.with_suffix(".idx"))
        return set()

    check(large, memory, range(50 if LONG else 5), damage)


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_a_segment_copied_under_another_name_changes_nothing(large, memory, segment):
    a, b, c = large.bases
    names = [a + 1, (a + b) // 2, b - 1, b + 1, (b + c) // 2, c + 1, large.next - 1, large.next, large.next + 100]

    def damage(base, path):
        shutil.copy(path / large.files[segment], path / f"{base:020}.log")
        return set()

    check(large, memory, names, damage)


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_another_logs_segment_under_the_name_of_ours_is_never_read_as_ours(large, memory, segment):
    stranger = Whole(Path(tempfile.mkdtemp(dir=memory)) / "log", "large", "closed")
    assert stranger.files[segment] == large.files[segment]
    for offset, record in stranger.records.items():
        assert large.records.get(offset) == record  # the same offsets; only who wrote them differs

    def damage(case, path):
        shutil.copy(stranger.path / stranger.files[segment], path / large.files[segment])
        edit(path, large.files[segment], lambda data: None)
        return large.of_segment(segment)

    def look(reboot):
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            path = large.copy(Path(folder) / "log", reboot)
            damage(None, path)
            try:
                log = Log(path, segment_bytes=SMALL)
            except SeglogError:
                return
            found, told = read_on(log)
            losses = [range(loss.start, loss.stop if loss.stop >= 0 else 1 << 62) for loss in log.losses]
            for offset in large.records:
                ours = offset not in large.of_segment(segment)
                if (offset not in found or not ours) and not any(offset in r for r in told + losses):
                    yield f"{offset} ({'ours' if ours else 'theirs'}) is {'read' if offset in found else 'lost'}, untold"
                    return

    assert in_children([False, True], look) == []


FOREIGN = {
    "text": lambda path: (path / "README").write_text("mine"),
    "hidden": lambda path: (path / ".DS_Store").write_bytes(b"mine"),
    "a backup": lambda path: shutil.copy(next(path.glob("*.log")), path / f"{0:020}.log.bak"),
    "an editor's copy": lambda path: shutil.copy(next(path.glob("*.log")), path / f"{0:020}.log~"),
    "a short name": lambda path: (path / "000.log").write_bytes(b"mine"),
    "a long name": lambda path: (path / f"{0:025}.log").write_bytes(b"mine"),
    "a log of words": lambda path: (path / "application.log").write_bytes(b"mine"),
    "20 letters": lambda path: (path / ("a" * 20 + ".log")).write_bytes(b"mine"),
    "digits of another script": lambda path: (path / ("\u0663" * 20 + ".log")).write_bytes(b"mine"),
    "superscripts": lambda path: (path / ("\u00b2" * 20 + ".log")).write_bytes(b"mine"),
    "a sign": lambda path: (path / f"+{5:019}.log").write_bytes(b"mine"),
    "upper case": lambda path: (path / f"{7:020}.LOG").write_bytes(b"mine"),
    "more than 64 bits": lambda path: (path / f"{'9' * 20}.log").write_bytes(b"mine"),
    "63 bits": lambda path: (path / f"{2**63 - 1:020}.log").write_bytes(b"mine"),
    "a name that is no UTF-8": lambda path: open(os.fsencode(path) + b"/\xff\xfe.log", "wb").close(),
    "a directory": lambda path: (path / "lost+found").mkdir(),
    "a pipe": lambda path: os.mkfifo(path / "pipe"),
    "a link to nowhere": lambda path: (path / "link").symlink_to("/nowhere"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_programs_files_are_in_nobodys_way_and_stay(large, memory, name):
    def damage(case, path):
        before = set(os.listdir(path))
        FOREIGN[name](path)
        assert set(os.listdir(path)) != before
        return set()

    def look(reboot):
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            path = large.copy(Path(folder) / "log", reboot)
            before = set(os.listdir(path))
            damage(None, path)
            foreign = set(os.listdir(path)) - before
            yield from complaints(large, path, set())
            if not foreign <= set(os.listdir(path)):
                yield f"{foreign} is gone"

    assert in_children([False, True], look) == []


SQUATTERS = {
    "an empty file": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("mine"),
    "a page of zeros": lambda file: file.write_bytes(bytes(PAGE)),
    "a directory": lambda file: file.mkdir(),
    "a pipe": lambda file: os.mkfifo(file),
    "a link to nowhere": lambda file: file.symlink_to("/nowhere"),
    "a link to itself": lambda file: file.symlink_to(file.name),
    "a device": lambda file: file.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("what", SQUATTERS)
@pytest.mark.parametrize("where", ["before", "between", "behind"])
def test_something_else_under_the_name_of_a_segment_is_told_or_ignored_and_never_hangs(large, memory, what, where):
    """Nothing of ours is there, so nothing of ours is lost, unless opening says plainly why it cannot be."""
    _, b, c = large.bases
    base = {"before": 3, "between": (b + c) // 2, "behind": large.next + 50}[where]

    def damage(case, path):
        SQUATTERS[what](path / f"{base:020}.log")
        return {offset for offset in large.records if offset >= base and where != "behind"}

    def look(reboot):
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            path = large.copy(Path(folder) / "log", reboot)
            hit = damage(None, path)
            try:
                Log(path, segment_bytes=SMALL).close()
            except SeglogError:
                return
            yield from complaints(large, path, hit)

    assert in_children([False, True], look) == []


@pytest.mark.parametrize("what", SQUATTERS)
@pytest.mark.parametrize("segment", [0, 1, 2])
def test_something_else_in_the_place_of_a_segment_is_told(large, memory, what, segment):
    def look(reboot):
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            path = large.copy(Path(folder) / "log", reboot)
            (path / large.files[segment]).unlink()
            SQUATTERS[what](path / large.files[segment])
            try:
                Log(path, segment_bytes=SMALL).close()
                yield from complaints(large, path, large.of_segment(segment))
            except SeglogError:
                return

    assert in_children([False, True], look) == []


# -- bytes with a right hash ---------------------------------------------------------------------------------------

FIELDS = {"magic": (0, "I"), "body_length": (4, "I"), "offset": (8, "q"), "count": (16, "I"), "flags": (20, "H"), "codec": (22, "B"),
          "reserved": (23, "B"), "timestamp": (24, "q"), "epoch": (40, "I"), "span": (44, "I")}  # fmt: skip


def body_of(data, position):
    (length,) = struct.unpack_from("<I", data, position + FIELDS["body_length"][0])
    return slice(position + HEADER, position + HEADER + length)


def reseal(data, position, body=None, **changes):
    """Changes a frame, body first, and gives it right hashes again, so that only its meaning can be wrong."""
    (salt,) = struct.unpack_from("<Q", data, 24)
    if body is not None:
        data[body_of(data, position)] = body
    for name, value in changes.items():
        at, kind = FIELDS[name]
        struct.pack_into("<" + kind, data, position + at, value)
    struct.pack_into("<Q", data, position + 48, xxhash.xxh3_64_intdigest(bytes(data[body_of(data, position)])))
    struct.pack_into("<Q", data, position + 56, xxhash.xxh3_64_intdigest(bytes(data[position : position + 56]), salt))


def test_the_hashes_that_these_tests_forge_are_those_of_the_engine(small, large):
    for whole in (small, large):
        for name in whole.files:
            data = bytearray((whole.path / name).read_bytes())
            before = bytes(data)
            assert struct.unpack_from("<Q", data, 88)[0] == xxhash.xxh3_64_intdigest(bytes(data[:88]))
            (salt,) = struct.unpack_from("<Q", data, 24)
            for mark in (512, 1024):
                (seal,) = struct.unpack_from("<Q", data, mark + 56)
                assert seal in (0, xxhash.xxh3_64_intdigest(bytes(data[mark : mark + 56]), salt))
            for base, position, end, _, _ in whole.frames:
                if name == f"{base:020}.log":
                    reseal(data, position)
                    body = body_of(data, position)
                    assert end == -(-body.stop // 8) * 8
            assert data == before


@pytest.mark.parametrize("change", [{"flags": 256}, {"flags": 32768 | 32}, {"codec": 3}, {"codec": 255}], ids=str)
@pytest.mark.parametrize("segment", [0, 2])
def test_a_frame_of_a_newer_kind_is_refused_as_such_and_nothing_is_changed(large, memory, change, segment):
    mine = [frame for frame in large.frames if frame[0] == large.bases[segment]]
    _, position, _, first, following = mine[len(mine) // 2]

    def look(reboot):
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            path = large.copy(Path(folder) / "log", reboot)
            edit(path, large.files[segment], lambda data: reseal(data, position, **change))
            before = (path / large.files[segment]).read_bytes()
            try:
                log = Log(path, segment_bytes=SMALL)
            except UnsupportedFormat:
                if not (reboot and large.end == "killed" and segment == 2):
                    yield "opening refused what only a read of that frame must refuse"
            else:
                for offset, record in large.records.items():
                    try:
                        if fields(log.record(offset)) != record:
                            yield f"{offset} is wrong"
                    except UnsupportedFormat:
                        if offset < first:  # behind it nobody knows the offsets
                            yield f"{offset} is refused"
                    else:
                        if first <= offset < following:
                            yield f"{offset} is read"
                try:
                    list(log.records())
                    yield "reading over it told nothing"
                except UnsupportedFormat as error:
                    if "newer seglog" not in str(error):
                        yield f"{error} does not say what to do"
                log.close()
            if (path / large.files[segment]).read_bytes()[PAGE:] != before[PAGE:]:
                yield "bytes were changed"

    assert in_children([False, True], look) == []


def harmless(path, segment_bytes=SMALL):
    """Every verb, over bytes that mean nonsense: errors of the tree, and no other end."""
    try:
        log = Log(path, segment_bytes=segment_bytes)
    except SeglogError:
        return

    def read(batch):
        assert (
            len(list(batch)) == len(batch.values.tolist()) == len(batch.offsets) == len(batch.timestamps) == len(batch)
        )
        assert len(batch.values.starts) == len(batch.values.ends) == len(batch)
        assert batch.keys is None or len(batch.keys.tolist()) == len(batch)
        for record in batch:
            with contextlib.suppress(ValueError):  # headers that are no headers
                _ = (record.value, record.key, record.headers)

    at = log.first_offset
    for _ in range(10_000):
        try:
            batch = log.read(at, max_records=50)
        except UnsupportedFormat:
            break
        except CorruptStore as error:
            if error.resume_offset <= at:
                raise RuntimeError("no way forward") from error
            at = error.resume_offset
            continue
        except OffsetOutOfRange:
            break
        if batch is None:
            break
        read(batch)
        if batch.next_offset <= at:
            raise RuntimeError("no way forward")
        at = batch.next_offset
    for verb in (
        log.verify,
        lambda: log.offset_for_time(10**5),
        lambda: log.record(log.first_offset + 50),
        lambda: log.append(b"x"),
        lambda: log.append_many([b"y"] * 100),
        log.sync,
        lambda: log.trim(min(log.next_offset, 100)),
        log.close,
    ):
        with contextlib.suppress(SeglogError):
            verb()


def ends_of_columns(n, flags):
    """Where in a body each column of a frame ends."""
    offsets, bitmap = -(-(4 * n + 4) // 8) * 8, -(-n // 64) * 8
    sizes = [(flags & 1, 8 * n), (flags & 2, -(-n // 2) * 8), (flags & 4, offsets), (flags & 8, bitmap), (flags & 16, offsets),
             (not flags & 32, offsets), (flags & 64, bitmap)]  # fmt: skip
    return itertools.accumulate(size for there, size in sizes if there)


def nonsense(whole, memory, case):
    """One frame of a segment, with right hashes and wrong columns, wrong fields, or both."""
    seed, reboot = case
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        path = whole.copy(Path(folder) / "log", reboot)
        segment = rng.randrange(3)
        _, position, _, _, _ = rng.choice([frame for frame in whole.frames if frame[0] == whole.bases[segment]])

        def change(data):
            n, flags = struct.unpack_from("<IH", data, position + 16)
            body = bytearray(data[body_of(data, position)])
            changes, style = {}, rng.choice(["columns", "flags", "fields", "both"])
            if style == "flags":
                changes["flags"] = rng.randrange(128)
            elif style != "columns":
                for name in rng.sample(sorted(FIELDS), rng.randrange(1, 4)):
                    bits = struct.calcsize("<" + FIELDS[name][1]) * 8 - (FIELDS[name][1] == "q")
                    changes[name] = rng.choice(
                        [0, 1, 2, 1 << bits - 1, (1 << bits) - 1, rng.randrange(1 << bits), rng.randrange(128)]
                    )
            for _ in range(rng.randrange(1, 3) if style in ("columns", "both") else 0):
                places = [
                    end - back for end in ends_of_columns(n, flags) for back in (4, 8) if back <= end <= len(body)
                ]
                if len(body) >= 4:
                    places += [rng.randrange(0, min(len(body) - 3, 300)) & ~3 for _ in range(1 + len(places) // 2)]
                    number = rng.choice(
                        [0, 1, 2**31 - 1, 2**32 - 1, 2**31, len(body), len(body) + 1, rng.randrange(2**32)]
                    )
                    struct.pack_into("<I", body, rng.choice(places), number)
            reseal(data, position, bytes(body), **changes)

        edit(path, whole.files[segment], change)
        harmless(path)
    return []


def test_frames_with_a_right_hash_and_nonsense_in_them_do_no_harm(small, large, memory, rng):
    """A hash proves that bytes were written, not that whoever wrote them was sane: nothing may be followed out of the frame."""
    for whole in (small, large):
        seeds = rng.sample(range(10**9), 20_000 if LONG else 120)
        bad = in_children(zip(seeds, itertools.cycle((False, True))), functools.partial(nonsense, whole, memory))
        assert bad == [], f"{len(bad)} cases, the first of them: {bad[0]}"


def test_marks_with_a_right_hash_and_nonsense_in_them_do_no_harm(large, memory, rng):
    def look(case):
        seed, reboot = case
        mine = random.Random(seed)
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            path = large.copy(Path(folder) / "log", reboot)

            def change(data):
                (salt,) = struct.unpack_from("<Q", data, 24)
                at = mine.choice([512, 1024])
                values = [
                    mine.choice([0, 1, 7, 8, 4096, 4097, 65_536, 2**31, 2**62, -1, -(2**63), mine.randrange(70_000)])
                    for _ in range(5)
                ]
                struct.pack_into(
                    "<Q5qII",
                    data,
                    at,
                    mine.choice([1, 5, 2**64 - 1]),
                    *values,
                    mine.randrange(16),
                    mine.randrange(2**32),
                )
                struct.pack_into("<Q", data, at + 56, xxhash.xxh3_64_intdigest(bytes(data[at : at + 56]), salt))

            edit(path, large.files[mine.randrange(3)], change)
            harmless(path)
        return []

    cases = list(zip(rng.sample(range(10**9), 5000 if LONG else 60), itertools.cycle((True, True, False))))
    bad = in_children(cases, look)
    assert bad == [], f"{len(bad)} cases, the first of them: {bad[0]}"


def test_segment_headers_with_a_right_hash_and_nonsense_in_them_do_no_harm(large, memory, rng):
    def look(case):
        seed, reboot = case
        mine = random.Random(seed)
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            path = large.copy(Path(folder) / "log", reboot)

            def change(data):
                for name in mine.sample([8, 12, 16, 24, 32, 40, 48, 56, 60, 64, 72, 80], mine.randrange(1, 4)):
                    kind = "<I" if name in (8, 12, 56, 60) else "<q"
                    top = 2**32 - 1 if kind == "<I" else 2**63 - 1
                    number = mine.choice([0, 1, 8, 4096, 65_535, 65_536, 2**31, top, mine.randrange(top)])
                    struct.pack_into(kind, data, name, number if kind == "<I" or mine.random() < 0.8 else -number)
                struct.pack_into("<Q", data, 88, xxhash.xxh3_64_intdigest(bytes(data[:88])))
                data[2048 : 2048 + 96] = data[:96]

            edit(path, large.files[mine.randrange(3)], change)
            harmless(path)
        return []

    cases = list(zip(rng.sample(range(10**9), 5000 if LONG else 60), itertools.cycle((True, True, False))))
    bad = in_children(cases, look)
    assert bad == [], f"{len(bad)} cases, the first of them: {bad[0]}"
