# Tasks of the project; `make` lists them. Another environment: make test VENV=path/to/venv
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
DATA ?=
VENVS ?= .venvs
VERSIONS = tests/support/versions

.DEFAULT_GOAL := help
.PHONY: help setup test lint format types check oldest newest py311 py312 optional validate host release bench demo wheel
.PHONY: tables schemas texts workflows pictures

help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "%-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(BIN)/python ## make the virtual environment with every tool

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -e ".[dev]"

test: setup ## the tests; one file: make test ARGS="-n 0 tests/faces/test_align.py"
	$(BIN)/python -m pytest $(ARGS)

lint: setup ## ruff, and whether the code is formatted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## pyright
	$(BIN)/pyright

check: lint types test ## what must pass before a commit is handed in

# An environment of its own for each file of versions, made by the Python that its first line names.
environment = set -e; test -x $(VENVS)/$(1)/bin/python || \
	"python$$(sed -n '1s/^\# Python //p' $(VERSIONS)/$(1).txt)" -m venv $(VENVS)/$(1); $(VENVS)/$(1)/bin/pip install -q

suite = $(call environment,$(1)) -c $(VERSIONS)/$(1).txt -e ".[dev]"; \
	$(VENVS)/$(1)/bin/pip list | grep -wiF "$$(sed -n 's/==.*//p' $(VERSIONS)/$(1).txt)"; \
	$(VENVS)/$(1)/bin/python -V; $(VENVS)/$(1)/bin/python -m pytest -rs $(ARGS)

oldest: ## the tests with the oldest versions that pyproject.toml allows, on Python 3.10
	@$(call suite,$@)

newest: ## the tests with the newest versions there are, on Python 3.13
	@$(call suite,$@)

py311: ## the tests with old libraries and a new torch, on Python 3.11
	@$(call suite,$@)

py312: ## the tests with versions between, on Python 3.12
	@$(call suite,$@)

optional: ## optional detectors, with their packages in an environment of its own, and the files of ../shared
	@$(call environment,$@) torch==2.13.0 -c $(VERSIONS)/$@.txt -e ".[dev,insightface,facexlib]"
	@$(VENVS)/$@/bin/python -m pytest -n 0 -m optional -rs $(ARGS)

validate: setup ## what the registry's tools say of the pack, into build/validate; COMFYUI_PATH as for host
	@$(call environment,tools) -r $(VERSIONS)/tools.txt
	@PYTHONPATH=tests/support $(BIN)/python tests/support/validate.py build/validate $(VENVS)/tools/bin

host: setup ## tests in a real ComfyUI, named by COMFYUI_PATH and COMFYUI_PYTHON
	@test -n "$(COMFYUI_PATH)" || { echo "COMFYUI_PATH names no ComfyUI checkout"; exit 1; }
	COMFYUI_PATH="$(COMFYUI_PATH)" $(BIN)/python -m pytest -n 0 -m host $(ARGS)

release: setup ## the long tests, before a release
	$(BIN)/python -m pytest -n 0 -m release $(ARGS)

bench: setup ## what is promised beside what is measured; parts: ARGS=restorer, pictures: DATA=folder
	$(BIN)/bfr bench $(ARGS) $(if $(DATA),--data $(DATA))

demo: setup ## degrade a portrait, restore it, write demo.png
	$(BIN)/bfr demo -o demo.png

wheel: setup ## build the wheel into dist/
	rm -rf build
	$(BIN)/pip wheel --no-deps --no-build-isolation -w dist .

tables: setup ## write the generated tables of the documentation anew
	PYTHONPATH=.:tests/support $(BIN)/python tests/core/test_docs.py

schemas: setup ## take changed nodes over into what saved workflows are checked against
	PYTHONPATH=.:tests/support $(BIN)/python tests/nodes/test_nodes.py

texts: setup ## write help pages and locales anew, from the schemas and tests/nodes/texts.txt
	PYTHONPATH=.:tests/support $(BIN)/python tests/nodes/test_texts.py

workflows: setup ## draw the saved workflows anew, from tests/nodes/api and tests/nodes/workflows.toml
	$(BIN)/python tests/support/lay_out.py

pictures: setup ## paint the pictures of templates and help pages anew; takes a minute or two
	PYTHONPATH=.:tests/support $(BIN)/python tests/support/draw_pictures.py
