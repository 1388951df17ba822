"""Mutated inputs for every decoder: see `fuzz/run.py`; `make test` has seven seconds of it."""

import faulthandler
import os
import signal
import sys

import pytest

from fuzz import mutate, run
from fuzz.run import Case, fuzz

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks"),
    pytest.mark.timeout(7200),
]

SECONDS = 1200.0 if os.environ.get("SEGLOG_LONG") else 7.0


def told(findings, seed):
    return "\n".join(f"case {number} of seed {seed:#x}: {what}" for number, what in findings)


def test_every_decoder_survives_what_it_is_given(tmp_path, rng, capsys):
    seed = rng.getrandbits(32)
    done, findings = fuzz(tmp_path, SECONDS, seed)
    with capsys.disabled():
        print(f" [{done:,} cases]", end="")
    assert not findings, told(findings, seed)
    assert done >= 50


@pytest.mark.parametrize("kind", [*mutate.RESEALED, *mutate.RAW, *mutate.OF_STORES])
def test_every_kind_of_mutation_changes_something(tmp_path, kind, rng):
    made = run.corpus.make(tmp_path, 1)
    name = "store" if kind in mutate.OF_STORES and kind not in mutate.RAW else "closed"
    mutation = {**mutate.OF_STORES, **mutate.RESEALED, **mutate.RAW}[kind]

    def content(path):
        return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}

    changed = tried = 0
    while changed < 10 and tried < 60:  # some fall on what is zeros already
        path = run.corpus.copied(made[name], tmp_path / "it")
        mutation(path, rng)
        changed += content(path) != content(made[name])
        tried += 1
    assert changed == 10


# -- the check can fail ---------------------------------------------------------------------------------------------------


def test_a_reader_that_takes_a_bad_body_is_caught(tmp_path, monkeypatch):
    """The second reader without its rule 7 stands for an engine without it: they differ."""
    from format import reader

    valid_frame = reader.Segment.valid_frame

    def lenient(self, p, e, only_end=False):
        frame = self.sound_header(p)
        if frame is not None and frame.base_offset == e and frame.codec == 0:
            records = reader.decode(frame, self.body(p, frame))
            if records is not None:
                return frame, records
        return valid_frame(self, p, e, only_end)

    monkeypatch.setattr(reader.Segment, "valid_frame", lenient)
    monkeypatch.setattr(mutate, "RESEALED", {})  # flipped bits, above all
    monkeypatch.setattr(mutate, "OF_STORES", {"raw": mutate.raw})
    _, findings = fuzz(tmp_path, 0.0, 1, cases=100)
    assert any("second reader" in what for _, what in findings), findings


def test_a_wrong_record_an_odd_error_a_crash_and_a_hang_are_caught(tmp_path, monkeypatch):
    """Each put in by hand, into one case of many."""
    use, bad = run.use, {"record": 7, "error": 9, "crash": 13, "hang": 17}

    def broken(path, rng, recover, sane=True):
        number = Case.now
        if number == bad["error"]:
            raise KeyError("odd")
        if number == bad["crash"]:
            faulthandler.disable()  # nobody wants to read about it
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == bad["hang"]:
            signal.pause()
        records = use(path, rng, recover, sane)
        if number == bad["record"] and records:
            records[0] = records[0]._replace(value=b"nobody wrote this")
        return records

    make = Case.__init__

    def noted(self, made, work, seed, number):
        Case.now = number
        make(self, made, work, seed, number)
        if number in bad.values():  # of a kind that says something about any record
            self.of_store, self.name, self.kind, self.resealed = False, "closed", "raw", False
            self.mutation = lambda path, rng: "nothing"

    monkeypatch.setattr(run, "use", broken)
    monkeypatch.setattr(Case, "now", 0, raising=False)
    monkeypatch.setattr(Case, "__init__", noted)
    monkeypatch.setattr(run, "A_CASE", 1.0)
    monkeypatch.setattr(run, "BATCH", 10)
    _, findings = fuzz(tmp_path, 0.0, 1, cases=20)
    by_case = dict(findings)
    assert set(bad.values()) <= set(by_case), told(findings, 1)
    assert "holds" in by_case[bad["record"]]
    assert "KeyError" in by_case[bad["error"]]
    assert any(name in by_case[bad["crash"]] for name in ("SIGSEGV", "SIGABRT"))  # ASAN makes the one the other
    assert "hang" in by_case[bad["hang"]]
