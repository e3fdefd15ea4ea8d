# `make sweep` and `make test` need Python >= 3.11 and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: sweep test census bench clean

sweep: .venv/installed-cli
	$(BIN)/jaxridge sweep --plot ridge-path.png

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -n 2 --dist worksteal
	@mkdir -p .cache/jax

# Every input of the census, of which `make test` judges a third.
census: .venv/installed-dev
	$(BIN)/python tests/test_census.py

bench: .venv/installed-bench
	for file in bench/*.py; do $(BIN)/python $$file || exit 1; done

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed-cli: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[cli,plot]"
	touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

.venv/installed-bench: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	touch $@

clean:
	rm -rf .venv .cache build dist
