# Each target first makes the virtual environment that it needs; only Python and make are assumed.
SHELL := bash
.SHELLFLAGS := -o pipefail -c

PYTHON ?= python3
VENV ?= .venv
# The demo takes any build of this version: a wheel for the CPU spares gigabytes. See CONTRIBUTING.md.
TORCH ?= torch==2.13.0
# The tests trace models of torchvision, which fits one version of torch only.
TORCH_DEV ?= $(EXACTLY) $(LOCKS)/torch.txt
TORCH_LOCKED := torch==2.14.1 torchvision==0.29.1

LOCKS := tests/locks
EXACTLY := --no-deps --require-hashes --requirement
INSTALL := -m pip --disable-pip-version-check install --quiet --quiet
BIN := $(VENV)/bin
# What `check` runs, and `test` need not run again: they look at every source.
CHECKED := tests/test_layers.py tests/test_style.py tests/test_imports.py

.PHONY: help demo test test-all test-latest test-oldest check bench fuzz format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)-demo/.demo ## train two networks, align them, and show the barrier vanish (a few minutes)
	$(VENV)-demo/bin/python tests/demo/demo.py

test: $(VENV)/.dev ## the quick tests
	$(BIN)/python -m pytest -n 2 $(CHECKED:%=--ignore=%)

test-all: $(VENV)/.dev ## every test; those that need a GPU are skipped where there is none
	$(BIN)/python -m pytest -n 2 -m ""

test-latest: $(VENV)-latest/bin/python ## the quick tests with the newest version of every package
	$< $(INSTALL) --upgrade --upgrade-strategy eager --editable '.[dev]'
	$< -m pytest -n 2

test-oldest: $(VENV)-oldest/.oldest ## the quick tests with the oldest versions that pyproject.toml allows
	$(VENV)-oldest/bin/python -m pytest -n 2

check: $(VENV)/.dev ## formatting, lint, types, layers, style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 $(CHECKED)

bench: $(VENV)/.dev ## the short form of every benchmark
	@for script in tests/benchmarks/*.py; do \
		echo "== $$script"; $(BIN)/python "$$script" || exit 1; \
	done

fuzz: $(VENV)-fuzz/atheris ## feed 20,000 inputs that coverage chooses to each reader of files
	@for name in safetensors torch index pieces config spec expression permutation words statistics journal list stdin; do \
		echo "== $$name"; PYTHONPATH=$(VENV)-fuzz $(BIN)/python -m tests.fuzz.guided $$name || exit 1; \
	done

format: $(VENV)/.dev ## rewrite the sources in the house format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: $(VENV)-lock/bin/uv ## choose the versions in tests/locks anew: the newest, and the oldest
	printf '%s\n' $(BACKEND) $(TORCH) | $(COMPILE) --extra demo | \
		$(SPLIT) torch=/dev/null rest=$(LOCKS)/demo.txt
	printf '%s\n' $(BACKEND) $(TORCH_LOCKED) | $(COMPILE) --extra dev | \
		$(SPLIT) torch=$(LOCKS)/torch.txt rest=$(LOCKS)/dev.txt
	printf '%s\n' $(BACKEND) | $(COMPILE) --extra dev --resolution lowest-direct \
		> $(LOCKS)/oldest.txt

# What an editable install needs, since no environment for the build is made: it would not be locked.
BACKEND := 'hatchling>=1.27' 'editables>=0.5'
COMPILE = $< --quiet pip compile --universal --python-version 3.10 --generate-hashes \
	--no-annotate --no-header pyproject.toml -
# PyTorch and what comes with it into one file, everything else into another: see CONTRIBUTING.md.
SPLIT := awk '/^[^ ]/ { file = /^(torch|triton|nvidia-|cuda-)/ ? torch : rest } { print > file }'

$(VENV)-fuzz/atheris: | $(VENV)/.dev
	$(BIN)/python $(INSTALL) --target $(VENV)-fuzz 'atheris>=3.0'

clean: ## remove what the other targets made, except the environments
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find rebasin_cli tests -name __pycache__ -type d -prune -exec rm -rf {} +

%/bin/python:
	$(PYTHON) -m venv $*

# The oldest Python there is. pyenv's commands answer only where the variable names their version.
$(VENV)-oldest/bin/python: PYTHON = $(shell for name in python3.10 python3.11 python3.12 python3; do \
	PYENV_VERSION=$${name#python} $$name -c 'import sys; print(sys.executable)' 2>/dev/null && break; done)

$(VENV)-lock/bin/uv: | $(VENV)-lock/bin/python
	$(@D)/python $(INSTALL) uv

# A stamp is newer than the lock files exactly when the environment has what they list.
$(VENV)/.dev: $(LOCKS)/dev.txt $(LOCKS)/torch.txt pyproject.toml | $(VENV)/bin/python
	$(call install,$(TORCH_DEV))
$(VENV)-demo/.demo: $(LOCKS)/demo.txt pyproject.toml | $(VENV)-demo/bin/python
	$(call install,$(TORCH))
$(VENV)-oldest/.oldest: $(LOCKS)/oldest.txt pyproject.toml | $(VENV)-oldest/bin/python
	$(call install)

define install
$(@D)/bin/python $(INSTALL) $(EXACTLY) $<
$(if $(1),$(@D)/bin/python $(INSTALL) $(1))
$(@D)/bin/python $(INSTALL) --no-deps --no-build-isolation --editable .
@touch $@
endef
