"""The norm of a network's gradients, and their clipping by it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def global_norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all leaves together, a scalar.

    As products of vectors: a reduction of squares, as Optax has it, is two programs to XLA:CPU, of
    which one writes every square to memory, and there are a few norms of all parameters an update.
    """
    leaves = jax.tree.leaves(tree)
    squares = (jnp.vdot(leaf, leaf, precision="highest") for leaf in leaves)
    return jnp.sqrt(sum(squares, start=jnp.zeros(())))


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scale gradients whose global norm is above `max_norm` > 0 down to it; see `global_norm`."""

    def clip(gradients: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        norm = global_norm(gradients)
        factor = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        return jax.tree.map(lambda leaf: factor * leaf, gradients)

    return optax.stateless(clip)
