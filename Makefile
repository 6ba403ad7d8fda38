PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
RUN    := $(VENV)/bin/python
PIP    := $(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/installed  ## install, then play 60 nights of a simulated card bank on SQLite (data/dev.db)
	@$(RUN) -m demo

test: lint  ## install, then run the linter, the type checker and every quick test
	@$(RUN) -m pytest -q -n 2 --dist worksteal -m "not slow and not databases"

test-databases: $(VENV)/installed-dev  ## the same tests on PostgreSQL, and on a SQL Server if one is named
	@$(RUN) -m pytest -q -n 2 --dist worksteal -m "databases and not slow"

test-slow: $(VENV)/installed-dev  ## the tests that repeat experiments many times (a few minutes)
	@$(RUN) -m pytest -q -n 2 --dist worksteal -m slow

test-faults: $(VENV)/installed-dev  ## kills at each statement and file operation, a year with kills, bad inputs; prints the figures (hours)
	@$(RUN) -m tests.faults

bench: $(VENV)/installed-dev  ## speed and memory beside peers, small sizes (under ten minutes on an idle machine)
	@set -e; for name in startup threads metrics sql predict train score recall scale; do $(RUN) -m bench.$$name; echo; done

bench-full: $(VENV)/installed-dev  ## the same at the sizes of README's table (hours)
	@set -e; for line in \
	    "startup" "threads --fits 5" "metrics" "sql --rows 1000000" \
	    "predict" "predict --rows 1000000 --n-jobs 1 2" "predict --rows 10000000 --turns 1" \
	    "train --turns 3" "train --rows 500000 --turns 3" "score --nights 365" \
	    "recall --rows 500000" "scale --rows 1000000 --turns 3" \
	    $(if $(URL),"predict --rows 1000000 --url $(URL)" "scale --rows 1000000 --url $(URL)"); do \
	    $(RUN) -m bench.$$line; echo; done

lint: $(VENV)/installed-dev  ## linter and type checker alone
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

lock: $(VENV)/installed-dev  ## compile requirements*.lock anew from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --universal --generate-hashes --no-header -q -o requirements.lock
	uv pip compile pyproject.toml --universal --generate-hashes --no-header -q --extra dev -c requirements.lock -o requirements-dev.lock

clean:  ## remove the virtual environment and the caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# A stamp is written only when its installation is complete, so a killed one starts again.
$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "abatch needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/installed: requirements.lock | $(VENV)/python
	@echo "Installing requirements.lock (about a minute)"
	@$(PIP) -r requirements.lock
	@touch $@

$(VENV)/installed-dev: requirements-dev.lock | $(VENV)/installed
	@echo "Installing requirements-dev.lock"
	@$(PIP) -r requirements-dev.lock
	@touch $@

.PHONY: help demo test test-databases test-slow test-faults bench bench-full lint lock clean
