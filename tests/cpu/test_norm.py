import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmebm_jax import cpu
from mmebm_jax.cpu.norm import apart_from_the_rest

SHAPE = (256, 1024)


def test_equals_the_usual_norm_and_a_norm_by_hand():
    shapes = {"kernel": (40, 30), "bias": (30,), "scale": ()}
    keys = jax.random.split(jax.random.key(0), 3)
    tree = {n: jax.random.normal(k, s) for (n, s), k in zip(shapes.items(), keys, strict=True)}
    got = jax.jit(apart_from_the_rest)(tree)
    by_hand = np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in tree.values()]))
    np.testing.assert_allclose(got, by_hand, rtol=1e-6)
    np.testing.assert_allclose(got, optax.tree.norm(tree), rtol=1e-6)


@pytest.mark.skipif(not cpu.compiler_options(), reason="another compiler, or not a CPU's")
def test_beside_adam_the_gradients_squares_are_not_written_to_memory():
    adam = optax.scale_by_adam()
    gradient = {"kernel": jnp.ones(SHAPE)}

    def megabytes(norm):
        def step(gradient, state):
            return adam.update(gradient, state), norm(gradient)

        lowered = jax.jit(step, donate_argnums=1).lower(gradient, adam.init(gradient))
        compiled = lowered.compile(compiler_options=cpu.compiler_options())
        return compiled.cost_analysis()["bytes accessed"] / 2**20

    # The squares are written once, and read once more than the gradient itself would be.
    assert megabytes(optax.tree.norm) - megabytes(apart_from_the_rest) > 0.9
