"""Every example in the docstrings of the engine and of the command line runs, each in an empty directory of its own.

Those of the face's modules are run by tests/unit/face/test_docstrings.py.
"""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil

import pytest

import seglog.cli
import seglog.engine

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
ENGINE = [f"seglog.engine.{module.name}" for module in pkgutil.iter_modules(seglog.engine.__path__)]
CLI = [f"seglog.cli.{module.name}" for module in pkgutil.iter_modules(seglog.cli.__path__) if module.name[0] != "_"]
if not all(map(importlib.util.find_spec, ("typer", "rich"))):
    CLI = []  # an extra


def examples(name: str) -> list[doctest.DocTest]:
    """Those of a module. Cython lists what it compiled in `__test__`, where the finder sees some of it a second time."""
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name), name)
    once = {tuple(example.source for example in test.examples): test for test in found if test.examples}
    return sorted(once.values(), key=lambda test: test.name)


def fails(test: doctest.DocTest) -> str:
    said: list[str] = []
    return "".join(said) if doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append).failed else ""


EXAMPLES = [pytest.param(test, id=test.name) for name in ENGINE + CLI for test in examples(name)]


@pytest.mark.parametrize("test", EXAMPLES)
def test_the_example_runs(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fails(test) == ""


def test_examples_are_found_also_in_what_is_compiled():
    """A class in a .pyx, a function in a .pyx, a class in a .py."""
    names = " ".join(str(example.id) for example in EXAMPLES)
    assert all(name in names for name in ("engine.log.Log", "partitions.murmur2", "engine.errors.SeglogError"))


def test_an_example_that_is_wrong_is_seen():
    (test,) = [test for test in examples("seglog.engine.partitions") if "murmur2(b" in test.examples[0].source]
    test.examples[0].want = "False\n"
    assert "Expected:\n    False" in fails(test)


@pytest.mark.parametrize("name", ENGINE)
def test_every_module_and_class_of_the_engine_says_what_it_is(name):
    module = importlib.import_module(name)
    assert module.__doc__
    mine = [it for it in vars(module).values() if inspect.isclass(it) and it.__module__ == name]
    assert [it.__name__ for it in mine if it.__name__[0] != "_" and not it.__doc__] == []
