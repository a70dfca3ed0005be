"""Exact spectral normalisation as a function of parameters.

Miyato et al. 2018 (arXiv:1802.05957) track the largest singular value by power iteration, a state
that a chain must not touch. Here each kernel is divided by its exact value, once an update and
outside every chain, so there is no state at all.
"""

import jax
import jax.numpy as jnp

from mmebm_jax.typing import Params


def spectral_norm(kernel: jax.Array) -> jax.Array:
    """Largest singular value of a kernel `[..., D]`, seen as a matrix with D columns.

    Its gradient is the outer product of the leading singular vectors.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    fixed = jax.lax.stop_gradient(matrix)
    gram = jnp.matmul(fixed.T, fixed, precision="highest")
    right = jnp.linalg.eigh(gram)[1][:, -1]
    image = fixed @ right
    left = image / jnp.maximum(jnp.linalg.norm(image), 1e-12)
    return left @ (matrix @ right)


def normalise_kernels(params: Params, gain: float) -> Params:
    """Scale every kernel (leaf of two or more axes) to the spectral norm `gain` > 0."""
    return jax.tree.map(
        lambda leaf: (
            leaf * (gain / jnp.maximum(spectral_norm(leaf), 1e-12)) if leaf.ndim > 1 else leaf
        ),
        params,
    )
