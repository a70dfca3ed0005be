"""The time for which samples are refined."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax import data
from mmebm_jax.data.source import ArraySource, IncompleteSource
from mmebm_jax.method.inference import Encoding
from mmebm_jax.method.langevin import Chain, LangevinInfo, LangevinResult
from mmebm_jax.method.networks import Chains
from mmebm_jax.method.sampling import SamplerSettings
from mmebm_jax.method.train_state import Weights
from mmebm_jax.modalities.modality import Modality
from mmebm_jax.runs.sampler import Sampler
from mmebm_jax.training import sampling_time
from mmebm_jax.training.sampling_time import fit_sampling_time
from mmebm_jax.typing import OBSERVED, Latents

STEP_SIZE, START = 0.5, -2.0
CHAINS = Chains(*3 * [Chain(8, STEP_SIZE, temperature=0.0)])


class Experts:
    def __init__(self, location):
        self.location = location


class Identity:
    """An inference model for scalar modalities, in which an expert's mean is the value itself."""

    def __init__(self, names):
        self.modalities = tuple(Modality(n, "vector", (1,), "gaussian", scale=1.0) for n in names)

    def encode(self, params, batch):
        location = jnp.stack([batch[m.name] for m in self.modalities])
        return Encoding(Experts(location), None, {}, {}, jnp.zeros(0))


class Line(Sampler):
    """Samples ~ N(START, 1) with energy -x: each step of the chain moves a sample by s²/2."""

    def __init__(self, names="x", **settings):
        super().__init__(
            Identity(names),
            Weights({"inference": {}}, None),
            SamplerSettings(
                **{"chains": CHAINS, "prior_energy": False, "data_energy": True} | settings
            ),
        )

    def with_weights(self, weights, settings):
        other = copy.copy(self)
        other.settings = settings
        return other

    def as_batch(self, values, *, check_values=True):
        return {name: jnp.asarray(array) for name, array in values.items()}

    def prior_latents(self, key, num_samples, *, use_energy=True):
        return Latents(jax.random.normal(key, [num_samples, 1]), {})

    def generate(self, latents):
        return {"x": START + latents.shared}

    def refine(self, key, samples, *, given=None, num_steps=None, keep_trajectory=False):
        values, chain = samples["x"], self.settings.chains.data
        found = []
        for _ in range(chain.num_steps if num_steps is None else num_steps):
            info = LangevinInfo(-values[:, 0], jnp.ones(len(values)))
            size = chain.step_size(info) if callable(chain.step_size) else chain.step_size
            values, found = values + size**2 / 2, [*found, info]
        stacked = jax.tree.map(lambda *each: jnp.stack(each), *found)
        return LangevinResult({"x": values}, stacked, None)

    def energy(self, batch, *, check_values=True):
        return -batch["x"][:, 0]


@pytest.fixture(scope="module")
def source():
    values = np.random.default_rng(0).normal(size=(2000, 1)).astype(np.float32)
    return ArraySource({"x": values})


def test_the_chain_stops_where_samples_lie_on_the_data(source):
    fitted = fit_sampling_time(jax.random.key(0), Line(), source)
    assert -START - 3 * STEP_SIZE**2 / 2 <= fitted.time <= -START
    assert fitted.distances[fitted.times.index(fitted.time)] < 0.1
    # The expected distance between Gaussians of variance 1 is that of their means, squared.
    np.testing.assert_allclose(fitted.distances[0], (START + fitted.times[0]) ** 2, atol=0.4)
    nearest = fitted.times[int(np.argmin(fitted.distances))]
    assert fitted.times[-1] <= sampling_time.PATIENCE * nearest + STEP_SIZE**2 / 2


def test_the_curve_is_in_units_of_training_where_its_steps_follow_the_gap(source):
    """Training closes half of a gap of 2 on a line of slope 1: a time of 1, in eight steps."""
    chains = CHAINS._replace(gap_share=0.5)
    sampler = Line(chains=chains)
    fitted = fit_sampling_time(jax.random.key(0), sampler, source)
    assert fitted.times[0] == pytest.approx(1 / 8, rel=0.1)
    assert fitted.time == pytest.approx(-START, abs=3 / 8)


def test_the_gap_is_of_examples_that_have_every_modality():
    """Zeros of incomplete examples would halve the gap; without complete ones, use the chain's."""
    values = np.full([400, 1], 2.0, np.float32)
    raw = {"x": np.where(np.arange(400)[:, None] < 200, values, 0.0)}
    raw[OBSERVED] = np.arange(400)[:, None] < 200
    sampler = Line(chains=CHAINS._replace(gap_share=0.5))
    start = {"x": jnp.zeros([10, 1])}
    time = sampling_time._time_of_training(jax.random.key(0), sampler, start, raw)
    assert time == pytest.approx(1.0, rel=1e-4)
    raw[OBSERVED] = np.zeros([400, 1], bool)
    time = sampling_time._time_of_training(jax.random.key(0), sampler, start, raw)
    assert time == pytest.approx(8 * STEP_SIZE**2 / 2)


def test_a_gap_that_is_not_finite_leaves_trainings_time():
    """One energy that is not finite makes the batch's gap not finite."""
    sampler = Line(chains=CHAINS._replace(gap_share=0.5))
    values = np.random.default_rng(0).normal(size=(2000, 1)).astype(np.float32)
    values[7] = np.nan
    raw = {"x": values}
    time = sampling_time._time_of_training(jax.random.key(0), sampler, {"x": values[:10]}, raw)
    assert not np.isfinite(time)


def test_what_is_missing_is_no_data():
    """Hidden values are zeros, which would halve the variance."""
    observed = np.tile([[True, False], [False, True]], [500, 1])
    values = np.random.default_rng(2).normal(size=(2, 1000, 1)).astype(np.float32)
    whole = ArraySource(dict(zip("xy", values, strict=True)))
    raw = data.whole(IncompleteSource(whole, "xy", observed))
    found = sampling_time._reference(Line("xy"), raw)
    for index, name in enumerate("xy"):
        seen = values[index][observed[:, index]]
        np.testing.assert_allclose(found[name][0], seen.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found[name][1], [[seen.var()]], rtol=1e-5)


def test_a_choice_that_goes_on_where_the_chain_ends_shortens_it(source):
    """The best of many draws from N(a, 1), weighted by exp(x), is near N(a + 1, 1)."""
    fitted = fit_sampling_time(
        jax.random.key(0), Line(candidates=50, candidate_temperature=1.0), source
    )
    assert fitted.time == pytest.approx(-START - 1, abs=2 * STEP_SIZE**2 / 2)


@pytest.mark.parametrize(
    ("distances", "place"),
    [
        ([10.0, 5.0, 2.0, 1.0, 3.0], 3),
        ([10.0, 5.0, 1.17, 1.0, 3.0], 2),  # within .02 of the drop of 9
        ([10.0, 5.0, 1.19, 1.0, 3.0], 3),
        ([1.0, 2.0, 3.0], 0),  # refinement does not help: as little as possible
    ],
)
def test_the_shortest_chain_that_is_as_good_as_any_is_taken(distances, place):
    assert sampling_time.shortest(distances) == place


class Unstable(Line):
    """Steps larger than `most` throw samples far away."""

    most = 0.6

    def refine(self, key, samples, **options):
        result = super().refine(key, samples, **options)
        far = 100.0 * (self.settings.chains.data.step_size > self.most)
        return result._replace(position={"x": result.position["x"] + far})


def test_a_time_that_its_steps_are_too_large_for_is_not_taken(source):
    fitted = fit_sampling_time(jax.random.key(0), Unstable(), source)
    assert min(fitted.distances) < 0.1
    assert fitted.time == 0
    assert "8 steps are too few for a time of 1.75" in fitted.problem


class Bursting(Line):
    """Samples beyond `edge` become non-finite."""

    edge = 1.0

    def refine(self, key, samples, **options):
        result = super().refine(key, samples, **options)
        moved = result.position["x"]
        burst = jnp.where(moved.mean() > self.edge, jnp.nan, moved)
        return result._replace(position={"x": burst})


def test_the_search_ends_where_samples_are_not_finite(source):
    fitted = fit_sampling_time(jax.random.key(0), Bursting(), source)
    assert fitted.time > 0
    assert not fitted.problem
    assert np.isfinite(fitted.distances).all()
    at_once = Bursting()
    at_once.edge = START
    nothing = fit_sampling_time(jax.random.key(0), at_once, source)
    assert nothing == (0.0, [], [], "the data chain's samples are not finite")


def test_an_early_rise_does_not_end_the_search(source, monkeypatch):
    rising = iter([3.0, 4.0, 4.0, 3.5, 2.0, 1.0, 0.5, 0.4, 1.0, 2.0, 3.0, 4.0, 5.0, 0.5])
    monkeypatch.setattr(sampling_time, "_distance", lambda *_: next(rising))
    fitted = fit_sampling_time(jax.random.key(0), Line(), source)
    assert fitted.time == fitted.times[7]
    assert len(fitted.times) == 13


def test_without_a_chain_there_is_no_time(source):
    still = Line()
    still.settings = still.settings._replace(data_energy=False)
    with pytest.raises(ValueError, match="of a learned data energy"):
        fit_sampling_time(jax.random.key(0), still, source)
