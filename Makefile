# make book   set up, run every notebook on the default model, render site/index.html
# make read   set up and render the committed reference run, without running a model
# make lab    set up, with JupyterLab, and open the notebooks; they find the run folders of `prunelib run`
# make test   set up and run all tests; JOBS=auto in as many processes as there are cores
# make families   try every family of models and keep in data/families.json what works
# make lint   check style
# make reference   run everything in profile full (an hour or two, resumes) and keep it in data/reference;
#             PRUNELIB_DATASETS=FOLDER adds the standard benchmarks that can be read from a folder,
#             BENCHMARKS=boolq,humaneval others
# make clean  remove what was generated (the model cache is kept)

PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
PROFILE ?= quick
MODEL   ?= smollm2-135m-instruct
BENCHMARKS ?= $(if $(PRUNELIB_DATASETS),commonsense_qa$(COMMA)multiarith$(COMMA)addsub$(COMMA)gsm8k)
JOBS    ?= 0
COMMA   := ,

.PHONY: book read lab reference test families lint clean setup
.DELETE_ON_ERROR:

book: setup
	folder=$$($(BIN)/prunelib run --model $(MODEL) --profile $(PROFILE)) && $(BIN)/prunelib book --run "$$folder"

read: setup
	$(BIN)/prunelib book --reference $(MODEL)

lab: $(VENV)/.lab
	$(BIN)/jupyter lab notebooks

reference: setup
	folder=$$($(BIN)/prunelib run --model $(MODEL) --profile full $(if $(BENCHMARKS),-p benchmarks=$(BENCHMARKS))) && \
	$(BIN)/prunelib reference --run "$$folder"

test: setup
	$(BIN)/python -m pytest -n $(JOBS)

families: setup
	$(BIN)/python -m pytest -n $(JOBS) tests/models tests/measure/test_trace.py tests/methods tests/tasks/test_readouts.py \
	  --families data/families.json

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

setup: $(VENV)/.ready

# torch is named on the command line too: a looser request could pull a build of several GB.
$(VENV)/.ready: requirements.lock pyproject.toml
	@echo "Setting up $(VENV): exact packages from requirements.lock, a few minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq torch==2.13.0 --requirement requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

# The lock decides: JupyterLab comes on top of it and changes nothing in it.
$(VENV)/.lab: $(VENV)/.ready
	@echo "Adding JupyterLab to $(VENV)"
	@$(BIN)/python -m pip install -qq --constraint requirements.lock --no-build-isolation --editable ".[lab]"
	@touch $@

clean:
	rm -rf $(VENV) runs site _build .pytest_cache .hypothesis
