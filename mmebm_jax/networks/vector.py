"""Networks for vectors `[B, D]` in about [-1, 1]."""

import flax.linen as nn
import jax
import jax.numpy as jnp

# With the usual initial values, every unit would bend gently at the origin, and a density with
# several sharp modes would be learned late or never.
STEEPNESS = 4.0


def _spread(features: int) -> nn.Dense:
    """Return a layer for vectors whose units bend sharply, at points spread over [-1, 1]."""
    return nn.Dense(features, kernel_init=nn.initializers.normal(STEEPNESS), bias_init=_biases)


def _biases(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -STEEPNESS, STEEPNESS)


class VectorExpert(nn.Module):
    """Vector `[B, D]` → features `[B, hidden]` of an inference network."""

    hidden: int

    @nn.compact
    def __call__(self, vector: jax.Array) -> jax.Array:
        """Encode a batch of vectors."""
        features = nn.silu(_spread(self.hidden)(vector))
        return nn.silu(nn.Dense(self.hidden)(features))


class VectorTrunk(nn.Module):
    """Vector `[B, D]` → features `[B, hidden]` of an energy."""

    hidden: int

    @nn.compact
    def __call__(self, vector: jax.Array) -> jax.Array:
        """Extract a batch's features."""
        return nn.silu(_spread(self.hidden)(vector))
