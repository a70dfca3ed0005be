from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.distributions import base_prior
from mmebm_jax.metrics.annealing import (
    Annealing,
    forward_log_normaliser,
    log_normaliser_report,
    reverse_log_normaliser,
    tilted_draws,
)
from mmebm_jax.metrics.likelihood import (
    Target,
    conditional_log_likelihood,
    importance_weighted_bound,
)
from tests.metrics import linear_gaussian as exact

pytestmark = pytest.mark.usefixtures("quick_compilation")

ALL, FIRST = np.arange(exact.X), np.arange(3)
KEY = jax.random.key(0)
BASE = base_prior.BasePrior(
    jnp.asarray(exact.BASE.log_weight, jnp.float32),
    jnp.asarray(exact.BASE.mean, jnp.float32),
    jnp.asarray(np.eye(exact.Z) / np.sqrt(exact.BASE.variance)[:, None, None], jnp.float32),
    jnp.asarray(False),
)


def base_sample(key, count):
    return base_prior.base_sample(key, BASE, count)


def base_log_prob(z):
    return base_prior.base_log_prob(BASE, z)


def _data(num_examples):
    rng = np.random.default_rng(1)
    z = exact.TILTED.sample(rng, num_examples)
    return z @ exact.MATRIX.T + exact.SIGMA * rng.normal(size=(num_examples, exact.X))


def _target(x, rows, widening=1.2):
    """The exact model for values `rows` of x; proposals come from a widened Gaussian posterior."""
    mean, covariance = exact.posterior_moments(x, rows)
    factor = np.linalg.cholesky(widening * covariance).astype(np.float32)
    log_volume = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(1)

    def propose(key, count):
        noise = jax.random.normal(key, (count, len(x), exact.Z))
        log_q = -0.5 * (noise**2 + np.log(2 * np.pi)).sum(-1) - log_volume[None]
        offset = jnp.einsum("bij,kbj->kbi", factor, noise, precision="highest")
        return mean[None] + offset, log_q

    def log_joint(z):
        shown = jnp.einsum("xz,kbz->kbx", exact.MATRIX[rows], z, precision="highest")
        noise = (x[None, :, rows] - shown) / exact.SIGMA
        log_likelihood = -0.5 * (noise**2 + np.log(2 * np.pi * exact.SIGMA**2)).sum(-1)
        flat = z.reshape(-1, exact.Z)
        log_prior = base_log_prob(flat) - exact.energy(flat) - exact.LOG_NORMALISER
        return log_likelihood + log_prior.reshape(z.shape[:2])

    return Target(propose, log_joint)


def test_bound_is_exact_where_the_proposal_is_the_posterior():
    # One latent, standard normal prior, x = z + ε: posterior N(x/2, 1/2), evidence N(0, 2).
    x = jnp.array([-1.0, 0.3, 4.0])

    def log_normal(value, mean, variance):
        return -0.5 * ((value - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance))

    def propose(key, count):
        z = x[None] / 2 + jax.random.normal(key, (count, 3)) / jnp.sqrt(2)
        return z, log_normal(z, x[None] / 2, 0.5)

    target = Target(propose, lambda z: log_normal(z, 0, 1.0) + log_normal(x[None], z, 1.0))
    for num_samples in (1, 7, 12):
        bound = importance_weighted_bound(KEY, target, num_samples, chunk_size=5)
        np.testing.assert_allclose(bound.value, log_normal(x, 0, 2.0), atol=1e-5)
        np.testing.assert_allclose(bound.effective_sample_size, num_samples, rtol=1e-5)


def test_chunks_are_one_log_mean_of_all_weights():
    # All weights of a chunk are one number drawn from its key, up to hundreds of nats apart.
    def propose(key, count):
        return jnp.zeros((count, 1)), 300 * jax.random.normal(key, (1, 1)).repeat(count, 0)

    target = Target(propose, lambda z: jnp.zeros(z.shape))
    bound = importance_weighted_bound(KEY, target, 12, chunk_size=4)
    log_weight = [-propose(key, 1)[1] for key in jax.random.split(KEY, 3)]
    expected = jax.nn.logsumexp(jnp.array(log_weight)) - jnp.log(3)
    assert float(bound.value[0]) == pytest.approx(float(expected), rel=1e-6)
    assert float(bound.effective_sample_size[0]) == pytest.approx(4, rel=1e-3)


def test_bound_grows_with_the_samples():
    x = _data(400)
    values = [
        float(importance_weighted_bound(KEY, _target(x, ALL, 3.0), k).value.mean())
        for k in (1, 10, 200)
    ]
    assert values[0] + 0.3 < values[1] < values[2] < exact.log_evidence(x, ALL).mean() + 0.01


def test_five_thousand_samples_come_within_a_twentieth_of_a_nat():
    x = _data(16)
    bound = importance_weighted_bound(KEY, _target(x, ALL), 5000)
    np.testing.assert_allclose(bound.value, exact.log_evidence(x, ALL), atol=0.05)
    assert (bound.effective_sample_size > 500).all()


def test_conditional_log_likelihood():
    x = _data(16)
    result = conditional_log_likelihood(KEY, _target(x, ALL), _target(x, FIRST), 5000)
    expected = exact.log_evidence(x, ALL) - exact.log_evidence(x, FIRST)
    np.testing.assert_allclose(result.value, expected, atol=0.05)
    np.testing.assert_allclose(result.value, result.both.value - result.observed.value)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="both must be at least 1"):
        importance_weighted_bound(KEY, _target(_data(2), ALL), 0)


def _forward(energy, num_chains, annealing):
    run = partial(forward_log_normaliser, base_sample=base_sample, base_log_prob=base_log_prob)
    jitted = jax.jit(partial(run, energy_fn=energy, num_chains=num_chains, annealing=annealing))
    return jitted(KEY)


def _reverse(energy, start, annealing):
    run = partial(reverse_log_normaliser, base_log_prob=base_log_prob)
    jitted = jax.jit(partial(run, energy_fn=energy, annealing=annealing))
    return jitted(KEY, start=start)


def test_log_normaliser_of_a_tilted_mixture_from_both_sides():
    annealing = Annealing(num_temperatures=100, step_size=0.9)
    forward = _forward(exact.energy, 8000, annealing)
    start = jnp.asarray(exact.TILTED.sample(np.random.default_rng(2), 8000), jnp.float32)
    reverse = _reverse(exact.energy, start, annealing)
    report = log_normaliser_report(forward, reverse, exact_start=True)
    assert report["lower"] == pytest.approx(exact.LOG_NORMALISER, abs=0.05)
    assert report["upper"] == pytest.approx(exact.LOG_NORMALISER, abs=0.05)
    assert report["effective_sample_size"] > 3000
    assert 0.3 < report["acceptance"] < 1
    # The log weight of a single chain is biased down or up; averaging weights corrects this.
    assert forward.log_weight.mean() < exact.LOG_NORMALISER < -reverse.log_weight.mean()
    # The weighted ends of the chains are draws from the tilted prior.
    weight = jax.nn.softmax(forward.log_weight)
    mean = np.exp(exact.TILTED.log_weight) @ exact.TILTED.mean
    np.testing.assert_allclose(weight @ forward.position, mean, atol=0.1)


def test_one_temperature_is_importance_sampling_from_the_base():
    one = _forward(exact.energy, 50, Annealing(1, 0.1))
    drawn = base_sample(jax.random.split(KEY)[0], 50)
    np.testing.assert_allclose(one.log_weight, -exact.energy(drawn), rtol=1e-4)


@pytest.mark.parametrize("step_size", [0.1, 50.0])
def test_a_constant_energy_is_its_own_log_normaliser(step_size):
    annealing = Annealing(8, step_size, moves=2)

    def constant(z):
        return jnp.full(len(z), 3.0)

    forward = _forward(constant, 20, annealing)
    reverse = _reverse(constant, base_sample(KEY, 20), annealing)
    assert float(forward.value) == pytest.approx(-3, abs=1e-5)
    assert float(reverse.value) == pytest.approx(-3, abs=1e-5)
    assert float(forward.effective_sample_size) == pytest.approx(20, rel=1e-5)
    report = log_normaliser_report(forward, reverse, exact_start=False)
    assert "upper" not in report
    assert report["from_chain"] == pytest.approx(-3, abs=1e-5)
    # A step that is far too large is rejected.
    assert (forward.acceptance == 0) == (step_size == 50)


def test_rejection_gives_exact_draws_of_the_tilted_prior():
    draws = tilted_draws(KEY, base_sample, exact.energy, exact.OFFSET, 600, batch_size=20_000)
    assert draws.shape == (600, exact.Z)
    weight = np.exp(exact.TILTED.log_weight)
    mean = weight @ exact.TILTED.mean
    second = weight @ (exact.TILTED.variance[:, None] + exact.TILTED.mean**2)
    np.testing.assert_allclose(draws.mean(0), mean, atol=5 / np.sqrt(600))
    np.testing.assert_allclose((draws**2).mean(0), second, rtol=0.3, atol=0.2)
    # The share of accepted draws agrees with the normaliser.
    everything = tilted_draws(
        KEY, base_sample, exact.energy, exact.OFFSET, 10**6, most_tries=10**6, batch_size=10**5
    )
    share = np.exp(exact.LOG_NORMALISER + exact.OFFSET)
    assert len(everything) == pytest.approx(share * 10**6, abs=5 * np.sqrt(share * 10**6))


def test_an_energy_below_its_bound_is_refused():
    with pytest.raises(ValueError, match="lies below 3"):
        tilted_draws(KEY, base_sample, exact.energy, 3.0, 10, batch_size=1000)
    none = tilted_draws(KEY, base_sample, exact.energy, -100.0, 10, most_tries=1, batch_size=1000)
    assert none.shape == (0, exact.Z)
