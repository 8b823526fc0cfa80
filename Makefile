# Needs Python >= 3.11 with pip, and make. Everything is installed into $(VENV), nothing outside it.
# Another interpreter: make PYTHON=python3.12 ...; another place: make VENV=/tmp/venv ...

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n 2 -m "not slow and not live"
SMOL := $(or $(SMOL_DIR),.cache/smol)/venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help quickstart results install test test-live slow docs minimal lock locked lint format check coverage clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

quickstart: $(VENV)/.installed-run  ## train a router, evaluate it, draw its frontier: runs/quickstart/
	$(BIN)/routegym train --out runs/quickstart

results: $(VENV)/.installed-dev  ## every router side by side, on every shipped recording: runs/bench-*/
	$(BIN)/routegym bench --env routegym/AgentSteps-v0
	$(BIN)/routegym bench --env routegym/Cascade-v0
	$(BIN)/routegym bench --env routegym/SingleCall-v0
	$(BIN)/routegym bench --env routegym/Cascade-v0 --recording smol_cascade --steps 200000
	$(BIN)/routegym bench --env routegym/SingleCall-v0 --recording smol_single_call --steps 200000

install: $(VENV)/.installed-dev  ## everything: all extras and the development tools, editable

test: $(VENV)/.installed-dev  ## the whole test suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-live: $(VENV)/.installed-dev  ## serve two small language models with vLLM, in an environment of its own, and test on them
	bash scripts/serve_smol.sh
	$(BIN)/python -m pytest tests/live -m live
	bash scripts/serve_smol.sh --stop
	$(SMOL)/bin/python -m uv pip install --quiet --python $(SMOL)/bin/python --editable ".[live]" \
	    hypothesis pytest pytest-randomly pytest-socket pytest-timeout
	$(SMOL)/bin/python -m pytest tests/pool/test_vllm.py -m live

slow: $(VENV)/.installed-dev  ## the tests that take minutes each
	$(BIN)/python -m pytest -n 2 -m slow

docs: $(VENV)/.installed-dev  ## the site, into site/: every link is checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lint: $(VENV)/.installed-dev  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

minimal:  ## the wheel in an environment of its own, without extras
	rm -rf $(VENV)-minimal build  # setuptools would pack stale files of build/
	$(MAKE) --no-print-directory VENV=$(VENV)-minimal $(VENV)-minimal/.created
	$(VENV)-minimal/bin/python -m pip --disable-pip-version-check install --quiet .
	rm -rf build
	cd $(VENV)-minimal && bin/python $(CURDIR)/scripts/check_minimal.py

lock: $(VENV)/.installed-dev  ## requirements.lock anew: one version of every package of [all], and the hashes of its files
	UV=$(BIN)/uv bash scripts/lock.sh --upgrade

locked: $(VENV)/.torch  ## routegym with the versions of requirements.lock, each file checked by its hash
	$(PIP) install --require-hashes --no-deps --requirement requirements.lock
	$(PIP) install --no-deps .
	$(PIP) check

check: lint minimal test  ## what CI runs, in its order

coverage: $(VENV)/.installed-dev  ## the test suite with a table of untested lines
	$(BIN)/python -m pytest $(PYTEST_ARGS) --cov --cov-report=term

clean:  ## remove the environment, builds and caches; runs/ stays
	rm -rf $(VENV) $(VENV)-minimal build dist *.egg-info .coverage* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "routegym needs Python >= 3.11, and $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	    echo "Name another interpreter: make PYTHON=python3.12 ..."; exit 1; }
	@# Debian and Ubuntu split ensurepip off into python3-venv; pip itself can fill such an environment.
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	    $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	    $(PYTHON) -m pip --python $(BIN)/python install pip; }
	@touch $@

$(VENV)/.torch: scripts/install_torch.sh | $(VENV)/.created
	@bash scripts/install_torch.sh $(BIN)/python
	@touch $@

$(VENV)/.installed-run: pyproject.toml $(VENV)/.torch
	$(PIP) install --editable ".[train,plots,fast]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.torch
	$(PIP) install --editable ".[all,dev]"
	@touch $@ $(VENV)/.installed-run
