# Every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
CACHE := --compilation_cache=runs/.compiled
SEEDS ?= 0
MINUTES ?= 3
FLAGS ?=
SAMPLES ?= 2000
JOBS ?= 1
VARIANTS := mmvae ebm_prior paper_b full private_full
VAES := mvae mmvae mopoe mmvae_plus helvae
ENERGIES := paper_a paper_a_no_prior paper_a_no_revision paper_b union full
INCOMPLETE := mvae mmvae mopoe mmvae_plus paper_a paper_b
comma := ,
empty :=
space := $(empty) $(empty)

configs = $(subst $(space),$(comma),$(1:%=configs/polydigits.py:%))

.PHONY: venv demo compare family missing figures toy polymnist benchmark test lint docs package clean

venv: $(VENV)/.ready

$(VENV)/.ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# Trains private_full, evaluates and samples it: minutes on two cores.
demo: venv
	$(RUN) -m experiments.compare $(CACHE) --configs=configs/polydigits.py:private_full --seeds=0 \
		--budget_minutes=$(MINUTES) --workdir=runs/polydigits $(FLAGS)
	$(RUN) -m experiments.main $(CACHE) --mode=sample --workdir=runs/polydigits/seed0/private_full \
		--num_samples=32

# Sets the baselines and ablations beside the demo's run.
compare: venv
	$(RUN) -m experiments.compare $(CACHE) --seeds=$(SEEDS) --budget_minutes=$(MINUTES) \
		--configs=$(call configs,$(VARIANTS)) --workdir=runs/polydigits

# The table of eleven methods: every run on its share of the cores, JOBS at a time.
family: venv
	$(RUN) -m experiments.compare $(CACHE) --seeds=$(SEEDS) --budget_minutes=$(MINUTES) --jobs=$(JOBS) \
		--configs=$(call configs,$(VAES) $(ENERGIES)) --workdir=runs/family

# The same under the same budget with half of the training data's modalities missing.
missing: venv
	$(RUN) -m experiments.compare $(CACHE) --seeds=$(SEEDS) --budget_minutes=$(MINUTES) --jobs=$(JOBS) \
		--configs=$(call configs,$(INCOMPLETE:%=%_missing)) --workdir=runs/family_missing

# The papers' figures, with their data, into docs/results/figures; then their page.
figures: venv
	$(RUN) -m experiments.figures all $(CACHE) --seeds=$(SEEDS) --minutes=$(MINUTES) --jobs=$(JOBS) \
		--workdir=runs/figures
	$(RUN) -m experiments.render

# Both kinds of energy on a mixture of eight Gaussians, drawn beside the truth.
toy: venv
	$(RUN) -m experiments.toy $(CACHE) --config=configs/toy.py --workdir=runs/toy

# Paper B on PolyMNIST for 60 epochs, from the MNIST files in data/mnist, then the coherence of all
# its checkpoints: made for a GPU, where the whole data set lies on the device.
polymnist: venv
	$(RUN) -m experiments.main $(CACHE) --config=configs/polymnist.py:paper_b \
		--workdir=runs/polymnist --config.num_steps=28200 --config.warmup_steps=9400 \
		--config.energy.start_step=21150 --config.keep_checkpoints=100 \
		--config.input.device_resident=True $(FLAGS)
	$(RUN) -m experiments.main $(CACHE) --mode=curve --workdir=runs/polymnist --num_samples=$(SAMPLES)
	$(RUN) -m experiments.main $(CACHE) --mode=evaluate --workdir=runs/polymnist

# Speed: every part of it, against PyTorch too where that is installed.
benchmark: venv
	$(RUN) -m experiments.benchmark --workdir=runs/benchmark

# All tests, the slow ones too; README says how to leave those out.
# What tests compile is kept: the next call is faster.
test: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/runs/.compiled_tests
test: venv
	$(RUN) -m pytest -n logical --dist loadfile

lint: venv
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# The documentation, strictly: a warning or a dead link is an error. Into site/, without network.
docs: venv
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet

# The wheel in an environment that holds nothing else: trains, evaluates and samples there. Needs the
# registry; a test does the same with what is installed.
package: venv
	rm -rf build dist
	$(RUN) -m pip wheel --quiet --no-deps --wheel-dir=dist .
	rm -rf build
	$(PYTHON) -m venv --clear dist/empty
	dist/empty/bin/python -m pip install --quiet "$$(echo dist/*.whl)[data,train]"
	cd dist && empty/bin/mmebm train --config=configs/polydigits.py:smoke --workdir=smoke
	cd dist && empty/bin/mmebm evaluate --workdir=smoke
	cd dist && empty/bin/mmebm sample --workdir=smoke --num_samples=4

# Runs stay: they are yours.
clean:
	rm -rf .mypy_cache .pytest_cache .ruff_cache build site
