"""The norm of a gradient, computed separately from the optimiser that takes the same gradient.

Adam's second moments also need the gradient's squares. XLA:CPU would compute them once, write them
to memory and read them twice. Behind a barrier, YNNPACK squares and adds in one pass, provided that
`convolution.compiler_options` leaves sums to it. The value equals that of `optax.tree.norm` up to
the order of summation.
"""

from typing import Any

import jax
import optax
from jax import lax

from mmebm_jax.cpu.by_backend import on_cpu


def apart_from_the_rest(tree: Any) -> jax.Array:
    """Return the Euclidean norm over all leaves of a tree, `[]`."""
    return optax.tree.norm(lax.optimization_barrier(tree))


gradient_norm = on_cpu(apart_from_the_rest, optax.tree.norm)
"""For a gradient that an optimiser takes as well."""
