"""A dense layer's product whose gradient is fast for few examples and a wide kernel.

Before a matrix product, a CPU copies one factor into another memory layout: usually the kernel,
which for a small batch costs as much as a third of the product. In the gradient with respect to the
inputs, the factors can be exchanged, so that only the output's gradient is copied. The values equal
those of `jax.lax.dot_general` up to the order of summation.
"""

from typing import Any

import jax
from jax import lax

from mmebm_jax.cpu.by_backend import on_cpu


@jax.custom_vjp
def product(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiply inputs `[B, I]` by a kernel `[I, O]`; gives `[B, O]`."""
    return inputs @ kernel


def _forward(inputs: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(inputs, kernel), (inputs, kernel)


def _backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = saved
    if len(gradient) < len(kernel):
        exchanged = lax.dot_general(kernel, gradient, (((1,), (1,)), ((), ())))
        # Without the barrier, XLA would exchange the factors again to avoid the transpose.
        input_gradient = lax.optimization_barrier(exchanged).T
    else:
        input_gradient = gradient @ kernel.T
    return input_gradient, inputs.T @ gradient


product.defvjp(_forward, _backward)


def wide_dot_general(
    lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, precision: Any = None, **unused: Any
) -> jax.Array:
    """`lax.dot_general` as `flax.linen.Dense` calls it, for inputs `[B, I]`.

    Raises:
      ValueError: inputs have more axes or a precision is given, as in no network here.
    """
    if lhs.ndim != 2 or precision is not None:
        raise ValueError("wide_dot_general takes [B, I] and no precision; use lax.dot_general.")
    return product(lhs, rhs)


dot_general = on_cpu(wide_dot_general, lax.dot_general)
"""For a wide `flax.linen.Dense`."""
