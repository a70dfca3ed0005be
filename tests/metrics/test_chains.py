import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.method import langevin
from mmebm_jax.method.langevin import Chain, LangevinInfo
from mmebm_jax.metrics.chains import chain_health


def run(start, chain, seed=0):
    """Chains on a standard Gaussian."""
    key = jax.random.key(seed)
    return langevin.run(key, start, lambda x: 0.5 * jnp.square(x).sum(axis=-1), chain).info


def test_the_ratio_of_drift_and_noise_is_that_of_their_lengths():
    chain = Chain(num_steps=5, step_size=0.2, temperature=0.25)
    info = LangevinInfo(np.zeros([5, 2]), np.full([5, 2], 3.0))
    # Drift: s²/2 · 3 = .06; noise: s √T √d = .2 · .5 · 2 = .2.
    assert chain_health(info, chain, 4, 1)["drift_to_noise"] == pytest.approx(0.3)
    clipped = chain._replace(gradient_clip=1.0)
    assert chain_health(info, clipped, 4, 1)["drift_to_noise"] == pytest.approx(0.1)
    assert "drift_to_noise" not in chain_health(info, chain._replace(temperature=0.0), 4, 1)


def test_chains_that_reach_their_target_have_an_r_hat_of_one_and_others_do_not():
    chain = Chain(num_steps=4000, step_size=1.0)
    start = jax.random.normal(jax.random.key(1), [8, 3])
    assert chain_health(run(start, chain), chain, 3, 4)["r_hat_worst"] < 1.02
    short = Chain(num_steps=20, step_size=0.01)
    far = start * jnp.repeat(jnp.array([0.1, 1, 3, 9]), 2)[:, None]
    assert chain_health(run(far, short), short, 3, 8)["r_hat"] > 2


def test_repeats_of_a_target_are_compared_with_each_other_alone():
    generator = np.random.default_rng(0)
    # Two targets with different energies, and four chains each that agree.
    energy = generator.normal(size=[200, 8]) + np.repeat([0, 50], 4)
    info = LangevinInfo(energy, np.ones_like(energy))
    chain = Chain(num_steps=200, step_size=0.1)
    assert chain_health(info, chain, 1, 4)["r_hat_worst"] < 1.05
    assert chain_health(info, chain, 1, 8)["r_hat_worst"] > 1.5


def test_the_autocorrelation_is_that_of_one_step():
    # On a Gaussian each step multiplies the position by 1 − s²/2 and adds noise: the correlation of
    # positions is that factor, and that of their squares its square.
    chain = Chain(num_steps=20_000, step_size=0.8)
    health = chain_health(run(jnp.ones([4, 1]), chain), chain, 1, 1)
    assert health["autocorrelation"] == pytest.approx((1 - 0.8**2 / 2) ** 2, abs=0.05)


def test_chains_that_are_too_short_or_stand_still_have_fewer_numbers():
    chain = Chain(num_steps=3, step_size=0.1)
    few = LangevinInfo(np.ones([3, 4]), np.ones([3, 4]))
    assert set(chain_health(few, chain, 2, 4)) == {"drift_to_noise"}
    still = LangevinInfo(np.ones([10, 4]), np.zeros([10, 4]))
    assert set(chain_health(still, chain._replace(num_steps=10), 2, 4)) == {"drift_to_noise"}
