# `make` alone lists what there is. Everything runs from .venv, made from the lock file; nothing needs root.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test check k8s-check audit fuzz chaos bench profile serve lock clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 18

setup: $(STAMP)  ## make .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Fenliu needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the locked packages into .venv (about a minute on first use)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
	  --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)  ## the whole loop on a synthetic bank; stays up until Ctrl-C (ARGS=--once ends by itself)
	@$(BIN)/fenliu demo $(ARGS)

test: $(STAMP)  ## every test: unit, contract, property, golden, parity, integration (ARGS=FILE: only those)
ifdef ARGS
	@$(BIN)/python -m pytest -q $(ARGS)
else
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not integration and not ray"
	@$(BIN)/python -m pytest -q -m "integration or ray"  # one at a time: they start servers
endif

check: $(STAMP)  ## ruff, mypy --strict, the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_architecture.py

k8s-check: $(STAMP) .venv-k8s/.ready  ## the manifests: build, strict validation, rules, ACLs, alerts (skips, saying so, what is not here)
	@$(BIN)/python -m pytest -q -rs tests/k8s tests/integration/test_k8s_serve.py

# Environments beside .venv, each from a lock of its own: .venv-k8s has Kubernetes' schemas (108 MB).
.venv-%/.ready: requirements-%.lock
	@test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	@echo "installing requirements-$*.lock into .venv-$*"
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

audit: .venv-audit/.ready  ## known vulnerabilities of the locked packages (needs a network: asks a public database)
	@.venv-audit/bin/pip-audit --strict --disable-pip --require-hashes \
	  -r requirements.lock -r requirements-image.lock $(ARGS)

fuzz: $(STAMP) .venv-fuzz/.ready  ## every decoder by atheris, 30 s each, then bench fuzz at its full size (hours: ARGS=--quick)
	@$(BIN)/fenliu bench fuzz --guided 30 $(ARGS)

chaos: $(STAMP)  ## stores, Ray's processes, bundles, plans, clocks broken under load: what was lost (15 minutes)
	@$(BIN)/fenliu bench chaos $(ARGS)

bench: $(STAMP)  ## the benchmarks at their quick size (one: .venv/bin/fenliu bench NAME --help)
	@$(BIN)/fenliu bench loop --quick
	@$(BIN)/fenliu bench serve --quick

profile: $(STAMP)  ## a flame graph of the request path (reports/flame.svg; see `fenliu bench flame --help`)
	@$(BIN)/fenliu bench flame $(ARGS)

serve: $(STAMP)  ## serve on Ray (ARGS=--local: one process); see `fenliu serve --help`
	@$(BIN)/fenliu serve $(ARGS)

COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
  --no-header --quiet

lock:  ## rewrite the requirements*.lock from pyproject.toml (needs uv)
	@$(COMPILE) --extra dev pyproject.toml -o requirements.lock
	@$(COMPILE) --group image -c requirements.lock pyproject.toml -o requirements-image.lock
	@$(COMPILE) --group pyproject.toml:k8s -o requirements-k8s.lock
	@$(COMPILE) --group pyproject.toml:audit -o requirements-audit.lock
	@$(COMPILE) --group pyproject.toml:fuzz -o requirements-fuzz.lock

clean:  ## remove what the targets made: .venv, caches, the demo's folder
	@rm -rf .venv .venv-k8s .venv-audit .venv-fuzz .fenliu .kernels .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
