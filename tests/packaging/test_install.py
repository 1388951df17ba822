"""seglog installs: from a wheel, from an sdist and as an editable tree, into an environment that has never seen it.

Short form, part of `make test`: the sdist is made and unpacked, the wheel is made from it with the extensions that are
compiled already, both hold what they should, and the wheel works on this interpreter with the dependencies that are
here. Seconds, and no network.

Full form, `make packaging`: each of the three on every Python from 3.11 on that is present and runs, dependencies
fetched, and tests/unit run against what was installed. An interpreter that is absent is skipped by name.
"""

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMOKE = Path(__file__).with_name("smoke.py")
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
FULL = os.environ.get("SEGLOG_PACKAGING") == "full"
full = pytest.mark.skipif(not FULL, reason="`make packaging` runs it")

# What a release build is made with, whatever profile this run of the tests is for.
CLEAN = {name: value for name, value in os.environ.items() if name not in {"SEGLOG_BUILD", "PYTHONPATH", "LD_PRELOAD"}}

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        os.environ.get("SEGLOG_BUILD", "release") != "release" or not (ROOT / "setup.py").exists(),
        reason="says nothing about another profile, and needs the source tree",
    ),
]


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=CLEAN, text=True, capture_output=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@functools.cache
def interpreter(version: str) -> str | None:
    """A Python of this version that runs: named on PATH (where a shim may be all there is), or kept by pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    kept = sorted(pyenv.glob(f"{version}.*/bin/python{version}"))
    this = [sys.executable] if version == f"{sys.version_info[0]}.{sys.version_info[1]}" else []
    for candidate in [*this, *filter(None, [shutil.which(f"python{version}")]), *map(str, reversed(kept))]:
        told = subprocess.run([candidate, "-c", "import sys; print(sys.version)"], text=True, capture_output=True)
        if told.returncode == 0 and told.stdout.startswith(version + "."):
            return candidate
    return None


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, cwd=ROOT)
    (made,) = folder.glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def tree(sdist, tmp_path_factory) -> Path:
    """The sdist, unpacked: all that a packager gets."""
    folder = tmp_path_factory.mktemp("tree")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    if not FULL:  # times in the sdist are those of the sources, so what is compiled counts as new there too
        others = shutil.ignore_patterns("temp.*", "*.py", "*.pyi", "*.pxd", "*.h")
        for made in ("release", "cython/release", "cimport"):
            if (ROOT / "build" / made).exists():  # else it is compiled here
                shutil.copytree(ROOT / "build" / made, tree / "build" / made, ignore=others if made == "release" else None)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=tree)
    (made,) = folder.glob("*.whl")
    return made


def suffixes(names) -> set[str]:
    return {Path(name).suffix for name in names}


def beside_source(pattern: str) -> set[str]:
    return {f"seglog/engine/{path.name}" for path in (ROOT / "src/engine").glob(pattern)}


def test_the_wheel_holds_what_is_imported_and_nothing_it_was_made_from(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {Path(name).stem for name in beside_source("*.pyx")}
    extension = sysconfig.get_config_var("EXT_SUFFIX")
    assert names >= {"seglog/py.typed", "seglog/__init__.py", "seglog/cli/__init__.py"}
    assert names >= {f"seglog/engine/{module}{extension}" for module in modules}
    assert names >= beside_source("*.pyi") | beside_source("*.pxd") | beside_source("*.h") | beside_source("*.py")
    assert not suffixes(names) & {".c", ".pyx", ".html"}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"seglog"}


def test_the_sdist_holds_what_it_takes_to_build_and_test(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"setup.py", "pyproject.toml", "Makefile", "LICENSE", "README.md", "tests/conftest.py"}
    assert names >= {path.relative_to(ROOT).as_posix() for path in (ROOT / "src/engine").glob("*.p[yx][xdi]")}
    assert not suffixes(names) & {".c", ".so", ".pyd", ".pyc"}


def test_the_wheel_works_outside_its_tree(wheel, tree, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = bin_of(tmp_path / "venv") / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    borrowed = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # A .pth beside a .pth is not read: numpy and xxhash come along, the editable seglog of this tree does not.
    Path(borrowed, "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    assert "smoke:" in run(python, "-I", SMOKE, tree, "wheel", cwd=tmp_path)
    assert "seglog" in run(bin_of(tmp_path / "venv") / "seglog", "--help", cwd=tmp_path)


@full
@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
@pytest.mark.parametrize("version", PYTHONS)
def test_every_kind_installs_on(version, kind, sdist, tree, tmp_path):
    found = interpreter(version)
    if found is None:
        pytest.skip(f"no Python {version} here that runs")
    shutil.copytree(tree, tmp_path / "tree")
    run(found, "-m", "venv", tmp_path / "venv")
    python = bin_of(tmp_path / "venv") / "python"
    if kind == "wheel":
        run(python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, tmp_path / "tree")
        (made,) = tmp_path.glob("*.whl")
        what = [f"seglog[test] @ {made.as_uri()}"]
    elif kind == "sdist":
        what = [f"seglog[test] @ {sdist.as_uri()}"]
    else:
        what = ["-e", f"{tmp_path / 'tree'}[test]"]
    run(python, "-m", "pip", "install", *what)
    assert "smoke:" in run(python, "-I", SMOKE, tmp_path / "tree", kind, cwd=tmp_path)
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert " passed" in run(python, "-m", "pytest", "-q", "tests/unit", cwd=tmp_path)


def bin_of(venv: Path) -> Path:
    return venv / ("Scripts" if os.name == "nt" else "bin")
