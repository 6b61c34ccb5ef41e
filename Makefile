# Two commands: `make quickstart` and `make test`. Both do the set-up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup quickstart test test-failures s3-server lint clean

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
	$(BIN)/python -m pytest -m 'not ray and not failures' -n auto --maxprocesses 8
	$(BIN)/python -m pytest -m 'ray and not failures' -n 2 --dist worksteal

# Ten minutes of killing workers, builders and nodes; not part of CI.
test-failures: $(READY)
	$(BIN)/python -m pytest -m failures

# The S3 server that tests store on, apart: it needs an older python-dateutil than the project has.
# Without it those tests are skipped and say so.
S3 := .venv-s3
s3-server: $(S3)/bin/moto_server

$(S3)/bin/moto_server:
	@$(PYTHON) -m venv $(S3)
	@$(S3)/bin/python -m pip install -qq --disable-pip-version-check \
	  'moto[s3]==5.2.5' 'boto3==1.44.5' 'flask==3.1.3' 'flask-cors==6.0.5'

clean:
	rm -rf $(VENV) $(S3)
