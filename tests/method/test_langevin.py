import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.method import langevin
from mmebm_jax.method.langevin import Chain


def quartic(position):
    return jnp.sum(position**4 / 4 - position, axis=-1)


def flat(position):
    return jnp.zeros(len(jax.tree.leaves(position)[0]))


@pytest.mark.parametrize(("step_size", "sigma"), [(0.5, 0.7), (1.0, 1.0), (1.5, 0.9)])
def test_long_run_variance_on_a_gaussian(step_size, sigma):
    num_chains = 40_000
    result = jax.jit(
        lambda key: langevin.run(
            key,
            jnp.zeros([num_chains, 1]),
            lambda v: jnp.sum(v**2, axis=-1) / (2 * sigma**2),
            Chain(60, step_size),
        )
    )(jax.random.key(0))
    samples = np.asarray(result.position)
    variance = sigma**2 / (1 - step_size**2 / (4 * sigma**2))
    assert samples.var() == pytest.approx(variance, abs=4 * variance * np.sqrt(2 / num_chains))
    assert abs(samples.mean()) < 4 * np.sqrt(variance / num_chains)


def test_a_scaled_chain_moves_in_units_of_each_coordinate():
    """On N(0, σ²), with scale σ, it is the stretched chain of N(0, I); the target is unchanged."""
    sigma = np.array([[0.01, 3.0]], np.float32)
    start = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    chain, key = Chain(20, 0.5), jax.random.key(0)
    usual = langevin.run(key, start, lambda v: 0.5 * jnp.sum(v**2, axis=-1), chain)
    scaled = langevin.run_scaled(
        key,
        start * sigma,
        lambda v: 0.5 * jnp.sum((v / sigma) ** 2, axis=-1),
        chain,
        np.broadcast_to(sigma, start.shape),
    )
    np.testing.assert_allclose(scaled.position, usual.position * sigma, rtol=1e-4, atol=1e-4)
    assert not np.allclose(usual.position, start, atol=0.1)
    np.testing.assert_allclose(scaled.info.energy, usual.info.energy, rtol=1e-4)


def test_zero_temperature_is_gradient_descent():
    start = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    chain = Chain(8, step_size=0.6, temperature=0.0)
    result = langevin.run(jax.random.key(0), start, quartic, chain)
    expected, energies = start.astype(np.float64), []
    for _ in range(8):
        energies.append((expected**4 / 4 - expected).sum(-1))
        expected = expected - 0.6**2 / 2 * (expected**3 - 1)
    np.testing.assert_allclose(result.position, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(result.info.energy, energies, rtol=1e-5, atol=1e-6)


def test_noise_is_step_size_times_root_temperature():
    start = jnp.zeros([20_000, 2])
    key = jax.random.key(1)
    unit, _ = langevin.step(key, start, flat, 1.0, 1.0)
    moved, _ = langevin.step(key, start, flat, 0.3, 0.04)
    np.testing.assert_allclose(moved, 0.3 * 0.2 * unit, rtol=1e-6)
    assert float(unit.std()) == pytest.approx(1, abs=4 / np.sqrt(2 * unit.size))
    assert float((unit**4).mean()) == pytest.approx(3, abs=4 * np.sqrt(96 / unit.size))


def test_every_leaf_and_step_has_its_own_noise():
    start = {"a": jnp.zeros([5, 2]), "b": (jnp.zeros([5, 2]),)}
    result = langevin.run(jax.random.key(0), start, flat, Chain(3, 0.5), keep_trajectory=True)
    assert jax.tree.structure(result.position) == jax.tree.structure(start)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(result.trajectory)]
    moves = np.concatenate([np.diff(leaf, axis=0, prepend=0).ravel() for leaf in leaves])
    assert moves.size == 60
    assert len(np.unique(moves)) == 60


def test_a_pytree_moves_as_its_parts_do():
    start = {"a": jnp.full([2, 3], 0.5), "b": jnp.array([[[1.0, -2.0]], [[0.0, 3.0]]])}

    def energy(position):
        return quartic(position["a"]) + jnp.sum(position["b"] ** 2, axis=(1, 2))

    moved, info = langevin.step(jax.random.key(0), start, energy, 0.2, 0.0)
    np.testing.assert_allclose(moved["a"], 0.5 - 0.02 * (0.5**3 - 1), rtol=1e-6)
    np.testing.assert_allclose(moved["b"], start["b"] * 0.96, rtol=1e-6)
    squares = 3 * (0.5**3 - 1) ** 2 + np.array([20.0, 36.0])
    np.testing.assert_allclose(info.gradient_norm, np.sqrt(squares), rtol=1e-6)


def test_the_gradient_bound_acts_on_each_example_over_all_leaves():
    start = {"a": jnp.zeros([3, 2]), "b": jnp.zeros([3, 1, 1])}
    gradient = np.array([[0.3, 0.0, 0.4], [3.0, 0.0, 4.0], [0.0, -0.6, 0.8]], np.float32)

    def energy(position):
        a, b = position["a"], position["b"][:, 0]
        return jnp.sum(jnp.concatenate([a, b], axis=-1) * gradient, axis=-1)

    moved, info = langevin.step(jax.random.key(0), start, energy, 1.0, 0.0, gradient_clip=1.0)
    joined = np.concatenate([moved["a"], moved["b"][:, 0]], axis=-1)
    np.testing.assert_allclose(info.gradient_norm, [0.5, 5.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(joined, -0.5 * gradient / [[1.0], [5.0], [1.0]], rtol=1e-6)
    free, _ = langevin.step(jax.random.key(0), start, energy, 1.0, 0.0)
    np.testing.assert_allclose(free["a"], -0.5 * gradient[:, :2], rtol=1e-6)


def test_the_projection_acts_after_every_step():
    result = langevin.run(
        jax.random.key(0),
        jnp.zeros([50, 2]),
        flat,
        Chain(4, 1.0),
        project=lambda v: jnp.clip(v, 0, 0.5),
        keep_trajectory=True,
    )
    assert result.trajectory.shape == (4, 50, 2)
    assert float(result.trajectory.min()) == 0
    assert float(result.trajectory.max()) == 0.5


def test_trajectory_and_diagnostics_line_up():
    start, chain = jnp.ones([3, 2]), Chain(5, 0.3)
    result = langevin.run(jax.random.key(0), start, quartic, chain, keep_trajectory=True)
    np.testing.assert_array_equal(result.trajectory[-1], result.position)
    before = np.concatenate([start[None], result.trajectory[:-1]])
    np.testing.assert_allclose(
        result.info.energy, (before**4 / 4 - before).sum(-1), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        result.info.gradient_norm, np.linalg.norm(before**3 - 1, axis=-1), rtol=1e-4, atol=1e-5
    )
    bare = langevin.run(jax.random.key(0), start, quartic, chain)
    assert bare.trajectory is None
    np.testing.assert_allclose(bare.position, result.position, rtol=1e-6)


def test_no_gradient_flows_through_a_chain():
    def through(start, rate):
        result = langevin.run(
            jax.random.key(0),
            start,
            lambda v: rate * quartic(v),
            Chain(3, 0.3),
            keep_trajectory=True,
        )
        return sum(leaf.sum() for leaf in jax.tree.leaves(result))

    gradients = jax.grad(through, argnums=(0, 1))(jnp.ones([3, 2]), 1.5)
    assert all((np.asarray(g) == 0).all() for g in gradients)


def test_dtypes_are_kept():
    start = {"half": jnp.ones([2, 3], jnp.bfloat16), "full": jnp.ones([2, 3], jnp.float32)}
    result = langevin.run(
        jax.random.key(0),
        start,
        lambda v: quartic(v["half"].astype(jnp.float32)) + quartic(v["full"]),
        Chain(2, 0.3, gradient_clip=1.0),
    )
    assert result.position["half"].dtype == jnp.bfloat16
    assert result.position["full"].dtype == jnp.float32


def test_the_key_decides_the_chain():
    first, again, other = (
        langevin.run(jax.random.key(seed), jnp.ones([3, 2]), quartic, Chain(4, 0.3)).position
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_a_chain_of_no_steps_stays():
    result = langevin.run(jax.random.key(0), jnp.ones([3, 2]), quartic, Chain(0, 0.3))
    np.testing.assert_array_equal(result.position, np.ones([3, 2]))
    assert result.info.energy.shape == (0, 3)
