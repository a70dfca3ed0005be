"""The Inception network that FID means: TensorFlow's of 2015-12-05, as pytorch-fid ported it.

Szegedy et al. 2015 (arXiv:1512.00567), with what pytorch-fid (github.com/mseitzer/pytorch-fid,
0.3.0) found in the TensorFlow graph: average pools leave padding out of their mean, and the last
block pools by maximum. Features of any other network, or of these weights after another resize, do
not give a FID.

Names of modules are those of the published state dict. Convolutions run at the highest precision:
on accelerators short floats would move the features.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mmebm_jax.data.torch_file import read_state_dict
from mmebm_jax.metrics.backbone import Backbone, in_batches
from mmebm_jax.typing import Params

WEIGHTS_FILE = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/" + WEIGHTS_FILE
)
NUM_FEATURES = 2048
_SHA256_PREFIX = "6726825d"
_SIDE = 299


class ConvUnit(nn.Module):
    """A convolution without bias, batch normalisation by stored statistics, ReLU."""

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
    """The first halving."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, (H − 1) / 2, (W − 1) / 2, C + 480]`."""
        three = ConvUnit(384, (3, 3), 2, "VALID", name="branch3x3")(x)
        double = ConvUnit(64, (1, 1), name="branch3x3dbl_1")(x)
        double = ConvUnit(96, (3, 3), name="branch3x3dbl_2")(double)
        double = ConvUnit(96, (3, 3), 2, "VALID", name="branch3x3dbl_3")(double)
        return jnp.concatenate([three, double, _halve(x)], -1)


class BlockC(nn.Module):
    """Convolutions of 7×7, each as a 1×7 and a 7×1."""

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
    """The second halving."""

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
    """Branches that end in a 1×3 and a 3×1 side by side."""

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


def inception_variables(state: Mapping[str, np.ndarray]) -> Params:
    """Flax variables out of a state dict by pytorch-fid's names.

    Args:
        state: name to array; the classifier's head and counters are left out.

    Raises:
        ValueError: an array is missing or has another shape than the network's.
    """
    names = {
        "conv.weight": ("params", "conv", "kernel"),
        "bn.weight": ("params", "bn", "scale"),
        "bn.bias": ("params", "bn", "bias"),
        "bn.running_mean": ("batch_stats", "bn", "mean"),
        "bn.running_var": ("batch_stats", "bn", "var"),
    }
    flat = {}
    for name, value in state.items():
        *path, layer, kind = name.split(".")
        if f"{layer}.{kind}" in names and path:
            collection, layer, kind = names[f"{layer}.{kind}"]
            value = np.asarray(value, np.float32)
            flat[collection, *path, layer, kind] = (
                value.transpose(2, 3, 1, 0) if kind == "kernel" and value.ndim == 4 else value
            )
    shapes = jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros([1, _SIDE, _SIDE, 3]))
    expected = traverse_util.flatten_dict(shapes)
    for place, shape in expected.items():
        held = flat[place].shape if place in flat else None
        if held != shape.shape:
            raise ValueError(
                f"the weights hold {'.'.join(place[1:])} of shape {held}, not {shape.shape}; "
                f"take {WEIGHTS_FILE}"
            )
    return traverse_util.unflatten_dict({place: flat[place] for place in expected})


@jax.jit
def resize(images: jax.Array) -> jax.Array:
    """Bilinear, to 299: `[B, H, W, 3]` of any size to `[B, 299, 299, 3]`.

    As torch's interpolate with `align_corners=False`: half-pixel centres, and no smoothing of what
    shrinks.
    """
    shape = (len(images), _SIDE, _SIDE, 3)
    return jax.image.resize(images, shape, "bilinear", antialias=False, precision="highest")


def inception_backbone(variables: Params, *, batch_size: int = 50) -> Backbone:
    """The backbone of FID.

    Args:
        variables: from `load_inception`.
        batch_size: pictures at a time.
    """
    network = jax.jit(Inception().apply)

    def apply(variables: Params, images: jax.Array) -> jax.Array:
        # Compiled apart, so that the network compiles once for pictures of all sizes.
        return network(variables, resize(images))

    return Backbone(
        "FID", NUM_FEATURES, lambda images: in_batches(apply, variables, images, batch_size)
    )


def load_inception(path: Path | str) -> Params:
    """Reads the weights that FID is defined by.

    Args:
        path: of `WEIGHTS_FILE`, which `WEIGHTS_URL` publishes.

    Raises:
        FileNotFoundError: no such file; the line says where it is published.
        ValueError: a file of another name or of another content.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; FID needs its weights: get {WEIGHTS_URL}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if path.name != WEIGHTS_FILE or not digest.startswith(_SHA256_PREFIX):
        raise ValueError(
            f"{path} (SHA-256 {digest[:8]}…) is not {WEIGHTS_FILE} (SHA-256 {_SHA256_PREFIX}…): "
            f"get {WEIGHTS_URL}"
        )
    return inception_variables(read_state_dict(path))
