from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import binom, laplace, multivariate_normal, norm

from mmebm_jax.distributions.base_prior import (
    BasePrior,
    Mixture,
    PrivateShapes,
    base_log_prob,
    base_sample,
    log_responsibility,
    private_log_prob,
    resampled,
    standard,
)
from mmebm_jax.fitting.base_prior import fit_mixture
from mmebm_jax.method import langevin, prior
from mmebm_jax.method.langevin import Chain
from mmebm_jax.typing import Latents

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
    return BasePrior(
        jnp.asarray(np.log(WEIGHTS), jnp.float32),
        jnp.asarray(means, jnp.float32),
        jnp.asarray(whitening, jnp.float32),
        jnp.asarray(False),
    )


def test_log_density_of_a_mixture():
    means, covariances = planted()
    points = np.random.default_rng(1).normal(size=(20, 2), scale=5)
    each = [
        multivariate_normal(m, c).logpdf(points) for m, c in zip(means, covariances, strict=True)
    ]
    expected = logsumexp(np.transpose(each) + np.log(WEIGHTS), axis=-1)
    got = base_log_prob(make_mixture(), jnp.asarray(points, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_samples_whitened_by_their_component_are_the_noise_of_a_standard_mixture():
    rng = np.random.default_rng(0)
    whitening = np.tril(rng.normal(size=(3, 6, 6))) + 3 * np.eye(6)
    means = rng.normal(size=(3, 6))
    usual = standard(3, 6)
    mixture = usual._replace(
        mean=jnp.asarray(means, jnp.float32), whitening=jnp.asarray(whitening, jnp.float32)
    )
    noise, samples = (np.asarray(base_sample(jax.random.key(0), p, 200)) for p in (usual, mixture))
    whitened = np.einsum("kij,bkj->bki", whitening, samples[:, None] - means)
    errors = abs(whitened - noise[:, None]).max(axis=-1)  # by example and component
    assert set(errors.argmin(axis=-1)) == {0, 1, 2}
    np.testing.assert_allclose(errors.min(axis=-1), 0, atol=2e-5)


def test_samples_have_the_mixtures_moments():
    means, covariances = planted()
    count = 50_000
    samples = np.asarray(base_sample(jax.random.key(0), make_mixture(), count))
    nearest = np.linalg.norm(samples[:, None] - means, axis=-1).argmin(-1)
    for component in range(3):
        part = samples[nearest == component]
        share = WEIGHTS[component]
        assert len(part) / count == pytest.approx(share, abs=4 * np.sqrt(share / count))
        error = np.sqrt(np.diag(covariances[component]) / len(part))
        assert (abs(part.mean(0) - means[component]) < 4 * error).all()
        np.testing.assert_allclose(np.cov(part.T), covariances[component], rtol=0.05, atol=0.05)


def test_standard_normal():
    normal = standard(4, 3)
    points = np.random.default_rng(0).normal(size=(10, 3), scale=2).astype(np.float32)
    np.testing.assert_allclose(
        base_log_prob(normal, points),
        multivariate_normal(np.zeros(3), np.eye(3)).logpdf(points),
        rtol=1e-5,
    )
    samples = np.asarray(base_sample(jax.random.key(0), normal, 40_000))
    np.testing.assert_allclose(samples.mean(0), 0, atol=4 / np.sqrt(40_000))
    np.testing.assert_allclose(np.cov(samples.T), np.eye(3), atol=0.03)


def test_standard_laplace():
    base, count = standard(4, 3, "laplace"), 40_000
    points = np.random.default_rng(0).normal(size=(10, 3), scale=2).astype(np.float32)
    np.testing.assert_allclose(
        base_log_prob(base, points), laplace.logpdf(points).sum(-1), rtol=1e-5
    )
    samples = np.asarray(base_sample(jax.random.key(0), base, count))
    assert samples.shape == (count, 3)
    # Variance 2 and fourth moment 24, compared with 3 · 2² for a Gaussian.
    np.testing.assert_allclose(samples.mean(0), 0, atol=4 * np.sqrt(2 / count))
    np.testing.assert_allclose(abs(samples).mean(0), 1, atol=4 / np.sqrt(count))
    np.testing.assert_allclose(np.cov(samples.T), 2 * np.eye(3), atol=0.1)
    np.testing.assert_allclose((samples**4).mean(0), 24, rtol=0.15)


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
    fitted = fit_mixture(latents, 3)
    assert [leaf.dtype for leaf in jax.tree.leaves(fitted)] == [jnp.float32] * 3 + [jnp.bool_]
    order = np.linalg.norm(fitted.mean[None] - means[:, None], axis=-1).argmin(-1)
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(np.exp(fitted.log_weight)[order], WEIGHTS, atol=0.01)
    np.testing.assert_allclose(fitted.mean[order], means, atol=0.1)
    for index, covariance in zip(order, covariances, strict=True):
        unmixing = np.asarray(fitted.whitening[index], np.float64)
        assert unmixing[0, 1] == 0
        np.testing.assert_allclose(
            np.linalg.inv(unmixing.T @ unmixing), covariance, rtol=0.1, atol=0.1
        )


@pytest.mark.parametrize("family", ["gaussian", "laplace"])
def test_fit_keeps_the_shapes_of_the_standard_prior_and_replaces_it(family):
    latents = np.random.default_rng(0).normal(size=(50, 3))
    fitted, unfitted = fit_mixture(latents, 4), standard(4, 3, family)
    assert [leaf.shape for leaf in fitted[:4]] == [leaf.shape for leaf in unfitted[:4]]
    assert [leaf.dtype for leaf in fitted[:4]] == [leaf.dtype for leaf in unfitted[:4]]
    assert not fitted.is_laplace


def test_a_fit_goes_on_from_an_earlier_one():
    latents = np.asarray(base_sample(jax.random.key(0), make_mixture(), 3000))
    again = fit_mixture(latents, 3, start=make_mixture(), max_iterations=1)
    np.testing.assert_allclose(np.exp(again.log_weight), WEIGHTS, atol=0.05)
    np.testing.assert_allclose(again.mean, make_mixture().mean, atol=0.2)  # in the same order
    points = jnp.asarray(latents[:200])
    np.testing.assert_allclose(
        base_log_prob(again, points),
        base_log_prob(fit_mixture(latents, 3), points),
        atol=0.05,
    )


def test_a_fit_ends_with_its_iterations():
    latents = np.random.default_rng(0).normal(size=(500, 2))
    short, long = (fit_mixture(latents, 4, max_iterations=n) for n in (1, 15))
    assert abs(short.mean - long.mean).max() > 0.01


def test_a_chain_stays_on_a_fit_to_few_latents():
    latents = np.random.default_rng(0).normal(size=(20, 12))  # ten each: covariances are singular
    chain = Chain(num_steps=50, step_size=0.16, temperature=0.1)

    def reach(fitted):
        energy_fn = prior.tilted_energy(fitted, None)
        start = base_sample(jax.random.key(0), fitted, 30)
        position = langevin.run(jax.random.key(1), start, energy_fn, chain).position
        return abs(np.asarray(position)).max()

    assert not reach(fit_mixture(latents, 2)) < 100
    wide = fit_mixture(latents, 2, smallest_scale=0.6 * chain.step_size)
    assert reach(wide) < 5
    for whitening in np.asarray(wide.whitening, np.float64):
        assert not np.triu(whitening, 1).any()
        assert np.linalg.svd(whitening)[1].max() == pytest.approx(1 / 0.096, rel=1e-4)


def test_a_fit_that_is_wide_enough_stays_as_it_is():
    latents = np.asarray(base_sample(jax.random.key(0), make_mixture(), 3000))
    plain, bounded = (fit_mixture(latents, 3, smallest_scale=s) for s in (0.0, 0.2))
    jax.tree.map(np.testing.assert_array_equal, plain, bounded)


def test_too_few_latents_are_refused():
    with pytest.raises(ValueError, match="7 latents cannot hold a mixture of 4"):
        fit_mixture(np.random.default_rng(0).normal(size=(7, 2)), 4)


def test_tilted_energy():
    normal = standard(2, 2)
    points = np.array([[0.0, 0.0], [1.0, -2.0]], np.float32)
    base = np.log(2 * np.pi) + np.array([0.0, 2.5])
    np.testing.assert_allclose(prior.tilted_energy(normal, None)(points), base, rtol=1e-6)
    tilted = prior.tilted_energy(normal, lambda z: 3 * z[:, 0])(points)
    np.testing.assert_allclose(tilted, base + np.array([0, 3]), rtol=1e-6)


@pytest.mark.parametrize(("family", "density"), [("gaussian", norm), ("laplace", laplace)])
def test_joint_energy_adds_the_private_priors(family, density):
    rng = np.random.default_rng(0)
    shared, a, b = rng.normal(size=(3, 5, 2)).astype(np.float32)
    joint = prior.latents_energy(make_mixture(), lambda z, _: 3 * z[:, 0], family)
    of_shared = prior.tilted_energy(make_mixture(), lambda z: 3 * z[:, 0])(shared)
    np.testing.assert_array_equal(joint(Latents(shared, {})), of_shared)
    np.testing.assert_allclose(
        joint(Latents(shared, {"a": a, "b": b})),
        of_shared - density.logpdf(a).sum(-1) - density.logpdf(b).sum(-1),
        rtol=1e-5,
    )


@pytest.mark.parametrize("family", ["gaussian", "laplace"])
def test_the_standard_prior_needs_no_mixture(family):
    shared, own = np.random.default_rng(0).normal(size=(2, 5, 2)).astype(np.float32)
    latents = Latents(shared, {"a": own})
    energies = [
        prior.latents_energy(base, lambda z, _: 3 * z[:, 0], family)(latents)
        for base in (None, standard(4, 2, family))
    ]
    np.testing.assert_allclose(*energies, rtol=1e-5)


@pytest.mark.parametrize("family", ["gaussian", "laplace"])
def test_a_relative_energy_turns_the_standard_prior_into_the_learned_one(family):
    shared = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    density = norm if family == "gaussian" else laplace
    for base in (None, make_mixture()):
        for energy_fn in (None, lambda z: 3 * z[:, 0]):
            relative = prior.relative_energy(base, energy_fn, family)(shared)
            learned = prior.tilted_energy(base, energy_fn, family)(shared)
            expected = learned + density.logpdf(shared).sum(-1)
            np.testing.assert_allclose(relative, expected, rtol=1e-4, atol=1e-5)


def pair_prior():
    """Three components of z, each with two components of the private latent "a"."""
    rng = np.random.default_rng(4)
    private = Mixture(
        np.log(np.array([0.3, 0.7, 0.9, 0.1, 0.5, 0.5], np.float32)),
        rng.normal(size=(6, 2)).astype(np.float32),
        np.tril(rng.uniform(0.5, 2, (6, 2, 2))).astype(np.float32),
    )
    return make_mixture()._replace(private={"a": private})


def test_joint_energy_holds_private_mixtures_and_their_energies():
    base, rng = pair_prior(), np.random.default_rng(0)
    shared, a, b = rng.normal(size=(3, 5, 2)).astype(np.float32)
    base = base._replace(private={"a": base.private["a"], "b": base.private["a"]})

    def energy(z, private):
        return 3 * z[:, 0] + private["a"][:, 1] - private["b"][:, 0]

    share = log_responsibility(base, shared)
    expected = 3 * shared[:, 0] + a[:, 1] - b[:, 0] - base_log_prob(base, shared)
    expected -= private_log_prob(base, "a", share, a) + private_log_prob(base, "b", share, b)
    joint = prior.latents_energy(base, energy, "gaussian")(Latents(shared, {"a": a, "b": b}))
    np.testing.assert_allclose(joint, expected, rtol=1e-5)


def test_private_samples_follow_their_energy():
    """N(0, I) tilted by −s · w is N(s, I); here s is z itself."""
    names = PrivateShapes(("a",), 2, 3)
    normal, count = standard(2, 2, private=names), 20_000
    shared = np.tile(np.array([[0.7, -0.4]], np.float32), (count, 1))
    draw = jax.jit(
        lambda key: prior.private_sample(
            key, normal, lambda z, w: -(z * w["a"]).sum(-1), "a", shared, 64
        )
    )
    samples = np.asarray(draw(jax.random.key(0)))
    np.testing.assert_allclose(samples.mean(0), shared[0], atol=0.04)
    np.testing.assert_allclose(samples.var(0), 1.0, atol=0.06)
    plain = prior.private_sample(jax.random.key(0), normal, None, "a", shared, 64)
    np.testing.assert_allclose(np.asarray(plain).mean(0), 0.0, atol=0.04)


@pytest.mark.parametrize(
    ("energy_fn", "num_steps", "num_candidates"),
    [(lambda z: 3 * z[:, 0], 0, 1), (None, 7, 1), (None, 0, 1), (None, 7, 5)],
)
def test_without_energy_or_steps_samples_are_base_draws(energy_fn, num_steps, num_candidates):
    mixture = make_mixture()
    key = jax.random.key(0)
    chain = Chain(num_steps, 0.3)
    result = prior.sample(key, mixture, energy_fn, 6, chain, num_candidates)
    start = base_sample(jax.random.split(key, 3)[0], mixture, 6)
    np.testing.assert_array_equal(result.position, start)


@pytest.mark.parametrize("num_candidates", [1, 2, 7])
def test_candidates_are_resampled_by_their_weights(num_candidates):
    """Two distant points with masses 0.8 and 0.2, the rarer weighted by e²: exact for any n."""
    points = BasePrior(
        jnp.log(jnp.array([0.8, 0.2])),
        jnp.array([[-5.0], [5.0]]),
        jnp.full([2, 1, 1], 1e3),
        jnp.asarray(False),
    )
    count = 20_000
    sample = jax.jit(
        lambda key: (
            prior.sample(
                key, points, lambda z: -jnp.sign(z[:, 0]), count, Chain(0, 0.1), num_candidates
            ).position
        )
    )
    rare = np.arange(num_candidates + 1)
    weight = rare * np.exp(2) / (rare * np.exp(2) + num_candidates - rare)
    expected = np.sum(binom.pmf(rare, num_candidates, 0.2) * weight)
    share = np.mean(np.asarray(sample(jax.random.key(0))) > 0)
    assert share == pytest.approx(expected, abs=4 * np.sqrt(0.25 / count))


def test_of_candidates_each_sample_takes_one_of_its_own_with_all_its_leaves():
    candidates = {"a": jnp.arange(6.0), "b": jnp.arange(12.0).reshape(6, 2)}
    energies = jnp.array([9.0, 0.0, 9.0, 0.0, 9.0, 9.0]) * 100
    chosen = resampled(jax.random.key(0), candidates, energies, 2)
    np.testing.assert_array_equal(chosen["a"], [1.0, 3.0])
    np.testing.assert_array_equal(chosen["b"], [[2.0, 3.0], [6.0, 7.0]])


@pytest.mark.parametrize(("num_candidates", "mean"), [(1, [0.0, 0.0]), (64, [-0.6, 0.4])])
def test_many_candidates_are_draws_of_the_tilted_prior_without_a_chain(num_candidates, mean):
    # N(0, I) tilted by z·c is N(−c, I).
    count, tilt = 10_000, jnp.array([0.6, -0.4])
    sample = partial(prior.sample, num_candidates=num_candidates)
    samples = np.asarray(
        jax.jit(
            lambda key: (
                sample(key, standard(2, 2), lambda z: z @ tilt, count, Chain(0, 0.1)).position
            )
        )(jax.random.key(0))
    )
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(np.cov(samples.T), np.eye(2), atol=0.06)


def test_candidates_start_the_chain():
    """While the chain barely moves, the start's distribution shows; each chain has its own."""
    key, energy = jax.random.key(0), lambda z: 2 * z[:, 0]
    start, moved = (
        prior.sample(key, standard(2, 2), energy, 50, Chain(num_steps, 1e-3), 8).position
        for num_steps in (0, 1)
    )
    assert len(np.unique(start[:, 0])) == 50
    assert 0 < abs(moved - start).max() < 0.01


def test_samples_follow_the_tilted_prior():
    # N(0, I) tilted by z·c is N(−c, I); the chain's variance is 1 / (1 − s²/4).
    count, step_size = 20_000, 0.5
    normal, tilt = standard(2, 2), jnp.array([[1.0, -0.5]])
    result = jax.jit(
        lambda key: prior.sample(
            key, normal, lambda z: jnp.sum(z * tilt, axis=-1), count, Chain(80, step_size)
        )
    )(jax.random.key(0))
    samples = np.asarray(result.position)
    variance = 1 / (1 - step_size**2 / 4)
    np.testing.assert_allclose(samples.mean(0), [-1, 0.5], atol=4 * np.sqrt(variance / count))
    np.testing.assert_allclose(np.cov(samples.T), variance * np.eye(2), atol=0.05)
