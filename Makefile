# Two commands set up everything on a machine with Python and make: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed
LLAMA := .venv-llama
ARM64 := .arm64
PEERS := .venv-peers
PEERS_PIP := $(PEERS)/bin/python -m pip --quiet --disable-pip-version-check
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
QUESTION ?= In a few words, what is the heapq module good for?

READER ?=
SECONDS ?= 600
JOBS ?= 1
SLOW ?= tests

GPU_PYTHON ?= python3
ARK ?=

.PHONY: help setup demo test test-all test-gpu lint types imports pytest pytest-slow llama-cpp \
  peers arm64-root arm64 fuzz docs format clean

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(SETUP)  ## the virtual environment with everything for building and testing

$(SETUP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): PyTorch, ONNX Runtime, TVM and the tools of the tests; some minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

# Shows a command as a user would type it, and runs it.
define arkinfer
@printf '\n$$ arkinfer %s\n' '$(1)'
@$(BIN)/arkinfer $(1)
endef

demo: $(SETUP)  ## build the demo model to int4 for this machine, stream an answer, print figures
	@mkdir -p build
	$(call arkinfer,build demo --quant int4 -o build/demo.ark)
	$(call arkinfer,build demo --quant none --dtype fp32 -o build/demo-fp32.ark)
	$(call arkinfer,run build/demo.ark "$(QUESTION)" --no-think --temperature 0 --max-new-tokens 160 --stats)
	$(call arkinfer,bench build/demo.ark --quick)
	$(call arkinfer,eval build/demo.ark build/demo-fp32.ark --text arkinfer/demo/heldout.txt)
	@ls -l build/demo.ark build/demo-fp32.ark | \
	  awk '{ printf "%s%s %.1f MB", NR == 1 ? "\nsize     " : ", ", $$NF, $$5 / 1e6 } END { print "" }'
	@echo 'next     . $(BIN)/activate; arkinfer run build/demo.ark   (a chat; Ctrl-D ends it)'

test: lint types imports pytest  ## lint, types, import contracts, tests; minutes

test-all: test pytest-slow  ## the same and the slow suites

test-gpu:  ## kernels on a CUDA device, and a network; GPU_PYTHON=python3 ARK=replay.ark
	PYTHONPATH=.:backends $(GPU_PYTHON) -m benchmarks.gpu --least 75
	$(if $(ARK),PYTHONPATH=.:backends $(GPU_PYTHON) -m benchmarks.replay $(ARK) --most 1e-3)

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
	$(BIN)/python -m pytest -m slow $(SLOW)

llama-cpp: $(LLAMA)/.installed  ## llama.cpp in a Python of its own, to which slow tests give what we export

$(LLAMA)/.installed: constraints.txt
	@echo "Building llama.cpp in $(LLAMA): some minutes, with a C++ compiler."
	$(PYTHON) -m venv $(LLAMA)
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_OPENMP=OFF" $(LLAMA)/bin/python -m pip --quiet \
	  --disable-pip-version-check install -c constraints.txt llama-cpp-python
	@touch $@

arm64-root: $(ARM64)/.made  ## what emulates 64-bit ARM: qemu and Debian's Python, unpacked in a folder

$(ARM64)/.made: tests/arm64/make_root.py constraints.txt | $(SETUP)
	@echo "Making $(ARM64): about a minute, with Debian's packages and Python's for arm64."
	$(BIN)/python -m tests.arm64.make_root $(ARM64)
	@touch $@

arm64: arm64-root  ## the runner and the conformance suite on an emulated Cortex-A76; minutes
	$(BIN)/python -m pytest -m arm64 tests/arm64

peers: $(PEERS)/.installed  ## engines that benchmarks compare with ours, in a Python of their own

$(PEERS)/.installed: constraints.txt
	@echo "Setting up $(PEERS): ONNX Runtime GenAI, OpenVINO, PyTorch, and llama.cpp, which is built."
	$(PYTHON) -m venv $(PEERS)
	$(PEERS_PIP) install -c constraints.txt gguf nncf numpy onnx-ir onnxruntime-genai openvino \
	  psutil safetensors torch transformers
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_OPENMP=OFF" \
	  $(PEERS_PIP) install -c constraints.txt llama-cpp-python
	@touch $@

docs: $(SETUP)  ## the documentation site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'next     open build/site/index.html'

fuzz: $(SETUP)  ## search for bytes that break a reader; READER=chat SECONDS=600 JOBS=1
	$(PIP) install -c constraints.txt -e '.[dev,fuzz]'
	PYTHONPATH=.:backends $(BIN)/python -m fuzz $(READER) --seconds $(SECONDS) --jobs $(JOBS)

format: $(SETUP)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what was made
	rm -rf build $(VENV) $(LLAMA) $(PEERS) $(ARM64)
