"""The power may go at any moment: what was promised is there, what is there is right, and no offset comes twice.

A shim knows what was on the disk at each moment of a program's run; from that, images are built of what a power cut may leave, by the hundred:
any page, sector, size and name that was not synced is on its own old or new. Each is recovered and judged, gone on with, and judged again; one in
five is cut again while it recovers. Three in five are of bare logs, the others of stores with topics or with queues. `power/` has the parts; SEGLOG_LONG=1 judges a hundred thousand (or SEGLOG_POWER_IMAGES=n).

    python -m tests.crash.power.run --images 100000 --seed 1
    python -m tests.crash.power.run --seed 1 --only 4711        the same image again, kept
"""

import os

import pytest

import seglog
from crash.power import real, run

LONG = bool(os.environ.get("SEGLOG_LONG"))
IMAGES = int(os.environ.get("SEGLOG_POWER_IMAGES") or (100_000 if LONG else 400))
BREAKS = [
    "sync-does-nothing", "directory-syncs-forgotten", "file-syncs-forgotten", "always-that-is-never", "wrong-records",
    "nothing-told", "offsets-again", "tail-comes-back", "parts-of-transactions", "transactions-without-their-commits",
    "queue-always-that-is-never", "acks-that-are-not-synced", "moves-in-two-steps", "settlements-forgotten",
]  # fmt: skip
pytestmark = [
    pytest.mark.skipif(bool(run.why_not()), reason=f"no power cut images here: {run.why_not()}"),
    pytest.mark.timeout(6 * 3600 if IMAGES > 10_000 else 300),
]


def test_nothing_promised_is_lost_in_any_image_of_a_power_cut(tmp_path, rng):
    seed = f"{rng.getrandbits(32):x}"
    result = run.judge_images(IMAGES, seed, keep=str(tmp_path), progress=LONG)
    print(result)
    assert result.failures == [], f"{result}\n{result.explain()}\nrepeat: python -m tests.crash.power.run --seed {seed} --only N"
    assert result.counts["images"] >= IMAGES
    # It was a test at all: most images had something old, many had lost something, and recovery was cut as well.
    assert result.counts["changed"] > IMAGES / 3
    assert result.counts["images with losses"] > IMAGES / 20
    assert result.counts["again"] > IMAGES / 10
    assert min(result.counts["ordered"], result.counts["bare"]) > IMAGES / 4


def test_the_same_seed_gives_the_same_images(tmp_path):
    """Those of one process; threads and processes do not repeat."""
    results = [run.judge_images(run.PER_WORKLOAD, "one", keep=str(tmp_path), jobs=1, first=20) for _ in range(2)]
    assert results[0].counts == results[1].counts
    assert results[0].counts["records found"] > 0


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_on_purpose_is_caught(tmp_path, name):
    """Each of these loses, lies or gives out twice; if the judge did not say so, its silence above would mean nothing."""
    from crash.power.broken import KINDS

    assert set(BREAKS) == set(KINDS)
    result = run.judge_images(2000, "broken", keep=str(tmp_path), breaks=name, enough=50, until=KINDS[name].says)
    assert result.says(KINDS[name].says), f"{result}\n{result.explain()}"


def test_a_worker_that_dies_is_a_failure_and_not_the_end(tmp_path):
    result = run.judge_images(60, "dies", keep=str(tmp_path), jobs=1, kill_at=10)
    assert [failure["image"] for failure in result.failures] == [10]
    assert "died" in result.failures[0]["wrong"][0]
    assert result.counts["images"] >= 40


def test_a_group_whose_records_a_power_cut_took_is_told_of_that_and_of_no_trim(tmp_path):
    """Its commit was on disk and the records were not. Seen in images of stores."""
    partition = tmp_path / "store" / "topics" / "orders" / "0"
    with seglog.open(tmp_path / "store", fsync="never") as store:
        orders = store.topic("orders")
        orders.send(b"lost")
        with orders.consumer("billing") as group:
            group.commit(group.receive(timeout=0))
    with open(partition / f"{0:020}.log", "r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))
    for shm in (tmp_path / "store" / "shm", partition / "shm"):
        shm.unlink()
    with seglog.open(tmp_path / "store", fsync="never") as store:
        orders = store.topic("orders")
        with orders.consumer("billing") as group:
            with pytest.raises(seglog.LogTruncated) as told:
                group.receive(timeout=0)
            group.seek(0, told.value.end)
            assert group.receive(timeout=0) is None
            orders.send(b"next")
            assert group.receive(timeout=0).values.tolist() == [b"next"]
        assert orders.logs[0].first_offset == 0


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_nothing_promised_is_lost_when_a_file_system_is_shut_down(kind, rng):
    reason = real.why_not(kind)
    if reason:
        pytest.skip(reason)
    seed = f"{rng.getrandbits(32):x}"
    result = real.run_in_child(kind, 1000 if LONG else 10, seed, 3600)
    assert result["wrong"] == [], f"seed {seed}"
    assert result["judged"] > 0


def test_a_sync_that_does_nothing_is_caught_on_a_real_file_system():
    reason = real.why_not("ext4")
    if reason:
        pytest.skip(reason)
    result = real.run_in_child("ext4", 200, "broken", 120, "sync-does-nothing")
    assert any("lost: record" in text for text in result["wrong"]), result
