"""The layers of the Inception network that defines FID: TensorFlow's of 2015-12-05.

Szegedy et al. 2015 (arXiv:1512.00567), with the differences that pytorch-fid
(github.com/mseitzer/pytorch-fid, 0.3.0) found in the TensorFlow graph: average pools leave padding
out of their mean, and the last block uses a maximum pool. Modules have the names of its state dict.
Convolutions run at the highest precision, since accelerators' low-precision floats would change the
features.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

SIDE = 299  # of the pictures


class ConvUnit(nn.Module):
    """A convolution without bias, batch normalisation with stored statistics, ReLU."""

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H', W', features]`."""
        hidden = nn.Conv(
            self.features,
            self.kernel,
            (self.stride, self.stride),
            self.padding,
            use_bias=False,
            precision="highest",
            name="conv",
        )(inputs)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(hidden))


def _average_pool(inputs: jax.Array) -> jax.Array:
    return nn.avg_pool(inputs, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _halve(inputs: jax.Array) -> jax.Array:
    return nn.max_pool(inputs, (3, 3), (2, 2), "VALID")


class BlockA(nn.Module):
    """Branches of 1×1, 5×5 and two 3×3 convolutions and a pool: `[B, H, W, 224 + pooled]`."""

    pooled: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, 224 + pooled]`."""
        one = ConvUnit(64, (1, 1), name="branch1x1")(x)
        five = ConvUnit(48, (1, 1), name="branch5x5_1")(x)
        five = ConvUnit(64, (5, 5), name="branch5x5_2")(five)
        three = ConvUnit(64, (1, 1), name="branch3x3dbl_1")(x)
        three = ConvUnit(96, (3, 3), name="branch3x3dbl_2")(three)
        three = ConvUnit(96, (3, 3), name="branch3x3dbl_3")(three)
        pool = ConvUnit(self.pooled, (1, 1), name="branch_pool")(_average_pool(x))
        return jnp.concatenate([one, five, three, pool], -1)


class BlockB(nn.Module):
    """The first block that halves the resolution."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, (H − 1) / 2, (W − 1) / 2, C + 480]`."""
        three = ConvUnit(384, (3, 3), 2, "VALID", name="branch3x3")(x)
        double = ConvUnit(64, (1, 1), name="branch3x3dbl_1")(x)
        double = ConvUnit(96, (3, 3), name="branch3x3dbl_2")(double)
        double = ConvUnit(96, (3, 3), 2, "VALID", name="branch3x3dbl_3")(double)
        return jnp.concatenate([three, double, _halve(x)], -1)


class BlockC(nn.Module):
    """7×7 convolutions, each factored into a 1×7 and a 7×1."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, 768]`."""
        one = ConvUnit(192, (1, 1), name="branch1x1")(x)
        seven = ConvUnit(self.width, (1, 1), name="branch7x7_1")(x)
        seven = ConvUnit(self.width, (1, 7), name="branch7x7_2")(seven)
        seven = ConvUnit(192, (7, 1), name="branch7x7_3")(seven)
        double = ConvUnit(self.width, (1, 1), name="branch7x7dbl_1")(x)
        double = ConvUnit(self.width, (7, 1), name="branch7x7dbl_2")(double)
        double = ConvUnit(self.width, (1, 7), name="branch7x7dbl_3")(double)
        double = ConvUnit(self.width, (7, 1), name="branch7x7dbl_4")(double)
        double = ConvUnit(192, (1, 7), name="branch7x7dbl_5")(double)
        pool = ConvUnit(192, (1, 1), name="branch_pool")(_average_pool(x))
        return jnp.concatenate([one, seven, double, pool], -1)


class BlockD(nn.Module):
    """The second block that halves the resolution."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, (H − 1) / 2, (W − 1) / 2, C + 512]`."""
        three = ConvUnit(192, (1, 1), name="branch3x3_1")(x)
        three = ConvUnit(320, (3, 3), 2, "VALID", name="branch3x3_2")(three)
        seven = ConvUnit(192, (1, 1), name="branch7x7x3_1")(x)
        seven = ConvUnit(192, (1, 7), name="branch7x7x3_2")(seven)
        seven = ConvUnit(192, (7, 1), name="branch7x7x3_3")(seven)
        seven = ConvUnit(192, (3, 3), 2, "VALID", name="branch7x7x3_4")(seven)
        return jnp.concatenate([three, seven, _halve(x)], -1)


class BlockE(nn.Module):
    """Branches that end in a 1×3 and a 3×1 convolution in parallel."""

    max_pooled: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, 2048]`."""
        one = ConvUnit(320, (1, 1), name="branch1x1")(x)
        three = ConvUnit(384, (1, 1), name="branch3x3_1")(x)
        wide = ConvUnit(384, (1, 3), name="branch3x3_2a")(three)
        high = ConvUnit(384, (3, 1), name="branch3x3_2b")(three)
        double = ConvUnit(448, (1, 1), name="branch3x3dbl_1")(x)
        double = ConvUnit(384, (3, 3), name="branch3x3dbl_2")(double)
        double_wide = ConvUnit(384, (1, 3), name="branch3x3dbl_3a")(double)
        double_high = ConvUnit(384, (3, 1), name="branch3x3dbl_3b")(double)
        pool = nn.max_pool(x, (3, 3), (1, 1), "SAME") if self.max_pooled else _average_pool(x)
        pool = ConvUnit(192, (1, 1), name="branch_pool")(pool)
        return jnp.concatenate([one, wide, high, double_wide, double_high, pool], -1)


class Inception(nn.Module):
    """All layers up to the last pool."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps `[B, 299, 299, 3]` in [0, 1] to features `[B, 2048]`, non-negative."""
        x = ConvUnit(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(2 * images - 1)
        x = ConvUnit(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = _halve(ConvUnit(64, (3, 3), name="Conv2d_2b_3x3")(x))
        x = ConvUnit(80, (1, 1), name="Conv2d_3b_1x1")(x)
        x = _halve(ConvUnit(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x))
        x = BlockA(32, name="Mixed_5b")(x)
        x = BlockA(64, name="Mixed_5c")(x)
        x = BlockA(64, name="Mixed_5d")(x)
        x = BlockB(name="Mixed_6a")(x)
        x = BlockC(128, name="Mixed_6b")(x)
        x = BlockC(160, name="Mixed_6c")(x)
        x = BlockC(160, name="Mixed_6d")(x)
        x = BlockC(192, name="Mixed_6e")(x)
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(max_pooled=False, name="Mixed_7b")(x)
        x = BlockE(max_pooled=True, name="Mixed_7c")(x)
        return x.mean((1, 2))
