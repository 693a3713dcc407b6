# make lab   opens the course       (LAB_ARGS="--no-browser --port 8889" passes options on)
# make check  a minute: style, spelling, imports, types, stale notebooks, quick tests
# make test  checks style, library, notebooks and every printed number
# make test-browser  runs every notebook in JupyterLab in a real browser
# make test-release  installs the tree that students get, from nothing, and runs it
# make test-mutants  changes every solution in every small way: do the hidden checks notice?
# make test-gpu-script  goes through the script that waits for a GPU, without one
# make site  builds the course as a web site in build/site, without a network
# make pdf   prints it: build/causal-attention.pdf (needs chromium)
# make test-site  builds both and reads them: links, accessibility, search, no network
# make test-long  compares the real model with transformers: every logit, every text (minutes)
# make test-recordings  trains chapter 1's models anew: are they what the explorer shows?
# make colab  runs every notebook with Colab's versions (5 GB, needs Python 3.13 and openssl)
# make colab-subset  runs two of them without Colab's torch (a minute); CI does so
# All set up .venv on the first run; they need Python 3.11 or newer and make, nothing else.

SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo "$$p"; break; }; done)
BIN := .venv/bin
FIRST := $(firstword $(sort $(wildcard notebooks/*.ipynb)))

.PHONY: lab check check-code check-tests test test-browser test-release test-mutants test-long test-recordings test-gpu-script test-site site pdf colab colab-subset build clean

lab: .venv/lab-ready
	@$(BIN)/python -m course_lib.pretrained || true
	$(BIN)/jupyter lab --notebook-dir=. $(LAB_ARGS) $(FIRST)

check: .venv/dev-ready
	@$(MAKE) --no-print-directory -j2 check-code check-tests

check-code: .venv/dev-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/course build --check-sources

check-tests: .venv/dev-ready
	$(BIN)/python -m pytest -m fast $$(grep -rl "mark\.fast" tests --include="test_*.py")

test: .venv/dev-ready
	@echo "== the real model (93 MB, once)"
	$(BIN)/python -m course_lib.pretrained
	@echo "== 1 of 4: style (ruff), spelling (codespell), imports (import-linter), types (mypy)"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/mypy
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
	$(BIN)/python -m pytest -m release tests/course_tools/release/test_release.py

test-mutants: .venv/dev-ready
	@echo "== every small change to every solution against the hidden checks"
	$(BIN)/python -m course_tools.exercise_bank.mutation --seed 1

test-long: .venv/dev-ready
	@echo "== the real model against transformers, which reads the same file"
	$(BIN)/python -m course_lib.pretrained
	$(BIN)/python -m pytest -m long tests

test-recordings: .venv/dev-ready
	@echo "== the recorded models of the generation explorer, trained anew (about half a minute)"
	$(BIN)/python -m course_tools.build.recordings --check

test-gpu-script: .venv/dev-ready
	@echo "== every line of benchmarks/on_gpu.sh, without a GPU (about a minute)"
	PYTHON=$(CURDIR)/$(BIN)/python bash benchmarks/on_gpu.sh --dry-run build/on_gpu

site: .venv/site-ready
	@echo "== the web site (under a minute)"
	$(BIN)/python docs/site/build.py site

pdf: .venv/site-ready
	@echo "== the printed book (about a minute; needs chromium)"
	$(BIN)/python docs/site/build.py pdf

test-site: site pdf .venv/dev-ready
	@echo "== the web site in a real browser, and the printed book"
	$(BIN)/python -m pytest -m site tests/test_site.py

colab: .venv/dev-ready
	@echo "== every notebook alone in a fresh emulation of Colab (about ten minutes and a network)"
	$(BIN)/python -m tests.colab.run $(COLAB_ARGS)

colab-subset: .venv/dev-ready
	@echo "== two notebooks with Colab's versions of all but torch (a minute and a network)"
	$(BIN)/python -m tests.colab.run --subset

build: .venv/dev-ready
	$(BIN)/course build

clean:
	rm -rf build .colab .venv .pytest_cache .ruff_cache .mypy_cache .grimp_cache \
		.import_linter_cache .hypothesis

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

.venv/site-ready: pyproject.toml constraints.txt | .venv
	@echo "== installing what builds the site"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[site]'
	@touch $@

.venv:
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or newer (with its venv and ensurepip modules; Debian: python3-venv) on the PATH" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
