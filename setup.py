"""How the engine is compiled. Everything that is not compiling is in pyproject.toml.

Two folders become one package: src/pyapi is `seglog`, src/engine is `seglog.engine`. Cython finds a
`.pxd` by walking an import name over folders, and no folder here is called seglog/engine; so the
`.pxd` files are laid out once more under build/cimport/seglog/engine, copied only when they changed.

One variable, SEGLOG_BUILD, chooses a profile; each keeps to its own folder under build/:
    release   what ships                          debug   assertions, bounds checks, SEGLOG_DEBUG=1
    trace     debug, with line events (coverage)  asan    debug, under ASAN and UBSAN
    tsan      debug, under TSAN                   none   no extension: an editable install, before `make build`
`python setup.py build_ext --inplace` recompiles what changed and nothing else; `make build` says it.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler.Errors import CompileError
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

PROFILE = os.environ.get("SEGLOG_BUILD") or "release"
PARANOID = PROFILE != "release"
JOBS = 2

GCC = {
    # Words in mapped memory are read through casts: strict aliasing would be a promise we do not keep.
    "all": ["-fno-strict-aliasing", "-fvisibility=hidden", "-Wno-unused-function", "-Wno-unused-variable"],
    "release": ["-O3", "-g0"],
    "debug": ["-O1", "-g"],
    "trace": ["-O0", "-g"],
    "asan": ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"],
    "tsan": ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=thread"],
}
MSVC = {"all": ["/std:c11"], "release": ["/O2"], "debug": ["/Od", "/Zi"]}
if PROFILE not in {*GCC, "none"} - {"all"}:
    raise SystemExit(f"SEGLOG_BUILD={PROFILE} is none of release, debug, trace, asan, tsan, none")

DIRECTIVES = {
    "language_level": 3,
    "freethreading_compatible": True,
    "embedsignature": True,
    "auto_pickle": False,
    "boundscheck": PARANOID,
    "wraparound": False,
    "initializedcheck": PARANOID,
    "nonecheck": PARANOID,
    "linetrace": PROFILE == "trace",
}
# Python's own flags say NDEBUG; the paranoid profiles take it back, so that C's assert() counts too.
MACROS = {"SEGLOG_DEBUG": "1"} if PARANOID else {"CYTHON_WITHOUT_ASSERTIONS": "1"}
if PROFILE == "trace":
    MACROS |= {"CYTHON_TRACE": "1", "CYTHON_TRACE_NOGIL": "1", "CYTHON_USE_SYS_MONITORING": "0"}

ENGINE = Path("src/engine")
CIMPORT = Path("build/cimport/seglog/engine")
# Cython itself follows every .pxd that a module cimports; only C's own files have to be named here.
DEPENDS = ["setup.py", *sorted(path.as_posix() for path in ENGINE.glob("*.h"))]


def lay_out_pxd() -> None:
    """Makes build/cimport/seglog/engine say what src/engine says, leaving what has not changed."""
    wanted = {path.name: path.read_bytes() for path in ENGINE.glob("*.pxd")} | {"__init__.pxd": b""}
    CIMPORT.mkdir(parents=True, exist_ok=True)
    (CIMPORT.parent / "__init__.pxd").touch()
    for stale in set(os.listdir(CIMPORT)) - set(wanted):
        (CIMPORT / stale).unlink()
    for name, text in wanted.items():
        path = CIMPORT / name
        if not path.exists() or path.read_bytes() != text:
            path.write_bytes(text)


class Build(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        if self.inplace and PARANOID:
            raise SystemExit(f"src/ holds the release build; {PROFILE} has build/{PROFILE}: make {PROFILE}")

    def build_extensions(self) -> None:
        flags = MSVC if self.compiler.compiler_type == "msvc" else GCC
        lay_out_pxd()
        try:
            made = cythonize(
                [Extension(ext.name, list(ext.sources)) for ext in self.extensions],
                include_path=["build/cimport"],
                # The coverage plugin looks for the C beside its source.
                build_dir=None if PROFILE == "trace" else f"build/cython/{PROFILE}",
                compiler_directives=DIRECTIVES,
                nthreads=JOBS,
            )
        except CompileError as error:  # what and where is printed already, above the pool's own tracebacks
            raise SystemExit(f"Cython refuses {error}") from None
        sources = {ext.name: ext.sources for ext in made}
        for ext in self.extensions:
            ext.sources = sources[ext.name]
            ext.extra_compile_args = flags["all"] + flags.get(PROFILE, flags["debug"])
            ext.extra_link_args = [flag for flag in ext.extra_compile_args if "sanitize" in flag]
        super().build_extensions()


if __name__ == "__main__":
    setup(
        package_dir={"seglog": "src/pyapi", "seglog.engine": "src/engine"},
        packages=["seglog", "seglog.engine", *("seglog." + name for name in find_packages("src/pyapi"))],
        ext_modules=[
            Extension(
                f"seglog.engine.{path.stem}",
                [path.as_posix()],
                include_dirs=[ENGINE.as_posix()],
                define_macros=list(MACROS.items()),
                undef_macros=["NDEBUG"] if PARANOID else [],
                depends=DEPENDS,
            )
            for path in sorted(ENGINE.glob("*.pyx") if PROFILE != "none" else ())
        ],
        cmdclass={"build_ext": Build},
        options={"build": {"build_base": f"build/{PROFILE}", "parallel": JOBS}},
    )
