# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. Works as root, or as a user with sudo.
PYTHON    ?= python3
DEMO_ARGS ?=
TEST_ARGS ?=
CONFORMANCE_ARGS ?=
SOAK_ARGS ?=
SHELL     := /bin/bash
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup faucet demo test pythons conformance lint fuzz soak bench clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## install the Debian packages that are missing, and both virtual environments
	@scripts/setup.sh

faucet:  ## install the controller FAUCET for its test, which is skipped without (20 s; `make test` does it)
	@scripts/setup.sh faucet

demo: setup  ## set up, then compare GRO on and off, the kernel's VXLAN and Open vSwitch (DEMO_ARGS=--quick: 45 s)
	@scripts/as_root.sh .venv/bin/python -m vswitch.compile
	@scripts/as_root.sh .venv/bin/python -m experiments run overlay-gro $(DEMO_ARGS)

test: setup lint  ## set up, check the style and the types, run all tests (TEST_ARGS goes to pytest)
	@scripts/setup.sh faucet || echo "the test with FAUCET is skipped"
	@scripts/as_root.sh scripts/test.sh $(TEST_ARGS)

pythons: setup  ## the smoke tests under each other Python that is promised and that this machine has
	@scripts/as_root.sh scripts/pythons.sh

conformance: setup  ## Ryu's 991 OpenFlow switch tests, 35 minutes (CONFORMANCE_ARGS="--category action": a part)
	@scripts/as_root.sh .venv/bin/python -m vswitch.compile
	@scripts/as_root.sh .venv/bin/python -m conformance $(CONFORMANCE_ARGS)

lint: setup  ## ruff and mypy
	@.venv/bin/ruff check .
	@.venv/bin/mypy

fuzz: setup  ## the long tests: 10 million fuzzed frames, new examples for all properties (nightly)
	@scripts/as_root.sh env HYPOTHESIS_PROFILE=nightly .venv/bin/python -m pytest -m nightly -p no:cacheprovider --timeout=7200 $(TEST_ARGS)
	@scripts/as_root.sh env HYPOTHESIS_PROFILE=nightly .venv/bin/python -m pytest tests/unit tests/protocol tests/controller -p no:cacheprovider --timeout=7200 $(TEST_ARGS)

soak: setup  ## 200 labs come and go, one carries mixed traffic for 10 minutes (SOAK_ARGS="--cycles 5 --minutes 1")
	@scripts/as_root.sh .venv/bin/python -m vswitch.compile
	@scripts/as_root.sh scripts/isolated.sh .venv/bin/python -m tests.soak.soak $(SOAK_ARGS)

bench: setup  ## nanoseconds per frame and stage
	@scripts/as_root.sh .venv/bin/python -m experiments bench

clean:  ## remove the virtual environments and all caches (keeps runs/)
	rm -rf .venv .venv-ryu .venv-faucet .conformance_cache .pytest_cache .hypothesis .mypy_cache .ruff_cache build ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
