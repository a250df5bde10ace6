# lamina: every target does the set-up it needs by itself, from a bare clone.
#   make demo                 the whole program once, on the models that come with it
#   make test | make check    what .ci/run runs
# PYTHON chooses the interpreter of the new .venv (3.11 or newer).

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
TORCH = $(shell grep '^torch==' constraints.txt)
WORKERS ?= auto
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check models bench clean

help:  ## these lines
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## virtual environment .venv, pinned torch first, then the package

# torch comes first and alone: later installs find the pinned one in place and leave it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); lamina needs Python 3.11 or newer." >&2; \
	  echo "Name another one: make install PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing $(TORCH) (a large download the first time)"
	@$(PIP) install "$(TORCH)"
	@echo "installing lamina and what it needs"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@echo "compiling the kernels for this machine"
	@$(BIN)/python -c 'from lamina.weights.kernels import compile_all; compile_all()'
	@touch $@

demo: install  ## merge, forget, detect, rank, tune and measure the small models that come with lamina; writes runs/demo
	@$(BIN)/lamina demo

test: install  ## all tests
	@$(BIN)/python -m pytest -n $(WORKERS)

check: install  ## style, types and floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

models: install  ## train the demo's models again: make models DATA=folder
	@test -n "$(DATA)" || { echo "error: say where the texts are: make models DATA=folder" >&2; exit 2; }
	$(BIN)/python models/make.py --data "$(DATA)"

bench: install  ## the figures of docs/performance.md, side by side with peers
	$(BIN)/python bench/run.py

clean:  ## remove what the tools left; keeps .venv and runs
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +
