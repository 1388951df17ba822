"""Topics that are compacted: by hand, by upkeep, while others read; and a real stream, the history of this very project."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import seglog

KIB64 = 65_536
ROOT = Path(__file__).parents[3]


@pytest.fixture
def clock():
    return seglog.ManualClock()


@pytest.fixture
def store(tmp_path, clock):
    with seglog.open(tmp_path / "data", clock=clock, upkeep=False, segment_bytes=KIB64) as store:
        yield store


def test_by_hand_all_there_is_takes_part(store):
    stock = store.topic("stock", compact=True, partitions=2)
    for n in range(100):
        stock.send(b"%d" % n, key=b"tea" if n % 2 else b"milk")
    said = stock.compact()
    assert said.finished
    assert said.records_removed == 98
    assert {(r.key, r.value) for r in stock.read()} == {(b"tea", b"99"), (b"milk", b"98")}
    assert stock.compact().records_removed == 0
    assert store.verify() == []


def test_one_partition_of_several(store):
    stock = store.topic("stock", compact=True, partitions=2)
    for partition in (0, 1):
        stock.send_many([b"1", b"2"], keys=[b"k", b"k"], partition=partition)
    assert stock.compact(1).records_removed == 1
    assert [r.value for r in stock.read(partition=0)] == [b"1", b"2"]


def test_history_is_not_rewritten_unless_the_topic_says_so(store):
    history = store.topic("history")
    history.send_many([b"1", b"2"], keys=[b"k", b"k"])
    with pytest.raises(seglog.ConfigError, match="compact=True"):
        history.compact()
    store.upkeep()
    assert len(list(history.read())) == 2


def test_upkeep_compacts_when_enough_is_new(store):
    stock = store.topic("stock", compact=True, compact_dirty_ratio=0.5)
    values = [b"x" * 500] * 1000
    stock.send_many(values, keys=[b"%d" % (n % 50) for n in range(1000)])
    store.upkeep()
    kept = len(list(stock.read()))
    assert kept < 300
    stock.logs[0].close_segment()
    store.upkeep()
    stock.send_many(values[:60], keys=[b"%d" % (n % 3) for n in range(60)])
    stock.logs[0].close_segment()
    before = len(list(stock.read()))
    store.upkeep()
    assert len(list(stock.read())) < before  # most of it was new


def test_upkeep_waits_while_little_is_new_and_no_longer_than_the_lag(store, clock):
    stock = store.topic("stock", compact=True, compact_dirty_ratio=0.9, compact_max_lag=3600)
    stock.send_many([b"x" * 500] * 2000, keys=[b"%d" % n for n in range(2000)])
    stock.compact()
    stock.send_many([b"y"] * 10, keys=[b"k"] * 10)
    stock.logs[0].close_segment()
    store.upkeep()
    assert len(list(stock.read())) == 2010
    clock.advance(3601)
    store.upkeep()
    assert len(list(stock.read())) == 2001


def test_a_deleted_value_is_gone_after_the_lag_and_its_tombstone_after_the_grace(store, clock):
    stock = store.topic("stock", compact=True, compact_max_lag=60, tombstone_grace=1000)
    stock.send(b"secret", key=b"k")
    stock.send(None, key=b"k")
    stock.send(b"v", key=b"other")
    clock.advance(61)
    store.upkeep()
    assert [(r.key, r.value) for r in stock.read()] == [(b"k", None), (b"other", b"v")]
    clock.advance(1000)
    stock.send(b"w", key=b"other")
    clock.advance(61)
    store.upkeep()
    assert [(r.key, r.value) for r in stock.read()] == [(b"other", b"w")]


def test_nothing_younger_than_the_lag_is_removed(store, clock):
    stock = store.topic("stock", compact=True, compact_min_lag=100)
    stock.send_many([b"1", b"2"], keys=[b"k", b"k"])
    assert stock.compact().records_removed == 0
    clock.advance(101)
    assert stock.compact().records_removed == 1


def test_the_last_few_of_a_key_can_stay(store):
    stock = store.topic("stock", compact=True, compact_keep=3)
    stock.send_many([b"%d" % n for n in range(10)], keys=[b"k"] * 10)
    stock.compact()
    assert [r.value for r in stock.read()] == [b"7", b"8", b"9"]


def test_consumers_go_on_where_they_were(store):
    stock = store.topic("stock", compact=True)
    stock.send_many([b"%d" % n for n in range(1000)], keys=[b"%d" % (n % 10) for n in range(1000)])
    with stock.consumer("g") as consumer:
        consumer.receive(max_records=500, timeout=0)
        consumer.commit()
        stock.compact()
        rest = []
        while batch := consumer.receive(timeout=0):
            rest += [record.offset for record in batch]
    assert rest == list(range(990, 1000))


def test_closing_the_store_ends_what_is_under_way(tmp_path, monkeypatch):
    monkeypatch.setattr("seglog.store.TIDY_INTERVAL", 0.001)
    with seglog.open(tmp_path / "data", segment_bytes=KIB64) as store:
        stock = store.topic("stock", compact=True)
        for _ in range(20):
            stock.send_many([b"x" * 100] * 2000, keys=[b"%d" % n for n in range(2000)])
    with seglog.open(tmp_path / "data", upkeep=False) as store:
        assert len({r.key for r in store.topic("stock").read()}) == 2000
        assert store.verify() == []


def test_threads_send_and_read_while_it_runs(store):
    stock = store.topic("stock", compact=True, segment_bytes=1 << 18)
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # four threads want the interpreter, and a lock is held over many waits for it
    sent, stop, wrong = {}, threading.Event(), []

    def send():
        n = 0
        while not stop.is_set():
            key, value = b"%d" % (n % 100), b"%d" % n
            stock.send_many([value] * 20, keys=[key] * 20)
            sent[key] = value
            n += 1

    def read():
        while not stop.is_set():
            last = -1
            for record in stock.read():
                if record.offset <= last:
                    wrong.append((last, record.offset))
                last = record.offset

    threads = [threading.Thread(target=send), threading.Thread(target=read), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            stock.compact()
    finally:
        sys.setswitchinterval(before)
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    stock.compact()
    assert {r.key: r.value for r in stock.read()} == sent
    assert store.verify() == []


# -- a real stream ----------------------------------------------------------------------------------------------------


def git(*arguments, at=ROOT):
    return subprocess.run(["git", *arguments], cwd=at, capture_output=True, check=True).stdout


def history(repository):
    """Each change of each commit, the oldest first: (path, blob id), or (path, None) when it was deleted."""
    what = ("--reverse", "--first-parent", "-m", "--root", "--raw", "--no-renames", "--no-abbrev", "-z", "--format=")
    said = git("log", *what, at=repository)
    fields = iter(said.lstrip(b"\n").split(b"\0"))
    for field in fields:
        if field.lstrip(b"\n").startswith(b":"):
            _, _, _, blob, status = field.split()
            yield next(fields), None if status == b"D" else blob


def ls_tree(repository):
    lines = [line.split(b"\t", 1) for line in git("ls-tree", "-r", "-z", "HEAD", at=repository).split(b"\0") if line]
    return {path: about.split()[2] for about, path in lines}


def made(folder, rng):
    """A repository with files that come, change, go and come again, in folders that do so too, and a merge."""
    stream, there = [b"feature done\n"], set()
    for number in range(300):
        stream.append(b"commit refs/heads/main\nmark :%d\n" % (number + 1))
        stream.append(b"committer A <a@b> %d +0000\ndata 1\nx\n" % (1_700_000_000 + number))
        if number == 200:
            stream.append(b"from :%d\nmerge :%d\n" % (number, number // 2))
        for _ in range(rng.randint(1, 4)):
            path = b"%s/%d/file %d" % (rng.choice([b"a", b"\xc3\xa4"]), rng.randrange(4), rng.randrange(12))
            if path in there and rng.random() < 0.4:
                there.discard(path)
                stream.append(b"D %s\n" % path)
            else:
                there.add(path)
                content = b"%d" % rng.randrange(10**6)
                stream.append(b"M 100644 inline %s\ndata %d\n%s\n" % (path, len(content), content))
    stream.append(b"done\n")
    repository = folder / "repository"
    repository.mkdir()
    git("init", "-q", "--bare", at=repository)
    subprocess.run(["git", "fast-import", "--quiet"], cwd=repository, input=b"".join(stream), check=True)
    git("symbolic-ref", "HEAD", "refs/heads/main", at=repository)
    return repository


def hold(store, repository):
    """The stream, compacted now and then, is the tree; by every way of looking at it."""
    files = store.topic("files", compact=True, tombstone_grace=0, partitions=2)
    count = 0
    for path, blob in history(repository):
        files.send(blob, key=path)
        count += 1
        if count % 100 == 0:
            files.compact()
    said, tree = files.compact(), ls_tree(repository)
    assert said.finished and count > len(tree) > 20
    records = list(files.read())
    assert {r.key: r.value for r in records if r.value is not None} == tree
    assert len(records) <= len(tree) + 2  # the last record of a partition stays, even if it is a tombstone
    with files.table() as table:
        assert dict(table) == tree
    assert all(files.latest(path).value == blob for path, blob in list(tree.items())[:20])
    assert store.verify() == []


needs_git = pytest.mark.skipif(not shutil.which("git"), reason="needs git")


@needs_git
def test_the_history_of_a_repository_compacted_is_its_tree(store, tmp_path, rng):
    hold(store, made(tmp_path, rng))


@needs_git
def test_the_history_of_this_project_compacted_is_its_tree(store):
    try:
        whole = git("rev-parse", "--is-shallow-repository").strip() == b"false" and git("ls-tree", "HEAD", "src/engine")
    except subprocess.CalledProcessError:
        whole = False
    if not whole:
        pytest.skip("this is no clone of the project, or one without its history")
    hold(store, ROOT)
