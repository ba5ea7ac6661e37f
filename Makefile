# Two commands set up everything on a machine with Python and make: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed

.PHONY: help setup demo test test-all lint types imports pytest pytest-slow format clean

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(SETUP)  ## the virtual environment with everything for building and testing

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(SETUP)  ## build the demo model to int4 for this machine, stream an answer, print figures
	mkdir -p build
	$(BIN)/arkinfer build demo --quant int4 -o build/demo.ark
	$(BIN)/arkinfer build demo --quant none --dtype fp32 -o build/demo-fp32.ark
	$(BIN)/arkinfer run build/demo.ark "What does the module heapq do?"
	$(BIN)/arkinfer bench build/demo.ark --quick
	$(BIN)/arkinfer eval build/demo.ark build/demo-fp32.ark --text arkinfer/demo/heldout.txt

test: lint types imports pytest  ## lint, types, import contracts, tests

test-all: test pytest-slow  ## the same and the slow suites

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(SETUP)
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(SETUP)
	PYTHONPATH=.:backends $(BIN)/lint-imports

pytest: $(SETUP)
	$(BIN)/python -m pytest

pytest-slow: $(SETUP)
	$(BIN)/python -m pytest -m slow

format: $(SETUP)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what was made
	rm -rf build $(VENV)
