# Everything a person or CI runs. A fresh machine needs only Python 3.11+, pip and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=
# Tests at once: many wait for what other processes do, so one more than the smallest machine has cores.
JOBS   ?= 3

.DEFAULT_GOAL := help
.PHONY: help up install test test-compiled compiled unit lint types protos protos-check fmt bench constraints clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

up: $(VENV)/.installed  ## Start the mesh with the demo (Ctrl-C stops it)
	@$(BIN)/mesh up --demo $(ARGS)

install: $(VENV)/.installed-dev  ## Make .venv with the product and the development tools

# The product alone: `make up` waits for nothing that only tests need.
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing meshplane (once, under a minute)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing the development tools (once, about a minute)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# One more health probe that is not ours, where Go is at hand to build it.
	@if command -v go >/dev/null; then \
	  GOBIN="$(abspath $(BIN))" go install github.com/grpc-ecosystem/grpc-health-probe@v0.4.61 \
	  || echo "grpc-health-probe not built: its test is skipped"; fi
	@touch $@

test: $(VENV)/.installed-dev lint types protos-check test-compiled  ## Lint, type-check, and run all tests
	$(BIN)/pytest -n $(JOBS) --dist loadgroup $(ARGS)

# The package as pip installs it, its data path compiled (setup.py), beside the tests.
compiled: $(VENV)/.installed-dev  ## Build the package with its data path compiled, into build/compiled
	@rm -rf build/compiled build/wheel build/lib* build/bdist*
	@MESHPLANE_COMPILE=yes $(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps -w build/wheel .
	@$(BIN)/python -m zipfile -e build/wheel/*.whl build/compiled
	@cp -r tests tools docs examples pyproject.toml setup.py build/compiled/

# Tests run the source, which an edit changes at once; what is compiled of it has to pass the same.
test-compiled: $(VENV)/.installed-dev
	@if command -v cc >/dev/null; then \
	  echo "compiling the data path (about a minute)" && $(MAKE) --no-print-directory compiled \
	  && cd build/compiled && MESHPLANE_EXPECT=compiled ../../$(BIN)/python -m pytest -n 2 --dist loadgroup -p no:cacheprovider \
	    tests/unit/test_compiled.py tests/unit/proxy tests/unit/mesh/resilience tests/conformance -k 'not aio'; \
	else echo "no C compiler: the compiled data path is not tested"; fi

unit: $(VENV)/.installed-dev  ## Run the fast tests only
	$(BIN)/pytest tests/unit $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint

types: $(VENV)/.installed-dev
	$(BIN)/mypy

protos: $(VENV)/.installed-dev  ## Generate the stubs from the protos
	$(BIN)/python tools/protos.py

protos-check: $(VENV)/.installed-dev
	$(BIN)/python tools/protos.py --check

fmt: $(VENV)/.installed-dev  ## Format and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: compiled  ## Compare the edge with Envoy and others (ARGS="--quick" for a short run)
	@$(BIN)/python -m benchmarks.run $(ARGS)

constraints: $(VENV)/.installed-dev  ## Pin the versions that are installed now
	$(BIN)/pip freeze --exclude-editable | grep -E '^[A-Za-z0-9_.-]+==' > constraints.txt

clean:  ## Remove what make made
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
