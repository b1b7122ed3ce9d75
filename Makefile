# Two commands for a fresh machine: `make demo` and `make test`. PYTHON may name another interpreter (>= 3.11).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: install demo test check bench clean

install: $(VENV)/.runtime

demo: install
	$(BIN)/feddtl run experiments/quickstart.toml --output runs/demo-$$(date +%Y%m%d-%H%M%S)

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov --cov-report=term --cov-fail-under=90

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# feddtl against a plain transformers + peft loop, about an hour on two cores; BENCH names measures or --quick.
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.bench $(BENCH)

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache

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
