# Everything runs in .venv, which the first target that needs it creates.  make PYTHON=/path/to/python3.12 chooses one.
IS_GOOD := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	$$p -c '$(IS_GOOD)' 2>/dev/null && { command -v $$p; break; }; done)
ifneq ($(shell $(or $(PYTHON),false) -c '$(IS_GOOD)' 2>/dev/null && echo good),good)
$(error rp2k-lab needs Python 3.11 or 3.12 with its venv module; found $(or $(shell python3 --version 2>/dev/null),no python3). Install one, or name it: make PYTHON=/path/to/python3.12)
endif

BIN := .venv/bin
INSTALLED := .venv/installed
PORT ?= 5000
HOST := 127.0.0.1

.PHONY: run test soak check ui bench notebooks
.DEFAULT_GOAL := run

run: $(INSTALLED)  ## make the embedded data set, train, evaluate, say where to look
	$(BIN)/python run.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not alone and not long and not soak" --durations=25
	$(BIN)/python -m pytest -m alone

soak: $(INSTALLED)  ## the long tests: 200 kills, every table, every wrong command as a process
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "long or soak" --durations=25

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) test

ui: $(INSTALLED)  ## the MLflow page on this machine alone; HOST=0.0.0.0 shows it to others: see the README first
	$(BIN)/python -m rp2k_lab.tracking.server $(PORT) $(HOST)

notebooks: $(INSTALLED)  ## execute both into outputs/notebooks; of one run: make notebooks RUN=<id>
	$(BIN)/python -m rp2k_lab.notebook --run '$(RUN)' --uri '$(URI)'

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.train_step
	$(BIN)/python -m benchmarks.input_pipeline
	$(BIN)/python -m benchmarks.index
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.evaluate

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing the pinned dependencies into .venv: about two minutes, 3.6 GB"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
