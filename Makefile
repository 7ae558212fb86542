# Two commands do all the set-up: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/core
STAMP := $(VENV)/installed
# Python compiles what it imports. To compile all that is installed would take half of the installation.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

# If this is set, every process compiles all that it imports: PyTorch starts in five seconds instead of three.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint slow clean

demo: $(CORE)
	$(BIN)/python train.py --dataset demo --seeds 0 1 --overwrite --model mean
	$(BIN)/python train.py --dataset demo --seeds 0 1 --overwrite
	$(BIN)/python evaluate.py runs/demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n auto --dist loadfile

slow: $(STAMP)
	$(BIN)/pytest -q -n auto -m slow

# What the other targets made and make again. Runs and features are yours: they stay.
clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Installs again only when the pins have changed. torch comes first and pinned, so that pip takes the CPU build where one
# is offered instead of several gigabytes of CUDA.
$(CORE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) --editable .
	touch $(CORE)

# What the tests need, and only they.
$(STAMP): $(CORE)
	$(INSTALL) --editable ".[dev,cluster,objects,parquet,labels]"
	touch $(STAMP)
