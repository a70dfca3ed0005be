"""Two-tower encoders that score pairs: examples → vectors to compare between modalities."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmebm_jax.networks.classifier import NUM_FEATURES

_WIDTH = 5  # words in a convolution's window
_CHANNELS = (32, 64, 128)


class ImageTower(nn.Module):
    """Images `[B, H, W, C]` → vectors `[B, size]`, and features `[B, NUM_FEATURES]` before them.

    The position of an object does not matter: strided convolutions are followed by the mean and
    maximum of their responses. Dense layers on whole maps overfit a few thousand images.
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
    """Text `[B, L, V]` → vectors `[B, size]`, and features `[B, NUM_FEATURES]` before them.

    The position of a phrase in the sentence does not matter: a convolution over embedded words is
    followed by the maximum of its responses.
    """

    size: int

    @nn.compact
    def __call__(self, text: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (vectors, features)."""
        words = nn.Dense(NUM_FEATURES, use_bias=False)(text)
        responses = nn.relu(nn.Conv(2 * NUM_FEATURES, (_WIDTH,))(words))
        features = nn.relu(nn.Dense(NUM_FEATURES)(responses.max(axis=1)))
        return nn.Dense(self.size)(features), features
