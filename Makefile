# Each target makes its own virtual environment and installs what it needs; repeated runs install nothing.
#   make demo [DURATION=30]     a live replica of an embedded PostgreSQL: no root, no Docker, no system packages
#   make test [ARGS="-k slot"]  the tests, against real servers
#   make test-all               the same on every version of the servers, with loads of a minute
#   make bench [ARGS="--quick"] the engine beside its peers
#   make lint                   ruff and mypy

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --root-user-action=ignore
ARGS ?=
DURATION ?=
# Test processes side by side; each has servers of its own, and waits for them much of the time. Tests that share what is
# dear to set up run in one of them (`tests/support/scheduling.py`).
WORKERS ?= 4

.DEFAULT_GOAL := help
.PHONY: help demo test test-all bench lint format servers clean

help:
	@sed -n '2,6s/^# *//p' $(firstword $(MAKEFILE_LIST))

$(VENV)/.made:
	@.ci/venv $(PYTHON) $(VENV)
	@touch $@

# The demo's stamp is older than the developers': what they install covers the demo.
$(VENV)/.demo: $(VENV)/.made pyproject.toml
	@echo "installing reflex-engine into $(VENV) (once)"
	@$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml
	@echo "installing reflex-engine and its development tools into $(VENV) (once)"
	@$(PIP) --editable '.[demo,aws,dev]'
	@touch $(VENV)/.demo $@

# A version that cannot be had is a skipped test on a developer's machine, and a failure under CI=true.
servers: $(VENV)/.dev
	@$(BIN)/python -m tests.support.fetch_servers || [ "$$CI" != true ]

demo: $(VENV)/.demo
	@$(BIN)/reflex-engine demo $(if $(DURATION),--duration $(DURATION)) $(ARGS)

test: servers
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-all: servers
	@REFLEX_SOAK=60 $(BIN)/python -m pytest -n $(WORKERS) --everything $(ARGS)

bench: servers
	@$(BIN)/python -m benchmarks $(ARGS)

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .servers .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
