# Two commands: `make quickstart` and `make test`. Both do the set-up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup quickstart test test-failures lint clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,generate]'
	@touch $(READY)

quickstart: $(READY)
	@$(BIN)/ractd sweep run quickstart

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests that start a Ray spend half of their time waiting for it: two at once, the longest first.
test: lint
	$(BIN)/python -m pytest -m 'not ray' -n auto --maxprocesses 8
	$(BIN)/python -m pytest -m 'ray and not failures' -n 2 --dist worksteal

# Ten minutes of killing workers, builders and nodes; not part of CI.
test-failures: $(READY)
	$(BIN)/python -m pytest -m failures

clean:
	rm -rf $(VENV)
