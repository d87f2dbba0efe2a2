# Each target first makes the virtual environment that it needs; only Python and make are assumed.
PYTHON ?= python3
VENV ?= .venv
# Installed before everything else, because a bare `torch` brings gigabytes of CUDA: see CONTRIBUTING.md.
TORCH ?= torch==2.13.0
# The tests trace models of torchvision, which fits one version of torch only.
TORCH_DEV ?= torch==2.14.1 torchvision==0.29.1

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: help demo test test-all check bench format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo ## train two networks, align them, and show the barrier vanish (about a minute)
	$(BIN)/python tests/demo/demo.py

test: $(VENV)/.dev ## the quick tests
	$(BIN)/python -m pytest -n 2

test-all: $(VENV)/.dev ## every test; those that need a GPU are skipped where there is none
	$(BIN)/python -m pytest -n 2 -m ""

check: $(VENV)/.dev ## formatting, lint, types, layers, style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py tests/test_style.py tests/test_imports.py

bench: $(VENV)/.dev ## the short form of every benchmark
	@for script in tests/benchmarks/*.py; do \
		echo "== $$script"; $(BIN)/python "$$script" || exit 1; \
	done

format: $(VENV)/.dev ## rewrite the sources in the house format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean: ## remove what the other targets made, except the environment
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find rebasin_cli tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A stamp is newer than pyproject.toml exactly when the environment has what that file asks for.
$(VENV)/.demo: PACKAGES = $(TORCH)
$(VENV)/.dev: PACKAGES = $(TORCH_DEV)
$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(PIP) $(PACKAGES)
	$(PIP) --editable '.[$*]'
	@touch $@
