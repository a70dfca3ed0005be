"""What `modalities.autoregressive` needs beside a decoder's logits: how words lead to others."""

import flax.linen as nn
import jax
import jax.numpy as jnp

RANK = 16  # of the matrix [V, V] by which each context leads to the next word
NUM_CONTEXTS = 3
NUM_ROWS = 2 * NUM_CONTEXTS * RANK


class WordOrder(nn.Module):
    """A decoder of text whose outputs also say which words follow which.

    Attributes:
      decoder: latents `[B, Z]` → logits `[B, L, V]`.
      num_words: V.
    """

    decoder: nn.Module
    num_words: int

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        """Latents `[B, Z]` → `[B, L + NUM_ROWS, V]`.

        Below the logits stand the two factors of each context's matrix, the same for all examples:
        a likelihood has no parameters of its own.
        """
        logits = self.decoder(latents)
        shape = (NUM_CONTEXTS * RANK, self.num_words)
        factors = [
            self.param("from_words", nn.initializers.normal(RANK**-0.5), shape),
            self.param("to_words", nn.initializers.normal(0.1), shape),
        ]
        rows = jnp.concatenate(factors).astype(logits.dtype)
        rows = jnp.broadcast_to(rows, (len(logits), *rows.shape))
        return jnp.concatenate([logits, rows], axis=1)
