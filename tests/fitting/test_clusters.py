import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from mmebm_jax.distributions.base_prior import base_log_prob, standard, with_clusters
from mmebm_jax.fitting.clusters import choose_clusters

MEANS = np.array([[-6.0, 0], [6, 0], [6, 0.1], [0, 40]], np.float32)


def make_prior(logit=(0.0, 0.0, -1.0, -2.0)):
    params = {"cluster_logit": jnp.asarray(logit), "cluster_mean": jnp.asarray(MEANS)}
    return with_clusters(standard(4, 2), params)


def make_latents(count=300):
    rng = np.random.default_rng(0)
    return MEANS[rng.integers(0, 2, count)] + rng.normal(size=(count, 2)).astype(np.float32)


def test_the_prior_of_clusters_is_the_mixture_of_unit_gaussians():
    logit = np.array([0.0, 0.0, -1.0, -2.0])
    z = make_latents(20)
    log_weight = logit - logsumexp(logit)
    each = norm.logpdf(z[:, None], MEANS[None]).sum(-1) + log_weight
    prior = make_prior(logit)
    np.testing.assert_allclose(base_log_prob(prior, z), logsumexp(each, axis=1), rtol=1e-4)
    # CMVAE's formula: Σ_c p(c | z) [log p(z | c) + log p(c) − log p(c | z)].
    share = np.exp(each - logsumexp(each, axis=1, keepdims=True))
    published = (share * (each - np.log(share + 1e-300))).sum(1)
    np.testing.assert_allclose(base_log_prob(prior, z), published, rtol=1e-4)


def test_without_clusters_the_prior_stays():
    prior = standard(4, 2)
    assert with_clusters(prior, {"picture": {}}) is prior


def test_clusters_that_nobody_needs_are_dropped():
    chosen, scores = choose_clusters(make_prior(), make_latents(), beta=1.0)
    assert [score.num_clusters for score in scores] == [4, 3, 2, 1]
    weight = np.exp(chosen.log_weight)
    np.testing.assert_allclose(weight.sum(), 1, rtol=1e-5)
    # The distant cluster is unused, and one of the two that coincide is redundant.
    assert list(weight > 0) == [True, True, False, False]
    for score in scores:
        assert score.score == pytest.approx(score.entropy - score.log_likelihood)
    assert scores[-1].entropy == 0
    draws = jax.random.categorical(jax.random.key(0), chosen.log_weight, shape=(100,))
    assert set(np.asarray(draws)) <= {0, 1}


def test_without_a_price_on_entropy_the_likelihood_decides():
    _, scores = choose_clusters(make_prior(), make_latents(), beta=0.0)
    assert min(scores, key=lambda s: s.score) == max(scores, key=lambda s: s.log_likelihood)
