"""A dense layer's product whose gradient is fast where a few examples meet a wide kernel.

A CPU copies one factor of a matrix product into another order first: usually the kernel, which for
a small batch costs as much as a third of the product. The gradient with respect to the inputs may
have the factors exchanged, and then only the output's gradient is copied. The values equal those of
`jax.lax.dot_general` up to the order of summation.
"""

from typing import Any

import jax
from jax import lax

from mmebm_jax.cpu.by_backend import on_cpu


@jax.custom_vjp
def product(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """Inputs `[B, I]` times a kernel `[I, O]`, `[B, O]`."""
    return inputs @ kernel


def _forward(inputs: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(inputs, kernel), (inputs, kernel)


def _backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = saved
    if len(gradient) < len(kernel):
        exchanged = lax.dot_general(kernel, gradient, (((1,), (1,)), ((), ())))
        # The barrier: XLA would exchange the factors again, to save itself the transpose.
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
      ValueError: inputs of more axes, or a precision, which no network here uses.
    """
    if lhs.ndim != 2 or precision is not None:
        raise ValueError("wide_dot_general takes [B, I] and no precision; use lax.dot_general.")
    return product(lhs, rhs)


dot_general = on_cpu(wide_dot_general, lax.dot_general)
"""For a wide `flax.linen.Dense`."""
