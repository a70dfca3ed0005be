import jax
import jax.numpy as jnp
import numpy as np

from mmebm_jax.cpu.activation import silu

VALUES = jnp.array([-1e30, -200.0, -90.0, -20.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 20.0, 200.0, 1e30])


def test_equals_jax_to_the_second_derivative():
    for function in (lambda f: f, jax.grad, lambda f: jax.grad(jax.grad(f))):
        ours, theirs = (jax.vmap(function(f))(VALUES) for f in (silu, jax.nn.silu))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_keeps_nothing_but_its_inputs():
    _, pullback = jax.vjp(silu, VALUES)
    kept = [leaf for leaf in jax.tree.leaves(pullback) if getattr(leaf, "size", 0) > 1]
    assert len(kept) == 1
    np.testing.assert_array_equal(kept[0], VALUES)
