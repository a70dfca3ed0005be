import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mmebm_jax.networks.image import average_pool
from mmebm_jax.networks.image_residual import (
    ResidualBlock,
    ResidualImageDecoder,
    ResidualImageExpert,
    ResidualImageTrunk,
    num_halvings,
    upsample,
)

# Image shape → shape of the smallest maps, for a width of 2.
SHAPES = [
    ((28, 28, 3), (7, 7, 8)),
    ((32, 32, 3), (8, 8, 8)),
    ((64, 64, 3), (8, 8, 16)),
    ((128, 128, 1), (8, 8, 16)),  # the number of channels doubles at most three times
    ((12, 20, 1), (6, 10, 4)),
    ((4, 4, 1), (4, 4, 2)),
]


def shapes(network, inputs):
    return jax.eval_shape(network.init_with_output, jax.random.key(0), inputs)


@pytest.mark.parametrize(("shape", "smallest"), SHAPES)
def test_shapes(shape, smallest):
    image = jnp.zeros([5, *shape])
    for network in (ResidualImageExpert(2), ResidualImageTrunk(2)):
        assert shapes(network, image)[0].shape == (5, np.prod(smallest))
    output, variables = shapes(ResidualImageDecoder(shape, 2), jnp.zeros([5, 3]))
    assert output.shape == (5, *shape)
    assert variables["params"]["Dense_0"]["kernel"].shape == (3, np.prod(smallest))


def test_sides_are_halved_together_while_they_are_even_and_large():
    assert [num_halvings(side) for side in (4, 8, 12, 16, 28, 36, 64)] == [0, 0, 1, 1, 2, 2, 3]
    assert num_halvings(64, 8) == 0
    assert num_halvings(32, smallest=4) == 3


def test_upsampling_repeats_pixels():
    maps = jnp.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    large = upsample(maps)
    np.testing.assert_array_equal(large, np.repeat(np.repeat(maps, 2, axis=1), 2, axis=2))
    np.testing.assert_array_equal(average_pool(large), maps)


@pytest.mark.parametrize("features", [3, 5])
def test_a_block_is_its_shortcut_and_a_tenth_of_two_convolutions(features):
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 6, 4, 3)).astype(np.float32)
    block = ResidualBlock(features)
    params = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32),
        shapes(block, maps)[1]["params"],
    )

    def convolved(inputs, layer):
        numbers = ("NHWC", "HWIO", "NHWC")
        found = lax.conv_general_dilated(
            inputs, layer["kernel"], (1, 1), "SAME", dimension_numbers=numbers
        )
        return np.asarray(found) + layer["bias"]

    def leaky(values):
        return np.where(values > 0, values, 0.2 * values)

    inner = convolved(leaky(convolved(leaky(maps), params["Conv_0"])), params["Conv_1"])
    shortcut = maps
    if features != 3:
        assert set(params["Conv_2"]) == {"kernel"}
        shortcut = np.einsum("bhwi,io->bhwo", maps, params["Conv_2"]["kernel"][0, 0])
    else:
        assert "Conv_2" not in params
    found = block.apply({"params": params}, maps)
    np.testing.assert_allclose(found, shortcut + 0.1 * inner, rtol=1e-4, atol=1e-4)


def test_every_pixel_moves_the_energy_and_smoothly():
    shape = (16, 16, 1)
    trunk = ResidualImageTrunk(2)
    image = jax.random.uniform(jax.random.key(1), (1, *shape), minval=-1.0)
    params = trunk.init(jax.random.key(0), image)

    def total(image):
        return jnp.sum(trunk.apply(params, image))

    slope = jax.jit(jax.grad(total))
    assert (np.abs(slope(image)) > 1e-7).all()
    # Half the step changes the slope by half: the function bends without corners.
    towards = jax.random.normal(jax.random.key(2), image.shape)
    far, near = (slope(image + step * towards) - slope(image) for step in (2e-2, 1e-2))
    np.testing.assert_allclose(far, 2 * near, atol=0.03 * float(np.abs(far).max()))


def test_every_latent_moves_every_pixel():
    decoder = ResidualImageDecoder((16, 16, 1), 2)
    latents = jax.random.normal(jax.random.key(1), (1, 3))
    params = decoder.init(jax.random.key(0), latents)
    jacobian = jax.jit(jax.jacobian(lambda z: decoder.apply(params, z[None])[0]))(latents[0])
    assert (np.abs(jacobian) > 1e-9).all()
