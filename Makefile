# Each target makes what it needs: a virtual environment with the locked packages, and the system packages that
# its work wants. Both are remembered by stamps in the environment, so the second time they cost nothing.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
COMPILED := build/compiled
ARGS ?=
# The files with tests of a mark, which is always written out: collecting all 5,000 takes each process seconds.
marked = $$(grep -rlF --include='*.py' pytest.mark.$(1) tests)
unexport PYTHONDONTWRITEBYTECODE  # tests start hundreds of processes: each would compile all that it imports

.PHONY: help demo test check explore static compiled lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(INSTALLED) ## serve a real OCR model through a surge and write a report; ARGS="--seconds 30" is passed on
	@.ci/system-packages font
	$(BIN)/steelyard demo $(ARGS)

test: static ## everything that CI runs: format, lint, types, layers and all tests
	@.ci/system-packages font browser
	$(BIN)/pytest -q --hypothesis-profile=ci -n logical --dist worksteal -m "not slow"
	@# Servers start processes on all cores, and mostly wait for them: two at a time, however many cores there are.
	$(BIN)/pytest -q --hypothesis-profile=ci -n 2 --dist worksteal -m "slow and not alone" $(call marked,slow)
	$(BIN)/pytest -q --hypothesis-profile=ci -m alone $(call marked,alone)

check: static ## the same with the fast tests only; under two minutes
	$(BIN)/pytest -q --hypothesis-profile=ci -n logical -m "not slow and not long"

explore: $(INSTALLED) ## the property tests with other random inputs each time; `make test` repeats its own
	$(BIN)/pytest -q -n logical $(ARGS) tests/property

static: $(INSTALLED) ## format, lint, types and layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

compiled: $(INSTALLED) ## compile what setup.py lists in an environment of its own; the fast tests on that
	rm -rf build
	$(BIN)/python -m venv $(COMPILED)
	$(COMPILED)/bin/python -m pip install --quiet --require-hashes -r requirements.lock
	STEELYARD_COMPILE=1 $(COMPILED)/bin/python -m pip install --quiet --no-deps .
	@cd $(COMPILED) && bin/python -c 'import steelyard.core.service as m; assert m.__file__.endswith(".so"), m.__file__'
	$(COMPILED)/bin/pytest -q tests/contract/test_import_order.py
	$(COMPILED)/bin/pytest -q -m "not slow and not long"

lock: $(INSTALLED) ## write requirements.lock anew from pyproject.toml
	@uv=$$(command -v uv || echo $(BIN)/uv); [[ -x $$uv ]] || $(BIN)/pip install --quiet uv; \
	$$uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --upgrade \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet \
	    --output-file requirements.lock

clean: ## remove the environment, caches, builds and results
	rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache src/*.egg-info
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock pyproject.toml
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	    if $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        [[ -x $(BIN)/python ]] || $$python -m venv $(VENV); break; \
	    fi; \
	done; \
	[[ -x $(BIN)/python ]] || { echo "make: no Python >= 3.11 with venv found (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $@
