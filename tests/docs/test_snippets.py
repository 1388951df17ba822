"""What the documents say is true: their Python runs, their links lead somewhere, their tests and commands exist.

The ```python blocks of one file are one program: a child process runs them in order, in one namespace and an empty
directory. A block with `>>>` in it is a doctest. A block behind `<!-- not run: reason -->` is skipped, by name. The
console blocks of docs/guide/cli.md are run by tests/unit/cli/test_guide.py.
"""

import ast
import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
RUN = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]
DOCUMENTS = [*RUN, "CONTRIBUTING.md", "CHANGELOG.md"]
SECONDS = 60  # for all blocks of a file

pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").exists(), reason="an installed wheel is tested without its docs"
)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8") if (ROOT / name).exists() else ""


# -- the Python runs -----------------------------------------------------------------------------------------------


class Block(NamedTuple):
    line: int  # of its first line of code, from 1
    code: str
    skipped: str | None  # why it is not run


FENCE = re.compile(r"^(?:<!-- not run: (?P<why>[^\n]+?) -->\n)?```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(text: str) -> list[Block]:
    return [Block(text.count("\n", 0, at.start("code")) + 1, at["code"], at["why"]) for at in FENCE.finditer(text)]


RUNNER = r"""
import doctest, json, sys
name, blocks, report = sys.argv[1], json.loads(sys.argv[2]), open(sys.argv[3], "w", buffering=1)
names = {"__name__": "__main__"}
checker = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
for line, code in blocks:
    if any(row.lstrip().startswith(">>>") for row in code.splitlines()):
        test = doctest.DocTestParser().get_doctest(code, {}, name, name, line - 1)
        test.globs = names
        if checker.run(test, clear_globs=False).failed:
            sys.exit(1)
    else:
        exec(compile("\n" * (line - 1) + code, name, "exec"), names)
    print(line, file=report)
"""


class Run(NamedTuple):
    done: list[int]  # the lines of the blocks that ran to their end
    said: str


def run(name: str, chosen: list[Block], folder: Path, seconds: float = SECONDS) -> Run:
    """Runs the blocks as one program, in a process of its own in `folder`, up to the first that fails."""
    work = folder / "here"
    work.mkdir(exist_ok=True)
    report = folder / "report"
    arguments = [name, json.dumps([block[:2] for block in chosen]), str(report)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    with open(folder / "said", "w+b") as said:
        child = subprocess.Popen(
            [sys.executable, "-c", RUNNER, *arguments],
            cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
        late = ""
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            late = f"\nnot done after {seconds:g} s"
        if late or child.returncode:  # whatever it started goes with it
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
            child.kill()
            child.wait()
        said.seek(0)
        text = said.read().decode(errors="replace")
    done = [int(line) for line in report.read_text().split()] if report.exists() else []
    if child.returncode and not late:
        late = f"\nexit code {child.returncode}"
    if late and len(done) == len(chosen):  # it died on its way out: that is the last one's
        done.pop()
    return Run(done, text + late)


@functools.cache
def ran(name: str) -> Run:
    with tempfile.TemporaryDirectory(prefix="seglog-docs-") as folder:
        return run(name, [block for block in blocks(text_of(name)) if block.skipped is None], Path(folder))


def every_block() -> Iterator[object]:
    for name in RUN:
        for block in blocks(text_of(name)):
            yield pytest.param(name, block, id=f"{name}:{block.line}")


@pytest.mark.parametrize(("name", "block"), list(every_block()))
def test_the_block_runs(name, block):
    if block.skipped is not None:
        pytest.skip(f"{name}:{block.line} {block.skipped}")
    if block.line not in ran(name).done:
        first = next(b.line for b in blocks(text_of(name)) if b.skipped is None and b.line not in ran(name).done)
        told = f"{block.code}\n{ran(name).said}" if first == block.line else f"not reached: line {first} failed"
        pytest.fail(f"{name}:{block.line}\n{told}", pytrace=False)


def test_there_are_blocks_and_few_are_not_run():
    found = {name: blocks(text_of(name)) for name in RUN}
    assert found["README.md"]
    assert len(found["docs/guide/topics.md"]) > 20
    for name, here in found.items():
        # A fence that the pattern does not see would be a promise that nobody checks.
        fences = re.findall(r"^\s*(?:```|~~~)\s*(?:python|py|pycon)\b", text_of(name), re.MULTILINE)
        assert len(here) == len(fences), name
        assert sum(block.skipped is not None for block in here) * 10 <= len(here), name


def test_the_readmes_program_reads_only_what_is_new_when_it_runs_again(tmp_path):
    first, second = (run("README.md", blocks(text_of("README.md"))[:1], tmp_path) for _ in range(2))
    assert first.done and second.done, first.said + second.said
    once, again = (set(seen.said.splitlines()) for seen in (first, second))
    assert len(once) == len(again) == 4
    assert not once & again


# -- and would be seen if it did not -------------------------------------------------------------------------------


def fenced(*codes: str) -> list[Block]:
    return blocks("\n\n".join(f"```python\n{code}\n```" for code in codes))


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (["a = 1", "assert a == 2"], "AssertionError"),
        ([">>> 1 + 1\n2", ">>> 1 + 1\n3"], "Got:\n    2"),
        (["a = 1", ">>> a\n2"], "Got:\n    1"),
        (["def f():\n    pass", "f(1)"], "TypeError"),
        (["import os", "os.kill(os.getpid(), 9)"], "exit code -9"),
        (["import os", "import atexit; atexit.register(os._exit, 7)"], "exit code 7"),
        (["import time", "time.sleep(60)"], "not done after 2 s"),
    ],
    ids=["an assertion", "a doctest", "a doctest after code", "an error", "a death", "a death at the end", "a hang"],
)
def test_a_block_that_fails_is_seen_and_the_one_before_it_passed(tmp_path, codes, words):
    if os.name == "nt" and "kill" in codes[1]:
        pytest.skip("a death there has another number")
    first, second = fenced(*codes)
    told = run("some.md", [first, second], tmp_path, seconds=2 if "sleep" in codes[1] else SECONDS)
    assert told.done == [first.line]
    assert words in told.said


def test_a_traceback_names_the_line_of_the_document(tmp_path):
    told = run("some.md", blocks("# Title\n\n```python\na = 1\n\nb = a.c\n```\n"), tmp_path)
    assert 'File "some.md", line 6' in told.said


def test_a_block_is_skipped_by_its_comment_and_by_nothing_else():
    text = "<!-- not run: needs a network -->\n```python\na\n```\n\n<!-- numbers -->\n```python\nb\n```\n"
    assert [(block.line, block.skipped) for block in blocks(text)] == [(3, "needs a network"), (8, None)]


# -- links ---------------------------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """Without code, whose brackets are no links; every line keeps its number."""
    text = re.sub(r"^```.*?^```$", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    seen: set[str] = set()
    without_code = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.*)$", without_code, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        seen.add(next(name for n in range(99) if (name := f"{slug}-{n}" if n else slug) not in seen))
    return seen


def dead_links(name: str, text: str) -> list[str]:
    dead = []
    for found in re.finditer(r"\[[^\]]*\]\(([^)\s]+)\)", prose(text)):
        target = found[1]
        if re.match(r"[a-z]+:", target):  # the web: not asked
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        there = text if not path else file.read_text(encoding="utf-8") if file.is_file() else ""
        within = file.exists() and file.resolve().is_relative_to(ROOT.resolve())
        if not within or (anchor and anchor not in anchors(there)):
            dead.append(f"{name}:{prose(text).count(chr(10), 0, found.start()) + 1}: {target}")
    return dead


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name):
    assert dead_links(name, text_of(name)) == []


def test_a_dead_link_is_seen():
    text = "[a](docs/format.md#7-index) [b](docs/format.md#index)\n[c](nowhere.md) `[d](code.md)` [e](#heads-up)\n\n# Heads up!\n"
    assert dead_links("README.md", text) == ["README.md:1: docs/format.md#index", "README.md:2: nowhere.md"]


# -- guarantees ----------------------------------------------------------------------------------------------------

GUARANTEES = "docs/guarantees.md"
CITED = re.compile(r"`([\w/]+\.py)::(\w+)`")


@functools.cache
def named_in(path: Path) -> frozenset[str]:
    """The names of a file that pytest would collect at its top level."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body if path.exists() else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(name for name in names if name.startswith("test_"))


def rows(text: str) -> Iterator[tuple[dict[str, str], int]]:
    """Each row of each table, by its heads, and its line."""
    heads: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("|"):
            heads = []
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if not heads:
            heads = cells
        elif not all(set(cell) <= set("-: ") for cell in cells):
            yield dict(zip(heads, cells)), number


def unproven(text: str) -> list[str]:
    """Tests that are cited and do not exist; promises that cite none."""
    cited = CITED.findall(text)
    said = [f"{path}::{name} does not exist" for path, name in cited if name not in named_in(ROOT / "tests" / path)]
    for row, line in rows(text):
        if "promise" in row and not CITED.search(row.get("proof", "")):
            said.append(f"line {line} cites no test: {row['promise']}")
        if "promise" in row and not row.get("void when"):
            said.append(f"line {line} does not say what voids it: {row['promise']}")
    return said


def test_every_promise_names_a_test_that_exists():
    text = text_of(GUARANTEES)
    assert len(set(CITED.findall(text))) > 50
    assert sum("promise" in row for row, _ in rows(text)) > 25
    assert unproven(text) == []


def test_a_promise_without_proof_is_seen():
    table = """
| promise | mechanism | proof | void when |
| --- | --- | --- | --- |
| good | m | `test_layers.py::test_every_import_points_down` | never |
| bad | m | `test_layers.py::test_that_nobody_wrote` | never |
| worse | m | trust us | never |
| unbounded | m | `test_layers.py::test_every_import_points_down` | |
"""
    assert unproven(table) == [
        "test_layers.py::test_that_nobody_wrote does not exist",
        "line 6 cites no test: worse",
        "line 7 does not say what voids it: unbounded",
    ]


def survival(text: str) -> dict[str, tuple[str, ...]]:
    """What survives what, by the setting in the first column."""
    wanted = ("the process is killed", "the machine loses power")
    found = {row[""]: tuple(row[head] for head in wanted) for row, _ in rows(text) if set(wanted) <= set(row)}
    return {re.sub(r" \(default\)", "", setting): says for setting, says in found.items()}


def test_the_readme_promises_what_the_guarantees_do():
    assert len(survival(text_of("README.md"))) == 4
    assert survival(text_of("README.md")) == survival(text_of(GUARANTEES))


def test_two_tables_that_disagree_are_seen():
    one = "| | the process is killed | the machine loses power |\n| --- | --- | --- |\n| `a` (default) | x | y |\n"
    assert survival(one) == {"`a`": ("x", "y")} != survival(one.replace("y", "z"))


# -- commands ------------------------------------------------------------------------------------------------------


def commands_in(text: str) -> list[str]:
    """What a document tells people to type: code spans, and the `$` lines of console blocks."""
    consoles = re.findall(r"^```(?:console|sh)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    typed = [line[2:].partition(" #")[0] for block in consoles for line in block.splitlines() if line.startswith("$ ")]
    without_blocks = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return typed + re.findall(r"`([^`\n]+)`", without_blocks)


def make_words() -> set[str]:
    return set(re.findall(r"^\.PHONY: (.*)$", text_of("Makefile"), re.MULTILINE)[0].split())


def unknown_make_words(text: str) -> list[str]:
    said = [word for command in commands_in(text) for word in re.findall(r"(?:^|[\s;&])make ([a-z][\w-]*)", command)]
    return sorted(set(said) - make_words())


def unknown_seglog_commands(text: str) -> list[str]:
    from typer.main import get_command

    from seglog.cli.app import app

    top = get_command(app).commands
    unknown = set()
    for command in commands_in(text):
        for first, rest in re.findall(r"(?:^|[\s;&|])seglog ([a-z]+)(?: ([a-z|]+))?", command):
            if first not in top:
                unknown.add(first)
            elif hasattr(top[first], "commands"):  # `ls|create` names two
                unknown |= {f"{first} {word}" for word in rest.split("|") if word not in top[first].commands}
    return sorted(unknown)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_exists(name):
    assert unknown_make_words(text_of(name)) == []
    pytest.importorskip("typer")
    assert unknown_seglog_commands(text_of(name)) == []


def test_a_command_that_does_not_exist_is_seen():
    text = "`make tea`, `make test`, `seglog fly` `seglog topic ls|fry`\n"
    text += "```console\n$ make coffee  # not make milk\n$ seglog topic ls\n```\n"
    assert unknown_make_words(text) == ["coffee", "tea"]
    pytest.importorskip("typer")
    assert unknown_seglog_commands(text) == ["fly", "topic fry"]


def test_commands_are_found_where_they_are_known_to_be():
    assert "make demo" in " ".join(commands_in(text_of("README.md")))
    assert {"demo", "test", "check", "build", "clean"} <= make_words()


def numbers(text: str) -> str:
    """Where the architect puts the numbers, if any are there."""
    return text.partition("<!-- numbers -->")[2].partition("\n## Read on")[0].strip()


def unsourced_numbers(text: str) -> bool:
    """Whether there are numbers, and no command beside them that makes them."""
    made_by = re.findall(r"make (\w+)", " ".join(commands_in(numbers(text))))
    return bool(re.search(r"\d", numbers(text))) and not {"bench", "compare"} & set(made_by)


def test_the_numbers_name_the_command_that_made_them():
    assert "<!-- numbers -->" in text_of("README.md")
    assert not unsourced_numbers(text_of("README.md"))


def test_numbers_from_nowhere_are_seen():
    assert unsourced_numbers("<!-- numbers -->\n\n| send | 140 ns |\n\n## Read on\n`make bench`")
    assert not unsourced_numbers("<!-- numbers -->\n\n| send | 140 ns |\n\nBy `make bench`.\n\n## Read on\n")
    assert not unsourced_numbers("<!-- numbers -->\n\n## Read on\n1")
