import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from mmebm_jax import prior
from mmebm_jax.langevin import Chain

WEIGHTS = np.array([0.2, 0.5, 0.3])


def planted():
    """Means and full covariances of three components in two dimensions."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(3, 2, 2))
    return np.array([[-6.0, 0.0], [5.0, 4.0], [2.0, -7.0]]), [
        f @ f.T + 0.2 * np.eye(2) for f in factors
    ]


def make_mixture():
    means, covariances = planted()
    whitening = [np.linalg.inv(np.linalg.cholesky(c)) for c in covariances]
    return prior.BasePrior(
        jnp.asarray(np.log(WEIGHTS), jnp.float32),
        jnp.asarray(means, jnp.float32),
        jnp.asarray(whitening, jnp.float32),
    )


def test_log_density_of_a_mixture():
    means, covariances = planted()
    points = np.random.default_rng(1).normal(size=(20, 2), scale=5)
    each = [
        multivariate_normal(m, c).logpdf(points) for m, c in zip(means, covariances, strict=True)
    ]
    expected = logsumexp(np.transpose(each) + np.log(WEIGHTS), axis=-1)
    got = prior.base_log_prob(make_mixture(), jnp.asarray(points, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_samples_have_the_mixtures_moments():
    means, covariances = planted()
    count = 50_000
    samples = np.asarray(prior.base_sample(jax.random.key(0), make_mixture(), count))
    nearest = np.linalg.norm(samples[:, None] - means, axis=-1).argmin(-1)
    for component in range(3):
        part = samples[nearest == component]
        share = WEIGHTS[component]
        assert len(part) / count == pytest.approx(share, abs=4 * np.sqrt(share / count))
        error = np.sqrt(np.diag(covariances[component]) / len(part))
        assert (abs(part.mean(0) - means[component]) < 4 * error).all()
        np.testing.assert_allclose(np.cov(part.T), covariances[component], rtol=0.05, atol=0.05)


def test_standard_normal():
    normal = prior.standard_normal(4, 3)
    points = np.random.default_rng(0).normal(size=(10, 3), scale=2).astype(np.float32)
    np.testing.assert_allclose(
        prior.base_log_prob(normal, points),
        multivariate_normal(np.zeros(3), np.eye(3)).logpdf(points),
        rtol=1e-5,
    )
    samples = np.asarray(prior.base_sample(jax.random.key(0), normal, 40_000))
    np.testing.assert_allclose(samples.mean(0), 0, atol=4 / np.sqrt(40_000))
    np.testing.assert_allclose(np.cov(samples.T), np.eye(3), atol=0.03)


def test_fit_recovers_a_planted_mixture():
    means, covariances = planted()
    rng = np.random.default_rng(0)
    counts = (WEIGHTS * 10_000).astype(int)
    latents = np.concatenate(
        [
            rng.multivariate_normal(m, c, n)
            for m, c, n in zip(means, covariances, counts, strict=True)
        ]
    )
    fitted = prior.fit_mixture(latents, 3)
    assert [leaf.dtype for leaf in fitted] == [jnp.float32] * 3
    order = np.linalg.norm(fitted.mean - means[:, None], axis=-1).argmin(-1)
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(np.exp(fitted.log_weight)[order], WEIGHTS, atol=0.01)
    np.testing.assert_allclose(fitted.mean[order], means, atol=0.1)
    for index, covariance in zip(order, covariances, strict=True):
        unmixing = np.asarray(fitted.whitening[index], np.float64)
        assert unmixing[0, 1] == 0
        np.testing.assert_allclose(
            np.linalg.inv(unmixing.T @ unmixing), covariance, rtol=0.1, atol=0.1
        )


def test_fit_keeps_the_shapes_of_the_standard_normal():
    latents = np.random.default_rng(0).normal(size=(50, 3))
    fitted, normal = prior.fit_mixture(latents, 4), prior.standard_normal(4, 3)
    assert [leaf.shape for leaf in fitted] == [leaf.shape for leaf in normal]
    assert [leaf.dtype for leaf in fitted] == [leaf.dtype for leaf in normal]


def test_too_few_latents_are_refused():
    with pytest.raises(ValueError, match="7 latents cannot hold a mixture of 4"):
        prior.fit_mixture(np.random.default_rng(0).normal(size=(7, 2)), 4)


def test_tilted_energy():
    normal = prior.standard_normal(2, 2)
    points = np.array([[0.0, 0.0], [1.0, -2.0]], np.float32)
    base = np.log(2 * np.pi) + np.array([0.0, 2.5])
    np.testing.assert_allclose(prior.tilted_energy(normal, None)(points), base, rtol=1e-6)
    tilted = prior.tilted_energy(normal, lambda z: 3 * z[:, 0])(points)
    np.testing.assert_allclose(tilted, base + np.array([0, 3]), rtol=1e-6)


@pytest.mark.parametrize(
    ("energy_fn", "num_steps"), [(lambda z: 3 * z[:, 0], 0), (None, 7), (None, 0)]
)
def test_without_energy_or_steps_samples_are_base_draws(energy_fn, num_steps):
    mixture = make_mixture()
    key = jax.random.key(0)
    result = prior.sample(key, mixture, energy_fn, 6, Chain(num_steps, 0.3))
    start = prior.base_sample(jax.random.split(key)[0], mixture, 6)
    np.testing.assert_array_equal(result.position, start)


def test_samples_follow_the_tilted_prior():
    # N(0, I) tilted by z·c is N(−c, I); the chain's variance is 1 / (1 − s²/4).
    count, step_size = 20_000, 0.5
    normal, tilt = prior.standard_normal(2, 2), jnp.array([[1.0, -0.5]])
    result = jax.jit(
        lambda key: prior.sample(
            key, normal, lambda z: jnp.sum(z * tilt, axis=-1), count, Chain(80, step_size)
        )
    )(jax.random.key(0))
    samples = np.asarray(result.position)
    variance = 1 / (1 - step_size**2 / 4)
    np.testing.assert_allclose(samples.mean(0), [-1, 0.5], atol=4 * np.sqrt(variance / count))
    np.testing.assert_allclose(np.cov(samples.T), variance * np.eye(2), atol=0.05)
