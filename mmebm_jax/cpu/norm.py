"""The norm of a tree that stands alone in a program: a CPU reads the tree once for it.

A norm shares its squares with an optimiser's second moments. XLA:CPU then writes the squares to
memory for both, and adds them up one by one; behind a barrier it squares and adds in one pass,
several numbers at a time. The value equals that of `optax.tree.norm` up to the order of summation.
"""

from typing import Any

import jax
import optax
from jax import lax

from mmebm_jax.cpu.by_backend import on_cpu


def standing_alone(tree: Any) -> jax.Array:
    """The Euclidean norm of all leaves of a tree, `[]`."""
    return optax.tree.norm(lax.optimization_barrier(tree))


norm = on_cpu(standing_alone, optax.tree.norm)
"""For gradients and parameters beside an optimiser."""
