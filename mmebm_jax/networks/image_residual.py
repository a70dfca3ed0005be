"""Residual networks for images `[B, H, W, C]`: an expert, a decoder, an energy trunk.

Expert and decoder have the architecture of MMVAE+ on PolyMNIST (Palumbo et al. 2023, public code):
pre-activation blocks of two 3×3 convolutions whose branch is scaled by .1 (as in Mescheder et al.
2018, arXiv:1801.04406), leaky ReLU of slope .2, channels that double with every halving of the
image, and no normalisation. MMVAE+ average-pools 3×3 with stride 2; here it is 2×2. The trunk is
like the single-modality energies that paper B builds on: smooth activations, average pooling, no
branch scale.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmebm_jax import cpu
from mmebm_jax.networks.image import average_pool

SMALLEST_SIDE = 8  # pixels: maps of this size or less are not halved
MOST_DOUBLINGS = 3  # of the channels
BRANCH = 0.1
SLOPE = 0.2


def num_halvings(*sides: int, smallest: int = SMALLEST_SIDE) -> int:
    """Return how often sides can be halved while all are even and larger than `smallest`."""
    count = 0
    while all(side % 2 == 0 and side > smallest for side in sides):
        sides, count = tuple(side // 2 for side in sides), count + 1
    return count


def widths(width: int, levels: int) -> list[int]:
    """Return channels at the image's size and after each halving; the first few double them."""
    return [width * 2 ** min(level, MOST_DOUBLINGS) for level in range(levels + 1)]


def upsample(maps: jax.Array) -> jax.Array:
    """Repeat every pixel as 2×2, `[B, H, W, C]` → `[B, 2·H, 2·W, C]`."""
    batch, height, width, channels = maps.shape
    shape = (batch, height, 2, width, 2, channels)
    repeated = jnp.broadcast_to(maps[:, :, None, :, None], shape)
    return repeated.reshape(batch, 2 * height, 2 * width, channels)


def leaky_relu(values: jax.Array) -> jax.Array:
    """Leaky ReLU with the published slope."""
    return nn.leaky_relu(values, SLOPE)


def convolution(features: int, side: int = 3, *, use_bias: bool = True) -> nn.Conv:
    """Return a convolution that preserves the size of the maps."""
    return nn.Conv(
        features, (side, side), use_bias=use_bias, conv_general_dilated=cpu.conv_general_dilated
    )


class ResidualBlock(nn.Module):
    """x → shortcut(x) + branch · f(x), `[B, H, W, C]` → `[B, H, W, features]`.

    Attributes:
      features: channels of the output; between its two layers, the branch has as many channels as
        the smaller of input and output.
      activation: applied before each of the two 3×3 convolutions.
      branch: scale of f.
    """

    features: int
    activation: Callable[[jax.Array], jax.Array] = leaky_relu
    branch: float = BRANCH

    @nn.compact
    def __call__(self, maps: jax.Array) -> jax.Array:
        """Apply the block to a batch of maps."""
        channels = maps.shape[-1]
        inner = convolution(min(channels, self.features))(self.activation(maps))
        inner = convolution(self.features)(self.activation(inner))
        if channels != self.features:
            maps = convolution(self.features, 1, use_bias=False)(maps)
        return maps + self.branch * inner


class ResidualImageExpert(nn.Module):
    """Image `[B, H, W, C]` → features `[B, F]` of an inference network."""

    width: int

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Encode a batch of images."""
        maps = ResidualBlock(self.width)(convolution(self.width)(image))
        for features in widths(self.width, num_halvings(*image.shape[1:3]))[1:]:
            maps = ResidualBlock(features)(average_pool(maps))
        return maps.reshape(len(image), -1)


class ResidualImageDecoder(nn.Module):
    """Latents `[B, Z]` → the likelihood's parameters `[B, H, W, C]`."""

    shape: tuple[int, ...]
    width: int

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        """Decode a batch of latents."""
        height, width, channels = self.shape
        levels = num_halvings(height, width)
        features = widths(self.width, levels)
        smallest = (height >> levels, width >> levels, features[-1])
        size = smallest[0] * smallest[1] * smallest[2]
        maps = nn.Dense(size, dot_general=cpu.dot_general)(latents)
        maps = maps.reshape(len(latents), *smallest)
        for level in reversed(range(levels)):
            maps = upsample(ResidualBlock(features[level])(maps))
        return convolution(channels)(leaky_relu(ResidualBlock(self.width)(maps)))


class ResidualImageTrunk(nn.Module):
    """Image `[B, H, W, C]` → features `[B, F]` of an energy.

    Only one convolution runs at the image's full size: a chain evaluates this network at every
    step, and most of the cost is in large maps.
    """

    width: int

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Extract a batch's features."""
        maps = convolution(self.width)(image)
        for features in widths(self.width, num_halvings(*image.shape[1:3]))[1:]:
            maps = ResidualBlock(features, nn.silu, 1.0)(average_pool(maps))
        return nn.silu(maps).reshape(len(image), -1)
