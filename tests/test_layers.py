"""The layers are what docs/architecture.md draws: every import points down, and this file holds it.

The drawing below is the data. The rules:

* Every module of src/pyapi and src/engine stands in the drawing, in one row.
* A module imports from the rows below its own, and sideways within its row as long as no circle closes.
* The engine imports nothing of the Python above it; any row above may import the engine.
* `seglog` itself (`src/pyapi/__init__.py`) stands above row 5 and hands out everyone's names; rows 6 and 7 use it as
  a program would, the rows below never.
* A store hands out what is built on it (`store.queue()`). Such an import goes up; it is written inside the function
  that needs it, and only the nouns in HANDS_OUT may do it.
* No module takes another's `_private` name.

An import under `if TYPE_CHECKING:` is free: it exists for the reader, and moves nothing.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

DRAWING = """
7  cli        console      gateways    pytest_plugin
6  patterns   integrations backends
5  queue      queues       exchange     exchanges   requests    handlers    aio
5  workers    feeds        marks       pool        aioqueue
4  groups     upkeep      doctor      table       routes
3  store      topic        producer    consumer    conditions
2  membership assignment transactions
2  positions  topology     waiting     ticker      statistics  start       identity
2  record     names        config      codecs      clock       protocols   errors    files
2  dtypes      export
2  queueconfig queuestatistics limits   routing
----------------------------------------------------------------------
1e partitions places     transactions compaction  slots       groups      leases      delivery    reclaim    claim       arrow
1d log        message     snapshot    decode
1c tail       recovery   instruments
1b segment    index        keymap      pieces
1a decisions  mapping    shared       liveness    batch       frame       source      foreign     json
0  layout     record       checksum    codecs      losses      platform    atomic    errors      arrowabi   fields
"""
HANDS_OUT = {"seglog.store", "seglog.topic"}

SRC = Path(__file__).parents[1] / "src"
FACE = 5.5  # where `seglog` itself stands


class Import(NamedTuple):
    module: str  # who imports
    target: str  # the module imported, as far as the drawing knows it
    name: str  # the name taken from it, or ""
    line: int
    inside: bool  # within a function


def rows() -> dict[str, float]:
    """The height of every module, by its full name."""
    above, below = re.split(r"\n-+\n", DRAWING.strip())
    height = {"seglog": FACE, "seglog.engine": 1.0}
    for row, *names in map(str.split, above.split("\n")):
        height |= {f"seglog.{name}": float(row) for name in names}
    for place, (_, *names) in enumerate(map(str.split, reversed(below.split("\n")))):
        height |= {f"seglog.engine.{name}": place / 10 for name in names}
    return height


HEIGHT = rows()


def modules(src: Path) -> Iterator[tuple[str, Path]]:
    """Each module and the files it is made of; what is deeper than the drawing belongs to its package there."""
    for path in sorted((src / "engine").glob("*.p*")):
        if path.suffix in {".py", ".pyx", ".pxd"}:
            yield ("seglog.engine" if path.stem == "__init__" else f"seglog.engine.{path.stem}"), path
    for path in sorted((src / "pyapi").rglob("*.py")):
        first = path.relative_to(src / "pyapi").with_suffix("").parts[0]
        yield {"__init__": "seglog", "__main__": "seglog.cli"}.get(first, f"seglog.{first}"), path


def split(target: str, name: str) -> tuple[str, str]:
    """(module as drawn, name taken): `from seglog import errors` takes a module, `from seglog import Topic` a name."""
    whole = f"{target}.{name}" if name and name != "*" else target
    parts = whole.split(".")
    depth = 3 if parts[:2] == ["seglog", "engine"] else 2
    if len(parts) == depth and ".".join(parts) not in HEIGHT and name:
        return target, name  # a name out of `seglog` or `seglog.engine`
    return ".".join(parts[:depth]), ".".join(parts[depth:])


def absolute(package: str, level: int, target: str) -> str:
    if not level:
        return target
    base = package.split(".")[: len(package.split(".")) - (level - 1)]
    return ".".join([*base, target] if target else base)


def imports_of_python(module: str, package: str, text: str) -> Iterator[Import]:
    def walk(node: ast.AST, inside: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from walk(child, inside)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, *split(alias.name, ""), node.lineno, inside)
        elif isinstance(node, ast.ImportFrom):
            target = absolute(package, node.level, node.module or "")
            for alias in node.names:
                yield Import(module, *split(target, alias.name), node.lineno, inside)
        inside |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    return walk(ast.parse(text), False)


# Cython is no Python that `ast` could read, but its imports are one simple kind of statement.
NOISE = re.compile(r'""".*?"""|\'\'\'.*?\'\'\'|#[^\n]*', re.DOTALL)
STATEMENT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<target>[\w.]+)[ \t]+c?import[ \t]*(?P<names>\([^)]*\)|[^\n]*)"
    r"|c?import[ \t]+(?P<plain>[^\n]*))",
    re.MULTILINE,
)


def imports_of_cython(module: str, package: str, text: str) -> Iterator[Import]:
    text = NOISE.sub(lambda found: "\n" * found[0].count("\n"), text)
    for found in STATEMENT.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        names = (found["names"] or found["plain"]).strip("() \t\n\\").split(",")
        for name in (words.split()[0] for words in names if words.split()):
            if found["plain"]:
                yield Import(module, *split(name, ""), line, False)
            else:
                target = found["target"].lstrip(".")
                target = absolute(package, len(found["target"]) - len(target), target)
                yield Import(module, *split(target, name), line, False)


def faults(src: Path) -> list[str]:
    """Every breach of the rules under `src`, as one would say it in a review."""
    said: list[str] = []
    sideways: dict[str, set[str]] = {}
    for module, path in modules(src):
        where = path.relative_to(src)
        if module not in HEIGHT:
            said.append(f"{where}: {module} is not in the drawing")
            continue
        folder = "seglog" if where.parts[0] == "pyapi" else "seglog.engine"
        package = ".".join([folder, *where.parts[1:-1]])
        read = imports_of_python if path.suffix == ".py" else imports_of_cython
        for found in read(module, package, path.read_text(encoding="utf-8")):
            if found.target.split(".")[0] != "seglog" or found.target == module:
                continue
            if found.target not in HEIGHT:
                said.append(f"{where}:{found.line}: {found.target} is not in the drawing")
                continue
            if found.name.startswith("_") and not found.name.startswith("__"):
                said.append(f"{where}:{found.line}: takes {found.name}, private to {found.target}")
            up = HEIGHT[found.target] - HEIGHT[module]
            if up > 0 and not (found.inside and module in HANDS_OUT and HEIGHT[found.target] < FACE):
                said.append(f"{where}:{found.line}: {module} imports {found.target}, which stands above it")
            elif up == 0 and not found.inside:
                sideways.setdefault(module, set()).add(found.target)
    return said + [f"a circle of imports: {' -> '.join(circle)}" for circle in circles(sideways)]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> None:
        if node in path:
            found.append([*path[path.index(node) :], node])
        elif node not in done:
            for following in sorted(graph.get(node, ())):
                visit(following, [*path, node])
            done.add(node)

    for node in sorted(graph):
        visit(node, [])
    return found


def test_every_import_points_down():
    assert faults(SRC) == []


def test_there_is_something_to_read():
    assert {module for module, _ in modules(SRC)} >= {"seglog", "seglog.engine.checksum"}


BAD = {
    "a module nobody drew": ({"engine/zebra.pyx": ""}, "not in the drawing"),
    "an import of a module nobody drew": ({"pyapi/topic.py": "from seglog.zebra import stripes"}, "not in the drawing"),
    "the engine reaching up, in Cython": ({"engine/log.pyx": "from seglog.topic import Topic"}, "above"),
    "the engine reaching up, in a .pxd": ({"engine/index.pxd": "from .log cimport Log"}, "above"),
    "the engine reaching up, over two lines": (
        {"engine/index.pyx": "from seglog.engine cimport (layout,\n    log)"},
        "seglog.engine.log",
    ),
    "the engine reaching up, plainly": ({"engine/index.pyx": "cimport seglog.engine.log as log"}, "above"),
    "a topic importing queues": ({"pyapi/topic.py": "from .queues import Queue"}, "above"),
    "a module importing the face": ({"pyapi/topic.py": "import seglog"}, "above"),
    "a package importing up from deep within": ({"pyapi/queues/deep/x.py": "from ...patterns import Saga"}, "above"),
    "a late import by one who hands out nothing": (
        {"pyapi/consumer.py": "def f():\n    from seglog.queues import Queue"},
        "above",
    ),
    "a private name": ({"pyapi/topic.py": "from seglog.config import _defaults"}, "private"),
    "a circle": (
        {"pyapi/topic.py": "import seglog.consumer", "pyapi/consumer.py": "from .topic import Topic"},
        "circle",
    ),
}
GOOD = {
    "down": {"pyapi/topic.py": "from seglog.engine.log import Log\nfrom seglog import errors\nfrom . import config"},
    "sideways": {"pyapi/store.py": "from .topic import Topic"},
    "a store handing out": {"pyapi/store.py": "def queue():\n    from .queues import Queue"},
    "for the reader": {"pyapi/topic.py": "if TYPE_CHECKING:\n    from .queues import Queue"},
    "a program's own way": {"pyapi/cli/top.py": "import seglog\nfrom seglog import Position, open"},
    "in words only": {"engine/index.pyx": '"""from seglog.topic import Topic"""\n# import seglog.topic'},
}


@pytest.mark.parametrize(("files", "words"), BAD.values(), ids=BAD)
def test_a_breach_is_found(tmp_path, files, words):
    found = faults(sample(tmp_path, files))
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize("files", GOOD.values(), ids=GOOD)
def test_what_is_allowed_passes(tmp_path, files):
    assert faults(sample(tmp_path, files)) == []


def sample(src: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = src / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return src
