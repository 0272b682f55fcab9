# Two commands do everything on a fresh machine: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test hostile interop lint bench kills clean

demo: $(VENV)/ready  ## One visitor through the whole job, then the page to click through yourself
	$(BIN)/adtarget-proxy demo --once
	$(BIN)/adtarget-proxy demo $(DEMO)

test: $(VENV)/ready  ## Every test that this machine can run
	$(BIN)/python -m pytest $(TESTS)

hostile: $(VENV)/ready  ## A million hostile requests on each shell: some ten minutes
	ADTARGET_TEST_REQUESTS=1000000 $(BIN)/python -m pytest tests/test_hostile_bytes.py

interop: $(VENV)/ready  ## Beside Meta's own builder, whose licence keeps it from being a dependency
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'capi-param-builder-python>=1.3.2'
	$(BIN)/python -m pytest tests/test_interop_builder.py

lint: $(VENV)/ready  ## Style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/ready  ## What a page pays, as ratios
	$(BIN)/python benchmarks/page.py

kills: $(VENV)/ready  ## A million events through SIGKILLs of those who write and move them
	$(BIN)/python benchmarks/kills.py $(KILLS)

$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "adtarget-proxy needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
