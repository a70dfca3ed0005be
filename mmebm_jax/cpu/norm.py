"""The norm of a gradient, computed apart from the optimiser that takes the same gradient.

Adam's second moments need the gradient's squares as well. XLA:CPU would compute them once, write
them to memory and read them twice; behind a barrier YNNPACK squares and adds in one pass, given the
`convolution.compiler_options` that leave it sums. The value equals that of `optax.tree.norm` up to
the order of summation.
"""

from typing import Any

import jax
import optax
from jax import lax

from mmebm_jax.cpu.by_backend import on_cpu


def apart_from_the_rest(tree: Any) -> jax.Array:
    """The Euclidean norm of all leaves of a tree, `[]`."""
    return optax.tree.norm(lax.optimization_barrier(tree))


gradient_norm = on_cpu(apart_from_the_rest, optax.tree.norm)
"""For a gradient beside its optimiser."""
