# make book   set up, run every notebook on the default model, render site/index.html
# make read   set up and render the committed reference run, without running a model
# make test   set up and run all tests
# make lint   check style
# make reference   run everything in profile full (hours, resumes), keep it in data/reference;
#             BENCHMARKS=gsm8k,commonsense_qa with PRUNELIB_DATASETS=FOLDER adds standard benchmarks
# make clean  remove what was generated (the model cache is kept)

PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
PROFILE ?= quick
MODEL   ?= smollm2-135m-instruct
SLUG     = $(subst /,--,$(MODEL))

.PHONY: book read reference test lint clean setup
.DELETE_ON_ERROR:

book: setup
	$(BIN)/prunelib run --model $(MODEL) --profile $(PROFILE)
	$(BIN)/prunelib book --run runs/$(SLUG)/$(PROFILE)

read: setup
	$(BIN)/prunelib book --reference $(SLUG)

reference: setup
	$(BIN)/prunelib run --model $(MODEL) --profile full $(if $(BENCHMARKS),-p benchmarks=$(BENCHMARKS))
	$(BIN)/prunelib reference --run runs/$(SLUG)/full

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .

setup: $(VENV)/.ready

# torch is named on the command line too: a looser request could pull a build of several GB.
$(VENV)/.ready: requirements.lock pyproject.toml
	@echo "Setting up $(VENV): exact packages from requirements.lock, a few minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq torch==2.13.0 --requirement requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) runs site _build .pytest_cache .hypothesis
