"""Whatever is given, the engine answers with a clear error: nothing written, nothing lost, no crash, no hang.

What concerns one noun alone stands in that noun's file; here is what concerns them all.
"""

import contextlib
import os
import subprocess
import sys
from datetime import datetime

import numpy as np
import pytest

from seglog.engine import batch, checksum, frame, index, liveness, log, mapping, partitions, record, segment, shared
from seglog.engine.errors import OffsetOutOfRange, ReadOnlyStore, RecordTooLarge, SeglogError, StoreIOError
from seglog.engine.log import Log

SMALL = 65_536


@pytest.fixture(params=["map", "pwrite"])
def filled(request, tmp_path):
    """A log with records 2..4 of 0..4."""
    with Log(tmp_path / "log", write=request.param, segment_bytes=SMALL, record_bytes_max=1000, fsync="never") as log:
        log.append_many([b"0", b"1", b"2", b"3", b"4"])
        log.trim(2)
        yield log
        assert [r.value for r in log.records()] == [b"2", b"3", b"4"]


TOO_BIG = b"x" * 1001
WRONG = [
    ("append", ("text",), {}, TypeError),
    ("append", (7,), {}, TypeError),
    ("append", ([b"v"],), {}, TypeError),
    ("append", (object(),), {}, TypeError),
    ("append", (b"v", "text"), {}, TypeError),
    ("append", (b"v", 7), {}, TypeError),
    ("append", (b"v", None, "text"), {}, TypeError),
    ("append", (b"v", None, [("a", b"1")]), {}, TypeError),
    ("append", (b"v", None, {b"a": b"1"}), {}, TypeError),
    ("append", (b"v", None, {"a": "1"}), {}, TypeError),
    ("append", (b"v", None, {"a": 1}), {}, TypeError),
    ("append", (b"v", None, {"a" * 65_536: b"1"}), {}, ValueError),
    ("append", (b"v", None, {"\ud800": b"1"}), {}, ValueError),
    ("append", (b"v", None, None, "now"), {}, TypeError),
    ("append", (b"v", None, None, 1.5), {}, TypeError),
    ("append", (b"v", None, None, True), {}, TypeError),
    ("append", (b"v", None, None, [1]), {}, TypeError),
    ("append", (b"v", None, None, np.float64(1)), {}, TypeError),
    ("append", (b"v", None, None, datetime(2024, 1, 1)), {}, ValueError),
    ("append", (b"v", None, None, 2**63), {}, (OverflowError, ValueError)),
    ("append", (b"v", None, None, -(2**63) - 1), {}, (OverflowError, ValueError)),
    ("append", (), {}, TypeError),
    ("append", (b"v",), {"partition": 1}, TypeError),
    ("append", (TOO_BIG,), {}, RecordTooLarge),
    ("append", (b"", TOO_BIG), {}, RecordTooLarge),
    ("append", (b"", None, {"h": TOO_BIG}), {}, RecordTooLarge),
    ("append_many", (None,), {}, TypeError),
    ("append_many", (7,), {}, TypeError),
    ("append_many", ("text",), {}, TypeError),
    ("append_many", (b"bytes",), {}, TypeError),
    ("append_many", ([b"v", "text"],), {}, TypeError),
    ("append_many", ([b"v", 7],), {}, TypeError),
    ("append_many", ([b"v"], ["text"]), {}, TypeError),
    ("append_many", ([b"v"], b"k"), {}, TypeError),
    ("append_many", ([b"v"], [b"k", b"k"]), {}, ValueError),
    ("append_many", ([b"v"], []), {}, ValueError),
    ("append_many", ([], [b"k"]), {}, ValueError),
    ("append_many", ([b"v"], None, {"h": b"1"}), {}, TypeError),
    ("append_many", ([b"v"], None, 7), {}, TypeError),
    ("append_many", ([b"v"], None, ["text"]), {}, TypeError),
    ("append_many", ([b"v"], None, [[("a", b"1")]]), {}, TypeError),
    ("append_many", ([b"v"], None, [{"a": 5}]), {}, TypeError),
    ("append_many", ([b"v"], None, [None, None]), {}, ValueError),
    ("append_many", ([b"v"], None, None, 5), {}, TypeError),
    ("append_many", ([b"v"], None, None, "5"), {}, TypeError),
    ("append_many", ([b"v"], None, None, [1.5]), {}, TypeError),
    ("append_many", ([b"v"], None, None, [None]), {}, TypeError),
    ("append_many", ([b"v"], None, None, [datetime(2024, 1, 1)]), {}, ValueError),
    ("append_many", ([b"v"], None, None, [2**63]), {}, (OverflowError, ValueError)),
    ("append_many", ([b"v"], None, None, [1, 2]), {}, ValueError),
    ("append_many", ([b"v"], None, None, np.array([1], "timedelta64[us]")), {}, (TypeError, ValueError)),
    ("append_many", ([b"v", TOO_BIG],), {}, RecordTooLarge),
    ("append_many", (np.zeros((4, 4), "u1")[:, ::2],), {}, (BufferError, ValueError)),
    ("append_many", (np.zeros((2, 1001), "u1"),), {}, RecordTooLarge),
    ("read", ("0",), {}, TypeError),
    ("read", (None,), {}, TypeError),
    ("read", (2, "1"), {}, TypeError),
    ("read", (2, 0), {}, ValueError),
    ("read", (2, 1, 0), {}, ValueError),
    ("record", ("0",), {}, TypeError),
    ("record", (None,), {}, TypeError),
    ("trim", ("0",), {}, TypeError),
    ("trim", (None,), {}, TypeError),
    ("wait", ("0",), {}, TypeError),
    ("wait", (9, "1"), {}, TypeError),
    ("wait", (9, [1]), {}, TypeError),
    ("offset_for_time", ("now",), {}, TypeError),
    ("offset_for_time", (None,), {}, TypeError),
    ("offset_for_time", (1.5,), {}, TypeError),
    ("offset_for_time", (datetime(2024, 1, 1),), {}, ValueError),
]


@pytest.mark.parametrize(("verb", "arguments", "options", "error"), WRONG, ids=lambda x: repr(x)[:40])
def test_a_wrong_argument_is_an_error_and_nothing_is_written(filled, verb, arguments, options, error):
    with pytest.raises(error):
        getattr(filled, verb)(*arguments, **options)
    assert (filled.first_offset, filled.next_offset) == (2, 5)


@pytest.mark.parametrize("offset", [-(2**62), -1, 0, 1, 6, 2**40, 2**62])
def test_an_offset_outside_is_told_with_the_first_and_the_next(filled, offset):
    for verb in (filled.read, filled.record, filled.trim):
        if verb == filled.trim and offset in (0, 1):
            continue  # below the first: nothing to do
        with pytest.raises(OffsetOutOfRange) as caught:
            verb(offset)
        assert (caught.value.offset, caught.value.first, caught.value.next) == (offset, 2, 5)
        assert str(offset) in str(caught.value).replace(",", "")


@pytest.mark.parametrize("offset", [2**63, -(2**63) - 1, 2**64 + 3, -(2**100), 2**1000])
def test_an_offset_beyond_64_bits_is_out_of_range_as_any_other(filled, offset):
    for verb in (filled.read, filled.record, filled.trim):
        with pytest.raises((OffsetOutOfRange, OverflowError)):
            verb(offset)


@pytest.mark.parametrize("offset", [2.0, 2.5, 3.9, float("nan"), float("inf"), np.float64(3)])
def test_an_offset_is_not_a_float(filled, offset):
    for verb in (filled.read, filled.record, filled.trim):
        with pytest.raises(TypeError):
            verb(offset)
    assert filled.first_offset == 2


def test_an_offset_may_be_any_integer(filled):
    for offset in (np.int64(3), np.uint8(3), np.int32(3)):
        assert filled.record(offset).value == filled.read(offset)[0].value == b"3"


def test_a_timeout_of_any_size_is_taken_for_what_it_is(filled):
    assert filled.wait(9, 0) is filled.wait(9, -1) is filled.wait(9, -1e300) is filled.wait(9, float("-inf")) is False
    for forever in (1e9, 1e18, 1e300, float("inf")):
        assert filled.wait(4, forever) is True


@pytest.mark.parametrize("forever", [1e13, 1e18, 1e300, float("inf")])
def test_a_very_long_timeout_waits(tmp_path, forever):
    program = (
        f"import sys; from seglog.engine.log import Log; print(Log({str(tmp_path)!r}).wait(0, float('{forever}')))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=1.0)
    with Log(tmp_path) as log:
        log.append(b"a")
    assert process.communicate(timeout=20)[0] == "True\n"


def test_a_timeout_is_a_number(filled):
    with pytest.raises(ValueError, match="nan"):
        filled.wait(9, float("nan"))


# -- classes that are made by others -------------------------------------------------------------------------------

MODULES = [batch, checksum, frame, index, liveness, log, mapping, partitions, record, segment, shared]


def test_no_class_of_the_engine_can_be_made_to_crash_by_hand():
    """Each class, made with no argument, with junk, and by `__new__` alone; then each of its attributes is looked at and called."""
    program = """
import contextlib, faulthandler, importlib, inspect, sys
faulthandler.enable()
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    for cls in [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == name]:
        if issubclass(cls, BaseException):
            continue
        for make in (cls, lambda cls=cls: cls(None), lambda cls=cls: cls(b"x", b"y"), lambda cls=cls: cls.__new__(cls)):
            try:
                thing = make()
            except Exception:
                continue
            for attribute in dir(cls):
                if attribute in ("__class__", "__init_subclass__", "__subclasshook__"):
                    continue
                print(cls, attribute, flush=True)
                for use in (
                    lambda: getattr(thing, attribute),
                    lambda: getattr(thing, attribute)(),
                    lambda: getattr(thing, attribute)(0),
                    lambda: getattr(thing, attribute)(0, 0),
                    lambda: getattr(thing, attribute)(b"x"),
                    lambda: getattr(thing, attribute)(slice(0, 9)),
                ):
                    with contextlib.suppress(Exception):
                        use()
"""
    run = subprocess.run(
        [sys.executable, "-c", program, *(module.__name__ for module in MODULES)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stdout.splitlines()[-1] + "\n" + run.stderr[-2000:]


def test_every_error_of_the_engine_is_one_of_the_tree():
    import inspect

    from seglog.engine import errors

    for name in errors.__all__:
        cls = getattr(errors, name)
        assert inspect.isclass(cls)
        assert issubclass(cls, SeglogError)
        assert str(cls("the text", offset=5)) == "the text"
        assert cls("the text", offset=5).offset == 5


# -- places --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(path, *options):
    path.mkdir(exist_ok=True)
    run = subprocess.run(["mount", "-t", "tmpfs", *options, "none", str(path)], capture_output=True, text=True)
    if run.returncode:
        pytest.skip(f"cannot mount a tmpfs: {run.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


root = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a tmpfs, so needs root on Linux")


@root
def test_a_file_system_that_is_read_only_is_told_and_nothing_changes(tmp_path):
    with mounted(tmp_path / "disk") as disk:
        with Log(disk / "log", segment_bytes=SMALL) as log:
            log.append_many([bytes(1000)] * 100)
        del log
        (disk / "empty").mkdir()
        before = {p: p.read_bytes() for p in disk.rglob("*") if p.is_file()}
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for path in (disk / "log", disk / "empty", disk / "new", disk):
            with pytest.raises(ReadOnlyStore) as caught:
                Log(path)
            assert isinstance(caught.value, PermissionError)
            assert str(disk) in str(caught.value)
        assert {p: p.read_bytes() for p in disk.rglob("*") if p.is_file()} == before
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        with Log(disk / "log") as log:
            assert len(list(log.records())) == 100


@pytest.mark.skipif(sys.platform == "win32", reason="permissions as in POSIX")
def test_a_directory_without_permission_is_told(tmp_path):
    """As another user: root may do anything."""
    Log(tmp_path / "log").close()
    for p in [tmp_path, *tmp_path.rglob("*")]:
        p.chmod(0o555 if p.is_dir() else 0o444)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and len(parent.parts) > 2:
            parent.chmod(0o755)
    program = """
import os, sys
from seglog.engine.errors import ReadOnlyStore
from seglog.engine.log import Log
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
for path in sys.argv[1:]:
    try:
        Log(path)
    except ReadOnlyStore as error:
        print(error.path)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "log"), str(tmp_path / "new")], capture_output=True, text=True
    )
    for p in [tmp_path, *tmp_path.rglob("*")]:
        p.chmod(0o755 if p.is_dir() else 0o644)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="names as in POSIX")
@pytest.mark.parametrize("path", ["nul\0l", "n" * 300, "/dev/null/x", "/dev/null", "/proc/nothing"])
def test_a_path_that_cannot_be_is_told(path):
    with pytest.raises((SeglogError, ValueError, OSError)) as caught:
        Log(path)
    if "\0" not in path:
        assert isinstance(caught.value, SeglogError)


def test_a_path_of_another_type_is_a_type_error():
    for path in (None, 7, b"bytes", ["list"]):
        with pytest.raises(TypeError):
            Log(path)


def test_too_many_open_files_is_told_and_the_log_goes_on_afterwards(tmp_path):
    resource = pytest.importorskip("resource")
    program = """
import os, resource, sys
from seglog.engine.errors import StoreIOError
from seglog.engine.log import Log
log = Log(sys.argv[1], segment_bytes=65536)
log.append(b"first")
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) - 1, hard))
told = 0
for i in range(100):
    try:
        log.append(bytes(5000))
    except OSError as error:
        assert type(error) is StoreIOError, repr(error)
        told += 1
try:
    Log(sys.argv[2])
except OSError as error:
    assert type(error) is StoreIOError, repr(error)
    told += 1
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
n = log.next_offset
for i in range(100):
    log.append(bytes(5000))
assert [r.offset for r in log.records()] == list(range(n + 100))
assert log.verify() == []
log.close()
print(told, n)
"""
    assert resource
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "one"), str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    told, n = map(int, run.stdout.split())
    assert told > 50
    assert n < 20


@pytest.mark.parametrize("kind", ["directory", "random", "long"])
@pytest.mark.parametrize("name", ["shm", "tail.shm", "lock"])
def test_something_else_where_a_transient_file_should_be_is_told_or_made_again(tmp_path, rng, name, kind):
    with Log(tmp_path / "log") as log:
        log.append_many([b"a", b"b"])
    file = tmp_path / "log" / name
    file.unlink()
    if kind == "directory":
        file.mkdir()
        with pytest.raises(StoreIOError):
            Log(tmp_path / "log")
        file.rmdir()
    else:
        file.write_bytes(rng.randbytes(4096 if kind == "random" else 100_000))
    with Log(tmp_path / "log") as log:
        assert [r.value for r in log.records()] == [b"a", b"b"]
        log.append(b"c")
