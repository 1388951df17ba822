"""Recovery: what a sync covered survives a power cut; no offset comes back; old bytes never become records; damage is told.

A "reboot" here is the same machine with the transient files gone, or with another boot id. A "power cut" is a reboot in which
every page that no sync covered is independently the old one or the new one.
"""

import functools
import os
import shutil
import struct
import subprocess
import sys
import textwrap

import pytest
import xxhash

from seglog.engine import liveness
from seglog.engine.errors import CorruptStore, OffsetOutOfRange, PartitionFailed, UnsupportedFormat
from seglog.engine.log import Log
from seglog.engine.segment import describe_segment

SMALL = 65_536
PAGE = 4096
FRAMES = 4096  # where the frames of a segment begin
MARKS = (512, 1024)


@pytest.fixture(params=["map", "pwrite"])
def write(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def opened(path, write):
    return functools.partial(Log, path, write=write, segment_bytes=SMALL)


def reboot(path):
    for name in ("shm", "tail.shm"):
        (path / name).unlink()


def segments(path):
    return sorted(path.glob("*.log"))


def contents(path):
    return {file.name: file.read_bytes() for file in segments(path)}


def values(log, start=-1):
    return [record.value for record in log.records(start)]


def write_at(file, position, data):
    with open(file, "r+b") as f:
        f.seek(position)
        f.write(data)


def kept(log):
    """{offset: value} of everything readable, going on at `resume_offset` where something is not."""
    found, at = {}, log.first_offset
    while True:
        try:
            batch = log.read(at)
        except CorruptStore as error:
            at = max(error.resume_offset, at + 1)
            continue
        if batch is None:
            return found
        found.update((record.offset, record.value) for record in batch)
        at = batch.next_offset


# -- ends that lose nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["interval", "always"])
def test_a_reboot_after_a_clean_close_changes_nothing(opened, path, fsync):
    model = []
    for _ in range(4):
        with opened(fsync=fsync) as log:
            assert (log.next_offset, log.durable_offset, log.epoch, log.losses) == (len(model), len(model), 1, ())
            assert values(log) == model
            for i in range(60):
                model.append(b"%d" % i + bytes(1000))
                assert log.append(model[-1]) == len(model) - 1
        files = contents(path)
        reboot(path)
        Log(path).close()
        assert contents(path) == files
        reboot(path)


def test_a_log_that_nobody_wrote_to_stays_as_it_is(opened, path):
    for _ in range(5):
        opened().close()
        reboot(path)
    with opened() as log:
        assert (log.first_offset, log.next_offset, log.epoch, log.losses) == (0, 0, 1, ())
    assert len(segments(path)) == 1


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
def test_a_killed_process_costs_nothing_and_starts_no_recovery(opened, fsync):
    log = opened(fsync=fsync)
    for i in range(100):
        log.append(b"%d" % i + bytes(1500))
    del log
    with opened(fsync=fsync) as log:
        assert (log.next_offset, log.epoch, log.losses) == (100, 1, ())
        assert log.append(b"next") == 100
        assert len(values(log)) == 101


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
def test_a_reboot_of_a_machine_that_wrote_everything_back_loses_nothing(opened, path, fsync):
    log = opened(fsync=fsync)
    for i in range(100):
        log.append(b"%d" % i + bytes(1500))
    del log
    reboot(path)
    with opened(fsync=fsync) as log:
        assert [v[:2] for v in values(log)] == [b"%d" % i if i > 9 else b"%d\0" % i for i in range(100)]
        assert log.next_offset >= 100
        assert [loss for loss in log.losses if loss.kind != "torn"] == []
        assert log.verify() == []


def test_the_boot_id_decides(opened, path, monkeypatch):
    log = opened()
    log.append(b"a")
    del log
    monkeypatch.setattr(liveness, "boot_id", lambda: "the next boot")
    with opened() as log:
        assert log.epoch == 2
        assert values(log) == [b"a"]
        assert log.append(b"b") > 0
    with opened() as log:
        assert log.epoch == 2
        assert values(log) == [b"a", b"b"]


def test_a_copied_directory_is_a_log_of_its_own(opened, path, tmp_path):
    """Its shared memory says things about another file."""
    log = opened()
    log.append_many([bytes(1000)] * 100)
    shutil.copytree(path, tmp_path / "copy")
    log.append(b"only here")
    with Log(tmp_path / "copy") as copy:
        assert len(values(copy)) == 100
        copy.append(b"only there")
    assert values(log)[100:] == [b"only here"]
    log.close()
    with Log(tmp_path / "copy") as copy:
        assert values(copy)[100:] == [b"only there"]


def test_a_log_moved_to_another_place_goes_on_there(opened, path, tmp_path):
    with opened() as log:
        log.append(b"a")
    path.rename(tmp_path / "moved")
    with Log(tmp_path / "moved") as log:
        assert log.append(b"b") == 1
        assert (values(log), log.epoch) == ([b"a", b"b"], 1)


# -- torn tails ----------------------------------------------------------------------------------------------------


@pytest.fixture
def torn(opened, path):
    """After records 0..9 synced twice and 10..19 not at all: (path, the end of the synced part, the end of it all)."""
    log = opened(fsync="interval")
    for i in range(10):
        log.append(b"%02d" % i + bytes(100))
    log.sync()
    durable = log.statistics()["tail_position"]
    log.append(b"10" + bytes(100))
    log.sync()  # the mark lags by one sync: this one writes the end of the one before
    for i in range(11, 20):
        log.append(b"%02d" % i + bytes(100))
    end = log.statistics()["tail_position"]
    del log
    reboot(path)
    return durable, end


def test_a_tail_is_cut_at_its_first_unsound_frame_and_the_loss_is_told(opened, path, torn, rng):
    durable, end = torn
    size = (end - durable) // 10
    for hit in range(1, 10):
        shutil.copytree(path, path.with_name(f"copy{hit}"))
    for hit in range(1, 10):
        copy = path.with_name(f"copy{hit}")
        at = durable + hit * size
        write_at(segments(copy)[0], at + rng.randrange(size - 8), rng.randbytes(8))
        with Log(copy) as log:
            assert [int(v[:2]) for v in values(log)] == list(range(10 + hit))
            (loss,) = log.losses
            assert (loss.kind, loss.position, loss.start, loss.stop) == ("torn", at, 10 + hit, -1)
            assert loss.path == str(segments(copy)[0])
            assert log.epoch == 2


def test_an_offset_that_was_lost_is_not_given_out_again(opened, path, torn):
    durable, _ = torn
    write_at(segments(path)[0], durable, bytes(SMALL - durable))
    with opened() as log:
        assert [int(v[:2]) for v in values(log)] == list(range(10))
        assert log.append(b"new") >= 20
        offset = log.next_offset - 1
        assert log.record(offset).value == b"new"
        assert [r.offset for r in log.records()] == [*range(10), offset]
    reboot(path)
    with opened() as log:
        assert [r.offset for r in log.records()] == [*range(10), offset]


def test_reading_from_an_offset_that_was_never_given_out_goes_on_behind_it(opened, path, torn):
    durable, _ = torn
    write_at(segments(path)[0], durable, bytes(SMALL - durable))
    with opened() as log:
        new = log.append(b"new")
        for offset in range(10, new + 1):
            assert log.read(offset).first_offset == new
        assert log.read(5).next_offset == 10
        assert log.offset_for_time(0) == 0
        for offset in (10, new - 1):
            with pytest.raises(OffsetOutOfRange):
                log.record(offset)
        assert log.trim(new - 1) == new - 1
        assert [r.offset for r in log.records()] == [new]


def test_old_bytes_behind_a_cut_are_gone_and_stay_gone(opened, path, torn):
    """New records of the same length over the hole must not bring back what lay behind it."""
    durable, end = torn
    size = (end - durable) // 10
    write_at(segments(path)[0], durable + 3 * size, bytes(size))  # 13 is lost; 14..19 lie behind it, whole
    for _ in range(3):
        with opened(fsync="interval") as log:
            assert [int(v[:2]) for v in values(log) if v[:2] != b"xx"] == list(range(13))
            log.append(b"xx" + bytes(100))
            log.sync()
        assert segments(path)[0].read_bytes()[durable + 3 * size :].strip(b"\0") == b""
        reboot(path)


def test_recovery_can_be_repeated_and_finds_the_same(opened, path, torn):
    durable, _ = torn
    write_at(segments(path)[0], durable + 300, b"damage")
    with opened() as log:
        first = (values(log), log.next_offset)
    for _ in range(4):
        reboot(path)
        with opened() as log:
            assert (values(log), log.next_offset) == first
            assert log.verify() == []


def test_without_any_mark_whatever_the_disk_kept_is_kept(opened, path):
    """fsync="never" promised nothing, so nothing that is whole is thrown away."""
    log = opened(fsync="never")
    for i in range(100):
        log.append(b"%02d" % i + bytes(100))
    del log
    reboot(path)
    size = 64 + 104
    for hit in (20, 50, 51):
        write_at(segments(path)[0], FRAMES + hit * size + 30, b"damage")
    with opened(fsync="never") as log:
        assert sorted(int(v[:2]) for v in kept(log).values()) == [i for i in range(100) if i not in (20, 50, 51)]
        assert log.append(b"new") >= 100
        assert {loss.kind for loss in log.losses} == {"torn"}


# -- power cuts ----------------------------------------------------------------------------------------------------


def power_cut(rng, old, new, target):
    """Each page of each file from `old` or from `new`, but for the first page of a file that is new: that one was synced."""
    target.mkdir()
    for file, data in new.items():
        before = old.get(file, data[:PAGE]).ljust(len(data), b"\0")
        pages = [data[:PAGE] if file not in old else rng.choice([data, before])[:PAGE]]
        style = rng.choice(["all", "none", "any", "prefix", "suffix"])
        cut = rng.randrange(len(data) // PAGE + 1)
        for n, at in enumerate(range(PAGE, len(data), PAGE), 1):
            fresh = {"all": True, "none": False, "any": rng.random() < 0.5, "prefix": n < cut, "suffix": n >= cut}[
                style
            ]
            pages.append((data if fresh else before)[at : at + PAGE])
        (target / file).write_bytes(b"".join(pages))


@pytest.mark.parametrize("fsync", ["interval", "always", "never"])
def test_after_a_power_cut_everything_durable_is_there_and_nothing_is_wrong(tmp_path, write, rng, fsync):
    """Many images, each from another moment; SEGLOG_LONG=1 makes ten times as many."""
    for round in range(400 if os.environ.get("SEGLOG_LONG") else 40):
        path, cut = tmp_path / f"log{round}", tmp_path / f"cut{round}"
        log = Log(path, write=write, segment_bytes=SMALL, fsync=fsync)
        log.append(b"first")  # takes the clean mark back, with a sync of its own
        given, old, durable, base = {0: b"first"}, contents(path), 0, 0
        for _ in range(rng.randrange(1, 60 if fsync != "always" else 15)):
            if rng.random() < 0.15:
                durable, old = log.sync(), contents(path)
            elif rng.random() < 0.5:
                value = rng.randbytes(rng.choice([0, 50, 50, 50, 1000, 5000, 40_000]))
                given[log.append(value)] = value
            else:
                chunk = [rng.randbytes(50) for _ in range(rng.randrange(1, 30))]
                (span,) = log.append_many(chunk)
                given.update(zip(range(span.start, span.stop), chunk))
            if fsync == "always":
                durable, old = log.durable_offset, contents(path)
            elif fsync == "interval" and log.statistics()["active_base"] != base:
                base = log.statistics()["active_base"]  # what a roll leaves behind it has synced
                durable = log.durable_offset
                old = {name: data for name, data in contents(path).items() if int(name[:20]) < base}
        assert durable <= log.durable_offset
        power_cut(rng, old, contents(path), cut)
        log.close()
        with Log(cut, write=write, segment_bytes=SMALL, fsync=fsync) as log:
            found = kept(log)
            assert [o for o, v in found.items() if given.get(o) != v] == [], "a record that nobody wrote"
            assert [o for o in range(durable) if o not in found] == [], "a durable record is gone"
            if fsync != "never":
                assert list(found) == list(range(len(found))), "a hole"
            new = log.append(b"new")
            assert new > max(given), "an offset came back"
        reboot(cut)
        with Log(cut, write=write, segment_bytes=SMALL, fsync=fsync) as log:
            assert kept(log) == found | {new: b"new"}, "the second recovery found something else"
        shutil.rmtree(path)
        shutil.rmtree(cut)


def test_a_recovery_that_is_cut_short_can_be_begun_again(tmp_path, write, rng):
    """By another power cut, which mixes the pages from before the recovery with those after it."""
    for round in range(200 if os.environ.get("SEGLOG_LONG") else 20):
        path = tmp_path / f"log{round}"
        log = Log(path, write=write, segment_bytes=1 << 20, segment_bytes_min=1 << 20)
        log.append(b"first")
        given = {0: b"first"}
        for _ in range(3):
            for _ in range(rng.randrange(10)):
                value = rng.randbytes(rng.choice([50, 50, 3000]))
                given[log.append(value)] = value
            durable = log.sync()
        old = contents(path)
        for _ in range(rng.randrange(10)):
            value = rng.randbytes(rng.choice([50, 50, 3000]))
            given[log.append(value)] = value
        highest, image = log.next_offset, contents(path)
        log.close()
        for step in range(4):
            cut = tmp_path / f"cut{round}.{step}"
            power_cut(rng, old, image, cut)
            old = contents(cut)
            with Log(cut, write=write, segment_bytes=SMALL) as log:
                found = kept(log)
                assert [o for o, v in found.items() if given.get(o) != v] == []
                assert list(found)[:durable] == list(range(durable))
                assert log.next_offset >= highest
            image = contents(cut)


# -- marks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1, "both"])
def test_a_damaged_mark_costs_nothing_that_is_whole(opened, path, which, rng):
    log = opened()
    for i in range(50):
        log.append(b"%d" % i)
        if i % 10 == 5:
            log.sync()
    log.close()
    for mark in MARKS if which == "both" else [MARKS[which]]:
        write_at(segments(path)[0], mark, rng.randbytes(64))
    reboot(path)
    with opened() as log:
        assert values(log) == [b"%d" % i for i in range(50)]
        assert log.append(b"next") >= 50


def test_trim_survives_a_power_cut(opened, path):
    with opened() as log:
        log.append_many([bytes(500)] * 300)
    log = opened()
    log.trim(170)
    del log
    reboot(path)
    with opened() as log:
        assert log.first_offset == 170
        assert [r.offset for r in log.records()] == list(range(170, 300))


def test_everything_trimmed_stays_trimmed_and_offsets_go_on(opened, path):
    with opened() as log:
        log.append_many([bytes(500)] * 300)
        log.trim(300)
    for _ in range(3):
        reboot(path)
        with opened() as log:
            assert log.first_offset == log.next_offset == 300
            assert list(log.records()) == []
    reboot(path)
    with opened() as log:
        assert log.append(b"a") == 300


# -- newer formats -------------------------------------------------------------------------------------------------


def reseal_segment(file, **changes):
    """Changes fields of both copies of the header, and gives each the right hash again."""
    fields = {"version": 8, "flags": 60}
    for copy in (0, 2048):
        with open(file, "r+b") as f:
            f.seek(copy)
            header = bytearray(f.read(96))
            assert struct.unpack_from("<Q", header, 88)[0] == xxhash.xxh3_64_intdigest(bytes(header[:88]))
            for name, value in changes.items():
                struct.pack_into("<I", header, fields[name], value)
            struct.pack_into("<Q", header, 88, xxhash.xxh3_64_intdigest(bytes(header[:88])))
            f.seek(copy)
            f.write(header)


@pytest.mark.parametrize("change", [{"version": 2}, {"version": 2**32 - 1}, {"flags": 2}, {"flags": 2**31}])
@pytest.mark.parametrize("boot", ["same", "next"])
def test_a_segment_of_a_newer_version_is_refused_and_nothing_is_changed(opened, path, change, boot):
    with opened() as log:
        log.append(b"a")
    reseal_segment(segments(path)[0], **change)
    if boot == "next":
        reboot(path)
    before = contents(path)
    with pytest.raises(UnsupportedFormat) as caught, opened() as log:
        log.read(0)
    assert "newer seglog" in str(caught.value)
    assert contents(path) == before


# -- a sync that fails ---------------------------------------------------------------------------------------------

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
/* fdatasync fails while the file named by FAIL_SYNC exists */
int fdatasync(int fd) {
    static int (*real)(int);
    const char *name = getenv("FAIL_SYNC");
    if (name && access(name, F_OK) == 0) { errno = EIO; return -1; }
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return real(fd);
}
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    """A library that lets syncs fail on demand."""
    if sys.platform != "linux" or not shutil.which("cc"):
        pytest.skip("needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", str(folder / "shim.so"), str(folder / "shim.c"), "-ldl"], check=True
    )
    return folder / "shim.so"


def with_failing_syncs(shim, tmp_path, program, *arguments):
    """Runs `program`, in which `fail(True)` makes every later fdatasync fail."""
    prelude = textwrap.dedent("""
        import os, sys, pathlib
        from seglog.engine.errors import PartitionFailed
        from seglog.engine.log import Log
        def fail(on):
            file = pathlib.Path(os.environ["FAIL_SYNC"])
            file.touch() if on else file.unlink()
        def failed(verb):
            try:
                verb()
            except PartitionFailed as error:
                return error
            raise AssertionError("no PartitionFailed")
    """)
    preload = f"{os.environ.get('LD_PRELOAD', '')} {shim}".strip()
    environment = os.environ | {"LD_PRELOAD": preload, "FAIL_SYNC": str(tmp_path / "fail")}
    run = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(program), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("where", ["sync", "append", "roll", "close", "upkeep"])
def test_a_failed_sync_is_final_for_every_handle_until_the_log_is_opened_again(shim, tmp_path, write, where):
    with_failing_syncs(
        shim,
        tmp_path,
        """
        path, write, where = sys.argv[1:]
        log = Log(path, write=write, segment_bytes=65536, fsync="always" if where == "append" else "interval")
        other = Log(path, write=write, segment_bytes=65536)
        for i in range(20):
            log.append(b"%d" % i)
        other.append(b"20")
        log.sync()
        if where != "append":
            log.append(b"21")
        fail(True)
        verb = {"sync": log.sync, "append": lambda: log.append(b"21"), "close": log.close, "upkeep": log.upkeep,
                "roll": lambda: log.append(bytes(62000))}[where]
        error = failed(verb)
        assert (error.errno, error.durable_offset) == (5, 21), error
        for handle in (log, other):
            if handle.closed:
                continue
            failed(lambda: handle.append(b"no"))
            failed(lambda: handle.append_many([b"no"]))
            failed(handle.sync)
            assert [r.value for r in handle.records()][:21] == [b"%d" % i for i in range(21)]
            assert handle.wait(22, 5) is False
        fail(False)
        if not other.closed:
            failed(lambda: other.append(b"still no"))
        for handle in (log, other):
            handle.close()
        with Log(path, write=write, segment_bytes=65536) as again:
            read = [r.value for r in again.records()]
            assert read[:21] == [b"%d" % i for i in range(21)], read
            assert read[21:] in ([], [b"21"]), read
            assert again.epoch == 2
            assert again.append(b"new") >= 22
            again.sync()
        with Log(path, write=write) as again:
            assert again.epoch == 2
            assert again.verify() == []
        """,
        tmp_path / "log",
        write,
        where,
    )


def test_a_handle_from_before_the_repair_takes_no_append(shim, tmp_path, write):
    with_failing_syncs(
        shim,
        tmp_path,
        """
        path, write = sys.argv[1:]
        old = Log(path, write=write)
        old.append(b"a")
        fail(True)
        failed(old.sync)
        fail(False)
        new = Log(path, write=write)
        new.append(b"b")
        for _ in range(3):
            failed(lambda: old.append(b"c"))
            failed(old.sync)
            failed(lambda: old.trim(1))
            new.append(b"d")
        old.close()
        assert [r.value for r in new.records()] == [b"a", b"b", b"d", b"d", b"d"]
        new.close()
        """,
        tmp_path / "log",
        write,
    )


def test_a_failed_sync_is_a_clear_error():
    error = PartitionFailed("text", path="p", durable_offset=3)
    assert isinstance(error, OSError)
    assert (error.errno, error.durable_offset) == (5, 3)


def test_with_always_the_mark_is_at_most_256_kib_behind_and_not_written_at_each_sync(tmp_path):
    path = str(tmp_path / "log")

    def newest():
        (file,) = segments(tmp_path / "log")
        return max((mark for mark in describe_segment(str(file))["marks"] if mark), key=lambda mark: mark["sequence"])

    with Log(path, fsync="always", segment_bytes=1 << 21) as log:
        log.append(b"the first")
        before = newest()["sequence"]
        for count in range(1, 101):
            log.append(b"x" * 10_000)
            stored = 4096 + 64 + 16 + count * (64 + 10_000)
            assert stored - newest()["durable_position"] <= (256 << 10) + 2 * (64 + 10_000)
        assert 2 <= newest()["sequence"] - before <= 5, "a second place to write to makes each sync longer"
    # What a cut leaves of an "always" log is judged by crash/power; here: a reboot begins at the mark, and finds the rest.
    reboot(tmp_path / "log")
    with Log(path, fsync="always", segment_bytes=1 << 21) as log:
        assert [len(value) for value in values(log)] == [9] + [10_000] * 100
