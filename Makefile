# One word each, from a fresh clone:
#
#   make demo       see it work                    make debug   the suite on the debug build
#   make test       the suite                      make asan    the engine's tests under ASAN and UBSAN
#   make check      style, types, stubs            make tsan    the engine's tests under TSAN
#   make bench      numbers                        make stubs   the stubs against the modules
#   make compare    numbers against others         make wheel   wheel and sdist into dist/
#   make build      recompile what changed         make packaging   install them, on every Python here
#   make coverage   what the suite reaches         make clean       forget all of it
#   make bench-check   is anything slower than it was    make compare-servers   install the servers of `make compare`
#   make chaos, soak, fuzz, groups, pipeline, queues, traps   the long forms of tests/stress and tests/fuzz
#   make kills, make power, make damage, make io   the long forms of tests/crash
#
# ARGS reaches pytest:  make test ARGS="tests/unit -k hash -x"
# and the long forms, which take SEED and MINUTES, or how many:  make chaos MINUTES=60 SEED=0x1f    make kills KILLS=500

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test check bench bench-check bench-baseline compare compare-servers build debug asan tsan stubs wheel packaging coverage chaos soak fuzz groups pipeline queues traps kills power damage io clean types

# The first that runs: a name on PATH may be a pyenv shim for a version that is not there.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

ARGS ?=
SEED ?=
MINUTES ?= 10
VENV := .venv
BIN  := $(VENV)/bin
SOURCES := $(wildcard src/engine/*.pyx src/engine/*.pxd src/engine/*.h)
# Two builds at once in one tree would write the same C files; where flock(1) exists they take turns.
ALONE := $(if $(shell command -v flock 2>/dev/null),flock $(VENV)/.lock)
ENGINE_TESTS := $(wildcard tests/unit)
STUBTEST := MYPYPATH=build/typing $(BIN)/python -m mypy.stubtest --allowlist tests/typing/stubtest-allow.txt $(patsubst src/engine/%.pyx,seglog.engine.%,$(wildcard src/engine/*.pyx))

demo: build
	$(BIN)/seglog demo $(ARGS)

test: build
	$(BIN)/python -m pytest $(ARGS)

check: build types
	$(BIN)/ruff check .
	$(BIN)/mypy -p seglog
	$(STUBTEST)
	$(BIN)/python -m pytest -q tests/test_layers.py

stubs: build types
	$(STUBTEST)

bench: build
	$(BIN)/python bench/ratios.py $(ARGS)

# Is anything slower than bench/baseline.json says?
bench-check: build
	$(BIN)/python -m pytest bench -q --check=check -p no:cacheprovider -W ignore::pytest_benchmark.logger.PytestBenchmarkWarning --timeout=600 $(ARGS)

bench-baseline: build
	$(BIN)/python -m pytest bench -q --check=renew -p no:cacheprovider -W ignore::pytest_benchmark.logger.PytestBenchmarkWarning --timeout=600 $(ARGS)

# Peers that cannot be installed are named by the run, and left out.
compare: build $(VENV)/.compare
	PYTHONPATH=bench $(BIN)/python -m compare $(ARGS)

$(VENV)/.compare: bench/compare/requirements.txt $(VENV)/.installed
	$(BIN)/python -m pip install -q -r $< || \
		for each in $$(grep -v '^#' $<); do $(BIN)/python -m pip install -q "$$each" || true; done
	@touch $@

SERVERS := redis-server nats-server rabbitmq-server openjdk-17-jre-headless maven
compare-servers:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get install -y --no-install-recommends $(SERVERS); \
	else echo "as root: apt-get install --no-install-recommends $(SERVERS)"; fi
	mvn -q -B -f bench/compare/kafka.pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/build/kafka

wheel: build
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	@ls -l dist

packaging: build
	SEGLOG_PACKAGING=full $(BIN)/python -m pytest tests/packaging --timeout=1800 $(ARGS)

# Each says its seed first, what broke and how to repeat it, and how much it did; and fails when anything broke.
chaos: build
	$(call LONG,stress.chaos)

soak: build
	$(call LONG,stress.soak)

fuzz: build
	$(call LONG,fuzz.run)

groups: MINUTES = 1
groups: build
	$(call LONG,stress.groups)

LONG = PYTHONPATH=tests $(BIN)/python -m $(1) --seconds $$(($(MINUTES) * 60)) $(if $(SEED),--seed $(SEED)) $(ARGS)

pipeline: KILLS = 1000
pipeline: build
	PYTHONPATH=tests $(BIN)/python -m stress.pipeline --kills $(KILLS) $(SEEDED) $(ARGS)

queues: KILLS = 1000
queues: build
	PYTHONPATH=tests $(BIN)/python -m stress.queues --kills $(KILLS) $(SEEDED) $(ARGS)

traps: build
	SEGLOG_LONG=1 SEGLOG_SEED=$(SEED) $(BIN)/python -m pytest tests/scenarios tests/unit/face/test_queue_machine.py $(ARGS)

KILLS  ?= 10000
IMAGES ?= 100000
CUTS   ?= 500
CASES  ?=
SEEDED = $(if $(SEED),--seed $(SEED))

kills: build/debug/.built
	$(call OVER,debug) $(BIN)/python -m tests.crash.kills.run --kills $(KILLS) $(SEEDED) $(ARGS)
	$(call OVER,debug) $(BIN)/python -m tests.crash.kills.failpoints --plays 10 --arrivals 10 $(SEEDED)

power: build
	$(BIN)/python -m tests.crash.power.run --images $(IMAGES) $(SEEDED) $(ARGS)
	$(BIN)/python -m tests.crash.power.real ext4 --rounds $(CUTS) $(SEEDED)
	$(BIN)/python -m tests.crash.power.real xfs --rounds $(CUTS) $(SEEDED)

damage: build
	SEGLOG_LONG=1 SEGLOG_SEED=$(SEED) $(BIN)/python -m pytest tests/crash/test_damage.py tests/crash/test_full_disk.py $(ARGS)

io: build
	$(BIN)/python -m tests.crash.faults.run --memory $(if $(CASES),--cases $(CASES)) $(SEEDED) $(ARGS)
	$(BIN)/python -m tests.crash.faults.run $(if $(CASES),--cases $(CASES)) $(SEEDED) $(ARGS)

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f src/engine/*.so src/engine/*.pyd src/engine/*.c
	find src tests bench -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# ---- the build ----------------------------------------------------------------------------------

build: $(VENV)/.built

$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	$(ALONE) $(BIN)/python setup.py -q build_ext --inplace
	@touch $@

# The engine is not compiled here: pip would do it in a temporary folder, all of it, each time.
# setup.py holds the flags, and nothing compares those with what was built by others: start again.
$(VENV)/.installed: $(VENV)/.made pyproject.toml setup.py
	if [ setup.py -nt $@ ]; then $(ALONE) rm -rf build; fi
	SEGLOG_BUILD=none $(BIN)/python -m pip install -q --no-build-isolation -e '.[dev]'
	@touch $@

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "seglog needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3"; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) -c 'import sys; print(sys.executable, sys.version.split()[0])')"
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv python3-dev"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; p = sysconfig.get_paths()["include"] + "/Python.h"; os.path.exists(p) or sys.exit(1)' || { \
		echo "$(PYTHON) has no Python.h. On Debian and Ubuntu: apt install python3-dev and a C compiler"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q 'setuptools>=77' 'Cython>=3.1'
	@touch $@

# ---- the other profiles -------------------------------------------------------------------------
# Each is a whole copy of the package under build/<profile>/package, put in front of the installed one.

PROFILES := debug asan tsan trace

$(PROFILES:%=build/%/.built): build/%/.built: $(VENV)/.installed $(SOURCES) FORCE
	@mkdir -p build/$*/package && find build/$*/package -name '*.py*' -delete
	$(ALONE) env SEGLOG_BUILD=$* $(BIN)/python setup.py -q build --build-lib build/$*/package

.PHONY: FORCE
FORCE:

OVER = SEGLOG_BUILD=$(1) PYTHONPATH=$(CURDIR)/build/$(1)/package
LIB  = $$($(CC) -print-file-name=$(1))

debug: build/debug/.built
	$(call OVER,debug) $(BIN)/python -m pytest $(ARGS)

asan: build/asan/.built
	$(call OVER,asan) LD_PRELOAD="$(call LIB,libasan.so) $(call LIB,libstdc++.so)" PYTHONMALLOC=malloc \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	$(BIN)/python -m pytest --capture=sys $(ENGINE_TESTS) $(ARGS)

# Polars brings an allocator whose own threads TSAN does not survive.
tsan: build/tsan/.built
	$(call OVER,tsan) _RJEM_MALLOC_CONF=background_thread:false LD_PRELOAD="$(call LIB,libtsan.so)" PYTHONMALLOC=malloc \
	TSAN_OPTIONS=halt_on_error=1:report_signal_unsafe=0:die_after_fork=0 \
	$(BIN)/python -m pytest --capture=sys $(ENGINE_TESTS) $(ARGS)

coverage: build/trace/.built
	$(call OVER,trace) $(BIN)/coverage run -p -m pytest $(ARGS)
	$(BIN)/coverage combine -q && $(BIN)/coverage report

# ---- what mypy reads ----------------------------------------------------------------------------
# mypy cannot follow an editable install, and finds packages as folders: here is one, of links.

types:
	@rm -rf build/typing && mkdir -p build/typing/seglog
	@cd build/typing/seglog && for path in ../../../src/pyapi/*; do \
		case $$path in */__pycache__) ;; *) ln -s $$path . ;; esac; done && ln -s ../../../src/engine engine
