# Every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
CACHE := --compilation_cache=runs/.compiled
SEEDS ?= 0
MINUTES ?= 3
VARIANTS := elbo ebm_prior paper_b full
comma := ,
empty :=
space := $(empty) $(empty)

.PHONY: venv demo compare test lint clean

venv: $(VENV)/.ready

$(VENV)/.ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# Trains the full method, evaluates and samples it: minutes on two cores.
demo: venv
	$(RUN) -m experiments.compare $(CACHE) --configs=configs/polydigits.py:full --seeds=0 \
		--budget_minutes=$(MINUTES) --workdir=runs/polydigits
	$(RUN) -m experiments.main $(CACHE) --mode=sample --workdir=runs/polydigits/seed0/full \
		--num_samples=32

# Sets the baselines and ablations beside the demo's run.
compare: venv
	$(RUN) -m experiments.compare $(CACHE) --seeds=$(SEEDS) --budget_minutes=$(MINUTES) \
		--configs=$(subst $(space),$(comma),$(VARIANTS:%=configs/polydigits.py:%)) \
		--workdir=runs/polydigits

test: venv
	$(RUN) -m pytest

lint: venv
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# Runs stay: they are yours.
clean:
	rm -rf .mypy_cache .pytest_cache .ruff_cache
