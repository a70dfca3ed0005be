"""A U-Net that predicts the noise in images `[B, H, W, C]`, given a step and a condition."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmebm_jax.networks.image import average_pool
from mmebm_jax.networks.image_residual import convolution, num_halvings, upsample

MOST_GROUPS, FEWEST_CHANNELS = 8, 4  # of group normalisation: groups, and channels in each
LONGEST_PERIOD = 1e4  # of the embedding's sinusoids, in steps
SMALLEST_SIDE = 4  # pixels: maps of this size or less are not halved


def halvings(height: int, width: int, most: int) -> int:
    """Return how often both sides halve evenly down to `SMALLEST_SIDE`, at most `most` times."""
    return min(most, num_halvings(height, width, smallest=SMALLEST_SIDE))


def embedded(steps: jax.Array, size: int) -> jax.Array:
    """Embed steps `int32[B]` as sines and cosines, `[B, size]`, as transformers do positions."""
    rates = jnp.exp(-jnp.log(LONGEST_PERIOD) * jnp.arange(size // 2) / (size // 2))
    angles = steps[:, None] * rates[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


class Block(nn.Module):
    """Two normalised convolutions with a shortcut; the step enters between them."""

    features: int
    dropout: float

    @nn.compact
    def __call__(self, maps: jax.Array, step: jax.Array, *, training: bool) -> jax.Array:
        """Maps `[B, H, W, C]` and an embedded step `[B, E]` → `[B, H, W, features]`."""
        inner = convolution(self.features)(nn.silu(_normalised(maps)))
        inner = inner + nn.Dense(self.features)(nn.silu(step))[:, None, None]
        inner = nn.Dropout(self.dropout, deterministic=not training)(nn.silu(_normalised(inner)))
        inner = convolution(self.features)(inner)
        if maps.shape[-1] != self.features:
            maps = convolution(self.features, 1)(maps)
        return maps + inner


class Attention(nn.Module):
    """Self-attention over all positions of the maps, with a shortcut."""

    @nn.compact
    def __call__(self, maps: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` → the same shape."""
        places = _normalised(maps).reshape(len(maps), -1, maps.shape[-1])
        mixed = nn.MultiHeadDotProductAttention(num_heads=1)(places)
        return maps + mixed.reshape(maps.shape)


class UNet(nn.Module):
    """Predicts the noise in images from the images, a condition of their size, and the step.

    Attributes:
      width: channels at the image's size.
      multipliers: factors on the width at the image's size and after each halving; if sides cannot
        be halved that often, the last ones are not used.
      num_blocks: residual blocks at each size.
      attention_side: height of the maps at which blocks use attention; 0 for none.
      dropout: dropout rate within blocks during training.
    """

    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    num_blocks: int = 1
    attention_side: int = 0
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, noisy: jax.Array, condition: jax.Array, step: jax.Array, *, training: bool = False
    ) -> jax.Array:
        """Predict the noise in `noisy` `[B, H, W, C]` at steps `int32[B]`."""
        embedding = nn.Dense(4 * self.width)(embedded(step, self.width))
        embedding = nn.Dense(4 * self.width)(nn.silu(embedding))
        levels = halvings(noisy.shape[1], noisy.shape[2], len(self.multipliers) - 1)
        sizes = [self.width * times for times in self.multipliers[: levels + 1]]

        def block(maps: jax.Array, features: int) -> jax.Array:
            maps = Block(features, self.dropout)(maps, embedding, training=training)
            return Attention()(maps) if maps.shape[1] == self.attention_side else maps

        maps = convolution(self.width)(jnp.concatenate([noisy, condition], axis=-1))
        kept = [maps]
        for level, features in enumerate(sizes):
            if level:
                maps = average_pool(maps)
                kept.append(maps)
            for _ in range(self.num_blocks):
                maps = block(maps, features)
                kept.append(maps)
        maps = block(maps, sizes[-1])
        for level, features in reversed(list(enumerate(sizes))):
            for _ in range(self.num_blocks + 1):
                maps = block(jnp.concatenate([maps, kept.pop()], axis=-1), features)
            maps = upsample(maps) if level else maps
        last = nn.Conv(noisy.shape[-1], (3, 3), kernel_init=nn.initializers.zeros, name="noise")
        return last(nn.silu(_normalised(maps)))


def _normalised(maps: jax.Array) -> jax.Array:
    channels = maps.shape[-1]
    # With one channel per group, the value of a constant image would be lost.
    most = min(MOST_GROUPS, channels // FEWEST_CHANNELS)
    groups = next((n for n in range(most, 1, -1) if channels % n == 0), 1)
    return nn.GroupNorm(num_groups=groups)(maps)
