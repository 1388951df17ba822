"""Every example in the face's docstrings runs, each in an empty directory of its own."""

import doctest
import importlib
from pathlib import Path

import pytest

import seglog

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
HOME = Path(seglog.__file__).parent
MODULES = ["seglog", *(f"seglog.{path.stem}" for path in sorted(HOME.glob("*.py")) if path.stem[0] != "_")]


def examples():
    for name in MODULES:
        for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name), name):
            if test.examples:
                yield pytest.param(test, id=test.name)


@pytest.mark.parametrize("test", list(examples()))
def test_the_example_runs(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    assert doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append).failed == 0, "".join(said)


def test_every_public_verb_of_the_nouns_has_a_docstring():
    for noun in (seglog.Store, seglog.Topic, seglog.Consumer):
        silent = [name for name, it in vars(noun).items() if name[0] != "_" and callable(it) and not it.__doc__]
        assert set(silent) <= {"gate"}
