# make demo: from nothing to a trained translator. make test: from nothing to the tests. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo

.PHONY: demo test test-slow test-processes test-interop lint clean

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

demo: $(VENV)/installed
	$(VENV)/bin/python train.py --config=configs/demo.py --workdir=$(RUN)
	$(VENV)/bin/python evaluate.py --workdir=$(RUN) --test demo:test
	$(VENV)/bin/python translate.py --workdir=$(RUN) --attention=$(RUN)/attention.png \
		"The elephant did not cross the street because it was too tired." \
		"The elephant did not cross the street because it was too wide." \
		"Yesterday the old teacher bought a red book."
	@echo "what the first translation looked at: $(RUN)/attention.png"

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

test-slow: $(VENV)/installed
	$(VENV)/bin/python -m pytest -m slow

test-processes: $(VENV)/installed
	$(VENV)/bin/python -m pytest -m processes

test-interop: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test-interop]'
	$(VENV)/bin/python -m pytest -m interop

lint: $(VENV)/installed
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

clean:
	rm -rf $(VENV) *.egg-info
