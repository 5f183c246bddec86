# The project's commands. `make` alone lists them.
PYTHON_ENV := .venv/bin
JOBS ?= 2
# Small tensors on many workers: one thread each is faster, and keeps the results the same.
export OMP_NUM_THREADS ?= 1

# Processes that tests start find ROS and the profile for large messages through it.
PYTEST := bash scripts/env.sh $(PYTHON_ENV)/python -m pytest -n $(JOBS) --dist worksteal --durations=10 --durations-min=1
COVERAGE := --cov --cov-report=term

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help setup browser demo lint format test test-all clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 18

setup:  ## make .venv and install everything into it (nothing to do the second time)
	@bash scripts/setup.sh

browser: setup
	@bash scripts/browser.sh

demo: setup  ## a simulated robot: cloud and predicted views against the truth, in outputs/demo (DEMO="--world 9": options)
	bash scripts/env.sh $(PYTHON_ENV)/python -m gen3r_ros.demo.main $(DEMO)

lint: setup  ## ruff and mypy
	$(PYTHON_ENV)/ruff check .
	$(PYTHON_ENV)/ruff format --check .
	$(PYTHON_ENV)/mypy

format: setup  ## let ruff mend and format the sources
	$(PYTHON_ENV)/ruff check --fix .
	$(PYTHON_ENV)/ruff format .

test: setup browser lint  ## lint, then the tests that need neither a GPU nor patience, with coverage
	$(PYTEST) $(COVERAGE) -m "not slow and not gpu"

test-all: setup browser lint  ## the same and the slow tests
	$(PYTEST) $(COVERAGE) -m "not gpu"

clean:  ## remove what builds and tests leave behind (not .venv, not results)
	rm -rf build dist *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find gen3r_core gen3r_ros test scripts -name __pycache__ -type d -prune -exec rm -rf {} +
