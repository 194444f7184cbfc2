# Targets read like a sentence: make demo, make test, make lint, make bench, make docs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONSTRAINTS := constraints.txt
SERVED := $(VENV)/.installed
READY := $(VENV)/.ready-for-tests

.PHONY: help demo test quick lint format bench docs protos clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

$(SERVED): pyproject.toml $(CONSTRAINTS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Modelyard needs Python 3.11 or newer: make PYTHON=python3.11 demo"; exit 2; }
	@echo "Installing Modelyard into $(VENV) (PyTorch and friends: a minute or two) ..."
	@$(PIP) install -q -c $(CONSTRAINTS) -e '.[torch,sklearn,serve]'
	@touch $@

$(READY): $(SERVED)
	@echo "Installing what the tests need ..."
	@$(PIP) install -q -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

demo: $(SERVED) ## the whole loop on MNIST: run, review, release, serve, swap under load
	@$(BIN)/python -m modelyard demo

test: $(READY) ## every test, and the gates: types, style, import graph, docs
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest -n 2 --dist worksteal -q

quick: $(READY) ## the unit tests alone
	@$(BIN)/python -m pytest -n 2 -q tests/unit

lint: $(READY) ## types and style
	@$(BIN)/ruff check src tests benchmarks
	@$(BIN)/ruff format --check -q src tests benchmarks
	@$(BIN)/mypy

format: $(READY) ## put the code into shape
	@$(BIN)/ruff check --fix -q src tests benchmarks
	@$(BIN)/ruff format -q src tests benchmarks

bench: $(READY) ## measure against peers, side by side in one run
	@$(BIN)/python -m benchmarks

docs: $(READY) ## rewrite the generated reference pages
	@$(BIN)/python -m modelyard.blueprint.reference docs/reference/blueprint.md
	@$(BIN)/python -m modelyard.cli.reference docs/reference/cli.md
	@$(BIN)/python -m modelyard.serving.deployment.examples docs/examples

protos: $(READY) ## compile the .proto files of the gRPC services
	@cd src/modelyard/serving/grpc && $(CURDIR)/$(BIN)/python -m grpc_tools.protoc -I. --descriptor_set_out=descriptors.binpb open_inference.proto health.proto reflection.proto reflection_v1alpha.proto

clean: ## remove what make made
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache
