# make demo · make test · make bench: each sets up what it needs; only Python 3.11, 3.12 or 3.13 and make are assumed.
SHELL := /bin/bash
# The newest Python that works, or make PYTHON=python3.12. tensorflow-io ends at 3.12.
FIND_PYTHON = .ci/python 3.13 $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
FIND_OLDER_PYTHON = .ci/python 3.12 $(PYTHON) python3.12 python3.11 python3
PIP_INSTALL := python -m pip install --quiet --disable-pip-version-check
# make test-fast TENSORFLOW=2.20: with another TensorFlow for CPUs, in an environment of its own.
VENV := .venv$(if $(TENSORFLOW),-tensorflow-$(TENSORFLOW))
BIN := $(VENV)/bin
# make demo installs what users need; the tests add what they alone need, in one go where nothing is there yet.
INSTALLED := $(VENV)/.installed
TESTS_INSTALLED := $(VENV)/.tests-installed
ALL_INSTALLED := $(VENV)/.all-installed
# tensorflow-io works with an older TensorFlow alone.
TFIO := .venv-tfio
TFIO_INSTALLED := $(TFIO)/.installed
# mkdocs, which shares nothing with the rest.
DOCS := .venv-docs
DOCS_INSTALLED := $(DOCS)/.installed
# TensorFlow with CUDA where there is an NVIDIA driver, else the smaller build for CPUs.
TRAIN := $(if $(TENSORFLOW),train-cpu,$(if $(shell command -v nvidia-smi 2>/dev/null),train-gpu,train-cpu))
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: setup same-python demo test test-all test-fast test-services test-tfio test-rehearsal bench lint docs audit clean

setup: $(TESTS_INSTALLED)

# An environment keeps its Python until make clean; TensorFlow's version, where one is chosen, holds for both.
EXTRAS := $(TRAIN),seg
TEST_EXTRAS := $(EXTRAS),test
ALL_EXTRAS := $(TEST_EXTRAS),test-all
WITH_TENSORFLOW := $(if $(TENSORFLOW),'tensorflow-cpu==$(TENSORFLOW).*')

# $(call install,EXTRAS): pip compiles one file at a time, a third of the installation; here all cores do, and what no
# process imports stays as it is. (compileall's exit code is that of files which are no Python, such as templates.)
define install
	@echo "== installing into $(VENV) (radlake[$(1)]); one to three minutes"
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || { python=$$($(FIND_PYTHON)) && $$python -m venv --clear $(VENV); }
	$(BIN)/$(PIP_INSTALL) --no-compile --editable '.[$(1)]' $(WITH_TENSORFLOW)
	$(BIN)/python -m compileall -qq -j 0 -x '$(NOT_COMPILED)' $(VENV)/lib/python3*/site-packages || true
endef
# The clients of services that nothing here calls: 50 MB of generated code; tests of other packages.
NOT_COMPILED := site-packages/(google/cloud/aiplatform_v1beta1|vertexai|agentplatform)|/tests/|_test[.]py$$

$(INSTALLED): setup.py radlake/__init__.py | same-python
	$(call install,$(EXTRAS))
	touch $@

$(TESTS_INSTALLED): setup.py radlake/__init__.py | same-python
	$(call install,$(TEST_EXTRAS))
	touch $(INSTALLED) $@

$(ALL_INSTALLED): $(TESTS_INSTALLED)
	$(call install,$(ALL_EXTRAS))
	touch $@

# PYTHON= is not ignored where the environment has another one.
same-python:
	@if [ -n '$(PYTHON)' ] && [ -x $(BIN)/python ]; then \
	  version='import platform; print(platform.python_version())'; \
	  here=$$($(BIN)/python -c "$$version") && named=$$($(PYTHON) -c "$$version") || exit 2; \
	  if [ "$$here" != "$$named" ]; then \
	    echo "error: $(VENV) has Python $$here, PYTHON=$(PYTHON) is $$named; make clean first" >&2; exit 2; fi; fi

# Compiled where it is imported; all of it takes as long as the installation.
$(TFIO_INSTALLED): requirements/tfio.txt | $(TESTS_INSTALLED)
	@echo "== installing into $(TFIO) ($<); about half a minute"
	@python=$$($(FIND_OLDER_PYTHON)) && $$python -m venv --clear $(TFIO)
	$(TFIO)/bin/$(PIP_INSTALL) --no-compile --requirement $<
	$(TFIO)/bin/python -m pip check
	touch $@

# The demo: phantoms (or IMAGES='…/*.dcm' LABELS=….csv) -> lake -> classifier and U-Net++ -> scores and a picture.
# Networks of an earlier demo are deleted after a question, or with REPLACE=1.
NAME := $(if $(IMAGES),mine,phantoms)
DEMO := demo/$(NAME)
LAKE := $(DEMO)/lake/$(NAME)/1.0.0
DEMO_IMAGES = $(or $(IMAGES),$(DEMO)/xrays/dicom/*.dcm)
DEMO_LABELS = $(or $(LABELS),$(DEMO)/xrays/train-rle.csv)

demo: $(INSTALLED)
	@if [ -n '$(IMAGES)' ] && [ -z '$(LABELS)' ]; then echo "error: IMAGES also needs LABELS=….csv" >&2; exit 2; fi
	@if [ -n "$$(find $(DEMO) -name '*.weights.h5' -print -quit 2> /dev/null)" ] && [ -z '$(REPLACE)' ]; then \
	  if ! [ -t 0 ]; then echo "error: $(DEMO) has trained networks; move it, or delete it with REPLACE=1" >&2; exit 2; fi; \
	  read -r -p "$(DEMO) has trained networks. Delete them? [y/N] " answer; \
	  case "$$answer" in [yY]*) ;; *) echo "error: $(DEMO) was kept; move it, and repeat" >&2; exit 2;; esac; fi
	@if [ -e $(DEMO) ]; then echo "== removing the last demo, $(DEMO)"; rm -rf $(DEMO); fi
	@if [ -z '$(IMAGES)' ]; then \
	  echo "== 1/5 drawing phantom chest X-rays into $(DEMO)/xrays"; \
	  $(BIN)/radlake synthetic --output $(DEMO)/xrays --images 400; \
	else echo "== 1/5 using $(IMAGES)"; fi
	@echo "== 2/5 converting them into the lake $(LAKE)"
	@$(BIN)/radlake convert --source dicom --images '$(DEMO_IMAGES)' --labels '$(DEMO_LABELS)' \
	  --output $(LAKE) --runner DirectRunner
	@echo "== 3/5 training the classifier"
	@$(BIN)/radlake train --config demo_classifier --lake $(LAKE) --workdir $(DEMO)/runs/classifier
	@echo "== 4/5 training the U-Net++"
	@$(BIN)/radlake train --config demo_unetpp --lake $(LAKE) --workdir $(DEMO)/runs/unetpp
	@echo "== 5/5 evaluating both"
	@$(BIN)/radlake evaluate --workdir $(DEMO)/runs/classifier
	@$(BIN)/radlake evaluate --workdir $(DEMO)/runs/unetpp --picture $(DEMO)/truth_and_prediction.png
	@echo; echo "truth and prediction side by side: $(DEMO)/truth_and_prediction.png"
	@echo "curves: $(BIN)/tensorboard --logdir $(DEMO)/runs"

lint: $(TESTS_INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Three files at a time for two cores: one of them often waits for a lake or network that another makes. They take 6 GB.
PYTEST := $(BIN)/python -m pytest
WORKERS := -n 3 --dist loadfile --no-loadscope-reorder

# What every change runs, and continuous integration.
test: $(TESTS_INSTALLED) lint
	$(PYTEST) $(WORKERS) -m 'not tfio and not services'

test-fast: $(TESTS_INSTALLED)
	$(PYTEST) $(WORKERS) -m 'not slow and not gpu and not tfio and not services'

# Every encoder, norm, loss and kill too, and exports that decode with tensorflow-io.
test-all: $(ALL_INSTALLED) lint
	RADLAKE_EXHAUSTIVE=1 $(PYTEST) $(WORKERS) -m 'not tfio and not services'
	$(MAKE) --no-print-directory test-tfio
	$(MAKE) --no-print-directory test-rehearsal TENSORFLOW=2.20

# The shipped configs at 1024 px on two replicas; make test-all runs it with the TensorFlow of today
# and with 2.20, which Google's TPUs have.
test-rehearsal: $(TESTS_INSTALLED)
	RADLAKE_EXHAUSTIVE=1 $(PYTEST) tests/whole/test_rehearsal.py

# What programs of Debian's judge or run: the report's page in Chromium, DICOM SEG objects by
# dciodvfy, decoded pixels by DCMTK, a run of two workers by Slurm, which starts and ends in the test.
# It installs them where it may; the last lines say what is absent and was skipped.
test-services: $(TESTS_INSTALLED)
	@packages=; for pair in chromium:chromium dicom3tools:dciodvfy dcmtk:dcmdjpls \
	  slurm-wlm:sbatch munge:munge; do \
	  command -v $${pair#*:} > /dev/null || packages="$$packages $${pair%:*}"; done; \
	if [ -n "$$packages" ]; then \
	  echo "== installing$$packages"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$packages > /dev/null \
	    || echo "== they could not be installed; as root on Debian they can"; fi
	$(PYTEST) -m services -rs $$(grep --recursive --files-with-matches --include='test_*.py' mark.services tests)

# Exports that decode with tensorflow-io, in an environment of its own with an older TensorFlow.
# Skipped, and that is said, where the machine has no Python for it.
test-tfio: $(TESTS_INSTALLED)
	@if [ -e $(TFIO_INSTALLED) ] || $(FIND_OLDER_PYTHON) > /dev/null; then \
	  $(MAKE) --no-print-directory $(TFIO_INSTALLED) && $(PYTEST) -m tfio; \
	else echo "== skipped: make test-tfio, as tensorflow-io needs one of these Pythons"; fi

# The documentation as a site, in site/; a warning, such as of a broken link, is an error.
$(DOCS_INSTALLED): requirements/docs.txt
	@echo "== installing into $(DOCS) ($<); about a quarter of a minute"
	@python=$$($(FIND_PYTHON)) && $$python -m venv --clear $(DOCS)
	$(DOCS)/bin/$(PIP_INSTALL) --requirement $<
	touch $@

# (The variable turns off an advertisement of mkdocs-material.)
docs: $(DOCS_INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "the site: site/index.html"

# Known vulnerabilities of what is installed and of the pinned environments. Asks pypi.org, and fails where that says nothing.
audit: $(TESTS_INSTALLED)
	$(BIN)/python -m venv bench/audit
	bench/audit/bin/$(PIP_INSTALL) pip-audit
	$(BIN)/python -m pip freeze --exclude-editable > bench/audit/installed.txt
	@failed=0; for list in bench/audit/installed.txt requirements/*.txt; do echo "== $$list"; \
	  bench/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement $$list || failed=1; done; exit $$failed

# What things cost, as ratios; on phantoms, or IMAGES='…/*.dcm' LABELS=….csv.
BENCH_IMAGES = $(or $(IMAGES),bench/xrays/dicom/*.dcm)
BENCH_LABELS = $(or $(LABELS),bench/xrays/train-rle.csv)

bench: $(INSTALLED)
	@if [ -z '$(IMAGES)' ] && [ ! -e bench/xrays ]; then $(BIN)/radlake synthetic --output bench/xrays --images 300; fi
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/conversion.py --images '$(BENCH_IMAGES)' --labels '$(BENCH_LABELS)'
	$(BIN)/python benchmarks/costs.py
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/full_step.py configs/unetpp.yaml
	$(BIN)/python benchmarks/memory.py configs/unetpp.yaml
	$(BIN)/python benchmarks/unetpp_step.py
	$(BIN)/python benchmarks/augmentation.py
	$(BIN)/python benchmarks/input.py --images '$(BENCH_IMAGES)' --labels '$(BENCH_LABELS)'
	$(BIN)/python benchmarks/predict.py --images '$(BENCH_IMAGES)' --labels '$(BENCH_LABELS)'

clean:
	rm -rf .venv .venv-* demo bench site
