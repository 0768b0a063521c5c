# Everything a fresh machine needs: `make demo` to see the main job, `make test` to run the whole suite.
# Both first make a virtual environment in .venv, once, and again when pyproject.toml or constraints.txt changes.

VENV ?= .venv
# A Python to build the environment with; the first of the usual names that is 3.11 or newer when left empty.
PYTHON ?=
# Passed to pip when it installs torch. On Linux the package index serves torch with CUDA, some gigabytes; for the small build:
#   make test TORCH_PIP="--extra-index-url https://download.pytorch.org/whl/cpu"
TORCH_PIP ?=

DEMO ?= --data digits --noise symmetric:0.4 --objectives cross_entropy,generalized_cross_entropy:q=0.7,classification_mae,symmetric_cross_entropy,ldr_kl_loss --seeds 10 --tuner grid

WORKERS ?= 2
# One thread a worker: two workers with two threads each would wait for one another. Who is done first helps the other.
TEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist worksteal
# An int where a float is annotated is right, as for any type checker; beartype has to be told.
TYPECHECKER = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))

# Many container images say that no bytecode be written. The tests start many processes, each of which would then compile torch anew.
export PYTHONDONTWRITEBYTECODE =

STAMP = $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test twice lint docs clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 16

setup: $(STAMP)  ## make .venv and install lossmith with everything its tests need

# Not compiled beforehand: what is imported is compiled then, and the rest, most of it, never.
$(STAMP): pyproject.toml constraints.txt
	@python=; \
	for candidate in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "lossmith needs Python 3.11 or newer, found none; name one: make PYTHON=/path/to/python3" >&2; exit 1; fi; \
	if [ ! -x "$(VENV)/bin/python" ]; then echo "creating $(VENV) with $$("$$python" --version)"; "$$python" -m venv "$(VENV)"; fi
	@echo "installing torch and what lossmith's tests need (a few minutes, once)"
	@$(VENV)/bin/python -m pip install -qq --no-compile --disable-pip-version-check $(TORCH_PIP) -c constraints.txt torch
	@$(VENV)/bin/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt -e '.[compare,dev,oracles]'
	@touch $@

demo: $(STAMP)  ## compare five objectives on real data with noisy labels, and write the report
	$(VENV)/bin/lossmith compare $(DEMO)

# Twice: what bears it with every annotated shape and type checked at run time, then, as users run it, what does not bear it and a sample
# of what was checked (docs/decisions/0021-each-test-once.md).
test: $(STAMP)  ## the whole suite
	$(TEST) -m checked --jaxtyping-packages="lossmith,$(TYPECHECKER)"
	$(TEST) -m "not checked or both"

twice: $(STAMP)  ## before a release: all of it as users run it, and with every annotation checked at run time
	$(TEST)
	$(TEST) -m checked --jaxtyping-packages="lossmith,$(TYPECHECKER)"

lint: $(STAMP)  ## style, the arrows between the packages, types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pyrefly check --python-interpreter-path $(VENV)/bin/python

docs: $(STAMP)  ## the documentation, in docs/_build/html; a warning is an error
	$(VENV)/bin/python -m sphinx -W --keep-going -n -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

clean:  ## remove what the other targets made, .venv included
	rm -rf $(VENV) build dist docs/_build .pytest_cache .ruff_cache .import_linter_cache
