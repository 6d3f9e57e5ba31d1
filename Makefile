# The two commands of the README, and what they need.
PYTHON ?= python3
BIN := .venv/bin

# The tests start the app again and again; compiling it each time would take as long as some of them.
unexport PYTHONDONTWRITEBYTECODE
# Half of the tests' time is waiting. Tests of one file share servers, so a file stays with its worker.
PARALLEL := -n 4

.PHONY: run test check bench browser-tools
run: .venv/ready
	@$(BIN)/python -m agent_core.local

test: .venv/ready check
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(PARALLEL)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --skip-covered --fail-under=90

check: .venv/ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: .venv/ready
	@$(BIN)/python -m bench

.venv/ready: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
