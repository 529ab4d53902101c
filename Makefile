# All the set-up there is: `make demo` runs the main job, `make test` every check.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
CPU_TORCH := 2.13.0
CORES := $(shell $(PYTHON) -c 'import os; print(os.cpu_count() or 1)')
# Tests spend a third of their time waiting for the processes that they start.
TESTS_AT_ONCE := $(shell $(PYTHON) -c 'print(-(-3 * $(CORES) // 2))')
# Every test process, and every process that a test starts, would compile all its modules anew, and pytest all asserts.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo browser check quick test tests lint docs figures clean

# What compiles and measures kernels: installed where there is a GPU, and for the tests.
GPU := $(shell command -v nvidia-smi >/dev/null && echo '[gpu]')

# A host's own torch is used where it has one, so that a GPU machine keeps the build made for it.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@echo "Setting up $(VENV): half a minute, or some minutes where torch is not there and a GPU is."
	@test -x $(BIN)/python || $(PYTHON) -m venv $$($(PYTHON) -c 'import torch' 2>/dev/null && echo --system-site-packages) $(VENV)
	@$(BIN)/python -m pip install --quiet --no-compile --editable '.$(GPU)'
	@touch $@

# Without a torch this version comes first: plain "torch" would pull several GB of CUDA packages that no test needs.
$(READY): $(INSTALLED)
	@echo "Adding what the tests need to $(VENV): a few minutes, 3 GB in all."
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet torch==$(CPU_TORCH)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' # which knows groups of dependencies
	@$(BIN)/python -m pip install --quiet --editable '.[gpu]' --group dev
	@touch $@

# On the GPU if there is one, else on the bundled recordings: tune, search exhaustively, compare.
demo: $(INSTALLED)
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh benchmarks/demo.sh

# A Chromium for the tests that look at pages, unless the machine has one.
browser: $(READY)
	@$(BIN)/python tests/browser.py

# What takes three minutes: while something is being changed. Tests that start processes are left to `make test`.
# Linters keep one core busy at a time, so they run beside the tests.
check: $(READY)
	@$(MAKE) --no-print-directory --jobs=2 lint quick

test: browser
	@$(MAKE) --no-print-directory --jobs=2 lint tests

quick: $(READY)
	$(BIN)/python -m pytest -q -n $(CORES) -m "not slow" --hypothesis-profile bo_tune_quick

tests: $(READY)
	$(BIN)/python -m pytest -n $(TESTS_AT_ONCE)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The references of study files, of architectures and of the command line, and what the pages' commands print, as they are today.
docs: $(READY)
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/generate_architectures.py
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python -m pytest tests/docs/test_pages.py --update-docs

figures: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python docs/figures.py

clean:
	rm -rf $(VENV) demo
