# Everything runs from one virtual environment in .venv, made from python3 and constraints.txt.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
# Processes that run tests; files are never split between them.
TEST_JOBS ?= 2
DEMO_ARGS ?=
# Emulated CPU models: Raspberry Pi 4, 5, and 32 bit.
ARM_CPUS ?= cortex-a72 cortex-a76 cortex-a7

.PHONY: help setup demo test test-arm lint format clean

help: ## show this list
	@echo "edgeaudio: turn a large audio model into a tiny one and run it where the sound is"
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | while IFS=@ read -r target text; do \
		printf '%-16s %s\n' "$$target" "$$text"; done
	@echo
	@echo "  make setup PYTHON=python3.12     another interpreter (3.11 or newer)"
	@echo "  make test PYTEST_ARGS='-m \"not slow\"'    part of the suite"
	@echo "  make test-arm EDGEAUDIO_BUNDLE=x.eab     your own bundle too"

setup: $(STAMP) ## install into .venv; at once when nothing changed

# The native front-end is compiled on the way where there is a C compiler, so its sources count.
NATIVE := $(wildcard setup.py edgeaudio/frontend/native/*.[ch])

# torch and litert-torch must be resolved in one pip command: step by step pip breaks typing-extensions.
$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@command -v $(PYTHON) >/dev/null || { \
		echo "'$(PYTHON)' is not on PATH. Install Python 3.11 or newer, or run: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "edgeaudio needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Run: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu install python3-venv first." >&2; exit 1; }
	@echo "installing into $(VENV): about 2.4 GB, a few minutes the first time" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	@$(BIN)/python -c 'import edgeaudio.frontend.native._logmel' 2>/dev/null || { \
		echo "the native front-end was not built (no C compiler, or no Python headers): numpy computes log-mel." >&2; \
		echo "To build it: install gcc and python3-dev, then touch setup.py and make setup" >&2; }
	@touch $@

demo: setup ## the whole pipeline on the built-in dataset, a few minutes on 2 cores
	@$(BIN)/edgeaudio demo $(DEMO_ARGS)

test: lint ## every check: ruff, mypy, import rules, all tests
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile $(PYTEST_ARGS)

# Debian or Ubuntu; root only where qemu-user is not installed yet. gcc-aarch64-linux-gnu and gcc-arm-linux-gnueabihf, where
# they are, compile the front-end in C for the guests; without them its tests say so and are skipped.
test-arm: setup ## the runtime on emulated ARM, 64 and 32 bit; sets QEMU and the guests up (400 MB, cached)
	$(BIN)/python -m edgeaudio.bench.emulation $(ARM_CPUS)
	EDGEAUDIO_BUNDLE='$(EDGEAUDIO_BUNDLE)' $(BIN)/python -m pytest -m arm $(PYTEST_ARGS) tests/arm

lint: setup ## the checks that run nothing: ruff, mypy, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and build output; keeps .venv and your work directories
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis lightning_logs
	@find . -path ./$(VENV) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
