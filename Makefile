# `make demo` and `make test` do everything on a fresh machine; `make` alone lists the rest.
# PYTHON, VENV and CONSTRAINTS choose another interpreter, environment or set of versions.
PYTHON      ?= python3
VENV        ?= .venv
CONSTRAINTS ?= constraints.txt
RUN          = $(VENV)/bin
STAMP        = $(VENV)/.installed
EXTRAS       = run,solve,test,lint,docs

.PHONY: help install demo test test-full fuzz lint docs docs-current lock clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

install: $(STAMP)  ## a virtual environment in .venv with everything in it

# `build/types` holds the folders under their import names, so that type checkers and editors find
# `stretto.compiler` where the folder is `compiler`.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --disable-pip-version-check -q -c $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	mkdir -p build/types/stretto
	for d in compiler grammar runtime schedules; do ln -sfn ../../../$$d build/types/stretto/$$d; done
	@touch $@

demo: $(STAMP)  ## DualPipe from a page of text to a trained step, on four CPU ranks
	@$(RUN)/python examples/demo.py

test: $(STAMP)  ## the test suite
	$(RUN)/python -m pytest -m 'not full'

test-full: $(STAMP)  ## the test suite with its sweeps
	$(RUN)/python -m pytest

fuzz: $(STAMP)  ## random files against the language, for as long as it takes (FUZZ=20000)
	FUZZ=$(or $(FUZZ),20000) $(RUN)/python -m pytest --timeout=0 -W ignore tests/evaluation/test_fuzz.py \
	  tests/evaluation/test_orders_oracle.py

lint: $(STAMP)  ## style and types
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy -p stretto
	$(RUN)/basedpyright --level error --pythonpath $(RUN)/python

docs: $(STAMP)  ## pictures and tables of the documents, made anew
	$(RUN)/python docs/make.py

docs-current: $(STAMP)  ## whether they are as they would be made now
	$(RUN)/python docs/make.py --check

lock:  ## constraints.txt made anew with today's releases; torch stays as it says
	.ci/lock $(PYTHON) '$(EXTRAS)'

clean:  ## remove what was built
	rm -rf $(VENV) build dist *.egg-info
