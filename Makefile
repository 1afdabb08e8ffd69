# make demo   the main job: synthetic study, real server, the whole loop, a table and report.html
# make test   the tests; make test-unit: those that take no server
# make docs   the reference pages that are written from the program
# Both set up what is missing: a virtual environment in .venv and the installation into it.
# Arguments for the demo: make demo ARGS="--keep"

VENV    := .venv
BIN     := $(VENV)/bin
# The first of these that is Python 3.10 to 3.12: the host cannot run on later ones.
PYTHON  ?= $(firstword $(foreach p,python3.11 python3.12 python3.10 python3,$(shell $(p) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null && echo $(p))))
# Two processes of one thread each: half of the tests wait for servers and imports, and threads that share cores crawl.
# Compiled tests are kept, also where the environment says otherwise: pytest rewrites their asserts in 8 s a process.
PYTEST  := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
SOURCES := $(shell find lib apps configs -name '*.py' -o -name '*.yaml' -o -path '*/templates/*' -o -path '*/static/*' -o -name '*.js' -o -name '*.html' -o -name 'README.md') setup.cfg setup.py pyproject.toml README.md

.PHONY: setup demo test test-unit test-all lint types docs check bench clean

demo: setup
	$(BIN)/samstudent demo $(ARGS)

test: setup
	$(PYTEST) $(ARGS)

# Without what starts a server, a browser or a PACS, or trains for long.
test-unit: setup
	$(PYTEST) -m "not slow and not server and not training" $(ARGS)

test-all: setup
	$(PYTEST) -m "" $(ARGS)

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

types: setup
	$(BIN)/mypy

# Pages that are written from the program. CI fails where they are not those of the program.
docs: setup
	$(BIN)/python docs/generator
	$(BIN)/python benchmarks/tables.py

check: lint types docs test

bench: setup
	$(BIN)/python benchmarks/refinement.py

setup: $(VENV)/.installed

# Dependencies change seldom and take minutes; the package itself changes often and takes seconds.
$(VENV)/.dependencies: setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "samstudent needs Python 3.10, 3.11 or 3.12; none was found. Set PYTHON=/path/to/python."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on ".[test]"
	touch $@

# Installed as a user has it, not in editable mode: the tests then try the packaging too.
$(VENV)/.installed: $(VENV)/.dependencies $(SOURCES)
	rm -rf build lib/*.egg-info
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall .
	touch $@

clean:
	rm -rf $(VENV) build lib/*.egg-info demo .pytest_cache .mypy_cache .ruff_cache
