"""The norm of a network's gradients in one pass."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

NUM_FOLDS, SMALLEST_FOLDED = 32, 2**17


def global_norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all leaves together, a scalar.

    There are a few norms of all parameters an update. To XLA:CPU a sum over a large array, as Optax
    takes it, is several programs, of which the first writes every square to memory: here large
    leaves are folded first.
    """
    return jnp.sqrt(sum(map(_sum_of_squares, jax.tree.leaves(tree)), start=jnp.zeros(())))


def _sum_of_squares(leaf: jax.Array) -> jax.Array:
    if leaf.size < SMALLEST_FOLDED or leaf.size % NUM_FOLDS:
        return jnp.square(leaf).sum()
    squares = map(jnp.square, leaf.reshape(NUM_FOLDS, -1))
    return sum(squares, start=jnp.zeros(())).sum()


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` by `global_norm`; `max_norm` > 0."""

    def clip(gradients: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        norm = global_norm(gradients)
        factor = jnp.where(norm < max_norm, 1.0, max_norm / norm)
        return jax.tree.map(lambda leaf: factor * leaf, gradients)

    return optax.stateless(clip)
