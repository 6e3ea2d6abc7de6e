# `make run` and `make test` work as the first command in a clone: each makes the environment if needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: setup run run-all test test-slow check bench bench-data bench-serve lock clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is %d.%d; name one with PYTHON=" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: setup
	$(BIN)/albef run

run-all: setup
	$(BIN)/albef run --preset all-tasks

test: setup
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_house.py

bench: setup
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.step --size paper --rounds 3
	$(BIN)/python -m benchmarks.ranking --rounds 3
	$(BIN)/python -m benchmarks.loader

bench-data: setup
	$(BIN)/python -m benchmarks.urls
	$(BIN)/python -m benchmarks.ingest

bench-serve: setup
	$(BIN)/python -m benchmarks.serving

# Renews the pins. torch and torchvision stay ranges: their builds differ from machine to machine.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check '.[dev]'
	build/lock/bin/python -m pip freeze --exclude albef-pipeline \
	  | grep -viE '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)(==| @)' > constraints.txt
	rm -rf build/lock

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .prefect .albef
