import jax
import numpy as np
import pytest

import mmebm_jax
from mmebm_jax.distributions.base_prior import standard
from mmebm_jax.method import train_state
from mmebm_jax.method.langevin import Chain
from mmebm_jax.method.networks import Chains
from mmebm_jax.method.sampling import SamplerSettings
from mmebm_jax.runs.sampler import Sampler

pytestmark = pytest.mark.usefixtures("quick_compilation")
NUM_EXAMPLES = 120


@pytest.fixture(scope="module")
def model(tiny_model):
    """Random weights, with a latent energy."""
    params = tiny_model.init(jax.random.key(0))
    weights = train_state.Weights(params, standard(1, 3))
    chain = Chain(num_steps=2, step_size=0.05, temperature=1.0)
    settings = SamplerSettings(Chains(chain, chain, chain), True, False)
    return Sampler(tiny_model, weights, settings)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    return {
        "picture": rng.integers(0, 256, (NUM_EXAMPLES, 8, 8, 1), np.uint8),
        "text": rng.integers(0, 4, (NUM_EXAMPLES, 3), np.int32),
    }


def latents_of(model, examples):
    return np.asarray(model.encode(examples))


def test_a_fitted_prior_has_the_moments_of_the_latents(model, examples):
    fitted = mmebm_jax.training.fit_prior(model, examples, num_components=1, method="mean")
    latents = latents_of(model, examples)
    prior = fitted.weights.base_prior
    np.testing.assert_allclose(prior.mean[0], latents.mean(0), atol=1e-4)
    covariance = np.linalg.inv(prior.whitening[0].T @ prior.whitening[0])
    smallest = 0.6 * model.settings.chains.prior.step_size
    directions = np.linalg.eigh(np.cov(latents.T, bias=True) + 1e-3 * np.eye(3))
    expected = (directions[1] * np.maximum(directions[0], smallest**2)) @ directions[1].T
    np.testing.assert_allclose(covariance, expected, rtol=1e-2, atol=1e-5)
    draws = fitted.prior_latents(jax.random.key(1), 4000).shared
    np.testing.assert_allclose(np.cov(draws.T, bias=True), expected, atol=0.1 * expected.max())
    assert fitted.sample(jax.random.key(0), 2)["picture"].shape == (2, 8, 8, 1)


def test_the_model_given_stays_and_its_latent_energy_does_not_tilt_another_base(model, examples):
    before = jax.tree.map(np.array, model.weights)
    fitted = mmebm_jax.training.fit_prior(model, examples, num_components=4)
    jax.tree.map(np.testing.assert_array_equal, model.weights, before)
    assert model.settings.prior_energy
    assert not fitted.settings.prior_energy
    jax.tree.map(np.testing.assert_array_equal, fitted.weights.params, model.weights.params)
    tilted = mmebm_jax.training.fit_prior(model, examples, num_components=4, energy_steps=3)
    assert tilted.settings.prior_energy
    moved = jax.tree.map(
        lambda a, b: (a != b).any(), tilted.weights.params["prior"], model.weights.params["prior"]
    )
    assert all(jax.tree.leaves(moved))
    jax.tree.map(
        np.testing.assert_array_equal, tilted.weights.base_prior, fitted.weights.base_prior
    )


def test_the_key_decides_the_fit(model, examples):
    def fit(seed):
        key = jax.random.key(seed)
        fitted = mmebm_jax.training.fit_prior(model, examples, num_components=2, key=key)
        return np.asarray(fitted.weights.base_prior.mean)

    np.testing.assert_array_equal(fit(1), fit(1))
    assert (fit(1) != fit(2)).any()


def test_a_source_can_be_given_as_it_is_read(model, examples):
    """Labels are ignored, and unobserved values have no effect."""
    observed = np.arange(NUM_EXAMPLES)[:, None] % 2 == [0, 1]
    raw = examples | {"label": np.zeros(NUM_EXAMPLES, np.int32), "observed": observed}
    hidden = {
        "picture": np.where(observed[:, 0, None, None, None], examples["picture"], 0),
        "text": np.where(observed[:, 1, None], examples["text"], 0),
    }
    one, other, full = (
        mmebm_jax.training.fit_prior(model, batch, num_components=2).weights.base_prior.mean
        for batch in (raw, raw | hidden, examples)
    )
    np.testing.assert_array_equal(one, other)
    assert (one != full).any()
    # Any subset of the modalities is accepted.
    part = {name: raw[name] for name in ("text", "observed")}
    mmebm_jax.training.fit_prior(model, part, num_components=2)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"num_components": 61}, "120 latents cannot hold a mixture of 61"),
        ({}, {"num_components": 0}, "num_components=0"),
        ({}, {"energy_steps": -1}, "energy_steps=-1"),
        ({}, {"private_temperature": 0.0}, "private_temperature=0.0"),
        ({}, {"num_private_components": -1}, "num_private_components=-1"),
        ({}, {"num_private_components": 2}, "0 for a model without private latents"),
        ({}, {"method": "guess"}, "method 'guess' is not one of"),
        ({"sound": np.zeros([120, 2], np.float32)}, {}, "unknown modality 'sound'"),
        ({"text": np.zeros([60, 3], np.int32)}, {}, "as many examples"),
        ({"text": np.full([120, 3], 9, np.int32)}, {}, "leaves 0..3"),
    ],
)
def test_bad_input_is_one_line(model, examples, changes, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        mmebm_jax.training.fit_prior(
            model, examples | changes, **({"num_components": 2} | arguments)
        )
    assert "\n" not in str(caught.value)


def test_no_example_is_refused(model):
    with pytest.raises(ValueError, match="at least one"):
        mmebm_jax.training.fit_prior(model, {}, num_components=1)
