# make demo       demo: synthetic study, real server, complete active learning loop, table and report.html
# make test       tests; make test-unit: only those without a server, browser, PACS or long training
# make docs       generated reference pages and tables of results
# make check      all checks of CI
# Each target first creates the virtual environment .venv and installs the package, if necessary.
# Arguments of the demo: make demo ARGS="--keep"; of pytest: make test ARGS="tests/sam"

VENV    := .venv
BIN     := $(VENV)/bin
# First of these that is Python 3.10 to 3.12; the host does not support later versions.
PYTHON  ?= $(firstword $(foreach p,python3.11 python3.12 python3.10 python3,$(shell $(p) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null && echo $(p))))
# Two processes with one thread each: half of the tests wait for servers and imports, and more threads than cores are slow.
# Compiled tests are cached, also if the environment disables it: without, pytest takes 8 s per process to rewrite asserts.
PYTEST  := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
SOURCES := $(shell find lib apps configs -name '*.py' -o -name '*.yaml' -o -path '*/templates/*' -o -path '*/static/*' -o -name '*.js' -o -name '*.html' -o -name 'README.md') setup.cfg setup.py pyproject.toml README.md

.PHONY: setup demo test test-unit test-all lint types docs check bench clean

demo: setup
	$(BIN)/samstudent demo $(ARGS)

test: setup
	$(PYTEST) $(ARGS)

# Without tests that start a server, a browser or a PACS, or have a long training.
test-unit: setup
	$(PYTEST) -m "not slow and not server and not training" $(ARGS)

test-all: setup
	$(PYTEST) -m "" $(ARGS)

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

types: setup
	$(BIN)/mypy

# Pages that are generated from the code. CI fails if the committed pages differ.
docs: setup
	$(BIN)/python docs/generator
	$(BIN)/python benchmarks/tables.py

check: lint types docs test

bench: setup
	$(BIN)/python benchmarks/refinement.py

setup: $(VENV)/.installed

# Separate from the package: dependencies change rarely and take minutes, the package changes often and takes seconds.
$(VENV)/.dependencies: setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "samstudent needs Python 3.10, 3.11 or 3.12; none was found. Set PYTHON=/path/to/python."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on ".[test]"
	touch $@

# Regular installation, not editable: the tests then also cover the packaging.
$(VENV)/.installed: $(VENV)/.dependencies $(SOURCES)
	rm -rf build lib/*.egg-info
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall .
	touch $@

clean:
	rm -rf $(VENV) build lib/*.egg-info demo .pytest_cache .mypy_cache .ruff_cache
