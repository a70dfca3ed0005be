"""An activation that is one pass over memory each way."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def silu(inputs: jax.Array) -> jax.Array:
    """x / (1 + exp(−x)), as `jax.nn.silu`, of any shape; its gradient needs the inputs alone.

    `jax.nn.silu` keeps the sigmoid for its gradient, so that XLA:CPU writes it to memory and reads
    it back twice. Here it is computed again, which pays where arrays are large and the gradient is
    not fused with much else: after a decoder's wide layer, not before a pool.
    """
    return inputs / (1.0 + jnp.exp(-inputs))


def _forward(inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    return silu(inputs), inputs


def _backward(inputs: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    # By tanh: the same exponential as above XLA would compute once, and keep.
    sigmoid = 0.5 * (1.0 + jnp.tanh(0.5 * inputs))
    return (gradient * sigmoid * (1.0 + inputs * (1.0 - sigmoid)),)


silu.defvjp(_forward, _backward)
