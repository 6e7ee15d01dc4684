# Every job that a person or CI runs. `make help` lists them.
#
# A target makes the environment it needs when that is missing or pyproject.toml is
# newer: .venv (all tools, on the first Python found) and .venvs/X.Y (test tools only).

MAKEFLAGS += --no-print-directory # so that the test runner's closing line is the last
SHELL := /bin/sh
.DEFAULT_GOAL := help

# Asked once, and only by targets that need it.
PYTHONS = $(eval PYTHONS := $$(shell tools/pythons))$(PYTHONS)
VERSIONS = $(eval VERSIONS := $$(foreach python,$$(PYTHONS),$$(shell $$(python) \
	-c 'import sys; print("%d.%d" % sys.version_info[:2])')))$(VERSIONS)

PY := .venv/bin/python
TURNS := 1000000
MINUTES := 10
JOBS := 20000
SECONDS := 60

DEV := .venv/.ready
TEST_ENVS = $(VERSIONS:%=.venvs/%/.ready)


##@ Look

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
	    /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: .venvs/demo/.ready ## a service's life in seconds: requests, kill -9, deploys
	@.venvs/demo/bin/python examples/demo.py


##@ Before each commit

.PHONY: lint
lint: $(DEV) ## ruff (rules and format) and the layers
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/lint-imports --no-logo

.PHONY: types
types: $(DEV) ## mypy --strict, and a second opinion on the public names
	.venv/bin/mypy
	@# --verifytypes looks at the python on PATH only, whatever --pythonpath says.
	PATH="$(CURDIR)/.venv/bin:$$PATH" basedpyright --verifytypes ghostd --ignoreexternal

.PHONY: unit
unit: $(DEV) ## milliseconds each: the core, the wrappers, the seed's promises
	$(PY) -m pytest tests/unit tests/contract


##@ Before each push

.PHONY: test
test: ## all that CI runs, on each Python found
	$(MAKE) -j3 environments
	$(MAKE) lint types docs
	$(MAKE) sim TURNS=100000
	$(MAKE) matrix

.PHONY: sim
sim: $(DEV) ## simulated lives of the pool (TURNS=1000000)
	$(PY) -m tests.simulation.lives --turns $(TURNS)

.PHONY: process
process: $(DEV) ## real daemons, and what may go wrong around them
	$(PY) -m pytest tests/process tests/faults

.PHONY: matrix
matrix: $(TEST_ENVS) ## all tests on the first Python, coverage checked; most on the others
	@$(firstword $(PYTHONS)) tools/matrix $(VERSIONS)


##@ On demand

.PHONY: chaos
chaos: $(DEV) ## kill, stop and starve real daemons (MINUTES=10 SEED=)
	$(PY) tests/chaos/chaos.py --minutes $(MINUTES) $(SEED:%=--seed %)

.PHONY: chaos-busy
chaos-busy: $(DEV) ## spirits that never pause must never be replaced (MINUTES=10)
	$(PY) tests/chaos/busy.py --minutes $(MINUTES)

.PHONY: chaos-queues
chaos-queues: $(DEV) ## the queues of examples/ under kills and reloads (JOBS=20000 SEED=)
	$(PY) -m tests.chaos.queues --jobs $(JOBS) $(SEED:%=--seed %)

.PHONY: bench
bench: $(DEV) ## one JSON line per benchmark
	$(PY) benchmarks/run.py

.PHONY: chaos-http
chaos-http: $(DEV) ## what serving loses, and what it costs (SECONDS=60 ONLY=)
	$(PY) -m tests.chaos.serve --seconds $(SECONDS) --only "$(ONLY)"

.PHONY: bench-http
bench-http: .venvs/peers/.ready ## beside other servers, in the same run (ARGS=--short)
	.venvs/peers/bin/python benchmarks/bench_http.py $(ARGS)

.PHONY: docs
docs: $(DEV) ## build/docs/index.html; warnings are errors
	.venv/bin/sphinx-build --quiet --fail-on-warning --nitpicky docs build/docs

.PHONY: clean
clean: ## all that can be made again
	rm -rf .venv .venvs build dist \
	    .coverage .coverage.* .hypothesis \
	    .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find src tests examples benchmarks docs tools -name __pycache__ -prune \
	    -exec rm -rf {} + 2>/dev/null || true


# --- Environments -----------------------------------------------------------------

.PHONY: environments
environments: $(DEV) $(TEST_ENVS)

.venv/.ready: pyproject.toml tools/venv
	@tools/venv .venv "$(firstword $(PYTHONS))" dev
	@touch $@

.venvs/demo/.ready: pyproject.toml tools/venv
	@tools/venv .venvs/demo "$(firstword $(PYTHONS))" demo
	@touch $@

.venvs/peers/.ready: pyproject.toml tools/venv
	@tools/venv .venvs/peers "$(firstword $(PYTHONS))" peers
	@touch $@

.venvs/%/.ready: pyproject.toml tools/venv
	@tools/venv .venvs/$* "$$(tools/pythons $*)" test
	@touch $@
