# make demo: from nothing to a trained translator. make test: from nothing to the tests. make docs: to the documentation.
# PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo

# In the order in which `make test-all` runs them.
SUITES = test test-slow test-processes test-interop test-browser

.PHONY: demo $(SUITES) test-all lint docs docs-publish clean

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

demo: $(VENV)/installed
	$(VENV)/bin/python train.py --config=demo --workdir=$(RUN)
	$(VENV)/bin/python evaluate.py --workdir=$(RUN) --test demo:test
	$(VENV)/bin/python translate.py --workdir=$(RUN) --attention=$(RUN)/attention.png \
		"The elephant did not cross the street because it was too tired." \
		"The elephant did not cross the street because it was too wide." \
		"Yesterday the old teacher bought a red book."
	@echo "what the first translation looked at: $(RUN)/attention.png"

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

test-slow: $(VENV)/installed
	XLA_FLAGS= $(VENV)/bin/python -m pytest -m slow

test-processes: $(VENV)/installed
	$(VENV)/bin/python -m pytest -m processes

test-interop: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test-interop]'
	$(VENV)/bin/python -m pytest -m interop

test-browser: $(VENV)/installed
	$(VENV)/bin/python -m pytest -m browser

# Every suite, each with its own pytest, also after one that fails; then one table. Exit code 1 if any failed.
test-all: $(VENV)/installed
	-$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test-interop,test-gcs]'
	rm -rf build/tests
	for suite in $(SUITES); do PYTEST_ADDOPTS="--junitxml=build/tests/$$suite.xml" $(MAKE) --keep-going $$suite; done; \
		$(VENV)/bin/python tests/suite_table.py $(SUITES:%=build/tests/%.xml)

lint: $(VENV)/installed
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

docs: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict
	@echo "the documentation: build/docs/index.html; with search: $(VENV)/bin/python -m http.server --directory build/docs"

# A commit on the branch gh-pages, where versions stand beside each other; pushing it is up to you.
docs-publish: docs
	PATH="$(abspath $(VENV))/bin:$$PATH" NO_MKDOCS_2_WARNING=1 mike deploy --update-aliases \
		$$($(VENV)/bin/python -c "import transformer_jax; print(transformer_jax.__version__)") latest
	PATH="$(abspath $(VENV))/bin:$$PATH" NO_MKDOCS_2_WARNING=1 mike set-default latest

clean:
	rm -rf $(VENV) *.egg-info
