# Needs Python >= 3.11 (with venv), make and git. `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
# An interpreter that is named, as in PYTHON=python3.13, has an environment of its own: .venv-python3.13.
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
PROTO_SOURCES := $(shell find protos -name '*.proto' | sort)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup fmt up demo download test test-fast check lint types imports protos protos-fresh buf configuration references cli docs demo-picture console console-fresh console-bench conformance oracle chaos load kill-storage attack fuzz-api sbom verify-containers verify-deploy audit bench lock lock-engine dist clean

help:  ## Show this help
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# Three environments in one directory: bench.txt includes dev.txt, which includes run.txt, so `make test` after
# `make demo` only adds packages.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --require-hashes -r requirements/pip.txt

define install
	$(BIN)/pip install -q --require-hashes -r requirements/build.txt
	$(BIN)/pip install -q --require-hashes -r requirements/$(1).txt
	$(BIN)/pip install -q --no-deps --no-build-isolation --editable .
	touch $@
endef

$(VENV)/run.stamp: requirements/run.txt pyproject.toml | $(VENV)/bin/python
	@echo "setting up $(VENV) (once)"
	$(call install,run)

$(VENV)/dev.stamp: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	@echo "setting up $(VENV) with the development tools (once)"
	$(call install,dev)
	touch $(VENV)/run.stamp

$(VENV)/bench.stamp: requirements/bench.txt pyproject.toml | $(VENV)/bin/python
	@echo "setting up $(VENV) with the rivals that benchmarks compare with (once)"
	$(call install,bench)
	touch $(VENV)/run.stamp $(VENV)/dev.stamp

$(VENV)/deploy.stamp: requirements/deploy.txt pyproject.toml $(VENV)/dev.stamp | $(VENV)/bin/python
	@echo "setting up $(VENV) with the tools that check deploy/ (once)"
	$(call install,deploy)

# An environment of its own: checkov pins other versions of packages.
$(VENV)/policies/stamp: requirements/policies.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/policies
	$(VENV)/policies/bin/pip install -q --require-hashes -r requirements/pip.txt
	$(VENV)/policies/bin/pip install -q --require-hashes -r requirements/policies.txt
	touch $@

setup: $(VENV)/dev.stamp third_party  ## Create the development environment in .venv, and nothing else

fmt: $(VENV)/dev.stamp  ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

up: $(VENV)/run.stamp  ## Run the whole suite on this machine; Ctrl-C drains it
	$(BIN)/reelhaul up $(ARGS)

# The S3 server of --s3 and the driver of --browser are development tools.
demo: $(VENV)/$(if $(findstring --,$(ARGS)),dev,run).stamp  ## Start the suite, download a video (URL=... for any other), verify it, stop (ARGS=--s3: on S3; --browser: through the console)
	$(BIN)/python -m tests.demo $(if $(URL),--url '$(URL)') $(ARGS)

download: $(VENV)/run.stamp  ## Download URL=... through a running suite
	$(BIN)/reelhaul download '$(URL)' $(ARGS)

# Tests wait half of their time: one worker more than cores. xdist keeps the order of tests/conftest.py, which starts
# the long files first.
PARALLEL := -n $(shell expr $$(nproc) + 1) --maxprocesses 5 --dist loadfile --no-loadscope-reorder
test: $(VENV)/dev.stamp third_party  ## Run all tests (ARGS="-k name" narrows; YTDLP=latest or floor: the fetcher's)
	$(if $(YTDLP),$(BIN)/python -m tests.engine $(YTDLP),$(BIN)/pytest $(PARALLEL) -m 'not deployment') $(ARGS)

test-fast: $(VENV)/dev.stamp  ## Run the tests that start no processes of the suite, in three minutes
	$(BIN)/pytest $(PARALLEL) -m 'not processes and not deployment' $(ARGS)

check: lint types imports buf protos-fresh console-fresh  ## Lint, types, layers, protos, the built console

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint deploy/docker/Dockerfile

types: $(VENV)/dev.stamp
	$(BIN)/mypy

imports: $(VENV)/dev.stamp
	$(BIN)/lint-imports --no-cache

# buf needs google/api and google/rpc as files in its workspace; they are copied from the installed package.
third_party: $(VENV)/dev.stamp
	@mkdir -p third_party/googleapis/google
	@cp -r $$($(BIN)/python -c 'import google.rpc, os; print(os.path.dirname(list(google.rpc.__path__)[0]))')/{api,rpc} third_party/googleapis/google/
	@find third_party -type f ! -name '*.proto' -delete
	@find third_party -name context -type d -prune -exec rm -r {} +
	@touch third_party

# buf breaking compares with the committed main; skipped if protos/ is unchanged.
buf: third_party
	$(BIN)/buf lint
	@base=$$(git rev-parse -q --verify main || git rev-parse -q --verify origin/main || true); \
	if [ -n "$$base" ] && git cat-file -e "$$base:buf.yaml" 2>/dev/null \
	  && ! git diff --quiet "$$base" -- protos buf.yaml; then \
	  old=$$(mktemp -d); trap 'rm -rf "$$old"' EXIT; \
	  git archive "$$base" protos buf.yaml | tar -x -C "$$old"; cp -r third_party "$$old/"; \
	  echo "$(BIN)/buf breaking --against main"; $(BIN)/buf breaking --against "$$old"; \
	fi

protos: $(VENV)/dev.stamp  ## Regenerate libs/reelhaul/*/v1 and docs/openapi.json from protos/
	@find libs/reelhaul -path '*/v1/*' -delete
	$(BIN)/python -m grpc_tools.protoc -Iprotos \
	  -I$$($(BIN)/python -c 'import google.rpc, os; print(os.path.dirname(os.path.dirname(list(google.rpc.__path__)[0])))') \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=libs --grpc_python_out=libs --mypy_out=quiet:libs --mypy_grpc_out=quiet:libs \
	  --include_source_info --descriptor_set_out=libs/reelhaul/protos.binpb $(PROTO_SOURCES)
	@find libs/reelhaul -type d -name v1 -exec touch {}/__init__.py {}/../__init__.py \;
	$(BIN)/python -m tests.gateway.document docs/openapi.json

protos-fresh: protos
	@test -z "$$(git status --porcelain libs/reelhaul docs/openapi.json)" || { git status --short libs/reelhaul docs/openapi.json; echo 'generated code is stale: run make protos and commit'; exit 1; }

# The sources of the web console, and the built files that the gateway serves.
CONSOLE := services/gateway/console
CONSOLE_BUILT := services/gateway/reelhaul_gateway/static/console
$(CONSOLE)/node_modules/stamp: $(CONSOLE)/package-lock.json
	cd $(CONSOLE) && npm ci --silent
	touch $@

console: $(CONSOLE)/node_modules/stamp  ## Build the web console from services/gateway/console (needs Node 20 with npm)
	cd $(CONSOLE) && npm run --silent types && npm run --silent check && npm run --silent build -- --logLevel warn

console-fresh:
	@if ! command -v npm > /dev/null || ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then \
	  echo 'SKIP console-fresh: there is no Node 20 with npm, so that the built console is not compared with its sources'; \
	else \
	  $(MAKE) --no-print-directory console; \
	  test -z "$$(git status --porcelain $(CONSOLE_BUILT))" || { git status --short $(CONSOLE_BUILT); echo 'the built console is stale: run make console and commit'; exit 1; }; \
	fi

console-bench: $(VENV)/dev.stamp  ## Measure the console in Chromium: sizes, time to interactive, updates of 1,000 jobs
	$(BIN)/python -m tests.console.bench $(ARGS)

configuration: $(VENV)/dev.stamp  ## Regenerate docs/configuration.md from the settings
	$(BIN)/python -m tests.configuration docs/configuration.md

cli: $(VENV)/dev.stamp  ## Regenerate the reference in docs/cli.md and the man page from the commands
	$(BIN)/python -m tests.cli_reference

references: configuration  ## Regenerate docs/{rest,grpc,errors,events}.md too, from the protos and the routes
	$(BIN)/python -m tests.docs.reference

$(VENV)/docs.stamp: requirements/docs.txt $(VENV)/dev.stamp
	@echo "setting up $(VENV) with the tools of the documentation (once)"
	$(BIN)/pip install -q --require-hashes -r requirements/docs.txt
	touch $@

docs: $(VENV)/docs.stamp  ## Build the documentation as a site in dist/site, without a network, and check it
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python -m tests.docs.built_site dist/site

demo-picture: $(VENV)/dev.stamp  ## Make docs/pictures from runs of the demo, in a terminal and in the console
	$(BIN)/python -m tests.demo_picture docs/pictures

conformance: $(VENV)/dev.stamp  ## Check the transcoder against VECTORS=<file> of cases
	$(BIN)/python -m tests.libs.conformance $(VECTORS)

oracle: $(VENV)/dev.stamp  ## Compare the JSON codec with json_format in a million random cases (ARGS="--cases 10000000")
	$(BIN)/python -m tests.libs.oracle $(ARGS)

chaos: $(VENV)/dev.stamp  ## Kill services at random under load and check that nothing is lost
	$(BIN)/python -m tests.chaos $(ARGS)

load: $(VENV)/dev.stamp  ## Load several replicas of everything, restart and kill each in turn (ARGS="--jobs 400 --watchers 3000 --minutes 5", or --short)
	$(BIN)/python -m tests.load $(ARGS)

simulate: $(VENV)/dev.stamp  ## Run the dispatcher with 1,000 simulated fetchers and 10 million queued jobs (ARGS=--short)
	$(BIN)/python -m tests.simulation $(ARGS)

kill-storage: $(VENV)/dev.stamp  ## Kill storage 200 times while clients write (ARGS="--backend s3")
	$(BIN)/python -m tests.storage.kills $(ARGS)

attack: $(VENV)/dev.stamp  ## Fuzz the parsers of untrusted input and attack a running suite, for minutes
	$(BIN)/python -m tests.security $(ARGS)

fuzz-api: $(VENV)/dev.stamp  ## Send random requests by the OpenAPI document to a running suite (ARGS="--examples 1000")
	$(BIN)/python -m tests.suite.api_fuzz $(ARGS)

$(VENV)/sbom.stamp: requirements/sbom.txt $(VENV)/dev.stamp
	$(BIN)/pip install -q --require-hashes -r requirements/sbom.txt
	touch $@

sbom: $(VENV)/sbom.stamp  ## Write the bill of materials of the image IMAGE=reelhaul of this machine's Docker engine to dist/
	@mkdir -p dist
	$(BIN)/syft scan -q docker:$(or $(IMAGE),reelhaul) --output spdx-json=dist/$(or $(IMAGE),reelhaul).spdx.json

verify-containers: $(VENV)/sbom.stamp  ## Build the images and run compose.yaml in a Docker engine of its own (needs root and Debian)
	$(BIN)/python -m tests.containers $(ARGS)

# Two workers: the tools take all cores themselves.
verify-deploy: $(VENV)/deploy.stamp $(VENV)/policies/stamp  ## Check deploy/k8s, deploy/terraform and .github (ARGS="-m 'not root'": what needs no root)
	$(BIN)/pytest -n 2 --dist loadfile -m deployment --timeout 300 -rs tests/deploy $(ARGS)

audit: requirements/audit.txt $(VENV)/dev.stamp  ## Look up known vulnerabilities of the locked packages
	$(BIN)/pip install -q --require-hashes -r requirements/audit.txt
	$(BIN)/python -m tests.audit $(ARGS)

bench: bench-jobs bench-watch bench-fetch bench-storage bench-gateway bench-codec bench-auth bench-idle bench-telemetry  ## Run all benchmarks against named rivals (ARGS=--short: a quick look)

bench-%: $(VENV)/bench.stamp  ## Run one benchmark: auth, codec, fetch, gateway, idle, jobs, storage, telemetry, watch
	$(BIN)/python -m bench $* $(ARGS)

LOCK = uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header $(UPGRADE)
# The locks that have yt-dlp.
define lock_suite
	$(LOCK) pyproject.toml --extra all -o requirements/run.txt
	$(LOCK) pyproject.toml --extra all --group dev -c requirements/run.txt -o requirements/dev.txt
	$(LOCK) pyproject.toml --extra all --group dev --group bench -c requirements/dev.txt -o requirements/bench.txt
	$(LOCK) pyproject.toml --extra all --group dev --group deploy -c requirements/dev.txt -o requirements/deploy.txt
endef

lock: UPGRADE := --upgrade
lock:  ## Update requirements/*.txt (needs uv)
	$(lock_suite)
	$(LOCK) pyproject.toml --extra gateway --extra jobs --extra storage -c requirements/run.txt -o requirements/server.txt
	echo dumb-init | $(LOCK) - -o requirements/image.txt
	echo pip | $(LOCK) - -o requirements/pip.txt
	$(LOCK) --group audit -c requirements/bench.txt -c requirements/pip.txt -o requirements/audit.txt
	$(LOCK) --group policies -o requirements/policies.txt
	$(LOCK) --group sbom -o requirements/sbom.txt
	$(LOCK) --group docs -c requirements/bench.txt -o requirements/docs.txt
	printf '%s\n' hatchling editables | $(LOCK) -c requirements/dev.txt - -o requirements/build.txt

lock-engine: UPGRADE := --upgrade-package yt-dlp --upgrade-package yt-dlp-ejs
lock-engine:  ## Update yt-dlp in requirements/*.txt, and nothing else (needs uv)
	$(lock_suite)

# Nothing but what builds: the workflow that signs the result runs it.
dist: requirements/build.txt | $(VENV)/bin/python  ## Build the wheel and the source distribution of Reelhaul in dist/
	$(BIN)/pip install -q --require-hashes -r requirements/build.txt
	rm -f dist/*.whl dist/*.tar.gz
	$(BIN)/hatchling build

clean:  ## Remove environments and build results; keep data and downloads
	rm -rf .venv .venv-* .yt-dlp third_party dist
