# Everything runs in .venv, which the first target that needs it creates.  make PYTHON=/path/to/python3.12 chooses one.
IS_GOOD := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	$$p -c '$(IS_GOOD)' 2>/dev/null && { command -v $$p; break; }; done)
ifneq ($(shell $(or $(PYTHON),false) -c '$(IS_GOOD)' 2>/dev/null && echo good),good)
$(error rp2k-lab needs Python 3.11 or 3.12 with its venv module; found $(or $(shell python3 --version 2>/dev/null),no python3). Install one, or name it: make PYTHON=/path/to/python3.12)
endif

BIN := .venv/bin
INSTALLED := .venv/installed
EXTRAS := dev
# GPU=1 installs the extra gpu, too, and later installations keep it.
ifneq ($(filter 1,$(GPU))$(wildcard .venv/installed-gpu),)
INSTALLED := .venv/installed-gpu
EXTRAS := dev,gpu
endif
PORT ?= 5000
HOST := 127.0.0.1

.PHONY: run quick test soak check help ui dashboard demo native docs pictures bench notebooks
.DEFAULT_GOAL := run

run: native  ## make the embedded data set, train, evaluate, print where to look; GPU=1 installs CUDA 11.8 and uses it
	$(BIN)/python run.py$(if $(filter 1,$(GPU)), device=gpu)

# Three tiers of tests: test contains quick, soak is the rest.  Two processes share the tests.  MindSpore 2.10 returns
# only a part of the memory of compiled networks: the tests that compile most of them come first, and their processes
# end before others start trainings.
TESTS := $(BIN)/python -m pytest -n 2 --dist worksteal
NETWORKS := tests/model tests/train

quick: native  ## the tests without processes, compiled networks and browsers: a minute and a half, 2 GB
	$(TESTS) -m "not slow and not soak and not alone"

test: native  ## every behavior once: about twelve minutes on two quiet cores, 6 GB
	$(TESTS) -m "not soak and not alone" --durations=10 $(NETWORKS)
	$(TESTS) -m "not soak and not alone" --durations=25 $(NETWORKS:%=--ignore=%)

soak: native  ## what make test leaves out: kills, power cuts, every choice, model and table, a wheel: an hour
	$(TESTS) -m "soak and not alone" --durations=25
	$(BIN)/python -m pytest -m alone

check: native  ## ruff, basedpyright, and make test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(MAKE) test

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

ui: $(INSTALLED)  ## the MLflow page, for this machine only; HOST=0.0.0.0 shows it to others: see docs/reliability.md first
	$(BIN)/python -m rp2k_lab.tracking.server $(PORT) $(HOST)

dashboard: $(INSTALLED)  ## Optuna's page of the studies; STORAGE=<address> is another database, PORT=8081 another port
	$(BIN)/python -m rp2k_lab.sweep.dashboard $(if $(filter file,$(origin PORT)),8080,$(PORT)) $(if $(STORAGE),'$(STORAGE)')

demo: native  ## recognize photos and enroll products in a browser, by RUN=last or a run's id; PORT=8001 is another port
	$(BIN)/python -m rp2k_lab.demo '$(or $(RUN),last)' --port $(if $(filter file,$(origin PORT)),8000,$(PORT)) --uri '$(URI)'

native: $(INSTALLED)  ## compile the native kernels if they are older than their sources, where a compiler is
	@$(BIN)/python rp2k_lab/native/build.py || true

notebooks: native  ## execute both notebooks into outputs/notebooks; RUN=<id> chooses a run
	$(BIN)/python -m rp2k_lab.notebook --run '$(RUN)' --uri '$(URI)'

docs: $(INSTALLED)  ## docs/config.md again, from the schema
	$(BIN)/python -m rp2k_lab.config.reference > docs/config.md

pictures: native  ## the pictures of README and docs/, and the closing table, again: about ten minutes
	$(BIN)/python docs/pictures.py

bench: native  ## every benchmark: ratios with intervals
	$(BIN)/python -m benchmarks.train_step
	$(BIN)/python -m benchmarks.input_pipeline
	$(BIN)/python -m benchmarks.index
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.evaluate
	$(BIN)/python -m benchmarks.extend
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.neighbors

$(INSTALLED): pyproject.toml constraints.txt setup.py
	@echo "installing the pinned dependencies into .venv: about two minutes, 3.6 GB$(if $(findstring gpu,$(EXTRAS)), and 3 GB for a GPU)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@
