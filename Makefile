# make demo · make test · make test-fast: each sets up what it needs; only Python 3.11 or 3.12 and make are assumed.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# TensorFlow with CUDA where there is an NVIDIA driver, else the smaller build for CPUs.
TRAIN := $(if $(shell command -v nvidia-smi 2>/dev/null),train_gpu,train_cpu)
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: setup demo test test-fast lint bench clean

setup: $(INSTALLED)

$(INSTALLED): setup.py
	@echo "== installing into $(VENV) (radlake[$(TRAIN),test]); about two minutes"
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v in ((3, 11), (3, 12)) else f"radlake needs Python 3.11 or 3.12, not {v[0]}.{v[1]}; choose one with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(TRAIN),test]'
	touch $@

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: $(INSTALLED) lint
	$(BIN)/python -m pytest

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -m 'not slow and not gpu'

clean:
	rm -rf $(VENV) demo
