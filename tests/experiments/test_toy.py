import json

import jax
import numpy as np
import pytest
from etils import epath

from configs.toy import get_config
from experiments.toy import ONE_MODE, USUAL, Truth, grid, long_chains, table, toy
from mmebm_jax import data
from mmebm_jax.data import load_data
from mmebm_jax.data.sets.ring import centres
from mmebm_jax.runs import builders
from mmebm_jax.runs.sampler import Sampler

TRUTH = Truth(centres(0.64), 0.08)


def test_planted_samples_are_counted():
    inside = TRUTH.centres[[0, 0, 3]] + 0.08 * np.array([[2.9, 0], [0, -2.9], [2, 2]])
    outside = TRUTH.centres[[5]] * (1 + 3.1 * 0.08 / 0.64)
    measured = TRUTH.measure(np.concatenate([inside, outside]))
    assert measured["within_three_sigma"] == 0.75
    assert measured["mass"] == [0.5, 0, 0, 0.25, 0, 0.25, 0, 0]


def test_the_truth_measures_as_it_should():
    rng = np.random.default_rng(0)
    points = TRUTH.centres[rng.integers(8, size=50_000)] + 0.08 * rng.standard_normal((50_000, 2))
    measured = TRUTH.measure(points)
    assert measured["within_three_sigma"] == pytest.approx(1 - np.exp(-4.5), abs=3e-3)
    np.testing.assert_allclose(measured["mass"], 0.125, atol=6e-3)


def test_divergence_is_zero_of_the_truth_and_exact_of_a_heavier_mode():
    energy = -TRUTH.log_density(grid())
    assert TRUTH.divergence(grid(), energy + 3.0) == pytest.approx(0, abs=1e-6)
    # One mode has twice the weight and the others are unchanged, so Z grows to 9/8.
    first = np.linalg.norm(grid()[:, None] - TRUTH.centres, axis=-1).argmin(1) == 0
    expected = np.log(9 / 8) - np.log(2) / 8
    heavier = TRUTH.divergence(grid(), energy - np.log(2) * first)
    assert heavier == pytest.approx(expected, abs=1e-3)


def test_long_chains_of_all_starts_see_the_same_noise_and_every_step():
    calls = []

    def advance(key, points, count):
        calls.append((str(key), count))
        return points + count

    starts = {"a": np.zeros([2, 2]), "b": np.ones([2, 2])}
    ends = long_chains(jax.random.key(0), starts, advance, 2500)
    assert (ends["a"] == 2500).all()
    assert (ends["b"] == 2501).all()
    assert [count for _, count in calls] == [1000, 1000, 500] * 2
    assert calls[:3] == calls[3:]
    assert len({key for key, _ in calls}) == 3


def test_the_ring_is_balanced_seeded_and_inside_the_square():
    splits = load_data("ring", num_train=803, num_test=100)
    raw = data.whole(splits.train)
    points = np.concatenate([raw["x"], raw["y"]], axis=1)
    assert points.shape == (803, 2)
    assert points.dtype == np.float32
    assert np.abs(points).max() <= 1
    assert np.ptp(np.bincount(raw["label"], minlength=8)) <= 1
    own = np.linalg.norm(points - TRUTH.centres[raw["label"]], axis=1)
    assert np.sqrt(np.mean(own**2) / 2) == pytest.approx(0.08, rel=0.06)
    again = data.whole(load_data("ring", num_train=803, num_test=100).train)
    np.testing.assert_array_equal(again["x"], raw["x"])
    other = data.whole(load_data("ring", seed=1, num_train=803, num_test=100).train)
    assert not np.array_equal(other["x"], raw["x"])
    assert not np.array_equal(data.whole(splits.test)["x"], raw["x"][:100])


@pytest.mark.parametrize("options", [{"seed": -1}, {"num_train": 0}, {"sigma": 0.2}])
def test_impossible_rings_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        load_data("ring", **options)


def test_variants_are_valid():
    for variant in ("full", "smoke"):
        builders.validate(get_config(variant))
    with pytest.raises(ValueError, match="choose one of full, smoke"):
        get_config("unknown")


def test_a_sampler_takes_vectors_and_gives_them_back():
    splits = load_data("ring", num_train=20, num_test=5)
    sampler = Sampler(builders.build_model(get_config(), splits.fields), None, None)
    raw = data.whole(splits.test)
    batch = sampler.as_batch({"x": raw["x"].astype(np.float64), "y": raw["y"]})
    assert batch["x"].dtype == np.float32
    back = sampler.as_raw(batch)
    assert back["y"].dtype == np.float32
    np.testing.assert_array_equal(back["y"], raw["y"])
    for bad, message in (
        (np.zeros([5, 1], np.uint8), r"give float in \[-1, 1\]"),
        (np.zeros([5, 2]), r"give \[N, 1\]"),
        (np.full([5, 1], 2.0), r"leaves \[-1, 1\]: scale it\."),
    ):
        with pytest.raises(ValueError, match=message):
            sampler.as_batch({"x": bad})


@pytest.mark.slow
def test_the_command_writes_its_files(tmp_path):
    config = get_config("smoke")
    # One compiled update, and pictures only at the end.
    config.update(num_steps=2, warmup_steps=0, picture_every=100)
    config.energy.start_step = 0
    config.model.update(hidden=8, energy_hidden=8, prior_hidden=8)
    for section in (config.posterior, config.prior, config.energy):
        section.chain.num_steps = 2
    workdir = epath.Path(tmp_path)
    result = toy(config, workdir, num_chains=12, steps=6)
    assert json.loads((workdir / "toy.json").read_text()) == result
    assert len((workdir / "toy.png").read_bytes()) > 20_000
    for name in ("latent", "data"):
        assert result[name]["chain"]["num_steps"] == 6
        for start in (USUAL, ONE_MODE):
            assert sum(result[name][start]["mass"]) == pytest.approx(1)
    assert "latent EBM, one mode" in table(result)
    config.data.name = "polydigits"
    with pytest.raises(ValueError, match="ring"):
        toy(config, workdir, num_chains=12, steps=6)
