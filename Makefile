# make demo   sets up .venv and drives the bundled scenes inside the learned world
# make test   sets up .venv and runs the tests
# make docs   sets up .venv and builds the documentation into site/
PYTHON ?= python3
# The CPU build is pinned here, not in the package: GPU users say `make demo TORCH=torch`.
TORCH ?= torch==2.13.0
VENV ?= .venv
RUN := $(VENV)/bin/python
OUT ?= runs/quickstart

.PHONY: demo test test-slow lint docs setup clean

demo: $(VENV)/.stamp
	$(RUN) examples/quickstart.py --out $(OUT)

test: $(VENV)/.stamp-dev
	$(RUN) -m pytest

test-slow: $(VENV)/.stamp-dev
	$(RUN) -m pytest -m slow

lint: $(VENV)/.stamp-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/codespell

docs: $(VENV)/.stamp-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

setup: $(VENV)/.stamp

# One pip call resolves torch and the package together, so that the pinned build stays.
$(VENV)/.stamp: pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q '$(TORCH)' -e .
	touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp
	$(RUN) -m pip install -q '$(TORCH)' -e '.[dev,nuscenes,viewer]'
	touch $@

$(VENV)/.stamp-docs: $(VENV)/.stamp
	$(RUN) -m pip install -q '$(TORCH)' -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info
