import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from mmebm_jax import inference

NAMES = ("a", "b", "c")
NUM_EXAMPLES = 5


def make_experts(seed=0, num_examples=NUM_EXAMPLES):
    rng = np.random.default_rng(seed)
    shape = (num_examples, 2)
    return {
        name: (
            jnp.asarray(rng.normal(size=shape), jnp.float32),
            jnp.asarray(rng.uniform(0.3, 2, size=shape), jnp.float32),
        )
        for name in NAMES
    }


def repeated(values, num_examples):
    return jnp.tile(jnp.asarray(values, jnp.float32), [num_examples, 1])


def test_log_density_of_the_mixture():
    experts = make_experts()
    latents = np.random.default_rng(1).normal(size=(NUM_EXAMPLES, 2)).astype(np.float32)
    each = [norm.logpdf(latents, *map(np.asarray, experts[n])).sum(-1) for n in NAMES]
    expected = logsumexp(each, axis=0) - np.log(3)
    mixture = inference.mixture_of_experts(experts)
    np.testing.assert_allclose(inference.log_prob(mixture, latents), expected, rtol=1e-5)


def test_log_density_broadcasts_over_leading_axes():
    mixture = inference.mixture_of_experts(make_experts())
    latents = jax.random.normal(jax.random.key(0), (4, NUM_EXAMPLES, 2))
    got = inference.log_prob(mixture, latents)
    assert got.shape == (4, NUM_EXAMPLES)
    for row, one in zip(got, latents, strict=True):
        np.testing.assert_allclose(row, inference.log_prob(mixture, one), rtol=1e-5)


def test_a_missing_modality_has_no_influence():
    experts = make_experts()
    wild = experts | {"b": (experts["b"][0] + 100, 3 * experts["b"][1])}
    observed = jnp.array([True, False, True, False, False])
    mask = {"a": jnp.ones(5, bool), "b": observed, "c": ~observed}
    latents = jax.random.normal(jax.random.key(0), (NUM_EXAMPLES, 2))
    one, other = (inference.mixture_of_experts(e, mask) for e in (experts, wild))
    for function in (
        lambda e: inference.log_prob(e, latents),
        lambda e: inference.sample(jax.random.key(1), e),
        inference.expert_mean,
    ):
        got, changed = np.asarray(function(one)), np.asarray(function(other))
        np.testing.assert_array_equal(got[~observed], changed[~observed])
        if function is inference.expert_mean:
            assert (got[observed] != changed[observed]).all()
    seen = [experts["a"], experts["c"]]
    each = [norm.logpdf(latents, *map(np.asarray, e)).sum(-1) for e in seen]
    expected = logsumexp(each, axis=0) - np.log(2)
    np.testing.assert_allclose(
        inference.log_prob(one, latents)[~observed], expected[~observed], rtol=1e-5
    )


def test_one_observed_modality_is_its_expert():
    experts = make_experts()
    mask = {name: jnp.full([NUM_EXAMPLES], name == "c") for name in NAMES}
    latents = jax.random.normal(jax.random.key(0), (NUM_EXAMPLES, 2))
    mixture = inference.mixture_of_experts(experts, mask)
    expected = norm.logpdf(latents, *map(np.asarray, experts["c"])).sum(-1)
    np.testing.assert_allclose(inference.log_prob(mixture, latents), expected, rtol=1e-5)
    np.testing.assert_array_equal(inference.expert_mean(mixture), experts["c"][0])


def test_the_mean_of_all_experts():
    experts = make_experts()
    expected = np.mean([experts[name][0] for name in NAMES], axis=0)
    got = inference.expert_mean(inference.mixture_of_experts(experts))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("missing", [(), ("b",)])
def test_samples_have_the_mixtures_moments(missing):
    count = 40_000
    means = {"a": [-3.0, 1.0], "b": [4.0, 0.0], "c": [1.0, 2.0]}
    scales = {"a": [0.5, 1.0], "b": [0.2, 2.0], "c": [1.0, 0.1]}
    experts = {n: (repeated(means[n], count), repeated(scales[n], count)) for n in NAMES}
    mask = {name: jnp.full([count], name not in missing) for name in NAMES}
    samples = np.asarray(
        inference.sample(jax.random.key(0), inference.mixture_of_experts(experts, mask))
    )
    assert samples.shape == (count, 2)
    seen = [name for name in NAMES if name not in missing]
    mean = np.mean([means[n] for n in seen], axis=0)
    # The expert is chosen once for all latents, so the mixture has a covariance.
    second = np.mean(
        [np.outer(means[n], means[n]) + np.diag(np.square(scales[n])) for n in seen], axis=0
    )
    covariance = second - np.outer(mean, mean)
    error = np.sqrt(np.diag(covariance) / count)
    assert (abs(samples.mean(0) - mean) < 4 * error).all()
    np.testing.assert_allclose(np.cov(samples.T), covariance, rtol=0.03, atol=0.03)


def test_stratified_samples_come_from_each_expert():
    count = 20_000
    values = {"a": (-3.0, 0.5), "b": (4.0, 0.2), "c": (1.0, 2.0)}
    experts = {
        name: (repeated([mean, -mean], count), repeated([scale, 2 * scale], count))
        for name, (mean, scale) in values.items()
    }
    mixture = inference.mixture_of_experts(experts)
    samples = np.asarray(inference.stratified_sample(jax.random.key(0), mixture))
    assert samples.shape == (3, count, 2)
    for part, (mean, scale) in zip(samples, values.values(), strict=True):
        scales = np.array([scale, 2 * scale])
        assert (abs(part.mean(0) - [mean, -mean]) < 4 * scales / np.sqrt(count)).all()
        assert (abs(part.std(0) - scales) < 4 * scales / np.sqrt(2 * count)).all()


def test_stratified_samples_are_reparametrised():
    mixture = inference.mixture_of_experts(make_experts())

    def total(mean, scale):
        draws = inference.stratified_sample(
            jax.random.key(0), mixture._replace(mean=mean, scale=scale)
        )
        return draws.sum()

    by_mean, by_scale = jax.grad(total, argnums=(0, 1))(mixture.mean, mixture.scale)
    np.testing.assert_array_equal(by_mean, np.ones([3, NUM_EXAMPLES, 2]))
    noise = jax.random.normal(jax.random.key(0), mixture.mean.shape)
    np.testing.assert_allclose(by_scale, noise, rtol=1e-6)
