"""The diffusion process on Gaussian data, where the optimal prediction is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.diffusion import process as diffusion

SCALE = 0.5  # the data are N(0, SCALE²)


@pytest.fixture(scope="module")
def process():
    return diffusion.linear()


def best(process):
    """E[ε | x_t] for data N(0, SCALE²)."""

    def predict(noisy, at):
        signal, noise = process.signal[at][:, None], process.noise[at][:, None]
        return noise * noisy / (jnp.square(signal) * SCALE**2 + jnp.square(noise))

    return predict


def test_signal_and_noise_have_variance_one_together(process):
    np.testing.assert_allclose(process.signal**2 + process.noise**2, 1, rtol=1e-6)
    np.testing.assert_allclose(process.signal[0], np.sqrt(1 - 1e-4), rtol=1e-6)
    first_two = np.sqrt((1 - 1e-4) * (1 - 1e-4 - (0.02 - 1e-4) / 999))
    np.testing.assert_allclose(process.signal[1], first_two, rtol=1e-6)


def test_diffused_data_are_signal_and_noise(process):
    clean, noise = jnp.ones([2, 3]), jnp.full([2, 3], 2.0)
    at = jnp.array([0, 999])
    expected = process.signal[at] + 2 * process.noise[at]
    np.testing.assert_allclose(
        diffusion.diffuse(process, clean, noise, at), np.tile(expected[:, None], 3), rtol=1e-6
    )


def test_the_loss_of_the_best_prediction_is_the_noise_that_cannot_be_told(process):
    clean = SCALE * jax.random.normal(jax.random.key(0), [4000, 8])
    found = diffusion.loss(jax.random.key(1), process, best(process), clean)
    signal, noise = np.asarray(process.signal) ** 2, np.asarray(process.noise) ** 2
    left = signal * SCALE**2 / (signal * SCALE**2 + noise)
    np.testing.assert_allclose(found, left.mean(), rtol=0.05)


def test_the_loss_of_no_prediction_is_the_variance_of_the_noise(process):
    clean = jnp.zeros([4000, 8])
    found = diffusion.loss(jax.random.key(2), process, lambda x, _: jnp.zeros_like(x), clean)
    np.testing.assert_allclose(found, 1, rtol=0.03)


@pytest.mark.parametrize(("num_steps", "variance"), [(1000, 1.0), (1000, 0.0), (100, 0.0)])
def test_samples_have_the_variance_of_the_data(process, num_steps, variance):
    samples = diffusion.sample(
        jax.random.key(3),
        process,
        best(process),
        (20_000, 1),
        num_steps=num_steps,
        variance=variance,
        bound=np.inf,
    )
    np.testing.assert_allclose(samples.mean(), 0, atol=0.02)
    np.testing.assert_allclose(samples.std(), SCALE, rtol=0.03)


def test_one_deterministic_step_gives_the_predicted_mean(process):
    key = jax.random.key(4)
    samples = diffusion.sample(
        key, process, best(process), (5, 1), num_steps=1, variance=0.0, bound=np.inf
    )
    start = jax.random.normal(jax.random.split(key)[0], (5, 1))
    signal, noise = process.signal[-1], process.noise[-1]
    mean = signal * SCALE**2 / (signal**2 * SCALE**2 + noise**2) * start
    np.testing.assert_allclose(samples, mean, rtol=1e-2, atol=1e-5)


def test_predictions_of_data_are_clipped(process):
    samples = diffusion.sample(
        jax.random.key(5),
        process,
        lambda x, _: -10 * jnp.ones_like(x),
        (5, 1),
        num_steps=3,
        variance=0.0,
    )
    np.testing.assert_allclose(samples, 1)
