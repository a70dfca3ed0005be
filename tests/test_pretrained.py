"""The shipped models are small, documented, and can be sampled from a clone without training."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import mmebm_jax

FOLDER = Path(__file__).parents[1] / "pretrained"
MODELS = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())
MOST_BYTES = 12_000_000


def test_they_are_small_and_are_exports():
    assert "polymnist" in MODELS
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    for name in MODELS:
        assert {path.name for path in (FOLDER / name).iterdir()} == {
            *("model.safetensors", "export.json", "config.json", "data.json", "README.md")
        }


@pytest.mark.parametrize("name", MODELS)
def test_the_card_says_how_good_it_is_of_which_data_and_what_storing_it_cost(name):
    card = (FOLDER / name / "README.md").read_text()
    assert "| joint coherence | cross coherence | conditional diversity | Fréchet distance" in card
    for part in ("| as trained, float32 |", "| as stored, int", "one seed", "CC BY", "\nlicense: "):
        assert part in card, part
    stored = json.loads((FOLDER / name / "export.json").read_text())["dtype"]
    assert f"| as stored, {stored} |" in card


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_clone_samples_and_completes(name):
    model = mmebm_jax.load(FOLDER / name)
    samples = model.sample(jax.random.key(0), num_samples=8)
    first = model.modalities[0].name
    completed = model.sample(jax.random.key(1), given={first: samples[first]})
    np.testing.assert_array_equal(completed[first], samples[first])
    for values in (*samples.values(), *completed.values()):
        assert np.isfinite(values).all()
        assert np.abs(values).max() <= 1.05
        assert np.std(values) > 0.1
    # Same start and noise, without refinement: the chain must have lowered the energy.
    raw = model.sample(jax.random.key(0), num_samples=8, num_steps=0)
    before, after = (model.energy(x, check_values=False).mean() for x in (raw, samples))
    assert after < before - 1
