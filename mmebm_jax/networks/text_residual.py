"""Residual convolutions over text `[B, L, V]`, one-hot or probabilities: expert, decoder, trunk.

The blocks of `image_residual`, applied to sequences as images with one row. Words are embedded by
one linear layer, which takes the probabilities that a chain moves as it takes one-hot data.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmebm_jax import cpu
from mmebm_jax.networks.image_residual import BRANCH, leaky_relu, num_halvings

SMALLEST_LENGTH = 4  # positions: sequences of this length or less are not halved


def embedding(hidden: int) -> nn.Dense:
    """Words `[..., V]` → vectors `[..., hidden]`, linear in probabilities."""
    return nn.Dense(hidden, use_bias=False, name="embedding")


def _convolution(features: int) -> nn.Conv:
    return nn.Conv(features, (1, 3), conv_general_dilated=cpu.conv_general_dilated)


class _Block(nn.Module):
    """A residual block of two convolutions of width 3 on positions `[B, 1, L, F]`."""

    activation: Callable[[jax.Array], jax.Array] = leaky_relu
    branch: float = BRANCH

    @nn.compact
    def __call__(self, positions: jax.Array) -> jax.Array:
        features = positions.shape[-1]
        inner = _convolution(features)(self.activation(positions))
        return positions + self.branch * _convolution(features)(self.activation(inner))


def _features(text: jax.Array, hidden: int, block: Callable[[], nn.Module]) -> jax.Array:
    """Text `[B, L, V]` → `[B, L', hidden]`; to be called in an `nn.compact` method."""
    positions = block()(embedding(hidden)(text)[:, None])
    for _ in range(num_halvings(text.shape[1], smallest=SMALLEST_LENGTH)):
        batch, _, length, features = positions.shape
        pairs = positions.reshape(batch, 1, length // 2, 2, features)
        positions = block()(pairs.mean(axis=3))
    return positions[:, 0]


class ResidualTextExpert(nn.Module):
    """Text `[B, L, V]` → features `[B, hidden]` of an inference network."""

    hidden: int

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        """Encode a batch of sequences."""
        positions = leaky_relu(_features(text, self.hidden, _Block))
        return leaky_relu(nn.Dense(self.hidden)(positions.reshape(len(text), -1)))


class ResidualTextDecoder(nn.Module):
    """Latents `[B, Z]` → logits `[B, L, V]`."""

    shape: tuple[int, ...]
    hidden: int

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        """Decode a batch of latents."""
        length, num_words = self.shape
        levels = num_halvings(length, smallest=SMALLEST_LENGTH)
        positions = nn.Dense((length >> levels) * self.hidden)(latents)
        positions = positions.reshape(len(latents), 1, length >> levels, self.hidden)
        for _ in range(levels):
            positions = jnp.repeat(_Block()(positions), 2, axis=2)
        return nn.Dense(num_words)(leaky_relu(_Block()(positions)[:, 0]))


class ResidualTextTrunk(nn.Module):
    """Text `[B, L, V]` → smooth features `[B, L' · hidden]` of an energy."""

    hidden: int

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        """Extract a batch's features."""
        positions = _features(text, self.hidden, lambda: _Block(nn.silu, 1.0))
        return nn.silu(positions).reshape(len(text), -1)
