# `make run` and `make test` work as the first command in a clone: each creates the environment if needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# uv is faster than pip, but does not read pip's configuration, so pass it the same sources. Like pip,
# it compiles modules: if the environment is read-only, every process would compile them again.
UV = env $$($(PIP) config list | sed -nE "s/^.*\.index-url='(.*)'/UV_DEFAULT_INDEX=\1/p; \
  s/^.*\.extra-index-url='(.*)'/UV_INDEX=\1/p; s/^.*\.find-links='(.*)'/UV_FIND_LINKS=\1/p; \
  s/^.*\.cert='(.*)'/SSL_CERT_FILE=\1/p") \
  $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python
WHEELS := dist
RUNS := $(VENV)/.runs
TESTS := $(VENV)/.tests

.PHONY: setup setup-tests run run-all run-longer test test-slow test-chaos check docs gpu bench bench-data bench-memory bench-serve wheel lock clean

setup: $(RUNS)

setup-tests: $(TESTS)

# pip installs torch, because the user's pip configuration decides between CUDA and CPU builds.
$(RUNS): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is %d.%d; name one with PYTHON=" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	-$(PIP) install uv
	$(PIP) install -c constraints.txt $$($(BIN)/python -c 'import tomllib; print(*(x for x in tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["train"] if x.startswith("torch")))')
	$(UV) -c constraints.txt -e '.[pipeline,serving]' || $(PIP) install -c constraints.txt -e '.[pipeline,serving]'
	$(BIN)/python -m compileall -q albef flows pipelines # for environments where Python writes no cache
	-$(BIN)/prefect server database upgrade --yes >/dev/null # or else the first run waits for it
	-$(BIN)/albef run --dry >/dev/null # warms the caches for the first run
	@touch $@

$(TESTS): $(RUNS)
	$(UV) -c constraints.txt -e '.[dev]' || $(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

run: setup
	$(BIN)/albef run

run-all: setup
	$(BIN)/albef run --preset all-tasks

run-longer: setup
	$(BIN)/albef run --preset longer

# Tests share the cores with each other and with their child processes, so waiting threads must yield.
test test-slow test-chaos: export OMP_WAIT_POLICY = passive

test: setup-tests
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: setup-tests
	ALBEF_FUZZ=200 $(BIN)/python -m pytest -m 'slow or hypothesis'

test-chaos: setup-tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m chaos tests/chaos

check: setup-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --noconftest tests/test_house.py tests/test_prose.py

# build/site/index.html; a warning is an error. Its pages link to the repository that git names `origin`.
docs: export REPO_URL = $(shell git remote get-url origin 2>/dev/null | \
  sed -nE 's,^(https?://|(ssh://)?git@)([^@/]*@)?([^:/]+)[:/](.*),https://\4/\5,; s,\.git$$,,; /^https:/p')
docs: setup-tests
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

bench: setup
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.step --size paper --rounds 3
	$(BIN)/python -m benchmarks.ranking --rounds 3
	$(BIN)/python -m benchmarks.loader

# On a machine with a GPU: checks and measures what only a GPU can show.
gpu: setup-tests
	$(BIN)/python -m benchmarks.gpu

bench-data: setup
	$(BIN)/python -m benchmarks.ingest

# infinity, the server to compare with, has its own pins. Without it, the benchmark says so.
build/infinity/bin/infinity_emb:
	$(PYTHON) -m venv build/infinity
	-build/infinity/bin/python -m pip install --quiet --disable-pip-version-check \
	  'infinity_emb[optimum,server]==0.0.78' 'transformers<4.49' 'optimum<1.25'

bench-memory: setup
	$(BIN)/python -m benchmarks.state --rounds 5
	$(BIN)/python -m benchmarks.index

bench-serve: setup build/infinity/bin/infinity_emb
	$(BIN)/python -m benchmarks.serving

# dist/albef_pipeline-VERSION-py3-none-any.whl, for machines without a clone. Equal code gives equal bytes.
wheel:
	rm -rf $(WHEELS)/albef_pipeline-*.whl build/lib build/wheel && $(PYTHON) -m venv build/wheel
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) build/wheel/bin/python -m pip wheel --quiet --no-deps --wheel-dir $(WHEELS) .
	rm -rf build/lib build/wheel

# Renews the pins. torch and torchvision stay ranges, because their builds differ between machines.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check '.[dev]'
	build/lock/bin/python -m pip freeze --exclude albef-pipeline \
	  | grep -viE '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)(==| @)' > constraints.txt
	sed -i 's/^onnxruntime-gpu\(.*\)/onnxruntime\1\n&/' constraints.txt # the extra cpu gets the same version
	rm -rf build/lock

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .prefect .albef
