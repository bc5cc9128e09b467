# MRVPN: every target sets up what it needs. `make demo` and `make test` are the two to know.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help

.PHONY: help venv demo test lint soak fuzz bench lab lab-down clean

help:                ## these lines
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

venv: $(VENV)/.done  ## .venv with everything the other targets need, Debian packages and the country database
$(VENV)/.done: pyproject.toml lab/setup
	@mkdir -p .cache; date +%s > .cache/setup.start
	@PYTHON=$(PYTHON) lab/setup
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "install python3-venv (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[salt,daemon,test,lint,bench]'
	@echo "{\"seconds\": $$(( $$(date +%s) - $$(cat .cache/setup.start) ))}" > .cache/setup.json
	@touch $@

demo: venv           ## the main job: builds the VPN on this machine out of real parts and proves it
	@$(BIN)/python -m lab demo

test: venv lint      ## all tests; lists what it left out and why, a failure under CI=true
	@failed=0; \
	$(BIN)/python -m pytest --durations 15 --ignore tests/lab -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder || failed=1; \
	$(BIN)/python -m pytest --durations 15 tests/lab || failed=1; \
	exit $$failed

lint: venv           ## ruff, mypy, salt-lint, yamllint, import boundaries
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/yamllint --strict .
	@find salt reactor -name '*.sls' -print0 | xargs -0 -r $(BIN)/salt-lint

soak: venv           ## the lab's trouble many times over: killed applies, every kind of boot; the day's work of operations.md
	@MRVPN_SOAK=$${SOAK:-20} $(BIN)/python -m pytest tests/lab/test_4_crashes.py tests/lab/test_5_interrupted.py tests/lab/test_8_quickstart.py

fuzz: venv           ## hostile bytes into every parser, FUZZ cases each (default 20000), guided by coverage
	@MRVPN_FUZZ=$${FUZZ:-20000} $(BIN)/python -m pytest -q tests/fuzz
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: 'atheris>=3' || true
	@$(BIN)/python -m tests.fuzz -runs=$${FUZZ:-20000}

bench: venv          ## the figures, as ratios side by side, into bench/results/latest.json
	@$(BIN)/python -m bench

lab: venv            ## the lab up, keys made; `.venv/bin/python -m lab --help`
	@$(BIN)/python -m lab up

lab-down: venv       ## the lab down, also after a crash
	@$(BIN)/python -m lab down

clean: lab-down      ## the lab down, caches and .venv away
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
