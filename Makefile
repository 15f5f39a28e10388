PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test torture check bench docs format floor newest

demo: $(VENV)/.installed
	$(BIN)/attrstore demo demo --force

test: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# TORTURE="--minutes 2 --kills 50 --seed 1" chooses. Writes the table of docs/reliability.md.
torture: $(VENV)/.installed
	$(BIN)/python -m tests.torture --write $(TORTURE)

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# ATTRSTORE_DATA and ATTRSTORE_BERGSON_PYTHON come from the environment; BENCH="--quick --only bm25" chooses.
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.suite $(BENCH)

docs: $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	$(BIN)/mkdocs build --strict

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The tests with the oldest versions that pyproject.toml allows, and with the newest; each in its own environment.
floor newest:
	$(PYTHON) -m venv .venv-$@
	.venv-$@/bin/python -m pip install --quiet --constraint .ci/$@.txt torch
	.venv-$@/bin/python -m pip install --quiet --constraint .ci/$@.txt --editable ".[dev]"
	.venv-$@/bin/python -m pytest

# torch comes first and pinned: an unpinned resolve takes gigabytes of CUDA packages.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): torch (about 200 MB), then the rest."
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@
