"""The decoder for kinds that have few values and no grid."""

from math import prod

import flax.linen as nn
import jax


class PerceptronDecoder(nn.Module):
    """Latents `[B, Z]` → outputs `[B, *shape]`: logits of a sequence, means of a vector."""

    shape: tuple[int, ...]
    hidden: int

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        """Decode a batch of latents."""
        features = nn.silu(nn.Dense(self.hidden)(latents))
        features = nn.silu(nn.Dense(self.hidden)(features))
        return nn.Dense(prod(self.shape))(features).reshape(len(latents), *self.shape)
