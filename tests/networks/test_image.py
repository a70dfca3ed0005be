import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.networks.image import (
    ImageDecoder,
    ImageExpert,
    ImageTrunk,
    average_pool,
    depth_to_space,
    space_to_depth,
)


@pytest.mark.parametrize("block", [2, 4])
def test_depth_to_space_inverts_space_to_depth(block):
    maps = jnp.arange(2 * 8 * 4 * 3.0).reshape(2, 8, 4, 3)
    deep = space_to_depth(maps, block)
    assert deep.shape == (2, 8 // block, 4 // block, 3 * block**2)
    np.testing.assert_array_equal(depth_to_space(deep, block), maps)


def test_space_to_depth_gathers_blocks():
    maps = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(space_to_depth(maps)[0, 1, 0], [8, 9, 12, 13])


def test_average_pool_is_the_mean_of_blocks():
    maps = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)
    pooled = average_pool(maps)
    assert pooled.shape == (2, 3, 2, 3)
    for i, j in np.ndindex(3, 2):
        block = maps[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_allclose(pooled[:, i, j], block.mean((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "num_features"),
    [
        ((8, 8, 3), 1 * 1 * 8),
        ((16, 16, 3), 2 * 2 * 8),
        ((28, 28, 1), 7 * 7 * 8),  # 7 is odd, so the last map keeps its size
        ((8, 16, 1), 1 * 2 * 8),
    ],
)
def test_shapes(shape, num_features):
    image = jnp.zeros([5, *shape])
    networks = {
        (5, 6): (ImageExpert(2, 6), image),
        (5, *shape): (ImageDecoder(shape, 2, 6), jnp.zeros([5, 3])),
        (5, num_features): (ImageTrunk(2), image),
    }
    for expected, (network, inputs) in networks.items():
        output, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), inputs)
        assert output.shape == expected
