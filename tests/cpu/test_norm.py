import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmebm_jax.cpu.norm import standing_alone


def trees():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"kernel": (40, 30), "bias": (30,), "scale": ()}
    return {n: jax.random.normal(k, s) for (n, s), k in zip(shapes.items(), keys, strict=True)}


def test_equals_the_usual_norm_and_a_norm_by_hand():
    tree = trees()
    got = jax.jit(standing_alone)(tree)
    by_hand = np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in tree.values()]))
    np.testing.assert_allclose(got, by_hand, rtol=1e-6)
    np.testing.assert_allclose(got, optax.tree.norm(tree), rtol=1e-6)


def test_squares_are_not_shared_with_an_optimisers_moments():
    def moments_and_norm(tree, norm):
        return jax.tree.map(jnp.square, tree), norm(tree)

    def count(norm):
        lowered = jax.jit(moments_and_norm, static_argnums=1).lower(trees(), norm)
        return lowered.as_text().count("optimization_barrier")

    assert (count(standing_alone), count(optax.tree.norm)) == (1, 0)
