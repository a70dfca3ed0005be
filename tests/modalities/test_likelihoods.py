import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from mmebm_jax.modalities.kinds import KINDS, likelihoods_of
from mmebm_jax.modalities.likelihoods import LIKELIHOODS
from mmebm_jax.modalities.modality import Modality, log_likelihood, means

RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(scale=2, size=(3, 4)).astype(np.float32)
NUMBERS = RNG.uniform(-1, 1, size=(3, 4)).astype(np.float32)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
@pytest.mark.parametrize(
    ("name", "density"), [("gaussian", stats.norm.logpdf), ("laplace", stats.laplace.logpdf)]
)
def test_densities_of_numbers(name, density, scale):
    got = LIKELIHOODS[name].log_density(OUTPUTS, NUMBERS, scale)
    np.testing.assert_allclose(got, density(NUMBERS, OUTPUTS, scale), rtol=1e-5, atol=1e-5)


def test_bernoulli_of_black_and_white():
    counts = RNG.integers(2, size=(3, 4))
    got = LIKELIHOODS["bernoulli"].log_density(OUTPUTS, 2.0 * counts - 1.0, 0.7)
    expected = stats.bernoulli.logpmf(counts, special.expit(OUTPUTS.astype(float)))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_bernoulli_of_a_shade_weighs_both_outcomes():
    got = LIKELIHOODS["bernoulli"].log_density(OUTPUTS, NUMBERS, 1.0)
    chance = special.expit(OUTPUTS.astype(float))
    white, black = (stats.bernoulli.logpmf(count, chance) for count in (1, 0))
    share = (NUMBERS + 1) / 2
    np.testing.assert_allclose(got, share * white + (1 - share) * black, rtol=1e-5)


def test_bernoulli_of_sure_outputs_is_finite():
    logits, values = jnp.array([200.0, -200.0]), jnp.array([-1.0, 1.0])
    got = LIKELIHOODS["bernoulli"].log_density(logits, values, 1.0)
    np.testing.assert_allclose(got, -200.0)


def test_categorical_of_tokens():
    logits = RNG.normal(scale=3, size=(5, 2, 6)).astype(np.float32)
    tokens = RNG.integers(6, size=(5, 2))
    got = LIKELIHOODS["categorical"].log_density(logits, jax.nn.one_hot(tokens, 6), 1.0).sum(-1)
    chances = special.softmax(logits.astype(float), axis=-1)
    expected = [
        [stats.multinomial.logpmf(np.eye(6)[t], 1, p) for t, p in zip(*row, strict=True)]
        for row in zip(tokens, chances, strict=True)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_densities_integrate_to_one(name):
    density = LIKELIHOODS[name].log_density
    grid = np.linspace(-12, 12, 20_001)
    total = integrate.trapezoid(np.exp(density(jnp.float32(0.3), grid, 0.5)), grid)
    assert total == pytest.approx(1, abs=1e-4)


def test_means_in_data_range():
    outputs = np.array([-3.0, -0.5, 0.0, 0.25, 3.0], np.float32)
    for name in ("gaussian", "laplace"):
        got = LIKELIHOODS[name].mean(outputs)
        np.testing.assert_allclose(got, [-1, -0.5, 0, 0.25, 1], rtol=1e-6)
    shades = 2 * stats.bernoulli.mean(special.expit(outputs.astype(float))) - 1
    np.testing.assert_allclose(LIKELIHOODS["bernoulli"].mean(outputs), shades, rtol=1e-5)
    np.testing.assert_allclose(
        LIKELIHOODS["categorical"].mean(outputs), special.softmax(outputs), rtol=1e-5
    )


def test_means_are_named_by_modality():
    modalities = (
        Modality("a", "vector", (4,), "laplace"),
        Modality("b", "text", (1, 4), "categorical"),
    )
    got = means(modalities, {"a": OUTPUTS, "b": OUTPUTS[:, None]})
    np.testing.assert_allclose(got["a"], np.clip(OUTPUTS, -1, 1))
    np.testing.assert_allclose(got["b"][:, 0], special.softmax(OUTPUTS, axis=-1), rtol=1e-5)


# The autoregressive one has dependent dimensions and is tested in test_autoregressive.py.
INDEPENDENT = [name for name in LIKELIHOODS if name != "autoregressive"]


@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_modality_sums_over_an_example_and_weighs(name):
    kind = "text" if name == "categorical" else "image"
    shape = (2, 3) if kind == "text" else (4, 4, 1)
    modality = Modality("m", kind, shape, name, scale=0.5, weight=3.0)
    outputs, observed = (
        RNG.uniform(0, 1, size=(5, 2, *shape)).astype(np.float32) for _ in range(2)
    )
    each = LIKELIHOODS[name].log_density(outputs, observed, 0.5)
    axes = tuple(range(2, 2 + len(shape)))
    got = log_likelihood(modality, outputs, observed)
    np.testing.assert_allclose(got, 3 * np.sum(each, axis=axes), rtol=1e-5)


def test_likelihoods_suit_kinds_that_hold_their_values():
    assert likelihoods_of("text") == ("categorical", "autoregressive")
    assert likelihoods_of("image") == likelihoods_of("vector")
    assert set(likelihoods_of("image")) == {"gaussian", "laplace", "bernoulli"}
    assert {kind.values for kind in KINDS.values()} == {one.values for one in LIKELIHOODS.values()}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_draws_come_from_the_density(name):
    likelihood, count = LIKELIHOODS[name], 40_000
    outputs = jnp.array([-0.6, 0.1, 0.9])
    draws = likelihood.sample(jax.random.key(0), jnp.tile(outputs, (count, 1)), 0.7)
    assert draws.shape == (count, 3)
    np.testing.assert_allclose(draws.mean(0), likelihood.mean(outputs), atol=0.03)
    # The mean log-density of its own draws is minus the entropy.
    density = likelihood.log_density(jnp.tile(outputs, (count, 1)), draws, 0.7)
    entropy = {
        "gaussian": np.full(3, stats.norm(scale=0.7).entropy()),
        "laplace": np.full(3, stats.laplace(scale=0.7).entropy()),
        "bernoulli": stats.bernoulli.entropy(special.expit(np.asarray(outputs))),
        "categorical": stats.entropy(special.softmax(np.asarray(outputs))),
    }[name]
    summed = density.sum(-1) if name == "categorical" else density
    np.testing.assert_allclose(-summed.mean(0), entropy, atol=0.03)
