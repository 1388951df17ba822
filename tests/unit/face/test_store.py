"""The store: made once, opened by many, recognised, and never mistaken for another program's directory."""

import contextlib
import gc
import json
import os
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

import seglog
from seglog.identity import Identity, canonical, digest

# ---- opening --------------------------------------------------------------------------------------


def test_open_makes_the_directory_and_its_parents(tmp_path):
    path = tmp_path / "some" / "where" / "data"
    with seglog.open(path) as store:
        assert store.topics() == []
    assert (path / "SEGLOG").is_file()


def test_what_was_sent_is_there_when_the_store_is_opened_again(path):
    with seglog.open(path) as store:
        store.topic("orders", partitions=2).send_many([b"one", b"two", b"three"], keys=[b"a", b"b", b"a"])
    with seglog.open(path) as store:
        assert store.topics() == ["orders"]
        assert store.topic("orders").partitions == 2
        assert sorted(record.value for record in store.topic("orders").read()) == [b"one", b"three", b"two"]


def test_a_store_keeps_its_identity(path):
    with seglog.open(path) as store:
        first = store.identity
    with seglog.open(path) as store:
        assert store.identity == first
    with seglog.open(path.with_name("other")) as other:
        assert other.identity.uuid != first.uuid


def test_the_store_stays_where_it_is_when_the_program_changes_its_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with seglog.open("data") as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.topic("orders").send(b"one")
    assert (tmp_path / "data" / "topics" / "orders").is_dir()


def test_durations_may_be_timedeltas(path):
    with seglog.open(path, fsync_interval=timedelta(milliseconds=50), lock_timeout=timedelta(seconds=5)) as store:
        assert (store.config.fsync_interval, store.config.lock_timeout) == (0.05, 5.0)


def test_create_false_refuses_to_make_a_store(path):
    with pytest.raises(seglog.NotAStore, match="there is no store"):
        seglog.open(path, create=False)
    assert not path.exists()
    seglog.open(path).close()
    seglog.open(path, create=False).close()


def test_a_file_is_not_a_store(tmp_path):
    (tmp_path / "file").write_text("hello")
    with pytest.raises(seglog.NotAStore, match="is a file"):
        seglog.open(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "hello"


@pytest.mark.parametrize("create", [True, False])
def test_another_programs_directory_is_left_as_it_is(path, create):
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    with pytest.raises(seglog.NotAStore, match=r"notes\.txt"):
        seglog.open(path, create=create)
    assert os.listdir(path) == ["notes.txt"]


def test_an_empty_directory_becomes_a_store(path):
    path.mkdir()
    seglog.open(path).close()
    assert (path / "SEGLOG").is_file()


def test_what_a_creation_that_was_cut_short_left_does_not_stand_in_the_way(path):
    path.mkdir()
    (path / "create.lock").touch()
    (path / "SEGLOG.123.tmp").write_text("{")
    seglog.open(path).close()


def test_a_store_that_another_made_while_this_one_waited_at_the_door_is_found(path, monkeypatch):
    from seglog import identity

    real, others = identity.make_directory, []

    def slowly(directory):
        monkeypatch.undo()
        real(directory)
        others.append(seglog.open(directory))

    monkeypatch.setattr(identity, "make_directory", slowly)
    with seglog.open(path) as store:
        assert store.identity == others[0].identity
        others[0].close()


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_must_name_a_directory(path):
    with pytest.raises(seglog.ConfigError, match="path is"):
        seglog.open(path)


def test_a_path_is_a_path():
    with pytest.raises(TypeError):
        seglog.open(7)


# ---- the SEGLOG file ------------------------------------------------------------------------------


def test_the_seglog_file_is_one_line_of_json_that_says_who_it_is(path):
    with seglog.open(path) as store:
        line = (path / "SEGLOG").read_bytes()
        facts = json.loads(line)
        assert line.endswith(b"}\n")
        assert line.count(b"\n") == 1
        assert (facts["format"], facts["uuid"], facts["created"]) == (1, store.identity.uuid, store.identity.created)


def test_every_truncation_and_every_flipped_bit_of_the_seglog_file_is_noticed(path):
    seglog.open(path).close()
    line = (path / "SEGLOG").read_bytes()
    damaged = [line[:size] for size in range(len(line) - 1)]
    damaged += [
        line[:at] + bytes([line[at] ^ 1 << bit]) + line[at + 1 :] for at in range(len(line) - 1) for bit in range(8)
    ]
    for bad in damaged:
        with contextlib.suppress(seglog.CorruptStore):
            assert Identity.from_bytes(bad, "SEGLOG") == Identity.from_bytes(line, "SEGLOG"), bad


def test_a_damaged_seglog_file_is_told_with_advice_and_the_rest_is_left(path):
    with seglog.open(path) as store:
        store.topic("orders").send(b"one")
    good = (path / "SEGLOG").read_bytes()
    (path / "SEGLOG").write_bytes(good.replace(b'"format":1', b'"format":7'))
    with pytest.raises(seglog.CorruptStore, match="backup of any age"):
        seglog.open(path)
    (path / "SEGLOG").write_bytes(good)
    with seglog.open(path) as store:
        assert store.topic("orders")[0, 0].value == b"one"


def test_a_newer_format_is_refused_clearly(path):
    seglog.open(path).close()
    facts = {"format": 2, "uuid": "u", "created": 1, "teleport": True}
    newer = canonical(facts)[:-1] + f',"hash":"{digest(facts)}"}}\n'
    (path / "SEGLOG").write_text(newer)
    with pytest.raises(seglog.UnsupportedFormat, match="says format 2") as caught:
        seglog.open(path)
    assert (caught.value.found, caught.value.supported) == (2, 1)
    assert (path / "SEGLOG").read_text() == newer


# ---- read-only ------------------------------------------------------------------------------------


def as_nobody(code: str) -> str:
    """What `code` prints when it runs without root's right to write everywhere."""
    drop = "import os, seglog\nif os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
    done = subprocess.run([sys.executable, "-c", drop + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(os.name == "nt", reason="permissions are another matter there")
@pytest.mark.parametrize("what", ["a store", "an empty directory", "a parent"])
def test_a_directory_that_cannot_be_written_is_a_read_only_store(tmp_path, what):
    path = tmp_path / "data"
    path.mkdir()
    if what == "a store":
        with seglog.open(path) as store:
            store.topic("orders").send(b"one")
    for folder in [tmp_path, *tmp_path.parents]:
        if folder != Path("/") and folder.owner() == "root" and not folder.stat().st_mode & 1 and os.getuid() == 0:
            folder.chmod(folder.stat().st_mode | 0o111)
    path.chmod(0o555)
    target = path / "new" if what == "a parent" else path
    said = as_nobody(
        f"try: seglog.open({str(target)!r})\nexcept seglog.ReadOnlyStore as e: print(isinstance(e, PermissionError), e)"
    )
    path.chmod(0o755)
    assert said.startswith("True cannot open the store")
    assert "Nothing was changed" in said


# ---- topics ---------------------------------------------------------------------------------------


def test_the_same_topic_object_is_returned_for_the_same_name(store):
    assert store.topic("orders") is store.topic("orders")


def test_a_topic_is_opened_as_it_is_when_nothing_but_its_name_is_given(path):
    with seglog.open(path) as store:
        store.topic("orders", partitions=3, segment_bytes=1 << 20, segment_age=60, codec="lz4", partitioner="murmur2")
    with seglog.open(path, segment_bytes=1 << 22) as store:
        config = store.topic("orders").config
        assert (config.partitions, config.segment_bytes, config.segment_age) == (3, 1 << 20, 60.0)
        assert (config.codec, config.partitioner) == ("lz4", "murmur2")


def test_a_new_topic_takes_the_stores_segment_size(path):
    with seglog.open(path, segment_bytes=1 << 22) as store:
        assert store.topic("orders").config.segment_bytes == 1 << 22


def test_the_same_settings_again_are_fine(store):
    store.topic("orders", partitions=3, segment_age=timedelta(minutes=1))
    assert store.topic("orders", partitions=3, segment_age=60).partitions == 3


def test_other_settings_raise_with_the_differences(store):
    store.topic("orders", partitions=3)
    with pytest.raises(seglog.TopicMismatch, match="partitions is 3, not 5") as caught:
        store.topic("orders", partitions=5, codec="zstd", record_bytes_max=64 << 20)
    assert caught.value.differences == {"partitions": (5, 3), "codec": ("zstd", "none")}
    assert store.topic("orders").partitions == 3


def test_topics_are_listed_in_order(store):
    for name in ["b", "a", "c"]:
        store.topic(name)
    assert store.topics() == ["a", "b", "c"]


def test_a_deleted_topic_is_gone_with_its_files(store, path):
    topic = store.topic("orders", partitions=2)
    topic.send(b"one")
    store.topic("others").send(b"stays")
    store.delete_topic("orders")
    assert store.topics() == ["others"]
    assert os.listdir(path / "topics") == ["others"]
    with pytest.raises(seglog.TopicNotFound):
        list(topic.read())
    with pytest.raises(seglog.SeglogError):
        topic.send(b"two")
    assert store.topic("others")[0, 0].value == b"stays"


def test_deleting_what_is_not_there_raises(store):
    with pytest.raises(seglog.TopicNotFound, match="no topic orders") as caught:
        store.delete_topic("orders")
    assert isinstance(caught.value, KeyError)
    assert caught.value.name == "orders"


def test_a_topic_made_anew_under_an_old_name_is_empty(store):
    store.topic("orders", partitions=3).send(b"old")
    store.delete_topic("orders")
    topic = store.topic("orders")
    assert (topic.partitions, topic.next_offset(0)) == (1, 0)


def test_a_deletion_that_a_crash_interrupted_is_finished_at_the_next_opening(path):
    with seglog.open(path) as store:
        store.topic("orders").send(b"old")
        store.topic("others").send(b"stays")
        store._topology.remove("topic", "orders")  # the record is written, and then the process dies
    with seglog.open(path) as store:
        assert os.listdir(path / "topics") == ["others"]
        assert store.topics() == ["others"]


def test_a_creation_that_a_crash_interrupted_is_taken_over(path):
    with seglog.open(path) as store:
        store.topic("orders", partitions=4)
        store._topology.remove("topic", "orders")
        store._topology._log.append(None, b"nonsense/x")
    with seglog.open(path) as store:  # as if the record had never been written
        (path / "topics" / "new" / "0").mkdir(parents=True)
        topic = store.topic("new", partitions=2)
        topic.send_many([b"one", b"two"], partition=1)
        assert [record.value for record in topic.read()] == [b"one", b"two"]


def test_leftovers_of_a_deleted_topic_do_not_come_back_under_its_name(path):
    with seglog.open(path) as store:
        store.topic("orders").send(b"old")
        store._topology.remove("topic", "orders")
        store._topics.pop("orders")
        assert list(store.topic("orders").read()) == []


def test_a_partition_directory_that_is_missing_is_told(path):
    with seglog.open(path) as store:
        store.topic("orders", partitions=2).send_many([b"one", b"two"], partition=1)
    os.rename(path / "topics" / "orders" / "1", path / "aside")
    with seglog.open(path) as store:
        with pytest.raises(seglog.CorruptStore, match="partition 1 .* removed"):
            store.topic("orders")
        assert [(loss.kind, loss.path) for loss in store.verify()] == [
            ("missing", str(path / "topics" / "orders" / "1"))
        ]
        assert not (path / "topics" / "orders" / "1").exists()
    os.rename(path / "aside", path / "topics" / "orders" / "1")
    with seglog.open(path) as store:
        assert store.topic("orders")[1, 1].value == b"two"


def test_a_partition_that_was_emptied_is_told_and_does_not_begin_again(path):
    with seglog.open(path) as store:
        store.topic("orders", partitions=2).send_many([b"one", b"two"], partition=1)
    for file in (path / "topics" / "orders" / "1").iterdir():
        file.unlink()
    with seglog.open(path) as store:
        with pytest.raises(seglog.CorruptStore, match="partition 1 .* removed"):
            store.topic("orders")
        store.delete_topic("orders")
        assert store.topic("orders").next_offset() == 0


def test_a_topology_that_was_emptied_is_told_and_does_not_begin_again(path):
    with seglog.open(path) as store:
        store.topic("orders").send(b"one")
    for file in (path / "meta").iterdir():
        file.unlink()
    with pytest.raises(seglog.CorruptStore, match="log in .*meta is missing"):
        seglog.open(path)


def test_a_topology_that_is_missing_is_told_and_not_made_anew(path):
    with seglog.open(path) as store:
        store.topic("orders").send(b"one")
    os.rename(path / "meta", path / "aside")
    with pytest.raises(seglog.CorruptStore, match="log in .*meta is missing"):
        seglog.open(path)
    assert not (path / "meta").exists()
    os.rename(path / "aside", path / "meta")
    with seglog.open(path) as store:
        assert store.topic("orders")[0, 0].value == b"one"


def test_a_segment_that_is_missing_is_told_and_the_rest_is_readable(path):
    with seglog.open(path, segment_bytes=1 << 16) as store:
        topic = store.topic("orders")
        for n in range(3000):
            topic.send(b"%05d" % n * 20)
    segments = sorted((path / "topics" / "orders" / "0").glob("*.log"))
    assert len(segments) > 4
    segments[2].unlink()
    with seglog.open(path) as store:
        topic = store.topic("orders")
        assert [loss.kind for loss in store.verify()].count("missing") == 1
        with pytest.raises(seglog.CorruptStore) as caught:
            list(topic.read())
        resume = caught.value.resume_offset
        assert resume == int(segments[3].stem)
        assert [record.offset for record in topic.read(resume)] == list(range(resume, 3000))
    with seglog.open(path, recover="skip") as store:
        offsets = [record.offset for record in store.topic("orders").read()]
        assert offsets == [*range(int(segments[2].stem)), *range(resume, 3000)]


# ---- several openers ------------------------------------------------------------------------------


def test_a_directory_may_be_opened_twice(store, path):
    with seglog.open(path) as second:
        where = store.topic("orders").send(b"one")
        assert second.topic("orders")[where].value == b"one"
        second.topic("orders").send(b"two")
        assert [record.value for record in store.topic("orders").read()] == [b"one", b"two"]


def test_topics_that_another_process_makes_and_deletes_are_seen(store, child):
    topic = store.topic("mine")
    with child("store.topic('theirs', partitions=2).send(b'one', partition=1); store.delete_topic('mine')"):
        assert store.topics() == ["theirs"]
        assert store.topic("theirs")[1, 0].value == b"one"
        with pytest.raises(seglog.TopicNotFound):
            topic.last(1)
        assert list(store.topic("mine").read()) == []


def test_partitions_that_another_process_adds_are_seen(store, child):
    topic = store.topic("orders")
    topic.send(b"one")
    with child("t = store.topic('orders'); t.add_partitions(3); t.send(b'two', partition=2)"):
        assert [record.value for record in topic.read()] == [b"one", b"two"]
        assert topic.partitions == 3


def test_processes_that_make_the_same_store_and_topic_at_once_agree(path):
    code = (
        f"import seglog\nwith seglog.open({str(path)!r}) as s:\n"
        " print(s.identity.uuid, s.topic('orders', partitions=3).topic_id)"
    )
    racers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(6)]
    said = {racer.communicate(timeout=60)[0] for racer in racers}
    assert [racer.returncode for racer in racers] == [0] * 6
    assert len(said) == 1


@pytest.mark.parametrize("create", [True, False])
def test_a_store_that_another_made_between_two_looks_is_opened(path, monkeypatch, create):
    looks = []

    def lexists(name, real=os.path.lexists):
        looks.append(name)
        if len(looks) > 1:
            return real(name)
        monkeypatch.undo()
        seglog.open(path).close()
        return False

    monkeypatch.setattr("seglog.identity.os.path.lexists", lexists)
    with seglog.open(path, create=create) as store:
        assert store.topics() == []
    assert looks


def test_a_topic_that_another_made_while_this_one_waited_at_the_door_is_opened(store, path, monkeypatch):
    real = store.gate

    def slowly():
        monkeypatch.undo()
        with seglog.open(path) as other:
            other.topic("orders", partitions=3).send(b"one", partition=2)
        return real()

    monkeypatch.setattr(store, "gate", slowly)
    with pytest.raises(seglog.TopicMismatch, match="partitions is 3, not 2"):
        store.topic("orders", partitions=2)
    assert store.topic("orders")[2, 0].value == b"one"


def test_threads_that_make_the_same_topic_at_once_get_the_same_object(store, monkeypatch):
    real, got = store._logs_of, []

    def slowly(*arguments, **settings):
        time.sleep(0.02)
        return real(*arguments, **settings)

    monkeypatch.setattr(store, "_logs_of", slowly)
    threads = [threading.Thread(target=lambda: got.append(store.topic("orders", partitions=2))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert len(set(map(id, got))) == 1


def test_what_a_killed_process_sent_is_there(path, store, child):
    with child("store.topic('orders').send_many([b'%d' % i for i in range(1000)]); os.kill(os.getpid(), 9)"):
        pass
    assert [record.value for record in store.topic("orders").read()] == [b"%d" % i for i in range(1000)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_uses_the_store_it_inherited_or_is_told_what_to_do(store):
    topic = store.topic("orders")
    topic.send(b"parent")
    consumer = topic.consumer("billing")
    consumer.commit({0: 1})
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            try:
                topic.send(b"child")
                store.topic("made-by-child").send(b"one")
            except seglog.ForkedHandle:
                pass
            with contextlib.suppress(seglog.ForkedHandle):
                consumer.commit({0: 0})
            store.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    topic.send(b"parent again")
    assert consumer.committed() == 1
    values = [record.value for record in topic.read()]
    assert (values[0], values[-1]) == (b"parent", b"parent again")
    assert set(values) <= {b"parent", b"child", b"parent again"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_a_background_thread_of_its_own(path):
    with seglog.open(path, fsync_interval=0.01) as store:
        topic = store.topic("orders")
        ready, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(go)  # so that a parent that dies ends the read
                os.read(ready, 1)
                topic.send(b"child")
                code = 0 if becomes_durable(topic) else 2
            finally:
                os._exit(code)
        store._ticker.stop()  # else the parent's thread would do the child's work
        os.write(go, b"!")
        os.close(ready)
        os.close(go)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# ---- care -----------------------------------------------------------------------------------------


def durable(topic: seglog.Topic) -> list[int]:
    return [partition.durable_offset for partition in topic.statistics().partitions]


def becomes_durable(topic: seglog.Topic) -> bool:
    deadline = time.monotonic() + 5
    while durable(topic) != [1]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_sync_is_a_barrier_whatever_fsync_says(path):
    with seglog.open(path, fsync="never", upkeep=False) as store:
        topics = [store.topic("a"), store.topic("b", partitions=2)]
        for topic in topics:
            topic.send_many([b"x"] * 10, partition=0)
        assert durable(topics[0]) == [0]
        store.sync()
        assert [durable(topic) for topic in topics] == [[10], [10, 0]]


def test_always_is_durable_when_send_returns(path):
    with seglog.open(path, fsync="always") as store:
        topic = store.topic("orders")
        topic.send(b"one")
        assert durable(topic) == [1]


def test_the_background_thread_syncs_within_the_interval(path):
    with seglog.open(path, fsync_interval=0.01) as store:
        topic = store.topic("orders")
        topic.send(b"one")
        assert becomes_durable(topic)


def test_without_the_thread_upkeep_does_its_work(path):
    with seglog.open(path, upkeep=False) as store:
        topic = store.topic("orders")
        topic.send(b"one")
        assert "seglog-upkeep" not in {thread.name for thread in threading.enumerate()}
        store.upkeep()
        assert durable(topic) == [1]


def test_the_background_thread_ends_with_the_store(path):
    with seglog.open(path):
        assert "seglog-upkeep" in {thread.name for thread in threading.enumerate()}
    assert "seglog-upkeep" not in {thread.name for thread in threading.enumerate()}


def test_a_store_that_was_dropped_unclosed_does_not_keep_its_thread(path):
    store = seglog.open(path, fsync_interval=0.01)
    store.topic("orders").send(b"one")
    thread = store._ticker._thread
    del store
    gc.collect()
    for _ in range(500):
        if not thread.is_alive():
            break
        time.sleep(0.01)
    assert not thread.is_alive()


def test_an_error_in_upkeep_is_kept_and_the_thread_goes_on(path, monkeypatch):
    with seglog.open(path, fsync_interval=0.01) as store:
        calls = threading.Semaphore(0)

        def care():
            calls.release()
            return [OSError("the disk is on fire")]

        monkeypatch.setattr(store, "_care", care)
        assert all(calls.acquire(timeout=10) for _ in range(3))
        assert store.statistics().upkeep_errors == ("OSError: the disk is on fire",)


def test_statistics_count_every_topic_also_those_not_open_here(path):
    with seglog.open(path) as store:
        store.topic("a").send_many([b"x" * 100] * 10)
        store.topic("b", partitions=2).send(b"y", partition=1)
    with seglog.open(path) as store:
        now = store.statistics()
        assert {name: topic.records for name, topic in now.topics.items()} == {"a": 10, "b": 1}
        assert [p.next_offset for p in now.topics["b"].partitions] == [0, 1]
        assert now.records == 11
        assert now.size_bytes >= now.topics["a"].size_bytes >= 1000
        assert now.losses == ()
        assert now.upkeep_errors == ()


def test_verify_finds_nothing_in_a_sound_store_and_something_in_a_damaged_one(path):
    with seglog.open(path) as store:
        store.topic("orders", partitions=2).send_many([b"record %d" % i for i in range(100)], partition=1)
        assert store.verify() == []
    segment = next((path / "topics" / "orders" / "1").glob("*.log"))
    data = bytearray(segment.read_bytes())
    data[data.index(b"record 50")] ^= 1
    segment.write_bytes(data)
    with seglog.open(path) as store:
        found = store.verify()
        assert [(loss.kind, loss.path) for loss in found] == [("corrupt", str(segment))]
        with pytest.raises(seglog.CorruptBatch):
            list(store.topic("orders").read(partition=1))


# ---- closing --------------------------------------------------------------------------------------


def test_a_closed_store_says_so_whatever_is_asked(path):
    store = seglog.open(path)
    topic = store.topic("orders", partitions=2)
    topic.send(b"one")
    store.close()
    store.close()
    asks = [
        lambda: store.topic("orders"),
        store.topics,
        lambda: store.delete_topic("orders"),
        store.sync,
        store.statistics,
        store.verify,
        store.upkeep,
        store.__enter__,
        lambda: topic.send(b"two"),
        lambda: topic.send_many([b"two"]),
        lambda: topic[0, 0],
        topic.read,
        topic.batches,
        lambda: topic.last(1),
        lambda: topic.read_batch(offset=0),
        lambda: topic.tail(timeout=0),
        lambda: topic.trim(0, 0),
        lambda: topic.consumer("billing"),
        lambda: topic.add_partitions(3),
        topic.sync,
        topic.statistics,
    ]
    for ask in asks:
        with pytest.raises(seglog.ClosedError, match="closed"):
            ask()
    assert store.closed
    assert repr(store) == f"<Store {path}, closed>"
    assert repr(topic) == "<Topic orders, closed>"


def test_a_wait_ends_when_the_store_is_closed(path):
    store = seglog.open(path)
    topic = store.topic("orders")
    caught: list[BaseException] = []

    def follow():
        try:
            list(topic.tail())
        except seglog.ClosedError as error:
            caught.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    thread.join(0.05)
    store.close()
    thread.join(10)
    assert not thread.is_alive()
    assert len(caught) == 1


def test_a_store_says_where_it_is(store, path):
    store.topic("orders")
    assert repr(store) == f"<Store {path}, 1 topic, fsync interval>"


def test_a_network_file_system_is_refused_unless_it_is_allowed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("seglog.store.is_network", lambda path: asked.append(path) or True)
    with pytest.raises(seglog.NetworkFileSystem, match="only one kernel"):
        seglog.open(tmp_path / "deep" / "data")
    assert asked == [str(tmp_path)]
    assert list(tmp_path.iterdir()) == []
    with seglog.open(tmp_path / "data", allow_network=True) as store:
        store.topic("orders").send(b"one")


def test_a_barrier_passes_over_a_topic_that_another_process_deleted(path, child):
    with seglog.open(path, upkeep=False) as store:
        gone, stays = store.topic("gone"), store.topic("stays")
        gone.send(b"one")
        stays.send(b"one")
        with child("store.delete_topic('gone')"):
            store.sync()
        assert stays.logs[0].durable_offset == 1
