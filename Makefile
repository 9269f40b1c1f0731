# `make dev` and `make test` are all a newcomer needs: each makes the virtual environment first,
# and neither needs anything but make and Python 3.11 or later.
#
#   make test ARGS="-k webhook"      passes arguments on to pytest
#   make test JOBS=0                 all in one process; by default two run the files side by side
#   make dev ARGS="--kafka"          ... and to `notifyd dev`
#   make storm MESSAGES=2000 MINUTES=0.5 SEED=7
#   make PYTHON=/usr/bin/python3.12 setup

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
ARGS ?=
JOBS ?= 2
NAME ?=
MESSAGES ?= 100000
MINUTES ?= 2
SEED ?= 1
RATE ?= 0
PYTHON ?=
export PYTHON

CODE := notifyd $(wildcard tests benchmarks)
TESTS := $(wildcard tests/unit tests/integration tests/acceptance tests/browser)

.PHONY: help setup dev test check kafka client bench storm rolling stress image image-debian lock audit clean

help: ## Show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## Make the virtual environment .venv, and no more
	@tools/setup.sh

dev: setup ## Run everything here: broker, PostgreSQL, every role. Ctrl-C ends it
	@exec $(BIN)/notifyd dev $(ARGS)

test: setup ## Run all tests, on Apache Kafka once `make kafka` fetched it
	@echo "test: unit, integration, acceptance and browser tests; real processes, broker, database and browser"
	@$(BIN)/python -m pytest $(TESTS) --numprocesses=$(JOBS) --dist=loadfile $(ARGS) || { code=$$?; \
	  [ $$code -ne 5 ] || echo "test: no test was found, which counts as a failure" >&2; exit $$code; }

check: setup ## Lint, format, types, layers
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy --strict -p notifyd
	$(BIN)/lint-imports

kafka: ## Fetch Apache Kafka into .kafka (needs Java 17 and Maven)
	@tools/kafka/fetch.sh

client: ## Build clients/js into the page that `notifyd dev` serves (needs Node 20 or later)
	cd clients/js && npm ci --no-audit --no-fund && npm run build
	cp clients/js/dist/notifyd.js notifyd/http/pages/notifyd.js

bench: setup ## Run the benchmarks, or one: make bench NAME=engine
	@$(BIN)/python -m benchmarks $(NAME) $(ARGS)

storm: setup ## Kill, stop and freeze roles under load, and count what is lost (docs/how-to/storm.md)
	@exec $(BIN)/python -m tests.storm --messages $(MESSAGES) --minutes $(MINUTES) --seed $(SEED) --rate $(RATE) $(ARGS)

rolling: setup ## Replace every process under load as k8s/ says, and count what clients notice (docs/how-to/storm.md)
	@exec $(BIN)/python -m tests.storm.rolling --seed $(SEED) $(ARGS)

image: ## Build the image with docker, podman or buildah; BASE=... chooses what it is built on
	@tools/image/build.sh

image-debian: ## The same without engine and registry, on Debian's packages, and run it (root; buildah, mmdebstrap)
	@tools/image/debian.sh

lock: ## Write requirements.lock anew, with hashes, from setup.cfg and constraints.txt
	@tools/lock.sh

audit: ## Write what is in the image to dist/sbom.json, and ask which of it is known to be vulnerable
	@tools/audit.sh

stress: setup ## Find how much one process of each role carries, and write docs/reference/stress.md
	@exec $(BIN)/python -m tests.storm.stress $(ARGS)

clean: ## Delete what make and `notifyd dev` made here, .kafka aside
	rm -rf .venv .release .image .dev build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find notifyd tests -name __pycache__ -type d -prune -exec rm -rf {} +
