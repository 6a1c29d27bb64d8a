# Everything runs from a virtual environment in .venv, made on the first call and reused.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup run demo test check gen bench image manifests

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Gatehouse needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(READY)

setup: $(READY) ## the virtual environment, as the lock file says

run: setup ## the whole suite on this machine, until Ctrl-C
	$(BIN)/gatehouse run

demo: setup ## the story of the suite, told by itself
	$(BIN)/python -m examples.demo

test: setup ## every test
	$(BIN)/python -m pytest

check: setup ## format, types, layers, contracts, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m scripts.protos check

gen: setup ## the code made from protos/
	$(BIN)/python -m scripts.protos generate

bench: setup ## measure, and write bench/results/latest.json
	$(BIN)/python -m bench

image: ## the container image
	docker build --file deploy/Dockerfile --tag gatehouse .

manifests: setup ## the rendered Kubernetes manifests
	$(BIN)/kubectl kustomize deploy/k8s/overlays/example
