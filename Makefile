# `make demo` and `make test` do everything on a fresh machine; `make` alone lists the rest.
# PYTHON, VENV and CONSTRAINTS choose another interpreter, environment or set of versions.
PYTHON      ?= python3
VENV        ?= .venv
CONSTRAINTS ?= constraints.txt
RUN          = $(VENV)/bin
STAMP        = $(VENV)/.installed
EXTRAS       = run,solve,test,lint,docs
# Tests run in this many processes. Ranks wait for each other and a search is given seconds: on a
# machine with more cores more workers are faster, with fewer cores than workers they disturb those.
WORKERS     ?= 2
# One call and one closing line: the tests that start ranks are one group (`xdist_group`), which a
# worker runs one by one while the other runs what computes. Alone, `pytest FILE` has no workers.
PYTEST       = $(RUN)/python -m pytest -n $(WORKERS) --dist loadgroup

.PHONY: help install demo test test-full test-gpu test-models test-attacks coverage fuzz lint docs docs-current lock clean

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
	-$(RUN)/stretto warm
	@touch $@

demo: $(STAMP)  ## DualPipe from a page of text to a trained step, on four CPU ranks
	@$(RUN)/python examples/demo.py

test: $(STAMP)  ## the test suite
	$(PYTEST) -m 'not full'

test-full: $(STAMP)  ## the test suite with its sweeps
	$(PYTEST)

# Nothing is installed: it needs `$(PYTHON)` with torch, and no other package.
test-gpu:  ## the runtime on one GPU, with PYTHON's own torch (DEVICE=cpu: without one)
	$(PYTHON) -m tests.gpu

test-models: $(STAMP)  ## models, Hugging Face's too, and features under every schedule: docs/models.md
	$(RUN)/python -m pip install --disable-pip-version-check -q -c $(CONSTRAINTS) -e '.[run,hf]'
	$(RUN)/python -m tests.models docs/models.md

test-attacks: $(STAMP)  ## all attacks on what is claimed, run and written; `make test` makes a sample
	ATTACKS=1 $(PYTEST) --timeout=0 tests/attacks

coverage: $(STAMP)  ## the test suite, and which lines it ran, processes that it starts included
	$(PYTEST) -m 'not full' --cov --cov-report=term:skip-covered --cov-report=html:build/coverage

fuzz: $(STAMP)  ## random files against the language, for as long as it takes (FUZZ=20000)
	FUZZ=$(or $(FUZZ),20000) $(RUN)/python -m pytest --timeout=0 -W ignore tests/evaluation/test_fuzz.py \
	  tests/evaluation/test_orders_oracle.py

lint: $(STAMP)  ## style and types
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy -p stretto -p tests
	$(RUN)/mypy benchmarks/*.py docs/*.py examples/*.py
	$(RUN)/basedpyright --level error --pythonpath $(RUN)/python

docs: $(STAMP)  ## pictures and tables of the documents, made anew
	$(RUN)/python docs/make.py

docs-current: $(STAMP)  ## whether they are as they would be made now
	$(RUN)/python docs/make.py --check

lock:  ## constraints.txt made anew with today's releases; torch stays as it says
	.ci/lock $(PYTHON) '$(EXTRAS),hf'

clean:  ## remove what was built
	rm -rf $(VENV) build dist *.egg-info
