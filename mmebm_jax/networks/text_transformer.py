"""A small transformer for text `[B, L, V]`, one-hot or probabilities: expert, decoder, trunk.

Pre-norm blocks of attention (Vaswani et al. 2017, arXiv:1706.03762) and a perceptron. Padding is
masked: in attention and in the mean, a position is weighted by the probability that it holds a
word. On data this is a mask of zeros and ones; where a chain moves probabilities, it is smooth.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmebm_jax.networks.text_residual import embedding

PADDING = 0  # the token that pads a text
NUM_BLOCKS = 2
NUM_HEADS = 4
SMALLEST_SHARE = 1e-9  # weight of padding, which keeps a text of padding alone finite


def word_probability(text: jax.Array) -> jax.Array:
    """Text `[B, L, V]` → the probability that each position is not padding, `[B, L]`."""
    return 1.0 - text[..., PADDING]


def weighted_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, **options: Any
) -> jax.Array:
    """`flax.linen.dot_product_attention` whose mask holds weights of the keys in [0, 1]."""
    bias = jnp.log(jnp.maximum(mask, SMALLEST_SHARE))
    return nn.dot_product_attention(query, key, value, bias=bias, **options)


class _Block(nn.Module):
    """One block on positions `[B, L, F]`.

    Attributes:
      normalise: whether to use layer normalisation; the kernels of an energy are bounded instead.
    """

    normalise: bool = True

    @nn.compact
    def __call__(self, positions: jax.Array, weight: jax.Array) -> jax.Array:
        features = positions.shape[-1]
        attention = nn.MultiHeadDotProductAttention(
            num_heads=NUM_HEADS if features % NUM_HEADS == 0 else 1,
            attention_fn=weighted_attention,
            deterministic=True,
        )
        mask = weight[:, None, None, :]  # of each key, for every head and query
        positions = positions + attention(self._normalised(positions), mask=mask)
        hidden = nn.silu(nn.Dense(2 * features)(self._normalised(positions)))
        return positions + nn.Dense(features)(hidden)

    def _normalised(self, positions: jax.Array) -> jax.Array:
        return nn.LayerNorm()(positions) if self.normalise else positions


def _encoded(text: jax.Array, hidden: int, *, normalise: bool, module: nn.Module) -> jax.Array:
    """Text `[B, L, V]` → mean over words, `[B, hidden]`; called in `module`'s compact method."""
    places = _places(module, text.shape[1], hidden)
    positions, weight = embedding(hidden)(text) + places[None], word_probability(text)
    for _ in range(NUM_BLOCKS):
        positions = _Block(normalise)(positions, weight)
    weight = jnp.maximum(weight, SMALLEST_SHARE)[..., None]
    return jnp.sum(weight * positions, axis=1) / jnp.sum(weight, axis=1)


def _places(module: nn.Module, length: int, hidden: int) -> jax.Array:
    """Learned embeddings of the positions, `[L, hidden]`."""
    return module.param("places", nn.initializers.normal(hidden**-0.5), (length, hidden))


class TransformerExpert(nn.Module):
    """Text `[B, L, V]` → features `[B, hidden]` of an inference network."""

    hidden: int

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        """Encode a batch of sequences."""
        mean = _encoded(text, self.hidden, normalise=True, module=self)
        return nn.silu(nn.Dense(self.hidden)(nn.LayerNorm()(mean)))


class TransformerDecoder(nn.Module):
    """Latents `[B, Z]` → logits `[B, L, V]`, all positions at once."""

    shape: tuple[int, ...]
    hidden: int

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        """Decode a batch of latents."""
        length, num_words = self.shape
        start = nn.silu(nn.Dense(self.hidden)(latents))
        positions = nn.Dense(self.hidden)(start)[:, None] + _places(self, length, self.hidden)[None]
        everywhere = jnp.ones(positions.shape[:2], positions.dtype)
        for _ in range(NUM_BLOCKS):
            positions = _Block()(positions, everywhere)
        return nn.Dense(num_words)(nn.LayerNorm()(positions))


class TransformerTrunk(nn.Module):
    """Text `[B, L, V]` → features `[B, hidden]` of an energy.

    It has no layer normalisation, whose slope would not be limited by a bound on kernels.
    """

    hidden: int

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        """Extract a batch's features."""
        return nn.silu(_encoded(text, self.hidden, normalise=False, module=self))
