"""Exact spectral normalisation as a function of parameters.

Miyato et al. 2018 (arXiv:1802.05957) track the largest singular value by power iteration, whose
state a chain must not change. Here each kernel is divided by its exact largest singular value, once
per update and outside every chain, so there is no state.
"""

from collections.abc import Collection

import jax
import jax.numpy as jnp

from mmebm_jax.typing import Params

# Powers up to 2^16: by then, directions whose eigenvalue is more than 1e-4 below the largest have
# vanished, and those closer to it change the norm by less than float32 can represent.
NUM_SQUARINGS = 16
SMALLEST = 1e-30  # keeps a kernel of zeros finite


def spectral_norm(kernel: jax.Array) -> jax.Array:
    """Return the largest singular value of a kernel `[..., D]`, as a matrix with D columns.

    Its gradient is the outer product of the leading singular vectors.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    fixed = jax.lax.stop_gradient(matrix)
    right = _leading_direction(jnp.matmul(fixed.T, fixed, precision="highest"))
    image = fixed @ right
    left = image / jnp.maximum(jnp.linalg.norm(image), 1e-12)
    return left @ (matrix @ right)


def _leading_direction(gram: jax.Array) -> jax.Array:
    """Return the unit eigenvector of the largest eigenvalue of `[D, D]`, by repeated squaring.

    Squaring needs matrix products only and is several times faster than a decomposition. The column
    with the largest diagonal entry is never orthogonal to the leading eigenvector.
    """

    def square(_: int, power: jax.Array) -> jax.Array:
        power = power / jnp.maximum(jnp.trace(power), SMALLEST)
        return jnp.matmul(power, power, precision="highest")

    power = jax.lax.fori_loop(0, NUM_SQUARINGS, square, gram)
    column = power[:, jnp.argmax(jnp.diagonal(power))]
    return column / jnp.maximum(jnp.linalg.norm(column), SMALLEST)


def normalise_kernels(params: Params, gain: float, apart: Collection[str] = ()) -> Params:
    """Scale every kernel (leaf with two or more axes) to the spectral norm `gain` > 0.

    The layers named in `apart` keep their kernel and get its factor as a parameter "scale".
    """

    def factor(kernel: jax.Array) -> jax.Array:
        return gain / jnp.maximum(spectral_norm(kernel), 1e-12)

    def scaled(layer: Params) -> Params:
        return jax.tree.map(lambda leaf: leaf * factor(leaf) if leaf.ndim > 1 else leaf, layer)

    return {
        name: {**layer, "scale": factor(layer["kernel"])} if name in apart else scaled(layer)
        for name, layer in params.items()
    }
