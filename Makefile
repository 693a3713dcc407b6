# make lab   opens the course       (LAB_ARGS="--no-browser --port 8889" passes options on)
# make test  checks style, library, notebooks and every printed number
# make test-browser  runs every notebook in JupyterLab in a real browser
# make test-release  installs the tree that students get, from nothing, and runs it
# make test-mutants  changes every solution in every small way: do the hidden checks notice?
# make test-recordings  trains chapter 1's models anew: are they what the explorer shows?
# All set up .venv on the first run; they need Python 3.11 or newer and make, nothing else.

SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo "$$p"; break; }; done)
BIN := .venv/bin
FIRST := $(firstword $(sort $(wildcard notebooks/*.ipynb)))

.PHONY: lab test test-browser test-release test-mutants test-recordings build clean

lab: .venv/lab-ready
	$(BIN)/jupyter lab $(LAB_ARGS) $(FIRST)

test: .venv/dev-ready
	@echo "== 1 of 4: style (ruff) and spelling (codespell)"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	@echo "== 2 of 4: is every notebook what its source says? (each runs once)"
	$(BIN)/course build --check
	@echo "== 3 of 4: what the library, the notebooks and the links claim"
	@echo "== 4 of 4: nbval compares every printed number (each notebook runs once more)"
	$(BIN)/python -m pytest

test-browser: .venv/dev-ready
	@echo "== every notebook in JupyterLab, in a real browser (needs chromium)"
	$(BIN)/python -m pytest -m browser tests/browser

test-release: .venv/dev-ready
	@echo "== the students' tree, set up from nothing (a few minutes and a network)"
	$(BIN)/python -m pytest -m release tests/test_release.py

test-mutants: .venv/dev-ready
	@echo "== every small change to every solution against the hidden checks"
	$(BIN)/python -m course_lib.grading.mutate --seed 1

test-recordings: .venv/dev-ready
	@echo "== the recorded models of the generation explorer, trained anew (about half a minute)"
	$(BIN)/python -c "from course_lib.explorers.recordings import main; main(['--check'])"

build: .venv/dev-ready
	$(BIN)/course build

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis

.venv/lab-ready: pyproject.toml constraints.txt | .venv
	@echo "== installing the course (a few minutes the first time)"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[lab]'
	@touch $@

.venv/dev-ready: pyproject.toml constraints.txt | .venv
	@echo "== installing the course with its test tools (a few minutes the first time)"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ .venv/lab-ready

.venv:
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or newer (with its venv and ensurepip modules; Debian: python3-venv) on the PATH" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
