# One name a chore; CI runs the same.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help env demo test lint format lock docs clean

help:
	@echo "make env     the environment in $(VENV)"
	@echo "make demo    every system in miniature on this machine: table, pictures, report"
	@echo "make test    the tests"
	@echo "make lint    ruff, mypy, snakefmt, snakemake --lint, generated files"
	@echo "make docs    the documentation as a site in build/site, links checked"
	@echo "make format  let ruff and snakefmt format"
	@echo "make lock    requirements.lock from the environment, after changing pyproject.toml"

env: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("fewstep needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PIP) --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a few minutes the first time"
	@$(PIP) install --quiet --quiet --requirement requirements.lock
	@$(PIP) install --quiet --quiet --no-deps --editable .
	@touch $@

demo: env
	@$(BIN)/fewstep unlock
	@$(BIN)/snakemake --profile local demo
	@$(BIN)/fewstep show results/demo

# Whole files go to a worker; the tests of a real SLURM mostly wait.
WORKERS ?= 3

test: env
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/python -m fewstep.config --check
	$(BIN)/python -m fewstep.results --check
	PYTHONWARNINGS=ignore $(BIN)/snakemake --lint

docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

# torch without its local version: the CPU build where it is at hand, else CUDA's.
lock: env
	$(PIP) freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf results/* logs .cache .snakemake
