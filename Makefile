# Everything runs from a virtual environment in .venv, made on the first call and reused.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup run demo test check gen client bench image sbom manifests

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

# Three files of tests at a time, since much of a test's time is a wait; those of a file share what they start, and the longest come
# first. Programs are started by the hundred: each would compile our modules again if what is compiled were not kept.
test: export PYTHONDONTWRITEBYTECODE :=
test: setup ## every test
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: setup ## format, types, layers, contracts, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m scripts.protos check

gen: setup ## the code made from protos/
	$(BIN)/python -m scripts.protos generate

client: setup ## the wheel gatehouse-client, in dist/
	$(BIN)/python -m scripts.client dist

bench: setup ## measure, and write bench/results/latest.json
	$(BIN)/python -m bench

# The first of these that has an engine behind it builds.
BUILDERS ?= docker podman buildah
IMAGE ?= gatehouse:$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE_OPTIONS ?=
image: ## the container image, with docker, podman or buildah
	@for builder in $(BUILDERS); do \
		if $$builder info >/dev/null 2>&1; then \
			exec $$builder build --file deploy/Dockerfile --tag $(IMAGE) \
				--build-arg VERSION=$(lastword $(subst :, ,$(IMAGE))) \
				--build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" $(IMAGE_OPTIONS) .; \
		fi; \
	done; \
	echo "no engine to build with: none of $(BUILDERS) is installed and answers to \`info\`" >&2; exit 1

sbom: setup ## the image's bill of materials, out of the lock file, as CycloneDX
	@$(BIN)/python -m deploy.sbom requirements.lock pyproject.toml

OVERLAY ?= production
manifests: setup ## the rendered Kubernetes manifests: make manifests OVERLAY=local
	@$(BIN)/kubectl kustomize deploy/k8s/overlays/$(OVERLAY)
