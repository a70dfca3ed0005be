"""What `modalities.autoregressive` needs besides a decoder's logits: which words follow which."""

import flax.linen as nn
import jax
import jax.numpy as jnp

RANK = 16  # of each context's matrix [V, V], which maps it to logits of the next word
NUM_CONTEXTS = 3
NUM_ROWS = 2 * NUM_CONTEXTS * RANK


class WordOrder(nn.Module):
    """A text decoder whose outputs also describe which words follow which.

    Attributes:
      decoder: latents `[B, Z]` → logits `[B, L, V]`.
      num_words: V.
    """

    decoder: nn.Module
    num_words: int

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        """Latents `[B, Z]` → `[B, L + NUM_ROWS, V]`.

        The rows after the logits are the two factors of each context's matrix, the same for all
        examples. They are outputs because a likelihood has no parameters.
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
