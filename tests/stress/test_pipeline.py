"""Read, process, write, while the workers are killed: see `stress/pipeline.py`; here for some seconds."""

import os
import sys

import pytest

from stress.pipeline import Anomaly, judge, pipeline

LONG = os.environ.get("SEGLOG_LONG", "0") not in ("", "0")
GOOD = {
    "in": [[b"0", b"1", b"2"], [b"0"]],
    "out": [[b"a|0|0", b"a|0|1", b"c|0|2"], [b"b|1|0"]],
    "audit": [[b"a|2", b"b|1", b"c|1"]],
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, stops and kills")
@pytest.mark.timeout(7200)
def test_each_input_comes_out_once(tmp_path, rng, capsys):
    told = pipeline(tmp_path, 1000 if LONG else 25, rng.getrandbits(32))
    with capsys.disabled():
        print(f" [{told}]", end="")


def test_a_good_one_is_good():
    assert judge(GOOD, {b"x"}, {(0, 0, b"a|0|0"), (1, 0, b"b|1|0")})["inputs"] == 4


@pytest.mark.parametrize(
    ("name", "change", "given_up", "seen"),
    [
        ("lost write", {"in": [[b"0", b"1", b"2", b"3"], [b"0"]]}, set(), set()),
        ("duplicate", {"out": [[b"a|0|0", b"a|0|1", b"c|0|2"], [b"b|1|0", b"d|0|2"]]}, set(), set()),
        ("reordered", {"out": [[b"a|0|1", b"a|0|0", b"c|0|2"], [b"b|1|0"]]}, set(), set()),
        ("aborted read", {}, {b"b"}, set()),
        ("aborted read", {}, {b"x"}, {(0, 1, b"x|0|1")}),
        ("precommitted read", {}, set(), {(0, 1, b"y|0|1")}),
        ("precommitted read", {}, set(), {(0, 9, b"a|0|1")}),
        ("precommitted read", {"audit": [[b"a|1", b"b|1", b"c|1"]]}, set(), set()),
        ("precommitted read", {"audit": [[b"a|2", b"b|1"]]}, set(), set()),
        ("precommitted read", {"audit": [[b"a|2", b"b|1", b"c|1", b"d|1"]]}, set(), set()),
    ],
)
def test_a_broken_one_is_caught_and_called_by_its_name(name, change, given_up, seen):
    with pytest.raises(Anomaly) as caught:
        judge(GOOD | change, given_up, seen)
    assert caught.value.name == name
