# `make demo` and `make test` do all set-up on a bare Debian 12; `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# One process tree for all that the tests start: whatever outlives pytest dies with it.
CONTAIN := unshare --mount --pid --fork --kill-child --mount-proc bash -c '"$$@"; exit $$?' tests
PYTEST_ARGS ?=
FUZZ_ARGS ?=
STORM_ARGS ?=

.PHONY: help demo test test-interop test-others test-unit test-vlan test-native test-all storm fuzz conformance lint bench clean packages

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## two pods on a node of their own: addresses, pings, check, and away without a trace
	@$(PY) demo/run.py

# Two at the same time, each in namespaces of its own: the machine has two processors. The guest comes last,
# beside the longer half.
test: $(READY) lint ## lint and all tests (root; in namespaces of their own)
ifeq ($(PYTEST_ARGS),)
	@$(MAKE) --no-print-directory -j2 --output-sync=line test-interop test-others test-vlan
else
	$(CONTAIN) $(PY) -m pytest $(PYTEST_ARGS)
endif

test-interop: $(READY) ## beside the reference plugins
	$(CONTAIN) $(PY) -m pytest -q tests/interop

test-others: $(READY) ## all other tests
	$(CONTAIN) $(PY) -m pytest -q --ignore tests/interop

# Whether or not the machine's own kernel filters VLANs: one guest for all of these tests.
test-vlan: $(READY) ## the tests of VLANs, in a guest kernel that filters them
	VM_TIMEOUT=900 $(CONTAIN) vm/run-in-vm $(PY) -m pytest -p no:cacheprovider -m needs_vlan tests/kernel

# The Python launcher and no agent at all are what `make test` uses.
test-native: $(READY) ## the same tests again with native launchers
	PYCNI_TEST_LAUNCHER=native $(CONTAIN) $(PY) -m pytest $(PYTEST_ARGS)

test-all: test test-native storm ## everything there is

storm: $(READY) ## 2,000 attachments while launchers and the agent are killed (STORM_ARGS="--count 200")
	$(CONTAIN) $(PY) tests/faults/storm.py $(STORM_ARGS)

test-unit: $(READY) ## the tests that need no root
	$(PY) -m pytest tests/unit $(PYTEST_ARGS)

lint: $(READY) ## ruff and mypy
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

fuzz: $(READY) ## a million random requests through the core (FUZZ_ARGS='--seed 7 --jobs 2')
	nice $(PY) tests/fuzz/fuzz.py $(FUZZ_ARGS)

conformance: $(READY) ## write docs/conformance.md anew from the tests' markers
	$(PY) tests/support/conformance.py

bench: $(READY) ## compare with the reference plugins
	$(PY) bench/run.py

packages:
	@.ci/packages

# A failed installation leaves no stamp, and the next call tries again.
$(READY): pyproject.toml .ci/python | packages
	@.ci/python $(VENV)
	@$(PY) -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@

clean: ## remove what was built, the virtual environment too
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
