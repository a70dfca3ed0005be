"""The mixtures p_0(w_m | z) of a base prior: density, draws, fit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import laplace, multivariate_normal

from mmebm_jax.distributions.base_prior import (
    BasePrior,
    Mixture,
    PrivateShapes,
    log_responsibility,
    private_log_prob,
    private_sample,
    standard,
    tempered,
)
from mmebm_jax.fitting.base_prior import fit_mixture, fit_private

NUM_COMPONENTS, EACH = 2, 3
SHARED_MEANS = np.array([[-1.0, 0.5], [1.0, -0.5]])
SHARES = np.array([0.4, 0.6])
PRIVATE_SHARES = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])


def planted():
    rng = np.random.default_rng(0)
    return rng.normal(size=(NUM_COMPONENTS, EACH, 3), scale=2), [
        [f @ f.T + 0.3 * np.eye(3) for f in rng.normal(size=(EACH, 3, 3))]
        for _ in range(NUM_COMPONENTS)
    ]


def whitening_of(covariances):
    return jnp.asarray([np.linalg.inv(np.linalg.cholesky(c)) for c in covariances], jnp.float32)


def make_prior():
    means, covariances = planted()
    private = Mixture(
        jnp.asarray(np.log(PRIVATE_SHARES.ravel()), jnp.float32),
        jnp.asarray(means.reshape(-1, 3), jnp.float32),
        whitening_of([c for of_component in covariances for c in of_component]),
    )
    return BasePrior(
        jnp.asarray(np.log(SHARES), jnp.float32),
        jnp.asarray(SHARED_MEANS, jnp.float32),
        whitening_of([np.eye(2)] * 2),
        jnp.asarray(False),
        {"a": private},
    )


def expected_responsibility(shared):
    each = [multivariate_normal(m, np.eye(2)).logpdf(shared) for m in SHARED_MEANS]
    return softmax(np.transpose(each) + np.log(SHARES), axis=-1)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_density_given_the_shared_latent(temperature):
    rng = np.random.default_rng(1)
    shared, values = rng.normal(size=(20, 2)), rng.normal(size=(20, 3), scale=2)
    means, covariances = planted()
    of_k = expected_responsibility(shared)
    terms = [
        np.log(of_k[:, k] * PRIVATE_SHARES[k, j])
        + multivariate_normal(means[k, j], temperature * covariances[k][j]).logpdf(values)
        for k in range(NUM_COMPONENTS)
        for j in range(EACH)
    ]
    responsibility = log_responsibility(make_prior(), jnp.asarray(shared, jnp.float32))
    np.testing.assert_allclose(np.exp(responsibility), of_k, rtol=1e-4)
    prior = tempered(make_prior(), private=temperature)
    got = private_log_prob(prior, "a", responsibility, jnp.asarray(values, jnp.float32))
    np.testing.assert_allclose(got, logsumexp(terms, axis=0), rtol=1e-4, atol=1e-4)


def test_a_tempered_shared_prior_has_its_components_covariances_times_the_temperature():
    before, after = make_prior(), tempered(make_prior(), shared=0.25)
    np.testing.assert_allclose(after.whitening, 2 * before.whitening)
    chex.assert_trees_all_equal(after._replace(whitening=before.whitening), before)


def test_draws_have_the_conditional_moments():
    count = 60_000
    shared = np.tile([[0.3, -0.1]], (count, 1)).astype(np.float32)
    means, covariances = planted()
    share = (expected_responsibility(shared[:2])[0][:, None] * PRIVATE_SHARES).ravel()
    flat = means.reshape(-1, 3)
    mean = share @ flat
    second = sum(
        s * (np.outer(m, m) + c)
        for s, m, c in zip(share, flat, [c for k in covariances for c in k], strict=True)
    )
    covariance = second - np.outer(mean, mean)
    responsibility = log_responsibility(make_prior(), shared)
    draws = np.asarray(private_sample(jax.random.key(0), make_prior(), "a", responsibility))
    assert (abs(draws.mean(0) - mean) < 4.5 * np.sqrt(np.diag(covariance) / count)).all()
    np.testing.assert_allclose(np.cov(draws.T), covariance, rtol=0.05, atol=0.06)


@pytest.mark.parametrize("family", ["gaussian", "laplace"])
def test_before_the_fit_it_is_standard_whatever_the_shared_latent(family):
    usual = standard(4, 2, family, PrivateShapes(("a",), 3, 2))
    rng = np.random.default_rng(2)
    shared, values = (jnp.asarray(rng.normal(size=(10, n)), jnp.float32) for n in (2, 3))
    density = multivariate_normal(np.zeros(3)).logpdf(values)
    if family == "laplace":
        density = laplace.logpdf(values).sum(-1)
    responsibility = log_responsibility(usual, shared)
    np.testing.assert_allclose(
        private_log_prob(usual, "a", responsibility, values), density, rtol=1e-4
    )


@pytest.mark.parametrize("num_examples", [6000, 60])
def test_the_fit_finds_what_each_component_holds(num_examples):
    """Also with few latents, where fewer components are fitted and repeated to fill the shape."""
    rng = np.random.default_rng(3)
    chosen = rng.integers(0, 2, num_examples)
    shared = np.where(chosen[:, None], 5.0, -5.0) + rng.normal(size=(num_examples, 2))
    own = np.where(chosen[:, None], 2.0, -1.0) + 0.5 * rng.normal(size=(num_examples, 2))
    base = fit_private(fit_mixture(shared, 2), shared, {"a": own}, 3)
    assert base.private["a"].mean.shape == (2 * 3, 2)
    weights = np.exp(base.private["a"].log_weight).reshape(2, 3)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    for sign, expected in ((5.0, 2.0), (-5.0, -1.0)):
        at = jnp.full([4000, 2], sign)
        draws = private_sample(jax.random.key(1), base, "a", log_responsibility(base, at))
        error = 0.5 / np.sqrt(num_examples / 2) + 0.5 / np.sqrt(4000)
        np.testing.assert_allclose(np.mean(draws, axis=0), expected, atol=5 * error)
        np.testing.assert_allclose(np.std(draws, axis=0), 0.5, rtol=0.35)


def test_the_fit_leaves_out_what_was_not_observed():
    rng = np.random.default_rng(5)
    shared = rng.normal(size=(600, 2))
    own = 3 + 0.5 * rng.normal(size=(600, 2))
    known = rng.random(600) < 0.5
    spoilt = np.where(known[:, None], own, 100.0)
    base = fit_private(fit_mixture(shared, 1), shared, {"a": spoilt}, 1, observed={"a": known})
    np.testing.assert_allclose(base.private["a"].mean[0], own[known].mean(axis=0), rtol=1e-5)


def test_a_modality_that_no_example_has_is_named():
    shared = np.random.default_rng(6).normal(size=(20, 2))
    with pytest.raises(ValueError, match="no example has a"):
        fit_private(
            fit_mixture(shared, 1), shared, {"a": shared}, 1, observed={"a": np.zeros(20, bool)}
        )
