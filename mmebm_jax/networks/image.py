"""Networks for images `[B, H, W, C]`: an expert, a decoder, an energy trunk.

All layers run at a half or a quarter of the image's size: space-to-depth at the input and
depth-to-space at the output are lossless, and keep large feature maps out of the chains.
"""

import flax.linen as nn
import jax

from mmebm_jax import cpu


def space_to_depth(maps: jax.Array, block: int = 2) -> jax.Array:
    """`[B, H, W, C]` → `[B, H/block, W/block, block²·C]`."""
    batch, height, width, channels = maps.shape
    split = maps.reshape(batch, height // block, block, width // block, block, channels)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, height // block, width // block, block * block * channels
    )


def depth_to_space(maps: jax.Array, block: int = 2) -> jax.Array:
    """`[B, H, W, block²·C]` → `[B, block·H, block·W, C]`, the inverse of `space_to_depth`."""
    batch, height, width, channels = maps.shape
    split = maps.reshape(batch, height, width, block, block, channels // block**2)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, height * block, width * block, channels // block**2
    )


def average_pool(maps: jax.Array) -> jax.Array:
    """Average 2×2 blocks by reshapes, which are cheap to differentiate inside a scan."""
    batch, height, width, channels = maps.shape
    lines = maps.reshape(batch, height // 2, 2, width, channels)
    # A CPU adds whole lines several numbers at a time, but neighbours in a mean one by one.
    pairs = lines[:, :, 0] + lines[:, :, 1]
    return 0.5 * pairs.reshape(batch, height // 2, width // 2, 2, channels).mean(axis=3)


def _convolution(features: int) -> nn.Conv:
    return nn.Conv(features, (3, 3), conv_general_dilated=cpu.conv_general_dilated)


class ImageExpert(nn.Module):
    """Image `[B, H, W, C]` → features `[B, hidden]` of an inference network."""

    width: int
    hidden: int

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Encode a batch of images."""
        maps = space_to_depth(image)
        maps = nn.silu(_convolution(self.width)(maps))
        maps = space_to_depth(maps)
        maps = nn.silu(_convolution(2 * self.width)(maps))
        return nn.silu(nn.Dense(self.hidden)(maps.reshape(len(maps), -1)))


class ImageDecoder(nn.Module):
    """Latents `[B, Z]` → the likelihood's mean `[B, H, W, C]`."""

    shape: tuple[int, ...]
    width: int
    hidden: int

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        """Decode a batch of latents."""
        height, width, channels = self.shape
        hidden = nn.silu(nn.Dense(self.hidden)(latents))
        num_features = (height // 2) * (width // 2) * self.width
        maps = nn.silu(nn.Dense(num_features, dot_general=cpu.dot_general)(hidden))
        maps = maps.reshape(len(latents), height // 2, width // 2, self.width)
        return depth_to_space(_convolution(4 * channels)(maps))


class ImageTrunk(nn.Module):
    """Image `[B, H, W, C]` → features `[B, F]` of an energy.

    Average pooling between smooth layers: strided layers leave a checkerboard in the energy's
    gradient, which a chain then draws into the samples.
    """

    width: int

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Extract a batch's features."""
        maps = space_to_depth(image)
        for factor in (2, 4):
            maps = nn.silu(_convolution(factor * self.width)(maps))
            if maps.shape[1] % 2 == 0 and maps.shape[2] % 2 == 0:
                maps = average_pool(maps)
        return maps.reshape(len(image), -1)
