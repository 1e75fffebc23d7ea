.DEFAULT_GOAL := help
.PHONY: fuzz hostile help setup run demo test chaos check docs bench worker migrate constraints
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
unexport PYTHONDONTWRITEBYTECODE  # torch takes four times as long to import when it is compiled each time

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(READY) ## make .venv with everything; again only when pyproject.toml or constraints.txt change

# uv is ten times faster than pip and reads none of its configuration, so it is told where pip finds wheels
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12"; exit 1; }
	@echo "Everything goes into .venv, which takes a minute, once."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet uv && \
		UV_FIND_LINKS="$${UV_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null || true)}" \
		$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[worker,dev]' || \
		$(BIN)/python -m pip install --no-compile -c constraints.txt -e '.[worker,dev]'
	@touch $@

run: setup ## the API with a local worker on http://127.0.0.1:8000, its documentation at /docs
	@$(BIN)/python -m app

demo: setup ## the whole way on real digits: teacher, data, job, report, predictions
	@$(BIN)/python -m examples.digits

test: setup ## all tests, with real Postgres, Valkey and SeaweedFS
	@$(BIN)/pytest -n 2

check: setup ## lint, format, types and the floors of the house
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

FAULTS ?= 100
chaos: setup ## kill, stall and fill everything, FAULTS=100 times; then look whether anything was lost
	@$(BIN)/python -m tests.chaos --faults $(FAULTS) --true $${TRUE:-0.05} $(if $(SEED),--seed $(SEED)) $(CHAOS)

docs: setup ## docs/losses.md, from the catalog and the runs of reference implementations
	@$(BIN)/python -m tests.catalog.losses_table

bench: setup ## the figures of the README, one script a claim
	@for script in benchmarks/*.py; do $(BIN)/python $$script || exit; done

fuzz: setup ## draw requests from a grammar and look at every answer; REQUESTS=100000, SEED=5
	@$(BIN)/python -m tests.fuzz $${REQUESTS:-100000} $(SEED)

hostile: setup ## every hostile file through the API
	@$(BIN)/python -m tests.hostile

worker: setup ## a worker for STILLHOUSE_QUEUE_URL=redis://...
	@$(BIN)/celery --app worker.celery worker --pool threads --without-gossip --without-mingle

migrate: setup ## bring STILLHOUSE_DATABASE_URL to the newest schema
	@$(BIN)/python -m app.db.migrate

constraints: setup ## pin the newest versions that fit together
	@UV_FIND_LINKS="$${UV_FIND_LINKS:-$$($(PYTHON) -m pip config get global.find-links 2>/dev/null || true)}" \
		$(BIN)/uv pip compile --quiet --upgrade --no-header --no-annotate --no-emit-find-links --no-emit-index-url \
		--extra worker --extra dev pyproject.toml | sed 's/+cpu$$//' > constraints.tmp && mv constraints.tmp constraints.txt
