# Commands of this project; `make` or `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
AXE := node_modules/axe-core/axe.min.js
BASELINES := .venv-baselines
ENGINE_BASELINES := .baselines

.DEFAULT_GOAL := help
.PHONY: help install demo up fetch-model test audit fuzz lint format docs bench-engine bench-memory bench-pipeline bench-search bench-scale load eval lock clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-15s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## Create the virtual environment (the other commands do this automatically)

# torch is installed first and in its exact version: as a dependency of another package it may bring gigabytes of GPU
# libraries. The demo model is installed without its dependencies, because the product does not need them.
$(READY): pyproject.toml constraints.txt requirements-demo.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement requirements-demo.txt
	@touch $@

demo: $(READY) ## Load two sample courses, add a third one from files, ask a few questions, stop
	@$(BIN)/course-search demo

up: $(READY) ## Start everything and keep it running; Ctrl-C stops it
	@exec $(BIN)/course-search up

fetch-model: $(READY) ## Download the weights of Qwen3-Embedding-0.6B (1.2 GB)
	@$(BIN)/course-search fetch-model

# axe-core checks the accessibility of the search page. Without npm these tests are skipped.
$(AXE): package.json
	@if command -v npm > /dev/null; then \
	  npm install --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error && touch $@ || \
	  echo "axe-core could not be installed: the tests of accessibility will be skipped"; fi

test: $(READY) $(AXE) ## Run all tests
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

fuzz: $(READY) ## Send requests that the OpenAPI documents allow, and others, to both apps; EXAMPLES=100 a kind and operation
	FUZZ_EXAMPLES=$(or $(EXAMPLES),100) $(BIN)/python -m pytest -s tests/search_api/test_schema.py

audit: $(READY) ## Look for known vulnerabilities of the pinned packages
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict $(if $(SERVICE),--vulnerability-service $(SERVICE))

lint: $(READY) ## Check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY) ## Write the reference in docs/reference from the code
	$(BIN)/python -m docs.reference.generate

format: $(READY) ## Format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-engine: $(READY) $(ENGINE_BASELINES)/.ready ## Compare the embedding engine with sentence-transformers; OUT=file.json saves the figures
	PYTHONPATH=$(ENGINE_BASELINES) $(BIN)/python -m benchmarks.embedding_speed.main $(if $(OUT),--out $(OUT))

# sentence-transformers uses the product's torch and transformers, and is visible only to this benchmark.
$(ENGINE_BASELINES)/.ready: benchmarks/embedding_speed/baseline-requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(ENGINE_BASELINES) --requirement $<
	@touch $@

bench-memory: $(READY) ## Measure the memory of indexing; OUT=file.json saves the figures
	$(BIN)/python -m benchmarks.indexing_memory.main $(if $(OUT),--out $(OUT))

bench-pipeline: $(READY) ## Measure the cost of orchestration; OUT=file.json saves the figures
	$(BIN)/python -m benchmarks.pipeline_cost.main $(if $(OUT),--out $(OUT))

bench-scale: $(READY) ## Measure thousands of courses and a very large one (30 minutes); OUT=file.json saves the figures, ARGS='--minutes 10 …' asks more
	$(BIN)/python -m benchmarks.scale.main $(if $(OUT),--out $(OUT)) $(ARGS)

bench-search: $(READY) $(BASELINES)/.ready ## Compare search speed with Chroma, LangChain and LlamaIndex; OUT=file.json saves the figures
	$(BIN)/python -m benchmarks.search_speed.main $(if $(OUT),--out $(OUT))

# The libraries that the search is compared with are installed in a separate environment.
$(BASELINES)/.ready: benchmarks/search_speed/baseline-requirements.txt
	$(PYTHON) -m venv $(BASELINES)
	$(BASELINES)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

load: $(READY) ## Put the product under load for DURATION (1200) seconds, and inject faults; OUT=file.json saves the figures
	$(BIN)/python -m benchmarks.load.main $(if $(DURATION),--seconds $(DURATION)) $(if $(OUT),--out $(OUT)) $(ARGS)

eval: $(READY) ## Evaluate search quality on the retrieval sets in DATA; OUT=file.json saves the figures, ARGS='--perturb all --refusals …' asks more
	$(BIN)/python -m benchmarks.search_quality.main $(DATA) $(if $(OUT),--out $(OUT)) $(ARGS)

lock: ## Update all pinned versions in constraints.txt, except torch
	rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools | sed 's/+cpu//' > constraints.txt

clean: ## Remove virtual environments and caches; courses are kept
	rm -rf $(VENV) $(BASELINES) $(ENGINE_BASELINES) node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
