"""Towers that judge pairs: examples of one modality → vectors that are compared with another's."""

import flax.linen as nn
import jax

from mmebm_jax.networks.classifier import NUM_FEATURES

_WIDTH = 5  # words that are read together


class TextTower(nn.Module):
    """Text `[B, L, V]` → `[B, size]`, and features `[B, NUM_FEATURES]` before that.

    What a sentence says counts wherever it stands in the sentence: a convolution over embedded
    words, and its largest responses.
    """

    size: int

    @nn.compact
    def __call__(self, text: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (vectors, features)."""
        words = nn.Dense(NUM_FEATURES, use_bias=False)(text)
        responses = nn.relu(nn.Conv(2 * NUM_FEATURES, (_WIDTH,))(words))
        features = nn.relu(nn.Dense(NUM_FEATURES)(responses.max(axis=1)))
        return nn.Dense(self.size)(features), features
