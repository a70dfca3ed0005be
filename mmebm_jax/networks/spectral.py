"""Exact spectral normalisation as a function of parameters.

Miyato et al. 2018 (arXiv:1802.05957) track the largest singular value by power iteration, a state
that a chain must not touch. Here each kernel is divided by its exact value, once an update and
outside every chain, so there is no state at all.
"""

from collections.abc import Collection

import jax
import jax.numpy as jnp

from mmebm_jax.typing import Params

# Powers up to 2^16: directions whose eigenvalue is more than 1e-4 below the largest have then
# vanished, and those that are nearer change the norm by less than a float32 can hold.
NUM_SQUARINGS = 16
SMALLEST = 1e-30  # a kernel of zeros stays finite


def spectral_norm(kernel: jax.Array) -> jax.Array:
    """Largest singular value of a kernel `[..., D]`, seen as a matrix with D columns.

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
    """The unit eigenvector of the largest eigenvalue of `[D, D]`, by repeated squaring.

    Squaring is matrix products alone: several times faster than a decomposition, and the column of
    the largest diagonal entry is never orthogonal to what is sought.
    """

    def square(_: int, power: jax.Array) -> jax.Array:
        power = power / jnp.maximum(jnp.trace(power), SMALLEST)
        return jnp.matmul(power, power, precision="highest")

    power = jax.lax.fori_loop(0, NUM_SQUARINGS, square, gram)
    column = power[:, jnp.argmax(jnp.diagonal(power))]
    return column / jnp.maximum(jnp.linalg.norm(column), SMALLEST)


def normalise_kernels(params: Params, gain: float, apart: Collection[str] = ()) -> Params:
    """Scale every kernel (leaf of two or more axes) to the spectral norm `gain` > 0.

    The layers named in `apart` keep their kernel and get its factor beside it, as "scale".
    """

    def factor(kernel: jax.Array) -> jax.Array:
        return gain / jnp.maximum(spectral_norm(kernel), 1e-12)

    def scaled(layer: Params) -> Params:
        return jax.tree.map(lambda leaf: leaf * factor(leaf) if leaf.ndim > 1 else leaf, layer)

    return {
        name: {**layer, "scale": factor(layer["kernel"])} if name in apart else scaled(layer)
        for name, layer in params.items()
    }
