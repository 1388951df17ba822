"""A stream as lines: found by position, none lost, whatever the blocks they come in."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglog.cli import lines
from seglog.cli.lines import blocks, key_cuts

anything = st.lists(st.sampled_from([b"\n", b"\n\n", b"a", b"\0", b"\r\n", b"\xff", b"long" * 9])).map(b"".join)


def read(data: bytes, delimiter: bytes = b"\n") -> tuple[list[bytes], bool]:
    found, terminated = [], True
    for block in blocks(io.BytesIO(data), delimiter):
        assert terminated, "nothing comes behind a line without an end"
        found += [block.data[a:b] for a, b in zip(block.starts.tolist(), block.ends.tolist(), strict=True)]
        terminated = block.terminated
    return found, terminated


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
@given(data=anything)
def test_lines_are_those_of_split_in_blocks_of_any_size(size, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", size)
        found, terminated = read(data)
    expected = data.split(b"\n")
    assert terminated == (expected[-1] == b"")
    assert found == (expected[:-1] if terminated else expected)


def test_a_line_over_the_maximum_is_handed_out_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 10)

    class Endless:
        read = 0

        def read1(self, size: int) -> bytes:
            self.read += size
            assert self.read < 1_000
            return b"x" * size

    (block,) = blocks(Endless(), line_bytes_max=100)
    assert len(block.data) == 110


@given(data=anything, separator=st.sampled_from([b"a", b"ng", b"\0", b"\xff\xff"]))
def test_a_key_ends_at_the_first_separator_of_its_line(data, separator):
    for block in blocks(io.BytesIO(data)):
        keyed, cuts = key_cuts(block, separator)
        here = iter(cuts.tolist())
        for has, start, end in zip(keyed.tolist(), block.starts.tolist(), block.ends.tolist(), strict=True):
            line = block.data[start:end]
            assert has == (separator in line)
            if has:
                assert next(here) == start + line.index(separator)
        assert next(here, None) is None
