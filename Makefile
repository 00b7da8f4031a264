# `make help` lists the targets. The first one that needs .venv makes it, from requirements.lock.

# Any Python from 3.11 on: make setup PYTHON=python3.12
PYTHON ?= python3

# Where torch comes from. Left empty, pip takes it from wherever it takes the rest, and on Linux that is usually a build
# with gigabytes of CUDA packages. For the small CPU build give the address that the install selector on pytorch.org
# prints after --index-url (Start locally: Linux, Pip, CPU): make setup TORCH_INDEX=ADDRESS
TORCH_INDEX ?=

# Processes that the tests are spread over; a file's tests stay together, since they share what they export.
WORKERS ?= 2

BIN := .venv/bin
BUNDLE := artifacts/debi_nano
# The first held-out scan of each of three digits.
SCANS = $(foreach digit,3 5 8,$(firstword $(sort $(wildcard models/debi_nano/$(digit)/*.png))))

.PHONY: help setup demo test matrix triton lint types

help:
	@echo "make setup    .venv with everything of requirements.lock, and debiexport itself, editable"
	@echo "make demo     export the sample network, check the bundle, classify three images"
	@echo "make test     the tests"
	@echo "make matrix   the long exactness tests, which make test leaves out"
	@echo "make triton   the real Triton in .triton, for the tests that talk to it"
	@echo "make lint     ruff: rules and formatting"
	@echo "make types    mypy, strict"

# Two stamps, each written last, so that a set-up which was cut short is done again: .locked for the packages (a changed
# lock starts from an empty .venv, or packages it no longer names would stay), .ready for debiexport itself.
setup: $(BIN)/.ready

$(BIN)/.ready: $(BIN)/.locked pyproject.toml
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $@

$(BIN)/.locked: requirements.lock
	@command -v "$(PYTHON)" >/dev/null || { \
	    echo "make: no $(PYTHON) here: install Python 3.11 or newer, or name yours: make setup PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: $(PYTHON) is Python " + \
	    sys.version.split()[0] + ": 3.11 or newer is needed; name one: make setup PYTHON=python3.12")'
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make: $(PYTHON) has no ensurepip, so it cannot make .venv: on Debian or Ubuntu run:" \
	        "apt-get install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear .venv
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --no-deps --index-url "$(TORCH_INDEX)" "$$(grep '^torch==' $<)")
	$(BIN)/python -m pip install --requirement $<
	@touch $@

demo: setup
	$(BIN)/debiexport onnx --model debi_nano --output $(BUNDLE) --force
	$(BIN)/debiexport check $(BUNDLE) --eval models/debi_nano
	$(BIN)/debiexport predict $(BUNDLE) $(SCANS)
	@echo "The bundle is in $(BUNDLE), the images are in models/debi_nano."

test: setup
	$(BIN)/pytest -n $(WORKERS) --dist loadfile

# pytest ends with 5 where it finds no test to run.
matrix: setup
	@$(BIN)/pytest -m matrix -n $(WORKERS) tests; code=$$?; \
	    if [ $$code -eq 5 ]; then echo "make matrix: no test is marked 'matrix' yet, so nothing was run"; code=0; fi; \
	    exit $$code

triton: setup
	$(BIN)/python tools/install_triton.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy debiexport models plugins
