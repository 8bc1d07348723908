# Everything a developer does here. `make help` prints the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
STATE ?= .state
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: run stop test check proto bench clean help setup itest

$(READY): pyproject.toml uv.lock $(wildcard proto/borgcell/v1/*.proto) proto/generate.py
	@command -v uv >/dev/null || python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore uv
	@uv sync --quiet --frozen --all-extras || python3 -m uv sync --quiet --frozen --all-extras
	@$(PY) proto/generate.py 2>/dev/null
	@touch $@

setup: $(READY) ## install the locked dependencies into .venv and generate the protobuf code

run: $(READY) ## start a local cell (3 masters, 3 Borglets), run a service and a batch job in it, show them
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" STATE="$(abspath $(STATE))" bash examples/demo.sh

stop: $(READY) ## end the local cell and its tasks
	@$(VENV)/bin/borgmaster stop-dev --directory "$(STATE)"
	@rm -rf "$(STATE)"

# The conformance suite runs the same programs on both runtimes: busybox is on every machine and in any image.
/bin/busybox:
	@if [ "$$(id -u)" = 0 ]; then apt-get -q update >/dev/null && \
	  DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends busybox-static >/dev/null; \
	else echo "tests of the native runtime need root and busybox-static: left out"; fi

test: $(READY) check /bin/busybox ## check, then all tests this machine can run (.ci/run switches on Docker)
	$(VENV)/bin/pytest -q $(PYTEST_ARGS)

check: $(READY) ## format, lint, types, import contracts, generated code fresh: under a minute
	@$(PY) proto/generate.py --check
	@$(VENV)/bin/ruff format --check --quiet . && $(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy proto/borgcell scheduler borgmaster borglet borgcfg
	@$(VENV)/bin/lint-imports --no-cache

proto: $(READY) ## generate the protobuf code again
	@$(PY) proto/generate.py

bench: $(READY) ## run the benchmarks; JSON in benchmarks/out (with Docker when DOCKER_HOST is set)
	@mkdir -p benchmarks/out
	$(PY) benchmarks/scheduler.py --json benchmarks/out/scheduler.json
	$(PY) benchmarks/start_latency.py --json benchmarks/out/start_latency.json $(if $(DOCKER_HOST),--docker)

clean: ## remove what was generated and installed
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist benchmarks/out
	find . -name __pycache__ -prune -exec rm -rf {} + ; rm -f proto/borgcell/v1/*_pb2*

help: ## print this
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10
