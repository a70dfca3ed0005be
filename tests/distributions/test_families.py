import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from mmebm_jax.distributions import families
from mmebm_jax.distributions.families import Diagonal

IN_SCIPY = {"gaussian": stats.norm, "laplace": stats.laplace}


def make_diagonal(seed, shape=(5, 3)):
    rng = np.random.default_rng(seed)
    location, scale = rng.normal(size=shape), rng.uniform(0.3, 2, size=shape)
    return Diagonal(jnp.asarray(location, jnp.float32), jnp.asarray(scale, jnp.float32))


def test_every_family_is_tested():
    assert set(IN_SCIPY) == set(families.FAMILIES)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_log_density(family):
    distribution = make_diagonal(0)
    values = np.random.default_rng(1).normal(size=(4, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(
        families.log_density(family, values, *(parameter[None] for parameter in distribution)),
        IN_SCIPY[family].logpdf(values, *distribution),
        rtol=1e-5,
        atol=1e-5,
    )
    np.testing.assert_allclose(
        families.log_density(family, values), IN_SCIPY[family].logpdf(values), rtol=1e-5
    )


@pytest.mark.parametrize("family", families.FAMILIES)
def test_samples_are_from_the_family_and_reparametrised(family):
    key, shape = jax.random.key(0), (4000, 2)
    noise = families.standard_noise(key, family, shape)
    assert noise.shape == shape
    assert stats.kstest(np.ravel(noise), IN_SCIPY[family].cdf).pvalue > 0.01
    distribution = make_diagonal(2, shape)
    np.testing.assert_allclose(
        families.sample(key, distribution, family),
        distribution.location + distribution.scale * noise,
        rtol=1e-6,
        atol=1e-6,
    )
    gradient = jax.grad(lambda d: families.sample(key, d, family).sum())(distribution)
    np.testing.assert_array_equal(gradient.location, np.ones(shape))
    np.testing.assert_array_equal(gradient.scale, noise)


def test_divergences_against_integrals():
    gaussian, other = make_diagonal(3, (2, 3)), make_diagonal(4, (2, 3))

    def integral(mean, scale, other_mean, other_scale):
        p, q = stats.norm(mean, scale), stats.norm(other_mean, other_scale)
        value, _ = integrate.quad(
            lambda z: p.pdf(z) * (p.logpdf(z) - q.logpdf(z)), mean - 9 * scale, mean + 9 * scale
        )
        return value

    expected = np.vectorize(integral)(*gaussian, *other).sum(-1)
    np.testing.assert_allclose(families.divergence(gaussian, other), expected, rtol=1e-5)
    expected = np.vectorize(integral)(*gaussian, 0.0, 1.0).sum(-1)
    np.testing.assert_allclose(families.divergence_from_standard(gaussian), expected, rtol=1e-5)


def test_divergence_is_zero_from_itself_alone():
    one, other = make_diagonal(5), make_diagonal(6)
    np.testing.assert_array_equal(families.divergence(one, one), np.zeros(5))
    assert (np.asarray(families.divergence(one, other)) > 0.1).all()
