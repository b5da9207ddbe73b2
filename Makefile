# Two commands: `make demo` (the whole life of a model on one machine) and `make test`. Both install what they need.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help install demo test lint bench docs clean

VENV := .venv/bin
CAPTURE ?=

help: ## say what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

install: ## set up .venv, the Triton server and its environment (idempotent; seconds the second time)
	@bash infra/local/install.sh

demo: install ## run the whole ring on the simulated exchange; CAPTURE="FILE..." runs it on recordings
	@$(VENV)/keel demo $(foreach file,$(CAPTURE),--capture $(file))

test: install ## everything that is checked before a change may land
	@bash tests/run.sh

lint: install ## ruff, mypy --strict, import-linter, shellcheck
	@bash tests/lint.sh

bench: install ## measure speed beside named peers; writes docs/benchmarks/
	@$(VENV)/python -m bench

docs: install ## write again what of docs/ is made from the code
	@$(VENV)/python docs/draw_architecture.py && $(VENV)/python docs/write_commands.py && $(VENV)/python docs/write_venues.py

clean: ## remove what runs made (.keel); the installation stays
	@rm -rf .keel
