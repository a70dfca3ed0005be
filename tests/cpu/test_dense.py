import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmebm_jax.cpu.dense import product, wide_dot_general


def arrays(batch, num_inputs, num_outputs):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (batch, num_inputs), (num_inputs, num_outputs), (batch, num_outputs)
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("batch", [2, 4, 9])  # below, at and above the kernel's inputs
def test_equals_the_product_to_the_second_derivative(batch):
    inputs, kernel, weight = arrays(batch, 4, 7)

    def derivatives(product):
        def loss(*factors):
            return jnp.sum(weight * jnp.sin(product(*factors)))

        def slope(*factors):
            return sum(jnp.sum(jnp.sin(g)) for g in jax.grad(loss, (0, 1))(*factors))

        return jax.jit(lambda *f: (loss(*f), jax.grad(loss, (0, 1))(*f), jax.grad(slope)(*f)))(
            inputs, kernel
        )

    got, wanted = derivatives(product), derivatives(jnp.matmul)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_small_batch_leaves_the_kernel_as_it_lies():
    inputs, kernel, weight = arrays(2, 4, 7)
    gradient = jax.grad(lambda x: jnp.sum(weight * product(x, kernel)))
    compiled = jax.jit(gradient).lower(inputs).compile().as_text()
    assert "f32[4,2]" in compiled  # kernel · gradientᵀ, not gradient · kernelᵀ


def test_serves_flax_layers():
    inputs, _, _ = arrays(3, 5, 6)
    usual, ours = nn.Dense(6), nn.Dense(6, dot_general=wide_dot_general)
    params = usual.init(jax.random.key(0), inputs)
    np.testing.assert_allclose(ours.apply(params, inputs), usual.apply(params, inputs), rtol=1e-6)


@pytest.mark.parametrize("options", [{"axes": (2, 3, 5)}, {"precision": "highest"}])
def test_what_no_network_uses_is_refused(options):
    inputs = jnp.zeros(options.pop("axes", (3, 5)))
    layer = nn.Dense(6, dot_general=wide_dot_general, **options)
    with pytest.raises(ValueError, match="no precision"):
        layer.init(jax.random.key(0), inputs)
