# Two commands for a fresh machine: `make demo` and `make test`. PYTHON may name another interpreter (>= 3.11).
PYTHON ?= python3
VENV ?= .venv
FLOWER_VENV ?= .venv-flower
DOCS_VENV ?= .venv-docs
BIN := $(VENV)/bin
# The files that need Flower, and no other; a test holds this list to that.
FLOWER_TESTS := tests/equivalence/test_images_on_clients.py tests/equivalence/test_missing_clients.py tests/equivalence/test_sites_over_flower.py \
  tests/integrations/test_flower_app.py tests/integrations/test_nginx.py tests/launch/test_keys.py tests/runtimes/flower
INSTALL := -m pip --disable-pip-version-check install --quiet
PIP := $(BIN)/python $(INSTALL)
FLOWER_PIP := $(FLOWER_VENV)/bin/python $(INSTALL)

.PHONY: install install-flower demo test test-flower test-slow test-distributed check bench docs clean

install: $(VENV)/.runtime

# Flower holds some packages at older versions, so it has an environment of its own.
install-flower: $(FLOWER_VENV)/.flower

demo: install
	$(BIN)/feddtl run experiments/quickstart.toml --output runs/demo-$$(date +%Y%m%d-%H%M%S)

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not slow' --cov --cov-report=term --cov-fail-under=90
	$(MAKE) test-flower

test-flower: $(FLOWER_VENV)/.flower
	OMP_NUM_THREADS=1 FLWR_TELEMETRY_ENABLED=0 $(FLOWER_VENV)/bin/python -m pytest -n 2 $(FLOWER_TESTS)

# What is slow and needs no Flower: every experiment file, the benchmark from end to end, thousands of clients, the site.
test-slow: $(VENV)/.dev $(DOCS_VENV)/.docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

# The same run in one process, over Ray, and by server and clients in processes of their own: a few minutes.
test-distributed: $(FLOWER_VENV)/.flower
	OMP_NUM_THREADS=1 FLWR_TELEMETRY_ENABLED=0 $(FLOWER_VENV)/bin/python -m pytest tests/distributed

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# feddtl against a plain transformers + peft loop, about an hour on two cores; BENCH names measures or --quick.
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.bench $(BENCH)

# The documentation as a site: open site/index.html. MkDocs reads the sources, so feddtl is not installed there. The
# variable silences a notice of the theme.
docs: $(DOCS_VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) $(FLOWER_VENV) $(DOCS_VENV) site build dist *.egg-info src/*.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache

# torch comes first and alone: a resolve that starts without it may choose another build of several gigabytes.
# The lock repeats its pin, so that nothing installed later moves it.
$(VENV)/.torch: requirements/torch.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --requirement requirements/torch.txt
	touch $@

$(VENV)/.runtime: $(VENV)/.torch requirements/lock.txt pyproject.toml
	$(PIP) --constraint requirements/lock.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) --constraint requirements/lock.txt --editable '.[dev]'
	touch $@

$(FLOWER_VENV)/.flower: requirements/torch.txt requirements/flower.txt pyproject.toml
	$(PYTHON) -m venv $(FLOWER_VENV)
	$(FLOWER_PIP) --requirement requirements/torch.txt
	$(FLOWER_PIP) --constraint requirements/flower.txt --editable '.[dev,flower]'
	touch $@

$(DOCS_VENV)/.docs: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python $(INSTALL) --requirement requirements/docs.txt
	touch $@
