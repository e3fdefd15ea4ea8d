# `make sweep` and `make test` need Python >= 3.11 and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: sweep test test-oldest test-newest census fits contract transforms golden training corners bayes notebooks bench accelerator docs clean

sweep: .venv/installed-cli
	$(BIN)/jaxridge sweep --plot ridge-path.png

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -n 2 --dist worksteal
	@mkdir -p .cache/jax

# One wing with its doctests, as in `make test-linear`; tests/ has a folder for each that has tests of its own.
test-%: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal $(wildcard tests/$*) jaxridge/$*

# Every exit and rule of every kind of factored problem, of which `make test` judges one case of each kind.
contract: .venv/installed-dev
	$(BIN)/python tests/test_factored.py

# Every verb under every transform, of which `make test` judges some cells; goes on where the last run ended.
# `make transforms WINGS=linear` for one wing.
transforms: .venv/installed-dev
	$(BIN)/python -m pytest tests/test_transforms.py -q -n 2 --whole
	$(BIN)/python tests/transforms.py $(WINGS)

# Values and first derivatives of all verbs against those that are stored: for a rewrite, on the machine that stored them
# or another (`golden.py --write` in the code that is right).
golden: .venv/installed-dev
	$(BIN)/python tests/golden.py

# What optimisers and devices converge to, every row by its own simulation, of which `make test` judges one of each kind.
training: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 tests/training --whole

# Margins and corners in every derivative, unit and dtype, of which `make test` judges one of each kind.
corners: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 tests/linear/test_sparse.py tests/linear/test_stream.py tests/linear/test_mesh.py \
		tests/select/test_compare.py tests/inverse/test_inverse.py tests/inverse/test_sparse_ridge.py \
		tests/kernel_methods/test_svm.py tests/kernel_methods/test_krylov.py --whole

# Posteriors, risk, bands and tuning, every row, of which `make test` judges one of each kind.
bayes: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 tests/linear/test_bayes.py tests/linear/test_banded.py tests/linear/test_risk.py \
		tests/linear/test_sensors.py tests/optimize/test_tune.py tests/kernel_methods/test_banded.py \
		tests/test_infinity.py tests/select/test_select.py tests/select/test_assess.py --whole

# The suite with the oldest and the newest JAX that is promised, each in an environment of its own.
test-oldest: JAX := jax==0.8.0 jaxlib==0.8.0
test-newest: JAX := jax jaxlib
test-oldest test-newest: .venv/bin/python
	$(PYTHON) -m venv .cache/$@
	.cache/$@/bin/python -m pip install --quiet --upgrade --editable ".[dev]" $(JAX)
	.cache/$@/bin/python -m pytest -n 2 --dist worksteal

# Every notebook from a clean kernel, of which `make test` runs the quickest.
notebooks: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 tests/test_notebooks.py --whole

# Every nonlinear fit of the census, of which `make test` judges some units.
fits: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 tests/optimize --whole
	$(BIN)/python tests/fit_census.py

# Every input of the census, of which `make test` judges a fifth.
census: .venv/installed-dev
	$(BIN)/python tests/test_census.py
	$(BIN)/python tests/sizes.py float32
	$(BIN)/python tests/sizes.py float64
	$(BIN)/python tests/fit_census.py

bench: .venv/installed-bench
	for file in $(filter-out bench/_% bench/accelerator.py, $(wildcard bench/*.py)); do $(BIN)/python $$file || exit 1; done

# On whatever device JAX has, against the CPU, in eight minutes at most; bench/results/ keeps the table.
accelerator: .venv/installed-bench
	$(BIN)/python bench/accelerator.py

# The pages of docs/ with the reference from the docstrings, in site/.
docs: .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/mkdocs build --quiet

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
