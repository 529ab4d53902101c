# All the set-up there is: `make demo` runs the main job, `make test` every check.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RECORDINGS := studies/recordings
CPU_TORCH := 2.13.0

.PHONY: demo test lint clean

# A host's own torch is used where it has one, so that a GPU machine keeps the build made for it. Where there is
# none, this version comes first: plain "torch" would pull several GB of CUDA packages that nothing here needs.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $$($(PYTHON) -c 'import torch' 2>/dev/null && echo --system-site-packages) $(VENV)
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet torch==$(CPU_TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# On the GPU if there is one, else on the bundled recordings: tune, search exhaustively, compare.
demo: $(READY)
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh benchmarks/demo.sh

test: lint
	$(BIN)/python -m pytest -n auto

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) demo
