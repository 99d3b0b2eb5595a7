# Everything runs from a bare Debian 12 machine with python3, make and go: what is missing is installed here.

VENV := .venv
RUN := $(VENV)/bin/
UV := $(VENV)/bin/uv
PYTHON ?= python3
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/$(VENV)
# Some images forbid to write bytecode: then every `fleet` would compile fleet anew, which takes as long as all else that it does.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help test check unit e2e e2e-alone e2e-together lab lab-all lab-down demo bench recording picture schema clean

help: ## what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 18

test: $(VENV)/.synced ## everything: lint, types, structure, and every test
	$(MAKE) --no-print-directory --jobs=3 check unit e2e-alone
	$(MAKE) --no-print-directory e2e-together

check: $(VENV)/.synced ## lint, types and the direction of dependencies
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy --cache-dir $(HOME)/.cache/fleet-lab/mypy
	$(RUN)lint-imports --no-cache

unit: $(VENV)/.synced ## tests that need no lab
	$(RUN)pytest tests/tui tests/unit -n 3 --maxschedchunk 8 -q

# In four processes, each with hosts of its own (docs/lab.md), but for what cannot have anything beside it.
E2E := $(RUN)pytest tests/contract tests/e2e -q

e2e: e2e-alone e2e-together ## tests on real sshd, Docker, buildkitd and buildx, amd64 and arm64

e2e-alone: lab-all
	. .lab/env && $(E2E) -m alone

e2e-together: lab-all
	. .lab/env && $(E2E) -m 'not alone' -n 4 --dist loadscope --no-loadscope-reorder --max-worker-restart 0

lab: $(VENV)/.synced ## two amd64 hosts, an arm64 host and registries on this machine
	$(RUN)python -m tests.lab up

lab-all: $(VENV)/.synced
	$(RUN)python -m tests.lab up --all

lab-down: $(VENV)/.synced ## stop the lab; caches stay in ~/.cache/fleet-lab
	$(RUN)python -m tests.lab down

demo: $(VENV)/.synced lab ## from nothing to a native multi-platform build
	. .lab/env && $(RUN)python -m tests.demo

bench: $(VENV)/.synced lab ## the figures that README quotes
	. .lab/env && $(RUN)python -m benchmarks.foundation --write && $(RUN)python -m benchmarks.certificates --write
	. .lab/env && $(RUN)python -m benchmarks.dispatch --write && $(RUN)python -m benchmarks.dashboard --write
	. .lab/env && $(RUN)python -m benchmarks.scale --write && $(RUN)python -m benchmarks.convergence --write

recording: $(VENV)/.synced lab ## a build that loses its node, as README shows it
	. .lab/env && $(RUN)python -m benchmarks.picture

picture: $(VENV)/.synced ## the dashboard as README shows it
	$(RUN)python -m tests.tui.picture > docs/images/dashboard.svg

schema: $(VENV)/.synced ## the JSON Schema of the inventory
	$(RUN)fleet schema > docs/inventory.schema.json

$(VENV)/.synced: pyproject.toml uv.lock
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { apt-get update -q && apt-get install -qy python3-venv; }
	@test -x $(UV) || { $(PYTHON) -m venv $(VENV) && $(RUN)pip install -q 'uv>=0.9'; }
	$(UV) sync --locked --inexact --extra web --compile-bytecode --quiet
	@touch $@

clean: ## what make made in this checkout
	rm -rf $(VENV) .lab .mypy_cache .ruff_cache .pytest_cache .hypothesis
