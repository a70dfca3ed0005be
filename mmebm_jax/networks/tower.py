"""Two-tower encoders that score pairs: examples → vectors compared with another modality's."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmebm_jax.networks.classifier import NUM_FEATURES

_WIDTH = 5  # words that are read together
_CHANNELS = (32, 64, 128)


class ImageTower(nn.Module):
    """Pictures `[B, H, W, C]` → `[B, size]`, and features `[B, NUM_FEATURES]` before that.

    What a picture shows counts wherever it stands: strided convolutions, and the mean and the
    largest of their responses. Dense layers on whole maps overfit a few thousand pictures.
    """

    size: int

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (vectors, features)."""
        maps = images
        for channels in _CHANNELS:
            side = 5 if maps is images else 3
            maps = nn.relu(nn.Conv(channels, (side, side), strides=(2, 2))(maps))
        pooled = jnp.concatenate([maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))], axis=-1)
        features = nn.relu(nn.Dense(NUM_FEATURES)(pooled))
        return nn.Dense(self.size)(features), features


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
