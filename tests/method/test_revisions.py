import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from mmebm_jax.distributions.base_prior import standard
from mmebm_jax.method import langevin
from mmebm_jax.method.data_revision import LARGEST, gap_closing, revise_data
from mmebm_jax.method.langevin import Chain
from mmebm_jax.method.posterior_energy import posterior_energy
from mmebm_jax.method.prior import latents_energy
from mmebm_jax.modalities.modality import (
    Modality,
    joint_log_likelihood,
    likeliest_tokens,
    uniform_noise,
    where_observed,
)
from mmebm_jax.typing import Latents

NUM_CHAINS = 20_000
STEP_SIZE = 0.3
A = Modality("a", "image", (4, 4, 1), "gaussian", scale=0.8)
B = Modality("b", "image", (4, 4, 1), "gaussian", scale=1.0, weight=0.5)
TEXT = Modality("text", "text", (2, 3), "categorical")
# Each modality as a function of u = (z, w_a, w_b), with two-dimensional z and scalar w.
LINEAR = {
    name: np.random.default_rng(196 + i).normal(size=(16, 4)) / 3 * mine
    for i, (name, mine) in enumerate({"a": [1, 1, 1, 0], "b": [1, 1, 0, 1]}.items())
}
OFFSET = {"a": 0.3, "b": -0.2}
DATA = {name: np.random.default_rng(9 + i).normal(size=16) for i, name in enumerate("ab")}


def decode(latents):
    parts = {
        name: jnp.concatenate([latents.shared, own], axis=-1)
        for name, own in latents.private.items()
    }
    columns = {"a": [0, 1, 2], "b": [0, 1, 3]}
    return {
        name: (
            part @ jnp.asarray(LINEAR[name][:, columns[name]].T, jnp.float32) + OFFSET[name]
        ).reshape(-1, 4, 4, 1)
        for name, part in parts.items()
    }


def closed_form(observed):
    """Mean, and covariance of the chain; that of the posterior itself is inverse(precision)."""
    precision, pull = np.eye(4), np.zeros(4)
    for modality in observed:
        factor, strength = LINEAR[modality.name], modality.weight / modality.scale**2
        precision += strength * factor.T @ factor
        pull += strength * factor.T @ (DATA[modality.name] - OFFSET[modality.name])
    stationary = precision - STEP_SIZE**2 / 4 * precision @ precision
    return np.linalg.solve(precision, pull), np.linalg.inv(stationary)


def run_posterior(modalities, mask=None):
    batch = {
        name: jnp.tile(jnp.asarray(values, jnp.float32).reshape(4, 4, 1), [NUM_CHAINS, 1, 1, 1])
        for name, values in DATA.items()
    }
    start = Latents(jnp.zeros([NUM_CHAINS, 2]), {name: jnp.zeros([NUM_CHAINS, 1]) for name in DATA})
    energy_fn = posterior_energy(
        batch,
        modalities=modalities,
        decode=decode,
        prior_energy=latents_energy(standard(1, 2), None, "gaussian"),
        mask=mask,
    )
    result = jax.jit(
        lambda key: langevin.run(key, start, energy_fn, Chain(120, STEP_SIZE)).position
    )(jax.random.key(0))
    assert set(result.private) == {"a", "b"}
    return np.concatenate([result.shared, result.private["a"], result.private["b"]], axis=1)


def assert_moments(samples, observed):
    mean, covariance = closed_form(observed)
    variance = np.diag(covariance)
    assert (abs(samples.mean(0) - mean) < 4 * np.sqrt(variance / len(samples))).all()
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / len(samples))
    assert (abs(np.cov(samples.T) - covariance) < 4 * error).all()


def test_the_closed_forms_are_far_apart():
    """Otherwise the tests below could not tell them apart."""
    moments = [closed_form(observed) for observed in ((A, B), (A,), (B,))]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        difference = abs(moments[i][0] - moments[j][0])
        assert np.linalg.norm(difference[:2]) > 0.1
        assert np.linalg.norm(difference[2:]) > 0.1
        assert abs(moments[i][1] - moments[j][1]).max() > 0.05
    covariance = moments[0][1]
    # Given the data, z's dimensions are dependent, and so are z and each w.
    assert min(abs(covariance[0, 1]), *abs(covariance[:2, 2:]).max(axis=0)) > 0.02


@pytest.mark.parametrize("observed", [(A, B), (A,), (B,)], ids=["both", "a", "b"])
def test_posterior_of_a_linear_generator(observed):
    assert_moments(run_posterior(observed), observed)


def test_posterior_under_a_mask():
    has_a = jnp.arange(NUM_CHAINS) % 2 == 0
    samples = run_posterior((A, B), {"a": has_a, "b": jnp.ones(NUM_CHAINS, bool)})
    assert_moments(samples[::2], (A, B))
    assert_moments(samples[1::2], (B,))


def test_data_revision_pulls_free_modalities_to_the_observed():
    observed = {"a": jax.random.uniform(jax.random.key(0), [3, 4, 4, 1], minval=-1)}

    def energy(batch):
        assert set(batch) == {"a", "b"}
        return 10 * jnp.sum((batch["b"] - batch["a"]) ** 2, axis=(1, 2, 3))

    result = revise_data(
        jax.random.key(1),
        {"b": jnp.zeros([3, 4, 4, 1])},
        lambda position: energy({**observed, **position}),
        Chain(40, 0.2, temperature=0.0),
        modalities=(A, B),
        keep_trajectory=True,
    )
    assert set(result.position) == set(result.trajectory) == {"b"}
    np.testing.assert_allclose(result.position["b"], observed["a"], atol=1e-5)
    assert result.info.energy[0].min() > 1


MASK = {"a": jnp.array([True, False, True]), "text": jnp.array([False, True, True])}


def test_where_observed():
    rng = np.random.default_rng(0)
    data, otherwise = (
        {"a": rng.normal(size=(3, 4, 4, 1)), "text": rng.normal(size=(3, 2, 3))} for _ in range(2)
    )
    mixed = where_observed(MASK, data, otherwise)
    for name, seen in MASK.items():
        for example in range(3):
            expected = (data if seen[example] else otherwise)[name][example]
            np.testing.assert_array_equal(mixed[name][example], expected.astype(np.float32))


def test_data_revision_under_a_mask_moves_what_is_missing_alone():
    start = {
        "a": jax.random.uniform(jax.random.key(0), [3, 4, 4, 1], minval=-1),
        "text": jax.random.uniform(jax.random.key(1), [3, 2, 3]),
    }
    start["a"] = start["a"].at[0, 0, 0, 0].set(2.0)  # observed, so not even clipped
    result = revise_data(
        jax.random.key(2),
        start,
        modalities=(A, TEXT),
        energy_fn=lambda x: jnp.square(x["a"].mean((1, 2, 3)) - x["text"].mean((1, 2))),
        chain=Chain(4, 0.3, temperature=0.1),
        mask=MASK,
        keep_trajectory=True,
    )
    for name, seen in MASK.items():
        for position in (result.position[name], *result.trajectory[name]):
            same = (position == start[name]).reshape(3, -1)
            np.testing.assert_array_equal(same[seen], True)
            assert not same[~seen].all(axis=1).any()


def test_missing_data_descend_to_what_is_observed():
    """Both end at the energy's minimum, which only each example's free modality can move to."""
    both = {
        name: jax.random.uniform(jax.random.key(i), [2, 4, 4, 1]) for i, name in enumerate("ab")
    }
    result = revise_data(
        jax.random.key(0),
        both,
        modalities=(A, B),
        energy_fn=lambda x: 10 * jnp.sum((x["b"] - x["a"]) ** 2, axis=(1, 2, 3)),
        chain=Chain(40, 0.2, temperature=0.0),
        mask={"a": jnp.array([True, False]), "b": jnp.array([False, True])},
    )
    for values in result.position.values():
        np.testing.assert_allclose(values[0], both["a"][0], atol=1e-5)
        np.testing.assert_allclose(values[1], both["b"][1], atol=1e-5)


def test_likeliest_tokens_are_one_hot_and_numbers_are_left_out():
    text = jax.nn.softmax(jax.random.normal(jax.random.key(1), [3, 2, 3]))
    found = likeliest_tokens((A, TEXT), {"a": jnp.zeros([3, 4, 4, 1]), "text": text})
    assert found.keys() == {"text"}
    np.testing.assert_array_equal(found["text"], np.eye(3, dtype="f4")[np.argmax(text, -1)])
    assert likeliest_tokens((A, TEXT), {"a": text}) == {}


def falling(x):
    """Slope 1 per value, so a step of size s lowers the energy by exactly s²/2 · 16."""
    return x["a"].sum((1, 2, 3))


@pytest.mark.parametrize("num_steps", [1, 3, 10])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_chain_closes_its_share_of_the_gap_in_the_mean(num_steps, share):
    start = {"a": jax.random.uniform(jax.random.key(0), [5, 4, 4, 1], minval=0.0, maxval=0.5)}
    of_start = falling(start).mean()
    of_data = of_start - 4.0
    chain = Chain(num_steps, 0.2, temperature=0.0)
    chain = chain._replace(step_size=gap_closing(chain, share, of_data))
    moved = revise_data(jax.random.key(0), start, falling, chain, modalities=(A,)).position
    closed = (of_start - falling(moved).mean()) / (of_start - of_data)
    assert closed == pytest.approx(share, rel=1e-4)
    by_each = (falling(start) - falling(moved)).tolist()
    np.testing.assert_allclose(by_each, by_each[0], rtol=1e-4)  # one step size for all


def test_no_step_of_such_a_chain_is_larger_than_some_of_its_own():
    chain = Chain(2, 0.01, temperature=0.0)
    rule = gap_closing(chain, 0.5, jnp.float32(-1e9))
    start = {"a": jnp.zeros([3, 4, 4, 1])}
    chain = chain._replace(step_size=rule)
    moved = revise_data(jax.random.key(0), start, falling, chain, modalities=(A,)).position
    np.testing.assert_allclose(moved["a"], -2 * (LARGEST * 0.01) ** 2 / 2, rtol=1e-5)


def test_where_samples_lie_below_data_they_stay():
    chain = Chain(3, 0.5, temperature=0.1)
    chain = chain._replace(step_size=gap_closing(chain, 0.5, jnp.float32(1.0)))
    start = {"a": jnp.zeros([3, 4, 4, 1])}
    moved = revise_data(jax.random.key(0), start, falling, chain, modalities=(A,)).position
    np.testing.assert_array_equal(moved["a"], start["a"])


@pytest.mark.parametrize("modality", [A, TEXT], ids=["image", "text"])
def test_a_noise_start_is_uniform_over_the_bounds(modality):
    samples = {modality.name: jnp.zeros([4000, *modality.shape])}
    noise = uniform_noise(jax.random.key(0), (modality,), samples)
    values = np.asarray(noise[modality.name])
    low, high = modality.bounds
    shares = np.histogram(values, bins=10, range=(low, high))[0] / values.size
    np.testing.assert_allclose(shares, 0.1, atol=4 * np.sqrt(0.09 / values.size))
    assert abs(np.corrcoef(values.reshape(4000, -1)[:, :2].T)[0, 1]) < 4 / np.sqrt(4000)


@pytest.mark.parametrize("direction", [-1.0, 1.0])
def test_data_revision_keeps_each_kind_within_its_bounds(direction):
    start = {"a": jnp.zeros([3, 4, 4, 1]), "text": jnp.full([3, 2, 3], 0.5)}
    result = revise_data(
        jax.random.key(0),
        start,
        modalities=(A, TEXT),
        energy_fn=lambda x: -50 * direction * (x["a"].sum((1, 2, 3)) + x["text"].sum((1, 2))),
        chain=Chain(3, 0.5, temperature=0.1),
        keep_trajectory=True,
    )
    low, high = (1.05, 1.0) if direction > 0 else (-1.05, 0.0)
    np.testing.assert_array_equal(result.trajectory["a"], np.full([3, 3, 4, 4, 1], low, "f4"))
    np.testing.assert_array_equal(result.trajectory["text"], np.full([3, 3, 2, 3], high, "f4"))


def test_joint_log_likelihood_by_hand():
    modalities = (
        Modality("g", "image", (4, 4, 1), "gaussian", scale=0.5, weight=2.0),
        Modality("l", "image", (4, 4, 1), "laplace", scale=0.25),
        Modality("c", "text", (2, 3), "categorical", weight=3.0),
    )
    picture = np.zeros([2, 4, 4, 1], np.float32)
    batch = {"g": picture, "l": picture, "c": np.eye(3, dtype=np.float32)[[[0, 1], [2, 2]]]}
    logits = np.log([[[0.5, 0.25, 0.25], [0.1, 0.6, 0.3]]] * 2).astype(np.float32) + 7
    outputs = {"g": picture + 1, "l": picture - 0.5, "c": logits}
    gaussian = 2 * 16 * norm.logpdf(1, scale=0.5)
    laplace = 16 * (-0.5 / 0.25 - np.log(0.5))
    categorical = 3 * np.log([0.5 * 0.6, 0.25 * 0.3])
    got = joint_log_likelihood(modalities, outputs, batch)
    np.testing.assert_allclose(got, gaussian + laplace + categorical, rtol=1e-5)

    mask = {"g": np.array([True, False]), "l": np.array([False, True]), "c": np.ones(2, bool)}
    got = joint_log_likelihood(modalities, outputs, batch, mask)
    np.testing.assert_allclose(got, np.array([gaussian, laplace]) + categorical, rtol=1e-5)


def test_joint_log_likelihood_broadcasts_over_leading_axes():
    outputs = {"text": jax.random.normal(jax.random.key(0), (5, 4, 2, 3))}
    batch = {"text": jax.nn.one_hot(jnp.array([[0, 1], [2, 2], [1, 0], [0, 0]]), 3)}
    got = joint_log_likelihood((TEXT,), outputs, batch)
    assert got.shape == (5, 4)
    one = joint_log_likelihood((TEXT,), {"text": outputs["text"][3]}, batch)
    np.testing.assert_allclose(got[3], one, rtol=1e-6)


def test_relaxed_sequences_weigh_the_log_probabilities():
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.6, 0.3]]], np.float32))
    relaxed = np.array([[[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]], np.float32)
    got = joint_log_likelihood((TEXT,), {"text": logits}, {"text": relaxed})
    np.testing.assert_allclose(got, [np.log(0.5) / 2 + np.log(0.25) / 2 + np.log(0.6)], rtol=1e-5)
