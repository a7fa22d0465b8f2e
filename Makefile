# The doors of the house. Each one alone sets up what it needs; `make` by itself lists them.
#   make train ARGS="regression --nproc 3"      arguments for the command behind a door
#   make PYTHON=python3.12 test                 another interpreter for the environment

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help train test gpu soak check bench faults docs newcomer clean

help:  ## list the doors
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

train: $(READY)  ## train on the embedded handwritten digits with two workers; no download
	@$(BIN)/adamesh train $(ARGS)

# Files by their names: xdist would keep those of few tests for the end, and they are the long ones.
test: $(READY)  ## all tests, including real processes and doctests
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

gpu: $(READY)  ## the laws of training with models on a GPU, and NCCL's; needs one
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available() and "make gpu: torch finds no CUDA device here")'
	@ADAMESH_TEST_DEVICE=cuda $(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder tests/gpu tests/conformance/test_communicators.py \
	    tests/parity tests/semantics tests/sync tests/wire tests/pushing tests/guard tests/checkpoint tests/elastic/test_kills.py \
	    tests/elastic/test_islands.py tests/unit/test_scaler.py $(ARGS)

soak: $(READY)  ## all tests, and all cases of each: every operation, every byte, a thousand steps; half an hour
	@ADAMESH_TESTS=all $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "" -o timeout=1200 $(ARGS)

check: $(READY)  ## style, types and floors, in seconds; names all that is wrong, not the first
	@failed=0; \
	$(BIN)/ruff check --quiet --output-format concise . || failed=1; \
	$(BIN)/ruff format --quiet --check --output-format concise . || failed=1; \
	$(BIN)/mypy --no-error-summary || failed=1; \
	log=$$($(BIN)/lint-imports --no-logo 2>&1) || { printf '%s\n' "$$log"; failed=1; }; \
	[ $$failed = 0 ] && echo "check: style, types and floors are clean"

bench: $(READY)  ## one optimizer step against DDP, ZeroRedundancyOptimizer and FSDP2
	@$(BIN)/adamesh bench step $(ARGS)

# `make faults ARGS="--minutes 10"` is the long form.
faults: $(READY)  ## a minute of training in which workers are killed, stopped, come and go; what is lost?
	@$(BIN)/adamesh drill --soak $(ARGS)

# NO_MKDOCS_2_WARNING: an advertisement, and no warning.
docs: $(READY)  ## the documentation site, in site/; fails where a link leads nowhere
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict $(ARGS) && \
	    echo "docs: site/index.html; its search wants a server: python3 -m http.server --directory site"

newcomer:  ## a fresh clone, a first run, the tutorial; how long does it take?
	@$(PYTHON) -m scripts.newcomer $(ARGS)

clean:  ## remove caches and built packages; keeps .venv and runs/
	@rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Installed once, and again when what is asked for changes. A half-made environment is made anew.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "adamesh needs Python 3.11 or newer, and '$(PYTHON)' is not: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setting up .venv (minutes the first time: torch is large)"
	@test -f .venv/pyvenv.cfg && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[all,dev]' >.venv/setup.log 2>&1 \
	    || { tail -n 30 .venv/setup.log >&2; echo "setting up failed; all of it is in .venv/setup.log" >&2; exit 1; }
	@touch $@
