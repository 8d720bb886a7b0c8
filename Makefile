# make demo | test | play | setup | lint | test-slow | system-deps | clean
# Everything is installed into .venv with `python3 -m venv` and pip, from whatever package index pip is configured for.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
WORLD ?= desktop_sim
HOURS ?= 0.25
ARGS ?=
# The index of torch's CPU builds, asked first where no NVIDIA GPU is seen; empty: only the configured index.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# So many processes share the tests, file by file, each with one thread; what is marked alone comes after them.
LANES ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
SIDE_BY_SIDE = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(LANES) --dist loadfile --no-loadscope-reorder
RESULTS := .pytest_cache/cases.json
# Five: none of the tests that ARGS names is of this half.
FAILED := [ $$$$? = 5 ] || failed=1
SOURCES := wm data_pipeline launch tools tests

DEBIAN_PACKAGES := adwaita-icon-theme bash chromium dbus fonts-dejavu-core iproute2 mousepad mtpaint munge openbox pcmanfm \
	slurm-wlm util-linux x11-apps xauth xfwm4 xterm xvfb

.PHONY: demo play test test-slow lint format setup system-deps clean help

help:
	@sed -n '1,2p' Makefile

demo: setup
	$(BIN)/python -m launch.pipeline configs/$(WORLD) --hours $(HOURS) $(ARGS)

play: setup
	$(BIN)/python -m tools.rollout runs/$(WORLD)/artifact $(ARGS)

test: setup lint
	$(SIDE_BY_SIDE) $(ARGS)

# How the tests of cases ended is kept in a file by the first run, and told as a table by the second.
test-slow: setup
	mkdir -p $(dir $(RESULTS)) && rm -f $(RESULTS)
	$(SIDE_BY_SIDE) -m "(slow or case) and not alone" --case-results $(RESULTS) $(ARGS) || $(FAILED); \
	$(BIN)/python -m pytest -m "(slow or case) and alone" --case-results $(RESULTS) \
	  $(if $(ARGS),$(ARGS),--cases tests/CASES.md) || $(FAILED); exit $${failed:-0}

lint: setup
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

setup: $(STAMP)

# torch comes first: it decides between CPU and CUDA, and DeepSpeed's set-up looks for it. DeepSpeed compiles nothing
# (DS_BUILD_OPS=0), and what it would compile at its first use is not used (wm/engine/zero.py).
$(STAMP): pyproject.toml constraints.txt tools/install_torch.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed; name one: make setup PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	tools/install_torch.sh "$(BIN)/python" "$(TORCH)" "$(TORCH_INDEX)"
	DS_BUILD_OPS=0 $(PIP) install -q -c constraints.txt -e '.[dev]'
	@touch $@

system-deps:
	@test "$$(id -u)" = 0 || { echo "error: make system-deps installs Debian packages; run it as root"; exit 2; }
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(DEBIAN_PACKAGES)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -not -path './$(VENV)/*' -exec rm -rf {} +
