# make demo: the whole pipeline on drawn photos, ending with a page. make test: the test suite. Both set up what they need.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python -m keras_pipeline
PAGE := keras_pipeline/export/page

.PHONY: setup demo test coverage lint bench clean browser browsers
setup: $(VENV)/.installed $(PAGE)/node_modules/.installed browser

$(VENV)/.installed: requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "error: received $$($(PYTHON) --version), expected Python 3.11; set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(PAGE)/node_modules/.installed: $(PAGE)/package-lock.json
	npm ci --prefix $(PAGE) --no-audit --no-fund
	@touch $@

# A Chromium of the system's own, or one installed here; CHROMIUM_PATH names another.
browser: $(VENV)/.installed
	@$(VENV)/bin/python -c 'from keras_pipeline.export.browser import find_chromium; find_chromium()' 2>/dev/null \
	  || (command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium fonts-dejavu-core) \
	  || $(VENV)/bin/python -m playwright install --with-deps chromium \
	  || { echo "error: no Chromium found and none could be installed; install one or set CHROMIUM_PATH"; exit 3; }

# Firefox and WebKitGTK besides: the demo and the tests ask those that are there.
browsers: browser
	@$(VENV)/bin/python -c 'from keras_pipeline.export.engines import missing_engines; exit(bool(missing_engines()))' \
	  || (apt-get update -qq && apt-get install -y -qq --no-install-recommends firefox-esr webkit2gtk-driver xvfb) \
	  || { echo "error: received no Firefox or WebKitGTK, expected root and apt; install them as your system does"; exit 3; }

demo: setup
	$(RUN) demo

test: setup
	$(VENV)/bin/python -m pytest

coverage: setup
	$(VENV)/bin/python -m pytest --cov --cov-report=term:skip-covered --cov-fail-under=90

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: setup
	@for file in benchmarks/*/*.py; do case $$file in benchmarks/support/*) continue;; esac; \
	  echo "== $$file"; $(VENV)/bin/python -m $$(echo $${file%.py} | tr / .) || exit 1; done

clean:
	rm -rf $(VENV) $(PAGE)/node_modules *.egg-info
