"""U-Nets that refine generated samples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmebm_jax.diffusion import refiner
from mmebm_jax.diffusion.refiner import Refiner
from mmebm_jax.networks.unet import UNet, halvings


@pytest.mark.parametrize(
    ("sides", "most", "count"),
    [((28, 28), 4, 2), ((16, 16), 4, 2), ((64, 64), 4, 4), ((64, 64), 1, 1), ((15, 16), 4, 0)],
)
def test_sides_are_halved_while_they_are_even_and_large(sides, most, count):
    assert halvings(*sides, most) == count


def test_an_untrained_network_predicts_no_noise_and_reads_all_inputs():
    network = UNet(width=8, multipliers=(1, 2), attention_side=6)
    images, steps = jnp.ones([2, 12, 12, 3]), jnp.array([3, 900])
    params = jax.jit(network.init)(jax.random.key(0), images, images, steps)["params"]
    np.testing.assert_array_equal(network.apply({"params": params}, images, images, steps), 0)

    last = params["noise"]
    params = params | {"noise": {**last, "kernel": jnp.ones_like(last["kernel"])}}
    noise = jax.random.normal(jax.random.key(1), images.shape)

    @jax.jit
    def apply(noisy, condition, at):
        return network.apply({"params": params}, noisy, condition, at)

    def predict(noisy, condition, at):
        return np.asarray(apply(noisy, condition, at))

    usual = predict(noise, images, steps)
    for other in (
        predict(2 * noise + 1, images, steps),
        predict(noise, noise, steps),
        predict(noise, images, steps + 90),
    ):
        assert np.abs(other - usual).max() > 1e-3


@pytest.mark.slow
def test_it_learns_to_draw_what_the_condition_tells():
    network, optimiser = UNet(width=8, multipliers=(1,)), optax.adam(5e-3)
    state = refiner.init(jax.random.key(0), network, optimiser, (4, 4, 1))
    rng = np.random.default_rng(0)
    for step in range(400):
        signs = rng.choice([-0.7, 0.7], [64, 1, 1, 1]).astype(np.float32)
        clean = np.broadcast_to(signs, [64, 4, 4, 1])
        state, _ = refiner.update(
            jax.random.fold_in(jax.random.key(1), step),
            state,
            clean,
            clean,
            network=network,
            optimiser=optimiser,
            decay=0.99,
        )
    signs = np.where(np.arange(32) % 2, 0.7, -0.7).astype(np.float32)
    clean = np.broadcast_to(signs[:, None, None, None], [32, 4, 4, 1])
    trained = Refiner(network, {"a": state.average})
    other = np.zeros([32, 3], np.float32)
    drawn = refiner.refine(jax.random.key(2), trained, {"a": clean, "b": other}, num_steps=20)
    assert np.abs(np.asarray(drawn["a"]) - clean).mean() < 0.15
    np.testing.assert_array_equal(drawn["b"], other)
