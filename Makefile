# make book   set up, run every notebook on the default model, render site/index.html
# make test   set up and run all tests
# make lint   check style
# make clean  remove what was generated (the model cache is kept)

PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
PROFILE ?= quick
MODEL   ?= smollm2-135m-instruct
SLUG     = $(subst /,--,$(MODEL))

.PHONY: book test lint clean setup
.DELETE_ON_ERROR:

book: setup
	$(BIN)/prunelib run --model $(MODEL) --profile $(PROFILE)
	$(BIN)/prunelib book --run runs/$(SLUG)/$(PROFILE)

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
