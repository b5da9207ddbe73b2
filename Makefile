# Three commands: `make demo` (the whole life of a model on one machine), `make up` (real servers on loopback) and
# `make test`. Each installs what it needs. `make soak` is what takes hours.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help install demo up down status test soak e2e lint bench docs clean

VENV := .venv/bin
CAPTURE ?=
PART ?=
# where it is set, every process compiles every library again
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /  make \1\t/' | expand -t 18

install: ## set up .venv, the Triton server and its environment (idempotent; seconds the second time)
	@bash infra/local/install.sh

demo: install ## run the whole ring on the simulated exchange; CAPTURE="FILE..." runs it on recordings
	@$(VENV)/keel demo $(foreach file,$(CAPTURE),--capture $(file))

up: install ## start the local stack: PostgreSQL, Redis, Kafka, MLflow, Airflow, Triton, Prometheus, mail, exchange
	@bash infra/local/install_stack.sh && $(VENV)/keel up

down: ## stop the local stack; its data stays
	@$(VENV)/keel down

status: ## one screen: servers, versions in service, last data, drift, open approvals
	@$(VENV)/keel status

test: ## every check that a change must pass before it lands; installs first, reports the time of each layer
	@bash tests/run.sh

soak: install ## the campaigns: kills, fuzz, properties, long, lifecycle, drift; hours. PART="kills fuzz" runs some
	@bash tests/soak.sh $(PART)

e2e: install ## the life of a model on the local stack: schedules, drift, people, faults (make test has a short form of it)
	@bash infra/local/install_stack.sh --with-browser && $(VENV)/python -m pytest tests/e2e/lifecycle

lint: install ## ruff, mypy --strict, import-linter, shellcheck
	@bash tests/lint.sh

bench: install ## measure speed next to named peers; writes docs/benchmarks/; what cannot be installed is left out by name
	@bash infra/kafka/install.sh || true
	@$(VENV)/python -m bench

docs: install ## regenerate the pages and pictures of docs/ that are made from the code
	@$(VENV)/python docs/draw_architecture.py && $(VENV)/python docs/draw_ring.py && $(VENV)/python docs/write_commands.py && $(VENV)/python docs/write_venues.py && $(VENV)/python docs/write_quality.py

clean: ## remove the output of runs (.keel); the installation stays
	@if [ -x $(VENV)/keel ]; then $(VENV)/keel down; fi
	@rm -rf .keel
