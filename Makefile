# `make demo` to look, `make run` to use, `make test` before a commit. Works as root in a container.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help run demo test lint bench bench-refresh chaos lock

# What is started again and again shall not be compiled each time.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
PORT ?= 8000
WHOLE ?=  # WHOLE=--whole: every test on PostgreSQL too, which takes ten minutes more
BIN := .venv/bin
LINT := .venv/lint/bin
PIP := $(BIN)/pip install -qq --disable-pip-version-check --require-hashes

help:
	@echo "make demo    the gateway with a sample provider and MCP server, ready to try"
	@echo "make run     the gateway alone, on http://127.0.0.1:$(PORT)"
	@echo "make test    everything that is checked; installs what that needs"
	@echo "make lint    the quick part of it: style, types, and what looks for mistakes"
	@echo "make bench   the gateway against a bare proxy, side by side"
	@echo "make chaos   two nodes and twenty people, while everything breaks that can"
	@echo "make bench-refresh  stored tokens at a provider that forgives nothing, beside the naive way"
	@echo "make lock    pin the newest packages that pyproject.toml allows"

# --- install: once, and again when the pins change -------------------------------------------

.venv/run: requirements.txt
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@echo "Installing what the gateway needs into .venv"
	@$(PIP) -r $<
	@touch $@

.venv/dev: requirements-dev.txt
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@echo "Installing what the tests need into .venv"
	@$(PIP) -r $<
	@touch $@ .venv/run

.venv/lint/stamp: tests/lint/requirements.txt
	@[ -x $(LINT)/python ] || $(PYTHON) -m venv .venv/lint
	@echo "Installing what looks for mistakes into .venv/lint"
	@$(LINT)/pip install -qq --disable-pip-version-check --require-hashes -r $<
	@touch $@

.rigs/stamp: $(wildcard tests/e2e/rigs/setup tests/e2e/rigs/requirements*.txt tests/e2e/rigs/package*.json)
	@echo "Installing the servers and clients that the tests talk to into .rigs"
	@tests/e2e/rigs/setup .rigs
	@touch $@

# --- run ------------------------------------------------------------------------------------------

# Made once. Whoever loses it loses what the database holds under it: keep a copy.
instance/secrets.env: | .venv/run
	@mkdir -p instance && chmod 700 instance
	@( umask 077; $(BIN)/python -c 'from secrets import token_urlsafe as make; \
	  print(f"SECRET_KEY={make(32)}\nAUTH_ENCRYPTION_SECRET={make(32)}")' > $@ )

run: export BIND ?= 127.0.0.1:$(PORT)
run: export PUBLIC_URL ?= http://127.0.0.1:$(PORT)
run: .venv/run instance/secrets.env
	@set -a; source instance/secrets.env; set +a; exec $(BIN)/gunicorn wsgi:app

demo: .venv/run
	@exec $(BIN)/python -m demo --port $(PORT)

# --- check -----------------------------------------------------------------------------------------

lint: .venv/dev .venv/lint/stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(LINT)/bandit -q -r app -ll
	$(LINT)/semgrep scan --quiet --metrics=off --disable-version-check --error --config tests/semgrep.yml app templates
	tests/lint/secrets

test: lint .rigs/stamp
	@.ci/needs chromium postgresql nginx-light curl faketime
	$(BIN)/python -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -q -n auto --dist worksteal --ignore tests/e2e --database postgresql $(WHOLE)

bench: .venv/run
	@.ci/needs wrk gcc
	$(BIN)/python -m benchmarks

bench-refresh: .venv/dev
	@.ci/needs postgresql
	$(BIN)/python -m benchmarks.refresh

chaos: .venv/dev
	@.ci/needs postgresql
	$(BIN)/python -m tests.chaos

# --- pins: read the difference before you commit it ---------------------------------------------

lock:
	@.ci/lock $(PYTHON)
